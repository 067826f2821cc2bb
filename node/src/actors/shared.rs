//! What the replica publishes and every other thread reads.

use crate::{clock::Clock, state::FjallReader, state::Usage};
use quorate_core::{
    command::RaftStatus,
    mvcc::View,
    types::{Boot, ClusterId, MemberId, Revision, Term},
};
use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Bytes of proposals that clients wait for, over all workers. A proposal above that is refused with too many requests.
pub const PROPOSALS_BYTES: usize = 256 << 20;

/// Bytes of which many may hold a share, in units of a KiB. A share that is larger than the whole is all of it.
#[derive(Debug)]
pub struct ByteBudget {
    free: Arc<Semaphore>,
    total: u32,
}

impl ByteBudget {
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let total = u32::try_from(bytes >> 10).unwrap_or(u32::MAX >> 3).clamp(1, u32::MAX >> 3);
        Self { free: Arc::new(Semaphore::new(total as usize)), total }
    }

    fn share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX).min(self.total)
    }

    /// A share until it is dropped, if there is room.
    #[must_use]
    pub fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_many_owned(self.share(bytes)).ok()
    }

    /// A share until it is dropped, waited for.
    pub async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        Arc::clone(&self.free).acquire_many_owned(self.share(bytes)).await.expect("the budget is never closed")
    }
}

/// Who leads, as this member knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leadership {
    pub term: Term,
    pub leader: Option<MemberId>,
}

/// Fixed for one life.
#[derive(Clone, Debug)]
pub struct Member {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub boot: Boot,
    /// `None`: unlimited.
    pub quota_bytes: Option<u64>,
    pub max_request_bytes: usize,
    /// How long a request may take at most.
    pub request_timeout: Duration,
    pub election_timeout: Duration,
}

/// Shared by all threads of the process.
pub struct Shared {
    pub member: Member,
    pub clock: Clock,
    pub usage: Arc<Usage>,
    /// The state published last.
    pub view: watch::Sender<Arc<View<FjallReader>>>,
    pub leadership: watch::Sender<Leadership>,
    /// The newest floor below which this member has swept everything.
    pub swept: watch::Sender<Revision>,
    /// No new request is taken.
    pub stopping: AtomicBool,
    pub streams: AtomicU64,
    /// Bytes of proposals on their way; see [`PROPOSALS_BYTES`].
    pub proposals: ByteBudget,
    sequence: AtomicU64,
    status: Mutex<RaftStatus>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("member", &self.member).finish_non_exhaustive()
    }
}

impl Shared {
    #[must_use]
    pub fn new(member: Member, clock: Clock, usage: Arc<Usage>, view: Arc<View<FjallReader>>) -> Self {
        let status = RaftStatus { member: member.member, ..RaftStatus::default() };
        Self {
            member,
            clock,
            usage,
            view: watch::Sender::new(view),
            leadership: watch::Sender::new(Leadership::default()),
            swept: watch::Sender::new(Revision(0)),
            stopping: AtomicBool::new(false),
            streams: AtomicU64::new(0),
            proposals: ByteBudget::new(PROPOSALS_BYTES),
            sequence: AtomicU64::new(0),
            status: Mutex::new(status),
        }
    }

    /// A number for a request or read id; never given twice in one life.
    pub fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    #[must_use]
    pub fn status(&self) -> RaftStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_status(&self, status: RaftStatus) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proposals_above_their_bytes_find_no_room_until_others_are_answered() {
        const REQUEST: usize = 1_536 << 10;
        let budget = ByteBudget::new(PROPOSALS_BYTES);
        let taken: Vec<_> = std::iter::from_fn(|| budget.try_take(REQUEST)).collect();
        assert_eq!(taken.len(), PROPOSALS_BYTES / REQUEST);
        drop(taken);
        assert!(budget.try_take(usize::MAX).is_some(), "the largest goes alone");
    }
}
