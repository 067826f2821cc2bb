//! Hosts a watch hub: one on each worker, for that worker's streams.

use super::{Shared, log::batches, timer::Timer};
use crate::state::FjallReader;
use actix::{Actor, AsyncContext, Context, StreamHandler};
use quorate_core::{
    mvcc::View,
    types::StreamId,
    watch::{Hub, HubEffect, HubInput, HubLimits, WatchResponse},
};
use quorate_web::watch_stream::HubRequest;
use std::{collections::HashMap, fmt, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

/// Requests of all streams of one worker, waiting for its hub.
const HUB_REQUESTS: usize = 4_096;
/// How old the state may be that a hub without streams holds, at least.
const UNWATCHED_PAUSE: Duration = Duration::from_millis(100);

/// Where to reach the hub of one worker.
#[derive(Clone, Debug)]
pub struct HubHandle(pub(super) mpsc::Sender<HubRequest>);

/// One stream's way back.
struct Client {
    responses: mpsc::UnboundedSender<WatchResponse>,
    full: watch::Sender<bool>,
}

/// The hub's actor.
pub struct HubActor {
    hub: Hub<FjallReader>,
    shared: Arc<Shared>,
    queue: Option<mpsc::Receiver<HubRequest>>,
    streams: HashMap<StreamId, Client>,
    /// Streams that were handed something, or took something, since the last turn.
    touched: Vec<StreamId>,
    /// Whether it has streams.
    is_watched: watch::Sender<bool>,
    effects: Vec<HubEffect>,
    timer: Timer,
}

impl fmt::Debug for HubActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubActor").field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}

impl HubActor {
    /// Starts a hub on the calling worker's thread.
    #[must_use]
    pub fn start_here(shared: Arc<Shared>, limits: HubLimits) -> HubHandle {
        let (sender, queue) = mpsc::channel(HUB_REQUESTS);
        let hub = Hub::new(limits, shared.view.borrow().clone(), shared.clock.now());
        Self {
            hub,
            shared,
            queue: Some(queue),
            streams: HashMap::new(),
            touched: Vec::new(),
            is_watched: watch::Sender::new(false),
            effects: Vec::new(),
            timer: Timer::default(),
        }
        .start();
        HubHandle(sender)
    }

    fn step(&mut self, input: HubInput<FjallReader>) {
        self.hub.step(self.shared.clock.now(), input, &mut self.effects);
    }

    fn take(&mut self, request: HubRequest) {
        match request {
            HubRequest::Open { stream, responses, full } => {
                self.streams.insert(stream, Client { responses, full });
                self.step(HubInput::Open(stream));
            }
            HubRequest::Stream(stream, request) => {
                // The hub must not be behind what the client has seen: it may ask for the next revision.
                self.catch_up();
                self.step(request.input(stream));
            }
            HubRequest::Drained(stream, bytes) => {
                self.touched.push(stream);
                self.step(HubInput::Drained(stream, bytes));
            }
            HubRequest::Close(stream) => {
                self.streams.remove(&stream);
                self.step(HubInput::Close(stream));
            }
        }
    }

    fn catch_up(&mut self) {
        let view = self.shared.view.borrow().clone();
        self.step(HubInput::Published(view));
    }

    /// One turn: history is read, and what was stepped leaves for the streams.
    fn flush(&mut self, ctx: &mut Context<Self>) {
        self.is_watched.send_replace(!self.streams.is_empty());
        self.hub.flush(self.shared.clock.now(), &mut self.effects);
        for HubEffect { stream, response } in self.effects.drain(..) {
            // A stream that closed meanwhile needs nothing.
            if let Some(client) = self.streams.get(&stream) {
                let _ = client.responses.send(response);
                self.touched.push(stream);
            }
        }
        for stream in self.touched.drain(..) {
            if let Some(client) = self.streams.get(&stream) {
                let is_full = self.hub.is_over_budget(stream);
                client.full.send_if_modified(|full| std::mem::replace(full, is_full) != is_full);
            }
        }
        let (clock, deadline) = (self.shared.clock, self.hub.deadline());
        self.timer.arm(ctx, clock, deadline, |actor, ctx| {
            actor.timer.fired();
            actor.step(HubInput::Wake);
            actor.flush(ctx);
        });
    }
}

impl Actor for HubActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.add_stream(batches(self.queue.take().expect("started once")));
        ctx.add_stream(views(self.shared.view.subscribe(), self.is_watched.subscribe()));
    }
}

/// What is published, for a hub: a worker without watchers would be woken by each write for nothing, so it is told only once in a while,
/// lest it keep an old state in memory.
fn views(
    published: watch::Receiver<Arc<View<FjallReader>>>,
    is_watched: watch::Receiver<bool>,
) -> impl futures::Stream<Item = Arc<View<FjallReader>>> {
    futures::stream::unfold((published, is_watched), |(mut published, mut is_watched)| async move {
        // Over at once where there are streams, and as soon as one is opened.
        let _ = timeout(UNWATCHED_PAUSE, is_watched.wait_for(|watched| *watched)).await;
        published.changed().await.ok()?;
        let view = published.borrow_and_update().clone();
        Some((view, (published, is_watched)))
    })
}

impl StreamHandler<Vec<HubRequest>> for HubActor {
    fn handle(&mut self, requests: Vec<HubRequest>, ctx: &mut Self::Context) {
        for request in requests {
            self.take(request);
        }
        self.flush(ctx);
    }
}

impl StreamHandler<Arc<View<FjallReader>>> for HubActor {
    fn handle(&mut self, view: Arc<View<FjallReader>>, ctx: &mut Self::Context) {
        self.step(HubInput::Published(view));
        self.flush(ctx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::watch::WatchRequest;
    use quorate_web::watch_stream::WatchStreamRequest;

    #[actix_rt::test]
    async fn who_asks_a_hub_that_is_behind_waits() {
        let directory = tempfile::tempdir().unwrap();
        let HubHandle(hub) = HubActor::start_here(Shared::of_a_new_member(directory.path()), HubLimits::default());
        // The hub is on this thread, so it takes nothing before the next await.
        let accepted = (0..).take_while(|number| hub.try_send(HubRequest::Close(StreamId(*number))).is_ok()).count();
        assert_eq!(accepted, HUB_REQUESTS);
        hub.send(HubRequest::Close(StreamId(0))).await.unwrap();
    }

    #[actix_rt::test]
    async fn a_stream_is_told_when_it_holds_as_much_as_it_may_and_when_it_was_drained() {
        let directory = tempfile::tempdir().unwrap();
        // The answers to two requests fill it.
        let HubHandle(hub) =
            HubActor::start_here(Shared::of_a_new_member(directory.path()), HubLimits { stream_bytes: 100, ..HubLimits::default() });
        let (responses, mut receiver) = mpsc::unbounded_channel();
        let (full, mut is_full) = watch::channel(false);
        hub.send(HubRequest::Open { stream: StreamId(1), responses, full }).await.unwrap();
        let request =
            WatchRequest { range: quorate_core::command::KeyRange { key: "a".into(), end: "".into() }, ..WatchRequest::default() };
        let create = || HubRequest::Stream(StreamId(1), WatchStreamRequest::Create(request.clone()));
        hub.send(create()).await.unwrap();
        let mut taken = receiver.recv().await.unwrap().bytes();
        assert!(!is_full.has_changed().unwrap());
        hub.send(create()).await.unwrap();
        is_full.changed().await.unwrap();
        assert!(*is_full.borrow_and_update());
        taken += receiver.recv().await.unwrap().bytes();
        hub.send(HubRequest::Drained(StreamId(1), taken)).await.unwrap();
        is_full.changed().await.unwrap();
        assert!(!*is_full.borrow_and_update());
    }
}
