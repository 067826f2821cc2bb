//! The simulated world: one heap of events, one clock, the production actors, and everything that can go wrong between them.
//!
//! Runs inside a madsim runtime, so that time, threads and chance of the standard library are simulated too, should anything ask.

use crate::chance::{Chance, Concern};
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::invariants::{Checker, Checks, Violation};
use crate::judge::Recorded;
use crate::member::{Half, Member, Tally};
use crate::network::Network;
use crate::parameters::Parameters;
use crate::schedule::{FaultClass, Schedule};
use crate::trace::{Hash128, Lines, Trace};
use crate::v2::{self, V2_CLIENTS, tend};
use crate::workload::{CLIENTS, Port, WATCHERS, observe, operate};
use quorate_checker::history::{OpId, Outcome};
use quorate_core::consensus::Envelope;
use quorate_core::member::{LogEffect, ReadChunk, StateInput};
use quorate_core::storage::MemoryStore;
use quorate_core::types::{MemberId, SegmentId};
use quorate_core::watch::WatchResponse;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    future::Future,
    pin::Pin,
};

/// A run that has not come to its end by then never will.
const WORLD_END: Nanos = 240 * SECOND;
/// A seed simulates at least so much.
const RUN_MIN: Nanos = 60 * SECOND;
/// Events of one moment, above which the world is taken to turn in a circle.
const EVENTS_AT_ONCE_MAX: u64 = 200_000;
/// Messages and the like held up for a paused process; more are dropped, as sockets would block their senders.
const PARKED_MAX: usize = 20_000;

/// Something that will happen to one process (`incarnation` of `member`), to the wire, or to a client.
#[derive(Debug)]
pub(crate) enum Event {
    Arrive { to: usize, envelope: Envelope, number: u64, copy: bool, late: bool },
    PeerClosed { member: usize, incarnation: u64, peer: MemberId },
    RunLog { member: usize, incarnation: u64 },
    RunState { member: usize, incarnation: u64 },
    StateShows { member: usize, incarnation: u64 },
    Wake { member: usize, incarnation: u64, half: Half },
    Work { member: usize, incarnation: u64 },
    HubWake { member: usize, incarnation: u64 },
    DiskDone { member: usize, incarnation: u64 },
    StoreDone { member: usize, incarnation: u64 },
    LogRead { member: usize, incarnation: u64, segment: SegmentId, offset: u64, length: u32 },
    ReadChunk { member: usize, incarnation: u64, read: Box<ReadChunk<MemoryStore>> },
    Die { member: usize, incarnation: u64, down: Nanos },
    Restart { member: usize, incarnation: u64 },
    Request { op: OpId },
    Reply { op: OpId, outcome: Box<Outcome> },
    GiveUp { op: OpId, leaves: bool },
    V2Request { op: OpId },
    V2Reply { op: OpId, outcome: Box<v2::Outcome> },
    V2GiveUp { op: OpId, leaves: bool },
    Relief,
    Disarm,
    Probe { member: usize },
    Timer { client: usize, number: u64 },
    WatchOpen { op: OpId },
    WatchSays { op: OpId, response: Box<WatchResponse> },
    WatchDrained { op: OpId, bytes: usize },
    WatchAsked { op: OpId, close: bool },
    WatchBroken { op: OpId },
    Fault { item: usize },
    FaultEnd { item: usize },
    Phase(Phase),
}

impl Event {
    /// The process that has to run for this to happen, and which incarnation of it (`None`: any).
    fn runs_in(&self, world: &World) -> Option<(usize, Option<u64>)> {
        match self {
            Self::Arrive { to, .. } => Some((*to, None)),
            Self::PeerClosed { member, incarnation, .. }
            | Self::RunLog { member, incarnation }
            | Self::RunState { member, incarnation }
            | Self::StateShows { member, incarnation }
            | Self::Wake { member, incarnation, .. }
            | Self::Work { member, incarnation }
            | Self::HubWake { member, incarnation }
            | Self::DiskDone { member, incarnation }
            | Self::StoreDone { member, incarnation }
            | Self::ReadChunk { member, incarnation, .. }
            | Self::LogRead { member, incarnation, .. } => Some((*member, Some(*incarnation))),
            Self::Request { op } => world.sessions.ops.get(op).map(|op| (op.member, None)),
            Self::V2Request { op } => world.v2_member(*op).map(|member| (member, None)),
            Self::WatchOpen { op } | Self::WatchDrained { op, .. } | Self::WatchAsked { op, .. } => {
                world.sessions.watches.get(op).map(|watch| (watch.member, None))
            }
            _ => None,
        }
    }

    fn kind(&self) -> u64 {
        match self {
            Self::Arrive { .. } => 1,
            Self::PeerClosed { .. } => 2,
            Self::RunLog { .. } => 3,
            Self::RunState { .. } => 4,
            Self::Wake { half: Half::Log, .. } => 5,
            Self::Wake { half: Half::State, .. } => 26,
            Self::Work { .. } => 6,
            Self::HubWake { .. } => 7,
            Self::DiskDone { .. } => 8,
            Self::StoreDone { .. } => 9,
            Self::LogRead { .. } => 10,
            Self::Die { .. } => 11,
            Self::Restart { .. } => 12,
            Self::Request { op } => 13 ^ op << 8,
            Self::Reply { op, outcome } => 14 ^ op << 8 ^ outcome_word(outcome) << 40,
            Self::GiveUp { op, .. } => 15 ^ op << 8,
            Self::Timer { client, .. } => 16 ^ (*client as u64) << 8,
            Self::WatchOpen { op } => 17 ^ op << 8,
            Self::WatchSays { op, response } => 18 ^ op << 8 ^ response.revision.0.cast_unsigned() << 40,
            Self::WatchDrained { op, .. } => 19 ^ op << 8,
            Self::WatchAsked { op, .. } => 20 ^ op << 8,
            Self::WatchBroken { op } => 21 ^ op << 8,
            Self::Fault { item } => 22 ^ (*item as u64) << 8,
            Self::FaultEnd { item } => 23 ^ (*item as u64) << 8,
            Self::Phase(phase) => 24 ^ (*phase as u64) << 8,
            Self::StateShows { .. } => 25,
            Self::Relief => 27,
            Self::Disarm => 28,
            Self::V2Request { op } => 30 ^ op << 8,
            Self::V2Reply { op, .. } => 31 ^ op << 8,
            Self::V2GiveUp { op, .. } => 32 ^ op << 8,
            Self::ReadChunk { .. } => 33,
            Self::Probe { member } => 29 ^ (*member as u64) << 8,
        }
    }
}

fn outcome_word(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Ok { response, .. } => 4 ^ response.revision().cast_unsigned() << 3,
        Outcome::Refused(_) => 2,
        Outcome::Unknown => 3,
    }
}

/// A seed's course: chaos, for some a cut that stays, then healing, and the proof that all is well.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u64)]
pub(crate) enum Phase {
    Chaos,
    /// Healed before the cut, so that it meets a working cluster.
    Calm,
    Cut,
    CutJudged,
    Healed,
    /// A leader must be there, what is asked from now on must be answered, and each member is asked to write until it does.
    Alive,
    /// Each has.
    Accepted,
    /// And the term is still the same after a while.
    Steady,
    /// Clients stop.
    Stopping,
    /// Looked at until all members agree.
    Converging,
    /// What watches are owed has had time to arrive.
    Judged,
}

pub(crate) struct Client {
    pub(crate) port: Port,
    pub(crate) task: Option<Pin<Box<dyn Future<Output = ()>>>>,
    pub(crate) timer: u64,
}

pub struct World {
    pub(crate) now: Nanos,
    heap: BinaryHeap<Reverse<(Nanos, u64, usize)>>,
    slots: Vec<Option<Event>>,
    free: Vec<usize>,
    sequence: u64,
    pub(crate) parked: Vec<VecDeque<Event>>,
    pub(crate) schedule: Schedule,
    pub(crate) parameters: Parameters,
    pub(crate) members: Vec<Member>,
    pub(crate) network: Network,
    pub(crate) latency: Chance,
    pub(crate) clients: Vec<Client>,
    pub(crate) sessions: crate::sessions::Sessions,
    pub(crate) v2: v2::Sessions,
    pub(crate) checks: Checks,
    pub(crate) leases: crate::leases::LeaseWatch,
    pub(crate) digests: BTreeMap<u64, (usize, u128)>,
    pub(crate) tally: Tally,
    pub(crate) trace: Trace,
    pub(crate) phase: Phase,
    pub(crate) cut: crate::phases::CutWatch,
    /// Compactions count as mattering until then.
    pub(crate) compaction_until: Nanos,
    pub(crate) transfer_to: Option<(usize, Nanos)>,
    /// So many more leaders die, each at most so long after its election.
    pub(crate) storm: (u64, Nanos),
    pub(crate) storm_victims: u64,
    /// Faults that wait for a snapshot to be on its way.
    pub(crate) ambush: crate::snapshot::Ambush,
    pub(crate) off: Option<Checker>,
    pub(crate) log_effects: Vec<LogEffect>,
    pub(crate) done: bool,
    events: u64,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcomes {
    pub violation: Option<Violation>,
    pub hash: Hash128,
    pub operations: u64,
    pub completed: u64,
    pub elections: u64,
    pub events: u64,
    pub simulated: Nanos,
    pub tally: Tally,
    /// What is left to be judged, and whether nobody could decide about it.
    pub recorded: Recorded,
    pub undecided: Option<String>,
}

impl World {
    #[must_use]
    pub fn new(schedule: Schedule, off: Option<Checker>, lines: Option<Lines>) -> Self {
        let seed = schedule.seed;
        let parameters = Parameters::draw(&schedule);
        let leases = crate::leases::LeaseWatch::new(&schedule, &parameters);
        let count = schedule.members;
        let mut world = Self {
            now: 0,
            heap: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            parked: (0..count).map(|_| VecDeque::new()).collect(),
            parameters,
            members: (0..count).map(|index| Member::new(seed, index)).collect(),
            network: Network::new(seed),
            latency: Chance::new(seed, Concern::Latency, 0),
            clients: Vec::new(),
            sessions: crate::sessions::Sessions::default(),
            v2: v2::Sessions::default(),
            checks: Checks::new(count, off),
            leases,
            digests: BTreeMap::new(),
            tally: Tally::default(),
            trace: Trace::new(lines),
            phase: Phase::Chaos,
            cut: crate::phases::CutWatch::default(),
            compaction_until: 0,
            transfer_to: None,
            storm: (0, 0),
            storm_victims: 0,
            ambush: crate::snapshot::Ambush::default(),
            off,
            log_effects: Vec::new(),
            done: false,
            events: 0,
            schedule,
        };
        for client in 0..CLIENTS + WATCHERS + V2_CLIENTS {
            let port = Port::new(client, count);
            let chance = Chance::new(seed, Concern::Client, u64::from(client));
            let task: Pin<Box<dyn Future<Output = ()>>> = if client < CLIENTS {
                Box::pin(operate(port.clone(), chance, world.parameters.workload))
            } else if client < CLIENTS + WATCHERS {
                Box::pin(observe(port.clone(), chance))
            } else {
                Box::pin(tend(port.clone(), chance))
            };
            port.mailbox.borrow_mut().unkind = true;
            world.clients.push(Client { port, task: Some(task), timer: 0 });
        }
        world
    }

    pub(crate) fn after(&mut self, delay: Nanos, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(crate) fn at(&mut self, at: Nanos, event: Event) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(event);
        self.sequence += 1;
        self.heap.push(Reverse((at.max(self.now), self.sequence, slot)));
    }

    /// Runs the world to its end, or to the first violation.
    pub fn run(mut self) -> Outcomes {
        for member in 0..self.members.len() {
            let delay = self.members[member].chance.below(50 * MILLISECOND);
            self.after(delay, Event::Restart { member, incarnation: 0 });
        }
        if self.parameters.member.quota_bytes.is_some() {
            self.tally.fired(FaultClass::Quota);
        }
        for (item, fault) in self.schedule.items.clone().iter().enumerate() {
            self.at(fault.at_ms * MILLISECOND, Event::Fault { item });
        }
        self.at(self.schedule.chaos_end_ms * MILLISECOND, Event::Phase(Phase::Calm));
        for client in 0..self.clients.len() {
            self.poll(client);
        }
        let violation = self.turn();
        let violation = match violation {
            Some(found) => Some(found),
            None => self.judge(),
        };
        let violation = violation.map(|(checker, text)| Violation { checker, at: self.now, text });
        self.trace.hash.mix(self.checks.committed().0);
        Outcomes {
            violation,
            hash: self.trace.hash,
            operations: self.sessions.invoked,
            completed: self.sessions.completed,
            elections: self.checks.facts.elections,
            events: self.events,
            simulated: self.now,
            tally: self.tally,
            recorded: Recorded {
                witness: crate::judge::witness(&self.checks, &self.sessions.proposed),
                open: self.sessions.watches.iter().filter(|(_, watch)| !watch.ended).map(|(op, _)| *op).collect(),
                v2: v2::recorded(&self.checks, &self.sessions.proposed, self.v2, self.members.len()),
                history: self.sessions.history,
            },
            undecided: None,
        }
    }

    fn turn(&mut self) -> Option<(Checker, String)> {
        let mut at_once = 0;
        while let Some(Reverse((at, _, slot))) = self.heap.pop() {
            let event = self.slots[slot].take().expect("each slot is planned once");
            self.free.push(slot);
            at_once = if at > self.now { 0 } else { at_once + 1 };
            if at_once > EVENTS_AT_ONCE_MAX {
                return Some((Checker::Liveness, format!("the world turns in a circle at {event:?}")));
            }
            self.now = at;
            self.events += 1;
            self.trace.hash.mix(at);
            self.trace.hash.mix(event.kind());
            if let Some((member, incarnation)) = event.runs_in(self) {
                self.trace.hash.mix(member as u64);
                let host = &self.members[member];
                if incarnation.is_some_and(|incarnation| incarnation != host.incarnation) {
                    continue;
                }
                if host.paused > 0 && host.process.is_some() {
                    self.park(member, event);
                    continue;
                }
            }
            self.dispatch(event);
            if let Some(found) = self.checks.found() {
                return Some(found);
            }
            if self.done {
                return None;
            }
            if self.now > WORLD_END {
                return Some((Checker::Liveness, "the run does not come to its end".into()));
            }
        }
        Some((Checker::Liveness, "nothing will ever happen again".into()))
    }

    fn park(&mut self, member: usize, event: Event) {
        if let Event::Arrive { envelope, .. } = &event
            && crate::network::is_weighty(&envelope.message)
        {
            self.tally.mattered(FaultClass::Pause);
        }
        let is_own = !matches!(event, Event::Arrive { .. });
        if is_own || self.parked[member].len() < PARKED_MAX {
            self.parked[member].push_back(event);
        }
    }

    /// What was held up for a process happens now, if it still runs.
    pub(crate) fn unpark(&mut self, member: usize) {
        for event in std::mem::take(&mut self.parked[member]) {
            self.after(0, event);
        }
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Arrive { to, envelope, number, copy, late } => self.on_arrive(to, envelope, number, copy, late),
            Event::PeerClosed { member, peer, .. } => self.on_peer_closed(member, peer),
            Event::RunLog { member, .. } => self.run_log(member),
            Event::RunState { member, .. } => self.run_state(member),
            Event::StateShows { member, .. } => self.on_state_shows(member),
            Event::Wake { member, half, .. } => self.on_wake(member, half),
            Event::Work { member, .. } => self.on_work(member),
            Event::HubWake { member, .. } => self.on_hub_wake(member),
            Event::DiskDone { member, .. } => self.on_disk_done(member),
            Event::StoreDone { member, .. } => self.on_store_done(member),
            Event::LogRead { member, segment, offset, length, .. } => self.on_log_read(member, segment, offset, length),
            Event::ReadChunk { member, read, .. } => self.tell_state(member, StateInput::ChunkRead(read.run())),
            Event::Die { member, incarnation, down } => {
                if self.members[member].incarnation == incarnation {
                    self.kill(member, Some(down));
                }
            }
            Event::Restart { member, incarnation } => {
                if self.members[member].incarnation == incarnation {
                    self.start(member);
                }
            }
            Event::Request { op } => self.on_request(op),
            Event::Reply { op, outcome } => self.on_reply(op, *outcome),
            Event::GiveUp { op, leaves } => self.on_give_up(op, leaves),
            Event::V2Request { op } => self.on_v2_request(op),
            Event::V2Reply { op, outcome } => self.on_v2_reply(op, *outcome),
            Event::V2GiveUp { op, leaves } => self.on_v2_give_up(op, leaves),
            Event::Relief => self.on_relief(),
            Event::Disarm => self.on_disarm(),
            Event::Probe { member } => self.on_probe(member),
            Event::Timer { client, number } => self.on_timer(client, number),
            Event::WatchOpen { op } => self.on_watch_open(op),
            Event::WatchSays { op, response } => self.on_watch_says(op, &response),
            Event::WatchDrained { op, bytes } => self.on_watch_drained(op, bytes),
            Event::WatchAsked { op, close } => self.on_watch_asked(op, close),
            Event::WatchBroken { op } => self.on_watch_broken(op),
            Event::Fault { item } => self.on_fault(item),
            Event::FaultEnd { item } => self.on_fault_end(item),
            Event::Phase(phase) => self.on_phase(phase),
        }
    }

    pub(crate) fn name(&self, member: MemberId) -> usize {
        usize::try_from(member.0 - 1).expect("small")
    }

    /// Members that can take part.
    pub(crate) fn alive(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.members.len()).filter(|member| self.members[*member].process.is_some())
    }

    pub(crate) fn run_min_end(&self) -> Nanos {
        RUN_MIN
    }
}
