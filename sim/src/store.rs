//! The simulated state store. Crash model: any prefix of the batches since the last sync, or it will not open at all.

use crate::chance::Chance;
use quorate_core::storage::{MemoryStore, Table, WriteBatch};
use quorate_core::types::RevisionId;

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
    states: Vec<MemoryStore>,
    /// It would not open.
    broken: bool,
}

impl SimStore {
    #[must_use]
    pub fn new() -> Self {
        Self { states: vec![MemoryStore::default()], broken: false }
    }

    fn newest(&self) -> &MemoryStore {
        self.states.last().expect("there is always a state")
    }

    pub fn commit(&mut self, batch: &WriteBatch) {
        let mut state = self.newest().clone();
        state.write(batch);
        self.states.push(state);
    }

    #[must_use]
    pub fn reader(&self) -> MemoryStore {
        self.newest().clone()
    }

    /// Bytes of all rows.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.newest().bytes()
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
            state.retire(table, below);
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
    use bytes::Bytes;
    use quorate_core::storage::{Direction, StateReader, recent_key};
    use quorate_core::types::Revision;
    use std::ops::ControlFlow;

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
