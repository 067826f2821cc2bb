//! The write-ahead log's format and decisions: bytes in, operations out. Nothing here touches a disk.

use crate::consensus::{Configuration, Entry};
use crate::storage::WalOp;
use crate::types::{Boot, ClusterId, LogId, LogIndex, MemberId, SegmentId, Term, WriteNumber};
use alloc::{string::String, vec::Vec};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What the log records. Append-only: variant numbers are on disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Record {
    /// First in every segment: whose log this is, and everything that earlier segments said and still holds.
    Head(Head),
    /// The data directory was opened for the n-th time.
    Boot(Boot),
    /// Term and vote (Raft Figure 2, persistent state).
    Ballot {
        term: Term,
        vote: Option<MemberId>,
    },
    Entry(Entry),
    /// The log ends before `from`: a leader overruled what followed. Never an overwrite.
    Truncate {
        from: LogIndex,
    },
    /// Entries through here are known committed. A hint: losing it loses nothing.
    Commit(LogIndex),
    /// A torn tail was cut at open; what the named place and everything behind it held is void.
    Cut {
        segment: SegmentId,
        offset: u64,
    },
    /// Nothing happened; carries the mark of the last sync.
    Idle,
}

/// The identity of a log and its hard state at the start of a segment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    pub identity: Identity,
    pub boot: Boot,
    pub term: Term,
    pub vote: Option<MemberId>,
    /// The last entry before this segment.
    pub end: LogId,
    pub commit: LogIndex,
}

/// Who owns a data directory; never changes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    pub cluster: ClusterId,
    pub member: MemberId,
}

/// What recovery found: the state to start [`crate::consensus::Consensus`] from.
#[derive(Debug)]
pub struct Recovered {
    pub identity: Identity,
    /// The boot now begun; its record is the first thing the planner will write.
    pub boot: Boot,
    pub term: Term,
    pub vote: Option<MemberId>,
    pub commit: LogIndex,
    /// The entry before the first one held in segments.
    pub base: LogId,
    /// Entries above what the caller said is applied, in memory; those below stay on disk and can be located.
    pub entries: Vec<Entry>,
    /// What a torn tail lost, for the log line; `None` after a clean end.
    pub cut: Option<String>,
    pub planner: Planner,
}

/// Where an entry's records lie, for `ReadLog`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    pub segment: SegmentId,
    pub offset: u64,
    pub length: u32,
}

/// Why a WAL does not open. Each names the file and the offset and says what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WalDamage {
    /// Durable data is damaged: below the synced mark nothing may be missing.
    Corrupt { segment: SegmentId, offset: u64, what: String },
    /// A segment between others is missing.
    Missing { segment: SegmentId },
    /// Written by a newer release.
    Newer { segment: SegmentId, version: u8 },
    /// Not a segment of ours.
    Foreign { segment: SegmentId },
}

/// How segments are laid out.
#[derive(Clone, Copy, Debug)]
pub struct WalSettings {
    pub segment_bytes: u64,
    /// Retired segments kept for recycling.
    pub spare_segments: usize,
}

/// The writing side: turns records into operations, numbers the writes, knows what is durable.
#[derive(Debug)]
pub struct Planner {}

impl Planner {
    /// A log that does not exist yet. `entries` are the bootstrap configuration's, at term 1 from index 1 on; they become
    /// durable with the first sealed write, and so does boot 1.
    #[must_use]
    pub fn bootstrap(_identity: Identity, _entries: Vec<Entry>, _settings: WalSettings, _seed: [u8; 32]) -> Recovered {
        todo!()
    }

    /// Adds a record to the write in the making.
    pub fn append(&mut self, _record: &Record) {
        todo!()
    }

    /// Ends the write in the making: its number and operations, the last of which is a sync. `None` if nothing was appended.
    pub fn seal(&mut self) -> Option<(WriteNumber, Vec<WalOp>)> {
        todo!()
    }

    /// The segment that should be made ready in the background, once each.
    pub fn prepare(&mut self) -> Option<(SegmentId, u64)> {
        todo!()
    }

    /// That write, and all before it, are on stable storage.
    pub fn durable(&mut self, _number: WriteNumber) {
        todo!()
    }

    /// Entries through `through` are no longer needed: segments that hold nothing else are recycled or removed, in the next
    /// sealed write.
    pub fn release(&mut self, _through: LogIndex) {
        todo!()
    }

    /// First index still in segments.
    #[must_use]
    pub fn first(&self) -> LogIndex {
        todo!()
    }

    /// Where to read entries from `index` on, at most about `bytes`. `None` if they were released.
    #[must_use]
    pub fn locate(&self, _index: LogIndex, _bytes: u32) -> Option<Location> {
        todo!()
    }
}

/// The entries in a stretch of a segment that `locate` named; a last one that is cut short is left out.
pub fn read_entries(_location: Location, _bytes: &Bytes) -> Result<Vec<Entry>, WalDamage> {
    todo!()
}

/// The reading side: segments fed in order of their ids.
#[derive(Debug)]
pub struct Recovery {}

impl Recovery {
    /// `applied` is what the state store has: entries at or below it are not kept in memory.
    #[must_use]
    pub fn new(_applied: LogIndex, _settings: WalSettings, _seed: [u8; 32]) -> Self {
        todo!()
    }

    /// Reads one segment whole.
    pub fn segment(&mut self, _segment: SegmentId, _bytes: &Bytes) -> Result<(), WalDamage> {
        todo!()
    }

    /// Decides about the tail.
    pub fn finish(self) -> Result<Recovered, WalDamage> {
        todo!()
    }
}

/// The bootstrap entries of a new cluster: as in etcd one configuration entry per member, at term 1, each adding one.
#[must_use]
pub fn bootstrap_entries(_members: &[(MemberId, Vec<String>)]) -> (Vec<Entry>, Configuration) {
    todo!()
}
