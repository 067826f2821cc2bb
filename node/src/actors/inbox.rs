//! What reaches the replica's thread, from all sides, in two queues.

use crate::{
    state::StateEvent,
    transport::PeerEvent,
    wal::{WalError, WalListener},
};
use bytes::Bytes;
use quorate_core::{
    command::{Refusal, Reply},
    effect::Proposal,
    types::{MemberId, ReadId, SegmentId, WriteNumber},
};
use tokio::sync::{mpsc, oneshot};

/// Inputs from clients and peers waiting for the replica; whoever adds one above that waits.
pub const INBOX_INPUTS: usize = 65_536;

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
    Peer(PeerEvent),
    Transfer(MemberId),
    /// Hand leadership to whoever is best prepared, and stop once that is done.
    HandOver,
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
