//! The simulated state store. Crash model: any prefix of the batches since the last sync, or it will not open at all.

use crate::chance::Chance;
use bytes::Bytes;
use quorate_core::storage::{Direction, ReadFailed, RowOp, StateReader, Table, WriteBatch, recent_key};
use quorate_core::types::RevisionId;
use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    sync::Arc,
};

const TABLES: usize = 3;
/// Revisions that share a chunk of [`Table::Recent`]: what a copy on write copies.
const CHUNK_BITS: u32 = 4;

type Chunk = Arc<BTreeMap<Bytes, Bytes>>;

/// A state of the whole store; cloning shares everything but the lists of chunks.
#[derive(Clone, Debug, Default)]
struct State {
    /// Chunks in key order: every key of a chunk is below every key of the next.
    tables: [BTreeMap<u64, Chunk>; TABLES],
    /// Bytes of all rows.
    bytes: u64,
}

fn row_bytes(key: &Bytes, value: &Bytes) -> u64 {
    (key.len() + value.len()) as u64
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
                    self.bytes += row_bytes(key, value);
                    if let Some(replaced) = Arc::make_mut(chunk).insert(key.clone(), value.clone()) {
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

#[derive(Clone, Debug)]
pub struct SimReader(Arc<State>);

impl StateReader for SimReader {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadFailed> {
        Ok(self.0.tables[table as usize].get(&chunk_of(table, key)).and_then(|chunk| chunk.get(key)).cloned())
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
        let rows = self.0.tables[table as usize]
            .range(first..=last.max(first))
            .flat_map(|(_, chunk)| chunk.range::<[u8], _>((Bound::Included(start), upper)));
        let mut visit_row = |(key, value): (&Bytes, &Bytes)| visit(key, value.clone());
        let _ = match direction {
            Direction::Forward => rows.map(&mut visit_row).find(ControlFlow::is_break),
            Direction::Backward => rows.rev().map(&mut visit_row).find(ControlFlow::is_break),
        };
        Ok(())
    }
}

/// What a crash left of the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreCrash {
    /// So many batches of those since the last sync are gone.
    Lost(usize),
    WillNotOpen,
}

#[derive(Debug, Default)]
pub struct SimStore {
    /// The state on stable storage, then one state per batch since. Never empty in use; the last is what readers get.
    states: Vec<Arc<State>>,
    /// Batches that are on stable storage, for a sync that covers only those it began with.
    broken: bool,
}

impl SimStore {
    #[must_use]
    pub fn new() -> Self {
        Self { states: vec![Arc::default()], broken: false }
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
        SimReader(Arc::clone(self.newest()))
    }

    /// Bytes of all rows.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.newest().bytes
    }

    /// Batches a crash could take.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.states.len() - 1
    }

    /// Everything committed so far is on stable storage.
    pub fn sync(&mut self) {
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
            self.broken = true;
            return StoreCrash::WillNotOpen;
        }
        let kept = chance.between(0, self.unsynced() as u64) as usize;
        let lost = self.unsynced() - kept;
        self.states.truncate(kept + 1);
        self.states.drain(..kept);
        StoreCrash::Lost(lost)
    }

    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// A new, empty store in the place of one that would not open.
    pub fn rebuild(&mut self) {
        *self = Self::new();
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

    #[test]
    fn a_crash_leaves_a_prefix_that_contains_what_was_synced() {
        for seed in 0..200 {
            let mut chance = Chance::new(seed, Concern::Store, 0);
            let mut store = SimStore::new();
            let synced = chance.between(3, 40).cast_signed();
            let last = synced + chance.below(40).cast_signed();
            for revision in 3..=last {
                let mut batch = WriteBatch::default();
                batch.put(Table::Recent, row(revision), Bytes::new());
                store.commit(&batch);
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
            let mut batch = WriteBatch::default();
            batch.put(Table::Recent, row(revision), Bytes::new());
            store.commit(&batch);
        }
        store.retire(Table::Recent, RevisionId { main: Revision(20), sub: 0 });
        store.crash(&mut Chance::new(1, Concern::Store, 0), false);
        assert!(keys(&store, Direction::Forward).iter().all(|revision| *revision >= 20));
    }
}
