//! A member's process: starts, runs both halves, carries out their effects in order, and dies.

use crate::chance::{Concern, bytes};
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::invariants::Checker;
use crate::member::{Half, Process};
use crate::schedule::FaultClass;
use crate::store::StoreCrash;
use crate::world::{Event, World};
use quorate_core::consensus::{Role, Settings};
use quorate_core::machine::{Machine, MachineSettings, stored_applied};
use quorate_core::member::{self, LogEffect, LogInput, Notice, Order, Report, StateEffect, StateInput, WalDone};
use quorate_core::mvcc::View;
use quorate_core::storage::{BAD_CHECKSUM, MemoryStore, READ_ERROR, ReadFailed};
use quorate_core::types::{ClusterId, LogIndex, MemberId, Monotonic, Term};
use quorate_core::wal::{Identity, Planner, Recovered, Recovery, WalDamage, bootstrap_entries};
use quorate_core::watch::{Hub, HubInput};
use std::{sync::Arc, time::Duration};

/// Of a thousand deaths of a process, how many take the machine's memory along.
const POWER_LOSS_PERMILLE: u64 = 800;
/// Between two looks at all of a member's state, which costs in proportion to it.
const STATE_CHECK_INTERVAL: Nanos = 5 * SECOND;
const CLUSTER: ClusterId = ClusterId(0x51);

impl World {
    /// Starts a process: recovers its log, opens its state, and makes the boot durable before anything else.
    pub(crate) fn start(&mut self, member: usize) {
        if self.members[member].process.is_some() || self.members[member].lost {
            return;
        }
        if self.members[member].full > 0 {
            self.after(300 * MILLISECOND, Event::Restart { member, incarnation: self.members[member].incarnation });
            return;
        }
        let lost = self.members[member].store.is_lost();
        let applied = match stored_applied(&self.members[member].store.reader()) {
            _ if lost => LogIndex(0),
            Ok(applied) => applied.index,
            // Nobody knows how far the log would have to reach back.
            Err(failed) => return self.on_unreadable(member, &failed, false),
        };
        let recovered = match self.recover(member, applied) {
            Ok(recovered) => recovered,
            Err(damage) => return self.refuse_to_start(member, &damage),
        };
        if recovered.state > self.members[member].state {
            return self.start_on_received(member, &recovered);
        }
        let (base, end) = (recovered.base.index, recovered.planner.end().index);
        if lost && base > applied {
            return self.lose(member, "its state is gone and its log does not reach back so far");
        }
        if base > applied || end < applied {
            return self.checks.report(Checker::StateBehindLog, || {
                format!("member {member} has applied {applied}, but its log has only what is behind {base} and up to {end}")
            });
        }
        if lost {
            self.members[member].store.begin_anew();
        }
        let reader = self.members[member].store.reader();
        let boot = recovered.boot;
        let settings = MachineSettings { member: self.members[member].id, boot, limits: self.parameters.machine };
        let machine = match Machine::open(settings, reader) {
            Ok(machine) => machine,
            Err(failed) => return self.on_unreadable(member, &failed, base == LogIndex(0)),
        };
        if recovered.torn_tail.is_some() {
            self.tally.mattered(FaultClass::Torn);
        }
        self.trace.tell(self.now, || {
            let (term, base, cut) = (recovered.term, recovered.base, &recovered.torn_tail);
            format!("member {member} starts: boot {boot}, term {term}, log from {base}, applied {applied}, cut {cut:?}")
        });
        let host = &mut self.members[member];
        let now = host.clock.now(self.now);
        let (_, configuration) = bootstrap_entries(&founders(self.schedule.members));
        let consensus = Settings {
            member: host.id,
            boot,
            heartbeat_interval: Duration::from_nanos(self.parameters.heartbeat),
            election_timeout: Duration::from_nanos(self.parameters.election),
            pre_vote: true,
            advance_first_election: true,
            seed: bytes(self.schedule.seed, Concern::Core, (member as u64) << 32 ^ boot.0),
            limits: self.parameters.limits,
        };
        let term = recovered.term;
        let (settings, stored_bytes) = (self.parameters.member.clone(), host.store.bytes());
        let (log, state) = member::open(consensus, settings, recovered, configuration, machine, stored_bytes, now);
        let view = state.view();
        let hub = Hub::new(self.parameters.hub, Arc::clone(&view), now);
        host.process = Some(Box::new(Process::new(boot, log, state, hub, view, stored_bytes)));
        let process = host.process.as_ref().expect("just made");
        self.checks.on_recovered(member, process.log.consensus(), term);
        self.plan_run(member, 0);
        self.plan_state(member);
    }

    /// The log goes on from a state that was received: that one counts from here on, as if it had always been there.
    fn start_on_received(&mut self, member: usize, recovered: &Recovered) {
        let host = &mut self.members[member];
        match host.receiving.take() {
            Some((number, store)) if number == recovered.state => {
                (host.store, host.state) = (store, number);
                self.start(member);
            }
            found => self.checks.report(Checker::StateBehindLog, || {
                format!("member {member}'s log goes on from state {}, of which {:?} is there", recovered.state, found.map(|found| found.0))
            }),
        }
    }

    fn recover(&self, member: usize, applied: LogIndex) -> Result<Recovered, WalDamage> {
        let host = &self.members[member];
        let seed = bytes(self.schedule.seed, Concern::Wal, (member as u64) << 32 ^ host.incarnation);
        let mut recovery = Recovery::new(applied, self.parameters.wal, seed);
        let mut fed = Ok(());
        for (segment, bytes) in host.disk.segments() {
            fed = fed.and_then(|()| recovery.segment(segment, &bytes));
        }
        match fed.and_then(|()| recovery.finish()) {
            // A state is first written when the log's first write is durable.
            Err(WalDamage::Empty) if !host.store.is_lost() && host.store.is_empty() => {
                let identity = Identity { cluster: CLUSTER, member: host.id };
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

    /// The state store cannot be read at start, so the member does not run. `whole_log`: its log has every entry since the first, so
    /// whoever runs it is told to move the state aside and to start it again.
    fn on_unreadable(&mut self, member: usize, failed: &ReadFailed, whole_log: bool) {
        let Some(class) = self.note_failed_read(&failed.0) else {
            return self.checks.report(Checker::Health, || format!("member {member} has lost its state without a fault: {failed}"));
        };
        if class == FaultClass::RowRot && !whole_log {
            return self.lose(member, &failed.to_string());
        }
        self.trace.tell(self.now, || format!("member {member} does not start: {failed}"));
        let host = &mut self.members[member];
        if class == FaultClass::RowRot {
            host.store.begin_anew();
        }
        let (down, incarnation) = (host.chance.tailed(20 * MILLISECOND, SECOND), host.incarnation);
        self.after(down, Event::Restart { member, incarnation });
    }

    /// Which fault explains that a read failed for this reason, if one does.
    fn note_failed_read(&mut self, reason: &str) -> Option<FaultClass> {
        let faults = [(READ_ERROR, FaultClass::ReadError), (BAD_CHECKSUM, FaultClass::RowRot)];
        let (_, class) = faults.into_iter().find(|(text, _)| reason.contains(text))?;
        self.tally.mattered(class);
        Some(class)
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
        let host = &mut self.members[member];
        let Some(process) = host.process.take() else { return false };
        host.incarnation += 1;
        host.fail_next_sync = None;
        host.die_at_write = None;
        let before = host.disk.counters;
        // Mostly the machine goes down with it, else what was written is still in the page cache.
        let power_lost = host.disk_chance.permille(POWER_LOSS_PERMILLE);
        if power_lost {
            host.disk.crash(host.disk_chance.stream());
        } else {
            host.disk.kill();
        }
        let disk = host.disk.counters;
        let store = if power_lost { host.store.crash(&mut host.store_chance, may_break) } else { StoreCrash::Lost(0) };
        if power_lost && let Some((_, store)) = &mut host.receiving {
            store.crash(&mut host.store_chance, false);
        }
        let incarnation = host.incarnation;
        if disk.crashes_that_mattered > before.crashes_that_mattered {
            self.tally.fired(FaultClass::Torn);
        }
        if let Some(write) = process.writes.front() {
            self.tally.fired(FaultClass::SplitWrite);
            if process.durable.ballot && write.carries.entries && !write.carries.ballot {
                self.tally.mattered(FaultClass::SplitWrite);
            }
        }
        if let StoreCrash::WillNotOpen = store {
            self.members[member].rotten = true;
        }
        self.trace.tell(self.now, || format!("member {member} dies: disk so far {disk:?}, store {store:?}"));
        self.checks.on_crash(member);
        self.break_connections(&process);
        for other in (0..members).filter(|other| *other != member) {
            if self.network.cut(member, other).is_none() {
                let delay = self.latency.tailed(150_000, 5 * MILLISECOND);
                let (incarnation, peer) = (self.members[other].incarnation, self.members[member].id);
                self.after(delay, Event::PeerClosed { member: other, incarnation, peer });
            }
        }
        self.parked[member].retain(|event| matches!(event, Event::Request { .. } | Event::WatchOpen { .. }));
        self.unpark(member);
        if let Some(down) = down {
            self.after(down, Event::Restart { member, incarnation });
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
        self.members[member].lost
            || self.members[member].rotten
            || self.schedule.items.iter().any(|item| item.fault.dooms() == Some(member))
    }

    pub(crate) fn plan_run(&mut self, member: usize, delay: Nanos) {
        let incarnation = self.members[member].incarnation;
        let host = &mut self.members[member];
        let Some(process) = host.process.as_mut() else { return };
        if !process.run_planned {
            process.run_planned = true;
            let delay = delay + host.chance.tailed(2_000, 200_000);
            self.after(delay, Event::RunLog { member, incarnation });
        }
    }

    /// Puts an input into the log half's queue.
    pub(crate) fn tell(&mut self, member: usize, input: LogInput) {
        if let Some(process) = self.members[member].process.as_mut() {
            process.inbox.push_back(input);
            self.plan_run(member, 0);
        }
    }

    /// Puts an input into the state half's queue.
    pub(crate) fn tell_state(&mut self, member: usize, input: StateInput<MemoryStore>) {
        if let Some(process) = self.members[member].process.as_mut() {
            process.state_inbox.push_back(input);
            self.plan_state(member);
        }
    }

    fn plan_state(&mut self, member: usize) {
        let incarnation = self.members[member].incarnation;
        let host = &mut self.members[member];
        let Some(process) = host.process.as_mut() else { return };
        if !process.state_busy {
            process.state_busy = true;
            let delay = host.chance.tailed(1_000, self.parameters.apply_delay);
            self.after(delay, Event::RunState { member, incarnation });
        }
    }

    /// One turn of the log half's thread.
    pub(crate) fn run_log(&mut self, member: usize) {
        let mut out = std::mem::take(&mut self.log_effects);
        let host = &mut self.members[member];
        let now = host.clock.now(self.now);
        let process = host.process.as_mut().expect("only while it runs");
        process.run_planned = false;
        for _ in 0..self.parameters.inputs_per_flush {
            let Some(input) = process.inbox.pop_front() else { break };
            match &input {
                LogInput::Wal(WalDone::Durable(number)) => process.reported = process.reported.max(*number),
                LogInput::State(Report::Applied { stored_bytes, .. }) => process.stored_bytes = *stored_bytes,
                LogInput::Client(request) => process.judge_growth(request, self.parameters.member.quota_bytes),
                _ => {}
            }
            process.log.step(now, input, &mut out);
        }
        if process.log.deadline() <= now.monotonic {
            process.log.step(now, LogInput::Wake, &mut out);
        }
        for (request, ticket) in process.log.proposed_after(process.proposed) {
            process.proposed = request.sequence;
            if let Some(op) = process.asked.get(&ticket).and_then(|asked| asked.op) {
                self.sessions.proposed.insert(request, op);
            }
        }
        process.log.flush(now, &mut out);
        let more = !process.inbox.is_empty();
        for effect in &out {
            if let LogEffect::State(Order::Install(last)) = effect {
                self.checks.on_install(member, *last);
            }
        }
        self.observe(member);
        let incarnation = self.members[member].incarnation;
        for effect in out.drain(..) {
            // One of them may have ended the process.
            if self.members[member].incarnation == incarnation {
                self.carry_out(member, effect);
            }
        }
        self.log_effects = out;
        let Some(process) = self.members[member].process.as_mut() else { return };
        process.reported_at_flush = process.reported;
        if more {
            self.plan_run(member, 0);
        }
        self.plan_wake(member, Half::Log);
    }

    /// One turn of the state half's thread. What comes of it is seen only after the time that it took.
    pub(crate) fn run_state(&mut self, member: usize) {
        let host = &mut self.members[member];
        let now = host.clock.now(self.now);
        let process = host.process.as_mut().expect("only while it runs");
        let mut out = Vec::new();
        let mut cost = 0;
        for _ in 0..self.parameters.inputs_per_flush {
            let Some(input) = process.state_inbox.pop_front() else { break };
            if let StateInput::Log(Order::Apply { entries, .. }) = &input {
                cost += self.parameters.apply_cost * entries.len() as u64;
            }
            process.state.step(now, input, &mut out);
        }
        if process.state.deadline() <= now.monotonic {
            process.state.step(now, StateInput::Wake, &mut out);
        }
        process.state.flush(now, &mut out);
        if process.check_due <= self.now {
            process.check_due = self.now + STATE_CHECK_INTERVAL;
            process.state.check();
        }
        process.state_effects.extend(out);
        let incarnation = host.incarnation;
        let stall = self.parameters.apply_stall;
        if cost > 0 && stall > 0 && host.chance.permille(5) {
            cost += host.chance.below(stall);
        }
        self.after(cost, Event::StateShows { member, incarnation });
    }

    /// Effects of the state half come out in order, but not all at once: others run between what it publishes and what it answers.
    pub(crate) fn on_state_shows(&mut self, member: usize) {
        let incarnation = self.members[member].incarnation;
        while let Some(process) = self.members[member].process.as_mut() {
            let Some(effect) = process.state_effects.pop_front() else { break };
            let pauses = matches!(effect, StateEffect::Publish(_)) && !process.state_effects.is_empty();
            self.carry_out_state(member, effect);
            if pauses && self.members[member].incarnation == incarnation {
                let gap = self.members[member].chance.tailed(1_000, 200_000);
                return self.after(gap, Event::StateShows { member, incarnation });
            }
        }
        if self.members[member].incarnation != incarnation {
            return;
        }
        let Some(process) = self.members[member].process.as_mut() else { return };
        process.state_busy = false;
        if !process.state_inbox.is_empty() || process.state.has_committed() {
            self.plan_state(member);
        }
        self.plan_work(member);
        self.plan_wake(member, Half::State);
    }

    fn plan_work(&mut self, member: usize) {
        let host = &mut self.members[member];
        let incarnation = host.incarnation;
        let Some(process) = host.process.as_mut() else { return };
        if process.state.has_background_work() && !process.work_planned {
            process.work_planned = true;
            let delay = host.chance.tailed(500_000, 20 * MILLISECOND);
            self.after(delay, Event::Work { member, incarnation });
        }
    }

    pub(crate) fn on_work(&mut self, member: usize) {
        let process = self.members[member].process.as_mut().expect("works only while it runs");
        process.work_planned = false;
        if process.state.has_background_work() {
            self.tell_state(member, StateInput::Work);
        }
    }

    /// Shows the member's log to the invariants before anything that follows from it leaves.
    fn observe(&mut self, member: usize) {
        let founders = self.schedule.members;
        let process = self.members[member].process.as_ref().expect("only while it runs");
        self.checks.observe(member, process.log.consensus(), founders);
        self.follow_leases();
    }

    /// Wakes a half of a member at its deadline.
    fn plan_wake(&mut self, member: usize, half: Half) {
        let host = &mut self.members[member];
        let incarnation = host.incarnation;
        let Some(process) = host.process.as_mut() else { return };
        let deadline = process.deadline(half);
        if deadline == Monotonic::NEVER {
            return;
        }
        let Some(at) = host.clock.when(deadline) else { return };
        let at = at.max(self.now + 1_000);
        let planned = &mut process.wake_planned[half as usize];
        if planned.is_none_or(|planned| planned > at || planned <= self.now) {
            *planned = Some(at);
            self.at(at, Event::Wake { member, incarnation, half });
        }
    }

    pub(crate) fn on_wake(&mut self, member: usize, half: Half) {
        let host = &mut self.members[member];
        let now = host.clock.now(self.now);
        let process = host.process.as_mut().expect("wakes only while it runs");
        process.wake_planned[half as usize] = None;
        match half {
            _ if process.deadline(half) > now.monotonic => self.plan_wake(member, half),
            Half::Log => self.plan_run(member, 0),
            Half::State => self.plan_state(member),
        }
    }

    fn carry_out(&mut self, member: usize, effect: LogEffect) {
        match effect {
            LogEffect::Wal(work) => self.on_wal_work(member, work),
            LogEffect::Send(envelope) => self.send(member, envelope),
            LogEffect::State(order) => {
                match &order {
                    Order::Apply { entries, owed } => {
                        let host = &mut self.members[member];
                        host.process.as_mut().expect("runs").rank(host.id, entries, owed);
                    }
                    Order::Install(_) => self.strike_installer(member),
                    _ => {}
                }
                self.tell_state(member, StateInput::Log(order));
            }
            LogEffect::Answer(ticket, answer) => self.on_answer(member, ticket, answer),
            // The network of this world knows everybody.
            LogEffect::Connect(_) => {}
            LogEffect::Notice(notice) => self.on_notice(member, notice),
            LogEffect::Fatal(reason) => self.on_fatal(member, &reason),
        }
    }

    fn carry_out_state(&mut self, member: usize, effect: StateEffect<MemoryStore>) {
        match effect {
            StateEffect::Store(work) => self.on_store_work(member, work),
            StateEffect::Publish(view) => self.on_publish(member, view),
            StateEffect::Answer(ticket, answer) => self.on_answer(member, ticket, answer),
            StateEffect::Log(report) => self.tell(member, LogInput::State(report)),
            StateEffect::ReadChunk(read) => {
                let incarnation = self.members[member].incarnation;
                let delay = self.members[member].store_chance.tailed(100_000, 10 * MILLISECOND);
                self.after(delay, Event::ReadChunk { member, incarnation, read: Box::new(read) });
            }
            StateEffect::Snapshot(notice) => self.on_snapshot_notice(member, &notice),
            StateEffect::Fatal(reason) => self.on_fatal(member, &reason),
        }
    }

    fn on_notice(&mut self, member: usize, notice: Notice) {
        self.trace.tell(self.now, || format!("member {member}: {notice}"));
        match notice {
            Notice::RoleChanged { term, role, .. } => {
                self.members[member].process.as_mut().expect("runs").role = role;
                self.checks.on_role(member, term, role);
                self.on_role_changed(member, term, role);
            }
            Notice::Distrust { peer, reason } => {
                self.checks.report(Checker::Health, || format!("member {member} distrusts {peer}, who is honest: {reason}"));
            }
            Notice::QuotaExceeded { .. } => self.on_quota_exceeded(),
            Notice::Opened | Notice::NoLongerFresh | Notice::BanIgnored(_) | Notice::HandingOver { .. } => {}
        }
    }

    /// The process ends itself: rightly, if its disk failed or its state store could not be read.
    fn on_fatal(&mut self, member: usize, reason: &str) {
        let mut down = self.members[member].process.as_ref().expect("runs").down;
        if self.note_failed_read(reason).is_some() {
            let host = &mut self.members[member];
            down = Some(host.chance.tailed(50 * MILLISECOND, 3 * SECOND));
        }
        match down {
            Some(down) => drop(self.kill(member, Some(down))),
            None => self.checks.report(Checker::Health, || format!("member {member} stops: {reason}")),
        }
    }

    fn on_role_changed(&mut self, member: usize, term: Term, role: Role) {
        if role == Role::Leader {
            self.leases.on_promoted(term, self.now);
            self.strike(member);
            if let Some(class) = self.members[member].wall_fault {
                self.tally.mattered(class);
            }
        }
        if self.members[member].clock.drift_ppm() != 0 {
            self.tally.mattered(FaultClass::ClockDrift);
        }
        if role == Role::Leader && self.transfer_to.is_some_and(|(target, until)| target == member && until >= self.now) {
            self.tally.mattered(FaultClass::Transfer);
            self.transfer_to = None;
        }
    }

    fn on_publish(&mut self, member: usize, view: Arc<View<MemoryStore>>) {
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
        self.members[member].process.as_mut().expect("runs").view = Arc::clone(&view);
        self.step_hub(member, HubInput::<MemoryStore>::Published(view));
        self.wake_v2(member);
    }
}

fn founders(members: usize) -> Vec<(MemberId, Vec<String>)> {
    (1..=members as u64).map(|id| (MemberId(id), Vec::new())).collect()
}
