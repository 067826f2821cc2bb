//! Real time against the order: what was over before an operation was called comes before it.
//!
//! One sweep over the records in their order. Errors have no revision of their own; each takes the earliest place at which it was true.

use crate::history::{ClientId, Refused, Request, Response};
use crate::linearizability::{Order, oldest_read};
use crate::model::{FIRST_REVISION, NEVER_COMPACTED};
use crate::operation::{History, NEVER, Operation, Place};
use crate::violation::{Property, Violation};
use std::collections::HashMap;

type Checked<T = ()> = Result<T, Violation>;

/// The rank of reading a fresh store.
const FIRST_RANK: i64 = 2 * FIRST_REVISION + 1;

pub(crate) fn check(history: &History<'_>, order: &Order) -> Checked {
    Sweep::new(history, order).run()
}

/// A bound, and the operation it comes from.
type Bound = (i64, Option<usize>);

struct Sweep<'a> {
    history: &'a History<'a>,
    order: &'a Order,
    ranks: Vec<Option<i64>>,
    /// The operation of each record that calls one or returns from one.
    moments: Vec<Option<usize>>,
    /// The least rank called at this record or later; empty if nobody was refused.
    rank_called_later: Vec<i64>,
    /// For each operation: the greatest rank that had returned, and the floor that was certain, when it was called.
    at_call: Vec<(Bound, Bound)>,
    rank: Bound,
    floor: Bound,
    /// Acknowledged compactions by revision, and those of unknown outcome.
    compactions: Vec<(i64, usize)>,
    /// Refusals as compacted: the rank they must come before, the floor that is certain after them, and whose they are.
    refused_before: Vec<(i64, i64, usize)>,
    unknown_compactions: Vec<(i64, usize)>,
    /// Of each attached client: the number of its attachment and the newest revision shown.
    sessions: HashMap<ClientId, (Place, Bound)>,
    session_at_call: Vec<Option<(Place, Bound)>>,
}

impl<'a> Sweep<'a> {
    fn new(history: &'a History<'a>, order: &'a Order) -> Self {
        let operations = &history.operations;
        let mut ranks: Vec<_> =
            operations.iter().map(|operation| operation.rank().filter(|_| !operation.request.is_serializable())).collect();
        for (&writer, revision) in order.writers.iter().zip(FIRST_REVISION + 1..) {
            ranks[writer] = Some(2 * revision);
        }
        let mut moments = vec![None; history.length];
        let (mut compactions, mut unknown_compactions) = (Vec::new(), Vec::new());
        for (index, operation) in operations.iter().enumerate() {
            moments[operation.called] = Some(index);
            if operation.returned != NEVER {
                moments[operation.returned] = Some(index);
            }
            if let Request::Compact { revision } = *operation.request {
                if operation.response().is_some() {
                    compactions.push((revision, index));
                } else if operation.is_unknown() {
                    unknown_compactions.push((revision, index));
                }
            }
        }
        compactions.sort_unstable();
        let mut rank_called_later = Vec::new();
        if operations.iter().any(|operation| operation.refused().is_some()) {
            rank_called_later = vec![i64::MAX; history.length + 1];
            for place in (0..history.length).rev() {
                let called = moments[place].filter(|&index| operations[index].called == place).and_then(|index| ranks[index]);
                rank_called_later[place] = rank_called_later[place + 1].min(called.unwrap_or(i64::MAX));
            }
        }
        Self {
            history,
            order,
            ranks,
            moments,
            rank_called_later,
            at_call: vec![((FIRST_RANK, None), (NEVER_COMPACTED, None)); operations.len()],
            rank: (FIRST_RANK, None),
            floor: (NEVER_COMPACTED, None),
            compactions,
            refused_before: Vec::new(),
            unknown_compactions,
            sessions: HashMap::new(),
            session_at_call: vec![None; operations.len()],
        }
    }

    fn run(mut self) -> Checked {
        if let Some(pair) = self.compactions.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let (a, b) = (&self.history.operations[pair[0].1], &self.history.operations[pair[1].1]);
            let text = format!("{b} and {a} both succeeded");
            return Err(Violation::new(Property::Compaction, [b.id, a.id], b.response().map(Response::revision), text));
        }
        let mut attached = self.history.attached.iter().peekable();
        for place in 0..self.history.length {
            if let Some((_, client)) = attached.next_if(|(at, _)| *at == place) {
                self.sessions.insert(*client, (place, (0, None)));
            }
            let Some(index) = self.moments[place] else { continue };
            if self.history.operations[index].called == place {
                self.on_call(index)?;
            } else {
                self.on_return(index)?;
            }
        }
        self.check_after_refusals()
    }

    /// Whatever has a greater rank than something called after a refusal comes after the refusal.
    fn check_after_refusals(&self) -> Checked {
        let mut refused = self.refused_before.clone();
        refused.sort_unstable();
        let mut highest: Bound = (NEVER_COMPACTED, None);
        for (_, floor, by) in &mut refused {
            if highest.0 < *floor {
                highest = (*floor, Some(*by));
            }
            (*floor, *by) = (highest.0, highest.1.unwrap_or(*by));
        }
        for (index, rank) in self.ranks.iter().enumerate() {
            let before = rank.map_or(0, |rank| refused.partition_point(|(latest, _, _)| *latest < rank));
            if let Some(&(_, floor, by)) = before.checked_sub(1).map(|last| &refused[last]) {
                self.check_floor(index, (floor, Some(by)))?;
            }
        }
        Ok(())
    }

    /// An operation that comes after `floor` was compacted needed nothing below it.
    fn check_floor(&self, index: usize, (floor, by): Bound) -> Checked {
        let operation = &self.history.operations[index];
        let below = match (operation.request, operation.response()) {
            (Request::Compact { revision }, _) => *revision <= floor,
            (request, Some(response)) => oldest_read(request, response).is_some_and(|oldest| oldest < floor),
            (request, None) => {
                let before = self.ranks[index].expect("only ranked operations are judged") / 2 - 1;
                self.order.model.evaluate(request, before, floor).is_err()
            }
        };
        if below {
            let (ids, by) = self.name(operation, by);
            let text = format!("{operation} succeeded although everything below {floor} must have been compacted before, by {by}");
            return Err(Violation::new(Property::Compaction, ids, self.ranks[index].map(|rank| rank / 2), text));
        }
        Ok(())
    }

    fn on_call(&mut self, index: usize) -> Checked {
        let operation = &self.history.operations[index];
        self.at_call[index] = (self.rank, self.floor);
        self.session_at_call[index] = self.sessions.get(&operation.client).copied();
        let Some(rank) = self.ranks[index] else { return Ok(()) };
        if rank < self.rank.0 {
            return Err(self.overtaken(operation, self.rank, rank));
        }
        self.check_floor(index, self.floor)
    }

    fn on_return(&mut self, index: usize) -> Checked {
        let operation = &self.history.operations[index];
        if let Some(response) = operation.response() {
            self.check_session(index, response.revision())?;
        }
        let rank = match operation.refused() {
            Some(refused) => self.place_refusal(index, refused)?,
            None => self.ranks[index],
        };
        if let Some(rank) = rank.filter(|&rank| rank > self.rank.0) {
            self.rank = (rank, Some(index));
        }
        if let (Request::Compact { revision }, Some(_)) = (operation.request, operation.response()) {
            self.raise_floor(*revision, index);
        }
        Ok(())
    }

    fn raise_floor(&mut self, floor: i64, by: usize) {
        if floor > self.floor.0 {
            self.floor = (floor, Some(by));
        }
    }

    /// The earliest rank at which the refusal was true; `None` if it binds nothing.
    fn place_refusal(&mut self, index: usize, refused: &Refused) -> Checked<Option<i64>> {
        let operation = &self.history.operations[index];
        let serializable = operation.request.is_serializable();
        let latest = if serializable { i64::MAX } else { self.rank_called_later[operation.returned] };
        let earliest = if serializable { (FIRST_RANK, None) } else { self.at_call[index].0 };
        let placed = match refused {
            Refused::Other(_) => return Ok(None),
            Refused::Compacted => self.explain_compacted(operation, earliest.0, latest).map(|(rank, floor)| {
                if !serializable {
                    self.raise_floor(floor, index);
                    self.refused_before.push((latest, floor, index));
                }
                rank
            }),
            Refused::FutureRevision | Refused::KeyNotFound | Refused::LeaseNotFound | Refused::LeaseExists => {
                self.explain_by_state(operation, refused, earliest.0, latest, NEVER_COMPACTED)
            }
        };
        match placed {
            Some(rank) => Ok(Some(rank).filter(|_| !serializable)),
            None => {
                let (ids, by) = self.name(operation, earliest.1);
                let text = format!("{operation} was true at no moment of its call, which began after {by}");
                Err(Violation::new(Property::Refusal, ids, Some(earliest.0 / 2), text))
            }
        }
    }

    /// The first state from `earliest` to `latest` on which the model refuses likewise.
    fn explain_by_state(&self, operation: &Operation<'_>, refused: &Refused, earliest: i64, latest: i64, floor: i64) -> Option<i64> {
        let last = self.order.model.revision().min((latest - 1) / 2);
        let refuses = |at: &i64| self.order.model.evaluate(operation.request, *at, floor).as_ref() == Err(refused);
        (earliest / 2..=last).find(refuses).map(|revision| 2 * revision + 1)
    }

    /// The earliest rank at which enough may have been compacted, and the floor that is certain from then on.
    fn explain_compacted(&self, operation: &Operation<'_>, earliest: i64, latest: i64) -> Option<(i64, i64)> {
        let operations = &self.history.operations;
        let highest_harmless = highest_harmless_floor(operation.request);
        let explain = |floor, from: i64| {
            // No state needs to be looked at if nothing asked for lies below the floor.
            if floor <= highest_harmless {
                return None;
            }
            let rank = self.explain_by_state(operation, &Refused::Compacted, from.max(earliest), latest, floor)?;
            Some((rank, floor))
        };
        if let Some(always) = explain(NEVER_COMPACTED, earliest) {
            return Some(always);
        }
        // Of the acknowledged ones only the first that is high enough counts: the others come after it.
        let acknowledged = self
            .compactions
            .iter()
            .map(|&(floor, index)| (floor, &operations[index]))
            .take_while(|(_, compaction)| compaction.called < operation.returned)
            .find_map(|(floor, compaction)| explain(floor, compaction.rank().expect("acknowledged")));
        let newest = self.order.model.revision();
        let unknown = self
            .unknown_compactions
            .iter()
            .filter(|&&(floor, index)| floor <= newest && operations[index].called < operation.returned)
            .filter_map(|&(floor, index)| explain(floor, self.at_call[index].0.0.max(2 * floor.max(FIRST_REVISION) + 1)));
        let feasible: Vec<_> = acknowledged.into_iter().chain(unknown).collect();
        let rank = feasible.iter().map(|(rank, _)| *rank).min()?;
        let floor = feasible.iter().map(|(_, floor)| *floor).min()?;
        Some((rank, floor))
    }

    fn check_session(&mut self, index: usize, revision: i64) -> Checked {
        let operation = &self.history.operations[index];
        let Some((since, (shown, by))) = self.session_at_call[index] else { return Ok(()) };
        if operation.request.is_serializable() && revision < shown {
            let (ids, by) = self.name(operation, by);
            let text =
                format!("{operation} shows revision {revision} on a member that had shown revision {shown} to the same client: {by}");
            return Err(Violation::new(Property::Session, ids, Some(revision), text));
        }
        if let Some((_, newest)) = self.sessions.get_mut(&operation.client).filter(|(session, _)| *session == since)
            && newest.0 < revision
        {
            *newest = (revision, Some(index));
        }
        Ok(())
    }

    fn overtaken(&self, operation: &Operation<'_>, (bound, by): Bound, rank: i64) -> Violation {
        let (ids, by) = self.name(operation, by);
        let text = format!(
            "{operation} took effect at revision {}, but when it was called revision {} had already been answered: {by}",
            rank / 2,
            bound / 2
        );
        Violation::new(Property::RealTime, ids, Some(rank / 2), text)
    }

    fn name(&self, operation: &Operation<'_>, by: Option<usize>) -> (Vec<u64>, String) {
        match by.map(|index| &self.history.operations[index]) {
            Some(by) => (vec![operation.id, by.id], by.to_string()),
            None => (vec![operation.id], "the beginning".into()),
        }
    }
}

/// The highest floor under which the request cannot be refused as compacted, whatever the state.
fn highest_harmless_floor(request: &Request) -> i64 {
    match request {
        Request::Range(range) => match range.revision {
            0 => i64::MAX,
            revision if revision < 0 => i64::MIN,
            revision => revision,
        },
        Request::Compact { revision } => revision.saturating_sub(1),
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).map(highest_harmless_floor).min().unwrap_or(i64::MAX),
        Request::Put(_) | Request::DeleteRange(_) | Request::LeaseGrant { .. } | Request::LeaseRevoke { .. } => i64::MAX,
        Request::Watch(_) | Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. } => i64::MIN,
    }
}
