//! How far the journals were synced: kept beside them in a file of our own, because a journal cannot tell a torn tail from rot.
//!
//! The file has two slots that are written in turn, so that a torn write of one leaves the other.

use quorate_core::codec;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

const NAME: &str = "synced";
const VERSION: u8 = 1;
/// A sector of its own for each.
const SLOT_BYTES: u64 = 4096;
const SLOTS: u64 = 2;

/// Everything before this place in the journals is on stable storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Mark {
    /// How many marks there were before.
    pub number: u64,
    pub journal: u64,
    /// Bytes of that journal.
    pub offset: u64,
    /// The newest number that fjall had given to a batch.
    pub seqno: u64,
    /// A tail is being cut behind this batch: no table may hold a later one. `None` once that was looked at.
    pub cut_behind: Option<u64>,
}

/// The open file.
#[derive(Debug)]
pub(super) struct MarkFile {
    file: File,
    mark: Mark,
}

impl MarkFile {
    /// Makes the file if it is missing: then nothing counts as synced.
    ///
    /// # Errors
    /// The file cannot be read or made, or a newer release wrote it.
    pub fn open(store: &Path) -> io::Result<Self> {
        let path = store.join(NAME);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        if file.metadata()?.len() < SLOTS * SLOT_BYTES {
            file.set_len(SLOTS * SLOT_BYTES)?;
            file.sync_all()?;
            File::open(store)?.sync_all()?;
        }
        let bytes = fs::read(&path)?;
        let mut mark = Mark::default();
        for slot in bytes.chunks(usize::try_from(SLOT_BYTES).map_err(io::Error::other)?) {
            match codec::decode::<Mark>(VERSION, slot, slot.len()) {
                Ok((found, _)) if found.number >= mark.number => mark = found,
                Err(error @ codec::FrameError::Version { .. }) => {
                    return Err(io::Error::other(format!("{}: {error}", path.display())));
                }
                _ => {}
            }
        }
        Ok(Self { file, mark })
    }

    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Replaces the mark, durably; its number is given here.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set(&mut self, mark: Mark) -> io::Result<()> {
        let mark = Mark { number: self.mark.number + 1, ..mark };
        let mut bytes = Vec::new();
        codec::encode(VERSION, &mark, &mut bytes);
        self.file.write_all_at(&bytes, mark.number % SLOTS * SLOT_BYTES)?;
        self.file.sync_data()?;
        self.mark = mark;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { number: 1, journal: 3, offset: 70_000, seqno: 900, cut_behind: None };

    #[test]
    fn a_mark_keeps_its_bytes() {
        let mut bytes = Vec::new();
        codec::encode(VERSION, &MARK, &mut bytes);
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "09000000a6e888f8010103f0a204840700");
    }

    #[test]
    fn the_newest_mark_counts_and_the_one_before_if_it_is_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let mut marks = MarkFile::open(directory.path()).unwrap();
        assert_eq!(marks.mark(), Mark::default());
        marks.set(MARK).unwrap();
        marks.set(Mark { offset: 80_000, cut_behind: Some(901), ..MARK }).unwrap();
        let newest = Mark { number: 2, offset: 80_000, cut_behind: Some(901), ..MARK };
        assert_eq!(MarkFile::open(directory.path()).unwrap().mark(), newest);
        // An even number stands in the first slot.
        let path = directory.path().join(NAME);
        let mut bytes = fs::read(&path).unwrap();
        bytes[10] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(MarkFile::open(directory.path()).unwrap().mark(), MARK);
    }
}
