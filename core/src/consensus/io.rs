//! What goes into the consensus actor and what comes out: the only way anything happens.

use super::{Envelope, Installable, LeaseMessage, Role, SnapshotMessage};
use crate::command::Refusal;
use crate::entry::Entry;
use crate::storage::WalOp;
use crate::types::{LogId, LogIndex, MemberId, ReadId, RequestId, SegmentId, Term, WriteNumber};
use alloc::{sync::Arc, vec::Vec};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A command on its way into the log: encoded once, by the member that took it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proposal {
    pub request: RequestId,
    /// [`crate::command::Command`] in a frame, see [`crate::machine::encode_command`].
    pub command: Bytes,
}

#[derive(Clone, PartialEq, Debug)]
pub enum ConsensusInput {
    /// Time may have reached [`super::Consensus::deadline`]; early is harmless.
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
    /// No snapshot is being sent to that member any more, for whatever reason.
    SnapshotEnded(MemberId),
    /// A snapshot was received whole and lies, synced, beside this member's state. Answered with `Install` or `NotInstalled`.
    Install(Installable),
    /// A WAL operation failed. Nothing more will become durable in this life.
    DiskFailed,
    /// Hand leadership to that member.
    Transfer(MemberId),
    /// Tell another member something about leases.
    Lease {
        to: MemberId,
        message: LeaseMessage,
    },
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
    /// Bring that member a state from which a log that begins with `first` goes on; say `SnapshotEnded` when it is over.
    SendSnapshot {
        to: MemberId,
        first: LogIndex,
    },
    /// It needs none any more: its log goes on by itself.
    StopSnapshot(MemberId),
    /// Another member says this over a snapshot.
    Snapshot {
        from: MemberId,
        message: SnapshotMessage,
    },
    /// The log goes on behind that entry. Once it is durable there, what is applied is what was received.
    Install(LogId),
    /// The log needs no snapshot: what was received is of no use.
    NotInstalled,
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
    /// Another member of this term says something about leases.
    Lease {
        from: MemberId,
        message: LeaseMessage,
    },
    /// A peer sent what no correct peer sends: count it, tell the operator, close its connection. Never an assertion, or one
    /// cloned data directory could stop every healthy member.
    Distrust {
        peer: MemberId,
        reason: &'static str,
    },
}
