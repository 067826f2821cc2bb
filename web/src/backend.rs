//! What the surfaces call: one trait, implemented by `node` over a hosted member and by tests over one that has no disk.

use crate::watch_stream::{WatchReceiver, WatchSender};
use quorate_core::{
    command::{Command, RaftStatus, Refusal, Reply},
    lease::{LeaseCall, LeaseTime},
    mvcc::View,
    storage::StateReader,
    types::{ClusterId, MemberId, Revision},
};
use std::{future::Future, sync::Arc, time::Instant};
use tokio::sync::watch;

/// What a read must see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consistency {
    /// Everything acknowledged before the read began (ReadIndex).
    Linearizable,
    /// What this member has applied; works without a leader.
    Serializable,
}

/// Where a request came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    Grpc,
    Gateway,
    /// The member itself: health checks.
    Internal,
}

/// What travels with a request beside its content.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The caller gives up here; the backend's own limit applies as well.
    pub deadline: Option<Instant>,
    /// Fail at once if no leader is known (`hasleader`).
    pub require_leader: bool,
    pub source: Source,
    /// The request as a protobuf message, in bytes; 0 for one that no client sent. See [`quorate_core::member::raft_request_bytes`].
    pub request_bytes: usize,
}

/// What this process knows of itself and shows to operators.
#[derive(Clone, Debug)]
pub struct Status {
    pub cluster: ClusterId,
    pub raft: RaftStatus,
    /// Bytes the state store and the WAL take on disk.
    pub db_bytes: i64,
    /// Of these, bytes that live data needs.
    pub db_bytes_in_use: i64,
    pub quota_bytes: i64,
}

/// A running member, as its client surfaces see it.
pub trait Backend: Clone + Send + Sync + 'static {
    type Reader: StateReader;

    /// Replicates a command and answers from this member's own apply. The command's shape was checked by the caller with
    /// [`quorate_core::machine::validate`]; size and quota are checked here.
    fn propose(&self, command: Command, context: Context) -> impl Future<Output = Result<Reply, Refusal>> + Send;

    /// A state to read from.
    fn view(&self, consistency: Consistency, context: Context) -> impl Future<Output = Result<Arc<View<Self::Reader>>, Refusal>> + Send;

    /// The state published last, without waiting.
    fn current(&self) -> Arc<View<Self::Reader>>;

    /// Asks the clock of whoever leads about a lease, after a quorum has confirmed that it does. `None`: there is no such lease.
    fn lease(&self, call: LeaseCall, context: Context) -> impl Future<Output = Result<Option<LeaseTime>, Refusal>> + Send;

    /// Opens a watch stream. The hub bounds what is in the receiver by the drained bytes reported back; above that bound the
    /// sender is not read from.
    fn watch(&self, context: Context) -> (WatchSender, WatchReceiver);

    /// The index of the v2 tree, whenever it has changed: for those who wait. What it tells of is in [`Self::current`] by then.
    fn v2_changes(&self) -> watch::Receiver<u64>;

    fn status(&self) -> Status;

    /// Hands leadership to a member; returns once it leads. Refused unless this member is the leader.
    fn transfer(&self, target: MemberId, context: Context) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Waits until the local store has physically compacted to a revision (`CompactionRequest.physical`).
    fn compacted_physically(&self, revision: Revision, context: Context) -> impl Future<Output = Result<(), Refusal>> + Send;
}
