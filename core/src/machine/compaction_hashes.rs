//! What `HashKV` answers at the revisions of the last compactions: the hash as it was there before anything was let go, so that
//! members can be compared at a revision that is compacted by now.
//!
//! A compaction hands over the state as it was; the hash is taken from that in slices, in the background. Kept in memory alone, as
//! etcd keeps them: after a restart there are none until the next compaction.

use crate::mvcc::KvHash;
use crate::mvcc::hash_kv::HashWalk;
use crate::storage::{ReadFailed, StateReader};
use crate::types::Revision;
use alloc::{collections::VecDeque, sync::Arc, vec::Vec};

/// How many are kept, as in etcd.
const KEPT_MAX: usize = 10;
/// Compactions whose hash is still to be taken. Each holds the state it is of, so a third one takes the place of the first.
const PENDING_MAX: usize = 2;

#[derive(Debug)]
pub(super) struct CompactionHashes<R: StateReader> {
    /// Oldest first.
    pending: VecDeque<HashWalk<R>>,
    /// By revision, ascending.
    kept: Arc<[KvHash]>,
}

impl<R: StateReader> CompactionHashes<R> {
    pub fn new() -> Self {
        Self { pending: VecDeque::new(), kept: Arc::default() }
    }

    pub fn add(&mut self, walk: HashWalk<R>) {
        if self.pending.len() == PENDING_MAX {
            self.pending.pop_front();
        }
        self.pending.push_back(walk);
    }

    pub fn kept(&self) -> Arc<[KvHash]> {
        Arc::clone(&self.kept)
    }

    pub fn has_work(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether the hash of that compaction, or of one before it, is still to be taken.
    pub fn is_pending(&self, compaction: Revision) -> bool {
        self.pending.front().is_some_and(|walk| walk.revision() <= compaction)
    }

    /// Takes in up to about `versions` versions. Whether one more hash is kept now.
    pub fn slice(&mut self, versions: usize) -> Result<bool, ReadFailed> {
        let Some(walk) = self.pending.front_mut() else { return Ok(false) };
        let Some(hash) = walk.advance(versions.max(1))? else { return Ok(false) };
        self.pending.pop_front();
        let from = (self.kept.len() + 1).saturating_sub(KEPT_MAX);
        let kept: Vec<KvHash> = self.kept[from..].iter().copied().chain([hash]).collect();
        assert!(kept.is_sorted_by(|a, b| a.hash_revision < b.hash_revision), "compactions go up: {kept:?}");
        self.kept = kept.into();
        Ok(true)
    }
}
