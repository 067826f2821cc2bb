//! Three whole members in virtual time, each step in protocol notation. A host of the two halves and the watch hub that does what
//! production does, with one input a flush so that cause and effect stand together.

use bytes::Bytes;
use quorate_core::command::{Command, KeyRange, Put, Range, Refusal};
use quorate_core::consensus::{Limits, Settings};
use quorate_core::machine::{Machine, MachineLimits, MachineSettings, stored_applied};
use quorate_core::member::{
    self, Answer, BatchLimits, Body, LogEffect, LogHalf, LogInput, MemberSettings, Request, StateEffect, StateHalf, StateInput, StoreDone,
    StoreWork, SyncLimits, Ticket, WalDone, WalWork, prepare,
};
use quorate_core::mvcc::View;
use quorate_core::storage::{MemoryStore, WalOp};
use quorate_core::types::{BatchNumber, Boot, ClusterId, MemberId, Monotonic, Now, SegmentId, StreamId, WallMs, WriteNumber};
use quorate_core::wal::{Identity, Planner, Recovery, WalSettings, bootstrap_entries};
use quorate_core::watch::{Hub, HubInput, HubLimits};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::time::Duration;

pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(100);
const LATENCY: Duration = Duration::from_millis(1);
const FSYNC: Duration = Duration::from_millis(3);
const STORE: Duration = Duration::from_millis(1);
const SEGMENT_BYTES: u64 = 64 << 10;

enum Event {
    Log(LogInput),
    State(StateInput<MemoryStore>),
    Write(WriteNumber, Vec<WalOp>),
    Store(StoreWork),
}

struct Running {
    log: LogHalf,
    state: StateHalf<MemoryStore>,
    hub: Hub<MemoryStore>,
    view: Arc<View<MemoryStore>>,
}

#[derive(Default)]
struct Process {
    running: Option<Running>,
    life: u64,
    segments: BTreeMap<SegmentId, Vec<u8>>,
    /// A write that was under way when the disk stalled.
    stalled: Option<Vec<WalOp>>,
    is_stalled: bool,
    store: MemoryStore,
    /// The newest batch in it.
    persisted: BatchNumber,
    /// A state that is being received.
    received: MemoryStore,
}

pub struct Cluster {
    now: Duration,
    processes: BTreeMap<u64, Process>,
    queue: BTreeMap<(Duration, u64), (u64, u64, Event)>,
    queued: u64,
    cut: BTreeSet<u64>,
    next_ticket: u64,
    reads: BTreeMap<Ticket, Bytes>,
    trace: String,
    /// Of other members nothing is shown.
    shown: BTreeSet<u64>,
    machine: MachineLimits,
    hub: HubLimits,
    limits: Limits,
    sync: SyncLimits,
}

impl Cluster {
    /// Three members, of which the first leads, with nothing on its way.
    pub fn new() -> Self {
        Self::with(MachineLimits::default(), HubLimits::default())
    }

    pub fn with(machine: MachineLimits, hub: HubLimits) -> Self {
        Self::with_log(machine, hub, Limits::default(), SyncLimits::default())
    }

    /// The same, of members that keep as little of their log as they may.
    pub fn with_short_log() -> Self {
        let limits = Limits { retained_entries: 0, absent_after: ELECTION_TIMEOUT, ..Limits::default() };
        let sync = SyncLimits { entries: 1, ..SyncLimits::default() };
        Self::with_log(MachineLimits::default(), HubLimits::default(), limits, sync)
    }

    fn with_log(machine: MachineLimits, hub: HubLimits, limits: Limits, sync: SyncLimits) -> Self {
        let mut cluster = Self {
            now: Duration::ZERO,
            processes: (1..=3).map(|id| (id, Process::default())).collect(),
            queue: BTreeMap::new(),
            queued: 0,
            cut: BTreeSet::new(),
            next_ticket: 0,
            reads: BTreeMap::new(),
            trace: String::new(),
            shown: BTreeSet::from([1, 2, 3]),
            machine,
            hub,
            limits,
            sync,
        };
        for id in 1..=3 {
            cluster.start(id);
        }
        cluster.settle();
        cluster.elect(1);
        cluster.trace.clear();
        cluster
    }

    pub fn trace(&self) -> &str {
        &self.trace
    }

    /// Shows only what happens at these members from now on.
    pub fn show_only(&mut self, ids: &[u64]) {
        self.shown = ids.iter().copied().collect();
        self.trace.clear();
    }

    pub fn note(&mut self, text: &str) {
        writeln!(self.trace, "-- {text}").unwrap();
    }

    /// Lets everything that is on its way arrive. No timer fires.
    pub fn settle(&mut self) {
        while let Some(((at, _), (id, life, event))) = self.queue.pop_first() {
            self.now = self.now.max(at);
            if self.processes[&id].life == life {
                self.happen(id, event);
            }
        }
    }

    /// An election timeout passes at this member only, and it wins.
    pub fn elect(&mut self, id: u64) {
        self.now += ELECTION_TIMEOUT * 2;
        self.happen(id, Event::Log(LogInput::Wake));
        self.settle();
        assert!(self.processes[&id].running.as_ref().unwrap().log.status().leader == Some(MemberId(id)), "{}", self.trace);
    }

    /// So much time passes in which a leader beats.
    pub fn pass(&mut self, id: u64, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.beat(id);
        }
    }

    /// A leader's heartbeat is due.
    pub fn beat(&mut self, id: u64) {
        self.now += Duration::from_millis(10);
        self.happen(id, Event::Log(LogInput::Wake));
        self.settle();
    }

    pub fn put(&mut self, id: u64, key: &'static str, value: &'static str) {
        let put = Put { key: key.into(), value: value.into(), ..Put::default() };
        let prepared = prepare(MemberId(id), &Command::Put(put), 0, usize::MAX).unwrap();
        self.ask(id, Body::Propose(prepared));
    }

    pub fn read(&mut self, id: u64, key: &'static str) {
        self.reads.insert(Ticket(self.next_ticket + 1), key.into());
        self.ask(id, Body::Read);
    }

    fn ask(&mut self, id: u64, body: Body) {
        self.next_ticket += 1;
        let request = Request { ticket: Ticket(self.next_ticket), deadline: None, require_leader: false, body };
        self.happen(id, Event::Log(LogInput::Client(request)));
    }

    pub fn watch(&mut self, id: u64, input: HubInput<MemoryStore>) {
        self.step_hub(id, input);
    }

    /// Everything to and from a member is lost from now on.
    pub fn isolate(&mut self, id: u64) {
        self.note(&format!("n{id} is cut off"));
        self.cut.insert(id);
    }

    pub fn heal(&mut self) {
        self.note("all links work again");
        self.cut.clear();
    }

    /// Writes to this member's log stay under way.
    pub fn stall_disk(&mut self, id: u64) {
        self.processes.get_mut(&id).unwrap().is_stalled = true;
    }

    /// The member dies; of the write that was under way, the first half of each piece is on the disk.
    pub fn crash_torn(&mut self, id: u64) {
        self.note(&format!("n{id} dies, its last write half on the disk"));
        let process = self.processes.get_mut(&id).unwrap();
        process.running = None;
        process.life += 1;
        process.is_stalled = false;
        for op in process.stalled.take().unwrap() {
            let op = match op {
                WalOp::WriteAt { segment, offset, bytes } => WalOp::WriteAt { segment, offset, bytes: bytes.slice(..bytes.len() / 2) },
                other => other,
            };
            execute(&mut process.segments, op);
        }
    }

    pub fn start(&mut self, id: u64) {
        let founders: Vec<_> = (1..=3).map(|id| (MemberId(id), vec![format!("http://n{id}")])).collect();
        let (entries, configuration) = bootstrap_entries(&founders);
        let wal = WalSettings { segment_bytes: SEGMENT_BYTES, spare_segments: 0 };
        let process = self.processes.get_mut(&id).unwrap();
        let applied = stored_applied(&process.store).unwrap().index;
        let mut recovery = Recovery::new(applied, wal, [id as u8; 32]);
        for (segment, content) in &process.segments {
            recovery.segment(*segment, &Bytes::copy_from_slice(content)).unwrap();
        }
        let identity = Identity { cluster: ClusterId(1), member: MemberId(id) };
        let recovered = match recovery.finish() {
            Ok(recovered) => recovered,
            Err(_) => Planner::bootstrap(identity, entries, wal, [id as u8; 32]),
        };
        let boot: Boot = recovered.boot;
        if let Some(torn_tail) = &recovered.torn_tail {
            writeln!(self.trace, "-- n{id} starts: {torn_tail}").unwrap();
        }
        let machine_settings = MachineSettings { member: MemberId(id), boot, limits: self.machine };
        let process = self.processes.get_mut(&id).unwrap();
        let machine = Machine::open(machine_settings, process.store.clone()).unwrap();
        let settings = Settings {
            member: MemberId(id),
            boot,
            heartbeat_interval: Duration::from_millis(10),
            election_timeout: ELECTION_TIMEOUT,
            pre_vote: true,
            advance_first_election: false,
            seed: [id as u8; 32],
            limits: self.limits,
        };
        let now = Now { monotonic: Monotonic(self.now), wall: WallMs(0) };
        let (log, state) = member::open(settings, member_settings(self.sync), recovered, configuration, machine, 0, now);
        let view = state.view();
        let hub = Hub::new(self.hub, Arc::clone(&view), now);
        process.running = Some(Running { log, state, hub, view });
        self.flush_log(id);
        self.flush_state(id);
    }

    fn now(&self) -> Now {
        Now { monotonic: Monotonic(self.now), wall: WallMs(0) }
    }

    fn enqueue(&mut self, after: Duration, id: u64, event: Event) {
        self.queued += 1;
        let life = self.processes[&id].life;
        self.queue.insert((self.now + after, self.queued), (id, life, event));
    }

    fn show(&mut self, id: u64, actor: &str, input: &dyn Display) {
        if self.shown.contains(&id) {
            writeln!(self.trace, "{:>4}ms n{id} {actor:<5} {input}", self.now.as_millis()).unwrap();
        }
    }

    fn effect(&mut self, id: u64, effect: &dyn Display) {
        if self.shown.contains(&id) {
            writeln!(self.trace, "                {effect}").unwrap();
        }
    }

    /// What a member tells itself was shown as an effect already; it is shown again only if something follows from it.
    fn unless_followed(&mut self, quiet: bool, before: usize, shown: usize) {
        if quiet && self.trace.len() == shown {
            self.trace.truncate(before);
        }
    }

    fn happen(&mut self, id: u64, event: Event) {
        let now = self.now();
        match event {
            Event::Log(input) => {
                let (quiet, before) = (matches!(input, LogInput::State(_) | LogInput::Wal(_)), self.trace.len());
                self.show(id, "log", &input);
                let shown = self.trace.len();
                let Some(running) = &mut self.processes.get_mut(&id).unwrap().running else { return };
                let mut out = Vec::new();
                running.log.step(now, input, &mut out);
                self.carry_out_log(id, out);
                self.flush_log(id);
                self.unless_followed(quiet, before, shown);
            }
            Event::State(input) => {
                let before = self.trace.len();
                self.show(id, "state", &input);
                let shown = self.trace.len();
                let Some(running) = &mut self.processes.get_mut(&id).unwrap().running else { return };
                let mut out = Vec::new();
                running.state.step(now, input, &mut out);
                self.carry_out_state(id, out);
                self.flush_state(id);
                self.unless_followed(true, before, shown);
            }
            Event::Write(number, ops) => {
                let process = self.processes.get_mut(&id).unwrap();
                if process.is_stalled {
                    process.stalled.get_or_insert(ops);
                    return;
                }
                for op in ops {
                    execute(&mut process.segments, op);
                }
                self.happen(id, Event::Log(LogInput::Wal(WalDone::Durable(number))));
            }
            Event::Store(work) => {
                let process = self.processes.get_mut(&id).unwrap();
                match work {
                    StoreWork::Persist { number, batch, .. } => {
                        process.store.write(&batch);
                        process.persisted = number;
                        let reader = process.store.clone();
                        self.happen(id, Event::State(StateInput::Store(StoreDone::Persisted { number, reader, stored_bytes: 0 })));
                    }
                    StoreWork::Sync => {
                        let number = process.persisted;
                        self.happen(id, Event::State(StateInput::Store(StoreDone::Synced(number))));
                    }
                    StoreWork::BeginState { anew, .. } => {
                        if anew {
                            process.received = MemoryStore::default();
                        }
                        let reader = process.received.clone();
                        self.happen(id, Event::State(StateInput::Store(StoreDone::StateBegun { reader })));
                    }
                    StoreWork::StoreRows { batch, .. } => {
                        process.received.write(&batch);
                        self.state_stored(id);
                    }
                    StoreWork::SyncState { .. } => self.state_stored(id),
                    StoreWork::SwitchState { .. } => {
                        process.store = std::mem::take(&mut process.received);
                        process.persisted = BatchNumber::default();
                        self.happen(id, Event::State(StateInput::Store(StoreDone::Switched)));
                    }
                    StoreWork::DropState { .. } => process.received = MemoryStore::default(),
                    StoreWork::Retire { table, below } => {
                        process.store.retire(table, below);
                        let reader = process.store.clone();
                        self.happen(id, Event::State(StateInput::Store(StoreDone::Retired { reader, stored_bytes: 0 })));
                    }
                }
            }
        }
    }

    fn state_stored(&mut self, id: u64) {
        let reader = self.processes[&id].received.clone();
        self.happen(id, Event::State(StateInput::Store(StoreDone::StateStored { reader, stored_bytes: 0 })));
    }

    fn flush_log(&mut self, id: u64) {
        let now = self.now();
        let Some(running) = &mut self.processes.get_mut(&id).unwrap().running else { return };
        let mut out = Vec::new();
        running.log.flush(now, &mut out);
        self.carry_out_log(id, out);
    }

    fn flush_state(&mut self, id: u64) {
        let now = self.now();
        let Some(running) = &mut self.processes.get_mut(&id).unwrap().running else { return };
        let mut out = Vec::new();
        running.state.flush(now, &mut out);
        self.carry_out_state(id, out);
    }

    fn carry_out_log(&mut self, id: u64, effects: Vec<LogEffect>) {
        for effect in effects {
            if !matches!(effect, LogEffect::Wal(WalWork::Prepare { .. })) {
                self.effect(id, &effect);
            }
            match effect {
                LogEffect::Wal(WalWork::Write { number, ops }) => self.enqueue(FSYNC, id, Event::Write(number, ops)),
                LogEffect::Wal(WalWork::Read { segment, offset, length }) => {
                    let content = &self.processes[&id].segments[&segment];
                    let bytes = Bytes::copy_from_slice(&content[offset as usize..][..length as usize]);
                    self.enqueue(STORE, id, Event::Log(LogInput::Wal(WalDone::Read { segment, offset, bytes })));
                }
                LogEffect::Wal(WalWork::Prepare { .. }) | LogEffect::Connect(_) | LogEffect::Notice(_) => {}
                LogEffect::Send(envelope) => {
                    let to = envelope.to.0;
                    if !self.cut.contains(&id) && !self.cut.contains(&to) {
                        self.enqueue(LATENCY, to, Event::Log(LogInput::Peer(envelope)));
                    }
                }
                LogEffect::State(order) => self.enqueue(Duration::ZERO, id, Event::State(StateInput::Log(order))),
                LogEffect::Answer(ticket, answer) => self.answer(id, ticket, answer),
                LogEffect::Fatal(reason) => panic!("{reason}"),
            }
        }
    }

    fn carry_out_state(&mut self, id: u64, effects: Vec<StateEffect<MemoryStore>>) {
        for effect in effects {
            self.effect(id, &effect);
            match effect {
                StateEffect::Store(work) => self.enqueue(STORE, id, Event::Store(work)),
                StateEffect::Publish(view) => {
                    self.processes.get_mut(&id).unwrap().running.as_mut().unwrap().view = Arc::clone(&view);
                    self.step_hub(id, HubInput::<MemoryStore>::Published(view));
                }
                StateEffect::Answer(ticket, answer) => self.answer(id, ticket, answer),
                StateEffect::ReadChunk(read) => self.enqueue(STORE, id, Event::State(StateInput::ChunkRead(read.run()))),
                StateEffect::Snapshot(_) => {}
                StateEffect::Log(report) => self.enqueue(Duration::ZERO, id, Event::Log(LogInput::State(report))),
                StateEffect::Fatal(reason) => panic!("{reason}"),
            }
        }
    }

    /// A hub with nothing to say is not shown.
    fn step_hub(&mut self, id: u64, input: HubInput<MemoryStore>) {
        let now = self.now();
        let shown = (!matches!(input, HubInput::<MemoryStore>::Published(_))).then(|| input.to_string());
        let hub = &mut self.processes.get_mut(&id).unwrap().running.as_mut().unwrap().hub;
        let mut out = Vec::new();
        hub.step(now, input, &mut out);
        hub.flush(now, &mut out);
        while hub.deadline() <= now.monotonic {
            hub.flush(now, &mut out);
        }
        if let Some(input) = shown.or_else(|| (!out.is_empty()).then(|| "published".to_owned())) {
            self.show(id, "hub", &input);
        }
        for effect in out {
            self.effect(id, &effect);
        }
    }

    fn answer(&mut self, id: u64, ticket: Ticket, answer: Result<Answer, Refusal>) {
        let Some(key) = self.reads.remove(&ticket).filter(|_| answer == Ok(Answer::Ready)) else { return };
        let view = &self.processes[&id].running.as_ref().unwrap().view;
        let range = Range { range: KeyRange { key: key.clone(), end: Bytes::new() }, ..Range::default() };
        let reply = view.range(&range).unwrap();
        let value = reply.kvs.first().map(|kv| kv.value());
        let line = format!("{ticket} reads {key:?} = {:?} at revision {}", value.unwrap_or_default(), reply.revision);
        self.effect(id, &line);
    }
}

pub fn stream(id: u64) -> StreamId {
    StreamId(id)
}

fn execute(segments: &mut BTreeMap<SegmentId, Vec<u8>>, op: WalOp) {
    match op {
        WalOp::Create { segment, length } => drop(segments.insert(segment, vec![0; length as usize])),
        WalOp::Recycle { from, to } => {
            let content = segments.remove(&from).expect("recycled segment exists");
            segments.insert(to, content);
        }
        WalOp::WriteAt { segment, offset, bytes } => {
            segments.get_mut(&segment).expect("written segment exists")[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        WalOp::Remove { segment } => drop(segments.remove(&segment)),
        WalOp::Sync { .. } | WalOp::SyncDirectory => {}
    }
}

/// Nothing waits for more of its kind: each thing is told when it happens.
fn member_settings(sync: SyncLimits) -> MemberSettings {
    let batch = BatchLimits { persist_delay: Duration::ZERO, report_delay: Duration::ZERO, ..BatchLimits::default() };
    MemberSettings { batch, sync, ..MemberSettings::default() }
}
