//! The records of a history put together: one operation each, and one watch each.

use crate::history::{ClientId, Delivery, Nanos, OpId, Outcome, Record, Refused, Request, Response, Watch};
use crate::violation::{Property, Violation};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;

/// A record's place in the history, which is its moment: see [`crate::history`].
pub(crate) type Place = usize;
/// An operation of unknown outcome may take effect at any time after its call.
pub(crate) const NEVER: Place = usize::MAX;

#[derive(Debug)]
pub(crate) struct Operation<'a> {
    pub(crate) id: OpId,
    pub(crate) client: ClientId,
    pub(crate) called: Place,
    pub(crate) returned: Place,
    pub(crate) request: &'a Request,
    pub(crate) answer: Answer<'a>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer<'a> {
    Ok { response: &'a Response, log_index: Option<u64> },
    Refused(&'a Refused),
    Unknown,
}

#[derive(Debug)]
pub(crate) struct WatchRun<'a> {
    pub(crate) id: OpId,
    pub(crate) request: &'a Watch,
    /// When the created response came, and its revision.
    pub(crate) created: Option<(Place, i64)>,
    pub(crate) deliveries: Vec<(Place, &'a Delivery)>,
}

#[derive(Debug)]
pub(crate) struct History<'a> {
    pub(crate) operations: Vec<Operation<'a>>,
    pub(crate) watches: Vec<WatchRun<'a>>,
    /// Which client began to talk to another member (or life of one), and when.
    pub(crate) attached: Vec<(Place, ClientId)>,
    pub(crate) length: usize,
}

impl<'a> History<'a> {
    pub(crate) fn gather(records: &'a [Record]) -> Result<Self, Violation> {
        let mut history = Self { operations: Vec::new(), watches: Vec::new(), attached: Vec::new(), length: records.len() };
        let mut known: HashMap<OpId, Slot> = HashMap::new();
        let mut now: Nanos = 0;
        for (place, record) in records.iter().enumerate() {
            let (Record::Invoke { at, .. }
            | Record::Return { at, .. }
            | Record::Attached { at, .. }
            | Record::Delivered { at, .. }
            | Record::Fault { at, .. }) = record;
            if *at < now {
                return Err(malformed([], format!("record {place} is of {at} ns and stands after one of {now} ns")));
            }
            now = *at;
            match record {
                Record::Invoke { op, client, request, .. } => {
                    let slot = match request {
                        Request::Watch(request) => {
                            history.watches.push(WatchRun { id: *op, request, created: None, deliveries: Vec::new() });
                            Slot::Watch(history.watches.len() - 1)
                        }
                        Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. } => Slot::Aside,
                        _ => {
                            history.operations.push(Operation {
                                id: *op,
                                client: *client,
                                called: place,
                                returned: NEVER,
                                request,
                                answer: Answer::Unknown,
                            });
                            Slot::Operation(history.operations.len() - 1)
                        }
                    };
                    if known.insert(*op, slot).is_some() {
                        return Err(malformed([*op], format!("operation {op} was invoked twice")));
                    }
                }
                Record::Return { op, outcome, .. } => match known.get_mut(op) {
                    Some(Slot::Operation(slot)) => {
                        let slot = *slot;
                        known.insert(*op, Slot::Returned);
                        history.on_return(slot, place, outcome)?;
                    }
                    Some(Slot::Watch(slot)) => {
                        if let Outcome::Ok { response, .. } = outcome {
                            let created = &mut history.watches[*slot].created;
                            if !matches!(response, Response::Watch { .. }) || created.is_some() {
                                return Err(malformed([*op], format!("watch {op} was answered {response:?}")));
                            }
                            *created = Some((place, response.revision()));
                        }
                    }
                    Some(Slot::Aside) => {}
                    Some(Slot::Returned) => return Err(malformed([*op], format!("operation {op} returned twice"))),
                    None => return Err(malformed([*op], format!("operation {op} returned but was never invoked"))),
                },
                Record::Delivered { watch, delivery, .. } => match known.get(watch) {
                    Some(Slot::Watch(slot)) => history.watches[*slot].deliveries.push((place, delivery)),
                    _ => return Err(malformed([*watch], format!("watch {watch} delivered but was never invoked"))),
                },
                Record::Attached { client, .. } => history.attached.push((place, *client)),
                Record::Fault { .. } => {}
            }
        }
        Ok(history)
    }

    fn on_return(&mut self, slot: usize, place: Place, outcome: &'a Outcome) -> Result<(), Violation> {
        let operation = &mut self.operations[slot];
        match outcome {
            Outcome::Ok { response, rank } => {
                if !answers(operation.request, response) {
                    let text =
                        format!("operation {} asked {:?} and was answered {}", operation.id, short(operation.request), short(response));
                    return Err(Violation::new(Property::Answer, [operation.id], None, text));
                }
                operation.returned = place;
                operation.answer = Answer::Ok { response, log_index: *rank };
            }
            Outcome::Refused(refused) => {
                operation.returned = place;
                operation.answer = Answer::Refused(refused);
            }
            // Done, or not, or still to come: it has not returned in the sense that anything after it comes later.
            Outcome::Unknown => {}
        }
        Ok(())
    }
}

impl<'a> Operation<'a> {
    pub(crate) const fn response(&self) -> Option<&'a Response> {
        match self.answer {
            Answer::Ok { response, .. } => Some(response),
            _ => None,
        }
    }

    pub(crate) const fn refused(&self) -> Option<&'a Refused> {
        match self.answer {
            Answer::Refused(refused) => Some(refused),
            _ => None,
        }
    }

    /// Where it stands in the order if it was answered: twice its revision, and one more if it changed nothing.
    pub(crate) fn rank(&self) -> Option<i64> {
        self.response().map(|response| 2 * response.revision() + i64::from(!self.claims_change()))
    }

    /// Whether the client was told that something changed.
    pub(crate) fn claims_change(&self) -> bool {
        self.response().is_some_and(changes)
    }

    pub(crate) const fn is_unknown(&self) -> bool {
        matches!(self.answer, Answer::Unknown)
    }
}

enum Slot {
    Operation(usize),
    Watch(usize),
    /// No step of the store.
    Aside,
    Returned,
}

fn malformed(operations: impl Into<Vec<OpId>>, explanation: String) -> Violation {
    Violation::new(Property::WellFormed, operations, None, explanation)
}

/// Whether the answer is of the kind that was asked for.
const fn answers(request: &Request, response: &Response) -> bool {
    matches!(
        (request, response),
        (Request::Range(_), Response::Range { .. })
            | (Request::Put(_), Response::Put { .. })
            | (Request::DeleteRange(_), Response::DeleteRange { .. })
            | (Request::Txn(_), Response::Txn { .. })
            | (Request::Compact { .. }, Response::Compact { .. })
            | (Request::LeaseGrant { .. }, Response::LeaseGrant { .. })
            | (Request::LeaseRevoke { .. }, Response::LeaseRevoke { .. })
    )
}

fn changes(response: &Response) -> bool {
    match response {
        Response::Put { .. } => true,
        Response::DeleteRange { deleted, .. } => *deleted > 0,
        Response::Txn { responses, .. } => responses.iter().any(changes),
        // What a revoked lease took with it its answer does not say.
        Response::LeaseGrant { .. } | Response::LeaseRevoke { .. } | Response::LeaseTime { .. } => false,
        Response::Range { .. } | Response::Compact { .. } | Response::Watch { .. } => false,
    }
}

/// One line about an operation, for people.
impl fmt::Display for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operation {} of client {} ({}", self.id, self.client, short(self.request))?;
        match self.answer {
            Answer::Ok { response, .. } => write!(f, " -> {})", short(response)),
            Answer::Refused(refused) => write!(f, " -> refused: {})", short(refused)),
            Answer::Unknown => write!(f, " -> outcome unknown)"),
        }
    }
}

/// The JSON of a part of a history, cut to a line.
pub(crate) fn short(part: &impl Serialize) -> String {
    const CHARACTERS_MAX: usize = 400;
    let text = serde_json::to_string(part).expect("histories are plain data");
    match text.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
