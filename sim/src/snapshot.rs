//! Snapshots between members: what is done to them on their way, and what comes of them.

use crate::chance::{Chance, Concern};
use crate::clock::{MILLISECOND, Nanos};
use crate::invariants::Checker;
use crate::member::StoreTask;
use crate::network::{Disturbance, link};
use crate::schedule::FaultClass;
use crate::world::{Event, World};
use bytes::Bytes;
use quorate_core::consensus::{Envelope, Message, SnapshotMessage};
use quorate_core::member::SnapshotNotice;

/// Chunks that may pass before a fault strikes that waits for one.
const CHUNKS_SPARED: u64 = 4;
/// After the moment that it waited for, at most.
const DEATH_DELAY: Nanos = 8 * MILLISECOND;

/// What waits for the next snapshot that is on its way.
#[derive(Debug, Default)]
pub(crate) struct Ambush {
    /// The fault, and how many chunks it lets pass.
    cuts: Vec<(usize, Nanos, u64)>,
    flips: Vec<u64>,
    /// For how long the sender is down.
    senders: Vec<(Nanos, u64)>,
    /// In which phase it dies, and for how long.
    receivers: Vec<(u64, Nanos)>,
    flipped: u64,
}

/// Phases of a receiver in which it may die.
pub(crate) const RECEIVER_PHASES: u64 = 6;

impl Ambush {
    /// What has not struck never will; what is flipped and on its way still is.
    pub(crate) fn call_off(&mut self) {
        *self = Self { flipped: self.flipped, ..Self::default() };
    }
}

fn phase_of(task: &StoreTask) -> Option<u64> {
    match task {
        StoreTask::BeginState(..) => Some(0),
        StoreTask::StoreRows(..) => Some(1),
        StoreTask::SyncState(_) => Some(2),
        StoreTask::SwitchState(_) => Some(4),
        _ => None,
    }
}

impl World {
    pub(crate) fn lay_ambush(&mut self, item: usize, class: FaultClass, phase: u64, ms: u64) {
        let spared = Chance::new(self.schedule.seed, Concern::Snapshot, item as u64).below(CHUNKS_SPARED);
        let time = ms * MILLISECOND;
        match class {
            FaultClass::SnapshotCut => self.ambush.cuts.push((item, time, spared)),
            FaultClass::SnapshotFlip => self.ambush.flips.push(spared),
            FaultClass::SenderKill => self.ambush.senders.push((time, spared)),
            _ => self.ambush.receivers.push((phase, time)),
        }
    }

    /// What happens to a chunk that leaves a member.
    pub(crate) fn strike_chunk(&mut self, member: usize, to: usize, envelope: &mut Envelope) {
        let Message::Snapshot(SnapshotMessage::Chunk { chunk, .. }) = &mut envelope.message else { return };
        let due = |spared: &mut u64| {
            let due = *spared == 0;
            *spared = spared.saturating_sub(1);
            due
        };
        if self.ambush.flips.first_mut().is_some_and(due) {
            self.ambush.flips.remove(0);
            self.ambush.flipped += 1;
            let mut body = chunk.body.to_vec();
            let bit = self.latency.below(body.len() as u64 * 8) as usize;
            body[bit / 8] ^= 1 << (bit % 8);
            chunk.body = Bytes::from(body);
        }
        if self.ambush.cuts.first_mut().is_some_and(|(_, _, spared)| due(spared)) {
            let (item, time, _) = self.ambush.cuts.remove(0);
            self.tally.mattered(FaultClass::SnapshotCut);
            let links = link(member, to) | link(to, member);
            self.network.disturb(Disturbance { id: item as u64, class: FaultClass::SnapshotCut, links, permille: 1_000, delay: 0 });
            self.after(time, Event::FaultEnd { item });
        }
        if self.ambush.senders.first_mut().is_some_and(|(_, spared)| due(spared)) {
            let (down, _) = self.ambush.senders.remove(0);
            self.tally.mattered(FaultClass::SenderKill);
            self.die_soon(member, down);
        }
    }

    fn die_soon(&mut self, member: usize, down: Nanos) {
        let host = &mut self.members[member];
        let (at, incarnation) = (host.chance.below(DEATH_DELAY), host.incarnation);
        self.after(at, Event::Die { member, incarnation, down });
    }

    /// A receiver may die when it is about to do this.
    pub(crate) fn strike_receiver(&mut self, member: usize, task: &StoreTask) {
        if let Some(phase) = phase_of(task) {
            self.strike_phase(member, phase);
        }
    }

    /// Or when its log is about to say that it goes on behind the snapshot.
    pub(crate) fn strike_installer(&mut self, member: usize) {
        self.strike_phase(member, 3);
    }

    fn strike_phase(&mut self, member: usize, now: u64) {
        if let Some(at) = self.ambush.receivers.iter().position(|(phase, _)| *phase == now) {
            let (_, down) = self.ambush.receivers.remove(at);
            self.tally.mattered(FaultClass::ReceiverKill);
            self.die_soon(member, down);
        }
    }

    pub(crate) fn on_snapshot_notice(&mut self, member: usize, notice: &SnapshotNotice) {
        self.trace.tell(self.now, || format!("member {member}: {notice}"));
        match notice {
            SnapshotNotice::Sending { .. } => self.tally.fired(FaultClass::Snapshot),
            SnapshotNotice::Installed { .. } => {
                self.tally.mattered(FaultClass::Snapshot);
                self.strike_phase(member, 5);
            }
            SnapshotNotice::ReceivedBad { what, .. } => {
                if self.ambush.flipped == 0 {
                    self.checks.report(Checker::Health, || format!("member {member} got a bad snapshot without a fault: {what}"));
                }
                self.ambush.flipped = self.ambush.flipped.saturating_sub(1);
                self.tally.mattered(FaultClass::SnapshotFlip);
            }
            SnapshotNotice::NotStored { reason } => {
                self.checks.report(Checker::Health, || format!("member {member} cannot store a snapshot: {reason}"));
            }
            SnapshotNotice::SentChunk { .. }
            | SnapshotNotice::SendingEnded { .. }
            | SnapshotNotice::Receiving { .. }
            | SnapshotNotice::ReceivedChunk { .. }
            | SnapshotNotice::NotNeeded { .. } => {}
        }
    }
}
