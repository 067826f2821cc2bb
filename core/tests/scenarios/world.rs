//! A cluster of consensus actors in virtual time: one queue, no threads, every step in protocol notation in a trace.
//!
//! Nothing happens by itself: a scenario wakes members, lets messages and fsyncs arrive with `settle`, cuts links, holds messages
//! back, stalls disks, crashes members. Every step of every scenario is checked against the safety properties of Raft (Figure 3).

use bytes::Bytes;
use quorate_core::consensus::{Configuration, Consensus, Entry, Envelope, Installable, Limits, Message, Payload, Role, Settings};
use quorate_core::consensus::{ConsensusEffect, ConsensusInput, Proposal};
use quorate_core::storage::WalOp;
use quorate_core::types::{
    Boot, ClusterId, LogId, LogIndex, MemberId, Monotonic, Now, ReadId, RequestId, SegmentId, StateNumber, Term, WallMs,
};
use quorate_core::wal::{Identity, Planner, Recovered, Recovery, WalSettings, bootstrap_entries};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(100);
const HEARTBEAT: Duration = Duration::from_millis(10);
const LATENCY: Duration = Duration::from_millis(1);
const FSYNC: Duration = Duration::from_millis(3);
const SNAPSHOT: Duration = Duration::from_millis(7);

/// What a world is made of.
pub struct Options {
    pub limits: Limits,
    pub pre_vote: bool,
    pub advance_first_election: bool,
    pub segment_bytes: u64,
    /// Replaces the bootstrap configuration of all members.
    pub configuration: Option<Configuration>,
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            pre_vote: true,
            advance_first_election: false,
            segment_bytes: 64 << 10,
            configuration: None,
            seed: 0,
        }
    }
}

/// Chance in the network and at the disk, for randomised runs.
pub struct Chaos {
    pub rng: ChaCha8Rng,
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    pub delay_ms_max: u64,
    pub fsync_ms_max: u64,
}

enum Event {
    Deliver(Envelope),
    Durable {
        member: u64,
        life: u64,
        number: quorate_core::types::WriteNumber,
        ops: Vec<WalOp>,
        then: Vec<Envelope>,
    },
    Step {
        member: u64,
        life: u64,
        input: ConsensusInput,
    },
    /// A snapshot through that entry, sent and received whole.
    Snapshot {
        from: u64,
        to: u64,
        last: LogId,
    },
}

struct Member {
    consensus: Option<Consensus>,
    /// Counts restarts: what an earlier life left in the queue is void.
    life: u64,
    boot: Boot,
    segments: BTreeMap<SegmentId, Vec<u8>>,
    disk_stalled: bool,
    stalled: Vec<Event>,
    /// What is committed waits to be applied.
    machine_stalled: bool,
    applied: LogIndex,
    /// The state store survives a crash through here.
    synced: LogIndex,
    /// Which state that is: a snapshot that is installed makes the next.
    state: StateNumber,
    /// States that were received, of use or not.
    states_made: StateNumber,
    fsync_at: Duration,
}

pub struct World {
    options: Options,
    now: Duration,
    members: BTreeMap<u64, Member>,
    queue: BTreeMap<(Duration, u64), Event>,
    queued: u64,
    cut: BTreeSet<(u64, u64)>,
    hold: Option<fn(&Envelope) -> bool>,
    held: Vec<Envelope>,
    pub chaos: Option<Chaos>,
    trace: String,
    pub traced: bool,
    sequence: u64,
    /// Every committed entry, whoever committed it first.
    pub ledger: Vec<Entry>,
    leaders: BTreeMap<Term, u64>,
    /// How long the ledger was when a read was asked for.
    reads: BTreeMap<ReadId, usize>,
    pub reads_answered: usize,
    pub effects: Vec<(u64, ConsensusEffect)>,
}

impl World {
    pub fn new(count: u64) -> Self {
        Self::with(count, Options::default())
    }

    /// `count` founding members, started and silent.
    pub fn with(count: u64, options: Options) -> Self {
        let mut world = Self {
            options,
            now: Duration::ZERO,
            members: BTreeMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            cut: BTreeSet::new(),
            hold: None,
            held: Vec::new(),
            chaos: None,
            trace: String::new(),
            traced: true,
            sequence: 0,
            ledger: Vec::new(),
            leaders: BTreeMap::new(),
            reads: BTreeMap::new(),
            reads_answered: 0,
            effects: Vec::new(),
        };
        for id in 1..=count {
            let member = Member {
                consensus: None,
                life: 0,
                boot: Boot(0),
                segments: BTreeMap::new(),
                disk_stalled: false,
                stalled: Vec::new(),
                machine_stalled: false,
                applied: LogIndex(0),
                synced: LogIndex(0),
                state: StateNumber(0),
                states_made: StateNumber(0),
                fsync_at: Duration::ZERO,
            };
            world.members.insert(id, member);
        }
        for id in 1..=count {
            world.start(id);
        }
        world.settle();
        world.clear();
        world
    }

    fn founders(&self) -> Vec<(MemberId, Vec<String>)> {
        self.members.keys().map(|&id| (MemberId(id), vec![format!("http://n{id}")])).collect()
    }

    fn start(&mut self, id: u64) {
        let (mut entries, mut configuration) = bootstrap_entries(&self.founders());
        if let Some(other) = &self.options.configuration {
            configuration = other.clone();
            entries.truncate(1);
            entries[0].payload = Payload::Configuration { request: None, configuration: configuration.clone() };
        }
        let settings = WalSettings { segment_bytes: self.options.segment_bytes, spare_segments: 1 };
        let member = self.members.get_mut(&id).unwrap();
        let seed = [id as u8; 32];
        let identity = Identity { cluster: ClusterId(1), member: MemberId(id) };
        let recovered = recover(&member.segments, member.synced, settings, seed)
            .unwrap_or_else(|| Planner::bootstrap(identity, entries, settings, seed));
        member.boot = recovered.boot;
        if recovered.state > member.state {
            (member.state, member.synced) = (recovered.state, member.synced.max(recovered.base.index));
        }
        member.applied = member.synced;
        let mut rng_seed = [id as u8; 32];
        rng_seed[..8].copy_from_slice(&self.options.seed.to_le_bytes());
        rng_seed[8] = member.life as u8;
        let settings = Settings {
            member: MemberId(id),
            boot: member.boot,
            heartbeat_interval: HEARTBEAT,
            election_timeout: ELECTION_TIMEOUT,
            pre_vote: self.options.pre_vote,
            advance_first_election: self.options.advance_first_election,
            seed: rng_seed,
            limits: self.options.limits,
        };
        for entry in &self.ledger[..member.synced.0 as usize] {
            if let Payload::Configuration { configuration: stored, .. } = &entry.payload {
                configuration = stored.clone();
            }
        }
        let now = Now { monotonic: Monotonic(self.now), wall: WallMs(0) };
        member.consensus = Some(Consensus::new(settings, recovered, configuration, member.synced, now));
        self.flush(id);
    }

    // What a scenario may do.

    /// The trace since the start or the last `clear`.
    pub fn trace(&self) -> &str {
        &self.trace
    }

    pub fn clear(&mut self) {
        self.trace.clear();
        self.effects.clear();
    }

    pub fn note(&mut self, text: &str) {
        writeln!(self.trace, "-- {text}").unwrap();
    }

    /// Advances to the member's deadline, if that lies ahead, and wakes it.
    pub fn wake(&mut self, id: u64) {
        self.now = self.now.max(self.consensus(id).deadline().0);
        self.step(id, ConsensusInput::Wake);
    }

    /// Lets time pass without anything happening.
    pub fn pass(&mut self, duration: Duration) {
        self.now += duration;
    }

    /// Lets everything that is on its way arrive: messages, fsyncs, reads of the log.
    pub fn settle(&mut self) {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = self.now.max(at);
            self.happen(event);
        }
    }

    /// Lets virtual time run: whatever arrives and every deadline.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let alive = self.members.iter().filter_map(|(&id, member)| Some((member.consensus.as_ref()?.deadline().0, id)));
            let wake = alive.min();
            let event = self.queue.keys().next().copied();
            let next = event.map(|(at, _)| at).into_iter().chain(wake.map(|(at, _)| at)).min().unwrap_or(end);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            match (event, wake) {
                (Some(key), wake) if wake.is_none_or(|(at, _)| key.0 <= at) => {
                    let event = self.queue.remove(&key).unwrap();
                    self.happen(event);
                }
                (_, Some((_, id))) => self.step(id, ConsensusInput::Wake),
                _ => return,
            }
        }
    }

    /// The member campaigns as if all election timeouts had passed, and wins: at the latest once it has learned the present term.
    pub fn elect(&mut self, id: u64) {
        self.now += ELECTION_TIMEOUT;
        for _ in 0..5 {
            self.wake(id);
            self.settle();
            if self.role(id) == Role::Leader {
                break;
            }
        }
        assert_eq!(self.role(id), Role::Leader, "{}", self.trace);
    }

    pub fn propose(&mut self, id: u64) -> RequestId {
        let (request, input) = self.proposal(id);
        self.step(id, input);
        request
    }

    pub fn proposal(&mut self, id: u64) -> (RequestId, ConsensusInput) {
        self.sequence += 1;
        let request = RequestId { member: MemberId(id), boot: self.members[&id].boot, sequence: self.sequence };
        (request, ConsensusInput::Propose(vec![Proposal { request, command: Bytes::from(vec![b'x'; 100]) }]))
    }

    pub fn read(&mut self, id: u64) -> ReadId {
        self.sequence += 1;
        let read = ReadId { member: MemberId(id), boot: self.members[&id].boot, sequence: self.sequence };
        self.reads.insert(read, self.ledger.len());
        self.step(id, ConsensusInput::Read(read));
        read
    }

    /// Takes note of reads that a scenario hands over by itself.
    pub fn expect_reads(&mut self, inputs: &[ConsensusInput]) {
        for input in inputs {
            if let ConsensusInput::Read(read) = input {
                self.reads.insert(*read, self.ledger.len());
            }
        }
    }

    /// A message of the scenario's own making arrives.
    pub fn receive(&mut self, from: u64, to: u64, term: u64, message: Message) {
        self.step(to, ConsensusInput::Receive(Envelope { from: MemberId(from), to: MemberId(to), term: Term(term), message }));
    }

    /// Cuts both ways between a member and all others.
    pub fn isolate(&mut self, id: u64) {
        let others: Vec<_> = self.members.keys().copied().filter(|&other| other != id).collect();
        for other in others {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    /// Cuts the way from one member to another.
    pub fn cut(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// From now on keeps messages of that kind back until `release`.
    pub fn hold(&mut self, which: fn(&Envelope) -> bool) {
        self.hold = Some(which);
    }

    /// Lets messages through again and hands over what was held.
    pub fn unhold(&mut self) -> Vec<Envelope> {
        self.hold = None;
        std::mem::take(&mut self.held)
    }

    /// Puts messages on their way, in this order.
    pub fn send(&mut self, envelopes: Vec<Envelope>) {
        for envelope in envelopes {
            self.enqueue(LATENCY, Event::Deliver(envelope));
        }
    }

    /// Writes of this member stay under way until `resume_disk`.
    pub fn stall_disk(&mut self, id: u64) {
        self.members.get_mut(&id).unwrap().disk_stalled = true;
    }

    pub fn resume_disk(&mut self, id: u64) {
        let member = self.members.get_mut(&id).unwrap();
        member.disk_stalled = false;
        let mut stalled = std::mem::take(&mut member.stalled);
        // Writes become durable in order, also those that the stall caught on their way.
        stalled.sort_by_key(|event| if let Event::Durable { number, .. } = event { number.0 } else { 0 });
        for event in stalled {
            self.write(id, event);
        }
    }

    /// What is committed at this member stays unapplied until `resume_machine`.
    pub fn stall_machine(&mut self, id: u64) {
        self.members.get_mut(&id).unwrap().machine_stalled = true;
    }

    pub fn resume_machine(&mut self, id: u64) {
        self.members.get_mut(&id).unwrap().machine_stalled = false;
        self.step(id, ConsensusInput::Wake);
    }

    /// The member dies; writes that were not durable are lost.
    pub fn crash(&mut self, id: u64) {
        let member = self.members.get_mut(&id).unwrap();
        member.consensus = None;
        member.life += 1;
        member.stalled.clear();
        member.machine_stalled = false;
        member.fsync_at = Duration::ZERO;
        if self.traced {
            writeln!(self.trace, "{:>5}ms n{id} crashes", self.now.as_millis()).unwrap();
        }
    }

    pub fn restart(&mut self, id: u64) {
        if self.traced {
            writeln!(self.trace, "{:>5}ms n{id} restarts", self.now.as_millis()).unwrap();
        }
        self.start(id);
    }

    /// The state store is on stable storage to what is applied.
    pub fn sync_state(&mut self, id: u64) {
        let member = self.members.get_mut(&id).unwrap();
        let status = member.consensus.as_ref().unwrap().status();
        member.synced = status.applied.min(status.durable);
        let synced = member.synced;
        self.step(id, ConsensusInput::StateSynced(synced));
    }

    pub fn consensus(&self, id: u64) -> &Consensus {
        self.members[&id].consensus.as_ref().expect("the member is down")
    }

    pub fn is_up(&self, id: u64) -> bool {
        self.members[&id].consensus.is_some()
    }

    pub fn role(&self, id: u64) -> Role {
        let status = self.consensus(id).status();
        if status.leader == Some(MemberId(id)) { Role::Leader } else { Role::Follower }
    }

    pub fn committed(&self, id: u64) -> u64 {
        self.consensus(id).status().committed.0
    }

    pub fn term(&self, id: u64) -> u64 {
        self.consensus(id).status().term.0
    }

    /// How often a request stands in the committed log.
    pub fn occurrences(&self, request: RequestId) -> usize {
        self.ledger.iter().filter(|entry| matches!(entry.payload, Payload::Command { request: other, .. } if other == request)).count()
    }

    /// Several inputs, then one flush, as a host does it.
    pub fn step_all(&mut self, id: u64, inputs: Vec<ConsensusInput>) {
        for input in inputs {
            self.step_only(id, input);
        }
        self.flush(id);
    }

    pub fn step(&mut self, id: u64, input: ConsensusInput) {
        self.step_all(id, vec![input]);
    }

    // How it happens.

    fn step_only(&mut self, id: u64, input: ConsensusInput) {
        let now = Now { monotonic: Monotonic(self.now), wall: WallMs(0) };
        if self.traced {
            let who = if matches!(input, ConsensusInput::Receive(_)) { String::new() } else { format!("n{id} ") };
            writeln!(self.trace, "{:>5}ms {who}{input}", self.now.as_millis()).unwrap();
        }
        let Some(consensus) = &mut self.members.get_mut(&id).unwrap().consensus else { return };
        let mut out = Vec::new();
        consensus.step(now, input, &mut out);
        out.into_iter().for_each(|effect| self.carry_out(id, effect));
    }

    fn flush(&mut self, id: u64) {
        let now = Now { monotonic: Monotonic(self.now), wall: WallMs(0) };
        let mut out = Vec::new();
        self.members.get_mut(&id).unwrap().consensus.as_mut().unwrap().flush(now, &mut out);
        out.into_iter().for_each(|effect| self.carry_out(id, effect));
        let member = self.members.get_mut(&id).unwrap();
        if member.machine_stalled {
            return;
        }
        let (applied, consensus) = (member.applied, member.consensus.as_mut().unwrap());
        let mut out = Vec::new();
        consensus.step(now, ConsensusInput::Applied(applied), &mut out);
        assert!(out.is_empty(), "{out:?}");
    }

    fn carry_out(&mut self, id: u64, effect: ConsensusEffect) {
        if self.traced && !matches!(effect, ConsensusEffect::Prepare { .. }) {
            for line in effect.to_string().lines() {
                writeln!(self.trace, "          {line}").unwrap();
            }
        }
        let life = self.members[&id].life;
        match effect.clone() {
            ConsensusEffect::Write { number, ops, then } => self.write(id, Event::Durable { member: id, life, number, ops, then }),
            ConsensusEffect::Send(envelope) => self.transmit(envelope),
            ConsensusEffect::ReadLog { segment, offset, length } => {
                let content = self.members[&id].segments.get(&segment).map_or(&[][..], |content| content);
                let end = content.len().min(offset as usize + length as usize);
                let bytes = Bytes::copy_from_slice(&content[(offset as usize).min(end)..end]);
                let input = ConsensusInput::LogRead { segment, offset, bytes };
                self.enqueue(LATENCY, Event::Step { member: id, life, input });
            }
            ConsensusEffect::Committed(entries) => self.apply(id, &entries),
            ConsensusEffect::ReadReady(read, index) => {
                let known = self.reads.remove(&read).expect("answered a read twice, or one that was refused");
                assert!(index.0 as usize >= known, "read {read} at {index} misses entries up to {known}\n{}", self.trace);
                self.reads_answered += 1;
            }
            ConsensusEffect::RefuseRead(read, _) => {
                self.reads.remove(&read).expect("refused a read that was answered");
            }
            ConsensusEffect::RoleChanged { term, role: Role::Leader, .. } => {
                let elected = *self.leaders.entry(term).or_insert(id);
                assert_eq!(elected, id, "two leaders in term {term}\n{}", self.trace);
            }
            ConsensusEffect::SendSnapshot { to, first } => {
                let applied = self.members[&id].applied;
                assert!(applied.next() >= first, "n{id} has no state from which a log from {first} on goes on");
                let last = self.ledger[applied.0 as usize - 1].id;
                self.enqueue(SNAPSHOT, Event::Snapshot { from: id, to: to.0, last });
            }
            ConsensusEffect::Install(last) => self.members.get_mut(&id).unwrap().applied = last.index,
            ConsensusEffect::StopSnapshot(_)
            | ConsensusEffect::Snapshot { .. }
            | ConsensusEffect::NotInstalled
            | ConsensusEffect::Prepare { .. }
            | ConsensusEffect::Refuse(..)
            | ConsensusEffect::RoleChanged { .. }
            | ConsensusEffect::Lease { .. }
            | ConsensusEffect::Distrust { .. } => {}
        }
        self.effects.push((id, effect));
    }

    fn write(&mut self, id: u64, event: Event) {
        let drawn = self.chaos.as_mut().map(|chaos| Duration::from_millis(1 + chaos.rng.next_u64() % chaos.fsync_ms_max));
        let member = self.members.get_mut(&id).unwrap();
        if member.disk_stalled {
            member.stalled.push(event);
            return;
        }
        // Writes become durable in order.
        member.fsync_at = member.fsync_at.max(self.now + drawn.unwrap_or(FSYNC));
        let after = member.fsync_at - self.now;
        self.enqueue(after, event);
    }

    fn transmit(&mut self, envelope: Envelope) {
        if self.hold.is_some_and(|hold| hold(&envelope)) {
            return self.held.push(envelope);
        }
        let Some(chaos) = &mut self.chaos else { return self.enqueue(LATENCY, Event::Deliver(envelope)) };
        let copies = if chaos.rng.next_u64() % 100 < chaos.duplicate_percent { 2 } else { 1 };
        for _ in 0..copies {
            let chaos = self.chaos.as_mut().unwrap();
            let lost = chaos.rng.next_u64() % 100 < chaos.loss_percent;
            let delay = Duration::from_micros(500 + chaos.rng.next_u64() % (chaos.delay_ms_max * 1_000));
            if !lost {
                self.enqueue(delay, Event::Deliver(envelope.clone()));
            }
        }
    }

    fn enqueue(&mut self, after: Duration, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now + after, self.queued), event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(envelope) => {
                let (from, to) = (envelope.from.0, envelope.to.0);
                if !self.cut.contains(&(from, to)) && self.members.get(&to).is_some_and(|member| member.consensus.is_some()) {
                    self.step(to, ConsensusInput::Receive(envelope));
                }
            }
            Event::Durable { member: id, life, number, ops, then } => {
                let member = self.members.get_mut(&id).unwrap();
                if member.life != life {
                    return;
                }
                if member.disk_stalled {
                    return member.stalled.push(Event::Durable { member: id, life, number, ops, then });
                }
                ops.into_iter().for_each(|op| execute(&mut member.segments, op));
                then.into_iter().for_each(|envelope| self.transmit(envelope));
                self.step(id, ConsensusInput::Durable(number));
            }
            Event::Snapshot { from, to, last } => {
                if !self.cut.contains(&(from, to)) && self.is_up(to) {
                    let configured = |entry: &Entry| match &entry.payload {
                        Payload::Configuration { configuration, .. } => Some(configuration.clone()),
                        _ => None,
                    };
                    let configuration = self.ledger[..last.index.0 as usize].iter().rev().find_map(configured).expect("founded");
                    let states = self.members[&to].states_made.next();
                    self.members.get_mut(&to).unwrap().states_made = states;
                    self.step(to, ConsensusInput::Install(Installable { last, configuration, time: WallMs(0), state: states }));
                }
                if self.is_up(from) {
                    self.step(from, ConsensusInput::SnapshotEnded(MemberId(to)));
                }
            }
            Event::Step { member: id, life, input } => {
                if self.members[&id].life == life {
                    self.step(id, input);
                }
            }
        }
    }

    /// State-machine safety: no two members ever apply different entries at one index (Raft Figure 3).
    fn apply(&mut self, id: u64, entries: &[Entry]) {
        for entry in entries {
            let member = self.members.get_mut(&id).unwrap();
            assert_eq!(entry.id.index, member.applied.next(), "n{id} applies out of order");
            member.applied = entry.id.index;
            match self.ledger.get(entry.id.index.0 as usize - 1) {
                Some(known) => assert_eq!(known, entry, "n{id} applies another entry\n{}", self.trace),
                None => self.ledger.push(entry.clone()),
            }
        }
    }
}

fn recover(segments: &BTreeMap<SegmentId, Vec<u8>>, applied: LogIndex, settings: WalSettings, seed: [u8; 32]) -> Option<Recovered> {
    if segments.is_empty() {
        return None;
    }
    let mut recovery = Recovery::new(applied, settings, seed);
    for (id, content) in segments {
        recovery.segment(*id, &Bytes::copy_from_slice(content)).expect("the simulated disk is sound");
    }
    Some(recovery.finish().expect("the simulated disk is sound"))
}

fn execute(segments: &mut BTreeMap<SegmentId, Vec<u8>>, op: WalOp) {
    match op {
        WalOp::Create { segment, length } => {
            segments.insert(segment, vec![0; length as usize]);
        }
        WalOp::Recycle { from, to } => {
            let content = segments.remove(&from).expect("recycled segment exists");
            segments.insert(to, content);
        }
        WalOp::WriteAt { segment, offset, bytes } => {
            let content = segments.get_mut(&segment).expect("written segment exists");
            content[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
        }
        WalOp::Remove { segment } => {
            segments.remove(&segment);
        }
        WalOp::Sync { .. } | WalOp::SyncDirectory => {}
    }
}

/// A stream of chance for a randomised run.
pub fn chance(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}
