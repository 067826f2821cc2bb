//! ⑦ The state store: fjall, written behind by one thread, read through snapshots.
//!
//! `Meta` and `Settled` are a keyspace each. `Recent` is a row of keyspaces, its *parts*, each a stretch of revisions, so that
//! dropping what was compacted is deleting whole keyspaces: no tombstones, no rewriting. Rows below the retired mark in a part
//! that is still needed are hidden from readers, so the mark is exact although the space comes back part by part.

mod journal;
mod long_key;
mod mark;
mod persister;
mod reader;
mod receiving;
#[cfg(test)]
mod tests;

pub use persister::{Persister, StateEvent};
pub use reader::FjallReader;

use crate::memory::{BLOCK_CACHE, MEMTABLE, MemoryBudget};
use fjall::{AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use journal::Verdict;
use mark::{Mark, MarkFile};
use quorate_core::types::RevisionId;
use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Bytes of rows after which a part of `Recent` is closed and the next begins.
const PART_BYTES: u64 = 64 << 20;
/// A part at least this large is closed when rows of it are retired, so that the rest of it can go as a whole later.
const PART_CLOSED_AT_RETIRE_BYTES: u64 = 1 << 20;
/// All of fjall's journals: what opening replays, at a cost a row, whether a row is in a table by then or not. The least it allows.
const JOURNAL_BYTES: u64 = 64 << 20;
/// Part names are `recent-` and the first main revision in 16 hexadecimal digits.
const PART_PREFIX: &str = "recent-";

/// fjall's background threads. With one alone, nothing is sealed between the sync of the journal that begins a flush and the flush
/// itself: with two, a table could hold batches that the journal has not yet on disk, and a power cut would tear batches apart.
const WORKERS: usize = 1;
/// What stands in fjall's version file. It is written last when a store is made.
const FORMAT: &[u8] = b"FJL\x03";

/// Why the state store does not open, or cannot go on.
#[derive(Debug)]
pub enum StateError {
    Failed(String),
    /// What was stored is not there, or not as it was.
    Lost(String),
    /// A write failed in one of fjall's own threads, which tells nobody why.
    Poisoned,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(what) | Self::Lost(what) => write!(f, "state store: {what}"),
            Self::Poisoned => write!(f, "state store: a write in the background failed"),
        }
    }
}

impl std::error::Error for StateError {}

impl From<fjall::Error> for StateError {
    fn from(error: fjall::Error) -> Self {
        match error {
            fjall::Error::Poisoned => Self::Poisoned,
            error => Self::Failed(error.to_string()),
        }
    }
}

fn failed(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |error| StateError::Failed(format!("cannot {doing} {}: {error}", path.display()))
}

/// Bytes of rows that are stored, whatever their form on disk; shared with whoever checks the quota.
#[derive(Debug, Default)]
pub struct Usage {
    recent: AtomicU64,
    settled: AtomicU64,
    /// Handed to the persister, not yet written.
    queued: AtomicU64,
}

impl Usage {
    /// Rows of all uncompacted revisions, and of keys that outlived a compaction.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.stored_bytes() + self.queued.load(Ordering::Relaxed)
    }

    /// Without what is on its way to the store.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.recent.load(Ordering::Relaxed) + self.settled.load(Ordering::Relaxed)
    }
}

/// Handles to all keyspaces at one instant. Replaced as a whole when a part comes or goes.
#[derive(Clone)]
struct Keyspaces {
    meta: Keyspace,
    settled: Keyspace,
    /// By the first main revision they may hold.
    recent: BTreeMap<i64, Keyspace>,
    /// Rows of `Recent` below are gone.
    retired: RevisionId,
}

impl fmt::Debug for Keyspaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyspaces").field("parts", &self.recent.keys()).field("retired", &self.retired).finish_non_exhaustive()
    }
}

/// The open store. Only the persister writes.
pub struct StateStore {
    database: Database,
    path: PathBuf,
    /// What this layer keeps about itself: the retired mark and byte counts.
    host: Keyspace,
    marks: MarkFile,
    memory: MemoryBudget,
    keyspaces: Arc<Keyspaces>,
    usage: Arc<Usage>,
    /// Held by every reader as well.
    readers: Arc<()>,
    /// What opening had to mend, for the log.
    pub repaired: Option<String>,
}

impl fmt::Debug for StateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateStore").field("keyspaces", &self.keyspaces).field("repaired", &self.repaired).finish_non_exhaustive()
    }
}

const RETIRED_KEY: &[u8] = b"retired";
const SETTLED_BYTES_KEY: &[u8] = b"settled-bytes";

/// A keyspace keeps the size of memtable that it was made with.
fn options(memory: MemoryBudget) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(memory.of(MEMTABLE) as u64)
}

fn part_name(first: i64) -> String {
    format!("{PART_PREFIX}{first:016x}")
}

fn part_first(name: &str) -> Option<i64> {
    i64::from_str_radix(name.strip_prefix(PART_PREFIX)?, 16).ok()
}

fn open_database(path: &Path, memory: MemoryBudget) -> fjall::Result<Database> {
    Database::builder(path)
        .cache_size(memory.of(BLOCK_CACHE) as u64)
        .max_journaling_size(JOURNAL_BYTES)
        .journal_compression(CompressionType::None)
        .worker_threads(WORKERS)
        .open()
}

impl StateStore {
    /// Opens the store, cutting a journal's tail that a power cut tore. What was synced is never cut.
    ///
    /// # Errors
    /// The disk fails, the store was written by a newer release, or it is lost: [`Self::begin_anew`] then is for whoever can get
    /// its content from elsewhere.
    pub fn open(path: &Path, memory: MemoryBudget) -> Result<Self, StateError> {
        fs::create_dir_all(path).map_err(failed("create", path))?;
        let mut marks = MarkFile::open(path).map_err(failed("open the mark of what is synced in", path))?;
        let mut repaired = None;
        // Another format has other journals; that it is another is for fjall to say.
        if fs::read(path.join("version")).is_ok_and(|version| version == FORMAT) {
            match journal::inspect(path, &marks.mark()).map_err(failed("read the journals of", path))? {
                Verdict::Whole => {}
                Verdict::Damaged(what) => return Err(StateError::Lost(what)),
                Verdict::Torn(torn) => {
                    let mark = Mark { cut_behind: Some(torn.seqno), ..marks.mark() };
                    marks.set(mark).map_err(failed("mark a cut in", path))?;
                    repaired = Some(torn.cut().map_err(failed("cut a journal of", path))?);
                }
            }
        }
        let database = match open_database(path, memory) {
            Ok(database) => database,
            Err(fjall::Error::InvalidVersion(version)) => {
                return Err(StateError::Failed(format!(
                    "{} has format {version:?}, which is not known here; start the release that wrote it, or a newer one",
                    path.display()
                )));
            }
            Err(fjall::Error::Locked) => return Err(StateError::Failed(format!("{} is in use by another process", path.display()))),
            Err(error @ fjall::Error::Io(_)) if left_unfinished(path, &error) => {
                return Self::begin_anew(path, memory, &format!("an earlier start ended while it made the state store ({error})"));
            }
            Err(error) => return Err(judge(path, &error)),
        };
        if let Some(cut) = marks.mark().cut_behind {
            check_tables(&database, memory, cut)?;
        }
        Self::with_database(path, database, marks, memory, repaired)
    }

    /// Moves a store that is lost aside and makes an empty one.
    ///
    /// # Errors
    /// The disk fails.
    pub fn begin_anew(path: &Path, memory: MemoryBudget, what: &str) -> Result<Self, StateError> {
        let aside = (1..)
            .map(|number| PathBuf::from(format!("{}.damaged-{number}", path.display())))
            .find(|aside| !aside.exists())
            .expect("numbers do not end");
        fs::rename(path, &aside).and_then(|()| fs::create_dir(path)).map_err(failed("move aside", path))?;
        receiving::sync_parent(path)?;
        let mut store = Self::open(path, memory)?;
        store.repaired = Some(format!("{what}; it was moved to {}, an empty one takes its place", aside.display()));
        Ok(store)
    }

    fn with_database(
        path: &Path,
        database: Database,
        marks: MarkFile,
        memory: MemoryBudget,
        repaired: Option<String>,
    ) -> Result<Self, StateError> {
        let options = || options(memory);
        let host = database.keyspace("host", options)?;
        let retired = match host.get(RETIRED_KEY)? {
            Some(key) => quorate_core::storage::parse_recent_key(&key).ok_or_else(|| StateError::Lost("malformed retired mark".into()))?,
            None => RevisionId::default(),
        };
        let mut recent = BTreeMap::new();
        for name in database.list_keyspace_names() {
            if let Some(first) = part_first(&name) {
                recent.insert(first, database.keyspace(&name, options)?);
            }
        }
        let meta = database.keyspace("meta", options)?;
        let settled = database.keyspace("settled", options)?;
        let usage = Arc::new(Usage::default());
        let settled_bytes = host.get(SETTLED_BYTES_KEY)?.and_then(|bytes| Some(u64::from_le_bytes(bytes.as_ref().try_into().ok()?)));
        if settled_bytes.is_some_and(|bytes| bytes > 0) && settled.is_empty()? {
            return Err(StateError::Lost("the rows of keys that outlived a compaction are gone".into()));
        }
        usage.settled.store(settled_bytes.unwrap_or(0), Ordering::Relaxed);
        let keyspaces = Arc::new(Keyspaces { meta, settled, recent, retired });
        let mut store =
            Self { database, path: path.to_path_buf(), host, marks, memory, keyspaces, usage, readers: Arc::default(), repaired };
        // Opening has synced what it found.
        store.mark_synced()?;
        Ok(store)
    }

    /// Deletes the directory of a state that no log goes on from.
    ///
    /// # Errors
    /// The disk fails.
    pub fn delete(path: &Path) -> Result<(), StateError> {
        receiving::void(path)
    }

    /// Everything written so far to stable storage, and proof of it: what is damaged below from now on is seen.
    fn sync(&mut self) -> Result<(), StateError> {
        self.database.persist(PersistMode::SyncAll)?;
        self.mark_synced()
    }

    /// Why writing ended, as an operator has to read it.
    fn explain(&self, error: &StateError) -> String {
        explain(&self.path, error, crate::wal::free_bytes(&self.path).ok())
    }

    fn mark_synced(&mut self) -> Result<(), StateError> {
        let last = self.marks.mark();
        let end = journal::end(&self.path, (last.journal, last.offset)).map_err(failed("read the journals of", &self.path))?;
        let mark = Mark { journal: end.0, offset: end.1, seqno: self.database.seqno().saturating_sub(1), cut_behind: None, ..last };
        if mark == last {
            return Ok(());
        }
        self.marks.set(mark).map_err(failed("mark what is synced in", &self.path))
    }

    /// A snapshot of what is stored now.
    #[must_use]
    pub fn reader(&self) -> FjallReader {
        FjallReader::new(self.database.snapshot(), Arc::clone(&self.keyspaces), Arc::clone(&self.readers))
    }

    #[must_use]
    pub fn usage(&self) -> Arc<Usage> {
        Arc::clone(&self.usage)
    }
}

/// `free_bytes` is what the file system still takes, if it is known: a failure in the background has no words of its own.
fn explain(path: &Path, error: &StateError, free_bytes: Option<u64>) -> String {
    let what = format!("{}: {error}", path.display());
    match (error, free_bytes) {
        (StateError::Poisoned, Some(free)) if free < PART_BYTES => {
            format!("{what}: No space left on device, only {free} bytes are free")
        }
        (StateError::Poisoned, _) => format!("{what}; the log says why"),
        (StateError::Failed(_) | StateError::Lost(_), _) => what,
    }
}

/// Whether a store that does not open is lost, or only out of reach: what the system itself refuses says nothing about the rows.
fn judge(path: &Path, error: &fjall::Error) -> StateError {
    let system = match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => Some(error),
        _ => None,
    };
    let what = format!("{} cannot be opened: {error}", path.display());
    match system {
        Some(error) if error.raw_os_error().is_some() && error.kind() != io::ErrorKind::NotFound => StateError::Failed(what),
        _ => StateError::Lost(what),
    }
}

/// After a cut: a table that holds what was behind it proves that it had been synced, and that other rows of the same batches are
/// gone.
fn check_tables(database: &Database, memory: MemoryBudget, cut_behind: u64) -> Result<(), StateError> {
    for name in database.list_keyspace_names() {
        let keyspace = database.keyspace(&name, || options(memory))?;
        if let Some(seqno) = keyspace.tree.get_highest_persisted_seqno().filter(|seqno| *seqno > cut_behind) {
            let what = format!("{} has batch {seqno}, but the journals end with batch {cut_behind}", keyspace.path().display());
            return Err(StateError::Lost(what));
        }
    }
    Ok(())
}

/// Whether a first start was interrupted while it made the store. fjall's version file comes last: without it nothing was ever kept.
fn left_unfinished(path: &Path, error: &fjall::Error) -> bool {
    matches!(error, fjall::Error::Io(error) if error.kind() == io::ErrorKind::AlreadyExists) && !path.join("version").exists()
}
