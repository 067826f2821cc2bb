//! What gRPC and the JSON gateway have in common: one function an RPC, over generated requests and encoded answers.
//!
//! The functions themselves stand in `grpc/`, one file a service; this one says who may call and how answers are headed and bounded.

use crate::{
    api_error::ApiError,
    backend::{Backend, Context, Source, Status},
    connection::Connection,
    permit::{BudgetPermit, Progress},
    proto::etcdserverpb::ResponseHeader,
    surface::Surface,
};
use quorate_core::{command::Refusal, mvcc::View, types::Revision};
use std::{
    str,
    sync::Arc,
    time::{Duration, Instant},
};

/// A backend with what its surfaces share.
#[derive(Clone, Debug)]
pub(crate) struct Service<B> {
    pub backend: B,
    pub surface: Surface,
}

/// What came beside a request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub context: Context,
    /// What the request came on, if its host tells.
    pub connection: Option<Connection>,
}

/// Answers up to this size do not wait for the budget, so that a slow reader of a large one never keeps the small ones from others.
const SMALL_ANSWER_BYTES: u64 = 64 << 10;
/// Answers above this size are put together beside the worker, which serves others meanwhile.
const INLINE_ANSWER_BYTES: u64 = 1 << 20;
/// What an answer takes at its largest, as a multiple of its key-values: these, and the message.
const COPIES: u64 = 2;
/// Over the gateway: these, the message, and its JSON, where bytes are base64.
const JSON_COPIES: u64 = 4;
/// How long an answer waits for its share of the budget, if its caller waits so long; the time etcd gives a request by default.
const BUDGET_WAIT: Duration = Duration::from_secs(7);

impl Call {
    /// From metadata, by lower-case name.
    pub(crate) fn new<'a>(
        metadata: impl Fn(&'static str) -> Option<&'a [u8]>,
        source: Source,
        connection: Option<Connection>,
    ) -> Result<Self, ApiError> {
        if metadata("client-api-version").is_some_and(|version| str::from_utf8(version).is_err()) {
            return Err(ApiError::InvalidClientApiVersion);
        }
        let deadline = metadata("grpc-timeout").and_then(parse_timeout).and_then(|timeout| Instant::now().checked_add(timeout));
        let require_leader = metadata("hasleader") == Some(b"true");
        Ok(Self { context: Context { deadline, require_leader, source, request_bytes: 0 }, connection })
    }

    /// The context of a request that goes into the log.
    pub(crate) const fn proposing(&self, request_bytes: usize) -> Context {
        Context { request_bytes, ..self.context }
    }

    pub(crate) fn grpc<T>(request: &tonic::Request<T>) -> Result<Self, ApiError> {
        let connection = request.extensions().get::<Connection>().cloned();
        Self::new(|name| request.metadata().get(name).map(|value| value.as_bytes()), Source::Grpc, connection)
    }
}

/// `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let valid = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let amount: u64 = str::from_utf8(digits).ok().filter(|_| valid)?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3_600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

impl<B: Backend> Service<B> {
    pub(crate) const fn new(backend: B, surface: Surface) -> Self {
        Self { backend, surface }
    }

    /// Whether the member may serve the call at all, in etcd's order: learner, then leader.
    pub(crate) fn admit(&self, call: &Call, learner_serves: bool) -> Result<Status, ApiError> {
        let status = self.backend.status();
        if status.raft.is_learner && !learner_serves {
            return Err(ApiError::NotSupportedForLearner);
        }
        if call.context.require_leader && status.raft.leader.is_none() {
            return Err(Refusal::NoLeader.into());
        }
        Ok(status)
    }

    #[expect(clippy::unnecessary_wraps, reason = "the field it goes into is optional on the wire")]
    pub(crate) fn header(&self, revision: Revision) -> Option<ResponseHeader> {
        Some(header(&self.backend.status(), revision))
    }

    /// A share of the answer budget for an answer of so many bytes of key-values, waited for.
    pub(crate) async fn permit(&self, bytes: u64, call: &Call) -> Result<BudgetPermit, ApiError> {
        let (copies, progress) = match call.context.source {
            Source::Gateway => (JSON_COPIES, Progress::OfConnection),
            Source::Grpc | Source::Internal => (COPIES, Progress::OfAnswer),
        };
        let bytes = bytes.saturating_mul(copies);
        if bytes <= SMALL_ANSWER_BYTES {
            return Ok(BudgetPermit::default());
        }
        let wait =
            call.context.deadline.map_or(BUDGET_WAIT, |deadline| deadline.saturating_duration_since(Instant::now()).min(BUDGET_WAIT));
        let taking = BudgetPermit::take(&self.surface, call.connection.as_ref(), bytes, progress);
        tokio::time::timeout(wait, taking).await.map_err(|_| Refusal::TooManyRequests.into())
    }

    /// Reads from a view: in place, or beside the worker if about so many bytes will come.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        view: Arc<View<B::Reader>>,
        bytes: u64,
        read: impl FnOnce(&View<B::Reader>) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, ApiError> {
        if bytes <= INLINE_ANSWER_BYTES {
            return Ok(read(&view)?);
        }
        match tokio::task::spawn_blocking(move || read(&view)).await {
            Ok(result) => Ok(result?),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Refusal::Stopped.into()),
        }
    }
}

/// Of the member that answers (etcd API, `ResponseHeader`).
pub(crate) fn header(status: &Status, revision: Revision) -> ResponseHeader {
    ResponseHeader { cluster_id: status.cluster.0, member_id: status.raft.member.0, revision: revision.0, raft_term: status.raft.term.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        assert_eq!(parse_timeout(b"5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse_timeout(b"250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for wrong in [b"".as_slice(), b"S", b"5", b"5s", b"-5S", b"123456789S"] {
            assert_eq!(parse_timeout(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn has_leader_means_exactly_true() {
        let call = |value: &'static [u8]| Call::new(|name| (name == "hasleader").then_some(value), Source::Grpc, None).expect("valid");
        assert!(call(b"true").context.require_leader);
        assert!(!call(b"1").context.require_leader);
    }

    #[test]
    fn a_client_version_that_is_not_utf8_is_refused() {
        let result = Call::new(|name| (name == "client-api-version").then_some(b"\xff".as_slice()), Source::Grpc, None);
        assert_eq!(result.expect_err("refused"), ApiError::InvalidClientApiVersion);
    }
}
