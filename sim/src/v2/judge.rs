//! What v2 clients saw, against the committed log replayed through the model of the tree.

use super::{Asked, Operation, Outcome, Sessions, is_op};
use crate::invariants::Checks;
use quorate_checker::history::OpId;
use quorate_core::command::{Alarm, AlarmKind, Command, Refusal};
use quorate_core::machine::decode_with_time;
use quorate_core::types::{RequestId, WallMs};
use quorate_core::v2::model::Model;
use quorate_core::v2::{self, Change, Event, Request};
use std::collections::{BTreeMap, BTreeSet};

/// What a run leaves to be judged.
#[derive(Debug, Default)]
pub struct Recorded {
    ops: BTreeMap<OpId, Operation>,
    log: Vec<Entry>,
    /// The index of the tree before its first change.
    fresh: u64,
}

/// An entry of the committed log that changes the tree, or whether it may be changed.
#[derive(Debug)]
enum Entry {
    Change { op: Option<OpId>, at: WallMs, request: Request },
    Alarm { alarm: Alarm, active: bool },
}

#[must_use]
pub(crate) fn recorded(checks: &Checks, proposed: &BTreeMap<RequestId, OpId>, sessions: Sessions, members: usize) -> Recorded {
    let entry = |(_, request, command): (u64, RequestId, &bytes::Bytes)| match decode_with_time(command) {
        Ok((Command::V2(change), at)) => {
            let op = proposed.get(&request).copied().filter(|op| is_op(*op));
            Some(Entry::Change { op, at: at.expect("its leader gave it a time"), request: change })
        }
        Ok((Command::Alarm(change), _)) => Some(Entry::Alarm { alarm: change.alarm, active: change.active }),
        _ => None,
    };
    let log = checks.committed_commands().filter_map(entry).collect();
    Recorded { ops: sessions.ops, log, fresh: 2 * members as u64 + 1 }
}

/// The order of the log, with what the model says of it.
struct Replay<'a> {
    recorded: &'a Recorded,
    model: Model,
    /// Every event, by its index.
    events: BTreeMap<u64, Event>,
    /// By the index from which on it was so: the latest moment at which a change through there was called.
    called: BTreeMap<u64, u64>,
    alarms: BTreeSet<Alarm>,
}

/// # Errors
/// What was promised and not kept.
pub fn judge(recorded: &Recorded) -> Result<(), String> {
    let mut replay = Replay {
        recorded,
        model: Model::new(recorded.fresh),
        events: BTreeMap::new(),
        called: BTreeMap::from([(recorded.fresh, 0)]),
        alarms: BTreeSet::new(),
    };
    let mut readers = replay.readers();
    let mut logged = BTreeSet::new();
    replay.answer_readers(&mut readers)?;
    for entry in &recorded.log {
        match entry {
            Entry::Alarm { alarm, active: true } => drop(replay.alarms.insert(*alarm)),
            Entry::Alarm { alarm, active: false } => drop(replay.alarms.remove(alarm)),
            Entry::Change { op, at, request } => {
                replay.carry_out(*op, *at, request)?;
                if let Some(op) = op
                    && !logged.insert(*op)
                {
                    return Err(format!("v2 operation {op} is in the log twice"));
                }
                replay.answer_readers(&mut readers)?;
            }
        }
    }
    if let Some((index, op)) = readers.first() {
        return Err(format!("v2 operation {op} read index {index}, which the log never comes to"));
    }
    for (op, operation) in &recorded.ops {
        match &operation.ended {
            Some((_, Outcome::Changed(_))) if !logged.contains(op) => {
                return Err(format!("v2 operation {op} was answered but is not in the log"));
            }
            Some((_, Outcome::Told(told))) => replay.check_told(*op, &operation.asked, told)?,
            _ => {}
        }
    }
    check_real_time(recorded)
}

impl Replay<'_> {
    /// Reads, by the index they say to have seen.
    fn readers(&self) -> BTreeSet<(u64, OpId)> {
        let read = |(op, operation): (&OpId, &Operation)| match &operation.ended {
            Some((_, Outcome::Got { index, .. })) => Some((*index, *op)),
            _ => None,
        };
        self.recorded.ops.iter().filter_map(read).collect()
    }

    /// Those that saw the tree as it is: it changes with each index and only with it.
    fn answer_readers(&self, readers: &mut BTreeSet<(u64, OpId)>) -> Result<(), String> {
        while let Some((index, op)) = readers.first().copied().filter(|(index, _)| *index <= self.model.index()) {
            readers.pop_first();
            let operation = &self.recorded.ops[&op];
            let (Asked::Get { path, recursive, .. }, Some((returned, Outcome::Got { listing, .. }))) = (&operation.asked, &operation.ended)
            else {
                return Err(format!("v2 operation {op} asked {:?} and was told of a listing", operation.asked));
            };
            let expected = self.model.get(path, *recursive);
            let told = listing.clone().map_err(|error| (error.code, error.cause));
            if told != expected {
                return Err(format!("v2 operation {op} read {path:?} at index {index} as {told:?}, where the log has {expected:?}"));
            }
            let called = self.called.range(..=index).next_back().map_or(0, |(_, called)| *called);
            if called > *returned {
                return Err(format!("v2 operation {op} saw index {index} before it was asked for"));
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, op: Option<OpId>, at: WallMs, request: &Request) -> Result<(), String> {
        let operation = op.and_then(|op| self.recorded.ops.get(&op));
        let ended = operation.and_then(|operation| operation.ended.as_ref()).map(|(_, outcome)| outcome);
        let raised = |kind| self.alarms.iter().any(|alarm| alarm.kind == kind);
        let is_barred = raised(AlarmKind::Corrupt) || (raised(AlarmKind::NoSpace) && matches!(request.change, Change::Write(_)));
        if is_barred {
            return match ended {
                None | Some(Outcome::Unknown | Outcome::Refused(Refusal::NoSpace | Refusal::Corrupt)) => Ok(()),
                told => Err(format!("v2 operation {op:?} is barred by an alarm and was told {told:?}")),
            };
        }
        let done = self.model.apply(at.0, request);
        if let (Some(op), Some(operation)) = (op, operation) {
            match ended {
                None | Some(Outcome::Unknown) => {}
                Some(Outcome::Changed(told)) => {
                    let told = told.clone().map(Some).map_err(|error| (error.code, error.cause));
                    if told != done {
                        return Err(format!("v2 operation {op} was told {told:?}, where the log has {done:?}"));
                    }
                }
                told => return Err(format!("v2 operation {op} is in the log and was told {told:?}")),
            }
            let before = self.called.last_key_value().map_or(0, |(_, called)| *called);
            self.called.insert(self.model.index(), before.max(operation.called));
        }
        self.events.extend(self.model.take_events().into_iter().map(|event| (event.index, event)));
        Ok(())
    }

    fn check_told(&self, op: OpId, asked: &Asked, told: &Result<Event, v2::Error>) -> Result<(), String> {
        let Asked::Wait { point, from } = asked else { return Err(format!("v2 operation {op} waited for nothing")) };
        let expected = self.events.range(from..).map(|(_, event)| event).find(|event| point.matches(event));
        match told {
            Ok(event) if Some(event) == expected => Ok(()),
            Ok(event) => {
                Err(format!("v2 operation {op} waited for {point:?} from {from} and was told {event:?}, where the log has {expected:?}"))
            }
            Err(error) if error.index >= from + v2::HISTORY_EVENTS => Ok(()),
            Err(error) => Err(format!("v2 operation {op} waited from {from} and was told {error} although that is kept")),
        }
    }
}

/// What was over when something else was called stands before it: changes in the log, and a quorum's read behind what it had to see. No
/// client sees one process go back.
fn check_real_time(recorded: &Recorded) -> Result<(), String> {
    // From the end: the earliest return of anything later in the log.
    let mut earliest = u64::MAX;
    for entry in recorded.log.iter().rev() {
        let Entry::Change { op: Some(op), .. } = entry else { continue };
        let operation = &recorded.ops[op];
        if earliest < operation.called {
            return Err(format!("v2 operation {op} stands in the log before one that was over when it was called"));
        }
        if let Some((returned, Outcome::Changed(_))) = &operation.ended {
            earliest = earliest.min(*returned);
        }
    }
    let mut seen: Vec<(u64, u64, OpId, &Operation)> = Vec::new();
    for (op, operation) in &recorded.ops {
        let index = match &operation.ended {
            Some((_, Outcome::Changed(Ok(event)))) => event.index,
            Some((_, Outcome::Changed(Err(error)))) => error.index,
            Some((_, Outcome::Got { index, .. })) => *index,
            _ => continue,
        };
        let returned = operation.ended.as_ref().map_or(u64::MAX, |(returned, _)| *returned);
        seen.push((returned, index, *op, operation));
    }
    seen.sort_unstable_by_key(|(returned, ..)| *returned);
    for (_, index, op, operation) in &seen {
        let before = seen.iter().take_while(|(returned, ..)| *returned < operation.called);
        let newest = match &operation.asked {
            Asked::Get { quorum: true, .. } => before.max_by_key(|(_, index, ..)| *index),
            Asked::Get { quorum: false, .. } => {
                let is_same = |other: &Operation| {
                    (other.client, other.member, other.incarnation) == (operation.client, operation.member, operation.incarnation)
                };
                before.filter(|(.., other)| is_same(other)).max_by_key(|(_, index, ..)| *index)
            }
            _ => None,
        };
        if let Some((_, newest, earlier, _)) = newest.filter(|(_, newest, ..)| newest > index) {
            return Err(format!("v2 operation {op} shows index {index}, but {earlier} had shown {newest} before it was called"));
        }
    }
    Ok(())
}
