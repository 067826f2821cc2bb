//! Commands about leases, and what the leader's lease clock appends.

use crate::types::{LeaseId, LogIndex, Term};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The longest time to live, in seconds: etcd's, some 285 years.
pub const LEASE_TTL_MAX_S: i64 = 9_000_000_000;

/// `lease` is any id but 0: who asks for "some id" is given one before the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseGrant {
    pub lease: LeaseId,
    /// Seconds, at least 1 and at most [`LEASE_TTL_MAX_S`].
    pub ttl_s: i64,
}

/// Ends a lease; its keys go in one revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseRevoke {
    pub lease: LeaseId,
}

/// The time of a lease is over, says the leader of `term`. Void in an entry of another term, and for another lease of the same id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseExpire {
    pub lease: LeaseId,
    /// The entry that granted it.
    pub granted: LogIndex,
    pub term: Term,
}

/// What is left of long leases, says the leader of `term`. Void as [`LeaseExpire`] is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseCheckpoint {
    pub term: Term,
    pub leases: Vec<Checkpointed>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checkpointed {
    pub lease: LeaseId,
    /// The entry that granted it.
    pub granted: LogIndex,
    /// Seconds; `None`: it is about to be renewed, so all of its time.
    pub remaining_s: Option<i64>,
}
