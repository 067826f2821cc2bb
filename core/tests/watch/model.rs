//! Random clients against a model that knows every event there ever was.
//!
//! The model derives from the full log what a watch is owed: events of its keys from its start on that its filters let pass.
//! At any time a watch must have been given a prefix of that, ending between revisions (ordered, unique, atomic, resumable);
//! whatever a response claims by its revision must have been given (bookmarkable); and once everything is drained, all of it
//! (reliable), unless the watch was cancelled as compacted, which is allowed only if something owed is below the floor.

use crate::log::{Log, World, line};
use bytes::Bytes;
use quorate_core::command::KeyRange;
use quorate_core::mvcc::{Event, EventKind};
use quorate_core::types::{Revision, StreamId, WatchId};
use quorate_core::watch::{Canceled, History, HubEffect, HubLimits, WatchEvent, WatchInput, WatchRequest, WatchResponse};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

const INTERVAL: Duration = Duration::from_secs(10);
const KEYS: [&str; 5] = ["a", "aa", "b", "c", "d"];
const STREAMS: u64 = 3;

#[derive(Debug)]
struct ModelWatch {
    request: WatchRequest,
    owed_from: Revision,
    /// How many of the events it is owed it was given.
    given: usize,
    /// Fragments of a response that is not complete.
    open: Vec<WatchEvent>,
    /// It surely has everything before this revision.
    next: Revision,
}

#[derive(Debug, Default)]
struct ModelStream {
    watches: BTreeMap<WatchId, ModelWatch>,
    next_id: i64,
    undrained: Vec<usize>,
}

#[derive(Debug)]
struct Run {
    seed: u64,
    rng: ChaCha8Rng,
    world: World,
    limits: HubLimits,
    /// What the hub was told last.
    view: Log,
    streams: BTreeMap<StreamId, ModelStream>,
    reached: BTreeSet<&'static str>,
}

fn holds(range: &KeyRange, key: &[u8]) -> bool {
    let start: &[u8] = if range.key.is_empty() { b"\0" } else { &range.key };
    match &range.end[..] {
        b"" => key == start,
        b"\0" => key >= start,
        end => key >= start && key < end,
    }
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut up_to = |max: u32| 1 + (rng.next_u32() % max) as usize;
        let limits = HubLimits {
            stream_bytes: up_to(800),
            hub_bytes: up_to(2_000),
            stream_watches: up_to(6),
            hub_watches: up_to(14),
            catch_up_revisions: up_to(4),
            slice_events: up_to(8),
            slice_bytes: up_to(60),
            fragment_bytes: up_to(120),
            progress_interval: INTERVAL,
        };
        let world = World::new(limits);
        let streams = BTreeMap::from([(crate::log::STREAM, ModelStream::default())]);
        Self { seed, rng, view: world.log.clone(), world, limits, streams, reached: BTreeSet::new() }
    }

    fn pick(&mut self, below: u32) -> u32 {
        self.rng.next_u32() % below
    }

    fn stream(&mut self) -> StreamId {
        StreamId(u64::from(self.pick(u32::try_from(STREAMS).expect("few"))))
    }

    fn step(&mut self, input: WatchInput<Log>) -> Vec<HubEffect> {
        let effects = self.world.step(input);
        for effect in &effects {
            self.check(effect.stream, &effect.response);
        }
        effects
    }

    /// What a watch is owed of the history that the hub has seen, with the places of these events in it.
    fn owed(&self, watch: &ModelWatch) -> Vec<Event> {
        let wants = |event: &Event| match event.kind {
            EventKind::Put => !watch.request.no_put,
            EventKind::Delete => !watch.request.no_delete,
        };
        let seen = self.world.log.all().into_iter().filter(|event| event.id.main <= self.view.revision());
        seen.filter(|event| event.id.main >= watch.owed_from && holds(&watch.request.range, &event.key) && wants(event)).collect()
    }

    fn as_told(&self, watch: &ModelWatch, event: &Event) -> WatchEvent {
        let before = || self.view.at(&event.key, Revision(event.id.main.0 - 1)).unwrap_or_default();
        let prev_kv = if watch.request.prev_kv { before() } else { None };
        WatchEvent { kind: event.kind, kv: event.kv.clone(), prev_kv }
    }

    /// As the limits have it. The stream is not among the others.
    fn is_full(&self, stream: &ModelStream) -> bool {
        let own: usize = stream.undrained.iter().sum();
        let others: usize = self.streams.values().flat_map(|stream| &stream.undrained).sum();
        own >= self.limits.stream_bytes || (own > 0 && own + others >= self.limits.hub_bytes)
    }

    fn check(&mut self, id: StreamId, response: &WatchResponse) {
        let context = format!("seed {}, stream {id}: {}", self.seed, line(response));
        let mut stream = self.streams.remove(&id).unwrap_or_else(|| panic!("closed: {context}"));
        let room = !self.is_full(&stream);
        stream.undrained.push(response.bytes());
        if response.created {
            // Checked by who asked.
        } else if let Some(reason) = &response.canceled {
            let watch = stream.watches.remove(&response.watch).unwrap_or_else(|| panic!("unknown: {context}"));
            if let Canceled::Compacted(floor) = reason {
                self.reached.insert("compacted");
                assert_eq!((*floor, response.revision), (self.view.compact_revision(), Revision(0)), "{context}");
                assert!(watch.next < *floor, "had all below {}: {context}", watch.next);
            } else {
                assert_eq!(*reason, Canceled::Requested, "{context}");
            }
        } else if response.events.is_empty() {
            self.reached.insert("progress");
            assert!(room, "over budget: {context}");
            assert_eq!(response.revision, self.view.revision(), "{context}");
            let spoken_for: Vec<&ModelWatch> = match response.watch {
                WatchId(-1) => stream.watches.values().collect(),
                watch => vec![&stream.watches[&watch]],
            };
            assert!(!spoken_for.is_empty(), "{context}");
            for watch in spoken_for {
                assert!(watch.request.start_revision <= response.revision, "start not reached: {context}");
                assert_eq!(watch.given, self.owed(watch).len(), "progress before an event: {context}");
            }
        } else {
            let mut watch = stream.watches.remove(&response.watch).unwrap_or_else(|| panic!("unknown: {context}"));
            assert!(room || !watch.open.is_empty(), "over budget: {context}");
            self.check_events(&mut watch, response, &context);
            stream.watches.insert(response.watch, watch);
        }
        self.streams.insert(id, stream);
    }

    fn check_events(&mut self, watch: &mut ModelWatch, response: &WatchResponse, context: &str) {
        if response.fragment || !watch.open.is_empty() {
            self.reached.insert("fragments");
            let bytes: usize = response.events.iter().map(WatchEvent::bytes).sum();
            assert!(watch.request.fragment, "not asked for: {context}");
            assert!(bytes < self.limits.fragment_bytes || response.events.len() == 1, "{bytes} bytes: {context}");
        }
        watch.open.extend(response.events.iter().cloned());
        if response.fragment {
            return;
        }
        let told = std::mem::take(&mut watch.open);
        let owed = self.owed(watch);
        let (from, to) = (watch.given, watch.given + told.len());
        assert!(to <= owed.len(), "more than is owed: {context}");
        let expected: Vec<WatchEvent> = owed[from..to].iter().map(|event| self.as_told(watch, event)).collect();
        assert_eq!(told, expected, "{context}");
        let last = owed[to - 1].id.main;
        assert!(owed.get(to).is_none_or(|next| next.id.main > last), "revision {last} is split: {context}");
        let revisions: BTreeSet<Revision> = owed[from..to].iter().map(|event| event.id.main).collect();
        assert!(revisions.len() <= self.limits.catch_up_revisions, "{} revisions: {context}", revisions.len());
        if revisions.len() > 1 {
            self.reached.insert("several revisions");
        }
        assert!(last <= response.revision && response.revision <= self.view.revision(), "{context}");
        assert!(owed.get(to).is_none_or(|next| next.id.main > response.revision), "claims more than was given: {context}");
        watch.given = to;
        watch.next = watch.next.max(response.revision.next());
    }

    fn create(&mut self) {
        let id = self.stream();
        let key = |run: &mut Self| match run.pick(7) {
            0 => "",
            1 => "\0",
            other => KEYS[other as usize - 2],
        };
        let end = if self.pick(2) == 0 { "" } else { key(self) };
        let revision = self.view.revision().0;
        let start = match self.pick(4) {
            0 => 0,
            1 => revision + i64::from(self.pick(4)),
            2 => i64::from(self.pick(4)) - 1,
            _ => 1 + i64::from(self.pick(u32::try_from(revision).expect("short log"))),
        };
        let request = WatchRequest {
            range: KeyRange { key: Bytes::from_static(key(self).as_bytes()), end: Bytes::from_static(end.as_bytes()) },
            start_revision: Revision(start),
            progress_notify: self.pick(2) == 0,
            no_put: self.pick(6) == 0,
            no_delete: self.pick(6) == 0,
            prev_kv: self.pick(2) == 0,
            watch: WatchId(if self.pick(3) == 0 { i64::from(self.pick(6)) } else { 0 }),
            fragment: self.pick(2) == 0,
        };
        self.check_create(id, request);
    }

    /// A create is answered within its own step, so the model can say exactly how.
    fn check_create(&mut self, id: StreamId, request: WatchRequest) {
        let told: Vec<WatchResponse> =
            self.world.step(WatchInput::Create(id, request.clone())).into_iter().map(|effect| effect.response).collect();
        let (revision, floor) = (self.view.revision(), self.view.compact_revision());
        let watches: usize = self.streams.values().map(|stream| stream.watches.len()).sum();
        let Some(stream) = self.streams.get_mut(&id) else {
            return assert!(told.is_empty(), "an answer without a stream");
        };
        stream.undrained.extend(told.iter().map(WatchResponse::bytes));
        let start: &[u8] = if request.range.key.is_empty() { b"\0" } else { &request.range.key };
        let end = &request.range.end[..];
        let refused = if !end.is_empty() && end != b"\0" && end <= start {
            Some(Canceled::EmptyRange)
        } else if request.start_revision < Revision(0) {
            Some(Canceled::NegativeStart)
        } else if stream.watches.len() >= self.limits.stream_watches || watches >= self.limits.hub_watches {
            Some(Canceled::TooManyWatches)
        } else if request.watch != WatchId(0) && stream.watches.contains_key(&request.watch) {
            Some(Canceled::DuplicateId)
        } else {
            None
        };
        let created = WatchResponse { revision, created: true, ..WatchResponse::default() };
        if refused.is_some() {
            self.reached.insert("refused");
            return assert_eq!(told, [WatchResponse { watch: WatchId(-1), canceled: refused, ..created }], "seed {}", self.seed);
        }
        let watch = if request.watch == WatchId(0) {
            while stream.watches.contains_key(&WatchId(stream.next_id)) {
                stream.next_id += 1;
            }
            stream.next_id += 1;
            WatchId(stream.next_id - 1)
        } else {
            request.watch
        };
        let mut expected = vec![WatchResponse { watch, ..created }];
        let owed_from = if request.start_revision == Revision(0) { revision.next() } else { request.start_revision };
        if owed_from < floor {
            self.reached.insert("start below the floor");
            expected.push(WatchResponse { watch, canceled: Some(Canceled::Compacted(floor)), ..WatchResponse::default() });
        } else {
            stream.watches.insert(watch, ModelWatch { request, owed_from, given: 0, open: Vec::new(), next: owed_from });
        }
        assert_eq!(told, expected, "seed {}", self.seed);
    }

    fn cancel(&mut self) {
        let id = self.stream();
        let watch = WatchId(i64::from(self.pick(8)));
        let known = self.streams.get(&id).is_some_and(|stream| stream.watches.contains_key(&watch));
        let told = self.step(WatchInput::Cancel(id, watch));
        let response =
            WatchResponse { revision: self.view.revision(), watch, canceled: Some(Canceled::Requested), ..WatchResponse::default() };
        assert_eq!(told, Vec::from_iter(known.then_some(HubEffect { stream: id, response })), "seed {}", self.seed);
    }

    fn write(&mut self) {
        let mut changes: BTreeMap<&str, Option<&str>> = BTreeMap::new();
        for _ in 0..=self.pick(3) {
            let key = KEYS[self.pick(5) as usize];
            changes.insert(key, if self.pick(4) == 0 { None } else { Some("value") });
        }
        let mut changes: Vec<_> = changes.into_iter().collect();
        if self.pick(2) == 0 {
            changes.reverse();
        }
        self.world.log.txn(&changes);
    }

    fn publish(&mut self) {
        self.view = self.world.log.clone();
        self.step(WatchInput::Published(Arc::new(self.view.clone())));
    }

    fn drain(&mut self, id: StreamId, all: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let count = if all { stream.undrained.len() } else { stream.undrained.len().min(1 + (self.rng.next_u32() % 3) as usize) };
        let bytes = stream.undrained.drain(..count).sum();
        self.step(WatchInput::Drained(id, bytes));
    }

    fn act(&mut self) {
        match self.pick(32) {
            0..=9 => self.write(),
            10..=14 => self.publish(),
            15..=18 => self.create(),
            19 => self.cancel(),
            20..=23 => {
                let id = self.stream();
                self.drain(id, false);
            }
            24..=26 => drop(self.step(WatchInput::Wake)),
            27 => {
                let id = self.stream();
                self.step(WatchInput::Progress(id));
            }
            28 => {
                let (floor, newest) = (self.world.log.compact_revision().0, self.world.log.revision().0);
                let above = i64::from(self.pick(8));
                self.world.log.compact(Revision((newest - above).max(floor)));
            }
            29 => {
                self.world.now.monotonic = self.world.now.monotonic + INTERVAL / 2;
                self.step(WatchInput::Wake);
            }
            30 => {
                let id = self.stream();
                self.step(WatchInput::Open(id));
                self.streams.entry(id).or_default();
            }
            _ if self.pick(4) == 0 => {
                let id = self.stream();
                self.streams.remove(&id);
                assert!(self.step(WatchInput::Close(id)).is_empty());
            }
            _ => {}
        }
    }

    /// With everything published, drained and read, every watch has all that it is owed, and is told so when it asks.
    fn settle(&mut self) {
        self.publish();
        for _ in 0..10_000 {
            for id in 0..STREAMS {
                self.drain(StreamId(id), true);
            }
            if !self.world.has_work() {
                break;
            }
            self.step(WatchInput::Wake);
        }
        assert!(!self.world.has_work(), "seed {}: never comes to rest", self.seed);
        let revision = self.view.revision();
        for (id, stream) in &self.streams {
            for (watch, model) in &stream.watches {
                assert_eq!(model.given, self.owed(model).len(), "seed {}, stream {id}, watch {watch} misses events", self.seed);
            }
        }
        for stream in self.streams.values_mut() {
            stream.watches.values_mut().for_each(|watch| watch.next = watch.owed_from.max(revision.next()));
        }
        self.check_all_progress();
    }

    fn check_all_progress(&mut self) {
        let revision = self.view.revision();
        for id in (0..STREAMS).map(StreamId) {
            let Some(ModelStream { watches, .. }) = self.streams.get(&id) else { continue };
            let expected = !watches.is_empty() && watches.values().all(|watch| watch.request.start_revision <= revision);
            assert_eq!(self.step(WatchInput::Progress(id)).len(), usize::from(expected), "seed {}, stream {id}", self.seed);
            self.drain(id, true);
        }
        // Twice: the first interval may have had events. A full stream is left out, so each gets as much room as it takes.
        for round in 0..2 {
            self.world.now.monotonic = self.world.now.monotonic + INTERVAL;
            let told: BTreeSet<(StreamId, WatchId)> =
                self.step(WatchInput::Wake).iter().map(|effect| (effect.stream, effect.response.watch)).collect();
            for (id, stream) in &self.streams {
                let asking =
                    stream.watches.iter().filter(|(_, watch)| watch.request.progress_notify && watch.request.start_revision <= revision);
                let mut missing = asking.filter(|(watch, _)| !told.contains(&(*id, **watch))).peekable();
                let own: usize = stream.undrained.iter().sum();
                let all: usize = self.streams.values().flat_map(|stream| &stream.undrained).sum();
                let is_full = own >= self.limits.stream_bytes || (own > 0 && all >= self.limits.hub_bytes);
                assert!(round == 0 || is_full || missing.peek().is_none(), "seed {}, stream {id}: no progress told", self.seed);
            }
            for id in 0..STREAMS {
                self.drain(StreamId(id), true);
            }
        }
    }
}

fn run(seed: u64) -> BTreeSet<&'static str> {
    let mut run = Run::new(seed);
    for _ in 0..8 {
        for _ in 0..60 {
            run.act();
        }
        run.settle();
    }
    run.reached
}

#[test]
fn every_watch_is_given_what_the_model_says_it_is_owed() {
    let mut reached = BTreeSet::new();
    for seed in 0..400 {
        reached.append(&mut run(seed));
    }
    let expected = ["compacted", "fragments", "progress", "refused", "several revisions", "start below the floor"];
    assert_eq!(reached, BTreeSet::from(expected), "rare paths that some seed must take");
}
