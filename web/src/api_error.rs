//! Why a request is not served, as each surface says it: the one table of codes and texts. Clients match on them to the letter.

use crate::surface::METADATA_BYTES;
use quorate_core::command::Refusal;
use std::{borrow::Cow, time::Duration};
use tonic::{Code, Status};

/// A refusal of core, or one that only a surface can give.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ApiError {
    Refused(Refusal),
    NotSupportedForLearner,
    InvalidClientApiVersion,
    UnknownCompare,
    UnknownAlarm,
    StreamSorted,
    StreamFiltered,
    WatchCanceled,
    /// A message of `bytes` came where `limit` is the most that is read.
    ReceivedTooLarge {
        bytes: u64,
        limit: usize,
    },
    /// A request's body made no progress for so long.
    BodyStalled(Duration),
    /// More than [`METADATA_BYTES`].
    MetadataTooLarge(usize),
    /// Of authentication, which is off.
    AuthNotEnabled,
    /// Not JSON, or not that of the request; the text says where.
    BadJson(String),
    /// Of the API, but not served by this release.
    NotServed(&'static str),
    UnknownHealthService,
    NotFound,
    MethodNotAllowed,
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let answer = error.reply();
        Self::new(answer.code, answer.text)
    }
}

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ErrorReply {
    pub code: Code,
    pub text: Cow<'static, str>,
    /// `errorCode` of the v2 API.
    pub v2: u16,
}

impl ErrorReply {
    /// The status the JSON gateway gives.
    #[must_use]
    pub const fn http(&self) -> u16 {
        http_status(self.code)
    }
}

/// The HTTP status that stands for a gRPC code.
pub(crate) const fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Cancelled => 499,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    }
}

/// v2: the form of the request is wrong.
const FORM: u16 = 210;
/// v2: the cluster cannot serve it.
const RAFT: u16 = 300;
/// v2: what is asked for is there no more.
const CLEARED: u16 = 401;

impl ApiError {
    /// The table. Two codes are not those of the API's own definition, because etcd's servers send them so:
    /// too many requests is `Unknown`, and so would be a reconfiguration with too few started members.
    #[must_use]
    pub fn reply(&self) -> ErrorReply {
        use Code::{
            Cancelled, DataLoss, DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound, OutOfRange, ResourceExhausted,
            Unavailable, Unimplemented, Unknown,
        };
        let (code, v2, text) = match self {
            Self::Refused(refusal) => match refusal {
                Refusal::EmptyKey => (InvalidArgument, FORM, "etcdserver: key is not provided"),
                Refusal::KeyNotFound => (InvalidArgument, FORM, "etcdserver: key not found"),
                Refusal::ValueProvided => (InvalidArgument, FORM, "etcdserver: value is provided"),
                Refusal::LeaseProvided => (InvalidArgument, FORM, "etcdserver: lease is provided"),
                Refusal::TooManyOps => (InvalidArgument, FORM, "etcdserver: too many operations in txn request"),
                Refusal::TooManyKeys => (InvalidArgument, FORM, "etcdserver: txn request visits too many keys"),
                Refusal::DuplicateKey => (InvalidArgument, FORM, "etcdserver: duplicate key given in txn request"),
                Refusal::InvalidSortOption => (InvalidArgument, FORM, "etcdserver: invalid sort option"),
                Refusal::Compacted => (OutOfRange, CLEARED, "etcdserver: mvcc: required revision has been compacted"),
                Refusal::FutureRevision => (OutOfRange, FORM, "etcdserver: mvcc: required revision is a future revision"),
                Refusal::LeaseNotFound => (NotFound, FORM, "etcdserver: requested lease not found"),
                Refusal::LeaseExists => (FailedPrecondition, FORM, "etcdserver: lease already exists"),
                Refusal::LeaseTtlTooLarge => (OutOfRange, FORM, "etcdserver: too large lease TTL"),
                Refusal::RequestTooLarge => (InvalidArgument, FORM, "etcdserver: request is too large"),
                Refusal::MemberNotFound => (NotFound, RAFT, "etcdserver: member not found"),
                Refusal::BadLeaderTransferee => (FailedPrecondition, RAFT, "etcdserver: bad leader transferee"),
                Refusal::NoSpace => (ResourceExhausted, RAFT, "etcdserver: mvcc: database space exceeded"),
                Refusal::Corrupt => (DataLoss, RAFT, "etcdserver: corrupt cluster"),
                Refusal::NoLeader => (Unavailable, RAFT, "etcdserver: no leader"),
                Refusal::NotLeader => (FailedPrecondition, RAFT, "etcdserver: not leader"),
                Refusal::LeaderChanged => (Unavailable, RAFT, "etcdserver: leader changed"),
                Refusal::TooManyRequests => (Unknown, RAFT, "etcdserver: too many requests"),
                Refusal::Unhealthy => (Unavailable, RAFT, "etcdserver: unhealthy cluster"),
                // A member whose disk failed stops; a client that hears so goes to another one.
                Refusal::Stopped | Refusal::StorageFailed => (Unavailable, RAFT, "etcdserver: server stopped"),
                Refusal::TimedOut => (Unavailable, RAFT, "etcdserver: request timed out"),
                Refusal::OutcomeUnknown => (Unavailable, RAFT, "etcdserver: request timed out, possibly due to previous leader failure"),
            },
            Self::NotSupportedForLearner => (FailedPrecondition, RAFT, "etcdserver: rpc not supported for learner"),
            Self::InvalidClientApiVersion => (InvalidArgument, FORM, "etcdserver: invalid client api version"),
            Self::UnknownCompare => (InvalidArgument, FORM, "etcdserver: unknown result or target in compare"),
            Self::UnknownAlarm => (InvalidArgument, FORM, "etcdserver: unknown alarm type or action"),
            Self::StreamSorted => (Unimplemented, FORM, "RangeStream does not support custom sort orders"),
            Self::StreamFiltered => (Unimplemented, FORM, "RangeStream does not support revision filters"),
            Self::WatchCanceled => (Cancelled, RAFT, "etcdserver: watch canceled"),
            Self::AuthNotEnabled => (FailedPrecondition, FORM, "etcdserver: authentication is not enabled"),
            Self::UnknownHealthService => (NotFound, FORM, "unknown service"),
            Self::NotFound => (NotFound, FORM, "Not Found"),
            Self::MethodNotAllowed => (Unimplemented, FORM, "Method Not Allowed"),
            Self::ReceivedTooLarge { bytes, limit } => {
                let text = format!("grpc: received message larger than max ({bytes} vs. {limit})");
                return ErrorReply { code: ResourceExhausted, v2: FORM, text: text.into() };
            }
            Self::BodyStalled(timeout) => {
                let text = format!("the request's body made no progress for {timeout:?}");
                return ErrorReply { code: DeadlineExceeded, v2: FORM, text: text.into() };
            }
            Self::MetadataTooLarge(bytes) => {
                let text = format!("the request's metadata is too large ({bytes} vs. {METADATA_BYTES} bytes)");
                return ErrorReply { code: ResourceExhausted, v2: FORM, text: text.into() };
            }
            Self::BadJson(text) => return ErrorReply { code: InvalidArgument, v2: FORM, text: text.clone().into() },
            Self::NotServed(name) => {
                return ErrorReply { code: Unimplemented, v2: FORM, text: format!("{name} is not served by this release").into() };
            }
        };
        ErrorReply { code, text: text.into(), v2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fmt::Write as _};

    /// The refusal after this one; a new variant does not compile until it is in the chain.
    fn next(refusal: &Refusal) -> Option<Refusal> {
        Some(match refusal {
            Refusal::EmptyKey => Refusal::KeyNotFound,
            Refusal::KeyNotFound => Refusal::ValueProvided,
            Refusal::ValueProvided => Refusal::LeaseProvided,
            Refusal::LeaseProvided => Refusal::TooManyOps,
            Refusal::TooManyOps => Refusal::TooManyKeys,
            Refusal::TooManyKeys => Refusal::DuplicateKey,
            Refusal::DuplicateKey => Refusal::InvalidSortOption,
            Refusal::InvalidSortOption => Refusal::Compacted,
            Refusal::Compacted => Refusal::FutureRevision,
            Refusal::FutureRevision => Refusal::LeaseNotFound,
            Refusal::LeaseNotFound => Refusal::LeaseExists,
            Refusal::LeaseExists => Refusal::LeaseTtlTooLarge,
            Refusal::LeaseTtlTooLarge => Refusal::RequestTooLarge,
            Refusal::RequestTooLarge => Refusal::MemberNotFound,
            Refusal::MemberNotFound => Refusal::BadLeaderTransferee,
            Refusal::BadLeaderTransferee => Refusal::NoSpace,
            Refusal::NoSpace => Refusal::Corrupt,
            Refusal::Corrupt => Refusal::NoLeader,
            Refusal::NoLeader => Refusal::NotLeader,
            Refusal::NotLeader => Refusal::LeaderChanged,
            Refusal::LeaderChanged => Refusal::TooManyRequests,
            Refusal::TooManyRequests => Refusal::Unhealthy,
            Refusal::Unhealthy => Refusal::Stopped,
            Refusal::Stopped => Refusal::TimedOut,
            Refusal::TimedOut => Refusal::OutcomeUnknown,
            Refusal::OutcomeUnknown => Refusal::StorageFailed,
            Refusal::StorageFailed => return None,
        })
    }

    fn all() -> impl Iterator<Item = Refusal> {
        std::iter::successors(Some(Refusal::EmptyKey), next)
    }

    #[test]
    fn every_refusal_has_its_code_and_text() {
        let mut table = String::new();
        for refusal in all() {
            let answer = ApiError::from(refusal).reply();
            writeln!(table, "{:?} {} {} {}", answer.code, answer.http(), answer.v2, answer.text).expect("written");
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn only_refusals_that_mean_the_same_share_a_text() {
        let texts: BTreeSet<_> = all().map(|refusal| ApiError::from(refusal).reply().text).collect();
        assert_eq!(texts.len(), all().count() - 1, "stopped and a failed store say the same, no others");
    }

    #[test]
    fn a_status_tells_code_and_text() {
        let status = Status::from(ApiError::ReceivedTooLarge { bytes: 5, limit: 4 });
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "grpc: received message larger than max (5 vs. 4)"));
    }
}
