//! What goes into the machine and what comes out.

use crate::command::{Refusal, Reply};
use crate::entry::Entry;
use crate::lease::LeaseChange;
use crate::machine::View;
use crate::storage::{StateReader, Table, WriteBatch};
use crate::types::{BatchNumber, LogId, LogIndex, RequestId, RevisionId};
use alloc::{string::String, sync::Arc, vec::Vec};
use core::fmt;

#[derive(Clone, Debug)]
pub enum MachineInput<R: StateReader> {
    Apply(Arc<[Entry]>),
    /// The batch is in the state store (not yet synced); `reader` sees it.
    Persisted(BatchNumber, R),
    /// The state store is on stable storage to this batch.
    Synced(BatchNumber),
    /// The rows that were to be dropped are gone; `reader` does not see them.
    Retired(R),
    /// Do one bounded slice of background work, if there is any.
    BackgroundWork,
}

/// A flush emits in this order: `Publish`, every `Reply` since the last flush, `Persist`, `Leases`, `Applied`. So whoever has an answer and then
/// reads from this member sees what the answer speaks of. The others come as they arise.
#[derive(Clone, Debug)]
pub enum MachineEffect<R: StateReader> {
    /// The state after everything stepped so far; at most one a flush. Watchers read their events from it.
    Publish(Arc<View<R>>),
    Reply(RequestId, Result<Reply, Refusal>),
    /// Write behind, atomically, without a sync. Carried out only once this member's own WAL is durable to `applied`.
    Persist {
        number: BatchNumber,
        batch: WriteBatch,
        applied: LogId,
    },
    /// What became of leases, in order, with everything applied so far.
    Leases(Vec<LeaseChange>),
    /// The machine has applied to here.
    Applied(LogIndex),
    /// `persist(SyncAll)`, then say `Synced` with the newest batch it covered.
    SyncState,
    /// Drop rows below for good, at once. Sent only after a sync covers what moved the last of them.
    Retire {
        table: Table,
        below: RevisionId,
    },
    /// Not an answer but a broken promise: log it and stop.
    Fatal(String),
}

impl<R: StateReader> fmt::Display for MachineInput<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply(entries) => match (entries.first(), entries.last()) {
                (Some(first), Some(last)) if first.id != last.id => write!(f, "apply {}..{}", first.id, last.id),
                (Some(only), _) => write!(f, "apply {}", only.id),
                (None, _) => write!(f, "apply nothing"),
            },
            Self::Persisted(number, _) => write!(f, "persisted batch {number}"),
            Self::Synced(number) => write!(f, "synced batch {number}"),
            Self::Retired(_) => write!(f, "retired"),
            Self::BackgroundWork => write!(f, "background work"),
        }
    }
}

impl<R: StateReader> fmt::Display for MachineEffect<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(view) => write!(f, "publish revision {} at {}", view.revision(), view.applied()),
            Self::Reply(request, Ok(reply)) => write!(f, "reply {request} {reply}"),
            Self::Reply(request, Err(refusal)) => write!(f, "refuse {request} {refusal:?}"),
            Self::Persist { number, batch, applied } => write!(f, "persist batch {number} of {} rows to {applied}", batch.rows.len()),
            Self::Leases(changes) => write!(f, "{} changes of leases", changes.len()),
            Self::Applied(index) => write!(f, "applied {index}"),
            Self::SyncState => write!(f, "sync state"),
            Self::Retire { table, below } => write!(f, "retire {table:?} below {below}"),
            Self::Fatal(reason) => write!(f, "fatal {reason}"),
        }
    }
}
