//! Around each service: what tonic says of messages too large becomes what clients of etcd know, and a large answer keeps its share
//! of the budget until it has left.

use super::spliced::{Pieces, Spliced};
use crate::{refusal::Fault, service::Charge};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

/// Bytes of one frame of an answer.
const FRAME_BYTES: usize = 64 << 10;

#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerLayer;

#[derive(Clone, Debug)]
pub(super) struct AnswerService<S>(S);

impl<S> Layer<S> for AnswerLayer {
    type Service = AnswerService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        AnswerService(inner)
    }
}

impl<S, B> Service<Request<B>> for AnswerService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answering = self.0.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            if let Some(status) = Status::from_header_map(response.headers()).and_then(|status| oversize(&status)) {
                // Trailers-only: nothing but the headers tells of the error.
                return Ok(status.into_http());
            }
            if let Some(Spliced { answer, charge }) = response.extensions_mut().remove() {
                return Ok(response.map(|_| Body::new(ChargedBody::of(Source::Pieces(Pieces::of(answer)), charge))));
            }
            Ok(match response.extensions_mut().remove::<Charge>() {
                Some(charge) if charge.counts() => response.map(|body| Body::new(ChargedBody::of(Source::Whole(body), charge))),
                _ => response,
            })
        })
    }
}

/// The status for a message above the receive limit, if this is tonic's own for it.
pub(super) fn oversize(status: &Status) -> Option<Status> {
    if status.code() != Code::OutOfRange {
        return None;
    }
    let numbers = status.message().strip_prefix("Error, decoded message length too large: found ")?.strip_suffix(" bytes")?;
    let (bytes, limit) = numbers.split_once(" bytes, the limit is: ")?;
    Some(Fault::ReceivedTooLarge { bytes: bytes.parse().ok()?, limit: limit.parse().ok()? }.into())
}

/// A body whose data counts against the budget until the transport has let go of it, in frames that flow control can hold back.
#[derive(Debug)]
struct ChargedBody {
    source: Source,
    charge: Charge,
    /// Of what the source gave last, what is still to go.
    rest: Bytes,
}

/// Where the bytes of a charged body come from.
#[derive(Debug)]
enum Source {
    /// tonic's own body: the whole message in one frame, then trailers.
    Whole(Body),
    /// A message in pieces; then it went well.
    Pieces(Pieces),
    /// All is sent.
    Ended,
}

impl Source {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match self {
            Self::Whole(body) => return http_body::Body::poll_frame(Pin::new(body), context),
            Self::Pieces(pieces) => pieces.next().map(Frame::data),
            Self::Ended => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(frame.unwrap_or_else(|| {
            *self = Self::Ended;
            Frame::trailers(HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from_static("0"))]))
        }))))
    }
}

impl ChargedBody {
    const fn of(source: Source, charge: Charge) -> Self {
        Self { source, charge, rest: Bytes::new() }
    }
}

impl http_body::Body for ChargedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        while self.rest.is_empty() {
            match ready!(self.source.poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let size = self.rest.len().min(FRAME_BYTES);
        let data = self.rest.split_to(size);
        Poll::Ready(Some(Ok(Frame::data(self.charge.attach(data)))))
    }

    fn is_end_stream(&self) -> bool {
        let ended = match &self.source {
            Source::Whole(body) => http_body::Body::is_end_stream(body),
            Source::Pieces(_) => false,
            Source::Ended => true,
        };
        self.rest.is_empty() && ended
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
