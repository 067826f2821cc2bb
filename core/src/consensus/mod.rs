//! ② Raft: elections, replication, linearizable reads. Pure: no clock, socket, disk or chance of its own.
//!
//! One write's way through a leader and one of its followers:
//!
//! ```text
//!            leader                                          follower
//!  Propose ─> held ─ flush ─> log ─┬─ Write ─> its disk
//!                                  └─ Append ──────────────> log ── Write ─> its disk
//!                                                                              │
//!                                      matched <── Appended ──────────── Durable
//!      Durable ─> own part ─┐             │
//!                           └── quorum ───┘
//!                                 │
//!                              commit ─ Committed ─> machine
//!                                 └─ Append, Heartbeat ────> commit ─ Committed ─> machine
//! ```
//!
//! **What waits for the disk, and why.** A promise is worth what survives a power cut. Three messages promise: a vote (no other in
//! this term), a request for votes (it holds the candidate's own), an acknowledgement (these entries are kept). They leave with the
//! write that holds what they promise, see [`durability`]. So does the leader's own part in the quorum: it counts itself once its
//! own disk has the entry. All else leaves at once; an append need not wait, because it promises nothing of the sender's disk, and
//! so the disks of leader and followers work at the same time.
//!
//! **Why truncation is a record in the log.** A leader may overrule entries that this member has on disk but no quorum ever had.
//! Their bytes are not overwritten: a crash between the overwriting and its sync would leave neither the old entries nor the new,
//! and what is below the synced mark could not be told from rot any more. A `Truncate` record says that what follows an index is
//! void, the new entries stand behind it, and reading all in order gives the log in force. What is committed is never truncated.
//!
//! **A round of reads.** A linearizable read must not be older than any write that was acknowledged before the read came. The leader
//! knows no newer write than its commit index, unless it was deposed without knowing. So it notes the index and asks a quorum
//! whether it still leads, see [`read_index`]; the answer then comes from any state applied to that index:
//!
//! ```text
//!  Read r1, r2 ─> round 7 begins: index 90 ─ Heartbeat round=7 ─> followers
//!  Read r3 ────> waits: a question that has left      │ HeartbeatReply round=7
//!                does not speak for what came later   v
//!                               a quorum has answered 7: r1, r2 ready at 90; round 8 begins for r3
//! ```
//!
//! Whom we listen to: a message for another member, or in our own name, is a clone's or a stray and is dropped with `Distrust`.
//! From a member that is not in our configuration, only what a member of a *newer* one may say is taken, because ours may lag
//! (Raft §6): appends and heartbeats of a leader, and vote requests of a log that is longer than ours.
//!
//! The rooms: [`Consensus`] turns inputs into calls and changes roles, see [`election`]. What every role has is in [`shared`]; what
//! only a leader has is in [`leader`], whose methods nobody else can reach. [`follower`] takes what [`replication`] sends;
//! [`proposal`] and [`read_index`] hold both ends of theirs.
//!
//! Not here yet: reconfiguration by clients.

mod cluster_clock;
mod display;
mod durability;
mod election;
mod follower;
mod io;
mod leader;
mod log;
mod membership;
mod message;
mod progress;
mod proposal;
mod quorum;
mod read_index;
mod replication;
mod shared;
mod snapshot;

pub use crate::entry::{Configuration, Entry, Payload};
pub use io::{ConsensusEffect, ConsensusInput, Proposal};
pub use message::{Envelope, ForwardMessage, ForwardRefusal, LeaseMessage, Message, RaftMessage, ReadMessage, Role};
pub use snapshot::{Chunk, Installable, Position, Snapshot, SnapshotId, SnapshotMessage};

use self::{
    cluster_clock::ClusterClock, durability::Durability, follower::Append, leader::Leader, log::Log, membership::Membership,
    proposal::Proposals, read_index::Reads, shared::Shared,
};
use crate::command::RaftStatus;
use crate::types::{Boot, LogId, LogIndex, MemberId, Monotonic, Now, RequestId, Term, WallMs, WriteNumber};
use crate::wal::Recovered;
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
    /// Entries kept in the WAL although no member needs them and the state store is synced beyond them
    /// (`--snapshot-catchup-entries`).
    pub retained_entries: u64,
    /// Bytes of segments kept for other members alone. Beyond it the oldest go, whoever lacks them.
    pub kept_bytes: u64,
    /// A member that the leader has not heard for so long does not hold the log: it is given a snapshot when it is back.
    pub absent_after: Duration,
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
            kept_bytes: 1 << 30,
            absent_after: Duration::from_secs(10),
        }
    }
}

/// How far a peer's term, or its log, may be ahead of this member's own to be believed. A member adopts a higher term from anyone
/// and makes it durable, so a single flipped bit could bring the whole cluster to the end of its numbers, where no election is
/// possible any more. Honest members never come so far apart: with a thousand elections a second for a hundred thousand years, or a
/// million entries a second for a hundred. And no single message takes more than one 4,096th of the numbers there are.
const AHEAD_MAX: u64 = 1 << 52;

/// The log that this member keeps for others: neither its own state store nor `retained_entries` needs it any more. Bounded by
/// `kept_bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeptForOthers {
    pub entries: u64,
    /// Of whole segments, which is how log space goes.
    pub bytes: u64,
    /// Whose log is shortest, as a leader knows it.
    pub slowest: Option<MemberId>,
}

/// The Raft actor of one member.
#[derive(Debug)]
pub struct Consensus {
    shared: Shared,
    state: State,
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
        let mut cluster_clock = ClusterClock::default();
        entries.iter().for_each(|entry| cluster_clock.on_entry(entry));
        let mut log = Log::new(before, entries);
        let last = log.last().index;
        assert!(last >= applied, "the log ends at {last} but the state store has applied {applied}");
        assert!(log.first() <= applied.next(), "the log begins at {} but the state store has applied only {applied}", log.first());
        if log.first() <= applied {
            log.deliver(log.first(), applied);
            log.applied(log.first(), applied);
        }
        let mut shared = Shared {
            rng: ChaCha8Rng::from_seed(settings.seed),
            settings,
            now: now.monotonic,
            wall: now.wall,
            cluster_clock,
            term,
            vote,
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
        shared.arm_first();
        let consensus = Self { shared, state: State::Follower };
        consensus.check_invariants();
        consensus
    }

    /// Tells a starting member the latest time that its state store has: the log may not go back that far.
    pub fn remember_time(&mut self, time: WallMs) {
        self.shared.cluster_clock.on_logged(time);
    }

    /// The cluster's time as of the last input, if this member leads and gives it.
    #[must_use]
    pub fn cluster_time(&self) -> Option<WallMs> {
        self.leader().map(|_| self.shared.cluster_time())
    }

    /// When to `step` with `Wake`, if nothing else happens first.
    #[must_use]
    pub fn deadline(&self) -> Monotonic {
        if let Some(leader) = self.leader() {
            return leader.heartbeat_at;
        }
        let Shared { settings, proposals, reads, election_at, .. } = &self.shared;
        let waiting = [proposals.oldest_held(), reads.oldest_unsent()].into_iter().flatten();
        waiting.map(|since| since + settings.election_timeout).fold(*election_at, Monotonic::min)
    }

    /// Advances by one input; accumulates what `flush` will write and append.
    pub fn step(&mut self, now: Now, input: ConsensusInput, out: &mut Vec<ConsensusEffect>) {
        self.shared.now = self.shared.now.max(now.monotonic);
        self.shared.wall = now.wall;
        match input {
            ConsensusInput::Wake => self.on_wake(out),
            ConsensusInput::Receive(envelope) => self.on_receive(envelope, out),
            ConsensusInput::PeerClosed(peer) => self.on_peer_closed(peer, out),
            ConsensusInput::Propose(proposals) => self.shared.on_propose(proposals, out),
            ConsensusInput::Read(read) => self.on_read(read, out),
            ConsensusInput::Durable(number) => self.on_durable(number, out),
            ConsensusInput::LogRead { segment, offset, bytes } => {
                if let Some((leader, shared)) = self.leading() {
                    leader.on_log_read(segment, offset, &bytes, shared);
                }
            }
            ConsensusInput::Applied(index) => self.shared.on_applied(index),
            ConsensusInput::StateSynced(index) => self.shared.on_state_synced(index),
            ConsensusInput::SnapshotEnded(peer) => {
                if let Some((leader, shared)) = self.leading() {
                    leader.on_snapshot_ended(peer, shared);
                }
            }
            ConsensusInput::Install(installable) => match self.state {
                // It has every entry that is committed, or will learn that it leads no more.
                State::Leader(_) => out.push(ConsensusEffect::NotInstalled),
                _ => self.shared.install(installable, out),
            },
            ConsensusInput::DiskFailed => self.on_disk_failed(),
            ConsensusInput::Transfer(target) => {
                if let Some((leader, shared)) = self.leading() {
                    leader.transfer_to(target, shared);
                }
            }
            ConsensusInput::Lease { to, message } => self.shared.send(to, message, out),
        }
        self.shared.expire_proposals(out);
        self.shared.expire_reads(out);
        self.shared.announce(self.role(), out);
        self.check_invariants();
    }

    /// Emits at most one WAL write, and to each peer what its window allows.
    pub fn flush(&mut self, now: Now, out: &mut Vec<ConsensusEffect>) {
        self.shared.now = self.shared.now.max(now.monotonic);
        if let Some((leader, shared)) = self.leading() {
            leader.flush(shared, out);
        } else {
            self.shared.forward_held(out);
            self.shared.ask_for_reads(out);
        }
        self.shared.send_acknowledgement(out);
        self.shared.write(out);
        self.shared.deliver(out);
        self.shared.evict();
        self.shared.announce(self.role(), out);
        self.check_invariants();
    }

    /// Whether this member leads and its log takes entries of its own making: then [`Self::append_own`] appends one.
    #[must_use]
    pub fn takes_own(&self) -> bool {
        self.leader().is_some_and(|leader| leader.transfer.is_none()) && !self.shared.is_full()
    }

    /// Appends an entry of the leader's own making in its own term: it is never forwarded, and lost with the leadership.
    ///
    /// # Panics
    /// If [`Self::takes_own`] says no.
    pub fn append_own(&mut self, proposal: Proposal) {
        assert!(self.takes_own(), "{} is appended by who does not lead", proposal.request);
        self.shared.append_proposal(proposal);
    }

    /// Takes a proposal back that is in no log and on no way to one. `false`: it may be in one.
    pub fn withdraw(&mut self, request: RequestId) -> bool {
        self.shared.withdraw(request)
    }

    #[must_use]
    pub fn status(&self) -> RaftStatus {
        let shared = &self.shared;
        RaftStatus {
            member: shared.settings.member,
            leader: shared.leader,
            term: shared.term,
            committed: shared.commit,
            applied: shared.applied,
            durable: shared.durability.durable(),
            first: shared.durability.planner().first(),
            is_learner: shared.configuration().learners.contains(&shared.settings.member),
            leader_changes: shared.leader_changes,
            proposals_pending: shared.proposals.len() as u64,
        }
    }

    /// Whom a leader should hand over to: the voter that is furthest, of equals the one heard last. `None` if this member does not
    /// lead, or votes alone.
    #[must_use]
    pub fn successor(&self) -> Option<MemberId> {
        self.leader()?.successor(self.configuration())
    }

    /// What of the log is kept for others alone. After a start all of it is, until a leader has told what the others have. Costs a
    /// step for each segment of the log.
    #[must_use]
    pub fn kept_for_others(&self) -> KeptForOthers {
        let Shared { state_synced, released, settings, durability, .. } = &self.shared;
        let unneeded = LogIndex(state_synced.0.saturating_sub(settings.limits.retained_entries));
        let entries = unneeded.0.saturating_sub(released.0);
        if entries == 0 {
            return KeptForOthers::default();
        }
        let slowest = self.leader().and_then(Leader::slowest);
        KeptForOthers { entries, bytes: durability.planner().releasable_bytes(unneeded), slowest }
    }

    /// The configuration in force: the last in the log, committed or not (Raft §6).
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        self.shared.configuration()
    }

    /// The last entry of the log, durable or not.
    #[must_use]
    pub fn last(&self) -> LogId {
        self.shared.log.last()
    }

    /// The term of an entry; `None` beyond the end, and where it is not known any more.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.shared.log.term(index)
    }

    /// Its first entry of the present term, if this member leads.
    #[must_use]
    pub fn term_start(&self) -> Option<LogIndex> {
        self.leader().map(|leader| leader.term_start)
    }

    /// An entry that is still in memory: for those who watch from outside.
    #[must_use]
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        self.shared.log.get(index)
    }

    fn leader(&self) -> Option<&Leader> {
        if let State::Leader(leader) = &self.state { Some(leader) } else { None }
    }

    /// The way to all that only a leader does.
    fn leading(&mut self) -> Option<(&mut Leader, &mut Shared)> {
        if let State::Leader(leader) = &mut self.state { Some((leader, &mut self.shared)) } else { None }
    }

    fn on_receive(&mut self, envelope: Envelope, out: &mut Vec<ConsensusEffect>) {
        let Envelope { from, to, term, message } = envelope;
        let doubt = self.check_sender(from, to, &message).and_then(|()| self.check_numbers(term, &message));
        if let Err(reason) = doubt {
            return self.shared.distrust(from, reason, out);
        }
        match &message {
            Message::Raft(RaftMessage::PreVote { end }) => return self.shared.on_pre_vote(from, term, *end, out),
            Message::Raft(RaftMessage::PreVoteReply { granted }) => return self.on_pre_vote_reply(from, term, *granted, out),
            Message::Raft(RaftMessage::RequestVote { transfer, .. }) if self.shared.ignores_campaign(term, *transfer) => return,
            _ => {}
        }
        if term < self.shared.term {
            return self.on_stale(from, message, out);
        }
        if term > self.shared.term {
            self.begin_term(term, None, out);
        }
        match message {
            Message::Raft(message) => self.on_raft(from, message, out),
            Message::Read(message) => self.on_read_message(from, message, out),
            Message::Forward(message) => self.on_forward_message(from, message, out),
            Message::Lease(message) => self.shared.on_lease_message(from, message, out),
            Message::Snapshot(message) => {
                if !matches!(message, SnapshotMessage::Offer(_)) || self.follow(from, out) {
                    out.push(ConsensusEffect::Snapshot { from, message });
                }
            }
        }
    }

    /// Of the present term.
    fn on_raft(&mut self, from: MemberId, message: RaftMessage, out: &mut Vec<ConsensusEffect>) {
        match message {
            RaftMessage::PreVote { .. } | RaftMessage::PreVoteReply { .. } => {}
            RaftMessage::RequestVote { end, .. } => self.shared.on_request_vote(from, end, out),
            RaftMessage::Vote { granted } => self.on_vote(from, granted, out),
            RaftMessage::Append { previous, entries, commit, round } => {
                let append = Append { previous, entries, commit, round };
                if !append.is_well_formed(self.shared.term) {
                    return self.shared.distrust(from, "appends entries out of order", out);
                }
                if self.follow(from, out) {
                    self.shared.on_append(from, append, out);
                }
            }
            RaftMessage::Appended { matched, round } => {
                if let Some((leader, shared)) = self.leading() {
                    leader.on_appended(from, matched, round, shared, out);
                }
            }
            RaftMessage::AppendRejected { previous, hint, round } => {
                if let Some((leader, shared)) = self.leading() {
                    leader.on_append_rejected(from, previous, hint, round, shared, out);
                }
            }
            RaftMessage::Heartbeat { commit, round, replicated } => {
                if self.follow(from, out) {
                    self.shared.on_heartbeat(from, commit, round, replicated, out);
                }
            }
            RaftMessage::HeartbeatReply { round } => {
                if let Some((leader, shared)) = self.leading() {
                    leader.on_heartbeat_reply(from, round, shared, out);
                }
            }
            RaftMessage::TimeoutNow => self.on_timeout_now(from, out),
        }
    }

    /// A message of this member's other half, with its way and the present term. Only who leads it offers anything.
    #[must_use]
    pub fn envelope(&self, to: MemberId, message: SnapshotMessage) -> Option<Envelope> {
        let may_leave = self.leader().is_some() || !matches!(message, SnapshotMessage::Offer(_));
        may_leave.then(|| self.shared.envelope(to, message))
    }

    /// Whether a message can be from whom it claims to be.
    fn check_sender(&self, from: MemberId, to: MemberId, message: &Message) -> Result<(), &'static str> {
        let member = self.shared.member();
        if to != member {
            return Err("sends what is meant for another member");
        }
        if from == member {
            return Err("speaks in this member's name");
        }
        let lagging = match message {
            Message::Raft(RaftMessage::Append { .. } | RaftMessage::Heartbeat { .. }) => true,
            Message::Snapshot(SnapshotMessage::Offer(_) | SnapshotMessage::Chunk { .. } | SnapshotMessage::Gone { .. }) => true,
            Message::Raft(RaftMessage::PreVote { end } | RaftMessage::RequestVote { end, .. }) => *end > self.last(),
            _ => false,
        };
        if lagging || self.configuration().contains(from) { Ok(()) } else { Err("not in the configuration") }
    }

    /// Whether a cluster can have come to the term and the log that a message speaks of.
    fn check_numbers(&self, term: Term, message: &Message) -> Result<(), &'static str> {
        if term.0.saturating_sub(self.shared.term.0) > AHEAD_MAX {
            return Err("speaks of a term that no election has reached");
        }
        if message.highest_index().0.saturating_sub(self.last().index.0) > AHEAD_MAX {
            return Err("speaks of an entry that no log has reached");
        }
        Ok(())
    }

    /// From an earlier term. A leader or candidate that has not heard is told; a member that asked one must ask again.
    fn on_stale(&mut self, from: MemberId, message: Message, out: &mut Vec<ConsensusEffect>) {
        let reply: Message = match message {
            Message::Raft(RaftMessage::Append { .. } | RaftMessage::Heartbeat { .. }) => RaftMessage::HeartbeatReply { round: 0 }.into(),
            Message::Raft(RaftMessage::RequestVote { .. }) => RaftMessage::Vote { granted: false }.into(),
            Message::Forward(ForwardMessage::Request(proposals)) => {
                let requests = proposals.into_iter().map(|proposal| proposal.request).collect();
                ForwardMessage::Refused { requests, refusal: ForwardRefusal::NotLeader }.into()
            }
            Message::Read(ReadMessage::Request(reads)) => ReadMessage::Refused { reads }.into(),
            Message::Lease(LeaseMessage::Request(calls)) => LeaseMessage::Refused(calls.into_iter().map(|(id, _)| id).collect()).into(),
            _ => return,
        };
        self.shared.send_after_ballot(from, reply, out);
    }

    fn on_durable(&mut self, number: WriteNumber, out: &mut Vec<ConsensusEffect>) {
        if self.shared.durability.on_durable(number) {
            self.on_own_vote_durable(out);
        }
        while let Some(envelope) = self.shared.durability.released() {
            out.push(ConsensusEffect::Send(envelope));
        }
        if let Some((leader, shared)) = self.leading() {
            leader.advance_commit(shared);
        }
    }

    /// Nothing promised from now on could be kept: no write, no vote, no acknowledgement, and no leadership for longer than it
    /// takes to hand it over.
    fn on_disk_failed(&mut self) {
        self.shared.durability.fail();
        if let Some((leader, shared)) = self.leading() {
            leader.transfer_away(shared);
        }
    }

    fn role(&self) -> Role {
        match self.state {
            State::Follower => Role::Follower,
            State::PreCandidate(_) => Role::PreCandidate,
            State::Candidate(_) => Role::Candidate,
            State::Leader(_) => Role::Leader,
        }
    }

    /// What must hold between any two inputs. Cheap enough to run in production: a broken assumption ends the process there too.
    fn check_invariants(&self) {
        let Shared { leader, vote, log, settings, .. } = &self.shared;
        self.shared.check_invariants();
        let member = Some(settings.member);
        match &self.state {
            State::Follower => assert_ne!(*leader, member, "follows itself"),
            State::PreCandidate(_) => assert_eq!(*leader, None, "campaigns against a leader it knows"),
            State::Candidate(_) => assert_eq!((*leader, *vote), (None, member), "a candidate without its own vote"),
            State::Leader(leading) => {
                assert_eq!((*leader, *vote), (member, member), "leads without its own vote");
                assert!(leading.term_start <= log.last().index, "leads without an entry of its own");
            }
        }
    }
}
