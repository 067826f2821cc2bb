//! A whole state on its way from one member to another: what a chunk is, and how it is read. Who sends is in [`outgoing`], who
//! receives in [`incoming`]; both belong to the state half, so that a transfer never waits for the log nor the log for it.

mod incoming;
mod outgoing;

pub(super) use incoming::{Incoming, Received};
pub(super) use outgoing::Outgoing;

use crate::consensus::{Chunk, Position, Snapshot, SnapshotId};
use crate::mvcc::store::{after, successor};
use crate::storage::{Direction, ReadFailed, StateReader, Table, recent_key};
use crate::types::{LogId, MemberId, RevisionId, StateNumber};
use alloc::{string::String, vec::Vec};
use bytes::Bytes;
use core::{ops::ControlFlow, time::Duration};
use serde::{Deserialize, Serialize};

/// The named bounds of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotLimits {
    /// Bytes of rows in one chunk, and one row more. One chunk is on its way to a member at a time.
    pub chunk_bytes: usize,
    /// Between the reads of two chunks for one member, at least: what is left of the sender's disk and network is for others.
    pub pause: Duration,
    /// What was said and not answered is said again after so long.
    pub retry: Duration,
    /// A sender lets go of its state when nobody asked for so long, a receiver forgets a sender that does not answer.
    pub idle: Duration,
    /// A sender lets go of its state after so long in any case: it keeps what was compacted meanwhile on its disk.
    pub longest: Duration,
}

impl Default for SnapshotLimits {
    fn default() -> Self {
        Self {
            chunk_bytes: 256 << 10,
            pause: Duration::from_millis(2),
            retry: Duration::from_millis(500),
            idle: Duration::from_secs(60),
            longest: Duration::from_secs(3_600),
        }
    }
}

/// For logs and metrics.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotNotice {
    /// A state is pinned for this member.
    Sending {
        to: MemberId,
        last: LogId,
    },
    SentChunk {
        to: MemberId,
        bytes: usize,
    },
    /// It has it, or needs it no more. `false`: it did not ask for too long.
    SendingEnded {
        to: MemberId,
        over: bool,
    },
    /// `resumed`: rows from an earlier life are not asked for again.
    Receiving {
        from: MemberId,
        last: LogId,
        resumed: bool,
    },
    ReceivedChunk {
        bytes: usize,
    },
    /// A chunk or the whole is not what was read at the other end: all of it is asked for again.
    ReceivedBad {
        from: MemberId,
        what: String,
    },
    /// It could not be stored; the next offer begins anew.
    NotStored {
        reason: String,
    },
    /// The log came this far by itself.
    NotNeeded {
        last: LogId,
    },
    Installed {
        last: LogId,
        state: StateNumber,
    },
}

/// A read of the pinned state, for a thread where nothing waits. [`Self::run`] makes the answer.
#[derive(Clone, Debug)]
pub struct ReadChunk<R: StateReader> {
    pub to: MemberId,
    pub snapshot: SnapshotId,
    reader: R,
    compacted_to: RevisionId,
    after: Option<Position>,
    bytes: usize,
}

/// The answer to a [`ReadChunk`].
#[derive(Clone, PartialEq, Debug)]
pub struct ChunkRead {
    pub to: MemberId,
    pub snapshot: SnapshotId,
    pub chunk: Result<Chunk, ReadFailed>,
}

impl<R: StateReader> ReadChunk<R> {
    #[must_use]
    pub fn run(self) -> ChunkRead {
        let rows = read_rows(&self.reader, self.compacted_to, self.after, self.bytes);
        ChunkRead { to: self.to, snapshot: self.snapshot, chunk: rows.map(|rows| rows.encode()) }
    }
}

/// What a chunk's body is the postcard of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rows {
    /// The place of the row before the first; `None`: there is none before.
    pub after: Option<Position>,
    /// Table, key, value.
    pub rows: Vec<(Table, Bytes, Bytes)>,
    /// There are no more.
    pub last: bool,
}

impl Rows {
    #[must_use]
    pub fn encode(&self) -> Chunk {
        let body: Bytes = postcard::to_extend(self, Vec::new()).expect("serialising to memory").into();
        let checksum = crc32c::crc32c(&body);
        Chunk { body, checksum }
    }

    /// # Errors
    /// It is not what was encoded.
    pub fn decode(chunk: &Chunk) -> Result<Self, &'static str> {
        if crc32c::crc32c(&chunk.body) != chunk.checksum {
            return Err("a chunk has a bad checksum");
        }
        postcard::from_bytes(&chunk.body).map_err(|_| "a chunk is malformed")
    }
}

const TABLES: [Table; 3] = [Table::Meta, Table::Recent, Table::Settled];
/// Behind every key of [`Table::Recent`].
const RECENT_END: [u8; 13] = [0xff; 13];

/// The rows after a place, until there are `bytes` of them. Rows of the recent generation that were compacted away are passed over,
/// whether or not they are still there.
fn read_rows<R: StateReader>(reader: &R, compacted_to: RevisionId, after_row: Option<Position>, bytes: usize) -> Result<Rows, ReadFailed> {
    let mut rows = Vec::new();
    let mut sum = 0;
    let from = after_row.as_ref().map_or(Table::Meta, |row| row.table);
    for table in TABLES.into_iter().filter(|table| *table >= from) {
        // A table more does not compile here: it has to be in `TABLES`, too.
        let (first, end): (Bytes, &[u8]) = match table {
            Table::Recent => (Bytes::copy_from_slice(&recent_key(after(compacted_to))), &RECENT_END),
            Table::Meta | Table::Settled => (Bytes::new(), &[]),
        };
        let start = after_row.as_ref().filter(|row| row.table == table).map_or(first, |row| successor(&row.key));
        reader.scan(table, &start, end, Direction::Forward, &mut |key, value| {
            sum += key.len() + value.len();
            rows.push((table, Bytes::copy_from_slice(key), value));
            if sum >= bytes { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if sum >= bytes {
            return Ok(Rows { after: after_row, rows, last: false });
        }
    }
    Ok(Rows { after: after_row, rows, last: true })
}

impl Snapshot {
    /// Whether a state that was received is the one that was offered.
    fn is_like(&self, received: Self) -> bool {
        *self == Self { id: self.id, bytes: self.bytes, ..received }
    }
}
