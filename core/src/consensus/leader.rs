//! What only a leader has and does: its part of the clock, its word on who leads next.

use super::{ConsensusEffect, Payload, RaftMessage, progress::Progress, proposal::DedupWindow, quorum, read_index::Rounds, shared::Shared};
use crate::entry::Configuration;
use crate::mutant::{Mutant, planted};
use crate::types::{LogIndex, MemberId, Monotonic};
use alloc::{collections::BTreeMap, vec::Vec};

#[derive(Debug)]
pub(super) struct Leader {
    /// Every other member, voter or learner.
    pub(super) peers: BTreeMap<MemberId, Progress>,
    pub(super) rounds: Rounds,
    /// Forwarded requests seen in this term, by the member that took them.
    pub(super) dedup: BTreeMap<MemberId, DedupWindow>,
    pub(super) transfer: Option<Transfer>,
    pub(super) heartbeat_at: Monotonic,
    /// The first entry of this term.
    pub(super) term_start: LogIndex,
}

/// Leadership on its way to another member. Proposals are held meanwhile.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) target: MemberId,
    pub(super) deadline: Monotonic,
    /// `TimeoutNow` has left.
    pub(super) asked: bool,
}

impl Leader {
    /// Begins to lead the present term: with an entry of its own, whose append tells everyone.
    pub(super) fn new(shared: &mut Shared) -> Self {
        let (member, now) = (shared.member(), shared.now);
        let term_start = shared.log.last().index.next();
        let others = shared.configuration().members().into_iter().filter(|id| *id != member);
        let leader = Self {
            peers: others.map(|id| (id, Progress::new(term_start, now))).collect(),
            rounds: Rounds::default(),
            dedup: BTreeMap::new(),
            transfer: None,
            heartbeat_at: now + shared.settings.heartbeat_interval,
            term_start,
        };
        shared.begin_cluster_time();
        shared.append_own(Payload::Empty);
        leader
    }

    /// Its regular work. Says no if it must not lead any more.
    pub(super) fn tick(&mut self, shared: &mut Shared, out: &mut Vec<ConsensusEffect>) -> bool {
        if !self.check_quorum(shared) && !planted(Mutant::E9) {
            return false;
        }
        if !self.check_transfer(shared) {
            return false;
        }
        let interval = shared.settings.heartbeat_interval;
        self.heartbeat_at = shared.now + interval;
        self.send_heartbeats(shared, out);
        shared.release_log();
        shared.durability.idle(shared.now, interval);
        true
    }

    /// What leaves at a flush: proposals and reads taken since, then to each member what its window allows.
    pub(super) fn flush(&mut self, shared: &mut Shared, out: &mut Vec<ConsensusEffect>) {
        self.append_held(shared, out);
        self.advance_commit(shared);
        self.rounds.take(&mut shared.reads);
        if self.begin_round(shared, out) {
            self.send_heartbeats(shared, out);
        }
        self.replicate(shared, out);
    }

    /// A leader that a quorum may have forgotten makes way, so that its clients look elsewhere.
    fn check_quorum(&self, shared: &Shared) -> bool {
        let (member, now) = (shared.member(), shared.now);
        let heard = |id| if id == member { now } else { self.peers.get(&id).map_or(Monotonic::default(), |peer| peer.heard) };
        let all = || self.peers.keys().map(|id| heard(*id)).min().unwrap_or(now);
        let since = if planted(Mutant::E10) { all() } else { quorum::reached(shared.configuration(), heard) };
        now.since(since) <= shared.settings.election_timeout
    }

    /// Takes note of a sign of life in this term.
    pub(super) fn heard_from(&mut self, from: MemberId, round: u64, now: Monotonic) -> Option<&mut Progress> {
        let newest = self.rounds.newest;
        let progress = self.peers.get_mut(&from)?;
        progress.heard = now;
        progress.round = progress.round.max(round.min(newest));
        Some(progress)
    }

    /// The greatest index that a quorum has durably, if it is of this term (Raft §5.4.2: never by counting older ones).
    pub(super) fn advance_commit(&self, shared: &mut Shared) {
        let member = shared.member();
        let own = if planted(Mutant::R8) { shared.log.last().index } else { shared.durability.durable() };
        let matched = |id| if id == member { own } else { self.peers.get(&id).map_or(LogIndex(0), |peer| peer.matched) };
        let reached = quorum::reached(shared.configuration(), matched);
        if reached > shared.commit && (shared.log.term(reached) == Some(shared.term) || planted(Mutant::R1)) {
            shared.commit_through(reached);
        }
    }

    /// Whose log is the shortest, of equals the one not heard for longest.
    pub(super) fn slowest(&self) -> Option<MemberId> {
        self.peers.iter().min_by_key(|(id, peer)| (peer.matched, peer.heard, **id)).map(|(id, _)| *id)
    }

    // Leadership transfer (Raft thesis §3.10).

    /// Who should lead next: the voter whose log is furthest, of equals the one heard last. `None` if this member votes alone.
    pub(super) fn successor(&self, configuration: &Configuration) -> Option<MemberId> {
        let voters = self.peers.iter().filter(|(id, _)| configuration.is_voter(**id));
        voters.max_by_key(|(id, peer)| (peer.matched, peer.heard, core::cmp::Reverse(**id))).map(|(id, _)| *id)
    }

    /// Not to a voter, or to itself: nothing happens. Whether it worked shows in `RoleChanged`.
    pub(super) fn transfer_to(&mut self, target: MemberId, shared: &Shared) {
        let deadline = shared.now + shared.settings.election_timeout;
        if target != shared.member() && shared.configuration().is_voter(target) {
            self.transfer = Some(Transfer { target, deadline, asked: false });
        }
    }

    /// For a member whose disk does not answer: anyone else leads better.
    pub(super) fn transfer_away(&mut self, shared: &Shared) {
        if self.transfer.is_none()
            && let Some(target) = self.successor(shared.configuration())
        {
            self.transfer_to(target, shared);
        }
    }

    /// Asks the target to campaign as soon as its log is as long as ours.
    pub(super) fn send_timeout_now(&mut self, shared: &Shared, out: &mut Vec<ConsensusEffect>) {
        let Some(transfer) = &mut self.transfer else { return };
        let target = transfer.target;
        if !transfer.asked && self.peers.get(&target).is_some_and(|peer| peer.matched == shared.log.last().index) {
            transfer.asked = true;
            shared.send(target, RaftMessage::TimeoutNow, out);
        }
    }

    /// Gives up a transfer that took too long, and begins one if our own disk stalls. Says no if this member must not lead any more.
    fn check_transfer(&mut self, shared: &Shared) -> bool {
        let now = shared.now;
        if self.transfer.as_ref().is_some_and(|transfer| now >= transfer.deadline) {
            self.transfer = None;
            // Nothing that is appended here can count any more: better no leader than this one.
            return !shared.durability.has_failed();
        }
        if shared.durability.is_stalled(now, shared.settings.election_timeout) {
            self.transfer_away(shared);
        }
        true
    }
}
