//! ④ Streams between members: frames over TCP, two connections a peer and direction, so that control never waits behind bulk.
//!
//! A member dials every other and only sends on what it dialled; what it accepted it only reads. Messages may be lost: the consensus
//! actor says again what matters.

mod connection;
pub mod frame;
pub mod hello;
mod queue;
pub mod registry;
#[cfg(test)]
mod tests;

use crate::{
    throttle::Throttle,
    url::{Address, Url},
};
use connection::{HELLO_BYTES, HELLO_TIMEOUT};
use frame::{FrameReader, RECEIVE_BYTES};
use hello::{Channel, PeerIdentity};
use queue::Queue;
pub use queue::envelope_bytes;
use quorate_core::{
    consensus::Proposal,
    consensus::{Configuration, Envelope, ForwardMessage, Message, RaftMessage, SnapshotMessage},
    types::{Boot, ClusterId, MemberId},
};
use quorate_web::ByteBudget;
use registry::Registry;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpListener, task::AbortHandle};

/// What comes from other members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerEvent {
    Received(Envelope),
    /// The last control connection from this member closed.
    Closed(MemberId),
    /// The others say that this process must not run.
    Banned(String),
}

/// Takes events; waiting in it holds back the peer.
pub type Deliver = Arc<dyn Fn(PeerEvent) -> futures::future::BoxFuture<'static, ()> + Send + Sync>;
/// Whether the replicated state says that a member has run before.
pub type Started = Arc<dyn Fn(MemberId) -> bool + Send + Sync>;

/// What the transport is told at start.
#[derive(Clone)]
pub struct PeerSettings {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub boot: Boot,
    /// Drawn at start.
    pub process: u64,
    /// This data directory holds nothing from a leader yet.
    pub fresh: Arc<AtomicBool>,
    /// Sent when nothing else was for so long.
    pub ping_interval: Duration,
    /// A connection silent for longer no longer answers.
    pub silence: Duration,
    pub deliver: Deliver,
    pub started: Started,
}

impl fmt::Debug for PeerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerSettings").field("member", &self.member).field("boot", &self.boot).finish_non_exhaustive()
    }
}

/// A forward is split so that no frame holds much more than this.
const FORWARD_BYTES: usize = 1 << 20;

/// Connections to all other members.
#[derive(Clone, Debug)]
pub struct Transport(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: PeerSettings,
    registry: Registry,
    peers: Mutex<BTreeMap<MemberId, Peer>>,
    refusals: Throttle,
    /// What is left for large frames being received.
    receiving: Arc<ByteBudget>,
}

#[derive(Debug)]
struct Peer {
    urls: Vec<String>,
    control: Arc<Queue>,
    bulk: Arc<Queue>,
    tasks: [AbortHandle; 2],
}

impl Drop for Peer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Transport {
    #[must_use]
    pub fn new(settings: PeerSettings) -> Self {
        let registry = Registry::new(settings.cluster, settings.member, settings.silence);
        Self(Arc::new(Inner {
            settings,
            registry,
            peers: Mutex::new(BTreeMap::new()),
            refusals: Throttle::of_refusals(),
            receiving: Arc::new(ByteBudget::new(RECEIVE_BYTES)),
        }))
    }

    /// Dials those who are new, leaves those who are gone. Must be called within a tokio runtime.
    pub fn configure(&self, configuration: &Configuration) {
        let mut peers = self.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|member, peer| configuration.peer_urls.get(member) == Some(&peer.urls));
        for (member, urls) in &configuration.peer_urls {
            if *member == self.0.settings.member || peers.contains_key(member) {
                continue;
            }
            let addresses: Vec<(String, u16)> = urls
                .iter()
                .filter_map(|url| match Url::parse(url).ok()?.address() {
                    Address::Tcp { host, port } => Some((host, port)),
                    Address::Unix(_) => None,
                })
                .collect();
            let (control, bulk) = (Arc::new(Queue::default()), Arc::new(Queue::default()));
            let dial = |channel, queue: &Arc<Queue>| {
                let transport = self.clone();
                tokio::spawn(connection::dial(transport, *member, addresses.clone(), channel, Arc::clone(queue))).abort_handle()
            };
            let tasks = [dial(Channel::Control, &control), dial(Channel::Bulk, &bulk)];
            peers.insert(*member, Peer { urls: urls.clone(), control, bulk, tasks });
        }
    }

    /// Queues a message. One to a member that is not configured is dropped.
    pub fn send(&self, envelope: Envelope) {
        let peers = self.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(peer) = peers.get(&envelope.to) else { return };
        match envelope.message {
            Message::Forward(ForwardMessage::Request(proposals)) => {
                let Envelope { from, to, term, .. } = envelope;
                for part in split(proposals) {
                    peer.bulk.push(Envelope { from, to, term, message: Message::Forward(ForwardMessage::Request(part)) });
                }
            }
            Message::Raft(RaftMessage::Append { .. }) | Message::Snapshot(SnapshotMessage::Chunk { .. }) => peer.bulk.push(envelope),
            _ => peer.control.push(envelope),
        }
    }

    /// Serves other members on a listener, for ever.
    pub async fn serve(self, listener: TcpListener) {
        connection::accept(self, listener).await;
    }

    /// A connection without progress for longer is closed.
    fn stall(&self) -> Duration {
        self.0.settings.silence * connection::SILENCES_MAX
    }

    fn hello_reader(&self) -> FrameReader {
        FrameReader::new(HELLO_BYTES, HELLO_TIMEOUT, Arc::clone(&self.0.receiving))
    }

    fn identity(&self) -> PeerIdentity {
        let settings = &self.0.settings;
        PeerIdentity {
            cluster: settings.cluster,
            member: settings.member,
            release: env!("CARGO_PKG_VERSION").into(),
            boot: settings.boot,
            process: settings.process,
            fresh: settings.fresh.load(Ordering::Relaxed),
        }
    }
}

fn split(proposals: Vec<Proposal>) -> Vec<Vec<Proposal>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for proposal in proposals {
        if bytes > 0 && bytes + proposal.command.len() > FORWARD_BYTES {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += proposal.command.len();
        parts.last_mut().expect("one part at least").push(proposal);
    }
    parts
}
