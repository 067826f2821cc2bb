//! What a history that passed consisted of.

use crate::history::{OpId, Request};
use crate::linearizability::Order;
use crate::operation::{Answer, History};
use crate::watch::Tally;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Operations called, watches apart.
    pub operations: u64,
    /// Acknowledged and changed something.
    pub writes: u64,
    /// Acknowledged and changed nothing.
    pub reads: u64,
    /// Of the reads, those that may be stale.
    pub serializable: u64,
    pub refused: u64,
    /// Of unknown outcome.
    pub unknown: u64,
    /// Of those, the ones that turned out to have been done.
    pub unknown_done: u64,
    pub compactions: u64,
    /// The newest revision seen.
    pub revision: i64,
    pub watches: u64,
    pub events: u64,
    /// Open watches that wait for a change, and its revision: must be empty once all is quiet and healed.
    pub behind: Vec<(OpId, i64)>,
    /// What the check cost: operations evaluated on the model, records judged, revisions looked at for watches.
    pub steps: u64,
}

impl Stats {
    pub(crate) fn new(history: &History<'_>, order: &Order, watches: Tally, steps: u64) -> Self {
        let mut stats = Self {
            operations: history.operations.len() as u64,
            revision: order.model.revision(),
            watches: history.watches.len() as u64,
            events: watches.events,
            behind: watches.behind,
            steps: steps + watches.steps,
            ..Self::default()
        };
        for operation in &history.operations {
            match operation.answer {
                Answer::Ok { .. } if operation.claims_change() => stats.writes += 1,
                Answer::Ok { .. } => {
                    stats.reads += 1;
                    stats.serializable += u64::from(operation.request.is_serializable());
                    stats.compactions += u64::from(matches!(operation.request, Request::Compact { .. }));
                }
                Answer::Refused(_) => stats.refused += 1,
                Answer::Unknown => stats.unknown += 1,
            }
        }
        stats.unknown_done = order.writers.iter().filter(|&&writer| history.operations[writer].is_unknown()).count() as u64;
        stats
    }
}
