//! Hosts a watch hub: one on each worker, for that worker's streams.

use super::{Shared, replica::batches};
use crate::state::FjallReader;
use actix::{Actor, AsyncContext, Context, SpawnHandle, StreamHandler};
use quorate_core::{
    mvcc::View,
    types::{Monotonic, StreamId},
    watch::{Hub, HubEffect, HubInput, HubLimits, WatchResponse},
};
use quorate_web::front::WatchStreamRequest;
use std::{collections::HashMap, fmt, sync::Arc};
use tokio::sync::mpsc;
use tokio_stream::wrappers::WatchStream;

/// Requests of all streams of one worker, waiting for its hub.
const HUB_REQUESTS: usize = 4_096;

#[derive(Debug)]
pub(super) enum HubRequest {
    Open(StreamId, mpsc::UnboundedSender<WatchResponse>),
    Stream(StreamId, WatchStreamRequest),
    Close(StreamId),
}

/// Where to reach the hub of one worker.
#[derive(Clone, Debug)]
pub struct HubHandle(pub(super) mpsc::Sender<HubRequest>);

/// The hub's actor.
pub struct HubActor {
    hub: Hub<FjallReader>,
    shared: Arc<Shared>,
    queue: Option<mpsc::Receiver<HubRequest>>,
    streams: HashMap<StreamId, mpsc::UnboundedSender<WatchResponse>>,
    effects: Vec<HubEffect>,
    timer: Option<(Monotonic, SpawnHandle)>,
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
        Self { hub, shared, queue: Some(queue), streams: HashMap::new(), effects: Vec::new(), timer: None }.start();
        HubHandle(sender)
    }

    fn step(&mut self, input: HubInput<FjallReader>) {
        self.hub.step(self.shared.clock.now(), input, &mut self.effects);
    }

    fn take(&mut self, request: HubRequest) {
        match request {
            HubRequest::Open(stream, responses) => {
                self.streams.insert(stream, responses);
                self.step(HubInput::Open(stream));
            }
            HubRequest::Stream(stream, WatchStreamRequest::Create(request)) => {
                // The hub must not be behind what the client has seen: it may ask for the next revision.
                self.catch_up();
                self.step(HubInput::Create(stream, request));
            }
            HubRequest::Stream(stream, WatchStreamRequest::Cancel(watch)) => self.step(HubInput::Cancel(stream, watch)),
            HubRequest::Stream(stream, WatchStreamRequest::Progress) => {
                self.catch_up();
                self.step(HubInput::Progress(stream));
            }
            HubRequest::Stream(stream, WatchStreamRequest::Drained(bytes)) => self.step(HubInput::Drained(stream, bytes)),
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

    fn finish(&mut self, ctx: &mut Context<Self>) {
        for HubEffect { stream, response } in self.effects.drain(..) {
            // A stream that closed meanwhile needs nothing.
            if let Some(responses) = self.streams.get(&stream) {
                let _ = responses.send(response);
            }
        }
        let deadline = self.hub.deadline();
        if deadline == Monotonic::NEVER || self.timer.as_ref().is_some_and(|(armed, _)| *armed <= deadline) {
            return;
        }
        if let Some((_, handle)) = self.timer.take() {
            ctx.cancel_future(handle);
        }
        let wait = deadline.since(self.shared.clock.now().monotonic);
        let handle = ctx.run_later(wait, |actor, ctx| {
            actor.timer = None;
            actor.step(HubInput::Wake);
            actor.finish(ctx);
        });
        self.timer = Some((deadline, handle));
    }
}

impl Actor for HubActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.add_stream(batches(self.queue.take().expect("started once")));
        ctx.add_stream(WatchStream::new(self.shared.view.subscribe()));
    }
}

impl StreamHandler<Vec<HubRequest>> for HubActor {
    fn handle(&mut self, requests: Vec<HubRequest>, ctx: &mut Self::Context) {
        for request in requests {
            self.take(request);
        }
        self.finish(ctx);
    }
}

impl StreamHandler<Arc<View<FjallReader>>> for HubActor {
    fn handle(&mut self, view: Arc<View<FjallReader>>, ctx: &mut Self::Context) {
        self.step(HubInput::Published(view));
        self.finish(ctx);
    }
}
