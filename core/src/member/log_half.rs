//! The half that must never wait: consensus, the boot gate, what the disk holds back, and clients' requests until the log has
//! decided them.

mod leases;

use self::leases::Leases;
use super::MemberSettings;
use super::orders::{Order, Owed, Report};
use super::reads::{Overdue, Reads};
use super::request::{Answer, Body, Prepared, Request, Ticket};
use super::tickets::Due;
use super::v2_expiry::V2Expiry;
use crate::command::{Alarm, AlarmChange, AlarmKind, Command, RaftStatus, Refusal};
use crate::consensus::{self, Configuration, Consensus, Entry, Envelope, Message, RaftMessage, Role};
use crate::consensus::{ConsensusEffect, ConsensusInput, Proposal};
use crate::lease::Lease;
use crate::mutant::{Mutant, planted};
use crate::storage::WalOp;
use crate::types::{Boot, LeaseId, LogIndex, MemberId, Monotonic, Now, ReadId, RequestId, SegmentId, Term, WallMs, WriteNumber};
use crate::v2::{self, NodePath};
use crate::wal::Recovered;
use alloc::{
    collections::{BTreeMap, VecDeque},
    string::String,
    sync::Arc,
    vec::Vec,
};
use bytes::Bytes;

/// What a host tells the log half.
#[derive(Clone, PartialEq, Debug)]
pub enum LogInput {
    Client(Request),
    /// Nobody waits for this ticket any more; it is not answered.
    Cancel(Ticket),
    Peer(Envelope),
    /// The connection from a peer closed.
    PeerClosed(MemberId),
    /// A peer says, with a reason, that this member must not run.
    Banned(String),
    Wal(WalDone),
    State(Report),
    /// Time may have reached [`LogHalf::deadline`]; early is harmless.
    Wake,
    /// Requests that come from now on are refused as [`Refusal::Stopped`].
    Stop,
}

/// What the WAL's thread has done.
#[derive(Clone, PartialEq, Debug)]
pub enum WalDone {
    /// Every operation of this write, and of those before it, is on stable storage.
    Durable(WriteNumber),
    Read {
        segment: SegmentId,
        offset: u64,
        bytes: Bytes,
    },
    /// An operation failed. Nothing more will become durable in this life.
    Failed(String),
}

/// What a host does for the log half, grouped by who carries it out.
#[derive(Clone, PartialEq, Debug)]
pub enum LogEffect {
    Wal(WalWork),
    Send(Envelope),
    State(Order),
    Answer(Ticket, Result<Answer, Refusal>),
    /// Whom to be connected with. Not before this boot is durable.
    Connect(Configuration),
    Notice(Notice),
    /// End the process, for this reason.
    Fatal(String),
}

/// For the WAL's thread.
#[derive(Clone, PartialEq, Debug)]
pub enum WalWork {
    /// Carry out in order; once the last is durable, say so. The next may be handed over before this one is durable.
    Write { number: WriteNumber, ops: Vec<WalOp> },
    /// Make ready a zero-filled segment in the background; no answer is owed.
    Prepare { segment: SegmentId, length: u64 },
    /// Read from a segment, and answer.
    Read { segment: SegmentId, offset: u64, length: u32 },
}

/// For logs, metrics and whoever shows the member's state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// This boot is durable: clients and peers are heard from now on.
    Opened,
    RoleChanged {
        term: Term,
        role: Role,
        leader: Option<MemberId>,
    },
    /// A peer sent what no correct peer sends, and it was dropped.
    Distrust {
        peer: MemberId,
        reason: &'static str,
    },
    /// The log holds what a leader sent, so nobody may say any more that this member must not run.
    NoLongerFresh,
    /// A peer said so, and was not obeyed.
    BanIgnored(String),
    HandingOver {
        to: MemberId,
    },
    /// A request was refused by the quota, and the alarm is being raised.
    QuotaExceeded {
        stored_bytes: u64,
        quota_bytes: u64,
    },
}

/// A request that is in the log, or on its way there.
#[derive(Debug)]
struct Proposed {
    /// `None`: this member's own.
    ticket: Option<Ticket>,
    deadline: Monotonic,
}

/// Leadership on its way, as a client asked for it.
#[derive(Debug)]
struct Transfer {
    ticket: Ticket,
    deadline: Monotonic,
    /// `None`: whoever is best prepared.
    target: Option<MemberId>,
}

/// The log half of one member.
#[derive(Debug)]
pub struct LogHalf {
    settings: MemberSettings,
    member: MemberId,
    boot: Boot,
    consensus: Consensus,
    effects: Vec<ConsensusEffect>,
    /// Nothing leaves, no id is used and nobody is heard before this boot is durable.
    is_open: bool,
    /// Requests that came before. Bounded by `tickets`.
    early: VecDeque<(Monotonic, Request)>,
    /// Ids are given in this order to proposals and reads; each once in a boot.
    next_sequence: u64,
    /// Gathered since the last flush, for one step of the consensus actor.
    proposals: Vec<Proposal>,
    /// By the sequence of their request ids.
    proposed: BTreeMap<u64, Proposed>,
    due: Due,
    reads: Reads,
    leases: Leases,
    transfers: Vec<Transfer>,
    /// Messages that must not leave before a write is durable, in order of the writes.
    held: VecDeque<(WriteNumber, Vec<Envelope>)>,
    durable: WriteNumber,
    /// What the state half was told of it.
    told_durable: (LogIndex, WriteNumber),
    /// What the state half has told.
    applied: LogIndex,
    stored_bytes: u64,
    no_space: bool,
    /// The request that raises the alarm, if one is under way.
    raising: Option<u64>,
    is_stopping: bool,
    v2_expiry: V2Expiry,
    /// See [`Notice::NoLongerFresh`].
    is_fresh: bool,
    connected: Configuration,
    /// The disk failed: the process ends then, for this reason.
    ends: Option<(Monotonic, String)>,
}

impl LogHalf {
    pub(super) fn new(
        consensus: consensus::Settings,
        settings: MemberSettings,
        recovered: Recovered,
        configuration: Configuration,
        applied: LogIndex,
        leases: impl IntoIterator<Item = (LeaseId, Lease)>,
        now: Now,
    ) -> Self {
        let (member, boot, is_fresh) = (consensus.member, consensus.boot, recovered.holds_only_bootstrap());
        Self {
            leases: Leases::new(settings.leases, leases),
            settings,
            member,
            boot,
            consensus: Consensus::new(consensus, recovered, configuration, applied, now),
            effects: Vec::new(),
            is_open: false,
            early: VecDeque::new(),
            next_sequence: 1,
            proposals: Vec::new(),
            proposed: BTreeMap::new(),
            due: Due::default(),
            reads: Reads::default(),
            transfers: Vec::new(),
            held: VecDeque::new(),
            durable: WriteNumber::default(),
            told_durable: (LogIndex::default(), WriteNumber::default()),
            applied,
            stored_bytes: 0,
            no_space: false,
            raising: None,
            is_stopping: false,
            v2_expiry: V2Expiry::default(),
            is_fresh,
            // Empty, so that the first flush after the opening tells the one in force.
            connected: Configuration::default(),
            ends: None,
        }
    }

    /// When to `step` with `Wake`, if nothing else happens first.
    #[must_use]
    pub fn deadline(&self) -> Monotonic {
        let consensus = if self.is_open || planted(Mutant::H1) { self.consensus.deadline() } else { Monotonic::NEVER };
        let ends = self.ends.as_ref().map_or(Monotonic::NEVER, |(at, _)| *at);
        let clocks = self.leases.deadline().min(self.v2_expiry.due());
        consensus.min(self.due.at()).min(self.reads.due()).min(clocks).min(ends)
    }

    #[must_use]
    pub fn status(&self) -> RaftStatus {
        RaftStatus { applied: self.applied, ..self.consensus.status() }
    }

    /// The consensus actor, for those who watch from outside.
    #[must_use]
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// Requests of clients in the log, or on their way there, that were taken after the one of that number: for those who watch
    /// from outside.
    pub fn proposed_after(&self, sequence: u64) -> impl Iterator<Item = (RequestId, Ticket)> {
        let later = self.proposed.range(sequence + 1..);
        later.filter_map(|(sequence, proposed)| Some((self.request_id(*sequence), proposed.ticket?)))
    }

    /// Whether this boot is durable.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Advances by one input. Most effects come from the flush.
    pub fn step(&mut self, now: Now, input: LogInput, out: &mut Vec<LogEffect>) {
        match input {
            LogInput::Client(request) => self.on_client(now, request, out),
            LogInput::Cancel(ticket) => self.on_cancel(ticket),
            LogInput::Peer(envelope) => self.on_peer(now, envelope, out),
            LogInput::PeerClosed(peer) => {
                if self.is_open {
                    self.step_consensus(now, ConsensusInput::PeerClosed(peer), out);
                }
            }
            // Nobody may stop a member that has a log of its own.
            LogInput::Banned(reason) if self.is_fresh => out.push(LogEffect::Fatal(reason)),
            LogInput::Banned(reason) => out.push(LogEffect::Notice(Notice::BanIgnored(reason))),
            LogInput::Wal(done) => self.on_wal(now, done, out),
            LogInput::State(Report::Applied { index, stored_bytes, no_space }) => {
                self.applied = index;
                self.stored_bytes = stored_bytes;
                self.no_space = no_space;
                self.step_consensus(now, ConsensusInput::Applied(index), out);
                self.on_applied_for_leases(now);
            }
            LogInput::State(Report::V2End(next)) => self.v2_expiry.on_next_end(next),
            LogInput::State(Report::Leases(changes)) => self.on_lease_changes(now, changes),
            LogInput::State(Report::Synced(index)) => self.step_consensus(now, ConsensusInput::StateSynced(index), out),
            LogInput::State(Report::Say { to, message }) => {
                assert!(self.is_open, "a snapshot is spoken of before this boot is durable");
                out.extend(self.consensus.envelope(to, message).map(LogEffect::Send));
            }
            LogInput::State(Report::SnapshotEnded(peer)) => self.step_consensus(now, ConsensusInput::SnapshotEnded(peer), out),
            LogInput::State(Report::Installable(installable)) => self.step_consensus(now, ConsensusInput::Install(*installable), out),
            LogInput::Wake => {
                if self.is_open || planted(Mutant::H1) {
                    self.step_consensus(now, ConsensusInput::Wake, out);
                }
            }
            LogInput::Stop => self.is_stopping = true,
        }
        self.expire(now, out);
        self.expire_v2(now);
        self.check_invariants();
    }

    /// Emits at most one WAL write, the messages to peers, and what the state half must do.
    pub fn flush(&mut self, now: Now, out: &mut Vec<LogEffect>) {
        self.flush_leases(now, out);
        if !self.proposals.is_empty() {
            let proposals = core::mem::take(&mut self.proposals);
            self.step_consensus(now, ConsensusInput::Propose(proposals), out);
        }
        self.consensus.flush(now, &mut self.effects);
        self.route(now, out);
        self.tell_durable(out);
        if self.is_open && self.consensus.configuration() != &self.connected {
            self.connected = self.consensus.configuration().clone();
            out.push(LogEffect::Connect(self.connected.clone()));
        }
        self.check_invariants();
    }

    // Clients.

    fn on_client(&mut self, now: Now, request: Request, out: &mut Vec<LogEffect>) {
        let own = now.monotonic + self.settings.request_timeout;
        let deadline = request.deadline.map_or(own, |theirs| theirs.min(own));
        if self.waiting() >= self.settings.limits.tickets {
            return out.push(LogEffect::Answer(request.ticket, Err(Refusal::TooManyRequests)));
        }
        if !self.is_open {
            self.due.note(deadline);
            self.early.push_back((deadline, request));
            return;
        }
        self.take(now, deadline, request, out);
    }

    fn waiting(&self) -> usize {
        self.early.len() + self.proposed.len() + self.reads.len() + self.transfers.len()
    }

    fn take(&mut self, now: Now, deadline: Monotonic, request: Request, out: &mut Vec<LogEffect>) {
        let Request { ticket, require_leader, body, .. } = request;
        if let Err(refusal) = self.check_serving(require_leader) {
            return out.push(LogEffect::Answer(ticket, Err(refusal)));
        }
        match body {
            Body::Propose(prepared) => match self.check_quota(now, &prepared, out) {
                Ok(()) => drop(self.propose(Some(ticket), deadline, prepared.command)),
                Err(refusal) => out.push(LogEffect::Answer(ticket, Err(refusal))),
            },
            Body::Read => {
                self.reads.insert(ticket, deadline, require_leader, self.settings.limits.read_pause, None);
                self.ask(now, ticket, out);
            }
            Body::Lease(call) => {
                self.reads.insert(ticket, deadline, require_leader, self.settings.limits.read_pause, Some(call));
                self.ask(now, ticket, out);
            }
            Body::Transfer(target) => match self.check_transfer(target) {
                Ok(true) => out.push(LogEffect::Answer(ticket, Ok(Answer::Transferred))),
                Ok(false) => {
                    self.begin_transfer(Transfer { ticket, deadline, target: Some(target) });
                    self.step_consensus(now, ConsensusInput::Transfer(target), out);
                }
                Err(refusal) => out.push(LogEffect::Answer(ticket, Err(refusal))),
            },
            Body::HandOver => match self.consensus.successor() {
                None => out.push(LogEffect::Answer(ticket, Ok(Answer::Transferred))),
                Some(target) => {
                    out.push(LogEffect::Notice(Notice::HandingOver { to: target }));
                    self.begin_transfer(Transfer { ticket, deadline, target: None });
                    self.step_consensus(now, ConsensusInput::Transfer(target), out);
                }
            },
        }
    }

    fn check_serving(&self, require_leader: bool) -> Result<(), Refusal> {
        if self.is_stopping {
            Err(Refusal::Stopped)
        } else if require_leader && self.consensus.status().leader.is_none() {
            Err(Refusal::NoLeader)
        } else {
            Ok(())
        }
    }

    /// Refuses what would grow the store beyond its quota, and tells the cluster. What frees space always passes.
    fn check_quota(&mut self, now: Now, prepared: &Prepared, out: &mut Vec<LogEffect>) -> Result<(), Refusal> {
        let Some(quota_bytes) = self.settings.quota_bytes else { return Ok(()) };
        let leads = self.consensus.status().leader == Some(self.member);
        if prepared.growth_bytes == 0 || self.stored_bytes.saturating_add(prepared.growth_bytes) <= quota_bytes {
            return Ok(());
        }
        if planted(Mutant::Q1) && !leads {
            return Ok(());
        }
        if !self.no_space && self.raising.is_none() {
            out.push(LogEffect::Notice(Notice::QuotaExceeded { stored_bytes: self.stored_bytes, quota_bytes }));
            let alarm = Alarm { member: self.member, kind: AlarmKind::NoSpace };
            let command = Command::Alarm(AlarmChange { alarm, active: true });
            // If it does not get through, the next write that is too large tries again.
            let deadline = now.monotonic + self.settings.request_timeout;
            self.raising = Some(self.propose(None, deadline, crate::machine::encode_command(&command)));
        }
        Err(Refusal::NoSpace)
    }

    fn propose(&mut self, ticket: Option<Ticket>, deadline: Monotonic, command: Bytes) -> u64 {
        let sequence = self.take_sequence();
        self.proposals.push(Proposal { request: self.request_id(sequence), command });
        self.proposed.insert(sequence, Proposed { ticket, deadline });
        self.due.note(deadline);
        sequence
    }

    fn take_sequence(&mut self) -> u64 {
        debug_assert!(self.is_open || planted(Mutant::H1), "an id is used before its boot is durable");
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        sequence
    }

    fn request_id(&self, sequence: u64) -> RequestId {
        RequestId { member: self.member, boot: self.boot, sequence }
    }

    /// Asks for a read index under a fresh id: one of an earlier attempt may still be answered, for an earlier moment.
    fn ask(&mut self, now: Now, ticket: Ticket, out: &mut Vec<LogEffect>) {
        let sequence = self.reads.stale_id().unwrap_or_else(|| self.take_sequence());
        let call = self.reads.ask(ticket, sequence, now.monotonic + self.settings.limits.read_retry);
        let read = ReadId { member: self.member, boot: self.boot, sequence };
        match call {
            Some(call) => self.leases.gather([(read, call)]),
            None => self.step_consensus(now, ConsensusInput::Read(read), out),
        }
    }

    /// `true`: there is nothing to do.
    fn check_transfer(&self, target: MemberId) -> Result<bool, Refusal> {
        if self.consensus.status().leader != Some(self.member) {
            return Err(Refusal::NotLeader);
        }
        if target == self.member {
            return Ok(true);
        }
        if self.consensus.configuration().voters.contains(&target) { Ok(false) } else { Err(Refusal::BadLeaderTransferee) }
    }

    fn begin_transfer(&mut self, transfer: Transfer) {
        self.due.note(transfer.deadline);
        self.transfers.push(transfer);
    }

    fn on_cancel(&mut self, ticket: Ticket) {
        self.reads.cancel(ticket);
        self.early.retain(|(_, request)| request.ticket != ticket);
        self.transfers.retain(|transfer| transfer.ticket != ticket);
        // What is proposed runs its course; its answer finds nobody.
    }

    // Peers.

    fn on_peer(&mut self, now: Now, envelope: Envelope, out: &mut Vec<LogEffect>) {
        // As if it were lost on its way: the sender says it again.
        if !self.is_open && !planted(Mutant::H1) {
            return;
        }
        if matches!(envelope.message, Message::Raft(RaftMessage::Append { .. })) {
            self.lose_freshness(out);
        }
        self.step_consensus(now, ConsensusInput::Receive(envelope), out);
    }

    fn lose_freshness(&mut self, out: &mut Vec<LogEffect>) {
        if core::mem::take(&mut self.is_fresh) {
            out.push(LogEffect::Notice(Notice::NoLongerFresh));
        }
    }

    // The disk.

    fn on_wal(&mut self, now: Now, done: WalDone, out: &mut Vec<LogEffect>) {
        match done {
            WalDone::Durable(number) => {
                self.durable = self.durable.max(number);
                while let Some((_, envelopes)) = self.held.pop_front_if(|(held, _)| *held <= number) {
                    out.extend(envelopes.into_iter().map(LogEffect::Send));
                }
                self.step_consensus(now, ConsensusInput::Durable(number), out);
                self.open(now, out);
            }
            WalDone::Read { segment, offset, bytes } => {
                self.step_consensus(now, ConsensusInput::LogRead { segment, offset, bytes }, out);
            }
            WalDone::Failed(reason) => {
                // What was promised is kept by the others; all that is left to do is to make another lead.
                self.held.clear();
                self.step_consensus(now, ConsensusInput::DiskFailed, out);
                self.ends.get_or_insert((now.monotonic + self.settings.last_words, reason));
            }
        }
    }

    /// The first write, and with it this boot, is durable.
    fn open(&mut self, now: Now, out: &mut Vec<LogEffect>) {
        if self.is_open {
            return;
        }
        self.is_open = true;
        out.push(LogEffect::Notice(Notice::Opened));
        for (deadline, request) in core::mem::take(&mut self.early) {
            self.take(now, deadline, request, out);
        }
    }

    // The consensus actor.

    fn step_consensus(&mut self, now: Now, input: ConsensusInput, out: &mut Vec<LogEffect>) {
        self.consensus.step(now, input, &mut self.effects);
        self.route(now, out);
    }

    fn route(&mut self, now: Now, out: &mut Vec<LogEffect>) {
        let mut effects = core::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                ConsensusEffect::Write { number, ops, then } => {
                    out.push(LogEffect::Wal(WalWork::Write { number, ops }));
                    if planted(Mutant::H2) {
                        out.extend(then.into_iter().map(LogEffect::Send));
                    } else if !then.is_empty() {
                        self.held.push_back((number, then));
                    }
                }
                ConsensusEffect::Prepare { segment, length } => out.push(LogEffect::Wal(WalWork::Prepare { segment, length })),
                ConsensusEffect::ReadLog { segment, offset, length } => out.push(LogEffect::Wal(WalWork::Read { segment, offset, length })),
                ConsensusEffect::Send(envelope) => {
                    assert!(self.is_open || planted(Mutant::H1), "{envelope} leaves before this boot is durable");
                    out.push(LogEffect::Send(envelope));
                }
                ConsensusEffect::Committed(entries) => self.hand_over(entries, out),
                ConsensusEffect::ReadReady(read, index) => {
                    if !self.on_lease_round(now, read.sequence, index, out) {
                        self.serve(read, index, out);
                    }
                }
                ConsensusEffect::RefuseRead(read, _) => {
                    if !self.on_lease_round_refused(now, read.sequence) {
                        self.reads.refuse(now, read.sequence, self.settings.limits.read_retry);
                    }
                }
                ConsensusEffect::Lease { from, message } => self.on_lease_message(now, from, message, out),
                ConsensusEffect::SendSnapshot { to, first } => out.push(LogEffect::State(Order::SendSnapshot { to, first })),
                ConsensusEffect::StopSnapshot(to) => out.push(LogEffect::State(Order::StopSnapshot(to))),
                ConsensusEffect::Snapshot { from, message } => out.push(LogEffect::State(Order::Snapshot { from, message })),
                ConsensusEffect::Install(last) => {
                    self.lose_freshness(out);
                    // Nothing of what the log held counts for what follows.
                    self.tell_durable(out);
                    out.push(LogEffect::State(Order::Install(last)));
                }
                ConsensusEffect::NotInstalled => out.push(LogEffect::State(Order::NotInstalled)),
                ConsensusEffect::Refuse(request, refusal) => self.refuse(request.sequence, refusal, out),
                ConsensusEffect::RoleChanged { term, role, leader } => self.on_role_changed(now, term, role, leader, out),
                ConsensusEffect::Distrust { peer, reason } => out.push(LogEffect::Notice(Notice::Distrust { peer, reason })),
            }
        }
        self.effects = effects;
    }

    /// What is durable can shrink: a truncation takes entries with it, and what replaces them comes in a later write.
    fn tell_durable(&mut self, out: &mut Vec<LogEffect>) {
        let durable = (self.consensus.status().durable, self.durable);
        if durable != self.told_durable {
            self.told_durable = durable;
            out.push(LogEffect::State(Order::Durable { log: durable.0, write: durable.1 }));
        }
    }

    /// Committed entries go to the state half, and with them the tickets that are answered from them. Behind what is durable: an
    /// entry may stand where a durable one was truncated.
    fn hand_over(&mut self, entries: Arc<[Entry]>, out: &mut Vec<LogEffect>) {
        if !planted(Mutant::H3) {
            self.tell_durable(out);
        }
        let mut owed = Vec::new();
        for entry in entries.iter() {
            if let Some(request) = entry.payload.request()
                && request.member == self.member
                && request.boot == self.boot
                && let Some(Proposed { ticket, deadline }) = self.proposed.remove(&request.sequence)
            {
                owed.extend(ticket.map(|ticket| Owed { sequence: request.sequence, ticket, deadline }));
                self.raising.take_if(|raising| *raising == request.sequence);
            }
        }
        out.push(LogEffect::State(Order::Apply { entries, owed }));
    }

    fn serve(&mut self, read: ReadId, index: LogIndex, out: &mut Vec<LogEffect>) {
        let Some((ticket, deadline)) = self.reads.confirm(read.sequence) else { return };
        out.push(if index <= self.applied || planted(Mutant::L5) {
            LogEffect::Answer(ticket, Ok(Answer::Ready))
        } else {
            LogEffect::State(Order::Serve { ticket, deadline, index })
        });
    }

    fn refuse(&mut self, sequence: u64, refusal: Refusal, out: &mut Vec<LogEffect>) {
        self.raising.take_if(|raising| *raising == sequence);
        let refusal = if planted(Mutant::U1) && refusal == Refusal::OutcomeUnknown { Refusal::LeaderChanged } else { refusal };
        if let Some(ticket) = self.proposed.remove(&sequence).and_then(|proposed| proposed.ticket) {
            out.push(LogEffect::Answer(ticket, Err(refusal)));
        }
    }

    fn on_role_changed(&mut self, now: Now, term: Term, role: Role, leader: Option<MemberId>, out: &mut Vec<LogEffect>) {
        self.on_role_for_leases(now, (role == Role::Leader).then_some(term));
        if role == Role::Leader {
            // A quorum voted for what is in this log. The leader itself receives no append that would tell.
            self.lose_freshness(out);
        }
        out.push(LogEffect::Notice(Notice::RoleChanged { term, role, leader }));
        let Some(leader) = leader else { return };
        let own = self.member;
        self.transfers.retain(|transfer| {
            let done = transfer.target.map_or(leader != own, |target| target == leader);
            if done {
                out.push(LogEffect::Answer(transfer.ticket, Ok(Answer::Transferred)));
            }
            !done
        });
    }

    // Time.

    /// See [`Consensus::remember_time`].
    pub(super) fn remember_time(&mut self, time: WallMs) {
        self.consensus.remember_time(time);
    }

    fn expire_v2(&mut self, now: Now) {
        if self.is_open && self.v2_expiry.is_due(now.monotonic, self.consensus.cluster_time()) {
            let request = v2::Request { path: NodePath::default(), change: v2::Change::Expire };
            let deadline = now.monotonic + self.settings.request_timeout;
            self.propose(None, deadline, crate::machine::encode_command(&Command::V2(request)));
        }
    }

    fn expire(&mut self, now: Now, out: &mut Vec<LogEffect>) {
        if let Some((_, reason)) = self.ends.take_if(|(at, _)| *at <= now.monotonic) {
            out.push(LogEffect::Fatal(reason));
        }
        for (ticket, what) in self.reads.overdue(now) {
            match what {
                Overdue::TimedOut => out.push(LogEffect::Answer(ticket, Err(Refusal::TimedOut))),
                Overdue::Again { require_leader } => match self.check_serving(require_leader) {
                    Ok(()) => self.ask(now, ticket, out),
                    Err(refusal) => {
                        self.reads.cancel(ticket);
                        out.push(LogEffect::Answer(ticket, Err(refusal)));
                    }
                },
            }
        }
        if self.due.take(now.monotonic) {
            self.expire_requests(now.monotonic, out);
        }
    }

    /// Looks at everything that has a deadline; what is left sets the next moment to look.
    fn expire_requests(&mut self, now: Monotonic, out: &mut Vec<LogEffect>) {
        let timed_out = |ticket| LogEffect::Answer(ticket, Err(Refusal::TimedOut));
        let due = &mut self.due;
        self.early.retain(|(deadline, request)| {
            let over = due.is_over(*deadline, now);
            out.extend(over.then(|| timed_out(request.ticket)));
            !over
        });
        self.transfers.retain(|transfer| {
            let over = due.is_over(transfer.deadline, now);
            out.extend(over.then(|| timed_out(transfer.ticket)));
            !over
        });
        let over: Vec<u64> =
            self.proposed.iter().filter(|(_, proposed)| due.is_over(proposed.deadline, now)).map(|(sequence, _)| *sequence).collect();
        for sequence in over {
            // In no log, and taken back: it never will be. Else only its leader knows.
            let request = self.request_id(sequence);
            let gathered = self.proposals.iter().position(|proposal| proposal.request == request);
            let withdrawn = gathered.map(|at| self.proposals.remove(at)).is_some() || self.consensus.withdraw(request);
            self.refuse(sequence, if withdrawn { Refusal::TimedOut } else { Refusal::OutcomeUnknown }, out);
        }
    }

    fn check_invariants(&self) {
        assert!(self.is_open || self.proposed.is_empty() || planted(Mutant::H1), "a proposal before this boot is durable");
        assert!(self.is_open == (self.durable > WriteNumber(0)), "open: {}, durable: {}", self.is_open, self.durable);
        self.reads.check_invariants();
    }
}
