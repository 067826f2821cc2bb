//! ④ The leader brings every log to its own, pipelined (Raft §5.3).

use super::{ConsensusEffect, Entry, RaftMessage, leader::Leader, progress::ProgressState, shared::Shared};
use crate::mutant::{Mutant, planted};
use crate::types::{LogId, LogIndex, MemberId, SegmentId};
use crate::wal::{self, Location};
use alloc::vec::Vec;
use bytes::Bytes;

impl Leader {
    /// To each other member what its window allows.
    pub(super) fn replicate(&mut self, shared: &Shared, out: &mut Vec<ConsensusEffect>) {
        let peers: Vec<MemberId> = self.peers.keys().copied().collect();
        for peer in peers {
            while self.send_append(peer, shared, out) {}
        }
        self.send_timeout_now(shared, out);
    }

    /// Sends one append if there is cause and room for it; says whether another might follow.
    fn send_append(&mut self, peer: MemberId, shared: &Shared, out: &mut Vec<ConsensusEffect>) -> bool {
        let limits = shared.settings.limits;
        let (round, commit) = (self.rounds.newest, shared.commit);
        let Some(progress) = self.peers.get_mut(&peer) else { return false };
        if progress.waits_for_snapshot() {
            return false;
        }
        let previous = progress.next.previous();
        let known = if progress.next > shared.released { shared.term_of(previous) } else { None };
        let known = if planted(Mutant::R12) { Some(known.unwrap_or_default()) } else { known };
        let Some(term) = known else {
            self.begin_snapshot(peer, shared, out);
            return false;
        };
        let probing = progress.is_probing();
        let window = progress.has_window(limits.inflight_appends, limits.inflight_bytes);
        let behind = progress.next <= shared.log.last().index;
        let wanted = progress.probe_due || progress.commit_sent < commit || probing;
        if !(window && behind) && (probing && !window || !wanted) {
            return false;
        }
        let entries = if !(window && behind) {
            Vec::new()
        } else if !progress.read.is_empty() {
            core::mem::take(&mut progress.read)
        } else if progress.next >= shared.log.first() {
            shared.log.entries(progress.next, limits.append_entries, limits.append_bytes)
        } else {
            self.read_log(peer, shared, out);
            return false;
        };
        let previous = LogId { term, index: previous };
        let last = entries.last().map_or(previous.index, |entry| entry.id.index);
        let bytes = entries.iter().map(Entry::bytes).sum();
        let more = !entries.is_empty();
        progress.on_sent(last, bytes);
        progress.commit_sent = commit;
        shared.send(peer, RaftMessage::Append { previous, entries, commit, round }, out);
        more
    }

    /// Asks for entries that are older than the tail in memory. `LogRead` continues.
    fn read_log(&mut self, peer: MemberId, shared: &Shared, out: &mut Vec<ConsensusEffect>) {
        let Some(progress) = self.peers.get_mut(&peer) else { return };
        if progress.reading.is_some() {
            return;
        }
        let bytes = u32::try_from(shared.settings.limits.append_bytes).unwrap_or(u32::MAX);
        let Some(location) = shared.durability.planner().locate(progress.next, bytes) else { return };
        progress.reading = Some(location);
        let Location { segment, offset, length } = location;
        out.push(ConsensusEffect::ReadLog { segment, offset, length });
    }

    pub(super) fn on_log_read(&mut self, segment: SegmentId, offset: u64, bytes: &Bytes, shared: &Shared) {
        for progress in self.peers.values_mut() {
            let Some(location) = progress.reading.take_if(|reading| (reading.segment, reading.offset) == (segment, offset)) else {
                continue;
            };
            // If that fails our own disk is at fault, and nothing was found.
            let found = wal::read_entries(location, bytes).unwrap_or_default();
            progress.on_log_read(shared.durability.planner(), found);
        }
    }

    pub(super) fn on_appended(
        &mut self,
        from: MemberId,
        matched: LogIndex,
        round: u64,
        shared: &mut Shared,
        out: &mut Vec<ConsensusEffect>,
    ) {
        let Some(progress) = self.heard_from(from, round, shared.now) else { return };
        if matched > shared.log.last().index {
            return shared.distrust(from, "acknowledges entries that were never sent", out);
        }
        let waited = progress.waits_for_snapshot();
        progress.on_matched(matched);
        if waited && !progress.waits_for_snapshot() {
            out.push(ConsensusEffect::StopSnapshot(from));
        }
        self.advance_commit(shared);
        self.finish_round(shared, out);
    }

    pub(super) fn on_append_rejected(
        &mut self,
        from: MemberId,
        previous: LogId,
        hint: LogId,
        round: u64,
        shared: &Shared,
        out: &mut Vec<ConsensusEffect>,
    ) {
        let Some(progress) = self.heard_from(from, round, shared.now) else { return };
        let stale = match progress.state {
            ProgressState::Probe { .. } => previous.index != progress.next.previous(),
            ProgressState::Replicate => previous.index <= progress.matched,
            ProgressState::Snapshot { .. } => true,
        };
        if !stale {
            let agreeing = shared.log.find_conflict_by_term(hint);
            let next = agreeing.next().min(previous.index).max(progress.matched.next());
            progress.probe_from(next);
        }
        self.finish_round(shared, out);
    }

    pub(super) fn on_heartbeat_reply(&mut self, from: MemberId, round: u64, shared: &Shared, out: &mut Vec<ConsensusEffect>) {
        let Some(progress) = self.heard_from(from, round, shared.now) else { return };
        if let ProgressState::Probe { waiting } = &mut progress.state {
            *waiting = false;
        }
        progress.probe_due |= progress.matched < shared.log.last().index;
        self.finish_round(shared, out);
    }

    /// Heartbeats carry what each member may commit, and the newest read round.
    pub(super) fn send_heartbeats(&self, shared: &mut Shared, out: &mut Vec<ConsensusEffect>) {
        let round = self.rounds.newest;
        let replicated = self.needed_by_none(shared);
        shared.replicated = shared.replicated.max(replicated);
        for (peer, progress) in &self.peers {
            let commit = progress.matched.min(shared.commit);
            shared.send(*peer, RaftMessage::Heartbeat { commit, round, replicated }, out);
        }
    }
}
