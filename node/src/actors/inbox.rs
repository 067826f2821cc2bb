//! What reaches the log half's thread, from all sides, in two queues.

use crate::{
    transport::{PeerEvent, envelope_bytes},
    wal::{WalError, WalListener},
};
use quorate_core::{
    member::{LogInput, Report, Request, Ticket, WalDone},
    types::WriteNumber,
};
use quorate_web::ByteBudget;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Inputs from clients and peers waiting for the log half; whoever adds one above that waits.
pub const INBOX_INPUTS: usize = 65_536;

/// Where other members' messages enter. The connection of one that does not fit is not read from meanwhile.
#[derive(Debug)]
pub struct PeerInbox {
    inbox: mpsc::Sender<Inbound>,
    bytes: ByteBudget,
}

impl PeerInbox {
    /// `bytes`: of messages that wait for the log half.
    #[must_use]
    pub fn new(inbox: mpsc::Sender<Inbound>, bytes: usize) -> Self {
        Self { inbox, bytes: ByteBudget::new(bytes) }
    }

    /// Waits for room.
    pub async fn deliver(&self, event: PeerEvent) {
        let bytes = if let PeerEvent::Received(envelope) = &event { envelope_bytes(envelope) } else { 0 };
        let share = self.bytes.take(bytes as u64).await;
        // A member that is gone takes the process with it.
        let _ = self.inbox.send(Inbound::Peer(event, share)).await;
    }
}

#[derive(Debug)]
pub enum Inbound {
    Client(Request),
    Cancel(Ticket),
    /// With its share of the bytes that may wait.
    Peer(PeerEvent, OwnedSemaphorePermit),
    /// Requests that come later are refused.
    Stop,
}

impl Inbound {
    /// Holds [`INBOX_INPUTS`].
    #[must_use]
    pub fn queue() -> (mpsc::Sender<Self>, mpsc::Receiver<Self>) {
        mpsc::channel(INBOX_INPUTS)
    }
}

impl From<Inbound> for LogInput {
    fn from(inbound: Inbound) -> Self {
        match inbound {
            Inbound::Client(request) => Self::Client(request),
            Inbound::Cancel(ticket) => Self::Cancel(ticket),
            Inbound::Peer(PeerEvent::Received(envelope), _) => Self::Peer(envelope),
            Inbound::Peer(PeerEvent::Closed(peer), _) => Self::PeerClosed(peer),
            Inbound::Peer(PeerEvent::Banned(reason), _) => Self::Banned(reason),
            Inbound::Stop => Self::Stop,
        }
    }
}

/// What this member's own threads tell the log half. Unbounded, so that they never wait for it, which may wait for them; each
/// answers one effect.
#[derive(Debug)]
pub enum Told {
    Wal(WalDone),
    State(Report),
}

impl From<Told> for LogInput {
    fn from(told: Told) -> Self {
        match told {
            Told::Wal(done) => Self::Wal(done),
            Told::State(report) => Self::State(report),
        }
    }
}

/// Tells the log half what the log's thread has done.
#[derive(Clone, Debug)]
pub struct TellLog {
    pub told: mpsc::UnboundedSender<Told>,
    /// The newest durable write, for whoever asserts that something is.
    pub durable: Arc<AtomicU64>,
}

impl WalListener for TellLog {
    fn durable(&mut self, number: WriteNumber) {
        self.durable.fetch_max(number.0, Ordering::AcqRel);
        // At the end of the process nobody listens.
        let _ = self.told.send(Told::Wal(WalDone::Durable(number)));
    }

    fn failed(&mut self, error: WalError) {
        let _ = self.told.send(Told::Wal(WalDone::Failed(format!("nothing more can be made durable: {error}"))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quorate_core::{
        consensus::Proposal,
        consensus::{Envelope, ForwardMessage, Message},
        types::{Boot, MemberId, RequestId, Term},
    };

    #[tokio::test]
    async fn a_peer_is_not_read_from_while_its_messages_fill_the_inbox() {
        const BYTES: usize = 4 << 20;
        let (sender, mut receiver) = Inbound::queue();
        let inbox = PeerInbox::new(sender, BYTES);
        let request = RequestId { member: MemberId(2), boot: Boot(1), sequence: 0 };
        let proposal = Proposal { request, command: Bytes::from(vec![0; BYTES / 4]) };
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
        let peers = PeerInbox::new(sender.clone(), 4 << 20);
        let closed = || PeerEvent::Closed(MemberId(2));
        for _ in 1..INBOX_INPUTS {
            peers.deliver(closed()).await;
        }
        sender.send(Inbound::Stop).await.unwrap();
        assert!(sender.try_send(Inbound::Stop).is_err(), "a client waits");
        let mut waiting = Box::pin(peers.deliver(closed()));
        assert!(futures::poll!(&mut waiting).is_pending(), "and so does a peer");
        receiver.recv().await;
        waiting.await;
        assert_eq!(receiver.len(), INBOX_INPUTS);
    }
}
