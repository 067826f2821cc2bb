//! The v2 tree as one would draw it: directories that hold their children. Slow, and without any structure of the real one, so that tests
//! and the simulator can hold the real one against it.

use super::{Action, Change, Compare, Condition, Delete, ErrorCode, Event, Listing, NodeImage, NodePath, Request, Write};
use crate::types::WallMs;
use alloc::{
    boxed::Box,
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};
use bytes::Bytes;

#[derive(Clone, Debug)]
struct Tree {
    created: u64,
    modified: u64,
    expires: Option<WallMs>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    File(Bytes),
    Directory(BTreeMap<String, Box<Tree>>),
}

/// One state of it.
#[derive(Debug)]
pub struct Model {
    root: Tree,
    index: u64,
    now: u64,
    /// Since they were taken.
    events: Vec<Event>,
}

/// Why nothing was done: the code, and the cause.
type Refused = (ErrorCode, String);
type Done = Result<Event, Refused>;

impl Tree {
    fn directory(index: u64) -> Self {
        Self { created: index, modified: index, expires: None, kind: Kind::Directory(BTreeMap::new()) }
    }

    fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory(_))
    }

    fn image(&self, at: &str) -> NodeImage {
        let value = match &self.kind {
            Kind::File(value) => Some(value.clone()),
            Kind::Directory(_) => None,
        };
        NodeImage {
            path: NodePath::parse(at).unwrap(),
            is_directory: value.is_none(),
            value,
            created: self.created,
            modified: self.modified,
            expires: self.expires,
        }
    }

    fn list(&self, at: &str, recursive: bool, is_asked: bool) -> Listing {
        let children = match &self.kind {
            Kind::Directory(children) if recursive || is_asked => {
                let shown = children.iter().filter(|(name, _)| !name.starts_with('_'));
                Some(shown.map(|(name, child)| child.list(&format!("{at}/{name}"), recursive, false)).collect())
            }
            _ => None,
        };
        Listing { node: self.image(at), children }
    }

    fn ends(&self, at: &str, into: &mut Vec<(u64, String)>) {
        into.extend(self.expires.map(|expires| (expires.0, at.to_string())));
        if let Kind::Directory(children) = &self.kind {
            children.iter().for_each(|(name, child)| child.ends(&format!("{at}/{name}"), into));
        }
    }

    fn matches(&self, compare: &Compare) -> Result<(), Refused> {
        let Kind::File(value) = &self.kind else { unreachable!("files are compared") };
        let mut causes = Vec::new();
        if let Some(expected) = &compare.value
            && expected != value
        {
            causes.push(format!("[{} != {}]", String::from_utf8_lossy(expected), String::from_utf8_lossy(value)));
        }
        if let Some(expected) = compare.modified
            && expected != self.modified
        {
            causes.push(format!("[{expected} != {}]", self.modified));
        }
        if causes.is_empty() { Ok(()) } else { Err((ErrorCode::CompareFailed, causes.join(" "))) }
    }
}

fn names(at: &str) -> Vec<&str> {
    at.split('/').filter(|name| !name.is_empty()).collect()
}

impl Model {
    /// An empty one, whose next change is at the index after this.
    #[must_use]
    pub fn new(index: u64) -> Self {
        Self { root: Tree::directory(0), index, now: 0, events: Vec::new() }
    }

    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// Events since they were last taken.
    pub fn take_events(&mut self) -> Vec<Event> {
        core::mem::take(&mut self.events)
    }

    /// As [`super::Space::get`].
    ///
    /// # Errors
    /// Likewise, without the index.
    pub fn get(&self, path: &NodePath, recursive: bool) -> Result<Listing, Refused> {
        let mut tree = &self.root;
        let mut here = String::new();
        for name in names(path.as_str()) {
            let Kind::Directory(children) = &tree.kind else { return Err((ErrorCode::NotADirectory, here)) };
            here = format!("{here}/{name}");
            tree = children.get(name).ok_or_else(|| (ErrorCode::KeyNotFound, here.clone()))?;
        }
        Ok(tree.list(&here, recursive, true))
    }

    /// Walks down, and says what is in the way.
    fn find(&mut self, at: &str) -> Result<&mut Tree, Refused> {
        let mut tree = &mut self.root;
        let mut here = String::new();
        for name in names(at) {
            let Kind::Directory(children) = &mut tree.kind else { return Err((ErrorCode::NotADirectory, here)) };
            here = format!("{here}/{name}");
            tree = children.get_mut(name).ok_or_else(|| (ErrorCode::KeyNotFound, here.clone()))?;
        }
        Ok(tree)
    }

    fn remove(&mut self, at: &str) {
        let (above, name) = at.rsplit_once('/').unwrap();
        let Kind::Directory(children) = &mut self.find(above).unwrap().kind else { unreachable!("it has a child") };
        children.remove(name);
    }

    fn place(&mut self, at: &str, node: Tree) -> Result<(), Refused> {
        let index = node.created;
        let names = names(at);
        let (last, above) = names.split_last().unwrap();
        let mut tree = &mut self.root;
        let mut here = String::new();
        for name in above {
            let Kind::Directory(children) = &mut tree.kind else { return Err((ErrorCode::NotADirectory, here)) };
            here = format!("{here}/{name}");
            tree = children.entry((*name).to_string()).or_insert_with(|| Box::new(Tree::directory(index)));
        }
        let Kind::Directory(children) = &mut tree.kind else { return Err((ErrorCode::NotADirectory, here)) };
        children.insert((*last).to_string(), Box::new(node));
        Ok(())
    }

    fn event(&mut self, action: Action, node: NodeImage, previous: Option<NodeImage>, is_refresh: bool) -> Event {
        self.index += 1;
        let event = Event { action, index: self.index, at: WallMs(self.now), node, previous, is_refresh };
        self.events.push(event.clone());
        event
    }

    /// Carries out a request at a time in milliseconds; an expiry that finds nothing has no event.
    ///
    /// # Errors
    /// The code and the cause that the client is told.
    pub fn apply(&mut self, now: u64, request: &Request) -> Result<Option<Event>, Refused> {
        self.now = self.now.max(now);
        let at = request.path.as_str();
        match &request.change {
            Change::Write(write) => self.write(at, write).map(Some),
            Change::Delete(delete) => self.delete(at, delete).map(Some),
            Change::Expire => Ok(self.expire()),
        }
    }

    fn write(&mut self, at: &str, write: &Write) -> Done {
        let expires = write.ttl_s.map(|ttl_s| WallMs(self.now + 1_000 * ttl_s));
        let index = self.index + 1;
        let root = || Err((ErrorCode::RootReadOnly, "/".to_string()));
        let found = self.find(at).cloned();
        match &write.condition {
            Condition::Set | Condition::Create | Condition::CreateInOrder => {
                let in_order = write.condition == Condition::CreateInOrder;
                let sets = write.condition == Condition::Set;
                let at = if in_order { format!("{at}/{index:020}") } else { at.to_string() };
                let found = if in_order { Err((ErrorCode::KeyNotFound, String::new())) } else { found };
                let before = match found {
                    Ok(before) => Some(before),
                    Err(error @ (ErrorCode::NotADirectory, _)) if sets => return Err(error),
                    Err(error) if sets && write.refresh => return Err(error),
                    Err(_) => None,
                };
                if at.is_empty() {
                    return root();
                }
                match &before {
                    Some(_) if !sets => return Err((ErrorCode::KeyExists, at)),
                    Some(before) if before.is_directory() => return Err((ErrorCode::NotAFile, at)),
                    _ => {}
                }
                let value = match before.as_ref().map(|before| &before.kind) {
                    Some(Kind::File(value)) if write.refresh => value.clone(),
                    _ => write.value.clone(),
                };
                let kind = if write.is_directory { Kind::Directory(BTreeMap::new()) } else { Kind::File(value) };
                let node = Tree { created: index, modified: index, expires, kind };
                let image = node.image(&at);
                self.place(&at, node)?;
                let previous = before.map(|before| before.image(&at));
                Ok(self.event(if sets { Action::Set } else { Action::Create }, image, previous, sets && write.refresh))
            }
            Condition::Update => self.change(Action::Update, at, None, write, expires),
            Condition::CompareAndSwap(compare) => self.change(Action::CompareAndSwap, at, Some(compare), write, expires),
        }
    }

    fn change(&mut self, action: Action, at: &str, compare: Option<&Compare>, write: &Write, expires: Option<WallMs>) -> Done {
        if at.is_empty() {
            return Err((ErrorCode::RootReadOnly, "/".to_string()));
        }
        let index = self.index + 1;
        let node = self.find(at)?;
        let previous = node.image(at);
        if node.is_directory() && (compare.is_some() || !write.value.is_empty()) {
            return Err((ErrorCode::NotAFile, at.to_string()));
        }
        if let Some(compare) = compare {
            node.matches(compare)?;
        }
        node.expires = expires;
        if let Kind::File(value) = &mut node.kind {
            if !write.refresh {
                *value = write.value.clone();
            }
            node.modified = index;
        }
        let told = NodeImage { modified: index, ..node.image(at) };
        Ok(self.event(action, told, Some(previous), write.refresh))
    }

    fn delete(&mut self, at: &str, delete: &Delete) -> Done {
        if at.is_empty() && delete.compare.is_none() {
            return Err((ErrorCode::RootReadOnly, "/".to_string()));
        }
        let node = self.find(at)?;
        let refused = |code| Err((code, at.to_string()));
        let action = match (&delete.compare, &node.kind) {
            (Some(_), Kind::Directory(_)) => return refused(ErrorCode::NotAFile),
            (Some(compare), Kind::File(_)) => {
                node.matches(compare)?;
                Action::CompareAndDelete
            }
            (None, Kind::Directory(_)) if !delete.directory && !delete.recursive => return refused(ErrorCode::NotAFile),
            (None, Kind::Directory(children)) if !children.is_empty() && !delete.recursive => {
                return refused(ErrorCode::DirectoryNotEmpty);
            }
            (None, _) => Action::Delete,
        };
        Ok(self.take_away(action, at))
    }

    fn take_away(&mut self, action: Action, at: &str) -> Event {
        let previous = self.find(at).unwrap().image(at);
        self.remove(at);
        let node = NodeImage { value: None, modified: self.index + 1, expires: None, ..previous.clone() };
        self.event(action, node, Some(previous), false)
    }

    fn expire(&mut self) -> Option<Event> {
        let mut last = None;
        loop {
            let mut ends = Vec::new();
            self.root.ends("", &mut ends);
            // Of those that end together, in the order of a walk through the tree.
            ends.sort_by_key(|(at, path)| (*at, path.replace('/', "\0")));
            let Some((_, path)) = ends.into_iter().find(|(at, _)| *at <= self.now) else { return last };
            last = Some(self.take_away(Action::Expire, &path));
        }
    }
}
