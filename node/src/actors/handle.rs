//! What the client surfaces call: each request is sent to the member's log half under a ticket, whose answer is awaited.

use super::{
    Shared,
    inbox::Inbound,
    watch::{HubHandle, HubRequest},
};
use crate::state::FjallReader;
use quorate_core::{
    command::{Command, Refusal, Reply},
    member::{Answer, Body, Request, Ticket, admit},
    mvcc::View,
    types::{MemberId, Monotonic, Revision, StreamId},
    watch::WatchResponse,
};
use quorate_web::backend::{Backend, Consistency, Context, Drained, Status, WatchReceiver, WatchSender, WatchStreamRequest};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout_at,
};

/// Requests of one watch stream waiting for its hub.
const STREAM_REQUESTS: usize = 64;

/// One worker's way to the member.
#[derive(Clone, Debug)]
pub struct MemberHandle {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Inbound>,
    hub: HubHandle,
}

/// A ticket whose owner may leave: then the member is told, so that it need not go on.
struct Held<'a> {
    handle: &'a MemberHandle,
    ticket: Ticket,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.handle.shared.tickets.close(self.ticket) {
            // If there is no room, its deadline ends it.
            let _ = self.handle.inbox.try_send(Inbound::Cancel(self.ticket));
        }
    }
}

impl MemberHandle {
    #[must_use]
    pub fn new(shared: Arc<Shared>, inbox: mpsc::Sender<Inbound>, hub: HubHandle) -> Self {
        Self { shared, inbox, hub }
    }

    fn deadline(&self, context: Context) -> Instant {
        let own = Instant::now() + self.shared.member.request_timeout;
        context.deadline.map_or(own, |theirs| theirs.min(own))
    }

    /// The member's own time at that moment.
    fn monotonic(&self, at: Instant) -> Monotonic {
        self.shared.clock.now().monotonic + at.saturating_duration_since(Instant::now())
    }

    /// Sends a request and awaits its ticket. The member answers each, at its deadline at the latest.
    ///
    /// # Errors
    /// Whatever the member refuses it for.
    pub async fn ask(&self, body: Body, context: Context) -> Result<Answer, Refusal> {
        let (ticket, answered) = self.shared.tickets.open();
        let _held = Held { handle: self, ticket };
        let deadline = context.deadline.map(|deadline| self.monotonic(deadline));
        let request = Inbound::Client(Request { ticket, deadline, require_leader: context.require_leader, body });
        if let Err(full) = self.inbox.try_send(request) {
            let request = full.into_inner();
            match timeout_at(self.deadline(context).into(), self.inbox.send(request)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Refusal::Stopped),
                Err(_) => return Err(Refusal::TimedOut),
            }
        }
        // A member that is gone takes the process with it.
        answered.await.unwrap_or(Err(Refusal::OutcomeUnknown))
    }
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

impl Backend for MemberHandle {
    type Reader = FjallReader;

    async fn propose(&self, command: Command, context: Context) -> Result<Reply, Refusal> {
        let member = &self.shared.member;
        let prepared = admit(&self.current(), member.member, &command, context.request_bytes, member.max_request_bytes)?;
        drop(command);
        // Held until the answer is here, or nobody waits for it any more.
        let _share = self.shared.proposals.try_take(prepared.command.len() as u64).ok_or(Refusal::TooManyRequests)?;
        self.ask(Body::Propose(prepared), context).await.map(Answer::into_reply)
    }

    async fn view(&self, consistency: Consistency, context: Context) -> Result<Arc<View<FjallReader>>, Refusal> {
        if consistency == Consistency::Linearizable {
            self.ask(Body::Read, context).await?;
        }
        Ok(self.current())
    }

    fn current(&self) -> Arc<View<FjallReader>> {
        self.shared.view.borrow().clone()
    }

    fn watch(&self, _context: Context) -> (WatchSender, WatchReceiver) {
        let stream = StreamId(self.shared.streams.fetch_add(1, Ordering::Relaxed));
        let (sender, requests) = mpsc::channel::<WatchStreamRequest>(STREAM_REQUESTS);
        // Bounded by the hub: it stops at `stream_bytes` until they are drained.
        let (responses, receiver) = mpsc::unbounded_channel();
        let drained = Arc::new(Drained::default());
        tokio::spawn(carry(self.hub.0.clone(), stream, responses, requests, Arc::clone(&drained)));
        (WatchSender(sender), WatchReceiver { responses: receiver, drained })
    }

    fn status(&self) -> Status {
        let in_use = self.current().live_bytes();
        let bytes = self.shared.usage.bytes().max(in_use);
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Status {
            cluster: self.shared.member.cluster,
            raft: self.shared.status(),
            db_bytes: signed(bytes),
            db_bytes_in_use: signed(in_use),
            quota_bytes: self.shared.member.quota_bytes.map_or(0, signed),
        }
    }

    async fn transfer(&self, target: MemberId, context: Context) -> Result<(), Refusal> {
        self.ask(Body::Transfer(target), context).await.map(drop)
    }

    async fn compacted_physically(&self, revision: Revision, context: Context) -> Result<(), Refusal> {
        let mut swept = self.shared.swept.subscribe();
        match timeout_at(self.deadline(context).into(), swept.wait_for(|swept| *swept >= revision)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Refusal::Stopped),
            Err(_) => Err(Refusal::TimedOut),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
