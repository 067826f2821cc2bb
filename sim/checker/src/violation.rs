//! What was broken, by whom, and how one can tell.

use crate::history::OpId;
use std::fmt;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub property: Property,
    /// The operations that contradict each other, the judged one first.
    pub operations: Vec<OpId>,
    /// The revision at which they do, where there is one.
    pub revision: Option<i64>,
    pub explanation: String,
}

/// What a history can break. Each name is a promise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Property {
    /// The record itself makes sense. A break is the recorder's fault.
    WellFormed,
    /// An operation takes effect between its call and its return.
    RealTime,
    /// Nothing is seen before it was asked for.
    Causality,
    /// A revision is one operation's.
    UniqueRevision,
    /// Every revision comes from an operation that may have been done, once.
    Provenance,
    /// Every answer is the one that the sequential store gives in its place.
    Answer,
    /// An error that speaks of the store's state was true at some moment of its call.
    Refusal,
    /// Compactions only go forward and hold for whoever comes later.
    Compaction,
    /// What was acknowledged is in the log.
    Acknowledged,
    /// The log's order and the revisions' order are one.
    LogOrder,
    /// The witness makes sense. A break may be the fault of whoever read the log.
    Witness,
    /// A member does not show a client an older state than it showed it before.
    Session,
    /// Watch: events arrive in the order of revisions.
    WatchOrdered,
    /// Watch: no event arrives twice.
    WatchUnique,
    /// Watch: no event is left out, and none is invented.
    WatchReliable,
    /// Watch: the events of one revision arrive together.
    WatchAtomic,
    /// Watch: progress through a revision means that everything up to it has arrived.
    WatchBookmarkable,
    /// Watch: a previous value is the one before.
    WatchPreviousValue,
    /// Watch: it ends as compacted only when something it still needed was compacted, and then it ends.
    WatchCancel,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} broken", self.property)?;
        if let Some(revision) = self.revision {
            write!(f, " at revision {revision}")?;
        }
        write!(f, ": {}", self.explanation)
    }
}

impl std::error::Error for Violation {}

impl Violation {
    pub(crate) fn new(property: Property, operations: impl Into<Vec<OpId>>, revision: Option<i64>, explanation: impl Into<String>) -> Self {
        Self { property, operations: operations.into(), revision, explanation: explanation.into() }
    }
}
