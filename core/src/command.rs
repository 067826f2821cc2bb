//! What clients may ask, what they are answered, and why they are refused.
//!
//! Structs here are stored in the log inside a versioned frame (see [`crate::codec`]): fields and variants are only ever
//! appended, behind a new format version.

use crate::mvcc::EncodedKeyValue;
use crate::types::{LeaseId, LogIndex, MemberId, Revision};
use crate::v2;
use alloc::{string::String, sync::Arc, vec::Vec};
use bytes::Bytes;
use core::fmt;
use serde::{Deserialize, Serialize};

/// A change that goes through the log. Whatever is not deterministic was resolved before it got here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
    Compact(Compact),
    Alarm(AlarmChange),
    /// A member tells the cluster its name and where clients reach it.
    Publish(MemberAttributes),
    /// A change of the v2 tree, at the cluster's time.
    V2(v2::Request),
    LeaseGrant(LeaseGrant),
    LeaseRevoke(LeaseRevoke),
    LeaseExpire(LeaseExpire),
    LeaseCheckpoint(LeaseCheckpoint),
}

/// The keys a request speaks of (etcd API, KV: key ranges).
/// `end` empty: the one key. `end` = `"\0"`: all keys from `key` on. Else `[key, end)`, empty if `end <= key`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeyRange {
    pub key: Bytes,
    pub end: Bytes,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Put {
    pub key: Bytes,
    pub value: Bytes,
    pub lease: LeaseId,
    pub prev_kv: bool,
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DeleteRange {
    pub range: KeyRange,
    pub prev_kv: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum SortOrder {
    #[default]
    None,
    Ascend,
    Descend,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum SortTarget {
    #[default]
    Key,
    Version,
    Create,
    Mod,
    Value,
}

/// A read of keys. Zero means "not asked for" in every number, as on the wire.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Range {
    pub range: KeyRange,
    /// At most so many keys; 0 or less is unlimited.
    pub limit: i64,
    /// As of this revision; 0 or less is the newest (inside a txn that writes, a negative one is compacted).
    pub revision: Revision,
    pub sort_order: SortOrder,
    pub sort_target: SortTarget,
    pub serializable: bool,
    pub keys_only: bool,
    pub count_only: bool,
    pub min_mod_revision: Revision,
    pub max_mod_revision: Revision,
    pub min_create_revision: Revision,
    pub max_create_revision: Revision,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CompareResult {
    Equal,
    Greater,
    Less,
    NotEqual,
}

/// What a stored key is compared with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CompareTarget {
    Version(i64),
    Create(Revision),
    Mod(Revision),
    Value(Bytes),
    Lease(LeaseId),
}

/// `stored <result> target` for the key, or for every key of the range.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Compare {
    pub range: KeyRange,
    pub result: CompareResult,
    pub target: CompareTarget,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Op {
    Range(Range),
    Put(Put),
    DeleteRange(DeleteRange),
    Txn(Txn),
}

/// If all compares hold (on the state before the txn) `success`, else `failure`, in order, as one revision.
///
/// Stored flat, see [`flat_txn`]: reading one from bytes takes no stack, however deep they say it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Compact {
    pub revision: Revision,
    /// Answer only once the space is given back on the answering member.
    pub physical: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum AlarmKind {
    NoSpace,
    Corrupt,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Alarm {
    pub member: MemberId,
    pub kind: AlarmKind,
}

/// Raising what is raised answers it again; lowering what is not answers nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AlarmChange {
    pub alarm: Alarm,
    pub active: bool,
}

/// What a member says of itself once it runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberAttributes {
    pub member: MemberId,
    pub name: String,
    pub client_urls: Vec<String>,
}

/// A member as `MemberList` shows it; name and client URLs are empty until it has started once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    pub id: MemberId,
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

mod encoding;
mod flat_txn;
mod lease;
mod rejection;
mod validate;
pub(crate) mod walk;
pub use encoding::{decode_command, decode_with_time, encode_command};
pub(crate) use encoding::{stamp, time_of};
pub use flat_txn::TXN_DEPTH_MAX;
pub use lease::{Checkpointed, LEASE_TTL_MAX_S, LeaseCheckpoint, LeaseExpire, LeaseGrant, LeaseRevoke};
pub use rejection::Rejection;
pub use validate::{validate, validate_range};

/// What one command may visit of the keys, beyond each of them once: see [`crate::machine::View::cost`]. Equal on all members,
/// because they must agree on what is refused.
///
/// Whatever goes over the store once passes, however large the store; what goes over it again and again does not: a txn of 128
/// ops, each over a million keys, would hold up every write for the better part of a minute.
pub const COMMAND_KEYS_MAX: u64 = 1_000_000;

/// The answer to a [`Command`], given by the member that took it, from its own apply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    Put(PutReply),
    DeleteRange(DeleteRangeReply),
    Txn(TxnReply),
    Compact {
        revision: Revision,
    },
    Alarm {
        revision: Revision,
        alarms: Vec<Alarm>,
    },
    Published,
    /// What a change of the v2 tree came to; an expiry that found nothing has no event.
    V2(Result<Option<Arc<v2::Event>>, v2::Error>),
    LeaseGranted {
        revision: Revision,
        lease: LeaseId,
        ttl_s: i64,
    },
    LeaseRevoked {
        revision: Revision,
    },
    /// Of what a lease clock appended; nobody waits for it.
    LeaseClockHeard,
}

/// In protocol notation: what was done, and the revision after it.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(reply) => write!(f, "put@{}", reply.revision),
            Self::DeleteRange(reply) => write!(f, "delete {} keys@{}", reply.deleted, reply.revision),
            Self::Txn(reply) => write!(f, "txn {}@{}", if reply.succeeded { "then" } else { "else" }, reply.revision),
            Self::Compact { revision } => write!(f, "compact@{revision}"),
            Self::Alarm { revision, alarms } => write!(f, "{} alarms@{revision}", alarms.len()),
            Self::Published => write!(f, "published"),
            Self::V2(Ok(Some(event))) => write!(f, "v2 {} {}@{}", event.action.name(), event.node.path.or_slash(), event.index),
            Self::V2(Ok(None)) => write!(f, "v2 nothing"),
            Self::V2(Err(error)) => write!(f, "v2 {error}"),
            Self::LeaseGranted { lease, ttl_s, .. } => write!(f, "lease {lease} for {ttl_s} s"),
            Self::LeaseRevoked { revision } => write!(f, "lease revoked@{revision}"),
            Self::LeaseClockHeard => write!(f, "heard"),
        }
    }
}

/// `revision` in these is the store's after the operation (header.revision on the wire).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PutReply {
    pub revision: Revision,
    pub prev_kv: Option<EncodedKeyValue>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeleteRangeReply {
    pub revision: Revision,
    pub deleted: i64,
    pub prev_kvs: Vec<EncodedKeyValue>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RangeReply {
    pub revision: Revision,
    pub kvs: Vec<EncodedKeyValue>,
    pub more: bool,
    /// All keys of the interval at that revision, whatever limit and filters say.
    pub count: i64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TxnReply {
    pub revision: Revision,
    pub succeeded: bool,
    pub responses: Vec<OpReply>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpReply {
    Range(RangeReply),
    Put(PutReply),
    DeleteRange(DeleteRangeReply),
    Txn(TxnReply),
}

/// Why a request was not served. Closed: one table in `web` gives each its gRPC code and text, its HTTP status and its v2 code.
///
/// A refusal says that nothing was done, with one exception: [`Refusal::OutcomeUnknown`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    // The request itself is wrong.
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    /// A txn would visit more keys than [`COMMAND_KEYS_MAX`] allows.
    TooManyKeys,
    DuplicateKey,
    InvalidSortOption,
    Compacted,
    FutureRevision,
    LeaseNotFound,
    LeaseExists,
    LeaseTtlTooLarge,
    RequestTooLarge,
    MemberNotFound,
    BadLeaderTransferee,
    // The cluster cannot serve it now.
    NoSpace,
    Corrupt,
    NoLeader,
    NotLeader,
    LeaderChanged,
    TooManyRequests,
    Unhealthy,
    Stopped,
    /// The answer did not come in time, and nothing says that it was proposed.
    TimedOut,
    /// It may be applied, now or later, or never: the leader that had it is gone, or its answer is.
    OutcomeUnknown,
    /// This member could not read its own state store; it is about to stop.
    StorageFailed,
}

/// What `Maintenance.Status` and the metrics show of this member.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RaftStatus {
    pub member: MemberId,
    pub leader: Option<MemberId>,
    pub term: crate::types::Term,
    pub committed: LogIndex,
    /// As far as the log half has been told; the state published last may be ahead of it.
    pub applied: LogIndex,
    pub durable: LogIndex,
    /// First index still in the WAL.
    pub first: LogIndex,
    pub is_learner: bool,
    pub leader_changes: u64,
    pub proposals_pending: u64,
}
