//! The watch actor: requests and views in, responses out.

use super::stream::{GroupId, Outlet, Stream, SyncState, Watcher};
use super::watcher_group::{Chunk, ChunkLimits, Interest, Matched, WatcherGroup, WatcherId, chunks};
use super::{Canceled, History, HubEffect, HubLimits, WatchEvent, WatchInput, WatchRequest, WatchResponse};
use crate::command::Refusal;
use crate::mutant::{Mutant, planted};
use crate::mvcc::{EncodedKeyValue, Event};
use crate::types::{Monotonic, Now, Revision, RevisionId, StreamId, WatchId};
use alloc::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
    vec::Vec,
};
use core::time::Duration;

/// The revision of a store that nothing was written to.
const FRESH: Revision = Revision(1);

/// After a read that failed, unless a new view comes before.
const STALL_RETRY: Duration = Duration::from_millis(100);

/// On responses that speak for the whole stream, or for no watch at all.
const NO_WATCH: WatchId = WatchId(-1);

/// The watch actor; a member may run several, each with streams of its own.
#[derive(Debug)]
pub struct WatchHub<H> {
    limits: HubLimits,
    view: Arc<H>,
    now: Monotonic,
    streams: BTreeMap<StreamId, Stream>,
    /// Of all streams together.
    watches: usize,
    /// Of all streams together.
    undrained_bytes: usize,
    /// Watches that have, or are about to get, all that the view has.
    synced: WatcherGroup,
    /// Invariant: each has members, and its cursor is below the synced group's.
    unsynced: BTreeMap<GroupId, WatcherGroup>,
    /// Invariant: the unsynced groups, each under its cursor.
    by_cursor: BTreeMap<Revision, GroupId>,
    next_group: u64,
    turns: Turns,
    /// The view could not be read: nothing is tried before the next one, or before this.
    stalled_until: Monotonic,
    ticks: BTreeSet<(Monotonic, StreamId)>,
}

/// Who reads history next: first come, first served, and back to the end of the line.
#[derive(Debug, Default)]
struct Turns {
    line: BTreeMap<u64, Turn>,
    places: BTreeMap<Turn, u64>,
    next: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Turn {
    Synced,
    Unsynced(GroupId),
}

/// How much of history: to read, or read.
#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    events: usize,
    bytes: usize,
}

impl Slice {
    fn of(events: &[Event]) -> Self {
        Self { events: events.len(), bytes: events.iter().map(|event| event.kv.0.len()).sum() }
    }
}

/// What was before some events.
struct Previous {
    versions: BTreeMap<usize, EncodedKeyValue>,
    bytes: usize,
    /// The first event that was not looked at.
    end: usize,
}

/// How a slice was handed out.
struct Delivered {
    /// Only through here, if not whole.
    through: Option<Revision>,
    previous_bytes: usize,
}

impl Turns {
    fn join(&mut self, turn: Turn) {
        if let Entry::Vacant(place) = self.places.entry(turn) {
            place.insert(self.next);
            self.line.insert(self.next, turn);
            self.next += 1;
        }
    }

    fn leave(&mut self, turn: Turn) {
        if let Some(place) = self.places.remove(&turn) {
            self.line.remove(&place);
        }
    }

    fn take(&mut self) -> Option<Turn> {
        let (_, turn) = self.line.pop_first()?;
        self.places.remove(&turn);
        Some(turn)
    }
}

impl<H: History> WatchHub<H> {
    #[must_use]
    pub fn new(limits: HubLimits, view: Arc<H>, now: Now) -> Self {
        Self {
            limits,
            synced: WatcherGroup::at(view.revision()),
            view,
            now: now.monotonic,
            streams: BTreeMap::new(),
            watches: 0,
            undrained_bytes: 0,
            unsynced: BTreeMap::new(),
            by_cursor: BTreeMap::new(),
            next_group: 0,
            turns: Turns::default(),
            stalled_until: Monotonic::default(),
            ticks: BTreeSet::new(),
        }
    }

    /// When to `step` with `Wake`, if nothing else happens first: a progress notification is due, or history is left to read.
    #[must_use]
    pub fn deadline(&self) -> Monotonic {
        if self.has_history_to_read() {
            return self.now;
        }
        let retry = if self.turns.line.is_empty() { Monotonic::NEVER } else { self.stalled_until };
        self.ticks.first().map_or(Monotonic::NEVER, |(at, _)| *at).min(retry)
    }

    /// Whether the stream's budget is used up, or the hub's and the stream has a part in that. Events and progress then wait until
    /// it is drained; answers to the stream's own requests do not, so a transport should take no more requests off that client.
    #[must_use]
    pub fn is_over_budget(&self, stream: StreamId) -> bool {
        self.streams.get(&stream).is_some_and(|stream| stream.is_full(&self.limits, self.undrained_bytes))
    }

    /// Advances by one input: answers requests, and hands on what a new view has to the synced group. Responses land in
    /// `out` in the order they are to be sent.
    pub fn step(&mut self, now: Now, input: WatchInput<H>, out: &mut Vec<HubEffect>) {
        self.now = self.now.max(now.monotonic);
        let out = &mut Outlet { effects: out, undrained_bytes: self.undrained_bytes };
        match input {
            WatchInput::Published(view) => self.on_published(view, out),
            WatchInput::Open(stream) => drop(self.streams.entry(stream).or_default()),
            WatchInput::Create(stream, request) => self.on_create(stream, &request, out),
            WatchInput::Cancel(stream, watch) => self.on_cancel(stream, watch, out),
            WatchInput::Progress(stream) => self.on_progress(stream, out),
            WatchInput::Drained(stream, bytes) => self.on_drained(stream, bytes, out),
            WatchInput::Close(stream) => self.on_close(stream, out),
            WatchInput::Wake => {}
        }
        self.undrained_bytes = out.undrained_bytes;
        self.check_invariants();
    }

    /// Reads one slice of history for an unsynced group, and tells progress that is due.
    pub fn flush(&mut self, now: Now, out: &mut Vec<HubEffect>) {
        self.now = self.now.max(now.monotonic);
        let out = &mut Outlet { effects: out, undrained_bytes: self.undrained_bytes };
        self.read_history(out);
        self.tick(out);
        self.undrained_bytes = out.undrained_bytes;
        self.check_invariants();
    }

    fn on_published(&mut self, view: Arc<H>, out: &mut Outlet<'_>) {
        if view.revision() < self.view.revision() || view.compact_revision() < self.view.compact_revision() {
            return;
        }
        self.view = view;
        self.stalled_until = self.now;
        // A synced group that is still busy with an earlier view waits for its turn.
        if !self.turns.places.contains_key(&Turn::Synced) {
            self.advance_synced(self.slice(), out);
        }
    }

    fn slice(&self) -> Slice {
        Slice { events: self.limits.slice_events.max(1), bytes: self.limits.slice_bytes.max(1) }
    }

    fn on_create(&mut self, id: StreamId, request: &WatchRequest, out: &mut Outlet<'_>) {
        let revision = self.view.revision();
        let Some(stream) = self.streams.get_mut(&id) else { return };
        // Above the hub's own bound a stream has as many as it has already.
        let watches_max = if self.watches < self.limits.hub_watches { self.limits.stream_watches } else { stream.watches.len() };
        let (watch, interest) = match check_request(stream, request, watches_max) {
            Ok(checked) => checked,
            Err(reason) => {
                let canceled = Some(reason);
                return stream.emit(
                    id,
                    WatchResponse { revision, watch: NO_WATCH, created: true, canceled, ..WatchResponse::default() },
                    out,
                );
            }
        };
        stream.emit(id, WatchResponse { revision, watch, created: true, ..WatchResponse::default() }, out);
        let owed = if request.start_revision == Revision(0) { revision.next() } else { request.start_revision };
        let floor = self.view.compact_revision();
        if owed < floor {
            return stream.emit(id, compacted(watch, floor), out);
        }
        if request.progress_notify && stream.tick.is_none() && !self.limits.progress_interval.is_zero() {
            let at = self.now + self.limits.progress_interval;
            stream.tick = Some(at);
            self.ticks.insert((at, id));
        }
        stream.watches.insert(watch, Watcher::new(request, interest));
        self.watches += 1;
        self.place((id, watch), owed);
    }

    fn on_cancel(&mut self, id: StreamId, watch: WatchId, out: &mut Outlet<'_>) {
        let revision = self.view.revision();
        if !self.remove((id, watch)) {
            return;
        }
        let canceled = Some(Canceled::Requested);
        let stream = self.streams.get_mut(&id).expect("it had the watch");
        stream.emit(id, WatchResponse { revision, watch, canceled, ..WatchResponse::default() }, out);
    }

    /// Answered only if every watch of the stream has all there is, so that the answer may serve as a bookmark for each of them.
    fn on_progress(&mut self, id: StreamId, out: &mut Outlet<'_>) {
        let revision = self.view.revision();
        let is_current = self.is_synced_current();
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let is_synced = stream.watches.values().all(|watcher| has_all(watcher, is_current, revision) || planted(Mutant::V4));
        if !stream.watches.is_empty() && is_synced && !stream.is_full(&self.limits, out.undrained_bytes) {
            stream.emit(id, WatchResponse { revision, watch: NO_WATCH, ..WatchResponse::default() }, out);
        }
    }

    fn on_drained(&mut self, id: StreamId, bytes: usize, out: &mut Outlet<'_>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.drain(bytes, out);
        if !stream.is_full(&self.limits, out.undrained_bytes) {
            for (watch, owed) in core::mem::take(&mut stream.victims) {
                self.place((id, watch), owed);
            }
        }
    }

    fn on_close(&mut self, id: StreamId, out: &mut Outlet<'_>) {
        let Some(stream) = self.streams.get(&id) else { return };
        let watches: Vec<WatchId> = stream.watches.keys().copied().collect();
        for watch in watches {
            self.remove((id, watch));
        }
        let mut stream = self.streams.remove(&id).expect("found above");
        stream.drain(usize::MAX, out);
        if let Some(at) = stream.tick {
            self.ticks.remove(&(at, id));
        }
    }

    fn read_history(&mut self, out: &mut Outlet<'_>) {
        let mut budget = self.slice();
        while budget.events > 0 && budget.bytes > 0 && self.has_history_to_read() {
            let read = match self.turns.take() {
                Some(Turn::Synced) => self.advance_synced(budget, out),
                Some(Turn::Unsynced(id)) => self.advance_unsynced(id, budget, out),
                None => break,
            };
            // A turn that found nothing counts too, or a flush over many such turns would have no bound.
            budget.events = budget.events.saturating_sub(read.events.max(1));
            budget.bytes = budget.bytes.saturating_sub(read.bytes);
        }
    }

    fn has_history_to_read(&self) -> bool {
        self.stalled_until <= self.now && !self.turns.line.is_empty()
    }

    fn is_synced_current(&self) -> bool {
        self.synced.cursor == self.view.revision()
    }

    fn tick(&mut self, out: &mut Outlet<'_>) {
        let revision = self.view.revision();
        let is_current = self.is_synced_current();
        while let Some(&(at, id)) = self.ticks.first().filter(|(at, _)| *at <= self.now) {
            self.ticks.remove(&(at, id));
            let stream = self.streams.get_mut(&id).expect("a closed stream has no tick");
            stream.tick = None;
            let asking: Vec<WatchId> =
                stream.watches.iter().filter(|(_, watcher)| watcher.progress_notify).map(|(watch, _)| *watch).collect();
            for &watch in &asking {
                let over_budget = stream.is_full(&self.limits, out.undrained_bytes);
                let watcher = stream.watches.get_mut(&watch).expect("just listed");
                let was_idle = core::mem::replace(&mut watcher.is_idle, true);
                if was_idle && !over_budget && (has_all(watcher, is_current, revision) || planted(Mutant::V4)) {
                    stream.emit(id, WatchResponse { revision, watch, ..WatchResponse::default() }, out);
                }
            }
            if !asking.is_empty() {
                // From now, not from when it was due: after a pause one notification is enough.
                let at = self.now + self.limits.progress_interval;
                stream.tick = Some(at);
                self.ticks.insert((at, id));
            }
        }
    }

    /// Puts a watch that belongs to no group where the revision it is owed next will be read.
    fn place(&mut self, member: WatcherId, owed: Revision) {
        let watcher = self.streams.get_mut(&member.0).and_then(|stream| stream.watches.get_mut(&member.1)).expect("a known watch");
        if owed > self.synced.cursor {
            watcher.sync_state = SyncState::Synced;
            return self.synced.add(&watcher.interest, member, owed);
        }
        let cursor = Revision(owed.0 - 1);
        let id = *self.by_cursor.entry(cursor).or_insert_with(|| {
            let id = GroupId(self.next_group);
            self.next_group += 1;
            self.turns.join(Turn::Unsynced(id));
            id
        });
        watcher.sync_state = SyncState::Unsynced(id);
        self.unsynced.entry(id).or_insert_with(|| WatcherGroup::at(cursor)).add(&watcher.interest, member, owed);
    }

    /// Forgets a watch; `false` if there is none.
    fn remove(&mut self, member: WatcherId) -> bool {
        let Some(stream) = self.streams.get_mut(&member.0) else { return false };
        let Some(watcher) = stream.watches.remove(&member.1) else { return false };
        self.watches -= 1;
        match watcher.sync_state {
            SyncState::Synced => self.synced.remove(&watcher.interest, member),
            SyncState::Victim => drop(stream.victims.remove(&member.1)),
            SyncState::Unsynced(id) => {
                let group = self.unsynced.get_mut(&id).expect("the group of a watch");
                group.remove(&watcher.interest, member);
                if group.is_empty() {
                    self.by_cursor.remove(&group.cursor);
                    self.unsynced.remove(&id);
                    self.turns.leave(Turn::Unsynced(id));
                }
            }
        }
        true
    }

    fn advance_synced(&mut self, budget: Slice, out: &mut Outlet<'_>) -> Slice {
        let mut synced = core::mem::take(&mut self.synced);
        let read = self.advance(&mut synced, budget, None, out);
        self.synced = synced;
        if !self.is_synced_current() {
            self.turns.join(Turn::Synced);
        }
        read
    }

    fn advance_unsynced(&mut self, id: GroupId, budget: Slice, out: &mut Outlet<'_>) -> Slice {
        let mut group = self.unsynced.remove(&id).expect("who has a turn is unsynced");
        self.by_cursor.remove(&group.cursor);
        let read = self.advance(&mut group, budget, Some(id), out);
        if group.is_empty() {
            return read;
        }
        if group.cursor >= self.synced.cursor {
            move_members(&mut self.streams, &group, &mut self.synced, SyncState::Synced);
        } else if let Some(&other) = self.by_cursor.get(&group.cursor) {
            let into = self.unsynced.get_mut(&other).expect("a group under its cursor");
            move_members(&mut self.streams, &group, into, SyncState::Unsynced(other));
        } else {
            self.by_cursor.insert(group.cursor, id);
            self.unsynced.insert(id, group);
            self.turns.join(Turn::Unsynced(id));
        }
        read
    }

    /// Reads the next slice for one group and hands it out; more than `budget` only to complete a revision. `unsynced`: not beyond
    /// the synced group, which would otherwise be overtaken. Says how much was read.
    fn advance(&mut self, group: &mut WatcherGroup, budget: Slice, unsynced: Option<GroupId>, out: &mut Outlet<'_>) -> Slice {
        let view = Arc::clone(&self.view);
        let stop = if unsynced.is_some() { self.synced.cursor } else { view.revision() };
        self.cancel_compacted(group, out);
        if group.is_empty() || group.cursor >= stop {
            group.cursor = group.cursor.max(stop);
            return Slice::default();
        }
        let slice = view.events(group.cursor, budget.events, budget.bytes);
        let mut read = slice.as_ref().map_or_else(|_| Slice::default(), |events| Slice::of(events));
        // Only now is it known that nothing of the slice was compacted away while it was read.
        if self.cancel_compacted(group, out) {
            return read;
        }
        let Some((mut events, mut through)) = slice.ok().and_then(|events| self.whole(group.cursor, events, budget)) else {
            // Compacted beneath this view, so a newer one is on its way; or the store is broken, and the member about to stop.
            self.stalled_until = self.now + STALL_RETRY;
            return read;
        };
        if through > stop {
            events.truncate(events.partition_point(|event| event.id.main <= stop));
            through = stop;
        }
        if let Some(id) = unsynced {
            self.absorb(group, id, through);
        }
        match self.deliver(group, &events, unsynced.map(|_| through), out) {
            Ok(delivered) => {
                group.cursor = delivered.through.unwrap_or(through);
                read.bytes += delivered.previous_bytes;
            }
            Err(_) => self.stalled_until = self.now + STALL_RETRY,
        }
        read
    }

    /// A slice and where it ends, unless something of it is missing: each revision changes a key, so none may be left out. A view
    /// that is held while newer ones come may read where rows were dropped, and its own floor does not say so.
    fn whole(&self, after: Revision, events: Vec<Event>, budget: Slice) -> Option<(Vec<Event>, Revision)> {
        let mut last = RevisionId { main: after.max(FRESH), sub: u32::MAX };
        for event in &events {
            let follows = if event.id.main == last.main { last.sub.checked_add(1) == Some(event.id.sub) } else { event.id.sub == 0 };
            if !follows || event.id.main > last.main.next() {
                return None;
            }
            last = event.id;
        }
        let read = Slice::of(&events);
        let is_cut = !events.is_empty() && (read.events >= budget.events || read.bytes >= budget.bytes);
        (is_cut || last.main == self.view.revision()).then_some((events, last.main))
    }

    /// Cancels the members of a group whose next revision is below the floor. Says whether the group's own was.
    fn cancel_compacted(&mut self, group: &mut WatcherGroup, out: &mut Outlet<'_>) -> bool {
        let floor = self.view.compact_revision();
        if group.cursor.next() >= floor {
            return false;
        }
        for (member, interest, owed) in group.members() {
            if owed >= floor {
                continue;
            }
            group.remove(&interest, member);
            let stream = self.streams.get_mut(&member.0).expect("the stream of a member");
            if stream.is_full(&self.limits, out.undrained_bytes) {
                stream.add_victim(member.1, owed);
            } else {
                stream.watches.remove(&member.1);
                self.watches -= 1;
                stream.emit(member.0, compacted(member.1, floor), out);
            }
        }
        // Whoever is left is owed nothing before the floor.
        group.cursor = Revision(floor.0 - 1);
        true
    }

    /// Takes in the groups that the slice passes: one read serves them all, each from where it stands.
    fn absorb(&mut self, group: &mut WatcherGroup, id: GroupId, through: Revision) {
        while let Some((&cursor, &other)) = self.by_cursor.range(group.cursor..through).next() {
            self.by_cursor.remove(&cursor);
            self.turns.leave(Turn::Unsynced(other));
            let passed = self.unsynced.remove(&other).expect("a group under its cursor");
            move_members(&mut self.streams, &passed, group, SyncState::Unsynced(id));
        }
    }

    /// Hands a slice to those members of a group that want some of it. `through` is where a slice of history ends. If what was
    /// before the events is too much for one slice, only a part of it is handed out. Fails, having sent nothing, if the store does.
    fn deliver(
        &mut self,
        group: &mut WatcherGroup,
        mut events: &[Event],
        mut through: Option<Revision>,
        out: &mut Outlet<'_>,
    ) -> Result<Delivered, Refusal> {
        let mut matched = group.matched(events);
        let Previous { versions: previous, bytes: previous_bytes, end } = self.read_previous(&matched, events)?;
        let mut delivered = Delivered { through: None, previous_bytes };
        if end < events.len() {
            events = &events[..end];
            delivered.through = events.last().map(|event| event.id.main);
            through = through.and(delivered.through);
            matched = group.matched(events);
        }
        let store_revision = through.map(|_| self.view.revision());
        let mut victims: Vec<(WatcherId, Revision)> = Vec::new();
        for set in &matched {
            // Chunks by the first event wanted: the same ones for all members but those that start within the slice.
            let mut shared: BTreeMap<usize, Vec<Chunk>> = BTreeMap::new();
            for (&member, &owed) in set.members {
                let first = set.places.partition_point(|&place| events[place].id.main < owed);
                if first == set.places.len() {
                    continue;
                }
                let chunks = shared.entry(first).or_insert_with(|| self.chunks(&set.places[first..], set.needs.prev_kv, events, &previous));
                let stream = self.streams.get_mut(&member.0).expect("the stream of a member");
                if let Some(owed) = stream.send_chunks(member, chunks, &self.limits, (through, store_revision), out) {
                    victims.push((member, owed));
                }
            }
        }
        for (member, owed) in victims {
            let stream = self.streams.get_mut(&member.0).expect("the stream of a member");
            group.remove(&stream.watches[&member.1].interest, member);
            stream.add_victim(member.1, owed);
        }
        Ok(delivered)
    }

    /// The versions before those events that somebody wants them for, under the events' places. Ends before the revision that
    /// comes after `slice_bytes` of them.
    fn read_previous(&self, matched: &[Matched<'_>], events: &[Event]) -> Result<Previous, Refusal> {
        let mut previous = Previous { versions: BTreeMap::new(), bytes: 0, end: events.len() };
        let mut last = Revision::default();
        let wanted: BTreeSet<usize> = matched.iter().filter(|set| set.needs.prev_kv).flat_map(|set| set.places.iter().copied()).collect();
        for place in wanted {
            let event = &events[place];
            if event.id.main != last && previous.bytes >= self.limits.slice_bytes.max(1) {
                previous.end = events.partition_point(|other| other.id.main < event.id.main);
                break;
            }
            last = event.id.main;
            match self.view.at(&event.key, Revision(event.id.main.0 - 1)) {
                Ok(Some(version)) => {
                    previous.bytes += version.0.len();
                    previous.versions.insert(place, version);
                }
                Ok(None) => {}
                // Of an event at the floor itself: absent, as in etcd.
                Err(Refusal::Compacted) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(previous)
    }

    fn chunks(&self, places: &[usize], prev_kv: bool, events: &[Event], previous: &BTreeMap<usize, EncodedKeyValue>) -> Vec<Chunk> {
        let event_at = |&place: &usize| {
            let Event { id, kind, kv, .. } = &events[place];
            let prev_kv = if prev_kv { previous.get(&place).cloned() } else { None };
            (id.main, WatchEvent { kind: *kind, kv: kv.clone(), prev_kv })
        };
        let limits = ChunkLimits { revisions: self.limits.catch_up_revisions.max(1), bytes: self.limits.stream_bytes };
        chunks(places.iter().map(event_at).collect(), limits)
    }

    /// What holds after each step and is cheap to look at.
    fn check_invariants(&self) {
        let Self { synced, view, unsynced, by_cursor, turns, .. } = self;
        assert!(synced.cursor <= view.revision(), "the synced group is at {}, beyond the view at {}", synced.cursor, view.revision());
        assert!(self.watches <= self.limits.hub_watches, "{} watches, more than the hub may have", self.watches);
        assert_eq!(unsynced.len(), by_cursor.len(), "two groups at one revision");
        assert_eq!(turns.line.len(), unsynced.len() + usize::from(!self.is_synced_current()), "who has something to read has a turn");
        if let Some((cursor, _)) = by_cursor.last_key_value() {
            assert!(*cursor < synced.cursor, "a group is unsynced at {cursor}, not before the synced one at {}", synced.cursor);
        }
        if cfg!(debug_assertions) && self.streams.len() <= 8 {
            self.check_sync_states();
        }
    }

    /// Every watch is synced, unsynced or a victim, and as which it believes itself to be.
    fn check_sync_states(&self) {
        let mut count = (0, 0, 0);
        for stream in self.streams.values() {
            for (watch, watcher) in &stream.watches {
                match watcher.sync_state {
                    SyncState::Synced => count.0 += 1,
                    SyncState::Unsynced(id) => {
                        assert!(self.unsynced.contains_key(&id), "watch {watch} reads with nobody");
                        count.1 += 1;
                    }
                    SyncState::Victim => {
                        assert!(stream.victims.contains_key(watch), "watch {watch} is a victim at no revision");
                        count.2 += 1;
                    }
                }
            }
        }
        let unsynced: usize = self.unsynced.values().map(WatcherGroup::len).sum();
        let victims: usize = self.streams.values().map(|stream| stream.victims.len()).sum();
        assert_eq!(count, (self.synced.len(), unsynced, victims), "watches synced, unsynced and victims");
        assert!(self.unsynced.values().all(|group| !group.is_empty()), "a group of nobody");
        assert_eq!(self.watches, count.0 + count.1 + count.2, "watches of all streams");
        assert_eq!(self.undrained_bytes, self.streams.values().map(|stream| stream.undrained_bytes).sum(), "bytes of all streams");
    }
}

/// Whether a watch was given everything through the newest revision, and had reason to expect it.
fn has_all(watcher: &Watcher, is_synced_current: bool, revision: Revision) -> bool {
    watcher.sync_state == SyncState::Synced && is_synced_current && watcher.start_revision <= revision
}

fn compacted(watch: WatchId, floor: Revision) -> WatchResponse {
    WatchResponse { watch, canceled: Some(Canceled::Compacted(floor)), ..WatchResponse::default() }
}

/// Checks a request and gives it an id.
fn check_request(stream: &mut Stream, request: &WatchRequest, watches_max: usize) -> Result<(WatchId, Interest), Canceled> {
    let interest = Interest::new(request).ok_or(Canceled::EmptyRange)?;
    if request.start_revision < Revision(0) {
        return Err(Canceled::NegativeStart);
    }
    if stream.watches.len() >= watches_max {
        return Err(Canceled::TooManyWatches);
    }
    let watch = stream.pick_id(request.watch).ok_or(Canceled::DuplicateId)?;
    Ok((watch, interest))
}

fn move_members(streams: &mut BTreeMap<StreamId, Stream>, from: &WatcherGroup, into: &mut WatcherGroup, sync_state: SyncState) {
    for (member, interest, owed) in from.members() {
        into.add(&interest, member, owed);
        let watcher = streams.get_mut(&member.0).and_then(|stream| stream.watches.get_mut(&member.1));
        watcher.expect("a known watch").sync_state = sync_state;
    }
}
