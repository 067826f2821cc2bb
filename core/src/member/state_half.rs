//! The half that works: applies what is committed, publishes, answers from it, compacts, and writes behind.

mod install;

use super::MemberSettings;
use super::orders::{Order, Owed, Report};
use super::request::{Answer, Ticket};
use super::snapshot::{ChunkRead, Incoming, Outgoing, ReadChunk, SnapshotNotice};
use super::tickets::Due;
use crate::command::{Alarm, AlarmKind, Refusal, Reply};
use crate::consensus::Entry;
use crate::machine::Machine;
use crate::machine::{MachineEffect, MachineInput};
use crate::mutant::{Mutant, planted};
use crate::mvcc::View;
use crate::storage::{StateReader, Table, WriteBatch};
use crate::types::{BatchNumber, LogId, LogIndex, Monotonic, Now, RequestId, RevisionId, StateNumber, WallMs, WriteNumber};
use alloc::{
    collections::{BTreeMap, VecDeque},
    string::String,
    sync::Arc,
    vec::Vec,
};
use core::time::Duration;

/// What a host tells the state half.
#[derive(Clone, Debug)]
pub enum StateInput<R: StateReader> {
    Log(Order),
    Store(StoreDone<R>),
    ChunkRead(ChunkRead),
    /// Do a slice of background work: for a host that has nothing else to do while [`StateHalf::has_background_work`].
    Work,
    /// Time may have reached [`StateHalf::deadline`]; early is harmless.
    Wake,
}

/// What the state store's thread has done.
#[derive(Clone, Debug)]
pub enum StoreDone<R: StateReader> {
    /// Batches through this one are stored, not yet synced; `reader` sees them, and `stored_bytes` is what the store now takes.
    Persisted {
        number: BatchNumber,
        reader: R,
        stored_bytes: u64,
    },
    /// Rows were dropped; `reader` does not see them, and the store takes so much less.
    Retired {
        reader: R,
        stored_bytes: u64,
    },
    /// Batches through this one are on stable storage.
    Synced(BatchNumber),
    /// The directory of a state to be received is there; `reader` sees what it holds.
    StateBegun {
        reader: R,
    },
    /// What was to be stored, or synced, of a state being received is; `stored_bytes` is what it takes.
    StateStored {
        reader: R,
        stored_bytes: u64,
    },
    /// A state being received could not be stored. The one in force is well.
    StateFailed(String),
    /// The received state is the one in force: what was done before was done to the other.
    Switched,
    Failed(String),
}

/// What a host does for the state half, grouped by who carries it out. In the order given.
#[derive(Clone, Debug)]
pub enum StateEffect<R: StateReader> {
    Store(StoreWork),
    /// The state that readers and watch hubs see from now on.
    Publish(Arc<View<R>>),
    Answer(Ticket, Result<Answer, Refusal>),
    Log(Report),
    /// Read on a thread where nothing waits, and answer.
    ReadChunk(ReadChunk<R>),
    Snapshot(SnapshotNotice),
    /// End the process, for this reason.
    Fatal(String),
}

/// For the state store's thread, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum StoreWork {
    /// Write behind, atomically, without a sync. `after`: the write to the log that made durable what is in the batch; a host
    /// asserts that it was.
    Persist { number: BatchNumber, batch: WriteBatch, applied: LogId, after: WriteNumber },
    /// Sync, and say which batch it covered.
    Sync,
    /// Drop rows below for good, at once.
    Retire { table: Table, below: RevisionId },
    /// Open the directory of a state to be received, or make it; `anew`: empty, whatever it held. `StateBegun` answers.
    BeginState { state: StateNumber, anew: bool },
    /// Write rows there, atomically, without a sync. `StateStored` answers.
    StoreRows { state: StateNumber, batch: WriteBatch },
    /// Sync all of it, names included. `StateStored` answers.
    SyncState { state: StateNumber },
    /// From now on everything is for that state; the one before goes when nobody reads it any more. `Switched` answers.
    SwitchState { state: StateNumber },
    /// Nobody needs it. No answer is owed.
    DropState { state: StateNumber },
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

/// What waits a little for more of its kind, since each time costs a turn of another thread.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// What was applied is handed to the state store once it has so many bytes ...
    pub persist_bytes: usize,
    /// ... or has waited so long.
    pub persist_delay: Duration,
    /// The log half is told how far is applied once it is so many entries behind ...
    pub report_entries: u64,
    /// ... or so many bytes of them ...
    pub report_bytes: usize,
    /// ... or for so long.
    pub report_delay: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            persist_bytes: 1 << 20,
            persist_delay: Duration::from_millis(10),
            report_entries: 256,
            report_bytes: 1 << 20,
            report_delay: Duration::from_millis(5),
        }
    }
}

/// The state half of one member.
#[derive(Debug)]
pub struct StateHalf<R: StateReader> {
    machine: Machine<R>,
    effects: Vec<MachineEffect<R>>,
    sync_limits: SyncLimits,
    batch_limits: BatchLimits,
    /// Committed, not yet applied. Bounded by the consensus actor's `unapplied_entries` and `unapplied_bytes`.
    committed: VecDeque<Arc<[Entry]>>,
    /// Answers owed to clients of this member, by the sequence of their request ids. Bounded likewise.
    owed: BTreeMap<u64, (Ticket, Monotonic)>,
    /// Reads that wait for the machine to reach their index. Bounded by the consensus actor's `pending_reads`.
    reads: BTreeMap<(LogIndex, Ticket), Monotonic>,
    due: Due,
    /// Batches held back until this member's own WAL has their entries, and a little longer. Bounded by the machine's
    /// `unpersisted_bytes`.
    held: Held,
    /// Batches handed to the host and not yet synced.
    unsynced: VecDeque<(BatchNumber, LogIndex)>,
    /// This member's log is durable through here, since that write.
    durable: (LogIndex, WriteNumber),
    /// Applied index of the newest sync, and of the one before: the WAL is kept back to the latter.
    synced: LogIndex,
    synced_before: LogIndex,
    sync: SyncProgress,
    stored_bytes: u64,
    /// What the log half was told: the applied index, and whether the alarm is raised.
    reported: Option<(LogIndex, bool)>,
    /// It waits to hear of this index.
    awaited: Option<LogIndex>,
    /// Bytes of entries applied since.
    unreported_bytes: usize,
    /// What the log half was told of the v2 tree's next end.
    reported_v2_end: Option<WallMs>,
    outgoing: Outgoing<R>,
    incoming: Incoming<R>,
    /// The store still answers for the state before.
    is_switching: bool,
    /// When it is told more at the latest; never, if there is nothing to tell.
    report_at: Monotonic,
}

/// Batches that have not been handed to the state store.
#[derive(Debug)]
struct Held {
    batches: VecDeque<(BatchNumber, WriteBatch, LogId)>,
    bytes: usize,
    /// When they leave at the latest, those whose entries are durable; never, if there are none.
    leave_at: Monotonic,
}

impl Default for Held {
    fn default() -> Self {
        Self { batches: VecDeque::new(), bytes: 0, leave_at: Monotonic::NEVER }
    }
}

/// What has been written behind since the last sync, and whether one is under way.
#[derive(Debug, Default)]
struct SyncProgress {
    begun_at: LogIndex,
    bytes: usize,
    under_way: bool,
}

impl<R: StateReader> StateHalf<R> {
    pub(super) fn new(machine: Machine<R>, settings: &MemberSettings, state: StateNumber, stored_bytes: u64, now: Now) -> Self {
        let applied = machine.applied().index;
        Self {
            machine,
            effects: Vec::new(),
            sync_limits: settings.sync,
            batch_limits: settings.batch,
            committed: VecDeque::new(),
            owed: BTreeMap::new(),
            reads: BTreeMap::new(),
            due: Due::default(),
            held: Held::default(),
            unsynced: VecDeque::new(),
            durable: (LogIndex::default(), WriteNumber::default()),
            synced: LogIndex::default(),
            synced_before: LogIndex::default(),
            sync: SyncProgress { begun_at: applied, ..SyncProgress::default() },
            stored_bytes,
            reported: None,
            awaited: None,
            unreported_bytes: 0,
            reported_v2_end: None,
            outgoing: Outgoing::new(settings.snapshot),
            incoming: Incoming::new(settings.snapshot, state, now.monotonic),
            is_switching: false,
            report_at: Monotonic::NEVER,
        }
    }

    /// When to `step` with `Wake`, if nothing else happens first.
    #[must_use]
    pub fn deadline(&self) -> Monotonic {
        let snapshots = self.outgoing.deadline().min(self.incoming.deadline());
        self.due.at().min(self.held.leave_at).min(self.report_at).min(snapshots)
    }

    /// Advances by one input. Most effects come from the flush.
    pub fn step(&mut self, now: Now, input: StateInput<R>, out: &mut Vec<StateEffect<R>>) {
        match input {
            StateInput::Log(order) => self.on_order(now, order, out),
            StateInput::ChunkRead(read) => self.outgoing.on_read(now.monotonic, read, out),
            StateInput::Store(StoreDone::StateBegun { reader }) => self.incoming.on_begun(now.monotonic, &reader, out),
            StateInput::Store(StoreDone::StateStored { reader, stored_bytes }) => self.on_stored(now, reader, stored_bytes, out),
            StateInput::Store(StoreDone::StateFailed(reason)) => self.incoming.on_failed(now.monotonic, reason, out),
            StateInput::Store(StoreDone::Switched) => self.is_switching = false,
            // Of the state before.
            StateInput::Store(StoreDone::Persisted { .. } | StoreDone::Retired { .. } | StoreDone::Synced(_)) if self.is_switching => {}
            StateInput::Store(StoreDone::Persisted { number, reader, stored_bytes }) => {
                self.stored_bytes = stored_bytes;
                self.machine.step(MachineInput::Persisted(number, reader), &mut self.effects);
                self.route(out);
            }
            StateInput::Store(StoreDone::Retired { reader, stored_bytes }) => {
                self.stored_bytes = stored_bytes;
                self.machine.step(MachineInput::Retired(reader), &mut self.effects);
                self.route(out);
                // Writes may have been refused for want of this space.
                self.report(out);
            }
            StateInput::Store(StoreDone::Synced(number)) => self.on_synced(number, out),
            StateInput::Store(StoreDone::Failed(reason)) => out.push(StateEffect::Fatal(reason)),
            StateInput::Work => {
                self.machine.step(MachineInput::BackgroundWork, &mut self.effects);
                self.route(out);
            }
            StateInput::Wake => {}
        }
        self.outgoing.wake(now.monotonic, out);
        self.incoming.wake(now.monotonic, out);
        if self.due.take(now.monotonic) {
            self.expire(now.monotonic, out);
        }
    }

    /// Applies what is committed, publishes the new state, answers from it, and writes behind what this member's WAL already has.
    pub fn flush(&mut self, now: Now, out: &mut Vec<StateEffect<R>>) {
        while !self.machine.is_congested() && !self.incoming.is_awaited() {
            let Some(entries) = self.committed.pop_front() else { break };
            self.unreported_bytes += entries.iter().map(Entry::bytes).sum::<usize>();
            self.machine.step(MachineInput::Apply(entries), &mut self.effects);
        }
        self.machine.flush(&mut self.effects);
        self.route(out);
        self.answer_reads(out);
        self.release_batches(now.monotonic, out);
        self.sync_when_due(out);
        self.report_when_due(now.monotonic, out);
        self.report_v2_end(out);
        self.check_invariants();
    }

    /// Whether committed entries wait to be applied, and could be now.
    #[must_use]
    pub fn has_committed(&self) -> bool {
        !self.committed.is_empty() && !self.machine.is_congested() && !self.incoming.is_awaited()
    }

    #[must_use]
    pub fn has_background_work(&self) -> bool {
        self.machine.has_background_work()
    }

    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.machine.applied().index
    }

    #[must_use]
    pub fn view(&self) -> Arc<View<R>> {
        self.machine.view()
    }

    /// As [`Machine::check`].
    pub fn check(&self) {
        self.machine.check();
    }

    fn on_order(&mut self, now: Now, order: Order, out: &mut Vec<StateEffect<R>>) {
        match order {
            Order::Apply { entries, owed } => {
                for Owed { sequence, ticket, deadline } in owed {
                    self.owed.insert(sequence, (ticket, deadline));
                    self.due.note(deadline);
                }
                self.committed.push_back(entries);
            }
            Order::Serve { ticket, index, .. } if index <= self.published() => {
                out.push(StateEffect::Answer(ticket, Ok(Answer::Ready)));
                // The log half could have answered it, had it known: then it answers the next one.
                self.report_through(index, out);
            }
            Order::Serve { ticket, deadline, index } => {
                self.reads.insert((index, ticket), deadline);
                self.due.note(deadline);
            }
            Order::Tell { index } if index <= self.published() => self.report_through(index, out),
            Order::Tell { index } => self.awaited = self.awaited.max(Some(index)),
            Order::Durable { log, write } => {
                self.durable = (log, write);
                self.install_when_durable(out);
            }
            order => self.on_snapshot_order(now, order, out),
        }
    }

    /// The view readers have holds at least this.
    fn published(&self) -> LogIndex {
        self.machine.view().applied().index
    }

    fn on_synced(&mut self, number: BatchNumber, out: &mut Vec<StateEffect<R>>) {
        self.sync.under_way = false;
        let covered = self.unsynced.partition_point(|(batch, _)| *batch <= number);
        let newest = self.unsynced.drain(..covered).next_back();
        if let Some((_, applied)) = newest {
            self.synced_before = core::mem::replace(&mut self.synced, applied);
            // What is synced is applied: the log half must not hear of the one without the other.
            self.report_through(self.synced_before, out);
            out.push(StateEffect::Log(Report::Synced(self.synced_before)));
        }
        self.machine.step(MachineInput::Synced(number), &mut self.effects);
        self.route(out);
    }

    fn route(&mut self, out: &mut Vec<StateEffect<R>>) {
        let mut effects = core::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                MachineEffect::Publish(view) => out.push(StateEffect::Publish(view)),
                MachineEffect::Reply(request, answer) => self.answer(request, answer, out),
                MachineEffect::Persist { number, batch, applied } => {
                    self.held.bytes += batch.bytes;
                    self.held.batches.push_back((number, batch, applied));
                }
                MachineEffect::SyncState => {
                    self.sync.under_way = true;
                    out.push(StateEffect::Store(StoreWork::Sync));
                }
                MachineEffect::Retire { table, below } => out.push(StateEffect::Store(StoreWork::Retire { table, below })),
                MachineEffect::Leases(changes) => out.push(StateEffect::Log(Report::Leases(changes))),
                // Said once a flush, with what else the log half wants to know.
                MachineEffect::Applied(_) => {}
                MachineEffect::Fatal(reason) => out.push(StateEffect::Fatal(reason)),
            }
        }
        self.effects = effects;
    }

    /// Whoever gave up has been told so already.
    fn answer(&mut self, request: RequestId, answer: Result<Reply, Refusal>, out: &mut Vec<StateEffect<R>>) {
        if let Some((ticket, _)) = self.owed.remove(&request.sequence) {
            out.push(StateEffect::Answer(ticket, answer.map(Answer::Reply)));
        }
    }

    fn answer_reads(&mut self, out: &mut Vec<StateEffect<R>>) {
        let applied = self.published();
        while let Some(first) = self.reads.first_entry() {
            let (index, ticket) = *first.key();
            if index > applied {
                break;
            }
            first.remove();
            out.push(StateEffect::Answer(ticket, Ok(Answer::Ready)));
        }
    }

    /// The state store may never be ahead of this member's own durable log, or a restart would find applied what it cannot read.
    /// Nor may it hold anything before the log's first write: a state without a log is one that has lost its log.
    ///
    /// What may leave waits for more, and leaves in batches of about `persist_bytes`.
    fn release_batches(&mut self, now: Monotonic, out: &mut Vec<StateEffect<R>>) {
        let (durable, after) = self.durable;
        let held = &mut self.held;
        let may_leave = |applied: LogId| after > WriteNumber(0) && applied.index <= durable;
        if !held.batches.front().is_some_and(|(_, _, applied)| may_leave(*applied)) {
            held.leave_at = Monotonic::NEVER;
            return;
        }
        held.leave_at = held.leave_at.min(now + self.batch_limits.persist_delay);
        if held.bytes < self.batch_limits.persist_bytes && now < held.leave_at && !self.machine.is_congested() {
            return;
        }
        held.leave_at = Monotonic::NEVER;
        let mut next = || {
            let next = held.batches.pop_front_if(|(_, _, applied)| may_leave(*applied))?;
            held.bytes -= next.1.bytes;
            Some(next)
        };
        while let Some((mut number, mut batch, mut applied)) = next() {
            // What the bug writes apart must not be put together again here.
            while batch.bytes < self.batch_limits.persist_bytes
                && !planted(Mutant::W7)
                && let Some((later, more, reached)) = next()
            {
                batch.absorb(more);
                (number, applied) = (later, reached);
            }
            self.sync.bytes += batch.bytes;
            self.unsynced.push_back((number, applied.index));
            out.push(StateEffect::Store(StoreWork::Persist { number, batch, applied, after }));
        }
    }

    fn sync_when_due(&mut self, out: &mut Vec<StateEffect<R>>) {
        let Some((_, newest)) = self.unsynced.back() else { return };
        let entries = newest.0.saturating_sub(self.sync.begun_at.0);
        let due = entries >= self.sync_limits.entries || self.sync.bytes >= self.sync_limits.bytes;
        if due && !self.sync.under_way {
            self.sync = SyncProgress { begun_at: *newest, bytes: 0, under_way: true };
            out.push(StateEffect::Store(StoreWork::Sync));
        }
    }

    /// Tells the log half how far is applied, at once if the alarm came or went.
    fn report_when_due(&mut self, now: Monotonic, out: &mut Vec<StateEffect<R>>) {
        let reached = self.reached();
        // What is stored changes with every batch; on its own it is not worth a turn of the other half.
        if self.reported == Some(reached) {
            return;
        }
        self.report_at = self.report_at.min(now + self.batch_limits.report_delay);
        let (index, no_space) = reached;
        let few = self.unreported_bytes < self.batch_limits.report_bytes;
        let waits =
            self.reported.is_some_and(|(told, alarm)| alarm == no_space && few && index.0 < told.0 + self.batch_limits.report_entries);
        let is_awaited = self.awaited.is_some_and(|awaited| awaited <= index);
        if !waits || is_awaited || now >= self.report_at {
            self.report(out);
        }
    }

    /// Tells the log half, unless it knows already, that the state is applied through an index.
    fn report_through(&mut self, index: LogIndex, out: &mut Vec<StateEffect<R>>) {
        if self.reported.is_none_or(|(told, _)| told < index) {
            self.report(out);
        }
    }

    fn report_v2_end(&mut self, out: &mut Vec<StateEffect<R>>) {
        let (_, end) = self.machine.v2_times();
        if self.reported_v2_end != end {
            self.reported_v2_end = end;
            out.push(StateEffect::Log(Report::V2End(end)));
        }
    }

    /// How far is applied and published, and whether this member's alarm is raised.
    fn reached(&self) -> (LogIndex, bool) {
        let view = self.machine.view();
        let alarm = Alarm { member: self.machine.member(), kind: AlarmKind::NoSpace };
        (view.applied().index, view.alarms().contains(&alarm))
    }

    fn report(&mut self, out: &mut Vec<StateEffect<R>>) {
        let (index, no_space) = self.reached();
        self.report_at = Monotonic::NEVER;
        self.awaited.take_if(|awaited| *awaited <= index);
        self.unreported_bytes = 0;
        self.reported = Some((index, no_space));
        let stored_bytes = self.stored_bytes + self.machine.unpersisted_bytes();
        out.push(StateEffect::Log(Report::Applied { index, stored_bytes, no_space }));
    }

    /// What is committed will be applied, but whoever gives up now cannot be told with which result.
    fn expire(&mut self, now: Monotonic, out: &mut Vec<StateEffect<R>>) {
        let due = &mut self.due;
        self.owed.retain(|_, (ticket, deadline)| {
            let over = due.is_over(*deadline, now);
            out.extend(over.then(|| StateEffect::Answer(*ticket, Err(Refusal::OutcomeUnknown))));
            !over
        });
        self.reads.retain(|(_, ticket), deadline| {
            let over = due.is_over(*deadline, now);
            out.extend(over.then(|| StateEffect::Answer(*ticket, Err(Refusal::TimedOut))));
            !over
        });
    }

    fn check_invariants(&self) {
        assert!(self.synced_before <= self.synced, "sync went back: {} after {}", self.synced, self.synced_before);
        assert!(self.synced <= self.applied(), "synced {} but applied only {}", self.synced, self.applied());
        let follows = |entries: &Arc<[Entry]>| entries.first().is_some_and(|entry| entry.id.index == self.applied().next());
        let fits = self.incoming.is_awaited() || self.committed.front().is_none_or(follows);
        assert!(fits, "what waits to be applied does not follow {}", self.applied());
        self.outgoing.check_invariants();
        assert!(!self.held.batches.is_empty() || self.held.bytes == 0, "{} bytes of no batch are held", self.held.bytes);
    }
}
