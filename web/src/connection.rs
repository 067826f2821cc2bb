//! One client connection: what it may hold of the process's budgets, and how it is ended when nobody reads from it.

use crate::{budget::ByteBudget, surface::Surface};
use futures::task::AtomicWaker;
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

/// The part of each of the process's byte budgets that one connection may hold.
const SHARE: usize = 4;

/// A connection as its host and the surfaces share it. The host puts it into the extensions of the connection's requests.
#[derive(Clone, Debug)]
pub struct Connection(Arc<State>);

#[derive(Debug)]
struct State {
    received: ByteBudget,
    answers: ByteBudget,
    written_bytes: AtomicU64,
    ended: OnceLock<&'static str>,
    host: AtomicWaker,
}

impl Connection {
    #[must_use]
    pub fn new(surface: &Surface) -> Self {
        let options = surface.options();
        Self(Arc::new(State {
            received: ByteBudget::new(options.received_bytes / SHARE),
            answers: ByteBudget::new(options.answer_bytes / SHARE),
            written_bytes: AtomicU64::new(0),
            ended: OnceLock::new(),
            host: AtomicWaker::new(),
        }))
    }

    /// For the host: so many bytes more went to the client.
    pub fn wrote(&self, bytes: usize) {
        self.0.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// For the host: why the connection is to be closed, if it is.
    #[must_use]
    pub fn ended(&self) -> Option<&'static str> {
        self.0.ended.get().copied()
    }

    /// For the host: waits for [`Self::ended`]; one task at a time.
    pub fn poll_ended(&self, context: &mut Context<'_>) -> Poll<&'static str> {
        self.0.host.register(context.waker());
        self.ended().map_or(Poll::Pending, Poll::Ready)
    }

    pub(crate) fn end(&self, why: &'static str) {
        // The first reason is as good as the second.
        let _ = self.0.ended.set(why);
        self.0.host.wake();
    }

    pub(crate) fn written_bytes(&self) -> u64 {
        self.0.written_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self) -> &ByteBudget {
        &self.0.received
    }

    pub(crate) fn answers(&self) -> &ByteBudget {
        &self.0.answers
    }
}
