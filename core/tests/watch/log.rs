//! A store as watchers see it, kept as the plain list of everything that ever happened.

use bytes::Bytes;
use quorate_core::command::{KeyRange, Refusal};
use quorate_core::mvcc::{EncodedKeyValue, Event, EventKind};
use quorate_core::types::{Monotonic, Now, Revision, RevisionId, StreamId, WallMs, WatchId};
use quorate_core::watch::{History, HubEffect, HubLimits, WatchHub, WatchInput, WatchRequest, WatchResponse};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// One state of the list; the list itself is shared by all of them.
#[derive(Clone, Debug)]
pub struct Log {
    events: Arc<Mutex<Vec<Event>>>,
    revision: Revision,
    floor: Arc<AtomicI64>,
    /// The floor is raised to here while events are being read.
    pub raised_by_read: Option<Revision>,
    /// Rows of this revision are gone, although the floor does not say so.
    pub dropped: Option<Revision>,
    /// Every state of it cannot be read.
    pub is_broken: Arc<AtomicBool>,
    pub reads: Arc<AtomicUsize>,
    /// How many events the greatest read returned.
    pub greatest_read: Arc<AtomicUsize>,
}

impl Log {
    pub fn new() -> Self {
        Self {
            events: Arc::default(),
            revision: Revision(1),
            floor: Arc::new(AtomicI64::new(-1)),
            raised_by_read: None,
            dropped: None,
            is_broken: Arc::default(),
            reads: Arc::default(),
            greatest_read: Arc::default(),
        }
    }

    /// One revision of these changes: `Some` puts a value, `None` deletes.
    pub fn txn(&mut self, changes: &[(&str, Option<&str>)]) -> Revision {
        self.revision = self.revision.next();
        let mut events = self.events.lock().expect("no test panics with it");
        for (sub, (key, value)) in changes.iter().enumerate() {
            let id = RevisionId { main: self.revision, sub: u32::try_from(sub).expect("few changes") };
            let kind = if value.is_some() { EventKind::Put } else { EventKind::Delete };
            let kv = EncodedKeyValue(format!("{key}={}@{}", value.unwrap_or_default(), self.revision).into());
            events.push(Event { id, kind, kv, key: Bytes::copy_from_slice(key.as_bytes()) });
        }
        self.revision
    }

    pub fn put(&mut self, key: &str, value: &str) -> Revision {
        self.txn(&[(key, Some(value))])
    }

    pub fn delete(&mut self, key: &str) -> Revision {
        self.txn(&[(key, None)])
    }

    /// States made before keep their floor.
    pub fn compact(&mut self, floor: Revision) {
        self.floor = Arc::new(AtomicI64::new(floor.0));
    }

    /// Loses one change of every revision.
    pub fn forget(&mut self, sub: u32) {
        self.events.lock().expect("no test panics with it").retain(|event| event.id.sub != sub);
    }

    pub fn restore(&mut self, events: Vec<Event>) {
        *self.events.lock().expect("no test panics with it") = events;
    }

    pub fn all(&self) -> Vec<Event> {
        self.events.lock().expect("no test panics with it").clone()
    }
}

impl History for Log {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn compact_revision(&self) -> Revision {
        Revision(self.floor.load(Ordering::Relaxed))
    }

    fn events(&self, after: Revision, limit: usize, bytes: usize) -> Result<Vec<Event>, Refusal> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(Refusal::StorageFailed);
        }
        if after.next() < self.compact_revision() {
            return Err(Refusal::Compacted);
        }
        let events = self.events.lock().expect("no test panics with it");
        let mut found: Vec<Event> = Vec::new();
        let mut sum = 0;
        for event in
            events.iter().filter(|event| after < event.id.main && event.id.main <= self.revision && Some(event.id.main) != self.dropped)
        {
            let full = found.len() >= limit || sum >= bytes;
            if full && found.last().is_some_and(|last| last.id.main != event.id.main) {
                break;
            }
            sum += event.kv.0.len();
            found.push(event.clone());
        }
        self.greatest_read.fetch_max(found.len(), Ordering::Relaxed);
        if let Some(floor) = self.raised_by_read {
            self.floor.store(floor.0, Ordering::Relaxed);
        }
        Ok(found)
    }

    fn at(&self, key: &[u8], revision: Revision) -> Result<Option<EncodedKeyValue>, Refusal> {
        if self.is_broken.load(Ordering::Relaxed) {
            return Err(Refusal::StorageFailed);
        }
        if revision < self.compact_revision() {
            return Err(Refusal::Compacted);
        }
        let events = self.events.lock().expect("no test panics with it");
        let newest = events.iter().rev().find(|event| event.key == key && event.id.main <= revision);
        Ok(newest.filter(|event| event.kind == EventKind::Put).map(|event| event.kv.clone()))
    }
}

/// A hub on a log, and a clock that only the test moves.
#[derive(Debug)]
pub struct World {
    pub log: Log,
    pub hub: WatchHub<Log>,
    pub now: Now,
}

pub const STREAM: StreamId = StreamId(1);

impl World {
    /// With stream 1 open.
    pub fn new(limits: HubLimits) -> Self {
        Self::on(Log::new(), limits)
    }

    pub fn on(log: Log, limits: HubLimits) -> Self {
        let now = Now { monotonic: Monotonic(Duration::from_secs(1)), wall: WallMs(0) };
        let hub = WatchHub::new(limits, Arc::new(log.clone()), now);
        let mut world = Self { log, hub, now };
        world.step(WatchInput::Open(STREAM));
        world
    }

    /// A wake comes alone and is flushed; other inputs are steps of a turn that goes on, so that what comes of each is seen.
    pub fn step(&mut self, input: WatchInput<Log>) -> Vec<HubEffect> {
        let mut out = Vec::new();
        let is_last = matches!(input, WatchInput::Wake);
        self.hub.step(self.now, input, &mut out);
        if is_last {
            self.hub.flush(self.now, &mut out);
        }
        out
    }

    /// The same for tests with a single stream.
    pub fn told(&mut self, input: WatchInput<Log>) -> Vec<WatchResponse> {
        self.step(input).into_iter().map(|effect| effect.response).collect()
    }

    pub fn create(&mut self, request: WatchRequest) -> Vec<WatchResponse> {
        self.told(WatchInput::Create(STREAM, request))
    }

    pub fn publish(&mut self) -> Vec<WatchResponse> {
        self.told(WatchInput::Published(Arc::new(self.log.clone())))
    }

    pub fn drain(&mut self, bytes: usize) -> Vec<WatchResponse> {
        self.told(WatchInput::Drained(STREAM, bytes))
    }

    pub fn has_work(&self) -> bool {
        self.hub.deadline() <= self.now.monotonic
    }

    /// Wakes the hub until it wants no more.
    pub fn settle(&mut self) -> Vec<WatchResponse> {
        let mut told = Vec::new();
        for _ in 0..10_000 {
            if !self.has_work() {
                return told;
            }
            told.extend(self.told(WatchInput::Wake));
        }
        panic!("the hub never comes to rest");
    }

    pub fn pass(&mut self, time: Duration) -> Vec<WatchResponse> {
        self.now.monotonic = self.now.monotonic + time;
        self.told(WatchInput::Wake)
    }
}

/// Bounds that no test reaches by accident.
pub fn roomy() -> HubLimits {
    HubLimits { stream_bytes: 1 << 20, stream_watches: 100, progress_interval: Duration::ZERO, ..HubLimits::default() }
}

pub fn key(key: &str) -> WatchRequest {
    range(key, "")
}

pub fn range(key: &str, end: &str) -> WatchRequest {
    let range = KeyRange { key: Bytes::copy_from_slice(key.as_bytes()), end: Bytes::copy_from_slice(end.as_bytes()) };
    WatchRequest { range, ..WatchRequest::default() }
}

/// A response as a line: `0@3 [a=1@3 b=@3]` is watch 0 with header revision 3 and a put and a delete.
pub fn line(response: &WatchResponse) -> String {
    let text = |kv: &EncodedKeyValue| String::from_utf8_lossy(&kv.0).into_owned();
    let mut line = format!("{}@{}", response.watch, response.revision);
    if response.created {
        line.push_str(" created");
    }
    if let Some(reason) = &response.canceled {
        line.push_str(&format!(" canceled {reason:?}"));
    }
    if !response.events.is_empty() {
        let events = response.events.iter().map(|event| match &event.prev_kv {
            Some(previous) => format!("{} after {}", text(&event.kv), text(previous)),
            None => text(&event.kv),
        });
        line.push_str(&format!(" [{}]", events.collect::<Vec<_>>().join(", ")));
    }
    if response.fragment {
        line.push_str(" ...");
    }
    line
}

pub fn lines(responses: &[WatchResponse]) -> Vec<String> {
    responses.iter().map(line).collect()
}

pub fn cancel(watch: i64) -> WatchInput<Log> {
    WatchInput::Cancel(STREAM, WatchId(watch))
}
