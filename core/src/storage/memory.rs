//! A state store in memory, for tests and simulated worlds: cheap snapshots, and reads that fail when asked to.

use super::{Direction, ReadFailed, RowOp, StateReader, Table, WriteBatch, recent_key};
use crate::types::RevisionId;
use alloc::{collections::BTreeMap, sync::Arc};
use bytes::Bytes;
use core::{
    ops::{Bound, ControlFlow},
    sync::atomic::{AtomicU64, Ordering},
};

const TABLES: usize = 3;
/// Revisions that share a chunk of [`Table::Recent`]: what a copy on write copies.
const CHUNK_BITS: u32 = 4;
/// Bytes of a [`Table::Recent`] key that say in which chunk it is.
const CHUNK_PREFIX: usize = 8;
/// Of [`MemoryStore::reads_left`]: no read fails.
const WHOLE: u64 = u64::MAX;

type Chunk = Arc<BTreeMap<Bytes, Bytes>>;

/// The store, and a snapshot of it alike: a clone shares every row until one of the two is written to.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    rows: Arc<Rows>,
    /// Reads that succeed before all fail, over the store and its snapshots: they are on one disk.
    reads_left: Arc<AtomicU64>,
}

#[derive(Clone, Debug, Default)]
struct Rows {
    /// Chunks in key order: every key of a chunk is below every key of the next.
    tables: [BTreeMap<u64, Chunk>; TABLES],
    /// Bytes of all keys and values.
    bytes: u64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { rows: Arc::default(), reads_left: Arc::new(AtomicU64::new(WHOLE)) }
    }
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

    /// So many reads succeed yet, of the store and its snapshots together; then all fail until it is mended.
    pub fn break_after(&self, reads: u64) {
        self.reads_left.store(reads, Ordering::Relaxed);
    }

    pub fn mend(&self) {
        self.reads_left.store(WHOLE, Ordering::Relaxed);
    }

    fn count_read(&self) -> Result<(), ReadFailed> {
        let count = |left: u64| if left == WHOLE { None } else { left.checked_sub(1) };
        match self.reads_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) {
            Err(0) => Err(ReadFailed("a bad sector".into())),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl Rows {
    fn put(&mut self, table: Table, key: &Bytes, value: &Bytes) {
        let chunk = self.tables[table as usize].entry(chunk_of(table, key)).or_default();
        self.bytes += row_bytes(key, value);
        if let Some(replaced) = Arc::make_mut(chunk).insert(key.clone(), value.clone()) {
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
        let mut bytes: u64 = dropped.values().flat_map(|chunk| chunk.iter()).map(|(key, value)| row_bytes(key, value)).sum();
        if let Some(chunk) = self.tables[table as usize].get_mut(&last) {
            Arc::make_mut(chunk).retain(|key, value| {
                let kept = key.as_ref() >= end.as_slice();
                bytes += if kept { 0 } else { row_bytes(key, value) };
                kept
            });
        }
        self.bytes -= bytes;
    }
}

fn row_bytes(key: &Bytes, value: &Bytes) -> u64 {
    (key.len() + value.len()) as u64
}

fn chunk_of(table: Table, key: &[u8]) -> u64 {
    match (table, key.first_chunk::<CHUNK_PREFIX>()) {
        (Table::Recent, Some(main)) => u64::from_be_bytes(*main) >> CHUNK_BITS,
        _ => 0,
    }
}

impl StateReader for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadFailed> {
        self.count_read()?;
        Ok(self.rows.tables[table as usize].get(&chunk_of(table, key)).and_then(|chunk| chunk.get(key)).cloned())
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), ReadFailed> {
        self.count_read()?;
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
        let mut visit_row = |(key, value): (&Bytes, &Bytes)| visit(key, value.clone());
        let _ = match direction {
            Direction::Forward => rows.map(&mut visit_row).find(ControlFlow::is_break),
            Direction::Backward => rows.rev().map(&mut visit_row).find(ControlFlow::is_break),
        };
        Ok(())
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
        assert_eq!(store.bytes(), model.iter().map(|((_, key), value)| row_bytes(key, value)).sum::<u64>());
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
    fn reads_of_all_snapshots_fail_after_so_many_and_until_it_is_mended() {
        let mut store = MemoryStore::default();
        let snapshot = store.clone();
        store.write(&WriteBatch::default());
        store.break_after(2);
        let mut visit = |_: &[u8], _| ControlFlow::Continue(());
        assert_eq!(store.get(Table::Meta, b"a"), Ok(None));
        assert_eq!(snapshot.scan(Table::Meta, b"", b"", Direction::Forward, &mut visit), Ok(()));
        assert!(store.get(Table::Meta, b"a").is_err());
        assert!(snapshot.scan(Table::Meta, b"", b"", Direction::Forward, &mut visit).is_err());
        store.mend();
        assert_eq!(snapshot.get(Table::Meta, b"a"), Ok(None));
    }
}
