//! A request's body on its way in: what of a message has come while the rest has not is bounded in bytes and in time.

use crate::{
    api_error::ApiError,
    connection::Connection,
    permit::ReceivePermit,
    surface::{PROGRESS_BYTES, Surface},
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};

/// What precedes a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A body of length-prefixed messages (gRPC over HTTP/2). A message that comes in one piece costs nothing; one that does not must find
/// room in the receive budget, and goes on coming or is ended.
pub(super) struct ReceivedBody {
    inner: Body,
    surface: Surface,
    connection: Option<Connection>,
    prefix: [u8; PREFIX_BYTES],
    /// Of the prefix at hand, those that came.
    prefix_bytes: usize,
    /// Of the message at hand, those still to come.
    left_bytes: usize,
    permit: Option<ReceivePermit>,
    /// Came since the timer was set.
    progress_bytes: usize,
    /// Runs while a message has begun and not ended.
    timer: Option<Pin<Box<Sleep>>>,
}

impl ReceivedBody {
    pub(super) fn new(inner: Body, surface: Surface, connection: Option<Connection>) -> Self {
        Self {
            inner,
            surface,
            connection,
            prefix: [0; PREFIX_BYTES],
            prefix_bytes: 0,
            left_bytes: 0,
            permit: None,
            progress_bytes: 0,
            timer: None,
        }
    }

    const fn is_between_messages(&self) -> bool {
        self.left_bytes == 0 && self.prefix_bytes == 0
    }

    /// Follows the messages through bytes that came.
    fn came(&mut self, mut data: &[u8]) -> Result<(), ApiError> {
        self.progress_bytes += data.len();
        // Of the message that these bytes leave unfinished.
        let mut message_bytes = self.left_bytes;
        while !data.is_empty() {
            if self.left_bytes > 0 {
                let taken = self.left_bytes.min(data.len());
                self.left_bytes -= taken;
                data = &data[taken..];
            } else {
                let taken = (PREFIX_BYTES - self.prefix_bytes).min(data.len());
                self.prefix[self.prefix_bytes..self.prefix_bytes + taken].copy_from_slice(&data[..taken]);
                self.prefix_bytes += taken;
                data = &data[taken..];
                if self.prefix_bytes < PREFIX_BYTES {
                    break;
                }
                let [_, a, b, c, d] = self.prefix;
                self.prefix_bytes = 0;
                self.left_bytes = u32::from_be_bytes([a, b, c, d]) as usize;
                message_bytes = self.left_bytes;
            }
            if self.left_bytes == 0 {
                self.permit = None;
            }
        }
        if self.is_between_messages() || self.progress_bytes >= PROGRESS_BYTES {
            self.timer = None;
            self.progress_bytes = 0;
        }
        // One above the limit is refused by its length alone, and never held.
        if self.left_bytes > 0 && self.permit.is_none() && message_bytes <= self.surface.options().receive_bytes() {
            self.permit = Some(ReceivePermit::try_take(&self.surface, self.connection.as_ref(), message_bytes)?);
        }
        Ok(())
    }
}

impl http_body::Body for ReceivedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref().map_or(Ok(()), |data| this.came(data)) {
                Ok(()) => Poll::Ready(Some(Ok(frame))),
                Err(error) => Poll::Ready(Some(Err(error.into()))),
            },
            Poll::Pending if !this.is_between_messages() => {
                let timeout = this.surface.options().receive_timeout;
                let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(timeout)));
                timer.as_mut().poll(context).map(|()| Some(Err(ApiError::BodyStalled(timeout).into())))
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
