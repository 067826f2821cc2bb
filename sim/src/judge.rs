//! The last judgement on what clients saw: the history against the order of the log, by the checker.
//!
//! Outside the simulated world, where time passes.

use crate::invariants::{Checker, Checks};
use crate::v2;
use quorate_checker::history::{OpId, Record};
use quorate_checker::{Budget, Entry, Property, Step, Verdict, Witness, check};
use quorate_core::command::{AlarmKind, Command};
use quorate_core::machine::decode_command;
use quorate_core::types::RequestId;
use std::collections::{BTreeMap, BTreeSet};

/// How a history is to be judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judging {
    /// A checker that is not asked.
    pub off: Option<Checker>,
    /// Search for an order, as if the log's were not known.
    pub by_search: bool,
}

/// What a run leaves to be judged.
#[derive(Debug, Default)]
pub struct Recorded {
    pub history: Vec<Record>,
    pub witness: Witness,
    /// Watches that no one has ended.
    pub open: BTreeSet<OpId>,
    pub v2: v2::Recorded,
}

/// What the checker finds in it.
#[derive(Debug)]
pub enum Judgement {
    Right,
    Wrong(Checker, String),
    Undecided(String),
}

/// The order of the committed log, in the checker's words. `proposed`: the operation behind each request.
#[must_use]
pub fn witness(checks: &Checks, proposed: &BTreeMap<RequestId, OpId>) -> Witness {
    let mut entries = Vec::new();
    let mut no_space = BTreeSet::new();
    for (index, request, command) in checks.committed_commands() {
        let op = proposed.get(&request);
        if op.is_some_and(|op| v2::is_op(*op)) {
            continue;
        }
        let step = if let Some(op) = op {
            Step::Operation(*op)
        } else if let Ok(Command::Alarm(change)) = decode_command(command)
            && change.alarm.kind == AlarmKind::NoSpace
        {
            if change.active {
                no_space.insert(change.alarm.member)
            } else {
                no_space.remove(&change.alarm.member)
            };
            Step::NoSpace(!no_space.is_empty())
        } else if let Ok(Command::LeaseExpire(expire)) = decode_command(command) {
            Step::Expired(expire.lease.0)
        } else {
            // A member speaks for itself.
            continue;
        };
        entries.push(Entry { index, step });
    }
    Witness { entries, is_whole: true }
}

#[must_use]
pub fn judge(recorded: &Recorded, judging: Judging) -> Judgement {
    let witness = Some(&recorded.witness).filter(|_| !judging.by_search);
    let (checker, text) = match check(&recorded.history, witness, Budget::default()) {
        Verdict::Undecided(undecided) => return Judgement::Undecided(undecided.to_string()),
        Verdict::Broken(violation) => (judge_of(violation.property), violation.to_string()),
        Verdict::Holds(stats) => match stats.behind.iter().find(|(op, _)| recorded.open.contains(op)) {
            None => match v2::judge(&recorded.v2) {
                Ok(()) => return Judgement::Right,
                Err(text) => (Checker::V2, text),
            },
            Some((op, revision)) => {
                (Checker::Watch, format!("watch {op} still waits for revision {revision} though all is healed and quiet"))
            }
        },
    };
    if judging.off == Some(checker) { Judgement::Right } else { Judgement::Wrong(checker, text) }
}

const fn judge_of(property: Property) -> Checker {
    match property {
        Property::WatchOrdered
        | Property::WatchUnique
        | Property::WatchReliable
        | Property::WatchAtomic
        | Property::WatchBookmarkable
        | Property::WatchPreviousValue
        | Property::WatchCancel => Checker::Watch,
        _ => Checker::Linearizability,
    }
}
