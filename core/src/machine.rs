//! ⑥ A committed command meets the state. A pure function of (state, command): nothing local is looked at.

mod apply;
mod tables;
mod validate;

pub use validate::{validate, validate_range};

use crate::command::{Command, MemberAttributes, Refusal, Reply};
use crate::effect::{MachineEffect, MachineInput};
use crate::entry::{Configuration, Entry};
use crate::mutant::{Mutant, planted};
use crate::mvcc::View;
use crate::mvcc::compaction::sweep;
use crate::mvcc::hash::Chain;
use crate::mvcc::store::{Store, UNSWEPT, after};
use crate::storage::{ReadFailed, StateReader, Table, WriteBatch};
use crate::types::{Boot, CommitNumber, LogId, MemberId, RequestId, Revision, RevisionId};
use crate::{codec, command::Alarm};
use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    format,
    string::String,
    sync::Arc,
    vec::Vec,
};
use bytes::Bytes;

/// Version of a command's frame.
const COMMAND_VERSION: u8 = 1;

/// Compactions that wait for their space at most; above that they are answered at once.
const PHYSICAL_WAITERS_MAX: usize = 1_024;

/// A command in its frame, as [`crate::effect::Proposal`] carries it.
#[must_use]
pub fn encode_command(command: &Command) -> Bytes {
    let mut out = Vec::new();
    codec::encode(COMMAND_VERSION, command, &mut out);
    out.into()
}

/// The inverse of [`encode_command`].
pub fn decode_command(bytes: &[u8]) -> Result<Command, codec::FrameError> {
    let (command, taken) = codec::decode(COMMAND_VERSION, bytes, bytes.len())?;
    if taken == bytes.len() { Ok(command) } else { Err(codec::FrameError::Body) }
}

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

/// A batch that was given to the host and has not come back.
#[derive(Debug)]
struct Unpersisted {
    number: CommitNumber,
    bytes: usize,
    /// The newest revision with it.
    revision: Revision,
    /// How far the sweep is with it.
    swept: RevisionId,
}

/// The state machine of one member.
#[derive(Debug)]
pub struct Machine<R: StateReader> {
    settings: MachineSettings,
    store: Store<R>,
    applied: LogId,
    chain: Chain,
    configuration: Option<Arc<Configuration>>,
    attributes: Arc<BTreeMap<MemberId, MemberAttributes>>,
    alarms: BTreeSet<Alarm>,
    view: Arc<View<R>>,

    /// Rows since the last flush.
    batch: WriteBatch,
    /// Whether anything readers see has changed since the last flush.
    dirty: bool,
    /// The index last reported as applied, and last written.
    flushed: LogId,
    /// The state at the first command after the last flush, for the mutant that looks at it.
    stale: Option<Store<R>>,

    next_commit: CommitNumber,
    /// Bounded by `unpersisted_bytes` and one batch.
    unpersisted: VecDeque<Unpersisted>,
    unpersisted_bytes: usize,
    /// The newest revision that the store's reader has.
    persisted: Revision,

    /// How far the sweep is. The reader's own mark, in `store`, follows when the moves are persisted.
    swept: RevisionId,
    /// Batches with moves, persisted and not yet synced, or not even that. One per slice since the last sync.
    moves: VecDeque<(CommitNumber, RevisionId)>,
    /// Whether a sync has been asked for that ends the present sweep.
    sync_asked: bool,
    /// Rows through here have left the recent generation for good.
    retired: RevisionId,
    /// Compactions of this member that wait for their space: answered once rows below the revision are retired.
    waiters: VecDeque<(Revision, RequestId, Reply)>,
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
        let mut store = Store::new(reader);
        store.swept = tables.swept;
        store.revision = tables.applied.revision;
        store.floor = tables.floor;
        store.load()?;
        let configuration = tables.configuration.map(Arc::new);
        let attributes = Arc::new(tables.attributes);
        let view = Arc::new(View {
            store: store.clone(),
            applied: tables.applied.applied,
            configuration: configuration.clone().unwrap_or_default(),
            attributes: Arc::clone(&attributes),
            alarms: tables.alarms.iter().copied().collect(),
            chain: tables.applied.chain,
        });
        let swept = store.swept;
        let mut machine = Self {
            settings,
            applied: tables.applied.applied,
            chain: tables.applied.chain,
            configuration,
            attributes,
            alarms: tables.alarms,
            view,
            batch: WriteBatch::default(),
            dirty: false,
            flushed: tables.applied.applied,
            stale: None,
            next_commit: CommitNumber(1),
            unpersisted: VecDeque::new(),
            unpersisted_bytes: 0,
            persisted: store.revision,
            swept,
            // What an earlier life moved may not be synced, and what it moved from may still be there.
            moves: VecDeque::from([(CommitNumber(0), swept)]),
            sync_asked: false,
            retired: UNSWEPT,
            waiters: VecDeque::new(),
            failed: false,
            store,
        };
        if !tables.has_format {
            tables::write_format(&mut machine.batch);
        }
        machine.check_invariants();
        Ok(machine)
    }

    /// Tells a fresh machine the configuration its cluster starts with, which no log entry carries.
    pub fn bootstrap(&mut self, configuration: Configuration) {
        if self.configuration.is_none() {
            tables::write_configuration(&configuration, &mut self.batch);
            self.configuration = Some(Arc::new(configuration));
            self.dirty = true;
            self.view = Arc::new(self.snapshot());
        }
    }

    #[must_use]
    pub fn member(&self) -> MemberId {
        self.settings.member
    }

    /// Bytes of rows that were given to the host, or will be, and have not come back.
    #[must_use]
    pub fn unpersisted_bytes(&self) -> u64 {
        (self.unpersisted_bytes + self.batch.bytes) as u64
    }

    #[must_use]
    pub fn applied(&self) -> LogId {
        self.applied
    }

    /// The configuration stored with the applied index; `None` in a fresh store.
    #[must_use]
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_deref()
    }

    /// The state after everything flushed so far.
    #[must_use]
    pub fn view(&self) -> Arc<View<R>> {
        Arc::clone(&self.view)
    }

    /// Whether `Slice` has work to do.
    #[must_use]
    pub fn has_background_work(&self) -> bool {
        !self.failed && self.swept < self.sweep_end()
    }

    /// Whether so much is unpersisted that the host should not apply more until `Persisted` comes.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.unpersisted_bytes + self.batch.bytes > self.settings.limits.unpersisted_bytes
    }

    pub fn step(&mut self, input: MachineInput<R>, out: &mut Vec<MachineEffect<R>>) {
        if self.failed {
            return;
        }
        match input {
            MachineInput::Apply(entries) => {
                for entry in entries.iter() {
                    if let Err(reason) = self.apply(entry, out) {
                        self.fail(reason, out);
                        return;
                    }
                }
            }
            MachineInput::Persisted(number, reader) => self.on_persisted(number, reader, out),
            MachineInput::Synced(number) => self.on_synced(number, out),
            MachineInput::Slice => self.slice(out),
        }
        self.check_invariants();
    }

    /// Publishes and commits what was stepped since the last flush.
    pub fn flush(&mut self, out: &mut Vec<MachineEffect<R>>) {
        if self.failed {
            return;
        }
        self.stale = None;
        if self.dirty {
            self.view = Arc::new(self.snapshot());
            out.push(MachineEffect::Publish(self.view()));
            self.dirty = false;
        }
        let advanced = self.applied != self.flushed;
        if advanced || !self.batch.rows.is_empty() {
            self.commit(out);
        }
        if advanced {
            self.flushed = self.applied;
            out.push(MachineEffect::Applied(self.applied.index));
        }
        self.check_invariants();
    }

    fn snapshot(&self) -> View<R> {
        View {
            store: self.store.clone(),
            applied: self.applied,
            configuration: self.configuration.clone().unwrap_or_default(),
            attributes: Arc::clone(&self.attributes),
            alarms: self.alarms.iter().copied().collect(),
            chain: self.chain,
        }
    }

    fn commit(&mut self, out: &mut Vec<MachineEffect<R>>) {
        let mut batch = core::mem::take(&mut self.batch);
        let applied = tables::Applied { applied: self.applied, revision: self.store.revision, chain: self.chain };
        if planted(Mutant::W7) {
            let mut apart = WriteBatch::default();
            applied.write(&mut apart);
            self.emit_commit(apart, out);
        } else {
            applied.write(&mut batch);
        }
        self.emit_commit(batch, out);
    }

    fn emit_commit(&mut self, batch: WriteBatch, out: &mut Vec<MachineEffect<R>>) {
        let number = self.next_commit;
        self.next_commit = number.next();
        if self.moves.back().is_none_or(|(_, swept)| *swept < self.swept) {
            self.moves.push_back((number, self.swept));
            if planted(Mutant::T1) {
                out.push(MachineEffect::Retire { table: Table::Recent, below: after(self.swept) });
            }
        }
        self.unpersisted_bytes += batch.bytes;
        self.unpersisted.push_back(Unpersisted { number, bytes: batch.bytes, revision: self.store.revision, swept: self.swept });
        out.push(MachineEffect::Commit { number, batch, applied: self.applied });
    }

    fn on_persisted(&mut self, number: CommitNumber, reader: R, out: &mut Vec<MachineEffect<R>>) {
        while let Some(batch) = self.unpersisted.pop_front_if(|batch| batch.number <= number) {
            self.unpersisted_bytes -= batch.bytes;
            self.persisted = batch.revision;
            self.store.swept = batch.swept;
        }
        self.store.reader = reader;
        self.store.evict(self.settings.limits.recent_bytes, self.persisted);
        self.dirty = true;
        let all_moved = self.swept >= self.floor_end() && self.store.swept == self.swept;
        if all_moved && self.retired < self.swept && !self.sync_asked {
            self.sync_asked = true;
            out.push(MachineEffect::SyncState);
        }
    }

    fn on_synced(&mut self, number: CommitNumber, out: &mut Vec<MachineEffect<R>>) {
        let mut below = None;
        while let Some((_, swept)) = self.moves.pop_front_if(|(commit, _)| *commit <= number) {
            below = Some(swept);
        }
        if let Some(swept) = below.filter(|swept| *swept > self.retired) {
            self.retired = swept;
            out.push(MachineEffect::Retire { table: Table::Recent, below: after(swept) });
        }
        self.sync_asked = self.sync_asked && self.retired < self.swept && below.is_none();
        while let Some((_, request, reply)) = self.waiters.pop_front_if(|(floor, ..)| self.retired.main.next() >= *floor) {
            out.push(MachineEffect::Reply(request, Ok(reply)));
        }
    }

    fn slice(&mut self, out: &mut Vec<MachineEffect<R>>) {
        let end = self.sweep_end();
        if self.swept >= end {
            return;
        }
        let limit = self.settings.limits.slice_rows.max(1);
        match sweep(&mut self.store, self.swept, end.main, limit, &mut self.batch) {
            Ok(swept) => {
                self.swept = swept;
                tables::write_swept(swept, &mut self.batch);
                self.dirty = true;
                self.sync_asked = false;
            }
            Err(failed) => self.fail(format!("{failed}"), out),
        }
    }

    /// Where the sweep stops for good: before the floor.
    fn floor_end(&self) -> RevisionId {
        RevisionId { main: Revision(self.store.floor.0 - 1), sub: u32::MAX }
    }

    /// Where it stops for now: only what is persisted is swept.
    fn sweep_end(&self) -> RevisionId {
        let persisted = RevisionId { main: self.persisted, sub: u32::MAX };
        self.floor_end().min(persisted)
    }

    fn fail(&mut self, reason: String, out: &mut Vec<MachineEffect<R>>) {
        self.failed = true;
        out.push(MachineEffect::Fatal(reason));
    }

    fn apply(&mut self, entry: &Entry, out: &mut Vec<MachineEffect<R>>) -> Result<(), String> {
        if entry.id.index <= self.applied.index {
            return Ok(());
        }
        if entry.id.index != self.applied.index.next() {
            return Err(format!("entry {} follows {}", entry.id, self.applied));
        }
        let answer = self.apply_payload(entry)?;
        self.applied = entry.id;
        self.chain.word(entry.id.index.0);
        self.dirty = true;
        match answer {
            None => {}
            Some((request, Ok(reply), Some(floor))) if self.retired.main.next() < floor && self.waiters.len() < PHYSICAL_WAITERS_MAX => {
                self.waiters.push_back((floor, request, reply));
            }
            Some((request, answer, _)) => out.push(MachineEffect::Reply(request, answer)),
        }
        Ok(())
    }

    fn check_invariants(&self) {
        let floor = self.store.floor;
        assert!(self.swept.main < floor || self.swept == UNSWEPT, "swept {} with the floor at {floor}", self.swept);
        assert!(self.store.swept <= self.swept, "the reader is swept to {}, the machine to {}", self.store.swept, self.swept);
        assert!(self.retired <= self.swept, "retired {} but swept only {}", self.retired, self.swept);
        assert!(self.persisted <= self.store.revision, "persisted {} of {}", self.persisted, self.store.revision);
        assert!(floor <= self.store.revision, "floor {floor} above the newest revision {}", self.store.revision);
    }
}

/// An answer, and for a physical compaction the floor below which rows must be gone first. Only for requests of this life.
type Answer = Option<(RequestId, Result<Reply, Refusal>, Option<Revision>)>;
