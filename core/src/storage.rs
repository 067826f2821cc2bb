//! What core asks of disks: operations on WAL segments, and a state store of ordered tables written behind.

#[cfg(feature = "memory-store")]
mod memory;
pub(crate) mod rows;

#[cfg(feature = "memory-store")]
pub use memory::{BAD_CHECKSUM, MemoryStore, READ_ERROR};

use crate::types::{RevisionId, SegmentId};
use alloc::vec::Vec;
use bytes::Bytes;
use core::{fmt, ops::ControlFlow};
use serde::{Deserialize, Serialize};

/// One operation on the WAL's directory, carried out in the order given. Core plans, the host and the simulated disk execute.
/// Any error is final: the host says `DiskFailed` and does nothing more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WalOp {
    /// Make a segment file of `length` zero bytes: it has its name only once they are on stable storage. It may already exist if an earlier life was cut short; then it is made anew.
    Create { segment: SegmentId, length: u64 },
    /// Rename a retired segment, content and all, to a new id. Its old records are told apart by segment id and checksum seed.
    Recycle { from: SegmentId, to: SegmentId },
    /// Write within the file's length.
    WriteAt { segment: SegmentId, offset: u64, bytes: Bytes },
    /// Return once everything written to the segment is on stable storage (`fdatasync`).
    Sync { segment: SegmentId },
    /// Return once creations, renames and removals so far are on stable storage.
    SyncDirectory,
    /// Delete a segment file.
    Remove { segment: SegmentId },
}

/// A table of the state store. Keys are order-preserving bytes. Append-only: the discriminants are on disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[repr(u8)]
pub enum Table {
    /// Applied index, compact revision and how far compaction has come, format version, identity, membership, alarms: few small rows. And
    /// one for each lease.
    Meta = 0,
    /// Key-value rows and tombstones by revision, append-only.
    Recent = 1,
    /// Key-value rows by user key, at most one version each: what survived a compaction.
    Settled = 2,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Forward,
    Backward,
}

/// One change of the state store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RowOp {
    Put { table: Table, key: Bytes, value: Bytes },
    Delete { table: Table, key: Bytes },
}

/// Rows that reach the state store together or not at all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WriteBatch {
    pub rows: Vec<RowOp>,
    /// Bytes of keys and values, for the bound on what is not yet persisted.
    pub bytes: usize,
}

impl WriteBatch {
    pub fn put(&mut self, table: Table, key: Bytes, value: Bytes) {
        self.bytes += key.len() + value.len();
        self.rows.push(RowOp::Put { table, key, value });
    }

    pub fn delete(&mut self, table: Table, key: Bytes) {
        self.bytes += key.len();
        self.rows.push(RowOp::Delete { table, key });
    }

    /// Takes in a later batch: the two become one atomic step.
    pub fn absorb(&mut self, later: Self) {
        self.bytes += later.bytes;
        self.rows.extend(later.rows);
    }
}

/// The state store could not be read; the member must stop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadFailed(pub alloc::string::String);

impl fmt::Display for ReadFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state store: {}", self.0)
    }
}

/// An immutable snapshot of the state store, taken when a batch had been persisted. Cheap to clone; reads block the caller.
pub trait StateReader: Clone + Send + Sync + 'static {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadFailed>;

    /// Visits rows with `start <= key < end` (`end` empty: to the table's end) in key order until told to stop.
    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), ReadFailed>;
}

/// A [`Table::Recent`] key: main and sub revision, big-endian, so that byte order is revision order.
#[must_use]
pub fn recent_key(id: RevisionId) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&id.main.0.to_be_bytes());
    key[8..].copy_from_slice(&id.sub.to_be_bytes());
    key
}

/// The inverse of [`recent_key`]; `None` if it is not 12 bytes long.
#[must_use]
pub fn parse_recent_key(key: &[u8]) -> Option<RevisionId> {
    let main = i64::from_be_bytes(key.get(..8)?.try_into().ok()?);
    let sub = u32::from_be_bytes(key.get(8..12)?.try_into().ok()?);
    (key.len() == 12).then_some(RevisionId { main: crate::types::Revision(main), sub })
}
