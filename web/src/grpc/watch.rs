//! ⑨ Watch: a stream of requests to the hub, and its responses back.

use super::{convert, layer};
use crate::{
    api_error::ApiError,
    backend::Backend,
    encoded,
    proto::{
        etcdserverpb::{self as pb, watch_request::RequestUnion},
        served::etcdserverpb::watch_server::Watch,
    },
    service::{Call, Service},
    watch_stream::{WatchReceiver, WatchSender, WatchStreamRequest},
};
use futures::{
    Stream, StreamExt as _, pin_mut,
    stream::{self, BoxStream},
};
use quorate_core::{command::Refusal, types::WatchId};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::{self, Interval, MissedTickBehavior},
};
use tonic::{Request, Response, Status};

/// Election timeouts without a leader after which a stream with `hasleader` ends, as in etcd.
const LEADERLESS_TIMEOUTS: u32 = 3;

/// What a client is told over a stream.
pub(crate) type WatchAnswers = BoxStream<'static, Result<encoded::WatchResponse, Status>>;

/// Serves one stream. The end of `requests` ends nothing: a client may ask once and then only listen.
pub(crate) fn watch_answers<B: Backend>(
    service: &Service<B>,
    requests: impl Stream<Item = Result<pb::WatchRequest, Status>> + Send + 'static,
    call: &Call,
) -> Result<WatchAnswers, ApiError> {
    service.admit(call, false)?;
    let (sender, receiver) = service.backend.watch(call.context);
    let (failed, failure) = oneshot::channel();
    let reader = tokio::spawn(read_requests(requests, sender.0.clone(), failed));
    let mut ticks = time::interval(service.surface.options().election_timeout);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let require_leader = call.context.require_leader;
    let stream = WatchStream {
        service: service.clone(),
        _sender: sender,
        receiver,
        failure: Some(failure),
        _reader: AbortOnDrop(reader.abort_handle()),
        leaderless: require_leader.then_some(Leaderless { ticks, count: 0 }),
        taken_bytes: 0,
        stopping: service.surface.stopping(),
    };
    Ok(stream::unfold(Some(stream), WatchStream::next).boxed())
}

/// One stream's responses, on their way to the transport.
struct WatchStream<B: Backend> {
    service: Service<B>,
    /// Held because its end is the stream's.
    _sender: WatchSender,
    receiver: WatchReceiver,
    failure: Option<oneshot::Receiver<Status>>,
    _reader: AbortOnDrop,
    leaderless: Option<Leaderless>,
    /// Of the response given last: the transport has it once it asks for the next.
    taken_bytes: usize,
    /// Whether the process is about to end.
    stopping: tokio::sync::watch::Receiver<bool>,
}

/// Counts election timeouts without a leader in a row.
struct Leaderless {
    ticks: Interval,
    count: u32,
}

/// The task that reads requests lives no longer than its stream.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<B: Backend> WatchStream<B> {
    async fn next(this: Option<Self>) -> Option<(Result<encoded::WatchResponse, Status>, Option<Self>)> {
        let mut this = this?;
        if this.taken_bytes > 0 {
            this.receiver.drained.add(std::mem::take(&mut this.taken_bytes));
        }
        loop {
            tokio::select! {
                response = this.receiver.responses.recv() => {
                    let Some(response) = response else { return Some((Err(ApiError::from(Refusal::Stopped).into()), None)) };
                    this.taken_bytes = response.bytes();
                    return Some((Ok(convert::watch_answer(&this.service.backend.status(), &response)), Some(this)));
                }
                failure = failure(&mut this.failure) => match failure {
                    Some(status) => return Some((Err(status), None)),
                    None => this.failure = None,
                },
                () = stopped(&mut this.stopping) => return Some((Err(ApiError::from(Refusal::Stopped).into()), None)),
                () = Leaderless::tick(this.leaderless.as_mut()) => {
                    let has_leader = this.service.backend.status().raft.leader.is_some();
                    if this.leaderless.as_mut().is_some_and(|leaderless| leaderless.is_too_long(has_leader)) {
                        return Some((Err(ApiError::from(Refusal::NoLeader).into()), None));
                    }
                }
            }
        }
    }
}

impl Leaderless {
    async fn tick(this: Option<&mut Self>) {
        match this {
            Some(this) => drop(this.ticks.tick().await),
            None => std::future::pending().await,
        }
    }

    const fn is_too_long(&mut self, has_leader: bool) -> bool {
        self.count = if has_leader { 0 } else { self.count + 1 };
        self.count >= LEADERLESS_TIMEOUTS
    }
}

/// The sender lives as long as the surface, which the stream holds.
async fn stopped(stopping: &mut tokio::sync::watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// What ended the requests: `None` if the client has just no more of them.
async fn failure(receiver: &mut Option<oneshot::Receiver<Status>>) -> Option<Status> {
    match receiver {
        Some(receiver) => receiver.await.ok(),
        None => std::future::pending().await,
    }
}

async fn read_requests(
    requests: impl Stream<Item = Result<pb::WatchRequest, Status>>,
    sender: mpsc::Sender<WatchStreamRequest>,
    failed: oneshot::Sender<Status>,
) {
    pin_mut!(requests);
    while let Some(request) = requests.next().await {
        let request = match request {
            Ok(request) => request.request_union,
            Err(status) => {
                let status = match status.code() {
                    tonic::Code::Cancelled => ApiError::WatchCanceled.into(),
                    _ => layer::oversize(&status).unwrap_or(status),
                };
                // Nobody listens if the stream is gone already.
                let _ = failed.send(status);
                return;
            }
        };
        let request = match request {
            Some(RequestUnion::CreateRequest(create)) => WatchStreamRequest::Create(convert::watch_request(create)),
            Some(RequestUnion::CancelRequest(cancel)) => WatchStreamRequest::Cancel(WatchId(cancel.watch_id)),
            Some(RequestUnion::ProgressRequest(_)) => WatchStreamRequest::Progress,
            None => continue,
        };
        if sender.send(request).await.is_err() {
            return;
        }
    }
}

#[tonic::async_trait]
impl<B: Backend> Watch for Service<B> {
    type WatchStream = WatchAnswers;

    async fn watch(&self, request: Request<tonic::Streaming<pb::WatchRequest>>) -> Result<Response<WatchAnswers>, Status> {
        let call = Call::grpc(&request)?;
        Ok(Response::new(watch_answers(self, request.into_inner(), &call)?))
    }
}
