//! ⑥ The state machine of one member. Three jobs, a struct each: applying what is committed, writing it behind, and compacting what
//! nobody may ask for any more. [`Machine`] hands inputs to them and puts what comes of it in order.

mod apply;
mod compaction_hashes;
mod compactor;
mod effect;
mod leases;
mod tables;
mod transfer;
mod view;
mod write_behind;

pub use crate::command::{decode_command, decode_with_time, encode_command, validate, validate_range};
pub use effect::{MachineEffect, MachineInput};
pub use transfer::{Receiving, note_receiving, receiving};
pub use view::View;

use crate::command::{Refusal, Reply};
use crate::entry::Configuration;
use crate::lease::Lease;
use crate::lease::table::LeaseTable;
use crate::mutant::{Mutant, planted};
use crate::mvcc::store::{Store, after};
use crate::storage::{ReadFailed, StateReader, Table, WriteBatch};
use crate::types::{BatchNumber, Boot, LeaseId, LogId, MemberId, RequestId, WallMs};
use crate::v2::SpaceWriter;
use alloc::{format, string::String, sync::Arc, vec::Vec};
use apply::{AppliedReply, Applier, Broken};
use compaction_hashes::CompactionHashes;
use compactor::Compactor;
use write_behind::{Reached, WriteBehind};

/// What a machine is told at start.
#[derive(Clone, Debug)]
pub struct MachineSettings {
    pub member: MemberId,
    pub boot: Boot,
    pub limits: MachineLimits,
}

/// The named bounds of the machine.
#[derive(Clone, Copy, Debug)]
pub struct MachineLimits {
    /// Bytes of recent values kept in memory although they are persisted.
    pub recent_bytes: usize,
    /// Bytes not yet persisted above which apply holds back.
    pub unpersisted_bytes: usize,
    /// Rows one slice of background work may touch.
    pub slice_rows: usize,
}

impl Default for MachineLimits {
    fn default() -> Self {
        Self { recent_bytes: 64 << 20, unpersisted_bytes: 64 << 20, slice_rows: 1_000 }
    }
}

/// The state machine of one member.
#[derive(Debug)]
pub struct Machine<R: StateReader> {
    limits: MachineLimits,
    applier: Applier<R>,
    behind: WriteBehind,
    compactor: Compactor,
    hashes: CompactionHashes<R>,
    view: Arc<View<R>>,
    /// Whether anything readers see has changed since the last flush.
    dirty: bool,
    /// Answers since the last flush. Bounded by what a host steps before it flushes.
    replies: Vec<(RequestId, Result<Reply, Refusal>)>,
    /// The index last reported as applied.
    flushed: LogId,
    /// Nothing is done any more: the state may be half changed.
    failed: bool,
}

/// What a state store has applied, before a machine is opened from it: recovery of the log wants to know.
pub fn stored_applied<R: StateReader>(reader: &R) -> Result<LogId, ReadFailed> {
    Ok(tables::Tables::load(reader)?.applied.applied)
}

impl<R: StateReader> Machine<R> {
    /// Builds the state from the store: index from settled and recent rows, then the small tables. An empty store is a fresh one.
    pub fn open(settings: MachineSettings, reader: R) -> Result<Self, ReadFailed> {
        let tables = tables::Tables::load(&reader)?;
        let v2 = SpaceWriter::open(&reader)?;
        let leases = LeaseTable::of(tables::read_leases(&reader)?);
        let mut store = Store::new(reader);
        store.compacted_to = tables.compacted_to;
        store.revision = tables.applied.revision;
        store.compact_revision = tables.compact_revision;
        store.leases = leases;
        let loaded = store.load();
        if !planted(Mutant::W8) {
            loaded?;
        }
        let (compacted_to, revision) = (store.compacted_to, store.revision);
        let applier = Applier::new((settings.member, settings.boot), store, tables, v2);
        let hashes = CompactionHashes::new();
        let machine = Self {
            limits: settings.limits,
            view: Arc::new(applier.snapshot(hashes.kept())),
            hashes,
            behind: WriteBehind::new(Reached { revision, compacted_to }),
            compactor: Compactor::new(compacted_to),
            dirty: false,
            replies: Vec::new(),
            flushed: applier.applied,
            failed: false,
            applier,
        };
        machine.check_invariants();
        Ok(machine)
    }

    /// Tells a fresh machine the configuration its cluster starts with, which no log entry carries.
    pub fn bootstrap(&mut self, configuration: Configuration) {
        if self.applier.bootstrap(configuration) {
            self.dirty = true;
            self.view = Arc::new(self.applier.snapshot(self.hashes.kept()));
        }
    }

    #[must_use]
    pub fn member(&self) -> MemberId {
        self.applier.member()
    }

    /// Bytes of rows that were given to the host, or will be, and have not come back.
    #[must_use]
    pub fn unpersisted_bytes(&self) -> u64 {
        (self.behind.bytes() + self.applier.batch.bytes) as u64
    }

    #[must_use]
    pub fn applied(&self) -> LogId {
        self.applier.applied
    }

    /// The cluster's time, as far as commands have told it; and when the next node of the v2 tree goes.
    #[must_use]
    pub fn v2_times(&self) -> (WallMs, Option<WallMs>) {
        (self.applier.v2.space().time(), self.applier.v2.next_end())
    }

    /// The configuration stored with the applied index; `None` in a fresh store.
    #[must_use]
    pub fn configuration(&self) -> Option<&Configuration> {
        self.applier.configuration.as_deref()
    }

    /// Every lease as applied, in order of their ids: what the lease clock of a log half begins with.
    pub fn leases(&self) -> impl Iterator<Item = (LeaseId, Lease)> {
        self.applier.store.leases.iter()
    }

    /// The state after everything flushed so far.
    #[must_use]
    pub fn view(&self) -> Arc<View<R>> {
        Arc::clone(&self.view)
    }

    /// Whether `BackgroundWork` has work to do.
    #[must_use]
    pub fn has_background_work(&self) -> bool {
        let compacts = || self.compactor.has_work(self.applier.store.compact_revision, self.behind.persisted().revision);
        !self.failed && (self.hashes.has_work() || compacts())
    }

    /// Whether so much is unpersisted that the host should not apply more until `Persisted` comes.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.behind.bytes() + self.applier.batch.bytes > self.limits.unpersisted_bytes
    }

    pub fn step(&mut self, input: MachineInput<R>, out: &mut Vec<MachineEffect<R>>) {
        if self.failed {
            return;
        }
        match input {
            MachineInput::Apply(entries) => {
                for entry in entries.iter() {
                    match self.applier.apply(entry) {
                        Ok(answer) => {
                            if let Some(walk) = self.applier.compaction.take() {
                                self.hashes.add(walk);
                            }
                            self.take_answer(answer);
                        }
                        Err(Broken(reason)) => return self.fail(reason, out),
                    }
                }
                self.dirty |= self.applier.applied != self.flushed;
            }
            MachineInput::Persisted(number, reader) => self.on_persisted(number, reader, out),
            MachineInput::Synced(number) => self.on_synced(number, out),
            MachineInput::Retired(reader) => {
                self.applier.store.reader = reader;
                // Whoever keeps the state published last keeps what was dropped.
                self.dirty = true;
            }
            MachineInput::BackgroundWork => self.background_work(out),
        }
        self.check_invariants();
    }

    /// Publishes, answers and writes behind what was stepped since the last flush.
    pub fn flush(&mut self, out: &mut Vec<MachineEffect<R>>) {
        if self.failed {
            return;
        }
        if self.dirty {
            self.view = Arc::new(self.applier.snapshot(self.hashes.kept()));
            out.push(MachineEffect::Publish(self.view()));
            self.dirty = false;
        }
        out.extend(self.replies.drain(..).map(|(request, answer)| MachineEffect::Reply(request, answer)));
        let advanced = self.applied() != self.flushed;
        if advanced || !self.applier.batch.rows.is_empty() {
            self.write_behind(out);
        }
        let changes = core::mem::take(&mut self.applier.lease_changes);
        if !changes.is_empty() {
            out.push(MachineEffect::Leases(changes));
        }
        if advanced {
            self.flushed = self.applied();
            out.push(MachineEffect::Applied(self.flushed.index));
        }
        self.check_invariants();
    }

    fn take_answer(&mut self, answer: Option<AppliedReply>) {
        let Some(AppliedReply { request, reply, physical }) = answer else { return };
        match (reply, physical) {
            (Ok(reply), Some(revision)) => {
                let now = self.compactor.wait(revision, request, reply);
                self.replies.extend(now.map(|reply| (request, Ok(reply))));
                self.answer_compactions();
            }
            (reply, _) => self.replies.push((request, reply.map_err(Refusal::from))),
        }
    }

    fn write_behind(&mut self, out: &mut Vec<MachineEffect<R>>) {
        let (mut batch, mark) = self.applier.take_batch();
        if planted(Mutant::W7) {
            let mut apart = WriteBatch::default();
            mark.write(&mut apart);
            self.emit(apart, out);
        } else {
            mark.write(&mut batch);
        }
        self.emit(batch, out);
    }

    fn emit(&mut self, batch: WriteBatch, out: &mut Vec<MachineEffect<R>>) {
        let compacted_to = self.compactor.compacted_to();
        let number = self.behind.add(&batch, Reached { revision: self.applier.store.revision, compacted_to });
        if self.compactor.on_batch(number) && planted(Mutant::T1) {
            out.push(MachineEffect::Retire { table: Table::Recent, below: after(compacted_to) });
        }
        out.push(MachineEffect::Persist { number, batch, applied: self.applied() });
    }

    fn on_persisted(&mut self, number: BatchNumber, reader: R, out: &mut Vec<MachineEffect<R>>) {
        self.behind.on_persisted(number);
        let persisted = self.behind.persisted();
        let store = &mut self.applier.store;
        let compacted = store.compacted_to != persisted.compacted_to;
        store.compacted_to = persisted.compacted_to;
        store.reader = reader;
        let evicted = store.evict(self.limits.recent_bytes, persisted.revision);
        // A view keeps the reader it was made with, and nothing else has changed of it.
        self.dirty |= compacted || evicted;
        if self.compactor.on_persisted(self.applier.store.compact_revision, persisted.compacted_to) {
            out.push(MachineEffect::SyncState);
        }
    }

    fn on_synced(&mut self, number: BatchNumber, out: &mut Vec<MachineEffect<R>>) {
        if let Some(below) = self.compactor.on_synced(number) {
            out.push(MachineEffect::Retire { table: Table::Recent, below });
        }
        self.answer_compactions();
    }

    fn answer_compactions(&mut self) {
        while let Some((request, reply)) = self.compactor.pop_answer(|compaction| self.hashes.is_pending(compaction)) {
            self.replies.push((request, Ok(reply)));
        }
    }

    /// Compacts, which gives space back; when there is nothing to compact, takes in a piece of a compaction's hash.
    fn background_work(&mut self, out: &mut Vec<MachineEffect<R>>) {
        let (persisted, rows) = (self.behind.persisted().revision, self.limits.slice_rows);
        let Applier { store, batch, .. } = &mut self.applier;
        let changed = match self.compactor.slice(store, persisted, rows, batch) {
            Ok(false) => self.hashes.slice(rows),
            compacted_to => compacted_to,
        };
        match changed {
            Ok(changed) => self.dirty |= changed,
            Err(failed) => return self.fail(format!("{failed}"), out),
        }
        self.answer_compactions();
    }

    /// Ends it. What was not flushed is neither published nor answered nor written.
    fn fail(&mut self, reason: String, out: &mut Vec<MachineEffect<R>>) {
        self.failed = true;
        self.replies.clear();
        out.push(MachineEffect::Fatal(reason));
    }

    fn check_invariants(&self) {
        if self.failed {
            return;
        }
        let store = &self.applier.store;
        self.applier.check_invariants();
        self.compactor.check_invariants(store);
        let persisted = self.behind.persisted();
        assert!(persisted.revision <= store.revision, "persisted {} of {}", persisted.revision, store.revision);
        assert!(
            persisted.compacted_to == store.compacted_to,
            "the reader is compacted to {}, the store says {}",
            persisted.compacted_to,
            store.compacted_to
        );
    }

    /// Panics if the state contradicts itself. Visits everything: for tests and the simulator.
    pub fn check(&self) {
        self.check_invariants();
        if !self.failed {
            self.applier.store.check_invariants();
            self.applier.v2.check();
        }
    }
}
