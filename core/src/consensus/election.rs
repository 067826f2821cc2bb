//! Leader election (Raft §5.2, §5.4.1) with pre-vote and check-quorum (Raft thesis §9.6, §6.2): who becomes what, and when.
//!
//! ```text
//! follower ──timeout──> pre-candidate ──quorum would vote──> candidate ──quorum voted──> leader
//!     ^ a leader of this term, or a higher term from anyone ──┴───────────────┴─────────────┘
//! ```

use super::{Consensus, ConsensusEffect, Envelope, RaftMessage, State, leader::Leader, quorum, quorum::VoteResult, shared::Shared};
use crate::mutant::{Mutant, planted};
use crate::types::{LogId, MemberId, Term};
use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};

/// After the leader's connection closed, a follower asks for pre-votes within T / this. Two followers then ask at once only if
/// they draw moments closer together than a round trip, and then both merely wait an election timeout.
const EARLY_PRE_VOTE_DIVISOR: u32 = 4;
/// An advanced first timeout is drawn from [T / this, T): a leader that lives is heard within a heartbeat or two of the
/// connection, and a pre-vote disturbs none. After an outage of all members this is what their clients wait for.
const FIRST_TIMEOUT_DIVISOR: u32 = 2;

impl Shared {
    /// Sets the timeout of a member that starts. Without pre-votes it is like any other: to campaign early would depose a leader.
    pub(super) fn arm_first(&mut self) {
        self.rearm();
        if self.settings.advance_first_election && self.settings.pre_vote && self.election_at > self.now {
            let early = self.settings.election_timeout / FIRST_TIMEOUT_DIVISOR;
            self.election_at = self.now + early + self.draw_below(early);
        }
    }

    fn ask_voters(&mut self, term: Term, message: &RaftMessage, mut ask: impl FnMut(&mut Self, Envelope)) {
        let member = self.member();
        let configuration = self.configuration();
        let voters: Vec<_> = configuration.members().into_iter().filter(|id| *id != member && configuration.is_voter(*id)).collect();
        for to in voters {
            ask(self, Envelope { from: member, to, term, message: message.clone().into() });
        }
    }

    /// Grants a vote to the first that asks for it in this term with a log that is not behind ours.
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
            return self.send(from, RaftMessage::Vote { granted }, out);
        }
        self.send_after_ballot(from, RaftMessage::Vote { granted }, out);
    }

    /// Changes nothing here, not even the term (Raft thesis §9.6). A refusal carries our own term, for an asker that is behind.
    pub(super) fn on_pre_vote(&mut self, from: MemberId, asked: Term, end: LogId, out: &mut Vec<ConsensusEffect>) {
        let granted = asked > self.term && end >= self.log.last() && !self.leader_is_live();
        let term = if granted { asked } else { self.term };
        let message = RaftMessage::PreVoteReply { granted }.into();
        let envelope = Envelope { from: self.member(), to: from, term, message };
        if granted {
            out.push(ConsensusEffect::Send(envelope));
        } else if let Some(envelope) = self.durability.after_ballot(envelope) {
            out.push(ConsensusEffect::Send(envelope));
        }
    }

    /// A live leader is not deposed by those who do not hear it. `transfer`: the leader itself asked for this campaign.
    pub(super) fn ignores_campaign(&self, term: Term, transfer: bool) -> bool {
        term > self.term && !transfer && self.leader_is_live()
    }
}

impl Consensus {
    pub(super) fn on_wake(&mut self, out: &mut Vec<ConsensusEffect>) {
        let now = self.shared.now;
        if let Some((leader, shared)) = self.leading() {
            if now >= leader.heartbeat_at && !leader.tick(shared, out) {
                self.become_follower(None, out);
            }
        } else if now >= self.shared.election_at {
            self.campaign(out);
        }
    }

    pub(super) fn on_peer_closed(&mut self, peer: MemberId, out: &mut Vec<ConsensusEffect>) {
        let shared = &mut self.shared;
        if shared.leader != Some(peer) || peer == shared.member() {
            return;
        }
        shared.forget_leader(out);
        let early = shared.now + shared.draw_below(shared.settings.election_timeout / EARLY_PRE_VOTE_DIVISOR);
        shared.election_at = shared.election_at.min(early);
    }

    fn campaign(&mut self, out: &mut Vec<ConsensusEffect>) {
        let shared = &mut self.shared;
        shared.rearm();
        let member = shared.member();
        if !shared.configuration().is_voter(member) || shared.durability.has_failed() {
            // Not to be asked again before the next timeout, also where `rearm` would have it at once.
            shared.election_at = shared.now + shared.settings.election_timeout;
            return shared.forget_leader(out);
        }
        if !shared.settings.pre_vote {
            return self.become_candidate(false, out);
        }
        shared.forget_leader(out);
        self.state = State::PreCandidate(BTreeMap::from([(member, true)]));
        let end = shared.log.last();
        let asked = shared.term.next();
        shared.ask_voters(asked, &RaftMessage::PreVote { end }, |_, envelope| out.push(ConsensusEffect::Send(envelope)));
        self.count_votes(out);
    }

    /// Begins a new term with this member's own vote in it.
    fn become_candidate(&mut self, transfer: bool, out: &mut Vec<ConsensusEffect>) {
        self.begin_term(self.shared.term.next(), Some(self.shared.member()), out);
        self.state = State::Candidate(BTreeMap::new());
        let shared = &mut self.shared;
        shared.rearm();
        if shared.election_at == shared.now {
            // A sole voter's timer must not run in circles while its vote is on the way to the disk.
            shared.election_at = shared.now + shared.settings.election_timeout;
        }
        let end = shared.log.last();
        // A request promises not to campaign again in this term with another log, and our own vote, so it waits for the disk.
        shared.ask_voters(shared.term, &RaftMessage::RequestVote { end, transfer }, |shared, envelope| {
            let held = shared.durability.after_ballot(envelope);
            assert!(held.is_none(), "a vote just cast is durable already");
        });
    }

    fn count_votes(&mut self, out: &mut Vec<ConsensusEffect>) {
        let (votes, is_pre_vote) = match &self.state {
            State::PreCandidate(votes) => (votes, true),
            State::Candidate(votes) => (votes, false),
            _ => return,
        };
        match quorum::vote_result(self.shared.configuration(), votes) {
            VoteResult::Open => {}
            VoteResult::Won if is_pre_vote => self.become_candidate(false, out),
            VoteResult::Won => self.become_leader(),
            VoteResult::Lost => self.become_follower(None, out),
        }
    }

    fn become_leader(&mut self) {
        self.shared.leader = Some(self.shared.member());
        self.state = State::Leader(Box::new(Leader::new(&mut self.shared)));
    }

    /// Our vote is durable, so it counts like any other.
    pub(super) fn on_own_vote_durable(&mut self, out: &mut Vec<ConsensusEffect>) {
        self.on_vote(self.shared.member(), true, out);
    }

    pub(super) fn on_vote(&mut self, from: MemberId, granted: bool, out: &mut Vec<ConsensusEffect>) {
        if let State::Candidate(votes) = &mut self.state {
            votes.insert(from, granted);
            self.count_votes(out);
        }
    }

    pub(super) fn on_pre_vote_reply(&mut self, from: MemberId, term: Term, granted: bool, out: &mut Vec<ConsensusEffect>) {
        if !granted && term > self.shared.term {
            return self.begin_term(term, None, out);
        }
        let asked = self.shared.term.next();
        if let State::PreCandidate(votes) = &mut self.state
            && (!granted || term == asked)
        {
            votes.insert(from, granted);
            self.count_votes(out);
        }
    }

    /// Someone leads this term and it is not us. Says no, and distrusts, if that cannot be.
    pub(super) fn follow(&mut self, leader: MemberId, out: &mut Vec<ConsensusEffect>) -> bool {
        if self.shared.leader.is_some_and(|known| known != leader) {
            self.shared.distrust(leader, "a second leader in one term", out);
            return false;
        }
        if self.shared.leader.is_none() || !matches!(self.state, State::Follower) {
            self.become_follower(Some(leader), out);
        }
        self.shared.leader_heard = self.shared.now;
        self.shared.rearm();
        true
    }

    pub(super) fn on_timeout_now(&mut self, from: MemberId, out: &mut Vec<ConsensusEffect>) {
        let votes = self.shared.configuration().is_voter(self.shared.member());
        if self.follow(from, out) && votes && !self.shared.durability.has_failed() {
            self.become_candidate(true, out);
        }
    }

    /// Enters a later term. Whatever the old one had of ours is refused, or unknown.
    pub(super) fn begin_term(&mut self, term: Term, vote: Option<MemberId>, out: &mut Vec<ConsensusEffect>) {
        assert!(term > self.shared.term, "term {term} after {}", self.shared.term);
        self.become_follower(None, out);
        self.shared.abandon_sent_proposals(out);
        self.shared.term = term;
        self.shared.vote = vote;
        self.shared.record_ballot();
    }

    pub(super) fn become_follower(&mut self, leader: Option<MemberId>, out: &mut Vec<ConsensusEffect>) {
        let left = core::mem::replace(&mut self.state, State::Follower);
        let shared = &mut self.shared;
        if shared.leader.is_some() {
            shared.forget_leader(out);
        }
        shared.leader = leader;
        if let State::Leader(left) = left {
            left.rounds.refuse(shared, out);
            shared.abandon_sent_proposals(out);
            shared.rearm();
        }
    }
}
