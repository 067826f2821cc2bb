//! Shares of the byte budgets: what an answer holds on its way out, and what a request holds while it comes in.

use crate::{api_error::ApiError, connection::Connection, surface::Surface};
use bytes::Bytes;
use quorate_core::command::Refusal;
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::OwnedSemaphorePermit, task::AbortHandle, time::sleep};

/// How a client is told in the log that nobody read its answer.
const NOBODY_READS: &str = "the client does not read an answer it asked for";

/// What moves while an answer is being read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// Parts of this answer, given to the transport or let go of by it.
    OfAnswer,
    /// Bytes of its connection, which carries one answer at a time.
    OfConnection,
}

/// An answer's share of the answer budget, for as long as any part of the answer is held; none for an answer too small to count.
#[derive(Clone, Debug, Default)]
pub(crate) struct BudgetPermit(Option<Arc<AnswerShare>>);

#[derive(Debug)]
struct AnswerShare {
    _of_process: OwnedSemaphorePermit,
    _of_connection: Option<OwnedSemaphorePermit>,
    parts: AtomicU64,
    watchdog: OnceLock<AbortHandle>,
}

impl Drop for AnswerShare {
    fn drop(&mut self) {
        if let Some(watchdog) = self.watchdog.get() {
            watchdog.abort();
        }
    }
}

impl BudgetPermit {
    /// A share of so many bytes, waited for. If nothing of the answer moves for [`crate::Options::answer_timeout`], its connection is
    /// ended: that alone makes the transport let go of what it was given.
    pub(crate) async fn take(surface: &Surface, connection: Option<&Connection>, bytes: u64, progress: Progress) -> Self {
        let of_connection = match connection {
            Some(connection) => Some(connection.answers().take(bytes).await),
            None => None,
        };
        let of_process = surface.answers().take(bytes).await;
        let share = Arc::new(AnswerShare {
            _of_process: of_process,
            _of_connection: of_connection,
            parts: AtomicU64::new(0),
            watchdog: OnceLock::new(),
        });
        if let Some(connection) = connection {
            let watchdog = watch(&share, connection.clone(), progress, surface.options().answer_timeout);
            share.watchdog.set(watchdog).expect("set once");
        }
        Self(Some(share))
    }

    /// Whether the answer was large enough to need a share.
    pub(crate) const fn counts(&self) -> bool {
        self.0.is_some()
    }

    /// The bytes, with the share held until they are dropped.
    pub(crate) fn attach(&self, bytes: Bytes) -> Bytes {
        let Some(share) = &self.0 else { return bytes };
        share.parts.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(PermittedBytes { bytes, share: Arc::clone(share) })
    }
}

fn watch(share: &Arc<AnswerShare>, connection: Connection, progress: Progress, timeout: Duration) -> AbortHandle {
    let moved = move |share: &AnswerShare, connection: &Connection| match progress {
        Progress::OfAnswer => share.parts.load(Ordering::Relaxed),
        Progress::OfConnection => connection.written_bytes(),
    };
    let mut before = moved(share, &connection);
    let share = Arc::downgrade(share);
    let task = tokio::spawn(async move {
        loop {
            sleep(timeout).await;
            let Some(share) = share.upgrade() else { return };
            let now = moved(&share, &connection);
            if now == before {
                return connection.end(NOBODY_READS);
            }
            before = now;
        }
    });
    task.abort_handle()
}

struct PermittedBytes {
    bytes: Bytes,
    share: Arc<AnswerShare>,
}

impl AsRef<[u8]> for PermittedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PermittedBytes {
    fn drop(&mut self) {
        self.share.parts.fetch_add(1, Ordering::Relaxed);
    }
}

/// An answer, and its share of the budget for as long as it is held.
#[derive(Debug)]
pub(crate) struct WithPermit<T> {
    pub answer: T,
    pub permit: BudgetPermit,
}

impl<T> WithPermit<T> {
    pub(crate) fn free(answer: T) -> Self {
        Self { answer, permit: BudgetPermit::default() }
    }

    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> WithPermit<U> {
        WithPermit { answer: change(self.answer), permit: self.permit }
    }
}

/// The share of the receive budget of a message that came in part.
#[derive(Debug)]
pub(crate) struct ReceivePermit {
    of_process: OwnedSemaphorePermit,
    of_connection: Option<OwnedSemaphorePermit>,
}

impl ReceivePermit {
    /// At once or not at all: a message that waited would keep the others of its connection from coming, by flow control.
    pub(crate) fn try_take(surface: &Surface, connection: Option<&Connection>, bytes: usize) -> Result<Self, ApiError> {
        let take = || {
            let of_connection = match connection {
                Some(connection) => Some(connection.received().try_take(bytes as u64)?),
                None => None,
            };
            Some(Self { of_process: surface.received().try_take(bytes as u64)?, of_connection })
        };
        take().ok_or_else(|| Refusal::TooManyRequests.into())
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.of_process.merge(other.of_process);
        if let (Some(mine), Some(theirs)) = (&mut self.of_connection, other.of_connection) {
            mine.merge(theirs);
        }
    }
}
