//! Carries out a schedule's faults, and takes them back.

use crate::chance::Chance;
use crate::clock::{MILLISECOND, SECOND};
use crate::member::Half;
use crate::network::{Disturbance, Links, MEMBERS_MAX, link, links};
use crate::schedule::{Fault, FaultClass};
use crate::store::JournalRot;
use crate::world::{Event, World};
use quorate_checker::history::Record;
use quorate_core::member::Body;

/// What a compaction race leaves time for.
const COMPACTION_MATTERS: u64 = 5 * SECOND;

/// A leader in a storm sends fewer appends with entries than this.
const STORM_APPENDS: u64 = 4;

/// The directed links that a fault cuts.
#[must_use]
pub(crate) fn links_of(fault: &Fault, members: usize) -> Links {
    match *fault {
        Fault::OneWay { member, inbound, .. } => (0..members)
            .filter(|other| *other != member)
            .map(|other| if inbound { link(other, member) } else { link(member, other) })
            .fold(0, |set, one| set | one),
        Fault::Symmetric { side, .. } => links(members, |a, b| (side >> a) & 1 != (side >> b) & 1),
        Fault::Bridge { middle, .. } => {
            let place = |member: usize| (member + members - middle) % members;
            let half = |member: usize| place(member) <= (members - 1) / 2;
            links(members, |a, b| a != middle && b != middle && half(a) != half(b))
        }
        Fault::Star { middle, .. } => links(members, |a, b| a != middle && b != middle),
        Fault::Chain { first, .. } => {
            let place = |member: usize| (member + members - first) % members;
            links(members, |a, b| place(a).abs_diff(place(b)) != 1)
        }
        _ => (0..MEMBERS_MAX * MEMBERS_MAX).fold(0, |set, bit| set | 1 << bit),
    }
}

impl World {
    pub(crate) fn on_fault(&mut self, item: usize) {
        let fault = self.schedule.items[item].fault.clone();
        let class = fault.class();
        self.trace.tell(self.now, || format!("fault: {fault:?}"));
        self.sessions.history.push(Record::Fault { at: self.now, what: format!("{fault:?}") });
        self.tally.fired(class);
        match fault {
            Fault::Kill { member, down_ms, at_write: true } => {
                if self.members[member].process.is_some() {
                    self.members[member].die_at_write = Some(down_ms * MILLISECOND);
                }
            }
            Fault::Kill { member, down_ms, at_write: false } => {
                if self.is_busy(member) {
                    self.tally.mattered(class);
                }
                self.kill(member, Some(down_ms * MILLISECOND));
            }
            Fault::KillAll { down_ms } => {
                if !self.sessions.ops.is_empty() {
                    self.tally.mattered(class);
                }
                for member in 0..self.members.len() {
                    let down = down_ms * MILLISECOND + self.members[member].chance.below(200 * MILLISECOND);
                    self.kill(member, Some(down));
                }
            }
            Fault::Storm { times, most_ms } => {
                self.storm = (times, most_ms * MILLISECOND);
                self.storm_victims = 0;
                let leader = (0..self.members.len()).find(|member| self.members[*member].leads());
                if let Some(member) = leader {
                    self.strike(member);
                }
            }
            Fault::Pause { member, ms } => {
                if self.members[member].leads() {
                    self.tally.mattered(class);
                }
                self.members[member].paused += 1;
                self.after(ms * MILLISECOND, Event::FaultEnd { item });
            }
            Fault::SlowDisk { member, sync_ms, ms } => {
                self.members[member].slow.push((item, sync_ms * MILLISECOND));
                self.after(ms * MILLISECOND, Event::FaultEnd { item });
            }
            Fault::FsyncError { member, down_ms } => self.members[member].fail_next_sync = Some(down_ms * MILLISECOND),
            Fault::DiskFull { member, ms } => {
                self.members[member].full += 1;
                self.after(ms * MILLISECOND, Event::FaultEnd { item });
            }
            Fault::BitRot { member, down_ms } => {
                self.kill(member, Some(down_ms * MILLISECOND));
                let host = &mut self.members[member];
                let flipped = host.disk.rot(host.disk_chance.stream(), host.proven);
                host.rotten |= flipped.is_some();
                self.trace.tell(self.now, || format!("a bit of member {member} flipped at {flipped:?}"));
            }
            Fault::ReadError { member, reads } => self.members[member].store.fail_read(reads + 1),
            Fault::RowRot { member } => {
                let host = &mut self.members[member];
                let row = host.store.rot_row(&mut host.store_chance);
                self.trace.tell(self.now, || format!("a row of member {member} rots: {row:?}"));
            }
            Fault::JournalRot { member, down_ms } => {
                let host = &mut self.members[member];
                let rot = host.store.rot_journal(&mut host.store_chance);
                self.trace.tell(self.now, || format!("the journal of member {member} rots: {rot:?}"));
                if rot != JournalRot::Nothing {
                    self.tally.mattered(class);
                }
                self.kill(member, Some(down_ms * MILLISECOND));
            }
            Fault::ClockDrift { member, ppm, ms } => {
                self.members[member].clock.set_drift(self.now, ppm);
                self.after(ms * MILLISECOND, Event::FaultEnd { item });
                self.nudge(member);
            }
            Fault::ClockOffset { member, wall_ms } | Fault::ClockStep { member, wall_ms } => {
                self.members[member].clock.step_wall(wall_ms);
                self.members[member].wall_fault = Some(class);
            }
            Fault::Compaction { times } => {
                self.compaction_until = self.now + COMPACTION_MATTERS;
                let mut chance = Chance::new(self.schedule.seed, crate::chance::Concern::Client, 1 << 32 ^ item as u64);
                for _ in 0..times {
                    let client = chance.below(u64::from(crate::workload::CLIENTS)) as usize;
                    self.clients[client].port.mailbox.borrow_mut().compactions += 1;
                }
            }
            Fault::Transfer { target, deaf_ms } => {
                let id = self.members[target].id;
                if let Some(leader) = (0..self.members.len()).find(|member| self.members[*member].leads() && *member != target) {
                    self.transfer_to = Some((target, self.now + 2 * self.parameters.election));
                    self.ask_quietly(leader, if item.is_multiple_of(2) { Body::Transfer(id) } else { Body::HandOver });
                    if deaf_ms > 0 {
                        self.tally.fired(FaultClass::OneWay);
                        self.disturb(item as u64, &Fault::OneWay { member: leader, inbound: true, ms: deaf_ms });
                        self.after(deaf_ms * MILLISECOND, Event::FaultEnd { item });
                    }
                }
            }
            Fault::SnapshotCut { ms } => self.lay_ambush(item, class, 0, ms),
            Fault::SnapshotFlip => self.lay_ambush(item, class, 0, 0),
            Fault::SenderKill { down_ms } => self.lay_ambush(item, class, 0, down_ms),
            Fault::ReceiverKill { phase, down_ms } => self.lay_ambush(item, class, phase, down_ms),
            Fault::Tiny => {}
            Fault::OneWay { ms, .. }
            | Fault::Symmetric { ms, .. }
            | Fault::Bridge { ms, .. }
            | Fault::Star { ms, .. }
            | Fault::Chain { ms, .. }
            | Fault::Loss { ms, .. }
            | Fault::Duplicate { ms, .. }
            | Fault::Reorder { ms, .. }
            | Fault::DelayTail { ms, .. } => {
                self.disturb(item as u64, &fault);
                self.after(ms * MILLISECOND, Event::FaultEnd { item });
            }
        }
    }

    pub(crate) fn disturb(&mut self, id: u64, fault: &Fault) {
        let (permille, delay_ms) = match *fault {
            Fault::Loss { permille, .. } => (permille, 0),
            Fault::Duplicate { permille, .. } => (permille, 300),
            Fault::Reorder { permille, spread_ms, .. } => (permille, spread_ms),
            Fault::DelayTail { permille, most_ms, .. } => (permille, most_ms),
            _ => (1_000, 0),
        };
        let links = links_of(fault, self.members.len());
        self.network.disturb(Disturbance { id, class: fault.class(), links, permille, delay: delay_ms * MILLISECOND });
    }

    pub(crate) fn on_fault_end(&mut self, item: usize) {
        if self.phase != crate::world::Phase::Chaos {
            // Healed already.
            return;
        }
        let fault = self.schedule.items[item].fault.clone();
        self.trace.tell(self.now, || format!("over: {fault:?}"));
        match fault {
            Fault::Pause { member, .. } => self.resume(member),
            Fault::SlowDisk { member, .. } => self.members[member].slow.retain(|slow| slow.0 != item),
            Fault::DiskFull { member, .. } => self.members[member].full -= 1,
            Fault::ClockDrift { member, .. } => {
                self.members[member].clock.set_drift(self.now, 0);
                self.nudge(member);
            }
            _ => self.network.calm(item as u64),
        }
    }

    /// A storm takes a leader.
    pub(crate) fn strike(&mut self, member: usize) {
        if self.storm.0 == 0 {
            return;
        }
        self.storm.0 -= 1;
        if self.members.iter().any(|host| !host.slow.is_empty()) {
            self.tally.fired(FaultClass::SlowStorm);
        }
        self.storm_victims += 1;
        if self.storm_victims > 1 {
            self.tally.mattered(FaultClass::Storm);
        }
        let host = &mut self.members[member];
        let (incarnation, at) = (host.incarnation, host.chance.below(self.storm.1));
        let down = host.chance.tailed(20 * MILLISECOND, 1_500 * MILLISECOND);
        let appends_left = host.chance.below(STORM_APPENDS);
        if let Some(process) = host.process.as_mut() {
            process.appends_left = Some(appends_left);
        }
        self.after(at, Event::Die { member, incarnation, down });
    }

    fn resume(&mut self, member: usize) {
        self.members[member].paused -= 1;
        if self.members[member].paused == 0 {
            self.unpark(member);
        }
    }

    /// Its clock runs differently now, so what it waits for is due at another time.
    fn nudge(&mut self, member: usize) {
        if let Some(process) = self.members[member].process.as_mut() {
            process.wake_planned[Half::Log as usize] = None;
            let incarnation = self.members[member].incarnation;
            self.after(0, Event::Wake { member, incarnation, half: Half::Log });
        }
    }

    /// Whether a kill now takes something with it.
    fn is_busy(&self, member: usize) -> bool {
        let host = &self.members[member];
        host.leads() || host.process.as_ref().is_some_and(|process| !process.writes.is_empty() || host.disk.is_dirty())
    }

    /// Everything works again, and everybody who can comes back.
    pub(crate) fn heal(&mut self) {
        self.trace.tell(self.now, || "all is healed".into());
        self.network.calm_all();
        self.storm = (0, 0);
        self.ambush.call_off();
        for member in 0..self.members.len() {
            let now = self.now;
            let host = &mut self.members[member];
            if let Some(process) = host.process.as_mut() {
                process.appends_left = None;
            }
            host.slow.clear();
            host.full = 0;
            host.fail_next_sync = None;
            host.die_at_write = None;
            host.store.fail_read(0);
            host.clock.set_drift(now, 0);
            if host.paused > 0 {
                host.paused = 0;
                self.unpark(member);
            }
            if self.members[member].store.has_rot() {
                // Whoever heals it looks at all that is stored, as a start does.
                self.kill(member, None);
            }
            self.nudge(member);
            if self.members[member].process.is_none() {
                let incarnation = self.members[member].incarnation;
                self.after(MILLISECOND, Event::Restart { member, incarnation });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whom each member reaches, itself included.
    fn reach(fault: &Fault, members: usize) -> Vec<usize> {
        let cut = links_of(fault, members);
        (0..members).map(|a| (0..members).filter(|b| a == *b || cut & (link(a, *b) | link(*b, a)) == 0).count()).collect()
    }

    #[test]
    fn a_bridge_a_star_and_a_chain_leave_one_member_with_a_quorum() {
        for members in [3, 5] {
            for middle in 0..members {
                let (bridge, star) = (Fault::Bridge { middle, ms: 0 }, Fault::Star { middle, ms: 0 });
                assert_eq!(reach(&bridge, members)[middle], members);
                assert_eq!(reach(&bridge, members).iter().filter(|seen| **seen == members / 2 + 1).count(), members - 1);
                assert_eq!(reach(&star, members)[middle], members);
                assert_eq!(reach(&star, members).iter().filter(|seen| **seen == 2).count(), members - 1);
                let chain = reach(&Fault::Chain { first: middle, ms: 0 }, members);
                assert_eq!(chain.iter().filter(|seen| **seen == 3).count(), members - 2);
            }
        }
    }

    #[test]
    fn a_partition_cuts_both_directions_between_its_sides_only() {
        let cut = links_of(&Fault::Symmetric { side: 0b001, ms: 0 }, 3);
        assert_eq!(cut, link(0, 1) | link(1, 0) | link(0, 2) | link(2, 0));
    }
}
