//! Executes WAL operations on files: one thread, in order, nothing retried. What to write was decided in `quorate_core::wal`.
//!
//! Segments are written in place, so that `fdatasync` has no metadata to commit. Zero-filling a new one takes long; a second thread
//! does it ahead of time under a temporary name, and a rename makes it a segment.

use quorate_core::storage::WalOp;
use quorate_core::types::{SegmentId, WriteNumber};
use quorate_core::wal::segment_file_name;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

use crate::throttle::Throttle;
use prometheus_client::metrics::gauge::Gauge;

/// Writes taken from the queue at a time.
const WRITES_PER_BATCH: usize = 64;
/// Writes that wait for the thread; who hands over more waits himself.
pub const QUEUED_WRITES: usize = 1_024;
/// Segments being zero-filled or ready and not yet used.
const PREPARED_SEGMENTS: usize = 2;
const ZERO_FILL_BYTES: usize = 1 << 20;
/// Bytes of segments above which the log is told to have grown: half as much again as is kept for slow members at most
/// ([`quorate_core::consensus::Limits::kept_bytes`]), so either the state store is not synced in time or apply is far behind.
pub const KEPT_LOG_ALARM_BYTES: u64 = 3 << 29;
/// Between two such lines.
const ALARM_INTERVAL: Duration = Duration::from_secs(60);
/// A file system of its own has this directory.
const LOST_AND_FOUND: &str = "lost+found";
/// Names of directories with segments that were moved aside begin so.
const ASIDE: &str = "aside-";

/// What failed, where, and what the system said. Final: the disk may have dropped what it was given before.
#[derive(Clone, Debug)]
pub struct WalError {
    pub operation: &'static str,
    pub path: PathBuf,
    pub kind: io::ErrorKind,
    pub message: String,
}

impl fmt::Display for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "write-ahead log: {} {}: {}", self.operation, self.path.display(), self.message)
    }
}

impl std::error::Error for WalError {}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WalError {
    move |error| WalError { operation, path: path.to_owned(), kind: error.kind(), message: error.to_string() }
}

/// What the thread tells about itself.
#[derive(Debug, Default)]
pub struct WalMetrics {
    pub written_bytes: AtomicU64,
    pub syncs: AtomicU64,
    pub sync_nanoseconds: AtomicU64,
    /// Bytes of segments on disk, spares included.
    pub kept_bytes: Gauge<u64, AtomicU64>,
}

/// What becomes of a write. Called on the WAL's thread.
pub trait WalListener: Send + 'static {
    /// That write, and all before it, are on stable storage.
    fn durable(&mut self, number: WriteNumber);
    /// Nothing more will become durable.
    fn failed(&mut self, error: WalError);
    /// An `fdatasync` of a segment took so long.
    fn synced(&mut self, _took: Duration) {}
    /// So many bytes of segments are kept, more than [`KEPT_LOG_ALARM_BYTES`]. Called once in a while.
    fn grown(&mut self, kept_bytes: u64) {
        tracing::warn!(
            target: "quorate", kept_bytes, limit_bytes = KEPT_LOG_ALARM_BYTES,
            "the write-ahead log has grown above its limit: the state store is behind it, and the log will fill the disk"
        );
    }
}

/// Reads and hands over; clones speak to the same thread.
#[derive(Clone, Debug)]
pub struct Wal {
    directory: Arc<PathBuf>,
    writes: mpsc::Sender<(WriteNumber, Vec<WalOp>)>,
    preparer: Arc<Preparer>,
    metrics: Arc<WalMetrics>,
}

/// The running threads. They end when the last [`Wal`] is dropped, or on a failure.
#[derive(Debug)]
pub struct WalThreads {
    writer: JoinHandle<()>,
    preparer: JoinHandle<()>,
}

impl WalThreads {
    /// Waits until everything handed over is carried out. Drop every [`Wal`] before.
    pub fn join(self) {
        for thread in [self.writer, self.preparer] {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// What is in the log's directory.
#[derive(Debug, Default)]
pub struct Listing {
    /// In the order of their ids: read each whole and feed it to [`quorate_core::wal::Recovery`].
    pub segments: Vec<(SegmentId, PathBuf)>,
    /// What was being prepared when a life ended.
    unfinished: Vec<PathBuf>,
}

/// Lists the directory and changes nothing.
///
/// # Errors
/// Any error of the file system, and a file that is none of the log's.
pub fn list(directory: &Path) -> Result<Listing, WalError> {
    let mut segments = BTreeMap::new();
    let mut unfinished = Vec::new();
    for file in std::fs::read_dir(directory).map_err(failed("list", directory))? {
        let path = file.map_err(failed("list", directory))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".tmp") {
            unfinished.push(path);
        } else if let Some(segment) = parse_name(name) {
            segments.insert(segment, path);
        } else if name != LOST_AND_FOUND && !name.starts_with(ASIDE) {
            let message = "is not a file of the write-ahead log; move it out of the directory".to_owned();
            return Err(WalError { operation: "open", path, kind: io::ErrorKind::InvalidData, message });
        }
    }
    Ok(Listing { segments: segments.into_iter().collect(), unfinished })
}

impl Listing {
    /// Removes what was being prepared. For an owner only.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove_unfinished(&self) -> Result<(), WalError> {
        self.unfinished.iter().try_for_each(|path| std::fs::remove_file(path).map_err(failed("remove", path)))
    }

    /// Moves all segments to a directory within, whose name is returned; `None` if there are none.
    ///
    /// # Errors
    /// The file system's.
    pub fn move_aside(&self, directory: &Path) -> Result<Option<PathBuf>, WalError> {
        if self.segments.is_empty() {
            return Ok(None);
        }
        let aside =
            (1..).map(|number| directory.join(format!("{ASIDE}{number}"))).find(|aside| !aside.exists()).expect("numbers do not end");
        std::fs::create_dir(&aside).map_err(failed("create directory", &aside))?;
        for (segment, path) in &self.segments {
            std::fs::rename(path, aside.join(segment_file_name(*segment))).map_err(failed("move aside", path))?;
        }
        sync_directory(&aside)?;
        sync_directory(directory)?;
        Ok(Some(aside))
    }
}

fn parse_name(name: &str) -> Option<SegmentId> {
    let segment = SegmentId(u64::from_str_radix(name.strip_suffix(".wal")?, 16).ok()?);
    (segment_file_name(segment) == name).then_some(segment)
}

impl Wal {
    /// Starts the threads on a directory that [`list`] has seen.
    ///
    /// # Errors
    /// If the directory cannot be opened or a thread not be started.
    pub fn start(directory: &Path, listener: impl WalListener) -> Result<(Self, WalThreads), WalError> {
        Self::start_with(directory, listener, KEPT_LOG_ALARM_BYTES)
    }

    fn start_with(directory: &Path, listener: impl WalListener, alarm_bytes: u64) -> Result<(Self, WalThreads), WalError> {
        let preparer = Arc::new(Preparer::default());
        let metrics = Arc::new(WalMetrics::default());
        for (_, path) in list(directory)?.segments {
            metrics.kept_bytes.inc_by(std::fs::metadata(&path).map_err(failed("look at", &path))?.len());
        }
        let (writes, queue) = mpsc::channel(QUEUED_WRITES);
        let writer = WalWriter {
            directory: directory.to_owned(),
            directory_file: File::open(directory).map_err(failed("open", directory))?,
            files: BTreeMap::new(),
            preparer: preparer.clone(),
            metrics: metrics.clone(),
            alarm_bytes,
            alarms: Throttle::new(1, ALARM_INTERVAL, Instant::now()),
            listener,
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let ending = StopPreparer(preparer.clone());
        let writer = thread("wal")
            .spawn(move || {
                let _ending = ending;
                writer.run(queue);
            })
            .map_err(failed("start thread for", directory))?;
        let (background, home) = (preparer.clone(), directory.to_owned());
        let background = thread("wal-prepare").spawn(move || background.run(&home)).map_err(failed("start thread for", directory))?;
        let wal = Self { directory: Arc::new(directory.to_owned()), writes, preparer, metrics };
        Ok((wal, WalThreads { writer, preparer: background }))
    }

    /// Queues a write; waits while [`QUEUED_WRITES`] are queued.
    ///
    /// # Errors
    /// If the thread has ended; the listener was told why.
    pub async fn write(&self, number: WriteNumber, ops: Vec<WalOp>) -> Result<(), WalStopped> {
        self.writes.send((number, ops)).await.map_err(|_| WalStopped)
    }

    /// As [`Self::write`], from a thread that may block.
    ///
    /// # Errors
    /// If the thread has ended; the listener was told why.
    pub fn write_blocking(&self, number: WriteNumber, ops: Vec<WalOp>) -> Result<(), WalStopped> {
        self.writes.blocking_send((number, ops)).map_err(|_| WalStopped)
    }

    /// Makes a segment ready in the background. That it fails is no harm: `Create` then makes one, and fails for itself.
    pub fn prepare(&self, segment: SegmentId, length: u64) {
        self.preparer.ask(segment, length);
    }

    /// Reads from a segment, on the caller's thread. What lies beyond the end of the file is left out, and so is all of a segment
    /// that was retired meanwhile.
    ///
    /// # Errors
    /// Any other error of the file system.
    pub fn read(&self, segment: SegmentId, offset: u64, length: u32) -> Result<bytes::Bytes, WalError> {
        let path = self.directory.join(segment_file_name(segment));
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(bytes::Bytes::new()),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let mut buffer = vec![0; length as usize];
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", &path)(error)),
            }
        }
        buffer.truncate(filled);
        Ok(buffer.into())
    }

    #[must_use]
    pub fn metrics(&self) -> &WalMetrics {
        &self.metrics
    }
}

/// The WAL's thread has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalStopped;

impl fmt::Display for WalStopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the write-ahead log has stopped")
    }
}

impl std::error::Error for WalStopped {}

struct WalWriter<L> {
    directory: PathBuf,
    directory_file: File,
    files: BTreeMap<SegmentId, File>,
    preparer: Arc<Preparer>,
    metrics: Arc<WalMetrics>,
    alarm_bytes: u64,
    alarms: Throttle,
    listener: L,
}

impl<L: WalListener> WalWriter<L> {
    fn run(mut self, mut queue: mpsc::Receiver<(WriteNumber, Vec<WalOp>)>) {
        let mut batch = Vec::with_capacity(WRITES_PER_BATCH);
        while queue.blocking_recv_many(&mut batch, WRITES_PER_BATCH) > 0 {
            let Some(newest) = batch.last().map(|(number, _)| *number) else { break };
            let ops: Vec<WalOp> = batch.drain(..).flat_map(|(_, ops)| ops).collect();
            match self.carry_out(&group(ops)) {
                Ok(()) => self.listener.durable(newest),
                Err(error) => return self.listener.failed(error),
            }
        }
    }

    fn carry_out(&mut self, ops: &[WalOp]) -> Result<(), WalError> {
        ops.iter().try_for_each(|op| match op {
            WalOp::Create { segment, length } => self.create(*segment, *length),
            WalOp::Recycle { from, to } => {
                let (old, new) = (self.path(*from), self.path(*to));
                std::fs::rename(&old, &new).map_err(failed("rename", &old))?;
                if let Some(file) = self.files.remove(from) {
                    self.files.insert(*to, file);
                }
                Ok(())
            }
            WalOp::WriteAt { segment, offset, bytes } => {
                let path = self.path(*segment);
                self.file(*segment)?.write_all_at(bytes, *offset).map_err(failed("write", &path))?;
                self.metrics.written_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok(())
            }
            WalOp::Sync { segment } => self.sync(*segment),
            WalOp::SyncDirectory => self.directory_file.sync_all().map_err(failed("sync directory", &self.directory)),
            WalOp::Remove { segment } => {
                let path = self.path(*segment);
                self.files.remove(segment);
                let length = std::fs::metadata(&path).map_err(failed("look at", &path))?.len();
                std::fs::remove_file(&path).map_err(failed("remove", &path))?;
                self.metrics.kept_bytes.dec_by(length);
                Ok(())
            }
        })
    }

    fn sync(&mut self, segment: SegmentId) -> Result<(), WalError> {
        let path = self.path(segment);
        let begun = Instant::now();
        self.file(segment)?.sync_data().map_err(failed("sync", &path))?;
        let took = begun.elapsed();
        self.metrics.syncs.fetch_add(1, Ordering::Relaxed);
        self.metrics.sync_nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.listener.synced(took);
        Ok(())
    }

    /// Renames a prepared file, or makes one here and now.
    fn create(&mut self, segment: SegmentId, length: u64) -> Result<(), WalError> {
        let path = self.path(segment);
        let (prepared, file) = match self.preparer.take(length) {
            Some(prepared) => prepared,
            None => zero_filled(&self.directory.join(format!("{segment}.now.tmp")), length)?,
        };
        // An earlier life that was cut short may have made one.
        let replaced = std::fs::metadata(&path).map_or(0, |found| found.len());
        std::fs::rename(&prepared, &path).map_err(failed("rename", &prepared))?;
        self.metrics.kept_bytes.dec_by(replaced);
        self.files.insert(segment, file);
        let kept = self.metrics.kept_bytes.inc_by(length) + length;
        if kept > self.alarm_bytes && self.alarms.admit(Instant::now()).is_some() {
            self.listener.grown(kept);
        }
        Ok(())
    }

    fn file(&mut self, segment: SegmentId) -> Result<&File, WalError> {
        let path = self.path(segment);
        Ok(match self.files.entry(segment) {
            std::collections::btree_map::Entry::Occupied(open) => open.into_mut(),
            std::collections::btree_map::Entry::Vacant(closed) => {
                closed.insert(OpenOptions::new().write(true).open(&path).map_err(failed("open", &path))?)
            }
        })
    }

    fn path(&self, segment: SegmentId) -> PathBuf {
        self.directory.join(segment_file_name(segment))
    }
}

/// Group commit: of writes one behind the other to the same segment, only the last is followed by the sync.
fn group(ops: Vec<WalOp>) -> Vec<WalOp> {
    let mut grouped: Vec<WalOp> = Vec::with_capacity(ops.len());
    for op in ops {
        if let (WalOp::WriteAt { segment, .. }, Some(WalOp::Sync { segment: synced })) = (&op, grouped.last())
            && segment == synced
            && matches!(grouped[..], [.., WalOp::WriteAt { .. }, WalOp::Sync { .. }])
        {
            grouped.pop();
        }
        grouped.push(op);
    }
    grouped
}

fn sync_directory(directory: &Path) -> Result<(), WalError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(failed("sync directory", directory))
}

/// A file of zeros that were written, not just promised, and are on stable storage.
fn zero_filled(path: &Path, length: u64) -> Result<(PathBuf, File), WalError> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).map_err(failed("create", path))?;
    let zeros = vec![0; ZERO_FILL_BYTES];
    let mut offset = 0;
    while offset < length {
        let count = usize::try_from(length - offset).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(&zeros[..count], offset).map_err(failed("fill", path))?;
        offset += count as u64;
    }
    file.sync_all().map_err(failed("sync", path))?;
    Ok((path.to_owned(), file))
}

/// As [`zero_filled`], but only where there is room for the next as well: on a small disk the last space is for what must be written.
fn zero_filled_ahead(directory: &Path, path: &Path, length: u64) -> Result<(PathBuf, File), WalError> {
    let free = free_bytes(directory).map_err(failed("look at the file system of", directory))?;
    if free / 2 < length {
        let message = format!("only {free} bytes are free, so no file is made ready ahead of time");
        return Err(WalError { operation: "prepare", path: path.to_owned(), kind: io::ErrorKind::StorageFull, message });
    }
    zero_filled(path, length)
}

/// What this user may still write to the file system of a directory.
pub(crate) fn free_bytes(directory: &Path) -> io::Result<u64> {
    let found = nix::sys::statvfs::statvfs(directory)?;
    Ok(found.blocks_available() * found.fragment_size())
}

/// Makes files ready, under temporary names. Any of them serves for any segment of its length.
#[derive(Debug, Default)]
struct Preparer {
    state: Mutex<Prepared>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Prepared {
    asked: VecDeque<(SegmentId, u64)>,
    ready: Vec<(u64, PathBuf, File)>,
    ended: bool,
}

impl Preparer {
    fn lock(&self) -> MutexGuard<'_, Prepared> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, segment: SegmentId, length: u64) {
        let mut state = self.lock();
        if state.asked.len() + state.ready.len() < PREPARED_SEGMENTS {
            state.asked.push_back((segment, length));
            self.changed.notify_all();
        }
    }

    fn take(&self, length: u64) -> Option<(PathBuf, File)> {
        let mut state = self.lock();
        let at = state.ready.iter().position(|(ready, ..)| *ready == length)?;
        let (_, path, file) = state.ready.remove(at);
        Some((path, file))
    }

    fn run(&self, directory: &Path) {
        while let Some((segment, length)) = self.next() {
            let path = directory.join(format!("{segment}.tmp"));
            match zero_filled_ahead(directory, &path, length) {
                Ok((path, file)) => self.lock().ready.push((length, path, file)),
                Err(error) => {
                    tracing::warn!(%error, "a segment could not be prepared");
                    // It may fill the disk; what the log itself needs it will make, and say so if it cannot.
                    if let Err(error) = std::fs::remove_file(&path)
                        && error.kind() != io::ErrorKind::NotFound
                    {
                        tracing::warn!(%error, path = %path.display(), "nor be removed");
                    }
                }
            }
            self.lock().asked.pop_front();
            self.changed.notify_all();
        }
    }

    /// The front of the queue stays there while it is worked on.
    fn next(&self) -> Option<(SegmentId, u64)> {
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            if let Some(front) = state.asked.front() {
                return Some(*front);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Ends the preparer with the writer, however that ends.
struct StopPreparer(Arc<Preparer>);

impl Drop for StopPreparer {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
