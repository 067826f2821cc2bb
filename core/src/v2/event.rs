//! What a change did, as its client is told and as those are who wait for it.

use super::node::Node;
use super::path::NodePath;
use crate::mvcc::tree::{Measure, Sum};
use crate::types::WallMs;
use alloc::sync::Arc;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Changes that are kept for those who wait from an index on (etcd v2 API: the last thousand over all keys).
pub const HISTORY_EVENTS: u64 = 1_000;

/// Stored in the state store, with the nodes it speaks of: append-only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Action {
    Get,
    Create,
    Set,
    Update,
    Delete,
    CompareAndSwap,
    CompareAndDelete,
    Expire,
}

impl Action {
    /// Its name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Create => "create",
            Self::Set => "set",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::CompareAndSwap => "compareAndSwap",
            Self::CompareAndDelete => "compareAndDelete",
            Self::Expire => "expire",
        }
    }
}

/// A node as an answer or an event shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeImage {
    pub path: NodePath,
    pub is_directory: bool,
    /// `None` for directories, and for what a deletion leaves.
    pub value: Option<Bytes>,
    pub created: u64,
    pub modified: u64,
    pub expires: Option<WallMs>,
}

impl NodeImage {
    #[must_use]
    pub fn of(path: &NodePath, node: &Node) -> Self {
        Self {
            path: path.clone(),
            is_directory: node.is_directory(),
            value: node.value.clone(),
            created: node.created,
            modified: node.modified,
            expires: node.expires,
        }
    }

    /// Seconds that are left at that time, begun ones counted; 0 without an end, and beyond it.
    #[must_use]
    pub fn ttl_s(&self, at: WallMs) -> u64 {
        self.expires.map_or(0, |expires| expires.0.saturating_sub(at.0).div_ceil(1_000))
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    pub action: Action,
    /// The index of the change.
    pub index: u64,
    /// The cluster's time of the change.
    pub at: WallMs,
    pub node: NodeImage,
    /// The node before, without what was below it.
    pub previous: Option<NodeImage>,
    /// It takes its place in history, but is told to nobody.
    pub is_refresh: bool,
}

impl Event {
    /// Whether it made a node where none was.
    #[must_use]
    pub const fn is_created(&self) -> bool {
        match self.action {
            Action::Create => true,
            Action::Set => self.previous.is_none(),
            _ => false,
        }
    }
}

impl Measure for Arc<Event> {
    fn measure(&self) -> Sum {
        Sum { count: 1, entries: 1, bytes: 0 }
    }
}

/// What somebody waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchPoint {
    pub path: NodePath,
    pub recursive: bool,
}

impl WatchPoint {
    /// Whether an event is one that it waits for: of its node; with `recursive`, of any below it that is not hidden from there; and the
    /// end of a directory above it, told as what it is.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        if event.is_refresh {
            return false;
        }
        if let Some(rest) = event.node.path.below(&self.path) {
            return rest.is_empty() || (self.recursive && !rest.contains("/_"));
        }
        let ends = matches!(event.action, Action::Delete | Action::Expire) && event.node.is_directory;
        ends && self.path.below(&event.node.path).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: Action, path: &str, is_directory: bool) -> Event {
        let path = NodePath::parse(path).unwrap();
        let node = NodeImage { path, is_directory, value: None, created: 1, modified: 1, expires: None };
        Event { action, index: 1, at: WallMs(0), node, previous: None, is_refresh: false }
    }

    #[test]
    fn whoever_waits_is_told_of_the_node_of_what_is_below_and_of_the_end_of_a_directory_above() {
        let point = |path: &str, recursive| WatchPoint { path: NodePath::parse(path).unwrap(), recursive };
        let set = |path| event(Action::Set, path, false);
        for (watched, recursive, event, told) in [
            ("/a", false, set("/a"), true),
            ("/a", false, set("/a/b"), false),
            ("/a", true, set("/a/b/c"), true),
            ("/a", true, set("/ab"), false),
            ("/a", true, set("/a/_b/c"), false),
            ("/a/_b", true, set("/a/_b/c"), true),
            ("/a/_b", false, set("/a/_b"), true),
            ("/", true, set("/a"), true),
            ("/a/b", false, event(Action::Delete, "/a", true), true),
            ("/a/b", true, event(Action::Expire, "/a", true), true),
            ("/a/b", false, event(Action::Update, "/a", true), false),
            ("/a/b", false, event(Action::Set, "/a", true), false),
        ] {
            assert_eq!(point(watched, recursive).matches(&event), told, "{watched} recursive={recursive}: {event:?}");
        }
        assert!(!point("/a", true).matches(&Event { is_refresh: true, ..set("/a") }));
    }

    #[test]
    fn a_begun_second_counts_until_the_end() {
        let image = |expires| NodeImage { expires, ..event(Action::Set, "/a", false).node };
        let left = |ms| image(Some(WallMs(10_000))).ttl_s(WallMs(ms));
        assert_eq!([left(5_000), left(5_001), left(9_999), left(10_000), left(11_000)], [5, 5, 1, 0, 0]);
        assert_eq!(image(None).ttl_s(WallMs(0)), 0);
    }
}
