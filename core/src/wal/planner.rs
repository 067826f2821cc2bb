//! The writing side: records in, operations out. Planning cannot fail; what can is the disk, and that ends this life of the member.

use super::log::{Segment, SegmentedLog};
use super::record::{Incarnation, LogPosition, encode, preamble};
use super::{Identity, Location, Record, Recovered, SegmentHeader, WalSettings};
use crate::entry::Entry;
use crate::storage::WalOp;
use crate::types::{Boot, LogId, LogIndex, MemberId, SegmentId, StateNumber, Term, WriteNumber};
use alloc::{collections::VecDeque, vec::Vec};
use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// Segments that one write retires at most; each costs a directory sync.
const RETIRED_PER_WRITE: usize = 8;
/// Expected bytes of a write: the buffer's first allocation.
const WRITE_BYTES: usize = 4 << 10;

/// Turns records into operations, numbers the writes, knows what is durable.
///
/// Writes are carried out in order, each whole before the next. So a segment's first write may vouch for all earlier segments:
/// their sync stands before it in the same write or in an earlier one.
///
/// The directory holds segments without a gap between their ids: those of the log, then spares that await their turn. The oldest
/// goes first, each change durable before the next.
#[derive(Debug)]
pub struct Planner {
    settings: WalSettings,
    seeds: ChaCha8Rng,
    identity: Identity,
    state: HardState,
    log: SegmentedLog,
    /// The segment being written.
    incarnation: Incarnation,
    /// The write in the making: operations that are complete, then bytes that start at `start` in the current segment.
    ops: Vec<WalOp>,
    start: u64,
    buffer: Vec<u8>,
    /// Capacities of the files with the ids after the current segment.
    spares: VecDeque<u64>,
    prepared: SegmentId,
    sealed: WriteNumber,
    /// Where each write ends that is not yet durable. Bounded by who pipelines the writes.
    in_flight: VecDeque<(WriteNumber, LogPosition)>,
    durable: LogPosition,
    /// What the next record may call synced.
    synced_through: LogPosition,
    /// Where the newest record ends that means anything, and the newest mark that a record carries.
    significant: LogPosition,
    recorded: LogPosition,
    released: LogIndex,
}

/// What a segment header repeats, as of the last record appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct HardState {
    pub boot: Boot,
    pub term: Term,
    pub vote: Option<MemberId>,
    pub commit: LogIndex,
    pub state: StateNumber,
}

/// Where recovery says that writing goes on.
#[derive(Debug)]
pub(super) enum Resume {
    /// In the newest segment, right behind its last record.
    Behind(Incarnation),
    /// In a fresh segment after `newest`: what lies at these positions and behind them is void.
    Fresh { newest: SegmentId, torn_tails: Vec<LogPosition> },
}

/// What recovery hands over.
#[derive(Debug)]
pub(super) struct InitialState {
    pub settings: WalSettings,
    pub seed: [u8; 32],
    pub identity: Identity,
    /// `boot` is the one that ended.
    pub state: HardState,
    pub log: SegmentedLog,
    /// Where the last record ends.
    pub end: LogPosition,
    pub resume: Resume,
    pub spares: VecDeque<u64>,
}

impl Planner {
    /// A log that does not exist yet. `entries` are the bootstrap configuration's, at term 1 from index 1 on; they become
    /// durable with the first sealed write, and so does boot 1. They are committed: every founding member starts with the same.
    #[must_use]
    pub fn bootstrap(identity: Identity, entries: Vec<Entry>, settings: WalSettings, seed: [u8; 32]) -> Recovered {
        let mut planner = Self::new(InitialState {
            settings,
            seed,
            identity: identity.clone(),
            state: HardState::default(),
            log: SegmentedLog::new(LogId::default()),
            end: LogPosition::default(),
            resume: Resume::Fresh { newest: SegmentId(0), torn_tails: Vec::new() },
            spares: VecDeque::new(),
        });
        planner.begin_segment(0);
        let commit = entries.last().map_or(LogIndex(0), |entry| entry.id.index);
        planner.append(&Record::Ballot { term: super::BOOTSTRAP_TERM, vote: None });
        for entry in &entries {
            planner.append(&Record::Entry(entry.clone()));
        }
        planner.append(&Record::Commit(commit));
        // Last: a log without a boot never was durable as a whole, and its member never said a word.
        planner.append(&Record::Boot(Boot(1)));
        Recovered {
            identity,
            boot: Boot(1),
            term: super::BOOTSTRAP_TERM,
            vote: None,
            commit,
            state: StateNumber::default(),
            base: LogId::default(),
            before: LogId::default(),
            entries,
            torn_tail: None,
            planner,
        }
    }

    /// Goes on after a recovery: the write in the making holds the torn tails, if any, and the boot.
    pub(super) fn resume(initial: InitialState) -> Self {
        let boot = initial.state.boot.next();
        let end = initial.end;
        let torn_tails = match &initial.resume {
            Resume::Behind(_) => None,
            Resume::Fresh { torn_tails, .. } => Some(torn_tails.clone()),
        };
        let mut planner = Self::new(initial);
        // What was read may be in the page cache only, and so may the names of the files.
        planner.ops.push(WalOp::SyncDirectory);
        planner.ops.push(WalOp::Sync { segment: end.segment });
        planner.synced_through = end;
        if let Some(torn_tails) = torn_tails {
            planner.begin_segment(0);
            for position in torn_tails {
                planner.append(&Record::TornTail { segment: position.segment, offset: position.offset });
            }
        }
        planner.append(&Record::Boot(boot));
        planner
    }

    fn new(initial: InitialState) -> Self {
        let InitialState { settings, seed, identity, state, log, end, resume, spares } = initial;
        assert!(settings.segment_bytes <= u64::from(u32::MAX), "segments of {} bytes: 4 GiB is the limit", settings.segment_bytes);
        let (incarnation, start) = match resume {
            Resume::Behind(incarnation) => (incarnation, end.offset),
            Resume::Fresh { newest, .. } => (Incarnation { segment: newest, seed: 0 }, 0),
        };
        Self {
            settings,
            seeds: ChaCha8Rng::from_seed(seed),
            identity,
            state,
            log,
            incarnation,
            ops: Vec::new(),
            start,
            buffer: Vec::new(),
            spares,
            prepared: SegmentId(0),
            sealed: WriteNumber(0),
            in_flight: VecDeque::new(),
            durable: LogPosition::default(),
            synced_through: LogPosition::default(),
            significant: end,
            recorded: LogPosition::default(),
            released: LogIndex(0),
        }
    }

    /// Adds a record to the write in the making. Segment headers and torn tails are the planner's own affair, boots recovery's.
    ///
    /// # Panics
    /// On an entry that does not follow the last one.
    pub fn append(&mut self, record: &Record) {
        let offset = self.offset();
        let at = self.buffer.len();
        encode(record, self.incarnation, self.synced_through, &mut self.buffer);
        let taken = (self.buffer.len() - at) as u64;
        let capacity = self.log.segments.back().map_or(0, |segment| segment.length);
        if offset + taken > capacity {
            self.buffer.truncate(at);
            self.begin_segment(taken);
            return self.append(record);
        }
        self.recorded = self.recorded.max(self.synced_through);
        self.note(record, offset, offset + taken);
    }

    /// Voids the whole log: it goes on behind `last`, in a segment of its own, so that all segments before may go at once.
    pub fn install(&mut self, last: LogId, state: StateNumber) {
        assert!(state > self.state.state, "state {state} after state {}", self.state.state);
        self.append(&Record::Install { last, state });
        self.begin_segment(0);
    }

    /// The mark of the last sync, if no record carries it yet: call it at the pace of heartbeats.
    pub fn idle(&mut self) {
        if self.recorded < self.significant && self.significant <= self.durable && self.buffer.is_empty() {
            self.append(&Record::Idle);
        }
    }

    /// Ends the write in the making: its number and operations, the last of which is a sync. `None` if nothing was appended.
    /// In the usual case it is one `WriteAt` and one `Sync`.
    pub fn seal(&mut self) -> Option<(WriteNumber, Vec<WalOp>)> {
        if self.buffer.is_empty() {
            return None;
        }
        self.close_buffer();
        self.retire();
        self.sealed = self.sealed.next();
        self.in_flight.push_back((self.sealed, LogPosition { segment: self.incarnation.segment, offset: self.start }));
        self.check_invariants();
        Some((self.sealed, core::mem::take(&mut self.ops)))
    }

    /// The segment that should be made ready in the background, once each.
    pub fn prepare(&mut self) -> Option<(SegmentId, u64)> {
        let next = self.incarnation.segment.next();
        if !self.spares.is_empty() || self.prepared >= next {
            return None;
        }
        self.prepared = next;
        Some((next, self.settings.segment_bytes))
    }

    /// That write, and all before it, are on stable storage.
    ///
    /// # Panics
    /// On a write that was never sealed: whoever waits for the disk would be told a lie.
    pub fn durable(&mut self, number: WriteNumber) {
        assert!(number <= self.sealed, "write {number} is durable, but only {} were sealed", self.sealed);
        while let Some((_, end)) = self.in_flight.pop_front_if(|(write, _)| *write <= number) {
            self.durable = end;
            self.synced_through = self.synced_through.max(end);
        }
    }

    /// Entries through `through` are no longer needed: segments that hold nothing else are recycled or removed, in the next
    /// sealed write.
    pub fn release(&mut self, through: LogIndex) {
        self.released = self.released.max(through);
    }

    /// Bytes of the segments that would go if entries through `through` were no longer needed.
    #[must_use]
    pub fn releasable_bytes(&self, through: LogIndex) -> u64 {
        self.log.segments.iter().take(self.log.releasable(through)).map(|segment| segment.length).sum()
    }

    /// Through where entries would have to go, so that of the segments needed for nothing beyond `through` at most `bytes` are left.
    #[must_use]
    pub fn surplus(&self, through: LogIndex, bytes: u64) -> LogIndex {
        self.log.surplus(through, bytes)
    }

    /// First index still in segments.
    #[must_use]
    pub fn first(&self) -> LogIndex {
        self.log.base().index.next()
    }

    /// The last entry appended.
    #[must_use]
    pub fn end(&self) -> LogId {
        self.log.end()
    }

    /// The term of an entry that is still in segments, or of the one before the first, without reading it.
    #[must_use]
    pub fn term(&self, index: LogIndex) -> Option<Term> {
        self.log.term(index)
    }

    /// Where to read entries from `index` on, at most about `bytes`, but one entry at least. `None` if they were released, are not
    /// yet durable, or do not exist.
    #[must_use]
    pub fn locate(&self, index: LogIndex, bytes: u32) -> Option<Location> {
        self.log.locate(index, bytes, self.durable)
    }

    fn offset(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }

    fn note(&mut self, record: &Record, start: u64, end: u64) {
        match record {
            Record::Boot(boot) => self.state.boot = *boot,
            Record::Ballot { term, vote } => (self.state.term, self.state.vote) = (*term, *vote),
            Record::Commit(index) => self.state.commit = self.state.commit.max(*index),
            Record::Entry(entry) => self.log.push(entry.id, start, end),
            Record::Truncate { from } => self.log.truncate(*from),
            Record::Install { last, state } => {
                self.log.reset(*last);
                (self.state.state, self.state.commit) = (*state, self.state.commit.max(last.index));
            }
            Record::SegmentHeader(_) | Record::TornTail { .. } | Record::State(_) => {}
            Record::Idle => return,
        }
        self.significant = LogPosition { segment: self.incarnation.segment, offset: end };
    }

    /// Goes to the next segment, which has room for a record of `record` bytes behind its header: the next spare, or a new file,
    /// of more than the usual length if it must be.
    fn begin_segment(&mut self, record: u64) {
        if !self.buffer.is_empty() {
            self.close_buffer();
        }
        let end = LogPosition { segment: self.incarnation.segment, offset: self.start };
        if end.offset > 0 {
            // Whatever stands in the old segment is synced before the new one is written: by this write or by those before.
            self.synced_through = end;
        }
        self.incarnation = Incarnation { segment: self.incarnation.segment.next(), seed: self.seeds.next_u64() };
        let header = Record::SegmentHeader(SegmentHeader {
            identity: self.identity.clone(),
            boot: self.state.boot,
            term: self.state.term,
            vote: self.state.vote,
            end: self.log.end(),
            commit: self.state.commit,
        });
        self.start = 0;
        self.buffer = preamble(self.incarnation);
        encode(&header, self.incarnation, self.synced_through, &mut self.buffer);
        if self.state.state != StateNumber::default() {
            encode(&Record::State(self.state.state), self.incarnation, self.synced_through, &mut self.buffer);
        }
        let needed = self.offset() + record;
        let length = match self.spares.pop_front() {
            Some(capacity) if capacity >= needed => capacity,
            _ => {
                let length = self.settings.segment_bytes.max(needed.next_multiple_of(4 << 10));
                self.ops.push(WalOp::Create { segment: self.incarnation.segment, length });
                self.ops.push(WalOp::SyncDirectory);
                length
            }
        };
        self.recorded = self.recorded.max(self.synced_through);
        self.significant = LogPosition { segment: self.incarnation.segment, offset: self.offset() };
        self.log.segments.push_back(Segment::new(self.incarnation.segment, length, Some(self.log.end())));
    }

    fn close_buffer(&mut self) {
        let segment = self.incarnation.segment;
        let bytes = core::mem::replace(&mut self.buffer, Vec::with_capacity(WRITE_BYTES));
        let offset = self.start;
        self.start += bytes.len() as u64;
        self.ops.push(WalOp::WriteAt { segment, offset, bytes: Bytes::from(bytes) });
        self.ops.push(WalOp::Sync { segment });
    }

    /// Stands behind the syncs of the write: the header that replaces what goes must be durable first.
    fn retire(&mut self) {
        for _ in 0..self.log.releasable(self.released).min(RETIRED_PER_WRITE) {
            let Some(old) = self.log.pop() else { break };
            if self.spares.len() < self.settings.spare_segments && old.length == self.settings.segment_bytes {
                self.spares.push_back(old.length);
                let to = SegmentId(self.incarnation.segment.0 + self.spares.len() as u64);
                self.ops.push(WalOp::Recycle { from: old.id, to });
            } else {
                self.ops.push(WalOp::Remove { segment: old.id });
            }
            self.ops.push(WalOp::SyncDirectory);
        }
    }

    fn check_invariants(&self) {
        assert!(self.durable <= self.synced_through, "durable to {:?} but synced to {:?}", self.durable, self.synced_through);
        assert!(self.recorded <= self.synced_through, "recorded {:?} but synced to {:?}", self.recorded, self.synced_through);
        let capacity = self.log.segments.back().map_or(0, |segment| segment.length);
        assert!(self.start <= capacity, "{} bytes in {} of {capacity}", self.start, self.incarnation.segment);
    }
}
