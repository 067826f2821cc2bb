//! What waits for one connection to a peer. Raft bears loss, so a full queue drops the oldest instead of growing or blocking.

use quorate_core::consensus::{Envelope, ForwardMessage, Message, Payload, RaftMessage, SnapshotMessage};
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};
use tokio::sync::Notify;

/// Messages waiting for one connection.
pub(super) const QUEUE_MESSAGES: usize = 16_384;
/// Their bytes, about: above the window the consensus actor keeps itself.
pub(super) const QUEUE_BYTES: usize = 64 << 20;

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<(Envelope, usize)>,
    bytes: usize,
    dropped: u64,
}

impl Queue {
    pub(super) fn push(&self, envelope: Envelope) {
        let bytes = envelope_bytes(&envelope);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while waiting.messages.len() >= QUEUE_MESSAGES || (!waiting.messages.is_empty() && waiting.bytes + bytes > QUEUE_BYTES) {
            let (_, oldest) = waiting.messages.pop_front().expect("it is not empty");
            waiting.bytes -= oldest;
            waiting.dropped += 1;
        }
        waiting.messages.push_back((envelope, bytes));
        waiting.bytes += bytes;
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits for messages and takes them, at least one, at most about `bytes`.
    pub(super) async fn take(&self, bytes: usize) -> Vec<Envelope> {
        loop {
            let taken = self.take_now(bytes);
            if !taken.is_empty() {
                return taken;
            }
            self.arrived.notified().await;
        }
    }

    fn take_now(&self, limit: usize) -> Vec<Envelope> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        let mut sum = 0;
        while sum < limit
            && let Some((envelope, bytes)) = waiting.messages.pop_front()
        {
            waiting.bytes -= bytes;
            sum += bytes;
            taken.push(envelope);
        }
        taken
    }

    /// Forgets what waits: the connection it waited for is gone, and so is what it was said for.
    pub(super) fn clear(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.messages.clear();
        waiting.bytes = 0;
    }

    #[cfg(test)]
    fn dropped(&self) -> u64 {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).dropped
    }
}

const OVERHEAD: usize = 64;

/// Bytes that a message takes in memory, about.
pub fn envelope_bytes(envelope: &Envelope) -> usize {
    let body: usize = match &envelope.message {
        Message::Raft(RaftMessage::Append { entries, .. }) => entries
            .iter()
            .map(|entry| match &entry.payload {
                Payload::Command { command, .. } => command.len() + OVERHEAD,
                _ => OVERHEAD,
            })
            .sum(),
        Message::Forward(ForwardMessage::Request(proposals)) => proposals.iter().map(|proposal| proposal.command.len() + OVERHEAD).sum(),
        Message::Snapshot(SnapshotMessage::Chunk { chunk, .. }) => chunk.body.len(),
        _ => 0,
    };
    OVERHEAD + body
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quorate_core::{
        consensus::Proposal,
        types::{Boot, LogIndex, MemberId, RequestId, Term},
    };

    fn heartbeat(round: u64) -> Envelope {
        Envelope {
            from: MemberId(1),
            to: MemberId(2),
            term: Term(1),
            message: Message::Raft(RaftMessage::Heartbeat { commit: LogIndex(0), replicated: LogIndex(0), round }),
        }
    }

    fn forward(bytes: usize) -> Envelope {
        let request = RequestId { member: MemberId(1), boot: Boot(1), sequence: 0 };
        let proposal = Proposal { request, command: Bytes::from(vec![0; bytes]) };
        Envelope { from: MemberId(1), to: MemberId(2), term: Term(1), message: Message::Forward(ForwardMessage::Request(vec![proposal])) }
    }

    #[test]
    fn a_queue_full_of_messages_drops_the_oldest() {
        let queue = Queue::default();
        for round in 0..QUEUE_MESSAGES as u64 + 3 {
            queue.push(heartbeat(round));
        }
        let taken = queue.take_now(usize::MAX);
        assert_eq!((taken.len(), queue.dropped()), (QUEUE_MESSAGES, 3));
        assert_eq!(taken[0], heartbeat(3));
    }

    #[test]
    fn a_queue_full_of_bytes_drops_the_oldest() {
        let queue = Queue::default();
        for _ in 0..5 {
            queue.push(forward(QUEUE_BYTES / 4));
        }
        assert_eq!(queue.dropped(), 2);
        assert_eq!(queue.take_now(usize::MAX).len(), 3);
    }

    #[test]
    fn one_message_above_the_limit_still_goes() {
        let queue = Queue::default();
        queue.push(forward(QUEUE_BYTES + 1));
        assert_eq!(queue.take_now(1).len(), 1);
    }
}
