//! Proposals on their way into the log: taken here, appended by the leader, here or elsewhere, each at most once.
//!
//! A proposal that may be in some leader's log when that leader's term ends is *unknown*; it is never proposed again.

use super::{Consensus, ConsensusEffect, ForwardMessage, ForwardRefusal, Payload, Proposal, leader::Leader, shared::Shared};
use crate::command::{self, Refusal};
use crate::types::{Boot, MemberId, Monotonic, RequestId};
use alloc::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    vec::Vec,
};

/// Election timeouts after which a proposal that was sent off is given up as unknown: its message may be lost.
const SENT_TIMEOUTS_MAX: u32 = 5;
/// The leader's own disk may be behind by so many times `unapplied_entries` before proposals are refused.
const UNDURABLE_FACTOR: u64 = 8;

/// Proposals taken by this member and not yet committed.
#[derive(Debug, Default)]
pub(super) struct Proposals {
    /// Not in any log: for want of a leader, or because it is handing over.
    held: VecDeque<(Monotonic, Proposal)>,
    /// Appended or forwarded in the present term.
    sent: BTreeMap<RequestId, Monotonic>,
}

impl Proposals {
    pub(super) fn len(&self) -> usize {
        self.held.len() + self.sent.len()
    }

    /// When the oldest held proposal was taken, if there is one.
    pub(super) fn oldest_held(&self) -> Option<Monotonic> {
        self.held.front().map(|(since, _)| *since)
    }

    /// It is committed: the machine answers it.
    pub(super) fn committed(&mut self, request: RequestId) {
        self.sent.remove(&request);
    }
}

/// Which forwarded requests of one member this term's leader has seen. Anything older than the window counts as seen.
#[derive(Debug, Default)]
pub(super) struct DedupWindow {
    boot: Boot,
    /// Invariant: every sequence in `seen` is at or above it.
    oldest: u64,
    seen: BTreeSet<u64>,
}

impl DedupWindow {
    /// Whether the request is seen for the first time. From now on it has been seen.
    fn insert(&mut self, request: RequestId, size_max: usize) -> bool {
        if request.boot < self.boot {
            return false;
        }
        if request.boot > self.boot {
            *self = Self { boot: request.boot, ..Self::default() };
        }
        if request.sequence < self.oldest || !self.seen.insert(request.sequence) {
            return false;
        }
        if self.seen.len() > size_max {
            let forgotten = self.seen.pop_first().expect("more than none");
            self.oldest = forgotten.saturating_add(1);
        }
        true
    }
}

impl Leader {
    /// Appends what this member itself took, unless leadership is on its way to another.
    pub(super) fn append_held(&mut self, shared: &mut Shared, out: &mut Vec<ConsensusEffect>) {
        if self.transfer.is_some() {
            return;
        }
        while let Some((since, proposal)) = shared.proposals.held.pop_front() {
            if shared.is_full() {
                out.push(ConsensusEffect::Refuse(proposal.request, Refusal::TooManyRequests));
            } else {
                shared.proposals.sent.insert(proposal.request, since);
                shared.append_proposal(proposal);
            }
        }
    }

    /// A refused request counts as seen too: a copy of the message must not append what its member was told is not.
    fn append_forwarded(&mut self, from: MemberId, proposals: Vec<Proposal>, shared: &mut Shared, out: &mut Vec<ConsensusEffect>) {
        let window_max = shared.settings.limits.forward_window;
        let mut refused = Vec::new();
        let mut refusal = ForwardRefusal::NotLeader;
        for proposal in proposals {
            if !self.dedup.entry(proposal.request.member).or_default().insert(proposal.request, window_max) {
                continue;
            }
            if self.transfer.is_some() {
                refused.push(proposal.request);
            } else if shared.is_full() {
                refusal = ForwardRefusal::TooMany;
                refused.push(proposal.request);
            } else {
                shared.append_proposal(proposal);
            }
        }
        if !refused.is_empty() {
            shared.send(from, ForwardMessage::Refused { requests: refused, refusal }, out);
        }
    }
}

impl Shared {
    pub(super) fn on_propose(&mut self, proposals: Vec<Proposal>, out: &mut Vec<ConsensusEffect>) {
        for proposal in proposals {
            if self.proposals.len() >= self.settings.limits.pending_proposals {
                out.push(ConsensusEffect::Refuse(proposal.request, Refusal::TooManyRequests));
            } else {
                self.proposals.held.push_back((self.now, proposal));
            }
        }
    }

    /// Takes a proposal back that is in no log and on no way to one. `false`: it may be in one.
    pub(super) fn withdraw(&mut self, request: RequestId) -> bool {
        let at = self.proposals.held.iter().position(|(_, proposal)| proposal.request == request);
        at.is_some_and(|at| self.proposals.held.remove(at).is_some())
    }

    /// Forwards what is held. Without a leader it waits for one for an election timeout, see `expire_proposals`.
    pub(super) fn forward_held(&mut self, out: &mut Vec<ConsensusEffect>) {
        let Some(leader) = self.leader.filter(|_| !self.proposals.held.is_empty()) else { return };
        let limits = self.settings.limits;
        let mut batch: Vec<Proposal> = Vec::new();
        let mut bytes = 0;
        while let Some((since, proposal)) = self.proposals.held.pop_front() {
            if batch.len() >= limits.append_entries || (bytes + proposal.command.len() > limits.append_bytes && !batch.is_empty()) {
                self.send(leader, ForwardMessage::Request(core::mem::take(&mut batch)), out);
                bytes = 0;
            }
            bytes += proposal.command.len();
            self.proposals.sent.insert(proposal.request, since);
            batch.push(proposal);
        }
        self.send(leader, ForwardMessage::Request(batch), out);
    }

    pub(super) fn append_proposal(&mut self, proposal: Proposal) {
        let Proposal { request, command } = proposal;
        let command = command::stamp(command, self.cluster_time());
        self.append_own(Payload::Command { request, command });
    }

    /// Whether apply, or this member's own disk, is so far behind that more entries should not be appended.
    pub(super) fn is_full(&self) -> bool {
        let last = self.log.last().index.0;
        let limits = &self.settings.limits;
        last.saturating_sub(self.applied.0) >= limits.unapplied_entries
            || last.saturating_sub(self.durability.durable().0) >= limits.unapplied_entries.saturating_mul(UNDURABLE_FACTOR)
            || self.log.unapplied_bytes() > limits.unapplied_bytes
    }

    /// The leader that had them leads no more; whether it got them committed is not known here.
    pub(super) fn abandon_sent_proposals(&mut self, out: &mut Vec<ConsensusEffect>) {
        let sent = core::mem::take(&mut self.proposals.sent);
        out.extend(sent.into_keys().map(|request| ConsensusEffect::Refuse(request, Refusal::OutcomeUnknown)));
    }

    /// Held for an election timeout without a leader: certainly in no log. Sent and silent for several: unknown.
    pub(super) fn expire_proposals(&mut self, out: &mut Vec<ConsensusEffect>) {
        let (now, limit) = (self.now, self.settings.election_timeout);
        while let Some((_, proposal)) = self.proposals.held.pop_front_if(|(since, _)| now.since(*since) >= limit) {
            out.push(ConsensusEffect::Refuse(proposal.request, Refusal::NoLeader));
        }
        while let Some(oldest) = self.proposals.sent.first_entry() {
            if now.since(*oldest.get()) < limit * SENT_TIMEOUTS_MAX {
                break;
            }
            out.push(ConsensusEffect::Refuse(oldest.remove_entry().0, Refusal::OutcomeUnknown));
        }
    }
}

impl Consensus {
    pub(super) fn on_forward_message(&mut self, from: MemberId, message: ForwardMessage, out: &mut Vec<ConsensusEffect>) {
        match message {
            ForwardMessage::Request(proposals) => self.on_forward(from, proposals, out),
            ForwardMessage::Refused { requests, refusal } => self.on_forward_refused(from, requests, refusal, out),
        }
    }

    /// A member that led this term and does so no more says nothing: it may have appended an earlier copy, so to its sender this is
    /// unknown.
    fn on_forward(&mut self, from: MemberId, proposals: Vec<Proposal>, out: &mut Vec<ConsensusEffect>) {
        if proposals.iter().any(|proposal| proposal.request.member != from) {
            return self.shared.distrust(from, "forwards another member's proposals", out);
        }
        if let Some((leader, shared)) = self.leading() {
            leader.append_forwarded(from, proposals, shared, out);
        }
    }

    fn on_forward_refused(&mut self, from: MemberId, requests: Vec<RequestId>, refusal: ForwardRefusal, out: &mut Vec<ConsensusEffect>) {
        if self.shared.leader.is_some_and(|leader| leader != from) {
            return;
        }
        let reason = match refusal {
            ForwardRefusal::NotLeader => Refusal::LeaderChanged,
            ForwardRefusal::TooMany => Refusal::TooManyRequests,
        };
        for request in requests {
            if self.shared.proposals.sent.remove(&request).is_some() {
                out.push(ConsensusEffect::Refuse(request, reason.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(boot: u64, sequence: u64) -> RequestId {
        RequestId { member: MemberId(1), boot: Boot(boot), sequence }
    }

    #[test]
    fn a_window_admits_each_request_once_and_nothing_older_than_itself() {
        let mut window = DedupWindow::default();
        for sequence in [5, 3, 9, 7] {
            assert!(window.insert(request(1, sequence), 3), "{sequence}");
            assert!(!window.insert(request(1, sequence), 3), "{sequence} again");
        }
        // 3 fell out as the fourth came; what lies below is not known any more, so it counts as seen.
        assert!(!window.insert(request(1, 3), 3));
        assert!(!window.insert(request(1, 2), 3));
        assert!(window.insert(request(1, 4), 3));
    }

    #[test]
    fn a_window_belongs_to_the_newest_boot() {
        let mut window = DedupWindow::default();
        assert!(window.insert(request(1, 5), 3));
        assert!(window.insert(request(2, 1), 3));
        assert!(!window.insert(request(1, 6), 3));
    }
}
