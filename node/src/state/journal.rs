//! What fjall's journals hold, looked at before fjall is: it cuts a journal at the first byte it does not understand, synced or not.
//!
//! Pages of the last, un-synced batches reach the disk in any order, so after a power cut a batch's end mark may be there while its
//! middle is not. Such a tail is cut here: none of it was promised to anyone, the log has it. What lies below a sync is never cut:
//! rows that were moved stand in no log. The format is that of the pinned release: `Start(1) count u32 seqno u64`, items,
//! `End(3) xxh3-of-items u64 "FJL\x03"`, and zeros behind the last batch, as a journal's space is taken at once.

use super::mark::Mark;
use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};
use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";
/// Read at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// What the journals say.
#[derive(Debug)]
pub(super) enum Verdict {
    Whole,
    /// The newest one ends in something that no sync covers.
    Torn(Torn),
    /// Something that was synced is not what it was.
    Damaged(String),
}

/// A tail that may be cut.
#[derive(Debug)]
pub(super) struct Torn {
    path: PathBuf,
    at: u64,
    length: u64,
    /// The newest batch before it that is known.
    pub seqno: u64,
}

impl Torn {
    /// Cuts it and says so.
    pub fn cut(&self) -> io::Result<String> {
        let file = fs::OpenOptions::new().write(true).open(&self.path)?;
        file.set_len(self.at)?;
        file.sync_all()?;
        Ok(format!(
            "journal {} was cut at byte {} of {}: a write that was never synced was torn",
            self.path.display(),
            self.at,
            self.length
        ))
    }
}

/// Reads all journals whole.
///
/// # Errors
/// A journal cannot be read.
pub(super) fn inspect(store: &Path, mark: &Mark) -> io::Result<Verdict> {
    let journals = list(store)?;
    let Some((newest, _)) = journals.last() else {
        // fjall makes one before it makes a store.
        return Ok(Verdict::Damaged(format!("{} has no journal", store.display())));
    };
    if *newest < mark.journal {
        return Ok(Verdict::Damaged(format!("{}, which was synced, is missing", path_of(store, mark.journal).display())));
    }
    if let Some(pair) = journals.windows(2).find(|pair| pair[0].0 + 1 != pair[1].0) {
        return Ok(Verdict::Damaged(format!("{} is missing between others", path_of(store, pair[0].0 + 1).display())));
    }
    let mut seqno = mark.seqno;
    let mut previous = None;
    for (id, path) in &journals {
        let mut batches = Batches::open(path, 0)?;
        while let Some(batch) = batches.next(true)? {
            // The start of a batch is under no checksum, but numbers only grow.
            if previous.is_some_and(|previous| batch <= previous) {
                break;
            }
            previous = Some(batch);
            batches.at = batches.position()?;
        }
        let (at, length) = (batches.at, batches.length);
        if *id == mark.journal && at < mark.offset {
            let what = format!("{} was synced to byte {}, but is damaged at byte {at}", path.display(), mark.offset);
            return Ok(Verdict::Damaged(what));
        }
        seqno = seqno.max(previous.unwrap_or(0));
        if only_zeros(path, at)? {
            continue;
        }
        if id != newest {
            return Ok(Verdict::Damaged(format!("{} was synced when the next one was begun, but is damaged at byte {at}", path.display())));
        }
        if previous.is_none() {
            // Earlier journals are gone, so their batches are in tables: whatever came before the torn one.
            let torn = Batches::open(path, at)?.start()?;
            seqno = seqno.max(torn.map_or(0, |(number, _)| number.saturating_sub(1)));
        }
        return Ok(Verdict::Torn(Torn { path: path.clone(), at, length, seqno }));
    }
    Ok(Verdict::Whole)
}

/// Where the newest journal's batches end, its number first. Batches before `from` are not read again.
///
/// # Errors
/// A journal cannot be read.
pub(super) fn end(store: &Path, from: (u64, u64)) -> io::Result<(u64, u64)> {
    // Older ones may be gone already: all that was in them is in tables.
    let newest = list(store)?.last().map_or(from.0, |(newest, _)| *newest);
    let begin = if newest == from.0 { from.1 } else { 0 };
    let mut batches = Batches::open(&path_of(store, newest), begin)?;
    while batches.next(false)?.is_some() {
        batches.at = batches.position()?;
    }
    Ok((newest, batches.at))
}

fn path_of(store: &Path, journal: u64) -> PathBuf {
    store.join(format!("{journal}.jnl"))
}

fn list(store: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(store)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jnl")?.parse().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

fn only_zeros(path: &Path, from: u64) -> io::Result<bool> {
    let mut file = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
    file.seek(SeekFrom::Start(from))?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(true),
            count if buffer[..count].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Walks a journal.
struct Batches {
    file: BufReader<File>,
    /// Where the batches end that the caller took.
    at: u64,
    length: u64,
    buffer: Vec<u8>,
}

impl Batches {
    fn open(path: &Path, at: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
        file.seek(SeekFrom::Start(at))?;
        Ok(Self { file, at, length, buffer: Vec::new() })
    }

    fn position(&mut self) -> io::Result<u64> {
        self.file.stream_position()
    }

    /// The number of the batch that comes next, if all of it is there and, where that is asked for, its checksum holds.
    fn next(&mut self, verify: bool) -> io::Result<Option<u64>> {
        match self.read_batch(verify) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            other => other,
        }
    }

    /// A batch's number and how many items it has.
    fn start(&mut self) -> io::Result<Option<(u64, u32)>> {
        let mut start = [0; 13];
        match self.file.read_exact(&mut start) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let mut number = [0; 8];
        number.copy_from_slice(&start[5..]);
        Ok((start[0] == START).then(|| (u64::from_le_bytes(number), word(&start[1..5]))))
    }

    fn read_batch(&mut self, verify: bool) -> io::Result<Option<u64>> {
        let Some((number, count)) = self.start()? else { return Ok(None) };
        let mut hash = verify.then(Xxh3::new);
        for _ in 0..count {
            let [tag] = self.array()?;
            let length = match tag {
                ITEM => {
                    // Value type, compression, keyspace, lengths of key, value and value as stored.
                    let head: [u8; 20] = self.array()?;
                    if let Some(hash) = &mut hash {
                        hash.update(&[tag]);
                        hash.update(&head);
                    }
                    u64::from(u16::from_le_bytes([head[10], head[11]])) + u64::from(word(&head[16..]))
                }
                CLEAR => {
                    if let Some(hash) = &mut hash {
                        hash.update(&[tag]);
                    }
                    8
                }
                _ => return Ok(None),
            };
            self.skip(length, hash.as_mut())?;
        }
        let end: [u8; 13] = self.array()?;
        let sound = hash.is_none_or(|hash| end[1..9] == hash.digest().to_le_bytes());
        Ok((end[0] == END && sound && end[9..] == *TRAILER).then_some(number))
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Goes on by `length` bytes. A length that damage made up may be beyond the end of the file.
    fn skip(&mut self, length: u64, hash: Option<&mut Xxh3>) -> io::Result<()> {
        let Some(hash) = hash else {
            return self.file.seek_relative(i64::try_from(length).map_err(io::Error::other)?);
        };
        let mut left = length;
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER_BYTES);
            self.buffer.resize(count, 0);
            self.file.read_exact(&mut self.buffer)?;
            hash.update(&self.buffer);
            left -= count as u64;
        }
        Ok(())
    }
}
