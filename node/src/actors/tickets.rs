//! Who waits for which answer: workers open tickets, both halves' threads answer them.

use quorate_core::{
    command::Refusal,
    member::{Answer, Ticket},
};
use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::oneshot;

/// So many locks, that threads seldom wait for one another.
const SHARDS: usize = 16;

type Waiting = oneshot::Sender<Result<Answer, Refusal>>;

/// Bounded by the callers: each holds its request until it is answered, or leaves and takes its ticket along.
#[derive(Debug, Default)]
pub struct Tickets {
    next: AtomicU64,
    shards: [Mutex<HashMap<u64, Waiting>>; SHARDS],
}

impl Tickets {
    /// A new ticket, and where its answer comes.
    pub fn open(&self) -> (Ticket, oneshot::Receiver<Result<Answer, Refusal>>) {
        let ticket = Ticket(self.next.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = oneshot::channel();
        self.shard(ticket).insert(ticket.0, sender);
        (ticket, receiver)
    }

    /// Whoever asked may have left.
    pub fn answer(&self, ticket: Ticket, answer: Result<Answer, Refusal>) {
        let waiting = self.shard(ticket).remove(&ticket.0);
        if let Some(waiting) = waiting {
            let _ = waiting.send(answer);
        }
    }

    /// Nobody waits any more. `false`: it is answered.
    pub fn close(&self, ticket: Ticket) -> bool {
        self.shard(ticket).remove(&ticket.0).is_some()
    }

    fn shard(&self, ticket: Ticket) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        self.shards[ticket.0 as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ticket_is_answered_once_and_not_after_it_was_closed() {
        let tickets = Tickets::default();
        let (first, answered) = tickets.open();
        let (second, mut never) = tickets.open();
        assert_ne!(first, second);
        assert!(tickets.close(second));
        tickets.answer(second, Ok(Answer::Ready));
        assert!(never.try_recv().is_err());
        tickets.answer(first, Err(Refusal::TimedOut));
        tickets.answer(first, Ok(Answer::Ready));
        assert_eq!(answered.await, Ok(Err(Refusal::TimedOut)));
        assert!(!tickets.close(first));
    }
}
