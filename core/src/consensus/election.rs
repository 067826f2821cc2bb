//! Leader election (Raft §5.2, §5.4.1) with pre-vote, check-quorum, stickiness and leadership transfer (Raft thesis §3.10, §9.6).
//!
//! ```text
//! follower ──timeout──> pre-candidate ──quorum would vote──> candidate ──quorum voted──> leader
//!     ^ a leader of this term, or a higher term from anyone ──┴───────────────┴─────────────┘
//! ```

use super::{
    Configuration, Consensus, ConsensusEffect, Leader, Message, Payload, RaftMessage, Role, State, Transfer, proposal, quorum,
    quorum::VoteResult, read_index, replication,
};
use crate::mutant::{Mutant, planted};
use crate::types::{LogId, MemberId, Monotonic, Term};
use crate::wal::Record;
use alloc::{collections::BTreeMap, vec::Vec};
use core::time::Duration;
use rand_core::RngCore;

/// After the leader's connection closed, a follower asks for pre-votes within T / this. Two followers then ask at once only if
/// they draw moments closer together than a round trip, and then both merely wait an election timeout.
const EARLY_PRE_VOTE_DIVISOR: u32 = 4;
/// An advanced first timeout is drawn from [T / this, T): a leader that lives is heard within a heartbeat or two of the
/// connection, and a pre-vote disturbs none. After an outage of all members this is what their clients wait for.
const FIRST_TIMEOUT_DIVISOR: u32 = 2;

impl Consensus {
    pub(super) fn on_wake(&mut self, out: &mut Vec<ConsensusEffect>) {
        match &self.state {
            State::Leader(leader) if self.now >= leader.heartbeat_at => self.tick(out),
            State::Leader(_) => {}
            _ if self.now >= self.election_at => self.campaign(out),
            _ => {}
        }
    }

    /// A leader's regular work.
    fn tick(&mut self, out: &mut Vec<ConsensusEffect>) {
        if !self.hears_quorum() && !planted(Mutant::E9) {
            return self.become_follower(None, out);
        }
        self.settle_transfer(out);
        let interval = self.settings.heartbeat_interval;
        let now = self.now;
        let State::Leader(leader) = &mut self.state else { return };
        leader.heartbeat_at = now + interval;
        self.send_heartbeats(out);
        self.release_log();
        self.durability.idle(now, interval);
    }

    /// Check-quorum: a leader that a quorum may have forgotten makes way, so that its clients look elsewhere.
    fn hears_quorum(&self) -> bool {
        let State::Leader(leader) = &self.state else { return false };
        let (member, now) = (self.settings.member, self.now);
        let heard = |id| if id == member { now } else { leader.peers.get(&id).map_or(Monotonic::default(), |peer| peer.heard) };
        now.since(quorum::reached(self.membership.current(), heard)) <= self.settings.election_timeout
    }

    /// Whether a leader is known to be alive, so that a campaign would only disturb.
    fn is_sticky(&self) -> bool {
        match self.state {
            State::Leader(_) => true,
            _ => self.leader.is_some() && self.now.since(self.leader_heard) < self.settings.election_timeout,
        }
    }

    /// Draws the next election timeout from [T, 1.5 T) (Raft §5.2). A sole voter has nobody to wait for.
    pub(super) fn rearm(&mut self) {
        let timeout = self.settings.election_timeout;
        let configuration = self.membership.current();
        let alone = configuration.outgoing.is_empty() && configuration.voters.len() == 1 && configuration.is_voter(self.settings.member);
        self.election_at = if alone { self.now } else { self.now + timeout + self.draw_below(timeout / 2) };
    }

    /// Sets the timeout of a member that starts. Without pre-votes it is like any other: to campaign early would depose a leader.
    pub(super) fn arm_first(&mut self) {
        self.rearm();
        if self.settings.advance_first_election && self.settings.pre_vote && self.election_at > self.now {
            let early = self.settings.election_timeout / FIRST_TIMEOUT_DIVISOR;
            self.election_at = self.now + early + self.draw_below(early);
        }
    }

    fn draw_below(&mut self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(self.rng.next_u64() % nanos)
    }

    pub(super) fn on_peer_closed(&mut self, peer: MemberId, out: &mut Vec<ConsensusEffect>) {
        if self.leader != Some(peer) || peer == self.settings.member {
            return;
        }
        self.lose_leader(out);
        let early = self.now + self.draw_below(self.settings.election_timeout / EARLY_PRE_VOTE_DIVISOR);
        self.election_at = self.election_at.min(early);
    }

    /// The leader is not known any more; reads it had must be asked again, proposals it had may still be committed.
    fn lose_leader(&mut self, out: &mut Vec<ConsensusEffect>) {
        self.leader = None;
        self.acknowledgement = None;
        self.refuse_sent_reads(out);
    }

    fn campaign(&mut self, out: &mut Vec<ConsensusEffect>) {
        self.rearm();
        let member = self.settings.member;
        if !self.membership.current().is_voter(member) || self.durability.has_failed() {
            // Not to be asked again before the next timeout, also where `rearm` would have it at once.
            self.election_at = self.now + self.settings.election_timeout;
            return self.lose_leader(out);
        }
        if !self.settings.pre_vote {
            return self.stand(false, out);
        }
        self.lose_leader(out);
        self.state = State::PreCandidate(BTreeMap::from([(member, true)]));
        let end = self.log.last();
        self.ask_voters(self.term.next(), &Message::Raft(RaftMessage::PreVote { end }), |_, envelope| {
            out.push(ConsensusEffect::Send(envelope))
        });
        self.count_votes(out);
    }

    /// Begins a new term with this member's own vote in it.
    fn stand(&mut self, transfer: bool, out: &mut Vec<ConsensusEffect>) {
        self.begin_term(self.term.next(), Some(self.settings.member), out);
        self.rearm();
        if self.election_at == self.now {
            // A sole voter's timer must not run in circles while its vote is on the way to the disk.
            self.election_at = self.now + self.settings.election_timeout;
        }
        self.state = State::Candidate(BTreeMap::new());
        let end = self.log.last();
        // A request promises not to stand again in this term with another log, and our own vote, so it waits for the disk.
        self.ask_voters(self.term, &Message::Raft(RaftMessage::RequestVote { end, transfer }), |consensus, envelope| {
            let held = consensus.durability.after_ballot(envelope);
            debug_assert!(held.is_none());
        });
    }

    fn ask_voters(&mut self, term: Term, message: &Message, mut ask: impl FnMut(&mut Self, super::Envelope)) {
        let member = self.settings.member;
        let configuration = self.membership.current();
        let voters: Vec<_> = configuration.members().into_iter().filter(|id| *id != member && configuration.is_voter(*id)).collect();
        for to in voters {
            ask(self, super::Envelope { from: member, to, term, message: message.clone() });
        }
    }

    fn count_votes(&mut self, out: &mut Vec<ConsensusEffect>) {
        let (State::PreCandidate(votes) | State::Candidate(votes)) = &self.state else { return };
        match (quorum::vote_result(self.membership.current(), votes), &self.state) {
            (VoteResult::Open, _) => {}
            (VoteResult::Won, State::PreCandidate(_)) => self.stand(false, out),
            (VoteResult::Won, _) => self.lead(),
            (VoteResult::Lost, _) => self.become_follower(None, out),
        }
    }

    fn lead(&mut self) {
        let member = self.settings.member;
        let next = self.log.last().index.next();
        let others = self.membership.current().members().into_iter().filter(|id| *id != member);
        self.leader = Some(member);
        self.state = State::Leader(alloc::boxed::Box::new(Leader {
            peers: others.map(|id| (id, replication::Progress::new(next, self.now))).collect(),
            rounds: read_index::Rounds::default(),
            windows: BTreeMap::<MemberId, proposal::Window>::new(),
            transfer: None,
            heartbeat_at: self.now + self.settings.heartbeat_interval,
            term_start: next,
        }));
        // Its append tells everyone who leads.
        self.append_own(Payload::Empty);
    }

    /// Our vote is durable, so it counts like any other.
    pub(super) fn on_own_vote_durable(&mut self, out: &mut Vec<ConsensusEffect>) {
        let member = self.settings.member;
        if let State::Candidate(votes) = &mut self.state {
            votes.insert(member, true);
            self.count_votes(out);
        }
    }

    /// Changes nothing here, not even the term (Raft thesis §9.6). A refusal carries our own term, for an asker that is behind.
    pub(super) fn on_pre_vote(&mut self, from: MemberId, asked: Term, end: LogId, out: &mut Vec<ConsensusEffect>) {
        let granted = asked > self.term && end >= self.log.last() && !self.is_sticky();
        let term = if granted { asked } else { self.term };
        let envelope =
            super::Envelope { from: self.settings.member, to: from, term, message: Message::Raft(RaftMessage::PreVoteReply { granted }) };
        if granted {
            out.push(ConsensusEffect::Send(envelope));
        } else if let Some(envelope) = self.durability.after_ballot(envelope) {
            out.push(ConsensusEffect::Send(envelope));
        }
    }

    pub(super) fn on_pre_vote_reply(&mut self, from: MemberId, term: Term, granted: bool, out: &mut Vec<ConsensusEffect>) {
        if !granted && term > self.term {
            return self.begin_term(term, None, out);
        }
        let asked = self.term.next();
        if let State::PreCandidate(votes) = &mut self.state
            && (!granted || term == asked)
        {
            votes.insert(from, granted);
            self.count_votes(out);
        }
    }

    /// `transfer` came from the leader itself, so stickiness does not stand in its way.
    pub(super) fn ignores_campaign(&self, term: Term, transfer: bool) -> bool {
        term > self.term && !transfer && self.is_sticky()
    }

    pub(super) fn on_request_vote(&mut self, from: MemberId, end: LogId, out: &mut Vec<ConsensusEffect>) {
        let free = self.vote == Some(from) || (self.vote.is_none() && self.leader.is_none());
        let granted = free && end >= self.log.last();
        if granted {
            if self.vote.is_none() {
                self.vote = Some(from);
                self.record_ballot();
            }
            self.rearm();
        }
        if planted(Mutant::E1) {
            return self.send(from, Message::Raft(RaftMessage::Vote { granted }), out);
        }
        self.send_after_ballot(from, Message::Raft(RaftMessage::Vote { granted }), out);
    }

    pub(super) fn on_vote(&mut self, from: MemberId, granted: bool, out: &mut Vec<ConsensusEffect>) {
        if let State::Candidate(votes) = &mut self.state {
            votes.insert(from, granted);
            self.count_votes(out);
        }
    }

    /// Someone leads this term and it is not us. Says no, and distrusts, if that cannot be.
    pub(super) fn follow(&mut self, leader: MemberId, out: &mut Vec<ConsensusEffect>) -> bool {
        if self.leader.is_some_and(|known| known != leader) {
            self.distrust(leader, "a second leader in one term", out);
            return false;
        }
        if self.leader.is_none() || !matches!(self.state, State::Follower) {
            self.become_follower(Some(leader), out);
        }
        self.leader_heard = self.now;
        self.rearm();
        true
    }

    pub(super) fn on_timeout_now(&mut self, from: MemberId, out: &mut Vec<ConsensusEffect>) {
        let votes = self.membership.current().is_voter(self.settings.member);
        if self.follow(from, out) && votes && !self.durability.has_failed() {
            self.stand(true, out);
        }
    }

    /// Enters a later term. Whatever the old one had of ours is refused, or unknown.
    pub(super) fn begin_term(&mut self, term: Term, vote: Option<MemberId>, out: &mut Vec<ConsensusEffect>) {
        debug_assert!(term > self.term);
        self.become_follower(None, out);
        self.abandon_sent_proposals(out);
        self.term = term;
        self.vote = vote;
        self.record_ballot();
    }

    fn record_ballot(&mut self) {
        self.durability.record(&Record::Ballot { term: self.term, vote: self.vote });
    }

    pub(super) fn become_follower(&mut self, leader: Option<MemberId>, out: &mut Vec<ConsensusEffect>) {
        let left = core::mem::replace(&mut self.state, State::Follower);
        if self.leader.is_some() {
            self.lose_leader(out);
        }
        self.leader = leader;
        if let State::Leader(left) = left {
            self.refuse_rounds(left.rounds, out);
            self.abandon_sent_proposals(out);
            self.rearm();
        }
    }

    // Leadership transfer.

    /// Not the leader, or not to a voter: nothing happens. Whether it worked shows in `RoleChanged`.
    pub(super) fn on_transfer(&mut self, target: MemberId) {
        let deadline = self.now + self.settings.election_timeout;
        let eligible = target != self.settings.member && self.membership.current().is_voter(target);
        if let State::Leader(leader) = &mut self.state
            && eligible
        {
            leader.transfer = Some(Transfer { target, deadline, asked: false });
        }
    }

    /// Asks the target to stand as soon as its log is as long as ours.
    pub(super) fn hand_over(&mut self, out: &mut Vec<ConsensusEffect>) {
        let last = self.log.last().index;
        let State::Leader(leader) = &mut self.state else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        let target = transfer.target;
        if !transfer.asked && leader.peers.get(&target).is_some_and(|peer| peer.matched == last) {
            transfer.asked = true;
            self.send(target, Message::Raft(RaftMessage::TimeoutNow), out);
        }
    }

    /// Gives up a transfer that took too long, and begins one if our own disk stalls.
    fn settle_transfer(&mut self, out: &mut Vec<ConsensusEffect>) {
        let (now, timeout) = (self.now, self.settings.election_timeout);
        let stalled = self.durability.is_stalled(now, timeout);
        let State::Leader(leader) = &mut self.state else { return };
        if leader.transfer.as_ref().is_some_and(|transfer| now >= transfer.deadline) {
            leader.transfer = None;
            if self.durability.has_failed() {
                // Nothing that is appended here can count any more: better no leader than this one.
                self.become_follower(None, out);
            }
        } else if stalled {
            self.flee();
        }
    }

    /// Picks the best other voter to lead instead of a member whose disk does not answer.
    pub(super) fn flee(&mut self) {
        let State::Leader(leader) = &self.state else { return };
        if leader.transfer.is_some() {
            return;
        }
        let configuration: &Configuration = self.membership.current();
        let voters = leader.peers.iter().filter(|(id, _)| configuration.is_voter(**id));
        let best = voters.max_by_key(|(id, peer)| (peer.matched, peer.heard, core::cmp::Reverse(**id))).map(|(id, _)| *id);
        if let Some(target) = best {
            self.on_transfer(target);
        }
    }

    pub(super) fn role(&self) -> Role {
        match self.state {
            State::Follower => Role::Follower,
            State::PreCandidate(_) => Role::PreCandidate,
            State::Candidate(_) => Role::Candidate,
            State::Leader(_) => Role::Leader,
        }
    }
}
