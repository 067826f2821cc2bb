//! Mends fjall's journal after a power cut.
//!
//! Pages of the last, un-synced batches reach the disk in any order, so a batch's end mark may be there while its middle is not.
//! fjall then refuses to open. Everything from the first batch that does not verify is cut: none of it was promised to anyone, the
//! log has it. The format is that of the pinned release: `Start(1) count u32 seqno u64`, items, `End(3) xxh3-of-items u64 "FJL\x03"`.

use std::{fs, io, path::Path};
use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";

/// Cuts the newest journal behind its last whole batch and says so; `None` if there is nothing to cut.
pub(super) fn cut_newest(store: &Path) -> io::Result<Option<String>> {
    let mut newest: Option<(u64, std::path::PathBuf)> = None;
    for entry in fs::read_dir(store)? {
        let path = entry?.path();
        let number =
            path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jnl")).and_then(|stem| stem.parse().ok());
        if let Some(number) = number
            && newest.as_ref().is_none_or(|(other, _)| *other < number)
        {
            newest = Some((number, path));
        }
    }
    let Some((_, path)) = newest else { return Ok(None) };
    let bytes = fs::read(&path)?;
    let valid = valid_prefix(&bytes);
    if valid == bytes.len() {
        return Ok(None);
    }
    let file = fs::OpenOptions::new().write(true).open(&path)?;
    file.set_len(valid as u64)?;
    file.sync_all()?;
    Ok(Some(format!("journal {} was cut at byte {valid} of {}", path.display(), bytes.len())))
}

/// Length of the whole batches that `bytes` begins with.
fn valid_prefix(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(end) = batch_end(bytes, at) {
        at = end;
    }
    at
}

/// Where the batch at `at` ends, if all of it is there and its checksum holds.
fn batch_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut cursor = Cursor { bytes, at };
    if cursor.take(1)? != [START] {
        return None;
    }
    let count = u32::from_le_bytes(cursor.take(4)?.try_into().ok()?);
    cursor.take(8)?;
    let items = cursor.at;
    for _ in 0..count {
        match *cursor.take(1)?.first()? {
            ITEM => {
                // Value type, compression, keyspace.
                cursor.take(2 + 8)?;
                let key = u16::from_le_bytes(cursor.take(2)?.try_into().ok()?);
                cursor.take(4)?;
                let value = u32::from_le_bytes(cursor.take(4)?.try_into().ok()?);
                cursor.take(usize::from(key) + value as usize)?;
            }
            CLEAR => {
                cursor.take(8)?;
            }
            _ => return None,
        }
    }
    let mut hash = Xxh3::new();
    hash.update(&bytes[items..cursor.at]);
    if cursor.take(1)? != [END] || cursor.take(8)? != hash.digest().to_le_bytes() || cursor.take(4)? != TRAILER {
        return None;
    }
    Some(cursor.at)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }
}
