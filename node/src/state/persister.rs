//! The thread that writes behind.

use super::{
    FjallReader, Keyspaces, PART_BYTES, PART_CLOSED_AT_RETIRE_BYTES, RETIRED_KEY, SETTLED_BYTES_KEY, StateError, StateStore, Usage,
    long_key, options, part_name, receiving::Receiver,
};
use crate::data_dir::StateDirectories;
use bytes::Bytes;
use fjall::{Keyspace, OwnedWriteBatch};
use quorate_core::{
    member::StoreWork,
    storage::{RowOp, Table, WriteBatch, parse_recent_key, recent_key},
    types::{BatchNumber, RevisionId, StateNumber, WriteNumber},
};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
};

/// Bytes of queued batches that are merged into one atomic write.
const MERGE_BYTES: usize = 4 << 20;

/// What the persister has done.
#[derive(Clone, Debug)]
pub enum StateEvent {
    /// Batches through this one are stored, not yet synced; the reader sees them.
    Persisted(BatchNumber, FjallReader),
    /// Rows were dropped; the reader does not see them.
    Retired(FjallReader),
    /// Batches through this one are on stable storage.
    Synced(BatchNumber),
    /// The directory of a state to be received is open.
    Begun(FjallReader),
    /// Rows of it are stored, or all of it is synced; it takes so many bytes.
    Stored(FjallReader, u64),
    /// A state to be received could not be stored. The one in force is well.
    NotStored(String),
    /// The received state is in force.
    Switched,
    /// The store cannot be written. Nothing more happens.
    Failed(String),
}

enum Job {
    Commit { number: BatchNumber, batch: WriteBatch },
    Sync,
    Retire { below: RevisionId },
    Begin { state: StateNumber, anew: bool },
    Store { state: StateNumber, batch: WriteBatch },
    SyncState { state: StateNumber },
    Switch { state: StateNumber },
    Drop { state: StateNumber },
}

/// Hands work to the thread. What is queued is bounded by whoever makes batches: [`quorate_core::machine::MachineLimits`]'s
/// `unpersisted_bytes`. Dropping it ends the thread once the queue is written; [`Persister::close`] waits for that.
#[derive(Debug)]
pub struct Persister {
    jobs: mpsc::Sender<Job>,
    usage: Arc<Usage>,
    thread: thread::JoinHandle<()>,
}

impl Persister {
    /// Starts the thread; `report` is called on it. States that are received lie in `directories`.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(
        store: StateStore,
        directories: StateDirectories,
        report: impl FnMut(StateEvent) + Send + 'static,
    ) -> Result<Self, StateError> {
        let usage = store.usage();
        let receiver = Receiver::new(directories, store.memory);
        let (jobs, queue) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("persister".into())
            .spawn(move || run(store, receiver, &queue, report))
            .map_err(|error: io::Error| StateError::Failed(format!("cannot start a thread: {error}")))?;
        Ok(Self { jobs, usage, thread })
    }

    /// Writes behind. `durable` is what this member's log has on stable storage: the store must never be ahead of it.
    ///
    /// # Panics
    /// If `after` is not durable: that would be a bug that could lose acknowledged writes.
    pub fn commit(&self, number: BatchNumber, batch: WriteBatch, after: WriteNumber, durable: WriteNumber) {
        assert!(after <= durable, "batch {number} needs write {after} of the log, but only {durable} is durable");
        self.usage.queued.fetch_add(batch.bytes as u64, Ordering::Relaxed);
        self.send(Job::Commit { number, batch });
    }

    /// Bytes of rows, the queue's included.
    #[must_use]
    pub fn usage(&self) -> Arc<Usage> {
        Arc::clone(&self.usage)
    }

    pub fn sync(&self) {
        self.send(Job::Sync);
    }

    pub fn retire(&self, below: RevisionId) {
        self.send(Job::Retire { below });
    }

    /// Work on a state that is received.
    ///
    /// # Panics
    /// On work of another kind.
    pub fn receive(&self, work: StoreWork) {
        self.send(match work {
            StoreWork::BeginState { state, anew } => Job::Begin { state, anew },
            StoreWork::StoreRows { state, batch } => Job::Store { state, batch },
            StoreWork::SyncState { state } => Job::SyncState { state },
            StoreWork::SwitchState { state } => Job::Switch { state },
            StoreWork::DropState { state } => Job::Drop { state },
            StoreWork::Persist { .. } | StoreWork::Sync | StoreWork::Retire { .. } => unreachable!("of the state in force"),
        });
    }

    fn send(&self, job: Job) {
        // A thread that ended has reported `Failed`, which ends the process.
        let _ = self.jobs.send(job);
    }

    /// Ends once everything queued is written and synced.
    pub fn close(self) {
        self.send(Job::Sync);
        drop(self.jobs);
        let _ = self.thread.join();
    }
}

#[cfg(test)]
impl Persister {
    /// Ends once everything queued is written, as a process does that is killed: nothing says what is synced.
    pub(super) fn abandon(self) {
        drop(self.jobs);
        self.thread.join().unwrap();
    }
}

fn run(store: StateStore, mut receiver: Receiver, queue: &mpsc::Receiver<Job>, mut report: impl FnMut(StateEvent)) {
    let mut writer = match StateWriter::new(store) {
        Ok(writer) => writer,
        Err(error) => return report(StateEvent::Failed(error.to_string())),
    };
    let mut waiting = None;
    loop {
        let Some(job) = waiting.take().or_else(|| queue.recv().ok()) else { return };
        let done = match job {
            Job::Commit { mut number, mut batch } => {
                while batch.bytes < MERGE_BYTES {
                    match queue.try_recv() {
                        Ok(Job::Commit { number: later, batch: next }) => {
                            number = later;
                            batch.absorb(next);
                        }
                        Ok(other) => {
                            waiting = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                writer.commit(number, batch).map(Done::Persisted)
            }
            Job::Sync => writer.sync().map(Done::Synced),
            Job::Retire { below } => writer.retire(below).map(|()| Done::Retired),
            Job::Begin { state, anew } => Ok(Done::Received(receiver.begin(state, anew).map(StateEvent::Begun))),
            Job::Store { state, batch } => {
                let stored = receiver.store(state, batch);
                Ok(Done::Received(stored.map(|(reader, bytes)| StateEvent::Stored(reader, bytes))))
            }
            Job::SyncState { state } => {
                let synced = receiver.sync(state);
                Ok(Done::Received(synced.map(|(reader, bytes)| StateEvent::Stored(reader, bytes))))
            }
            Job::Switch { state } => receiver.switch(state, &mut writer).map(|()| Done::Switched),
            Job::Drop { state } => {
                receiver.drop_state(state);
                continue;
            }
        };
        receiver.sweep();
        match done {
            Ok(Done::Persisted(number)) => report(StateEvent::Persisted(number, writer.store.reader())),
            Ok(Done::Synced(number)) => report(StateEvent::Synced(number)),
            Ok(Done::Received(Ok(event))) => report(event),
            Ok(Done::Received(Err(error))) => report(StateEvent::NotStored(writer.store.explain(&error))),
            Ok(Done::Switched) => report(StateEvent::Switched),
            Ok(Done::Retired) => report(StateEvent::Retired(writer.store.reader())),
            Err(error) => return report(StateEvent::Failed(writer.store.explain(&error))),
        }
    }
}

enum Done {
    Persisted(BatchNumber),
    Synced(BatchNumber),
    Retired,
    Received(Result<StateEvent, StateError>),
    Switched,
}

pub(super) struct StateWriter {
    pub(super) store: StateStore,
    written: BatchNumber,
    sizes: RecentSizes,
}

/// How many bytes the revisions of `Recent` take, in steps fine enough for a small quota and few enough for a large store.
struct RecentSizes {
    /// By the first main revision of the step.
    steps: BTreeMap<i64, u64>,
    /// Of the newest part.
    newest_bytes: u64,
    newest_main: i64,
    close_newest: bool,
}

/// A step is at least so large: fine in a small part, coarse in a large one.
const FINE_STEP_BYTES: u64 = 4 << 10;
const COARSE_STEP_BYTES: u64 = 256 << 10;

impl RecentSizes {
    fn count(&mut self, main: i64, bytes: u64) {
        let step = if self.newest_bytes < PART_CLOSED_AT_RETIRE_BYTES { FINE_STEP_BYTES } else { COARSE_STEP_BYTES };
        self.newest_bytes += bytes;
        self.newest_main = self.newest_main.max(main);
        match self.steps.last_entry() {
            Some(mut last) if *last.key() >= main || *last.get() < step => *last.get_mut() += bytes,
            _ => {
                self.steps.insert(main, bytes);
            }
        }
    }

    /// Forgets the steps that lie below a revision as a whole, and returns what is left in bytes.
    fn retire(&mut self, below: i64) -> u64 {
        while let Some((first, _)) = self.steps.first_key_value().map(|(first, bytes)| (*first, *bytes)) {
            let next = self.steps.range(first + 1..).next().map_or(self.newest_main + 1, |(next, _)| *next);
            if next > below {
                break;
            }
            self.steps.remove(&first);
        }
        self.bytes()
    }

    fn bytes(&self) -> u64 {
        self.steps.values().sum()
    }
}

impl StateWriter {
    /// Counts what `Recent` holds, from row sizes alone.
    pub(super) fn new(store: StateStore) -> Result<Self, StateError> {
        let mut sizes = RecentSizes { steps: BTreeMap::new(), newest_bytes: 0, newest_main: 0, close_newest: false };
        let retired = recent_key(store.keyspaces.retired);
        for part in store.keyspaces.recent.values() {
            sizes.newest_bytes = 0;
            for row in part.range(retired.as_slice()..) {
                let (key, value) = row.into_inner()?;
                let id = parse_recent_key(&key).ok_or_else(|| StateError::Failed("malformed key in a table of recent rows".into()))?;
                sizes.count(id.main.0, (key.len() + value.len()) as u64);
            }
        }
        store.usage.recent.store(sizes.bytes(), Ordering::Relaxed);
        Ok(Self { store, written: BatchNumber::default(), sizes })
    }

    fn commit(&mut self, number: BatchNumber, rows: WriteBatch) -> Result<BatchNumber, StateError> {
        let queued = rows.bytes as u64;
        let written = self.write(number, rows)?;
        self.store.usage.queued.fetch_sub(queued, Ordering::Relaxed);
        Ok(written)
    }

    pub(super) fn write(&mut self, number: BatchNumber, rows: WriteBatch) -> Result<BatchNumber, StateError> {
        let mut batch = self.store.database.batch();
        // Within one atomic write a key must occur once: the last change of it counts.
        let mut meta: HashMap<Bytes, Option<Bytes>> = HashMap::new();
        let mut settled: HashMap<Bytes, Option<Bytes>> = HashMap::new();
        for row in rows.rows {
            match row {
                RowOp::Put { table: Table::Meta, key, value } => drop(meta.insert(key, Some(value))),
                RowOp::Delete { table: Table::Meta, key } => drop(meta.insert(key, None)),
                RowOp::Put { table: Table::Settled, key, value } => drop(settled.insert(key, Some(value))),
                RowOp::Delete { table: Table::Settled, key } => drop(settled.insert(key, None)),
                RowOp::Put { table: Table::Recent, key, value } => {
                    let main = main_of(&key)?;
                    let part = self.part(main)?;
                    self.sizes.count(main, (key.len() + value.len()) as u64);
                    // What readers still have of it in memory is this very allocation.
                    batch.insert(&part, key, value);
                }
                RowOp::Delete { table: Table::Recent, key } => {
                    let part = self.part(main_of(&key)?)?;
                    batch.remove(&part, key);
                }
            }
        }
        for (key, value) in meta {
            match value {
                Some(value) => batch.insert(&self.store.keyspaces.meta, key, value),
                None => batch.remove(&self.store.keyspaces.meta, key),
            }
        }
        if !settled.is_empty() {
            self.write_settled(settled, &mut batch)?;
        }
        batch.commit()?;
        self.written = number;
        self.store.usage.recent.store(self.sizes.bytes(), Ordering::Relaxed);
        Ok(number)
    }

    /// The bytes of `settled` are counted exactly, in the same atomic write.
    fn write_settled(&self, rows: HashMap<Bytes, Option<Bytes>>, batch: &mut OwnedWriteBatch) -> Result<(), StateError> {
        let table = &self.store.keyspaces.settled;
        let mut bytes = self.store.usage.settled.load(Ordering::Relaxed);
        for (key, value) in rows {
            let (key, value) = if key.len() >= long_key::LONG {
                (long_key::stored_key(&key).into(), value.map(|value| long_key::stored_value(&key, &value).into()))
            } else {
                (key, value)
            };
            if let Some(size) = table.size_of(&key)? {
                bytes = bytes.saturating_sub(key.len() as u64 + u64::from(size));
            }
            match value {
                Some(value) => {
                    bytes += (key.len() + value.len()) as u64;
                    batch.insert(table, key, value);
                }
                None => batch.remove(table, key),
            }
        }
        batch.insert(&self.store.host, SETTLED_BYTES_KEY, bytes.to_le_bytes());
        self.store.usage.settled.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// The part that holds a revision. A revision never spans two.
    fn part(&mut self, main: i64) -> Result<Keyspace, StateError> {
        let full = self.sizes.newest_bytes >= PART_BYTES || self.sizes.close_newest;
        if let Some((_, part)) = self.store.keyspaces.recent.range(..=main).next_back() {
            let is_newest = self.store.keyspaces.recent.range(main + 1..).next().is_none();
            if !(full && is_newest && main > self.sizes.newest_main) {
                return Ok(part.clone());
            }
        }
        let part = self.store.database.keyspace(&part_name(main), || options(self.store.memory))?;
        self.change_keyspaces(|keyspaces| drop(keyspaces.recent.insert(main, part.clone())));
        self.sizes.newest_bytes = 0;
        self.sizes.close_newest = false;
        Ok(part)
    }

    fn change_keyspaces(&mut self, change: impl FnOnce(&mut Keyspaces)) {
        let mut keyspaces = Keyspaces::clone(&self.store.keyspaces);
        change(&mut keyspaces);
        self.store.keyspaces = Arc::new(keyspaces);
    }

    pub(super) fn sync(&mut self) -> Result<BatchNumber, StateError> {
        self.store.sync()?;
        Ok(self.written)
    }

    /// First the mark, then the parts: a crash in between leaves parts that the next retirement deletes.
    fn retire(&mut self, below: RevisionId) -> Result<(), StateError> {
        if below <= self.store.keyspaces.retired {
            return Ok(());
        }
        self.store.host.insert(RETIRED_KEY, recent_key(below))?;
        self.store.sync()?;
        let firsts: Vec<i64> = self.store.keyspaces.recent.keys().copied().collect();
        let gone: Vec<i64> = firsts.windows(2).filter(|pair| pair[1] <= below.main.0).map(|pair| pair[0]).collect();
        let mut deleted = Vec::new();
        self.change_keyspaces(|keyspaces| {
            keyspaces.retired = below;
            deleted = gone.iter().filter_map(|first| keyspaces.recent.remove(first)).collect();
        });
        for part in deleted {
            self.store.database.delete_keyspace(part)?;
        }
        self.sizes.close_newest |= self.sizes.newest_bytes >= PART_CLOSED_AT_RETIRE_BYTES;
        let left = self.sizes.retire(below.main.0);
        self.store.usage.recent.store(left, Ordering::Relaxed);
        Ok(())
    }
}

fn main_of(key: &[u8]) -> Result<i64, StateError> {
    parse_recent_key(key).map(|id| id.main.0).ok_or_else(|| StateError::Failed("a recent row's key is not a revision".into()))
}
