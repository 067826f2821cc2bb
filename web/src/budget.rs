//! Bytes of which many may hold a share.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A named bound in bytes, held in units of a KiB so that a count fits the semaphore. A share larger than the whole is all of it.
#[derive(Debug)]
pub struct ByteBudget {
    free: Arc<Semaphore>,
    total: u32,
}

impl ByteBudget {
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let total = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).clamp(1, u32::MAX >> 3);
        Self { free: Arc::new(Semaphore::new(total as usize)), total }
    }

    fn share(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX).min(self.total)
    }

    /// A share until it is dropped, if there is room.
    #[must_use]
    pub fn try_take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_many_owned(self.share(bytes)).ok()
    }

    /// A share until it is dropped, waited for. One larger than the whole waits until it is alone.
    pub async fn take(&self, bytes: u64) -> OwnedSemaphorePermit {
        Arc::clone(&self.free).acquire_many_owned(self.share(bytes)).await.expect("the budget is never closed")
    }
}
