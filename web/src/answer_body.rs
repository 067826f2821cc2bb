//! The body of a large answer over HTTP/1.1 while it leaves.

use crate::permit::BudgetPermit;
use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

/// Bytes of one piece of an answer.
const PIECE_BYTES: usize = 64 << 10;

/// An answer that leaves in pieces, with its share of the budget held until the last one has. The transport copies what it is given and
/// lets go of it at once, but asks for more only while its own buffer has room: in one piece, all of an answer would lie there.
pub(crate) struct AnswerBody {
    rest: Bytes,
    permit: BudgetPermit,
}

impl AnswerBody {
    pub const fn new(rest: Bytes, permit: BudgetPermit) -> Self {
        Self { rest, permit }
    }
}

impl MessageBody for AnswerBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.rest.len() as u64)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let size = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(size);
        Poll::Ready(Some(Ok(self.permit.attach(piece))))
    }
}
