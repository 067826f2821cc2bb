//! One member's brain: [`Consensus`] and [`Machine`] composed in one thread, for production and simulation alike.

use crate::command::{RaftStatus, Refusal, Reply};
use crate::consensus::{Configuration, Consensus, Envelope, Role, Settings};
use crate::effect::Proposal;
use crate::machine::Machine;
use crate::mvcc::View;
use crate::storage::{StateReader, Table, WalOp, WriteBatch};
use crate::types::{CommitNumber, LogId, LogIndex, MemberId, Monotonic, Now, ReadId, RequestId, RevisionId, SegmentId, Term, WriteNumber};
use crate::wal::Recovered;
use alloc::{string::String, sync::Arc, vec::Vec};
use bytes::Bytes;

/// What the host may tell a replica: see [`crate::effect`] for each.
#[derive(Clone, Debug)]
pub enum ReplicaInput<R: StateReader> {
    Wake,
    Receive(Envelope),
    PeerClosed(MemberId),
    Propose(Vec<Proposal>),
    Read(ReadId),
    Durable(WriteNumber),
    LogRead { segment: SegmentId, offset: u64, bytes: Bytes },
    Persisted(CommitNumber, R),
    Synced(CommitNumber),
    DiskFailed,
    Transfer(MemberId),
}

/// What the host must do: see [`crate::effect`] for each.
#[derive(Clone, Debug)]
pub enum ReplicaEffect<R: StateReader> {
    Write {
        number: WriteNumber,
        ops: Vec<WalOp>,
        then: Vec<Envelope>,
    },
    Prepare {
        segment: SegmentId,
        length: u64,
    },
    Send(Envelope),
    ReadLog {
        segment: SegmentId,
        offset: u64,
        length: u32,
    },
    /// The index is applied already: answer from the view published last (or later).
    ReadReady(ReadId),
    RefuseRead(ReadId, Refusal),
    Reply(RequestId, Result<Reply, Refusal>),
    Publish(Arc<View<R>>),
    /// Held back until this member's WAL is durable to `applied`; the host asserts it against `after`.
    Commit {
        number: CommitNumber,
        batch: WriteBatch,
        applied: LogId,
        after: WriteNumber,
    },
    SyncState,
    Retire {
        table: Table,
        below: RevisionId,
    },
    RoleChanged {
        term: Term,
        role: Role,
        leader: Option<MemberId>,
    },
    ConfigurationChanged(Configuration),
    Distrust {
        peer: MemberId,
        reason: &'static str,
    },
    Fatal(String),
}

/// A whole member without I/O.
#[derive(Debug)]
pub struct Replica<R: StateReader> {
    consensus: Consensus,
    machine: Machine<R>,
}

impl<R: StateReader> Replica<R> {
    /// `bootstrap` is the configuration of a new cluster, used while the machine has none stored.
    #[must_use]
    pub fn new(_settings: Settings, _recovered: Recovered, _bootstrap: Configuration, _machine: Machine<R>, _now: Now) -> Self {
        todo!()
    }

    #[must_use]
    pub fn deadline(&self) -> Monotonic {
        self.consensus.deadline()
    }

    pub fn step(&mut self, _now: Now, _input: ReplicaInput<R>, _out: &mut Vec<ReplicaEffect<R>>) {
        todo!()
    }

    pub fn flush(&mut self, _now: Now, _out: &mut Vec<ReplicaEffect<R>>) {
        todo!()
    }

    #[must_use]
    pub fn status(&self) -> RaftStatus {
        let mut status = self.consensus.status();
        status.applied = self.applied();
        status
    }

    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.machine.applied().index
    }

    #[must_use]
    pub fn view(&self) -> Arc<View<R>> {
        self.machine.view()
    }
}
