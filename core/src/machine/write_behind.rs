//! Writing behind: what was applied goes to the state store in numbered batches, some way after it was answered.

use crate::storage::WriteBatch;
use crate::types::{BatchNumber, Revision, RevisionId};
use alloc::collections::VecDeque;

/// A batch that was given to the host and has not come back.
#[derive(Debug)]
struct Unpersisted {
    number: BatchNumber,
    bytes: usize,
    upto: Reached,
}

/// How far the state store is with a batch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Reached {
    /// The newest revision in it.
    pub revision: Revision,
    /// How far compaction has come.
    pub compacted_to: RevisionId,
}

#[derive(Debug)]
pub(super) struct WriteBehind {
    next: BatchNumber,
    /// Oldest first. Bounded by `MachineLimits::unpersisted_bytes` and one batch.
    unpersisted: VecDeque<Unpersisted>,
    bytes: usize,
    persisted: Reached,
}

impl WriteBehind {
    pub const fn new(persisted: Reached) -> Self {
        Self { next: BatchNumber(1), unpersisted: VecDeque::new(), bytes: 0, persisted }
    }

    /// Bytes on their way to the state store.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How far the state store's newest reader is.
    pub const fn persisted(&self) -> Reached {
        self.persisted
    }

    /// Numbers a batch that leaves. With it the state store reaches `upto`.
    pub fn add(&mut self, batch: &WriteBatch, upto: Reached) -> BatchNumber {
        let before = self.unpersisted.back().map_or(self.persisted, |batch| batch.upto);
        assert!(
            before.revision <= upto.revision && before.compacted_to <= upto.compacted_to,
            "batch {} goes back: {before:?}, {upto:?}",
            self.next
        );
        let number = self.next;
        self.next = number.next();
        self.bytes += batch.bytes;
        self.unpersisted.push_back(Unpersisted { number, bytes: batch.bytes, upto });
        number
    }

    /// Everything to that batch is in the state store.
    pub fn on_persisted(&mut self, number: BatchNumber) {
        assert!(number < self.next, "batch {number} came back before it was given away");
        while let Some(batch) = self.unpersisted.pop_front_if(|batch| batch.number <= number) {
            self.bytes -= batch.bytes;
            self.persisted = batch.upto;
        }
        assert!(!self.unpersisted.is_empty() || self.bytes == 0, "{} bytes of no batch", self.bytes);
    }
}
