//! A host's duties, as in production: drain the inbox, step, flush, carry out the effects in order; and what a crash does.

use crate::chance::{Concern, bytes};
use crate::clock::{MILLISECOND, Nanos};
use crate::disk::DiskError;
use crate::invariants::Checker;
use crate::member::{DiskWrite, Life, StoreTask};
use crate::network::{digest, is_weighty};
use crate::schedule::FaultClass;
use crate::store::{SimReader, StoreCrash};
use crate::world::{Event, World};
use quorate_core::consensus::{Envelope, Message, RaftMessage, Role, Settings};
use quorate_core::effect::INPUTS_PER_FLUSH;
use quorate_core::machine::{Machine, MachineSettings};
use quorate_core::mvcc::View;
use quorate_core::replica::{Replica, ReplicaEffect, ReplicaInput};
use quorate_core::storage::WalOp;
use quorate_core::types::{Boot, ClusterId, CommitNumber, LogIndex, MemberId, SegmentId, WriteNumber};
use quorate_core::wal::{Identity, Planner, Recovered, Recovery, WalDamage, bootstrap_entries};
use quorate_core::watch::{Hub, HubInput};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Of a thousand deaths of a process, how many take the machine's memory along.
const POWER_LOSS_PERMILLE: u64 = 800;
const CLUSTER: ClusterId = ClusterId(0x51);

impl World {
    /// Starts a process: recovers its log, opens its state, and makes the boot durable before anything else.
    pub(crate) fn start(&mut self, member: usize) {
        if self.members[member].life.is_some() || self.members[member].lost {
            return;
        }
        if self.members[member].full > 0 {
            self.after(300 * MILLISECOND, Event::Restart { member, life: self.members[member].life_number });
            return;
        }
        if self.members[member].store.is_broken() {
            self.members[member].store.rebuild();
        }
        let reader = self.members[member].store.reader();
        let settings = MachineSettings { member: self.members[member].id, boot: Boot(0), limits: self.parameters.machine };
        let applied = Machine::open(settings.clone(), reader.clone()).expect("the simulated store reads").applied().index;
        let recovered = match self.recover(member, applied) {
            Ok(recovered) => recovered,
            Err(damage) => return self.refuse_to_start(member, &damage),
        };
        if recovered.base.index > applied {
            // Only a new state store, in the place of one that would not open, is so far behind.
            return self.lose(member, "its state is gone and its log does not reach back so far");
        }
        let boot = recovered.boot;
        if recovered.cut.is_some() {
            self.tally.mattered(FaultClass::Torn);
        }
        self.trace.tell(self.now, || {
            let (term, base, cut) = (recovered.term, recovered.base, &recovered.cut);
            format!("member {member} starts: boot {boot}, term {term}, log from {base}, applied {applied}, cut {cut:?}")
        });
        let process = &mut self.members[member];
        let now = process.clock.now(self.now);
        let machine = Machine::open(MachineSettings { boot, ..settings }, reader).expect("the simulated store reads");
        let (_, configuration) = bootstrap_entries(&founders(self.schedule.members));
        let consensus = Settings {
            member: process.id,
            boot,
            heartbeat_interval: Duration::from_nanos(self.parameters.heartbeat),
            election_timeout: Duration::from_nanos(self.parameters.election),
            pre_vote: true,
            advance_first_election: true,
            seed: bytes(self.schedule.seed, Concern::Core, (member as u64) << 32 ^ boot.0),
            limits: self.parameters.limits,
        };
        let term = recovered.term;
        let replica = Replica::new(consensus, recovered, configuration, machine, now).with_sync_limits(self.parameters.sync);
        let view = replica.view();
        let hub = Hub::new(self.parameters.hub, Arc::clone(&view), now);
        process.life = Some(Box::new(Life {
            replica,
            hub,
            view,
            boot,
            role: Role::Follower,
            appends_left: None,
            booting: true,
            inbox: VecDeque::new(),
            run_planned: false,
            state_planned: false,
            slice_planned: false,
            wake_planned: None,
            hub_wake_planned: None,
            writes: VecDeque::new(),
            disk_busy: false,
            reported: WriteNumber::default(),
            reported_at_flush: WriteNumber::default(),
            ends: VecDeque::new(),
            tasks: VecDeque::new(),
            store_busy: false,
            committed: CommitNumber::default(),
            sequence: 0,
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            streams: BTreeMap::new(),
        }));
        let life = process.life.as_ref().expect("just made");
        self.checks.on_recovered(member, life.replica.consensus(), term);
        self.plan_run(member, 0);
    }

    fn recover(&self, member: usize, applied: LogIndex) -> Result<Recovered, WalDamage> {
        let process = &self.members[member];
        let seed = bytes(self.schedule.seed, Concern::Wal, (member as u64) << 32 ^ process.life_number);
        let mut recovery = Recovery::new(applied, self.parameters.wal, seed);
        let mut fed = Ok(());
        for (segment, bytes) in process.disk.segments() {
            fed = fed.and_then(|()| recovery.segment(segment, &bytes));
        }
        match fed.and_then(|()| recovery.finish()) {
            Err(WalDamage::Empty) => {
                let identity = Identity { cluster: CLUSTER, member: process.id };
                let (entries, _) = bootstrap_entries(&founders(self.schedule.members));
                Ok(Planner::bootstrap(identity, entries, self.parameters.wal, seed))
            }
            other => other,
        }
    }

    fn refuse_to_start(&mut self, member: usize, damage: &WalDamage) {
        if self.members[member].rotten {
            self.tally.mattered(FaultClass::BitRot);
            self.lose(member, &damage.to_string());
        } else {
            self.checks.report(Checker::DurableLogSurvives, || format!("member {member} refuses its log without a flipped bit: {damage}"));
        }
    }

    /// The member is beyond repair and stays down.
    fn lose(&mut self, member: usize, why: &str) {
        self.members[member].lost = true;
        self.trace.tell(self.now, || format!("member {member} is lost: {why}"));
    }

    /// The process is gone; its disk and store keep what a crash leaves. `down`: when it comes back, if ever.
    pub(crate) fn kill(&mut self, member: usize, down: Option<Nanos>) -> bool {
        let members = self.members.len();
        let may_break = self.may_lose(member);
        let process = &mut self.members[member];
        let Some(life) = process.life.take() else { return false };
        process.life_number += 1;
        process.fail_next_sync = None;
        process.die_at_write = None;
        let before = process.disk.counters;
        // Mostly the machine goes down with it, else what was written is still in the page cache.
        let power_lost = process.disk_chance.permille(POWER_LOSS_PERMILLE);
        if power_lost {
            process.disk.crash(process.disk_chance.stream());
        } else {
            process.disk.kill();
        }
        let disk = process.disk.counters;
        let store = if power_lost { process.store.crash(&mut process.store_chance, may_break) } else { StoreCrash::Lost(0) };
        let life_number = process.life_number;
        if disk.crashes_that_mattered > before.crashes_that_mattered {
            self.tally.fired(FaultClass::Torn);
        }
        if let StoreCrash::WillNotOpen = store {
            self.members[member].rotten = true;
        }
        self.trace.tell(self.now, || format!("member {member} dies: disk so far {disk:?}, store {store:?}"));
        self.checks.on_crash(member);
        self.break_connections(&life);
        for other in (0..members).filter(|other| *other != member) {
            if self.network.cut(member, other).is_none() {
                let delay = self.latency.tailed(150_000, 5 * MILLISECOND);
                let (life, peer) = (self.members[other].life_number, self.members[member].id);
                self.after(delay, Event::PeerClosed { member: other, life, peer });
            }
        }
        self.parked[member].retain(|event| matches!(event, Event::Request { .. } | Event::WatchOpen { .. }));
        self.unpark(member);
        if let Some(down) = down {
            self.after(down, Event::Restart { member, life: life_number });
        }
        true
    }

    /// Whether the cluster stays repairable if this member does not.
    fn may_lose(&self, member: usize) -> bool {
        let rotten = (0..self.members.len()).filter(|other| *other != member && self.doomed(*other)).count();
        (rotten + 1) * 2 < self.members.len()
    }

    /// Whether its disk is, or may yet be, beyond repair.
    fn doomed(&self, member: usize) -> bool {
        use crate::schedule::Fault;
        self.members[member].lost
            || self.members[member].rotten
            || self.schedule.items.iter().any(|item| matches!(item.fault, Fault::BitRot { member: doomed, .. } if doomed == member))
    }

    pub(crate) fn plan_run(&mut self, member: usize, delay: Nanos) {
        let number = self.members[member].life_number;
        let process = &mut self.members[member];
        let Some(life) = process.life.as_mut() else { return };
        if !life.run_planned {
            life.run_planned = true;
            let delay = delay + process.chance.tailed(2_000, 200_000);
            self.after(delay, Event::Run { member, life: number });
        }
    }

    pub(crate) fn tell(&mut self, member: usize, input: ReplicaInput<SimReader>) {
        if let Some(life) = self.members[member].life.as_mut() {
            life.inbox.push_back(input);
            self.plan_run(member, 0);
        }
    }

    pub(crate) fn run_member(&mut self, member: usize) {
        let mut out = std::mem::take(&mut self.effects);
        let process = &mut self.members[member];
        let now = process.clock.now(self.now);
        let life = process.life.as_mut().expect("runs only while it lives");
        life.run_planned = false;
        let mut stepped = 0;
        while stepped < INPUTS_PER_FLUSH
            && let Some(input) = life.inbox.pop_front()
        {
            if let ReplicaInput::Durable(number) = input {
                life.booting = false;
                life.reported = life.reported.max(number);
            }
            life.replica.step(now, input, &mut out);
            stepped += 1;
        }
        if !life.booting && life.replica.deadline() <= now.monotonic {
            life.replica.step(now, ReplicaInput::Wake, &mut out);
        }
        life.replica.flush_log(now, &mut out);
        let more = !life.inbox.is_empty();
        let state = stepped > 0 || life.replica.has_committed();
        let slice = life.replica.has_background_work() && !life.slice_planned;
        self.observe(member);
        self.carry_out(member, &mut out);
        self.effects = out;
        let number = self.members[member].life_number;
        let Some(life) = self.members[member].life.as_mut() else { return };
        life.reported_at_flush = life.reported;
        if state && !life.state_planned {
            life.state_planned = true;
            let delay = self.members[member].chance.tailed(1_000, self.parameters.apply_delay);
            self.after(delay, Event::State { member, life: number });
        }
        if slice && let Some(life) = self.members[member].life.as_mut() {
            life.slice_planned = true;
            let delay = self.members[member].chance.tailed(500_000, 20 * MILLISECOND);
            self.after(delay, Event::Slice { member, life: number });
        }
        if more {
            self.plan_run(member, 0);
        }
        self.plan_wake(member);
    }

    pub(crate) fn run_state(&mut self, member: usize) {
        let mut out = std::mem::take(&mut self.effects);
        let process = &mut self.members[member];
        let now = process.clock.now(self.now);
        let life = process.life.as_mut().expect("runs only while it lives");
        life.state_planned = false;
        life.replica.flush_state(now, &mut out);
        let again = !out.is_empty() || life.replica.has_committed();
        self.observe(member);
        self.carry_out(member, &mut out);
        self.effects = out;
        if again {
            self.plan_run(member, 0);
        }
    }

    /// Shows the member's log to the invariants before anything that follows from it leaves.
    fn observe(&mut self, member: usize) {
        let founders = self.schedule.members;
        let life = self.members[member].life.as_ref().expect("runs only while it lives");
        self.checks.observe(member, life.replica.consensus(), founders);
    }

    fn plan_wake(&mut self, member: usize) {
        let process = &mut self.members[member];
        let number = process.life_number;
        let Some(life) = process.life.as_mut() else { return };
        let Some(at) = process.clock.when(life.replica.deadline()) else { return };
        let at = at.max(self.now + 1_000);
        if !life.booting && life.wake_planned.is_none_or(|planned| planned > at || planned <= self.now) {
            life.wake_planned = Some(at);
            self.at(at, Event::Wake { member, life: number });
        }
    }

    pub(crate) fn on_wake(&mut self, member: usize) {
        let process = &mut self.members[member];
        let now = process.clock.now(self.now);
        let life = process.life.as_mut().expect("wakes only while it lives");
        life.wake_planned = None;
        if life.replica.deadline() <= now.monotonic {
            self.plan_run(member, 0);
        } else {
            self.plan_wake(member);
        }
    }

    pub(crate) fn on_slice(&mut self, member: usize) {
        let life = self.members[member].life.as_mut().expect("works only while it lives");
        life.slice_planned = false;
        if life.replica.has_background_work() {
            self.tell(member, ReplicaInput::Slice);
        }
    }

    pub(crate) fn on_arrive(&mut self, to: usize, envelope: Envelope, number: u64, copy: bool, late: bool) {
        let from = self.name(envelope.from);
        let overtaken = self.network.arrive(from, to, number);
        digest(&envelope, &mut |word| self.trace.hash.mix(word));
        let weighty = is_weighty(&envelope.message);
        let Some(life) = self.members[to].life.as_ref() else { return };
        if life.booting {
            return;
        }
        if copy && weighty {
            self.tally.mattered(FaultClass::Duplicate);
        }
        if overtaken && !copy && weighty {
            self.tally.mattered(FaultClass::Reorder);
        }
        if late && weighty {
            self.tally.mattered(FaultClass::DelayTail);
        }
        self.trace.tell(self.now, || format!("{from} -> {to}: {envelope}"));
        self.tell(to, ReplicaInput::Receive(envelope));
    }

    pub(crate) fn on_peer_closed(&mut self, member: usize, peer: MemberId) {
        if self.members[member].life.as_ref().is_some_and(|life| !life.booting) {
            self.tell(member, ReplicaInput::PeerClosed(peer));
        }
    }

    /// Carries out effects in the order given.
    fn carry_out(&mut self, member: usize, effects: &mut Vec<ReplicaEffect<SimReader>>) {
        for effect in effects.drain(..) {
            match effect {
                ReplicaEffect::Write { number, ops, then } => self.on_write(member, number, ops, then),
                ReplicaEffect::Prepare { .. } => {}
                ReplicaEffect::Send(envelope) => self.send(member, envelope),
                ReplicaEffect::ReadLog { segment, offset, length } => {
                    let life = self.members[member].life_number;
                    let delay = self.members[member].chance.tailed(50_000, 10 * MILLISECOND);
                    self.after(delay, Event::LogRead { member, life, segment, offset, length });
                }
                ReplicaEffect::ReadReady(read) => self.on_read_ready(member, read),
                ReplicaEffect::RefuseRead(read, refusal) => self.on_read_refused(member, read, &refusal),
                ReplicaEffect::Reply(request, answer) => self.on_answer(member, request, answer),
                ReplicaEffect::Publish(view) => self.on_publish(member, view),
                ReplicaEffect::Commit { number, batch, applied, after } => {
                    let life = self.members[member].life.as_mut().expect("lives");
                    let reported = life.reported;
                    life.tasks.push_back(StoreTask::Commit(number, batch));
                    if after > reported {
                        let text = format!("member {member} hands its store {applied} before write {after} is durable; {reported} is");
                        self.checks.report(Checker::CommittedIsDurable, || text);
                    }
                    self.pump_store(member);
                }
                ReplicaEffect::SyncState => self.on_store_task(member, StoreTask::Sync),
                ReplicaEffect::Retire { table, below } => self.on_store_task(member, StoreTask::Retire(table, below)),
                ReplicaEffect::RoleChanged { term, role, leader } => {
                    self.trace.tell(self.now, || format!("member {member} is {role:?} in term {term}, leader {leader:?}"));
                    let life = self.members[member].life.as_mut().expect("lives");
                    life.role = role;
                    self.checks.on_role(member, term, role);
                    self.on_role_changed(member, role);
                }
                ReplicaEffect::ConfigurationChanged(_) => {}
                ReplicaEffect::Distrust { peer, reason } => {
                    self.checks.report(Checker::Health, || format!("member {member} distrusts {peer}, who is honest: {reason}"));
                }
                ReplicaEffect::Fatal(reason) => {
                    self.checks.report(Checker::Health, || format!("member {member} stops: {reason}"));
                }
            }
        }
    }

    fn on_role_changed(&mut self, member: usize, role: Role) {
        if role == Role::Leader {
            self.strike(member);
        }
        if self.members[member].clock.drift_ppm() != 0 {
            self.tally.mattered(FaultClass::ClockDrift);
        }
        if role == Role::Leader && self.transfer_to.is_some_and(|(target, until)| target == member && until >= self.now) {
            self.tally.mattered(FaultClass::Transfer);
            self.transfer_to = None;
        }
    }

    fn send(&mut self, member: usize, envelope: Envelope) {
        self.checks.on_sent(member, &envelope);
        let to = self.name(envelope.to);
        if to >= self.members.len() {
            return;
        }
        if let Message::Raft(RaftMessage::Append { entries, .. }) = &envelope.message
            && self.parameters.tiny
            && entries.len() >= self.parameters.limits.append_entries
        {
            self.tally.mattered(FaultClass::Tiny);
        }
        if matches!(&envelope.message, Message::Raft(RaftMessage::Append { entries, .. }) if !entries.is_empty())
            && let Some(left) = self.members[member].life.as_mut().and_then(|life| life.appends_left.as_mut())
        {
            if *left == 0 {
                self.trace.tell(self.now, || format!("{member} -> {to}: lost to a storm: {envelope}"));
                return;
            }
            *left -= 1;
        }
        let fate = self.network.send(self.now, member, to);
        let weighty = is_weighty(&envelope.message);
        if let Some(class) = fate.cause.filter(|_| weighty && fate.arrivals[0].is_none() && self.members[to].life.is_some()) {
            self.tally.mattered(class);
        }
        let late =
            fate.cause == Some(FaultClass::DelayTail) && fate.arrivals[0].is_some_and(|at| at - self.now > self.parameters.heartbeat);
        if fate.arrivals[0].is_none() {
            self.trace.tell(self.now, || format!("{member} -> {to}: lost to {:?}: {envelope}", fate.cause));
        }
        if let Some(at) = fate.arrivals[1] {
            self.at(at, Event::Arrive { to, envelope: envelope.clone(), number: fate.number, copy: true, late: false });
        }
        if let Some(at) = fate.arrivals[0] {
            self.at(at, Event::Arrive { to, envelope, number: fate.number, copy: false, late });
        }
    }

    fn on_write(&mut self, member: usize, number: WriteNumber, ops: Vec<WalOp>, then: Vec<Envelope>) {
        self.checks.on_write(member, number);
        let end = ops.iter().rev().find_map(|op| match op {
            WalOp::WriteAt { segment, offset, bytes } => Some((*segment, offset + bytes.len() as u64)),
            _ => None,
        });
        let life = self.members[member].life.as_mut().expect("lives");
        let proves = life.reported_at_flush;
        life.writes.push_back(DiskWrite { number, ops: ops.into(), then, begun: self.now, slowed: false, end, proves });
        self.pump_disk(member);
    }

    /// The WAL's thread: operations in order, each sync taking its time, one write after the other.
    fn pump_disk(&mut self, member: usize) {
        let tiny = self.parameters.tiny;
        let process = &mut self.members[member];
        let Some(life) = process.life.as_mut().filter(|life| !life.disk_busy) else { return };
        let Some(write) = life.writes.front_mut() else { return };
        let mut full = false;
        while let Some(op) = write.ops.front() {
            if matches!(op, WalOp::Sync { .. } | WalOp::SyncDirectory) {
                break;
            }
            if tiny && matches!(op, WalOp::Create { .. } | WalOp::Recycle { .. }) {
                self.tally.mattered(FaultClass::Tiny);
            }
            process.disk.full = process.full > 0;
            match process.disk.apply(op) {
                Ok(()) => drop(write.ops.pop_front()),
                Err(DiskError::Full) => {
                    full = true;
                    break;
                }
                Err(bad) => {
                    return self.checks.report(Checker::Health, || format!("member {member} asks its disk for the impossible: {bad}"));
                }
            }
        }
        if full {
            self.tally.mattered(FaultClass::DiskFull);
            return self.fail_disk(member, 500 * MILLISECOND);
        }
        let mut time = process.disk_chance.tailed(200_000, 6 * MILLISECOND);
        for (_, most) in &process.slow {
            time += process.disk_chance.tailed(*most / 4, *most);
            write.slowed = true;
        }
        life.disk_busy = true;
        let number = process.life_number;
        let death = process.die_at_write.take().map(|down| (process.disk_chance.below(time), down));
        if let Some((at, down)) = death {
            self.tally.mattered(FaultClass::Kill);
            self.after(at, Event::Die { member, life: number, down });
        }
        self.after(time, Event::DiskDone { member, life: number });
    }

    pub(crate) fn on_disk_done(&mut self, member: usize) {
        let process = &mut self.members[member];
        let life = process.life.as_mut().expect("its disk works only while it lives");
        life.disk_busy = false;
        let write = life.writes.front_mut().expect("something was being written");
        let failing = process.fail_next_sync.take();
        process.disk.failing_sync = failing.is_some();
        process.disk.full = false;
        let synced = write.ops.pop_front().map_or(Ok(()), |op| process.disk.apply(&op));
        process.disk.failing_sync = false;
        match (synced, failing) {
            (Err(DiskError::SyncFailed), Some(down)) => {
                if process.disk.is_dirty() {
                    self.tally.mattered(FaultClass::FsyncError);
                }
                return self.fail_disk(member, down);
            }
            (Ok(()), _) => {}
            (Err(bad), _) => {
                return self.checks.report(Checker::Health, || format!("member {member} asks its disk for the impossible: {bad}"));
            }
        }
        if write.ops.is_empty() {
            let write = life.writes.pop_front().expect("it was there");
            if write.slowed && self.now - write.begun > self.parameters.heartbeat && !write.then.is_empty() {
                self.tally.mattered(FaultClass::SlowDisk);
            }
            while let Some((_, end)) = life.ends.pop_front_if(|end| end.0 <= write.proves) {
                process.proven = end.max(process.proven);
            }
            life.ends.extend(write.end.map(|end| (write.number, end)));
            self.checks.on_durable(member, write.number);
            self.tell(member, ReplicaInput::Durable(write.number));
            for envelope in write.then {
                self.send(member, envelope);
            }
        }
        self.pump_disk(member);
    }

    /// A failed disk ends the process, after it has said what it still can.
    fn fail_disk(&mut self, member: usize, down: Nanos) {
        self.trace.tell(self.now, || format!("the disk of member {member} fails"));
        let process = &mut self.members[member];
        let number = process.life_number;
        let life = process.life.as_mut().expect("lives");
        life.disk_busy = true;
        self.tell(member, ReplicaInput::DiskFailed);
        self.after(2 * MILLISECOND, Event::Die { member, life: number, down });
    }

    pub(crate) fn on_log_read(&mut self, member: usize, segment: SegmentId, offset: u64, length: u32) {
        let bytes = self.members[member].disk.read(segment, offset, length);
        self.tell(member, ReplicaInput::LogRead { segment, offset, bytes });
    }

    fn on_store_task(&mut self, member: usize, task: StoreTask) {
        self.members[member].life.as_mut().expect("lives").tasks.push_back(task);
        self.pump_store(member);
    }

    fn pump_store(&mut self, member: usize) {
        let process = &mut self.members[member];
        let Some(life) = process.life.as_mut().filter(|life| !life.store_busy) else { return };
        let Some(task) = life.tasks.front() else { return };
        life.store_busy = true;
        let most = match task {
            StoreTask::Commit(..) => 4 * MILLISECOND,
            StoreTask::Sync => 40 * MILLISECOND,
            StoreTask::Retire(..) => 2 * MILLISECOND,
        };
        let number = process.life_number;
        let time = process.store_chance.tailed(100_000, most);
        self.after(time, Event::StoreDone { member, life: number });
    }

    pub(crate) fn on_store_done(&mut self, member: usize) {
        let process = &mut self.members[member];
        let life = process.life.as_mut().expect("its store works only while it lives");
        life.store_busy = false;
        match life.tasks.pop_front().expect("something was being done") {
            StoreTask::Commit(number, batch) => {
                process.store.commit(&batch);
                life.committed = number;
                let reader = process.store.reader();
                self.tell(member, ReplicaInput::Persisted(number, reader));
            }
            StoreTask::Sync => {
                process.store.sync();
                let number = life.committed;
                self.tell(member, ReplicaInput::Synced(number));
            }
            StoreTask::Retire(table, below) => process.store.retire(table, below),
        }
        self.pump_store(member);
    }

    fn on_publish(&mut self, member: usize, view: Arc<View<SimReader>>) {
        let (revision, applied, digest) = (view.revision(), view.applied(), view.digest());
        self.trace.hash.mix(applied.index.0);
        self.trace.hash.mix(digest as u64);
        self.checks.on_published(member, revision, applied);
        match self.digests.get(&applied.index.0) {
            Some((other, known)) if *known != digest => {
                let other = *other;
                self.checks.report(Checker::Digests, || {
                    format!("members {other} and {member} have applied the same entries through {} and differ", applied.index)
                });
            }
            Some(_) => {}
            None => drop(self.digests.insert(applied.index.0, (member, digest))),
        }
        self.members[member].life.as_mut().expect("lives").view = Arc::clone(&view);
        self.step_hub(member, HubInput::<SimReader>::Published(view));
    }
}

fn founders(members: usize) -> Vec<(MemberId, Vec<String>)> {
    (1..=members as u64).map(|id| (MemberId(id), Vec::new())).collect()
}
