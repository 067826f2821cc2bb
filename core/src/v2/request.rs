//! What a v2 client may ask to be changed. Stored in the log: fields and variants are only ever appended, behind a new format version.

use super::path::NodePath;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Nodes that one [`Change::Expire`] takes away at most; the next one goes on.
pub const EXPIRED_MAX: usize = 10_000;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    Write(Write),
    Delete(Delete),
    /// Takes away what has expired by the command's time. The leader asks for it.
    Expire,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    pub path: NodePath,
    pub change: Change,
}

/// PUT and POST.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Write {
    /// Of a directory it is ignored, but for an update, which must not have one.
    pub value: Bytes,
    pub is_directory: bool,
    /// Seconds after the command's time; `None`: for ever.
    pub ttl_s: Option<u64>,
    /// Only the time to live changes, and nobody who waits is told.
    pub refresh: bool,
    pub condition: Condition,
}

/// When a write is carried out, and as what.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Condition {
    /// Always: makes the node, or replaces a file.
    Set,
    /// Only if there is none.
    Create,
    /// As a new node below the path, named by the index.
    CreateInOrder,
    /// Only if there is one.
    Update,
    /// Only if there is one, and it is as said.
    CompareAndSwap(Compare),
}

/// What a file must be; at least one is given.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Compare {
    /// `None`: any.
    pub value: Option<Bytes>,
    /// The index at which it was last changed; `None`: any.
    pub modified: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Delete {
    /// A directory may go, if it is empty.
    pub directory: bool,
    /// A directory may go with all that is below it.
    pub recursive: bool,
    /// Only a file that is so.
    pub compare: Option<Compare>,
}
