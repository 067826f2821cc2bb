//! Requests of the wire as commands of core, and replies of core as answers on the wire.

use crate::{
    api_error::ApiError,
    backend::Status,
    encoded,
    proto::{
        etcdserverpb::{
            self as pb, AlarmMember, AlarmType, compare::TargetUnion, range_request, request_op::Request as RequestKind,
            watch_create_request::FilterType,
        },
        mvccpb::event::EventType,
    },
    service::header,
};
use bytes::Bytes;
use quorate_core::{
    command::{
        Alarm, AlarmKind, Command, Compare, CompareResult, CompareTarget, DeleteRange, DeleteRangeReply, KeyRange, Member, Op, OpReply,
        Put, PutReply, Range, RangeReply, Refusal, SortOrder, SortTarget, Txn, TxnReply,
    },
    machine,
    mvcc::{EncodedKeyValue, EventKind},
    types::{LeaseId, Revision, WatchId},
    watch::{Canceled, WatchEvent, WatchRequest, WatchResponse},
};

/// The answer's `kvs` field wants bytes; core hands them out wrapped.
fn unwrap_all(kvs: Vec<EncodedKeyValue>) -> Vec<Bytes> {
    kvs.into_iter().map(|kv| kv.0).collect()
}

pub fn range(request: pb::RangeRequest) -> Result<Range, Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    let sort_order = match range_request::SortOrder::try_from(request.sort_order) {
        Ok(range_request::SortOrder::None) => SortOrder::None,
        Ok(range_request::SortOrder::Ascend) => SortOrder::Ascend,
        Ok(range_request::SortOrder::Descend) => SortOrder::Descend,
        Err(_) => return Err(Refusal::InvalidSortOption),
    };
    let sort_target = match range_request::SortTarget::try_from(request.sort_target) {
        Ok(range_request::SortTarget::Key) => SortTarget::Key,
        Ok(range_request::SortTarget::Version) => SortTarget::Version,
        Ok(range_request::SortTarget::Create) => SortTarget::Create,
        Ok(range_request::SortTarget::Mod) => SortTarget::Mod,
        Ok(range_request::SortTarget::Value) => SortTarget::Value,
        Err(_) => return Err(Refusal::InvalidSortOption),
    };
    Ok(Range {
        range: KeyRange { key: request.key, end: request.range_end },
        limit: request.limit,
        revision: Revision(request.revision),
        sort_order,
        sort_target,
        serializable: request.serializable,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: Revision(request.min_mod_revision),
        max_mod_revision: Revision(request.max_mod_revision),
        min_create_revision: Revision(request.min_create_revision),
        max_create_revision: Revision(request.max_create_revision),
    })
}

#[must_use]
pub fn put(request: pb::PutRequest) -> Put {
    Put {
        key: request.key,
        value: request.value,
        lease: LeaseId(request.lease),
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

#[must_use]
pub fn delete_range(request: pb::DeleteRangeRequest) -> DeleteRange {
    DeleteRange { range: KeyRange { key: request.key, end: request.range_end }, prev_kv: request.prev_kv }
}

/// A checked txn. What has no form in core (an empty op, an unknown sort) is refused in its turn, after whatever is wrong
/// before it and ahead of whatever is wrong behind it, as a client of etcd would see it.
pub fn txn(request: pb::TxnRequest, ops_max: usize) -> Result<Txn, ApiError> {
    let mut conversion = Conversion { error: None };
    let command = Command::Txn(conversion.txn(request));
    let valid = machine::validate(&command, ops_max);
    match (valid, conversion.error, command) {
        // Duplicate keys are looked for once every op is known to be whole.
        (Ok(()) | Err(Refusal::DuplicateKey), Some(error), _) => Err(error),
        (Err(refusal), ..) => Err(refusal.into()),
        (Ok(()), None, Command::Txn(txn)) => Ok(txn),
        (Ok(()), None, other) => unreachable!("made a txn, have {other:?}"),
    }
}

/// Once a error is found, the rest becomes harmless ops in the same number: what can still be found wrong was ahead of the error,
/// or is the number itself, which is checked first of all.
struct Conversion {
    error: Option<ApiError>,
}

impl Conversion {
    fn txn(&mut self, request: pb::TxnRequest) -> Txn {
        Txn {
            compare: request.compare.into_iter().map(|compare| self.compare(compare)).collect(),
            success: request.success.into_iter().map(|op| self.op(op)).collect(),
            failure: request.failure.into_iter().map(|op| self.op(op)).collect(),
        }
    }

    fn op(&mut self, op: pb::RequestOp) -> Op {
        let op = match (op.request, &self.error) {
            (_, Some(_)) => Ok(harmless_op()),
            (Some(RequestKind::RequestRange(request)), None) => range(request).map(Op::Range),
            (Some(RequestKind::RequestPut(request)), None) => Ok(Op::Put(put(request))),
            (Some(RequestKind::RequestDeleteRange(request)), None) => Ok(Op::DeleteRange(delete_range(request))),
            (Some(RequestKind::RequestTxn(request)), None) => Ok(Op::Txn(self.txn(request))),
            (None, None) => Err(Refusal::KeyNotFound),
        };
        op.unwrap_or_else(|refusal| {
            self.error = Some(refusal.into());
            harmless_op()
        })
    }

    fn compare(&mut self, compare: pb::Compare) -> Compare {
        let range = KeyRange { key: compare.key, end: compare.range_end };
        let (Ok(target), Ok(result)) =
            (pb::compare::CompareTarget::try_from(compare.target), pb::compare::CompareResult::try_from(compare.result))
        else {
            let error = if range.key.is_empty() { Refusal::EmptyKey.into() } else { ApiError::UnknownCompare };
            self.error.get_or_insert(error);
            return Compare { range: harmless_range(), result: CompareResult::Equal, target: CompareTarget::Version(0) };
        };
        let result = match result {
            pb::compare::CompareResult::Equal => CompareResult::Equal,
            pb::compare::CompareResult::Greater => CompareResult::Greater,
            pb::compare::CompareResult::Less => CompareResult::Less,
            pb::compare::CompareResult::NotEqual => CompareResult::NotEqual,
        };
        let range = if self.error.is_some() { harmless_range() } else { range };
        Compare { range, result, target: compare_target(target, compare.target_union) }
    }
}

fn harmless_range() -> KeyRange {
    KeyRange { key: Bytes::from_static(b"\0"), end: Bytes::new() }
}

fn harmless_op() -> Op {
    Op::Range(Range { range: harmless_range(), ..Range::default() })
}

/// A value missing, or of another target, is zero or empty.
fn compare_target(target: pb::compare::CompareTarget, given: Option<TargetUnion>) -> CompareTarget {
    match target {
        pb::compare::CompareTarget::Version => CompareTarget::Version(match given {
            Some(TargetUnion::Version(version)) => version,
            _ => 0,
        }),
        pb::compare::CompareTarget::Create => CompareTarget::Create(match given {
            Some(TargetUnion::CreateRevision(revision)) => Revision(revision),
            _ => Revision(0),
        }),
        pb::compare::CompareTarget::Mod => CompareTarget::Mod(match given {
            Some(TargetUnion::ModRevision(revision)) => Revision(revision),
            _ => Revision(0),
        }),
        pb::compare::CompareTarget::Value => CompareTarget::Value(match given {
            Some(TargetUnion::Value(value)) => value,
            _ => Bytes::new(),
        }),
        pb::compare::CompareTarget::Lease => CompareTarget::Lease(match given {
            Some(TargetUnion::Lease(lease)) => LeaseId(lease),
            _ => LeaseId(0),
        }),
    }
}

/// A header inside a txn's answer has a revision and nothing else.
#[expect(clippy::unnecessary_wraps, reason = "the field it goes into is optional on the wire")]
fn inner_header(revision: Revision) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision: revision.0, ..Default::default() })
}

#[must_use]
pub fn range_answer(header: Option<pb::ResponseHeader>, reply: RangeReply) -> encoded::RangeResponse {
    encoded::RangeResponse { header, kvs: unwrap_all(reply.kvs), more: reply.more, count: reply.count }
}

#[must_use]
pub fn put_answer(header: Option<pb::ResponseHeader>, reply: PutReply) -> encoded::PutResponse {
    encoded::PutResponse { header, prev_kv: reply.prev_kv.map(|kv| kv.0) }
}

#[must_use]
pub fn delete_range_answer(header: Option<pb::ResponseHeader>, reply: DeleteRangeReply) -> encoded::DeleteRangeResponse {
    encoded::DeleteRangeResponse { header, deleted: reply.deleted, prev_kvs: unwrap_all(reply.prev_kvs) }
}

#[must_use]
pub fn txn_answer(header: Option<pb::ResponseHeader>, reply: TxnReply) -> encoded::TxnResponse {
    let responses = reply.responses.into_iter().map(op_answer).collect();
    encoded::TxnResponse { header, succeeded: reply.succeeded, responses }
}

fn op_answer(reply: OpReply) -> encoded::ResponseOp {
    let response = match reply {
        OpReply::Range(reply) => encoded::Response::Range(range_answer(inner_header(reply.revision), reply)),
        OpReply::Put(reply) => encoded::Response::Put(put_answer(inner_header(reply.revision), reply)),
        OpReply::DeleteRange(reply) => encoded::Response::DeleteRange(delete_range_answer(inner_header(reply.revision), reply)),
        OpReply::Txn(reply) => encoded::Response::Txn(txn_answer(inner_header(reply.revision), reply)),
    };
    encoded::ResponseOp { response: Some(response) }
}

/// No key means every key from the smallest possible one, as in etcd.
#[must_use]
pub fn watch_request(request: pb::WatchCreateRequest) -> WatchRequest {
    let filtered = |filter: FilterType| request.filters.contains(&filter.into());
    let (no_put, no_delete) = (filtered(FilterType::Noput), filtered(FilterType::Nodelete));
    let key = if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key };
    WatchRequest {
        range: KeyRange { key, end: request.range_end },
        start_revision: Revision(request.start_revision),
        progress_notify: request.progress_notify,
        no_put,
        no_delete,
        prev_kv: request.prev_kv,
        watch: WatchId(request.watch_id),
        fragment: request.fragment,
    }
}

#[must_use]
pub fn watch_answer(status: &Status, response: &WatchResponse) -> encoded::WatchResponse {
    let (compact_revision, reason) = match &response.canceled {
        None | Some(Canceled::Requested) => (0, ""),
        Some(Canceled::Compacted(floor)) => (floor.0, ""),
        Some(Canceled::EmptyRange) => (0, "mvcc: watcher range is empty"),
        Some(Canceled::DuplicateId) => (0, "mvcc: duplicate watch ID provided on the WatchStream"),
        Some(Canceled::NegativeStart) => (0, "etcdserver: mvcc: required revision has been compacted"),
        Some(Canceled::TooManyWatches) => (0, "etcdserver: too many watches on this stream"),
    };
    // Told that it missed something, a client must not learn a revision to go on from.
    let revision = match (compact_revision, response.events.is_empty()) {
        (0, true) => response.revision,
        (0, false) => response.store_revision,
        _ => Revision(0),
    };
    encoded::WatchResponse {
        header: Some(header(status, revision)),
        watch_id: response.watch.0,
        created: response.created,
        canceled: response.canceled.is_some(),
        compact_revision,
        cancel_reason: reason.into(),
        fragment: response.fragment,
        events: response.events.iter().map(event).collect(),
    }
}

fn event(event: &WatchEvent) -> encoded::Event {
    let kind = match event.kind {
        EventKind::Put => EventType::Put,
        EventKind::Delete => EventType::Delete,
    };
    encoded::Event { r#type: kind.into(), kv: Some(event.kv.0.clone()), prev_kv: event.prev_kv.as_ref().map(|kv| kv.0.clone()) }
}

#[must_use]
pub fn member(member: Member) -> pb::Member {
    pb::Member {
        id: member.id.0,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    }
}

#[must_use]
pub fn alarm(alarm: &Alarm) -> AlarmMember {
    let kind = match alarm.kind {
        AlarmKind::NoSpace => AlarmType::Nospace,
        AlarmKind::Corrupt => AlarmType::Corrupt,
    };
    AlarmMember { member_id: alarm.member.0, alarm: kind.into() }
}

/// `None` stands for every kind, or for no change.
pub fn alarm_kind(kind: i32) -> Result<Option<AlarmKind>, ApiError> {
    match AlarmType::try_from(kind) {
        Ok(AlarmType::None) => Ok(None),
        Ok(AlarmType::Nospace) => Ok(Some(AlarmKind::NoSpace)),
        Ok(AlarmType::Corrupt) => Ok(Some(AlarmKind::Corrupt)),
        Err(_) => Err(ApiError::UnknownAlarm),
    }
}
