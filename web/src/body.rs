//! The body of a request over HTTP/1.1 while it comes in.

use crate::{
    api_error::ApiError,
    connection::Connection,
    permit::ReceivePermit,
    surface::{PROGRESS_BYTES, Surface},
};
use actix_web::web::Payload;
use bytes::BytesMut;
use futures::StreamExt as _;
use tokio::time::{Instant, timeout_at};

/// JSON and forms are larger than what they describe, by a third for base64 alone.
const TEXT_FACTOR: usize = 2;

/// A body on its way in, bounded in bytes and in time.
pub(crate) struct Body<'a> {
    payload: Payload,
    surface: &'a Surface,
    connection: Option<&'a Connection>,
    /// What came and was not taken yet.
    pub bytes: BytesMut,
    /// Bytes that the permit stands for.
    permitted: usize,
    permit: Option<ReceivePermit>,
    /// When more must have come, once something has.
    deadline: Option<Instant>,
    /// Came since the deadline was set.
    progress_bytes: usize,
}

impl<'a> Body<'a> {
    /// A permit is taken for so much at a time.
    const PERMIT_BYTES: usize = 64 << 10;

    pub fn new(payload: Payload, surface: &'a Surface, connection: Option<&'a Connection>) -> Self {
        let bytes = BytesMut::new();
        Self { payload, surface, connection, bytes, permitted: 0, permit: None, deadline: None, progress_bytes: 0 }
    }

    /// Waits for more; `false` if there is no more.
    pub async fn more(&mut self) -> Result<bool, ApiError> {
        let options = self.surface.options();
        if self.bytes.is_empty() {
            (self.deadline, self.permit, self.permitted) = (None, None, 0);
        } else if self.deadline.is_none() || self.progress_bytes >= PROGRESS_BYTES {
            (self.deadline, self.progress_bytes) = (Some(Instant::now() + options.receive_timeout), 0);
        }
        let chunk = match self.deadline {
            Some(deadline) => {
                timeout_at(deadline, self.payload.next()).await.map_err(|_| ApiError::BodyStalled(options.receive_timeout))?
            }
            None => self.payload.next().await,
        };
        let Some(chunk) = chunk else { return Ok(false) };
        let chunk = chunk.map_err(|error| ApiError::BadJson(error.to_string()))?;
        let (bytes, limit) = (self.bytes.len() + chunk.len(), options.receive_bytes());
        if bytes > limit.saturating_mul(TEXT_FACTOR) {
            return Err(ApiError::ReceivedTooLarge { bytes: bytes as u64, limit });
        }
        // What comes in one piece is answered at once and holds nothing.
        if !self.bytes.is_empty() && bytes > self.permitted {
            let more = (bytes - self.permitted).next_multiple_of(Self::PERMIT_BYTES);
            let taken = ReceivePermit::try_take(self.surface, self.connection, more)?;
            match &mut self.permit {
                Some(permit) => permit.merge(taken),
                None => self.permit = Some(taken),
            }
            self.permitted += more;
        }
        self.progress_bytes += chunk.len();
        self.bytes.extend_from_slice(&chunk);
        Ok(true)
    }
}
