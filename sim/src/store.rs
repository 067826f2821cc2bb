//! The simulated state store. Crash model: any prefix of the batches since the last sync, or it will not open at all. Reads may fail,
//! and what is stored may rot: a row is noticed by its checksum when it is read, the journal when the store is opened.

use crate::chance::Chance;
use bytes::Bytes;
use quorate_core::storage::{Direction, ReadFailed, RowOp, StateReader, Table, WriteBatch, recent_key};
use quorate_core::types::RevisionId;
use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

const TABLES: usize = 3;
/// Revisions that share a chunk of [`Table::Recent`]: what a copy on write copies.
const CHUNK_BITS: u32 = 4;

/// Batches in the journal, synced, above which its tables are written out and it begins anew.
const JOURNAL_BATCHES: usize = 64;

/// In the reason for which a process ends, or does not start: the device refused a read.
pub const READ_ERROR: &str = "the simulated device fails a read";
/// The same: a checksum does not hold.
pub const BAD_CHECKSUM: &str = "a row of the simulated store has a bad checksum";

#[derive(Clone, Debug)]
struct Row {
    value: Bytes,
    rotten: bool,
}

type Chunk = Arc<BTreeMap<Bytes, Row>>;

/// A state of the whole store; cloning shares everything but the lists of chunks.
#[derive(Clone, Debug, Default)]
struct State {
    /// Chunks in key order: every key of a chunk is below every key of the next.
    tables: [BTreeMap<u64, Chunk>; TABLES],
    /// Bytes of all rows.
    bytes: u64,
}

fn row_bytes(key: &Bytes, row: &Row) -> u64 {
    (key.len() + row.value.len()) as u64
}

fn chunk_of(table: Table, key: &[u8]) -> u64 {
    match (table, key.first_chunk::<8>()) {
        (Table::Recent, Some(main)) => u64::from_be_bytes(*main) >> CHUNK_BITS,
        _ => 0,
    }
}

impl State {
    fn apply(&mut self, batch: &WriteBatch) {
        for row in &batch.rows {
            match row {
                RowOp::Put { table, key, value } => {
                    let chunk = self.tables[*table as usize].entry(chunk_of(*table, key)).or_default();
                    let row = Row { value: value.clone(), rotten: false };
                    self.bytes += row_bytes(key, &row);
                    if let Some(replaced) = Arc::make_mut(chunk).insert(key.clone(), row) {
                        self.bytes -= row_bytes(key, &replaced);
                    }
                }
                RowOp::Delete { table, key } => {
                    if let Some(chunk) = self.tables[*table as usize].get_mut(&chunk_of(*table, key))
                        && let Some(removed) = Arc::make_mut(chunk).remove(key)
                    {
                        self.bytes -= row_bytes(key, &removed);
                    }
                }
            }
        }
    }

    fn retire(&mut self, table: Table, below: RevisionId) {
        let end = recent_key(below);
        let last = chunk_of(table, &end);
        let kept = self.tables[table as usize].split_off(&last);
        let dropped = std::mem::replace(&mut self.tables[table as usize], kept);
        let mut bytes: u64 = dropped.values().flat_map(|chunk| chunk.iter()).map(|(key, row)| row_bytes(key, row)).sum();
        if let Some(chunk) = self.tables[table as usize].get_mut(&last) {
            Arc::make_mut(chunk).retain(|key, row| {
                let kept = key.as_ref() >= end.as_slice();
                bytes += if kept { 0 } else { row_bytes(key, row) };
                kept
            });
        }
        self.bytes -= bytes;
    }
}

/// When the device refuses a read, whoever reads.
#[derive(Debug, Default)]
struct Device {
    /// The read that many from here fails; 0: none does.
    failing: AtomicU64,
}

impl Device {
    fn read(&self) -> Result<(), ReadFailed> {
        match self.failing.load(Ordering::Relaxed) {
            0 => Ok(()),
            left => {
                self.failing.store(left - 1, Ordering::Relaxed);
                if left == 1 { Err(ReadFailed(READ_ERROR.into())) } else { Ok(()) }
            }
        }
    }
}

#[derive(Clone, Debug)]
pub struct SimReader {
    state: Arc<State>,
    device: Arc<Device>,
}

impl SimReader {
    /// The value of a row, if it can be read.
    fn value(&self, row: &Row) -> Result<Bytes, ReadFailed> {
        self.device.read()?;
        if row.rotten { Err(ReadFailed(BAD_CHECKSUM.into())) } else { Ok(row.value.clone()) }
    }

    fn visit<'a>(
        &self,
        rows: impl Iterator<Item = (&'a Bytes, &'a Row)>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), ReadFailed> {
        for (key, row) in rows {
            if visit(key, self.value(row)?).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl StateReader for SimReader {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadFailed> {
        let row = self.state.tables[table as usize].get(&chunk_of(table, key)).and_then(|chunk| chunk.get(key));
        row.map(|row| self.value(row)).transpose()
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), ReadFailed> {
        if !end.is_empty() && start >= end {
            return Ok(());
        }
        let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        let last = if end.is_empty() { u64::MAX } else { chunk_of(table, end) };
        // A start shorter than a revision lies before every chunk.
        let first = if start.len() < 8 { 0 } else { chunk_of(table, start) };
        let rows = self.state.tables[table as usize]
            .range(first..=last.max(first))
            .flat_map(|(_, chunk)| chunk.range::<[u8], _>((Bound::Included(start), upper)));
        match direction {
            Direction::Forward => self.visit(rows, visit),
            Direction::Backward => self.visit(rows.rev(), visit),
        }
    }
}

/// What a crash left of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreCrash {
    /// So many batches of those since the last sync are gone.
    Lost(usize),
    WillNotOpen,
}

/// What a rotten byte of the journal did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JournalRot {
    /// The journal was empty.
    Nothing,
    /// No sync covered it, so it looks like a torn tail: so many batches are cut.
    Cut(usize),
    /// It was synced: the store will not open.
    WillNotOpen,
}

#[derive(Debug)]
pub struct SimStore {
    /// The state on stable storage, then one state per batch since. Never empty; the last is what readers get.
    states: Vec<Arc<State>>,
    /// Batches on stable storage that are still in the journal.
    journal: usize,
    device: Arc<Device>,
    /// It will not open: what was synced is not there, or not as it was.
    lost: bool,
}

impl SimStore {
    #[must_use]
    pub fn new() -> Self {
        Self { states: vec![Arc::default()], journal: 0, device: Arc::default(), lost: false }
    }

    fn newest(&self) -> &Arc<State> {
        self.states.last().expect("there is always a state")
    }

    pub fn commit(&mut self, batch: &WriteBatch) {
        let mut state = State::clone(self.newest());
        state.apply(batch);
        self.states.push(Arc::new(state));
    }

    #[must_use]
    pub fn reader(&self) -> SimReader {
        SimReader { state: Arc::clone(self.newest()), device: Arc::clone(&self.device) }
    }

    /// Bytes of all rows.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.newest().bytes
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.newest().tables.iter().all(BTreeMap::is_empty)
    }

    /// Batches a crash could take.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.states.len() - 1
    }

    /// Everything committed so far is on stable storage.
    pub fn sync(&mut self) {
        self.journal += self.unsynced();
        if self.journal > JOURNAL_BATCHES {
            self.journal = 0;
        }
        self.states.drain(..self.states.len() - 1);
    }

    /// Durable at once, and for every state a crash could fall back to.
    pub fn retire(&mut self, table: Table, below: RevisionId) {
        for state in &mut self.states {
            Arc::make_mut(state).retire(table, below);
        }
    }

    pub fn crash(&mut self, chance: &mut Chance, may_break: bool) -> StoreCrash {
        if may_break && self.unsynced() > 0 && chance.permille(30) {
            self.lost = true;
            return StoreCrash::WillNotOpen;
        }
        let kept = chance.between(0, self.unsynced() as u64) as usize;
        let lost = self.unsynced() - kept;
        self.states.truncate(kept + 1);
        self.sync();
        StoreCrash::Lost(lost)
    }

    /// Of all reads from here on the one with this number fails, from 1 on; 0: none does.
    pub fn fail_read(&mut self, number: u64) {
        self.device.failing.store(number, Ordering::Relaxed);
    }

    /// A row of the tables rots. Returns which, `None` if there is none.
    pub fn rot_row(&mut self, chance: &mut Chance) -> Option<(Table, Bytes)> {
        let tables = [Table::Meta, Table::Recent, Table::Settled];
        let keys = |table: Table| self.states[0].tables[table as usize].values().flat_map(|chunk| chunk.keys());
        let filled: Vec<Table> = tables.into_iter().filter(|table| keys(*table).next().is_some()).collect();
        let table = *filled.get(chance.below(filled.len() as u64) as usize)?;
        let key = keys(table).nth(chance.below(keys(table).count() as u64) as usize)?.clone();
        let chunk = chunk_of(table, &key);
        let stored = self.states[0].tables[table as usize][&chunk][&key].value.clone();
        for state in &mut self.states {
            // Where a later batch has replaced it, another row is read.
            let is_there =
                state.tables[table as usize].get(&chunk).and_then(|chunk| chunk.get(&key)).is_some_and(|row| row.value == stored);
            if is_there && let Some(chunk) = Arc::make_mut(state).tables[table as usize].get_mut(&chunk) {
                Arc::make_mut(chunk).insert(key.clone(), Row { value: stored.clone(), rotten: true });
            }
        }
        Some((table, key))
    }

    /// A byte of the journal rots.
    pub fn rot_journal(&mut self, chance: &mut Chance) -> JournalRot {
        let batches = self.journal + self.unsynced();
        let at = chance.below(batches as u64) as usize;
        if batches == 0 {
            JournalRot::Nothing
        } else if at < self.journal {
            self.lost = true;
            JournalRot::WillNotOpen
        } else {
            self.states.truncate(at - self.journal + 1);
            JournalRot::Cut(batches - at)
        }
    }

    /// Whether a row of it is rotten.
    #[must_use]
    pub fn has_rot(&self) -> bool {
        self.newest().tables.iter().flat_map(BTreeMap::values).flat_map(|chunk| chunk.values()).any(|row| row.rotten)
    }

    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// An empty store takes its place.
    pub fn begin_anew(&mut self) {
        *self = Self { device: Arc::clone(&self.device), ..Self::new() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Concern;
    use quorate_core::types::Revision;

    fn row(revision: i64) -> Bytes {
        Bytes::copy_from_slice(&recent_key(RevisionId { main: Revision(revision), sub: 0 }))
    }

    fn keys(store: &SimStore, direction: Direction) -> Vec<i64> {
        let mut seen = Vec::new();
        let visit = &mut |key: &[u8], _: Bytes| {
            seen.push(quorate_core::storage::parse_recent_key(key).expect("12 bytes").main.0);
            ControlFlow::Continue(())
        };
        store.reader().scan(Table::Recent, &row(3), &row(60), direction, visit).expect("never fails");
        seen
    }

    fn put(store: &mut SimStore, revision: i64) {
        let mut batch = WriteBatch::default();
        batch.put(Table::Recent, row(revision), Bytes::new());
        store.commit(&batch);
    }

    #[test]
    fn a_crash_leaves_a_prefix_that_contains_what_was_synced() {
        for seed in 0..200 {
            let mut chance = Chance::new(seed, Concern::Store, 0);
            let mut store = SimStore::new();
            let synced = chance.between(3, 40).cast_signed();
            let last = synced + chance.below(40).cast_signed();
            for revision in 3..=last {
                put(&mut store, revision);
                if revision == synced {
                    store.sync();
                }
            }
            let held = store.reader();
            let StoreCrash::Lost(lost) = store.crash(&mut chance, false) else { panic!("may not break") };
            let left = keys(&store, Direction::Forward);
            assert_eq!(left, (3..=(last - lost as i64).min(59)).collect::<Vec<_>>());
            assert!(last - lost as i64 >= synced);
            assert_eq!(keys(&store, Direction::Backward), left.iter().rev().copied().collect::<Vec<_>>());
            assert!(held.get(Table::Recent, &row(last)).expect("never fails").is_some(), "a snapshot does not change");
        }
    }

    #[test]
    fn what_is_retired_does_not_come_back_by_a_crash() {
        let mut store = SimStore::new();
        for revision in 3..50 {
            put(&mut store, revision);
        }
        store.retire(Table::Recent, RevisionId { main: Revision(20), sub: 0 });
        store.crash(&mut Chance::new(1, Concern::Store, 0), false);
        assert!(keys(&store, Direction::Forward).iter().all(|revision| *revision >= 20));
    }

    #[test]
    fn a_read_of_a_rotten_row_fails_until_another_takes_its_place_and_no_other_read_does() {
        let mut chance = Chance::new(1, Concern::Store, 0);
        let mut store = SimStore::new();
        (3..9).for_each(|revision| put(&mut store, revision));
        assert_eq!(store.rot_row(&mut chance), None, "nothing is in a table");
        store.sync();
        let before = store.reader();
        let (table, key) = store.rot_row(&mut chance).expect("rows are there");
        assert!(store.has_rot() && before.get(table, &key).is_ok(), "what is cached does not change");
        let failing = (3..9).filter(|revision| store.reader().get(Table::Recent, &row(*revision)).is_err());
        assert_eq!(failing.map(row).collect::<Vec<_>>(), vec![key.clone()]);
        assert!(store.reader().scan(table, &[], &[], Direction::Backward, &mut |_, _| ControlFlow::Continue(())).is_err());
        put(&mut store, quorate_core::storage::parse_recent_key(&key).expect("12 bytes").main.0);
        assert!(!store.has_rot() && store.reader().get(table, &key).is_ok());
    }

    #[test]
    fn the_read_that_the_device_refuses_fails_and_those_around_it_do_not() {
        let mut store = SimStore::new();
        (3..9).for_each(|revision| put(&mut store, revision));
        let reader = store.reader();
        store.fail_read(3);
        let read = |revision| reader.get(Table::Recent, &row(revision)).is_ok();
        assert_eq!([3, 4, 5, 6].map(read), [true, true, false, true]);
    }

    #[test]
    fn rot_of_the_journal_cuts_what_no_sync_covers_and_loses_the_store_otherwise() {
        let (mut cut, mut lost) = (0, 0);
        for seed in 0..200 {
            let mut chance = Chance::new(seed, Concern::Store, 0);
            let mut store = SimStore::new();
            assert_eq!(store.rot_journal(&mut chance), JournalRot::Nothing);
            (3..9).for_each(|revision| put(&mut store, revision));
            store.sync();
            (9..20).for_each(|revision| put(&mut store, revision));
            match store.rot_journal(&mut chance) {
                JournalRot::Cut(batches) => {
                    cut += 1;
                    assert!(!store.is_lost() && batches > 0);
                    assert_eq!(keys(&store, Direction::Forward), (3..20 - batches as i64).collect::<Vec<_>>());
                }
                JournalRot::WillNotOpen => {
                    lost += 1;
                    assert!(store.is_lost());
                }
                JournalRot::Nothing => unreachable!("batches are there"),
            }
        }
        assert!(cut > 50 && lost > 30, "{cut} cut, {lost} lost");
    }
}
