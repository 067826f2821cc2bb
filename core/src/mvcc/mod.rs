//! Multi-version key-values: every change is a revision, every uncompacted revision can be read.
//!
//! [`View`] is what readers hold. Behind it: an index of all versions in memory, the rows of recent changes beside it, and two
//! generations of rows in the state store, `recent` by revision and `settled` by key (see `compaction`).

mod builder;
pub(crate) mod compaction;
pub(crate) mod hash;
pub(crate) mod index;
pub(crate) mod row;
pub(crate) mod store;
pub(crate) mod tree;
pub(crate) mod txn;
mod view;

pub use row::{EncodedKeyValue, KeyValue};
pub use view::View;

use crate::types::{Revision, RevisionId};

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
