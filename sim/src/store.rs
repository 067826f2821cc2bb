//! The simulated state store. Crash model: any prefix of the batches since the last sync, or it will not open at all. Reads may fail,
//! and what is stored may rot: a row is noticed by its checksum when it is read, the journal when the store is opened.

use crate::chance::Chance;
use bytes::Bytes;
use quorate_core::storage::{MemoryStore, Table, WriteBatch};
use quorate_core::types::RevisionId;

/// Batches in the journal, synced, above which its tables are written out and it begins anew.
const JOURNAL_BATCHES: usize = 64;

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
    states: Vec<MemoryStore>,
    /// Batches on stable storage that are still in the journal.
    journal: usize,
    /// It will not open: what was synced is not there, or not as it was.
    lost: bool,
}

impl SimStore {
    #[must_use]
    pub fn new() -> Self {
        Self { states: vec![MemoryStore::default()], journal: 0, lost: false }
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

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.newest().is_empty()
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
            state.retire(table, below);
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
    pub fn fail_read(&self, number: u64) {
        self.newest().fail_read(number);
    }

    /// A row of the tables rots. Returns which, `None` if there is none.
    pub fn rot_row(&mut self, chance: &mut Chance) -> Option<(Table, Bytes)> {
        let tables = [Table::Meta, Table::Recent, Table::Settled];
        let synced = self.states[0].clone();
        let filled: Vec<Table> = tables.into_iter().filter(|table| synced.keys(*table).next().is_some()).collect();
        let table = *filled.get(chance.below(filled.len() as u64) as usize)?;
        let key = synced.keys(table).nth(chance.below(synced.keys(table).count() as u64) as usize)?.clone();
        for state in &mut self.states {
            state.rot(table, &key, &synced);
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
        self.newest().has_rot()
    }

    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// An empty store takes its place.
    pub fn begin_anew(&mut self) {
        *self = Self { states: vec![self.newest().emptied()], ..Self::new() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Concern;
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
