//! What the tree holds of a node.

use crate::mvcc::tree::{Measure, Sum};
use crate::types::WallMs;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Stored in the state store; fields are only ever appended, behind a new format version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// `None`: a directory.
    pub value: Option<Bytes>,
    /// The index at which it was made.
    pub created: u64,
    /// The index at which it was last changed.
    pub modified: u64,
    /// When it goes, by the cluster's time.
    pub expires: Option<WallMs>,
}

impl Node {
    #[must_use]
    pub const fn is_directory(&self) -> bool {
        self.value.is_none()
    }
}

impl Measure for Node {
    fn measure(&self) -> Sum {
        Sum { count: 1, entries: 1, bytes: self.value.as_ref().map_or(0, Bytes::len) as u64 }
    }
}
