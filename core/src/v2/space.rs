//! The tree itself: what readers see of it, and what a change does to it.

use super::error::{Error, ErrorCode};
use super::event::{Action, Event, HISTORY_EVENTS, NodeImage, WatchPoint};
use super::node::Node;
use super::path::{NodePath, keys_below};
use super::request::{Change, Compare, Condition, Delete, EXPIRED_MAX, Request, Write};
use super::rows;
use crate::mutant::{Mutant, planted};
use crate::mvcc::tree::{Sum, Tree};
use crate::storage::{ReadFailed, StateReader, WriteBatch};
use crate::types::WallMs;
use alloc::{collections::BTreeSet, format, string::String, sync::Arc, vec::Vec};
use bytes::Bytes;

/// The last moment of the year 9999: a time to live that ends later ends then, so that every end has a date that can be written.
const EXPIRES_MAX: WallMs = WallMs(253_402_300_799_000);

/// One state of the tree. Cloning is O(1), and a clone never changes.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// By [`NodePath::key`]. The root is not in it. Every directory above a node is.
    pub(super) nodes: Tree<Bytes, Node>,
    /// The last [`HISTORY_EVENTS`], by their index.
    pub(super) history: Tree<u64, Arc<Event>>,
    /// Of the last change; 0 before the first.
    pub(super) index: u64,
    /// The cluster's time of the last command.
    pub(super) time: WallMs,
}

/// A node with what was asked for of those below it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    pub node: NodeImage,
    /// `None`: a file, or a directory that was not looked into.
    pub children: Option<Vec<Listing>>,
}

impl Space {
    /// The index of the last change; `fresh` before the first one.
    #[must_use]
    pub const fn index(&self, fresh: u64) -> u64 {
        if self.index == 0 { fresh } else { self.index }
    }

    /// The cluster's time, as far as commands have told it.
    #[must_use]
    pub const fn time(&self) -> WallMs {
        self.time
    }

    /// Nodes, and bytes of their values, below a path with itself: what a listing costs at most. In logarithmic time.
    #[must_use]
    pub fn measure(&self, path: &NodePath) -> Sum {
        let key = path.key();
        self.nodes.measure(Some(&key[..]), Some(&keys_below(&key).1[..]))
    }

    /// A node; with those in it if it is a directory, or all below it if `recursive`. Hidden ones are left out.
    ///
    /// # Errors
    /// [`ErrorCode::KeyNotFound`], [`ErrorCode::NotADirectory`].
    pub fn get(&self, path: &NodePath, recursive: bool, fresh: u64) -> Result<Listing, Error> {
        let node = self.find(path).map_err(|(code, cause)| Error { code, cause, index: self.index(fresh) })?;
        let children = node.is_directory().then(|| self.children(&path.key(), recursive));
        Ok(Listing { node: NodeImage::of(path, &node), children })
    }

    /// Recursion is as deep as the tree, so at most [`super::DEPTH_MAX`] and one.
    fn children(&self, directory: &[u8], recursive: bool) -> Vec<Listing> {
        let (mut from, end) = keys_below(directory);
        let mut children = Vec::new();
        loop {
            let next = self.nodes.range(Some(&from[..]), Some(&end[..])).next();
            let Some((key, node)) = next else { return children };
            let path = NodePath::from_key(key).expect("a key was made from a path");
            if !path.is_hidden() {
                let below = (recursive && node.is_directory()).then(|| self.children(key, true));
                children.push(Listing { node: NodeImage::of(&path, node), children: below });
            }
            from = keys_below(key).1;
        }
    }

    /// The first event at or after an index that somebody waits for; `None`: it is still to come.
    ///
    /// # Errors
    /// [`ErrorCode::EventIndexCleared`] if one before the oldest that is kept could be meant.
    pub fn next_event(&self, point: &WatchPoint, from: u64, fresh: u64) -> Result<Option<Arc<Event>>, Error> {
        let oldest = self.history.first().map_or(0, |(index, _)| *index);
        if from < oldest && self.is_forgetting() {
            let cause = format!("the requested history has been cleared [{oldest}/{from}]");
            return Err(Error { code: ErrorCode::EventIndexCleared, cause, index: self.index(fresh) });
        }
        let mut events = self.history.range(Some(&from), None);
        Ok(events.find(|(_, event)| point.matches(event)).map(|(_, event)| Arc::clone(event)))
    }

    /// Whether events have been dropped already.
    fn is_forgetting(&self) -> bool {
        self.history.sum().count >= HISTORY_EVENTS
    }

    /// The node at a path, or the first component on the way that is in the way.
    fn find(&self, path: &NodePath) -> Result<Node, (ErrorCode, String)> {
        if path.is_root() {
            return Ok(Node { value: None, created: 0, modified: 0, expires: None });
        }
        if let Some(node) = self.nodes.get(&path.key()[..]) {
            return Ok(node.clone());
        }
        let missing = path.parents().find_map(|parent| match self.nodes.get(&parent.key()[..]) {
            Some(node) if node.is_directory() => None,
            Some(_) => Some((ErrorCode::NotADirectory, String::from(parent.as_str()))),
            None => Some((ErrorCode::KeyNotFound, String::from(parent.as_str()))),
        });
        Err(missing.unwrap_or_else(|| (ErrorCode::KeyNotFound, String::from(path.as_str()))))
    }
}

/// The tree as apply changes it.
#[derive(Debug, Default)]
pub struct SpaceWriter {
    space: Space,
    /// Nodes with an end, by when it comes.
    ends: BTreeSet<(WallMs, Bytes)>,
}

/// A refusal on its way to be given the index.
type Refused = (ErrorCode, String);

impl SpaceWriter {
    /// Loads the tree.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn open<R: StateReader>(reader: &R) -> Result<Self, ReadFailed> {
        let mut space = rows::load(reader)?;
        if planted(Mutant::D1) {
            space.history = Tree::default();
        }
        if planted(Mutant::D2) {
            return Ok(Self { space, ends: BTreeSet::new() });
        }
        let ends = space.nodes.range::<[u8]>(None, None).filter_map(|(key, node)| Some((node.expires?, key.clone()))).collect();
        Ok(Self { space, ends })
    }

    #[must_use]
    pub const fn space(&self) -> &Space {
        &self.space
    }

    /// When the next node goes, by the cluster's time.
    #[must_use]
    pub fn next_end(&self) -> Option<WallMs> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// Carries out a request at the time that its leader gave it; `fresh` is the index before the first change. An expiry that finds
    /// nothing to take has no event.
    ///
    /// # Errors
    /// If it is refused; then only the time has moved.
    pub fn apply(&mut self, at: WallMs, fresh: u64, request: &Request, batch: &mut WriteBatch) -> Result<Option<Arc<Event>>, Error> {
        self.space.time = if planted(Mutant::D3) { at } else { self.space.time.max(at) };
        self.space.index = self.space.index(fresh);
        let path = &request.path;
        let done = match &request.change {
            Change::Write(write) => self.write(path, write, batch).map(Some),
            Change::Delete(delete) => self.delete(path, delete, batch).map(Some),
            Change::Expire => Ok(self.expire(batch)),
        };
        rows::put_mark(self.space.index, self.space.time, batch);
        self.check_invariants();
        done.map_err(|(code, cause)| Error { code, cause, index: self.space.index })
    }

    fn write(&mut self, path: &NodePath, write: &Write, batch: &mut WriteBatch) -> Result<Arc<Event>, Refused> {
        match &write.condition {
            Condition::Set => {
                let before = match self.space.find(path) {
                    Err((ErrorCode::KeyNotFound, _)) if !write.refresh => None,
                    found => Some(found?),
                };
                let value = before
                    .as_ref()
                    .filter(|_| write.refresh)
                    .map_or_else(|| write.value.clone(), |node| node.value.clone().unwrap_or_default());
                self.make(Action::Set, path, before, value, write, batch)
            }
            Condition::Create => {
                let before = self.space.find(path).ok();
                if before.is_some() && !path.is_root() {
                    return Err((ErrorCode::KeyExists, path.as_str().into()));
                }
                self.make(Action::Create, path, before, write.value.clone(), write, batch)
            }
            Condition::CreateInOrder => {
                let path = path.child(&format!("{:020}", self.space.index + 1));
                self.make(Action::Create, &path, None, write.value.clone(), write, batch)
            }
            Condition::Update => self.change(Action::Update, path, None, write, batch),
            Condition::CompareAndSwap(compare) => self.change(Action::CompareAndSwap, path, Some(compare), write, batch),
        }
    }

    /// Makes a node where none was, or in place of a file; with every directory that is missing above it.
    fn make(
        &mut self,
        action: Action,
        path: &NodePath,
        before: Option<Node>,
        value: Bytes,
        write: &Write,
        batch: &mut WriteBatch,
    ) -> Result<Arc<Event>, Refused> {
        if path.is_root() {
            return Err((ErrorCode::RootReadOnly, "/".into()));
        }
        if before.as_ref().is_some_and(Node::is_directory) {
            return Err((ErrorCode::NotAFile, path.as_str().into()));
        }
        let index = self.space.index + 1;
        self.make_parents(path, index, batch)?;
        let node = Node { value: (!write.is_directory).then_some(value), created: index, modified: index, expires: self.end_of(write) };
        let image = NodeImage::of(path, &node);
        self.put(path.key(), node, batch);
        let previous = before.map(|node| NodeImage::of(path, &node));
        let is_refresh = write.refresh && action == Action::Set;
        Ok(self.record(action, image, previous, is_refresh, batch))
    }

    fn make_parents(&mut self, path: &NodePath, index: u64, batch: &mut WriteBatch) -> Result<(), Refused> {
        let mut missing = Vec::new();
        for parent in path.parents() {
            let key = parent.key();
            match self.space.nodes.get(&key[..]) {
                Some(node) if node.is_directory() => {}
                Some(_) => return Err((ErrorCode::NotADirectory, parent.as_str().into())),
                None => missing.push(key),
            }
        }
        for key in missing {
            self.put(key, Node { value: None, created: index, modified: index, expires: None }, batch);
        }
        Ok(())
    }

    /// Changes a node that is there.
    fn change(
        &mut self,
        action: Action,
        path: &NodePath,
        compare: Option<&Compare>,
        write: &Write,
        batch: &mut WriteBatch,
    ) -> Result<Arc<Event>, Refused> {
        if path.is_root() {
            return Err((ErrorCode::RootReadOnly, "/".into()));
        }
        let before = self.space.find(path)?;
        let new_value = !write.value.is_empty() && !write.refresh;
        if before.is_directory() && (compare.is_some() || new_value) {
            return Err((ErrorCode::NotAFile, path.as_str().into()));
        }
        if let Some(compare) = compare {
            check(compare, &before)?;
        }
        let index = self.space.index + 1;
        let value = if write.refresh { before.value.clone() } else { before.value.as_ref().map(|_| write.value.clone()) };
        let told = Node { value, created: before.created, modified: index, expires: self.end_of(write) };
        // As in etcd, a directory itself keeps its index: only its end changes.
        let modified = if before.is_directory() { before.modified } else { index };
        self.put(path.key(), Node { modified, ..told.clone() }, batch);
        Ok(self.record(action, NodeImage::of(path, &told), Some(NodeImage::of(path, &before)), write.refresh, batch))
    }

    fn delete(&mut self, path: &NodePath, delete: &Delete, batch: &mut WriteBatch) -> Result<Arc<Event>, Refused> {
        if path.is_root() && delete.compare.is_none() {
            return Err((ErrorCode::RootReadOnly, "/".into()));
        }
        let before = self.space.find(path)?;
        let action = match &delete.compare {
            Some(_) if before.is_directory() => return Err((ErrorCode::NotAFile, path.as_str().into())),
            Some(compare) => {
                check(compare, &before)?;
                Action::CompareAndDelete
            }
            None => Action::Delete,
        };
        if before.is_directory() && !delete.recursive {
            if !delete.directory {
                return Err((ErrorCode::NotAFile, path.as_str().into()));
            }
            if self.space.measure(path).count > 1 {
                return Err((ErrorCode::DirectoryNotEmpty, path.as_str().into()));
            }
        }
        Ok(self.take_away(action, path, &before, batch))
    }

    fn expire(&mut self, batch: &mut WriteBatch) -> Option<Arc<Event>> {
        let mut last = None;
        for _ in 0..EXPIRED_MAX {
            let Some((at, key)) = self.ends.first().filter(|(at, _)| *at <= self.space.time) else { break };
            let path = NodePath::from_key(key).expect("a key was made from a path");
            let node = self.space.nodes.get(&key[..]).cloned();
            let node = node.unwrap_or_else(|| panic!("{path} ends at {} but is not there", at.0));
            last = Some(self.take_away(Action::Expire, &path, &node, batch));
        }
        last
    }

    /// Takes a node away, with all that is below it.
    fn take_away(&mut self, action: Action, path: &NodePath, node: &Node, batch: &mut WriteBatch) -> Arc<Event> {
        let key = path.key();
        let (from, end) = keys_below(&key);
        let below: Vec<Bytes> = self.space.nodes.range(Some(&from[..]), Some(&end[..])).map(|(key, _)| key.clone()).collect();
        for key in below.iter().chain([&key]) {
            if let Some(node) = self.space.nodes.remove(&key[..]) {
                self.forget_end(key, &node);
            }
            rows::delete_node(key, batch);
        }
        let index = self.space.index + 1;
        let gone = NodeImage { value: None, modified: index, expires: None, ..NodeImage::of(path, node) };
        self.record(action, gone, Some(NodeImage::of(path, node)), false, batch)
    }

    fn put(&mut self, key: Bytes, node: Node, batch: &mut WriteBatch) {
        rows::put_node(&key, &node, batch);
        if let Some(expires) = node.expires {
            self.ends.insert((expires, key.clone()));
        }
        let expires = node.expires;
        if let Some(before) = self.space.nodes.insert(key.clone(), node)
            && before.expires != expires
        {
            self.forget_end(&key, &before);
        }
    }

    fn forget_end(&mut self, key: &Bytes, node: &Node) {
        if let Some(expires) = node.expires {
            self.ends.remove(&(expires, key.clone()));
        }
    }

    fn end_of(&self, write: &Write) -> Option<WallMs> {
        let end = |ttl_s: u64| WallMs(self.space.time.0.saturating_add(ttl_s.saturating_mul(1_000))).min(EXPIRES_MAX);
        write.ttl_s.map(end)
    }

    /// Counts a change, and keeps it for those who wait.
    fn record(
        &mut self,
        action: Action,
        node: NodeImage,
        previous: Option<NodeImage>,
        is_refresh: bool,
        batch: &mut WriteBatch,
    ) -> Arc<Event> {
        let index = self.space.index + 1;
        let event = Arc::new(Event { action, index, at: self.space.time, node, previous, is_refresh });
        rows::put_event(&event, batch);
        self.space.index = index;
        self.space.history.insert(index, Arc::clone(&event));
        if let Some(forgotten) = index.checked_sub(HISTORY_EVENTS)
            && self.space.history.remove(&forgotten).is_some()
        {
            rows::delete_event(forgotten, batch);
        }
        event
    }

    fn check_invariants(&self) {
        let kept = self.space.history.sum().count;
        assert!(kept <= HISTORY_EVENTS, "{kept} events are kept");
        let newest = self.space.history.last().map_or(0, |(index, _)| *index);
        assert!(newest == 0 || newest == self.space.index, "the newest event is {newest}, the index {}", self.space.index);
    }

    /// Panics if the state contradicts itself. Visits everything: for tests and the simulator.
    pub fn check(&self) {
        self.check_invariants();
        self.space.nodes.check_invariants();
        let mut ends = BTreeSet::new();
        for (key, node) in self.space.nodes.range::<[u8]>(None, None) {
            let path = NodePath::from_key(key).expect("a key was made from a path");
            ends.extend(node.expires.map(|expires| (expires, key.clone())));
            for parent in path.parents() {
                let parent = self.space.nodes.get(&parent.key()[..]);
                assert!(parent.is_some_and(Node::is_directory), "{path} stands in no directory");
            }
        }
        assert!(ends == self.ends || planted(Mutant::D2), "the ends do not belong to the nodes");
    }
}

/// Whether a file is as the comparison says.
fn check(compare: &Compare, node: &Node) -> Result<(), Refused> {
    let stored = node.value.clone().unwrap_or_default();
    let by_value = compare.value.as_ref().filter(|value| **value != stored);
    let by_index = compare.modified.filter(|modified| *modified != node.modified);
    let values = || by_value.map(|value| format!("[{} != {}]", String::from_utf8_lossy(value), String::from_utf8_lossy(&stored)));
    let indexes = || by_index.map(|modified| format!("[{modified} != {}]", node.modified));
    match (values(), indexes()) {
        (None, None) => Ok(()),
        (values, indexes) => {
            let causes: Vec<String> = values.into_iter().chain(indexes).collect();
            Err((ErrorCode::CompareFailed, causes.join(" ")))
        }
    }
}
