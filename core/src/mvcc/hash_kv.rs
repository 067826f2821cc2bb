//! The hash of `HashKV`: over what is readable at the compact revision, and every change after it up to a revision.
//!
//! It is a sum, so it needs no order and can be taken piece by piece; it is the same on every member, wherever its background work
//! stands, because it counts only what every member must still have.

use super::KvHash;
use super::hash::RunningHash;
use super::index::Key;
use super::stop::Stop;
use super::store::{Found, Store};
use crate::storage::{ReadFailed, StateReader};
use crate::types::Revision;
use alloc::vec::Vec;

/// Versions whose values are fetched together.
const CHUNK_VERSIONS: usize = 1_024;

/// A hash on its way over one state of the store.
#[derive(Debug)]
pub(crate) struct HashWalk<R: StateReader> {
    store: Store<R>,
    revision: Revision,
    /// Keys below are in the sum. `None` at the beginning.
    next: Option<Key>,
    sum: u128,
}

impl<R: StateReader> HashWalk<R> {
    /// `revision` as in [`crate::command::Range`].
    pub fn new(store: Store<R>, revision: Revision) -> Result<Self, Stop> {
        let revision = store.readable(revision)?;
        Ok(Self { store, revision, next: None, sum: 0 })
    }

    /// The revision that is hashed.
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Takes in keys until they have more than about `versions` versions. The hash, once the last key is in.
    pub fn advance(&mut self, versions: usize) -> Result<Option<KvHash>, ReadFailed> {
        let compacted = self.store.compact_revision;
        let mut chunk: Vec<Found<'_>> = Vec::with_capacity(CHUNK_VERSIONS);
        let (mut visited, mut stopped_before) = (0, None);
        for (key, record) in self.store.index.range::<[u8]>(self.next.as_deref(), None) {
            if visited >= versions {
                stopped_before = Some(key.clone());
                break;
            }
            let at_compaction = record.live_at(compacted).map(|version| version.id);
            for version in record.versions() {
                visited += 1;
                let counts = match version.id.main <= compacted {
                    true => at_compaction == Some(version.id),
                    false => version.id.main <= self.revision,
                };
                if counts {
                    chunk.push((key, version));
                }
            }
            if chunk.len() >= CHUNK_VERSIONS {
                self.sum = self.sum.wrapping_add(sum_of(&self.store, &chunk)?);
                chunk.clear();
            }
        }
        self.sum = self.sum.wrapping_add(sum_of(&self.store, &chunk)?);
        self.next = stopped_before;
        Ok(self.next.is_none().then(|| KvHash { hash: folded(self.sum), hash_revision: self.revision, compact_revision: compacted }))
    }
}

/// The whole at once. Reads every value: for a worker that may take its time.
pub(crate) fn hash_kv<R: StateReader>(store: &Store<R>, revision: Revision) -> Result<KvHash, Stop> {
    let mut walk = HashWalk::new(store.clone(), revision)?;
    loop {
        if let Some(hash) = walk.advance(usize::MAX)? {
            return Ok(hash);
        }
    }
}

fn folded(sum: u128) -> u32 {
    let mut hash = RunningHash::default();
    hash.bytes(&sum.to_le_bytes());
    let [a, b, c, d, ..] = hash.value().to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn sum_of<R: StateReader>(store: &Store<R>, found: &[Found<'_>]) -> Result<u128, ReadFailed> {
    let mut sum = 0_u128;
    for kv in store.rows(found, true)? {
        let fields = kv.fields();
        let mut hash = RunningHash::default();
        hash.bytes(fields.key);
        for number in [fields.create.0, fields.modified.0, fields.version, fields.lease.0] {
            hash.word(number.cast_unsigned());
        }
        hash.bytes(fields.value);
        sum = sum.wrapping_add(hash.value());
    }
    Ok(sum)
}
