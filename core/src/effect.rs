//! What goes into the actors and what comes out: the only way anything happens.
//!
//! Effects are carried out in the order given. A host drains its inbox (at most [`INPUTS_PER_FLUSH`]), steps each input, then
//! flushes once: that is the batching of WAL writes and appends.

use crate::command::{Refusal, Reply};
use crate::entry::Entry;
use crate::mvcc::View;
use crate::storage::{StateReader, Table, WriteBatch};
use crate::types::{CommitNumber, LogId, LogIndex, RequestId, RevisionId};
use alloc::{string::String, sync::Arc};

pub use crate::consensus::{ConsensusEffect, ConsensusInput, Proposal};

/// How many inputs a host steps before it flushes.
pub const INPUTS_PER_FLUSH: usize = 1_024;

#[derive(Clone, Debug)]
pub enum MachineInput<R: StateReader> {
    Apply(Arc<[Entry]>),
    /// The batch is in the state store (not yet synced); `reader` sees it.
    Persisted(CommitNumber, R),
    /// The state store is on stable storage to this batch.
    Synced(CommitNumber),
    /// Do one bounded slice of background work, if there is any.
    Slice,
}

#[derive(Clone, Debug)]
pub enum MachineEffect<R: StateReader> {
    Reply(RequestId, Result<Reply, Refusal>),
    /// The state after everything stepped so far; at most one a flush. Watchers read their events from it.
    Publish(Arc<View<R>>),
    /// Write behind, atomically, without a sync. Carried out only once this member's own WAL is durable to `applied`.
    Commit {
        number: CommitNumber,
        batch: WriteBatch,
        applied: LogId,
    },
    /// `persist(SyncAll)`, then say `Synced` with the newest batch it covered.
    SyncState,
    /// Drop rows below for good, at once. Sent only after a sync covers what moved the last of them.
    Retire {
        table: Table,
        below: RevisionId,
    },
    /// The machine has applied to here.
    Applied(LogIndex),
    /// Not an answer but a broken promise: log it and stop.
    Fatal(String),
}
