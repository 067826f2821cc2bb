//! Between the checker's words and the store's. The bytes of answers are read by our own few lines, not by the store's.

use quorate_checker::history::{self, Refused, Relation, Request, Response, Target};
use quorate_core::command::{
    Command, Compact, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, LeaseGrant, LeaseRevoke, Op, OpReply, Put, Range,
    RangeReply, Refusal, Reply, Txn,
};
use quorate_core::lease::LeaseCall;
use quorate_core::mvcc::{EncodedKeyValue, EventKind};
use quorate_core::types::{LeaseId, Revision};
use quorate_core::v2::NodePath;
use quorate_core::watch::{WatchEvent, WatchRequest};

/// How a member has to serve a request.
#[derive(Debug)]
pub enum Served {
    Propose(Command),
    Range(Range),
    ReadTxn(Txn),
    V2Get { path: NodePath, recursive: bool },
    Lease(LeaseCall),
}

#[must_use]
pub fn served(request: &Request) -> Served {
    match request {
        Request::Range(request) => Served::Range(range(request)),
        Request::Put(request) => Served::Propose(Command::Put(put(request))),
        Request::DeleteRange(request) => Served::Propose(Command::DeleteRange(delete(request))),
        Request::Compact { revision } => Served::Propose(Command::Compact(Compact { revision: Revision(*revision), physical: false })),
        Request::LeaseGrant { lease, ttl_s } => Served::Propose(Command::LeaseGrant(LeaseGrant { lease: LeaseId(*lease), ttl_s: *ttl_s })),
        Request::LeaseRevoke { lease } => Served::Propose(Command::LeaseRevoke(LeaseRevoke { lease: LeaseId(*lease) })),
        Request::LeaseKeepAlive { lease } => Served::Lease(LeaseCall::KeepAlive(LeaseId(*lease))),
        Request::LeaseTimeToLive { lease } => Served::Lease(LeaseCall::TimeToLive(LeaseId(*lease))),
        Request::Txn(request) => {
            let txn = txn(request);
            if is_read_only(&txn) { Served::ReadTxn(txn) } else { Served::Propose(Command::Txn(txn)) }
        }
        Request::Watch(_) => unreachable!("watches go to the hub"),
    }
}

/// As etcd has it: a txn that nests another goes through the log, even if that only reads.
fn is_read_only(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, Op::Range(_)))
}

fn keys(keys: &history::Keys) -> KeyRange {
    let end = match &keys.end {
        None => Vec::new(),
        Some(end) if end.is_empty() => vec![0],
        Some(end) => end.clone(),
    };
    KeyRange { key: keys.key.clone().into(), end: end.into() }
}

fn range(request: &history::Range) -> Range {
    Range {
        range: keys(&request.keys),
        limit: request.limit,
        revision: Revision(request.revision),
        serializable: request.serializable,
        keys_only: request.keys_only,
        count_only: request.count_only,
        ..Range::default()
    }
}

fn put(request: &history::Put) -> Put {
    Put {
        key: request.key.clone().into(),
        value: request.value.clone().into(),
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        lease: LeaseId(request.lease),
        ignore_lease: request.ignore_lease,
    }
}

fn delete(request: &history::DeleteRange) -> DeleteRange {
    DeleteRange { range: keys(&request.keys), prev_kv: request.prev_kv }
}

fn txn(request: &history::Txn) -> Txn {
    let ops = |requests: &[Request]| requests.iter().map(op).collect();
    Txn { compare: request.compare.iter().map(compare).collect(), success: ops(&request.success), failure: ops(&request.failure) }
}

fn op(request: &Request) -> Op {
    match request {
        Request::Range(request) => Op::Range(range(request)),
        Request::Put(request) => Op::Put(put(request)),
        Request::DeleteRange(request) => Op::DeleteRange(delete(request)),
        Request::Txn(request) => Op::Txn(txn(request)),
        other => unreachable!("not an operation of a txn: {other:?}"),
    }
}

fn compare(compare: &history::Compare) -> Compare {
    let result = match compare.relation {
        Relation::Equal => CompareResult::Equal,
        Relation::NotEqual => CompareResult::NotEqual,
        Relation::Greater => CompareResult::Greater,
        Relation::Less => CompareResult::Less,
    };
    let target = match &compare.target {
        Target::Version(version) => CompareTarget::Version(*version),
        Target::Create(revision) => CompareTarget::Create(Revision(*revision)),
        Target::Mod(revision) => CompareTarget::Mod(Revision(*revision)),
        Target::Lease(lease) => CompareTarget::Lease(LeaseId(*lease)),
        Target::Value(value) => CompareTarget::Value(value.clone().into()),
    };
    Compare { range: keys(&compare.keys), result, target }
}

#[must_use]
pub fn watch(request: &history::Watch) -> WatchRequest {
    WatchRequest {
        range: keys(&request.keys),
        start_revision: Revision(request.start_revision),
        no_put: request.no_put,
        no_delete: request.no_delete,
        prev_kv: request.prev_kv,
        ..WatchRequest::default()
    }
}

/// Reads `mvccpb.KeyValue`. Panics on anything else: the store made it.
#[must_use]
pub fn key_value(encoded: &EncodedKeyValue) -> history::KeyValue {
    let mut kv = history::KeyValue::default();
    let mut rest: &[u8] = &encoded.0;
    while !rest.is_empty() {
        let tag = varint(&mut rest);
        match (tag >> 3, tag & 7) {
            (1, 2) => kv.key = string(&mut rest),
            (2, 0) => kv.create_revision = varint(&mut rest).cast_signed(),
            (3, 0) => kv.mod_revision = varint(&mut rest).cast_signed(),
            (4, 0) => kv.version = varint(&mut rest).cast_signed(),
            (5, 2) => kv.value = string(&mut rest),
            (6, 0) => kv.lease = varint(&mut rest).cast_signed(),
            field => panic!("not a key-value: field {field:?}"),
        }
    }
    kv
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first().expect("a whole varint");
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn string(rest: &mut &[u8]) -> Vec<u8> {
    let length = usize::try_from(varint(rest)).expect("in memory");
    let (bytes, tail) = rest.split_at(length);
    *rest = tail;
    bytes.to_vec()
}

#[must_use]
pub fn range_response(reply: &RangeReply) -> Response {
    Response::Range { revision: reply.revision.0, kvs: reply.kvs.iter().map(key_value).collect(), more: reply.more, count: reply.count }
}

/// `None` for answers that no client of the simulator asks for.
#[must_use]
pub fn response(reply: &Reply) -> Option<Response> {
    match reply {
        Reply::Put(reply) => Some(op_response(&OpReply::Put(reply.clone()))),
        Reply::DeleteRange(reply) => Some(op_response(&OpReply::DeleteRange(reply.clone()))),
        Reply::Txn(reply) => Some(op_response(&OpReply::Txn(reply.clone()))),
        Reply::Compact { revision } => Some(Response::Compact { revision: revision.0 }),
        Reply::LeaseGranted { revision, ttl_s, .. } => Some(Response::LeaseGrant { revision: revision.0, ttl_s: *ttl_s }),
        Reply::LeaseRevoked { revision } => Some(Response::LeaseRevoke { revision: revision.0 }),
        Reply::Alarm { .. } | Reply::Published | Reply::V2(_) | Reply::LeaseClockHeard => None,
    }
}

#[must_use]
pub fn op_response(reply: &OpReply) -> Response {
    match reply {
        OpReply::Range(reply) => range_response(reply),
        OpReply::Put(reply) => Response::Put { revision: reply.revision.0, prev_kv: reply.prev_kv.as_ref().map(key_value) },
        OpReply::DeleteRange(reply) => Response::DeleteRange {
            revision: reply.revision.0,
            deleted: reply.deleted,
            prev_kvs: reply.prev_kvs.iter().map(key_value).collect(),
        },
        OpReply::Txn(reply) => Response::Txn {
            revision: reply.revision.0,
            succeeded: reply.succeeded,
            responses: reply.responses.iter().map(op_response).collect(),
        },
    }
}

#[must_use]
pub fn event(event: &WatchEvent) -> history::Event {
    history::Event { deleted: event.kind == EventKind::Delete, kv: key_value(&event.kv), prev_kv: event.prev_kv.as_ref().map(key_value) }
}

#[must_use]
pub fn refused(refusal: &Refusal) -> Refused {
    match refusal {
        Refusal::Compacted => Refused::Compacted,
        Refusal::FutureRevision => Refused::FutureRevision,
        Refusal::KeyNotFound => Refused::KeyNotFound,
        Refusal::LeaseNotFound => Refused::LeaseNotFound,
        Refusal::LeaseExists => Refused::LeaseExists,
        other => Refused::Other(format!("{other:?}")),
    }
}
