//! Histories' requests and answers in gRPC's messages, both ways.

use bytes::Bytes;
use quorate_checker::history::{self, Event, KeyValue, Keys, Outcome, Refused, Relation, Request, Response, Target};
use quorate_web::proto::{
    etcdserverpb::{
        CompactionRequest, Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
        RequestOp, ResponseHeader, TxnRequest, TxnResponse, compare, kv_client::KvClient, request_op, response_op,
    },
    mvccpb,
};
use tonic::{Status, transport::Channel};

/// Sends one operation and says what became of it.
pub async fn send(client: &mut KvClient<Channel>, request: &Request) -> Outcome {
    let answer = match request {
        Request::Range(range) => client.range(to_range(range)).await.map(|r| from_range(r.into_inner())),
        Request::Put(put) => client.put(to_put(put)).await.map(|r| from_put(r.into_inner())),
        Request::DeleteRange(delete) => client.delete_range(to_delete(delete)).await.map(|r| from_delete(r.into_inner())),
        Request::Txn(txn) => client.txn(to_txn(txn)).await.map(|r| from_txn(r.into_inner())),
        Request::Compact { revision } => client
            .compact(CompactionRequest { revision: *revision, physical: false })
            .await
            .map(|r| Response::Compact { revision: revision_of(r.into_inner().header.as_ref()) }),
        Request::LeaseGrant { .. } | Request::LeaseRevoke { .. } | Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. } => {
            unreachable!("no client of these asks for leases")
        }
        Request::Watch(_) => unreachable!("watches have streams of their own"),
    };
    match answer {
        Ok(response) => Outcome::Ok { response, rank: None },
        Err(status) => from_status(&status),
    }
}

/// Only what says for certain that nothing was done is a refusal.
fn from_status(status: &Status) -> Outcome {
    match status.message() {
        "etcdserver: mvcc: required revision has been compacted" => Outcome::Refused(Refused::Compacted),
        "etcdserver: mvcc: required revision is a future revision" => Outcome::Refused(Refused::FutureRevision),
        "etcdserver: key not found" => Outcome::Refused(Refused::KeyNotFound),
        "etcdserver: requested lease not found" => Outcome::Refused(Refused::LeaseNotFound),
        "etcdserver: lease already exists" => Outcome::Refused(Refused::LeaseExists),
        // Never sent: nobody listened.
        _ if format!("{status:?}").contains("ConnectError") => Outcome::Refused(Refused::Other("not connected".into())),
        _ => Outcome::Unknown,
    }
}

pub fn revision_of(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// Key and range end as on the wire.
pub fn to_keys(keys: &Keys) -> (Bytes, Bytes) {
    let end = match &keys.end {
        None => Bytes::new(),
        Some(end) if end.is_empty() => Bytes::from_static(b"\0"),
        Some(end) => end.clone().into(),
    };
    (keys.key.clone().into(), end)
}

fn to_range(range: &history::Range) -> RangeRequest {
    let (key, range_end) = to_keys(&range.keys);
    RangeRequest {
        key,
        range_end,
        revision: range.revision,
        limit: range.limit,
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        ..RangeRequest::default()
    }
}

fn to_put(put: &history::Put) -> PutRequest {
    PutRequest {
        key: put.key.clone().into(),
        value: put.value.clone().into(),
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        lease: put.lease,
        ignore_lease: put.ignore_lease,
    }
}

fn to_delete(delete: &history::DeleteRange) -> DeleteRangeRequest {
    let (key, range_end) = to_keys(&delete.keys);
    DeleteRangeRequest { key, range_end, prev_kv: delete.prev_kv }
}

fn to_txn(txn: &history::Txn) -> TxnRequest {
    let ops = |ops: &[Request]| ops.iter().map(|op| RequestOp { request: Some(to_op(op)) }).collect();
    TxnRequest { compare: txn.compare.iter().map(to_compare).collect(), success: ops(&txn.success), failure: ops(&txn.failure) }
}

fn to_op(op: &Request) -> request_op::Request {
    match op {
        Request::Range(range) => request_op::Request::RequestRange(to_range(range)),
        Request::Put(put) => request_op::Request::RequestPut(to_put(put)),
        Request::DeleteRange(delete) => request_op::Request::RequestDeleteRange(to_delete(delete)),
        Request::Txn(txn) => request_op::Request::RequestTxn(to_txn(txn)),
        other => unreachable!("not an operation of a txn: {other:?}"),
    }
}

fn to_compare(given: &history::Compare) -> Compare {
    use compare::{CompareResult, CompareTarget, TargetUnion};
    let (key, range_end) = to_keys(&given.keys);
    let (target, union) = match &given.target {
        Target::Version(number) => (CompareTarget::Version, TargetUnion::Version(*number)),
        Target::Create(revision) => (CompareTarget::Create, TargetUnion::CreateRevision(*revision)),
        Target::Mod(revision) => (CompareTarget::Mod, TargetUnion::ModRevision(*revision)),
        Target::Lease(lease) => (CompareTarget::Lease, TargetUnion::Lease(*lease)),
        Target::Value(value) => (CompareTarget::Value, TargetUnion::Value(value.clone().into())),
    };
    let result = match given.relation {
        Relation::Equal => CompareResult::Equal,
        Relation::NotEqual => CompareResult::NotEqual,
        Relation::Greater => CompareResult::Greater,
        Relation::Less => CompareResult::Less,
    };
    Compare { result: result.into(), target: target.into(), key, range_end, target_union: Some(union) }
}

fn from_kv(kv: mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key.into(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value.into(),
        lease: kv.lease,
    }
}

fn from_range(answer: RangeResponse) -> Response {
    Response::Range {
        revision: revision_of(answer.header.as_ref()),
        kvs: answer.kvs.into_iter().map(from_kv).collect(),
        more: answer.more,
        count: answer.count,
    }
}

fn from_put(answer: PutResponse) -> Response {
    Response::Put { revision: revision_of(answer.header.as_ref()), prev_kv: answer.prev_kv.map(from_kv) }
}

fn from_delete(answer: DeleteRangeResponse) -> Response {
    Response::DeleteRange {
        revision: revision_of(answer.header.as_ref()),
        deleted: answer.deleted,
        prev_kvs: answer.prev_kvs.into_iter().map(from_kv).collect(),
    }
}

fn from_txn(answer: TxnResponse) -> Response {
    let responses = answer.responses.into_iter().filter_map(|op| op.response).map(|op| match op {
        response_op::Response::ResponseRange(range) => from_range(range),
        response_op::Response::ResponsePut(put) => from_put(put),
        response_op::Response::ResponseDeleteRange(delete) => from_delete(delete),
        response_op::Response::ResponseTxn(txn) => from_txn(txn),
    });
    let responses = responses.collect();
    Response::Txn { revision: revision_of(answer.header.as_ref()), succeeded: answer.succeeded, responses }
}

pub fn from_event(event: mvccpb::Event) -> Event {
    Event {
        deleted: event.r#type == mvccpb::event::EventType::Delete as i32,
        kv: event.kv.map(from_kv).unwrap_or_default(),
        prev_kv: event.prev_kv.map(from_kv),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ranges_follow_the_wires_conventions() {
        for (keys, wire) in [
            (Keys::one("a"), ("a", "")),
            (Keys { key: b"a".to_vec(), end: Some(b"c".to_vec()) }, ("a", "c")),
            (Keys::default(), ("\0", "\0")),
        ] {
            assert_eq!(to_keys(&keys), (Bytes::from(wire.0), Bytes::from(wire.1)));
        }
    }

    #[test]
    fn only_certain_refusals_are_refusals() {
        let compacted = Status::out_of_range("etcdserver: mvcc: required revision has been compacted");
        assert_eq!(from_status(&compacted), Outcome::Refused(Refused::Compacted));
        for unclear in [Status::unavailable("etcdserver: leader changed"), Status::unavailable("etcdserver: request timed out")] {
            assert_eq!(from_status(&unclear), Outcome::Unknown);
        }
    }

    #[test]
    fn nobody_listening_is_a_certain_refusal() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let port = crate::process::free_port().expect("a port");
        let outcome = runtime.block_on(async {
            let channel = Channel::from_shared(format!("http://127.0.0.1:{port}")).expect("an address").connect_lazy();
            send(&mut KvClient::new(channel), &Request::Range(history::Range::default())).await
        });
        assert_eq!(outcome, Outcome::Refused(Refused::Other("not connected".into())));
    }
}
