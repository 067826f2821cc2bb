//! Compaction behind the compact revision: slice by slice, rows of the recent generation settle or are let go (see [`crate::mvcc`]).
//!
//! Three marks follow each other: the compact revision, which the log has; how far compaction has come, in memory; and what is
//! retired, whose rows are gone from the recent generation. A row is retired only once its move is synced.

use super::tables;
use crate::command::Reply;
use crate::mvcc::compaction::compact_some;
use crate::mvcc::store::{Store, UNCOMPACTED, after};
use crate::storage::{ReadFailed, StateReader, WriteBatch};
use crate::types::{BatchNumber, RequestId, Revision, RevisionId};
use alloc::collections::VecDeque;

/// Compactions that wait for their space at most; above that they are answered at once.
const PHYSICAL_WAITERS_MAX: usize = 1_024;

#[derive(Debug)]
pub(super) struct Compactor {
    /// How far it is. The mark of the reader, in the store, follows when the moves are persisted.
    compacted_to: RevisionId,
    /// Batches with moves that are not yet synced. One per slice since the last sync.
    moves: VecDeque<(BatchNumber, RevisionId)>,
    /// Whether a sync has been asked for that ends the present compaction.
    sync_asked: bool,
    /// Rows through here have left the recent generation for good.
    retired: RevisionId,
    /// Compactions of this member that wait for their space. Bounded by [`PHYSICAL_WAITERS_MAX`].
    waiters: VecDeque<(Revision, RequestId, Reply)>,
}

impl Compactor {
    /// What an earlier life moved may not be synced, and what it moved from may still be there.
    pub fn new(compacted_to: RevisionId) -> Self {
        Self {
            compacted_to,
            moves: VecDeque::from([(BatchNumber(0), compacted_to)]),
            sync_asked: false,
            retired: UNCOMPACTED,
            waiters: VecDeque::new(),
        }
    }

    pub const fn compacted_to(&self) -> RevisionId {
        self.compacted_to
    }

    /// Whether there is something to compact. Only what is persisted is compacted.
    pub fn has_work(&self, compacted: Revision, persisted: Revision) -> bool {
        self.compacted_to < end(compacted).min(whole(persisted))
    }

    /// Compacts up to `limit` rows; `false` if there were none.
    pub fn slice<R: StateReader>(
        &mut self,
        store: &mut Store<R>,
        persisted: Revision,
        limit: usize,
        batch: &mut WriteBatch,
    ) -> Result<bool, ReadFailed> {
        if !self.has_work(store.compact_revision, persisted) {
            return Ok(false);
        }
        let through = end(store.compact_revision).min(whole(persisted)).main;
        let compacted_to = compact_some(store, self.compacted_to, through, limit.max(1), batch)?;
        assert!(compacted_to > self.compacted_to, "compaction went from {} to {compacted_to}", self.compacted_to);
        self.compacted_to = compacted_to;
        tables::write_compacted_to(compacted_to, batch);
        self.sync_asked = false;
        Ok(true)
    }

    /// A batch leaves; it has the moves so far. Says whether it is the first to have some of them.
    pub fn on_batch(&mut self, number: BatchNumber) -> bool {
        let moves = self.moves.back().is_none_or(|(_, compacted_to)| *compacted_to < self.compacted_to);
        if moves {
            self.moves.push_back((number, self.compacted_to));
        }
        moves
    }

    /// The reader has the moves through `seen`. Says whether a sync is wanted, because they are the last of a compaction.
    pub fn on_persisted(&mut self, compacted: Revision, seen: RevisionId) -> bool {
        let all_moved = self.compacted_to >= end(compacted) && seen == self.compacted_to;
        let wanted = all_moved && self.retired < self.compacted_to && !self.sync_asked;
        self.sync_asked |= wanted;
        wanted
    }

    /// Batches through `number` are on stable storage. Says below which change rows may now be dropped.
    pub fn on_synced(&mut self, number: BatchNumber) -> Option<RevisionId> {
        let mut through = None;
        while let Some((_, compacted_to)) = self.moves.pop_front_if(|(batch, _)| *batch <= number) {
            through = Some(compacted_to);
        }
        let retired = through.filter(|compacted_to| *compacted_to > self.retired);
        self.retired = retired.unwrap_or(self.retired);
        self.sync_asked = self.sync_asked && self.retired < self.compacted_to && through.is_none();
        retired.map(after)
    }

    /// Keeps the answer to a physical compaction for [`Self::pop_answer`], or gives it back if too many wait.
    pub fn wait(&mut self, compaction: Revision, request: RequestId, reply: Reply) -> Option<Reply> {
        if self.waiters.len() >= PHYSICAL_WAITERS_MAX {
            return Some(reply);
        }
        self.waiters.push_back((compaction, request, reply));
        None
    }

    /// The next answer whose compaction has given its space back, and is not `pending` otherwise.
    pub fn pop_answer(&mut self, pending: impl Fn(Revision) -> bool) -> Option<(RequestId, Reply)> {
        let (compaction, ..) = self.waiters.front()?;
        if !self.is_given_back(*compaction) || pending(*compaction) {
            return None;
        }
        self.waiters.pop_front().map(|(_, request, reply)| (request, reply))
    }

    /// Takes over the waiters of another state: their compactions are part of this one, or come after it.
    pub fn inherit(&mut self, before: Self) {
        self.waiters = before.waiters;
    }

    pub fn waiters(&self) -> impl Iterator<Item = RequestId> {
        self.waiters.iter().map(|(_, request, _)| *request)
    }

    fn is_given_back(&self, compaction: Revision) -> bool {
        self.retired.main.next() >= compaction
    }

    pub fn check_invariants<R: StateReader>(&self, store: &Store<R>) {
        let (compacted_to, compacted) = (self.compacted_to, store.compact_revision);
        assert!(
            compacted_to.main < compacted || compacted_to == UNCOMPACTED,
            "compacted to {compacted_to} with the compact revision at {compacted}"
        );
        assert!(store.compacted_to <= compacted_to, "the reader is compacted to {}, the machine to {compacted_to}", store.compacted_to);
        assert!(self.retired <= compacted_to, "retired {} but compacted only to {compacted_to}", self.retired);
    }
}

/// Where a compaction ends: before its revision, where a watch may still start.
const fn end(compacted: Revision) -> RevisionId {
    whole(Revision(compacted.0 - 1))
}

const fn whole(revision: Revision) -> RevisionId {
    RevisionId { main: revision, sub: u32::MAX }
}
