//! Watchers at one revision of history: read for once, matched by key, the same events shared by all that want the same.

use super::interval::{End, Interval, IntervalMap};
use super::{WatchEvent, WatchRequest};
use crate::command::KeyRange;
use crate::mvcc::{Event, EventKind};
use crate::types::{Revision, StreamId, WatchId};
use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use bytes::Bytes;

/// A watch of one stream: how a group names it.
pub(super) type WatcherId = (StreamId, WatchId);

/// The keys of a watch. A single key is by far the most common, and found in a map instead of a tree.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Keys {
    One(Bytes),
    Range(Interval),
}

impl Keys {
    /// `None` if no key can be in there. The empty key stands for the first key there is (etcd API, Watch).
    pub fn new(range: &KeyRange) -> Option<Self> {
        let start = if range.key.is_empty() { Bytes::from_static(b"\0") } else { range.key.clone() };
        match &range.end[..] {
            b"" => Some(Self::One(start)),
            b"\0" => Some(Self::Range(Interval { start, end: End::Open })),
            end if end <= &start[..] => None,
            _ => Some(Self::Range(Interval { start, end: End::Before(range.end.clone()) })),
        }
    }
}

/// Which events a watch wants of those of its keys, and what of each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Needs {
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
}

impl Needs {
    fn want(self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

/// What a watch looks for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Interest {
    pub keys: Keys,
    pub needs: Needs,
}

impl Interest {
    pub fn new(request: &WatchRequest) -> Option<Self> {
        let needs = Needs { no_put: request.no_put, no_delete: request.no_delete, prev_kv: request.prev_kv };
        Some(Self { keys: Keys::new(&request.range)?, needs })
    }
}

/// For each member the first revision it is owed, if that lies beyond the group's cursor.
type Members = BTreeMap<WatcherId, Revision>;

/// The watches on one key or range.
#[derive(Debug)]
struct WatcherSet {
    /// Tells sets apart while events are matched.
    number: u64,
    by_needs: BTreeMap<Needs, Members>,
}

/// Watches that have been given everything up to a common revision.
#[derive(Debug, Default)]
pub(super) struct WatcherGroup {
    /// All members have what they are owed of the revisions up to this one.
    pub cursor: Revision,
    members: usize,
    sets: u64,
    exact: BTreeMap<Bytes, WatcherSet>,
    ranges: IntervalMap<WatcherSet>,
}

/// Members with one interest, and which events of a slice they want.
#[derive(Debug)]
pub(super) struct Matched<'a> {
    pub needs: Needs,
    pub members: &'a Members,
    /// Places in the slice, ascending. Never empty.
    pub places: Vec<usize>,
}

impl WatcherGroup {
    pub fn at(cursor: Revision) -> Self {
        Self { cursor, ..Self::default() }
    }

    pub fn len(&self) -> usize {
        self.members
    }

    pub fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// `owed` is the first revision the member wants.
    pub fn add(&mut self, interest: &Interest, member: WatcherId, owed: Revision) {
        let number = self.sets;
        let set = match &interest.keys {
            Keys::One(key) => self.exact.entry(key.clone()).or_insert_with(|| WatcherSet { number, by_needs: BTreeMap::new() }),
            Keys::Range(interval) => {
                self.ranges.insert(interval.clone(), WatcherSet { number, by_needs: BTreeMap::new() });
                self.ranges.get_mut(interval).expect("just inserted")
            }
        };
        self.sets += 1;
        let before = set.by_needs.entry(interest.needs).or_default().insert(member, owed);
        assert!(before.is_none(), "watch {member:?} is in its group already");
        self.members += 1;
    }

    pub fn remove(&mut self, interest: &Interest, member: WatcherId) {
        let set = match &interest.keys {
            Keys::One(key) => self.exact.get_mut(key),
            Keys::Range(interval) => self.ranges.get_mut(interval),
        };
        let set = set.unwrap_or_else(|| panic!("watch {member:?} is not where its keys are"));
        let members = set.by_needs.get_mut(&interest.needs).expect("members with these needs");
        members.remove(&member).expect("a member of its own group");
        if members.is_empty() {
            set.by_needs.remove(&interest.needs);
        }
        if set.by_needs.is_empty() {
            match &interest.keys {
                Keys::One(key) => drop(self.exact.remove(key)),
                Keys::Range(interval) => drop(self.ranges.remove(interval)),
            }
        }
        self.members -= 1;
    }

    /// Every member with its interest and the first revision it is owed.
    pub fn members(&self) -> Vec<(WatcherId, Interest, Revision)> {
        let mut all = Vec::with_capacity(self.members);
        let next = self.cursor.next();
        let mut collect = |keys: &Keys, set: &WatcherSet| {
            for (&needs, members) in &set.by_needs {
                let interest = Interest { keys: keys.clone(), needs };
                all.extend(members.iter().map(|(&member, &owed)| (member, interest.clone(), owed.max(next))));
            }
        };
        self.exact.iter().for_each(|(key, set)| collect(&Keys::One(key.clone()), set));
        self.ranges.for_each(|interval, set| collect(&Keys::Range(interval.clone()), set));
        all
    }

    /// Who wants which of these events. Costs nothing for watches on other keys.
    pub fn matched(&self, events: &[Event]) -> Vec<Matched<'_>> {
        let mut found: BTreeMap<(u64, Needs), Matched<'_>> = BTreeMap::new();
        for (place, event) in events.iter().enumerate() {
            if let Some(set) = self.exact.get(&event.key) {
                add_match(&mut found, set, event.kind, place);
            }
            self.ranges.visit(&event.key, |set| add_match(&mut found, set, event.kind, place));
        }
        found.into_values().collect()
    }
}

fn add_match<'a>(found: &mut BTreeMap<(u64, Needs), Matched<'a>>, set: &'a WatcherSet, kind: EventKind, place: usize) {
    for (&needs, members) in &set.by_needs {
        if needs.want(kind) {
            let matched = found.entry((set.number, needs)).or_insert_with(|| Matched { needs, members, places: Vec::new() });
            matched.places.push(place);
        }
    }
}

/// Consecutive events that go out as one response, whole revisions all of them.
#[derive(Debug)]
pub(super) struct Chunk {
    pub first: Revision,
    pub last: Revision,
    pub events: Arc<[WatchEvent]>,
    /// Filled when the first watch asks for fragments.
    fragments: Vec<Arc<[WatchEvent]>>,
}

impl Chunk {
    /// The same events in pieces below `fragment_bytes`, of one event at least.
    pub fn fragments(&mut self, fragment_bytes: usize) -> &[Arc<[WatchEvent]>] {
        if self.fragments.is_empty() {
            let mut rest = &self.events[..];
            while !rest.is_empty() {
                let mut bytes = 0;
                let mut fits = |event: &WatchEvent| {
                    bytes += event.bytes();
                    bytes < fragment_bytes
                };
                let (piece, after) = rest.split_at(rest.iter().take_while(|event| fits(event)).count().max(1));
                self.fragments.push(if after.is_empty() && self.fragments.is_empty() { self.events.clone() } else { piece.into() });
                rest = after;
            }
        }
        &self.fragments
    }
}

/// What one response may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkLimits {
    pub revisions: usize,
    /// Above this a response ends with the revision at hand.
    pub bytes: usize,
}

/// Cuts events, each with its revision, into responses.
pub(super) fn chunks(events: Vec<(Revision, WatchEvent)>, limits: ChunkLimits) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut open: Vec<WatchEvent> = Vec::new();
    let (mut first, mut last) = (Revision::default(), Revision::default());
    let (mut revisions, mut bytes) = (0, 0);
    let mut close = |first, last, open: &mut Vec<WatchEvent>| {
        chunks.push(Chunk { first, last, events: core::mem::take(open).into(), fragments: Vec::new() });
    };
    for (revision, event) in events {
        if !open.is_empty() && revision != last && (revisions >= limits.revisions || bytes >= limits.bytes) {
            close(first, last, &mut open);
        }
        if open.is_empty() {
            (first, revisions, bytes) = (revision, 1, 0);
        } else if revision != last {
            revisions += 1;
        }
        last = revision;
        bytes += event.bytes();
        open.push(event);
    }
    if !open.is_empty() {
        close(first, last, &mut open);
    }
    chunks
}
