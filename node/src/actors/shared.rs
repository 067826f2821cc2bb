//! What the member's two halves publish and every other thread reads.

use super::Tickets;
use crate::{clock::Clock, state::FjallReader, state::Usage};
use quorate_core::{
    command::RaftStatus,
    mvcc::View,
    types::{Boot, ClusterId, MemberId, Revision, Term},
};
use quorate_web::ByteBudget;
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};
use tokio::sync::watch;

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
    /// For whoever shows it; `None`: unlimited.
    pub quota_bytes: Option<u64>,
    pub max_request_bytes: usize,
    /// Bytes of proposals that clients wait for, over all workers; one above that is refused with too many requests.
    pub proposals_bytes: usize,
    /// How long a request may wait to reach the member.
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
    /// The newest compact revision that this member's compaction has come to.
    pub compacted_to: watch::Sender<Revision>,
    /// The index of the v2 tree in the view published last: whoever waits for a change of it is not woken by others.
    pub v2_index: watch::Sender<u64>,
    pub streams: AtomicU64,
    /// Who waits for which answer.
    pub tickets: Tickets,
    /// Bytes of proposals on their way; see [`Member::proposals_bytes`].
    pub proposals: ByteBudget,
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
            proposals: ByteBudget::new(member.proposals_bytes),
            member,
            clock,
            usage,
            v2_index: watch::Sender::new(view.v2_index()),
            view: watch::Sender::new(view),
            leadership: watch::Sender::new(Leadership::default()),
            compacted_to: watch::Sender::new(Revision(0)),
            streams: AtomicU64::new(0),
            tickets: Tickets::default(),
            status: Mutex::new(status),
        }
    }

    /// The state that everyone reads from now on.
    pub(super) fn publish(&self, view: Arc<View<FjallReader>>) {
        let v2_index = view.v2_index();
        self.view.send_replace(view);
        self.v2_index.send_if_modified(|index| std::mem::replace(index, v2_index) != v2_index);
    }

    #[must_use]
    pub fn status(&self) -> RaftStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_status(&self, status: RaftStatus) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

#[cfg(test)]
impl Shared {
    /// Of a member that has just been founded, with its state in a directory.
    pub(crate) fn of_a_new_member(directory: &std::path::Path) -> Arc<Self> {
        use quorate_core::machine::{Machine, MachineLimits, MachineSettings};
        let store = crate::state::StateStore::open(&directory.join("state"), crate::memory::MemoryBudget::default()).unwrap();
        let settings = MachineSettings { member: MemberId(1), boot: Boot(1), limits: MachineLimits::default() };
        let machine = Machine::open(settings, store.reader()).unwrap();
        let member = Member {
            cluster: ClusterId(1),
            member: MemberId(1),
            boot: Boot(1),
            quota_bytes: None,
            max_request_bytes: 1 << 20,
            proposals_bytes: 256 << 20,
            request_timeout: Duration::from_secs(5),
            election_timeout: Duration::from_secs(1),
        };
        Arc::new(Self::new(member, Clock, store.usage(), machine.view()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proposals_above_their_bytes_find_no_room_until_others_are_answered() {
        const REQUEST: usize = 1_536 << 10;
        const PROPOSALS_BYTES: usize = 256 << 20;
        let budget = ByteBudget::new(PROPOSALS_BYTES);
        let taken: Vec<_> = std::iter::from_fn(|| budget.try_take(REQUEST as u64)).collect();
        assert_eq!(taken.len(), PROPOSALS_BYTES / REQUEST);
        drop(taken);
        assert!(budget.try_take(u64::MAX).is_some(), "the largest goes alone");
    }
}
