//! What a member has in every role: its term, its log, its disk, and what waits for them.

use super::{
    ConsensusEffect, Envelope, Message, Payload, Role, Settings, cluster_clock::ClusterClock, durability::Durability,
    follower::Acknowledgement, log::Log, membership::Membership, proposal::Proposals, read_index::Reads,
};
use crate::entry::{Configuration, Entry};
use crate::mutant::{Mutant, planted};
use crate::types::{LogId, LogIndex, MemberId, Monotonic, Term, WallMs};
use crate::wal::Record;
use alloc::vec::Vec;
use core::time::Duration;
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) rng: ChaCha8Rng,
    pub(super) now: Monotonic,
    pub(super) wall: WallMs,
    pub(super) cluster_clock: ClusterClock,
    pub(super) term: Term,
    pub(super) vote: Option<MemberId>,
    /// Who leads this term, as far as known; this member itself if it leads.
    pub(super) leader: Option<MemberId>,
    /// When the leader was last heard: until T has passed since, its followers ignore campaigns.
    pub(super) leader_heard: Monotonic,
    /// When a member that does not lead begins to campaign.
    pub(super) election_at: Monotonic,
    pub(super) log: Log,
    pub(super) membership: Membership,
    pub(super) durability: Durability,
    /// Invariant: `applied <= delivered <= commit <= log.last()`.
    pub(super) commit: LogIndex,
    /// Handed to the machine through here.
    pub(super) delivered: LogIndex,
    pub(super) applied: LogIndex,
    pub(super) state_synced: LogIndex,
    /// No member that the leader hears needs the log through here.
    pub(super) replicated: LogIndex,
    pub(super) released: LogIndex,
    /// The newest commit index that the WAL was told.
    pub(super) commit_recorded: LogIndex,
    /// What to answer the leader at the next flush.
    pub(super) acknowledgement: Option<Acknowledgement>,
    pub(super) proposals: Proposals,
    pub(super) reads: Reads,
    pub(super) announced: (Term, Role, Option<MemberId>),
    pub(super) leader_changes: u64,
}

impl Shared {
    pub(super) fn member(&self) -> MemberId {
        self.settings.member
    }

    pub(super) fn configuration(&self) -> &Configuration {
        self.membership.current()
    }

    // Messages.

    pub(super) fn envelope(&self, to: MemberId, message: impl Into<Message>) -> Envelope {
        Envelope { from: self.settings.member, to, term: self.term, message: message.into() }
    }

    pub(super) fn send(&self, to: MemberId, message: impl Into<Message>, out: &mut Vec<ConsensusEffect>) {
        out.push(ConsensusEffect::Send(self.envelope(to, message)));
    }

    /// A message whose term must be durable before anyone may rely on it.
    pub(super) fn send_after_ballot(&mut self, to: MemberId, message: impl Into<Message>, out: &mut Vec<ConsensusEffect>) {
        let envelope = self.envelope(to, message);
        if let Some(envelope) = self.durability.after_ballot(envelope) {
            out.push(ConsensusEffect::Send(envelope));
        }
    }

    pub(super) fn distrust(&self, peer: MemberId, reason: &'static str, out: &mut Vec<ConsensusEffect>) {
        out.push(ConsensusEffect::Distrust { peer, reason });
    }

    // The log.

    /// The term of an entry in memory or in the WAL; `None` beyond the end, and where it was released.
    pub(super) fn term_of(&self, index: LogIndex) -> Option<Term> {
        self.log.term(index).or_else(|| self.durability.planner().term(index))
    }

    /// Appends an entry of this term to the leader's own log.
    pub(super) fn append_own(&mut self, payload: Payload) {
        let id = LogId { term: self.term, index: self.log.last().index.next() };
        self.append_entry(Entry { id, payload });
    }

    /// Appends to the log in memory and to the write in the making.
    pub(super) fn append_entry(&mut self, entry: Entry) {
        let record = Record::Entry(entry);
        self.durability.record(&record);
        let Record::Entry(entry) = record else { unreachable!("made above") };
        if let Payload::Configuration { configuration, .. } = &entry.payload {
            self.membership.append(entry.id.index, configuration.clone());
        }
        self.cluster_clock.on_entry(&entry);
        self.log.append(entry);
    }

    /// What follows was overruled. The WAL is told by a record, see the module's own documentation.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        assert!(from > self.commit, "truncation at {from} of what is committed through {}", self.commit);
        self.log.truncate(from);
        self.membership.truncate(from);
        self.durability.record(&Record::Truncate { from });
        if let Some(acknowledgement) = &mut self.acknowledgement {
            acknowledgement.matched = acknowledgement.matched.min(from.previous());
        }
    }

    /// A commit index never goes back, and never beyond what this member has.
    pub(super) fn commit_through(&mut self, index: LogIndex) {
        assert!(index <= self.log.last().index, "commits {index} of a log that ends at {}", self.log.last().index);
        self.commit = self.commit.max(index);
    }

    /// Ends the write in the making, if the disk takes one more.
    pub(super) fn write(&mut self, out: &mut Vec<ConsensusEffect>) {
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
    pub(super) fn deliver(&mut self, out: &mut Vec<ConsensusEffect>) {
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

    pub(super) fn on_applied(&mut self, index: LogIndex) {
        assert!(index <= self.delivered, "applied {index}, but only {} was delivered", self.delivered);
        if index > self.applied {
            self.log.applied(self.applied.next(), index);
            self.applied = index;
            self.membership.compact(index);
        }
    }

    pub(super) fn on_state_synced(&mut self, index: LogIndex) {
        assert!(index <= self.applied, "the state is synced to {index}, but applied only to {}", self.applied);
        self.state_synced = self.state_synced.max(index);
        self.release_log();
    }

    /// Lets go of the log that neither this member's state store nor any other member needs, and of what is too much to keep for
    /// others.
    pub(super) fn release_log(&mut self) {
        let limits = self.settings.limits;
        let synced = if planted(Mutant::W6) { self.applied } else { self.state_synced };
        let unneeded = LogIndex(synced.0.saturating_sub(limits.retained_entries));
        let surplus = self.durability.planner().surplus(unneeded, limits.kept_bytes);
        let through = unneeded.min(LogIndex(self.replicated.0.saturating_sub(limits.retained_entries)).max(surplus));
        if through > self.released {
            self.released = through;
            self.durability.planner_mut().release(self.released);
            self.log.compact(self.durability.planner().first());
        }
    }

    pub(super) fn evict(&mut self) {
        self.log.evict(self.applied.min(self.durability.durable()), self.settings.limits.tail_bytes);
    }

    // Elections.

    /// Whether a leader of this term is known and was heard, so that a campaign would only disturb. A leader hears itself.
    pub(super) fn leader_is_live(&self) -> bool {
        match self.leader {
            Some(leader) if leader == self.member() => true,
            Some(_) => self.now.since(self.leader_heard) < self.settings.election_timeout,
            None => false,
        }
    }

    pub(super) fn record_ballot(&mut self) {
        self.durability.record(&Record::Ballot { term: self.term, vote: self.vote });
    }

    /// Draws the next election timeout from [T, 1.5 T) (Raft §5.2). A sole voter has nobody to wait for.
    pub(super) fn rearm(&mut self) {
        let timeout = self.settings.election_timeout;
        let configuration = self.membership.current();
        let alone = configuration.outgoing.is_empty() && configuration.voters.len() == 1 && configuration.is_voter(self.settings.member);
        self.election_at = if alone { self.now } else { self.now + timeout + self.draw_below(timeout / 2) };
    }

    pub(super) fn draw_below(&mut self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(self.rng.next_u64() % nanos)
    }

    /// The leader is not known any more; reads it had must be asked again, proposals it had may still be committed.
    pub(super) fn forget_leader(&mut self, out: &mut Vec<ConsensusEffect>) {
        self.leader = None;
        self.acknowledgement = None;
        self.refuse_sent_reads(out);
    }

    pub(super) fn announce(&mut self, role: Role, out: &mut Vec<ConsensusEffect>) {
        let present = (self.term, role, self.leader);
        if present == self.announced {
            return;
        }
        if self.leader.is_some() && self.leader != self.announced.2 {
            self.leader_changes += 1;
        }
        self.announced = present;
        out.push(ConsensusEffect::RoleChanged { term: self.term, role, leader: self.leader });
    }

    pub(super) fn check_invariants(&self) {
        let LogId { term: last_term, index: last } = self.log.last();
        assert!(self.applied <= self.delivered, "applied {} beyond delivered {}", self.applied, self.delivered);
        assert!(self.delivered <= self.commit, "delivered {} beyond commit {}", self.delivered, self.commit);
        assert!(self.commit <= last, "commit {} beyond the log's end {last}", self.commit);
        assert!(self.durability.durable() <= last, "durable {} beyond the log's end {last}", self.durability.durable());
        assert!(last_term <= self.term, "an entry of term {last_term} in term {}", self.term);
        let needed = self.state_synced < self.released && !planted(Mutant::W6);
        assert!(!needed, "released {} but the state is synced to {}", self.released, self.state_synced);
        let (unapplied, delivered) = (self.log.unapplied_bytes(), self.log.delivered_bytes());
        assert!(delivered <= unapplied, "{delivered} bytes at the machine, of {unapplied} that are not applied");
        assert_eq!(delivered == 0, self.applied == self.delivered, "{delivered} bytes from {} to {}", self.applied, self.delivered);
        assert_eq!(unapplied == 0, self.applied == last, "{unapplied} bytes from {} to {last}", self.applied);
        assert_eq!(self.durability.planner().end(), self.log.last(), "memory and WAL end differently");
    }
}
