//! Records as bytes. A segment is two copies of its preamble, in different blocks of the disk, then records on 8-byte boundaries,
//! then what the file held before: zeros or a recycled segment's past.
//!
//! ```text
//! preamble   magic [8]  version u8  zero [7]  segment u64  seed u64  crc32c u32  zeros
//! header     header crc32c u32  body crc32c u32  length u32  version u8  zero [3]
//!            segment u64  seed u64  synced_through: segment u64, offset u64
//! body       postcard of a `Record`, then zeros to the next boundary; the body's checksum covers them
//! ```
//! Little-endian throughout. A header verifies without its body, so that it can tell what was synced even where the body is torn.
//! Both checksums start from the segment's seed, which no client can know: no value that a client stores passes for a header.

use super::{Record, WalDamage};
use crate::types::SegmentId;
use alloc::{format, string::String, vec::Vec};
use crc32c::crc32c_append;

/// The newest format this release reads, and the one it writes.
pub const WAL_VERSION: u8 = 1;

/// The unit that a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;
/// The unit that a disk or file system loses.
const BLOCK: usize = 4 << 10;
/// Where the first record of a segment starts.
pub(super) const RECORDS_START: usize = BLOCK + SECTOR;
pub(super) const HEADER: usize = 48;
const ALIGNMENT: usize = 8;
const MAGIC: [u8; 8] = *b"QUORWAL\n";
const PREAMBLE: usize = 36;

/// A position in the log. Segment ids only grow, so positions compare as they were written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct LogPosition {
    pub segment: SegmentId,
    pub offset: u64,
}

/// One life of a segment file. Every record carries it: those of other segments, or of the file's earlier lives, differ in one or the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Incarnation {
    pub segment: SegmentId,
    pub seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RecordHeader {
    pub incarnation: Incarnation,
    pub version: u8,
    /// Bytes of the body without padding.
    pub length: u32,
    /// Everything before it was durable when this record was written.
    pub synced_through: LogPosition,
    body_checksum: u32,
}

/// The name of a segment's file in the WAL's directory.
#[must_use]
pub fn segment_file_name(segment: SegmentId) -> String {
    format!("{:016x}.wal", segment.0)
}

/// Bytes that a body takes in the segment.
const fn padded(length: usize) -> usize {
    length.next_multiple_of(ALIGNMENT)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(core::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(core::array::from_fn(|i| bytes[at + i]))
}

#[expect(clippy::cast_possible_truncation, reason = "each half of the seed starts one checksum")]
const fn halves(seed: u64) -> (u32, u32) {
    (seed as u32, (seed >> 32) as u32)
}

/// The front of a segment, through where records start.
pub(super) fn preamble(incarnation: Incarnation) -> Vec<u8> {
    let mut front = Vec::with_capacity(RECORDS_START);
    front.extend_from_slice(&MAGIC);
    front.extend_from_slice(&[WAL_VERSION, 0, 0, 0, 0, 0, 0, 0]);
    front.extend_from_slice(&incarnation.segment.0.to_le_bytes());
    front.extend_from_slice(&incarnation.seed.to_le_bytes());
    let checksum = crc32c_append(0, &front);
    front.extend_from_slice(&checksum.to_le_bytes());
    front.resize(BLOCK, 0);
    front.extend_from_within(..SECTOR);
    front
}

/// What the front of a file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Preamble {
    /// Nothing of this segment was written here: zeros, or the past of a recycled file.
    Blank,
    Whole(Incarnation),
    /// One copy is whole, but at `damage` the front is not as it was written.
    Damaged {
        incarnation: Incarnation,
        damage: u64,
    },
    /// In a format of a newer release.
    Newer(u8),
    /// Neither copy is ours or blank.
    Foreign,
}

pub(super) fn read_preamble(segment: SegmentId, bytes: &[u8]) -> Preamble {
    let copies = [read_copy(segment, bytes, 0), read_copy(segment, bytes, BLOCK)];
    let own = |copy: &PreambleCopy| match copy {
        PreambleCopy::Own(incarnation, version) => Some((*incarnation, *version)),
        _ => None,
    };
    match copies.iter().find_map(own) {
        Some((_, version)) if version > WAL_VERSION => Preamble::Newer(version),
        Some((incarnation, _)) => {
            let expected = preamble(incarnation);
            let same = expected.iter().zip(bytes).take_while(|(expected, found)| expected == found).count();
            if same == RECORDS_START { Preamble::Whole(incarnation) } else { Preamble::Damaged { incarnation, damage: same as u64 } }
        }
        None if copies.iter().all(|copy| matches!(copy, PreambleCopy::Foreign)) => Preamble::Foreign,
        None => Preamble::Blank,
    }
}

enum PreambleCopy {
    Own(Incarnation, u8),
    /// Zeros, of an earlier life of the file, or damaged.
    Blank,
    Foreign,
}

fn read_copy(segment: SegmentId, bytes: &[u8], at: usize) -> PreambleCopy {
    let Some(copy) = bytes.get(at..at + PREAMBLE) else { return PreambleCopy::Blank };
    if copy.iter().all(|byte| *byte == 0) {
        return PreambleCopy::Blank;
    }
    if !copy.starts_with(&MAGIC) {
        return PreambleCopy::Foreign;
    }
    let incarnation = Incarnation { segment: SegmentId(u64_at(copy, 16)), seed: u64_at(copy, 24) };
    let whole = crc32c_append(0, &copy[..PREAMBLE - 4]) == u32_at(copy, PREAMBLE - 4);
    if whole && incarnation.segment == segment { PreambleCopy::Own(incarnation, copy[8]) } else { PreambleCopy::Blank }
}

/// Appends one record to `out`, which stands at a record boundary.
pub(super) fn encode(record: &Record, incarnation: Incarnation, synced_through: LogPosition, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + HEADER, 0);
    *out = postcard::to_extend(record, core::mem::take(out)).expect("serialising to memory");
    let length = out.len() - start - HEADER;
    out.resize(start + HEADER + padded(length), 0);
    let length = u32::try_from(length).expect("a record of 4 GiB");
    let (header_seed, body_seed) = halves(incarnation.seed);
    let body_checksum = crc32c_append(body_seed, &out[start + HEADER..]);
    let header = &mut out[start..start + HEADER];
    header[4..8].copy_from_slice(&body_checksum.to_le_bytes());
    header[8..12].copy_from_slice(&length.to_le_bytes());
    header[12] = WAL_VERSION;
    header[16..24].copy_from_slice(&incarnation.segment.0.to_le_bytes());
    header[24..32].copy_from_slice(&incarnation.seed.to_le_bytes());
    header[32..40].copy_from_slice(&synced_through.segment.0.to_le_bytes());
    header[40..48].copy_from_slice(&synced_through.offset.to_le_bytes());
    let checksum = crc32c_append(header_seed, &header[4..]);
    header[..4].copy_from_slice(&checksum.to_le_bytes());
}

/// The header at the front of `bytes`, if its checksum holds.
pub(super) fn read_header(bytes: &[u8]) -> Option<RecordHeader> {
    let bytes = bytes.get(..HEADER)?;
    let incarnation = Incarnation { segment: SegmentId(u64_at(bytes, 16)), seed: u64_at(bytes, 24) };
    (crc32c_append(halves(incarnation.seed).0, &bytes[4..]) == u32_at(bytes, 0)).then(|| RecordHeader {
        incarnation,
        version: bytes[12],
        length: u32_at(bytes, 8),
        synced_through: LogPosition { segment: SegmentId(u64_at(bytes, 32)), offset: u64_at(bytes, 40) },
        body_checksum: u32_at(bytes, 4),
    })
}

/// A record, or why there is none at this position.
#[derive(Debug)]
pub(super) enum ReadRecord {
    Record {
        header: RecordHeader,
        record: Record,
        /// Bytes taken, header and padding included.
        taken: usize,
    },
    /// More bytes are needed.
    Short,
    /// No record of this incarnation is whole here.
    Nothing,
}

/// The record at the front of `bytes`. `offset` is for the error text.
pub(super) fn read(bytes: &[u8], segment: SegmentId, seed: Option<u64>, offset: u64) -> Result<ReadRecord, WalDamage> {
    if bytes.len() < HEADER {
        return Ok(ReadRecord::Short);
    }
    let Some(header) = read_header(bytes) else { return Ok(ReadRecord::Nothing) };
    if header.incarnation.segment != segment || seed.is_some_and(|seed| seed != header.incarnation.seed) {
        return Ok(ReadRecord::Nothing);
    }
    if header.version > WAL_VERSION {
        return Err(WalDamage::Newer { segment, offset, version: header.version });
    }
    let length = header.length as usize;
    let taken = HEADER + padded(length);
    let Some(body) = bytes.get(HEADER..taken) else { return Ok(ReadRecord::Short) };
    if crc32c_append(halves(header.incarnation.seed).1, body) != header.body_checksum {
        return Ok(ReadRecord::Nothing);
    }
    match postcard::take_from_bytes(&body[..length]) {
        Ok((record, [])) => Ok(ReadRecord::Record { header, record, taken }),
        _ => Err(WalDamage::Corrupt { segment, offset, what: "the checksum holds but the record does not decode".into() }),
    }
}

/// Looks for headers of `incarnation` anywhere from `from` on: the newest position that one of them calls synced, `None` if there is none.
pub(super) fn scan(bytes: &[u8], incarnation: Incarnation, from: u64) -> Option<LogPosition> {
    let from = usize::try_from(from).unwrap_or(usize::MAX).max(RECORDS_START);
    let mut wanted = [0; 16];
    wanted[..8].copy_from_slice(&incarnation.segment.0.to_le_bytes());
    wanted[8..].copy_from_slice(&incarnation.seed.to_le_bytes());
    let last = bytes.len().checked_sub(HEADER)?;
    (from..=last)
        .step_by(ALIGNMENT)
        .filter(|at| bytes[at + 16..at + 32] == wanted)
        .filter_map(|at| read_header(&bytes[at..]))
        .map(|header| header.synced_through)
        .max()
}

/// Whether there is a header of whatever segment that calls something synced: only what follows a first write does.
pub(super) fn holds_mark(bytes: &[u8]) -> bool {
    let Some(last) = bytes.len().checked_sub(HEADER) else { return false };
    (0..=last)
        .step_by(ALIGNMENT)
        .filter(|at| bytes[at + 12] != 0 && bytes[at + 13..at + 16] == [0; 3])
        .filter_map(|at| read_header(&bytes[at..]))
        .any(|header| header.synced_through > LogPosition::default())
}
