//! A follower takes what its leader sends, and says what it has durably (Raft §5.3).

use super::{ConsensusEffect, RaftMessage, shared::Shared};
use crate::entry::Entry;
use crate::mutant::{Mutant, planted};
use crate::types::{LogId, LogIndex, MemberId, Term};
use alloc::vec::Vec;

/// The newest thing a follower has to acknowledge, gathered over one flush.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acknowledgement {
    to: MemberId,
    pub(super) matched: LogIndex,
    round: u64,
}

/// An append as it came from the leader of this term.
pub(super) struct Append {
    pub(super) previous: LogId,
    pub(super) entries: Vec<Entry>,
    pub(super) commit: LogIndex,
    pub(super) round: u64,
}

impl Append {
    /// Whether entries follow `previous` and each other, in terms that never go back and are not above the sender's.
    pub(super) fn is_well_formed(&self, term: Term) -> bool {
        let mut last = self.previous;
        self.entries.iter().all(|entry| {
            let follows = entry.id.index == last.index.next() && entry.id.term >= last.term;
            last = entry.id;
            follows
        }) && last.term <= term
    }
}

impl Shared {
    /// Takes a well-formed append of the leader that this member follows.
    pub(super) fn on_append(&mut self, from: MemberId, append: Append, out: &mut Vec<ConsensusEffect>) {
        let Append { mut previous, mut entries, commit, round } = append;
        if planted(Mutant::F1) && self.log.unapplied_bytes() > self.settings.limits.unapplied_bytes {
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
        let known = self.term_of(previous.index);
        let known = if planted(Mutant::R12) { Some(known.unwrap_or_default()) } else { known };
        if known != Some(previous.term) {
            if previous.index <= self.commit {
                return self.distrust(from, "overrules a committed entry", out);
            }
            let hint = self.hint(previous);
            return self.send_after_ballot(from, RaftMessage::AppendRejected { previous, hint, round }, out);
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
        self.commit_through(commit.min(matched));
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
    /// that arrives late would undo what a later one brought.
    fn known_entries(&self, entries: &[Entry]) -> usize {
        let agrees = |entry: &&Entry| self.log.term(entry.id.index) == Some(entry.id.term) && !planted(Mutant::R4);
        entries.iter().take_while(agrees).count()
    }

    /// The last entry at or before `previous` whose term is not above its: below it the logs may agree. Never below the commit
    /// index, where they do.
    fn hint(&self, previous: LogId) -> LogId {
        let index = self.log.find_conflict_by_term(previous).max(self.commit);
        LogId { term: self.term_of(index).unwrap_or_default(), index }
    }

    pub(super) fn acknowledge(&mut self, to: MemberId, matched: LogIndex, round: u64) {
        let newest = self.acknowledgement.filter(|earlier| earlier.to == to);
        let (matched, round) = newest.map_or((matched, round), |earlier| (earlier.matched.max(matched), earlier.round.max(round)));
        self.acknowledgement = Some(Acknowledgement { to, matched, round });
    }

    /// An acknowledgement says that entries are durable, so it waits until they are.
    pub(super) fn send_acknowledgement(&mut self, out: &mut Vec<ConsensusEffect>) {
        let Some(Acknowledgement { to, matched, round }) = self.acknowledgement.take() else { return };
        let envelope = self.envelope(to, RaftMessage::Appended { matched, round });
        if planted(Mutant::R9) {
            return out.push(ConsensusEffect::Send(envelope));
        }
        if let Some(envelope) = self.durability.after_entries(matched, envelope) {
            out.push(ConsensusEffect::Send(envelope));
        }
    }

    /// A heartbeat of the leader that this member follows.
    pub(super) fn on_heartbeat(
        &mut self,
        from: MemberId,
        commit: LogIndex,
        round: u64,
        replicated: LogIndex,
        out: &mut Vec<ConsensusEffect>,
    ) {
        if commit > self.log.last().index {
            return self.distrust(from, "commits entries that were never acknowledged", out);
        }
        self.commit_through(commit);
        // A member that was absent for long was not waited for; of its own log it keeps what it has not seen itself.
        self.replicated = self.replicated.max(replicated.min(self.log.last().index));
        self.durability.idle(self.now, self.settings.heartbeat_interval);
        self.release_log();
        self.send_after_ballot(from, RaftMessage::HeartbeatReply { round }, out);
    }
}
