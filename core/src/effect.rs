//! What goes into the actors and what comes out: the only way anything happens.
//!
//! Effects are carried out in the order given. A host drains its inbox (at most [`INPUTS_PER_FLUSH`]), steps each input, then
//! flushes once: that is the batching of WAL writes and appends.

use crate::command::{Refusal, Reply};
use crate::consensus::{Entry, Envelope, Role};
use crate::mvcc::View;
use crate::storage::{StateReader, Table, WalOp, WriteBatch};
use crate::types::{CommitNumber, LogId, LogIndex, MemberId, ReadId, RequestId, RevisionId, SegmentId, Term, WriteNumber};
use alloc::{string::String, sync::Arc, vec::Vec};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How many inputs a host steps before it flushes.
pub const INPUTS_PER_FLUSH: usize = 1_024;

/// A command on its way into the log: encoded once, by the member that took it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proposal {
    pub request: RequestId,
    /// [`crate::command::Command`] in a frame, see [`crate::machine::encode_command`].
    pub command: Bytes,
}

#[derive(Clone, PartialEq, Debug)]
pub enum ConsensusInput {
    /// Time may have reached [`crate::consensus::Consensus::deadline`]; early is harmless.
    Wake,
    Receive(Envelope),
    /// The connection from a peer closed; if it was the leader, an early pre-vote may follow.
    PeerClosed(MemberId),
    Propose(Vec<Proposal>),
    /// A linearizable read arrived at this member.
    Read(ReadId),
    /// Every operation of this write, and of those before it, is on stable storage.
    Durable(WriteNumber),
    /// What a `ReadLog` found.
    LogRead {
        segment: SegmentId,
        offset: u64,
        bytes: Bytes,
    },
    /// The machine has applied to here.
    Applied(LogIndex),
    /// The state store is on stable storage to here, so the log before it is not needed by this member.
    StateSynced(LogIndex),
    /// A WAL operation failed. Nothing more will become durable in this life.
    DiskFailed,
    /// Hand leadership to that member.
    Transfer(MemberId),
}

#[derive(Clone, PartialEq, Debug)]
pub enum ConsensusEffect {
    /// Carry out `ops` in order; once the last is durable, send `then` and say `Durable(number)`. Writes are pipelined:
    /// the next may be handed over before this one is durable.
    Write {
        number: WriteNumber,
        ops: Vec<WalOp>,
        then: Vec<Envelope>,
    },
    /// Make ready a zero-filled segment in the background; how a host does it is its own affair, and no answer is owed.
    Prepare {
        segment: SegmentId,
        length: u64,
    },
    /// Promises nothing that a crash could break, so it may overtake a `Write`.
    Send(Envelope),
    /// Read from a segment for a follower that is behind the in-memory tail; answer with `LogRead`.
    ReadLog {
        segment: SegmentId,
        offset: u64,
        length: u32,
    },
    /// These entries are committed; apply them in order.
    Committed(Arc<[Entry]>),
    /// A read may be answered from any state applied to this index or beyond.
    ReadReady(ReadId, LogIndex),
    /// A read was not confirmed; the client may try again with a new id.
    RefuseRead(ReadId, Refusal),
    Refuse(RequestId, Refusal),
    RoleChanged {
        term: Term,
        role: Role,
        leader: Option<MemberId>,
    },
    /// A peer sent what no correct peer sends: count it, tell the operator, close its connection. Never an assertion, or one
    /// cloned data directory could stop every healthy member.
    Distrust {
        peer: MemberId,
        reason: &'static str,
    },
}

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
