//! ③ The replicated log as memory holds it: its newest entries, and the terms of all that came in this life.

use crate::entry::Entry;
use crate::types::{LogId, LogIndex, Term};
use alloc::{collections::VecDeque, sync::Arc, vec::Vec};

/// Room for so many entries is kept however few there are.
const ROOM_KEPT_ENTRIES: usize = 1_024;

#[derive(Debug)]
pub(super) struct Log {
    /// Entries `last + 1 - tail.len()` to `last`.
    tail: VecDeque<Entry>,
    /// Sum of [`Entry::bytes`] over the tail.
    bytes: usize,
    /// Of those, what is not applied. Entries leave the tail only once they are, so it is always part of it.
    unapplied_bytes: usize,
    /// Of those, what the machine was handed: it will be applied without anything from anyone else.
    delivered_bytes: usize,
    last: LogId,
    /// The first known entry of each term, ascending. Terms of entries before the first run are not known.
    /// Invariant: never empty; its last has the term of `last`.
    runs: VecDeque<LogId>,
}

impl Log {
    /// `before` is the entry before `entries`.
    pub(super) fn new(before: LogId, entries: Vec<Entry>) -> Self {
        let runs = VecDeque::from([before]);
        let mut log = Self { tail: VecDeque::new(), bytes: 0, unapplied_bytes: 0, delivered_bytes: 0, last: before, runs };
        entries.into_iter().for_each(|entry| log.append(entry));
        log
    }

    pub(super) fn last(&self) -> LogId {
        self.last
    }

    /// Index of the oldest entry in memory; one past the last if there is none.
    pub(super) fn first(&self) -> LogIndex {
        LogIndex(self.last.index.0 + 1 - self.tail.len() as u64)
    }

    /// The term of an entry; `None` beyond the end and where it is not known any more.
    pub(super) fn term(&self, index: LogIndex) -> Option<Term> {
        if index > self.last.index {
            return None;
        }
        let run = self.runs.partition_point(|run| run.index <= index).checked_sub(1)?;
        Some(self.runs[run].term)
    }

    /// An entry, if it is in memory.
    pub(super) fn get(&self, index: LogIndex) -> Option<&Entry> {
        self.tail.get(usize::try_from(index.0.checked_sub(self.first().0)?).ok()?)
    }

    pub(super) fn append(&mut self, entry: Entry) {
        assert_eq!(entry.id.index, self.last.index.next(), "a hole in the log");
        assert!(entry.id.term >= self.last.term, "terms go back: {} after {}", entry.id, self.last);
        if self.runs.back().is_none_or(|run| run.term != entry.id.term) {
            self.runs.push_back(entry.id);
        }
        self.bytes += entry.bytes();
        self.unapplied_bytes += entry.bytes();
        self.last = entry.id;
        self.tail.push_back(entry);
    }

    /// The log ends before `from` now. `from` must be in memory: what is applied is never overruled.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        assert!(from >= self.first(), "truncation at {from} reaches below the memory's first {}", self.first());
        while self.last.index >= from {
            let entry = self.tail.pop_back().expect("it is in memory");
            self.bytes -= entry.bytes();
            self.unapplied_bytes -= entry.bytes();
            let index = entry.id.index.previous();
            if self.runs.back().is_some_and(|run| run.index == entry.id.index && self.runs.len() > 1) {
                self.runs.pop_back();
            }
            self.last = LogId { term: self.runs.back().expect("never empty").term, index };
        }
    }

    /// Copies entries from `from` on: at least one, then as many as both limits allow. Commands are shared, not copied.
    pub(super) fn entries(&self, from: LogIndex, entries_max: usize, bytes_max: usize) -> Vec<Entry> {
        let start = self.position(from);
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry.bytes();
            first || bytes <= bytes_max
        };
        self.tail.range(start..).take(entries_max.max(1)).take_while(fits).cloned().collect()
    }

    /// `from` to `through`, both included, on their way to the machine.
    pub(super) fn deliver(&mut self, from: LogIndex, through: LogIndex) -> Arc<[Entry]> {
        let entries: Arc<[Entry]> = self.tail.range(self.position(from)..=self.position(through)).cloned().collect();
        self.delivered_bytes += entries.iter().map(Entry::bytes).sum::<usize>();
        entries
    }

    /// The machine has applied `from` to `through`, both included, after they were delivered.
    pub(super) fn applied(&mut self, from: LogIndex, through: LogIndex) {
        let bytes: usize = self.tail.range(self.position(from)..=self.position(through)).map(Entry::bytes).sum();
        self.unapplied_bytes -= bytes;
        self.delivered_bytes -= bytes;
    }

    fn position(&self, index: LogIndex) -> usize {
        let offset = index.0.checked_sub(self.first().0).expect("below the entries in memory");
        usize::try_from(offset).expect("the tail fits in memory")
    }

    /// Forgets entries at or below `through` from memory while the tail is over `tail_bytes`; their terms stay known.
    pub(super) fn evict(&mut self, through: LogIndex, tail_bytes: usize) {
        while self.bytes > tail_bytes && self.tail.front().is_some_and(|entry| entry.id.index <= through) {
            let entry = self.tail.pop_front().expect("it has a front");
            self.bytes -= entry.bytes();
        }
        // Many small entries leave room behind that a few large ones never use.
        if self.tail.capacity() > ROOM_KEPT_ENTRIES && self.tail.len() < self.tail.capacity() / 4 {
            self.tail.shrink_to((self.tail.len() * 2).max(ROOM_KEPT_ENTRIES));
        }
    }

    /// Bytes of the entries that are not applied, committed or not.
    pub(super) fn unapplied_bytes(&self) -> usize {
        self.unapplied_bytes
    }

    /// Bytes of the entries that the machine was handed and has not applied.
    pub(super) fn delivered_bytes(&self) -> usize {
        self.delivered_bytes
    }

    /// Entries before `first` are gone from the WAL: terms of whole runs before it need not be known.
    pub(super) fn compact(&mut self, first: LogIndex) {
        while self.runs.get(1).is_some_and(|run| run.index < first) {
            self.runs.pop_front();
        }
    }

    /// The last entry at or below `hint` whose term is not above the hint's: where two logs may still agree (Raft §5.3).
    /// Where terms are not known, the hint's own index.
    pub(super) fn find_conflict_by_term(&self, hint: LogId) -> LogIndex {
        let index = hint.index.min(self.last.index);
        let runs = self.runs.partition_point(|run| run.index <= index);
        let Some(newer) = self.runs.iter().take(runs).position(|run| run.term > hint.term) else { return index };
        self.runs[newer].index.previous()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{ENTRY_OVERHEAD_BYTES, Payload};
    use rand_chacha::ChaCha8Rng;
    use rand_core::{RngCore, SeedableRng};

    fn entry(term: u64, index: u64) -> Entry {
        Entry { id: LogId { term: Term(term), index: LogIndex(index) }, payload: Payload::Empty }
    }

    /// The slow obvious model is the list of all terms ever appended and not truncated.
    #[test]
    fn terms_ends_and_conflicts_are_those_of_a_plain_list() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..200 {
            let mut log = Log::new(LogId::default(), Vec::new());
            let mut model = alloc::vec![0_u64];
            let (mut evicted, mut compacted) = (0, 0);
            for _ in 0..100 {
                let last = model.len() as u64 - 1;
                match rng.next_u64() % 8 {
                    0 if last > evicted => {
                        let from = evicted + 1 + rng.next_u64() % (last - evicted);
                        log.truncate(LogIndex(from));
                        model.truncate(from as usize);
                    }
                    1 => {
                        evicted = evicted.max(last / 2);
                        log.evict(LogIndex(evicted), 0);
                    }
                    2 => {
                        compacted = compacted.max(rng.next_u64() % (evicted + 1));
                        log.compact(LogIndex(compacted));
                    }
                    _ => {
                        let term = model[model.len() - 1].max(1) + u64::from(rng.next_u64() % 3 == 0);
                        model.push(term);
                        log.append(entry(term, last + 1));
                    }
                }
                let last = model.len() as u64 - 1;
                assert_eq!(log.last(), LogId { term: Term(model[last as usize]), index: LogIndex(last) });
                for index in compacted..=last {
                    assert_eq!(log.term(LogIndex(index)), Some(Term(model[index as usize])));
                }
                assert_eq!(log.term(LogIndex(last + 1)), None);
                let hint = LogId { term: Term(rng.next_u64() % (model[last as usize] + 1)), index: LogIndex(rng.next_u64() % (last + 2)) };
                let agreement = (0..=hint.index.0.min(last)).rev().find(|&index| model[index as usize] <= hint.term.0).unwrap_or(0);
                if agreement >= compacted {
                    assert_eq!(log.find_conflict_by_term(hint), LogIndex(agreement), "{model:?} {hint}");
                }
            }
        }
    }

    #[test]
    fn one_entry_is_taken_however_large_it_is() {
        let mut log = Log::new(LogId::default(), Vec::new());
        (1..=5).for_each(|index| log.append(entry(1, index)));
        assert_eq!(log.entries(LogIndex(2), 10, 1).len(), 1);
        assert_eq!(log.entries(LogIndex(2), 10, 2 * ENTRY_OVERHEAD_BYTES).len(), 2);
        assert_eq!(log.entries(LogIndex(2), 3, usize::MAX).len(), 3);
        assert_eq!(log.deliver(LogIndex(2), LogIndex(4)).len(), 3);
    }

    #[test]
    fn bytes_are_counted_until_they_are_applied_or_truncated() {
        let mut log = Log::new(LogId::default(), Vec::new());
        (1..=5).for_each(|index| log.append(entry(1, index)));
        assert_eq!((log.unapplied_bytes(), log.delivered_bytes()), (5 * ENTRY_OVERHEAD_BYTES, 0));
        log.deliver(LogIndex(1), LogIndex(3));
        assert_eq!((log.unapplied_bytes(), log.delivered_bytes()), (5 * ENTRY_OVERHEAD_BYTES, 3 * ENTRY_OVERHEAD_BYTES));
        log.applied(LogIndex(1), LogIndex(2));
        log.evict(LogIndex(2), 0);
        log.truncate(LogIndex(5));
        assert_eq!((log.unapplied_bytes(), log.delivered_bytes()), (2 * ENTRY_OVERHEAD_BYTES, ENTRY_OVERHEAD_BYTES));
    }
}
