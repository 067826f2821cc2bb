//! Linearizable reads without a log entry (ReadIndex, Raft thesis §6.4).
//!
//! The leader notes its commit index, asks a quorum whether it still leads, and may then answer from that index on. One question
//! serves all reads that were there when it was asked: a *round*. A read joins only a round that starts after it arrived.

use super::{Consensus, ConsensusEffect, LeaseMessage, ReadMessage, leader::Leader, quorum, shared::Shared};
use crate::command::Refusal;
use crate::mutant::{Mutant, planted};
use crate::types::{LogIndex, MemberId, Monotonic, ReadId};
use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};

/// Reads one `ReadIndex` message carries.
const READS_PER_MESSAGE: usize = 4_096;

/// Reads taken by this member.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Not yet with a leader.
    unsent: VecDeque<(Monotonic, ReadId)>,
    /// With another member that leads.
    sent: BTreeMap<ReadId, Monotonic>,
}

/// Reads at the leader, its own and its followers'.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// Number of the newest round begun in this term.
    pub(super) newest: u64,
    open: Option<Round>,
    /// Arrived after the open round began.
    waiting: Vec<ReadId>,
}

#[derive(Debug)]
struct Round {
    index: LogIndex,
    reads: Vec<ReadId>,
}

impl Reads {
    fn len(&self) -> usize {
        self.unsent.len() + self.sent.len()
    }

    /// When the oldest unsent read gives up waiting for a leader, if there is one.
    pub(super) fn oldest_unsent(&self) -> Option<Monotonic> {
        self.unsent.front().map(|(since, _)| *since)
    }
}

impl Rounds {
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.open.as_ref().map_or(0, |round| round.reads.len())
    }

    /// Takes the reads that the leader itself was asked for.
    pub(super) fn take(&mut self, reads: &mut Reads) {
        let reads = reads.unsent.drain(..).map(|(_, read)| read);
        match &mut self.open {
            Some(open) if planted(Mutant::L3) => open.reads.extend(reads),
            _ => self.waiting.extend(reads),
        }
    }

    /// This member leads no more: whoever asked it must ask again.
    pub(super) fn refuse(self, shared: &Shared, out: &mut Vec<ConsensusEffect>) {
        let mut theirs: BTreeMap<MemberId, Vec<ReadId>> = BTreeMap::new();
        for read in self.open.into_iter().flat_map(|round| round.reads).chain(self.waiting) {
            if read.member == shared.member() {
                out.push(ConsensusEffect::RefuseRead(read, Refusal::LeaderChanged));
            } else {
                theirs.entry(read.member).or_default().push(read);
            }
        }
        for (to, reads) in theirs {
            shared.send(to, ReadMessage::Refused { reads }, out);
        }
    }
}

impl Leader {
    /// Begins the next round if reads wait and none is open. Before the first commit of its own term a leader does not know what
    /// is committed (Raft §8), so they wait on. Returns whether one began: its heartbeats should leave at once.
    pub(super) fn begin_round(&mut self, shared: &Shared, out: &mut Vec<ConsensusEffect>) -> bool {
        let commits_own_term = shared.commit >= self.term_start || planted(Mutant::L1);
        if self.rounds.waiting.is_empty() || self.rounds.open.is_some() || !commits_own_term {
            return false;
        }
        self.rounds.newest += 1;
        self.rounds.open = Some(Round { index: shared.commit, reads: core::mem::take(&mut self.rounds.waiting) });
        // A quorum of one is complete as it begins.
        self.finish_round(shared, out);
        self.rounds.open.is_some()
    }

    /// Answers the open round once a quorum has heard of it.
    pub(super) fn finish_round(&mut self, shared: &Shared, out: &mut Vec<ConsensusEffect>) {
        let newest = self.rounds.newest;
        let member = shared.member();
        let heard = |id| if id == member { newest } else { self.peers.get(&id).map_or(0, |peer| peer.round) };
        if self.rounds.open.is_none() || (quorum::reached(shared.configuration(), heard) < newest && !planted(Mutant::L2)) {
            return;
        }
        let Some(Round { index, reads }) = self.rounds.open.take() else { return };
        assert!(index <= shared.commit, "a round at {index} of a log committed through {}", shared.commit);
        let mut theirs: BTreeMap<MemberId, Vec<ReadId>> = BTreeMap::new();
        for read in reads {
            if read.member == member {
                out.push(ConsensusEffect::ReadReady(read, index));
            } else {
                theirs.entry(read.member).or_default().push(read);
            }
        }
        for (to, reads) in theirs {
            shared.send(to, ReadMessage::Reply { reads, index }, out);
        }
    }
}

impl Shared {
    /// Asks the leader for the reads that this member took; without one they wait.
    pub(super) fn ask_for_reads(&mut self, out: &mut Vec<ConsensusEffect>) {
        let Some(leader) = self.leader.filter(|_| !self.reads.unsent.is_empty()) else { return };
        let unsent: Vec<_> = self.reads.unsent.drain(..).collect();
        for chunk in unsent.chunks(READS_PER_MESSAGE) {
            self.reads.sent.extend(chunk.iter().map(|&(since, read)| (read, since)));
            let reads = chunk.iter().map(|&(_, read)| read).collect();
            self.send(leader, ReadMessage::Request(reads), out);
        }
    }

    /// Calls to the lease clock belong to the hosting half: this one only knows who may say what.
    pub(super) fn on_lease_message(&self, from: MemberId, message: LeaseMessage, out: &mut Vec<ConsensusEffect>) {
        if let LeaseMessage::Request(calls) = &message
            && calls.iter().any(|(id, _)| id.member != from)
        {
            return self.distrust(from, "asks for another member's leases", out);
        }
        out.push(ConsensusEffect::Lease { from, message });
    }

    fn on_read_reply(&mut self, from: MemberId, reads: Vec<ReadId>, index: LogIndex, out: &mut Vec<ConsensusEffect>) {
        if self.leader != Some(from) {
            return;
        }
        for read in reads {
            if self.reads.sent.remove(&read).is_some() {
                out.push(ConsensusEffect::ReadReady(read, index));
            }
        }
    }

    fn on_read_refused(&mut self, reads: Vec<ReadId>, out: &mut Vec<ConsensusEffect>) {
        for read in reads {
            if self.reads.sent.remove(&read).is_some() {
                out.push(ConsensusEffect::RefuseRead(read, Refusal::LeaderChanged));
            }
        }
    }

    /// The leader that had them is gone.
    pub(super) fn refuse_sent_reads(&mut self, out: &mut Vec<ConsensusEffect>) {
        let sent = core::mem::take(&mut self.reads.sent);
        out.extend(sent.into_keys().map(|read| ConsensusEffect::RefuseRead(read, Refusal::LeaderChanged)));
    }

    /// Gives up reads that found no leader, or got no answer from one, within an election timeout.
    pub(super) fn expire_reads(&mut self, out: &mut Vec<ConsensusEffect>) {
        let (now, limit) = (self.now, self.settings.election_timeout);
        while let Some((_, read)) = self.reads.unsent.pop_front_if(|(since, _)| now.since(*since) >= limit) {
            out.push(ConsensusEffect::RefuseRead(read, Refusal::NoLeader));
        }
        while let Some(oldest) = self.reads.sent.first_entry() {
            if now.since(*oldest.get()) < limit {
                break;
            }
            out.push(ConsensusEffect::RefuseRead(oldest.remove_entry().0, Refusal::TimedOut));
        }
    }
}

impl Consensus {
    pub(super) fn on_read(&mut self, read: ReadId, out: &mut Vec<ConsensusEffect>) {
        let with_us = self.leader().map_or(0, |leader| leader.rounds.len());
        let shared = &mut self.shared;
        if shared.reads.len() + with_us >= shared.settings.limits.pending_reads {
            return out.push(ConsensusEffect::RefuseRead(read, Refusal::TooManyRequests));
        }
        shared.reads.unsent.push_back((shared.now, read));
    }

    pub(super) fn on_read_message(&mut self, from: MemberId, message: ReadMessage, out: &mut Vec<ConsensusEffect>) {
        match message {
            ReadMessage::Request(reads) => self.on_read_request(from, reads, out),
            ReadMessage::Reply { reads, index } => self.shared.on_read_reply(from, reads, index, out),
            ReadMessage::Refused { reads } => self.shared.on_read_refused(reads, out),
        }
    }

    fn on_read_request(&mut self, from: MemberId, reads: Vec<ReadId>, out: &mut Vec<ConsensusEffect>) {
        if reads.iter().any(|read| read.member != from) {
            return self.shared.distrust(from, "asks for another member's reads", out);
        }
        let limit = self.shared.settings.limits.pending_reads;
        match self.leading() {
            Some((leader, _)) if leader.rounds.len() + reads.len() <= limit => leader.rounds.waiting.extend(reads),
            _ => self.shared.send(from, ReadMessage::Refused { reads }, out),
        }
    }
}
