//! Real time against the order of the log: one sweep over the records in their order.
//!
//! What is in the log has its place. Everything else takes the earliest place that it can have: where what it saw was true, and not
//! before anything that was over when it was called. The earliest leaves the most room to all that comes later, so if this placement
//! fails, every other fails too.

use crate::history::{ClientId, Delivery, OpId, Refused, Request, Response};
use crate::log_order::{LogOrder, LogPlace};
use crate::operation::{Answer, History, NEVER, Operation, Place};
use crate::violation::{Property, Violation};
use std::collections::HashMap;
use std::fmt;

type Checked<T = ()> = Result<T, Violation>;

/// Checks the placement; returns how many steps it took.
pub(crate) fn check(history: &History<'_>, log: &LogOrder<'_>) -> Checked<u64> {
    let mut placement = Placement::new(history, log);
    placement.check_watches()?;
    placement.run()?;
    Ok(placement.steps)
}

/// Nothing comes before this place any more, and the operation that made it so.
#[derive(Clone, Copy, Default)]
struct Bound {
    place: LogPlace,
    by: Option<usize>,
}

impl Bound {
    fn raise(&mut self, place: LogPlace, by: usize) {
        if place > self.place {
            *self = Self { place, by: Some(by) };
        }
    }
}

struct Placement<'a> {
    history: &'a History<'a>,
    log: &'a LogOrder<'a>,
    /// The operation of each record that calls one or returns from one.
    moments: Vec<Option<usize>>,
    /// By everything that is over.
    bound: Bound,
    at_call: Vec<Bound>,
    /// Of each attached client: when it attached, and what it was shown since.
    sessions: HashMap<ClientId, (Place, Bound)>,
    session_at_call: HashMap<usize, (Place, Bound)>,
    steps: u64,
}

impl<'a> Placement<'a> {
    fn new(history: &'a History<'a>, log: &'a LogOrder<'a>) -> Self {
        let mut moments = vec![None; history.length];
        for (index, operation) in history.operations.iter().enumerate() {
            moments[operation.called] = Some(index);
            if operation.returned != NEVER {
                moments[operation.returned] = Some(index);
            }
        }
        Self {
            history,
            log,
            moments,
            bound: Bound::default(),
            at_call: vec![Bound::default(); history.operations.len()],
            sessions: HashMap::new(),
            session_at_call: HashMap::new(),
            steps: 0,
        }
    }

    /// No watch shows a revision before all that led to it was called.
    fn check_watches(&mut self) -> Checked {
        for watch in &self.history.watches {
            let created = watch.created.into_iter();
            let delivered = watch.deliveries.iter().filter_map(|(place, delivery)| match delivery {
                Delivery::Events { revision, .. } | Delivery::Progress { revision } => Some((*place, *revision)),
                Delivery::Compacted { .. } | Delivery::Closed => None,
            });
            for (moment, revision) in created.chain(delivered) {
                self.steps += 1;
                if revision > self.log.last() {
                    let text = format!("watch {} shows revision {revision}, but the log makes none after {}", watch.id, self.log.last());
                    return Err(self.log.broken(Property::Provenance, [watch.id], Some(revision), self.log.end(), text));
                }
                if revision > 0 {
                    self.check_called(self.log.first_place(revision), moment, watch.id, &format_args!("watch {}", watch.id))?;
                }
            }
        }
        Ok(())
    }

    fn run(&mut self) -> Checked {
        let mut attached = self.history.attached.iter().peekable();
        for moment in 0..self.history.length {
            self.steps += 1;
            if let Some((_, client)) = attached.next_if(|(at, _)| *at == moment) {
                self.sessions.insert(*client, (moment, Bound::default()));
            }
            let Some(index) = self.moments[moment] else { continue };
            if self.history.operations[index].called == moment {
                self.on_call(index)?;
            } else {
                self.on_return(index)?;
            }
        }
        Ok(())
    }

    fn on_call(&mut self, index: usize) -> Checked {
        let operation = &self.history.operations[index];
        self.at_call[index] = self.bound;
        if let Some(session) = self.sessions.get(&operation.client) {
            self.session_at_call.insert(index, *session);
        }
        match self.log.places[index] {
            Some(place) if place <= self.bound.place => Err(self.too_early(operation, place, self.bound)),
            _ => Ok(()),
        }
    }

    fn on_return(&mut self, index: usize) -> Checked {
        let operation = &self.history.operations[index];
        let session = self.session_at_call.remove(&index);
        let may_be_stale = operation.request.is_serializable();
        let earliest = match session {
            Some((_, shown)) if may_be_stale => shown,
            None if may_be_stale => Bound::default(),
            _ => self.at_call[index],
        };
        let place = match (self.log.places[index], operation.answer) {
            (Some(place), _) => place,
            (None, Answer::Ok { response, .. }) => self.place_read(operation, response, earliest)?,
            (None, Answer::Refused(refused)) => match self.place_refusal(operation, refused, earliest)? {
                Some(place) => place,
                None => return Ok(()),
            },
            (None, Answer::Unknown) => unreachable!("what is unknown does not return"),
        };
        if !may_be_stale {
            self.bound.raise(place, index);
        }
        if operation.response().is_some() || may_be_stale {
            self.show(operation.client, session, place, index);
        }
        Ok(())
    }

    /// The member that answered has shown its client the state of `place`.
    fn show(&mut self, client: ClientId, session: Option<(Place, Bound)>, place: LogPlace, index: usize) {
        let Some((since, _)) = session else { return };
        if let Some((_, shown)) = self.sessions.get_mut(&client).filter(|(attached, _)| *attached == since) {
            shown.raise(place, index);
        }
    }

    /// The earliest place that shows what was read; the values were compared before.
    fn place_read(&self, operation: &Operation<'_>, response: &Response, earliest: Bound) -> Checked<LogPlace> {
        let revision = response.revision();
        let (first, last) = (self.log.first_place(revision), self.log.last_place(revision));
        let uncompacted = self.log.last_uncompacted(operation.request, response).filter(|&uncompacted| first <= uncompacted);
        let Some(uncompacted) = uncompacted else {
            let text = format!("{operation} succeeded although what it read was compacted before revision {revision} was made");
            return Err(self.log.broken(Property::Compaction, [operation.id], Some(revision), first, text));
        };
        self.check_called(first, operation.returned, operation.id, operation)?;
        let place = first.max(earliest.place);
        if place > last {
            return Err(self.too_early(operation, last, earliest));
        }
        if place > uncompacted {
            let (ids, by) = self.name(operation, earliest);
            let text = format!("{operation} succeeded although what it read had been compacted before it was called: {by} was over");
            return Err(self.log.broken(Property::Compaction, ids, Some(revision), place, text));
        }
        Ok(place)
    }

    /// The earliest place where the refusal was true; `None` if it says nothing of the store.
    fn place_refusal(&mut self, operation: &Operation<'_>, refused: &Refused, earliest: Bound) -> Checked<Option<LogPlace>> {
        let found = match (refused, operation.request) {
            (Refused::Other(_), _) => return Ok(None),
            (Refused::FutureRevision, Request::Range(range)) => {
                Some(earliest.place).filter(|&place| self.log.revision_at(place) < range.revision)
            }
            (Refused::Compacted, Request::Range(range)) if range.revision > 0 => {
                self.log.compacted_at(range.revision).map(|place| place.max(earliest.place))
            }
            _ => self.find_refusal(operation, refused, earliest.place),
        };
        match found {
            Some(place) if self.log.called_through(place) < operation.returned => Ok(Some(place)),
            _ => {
                let (ids, by) = self.name(operation, earliest);
                let text = format!("{operation} was true at no moment of its call, which began after {by}");
                Err(self.log.broken(Property::Refusal, ids, Some(self.log.revision_at(earliest.place)), earliest.place, text))
            }
        }
    }

    /// Looks at one place after the other, as far as the call can have reached.
    fn find_refusal(&mut self, operation: &Operation<'_>, refused: &Refused, from: LogPlace) -> Option<LogPlace> {
        let model = &self.log.order.model;
        for place in from..=self.log.end() {
            if self.log.called_through(place) >= operation.returned {
                return None;
            }
            self.steps += 1;
            let evaluation = model.evaluate(operation.request, self.log.revision_at(place), self.log.floor_at(place));
            if evaluation.as_ref() == Err(refused) {
                return Some(place);
            }
        }
        None
    }

    /// Whatever is seen at `moment` was called before.
    fn check_called(&self, place: LogPlace, moment: Place, id: OpId, who: &dyn fmt::Display) -> Checked {
        if self.log.called_through(place) < moment {
            return Ok(());
        }
        let early = self.moments[self.log.called_through(place)].map(|index| &self.history.operations[index]).expect("it was called");
        let revision = self.log.revision_at(place);
        let text = format!("{who} shows revision {revision}, which comes after {early}, and that was called only later");
        Err(self.log.broken(Property::Causality, [id, early.id], Some(revision), place, text))
    }

    /// `operation` has its place at or before one that was over when it was called.
    fn too_early(&self, operation: &Operation<'_>, place: LogPlace, bound: Bound) -> Violation {
        let (ids, by) = self.name(operation, bound);
        let (revision, over) = (self.log.revision_at(place), self.log.revision_at(bound.place));
        let (property, when) = if operation.request.is_serializable() {
            (Property::Session, "the same client had been shown by the same member")
        } else {
            (Property::RealTime, "when it was called there had already been answered")
        };
        let text = format!("{operation} took effect at revision {revision}, but {when} revision {over}: {by}");
        self.log.broken(property, ids, Some(revision), place, text)
    }

    fn name(&self, operation: &Operation<'_>, bound: Bound) -> (Vec<OpId>, String) {
        match bound.by.map(|index| &self.history.operations[index]) {
            Some(by) => (vec![operation.id, by.id], by.to_string()),
            None => (vec![operation.id], "the beginning".into()),
        }
    }
}
