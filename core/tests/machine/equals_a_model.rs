//! A million random operations: the store equals its model, whatever is persisted, compacted, evicted or reopened meanwhile.

use crate::model::{Instant, Model};
use crate::rows::count;
use bytes::Bytes;
use quorate_core::command::{
    Command, Compact, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, Op, Put, Range, Refusal, Reply, SortOrder, SortTarget,
    Txn,
};
use quorate_core::consensus::{Configuration, Entry, Payload};
use quorate_core::machine::{Machine, MachineLimits, MachineSettings, encode_command, validate};
use quorate_core::machine::{MachineEffect, MachineInput};
use quorate_core::mvcc::{Event, EventKind, KeyValue, View};
use quorate_core::storage::{MemoryStore, Table, WriteBatch};
use quorate_core::types::{BatchNumber, Boot, LeaseId, LogId, LogIndex, MemberId, RequestId, Revision, Term};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::VecDeque;
use std::sync::Arc;

const OPERATIONS: usize = 333_334;
const REOPEN_EVERY: usize = 10_000;
const TXN_OPS_MAX: usize = 12;

#[test]
fn over_8_keys() {
    World::new(8, 1).run(OPERATIONS);
}

#[test]
fn over_1_000_keys() {
    World::new(1_000, 2).run(OPERATIONS);
}

#[test]
fn over_100_000_keys() {
    World::new(100_000, 3).run(OPERATIONS);
}

struct Chance(ChaCha8Rng);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        (self.0.next_u64() % bound as u64) as usize
    }
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    fn pick<T: Copy, const N: usize>(&mut self, of: [T; N]) -> T {
        of[self.below(N)]
    }
}

/// Operations, drawn for a number of keys.
struct Workload {
    chance: Chance,
    keys: usize,
}

impl Workload {
    fn key(&mut self) -> Bytes {
        format!("key-{:05}", self.chance.below(self.keys)).into()
    }

    fn key_range(&mut self) -> KeyRange {
        let at = self.chance.below(self.keys);
        let name = |at: usize| Bytes::from(format!("key-{at:05}"));
        let span = if self.chance.one_in(500) { self.keys } else { 20.min(self.keys) };
        match self.chance.below(20) {
            0..10 => KeyRange { key: name(at), end: Bytes::new() },
            10..17 => KeyRange { key: name(at), end: name(at + self.chance.below(span + 1)) },
            17 => KeyRange { key: name(self.keys.saturating_sub(1 + self.chance.below(span))), end: Bytes::from_static(b"\0") },
            18 => KeyRange { key: name(at), end: name(at.saturating_sub(3)) },
            _ => KeyRange { key: Bytes::from(format!("key-{:04}", at / 10)), end: Bytes::from(format!("key-{:04}", at / 10 + 1)) },
        }
    }

    fn value(&mut self) -> Bytes {
        let length = if self.chance.one_in(30) { 300 } else { self.chance.below(12) };
        (0..length).map(|_| b'a' + self.chance.below(4) as u8).collect::<Vec<_>>().into()
    }

    fn put(&mut self) -> Put {
        let ignore_value = self.chance.one_in(12);
        Put {
            key: self.key(),
            value: if ignore_value { Bytes::new() } else { self.value() },
            lease: LeaseId(i64::from(self.chance.one_in(40))),
            prev_kv: self.chance.one_in(3),
            ignore_value,
            ignore_lease: false,
        }
    }

    fn delete(&mut self) -> DeleteRange {
        DeleteRange { range: self.key_range(), prev_kv: self.chance.one_in(2) }
    }

    fn revision(&mut self, now: Instant) -> Revision {
        let low = now.floor.max(1);
        Revision(match self.chance.below(20) {
            0..8 => 0,
            8..17 => low + self.chance.below((now.revision - low + 1) as usize) as i64,
            17 => low,
            18 => now.revision,
            _ => self.chance.pick([now.revision + 1, now.floor - 1, -1, -7]),
        })
    }

    fn range(&mut self, now: Instant) -> Range {
        let filter = |chance: &mut Chance| {
            if chance.one_in(10) { Revision(1 + chance.below(now.revision as usize) as i64) } else { Revision(0) }
        };
        Range {
            range: self.key_range(),
            limit: self.chance.pick([0, 0, 0, 1, 2, 5, -1]),
            revision: self.revision(now),
            sort_order: self.chance.pick([SortOrder::None, SortOrder::None, SortOrder::Ascend, SortOrder::Descend]),
            sort_target: self.chance.pick([
                SortTarget::Key,
                SortTarget::Key,
                SortTarget::Key,
                SortTarget::Version,
                SortTarget::Create,
                SortTarget::Mod,
                SortTarget::Value,
            ]),
            serializable: false,
            keys_only: self.chance.one_in(5),
            count_only: self.chance.one_in(8),
            min_mod_revision: filter(&mut self.chance),
            max_mod_revision: filter(&mut self.chance),
            min_create_revision: filter(&mut self.chance),
            max_create_revision: filter(&mut self.chance),
        }
    }

    fn compare(&mut self, now: Instant) -> Compare {
        let revision = Revision(self.chance.below(now.revision as usize + 1) as i64);
        Compare {
            range: self.key_range(),
            result: self.chance.pick([CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual]),
            target: match self.chance.below(6) {
                0 => CompareTarget::Version(self.chance.below(4) as i64),
                1 => CompareTarget::Create(revision),
                2 => CompareTarget::Mod(revision),
                3 => CompareTarget::Create(Revision(0)),
                4 => CompareTarget::Lease(LeaseId(self.chance.below(2) as i64)),
                _ => CompareTarget::Value(self.value()),
            },
        }
    }

    fn ops(&mut self, now: Instant, depth: usize) -> Vec<Op> {
        (0..self.chance.below(4))
            .map(|_| match self.chance.below(8) {
                0..2 => Op::Range(self.range(now)),
                2..5 => Op::Put(self.put()),
                5 | 6 => Op::DeleteRange(self.delete()),
                _ if depth < 4 => Op::Txn(self.txn(now, depth + 1)),
                _ => Op::Put(self.put()),
            })
            .collect()
    }

    fn txn(&mut self, now: Instant, depth: usize) -> Txn {
        let compare = (0..self.chance.below(3)).map(|_| self.compare(now)).collect();
        Txn { compare, success: self.ops(now, depth), failure: self.ops(now, depth) }
    }

    fn command(&mut self, now: Instant) -> Command {
        match self.chance.below(1_000) {
            0..550 => Command::Put(self.put()),
            550..700 => Command::DeleteRange(self.delete()),
            700..997 => Command::Txn(self.txn(now, 1)),
            _ => {
                let back = self.chance.pick([0, 1, 10, 1_000]);
                let physical = self.chance.one_in(4);
                Command::Compact(Compact { revision: Revision(now.revision + 1 - self.chance.below(back + 2) as i64), physical })
            }
        }
    }
}

/// One member: a machine, its store, its log, and the model beside it.
struct World {
    workload: Workload,
    model: Model,
    machine: Machine<MemoryStore>,
    view: Arc<View<MemoryStore>>,
    store: MemoryStore,
    log: Vec<Entry>,
    commits: VecDeque<(BatchNumber, WriteBatch)>,
    persisted: BatchNumber,
    expected: VecDeque<(u64, Result<Reply, Refusal>)>,
    /// Physical compactions, answered when the space is given back.
    owed: Vec<(u64, Reply)>,
    boot: u64,
    old: Option<(Arc<View<MemoryStore>>, Instant)>,
    reached: Reached,
}

/// What must have happened in a run, or it proves little.
#[derive(Debug, Default)]
struct Reached {
    retired: usize,
    settled: usize,
    replayed: usize,
    events: usize,
    compactions: usize,
    physical: usize,
}

fn open(boot: u64, chance: &mut Chance, store: &MemoryStore) -> Machine<MemoryStore> {
    let limits =
        MachineLimits { recent_bytes: chance.pick([0, 1_000, 100_000]), unpersisted_bytes: 50_000, slice_rows: chance.pick([1, 7, 1_000]) };
    let mut machine = Machine::open(MachineSettings { member: MemberId(1), boot: Boot(boot), limits }, store.clone()).unwrap();
    machine.bootstrap(Configuration { voters: [MemberId(1)].into(), ..Configuration::default() });
    machine
}

impl World {
    fn new(keys: usize, seed: u64) -> Self {
        let mut chance = Chance(ChaCha8Rng::seed_from_u64(seed));
        let store = MemoryStore::default();
        let machine = open(1, &mut chance, &store);
        Self {
            workload: Workload { chance, keys },
            model: Model::default(),
            view: machine.view(),
            machine,
            store,
            log: vec![],
            commits: VecDeque::new(),
            persisted: BatchNumber(0),
            expected: VecDeque::new(),
            owed: vec![],
            boot: 1,
            old: None,
            reached: Reached::default(),
        }
    }

    fn run(&mut self, operations: usize) {
        let mut done = 0;
        let mut reopen_at = REOPEN_EVERY;
        while done < operations {
            done += self.write_some();
            done += self.read_some();
            self.work_behind();
            if done >= reopen_at {
                self.reopen();
                reopen_at += REOPEN_EVERY;
            }
        }
        self.finish();
        let Reached { retired, settled, replayed, events, compactions, physical } = self.reached;
        let least = [retired, settled, replayed, events, compactions, physical].into_iter().min();
        assert!(least >= Some(5), "{:?}", self.reached);
    }

    fn chance(&mut self) -> &mut Chance {
        &mut self.workload.chance
    }

    /// Applies a batch of commands. Their answers are the model's.
    fn write_some(&mut self) -> usize {
        let count = 1 + self.chance().below(12);
        let mut entries = vec![];
        for _ in 0..count {
            let command = self.workload.command(self.model.now());
            let valid = validate(&command, TXN_OPS_MAX);
            if let Command::Txn(txn) = &command {
                assert_eq!(valid, Model::validate(txn, TXN_OPS_MAX), "{txn:?}");
            }
            if valid.is_err() {
                continue;
            }
            let sequence = self.log.len() as u64;
            let answer = match &command {
                Command::Put(put) => self.model.put(put),
                Command::DeleteRange(delete) => Ok(self.model.delete(delete)),
                Command::Txn(txn) => self.model.txn(txn),
                Command::Compact(compact) => self.model.compact(compact.revision.0),
                Command::Alarm(_)
                | Command::Publish(_)
                | Command::V2(_)
                | Command::LeaseGrant(_)
                | Command::LeaseRevoke(_)
                | Command::LeaseExpire(_)
                | Command::LeaseCheckpoint(_) => unreachable!("not drawn"),
            };
            match (&command, answer) {
                (Command::Compact(Compact { physical: true, .. }), Ok(reply)) => self.owed.push((sequence, reply)),
                (_, answer) => self.expected.push_back((sequence, answer)),
            }
            self.reached.compactions += usize::from(matches!(command, Command::Compact(_)));
            let request = RequestId { member: MemberId(1), boot: Boot(self.boot), sequence };
            let id = LogId { term: Term(1), index: LogIndex(sequence + 1) };
            entries.push(Entry { id, payload: Payload::Command { request, command: encode_command(&command) } });
            self.log.push(entries[entries.len() - 1].clone());
        }
        let mut out = vec![];
        self.machine.step(MachineInput::Apply(entries.into()), &mut out);
        self.machine.flush(&mut out);
        self.carry_out(out);
        assert!(self.expected.is_empty(), "unanswered: {:?}", self.expected);
        count
    }

    fn carry_out(&mut self, effects: Vec<MachineEffect<MemoryStore>>) {
        for effect in effects {
            match effect {
                MachineEffect::Reply(request, answer) => {
                    if let Some(at) = self.owed.iter().position(|(sequence, _)| *sequence == request.sequence) {
                        assert_eq!(Ok(self.owed.remove(at).1), answer);
                        self.reached.physical += 1;
                        continue;
                    }
                    let (sequence, expected) = self.expected.pop_front().expect("an answer to nothing");
                    assert_eq!((sequence, expected), (request.sequence, answer));
                }
                MachineEffect::Publish(view) => self.view = view,
                MachineEffect::Persist { number, batch, applied } => {
                    assert_eq!(applied, self.machine.applied());
                    self.reached.settled += batch.rows.iter().filter(|row| format!("{row:?}").contains("Settled")).count();
                    self.commits.push_back((number, batch));
                }
                MachineEffect::Retire { table, below } => {
                    self.store.retire(table, below);
                    self.reached.retired += 1;
                }
                MachineEffect::SyncState => self.sync(),
                MachineEffect::Leases(_) | MachineEffect::Applied(_) => {}
                MachineEffect::Fatal(reason) => panic!("{reason}"),
            }
        }
    }

    fn sync(&mut self) {
        let mut out = vec![];
        self.machine.step(MachineInput::Synced(self.persisted), &mut out);
        self.carry_out(out);
    }

    fn persist(&mut self, count: usize) {
        for (number, batch) in self.commits.drain(..count) {
            self.store.write(&batch);
            self.persisted = number;
        }
        let mut out = vec![];
        self.machine.step(MachineInput::Persisted(self.persisted, self.store.clone()), &mut out);
        self.carry_out(out);
    }

    fn work_behind(&mut self) {
        let waiting = self.commits.len();
        if self.machine.is_congested() || (waiting > 0 && self.chance().one_in(4)) {
            let count = if self.machine.is_congested() { waiting } else { 1 + self.chance().below(waiting) };
            self.persist(count);
        }
        let slices = self.chance().below(6);
        let mut out = vec![];
        for _ in 0..slices {
            self.machine.step(MachineInput::BackgroundWork, &mut out);
        }
        if self.chance().one_in(2) {
            self.machine.flush(&mut out);
        }
        self.carry_out(out);
        if self.chance().one_in(50) {
            self.sync();
        }
    }

    fn read_some(&mut self) -> usize {
        let count = 1 + self.chance().below(6);
        let now = self.model.now();
        assert_eq!((self.view.revision().0, self.view.compact_revision().0), (now.revision, now.floor));
        for _ in 0..count {
            match self.chance().below(20) {
                0 => self.resume_events(),
                1 => self.read_txn(now),
                2 => {
                    let key = self.workload.key();
                    let revision = self.workload.revision(now).0;
                    let expected = self.model.at(&key, revision).filter(|_| revision >= now.floor).map(KeyValue::encode);
                    assert_eq!(self.view.at(&key, Revision(revision)), Ok(expected), "{key:?} at {revision}");
                }
                _ => {
                    let request = self.workload.range(now);
                    let reply = self.view.range(&request);
                    assert_eq!(reply, self.model.range(&request, now), "{request:?}");
                    let bytes: usize = reply.map(|reply| reply.kvs.iter().map(|kv| kv.0.len()).sum()).unwrap_or(0);
                    let promised = self.view.range_bytes(&request);
                    let whole = Range { limit: 0, ..request.clone() };
                    let most = self.view.range(&whole).map(|reply| reply.kvs.iter().map(|kv| kv.0.len() as u64).sum()).unwrap_or(0);
                    assert!(promised >= bytes as u64 || request.keys_only, "{promised} promised of {bytes}: {request:?}");
                    assert!(promised <= most || request.keys_only, "{promised} promised of {most}: {request:?}");
                }
            }
        }
        self.read_old_view();
        count
    }

    /// A view that was kept answers as it did, whatever was retired since.
    fn read_old_view(&mut self) {
        if let Some((view, then)) = &self.old {
            let request = self.workload.range(*then);
            assert_eq!(view.range(&request), self.model.range(&request, *then), "{request:?}");
        }
        if self.chance().one_in(100) {
            self.old = Some((Arc::clone(&self.view), self.model.now()));
        }
    }

    fn read_txn(&mut self, now: Instant) {
        let ops = |workload: &mut Workload| (0..workload.chance.below(3)).map(|_| Op::Range(workload.range(now))).collect();
        let compare = (0..self.chance().below(3)).map(|_| self.workload.compare(now)).collect();
        let txn = Txn { compare, success: ops(&mut self.workload), failure: ops(&mut self.workload) };
        let expected = self.model.txn(&txn);
        assert_eq!(self.view.read_txn(&txn).map(Reply::Txn), expected);
    }

    fn resume_events(&mut self) {
        let now = self.model.now();
        let start = now.floor - 1 + self.chance().below((now.revision - now.floor + 4) as usize) as i64;
        let limit = self.chance().pick([1, 5, 200]);
        let bytes = self.chance().pick([1, 100, usize::MAX]);
        let events = self.view.events(Revision(start - 1), limit, bytes);
        if start < now.floor {
            assert_eq!(events, Err(Refusal::Compacted));
            return;
        }
        let events = events.unwrap();
        let changes = self.model.events_from(start);
        let size = |events: &[Event]| events.iter().map(|event| event.kv.0.len()).sum::<usize>();
        let full = events.len() >= limit || size(&events) >= bytes;
        let before_last = events.iter().position(|event| Some(event.id.main) == events.last().map(|last| last.id.main)).unwrap_or(0);
        assert!(before_last < limit && size(&events[..before_last]) < bytes, "more was read than completes a revision");
        assert!(if full { changes.len() >= events.len() } else { changes.len() == events.len() }, "events from {start} are missing");
        if full && let Some(next) = changes.get(events.len()) {
            assert!(next.revision > changes[events.len() - 1].revision, "a revision was split");
        }
        for (event, change) in events.iter().zip(changes) {
            assert_eq!((event.id.main.0, &event.key), (change.revision, &change.key));
            assert_eq!(event.kind == EventKind::Delete, change.kv.is_none());
            let tombstone =
                || KeyValue { key: change.key.clone(), mod_revision: Revision(change.revision), ..KeyValue::default() }.encode();
            assert_eq!(event.kv, change.kv.as_ref().map_or_else(tombstone, KeyValue::encode));
        }
        self.reached.events += events.len();
    }

    /// The process dies: what is not persisted is lost, and replayed from the log.
    fn reopen(&mut self) {
        self.commits.clear();
        self.owed.clear();
        self.boot += 1;
        self.persisted = BatchNumber(0);
        let digest = self.view.digest();
        self.machine.check();
        self.machine = open(self.boot, &mut self.workload.chance, &self.store);
        let replay = self.log[self.machine.applied().index.0 as usize..].to_vec();
        self.reached.replayed += replay.len();
        let mut out = vec![];
        for entries in replay.chunks(100) {
            self.machine.step(MachineInput::Apply(entries.into()), &mut out);
        }
        self.machine.flush(&mut out);
        self.carry_out(out);
        self.view = self.machine.view();
        assert_eq!(self.view.digest(), digest, "replay went another way");
    }

    /// Everything is compacted and synced; then the store holds no more than the floor needs.
    fn finish(&mut self) {
        let now = self.model.now();
        if self.model.compact(now.revision).is_ok() {
            let compact = Command::Compact(Compact { revision: Revision(now.revision), physical: false });
            let id = LogId { term: Term(1), index: self.machine.applied().index.next() };
            let request = RequestId { member: MemberId(2), boot: Boot(1), sequence: 0 };
            let entry = Entry { id, payload: Payload::Command { request, command: encode_command(&compact) } };
            let mut out = vec![];
            self.machine.step(MachineInput::Apply([entry].into()), &mut out);
            self.carry_out(out);
        }
        let mut out = vec![];
        self.machine.flush(&mut out);
        self.carry_out(out);
        let hash = self.view.hash_kv(Revision(0));
        for _ in 0..1_000_000 {
            let mut out = vec![];
            self.machine.step(MachineInput::BackgroundWork, &mut out);
            self.machine.flush(&mut out);
            self.carry_out(out);
            self.persist(self.commits.len());
            if !self.machine.has_background_work() && self.commits.is_empty() {
                break;
            }
        }
        assert!(!self.machine.has_background_work());
        self.machine.check();
        self.sync();
        let live = self.model.live_count();
        let last = self.model.events_from(now.revision).len();
        // A key deleted at the floor itself keeps its settled row until the floor moves on.
        let settled = count(&self.store, Table::Settled);
        assert!(settled <= live + last, "{settled} settled of {live} live keys");
        assert_eq!(count(&self.store, Table::Recent), last, "rows below the floor are left");
        assert_eq!(self.view.key_count(), live as u64);
        let mut out = vec![];
        self.machine.flush(&mut out);
        self.carry_out(out);
        let reopened = open(self.boot + 1, &mut self.workload.chance, &self.store).view();
        assert_eq!(self.view.compact_revision(), Revision(now.revision));
        assert_eq!(self.view.hash_kv(Revision(0)), hash, "compacting changed the hash");
        assert_eq!(reopened.hash_kv(Revision(0)), hash, "reopening changed the hash");
    }
}
