//! Leases: keys that live as long as somebody says so.
//!
//! What a lease *is* (its id, its granted time, its keys) is replicated state, changed by entries of the log: [`table`]. What time it
//! *has left* only the leader's [`clock`] knows. The two meet in the log:
//!
//! ```text
//!            leader's log half                              every state half
//!  KeepAlive ─> a read round ─> renewed in the clock
//!               its time is over ─── Expire ────── log ───> the lease and its keys go, in one revision
//!               every interval ───── Checkpoint ── log ───> what a new leader begins with
//!               table of the clock <────────────────────── LeaseChange, with what is applied
//! ```
//!
//! **No lease ends early.** A keepalive is answered only after a quorum said, in a round begun after it came, that this member leads,
//! and from a state applied to that round's index. So whoever leads later was elected after the keepalive came, and gives every lease
//! its whole time (or what a checkpoint says, which a renewal clears *first*, through the log) from its election on. An `Expire`
//! counts only in the term and for the grant that it names, and only the leader of that term appends it, never by way of another: who
//! was deposed cannot end what a later leader renewed. What is under way for a lease in the log is waited for by its keepalives.
//!
//! **None ends late**, but by the time until there is a leader: a checkpoint is what keeps long leases from beginning anew at each
//! election.
//!
//! A new leader does nothing before it has applied an entry of its own term: only then its table has all that was ever promised.

pub(crate) mod clock;
pub(crate) mod table;

pub use clock::LeaseLimits;
pub use table::{Lease, LeaseChange, LeaseCounts};

use crate::types::LeaseId;
use core::fmt;
use serde::{Deserialize, Serialize};

/// What only the leader's clock can answer. On the wire between members: append-only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LeaseCall {
    /// Begin its time anew.
    KeepAlive(LeaseId),
    TimeToLive(LeaseId),
}

/// Seconds that a lease was granted, and that it has left. On the wire between members: append-only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseTime {
    pub ttl_s: i64,
    pub remaining_s: i64,
}

impl fmt::Display for LeaseCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeepAlive(lease) => write!(f, "keep lease {lease} alive"),
            Self::TimeToLive(lease) => write!(f, "time of lease {lease}"),
        }
    }
}

impl fmt::Display for LeaseTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} s", self.remaining_s, self.ttl_s)
    }
}

impl fmt::Display for LeaseChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(id, Lease { ttl_s, remaining_s: None, .. }) => write!(f, "{id} for {ttl_s} s"),
            Self::Is(id, Lease { ttl_s, remaining_s: Some(left), .. }) => write!(f, "{id} {left} of {ttl_s} s"),
            Self::Ended(id) => write!(f, "{id} ended"),
        }
    }
}
