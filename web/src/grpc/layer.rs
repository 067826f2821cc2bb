//! Around each service: metadata and bodies that come in are bounded, what tonic says of messages too large becomes what clients of
//! etcd know, and a large answer keeps its share of the budget until it has left.

use super::{
    received::ReceivedBody,
    streamed::{Pieces, StreamedBody},
};
use crate::{
    api_error::ApiError,
    connection::Connection,
    permit::BudgetPermit,
    surface::{METADATA_BYTES, Surface},
};
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

#[derive(Clone, Debug)]
pub(super) struct BoundsLayer(pub Surface);

#[derive(Clone, Debug)]
pub(super) struct BoundsService<S> {
    inner: S,
    surface: Surface,
}

impl<S> Layer<S> for BoundsLayer {
    type Service = BoundsService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        BoundsService { inner, surface: self.0.clone() }
    }
}

impl<S> Service<Request<Body>> for BoundsService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let metadata = metadata_bytes(request.headers());
        if metadata > METADATA_BYTES {
            return Box::pin(async move { Ok(Status::from(ApiError::MetadataTooLarge(metadata)).into_http()) });
        }
        let connection = request.extensions().get::<Connection>().cloned();
        let surface = self.surface.clone();
        let answering = self.inner.call(request.map(|body| Body::new(ReceivedBody::new(body, surface, connection))));
        Box::pin(async move {
            let mut response = answering.await?;
            if let Some(status) = Status::from_header_map(response.headers()).and_then(|status| oversize(&status)) {
                // Trailers-only: nothing but the headers tells of the error.
                return Ok(status.into_http());
            }
            if let Some(StreamedBody { answer, permit }) = response.extensions_mut().remove() {
                return Ok(response.map(|_| Body::new(PermittedBody::of(AnswerBytes::Pieces(Pieces::of(answer)), permit))));
            }
            Ok(match response.extensions_mut().remove::<BudgetPermit>() {
                Some(permit) if permit.counts() => response.map(|body| Body::new(PermittedBody::of(AnswerBytes::Whole(body), permit))),
                _ => response,
            })
        })
    }
}

/// As HTTP/2 counts header fields.
fn metadata_bytes(headers: &HeaderMap) -> usize {
    const OVERHEAD: usize = 32;
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + OVERHEAD).sum()
}

/// The status for a message above the receive limit, if this is tonic's own for it.
pub(super) fn oversize(status: &Status) -> Option<Status> {
    if status.code() != Code::OutOfRange {
        return None;
    }
    let numbers = status.message().strip_prefix("Error, decoded message length too large: found ")?.strip_suffix(" bytes")?;
    let (bytes, limit) = numbers.split_once(" bytes, the limit is: ")?;
    Some(ApiError::ReceivedTooLarge { bytes: bytes.parse().ok()?, limit: limit.parse().ok()? }.into())
}

/// A body whose data counts against the budget until the transport has let go of it, in frames that flow control can hold back.
#[derive(Debug)]
struct PermittedBody {
    source: AnswerBytes,
    permit: BudgetPermit,
    /// Of what the source gave last, what is still to go.
    rest: Bytes,
}

/// Where the bytes of a body with a permit come from.
#[derive(Debug)]
enum AnswerBytes {
    /// tonic's own body: the whole message in one frame, then trailers.
    Whole(Body),
    /// A message in pieces; then it went well.
    Pieces(Pieces),
    /// All is sent.
    Ended,
}

impl AnswerBytes {
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

impl PermittedBody {
    const fn of(source: AnswerBytes, permit: BudgetPermit) -> Self {
        Self { source, permit, rest: Bytes::new() }
    }
}

impl http_body::Body for PermittedBody {
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
        Poll::Ready(Some(Ok(Frame::data(self.permit.attach(data)))))
    }

    fn is_end_stream(&self) -> bool {
        let ended = match &self.source {
            AnswerBytes::Whole(body) => http_body::Body::is_end_stream(body),
            AnswerBytes::Pieces(_) => false,
            AnswerBytes::Ended => true,
        };
        self.rest.is_empty() && ended
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
