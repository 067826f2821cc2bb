//! The witness replayed through the sequential model: what each entry of the log did, and whether that is what clients were told.

use crate::history::{OpId, Refused, Request, Response};
use crate::linearizability::{Order, oldest_read, same};
use crate::model::{Change, FIRST_REVISION, Model, NEVER_COMPACTED};
use crate::operation::{Answer, History, Place, short};
use crate::violation::{Property, Violation};
use crate::witness::{Entry, Step, Witness};
use std::collections::HashMap;

type Checked<T = ()> = Result<T, Violation>;

/// A place in the witness: 0 is the fresh store, `n` is after the n-th entry.
pub(crate) type LogPlace = usize;
/// Entries shown before and after the one that a violation is about.
const SHOWN_AROUND: usize = 2;

#[derive(Debug)]
pub(crate) struct LogOrder<'a> {
    history: &'a History<'a>,
    entries: &'a [Entry],
    pub(crate) order: Order,
    /// Of each operation: its entry.
    pub(crate) places: Vec<Option<LogPlace>>,
    /// The revision at each place.
    revisions: Vec<i64>,
    /// The place that made each revision, the first one's included.
    made_at: Vec<LogPlace>,
    /// Places where a compaction was carried out and the revision it compacted to; both ascend.
    floors: Vec<(LogPlace, i64)>,
    /// The latest moment at which one of the entries through each place was called.
    called: Vec<Place>,
    no_space: bool,
    pub(crate) steps: u64,
}

impl<'a> LogOrder<'a> {
    /// Replays the whole witness and asks every reader on the state it says to have seen.
    pub(crate) fn replay(history: &'a History<'a>, witness: &'a Witness) -> Checked<Self> {
        let mut log = Self {
            history,
            entries: &witness.entries,
            order: Order { model: Model::default(), writers: Vec::new() },
            places: vec![None; history.operations.len()],
            revisions: vec![FIRST_REVISION],
            made_at: vec![0],
            floors: Vec::new(),
            called: vec![0],
            no_space: false,
            steps: 0,
        };
        let readers = log.readers();
        let mut readers = readers.as_slice();
        log.ask_readers(&mut readers)?;
        let numbers: HashMap<OpId, usize> = history.operations.iter().enumerate().map(|(index, operation)| (operation.id, index)).collect();
        let mut last = 0;
        for (place, entry) in (1..).zip(&witness.entries) {
            if entry.index <= last {
                return Err(log.lies([], place, format!("entry {} follows entry {last}", entry.index)));
            }
            last = entry.index;
            log.take(place, entry, &numbers)?;
            log.ask_readers(&mut readers)?;
        }
        if let Some(&(revision, index)) = readers.first() {
            let text = format!("{} shows revision {revision}, but the log makes none after {}", history.operations[index], log.last());
            return Err(log.broken(Property::Provenance, [history.operations[index].id], Some(revision), log.entries.len(), text));
        }
        log.check_acknowledged()?;
        Ok(log)
    }

    /// The newest revision.
    pub(crate) fn last(&self) -> i64 {
        self.order.model.revision()
    }

    pub(crate) fn end(&self) -> LogPlace {
        self.entries.len()
    }

    /// The first place that shows `revision`, which must not be newer than the last one.
    pub(crate) fn first_place(&self, revision: i64) -> LogPlace {
        self.made_at[from_first(revision)]
    }

    /// The last place that shows `revision`.
    pub(crate) fn last_place(&self, revision: i64) -> LogPlace {
        self.made_at.get(from_first(revision) + 1).map_or(self.end(), |next| next - 1)
    }

    pub(crate) fn revision_at(&self, place: LogPlace) -> i64 {
        self.revisions[place]
    }

    /// What is compacted at a place.
    pub(crate) fn floor_at(&self, place: LogPlace) -> i64 {
        let before = self.floors.partition_point(|(at, _)| *at <= place);
        before.checked_sub(1).map_or(NEVER_COMPACTED, |last| self.floors[last].1)
    }

    /// The first place where everything below `revision` and `revision` itself is compacted.
    pub(crate) fn compacted_at(&self, revision: i64) -> Option<LogPlace> {
        self.floors.get(self.floors.partition_point(|(_, floor)| *floor <= revision)).map(|(place, _)| *place)
    }

    /// The latest moment at which one of the entries through `place` was called.
    pub(crate) fn called_through(&self, place: LogPlace) -> Place {
        self.called[place]
    }

    /// The entries around a place, for people.
    pub(crate) fn around(&self, place: LogPlace) -> String {
        let from = place.saturating_sub(SHOWN_AROUND + 1);
        let until = (place + SHOWN_AROUND).min(self.entries.len());
        let mut text = String::from("\n  the log there:");
        for (number, entry) in self.entries.iter().enumerate().take(until).skip(from) {
            let mark = if number + 1 == place { '>' } else { ' ' };
            let what = match entry.step {
                Step::Operation(op) => match self.history.operations.iter().find(|operation| operation.id == op) {
                    Some(operation) => operation.to_string(),
                    None => format!("operation {op}"),
                },
                Step::Expired(lease) => format!("lease {lease:x} expires"),
                Step::NoSpace(raised) => format!("NOSPACE {}", if raised { "raised" } else { "disarmed" }),
            };
            text.push_str(&format!("\n  {mark} entry {}: {what}", entry.index));
        }
        text
    }

    pub(crate) fn broken(
        &self,
        property: Property,
        operations: impl Into<Vec<OpId>>,
        revision: Option<i64>,
        place: LogPlace,
        text: impl Into<String>,
    ) -> Violation {
        Violation::new(property, operations, revision, text.into() + &self.around(place))
    }

    fn lies(&self, operations: impl Into<Vec<OpId>>, place: LogPlace, text: String) -> Violation {
        self.broken(Property::Witness, operations, None, place, text)
    }

    /// Answered operations that are not in the log, by the revision they show.
    fn readers(&self) -> Vec<(i64, usize)> {
        let operations = self.history.operations.iter().enumerate();
        let mut readers: Vec<_> = operations
            .filter(|(_, operation)| !operation.request.is_logged())
            .filter_map(|(index, operation)| Some((operation.response()?.revision(), index)))
            .collect();
        readers.sort_unstable();
        readers
    }

    /// Asks those who say to have read the newest revision.
    fn ask_readers(&mut self, readers: &mut &[(i64, usize)]) -> Checked {
        while let Some((&(_, index), rest)) = readers.split_first().filter(|((revision, _), _)| *revision <= self.last()) {
            *readers = rest;
            let operation = &self.history.operations[index];
            let response = operation.response().expect("readers were answered");
            self.steps += 1;
            let place = self.revisions.len() - 1;
            let wrong = |text| self.broken(Property::Answer, [operation.id], Some(response.revision()), place, text);
            if response.revision() < FIRST_REVISION {
                return Err(wrong(format!("{operation} shows a revision that cannot be")));
            }
            match self.order.model.evaluate(operation.request, self.last(), NEVER_COMPACTED) {
                Ok(evaluation) if same(&evaluation.response, response, false) => {}
                Ok(evaluation) => return Err(wrong(format!("{operation} should have been answered {}", short(&evaluation.response)))),
                Err(refused) => return Err(wrong(format!("{operation} should have been refused: {}", short(&refused)))),
            }
        }
        Ok(())
    }

    fn take(&mut self, place: LogPlace, entry: &Entry, numbers: &HashMap<OpId, usize>) -> Checked {
        let mut called = self.called[place - 1];
        let index = match entry.step {
            Step::NoSpace(raised) => {
                self.no_space = raised;
                None
            }
            Step::Expired(lease) => {
                let changes = self.order.model.end_lease(lease);
                self.commit(place, changes);
                None
            }
            Step::Operation(op) => {
                let index = numbers.get(&op).copied();
                let Some(index) = index else {
                    return Err(self.lies([op], place, format!("entry {} is of operation {op}, which nobody called", entry.index)));
                };
                called = called.max(self.history.operations[index].called);
                Some(index)
            }
        };
        if let Some(index) = index {
            self.carry_out(place, entry.index, index)?;
        }
        self.called.push(called);
        self.revisions.push(self.last());
        Ok(())
    }

    fn carry_out(&mut self, place: LogPlace, log_index: u64, index: usize) -> Checked {
        let operation = &self.history.operations[index];
        if !operation.request.is_logged() {
            return Err(self.lies([operation.id], place, format!("entry {log_index} is of {operation}, which only reads")));
        }
        if let Some(before) = self.places[index].replace(place) {
            let text = format!("{operation} is in the log twice, as entries {} and {log_index}", self.entries[before - 1].index);
            return Err(self.broken(Property::Provenance, [operation.id], Some(self.last()), place, text));
        }
        if let Answer::Ok { log_index: Some(told), .. } = operation.answer
            && told != log_index
        {
            let text = format!("{operation} was answered from entry {told}, but is entry {log_index}");
            return Err(self.broken(Property::LogOrder, [operation.id], None, place, text));
        }
        let barred = self.no_space && puts(operation.request);
        if let Answer::Refused(Refused::Other(_)) = operation.answer
            && !barred
        {
            let text = format!("{operation} was refused for certain, but is entry {log_index}");
            return Err(self.broken(Property::Provenance, [operation.id], Some(self.last()), place, text));
        }
        self.steps += 1;
        let floor = self.floor_at(place);
        let result =
            if barred { Err(Refused::Other("NOSPACE".into())) } else { self.order.model.evaluate(operation.request, self.last(), floor) };
        match (&result, operation.answer) {
            (_, Answer::Unknown) | (Err(Refused::Other(_)), Answer::Refused(Refused::Other(_))) => {}
            (Ok(evaluation), Answer::Ok { response, .. }) => {
                if !same(&evaluation.response, response, false) {
                    let text = format!("{operation} should have been answered {}", short(&evaluation.response));
                    return Err(self.broken(Property::Answer, [operation.id], Some(response.revision()), place, text));
                }
            }
            (Err(refused), Answer::Refused(told)) if refused == told => {}
            (Err(Refused::Compacted), Answer::Ok { response, .. }) => {
                let text = format!("{operation} succeeded although everything below {floor} was compacted");
                return Err(self.broken(Property::Compaction, [operation.id], Some(response.revision()), place, text));
            }
            (Err(refused), _) => {
                let text = format!("{operation} should have been refused: {}", short(refused));
                return Err(self.broken(Property::Answer, [operation.id], Some(self.last()), place, text));
            }
            (Ok(evaluation), Answer::Refused(_)) => {
                let text = format!("{operation} should have been answered {}", short(&evaluation.response));
                return Err(self.broken(Property::Refusal, [operation.id], Some(self.last()), place, text));
            }
        }
        let Ok(evaluation) = result else { return Ok(()) };
        if let Request::Compact { revision } = operation.request {
            self.floors.push((place, *revision));
        }
        self.order.model.note(operation.request);
        if self.commit(place, evaluation.changes) {
            self.order.writers.push(index);
        }
        Ok(())
    }

    /// Makes a revision of the changes, if there are any.
    fn commit(&mut self, place: LogPlace, changes: Vec<Change>) -> bool {
        let changed = !changes.is_empty();
        if changed {
            self.order.model.commit(changes);
            self.made_at.push(place);
        }
        changed
    }

    fn check_acknowledged(&self) -> Checked {
        for (operation, place) in self.history.operations.iter().zip(&self.places) {
            if place.is_none() && operation.request.is_logged() && operation.response().is_some() {
                let revision = operation.response().map(Response::revision);
                let near = revision.filter(|&near| (FIRST_REVISION..=self.last()).contains(&near));
                let near = near.map_or(self.end(), |near| self.first_place(near));
                let text = format!("{operation} was acknowledged, but is not in the log");
                return Err(self.broken(Property::Acknowledged, [operation.id], revision, near, text));
            }
        }
        Ok(())
    }

    /// The last place at which an answer needs nothing that is compacted; `None`: it needs something that was so at once.
    pub(crate) fn last_uncompacted(&self, request: &Request, response: &Response) -> Option<LogPlace> {
        match oldest_read(request, response).and_then(|oldest| self.compacted_at(oldest)) {
            Some(compacted) => compacted.checked_sub(1),
            None => Some(self.end()),
        }
    }
}

fn from_first(revision: i64) -> usize {
    usize::try_from(revision - FIRST_REVISION).expect("a revision of the store")
}

/// Whether it costs space, whichever branch it takes.
fn puts(request: &Request) -> bool {
    match request {
        Request::Put(_) | Request::LeaseGrant { .. } => true,
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).any(puts),
        _ => false,
    }
}
