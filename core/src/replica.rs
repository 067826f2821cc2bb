//! One member's brain: [`Consensus`] and [`Machine`] composed in one thread, for production and simulation alike.
//!
//! A host drains its inbox into [`Replica::step`], then calls [`Replica::flush_log`] and carries out what came: writes and
//! messages are on their way. Then [`Replica::flush_state`] applies what is committed while the disk works. Between the two a host
//! may let any time pass; the simulator does.

use crate::command::{RaftStatus, Refusal, Reply};
use crate::consensus::{Configuration, Consensus, Entry, Envelope, Role, Settings};
use crate::effect::{ConsensusEffect, ConsensusInput, MachineEffect, MachineInput, Proposal};
use crate::machine::Machine;
use crate::mvcc::View;
use crate::storage::{StateReader, Table, WalOp, WriteBatch};
use crate::types::{CommitNumber, LogId, LogIndex, MemberId, Monotonic, Now, ReadId, RequestId, RevisionId, SegmentId, Term, WriteNumber};
use crate::wal::Recovered;
use alloc::{
    collections::{BTreeSet, VecDeque},
    string::String,
    sync::Arc,
    vec::Vec,
};
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
    LogRead {
        segment: SegmentId,
        offset: u64,
        bytes: Bytes,
    },
    Persisted(CommitNumber, R),
    Synced(CommitNumber),
    DiskFailed,
    Transfer(MemberId),
    /// Do a slice of background work: for a host that has nothing else to do while [`Replica::has_background_work`].
    Slice,
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
    /// Answer from the view published last, or any later one.
    ReadReady(ReadId),
    RefuseRead(ReadId, Refusal),
    Reply(RequestId, Result<Reply, Refusal>),
    Publish(Arc<View<R>>),
    /// Held back until this member's WAL is durable to `applied`; the host asserts that it has reported `after` durable.
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

/// When the state store is synced, so that the log behind it may go.
#[derive(Clone, Copy, Debug)]
pub struct SyncLimits {
    /// Entries applied since the last sync began (`--snapshot-count`).
    pub entries: u64,
    /// Bytes written behind since the last sync began.
    pub bytes: usize,
}

impl Default for SyncLimits {
    fn default() -> Self {
        Self { entries: 10_000, bytes: 128 << 20 }
    }
}

/// A whole member without I/O.
#[derive(Debug)]
pub struct Replica<R: StateReader> {
    consensus: Consensus,
    machine: Machine<R>,
    sync_limits: SyncLimits,
    /// Committed, not yet applied. Bounded by the consensus actor's `unapplied_entries` and window bytes.
    committed: VecDeque<Arc<[Entry]>>,
    /// Reads that wait for the machine to reach their index. Bounded by the consensus actor's `pending_reads`.
    reads: BTreeSet<(LogIndex, ReadId)>,
    /// Batches held back until this member's own WAL has their entries. Bounded by the machine's `unpersisted_bytes`.
    held: VecDeque<(CommitNumber, WriteBatch, LogId)>,
    /// Batches handed to the host and not yet synced.
    unsynced: VecDeque<(CommitNumber, LogIndex)>,
    durable: WriteNumber,
    /// Applied index of the newest sync, and of the one before: the WAL is kept back to the latter.
    synced: LogIndex,
    synced_before: LogIndex,
    sync: SyncProgress,
    configuration: Configuration,
    consensus_effects: Vec<ConsensusEffect>,
    machine_effects: Vec<MachineEffect<R>>,
}

/// What has been written behind since the last `SyncState`, and whether one is under way.
#[derive(Debug, Default)]
struct SyncProgress {
    begun_at: LogIndex,
    bytes: usize,
    under_way: bool,
}

impl<R: StateReader> Replica<R> {
    /// `bootstrap` is the configuration of a new cluster, used while the machine has none stored.
    #[must_use]
    pub fn new(settings: Settings, recovered: Recovered, bootstrap: Configuration, mut machine: Machine<R>, now: Now) -> Self {
        let applied = machine.applied().index;
        machine.bootstrap(bootstrap.clone());
        let stored = machine.configuration().cloned().unwrap_or(bootstrap);
        let consensus = Consensus::new(settings, recovered, stored, applied, now);
        Self {
            consensus,
            machine,
            sync_limits: SyncLimits::default(),
            committed: VecDeque::new(),
            reads: BTreeSet::new(),
            held: VecDeque::new(),
            unsynced: VecDeque::new(),
            durable: WriteNumber::default(),
            synced: LogIndex::default(),
            synced_before: LogIndex::default(),
            sync: SyncProgress { begun_at: applied, ..SyncProgress::default() },
            // Empty, so that the first flush tells the host the one in force.
            configuration: Configuration::default(),
            consensus_effects: Vec::new(),
            machine_effects: Vec::new(),
        }
    }

    #[must_use]
    pub fn with_sync_limits(mut self, limits: SyncLimits) -> Self {
        self.sync_limits = limits;
        self
    }

    /// When to `step` with `Wake`, if nothing else happens first.
    #[must_use]
    pub fn deadline(&self) -> Monotonic {
        self.consensus.deadline()
    }

    /// Advances by one input. Most effects come from the flushes.
    pub fn step(&mut self, now: Now, input: ReplicaInput<R>, out: &mut Vec<ReplicaEffect<R>>) {
        let input = match input {
            ReplicaInput::Persisted(number, reader) => return self.step_machine(now, MachineInput::Persisted(number, reader), out),
            ReplicaInput::Slice => return self.step_machine(now, MachineInput::Slice, out),
            ReplicaInput::Synced(number) => return self.on_synced(now, number, out),
            ReplicaInput::Durable(number) => {
                self.durable = self.durable.max(number);
                ConsensusInput::Durable(number)
            }
            ReplicaInput::Wake => ConsensusInput::Wake,
            ReplicaInput::Receive(envelope) => ConsensusInput::Receive(envelope),
            ReplicaInput::PeerClosed(peer) => ConsensusInput::PeerClosed(peer),
            ReplicaInput::Propose(proposals) => ConsensusInput::Propose(proposals),
            ReplicaInput::Read(read) => ConsensusInput::Read(read),
            ReplicaInput::LogRead { segment, offset, bytes } => ConsensusInput::LogRead { segment, offset, bytes },
            ReplicaInput::DiskFailed => ConsensusInput::DiskFailed,
            ReplicaInput::Transfer(target) => ConsensusInput::Transfer(target),
        };
        self.step_consensus(now, input, out);
    }

    /// Emits at most one WAL write, and the messages to peers: what should leave before the machine is busy.
    pub fn flush_log(&mut self, now: Now, out: &mut Vec<ReplicaEffect<R>>) {
        self.consensus.flush(now, &mut self.consensus_effects);
        self.route_consensus(out);
        if self.consensus.configuration() != &self.configuration {
            self.configuration = self.consensus.configuration().clone();
            out.push(ReplicaEffect::ConfigurationChanged(self.configuration.clone()));
        }
    }

    /// Applies what is committed, publishes the new state, answers from it, and writes behind what this member's WAL already has.
    pub fn flush_state(&mut self, now: Now, out: &mut Vec<ReplicaEffect<R>>) {
        while !self.machine.is_congested() {
            let Some(entries) = self.committed.pop_front() else { break };
            self.machine.step(MachineInput::Apply(entries), &mut self.machine_effects);
        }
        self.machine.flush(&mut self.machine_effects);
        self.route_machine(now, out);
        self.answer_reads(out);
        self.release_commits(out);
        self.sync_when_due(out);
        self.check_invariants();
    }

    /// Both flushes: for hosts and tests that do not care when the machine works.
    pub fn flush(&mut self, now: Now, out: &mut Vec<ReplicaEffect<R>>) {
        self.flush_log(now, out);
        self.flush_state(now, out);
    }

    /// Whether committed entries wait to be applied, and could be now.
    #[must_use]
    pub fn has_committed(&self) -> bool {
        !self.committed.is_empty() && !self.machine.is_congested()
    }

    #[must_use]
    pub fn has_background_work(&self) -> bool {
        self.machine.has_background_work()
    }

    #[must_use]
    pub fn status(&self) -> RaftStatus {
        RaftStatus { applied: self.applied(), ..self.consensus.status() }
    }

    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.machine.applied().index
    }

    #[must_use]
    pub fn view(&self) -> Arc<View<R>> {
        self.machine.view()
    }

    #[must_use]
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    fn step_consensus(&mut self, now: Now, input: ConsensusInput, out: &mut Vec<ReplicaEffect<R>>) {
        self.consensus.step(now, input, &mut self.consensus_effects);
        self.route_consensus(out);
    }

    fn step_machine(&mut self, now: Now, input: MachineInput<R>, out: &mut Vec<ReplicaEffect<R>>) {
        self.machine.step(input, &mut self.machine_effects);
        self.route_machine(now, out);
    }

    fn on_synced(&mut self, now: Now, number: CommitNumber, out: &mut Vec<ReplicaEffect<R>>) {
        self.sync.under_way = false;
        let covered = self.unsynced.partition_point(|(commit, _)| *commit <= number);
        let newest = self.unsynced.drain(..covered).next_back();
        if let Some((_, applied)) = newest {
            self.synced_before = core::mem::replace(&mut self.synced, applied);
        }
        self.step_machine(now, MachineInput::Synced(number), out);
        self.step_consensus(now, ConsensusInput::StateSynced(self.synced_before), out);
    }

    fn route_consensus(&mut self, out: &mut Vec<ReplicaEffect<R>>) {
        for effect in self.consensus_effects.drain(..) {
            out.push(match effect {
                ConsensusEffect::Committed(entries) => {
                    self.committed.push_back(entries);
                    continue;
                }
                ConsensusEffect::ReadReady(read, index) => {
                    self.reads.insert((index, read));
                    continue;
                }
                ConsensusEffect::Write { number, ops, then } => ReplicaEffect::Write { number, ops, then },
                ConsensusEffect::Prepare { segment, length } => ReplicaEffect::Prepare { segment, length },
                ConsensusEffect::Send(envelope) => ReplicaEffect::Send(envelope),
                ConsensusEffect::ReadLog { segment, offset, length } => ReplicaEffect::ReadLog { segment, offset, length },
                ConsensusEffect::RefuseRead(read, refusal) => ReplicaEffect::RefuseRead(read, refusal),
                ConsensusEffect::Refuse(request, refusal) => ReplicaEffect::Reply(request, Err(refusal)),
                ConsensusEffect::RoleChanged { term, role, leader } => ReplicaEffect::RoleChanged { term, role, leader },
                ConsensusEffect::Distrust { peer, reason } => ReplicaEffect::Distrust { peer, reason },
            });
        }
    }

    fn route_machine(&mut self, now: Now, out: &mut Vec<ReplicaEffect<R>>) {
        let mut applied = None;
        for effect in self.machine_effects.drain(..) {
            out.push(match effect {
                MachineEffect::Applied(index) => {
                    applied = Some(index);
                    continue;
                }
                MachineEffect::Commit { number, batch, applied } => {
                    self.held.push_back((number, batch, applied));
                    continue;
                }
                MachineEffect::SyncState => {
                    self.sync.under_way = true;
                    ReplicaEffect::SyncState
                }
                MachineEffect::Reply(request, answer) => ReplicaEffect::Reply(request, answer),
                MachineEffect::Publish(view) => ReplicaEffect::Publish(view),
                MachineEffect::Retire { table, below } => ReplicaEffect::Retire { table, below },
                MachineEffect::Fatal(reason) => ReplicaEffect::Fatal(reason),
            });
        }
        if let Some(index) = applied {
            self.step_consensus(now, ConsensusInput::Applied(index), out);
        }
    }

    fn answer_reads(&mut self, out: &mut Vec<ReplicaEffect<R>>) {
        let applied = self.applied();
        while let Some((index, read)) = self.reads.pop_first() {
            if index > applied {
                self.reads.insert((index, read));
                break;
            }
            out.push(ReplicaEffect::ReadReady(read));
        }
    }

    /// The state store may never be ahead of this member's own durable log, or a restart would find applied what it cannot read.
    fn release_commits(&mut self, out: &mut Vec<ReplicaEffect<R>>) {
        if self.held.is_empty() {
            return;
        }
        let durable = self.consensus.status().durable;
        while let Some((number, batch, applied)) = self.held.pop_front_if(|(_, _, applied)| applied.index <= durable) {
            self.sync.bytes += batch.bytes;
            self.unsynced.push_back((number, applied.index));
            out.push(ReplicaEffect::Commit { number, batch, applied, after: self.durable });
        }
    }

    fn sync_when_due(&mut self, out: &mut Vec<ReplicaEffect<R>>) {
        let Some((_, newest)) = self.unsynced.back() else { return };
        let entries = newest.0.saturating_sub(self.sync.begun_at.0);
        let due = entries >= self.sync_limits.entries || self.sync.bytes >= self.sync_limits.bytes;
        if due && !self.sync.under_way {
            self.sync = SyncProgress { begun_at: *newest, bytes: 0, under_way: true };
            out.push(ReplicaEffect::SyncState);
        }
    }

    fn check_invariants(&self) {
        assert!(self.synced_before <= self.synced, "sync went back: {} after {}", self.synced, self.synced_before);
        assert!(self.synced <= self.applied(), "synced {} but applied only {}", self.synced, self.applied());
    }
}
