//! Watches on a real store: written, persisted, compacted and retired while they read, live from memory and late from
//! disk. What each is given is compared with a list of every change there was.

#[path = "support/rows.rs"]
mod rows;

use bytes::Bytes;
use quorate_core::command::{Command, Compact, DeleteRange, KeyRange, Op, Put, Txn};
use quorate_core::consensus::{Configuration, Entry, Payload};
use quorate_core::machine::{Machine, MachineLimits, MachineSettings, encode_command};
use quorate_core::machine::{MachineEffect, MachineInput};
use quorate_core::mvcc::{EncodedKeyValue, EventKind, KeyValue, View};
use quorate_core::storage::{MemoryStore, Table, WriteBatch};
use quorate_core::types::{BatchNumber, Boot, LogId, LogIndex, MemberId, Now, RequestId, Revision, StreamId, Term, WatchId};
use quorate_core::watch::{Canceled, Hub, HubEffect, HubInput, HubLimits, WatchEvent, WatchRequest};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use rows::count;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

const KEYS: u32 = 12;
const STREAM: StreamId = StreamId(1);

struct Change {
    revision: Revision,
    key: Bytes,
    kind: EventKind,
    kv: EncodedKeyValue,
    before: Option<EncodedKeyValue>,
}

struct Watch {
    request: WatchRequest,
    owed_from: Revision,
    given: usize,
}

#[derive(Debug, Default)]
struct Reached {
    live: usize,
    late: usize,
    compacted: usize,
    retired: usize,
    with_previous: usize,
    without_compacted_previous: usize,
}

impl Reached {
    fn add(&mut self, other: &Self) {
        self.live += other.live;
        self.late += other.late;
        self.compacted += other.compacted;
        self.retired += other.retired;
        self.with_previous += other.with_previous;
        self.without_compacted_previous += other.without_compacted_previous;
    }
}

struct World {
    chance: ChaCha8Rng,
    machine: Machine<MemoryStore>,
    store: MemoryStore,
    commits: VecDeque<(BatchNumber, WriteBatch)>,
    persisted: BatchNumber,
    applied: u64,
    revision: Revision,
    live: BTreeMap<Bytes, KeyValue>,
    changes: Vec<Change>,
    /// Published, and not yet taken up by the hub.
    views: VecDeque<Arc<View<MemoryStore>>>,
    hub: Hub<MemoryStore>,
    /// What the hub works from.
    view: Arc<View<MemoryStore>>,
    watches: BTreeMap<WatchId, Watch>,
    reached: Reached,
}

impl World {
    fn new(seed: u64) -> Self {
        let limits = MachineLimits { recent_bytes: 200, unpersisted_bytes: 10_000, slice_rows: 5 };
        let settings = MachineSettings { member: MemberId(1), boot: Boot(1), limits };
        let store = MemoryStore::default();
        let mut machine = Machine::open(settings, store.clone()).expect("an empty store");
        machine.bootstrap(Configuration { voters: [MemberId(1)].into(), ..Configuration::default() });
        let view = machine.view();
        let limits =
            HubLimits { slice_events: 7, slice_bytes: 120, catch_up_revisions: 4, stream_bytes: usize::MAX, ..HubLimits::default() };
        let mut hub = Hub::new(limits, view.clone(), Now::default());
        hub.step(Now::default(), HubInput::Open(STREAM), &mut Vec::new());
        Self {
            chance: ChaCha8Rng::seed_from_u64(seed),
            machine,
            store,
            commits: VecDeque::new(),
            persisted: BatchNumber(0),
            applied: 0,
            revision: Revision(1),
            live: BTreeMap::new(),
            changes: Vec::new(),
            views: VecDeque::new(),
            hub,
            view,
            watches: BTreeMap::new(),
            reached: Reached::default(),
        }
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.chance.next_u32() % bound
    }

    fn key(&mut self) -> Bytes {
        format!("k{:02}", self.below(KEYS)).into()
    }

    fn note_put(&mut self, key: &Bytes, value: &Bytes) {
        let revision = self.revision;
        let before = self.live.get(key).cloned();
        let (create_revision, version) = before.as_ref().map_or((revision, 1), |kv| (kv.create_revision, kv.version + 1));
        let kv =
            KeyValue { key: key.clone(), create_revision, mod_revision: revision, version, value: value.clone(), ..KeyValue::default() };
        self.live.insert(key.clone(), kv.clone());
        let before = before.map(|kv| kv.encode());
        self.changes.push(Change { revision, key: key.clone(), kind: EventKind::Put, kv: kv.encode(), before });
    }

    fn note_delete(&mut self, key: &Bytes) {
        let revision = self.revision;
        let before = self.live.remove(key).map(|kv| kv.encode());
        let kv = KeyValue { key: key.clone(), mod_revision: revision, ..KeyValue::default() }.encode();
        self.changes.push(Change { revision, key: key.clone(), kind: EventKind::Delete, kv, before });
    }

    fn put(&mut self) -> Put {
        Put { key: self.key(), value: format!("value {}", self.applied).into(), ..Put::default() }
    }

    fn command(&mut self) -> Command {
        match self.below(8) {
            0..=3 => {
                let put = self.put();
                self.revision = self.revision.next();
                self.note_put(&put.key, &put.value);
                Command::Put(put)
            }
            4 | 5 => {
                let range = KeyRange { key: self.key(), end: self.key() };
                let gone: Vec<Bytes> = self.live.keys().filter(|key| **key >= range.key && **key < range.end).cloned().collect();
                if !gone.is_empty() {
                    self.revision = self.revision.next();
                    gone.iter().for_each(|key| self.note_delete(key));
                }
                Command::DeleteRange(DeleteRange { range, prev_kv: false })
            }
            6 => {
                let puts: BTreeMap<Bytes, Put> = (0..3).map(|_| self.put()).map(|put| (put.key.clone(), put)).collect();
                self.revision = self.revision.next();
                puts.values().for_each(|put| self.note_put(&put.key, &put.value));
                Command::Txn(Txn { success: puts.into_values().map(Op::Put).collect(), ..Txn::default() })
            }
            _ => {
                let back = i64::from(self.below(30));
                Command::Compact(Compact { revision: Revision(self.revision.0 - back), physical: false })
            }
        }
    }

    fn write(&mut self) {
        let mut entries = Vec::new();
        for _ in 0..=self.below(6) {
            let command = self.command();
            self.applied += 1;
            let request = RequestId { member: MemberId(1), boot: Boot(1), sequence: self.applied };
            let id = LogId { term: Term(1), index: LogIndex(self.applied) };
            entries.push(Entry { id, payload: Payload::Command { request, command: encode_command(&command) } });
        }
        let mut out = Vec::new();
        self.machine.step(MachineInput::Apply(entries.into()), &mut out);
        self.machine.flush(&mut out);
        self.carry_out(out);
    }

    fn carry_out(&mut self, effects: Vec<MachineEffect<MemoryStore>>) {
        for effect in effects {
            match effect {
                MachineEffect::Publish(view) => self.views.push_back(view),
                MachineEffect::Persist { number, batch, .. } => self.commits.push_back((number, batch)),
                MachineEffect::SyncState => self.sync(),
                MachineEffect::Retire { table, below } => {
                    let before = count(&self.store, Table::Recent);
                    self.store.retire(table, below);
                    self.reached.retired += before - count(&self.store, Table::Recent);
                }
                MachineEffect::Reply(..) | MachineEffect::Leases(_) | MachineEffect::Applied(_) => {}
                MachineEffect::Fatal(reason) => panic!("{reason}"),
            }
        }
    }

    fn sync(&mut self) {
        let mut out = Vec::new();
        self.machine.step(MachineInput::Synced(self.persisted), &mut out);
        self.carry_out(out);
    }

    fn work_behind(&mut self) {
        while let Some((number, batch)) = self.commits.pop_front() {
            self.store.write(&batch);
            self.persisted = number;
        }
        let mut out = Vec::new();
        self.machine.step(MachineInput::Persisted(self.persisted, self.store.clone()), &mut out);
        self.machine.step(MachineInput::BackgroundWork, &mut out);
        self.machine.flush(&mut out);
        self.carry_out(out);
        self.sync();
    }

    fn owed(&self, watch: &Watch) -> Vec<&Change> {
        let KeyRange { key, end } = &watch.request.range;
        let holds = |change: &Change| change.key >= *key && (end == "\0" || change.key < *end || (end.is_empty() && change.key == *key));
        let seen = self.changes.iter().filter(|change| change.revision <= self.view.revision());
        seen.filter(|change| change.revision >= watch.owed_from && holds(change)).collect()
    }

    fn step(&mut self, input: HubInput<MemoryStore>) {
        // A wake comes alone and is flushed; other inputs are steps of a turn that goes on.
        let is_late = matches!(input, HubInput::Wake);
        let mut out: Vec<HubEffect> = Vec::new();
        self.hub.step(Now::default(), input, &mut out);
        if is_late {
            self.hub.flush(Now::default(), &mut out);
        }
        for HubEffect { response, .. } in out {
            if response.created {
                continue;
            }
            let mut watch = self.watches.remove(&response.watch).expect("a watch that was not cancelled");
            if let Some(reason) = response.canceled {
                let floor = self.view.compact_revision();
                assert_eq!(reason, Canceled::Compacted(floor));
                let next = self.owed(&watch).get(watch.given).map_or(self.view.revision(), |change| change.revision);
                assert!(watch.owed_from < floor, "started at {}, floor {floor}, next owed {next}", watch.owed_from);
                self.reached.compacted += 1;
                continue;
            }
            let owed = self.owed(&watch);
            let to = watch.given + response.events.len();
            let floor = self.view.compact_revision();
            let told = owed[watch.given..to].iter().map(|change| WatchEvent {
                kind: change.kind,
                kv: change.kv.clone(),
                prev_kv: change.before.clone().filter(|_| watch.request.prev_kv && change.revision > floor),
            });
            assert_eq!(response.events[..], told.collect::<Vec<_>>()[..]);
            assert!(owed.get(to).is_none_or(|next| next.revision > response.revision), "a revision is split or skipped");
            let at_floor = owed[watch.given..to].iter().filter(|change| change.before.is_some() && change.revision == floor).count();
            if watch.request.prev_kv {
                self.reached.without_compacted_previous += at_floor;
                self.reached.with_previous += response.events.iter().filter(|event| event.prev_kv.is_some()).count();
            }
            *(if is_late { &mut self.reached.late } else { &mut self.reached.live }) += response.events.len();
            watch.given = to;
            self.watches.insert(response.watch, watch);
        }
    }

    fn watch(&mut self) {
        let end = match self.below(3) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"\0"),
            _ => Bytes::from_static(b"k06"),
        };
        let (floor, newest) = (self.view.compact_revision().0.max(1), self.view.revision().0);
        let start = if self.below(4) == 0 { 0 } else { floor + i64::from(self.below(u32::try_from(newest - floor + 2).expect("short"))) };
        let key = if end == "k06" { Bytes::from_static(b"k03") } else { self.key() };
        let prev_kv = self.below(2) == 0;
        let request = WatchRequest { range: KeyRange { key, end }, start_revision: Revision(start), prev_kv, ..WatchRequest::default() };
        let owed_from = if start == 0 { Revision(newest + 1) } else { Revision(start) };
        let mut out = Vec::new();
        self.hub.step(Now::default(), HubInput::Create(STREAM, request.clone()), &mut out);
        assert!(out.len() == 1 && out[0].response.canceled.is_none(), "a start at or above the floor is served: {out:?}");
        self.watches.insert(out[0].response.watch, Watch { request, owed_from, given: 0 });
    }

    fn take_view(&mut self) {
        if let Some(view) = self.views.pop_front() {
            self.view = view.clone();
            self.step(HubInput::Published(view));
        }
    }

    fn settle(&mut self) {
        while !self.views.is_empty() {
            self.take_view();
        }
        for _ in 0..10_000 {
            if self.hub.deadline() > Now::default().monotonic {
                break;
            }
            self.step(HubInput::Wake);
        }
        assert_eq!(self.view.revision(), self.revision);
        for (id, watch) in &self.watches {
            assert_eq!(watch.given, self.owed(watch).len(), "watch {id} misses changes");
        }
    }
}

#[test]
fn watches_on_a_store_get_every_change_once_whatever_is_compacted_meanwhile() {
    let mut sum = Reached::default();
    for seed in 0..20 {
        let mut world = World::new(seed);
        for _ in 0..15 {
            for _ in 0..60 {
                match world.below(8) {
                    0 | 1 => world.write(),
                    2 => world.work_behind(),
                    3 => world.watch(),
                    4 | 5 => world.take_view(),
                    _ => world.step(HubInput::Wake),
                }
            }
            world.settle();
        }
        sum.add(&world.reached);
    }
    let Reached { live, late, compacted, retired, with_previous, without_compacted_previous } = sum;
    let counts = [live, late, compacted, retired, with_previous, without_compacted_previous];
    assert!(counts.iter().all(|count| *count > 0), "proves little: {sum:?}");
}
