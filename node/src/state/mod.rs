//! ⑦ The state store: fjall, written behind by one thread, read through snapshots.
//!
//! `Meta` and `Settled` are a keyspace each. `Recent` is a row of keyspaces, its *parts*, each a stretch of revisions, so that
//! dropping what was compacted is deleting whole keyspaces: no tombstones, no rewriting. Rows below the retired mark in a part
//! that is still needed are hidden from readers, so the mark is exact although the space comes back part by part.

mod journal;
mod long_key;
mod persister;
mod reader;
#[cfg(test)]
mod tests;

pub use persister::{Persister, StateEvent};
pub use reader::FjallReader;

use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions};
use quorate_core::types::RevisionId;
use std::{
    collections::BTreeMap,
    fmt, fs,
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
/// Memory of one keyspace before it is written out.
const MEMTABLE_BYTES: u64 = 32 << 20;
const CACHE_BYTES: u64 = 64 << 20;
/// All of fjall's journals: what opening replays, at a cost a row, whether a row is in a table by then or not. The least it allows.
const JOURNAL_BYTES: u64 = 64 << 20;
/// Part names are `recent-` and the first main revision in 16 hexadecimal digits.
const PART_PREFIX: &str = "recent-";

/// Why the state store does not open.
#[derive(Debug)]
pub struct StateError(pub String);

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state store: {}", self.0)
    }
}

impl std::error::Error for StateError {}

impl From<fjall::Error> for StateError {
    fn from(error: fjall::Error) -> Self {
        Self(error.to_string())
    }
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
struct Tables {
    meta: Keyspace,
    settled: Keyspace,
    /// By the first main revision they may hold.
    recent: BTreeMap<i64, Keyspace>,
    /// Rows of `Recent` below are gone.
    retired: RevisionId,
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").field("parts", &self.recent.keys()).field("retired", &self.retired).finish_non_exhaustive()
    }
}

/// The open store. Only the persister writes.
pub struct StateStore {
    database: Database,
    /// What this layer keeps about itself: the retired mark and byte counts.
    host: Keyspace,
    tables: Arc<Tables>,
    usage: Arc<Usage>,
    /// What opening had to mend, for the log.
    pub repaired: Option<String>,
}

impl fmt::Debug for StateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateStore").field("tables", &self.tables).field("repaired", &self.repaired).finish_non_exhaustive()
    }
}

const RETIRED_KEY: &[u8] = b"retired";
const SETTLED_BYTES_KEY: &[u8] = b"settled-bytes";

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
}

fn part_name(first: i64) -> String {
    format!("{PART_PREFIX}{first:016x}")
}

fn part_first(name: &str) -> Option<i64> {
    i64::from_str_radix(name.strip_prefix(PART_PREFIX)?, 16).ok()
}

fn open_database(path: &Path) -> fjall::Result<Database> {
    Database::builder(path).cache_size(CACHE_BYTES).max_journaling_size(JOURNAL_BYTES).journal_compression(CompressionType::None).open()
}

impl StateStore {
    /// Opens the store, mending a journal that a power cut tore. One that cannot be mended is moved aside and an empty one made:
    /// what it held is in the log, or with the other members.
    ///
    /// # Errors
    /// The disk fails, or the store was written by a newer release.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let mut repaired = None;
        let database = match open_database(path) {
            Ok(database) => database,
            Err(fjall::Error::InvalidVersion(version)) => {
                return Err(StateError(format!(
                    "{} has format {version:?}, which is not known here; start the release that wrote it, or a newer one",
                    path.display()
                )));
            }
            Err(fjall::Error::Locked) => return Err(StateError(format!("{} is in use by another process", path.display()))),
            Err(first @ fjall::Error::Io(_)) if left_unfinished(path, &first) => {
                let (database, what) = begin_anew(path, &first)?;
                repaired = Some(what);
                database
            }
            Err(fjall::Error::Io(error)) => return Err(StateError(format!("cannot open {}: {error}", path.display()))),
            Err(first) => {
                let (database, what) = repair(path, &first)?;
                repaired = Some(what);
                database
            }
        };
        Self::with_database(database, repaired)
    }

    fn with_database(database: Database, repaired: Option<String>) -> Result<Self, StateError> {
        let host = database.keyspace("host", options)?;
        let retired = match host.get(RETIRED_KEY)? {
            Some(key) => quorate_core::storage::parse_recent_key(&key).ok_or_else(|| StateError("malformed retired mark".into()))?,
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
        usage.settled.store(settled_bytes.unwrap_or(0), Ordering::Relaxed);
        let tables = Arc::new(Tables { meta, settled, recent, retired });
        Ok(Self { database, host, tables, usage, repaired })
    }

    /// A snapshot of what is stored now.
    #[must_use]
    pub fn reader(&self) -> FjallReader {
        FjallReader::new(self.database.snapshot(), Arc::clone(&self.tables))
    }

    #[must_use]
    pub fn usage(&self) -> Arc<Usage> {
        Arc::clone(&self.usage)
    }
}

/// Cuts the newest journal after its last whole batch; if that is not enough, starts anew beside the damaged store.
fn repair(path: &Path, first: &fjall::Error) -> Result<(Database, String), StateError> {
    let cut = journal::cut_newest(path).map_err(|error| StateError(format!("cannot repair {}: {error}", path.display())))?;
    if let Some(cut) = cut
        && let Ok(database) = open_database(path)
    {
        return Ok((database, format!("{first}; {cut}")));
    }
    begin_anew(path, first)
}

/// Whether a first start was interrupted while it made the store. fjall's version file comes last: without it nothing was ever kept.
fn left_unfinished(path: &Path, error: &fjall::Error) -> bool {
    matches!(error, fjall::Error::Io(error) if error.kind() == std::io::ErrorKind::AlreadyExists) && !path.join("version").exists()
}

/// Moves a store that cannot be opened aside and makes an empty one.
fn begin_anew(path: &Path, first: &fjall::Error) -> Result<(Database, String), StateError> {
    let aside = (1..)
        .map(|number| PathBuf::from(format!("{}.damaged-{number}", path.display())))
        .find(|aside| !aside.exists())
        .expect("numbers do not end");
    let moved = fs::rename(path, &aside).and_then(|()| fs::create_dir(path));
    moved.map_err(|error| StateError(format!("cannot move {} aside: {error}", path.display())))?;
    let what = format!("{first}; it could not be mended and was moved to {}, an empty one takes its place", aside.display());
    Ok((open_database(path)?, what))
}
