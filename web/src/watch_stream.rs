//! A watch stream between the surface that a client speaks to and the hub that serves it.

use quorate_core::{
    types::{StreamId, WatchId},
    watch::{WatchInput, WatchRequest, WatchResponse},
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::{Notify, mpsc, watch};

/// Requests of one watch stream waiting for its hub.
const STREAM_REQUESTS: usize = 64;

/// Requests of one watch stream to the hub that serves it; dropping it closes the stream.
#[derive(Debug)]
pub struct WatchSender(pub mpsc::Sender<WatchStreamRequest>);

#[derive(Clone, PartialEq, Debug)]
pub enum WatchStreamRequest {
    Create(WatchRequest),
    Cancel(WatchId),
    Progress,
}

impl WatchStreamRequest {
    /// What the hub is told.
    pub fn input<H>(self, stream: StreamId) -> WatchInput<H> {
        match self {
            Self::Create(request) => WatchInput::Create(stream, request),
            Self::Cancel(watch) => WatchInput::Cancel(stream, watch),
            Self::Progress => WatchInput::Progress(stream),
        }
    }
}

/// What a host's hub is handed, for one of its streams.
#[derive(Debug)]
pub enum HubRequest {
    /// `full`: to be told whether the stream holds as much as it may.
    Open {
        stream: StreamId,
        responses: mpsc::UnboundedSender<WatchResponse>,
        full: watch::Sender<bool>,
    },
    Stream(StreamId, WatchStreamRequest),
    /// The client took so many bytes of responses.
    Drained(StreamId, usize),
    Close(StreamId),
}

/// Responses of one watch stream, in order. Not with the requests, because those wait while responses do.
#[derive(Debug)]
pub struct WatchReceiver {
    pub responses: mpsc::UnboundedReceiver<WatchResponse>,
    /// To be told of every response that has left for the client.
    pub drained: Arc<Drained>,
}

/// Bytes of responses that left for a client and of which its hub does not know yet. A sum, so it needs no queue.
#[derive(Debug, Default)]
pub struct Drained {
    bytes: AtomicUsize,
    told: Notify,
}

impl Drained {
    pub fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.told.notify_one();
    }

    /// Waits for more than none and takes them. Dropping the wait loses nothing.
    pub async fn take(&self) -> usize {
        loop {
            match self.bytes.swap(0, Ordering::AcqRel) {
                0 => self.told.notified().await,
                bytes => return bytes,
            }
        }
    }
}

/// Opens a stream at a hub. On a runtime of tokio's, where a task goes between the two.
#[must_use]
pub fn open(hub: mpsc::Sender<HubRequest>, stream: StreamId) -> (WatchSender, WatchReceiver) {
    let (sender, requests) = mpsc::channel(STREAM_REQUESTS);
    // Bounded by the hub: it stops at `stream_bytes` until they are drained.
    let (responses, receiver) = mpsc::unbounded_channel();
    let drained = Arc::new(Drained::default());
    tokio::spawn(carry(hub, stream, responses, requests, Arc::clone(&drained)));
    (WatchSender(sender), WatchReceiver { responses: receiver, drained })
}

/// Carries one stream's requests to its hub, and none while the hub says that the stream holds too much already: its client may
/// ask faster than it listens. What is drained always gets through.
async fn carry(
    hub: mpsc::Sender<HubRequest>,
    stream: StreamId,
    responses: mpsc::UnboundedSender<WatchResponse>,
    mut requests: mpsc::Receiver<WatchStreamRequest>,
    drained: Arc<Drained>,
) {
    let (full, mut is_full) = watch::channel(false);
    let client = responses.clone();
    if hub.send(HubRequest::Open { stream, responses, full }).await.is_err() {
        return;
    }
    loop {
        let has_room = !*is_full.borrow_and_update();
        let request = tokio::select! {
            biased;
            bytes = drained.take() => HubRequest::Drained(stream, bytes),
            request = requests.recv(), if has_room => match request {
                Some(request) => HubRequest::Stream(stream, request),
                None => break,
            },
            changed = is_full.changed(), if !has_room => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            // A client that leaves is noticed also when it is not read from.
            () = client.closed() => break,
            () = hub.closed() => return,
        };
        if hub.send(request).await.is_err() {
            return;
        }
    }
    let _ = hub.send(HubRequest::Close(stream)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drained_bytes_add_up_and_are_taken_once() {
        let drained = Drained::default();
        drained.add(3);
        drained.add(4);
        assert_eq!(drained.take().await, 7);
        let (taken, ()) = tokio::join!(drained.take(), async { drained.add(5) });
        assert_eq!(taken, 5);
    }

    struct Carried {
        hub: mpsc::Receiver<HubRequest>,
        full: watch::Sender<bool>,
        requests: mpsc::Sender<WatchStreamRequest>,
        responses: mpsc::UnboundedReceiver<WatchResponse>,
        drained: Arc<Drained>,
    }

    async fn carried() -> Carried {
        let (hub_sender, mut hub) = mpsc::channel(1_000);
        let (requests, requests_receiver) = mpsc::channel(STREAM_REQUESTS);
        let (responses_sender, responses) = mpsc::unbounded_channel();
        let drained = Arc::new(Drained::default());
        tokio::spawn(carry(hub_sender, StreamId(7), responses_sender, requests_receiver, Arc::clone(&drained)));
        let Some(HubRequest::Open { full, .. }) = hub.recv().await else { panic!("a stream opens first") };
        Carried { hub, full, requests, responses, drained }
    }

    #[tokio::test]
    async fn a_stream_that_holds_too_much_is_not_read_from_until_it_is_drained() {
        let Carried { mut hub, full, requests, responses: _responses, drained } = carried().await;
        requests.send(WatchStreamRequest::Progress).await.unwrap();
        assert!(matches!(hub.recv().await, Some(HubRequest::Stream(..))));
        full.send(true).unwrap();
        for _ in 0..STREAM_REQUESTS {
            requests.send(WatchStreamRequest::Progress).await.unwrap();
        }
        assert!(requests.try_send(WatchStreamRequest::Progress).is_err(), "the client has to wait");
        drained.add(5);
        assert!(matches!(hub.recv().await, Some(HubRequest::Drained(StreamId(7), 5))), "what is drained overtakes what waits");
        full.send(false).unwrap();
        for _ in 0..STREAM_REQUESTS {
            assert!(matches!(hub.recv().await, Some(HubRequest::Stream(..))));
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_a_full_stream_closes_it() {
        let Carried { mut hub, full, requests, responses, .. } = carried().await;
        full.send(true).unwrap();
        drop((requests, responses));
        assert!(matches!(hub.recv().await, Some(HubRequest::Close(StreamId(7)))));
    }
}
