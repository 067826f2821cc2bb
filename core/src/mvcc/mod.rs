//! Multi-version key-values: every change is a revision, every uncompacted revision can be read.

mod row;

pub use row::{EncodedKeyValue, KeyValue};

use crate::command::{Alarm, Member, Range, RangeReply, Refusal, Txn, TxnReply};
use crate::consensus::Configuration;
use crate::storage::StateReader;
use crate::types::{LogId, Revision, RevisionId};
use alloc::vec::Vec;

/// An immutable state of the whole store, shared by readers. Cloning is cheap; holding one delays only memory.
#[derive(Clone, Debug)]
pub struct View<R: StateReader> {
    reader: R,
}

/// One change, as watchers see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub id: RevisionId,
    pub kind: EventKind,
    /// For a delete only key and mod revision are set, as in etcd.
    pub kv: EncodedKeyValue,
    pub key: bytes::Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    Put,
    Delete,
}

/// Answer of `HashKV`: order-independent, equal among members, not equal to etcd's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvHash {
    pub hash: u32,
    pub hash_revision: Revision,
    /// -1 before the first compaction.
    pub compact_revision: Revision,
}

impl<R: StateReader> View<R> {
    /// The newest revision; 1 in a fresh store.
    #[must_use]
    pub fn revision(&self) -> Revision {
        todo!()
    }
    /// The compaction floor F: the oldest readable revision; -1 before the first compaction.
    #[must_use]
    pub fn compacted(&self) -> Revision {
        todo!()
    }
    #[must_use]
    pub fn applied(&self) -> LogId {
        todo!()
    }
    /// Sorted by id.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        todo!()
    }
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        todo!()
    }
    #[must_use]
    pub fn alarms(&self) -> &[Alarm] {
        todo!()
    }
    /// Live keys.
    #[must_use]
    pub fn key_count(&self) -> u64 {
        todo!()
    }

    /// Reads keys (etcd API, Range). Refuses a compacted or future revision and an unknown sort.
    pub fn range(&self, _request: &Range) -> Result<RangeReply, Refusal> {
        todo!()
    }

    /// Bytes that `range` would return for this request, from the index alone: for budgets.
    #[must_use]
    pub fn range_bytes(&self, _request: &Range) -> u64 {
        todo!()
    }

    /// Evaluates a txn whose ops are all ranges.
    pub fn read_txn(&self, _txn: &Txn) -> Result<TxnReply, Refusal> {
        todo!()
    }

    /// Up to `limit` changes with `after < revision`, in order, never splitting a revision (so it may return more). Refuses
    /// with `Compacted` if `after + 1` is below the floor.
    pub fn events(&self, _after: Revision, _limit: usize) -> Result<Vec<Event>, Refusal> {
        todo!()
    }

    /// The version of a key as of a revision; `None` if it did not exist then or is compacted away.
    pub fn at(&self, _key: &[u8], _revision: Revision) -> Result<Option<EncodedKeyValue>, Refusal> {
        todo!()
    }

    pub fn hash_kv(&self, _revision: Revision) -> Result<KvHash, Refusal> {
        todo!()
    }
}
