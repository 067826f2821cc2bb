//! A state store in memory, for tests and simulated worlds: cheap snapshots, reads that fail when asked to, and rows that rot.

use super::{Direction, ReadFailed, RowOp, StateReader, Table, WriteBatch, recent_key};
use crate::types::RevisionId;
use alloc::{collections::BTreeMap, sync::Arc};
use bytes::Bytes;
use core::{
    ops::{Bound, ControlFlow},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

const TABLES: usize = 3;
/// Revisions that share a chunk of [`Table::Recent`]: what a copy on write copies.
const CHUNK_BITS: u32 = 4;
/// Bytes of a [`Table::Recent`] key that say in which chunk it is.
const CHUNK_PREFIX: usize = 8;

/// What a read says that the device refuses.
pub const READ_ERROR: &str = "the device fails a read";
/// What a read of a rotten row says.
pub const BAD_CHECKSUM: &str = "a row has a bad checksum";

#[derive(Clone, Debug)]
struct Row {
    value: Bytes,
    rotten: bool,
}

type Chunk = Arc<BTreeMap<Bytes, Row>>;

/// What all snapshots of a store are on.
#[derive(Debug, Default)]
struct Device {
    /// The read of a row that many from here fails, alone; 0: none does.
    failing: AtomicU64,
    /// Every read fails.
    broken: AtomicBool,
}

/// The store, and a snapshot of it alike: a clone shares every row until one of the two is written to.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    rows: Arc<Rows>,
    device: Arc<Device>,
}

#[derive(Clone, Debug, Default)]
struct Rows {
    /// Chunks in key order: every key of a chunk is below every key of the next.
    tables: [BTreeMap<u64, Chunk>; TABLES],
    /// Bytes of all keys and values.
    bytes: u64,
}

impl MemoryStore {
    pub fn write(&mut self, batch: &WriteBatch) {
        let rows = Arc::make_mut(&mut self.rows);
        for row in &batch.rows {
            match row {
                RowOp::Put { table, key, value } => rows.put(*table, key, value),
                RowOp::Delete { table, key } => rows.delete(*table, key),
            }
        }
    }

    /// Drops rows below for good.
    pub fn retire(&mut self, table: Table, below: RevisionId) {
        Arc::make_mut(&mut self.rows).retire(table, below);
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.rows.bytes
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.tables.iter().all(BTreeMap::is_empty)
    }

    /// An empty store on the same device.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self { rows: Arc::default(), device: Arc::clone(&self.device) }
    }

    pub fn keys(&self, table: Table) -> impl Iterator<Item = &Bytes> {
        self.rows.tables[table as usize].values().flat_map(|chunk| chunk.keys())
    }

    /// Every read fails, of the store and its snapshots, until it is mended.
    pub fn break_off(&self) {
        self.device.broken.store(true, Ordering::Relaxed);
    }

    pub fn mend(&self) {
        self.device.broken.store(false, Ordering::Relaxed);
    }

    /// Of all rows read from here on, in the store and its snapshots, the one with this number fails, from 1 on; 0: none does.
    pub fn fail_read(&self, number: u64) {
        self.device.failing.store(number, Ordering::Relaxed);
    }

    /// A row rots, unless it has been replaced since `as_in`.
    pub fn rot(&mut self, table: Table, key: &Bytes, as_in: &Self) {
        let Some(value) = as_in.row(table, key).map(|row| row.value.clone()) else { return };
        if self.row(table, key).is_none_or(|row| row.value != value) {
            return;
        }
        if let Some(chunk) = Arc::make_mut(&mut self.rows).tables[table as usize].get_mut(&chunk_of(table, key)) {
            Arc::make_mut(chunk).insert(key.clone(), Row { value, rotten: true });
        }
    }

    /// Whether a row of it is rotten.
    #[must_use]
    pub fn has_rot(&self) -> bool {
        self.rows.tables.iter().flat_map(BTreeMap::values).flat_map(|chunk| chunk.values()).any(|row| row.rotten)
    }

    fn row(&self, table: Table, key: &[u8]) -> Option<&Row> {
        self.rows.tables[table as usize].get(&chunk_of(table, key))?.get(key)
    }

    fn check_device(&self) -> Result<(), ReadFailed> {
        if self.device.broken.load(Ordering::Relaxed) { Err(ReadFailed(READ_ERROR.into())) } else { Ok(()) }
    }

    /// The value of a row, if it can be read.
    fn read(&self, row: &Row) -> Result<Bytes, ReadFailed> {
        let left = self.device.failing.load(Ordering::Relaxed);
        if left > 0 {
            self.device.failing.store(left - 1, Ordering::Relaxed);
        }
        match row.rotten {
            _ if left == 1 => Err(ReadFailed(READ_ERROR.into())),
            true => Err(ReadFailed(BAD_CHECKSUM.into())),
            false => Ok(row.value.clone()),
        }
    }

    fn visit<'a>(
        &self,
        rows: impl Iterator<Item = (&'a Bytes, &'a Row)>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), ReadFailed> {
        for (key, row) in rows {
            if visit(key, self.read(row)?).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Rows {
    fn put(&mut self, table: Table, key: &Bytes, value: &Bytes) {
        let chunk = self.tables[table as usize].entry(chunk_of(table, key)).or_default();
        let row = Row { value: value.clone(), rotten: false };
        self.bytes += row_bytes(key, &row);
        if let Some(replaced) = Arc::make_mut(chunk).insert(key.clone(), row) {
            self.bytes -= row_bytes(key, &replaced);
        }
    }

    fn delete(&mut self, table: Table, key: &Bytes) {
        if let Some(chunk) = self.tables[table as usize].get_mut(&chunk_of(table, key))
            && let Some(removed) = Arc::make_mut(chunk).remove(key)
        {
            self.bytes -= row_bytes(key, &removed);
        }
    }

    fn retire(&mut self, table: Table, below: RevisionId) {
        let end = recent_key(below);
        let last = chunk_of(table, &end);
        let kept = self.tables[table as usize].split_off(&last);
        let dropped = core::mem::replace(&mut self.tables[table as usize], kept);
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

fn row_bytes(key: &Bytes, row: &Row) -> u64 {
    (key.len() + row.value.len()) as u64
}

fn chunk_of(table: Table, key: &[u8]) -> u64 {
    match (table, key.first_chunk::<CHUNK_PREFIX>()) {
        (Table::Recent, Some(main)) => u64::from_be_bytes(*main) >> CHUNK_BITS,
        _ => 0,
    }
}

impl StateReader for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadFailed> {
        self.check_device()?;
        self.row(table, key).map(|row| self.read(row)).transpose()
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), ReadFailed> {
        self.check_device()?;
        if !end.is_empty() && start >= end {
            return Ok(());
        }
        let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        // A bound shorter than a revision may lie before or behind any chunk.
        let first = if start.len() < CHUNK_PREFIX { 0 } else { chunk_of(table, start) };
        let last = if end.len() < CHUNK_PREFIX { u64::MAX } else { chunk_of(table, end) };
        let rows = self.rows.tables[table as usize]
            .range(first..=last)
            .flat_map(|(_, chunk)| chunk.range::<[u8], _>((Bound::Included(start), upper)));
        match direction {
            Direction::Forward => self.visit(rows, visit),
            Direction::Backward => self.visit(rows.rev(), visit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Revision;
    use alloc::{vec, vec::Vec};

    type Model = BTreeMap<(Table, Bytes), Bytes>;

    fn recent(main: i64, sub: u32) -> Bytes {
        Bytes::copy_from_slice(&recent_key(RevisionId { main: Revision(main), sub }))
    }

    fn scanned(store: &MemoryStore, table: Table, start: &[u8], end: &[u8], direction: Direction, most: usize) -> Vec<(Bytes, Bytes)> {
        let mut rows = Vec::new();
        let visit = &mut |key: &[u8], value| {
            rows.push((Bytes::copy_from_slice(key), value));
            if rows.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        store.scan(table, start, end, direction, visit).expect("it is whole");
        rows
    }

    fn check_equals(store: &MemoryStore, model: &Model) {
        let bounds: Vec<Bytes> = [Bytes::new(), Bytes::from_static(&[0]), Bytes::from_static(&[1]), Bytes::from_static(b"k1")]
            .into_iter()
            .chain((0..80).step_by(7).map(|main| recent(main, 1)))
            .collect();
        for table in [Table::Meta, Table::Recent, Table::Settled] {
            for (start, end) in bounds.iter().flat_map(|start| bounds.iter().map(move |end| (start, end))) {
                let inside = |key: &Bytes| key >= start && (end.is_empty() || key < end);
                let mut expected: Vec<(Bytes, Bytes)> = Vec::new();
                for ((at, key), value) in model {
                    expected.extend((*at == table && inside(key)).then(|| (key.clone(), value.clone())));
                }
                assert_eq!(scanned(store, table, start, end, Direction::Forward, usize::MAX), expected, "{table:?} {start:?} {end:?}");
                expected.reverse();
                expected.truncate(3);
                assert_eq!(scanned(store, table, start, end, Direction::Backward, 3), expected, "{table:?} {start:?} {end:?}");
            }
        }
        for ((table, key), value) in model {
            assert_eq!(store.get(*table, key), Ok(Some(value.clone())));
        }
        assert_eq!(store.bytes(), model.iter().map(|((_, key), value)| (key.len() + value.len()) as u64).sum::<u64>());
    }

    #[test]
    fn it_holds_what_a_map_would_and_a_snapshot_what_it_held() {
        let (mut store, mut model) = (MemoryStore::default(), Model::new());
        let mut snapshots = Vec::new();
        for step in 0_i64..60 {
            let mut batch = WriteBatch::default();
            let settled = Bytes::from(vec![b'k', b'0' + (step % 9) as u8]);
            for (table, key) in [(Table::Recent, recent(step, 0)), (Table::Recent, recent(step, 1)), (Table::Settled, settled)] {
                let value = Bytes::from(vec![7; (step % 5) as usize]);
                batch.put(table, key.clone(), value.clone());
                model.insert((table, key), value);
            }
            let gone = (Table::Settled, Bytes::from(vec![b'k', b'0' + (step % 4) as u8]));
            batch.delete(gone.0, gone.1.clone());
            model.remove(&gone);
            store.write(&batch);
            if step % 20 == 13 {
                snapshots.push((store.clone(), model.clone()));
                store.retire(Table::Recent, RevisionId { main: Revision(step - 5), sub: 1 });
                model.retain(|(table, key), _| *table != Table::Recent || *key >= recent(step - 5, 1));
            }
        }
        snapshots.push((store, model));
        for (store, model) in &snapshots {
            check_equals(store, model);
        }
    }

    #[test]
    fn reads_of_all_snapshots_fail_until_it_is_mended() {
        let mut store = MemoryStore::default();
        let snapshot = store.clone();
        store.write(&WriteBatch::default());
        store.break_off();
        let mut visit = |_: &[u8], _| ControlFlow::Continue(());
        assert!(store.get(Table::Meta, b"a").is_err());
        assert!(snapshot.scan(Table::Meta, b"", b"", Direction::Forward, &mut visit).is_err());
        store.mend();
        assert_eq!(snapshot.get(Table::Meta, b"a"), Ok(None));
    }

    fn of_six() -> MemoryStore {
        let (mut store, mut batch) = (MemoryStore::default(), WriteBatch::default());
        (3..9).for_each(|main| batch.put(Table::Recent, recent(main, 0), Bytes::new()));
        store.write(&batch);
        store
    }

    #[test]
    fn the_read_that_the_device_refuses_fails_and_those_around_it_do_not() {
        let store = of_six();
        store.fail_read(3);
        let read = |main| store.get(Table::Recent, &recent(main, 0)).is_ok();
        assert_eq!([3, 4, 5, 6].map(read), [true, true, false, true]);
    }

    #[test]
    fn a_rotten_row_cannot_be_read_until_another_takes_its_place_and_all_others_can() {
        let mut store = of_six();
        let before = store.clone();
        let key = recent(5, 0);
        store.rot(Table::Recent, &key, &before);
        assert!(store.has_rot() && !before.has_rot(), "what a snapshot has in its cache does not change");
        let failing = (3..9).filter(|main| store.get(Table::Recent, &recent(*main, 0)).is_err());
        assert_eq!(failing.collect::<Vec<_>>(), [5]);
        assert!(store.scan(Table::Recent, &[], &[], Direction::Backward, &mut |_, _| ControlFlow::Continue(())).is_err());
        let mut batch = WriteBatch::default();
        batch.put(Table::Recent, key.clone(), Bytes::from_static(b"new"));
        store.write(&batch);
        store.rot(Table::Recent, &key, &before);
        assert!(!store.has_rot() && store.get(Table::Recent, &key).is_ok());
    }
}
