//! A member that has fallen behind the log is given the whole state instead (Raft §7).
//!
//! ```text
//!  leader's log half        its state half                      follower's state half         its log half
//!  next entry is gone ────> pins a state ── Offer ────────────> a fresh directory
//!                           reads a chunk <─────────── Fetch ── after the last durable key
//!                                         ── Chunk ───────────> writes it, fetches the next
//!                                                               synced, opened, like the offer ──> Install in the WAL
//!                                                               swaps its whole state <── durable ──────┤
//!  probes behind it <────── ended <──────────────────── Over ── drops the old directory                 │
//!  Replicate <─────────────────────────────────────────────────────────────────────────────── Appended ─┘
//! ```
//!
//! Only the two ends of it are here: that a member needs a state, and that this member's log goes on behind one. What costs in
//! proportion to the store is the state halves' affair (`crate::member`): no heartbeat, vote or append waits for it.

use super::{ConsensusEffect, leader::Leader, log::Log, membership::Membership, progress::Progress, shared::Shared};
use crate::entry::Configuration;
use crate::mutant::{Mutant, planted};
use crate::storage::Table;
use crate::types::{Boot, LogId, LogIndex, MemberId, Revision, RevisionId, StateNumber, WallMs};
use alloc::{boxed::Box, vec::Vec};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What is said over a snapshot. Every message names which one; none of another is listened to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum SnapshotMessage {
    /// This is the state you need. Said until it is asked for.
    Offer(Box<Snapshot>),
    /// Send the rows after this place; `None`: from the first on.
    Fetch {
        snapshot: SnapshotId,
        after: Option<Position>,
    },
    Chunk {
        snapshot: SnapshotId,
        chunk: Chunk,
    },
    /// It is installed, or not needed: nothing more is asked for.
    Over {
        snapshot: SnapshotId,
    },
    /// The sender does not have it any more.
    Gone {
        snapshot: SnapshotId,
    },
}

/// Names a pinned state for ever: rows of two members are alike in what they say, not in where they lie.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SnapshotId {
    pub sender: MemberId,
    pub boot: Boot,
    pub number: u64,
}

/// What a snapshot holds. Whoever has received it all compares, before it is installed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    pub id: SnapshotId,
    /// The last entry applied to it.
    pub last: LogId,
    /// The divergence chain there.
    pub digest: u128,
    pub revision: Revision,
    pub compact_revision: Revision,
    /// How far the sender's compaction has come; the receiver goes on from there.
    pub compacted_to: RevisionId,
    /// In force at `last`; if joint, both halves.
    pub configuration: Configuration,
    /// What the sender's store takes, about: for progress, not for decisions.
    pub bytes: u64,
}

/// A row's place: snapshots are in the order of tables, then of keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Position {
    pub table: Table,
    pub key: Bytes,
}

/// Some rows that follow each other, see [`crate::member::Rows`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chunk {
    pub body: Bytes,
    /// CRC-32C of the body, made where it was read from the store: it covers the whole way into the receiver's.
    pub checksum: u32,
}

impl SnapshotMessage {
    /// The last entry that it speaks of.
    pub(super) fn highest_index(&self) -> LogIndex {
        match self {
            Self::Offer(snapshot) => snapshot.last.index,
            Self::Fetch { .. } | Self::Chunk { .. } | Self::Over { .. } | Self::Gone { .. } => LogIndex(0),
        }
    }
}

/// A received state that is ready to take this member's place in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Installable {
    pub last: LogId,
    pub configuration: Configuration,
    /// The cluster's time, as far as entries through `last` have told it.
    pub time: WallMs,
    pub state: StateNumber,
}

impl Leader {
    /// The entry that this member needs next is gone. One that does not answer is not begun with: by the time it does, the log after a
    /// state of now may be gone as well.
    pub(super) fn begin_snapshot(&mut self, peer: MemberId, shared: &Shared, out: &mut Vec<ConsensusEffect>) {
        if planted(Mutant::R13) && shared.commit >= shared.log.last().index {
            return;
        }
        let answers = |progress: &&mut Progress| shared.now.since(progress.heard) < shared.settings.election_timeout;
        if let Some(progress) = self.peers.get_mut(&peer).filter(answers) {
            progress.wait_for_snapshot(shared.released);
            out.push(ConsensusEffect::SendSnapshot { to: peer, first: shared.released.next() });
        }
    }

    /// Nothing more is sent to that member: its log will show whether it has it.
    pub(super) fn on_snapshot_ended(&mut self, peer: MemberId, shared: &Shared) {
        if let Some(progress) = self.peers.get_mut(&peer).filter(|progress| progress.waits_for_snapshot()) {
            progress.probe_from(shared.log.last().index.next());
        }
    }

    /// Through which entry no member that was heard of late needs the log. One that was not heard for `absent_after` is not waited
    /// for: it is given a snapshot when it is back.
    pub(super) fn needed_by_none(&self, shared: &Shared) -> LogIndex {
        let absent_after = shared.settings.limits.absent_after;
        let present = self.peers.values().filter(|peer| shared.now.since(peer.heard) < absent_after);
        present.map(Progress::holds).fold(shared.durability.durable(), LogIndex::min)
    }
}

impl Shared {
    /// The log goes on behind a state that another member applied. Refused if this log has come so far by itself meanwhile.
    pub(super) fn install(&mut self, installable: Installable, out: &mut Vec<ConsensusEffect>) {
        let Installable { last, configuration, time, state } = installable;
        // What is committed at the other end is in this log as well: then it only has to be applied.
        if self.term_of(last.index) == Some(last.term) {
            self.commit_through(last.index);
        }
        if last.index <= self.commit {
            return out.push(ConsensusEffect::NotInstalled);
        }
        // The log does not hold `last`: what it has there, and all behind it, was overruled, and none of it is a promise any more.
        self.durability.install(last, state, self.commit);
        self.log = Log::new(last, Vec::new());
        self.membership = Membership::new(last.index, configuration);
        self.cluster_clock.on_logged(time);
        let index = last.index;
        (self.commit, self.delivered, self.applied, self.state_synced) = (index, index, index, index);
        self.commit_recorded = index;
        self.released = index;
        self.replicated = self.replicated.max(index);
        self.acknowledgement = None;
        if let Some(leader) = self.leader.filter(|leader| *leader != self.member()) {
            self.acknowledge(leader, index, 0);
        }
        out.push(ConsensusEffect::Install(last));
    }
}
