//! ② Raft: elections, replication, linearizable reads. Pure: no clock, socket, disk or chance of its own.
//!
//! One write's way: [`proposal`] takes it, the leader appends it to its [`log`] and to the WAL's write in the making, `flush`
//! hands that write to the disk and, at the same time, [`replication`] sends the entries on. What promises durability waits in
//! [`durability`]. What a [`quorum`] has durably is committed and goes to the machine.
//!
//! Whom we listen to: a message for another member, or in our own name, is a clone's or a stray and is dropped with `Distrust`.
//! From a member that is not in our configuration, only what a member of a *newer* one may say is taken, because ours may lag
//! (Raft §6): appends and heartbeats of a leader, and vote requests of a log that is longer than ours.
//!
//! Not here yet: snapshots to followers below the WAL's start, reconfiguration by clients, leases.

mod display;
mod durability;
mod election;
mod io;
mod log;
mod membership;
mod message;
mod proposal;
mod quorum;
mod read_index;
mod replication;

pub use crate::entry::{Configuration, Entry, Payload};
pub use io::{ConsensusEffect, ConsensusInput, Proposal};
pub use message::{Envelope, ForwardMessage, ForwardRefusal, Message, RaftMessage, ReadMessage, Role};

use self::{
    durability::Durability,
    log::Log,
    membership::Membership,
    proposal::{Proposals, Window},
    read_index::{Reads, Rounds},
    replication::{Acknowledgement, Progress},
};
use crate::command::RaftStatus;
use crate::types::{Boot, LogId, LogIndex, MemberId, Monotonic, Now, Term, WriteNumber};
use crate::wal::{Record, Recovered};
use alloc::{boxed::Box, collections::BTreeMap, vec::Vec};
use core::time::Duration;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

/// What a member is told at start and never changes in one life.
#[derive(Clone, Debug)]
pub struct Settings {
    pub member: MemberId,
    pub boot: Boot,
    pub heartbeat_interval: Duration,
    /// T: an election timeout is drawn from [T, 1.5 T).
    pub election_timeout: Duration,
    pub pre_vote: bool,
    /// The first timeout after a start is drawn from [T/2, T), if `pre_vote` keeps that harmless (etcd's
    /// `--initial-election-tick-advance`).
    pub advance_first_election: bool,
    /// Seeds this actor's own stream of chance.
    pub seed: [u8; 32],
    pub limits: Limits,
}

/// The named bounds of the consensus actor. Tiny ones make the simulator reach rare paths.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries and bytes in one append message.
    pub append_entries: usize,
    pub append_bytes: usize,
    /// Append messages on their way to one follower, unanswered.
    pub inflight_appends: usize,
    /// Bytes on their way to one follower, unanswered.
    pub inflight_bytes: usize,
    /// Bytes of entries kept in memory behind the applied index; older ones are read from the WAL.
    pub tail_bytes: usize,
    /// Entries that are appended but not applied, above which proposals are refused.
    pub unapplied_entries: u64,
    /// Proposals of this member waiting for an answer from the log.
    pub pending_proposals: usize,
    /// Reads waiting for a round.
    pub pending_reads: usize,
    /// Request ids remembered per member and boot against a second append.
    pub forward_window: usize,
    /// Bytes of entries appended but not applied, above which a leader refuses proposals; of committed ones alone, above which a
    /// follower takes no new entries until some are applied. A log in memory thus holds at most about twice as much.
    pub unapplied_bytes: usize,
    /// Entries kept in the WAL although every member has them and the state store is synced beyond them.
    pub retained_entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            append_entries: 4_096,
            append_bytes: 1 << 20,
            inflight_appends: 256,
            inflight_bytes: 8 << 20,
            tail_bytes: 64 << 20,
            unapplied_entries: 5_000,
            pending_proposals: 16_384,
            pending_reads: 65_536,
            forward_window: 65_536,
            unapplied_bytes: 256 << 20,
            retained_entries: 5_000,
        }
    }
}

/// How far a peer's term, or its log, may be ahead of this member's own to be believed. A member adopts a higher term from anyone
/// and makes it durable, so a single flipped bit could bring the whole cluster to the end of its numbers, where no election is
/// possible any more. Honest members never come so far apart: with a thousand elections a second for a hundred thousand years, or a
/// million entries a second for a hundred. And no single message takes more than one 4,096th of the numbers there are.
const AHEAD_MAX: u64 = 1 << 52;

/// The Raft actor of one member.
#[derive(Debug)]
pub struct Consensus {
    settings: Settings,
    rng: ChaCha8Rng,
    now: Monotonic,
    term: Term,
    vote: Option<MemberId>,
    state: State,
    /// Who leads this term, as far as known; this member itself if it leads.
    leader: Option<MemberId>,
    /// When the leader was last heard: until T has passed since, its followers stick to it.
    leader_heard: Monotonic,
    /// When a member that does not lead begins to campaign.
    election_at: Monotonic,
    log: Log,
    membership: Membership,
    durability: Durability,
    /// Invariant: `applied <= delivered <= commit <= log.last()`.
    commit: LogIndex,
    /// Handed to the machine through here.
    delivered: LogIndex,
    applied: LogIndex,
    state_synced: LogIndex,
    /// Every member's log is known to agree durably through here.
    replicated: LogIndex,
    released: LogIndex,
    /// The newest commit index that the WAL was told.
    commit_recorded: LogIndex,
    /// What to answer the leader at the next flush.
    acknowledgement: Option<Acknowledgement>,
    proposals: Proposals,
    reads: Reads,
    announced: (Term, Role, Option<MemberId>),
    leader_changes: u64,
}

#[derive(Debug)]
enum State {
    Follower,
    /// Who would vote for this member.
    PreCandidate(BTreeMap<MemberId, bool>),
    /// Who voted.
    Candidate(BTreeMap<MemberId, bool>),
    Leader(Box<Leader>),
}

/// What only a leader has.
#[derive(Debug)]
struct Leader {
    /// Every other member, voter or learner.
    peers: BTreeMap<MemberId, Progress>,
    rounds: Rounds,
    /// Forwarded requests seen in this term, by the member that took them.
    windows: BTreeMap<MemberId, Window>,
    transfer: Option<Transfer>,
    heartbeat_at: Monotonic,
    /// The first entry of this term.
    term_start: LogIndex,
}

/// Leadership on its way to another member. Proposals are held meanwhile.
#[derive(Debug)]
struct Transfer {
    target: MemberId,
    deadline: Monotonic,
    /// `TimeoutNow` has left.
    asked: bool,
}

impl Consensus {
    /// `configuration` is the one stored with `applied` in the state store (for a new member: the bootstrap one); entries of
    /// the recovered log after it may change it.
    ///
    /// # Panics
    /// If the recovered log ends before `applied`, or begins after it: such a member has lost what it promised to keep.
    #[must_use]
    pub fn new(settings: Settings, recovered: Recovered, configuration: Configuration, applied: LogIndex, now: Now) -> Self {
        let Recovered { term, vote, commit, before, entries, planner, .. } = recovered;
        let mut membership = Membership::new(applied, configuration);
        for entry in entries.iter().filter(|entry| entry.id.index > applied) {
            if let Payload::Configuration { configuration, .. } = &entry.payload {
                membership.append(entry.id.index, configuration.clone());
            }
        }
        let mut log = Log::new(before, entries);
        let last = log.last().index;
        assert!(last >= applied, "the log ends at {last} but the state store has applied {applied}");
        assert!(log.first() <= applied.next(), "the log begins at {} but the state store has applied only {applied}", log.first());
        if log.first() <= applied {
            log.deliver(log.first(), applied);
            log.applied(log.first(), applied);
        }
        let mut consensus = Self {
            rng: ChaCha8Rng::from_seed(settings.seed),
            settings,
            now: now.monotonic,
            term,
            vote,
            state: State::Follower,
            leader: None,
            leader_heard: now.monotonic,
            election_at: now.monotonic,
            log,
            membership,
            durability: Durability::new(planner, applied),
            commit: commit.max(applied).min(last),
            delivered: applied,
            applied,
            state_synced: LogIndex::default(),
            replicated: LogIndex::default(),
            released: LogIndex::default(),
            commit_recorded: commit,
            acknowledgement: None,
            proposals: Proposals::default(),
            reads: Reads::default(),
            announced: (term, Role::Follower, None),
            leader_changes: 0,
        };
        consensus.arm_first();
        consensus.check_invariants();
        consensus
    }

    /// When to `step` with `Wake`, if nothing else happens first.
    #[must_use]
    pub fn deadline(&self) -> Monotonic {
        if let State::Leader(leader) = &self.state {
            return leader.heartbeat_at;
        }
        let waiting = [self.proposals.oldest_held(), self.reads.oldest_unsent()].into_iter().flatten();
        waiting.map(|since| since + self.settings.election_timeout).fold(self.election_at, Monotonic::min)
    }

    /// Advances by one input; accumulates what `flush` will write and append.
    pub fn step(&mut self, now: Now, input: ConsensusInput, out: &mut Vec<ConsensusEffect>) {
        self.now = self.now.max(now.monotonic);
        match input {
            ConsensusInput::Wake => self.on_wake(out),
            ConsensusInput::Receive(envelope) => self.on_receive(envelope, out),
            ConsensusInput::PeerClosed(peer) => self.on_peer_closed(peer, out),
            ConsensusInput::Propose(proposals) => self.on_propose(proposals, out),
            ConsensusInput::Read(read) => self.on_read(read, out),
            ConsensusInput::Durable(number) => self.on_durable(number, out),
            ConsensusInput::LogRead { segment, offset, bytes } => self.on_log_read(segment, offset, &bytes),
            ConsensusInput::Applied(index) => self.on_applied(index),
            ConsensusInput::StateSynced(index) => self.on_state_synced(index),
            ConsensusInput::DiskFailed => self.on_disk_failed(),
            ConsensusInput::Transfer(target) => self.on_transfer(target),
        }
        self.expire_proposals(out);
        self.expire_reads(out);
        self.announce(out);
        self.check_invariants();
    }

    /// Emits at most one WAL write, and to each peer what its window allows.
    pub fn flush(&mut self, now: Now, out: &mut Vec<ConsensusEffect>) {
        self.now = self.now.max(now.monotonic);
        self.route_proposals(out);
        self.advance_commit();
        self.route_reads(out);
        if self.begin_round(out) {
            self.send_heartbeats(out);
        }
        self.replicate(out);
        self.send_acknowledgement(out);
        self.write(out);
        self.deliver(out);
        self.log.evict(self.applied.min(self.durability.durable()), self.settings.limits.tail_bytes);
        self.announce(out);
        self.check_invariants();
    }

    #[must_use]
    pub fn status(&self) -> RaftStatus {
        RaftStatus {
            member: self.settings.member,
            leader: self.leader,
            term: self.term,
            committed: self.commit,
            applied: self.applied,
            durable: self.durability.durable(),
            first: self.durability.planner().first(),
            is_learner: self.configuration().learners.contains(&self.settings.member),
            leader_changes: self.leader_changes,
            proposals_pending: self.proposals.len() as u64,
        }
    }

    /// Whom a leader should hand over to: the voter that is furthest, of equals the one heard last. `None` if this member does not
    /// lead, or votes alone.
    #[must_use]
    pub fn successor(&self) -> Option<MemberId> {
        let State::Leader(leader) = &self.state else { return None };
        let voters = leader.peers.iter().filter(|(peer, _)| self.configuration().voters.contains(peer));
        voters.max_by_key(|(_, progress)| (progress.matched, progress.heard)).map(|(peer, _)| *peer)
    }

    /// The configuration in force: the last in the log, committed or not (Raft §6).
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        self.membership.current()
    }

    /// The last entry of the log, durable or not.
    #[must_use]
    pub fn last(&self) -> LogId {
        self.log.last()
    }

    /// The term of an entry; `None` beyond the end, and where it is not known any more.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term(index)
    }

    /// An entry that is still in memory: for those who watch from outside.
    #[must_use]
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.log.get(index)
    }

    fn on_receive(&mut self, envelope: Envelope, out: &mut Vec<ConsensusEffect>) {
        let Envelope { from, to, term, message } = envelope;
        let doubt = self.check_sender(from, to, &message).and_then(|()| self.check_numbers(term, &message));
        if let Err(reason) = doubt {
            return self.distrust(from, reason, out);
        }
        match &message {
            Message::Raft(RaftMessage::PreVote { end }) => return self.on_pre_vote(from, term, *end, out),
            Message::Raft(RaftMessage::PreVoteReply { granted }) => return self.on_pre_vote_reply(from, term, *granted, out),
            Message::Raft(RaftMessage::RequestVote { transfer, .. }) if self.ignores_campaign(term, *transfer) => return,
            _ => {}
        }
        if term < self.term {
            return self.on_stale(from, message, out);
        }
        if term > self.term {
            self.begin_term(term, None, out);
        }
        match message {
            Message::Raft(message) => self.on_raft(from, message, out),
            Message::Read(message) => self.on_read_message(from, message, out),
            Message::Forward(message) => self.on_forward_message(from, message, out),
        }
    }

    /// Of the present term.
    fn on_raft(&mut self, from: MemberId, message: RaftMessage, out: &mut Vec<ConsensusEffect>) {
        match message {
            RaftMessage::PreVote { .. } | RaftMessage::PreVoteReply { .. } => {}
            RaftMessage::RequestVote { end, .. } => self.on_request_vote(from, end, out),
            RaftMessage::Vote { granted } => self.on_vote(from, granted, out),
            RaftMessage::Append { previous, entries, commit, round } => self.on_append(from, previous, entries, commit, round, out),
            RaftMessage::Appended { matched, round } => self.on_appended(from, matched, round, out),
            RaftMessage::AppendRejected { previous, hint, round } => self.on_append_rejected(from, previous, hint, round, out),
            RaftMessage::Heartbeat { commit, round, replicated } => self.on_heartbeat(from, commit, round, replicated, out),
            RaftMessage::HeartbeatReply { round } => self.on_heartbeat_reply(from, round, out),
            RaftMessage::TimeoutNow => self.on_timeout_now(from, out),
        }
    }

    /// Whether a message can be from whom it claims to be.
    fn check_sender(&self, from: MemberId, to: MemberId, message: &Message) -> Result<(), &'static str> {
        if to != self.settings.member {
            return Err("sends what is meant for another member");
        }
        if from == self.settings.member {
            return Err("speaks in this member's name");
        }
        let lagging = match message {
            Message::Raft(RaftMessage::Append { .. } | RaftMessage::Heartbeat { .. }) => true,
            Message::Raft(RaftMessage::PreVote { end } | RaftMessage::RequestVote { end, .. }) => *end > self.log.last(),
            _ => false,
        };
        if lagging || self.configuration().contains(from) { Ok(()) } else { Err("not in the configuration") }
    }

    /// Whether a cluster can have come to the term and the log that a message speaks of.
    fn check_numbers(&self, term: Term, message: &Message) -> Result<(), &'static str> {
        if term.0.saturating_sub(self.term.0) > AHEAD_MAX {
            return Err("speaks of a term that no election has reached");
        }
        if message.highest_index().0.saturating_sub(self.log.last().index.0) > AHEAD_MAX {
            return Err("speaks of an entry that no log has reached");
        }
        Ok(())
    }

    /// From an earlier term. A leader or candidate that has not heard is told; a member that asked one must ask again.
    fn on_stale(&mut self, from: MemberId, message: Message, out: &mut Vec<ConsensusEffect>) {
        let reply = match message {
            Message::Raft(RaftMessage::Append { .. } | RaftMessage::Heartbeat { .. }) => RaftMessage::HeartbeatReply { round: 0 }.into(),
            Message::Raft(RaftMessage::RequestVote { .. }) => RaftMessage::Vote { granted: false }.into(),
            Message::Forward(ForwardMessage::Request(proposals)) => {
                let requests = proposals.into_iter().map(|proposal| proposal.request).collect();
                ForwardMessage::Refused { requests, refusal: ForwardRefusal::NotLeader }.into()
            }
            Message::Read(ReadMessage::Request(reads)) => ReadMessage::Refused { reads }.into(),
            _ => return,
        };
        self.send_after_ballot(from, reply, out);
    }

    fn on_durable(&mut self, number: WriteNumber, out: &mut Vec<ConsensusEffect>) {
        if self.durability.on_durable(number) {
            self.on_own_vote_durable(out);
        }
        while let Some(envelope) = self.durability.released() {
            out.push(ConsensusEffect::Send(envelope));
        }
        self.advance_commit();
    }

    fn on_applied(&mut self, index: LogIndex) {
        assert!(index <= self.delivered, "applied {index}, but only {} was delivered", self.delivered);
        if index > self.applied {
            self.log.applied(self.applied.next(), index);
            self.applied = index;
            self.membership.compact(index);
        }
    }

    fn on_state_synced(&mut self, index: LogIndex) {
        self.state_synced = self.state_synced.max(index);
        self.release_log();
    }

    /// Nothing promised from now on could be kept: no write, no vote, no acknowledgement, and no leadership for longer than it
    /// takes to hand it over.
    fn on_disk_failed(&mut self) {
        self.durability.fail();
        self.flee();
    }

    /// Lets go of the log that neither this member's state store nor any other member needs.
    fn release_log(&mut self) {
        let through = self.state_synced.min(self.replicated).0.saturating_sub(self.settings.limits.retained_entries);
        if through > self.released.0 {
            self.released = LogIndex(through);
            self.durability.planner_mut().release(self.released);
            self.log.compact(self.durability.planner().first());
        }
    }

    fn write(&mut self, out: &mut Vec<ConsensusEffect>) {
        if self.durability.will_seal() && self.commit > self.commit_recorded {
            self.commit_recorded = self.commit;
            self.durability.record(&Record::Commit(self.commit));
        }
        if let Some((number, ops, then)) = self.durability.seal(self.now, self.log.last().index) {
            out.push(ConsensusEffect::Write { number, ops, then });
        }
        while let Some((segment, length)) = self.durability.planner_mut().prepare() {
            out.push(ConsensusEffect::Prepare { segment, length });
        }
    }

    /// Hands committed entries to the machine. Those of our own requests are answered there.
    fn deliver(&mut self, out: &mut Vec<ConsensusEffect>) {
        while self.delivered < self.commit {
            let from = self.delivered.next();
            let batch = self.settings.limits.append_entries.max(1) as u64;
            let through = self.commit.min(LogIndex(self.delivered.0.saturating_add(batch)));
            let entries = self.log.deliver(from, through);
            for entry in &*entries {
                if let Some(request) = entry.payload.request().filter(|request| request.member == self.settings.member) {
                    self.proposals.committed(request);
                }
            }
            out.push(ConsensusEffect::Committed(entries));
            self.delivered = through;
        }
    }

    /// The term of an entry in memory or in the WAL; `None` beyond the end, and where it was released.
    fn term_of(&self, index: LogIndex) -> Option<Term> {
        self.log.term(index).or_else(|| self.durability.planner().term(index))
    }

    fn announce(&mut self, out: &mut Vec<ConsensusEffect>) {
        let present = (self.term, self.role(), self.leader);
        if present == self.announced {
            return;
        }
        if self.leader.is_some() && self.leader != self.announced.2 {
            self.leader_changes += 1;
        }
        self.announced = present;
        out.push(ConsensusEffect::RoleChanged { term: self.term, role: present.1, leader: self.leader });
    }

    fn envelope(&self, to: MemberId, message: Message) -> Envelope {
        Envelope { from: self.settings.member, to, term: self.term, message }
    }

    fn send(&self, to: MemberId, message: Message, out: &mut Vec<ConsensusEffect>) {
        out.push(ConsensusEffect::Send(self.envelope(to, message)));
    }

    /// A message whose term must be durable before anyone may rely on it.
    fn send_after_ballot(&mut self, to: MemberId, message: Message, out: &mut Vec<ConsensusEffect>) {
        let envelope = self.envelope(to, message);
        if let Some(envelope) = self.durability.after_ballot(envelope) {
            out.push(ConsensusEffect::Send(envelope));
        }
    }

    fn distrust(&self, peer: MemberId, reason: &'static str, out: &mut Vec<ConsensusEffect>) {
        out.push(ConsensusEffect::Distrust { peer, reason });
    }

    fn check_invariants(&self) {
        let LogId { term: last_term, index: last } = self.log.last();
        assert!(self.applied <= self.delivered, "applied {} beyond delivered {}", self.applied, self.delivered);
        assert!(self.delivered <= self.commit, "delivered {} beyond commit {}", self.delivered, self.commit);
        assert!(self.commit <= last, "commit {} beyond the log's end {last}", self.commit);
        assert!(self.durability.durable() <= last, "durable {} beyond the log's end {last}", self.durability.durable());
        assert!(last_term <= self.term, "an entry of term {last_term} in term {}", self.term);
        let member = self.settings.member;
        match &self.state {
            State::Follower => assert_ne!(self.leader, Some(member), "follows itself"),
            State::PreCandidate(_) => assert_eq!(self.leader, None, "campaigns against a leader it knows"),
            State::Candidate(_) => assert_eq!((self.leader, self.vote), (None, Some(member)), "stands without its own vote"),
            State::Leader(leader) => {
                assert_eq!((self.leader, self.vote), (Some(member), Some(member)), "leads without its own vote");
                assert!(leader.term_start <= last, "leads without an entry of its own");
            }
        }
    }
}
