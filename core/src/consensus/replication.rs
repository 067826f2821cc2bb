//! ④ The leader brings every log to its own, pipelined (Raft §5.3); a follower takes what it is sent.

use super::{Consensus, ConsensusEffect, Entry, Message, Payload, RaftMessage, State, log::entry_bytes, quorum};
use crate::mutant::{Mutant, planted};
use crate::types::{LogId, LogIndex, MemberId, Monotonic, SegmentId, Term};
use crate::wal::{self, Location, Planner, Record};
use alloc::{collections::VecDeque, vec::Vec};
use bytes::Bytes;

/// How the leader sends to one member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pace {
    /// Where the logs agree is not known: one append at a time, the next after an answer or a sign of life.
    Probe { waiting: bool },
    /// Appends follow each other within the window, without waiting for answers.
    Replicate,
}

/// What the leader knows of one other member in this term.
#[derive(Debug)]
pub(super) struct Progress {
    pub(super) pace: Pace,
    /// The member's log agrees with ours, durably, through here.
    pub(super) matched: LogIndex,
    /// The next entry to send. Invariant: above `matched`.
    pub(super) next: LogIndex,
    /// Appends on their way: last index and bytes of each. Bounded by `inflight_appends` and `inflight_bytes`.
    inflight: VecDeque<(LogIndex, usize)>,
    inflight_bytes: usize,
    /// Commit index that was sent last.
    commit_sent: LogIndex,
    /// An append, if only an empty one, is due: it will show whether earlier ones were lost.
    nudge: bool,
    /// A `ReadLog` under way for entries from `next` on.
    reading: Option<Location>,
    /// Entries for `next` that came from the WAL.
    read: Vec<Entry>,
    /// Newest read round the member has answered.
    pub(super) round: u64,
    /// When the member was last heard in this term.
    pub(super) heard: Monotonic,
}

impl Progress {
    pub(super) fn new(next: LogIndex, now: Monotonic) -> Self {
        Self {
            pace: Pace::Probe { waiting: false },
            matched: LogIndex::default(),
            next,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            commit_sent: LogIndex::default(),
            nudge: false,
            reading: None,
            read: Vec::new(),
            round: 0,
            heard: now,
        }
    }

    fn on_matched(&mut self, matched: LogIndex) {
        self.matched = self.matched.max(matched);
        while let Some((_, bytes)) = self.inflight.pop_front_if(|(last, _)| *last <= matched) {
            self.inflight_bytes -= bytes;
        }
        match self.pace {
            Pace::Probe { .. } => {
                self.pace = Pace::Replicate;
                self.restart_at(self.matched.next());
            }
            Pace::Replicate => {
                if self.next <= self.matched {
                    self.restart_at(self.matched.next());
                }
            }
        }
    }

    fn probe_from(&mut self, next: LogIndex) {
        self.pace = Pace::Probe { waiting: false };
        self.inflight.clear();
        self.inflight_bytes = 0;
        self.restart_at(next);
    }

    fn restart_at(&mut self, next: LogIndex) {
        if self.next != next {
            self.next = next;
            self.reading = None;
            self.read.clear();
        }
    }

    fn has_window(&self, appends_max: usize, bytes_max: usize) -> bool {
        match self.pace {
            Pace::Probe { waiting } => !waiting,
            Pace::Replicate => self.inflight.len() < appends_max && self.inflight_bytes < bytes_max,
        }
    }

    fn sent(&mut self, last: LogIndex, bytes: usize) {
        match &mut self.pace {
            Pace::Probe { waiting } => *waiting = true,
            Pace::Replicate if bytes > 0 => {
                self.inflight.push_back((last, bytes));
                self.inflight_bytes += bytes;
                self.next = last.next();
            }
            Pace::Replicate => {}
        }
        self.nudge = false;
    }
}

/// The newest thing a follower has to acknowledge, gathered over one flush.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledgement {
    to: MemberId,
    matched: LogIndex,
    round: u64,
}

impl Consensus {
    // The leader's side.

    /// Appends an entry of this term to the leader's own log.
    pub(super) fn append_own(&mut self, payload: Payload) {
        let id = LogId { term: self.term, index: self.log.last().index.next() };
        self.append_entry(Entry { id, payload });
    }

    /// To each other member what its window allows.
    pub(super) fn replicate(&mut self, out: &mut Vec<ConsensusEffect>) {
        let State::Leader(leader) = &mut self.state else { return };
        let peers: Vec<MemberId> = leader.peers.keys().copied().collect();
        for peer in peers {
            while self.send_append(peer, out) {}
        }
        self.hand_over(out);
    }

    /// Sends one append if there is cause and room for it; says whether another might follow.
    fn send_append(&mut self, peer: MemberId, out: &mut Vec<ConsensusEffect>) -> bool {
        let limits = self.settings.limits;
        let State::Leader(leader) = &mut self.state else { return false };
        let (round, commit) = (leader.rounds.newest, self.commit);
        let Some(progress) = leader.peers.get_mut(&peer) else { return false };
        let previous = progress.next.previous();
        let known = self.log.term(previous).or_else(|| self.durability.planner().term(previous));
        // Released with what follows it: only a snapshot can help that member.
        let Some(term) = known else { return false };
        let probing = matches!(progress.pace, Pace::Probe { .. });
        let window = progress.has_window(limits.inflight_appends, limits.inflight_bytes);
        let behind = progress.next <= self.log.last().index;
        let wanted = progress.nudge || progress.commit_sent < commit || probing;
        if !(window && behind) && (probing && !window || !wanted) {
            return false;
        }
        let entries = if !(window && behind) {
            Vec::new()
        } else if !progress.read.is_empty() {
            core::mem::take(&mut progress.read)
        } else if progress.next >= self.log.first() {
            self.log.entries(progress.next, limits.append_entries, limits.append_bytes)
        } else {
            self.read_log(peer, out);
            return false;
        };
        let previous = LogId { term, index: previous };
        let last = entries.last().map_or(previous.index, |entry| entry.id.index);
        let bytes = entries.iter().map(entry_bytes).sum();
        let more = !entries.is_empty();
        progress.sent(last, bytes);
        progress.commit_sent = commit;
        self.send(peer, Message::Raft(RaftMessage::Append { previous, entries, commit, round }), out);
        more
    }

    /// Asks for entries that are older than the tail in memory. `LogRead` continues.
    fn read_log(&mut self, peer: MemberId, out: &mut Vec<ConsensusEffect>) {
        let State::Leader(leader) = &mut self.state else { return };
        let Some(progress) = leader.peers.get_mut(&peer) else { return };
        if progress.reading.is_some() {
            return;
        }
        let bytes = u32::try_from(self.settings.limits.append_bytes).unwrap_or(u32::MAX);
        let Some(location) = self.durability.planner().locate(progress.next, bytes) else { return };
        progress.reading = Some(location);
        let Location { segment, offset, length } = location;
        out.push(ConsensusEffect::ReadLog { segment, offset, length });
    }

    pub(super) fn on_log_read(&mut self, segment: SegmentId, offset: u64, bytes: &Bytes) {
        let State::Leader(leader) = &mut self.state else { return };
        for progress in leader.peers.values_mut() {
            let Some(location) = progress.reading.take_if(|reading| (reading.segment, reading.offset) == (segment, offset)) else {
                continue;
            };
            match wal::read_entries(location, bytes) {
                Ok(entries) => progress.read = in_force(self.durability.planner(), progress.next, entries),
                // Our own disk is at fault. The member is asked again with its next sign of life.
                Err(_) => progress.pace = Pace::Probe { waiting: true },
            }
            if progress.read.is_empty() {
                progress.pace = Pace::Probe { waiting: true };
            }
        }
    }

    pub(super) fn on_appended(&mut self, from: MemberId, matched: LogIndex, round: u64, out: &mut Vec<ConsensusEffect>) {
        let last = self.log.last().index;
        let Some(progress) = self.heard_from(from, round) else { return };
        if matched > last {
            return self.distrust(from, "acknowledges entries that were never sent", out);
        }
        progress.on_matched(matched);
        self.advance_commit();
        self.finish_round(out);
    }

    pub(super) fn on_append_rejected(&mut self, from: MemberId, previous: LogId, hint: LogId, round: u64, out: &mut Vec<ConsensusEffect>) {
        let agreement = self.log.agreement(hint);
        let Some(progress) = self.heard_from(from, round) else { return };
        let stale = match progress.pace {
            Pace::Probe { .. } => previous.index != progress.next.previous(),
            Pace::Replicate => previous.index <= progress.matched,
        };
        if !stale {
            let next = agreement.next().min(previous.index).max(progress.matched.next());
            progress.probe_from(next);
        }
        self.finish_round(out);
    }

    pub(super) fn on_heartbeat_reply(&mut self, from: MemberId, round: u64, out: &mut Vec<ConsensusEffect>) {
        let last = self.log.last().index;
        let Some(progress) = self.heard_from(from, round) else { return };
        if let Pace::Probe { waiting } = &mut progress.pace {
            *waiting = false;
        }
        progress.nudge |= progress.matched < last;
        self.finish_round(out);
    }

    fn heard_from(&mut self, from: MemberId, round: u64) -> Option<&mut Progress> {
        let State::Leader(leader) = &mut self.state else { return None };
        let newest = leader.rounds.newest;
        let progress = leader.peers.get_mut(&from)?;
        progress.heard = self.now;
        progress.round = progress.round.max(round.min(newest));
        Some(progress)
    }

    /// Heartbeats carry what each member may commit, and the newest read round.
    pub(super) fn send_heartbeats(&mut self, out: &mut Vec<ConsensusEffect>) {
        let State::Leader(leader) = &self.state else { return };
        let round = leader.rounds.newest;
        let replicated = leader.peers.values().map(|peer| peer.matched).fold(self.durability.durable(), LogIndex::min);
        let beats: Vec<_> = leader.peers.iter().map(|(&peer, progress)| (peer, progress.matched.min(self.commit))).collect();
        self.replicated = self.replicated.max(replicated);
        for (peer, commit) in beats {
            self.send(peer, Message::Raft(RaftMessage::Heartbeat { commit, round, replicated }), out);
        }
    }

    /// The greatest index that a quorum has durably, if it is of this term (Raft §5.4.2: never by counting older ones).
    pub(super) fn advance_commit(&mut self) {
        let State::Leader(leader) = &self.state else { return };
        let member = self.settings.member;
        let own = if planted(Mutant::R8) { self.log.last().index } else { self.durability.durable() };
        let matched = |id| if id == member { own } else { leader.peers.get(&id).map_or(LogIndex(0), |peer| peer.matched) };
        let reached = quorum::reached(self.membership.current(), matched);
        if reached > self.commit && (self.log.term(reached) == Some(self.term) || planted(Mutant::R1)) {
            self.commit = reached;
        }
    }

    // The follower's side.

    pub(super) fn on_append(
        &mut self,
        from: MemberId,
        mut previous: LogId,
        mut entries: Vec<Entry>,
        commit: LogIndex,
        round: u64,
        out: &mut Vec<ConsensusEffect>,
    ) {
        if !is_well_formed(previous, &entries, self.term) {
            return self.distrust(from, "appends entries out of order", out);
        }
        if !self.follow(from, out) || (planted(Mutant::F1) && self.log.unapplied_bytes() > self.settings.limits.unapplied_bytes) {
            return;
        }
        // What is committed here is in every later leader's log: it needs no comparing, and its terms may be forgotten.
        if previous.index < self.commit {
            let settled = usize::try_from(self.commit.0 - previous.index.0).unwrap_or(usize::MAX).min(entries.len());
            previous = entries.drain(..settled).last().map_or(previous, |entry| entry.id);
            if previous.index < self.commit {
                return self.acknowledge(from, self.commit, round);
            }
        }
        if self.term_of(previous.index) != Some(previous.term) {
            if previous.index <= self.commit {
                return self.distrust(from, "overrules a committed entry", out);
            }
            let hint = self.hint(previous);
            let message = Message::Raft(RaftMessage::AppendRejected { previous, hint, round });
            return self.send_after_ballot(from, message, out);
        }
        let matched = LogIndex(previous.index.0 + entries.len() as u64);
        let is_empty = entries.is_empty();
        let known = self.known_entries(&entries);
        let first_new = LogIndex(previous.index.0 + known as u64).next();
        let conflicts = first_new <= self.log.last().index && (known < entries.len() || planted(Mutant::R4));
        if conflicts {
            if first_new <= self.commit {
                return self.distrust(from, "overrules a committed entry", out);
            }
            self.truncate(first_new);
        } else if known < entries.len() && self.holds_back() {
            return;
        }
        entries.into_iter().skip(known).for_each(|entry| self.append_entry(entry));
        // A mere notice of commitment needs no answer; whatever probes, or asks for a lost answer, tells no news of that kind.
        let notice = is_empty && commit.min(matched) > self.commit;
        self.commit = self.commit.max(commit.min(matched));
        if !notice {
            self.acknowledge(from, matched, round);
        }
    }

    /// Whether no new entries are taken for now, because so many committed ones wait to be applied. Those drain by themselves, and
    /// the leader, which gets no answer, tries again with the next sign of life. Entries that nobody has committed are no reason:
    /// they wait for what the leader sends.
    fn holds_back(&self) -> bool {
        self.log.delivered_bytes() > self.settings.limits.unapplied_bytes
    }

    /// How many of these entries the log has already. What differs after them is overruled; what agrees never is, or an old append
    /// that arrives late would undo what a later one brought (Raft §5.3).
    fn known_entries(&self, entries: &[Entry]) -> usize {
        let agrees = |entry: &&Entry| self.log.term(entry.id.index) == Some(entry.id.term) && !planted(Mutant::R4);
        entries.iter().take_while(agrees).count()
    }

    fn truncate(&mut self, from: LogIndex) {
        self.log.truncate(from);
        self.membership.truncate(from);
        self.durability.record(&Record::Truncate { from });
        if let Some(acknowledgement) = &mut self.acknowledgement {
            acknowledgement.matched = acknowledgement.matched.min(from.previous());
        }
    }

    fn append_entry(&mut self, entry: Entry) {
        let record = Record::Entry(entry);
        self.durability.record(&record);
        let Record::Entry(entry) = record else { unreachable!("made above") };
        if let Payload::Configuration { configuration, .. } = &entry.payload {
            self.membership.append(entry.id.index, configuration.clone());
        }
        self.log.append(entry);
    }

    /// The last entry at or before `previous` whose term is not above its: below it the logs may agree. Never below the commit
    /// index, where they do.
    fn hint(&self, previous: LogId) -> LogId {
        let index = self.log.agreement(previous).max(self.commit);
        LogId { term: self.term_of(index).unwrap_or_default(), index }
    }

    fn acknowledge(&mut self, to: MemberId, matched: LogIndex, round: u64) {
        let newest = self.acknowledgement.filter(|earlier| earlier.to == to);
        let (matched, round) = newest.map_or((matched, round), |earlier| (earlier.matched.max(matched), earlier.round.max(round)));
        self.acknowledgement = Some(Acknowledgement { to, matched, round });
    }

    /// An acknowledgement says that entries are durable, so it waits until they are.
    pub(super) fn send_acknowledgement(&mut self, out: &mut Vec<ConsensusEffect>) {
        let Some(Acknowledgement { to, matched, round }) = self.acknowledgement.take() else { return };
        let envelope = self.envelope(to, Message::Raft(RaftMessage::Appended { matched, round }));
        if planted(Mutant::R9) {
            return out.push(ConsensusEffect::Send(envelope));
        }
        if let Some(envelope) = self.durability.after_entries(matched, envelope) {
            out.push(ConsensusEffect::Send(envelope));
        }
    }

    pub(super) fn on_heartbeat(
        &mut self,
        from: MemberId,
        commit: LogIndex,
        round: u64,
        replicated: LogIndex,
        out: &mut Vec<ConsensusEffect>,
    ) {
        if !self.follow(from, out) {
            return;
        }
        if commit > self.log.last().index {
            return self.distrust(from, "commits entries that were never acknowledged", out);
        }
        // This member's own log is one of those that it is the shortest of.
        if replicated > self.log.last().index {
            return self.distrust(from, "lets go of entries that were never acknowledged", out);
        }
        self.commit = self.commit.max(commit);
        self.replicated = self.replicated.max(replicated);
        self.durability.idle(self.now, self.settings.heartbeat_interval);
        self.release_log();
        self.send_after_ballot(from, Message::Raft(RaftMessage::HeartbeatReply { round }), out);
    }
}

/// Of entries read from the WAL those in force, from `next` on without a hole: a stretch of a segment also holds what was
/// truncated later.
fn in_force(planner: &Planner, next: LogIndex, read: Vec<Entry>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for entry in read {
        let expected = LogIndex(next.0 + entries.len() as u64);
        if entry.id.index == expected && planner.term(expected) == Some(entry.id.term) {
            entries.push(entry);
        }
    }
    entries
}

/// Whether entries follow `previous` and each other, in terms that never go back and are not above the sender's.
fn is_well_formed(previous: LogId, entries: &[Entry], term: Term) -> bool {
    let mut last = previous;
    entries.iter().all(|entry| {
        let follows = entry.id.index == last.index.next() && entry.id.term >= last.term;
        last = entry.id;
        follows
    }) && last.term <= term
}
