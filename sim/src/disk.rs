//! A member's WAL disk: executes the same operations as production, and forgets what was not synced when the power goes.
//!
//! What a crash leaves of a segment: what was durable, and of the sectors written since its last sync any subset, in any order. A
//! sector lands whole or not at all, or, where that is asked for, one of them lands as garbage. Garbage touches only the bytes that
//! were being written: disks do not harm their neighbours (SQLite calls that powersafe overwrite). Creations, renames and
//! removals since the last directory sync happen or do not, each for itself; one that builds on another lost one is lost too.

use bytes::Bytes;
use quorate_core::storage::WalOp;
use quorate_core::types::SegmentId;
use rand_core::RngCore;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

const SECTOR: usize = 512;
type Sector = [u8; SECTOR];
const ZEROS: Sector = [0; SECTOR];

/// Why an operation was not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskError {
    Full,
    SyncFailed,
    /// A plan that no disk could carry out: a bug in who planned.
    NoSuchSegment(SegmentId),
    BeyondEnd(SegmentId),
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "no space left on device"),
            Self::SyncFailed => write!(f, "input/output error"),
            Self::NoSuchSegment(segment) => write!(f, "segment {segment} does not exist"),
            Self::BeyondEnd(segment) => write!(f, "a write beyond the end of segment {segment}"),
        }
    }
}

impl std::error::Error for DiskError {}

/// Faults that happened, and how many of them could make a difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskCounters {
    pub crashes: u64,
    /// Crashes that lost or garbled at least one sector, or lost a change of the directory.
    pub crashes_that_mattered: u64,
    pub sectors_lost: u64,
    pub sectors_garbled: u64,
    pub names_lost: u64,
    pub failed_writes: u64,
    pub failed_syncs: u64,
    pub bits_rotten: u64,
}

/// Which file, whatever its name is at the moment.
type FileId = u64;

#[derive(Clone, Debug, Default)]
struct File {
    length: u64,
    /// Sectors that are not all zeros.
    durable: BTreeMap<u64, Sector>,
    /// Written since the last sync: the sector as it would be, and the bytes of it that were written.
    volatile: BTreeMap<u64, (Sector, Range<usize>)>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create { segment: SegmentId, file: FileId },
    Rename { from: SegmentId, to: SegmentId },
    Remove { segment: SegmentId },
}

/// The WAL directory of one member.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    files: BTreeMap<FileId, File>,
    next_file: FileId,
    names: BTreeMap<SegmentId, FileId>,
    durable_names: BTreeMap<SegmentId, FileId>,
    pending: Vec<NameChange>,
    /// Every create and write fails while it is set.
    pub full: bool,
    /// Every sync fails while it is set.
    pub failing_sync: bool,
    /// A crash may leave one sector as garbage.
    pub garbage: bool,
    pub counters: DiskCounters,
}

fn rename(names: &mut BTreeMap<SegmentId, FileId>, change: &NameChange) -> bool {
    match change {
        NameChange::Create { segment, file } => {
            names.insert(*segment, *file);
            true
        }
        NameChange::Rename { from, to } => names.remove(from).map(|file| names.insert(*to, file)).is_some(),
        NameChange::Remove { segment } => names.remove(segment).is_some(),
    }
}

impl SimDisk {
    /// Carries out one operation.
    ///
    /// # Errors
    /// The faults that are switched on, and plans that make no sense.
    pub fn apply(&mut self, op: &WalOp) -> Result<(), DiskError> {
        match op {
            WalOp::Create { .. } | WalOp::WriteAt { .. } if self.full => {
                self.counters.failed_writes += 1;
                return Err(DiskError::Full);
            }
            WalOp::Sync { .. } | WalOp::SyncDirectory if self.failing_sync => {
                self.counters.failed_syncs += 1;
                return Err(DiskError::SyncFailed);
            }
            _ => {}
        }
        match op {
            WalOp::Create { segment, length } => {
                let file = self.next_file;
                self.next_file += 1;
                self.files.insert(file, File { length: *length, ..File::default() });
                self.change(NameChange::Create { segment: *segment, file });
            }
            WalOp::Recycle { from, to } => {
                self.file(*from)?;
                self.change(NameChange::Rename { from: *from, to: *to });
            }
            WalOp::Remove { segment } => {
                self.file(*segment)?;
                self.change(NameChange::Remove { segment: *segment });
            }
            WalOp::WriteAt { segment, offset, bytes } => {
                let file = self.file(*segment)?;
                if offset + bytes.len() as u64 > file.length {
                    return Err(DiskError::BeyondEnd(*segment));
                }
                file.write(*offset, bytes);
            }
            WalOp::Sync { segment } => self.file(*segment)?.sync(),
            WalOp::SyncDirectory => {
                self.durable_names = self.names.clone();
                self.pending.clear();
                self.collect();
            }
        }
        Ok(())
    }

    /// The power goes and comes back. What was not synced is lost in part, as `rng` has it.
    pub fn crash(&mut self, rng: &mut impl RngCore) {
        let before = self.counters;
        self.counters.crashes += 1;
        let mut names = self.durable_names.clone();
        for change in std::mem::take(&mut self.pending) {
            if one_in(rng, 2) || !rename(&mut names, &change) {
                self.counters.names_lost += 1;
            }
        }
        self.names = names.clone();
        self.durable_names = names;
        self.collect();
        let mut garbage = self.garbage && one_in(rng, 2);
        // Each crash has its own luck: all, none, or some.
        let kept_of_four = below(rng, 5);
        for file in self.files.values_mut() {
            file.crash(rng, kept_of_four, &mut garbage, &mut self.counters);
        }
        let lost = |counters: &DiskCounters| counters.sectors_lost + counters.sectors_garbled + counters.names_lost;
        self.counters.crashes_that_mattered += u64::from(lost(&self.counters) > lost(&before));
    }

    /// The process dies, the machine lives on: nothing is lost, and nothing is synced by that.
    pub fn kill(&mut self) {
        self.full = false;
        self.failing_sync = false;
    }

    /// Whether a crash now could take anything.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.pending.is_empty() || self.files.values().any(|file| !file.volatile.is_empty())
    }

    /// Everything there is, as a reader sees it, in the order of ids.
    #[must_use]
    pub fn segments(&self) -> Vec<(SegmentId, Bytes)> {
        self.names.iter().map(|(segment, file)| (*segment, self.files[file].read(0, self.files[file].length))).collect()
    }

    /// What a reader sees; less at the end of the segment, nothing where there is none.
    #[must_use]
    pub fn read(&self, segment: SegmentId, offset: u64, length: u32) -> Bytes {
        let Some(file) = self.names.get(&segment).map(|file| &self.files[file]) else { return Bytes::new() };
        file.read(offset.min(file.length), (offset + u64::from(length)).min(file.length))
    }

    /// Flips one bit of what is durable, not zero, and in a sector that ends at or before `end`. Returns where, `None` if there is
    /// nothing. Damage behind the newest mark of a sync looks like a torn tail to any log, so what may rot must end before it.
    pub fn rot(&mut self, rng: &mut impl RngCore, end: (SegmentId, u64)) -> Option<(SegmentId, u64)> {
        let sectors: Vec<(SegmentId, FileId, u64)> = self
            .durable_names
            .iter()
            .flat_map(|(segment, file)| self.files[file].durable.keys().map(|sector| (*segment, *file, *sector)))
            .filter(|(segment, _, sector)| (*segment, (sector + 1) * SECTOR as u64) <= end)
            .collect();
        let bound = u64::try_from(sectors.len()).ok().filter(|count| *count > 0)?;
        let (segment, file, sector) = sectors[usize::try_from(below(rng, bound)).ok()?];
        let byte = usize::try_from(below(rng, SECTOR as u64)).ok()?;
        let bit = below(rng, 8);
        let file = self.files.get_mut(&file)?;
        file.durable.get_mut(&sector)?[byte] ^= 1 << bit;
        if let Some((volatile, written)) = file.volatile.get_mut(&sector)
            && !written.contains(&byte)
        {
            volatile[byte] ^= 1 << bit;
        }
        self.counters.bits_rotten += 1;
        Some((segment, sector * SECTOR as u64 + byte as u64))
    }

    fn file(&mut self, segment: SegmentId) -> Result<&mut File, DiskError> {
        let file = self.names.get(&segment).ok_or(DiskError::NoSuchSegment(segment))?;
        self.files.get_mut(file).ok_or(DiskError::NoSuchSegment(segment))
    }

    fn change(&mut self, change: NameChange) {
        rename(&mut self.names, &change);
        self.pending.push(change);
    }

    /// Forgets files that no name, now or after a crash, leads to.
    fn collect(&mut self) {
        if self.pending.is_empty() {
            let (names, durable) = (&self.names, &self.durable_names);
            self.files.retain(|file, _| names.values().chain(durable.values()).any(|named| named == file));
        }
    }
}

impl File {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let sector = at / SECTOR as u64;
            let from = usize::try_from(at % SECTOR as u64).expect("less than a sector");
            let count = rest.len().min(SECTOR - from);
            let durable = self.durable.get(&sector).unwrap_or(&ZEROS);
            let (content, written) = self.volatile.entry(sector).or_insert_with(|| (*durable, from..from));
            content[from..from + count].copy_from_slice(&rest[..count]);
            *written = written.start.min(from)..written.end.max(from + count);
            rest = &rest[count..];
            at += count as u64;
        }
    }

    fn sync(&mut self) {
        for (sector, (content, _)) in std::mem::take(&mut self.volatile) {
            self.settle(sector, content);
        }
    }

    fn settle(&mut self, sector: u64, content: Sector) {
        if content == ZEROS {
            self.durable.remove(&sector);
        } else {
            self.durable.insert(sector, content);
        }
    }

    fn crash(&mut self, rng: &mut impl RngCore, kept_of_four: u64, garbage: &mut bool, counters: &mut DiskCounters) {
        for (sector, (mut content, written)) in std::mem::take(&mut self.volatile) {
            if below(rng, 4) < kept_of_four {
                self.settle(sector, content);
            } else if std::mem::take(garbage) {
                content = *self.durable.get(&sector).unwrap_or(&ZEROS);
                rng.fill_bytes(&mut content[written]);
                self.settle(sector, content);
                counters.sectors_garbled += 1;
            } else {
                counters.sectors_lost += 1;
            }
        }
    }

    fn read(&self, from: u64, to: u64) -> Bytes {
        let mut bytes = vec![0; usize::try_from(to - from).expect("a read that fits memory")];
        let last = to.div_ceil(SECTOR as u64);
        let sectors = self.durable.range(from / SECTOR as u64..last).map(|(sector, content)| (*sector, content));
        let newer = self.volatile.range(from / SECTOR as u64..last).map(|(sector, (content, _))| (*sector, content));
        for (sector, content) in sectors.chain(newer) {
            let start = sector * SECTOR as u64;
            let range = from.max(start)..to.min(start + SECTOR as u64);
            let within = |at: u64, base: u64| usize::try_from(at - base).expect("within the read");
            bytes[within(range.start, from)..within(range.end, from)]
                .copy_from_slice(&content[within(range.start, start)..within(range.end, start)]);
        }
        bytes.into()
    }
}

fn below(rng: &mut impl RngCore, bound: u64) -> u64 {
    rng.next_u64() % bound
}

fn one_in(rng: &mut impl RngCore, bound: u64) -> bool {
    below(rng, bound) == 0
}

#[cfg(test)]
mod tests;
