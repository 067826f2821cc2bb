//! Multi-version key-values: every change is a revision, every revision that is not compacted can be read.
//!
//! Think of a grid: a row for each key, a column for each revision. A write fills cells of one column; `†` is a tombstone.
//!
//! ```text
//!   revision   2   3   4   5   6   7   8
//!   key a      ●           ●
//!   key b          ●               ●
//!   key c              ●       †       ●
//! ```
//!
//! Three questions are asked of it. *What was key b at revision 6?* goes from a cell to the left until something stands there. *All
//! keys from a to c now* goes down a column. *What happened since revision 5?* goes from column to column. The first two want cells
//! ordered by key, the last by revision, and so does writing, which only ever appends.
//!
//! So the **index**, in memory, has all cells by key, but not their values; and values lie in one of two generations of rows in the
//! state store. The **recent** generation is ordered by revision: a write appends to it and a watch reads along it. The **settled** one
//! is ordered by key and has at most one cell of each: what a compaction leaves of the past.
//!
//! Compaction at revision F says that nobody asks about columns before F any more (F itself is still read, and watched from). Of the
//! cells before F only those matter which are still seen from F: the last of each row, unless it is a tombstone. In the background the
//! columns before F are walked in order (`compaction`). With F = 6 in the grid above:
//!
//! ```text
//!   revision   2   3   4   5 | 6   7   8          settled, by key
//!   key a      x           ─>|                    a ● of revision 5
//!   key b          ─>        |     ●              b ● of revision 3
//!   key c              x     | †       ●
//!             compacted_to ^ |  recent, by revision
//! ```
//!
//! `x` is let go, `─>` settles. A later compaction with F = 8 puts b of 7 in the place of b of 3 and lets the tombstone of 6 go, as c
//! is there again at 8. (Were it not, the tombstone would take c out of the settled generation first.) When a sync covers what was
//! moved, the columns that were walked are dropped as whole tables.
//!
//! `Store` is the grid of one instant, cheap to clone: readers hold one each, inside [`View`]. A read asks the index which cells it
//! wants and fetches their rows: from memory if they are young, by revision if compaction has not come past them, else by key.

mod builder;
pub(crate) mod compaction;
pub(crate) mod cost;
pub(crate) mod hash;
pub(crate) mod hash_kv;
pub(crate) mod index;
pub(crate) mod read;
pub(crate) mod row;
pub(crate) mod stop;
pub(crate) mod store;
pub(crate) mod tree;
pub(crate) mod txn;

pub use crate::machine::View;
pub use row::{EncodedKeyValue, KeyValue};

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
