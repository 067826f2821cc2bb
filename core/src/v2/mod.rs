//! The v2 key space: a tree of directories and files with values, beside the v3 key-values in the same log and state, and disjoint
//! from them.
//!
//! What a request does is etcd 3.4's v2 store: one index for the whole tree, counted up by every change; each node knows the index at
//! which it was made and the one at which it was changed; the last [`HISTORY_EVENTS`] changes are kept for those who wait for one.
//!
//! The tree is kept flat, in one ordered map from a path's key to its node (see [`path`]): the nodes below a directory are one
//! interval, in the order in which they are listed. It is persistent, as the v3 index is, so a reader's copy costs nothing.
//!
//! Time is the cluster's: the leader stamps each command as it appends it, and apply never lets time go back. A node whose time is
//! up goes by a command too, so all members lose it at the same index.

mod error;
mod event;
#[cfg(any(test, feature = "memory-store"))]
pub mod model;
mod node;
pub mod path;
mod request;
mod rows;
mod space;

pub use error::{Error, ErrorCode};
pub use event::{Action, Event, HISTORY_EVENTS, NodeImage, WatchPoint};
pub use node::Node;
pub use path::{DEPTH_MAX, NodePath, PATH_BYTES_MAX};
pub use request::{Change, Compare, Condition, Delete, EXPIRED_MAX, Request, Write};
pub(crate) use space::SpaceWriter;
pub use space::{Listing, Space};

#[cfg(test)]
mod tests;
