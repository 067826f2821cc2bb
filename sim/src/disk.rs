//! The simulated disk of a WAL: carries out [`WalOp`]s, and forgets at a crash what no sync has covered.
//!
//! Un-synced writes reach the disk sector by sector, in any order or not at all. Creations, renames and removals reach it in
//! order, as a journalling file system has it, but not before `SyncDirectory` for certain. A file that was never synced may come
//! back without its length.

use crate::chance::Chance;
use bytes::Bytes;
use quorate_core::storage::WalOp;
use quorate_core::types::SegmentId;
use std::collections::{BTreeMap, BTreeSet};

pub const SECTOR_BYTES: usize = 512;

type FileNumber = u64;

#[derive(Clone, Debug, Default)]
struct File {
    /// What the process sees.
    content: Vec<u8>,
    /// What is on the platter.
    stable: Vec<u8>,
    /// Sectors in which the two may differ.
    dirty: BTreeSet<usize>,
}

#[derive(Debug, Default)]
pub struct SimDisk {
    files: BTreeMap<FileNumber, File>,
    directory: BTreeMap<SegmentId, FileNumber>,
    stable_directory: BTreeMap<SegmentId, FileNumber>,
    /// Changes of the directory since it was synced.
    journal: Vec<(SegmentId, Option<FileNumber>)>,
    next_file: FileNumber,
}

/// What a crash took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskCrash {
    pub dirty_sectors: usize,
    pub lost_sectors: usize,
    pub lost_names: usize,
}

/// An operation that no correct process asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadOperation(pub String);

impl SimDisk {
    pub fn apply(&mut self, op: &WalOp) -> Result<(), BadOperation> {
        match op {
            WalOp::Create { segment, length } => {
                let content = vec![0; usize::try_from(*length).map_err(|_| BadOperation(format!("{op:?}")))?];
                let dirty = (0..content.len().div_ceil(SECTOR_BYTES)).collect();
                self.files.insert(self.next_file, File { content, stable: Vec::new(), dirty });
                self.rename(*segment, Some(self.next_file));
                self.next_file += 1;
            }
            WalOp::Recycle { from, to } => {
                let file = *self.directory.get(from).ok_or_else(|| BadOperation(format!("{op:?}: no such file")))?;
                self.rename(*from, None);
                self.rename(*to, Some(file));
            }
            WalOp::Remove { segment } => self.rename(*segment, None),
            WalOp::WriteAt { segment, offset, bytes } => {
                let file = self.file(*segment)?;
                let start = usize::try_from(*offset).map_err(|_| BadOperation(format!("offset {offset}")))?;
                let end = start + bytes.len();
                if end > file.content.len() {
                    return Err(BadOperation(format!("write to {end} in a file of {}", file.content.len())));
                }
                file.content[start..end].copy_from_slice(bytes);
                file.dirty.extend(start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
            }
            WalOp::Sync { segment } => {
                let file = self.file(*segment)?;
                file.stable.resize(file.content.len(), 0);
                for sector in std::mem::take(&mut file.dirty) {
                    file.keep(sector);
                }
            }
            WalOp::SyncDirectory => {
                self.stable_directory.clone_from(&self.directory);
                self.journal.clear();
                let named: BTreeSet<_> = self.directory.values().copied().collect();
                self.files.retain(|number, _| named.contains(number));
            }
        }
        Ok(())
    }

    fn rename(&mut self, segment: SegmentId, file: Option<FileNumber>) {
        self.journal.push((segment, file));
        set(&mut self.directory, segment, file);
    }

    fn file(&mut self, segment: SegmentId) -> Result<&mut File, BadOperation> {
        let number = self.directory.get(&segment).ok_or_else(|| BadOperation(format!("segment {segment} is not there")))?;
        Ok(self.files.get_mut(number).expect("named files exist"))
    }

    /// Sectors that a crash could take.
    #[must_use]
    pub fn dirty_sectors(&self) -> usize {
        self.files.values().map(|file| file.dirty.len()).sum::<usize>() + self.journal.len()
    }

    pub fn crash(&mut self, chance: &mut Chance) -> DiskCrash {
        // All gone, all there, or anything between.
        let kept_permille = *chance.pick(&[0, 1_000, 500, 200, 800]);
        let mut crash = DiskCrash::default();
        for file in self.files.values_mut() {
            let dirty = std::mem::take(&mut file.dirty);
            let sized = file.stable.len() == file.content.len() || chance.permille(kept_permille);
            crash.dirty_sectors += dirty.len();
            if sized {
                file.stable.resize(file.content.len(), 0);
            }
            for sector in dirty {
                if sized && chance.permille(kept_permille) {
                    file.keep(sector);
                } else {
                    crash.lost_sectors += 1;
                }
            }
            file.content.clone_from(&file.stable);
        }
        let kept_names = chance.between(0, self.journal.len() as u64) as usize;
        crash.lost_names = self.journal.len() - kept_names;
        self.directory.clone_from(&self.stable_directory);
        for (segment, file) in self.journal.drain(..).take(kept_names) {
            set(&mut self.directory, segment, file);
        }
        self.stable_directory.clone_from(&self.directory);
        let named: BTreeSet<_> = self.directory.values().copied().collect();
        self.files.retain(|number, _| named.contains(number));
        crash
    }

    /// Flips one bit of what is on the disk, below a place. Only so is it certain that the log itself can tell rot from a torn tail.
    pub fn rot(&mut self, below: (SegmentId, u64), chance: &mut Chance) -> Option<(SegmentId, u64)> {
        let used: Vec<_> = self
            .directory
            .iter()
            .filter_map(|(segment, number)| {
                let used = self.files[number].content.iter().rposition(|byte| *byte != 0)? as u64;
                let end = if *segment == below.0 { used.min(below.1) } else { used };
                (*segment <= below.0 && end > 0).then_some((*segment, *number, end))
            })
            .collect();
        if used.is_empty() {
            return None;
        }
        let (segment, number, end) = *chance.pick(&used);
        let at = chance.below(end);
        let file = self.files.get_mut(&number).expect("named files exist");
        let place = usize::try_from(at).expect("in memory");
        file.content[place] ^= 1 << chance.below(8);
        file.stable.clone_from(&file.content);
        Some((segment, at))
    }

    /// Whole segments in order, for recovery.
    #[must_use]
    pub fn segments(&self) -> Vec<(SegmentId, Bytes)> {
        self.directory.iter().map(|(segment, number)| (*segment, Bytes::copy_from_slice(&self.files[number].content))).collect()
    }

    /// What the process reads back; short at the file's end, empty if there is no such file.
    #[must_use]
    pub fn read(&self, segment: SegmentId, offset: u64, length: u32) -> Bytes {
        let Some(number) = self.directory.get(&segment) else { return Bytes::new() };
        let content = &self.files[number].content;
        let start = usize::try_from(offset).map_or(content.len(), |start| start.min(content.len()));
        let end = (start + length as usize).min(content.len());
        Bytes::copy_from_slice(&content[start..end])
    }
}

impl File {
    fn keep(&mut self, sector: usize) {
        let start = sector * SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(self.content.len());
        self.stable[start..end].copy_from_slice(&self.content[start..end]);
    }
}

fn set(directory: &mut BTreeMap<SegmentId, FileNumber>, segment: SegmentId, file: Option<FileNumber>) {
    match file {
        Some(file) => directory.insert(segment, file),
        None => directory.remove(&segment),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Concern;

    #[test]
    fn what_was_synced_is_there_after_a_crash_and_the_rest_may_be_torn() {
        let (mut torn, mut whole) = (0, 0);
        for seed in 0..200 {
            let mut disk = SimDisk::default();
            let segment = SegmentId(1);
            let write = |offset, byte| WalOp::WriteAt { segment, offset, bytes: Bytes::from(vec![byte; 2_048]) };
            let ops = [
                WalOp::Create { segment, length: 8_192 },
                WalOp::SyncDirectory,
                write(0, 1),
                WalOp::Sync { segment },
                write(2_048, 2),
            ];
            ops.iter().for_each(|op| disk.apply(op).expect("correct operations"));
            disk.crash(&mut Chance::new(seed, Concern::Disk, 0));
            assert_eq!(disk.read(segment, 0, 2_048), Bytes::from(vec![1; 2_048]));
            let tail = disk.read(segment, 2_048, 2_048);
            match tail.iter().filter(|byte| **byte == 2).count() {
                0 => {}
                2_048 => whole += 1,
                part => {
                    assert_eq!(part % SECTOR_BYTES, 0);
                    torn += 1;
                }
            }
        }
        assert!(torn > 20 && whole > 20, "{torn} torn, {whole} whole");
    }

    #[test]
    fn a_name_without_a_directory_sync_may_be_gone() {
        let gone = |seed| {
            let mut disk = SimDisk::default();
            disk.apply(&WalOp::Create { segment: SegmentId(1), length: 512 }).expect("correct");
            disk.apply(&WalOp::Sync { segment: SegmentId(1) }).expect("correct");
            disk.crash(&mut Chance::new(seed, Concern::Disk, 0));
            disk.segments().is_empty()
        };
        assert!((0..50).any(gone) && !(0..50).all(gone));
    }

    #[test]
    fn writing_beyond_a_file_is_refused() {
        let mut disk = SimDisk::default();
        disk.apply(&WalOp::Create { segment: SegmentId(1), length: 512 }).expect("correct");
        assert!(disk.apply(&WalOp::WriteAt { segment: SegmentId(1), offset: 500, bytes: Bytes::from_static(&[0; 13]) }).is_err());
        assert!(disk.apply(&WalOp::Sync { segment: SegmentId(2) }).is_err());
    }
}
