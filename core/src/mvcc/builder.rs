//! An index from stored versions that come in the order of revisions, not of keys.
//!
//! Inserting a million keys one by one walks the tree once for each, and every step of such a walk is a miss of the cache. Instead
//! versions are sorted in runs that fit into the cache, and the runs merged into a tree that is built from left to right.

use super::index::{Index, Key, KeyRecord, Version};
use super::tree::Tree;
use alloc::{
    collections::{BinaryHeap, binary_heap::PeekMut},
    vec::{IntoIter, Vec},
};
use core::cmp::Ordering;

/// Versions in a run: with their keys about a megabyte.
const RUN_VERSIONS: usize = 8_192;

/// Collects versions, older ones of a key before newer ones.
#[derive(Debug, Default)]
pub(super) struct IndexBuilder {
    /// Each in key order, and a key's versions in that of revisions; a later run has the later versions of a key.
    runs: Vec<Vec<(Key, Version)>>,
    open: Vec<(Key, Version)>,
}

impl IndexBuilder {
    pub fn push(&mut self, key: &[u8], version: Version) {
        self.open.push((key.into(), version));
        if self.open.len() == RUN_VERSIONS {
            self.close_run();
        }
    }

    pub fn build(mut self) -> Index {
        self.close_run();
        let first = self.runs.first().and_then(|run| run.first()).map(|(key, _)| key.clone()).unwrap_or_default();
        let ends = self.runs.iter().flat_map(|run| run.first().into_iter().chain(run.last()));
        let shared = ends.map(|(key, _)| shared_front(&first, key)).min().unwrap_or(0);
        let heads = self.runs.into_iter().enumerate().filter_map(|(run, rest)| Head::of(run, rest.into_iter(), shared)).collect();
        let merge = Merge { heads, shared };
        Tree::from_sorted(Records { versions: merge, next: None })
    }

    fn close_run(&mut self) {
        let mut run = core::mem::replace(&mut self.open, Vec::with_capacity(RUN_VERSIONS));
        let shared = run.first().map_or(0, |(first, _)| run.iter().map(|(key, _)| shared_front(first, key)).min().unwrap_or(0));
        // Stable: versions of a key keep their order. Most comparisons end within eight bytes that lie beside each other.
        run.sort_by_cached_key(|(key, _)| (number_of(&key[shared..]), key.clone()));
        for at in 1..run.len() {
            if run[at].0 == run[at - 1].0 {
                run[at].0 = run[at - 1].0.clone();
            }
        }
        self.runs.push(run);
    }
}

/// How many bytes two keys begin with alike.
fn shared_front(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// A number that grows with keys, or stays.
fn number_of(key: &[u8]) -> u64 {
    let mut front = [0; 8];
    let length = key.len().min(front.len());
    front[..length].copy_from_slice(&key[..length]);
    u64::from_be_bytes(front)
}

/// The next version of a run, and those behind it.
struct Head {
    /// Of the key behind what all keys share.
    number: u64,
    key: Key,
    version: Version,
    run: usize,
    rest: IntoIter<(Key, Version)>,
}

impl Head {
    fn of(run: usize, mut rest: IntoIter<(Key, Version)>, shared: usize) -> Option<Self> {
        rest.next().map(|(key, version)| Self { number: number_of(&key[shared..]), key, version, run, rest })
    }
}

/// The smallest key is the greatest, as the heap gives out the greatest first; of one key the oldest.
impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        other.number.cmp(&self.number).then_with(|| other.key.cmp(&self.key)).then(other.run.cmp(&self.run))
    }
}
impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Head {}

/// All runs as one.
struct Merge {
    heads: BinaryHeap<Head>,
    /// Bytes that all keys begin with.
    shared: usize,
}

impl Iterator for Merge {
    type Item = (Key, Version);

    fn next(&mut self) -> Option<Self::Item> {
        let mut head = self.heads.peek_mut()?;
        let Some((key, version)) = head.rest.next() else {
            let last = PeekMut::pop(head);
            return Some((last.key, last.version));
        };
        head.number = number_of(&key[self.shared..]);
        Some((core::mem::replace(&mut head.key, key), core::mem::replace(&mut head.version, version)))
    }
}

/// Versions by key.
struct Records {
    versions: Merge,
    next: Option<(Key, Version)>,
}

impl Iterator for Records {
    type Item = (Key, KeyRecord);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, version) = self.next.take().or_else(|| self.versions.next())?;
        let mut record = KeyRecord::new(version);
        for (following, version) in self.versions.by_ref() {
            if following != key {
                self.next = Some((following, version));
                break;
            }
            record.push(version);
        }
        Some((key, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::store::add_version;
    use crate::types::{LeaseId, Revision, RevisionId};
    use alloc::format;
    use rand_chacha::ChaCha20Rng;
    use rand_core::{RngCore, SeedableRng};

    /// Builds an index both ways from random changes to at most `keys` keys.
    fn compare(seed: u64, keys: u64, changes: i64) {
        let mut chance = ChaCha20Rng::seed_from_u64(seed);
        let (mut builder, mut inserted) = (IndexBuilder::default(), Index::default());
        for main in 2..2 + changes {
            // Keys of several lengths, some a prefix of others.
            let number = chance.next_u64() % keys;
            let mut key = format!("key/{number}").into_bytes();
            key.resize(key.len() + usize::try_from(number % 5).expect("small") * 7, if number.is_multiple_of(2) { b'x' } else { 0 });
            let id = RevisionId { main: Revision(main), sub: chance.next_u32() % 3 };
            let number = i64::from(chance.next_u32() % 4);
            let version = Version { id, length: chance.next_u32() % 900, create: Revision(main), number, lease: LeaseId(number) };
            builder.push(&key, version);
            add_version(&mut inserted, &key, version);
        }
        let built = builder.build();
        built.check_invariants();
        assert_eq!(built.sum(), inserted.sum(), "seed {seed}");
        let mut expected = inserted.range::<[u8]>(None, None);
        for (key, record) in built.range::<[u8]>(None, None) {
            let (same, other) = expected.next().expect("a key too many");
            assert_eq!(key, same, "seed {seed}");
            assert!(record.versions().eq(other.versions()), "seed {seed}: versions of {key:?}");
        }
        assert!(expected.next().is_none(), "seed {seed}: a key is missing");
    }

    #[test]
    fn a_built_index_equals_one_that_grew() {
        for seed in 0..40 {
            compare(seed, 1 + seed * seed, 1 + i64::try_from(seed * 50).expect("small"));
        }
    }

    #[test]
    fn keys_meet_across_runs() {
        let runs = i64::try_from(RUN_VERSIONS).expect("small");
        compare(100, 3, 3 * runs + 1);
        compare(101, 20_000, 3 * runs);
        compare(102, u64::MAX, runs + 1);
    }

    #[test]
    fn nothing_makes_an_empty_index() {
        assert!(IndexBuilder::default().build().first().is_none());
    }
}
