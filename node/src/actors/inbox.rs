//! What reaches the replica's thread, from all sides, in two queues.

use crate::{
    state::StateEvent,
    transport::{PeerEvent, envelope_bytes},
    wal::{WalError, WalListener},
};
use bytes::Bytes;
use quorate_core::{
    command::{Refusal, Reply},
    effect::Proposal,
    types::{MemberId, ReadId, SegmentId, WriteNumber},
};
use quorate_web::ByteBudget;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// Inputs from clients and peers waiting for the replica; whoever adds one above that waits.
pub const INBOX_INPUTS: usize = 65_536;

/// Bytes of other members' messages waiting for the replica; the connection of one that does not fit is not read from meanwhile.
pub const INBOX_PEER_BYTES: usize = 128 << 20;

/// Where other members' messages enter.
#[derive(Debug)]
pub struct PeerInbox {
    inbox: mpsc::Sender<Inbound>,
    bytes: ByteBudget,
}

impl PeerInbox {
    #[must_use]
    pub fn new(inbox: mpsc::Sender<Inbound>) -> Self {
        Self { inbox, bytes: ByteBudget::new(INBOX_PEER_BYTES) }
    }

    /// Waits for room.
    pub async fn deliver(&self, event: PeerEvent) {
        let bytes = if let PeerEvent::Received(envelope) = &event { envelope_bytes(envelope) } else { 0 };
        let share = self.bytes.take(bytes as u64).await;
        // A replica that is gone takes the process with it.
        let _ = self.inbox.send(Inbound::Peer(event, share)).await;
    }
}

#[derive(Debug)]
pub enum Inbound {
    Propose {
        proposal: Proposal,
        answer: oneshot::Sender<Result<Reply, Refusal>>,
    },
    Read {
        read: ReadId,
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    /// With its share of [`INBOX_PEER_BYTES`].
    Peer(PeerEvent, OwnedSemaphorePermit),
    Transfer(MemberId),
    /// Hand leadership to whoever is best prepared, and stop once that is done.
    HandOver,
}

impl Inbound {
    /// Holds [`INBOX_INPUTS`].
    #[must_use]
    pub fn queue() -> (mpsc::Sender<Self>, mpsc::Receiver<Self>) {
        mpsc::channel(INBOX_INPUTS)
    }
}

/// What this member's own threads have done. Unbounded, so that they never wait for the replica, which may wait for them; each
/// event answers one effect.
#[derive(Debug)]
pub enum Done {
    Durable(WriteNumber),
    LogRead { segment: SegmentId, offset: u64, bytes: Bytes },
    WalFailed(WalError),
    State(StateEvent),
}

/// Tells the replica what the log's thread has done.
#[derive(Clone, Debug)]
pub struct TellReplica(pub mpsc::UnboundedSender<Done>);

impl WalListener for TellReplica {
    fn durable(&mut self, number: WriteNumber) {
        // At the end of the process nobody listens.
        let _ = self.0.send(Done::Durable(number));
    }

    fn failed(&mut self, error: WalError) {
        let _ = self.0.send(Done::WalFailed(error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::{
        consensus::{Envelope, ForwardMessage, Message},
        types::{Boot, RequestId, Term},
    };

    #[tokio::test]
    async fn a_peer_is_not_read_from_while_its_messages_fill_the_inbox() {
        let (sender, mut receiver) = Inbound::queue();
        let inbox = PeerInbox::new(sender);
        let request = RequestId { member: MemberId(2), boot: Boot(1), sequence: 0 };
        let proposal = Proposal { request, command: Bytes::from(vec![0; INBOX_PEER_BYTES / 4]) };
        let envelope = Envelope {
            from: MemberId(2),
            to: MemberId(1),
            term: Term(1),
            message: Message::Forward(ForwardMessage::Request(vec![proposal])),
        };
        let mut delivering = (0..4).map(|_| Box::pin(inbox.deliver(PeerEvent::Received(envelope.clone())))).collect::<Vec<_>>();
        let mut fourth = delivering.pop().expect("four");
        futures::future::join_all(delivering).await;
        assert!(futures::poll!(&mut fourth).is_pending(), "an envelope is a little more than its command");
        drop(receiver.recv().await);
        fourth.await;
        assert_eq!(receiver.len(), 3);
    }

    #[tokio::test]
    async fn a_full_inbox_takes_one_more_input_for_each_that_is_taken_out() {
        let (sender, mut receiver) = Inbound::queue();
        let peers = PeerInbox::new(sender.clone());
        let closed = || PeerEvent::Closed(MemberId(2));
        for _ in 1..INBOX_INPUTS {
            peers.deliver(closed()).await;
        }
        sender.send(Inbound::HandOver).await.unwrap();
        assert!(sender.try_send(Inbound::HandOver).is_err(), "a client waits");
        let mut waiting = Box::pin(peers.deliver(closed()));
        assert!(futures::poll!(&mut waiting).is_pending(), "and so does a peer");
        receiver.recv().await;
        waiting.await;
        assert_eq!(receiver.len(), INBOX_INPUTS);
    }
}
