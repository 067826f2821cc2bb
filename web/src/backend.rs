//! What the surfaces call: one trait, implemented by `node` over a hosted member and by tests over one that has no disk.

use quorate_core::{
    command::{Command, RaftStatus, Refusal, Reply},
    mvcc::View,
    storage::StateReader,
    types::{ClusterId, MemberId, Revision},
    watch::{WatchRequest, WatchResponse},
};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};
use tokio::sync::{Notify, mpsc};

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

/// Requests of one watch stream to the hub that serves it; dropping it closes the stream.
#[derive(Debug)]
pub struct WatchSender(pub mpsc::Sender<WatchStreamRequest>);

#[derive(Clone, PartialEq, Debug)]
pub enum WatchStreamRequest {
    Create(WatchRequest),
    Cancel(quorate_core::types::WatchId),
    Progress,
}

/// Responses of one watch stream, in order. Not with the requests, because those wait while responses do.
#[derive(Debug)]
pub struct WatchReceiver {
    pub responses: mpsc::UnboundedReceiver<WatchResponse>,
    /// To be told of every response that has left for the client.
    pub drained: Arc<Drained>,
}

/// Bytes of responses that left for a client and of which its hub does not know yet. A sum, so it needs no queue.
#[derive(Debug, Default)]
pub struct Drained {
    bytes: AtomicUsize,
    told: Notify,
}

impl Drained {
    pub fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.told.notify_one();
    }

    /// Waits for more than none and takes them. Dropping the wait loses nothing.
    pub async fn take(&self) -> usize {
        loop {
            match self.bytes.swap(0, Ordering::AcqRel) {
                0 => self.told.notified().await,
                bytes => return bytes,
            }
        }
    }
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

    /// Opens a watch stream. The hub bounds what is in the receiver by the drained bytes reported back; above that bound the
    /// sender is not read from.
    fn watch(&self, context: Context) -> (WatchSender, WatchReceiver);

    fn status(&self) -> Status;

    /// Hands leadership to a member; returns once it leads. Refused unless this member is the leader.
    fn transfer(&self, target: MemberId, context: Context) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Waits until the local store has physically compacted to a revision (`CompactionRequest.physical`).
    fn compacted_physically(&self, revision: Revision, context: Context) -> impl Future<Output = Result<(), Refusal>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drained_bytes_add_up_and_are_taken_once() {
        let drained = Drained::default();
        drained.add(3);
        drained.add(4);
        assert_eq!(drained.take().await, 7);
        let (taken, ()) = tokio::join!(drained.take(), async { drained.add(5) });
        assert_eq!(taken, 5);
    }
}
