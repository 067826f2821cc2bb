//! What the two halves say to each other. Both queues are in order and lose nothing.

use super::request::Ticket;
use crate::consensus::{Entry, Installable, SnapshotMessage};
use crate::lease::LeaseChange;
use crate::types::{LogId, LogIndex, MemberId, Monotonic, WallMs, WriteNumber};
use alloc::{boxed::Box, sync::Arc, vec::Vec};

/// From the log half to the state half. What is on its way is bounded by the consensus actor's `unapplied_entries`,
/// `unapplied_bytes` and `pending_reads`.
#[derive(Clone, PartialEq, Debug)]
pub enum Order {
    /// These entries are committed; apply them in order, and answer these tickets from it.
    Apply { entries: Arc<[Entry]>, owed: Vec<Owed> },
    /// Answer this read once the state is applied to `index`.
    Serve { ticket: Ticket, deadline: Monotonic, index: LogIndex },
    /// Say at once when the state is applied to `index`: a keepalive waits for it.
    Tell { index: LogIndex },
    /// This member's own log is durable through `log`, which `write` completed: what is applied to there may be stored.
    Durable { log: LogIndex, write: WriteNumber },
    /// Bring that member a state from which a log that begins with `first` goes on; report `SnapshotEnded` when it is over.
    SendSnapshot { to: MemberId, first: LogIndex },
    /// That member needs none any more.
    StopSnapshot(MemberId),
    /// What another member says over a snapshot. One chunk at a time is asked for.
    Snapshot { from: MemberId, message: SnapshotMessage },
    /// The log goes on behind that entry: what was reported as installable takes the place of the state once the log is durable
    /// there. What is to be applied from here on follows it.
    Install(LogId),
    /// What was reported as installable is not needed.
    NotInstalled,
}

/// An answer that this member owes for one of the entries handed over: its request's number, and to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owed {
    pub sequence: u64,
    pub ticket: Ticket,
    pub deadline: Monotonic,
}

/// From the state half to the log half. One of each at most in a flush, and what is said over snapshots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// The state is applied and published to `index`.
    Applied {
        index: LogIndex,
        /// Bytes that the state store takes, what is on its way there included.
        stored_bytes: u64,
        /// The NOSPACE alarm of this member is raised.
        no_space: bool,
    },
    /// What became of leases, in order, since the last of these. It goes ahead of the word that it is applied.
    Leases(Vec<LeaseChange>),
    /// The log through here is not needed for a restart of this member.
    Synced(LogIndex),
    /// When the next node of the v2 tree goes, by the cluster's time.
    V2End(Option<WallMs>),
    /// For another member, under the present term.
    Say { to: MemberId, message: SnapshotMessage },
    /// Nothing more is sent to that member.
    SnapshotEnded(MemberId),
    /// A snapshot was received whole and is synced. Answered with `Install` or `NotInstalled`.
    Installable(Box<Installable>),
}
