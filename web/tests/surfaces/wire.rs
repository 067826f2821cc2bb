//! What goes over the wire, to the byte.

use bytes::Bytes;
use prost::Message;
use quorate_web::{
    encoded,
    proto::{
        etcdserverpb::{self as pb, compare::TargetUnion, request_op::Request, response_op::Response, watch_request::RequestUnion},
        mvccpb::{Event, KeyValue},
    },
};
use std::fmt::{Debug, Write as _};

fn kv(key: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned().into(),
        create_revision: 2,
        mod_revision: 300,
        version: 4,
        value: Bytes::from_static(b"value"),
        lease: -6,
    }
}

fn encoded(kv: &KeyValue) -> Bytes {
    kv.encode_to_vec().into()
}

fn header() -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { cluster_id: u64::MAX, member_id: 2, revision: 3, raft_term: 4 })
}

fn assert_same<R: Message + Default + PartialEq + Debug, P: Message + Default + PartialEq + Debug>(raw: R, message: P) {
    assert_eq!(raw.encode_to_vec(), message.encode_to_vec());
    assert_eq!(P::decode(raw.encode_to_vec().as_slice()).expect("decodes"), message);
    assert_eq!(R::decode(message.encode_to_vec().as_slice()).expect("decodes"), raw);
}

fn ranges(kvs: &[KeyValue]) -> (encoded::RangeResponse, pb::RangeResponse) {
    let raw = encoded::RangeResponse { header: header(), kvs: kvs.iter().map(encoded).collect(), more: true, count: 7 };
    (raw, pb::RangeResponse { header: header(), kvs: kvs.to_vec(), more: true, count: 7 })
}

fn puts(prev_kv: Option<KeyValue>) -> (encoded::PutResponse, pb::PutResponse) {
    (encoded::PutResponse { header: header(), prev_kv: prev_kv.as_ref().map(encoded) }, pb::PutResponse { header: header(), prev_kv })
}

fn deletes(kvs: &[KeyValue]) -> (encoded::DeleteRangeResponse, pb::DeleteRangeResponse) {
    let raw = encoded::DeleteRangeResponse { header: header(), deleted: 2, prev_kvs: kvs.iter().map(encoded).collect() };
    (raw, pb::DeleteRangeResponse { header: header(), deleted: 2, prev_kvs: kvs.to_vec() })
}

#[test]
fn raw_answers_have_the_wire_form_of_their_messages() {
    let kvs = [kv("a"), KeyValue::default(), kv("b")];
    for kvs in [&kvs[..], &kvs[..0]] {
        let (raw, message) = ranges(kvs);
        assert_same(raw.clone(), message.clone());
        assert_same(encoded::RangeStreamResponse { range_response: Some(raw) }, pb::RangeStreamResponse { range_response: Some(message) });
        let (raw, message) = deletes(kvs);
        assert_same(raw, message);
    }
    for prev_kv in [None, Some(KeyValue::default()), Some(kv("a"))] {
        let (raw, message) = puts(prev_kv);
        assert_same(raw, message);
    }
}

#[test]
fn a_raw_txn_answer_has_the_wire_form_of_its_message() {
    let (raw_range, range) = ranges(&[kv("a")]);
    let (raw_put, put) = puts(Some(kv("b")));
    let (raw_delete, delete) = deletes(&[kv("c")]);
    let raw_op = |response| encoded::ResponseOp { response: Some(response) };
    let op = |response| pb::ResponseOp { response: Some(response) };
    let raw_inner =
        encoded::TxnResponse { header: None, succeeded: false, responses: vec![raw_op(encoded::Response::DeleteRange(raw_delete))] };
    let inner = pb::TxnResponse { header: None, succeeded: false, responses: vec![op(Response::ResponseDeleteRange(delete))] };
    let raw_ops = vec![
        raw_op(encoded::Response::Range(raw_range)),
        raw_op(encoded::Response::Put(raw_put)),
        raw_op(encoded::Response::Txn(raw_inner)),
    ];
    let ops = vec![op(Response::ResponseRange(range)), op(Response::ResponsePut(put)), op(Response::ResponseTxn(inner))];
    assert_same(
        encoded::TxnResponse { header: header(), succeeded: true, responses: raw_ops },
        pb::TxnResponse { header: header(), succeeded: true, responses: ops },
    );
}

#[test]
fn a_raw_watch_answer_has_the_wire_form_of_its_message() {
    let deleted = KeyValue { key: Bytes::from_static(b"k"), mod_revision: 9, ..KeyValue::default() };
    let raw_events = vec![
        encoded::Event { r#type: 0, kv: Some(encoded(&kv("a"))), prev_kv: None },
        encoded::Event { r#type: 1, kv: Some(encoded(&deleted)), prev_kv: Some(encoded(&kv("k"))) },
    ];
    let events =
        vec![Event { r#type: 0, kv: Some(kv("a")), prev_kv: None }, Event { r#type: 1, kv: Some(deleted), prev_kv: Some(kv("k")) }];
    let raw = encoded::WatchResponse {
        header: header(),
        watch_id: -1,
        created: true,
        canceled: true,
        compact_revision: 5,
        cancel_reason: "reason".into(),
        fragment: true,
        events: raw_events,
    };
    let message = pb::WatchResponse {
        header: header(),
        watch_id: -1,
        created: true,
        canceled: true,
        compact_revision: 5,
        cancel_reason: "reason".into(),
        fragment: true,
        events,
    };
    assert_same(raw, message);
}

/// Field numbers and types, as every client has them compiled in.
#[test]
fn messages_have_their_bytes() {
    let mut lines = String::new();
    let mut show = |name: &str, bytes: Vec<u8>| {
        let hex = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        writeln!(lines, "{name} {hex}").expect("written");
    };
    let key = Bytes::from_static(b"k");
    let end = Bytes::from_static(b"l");
    let value = Bytes::from_static(b"v");
    show("KeyValue", kv("k").encode_to_vec());
    show("ResponseHeader", header().unwrap_or_default().encode_to_vec());
    let range = pb::RangeRequest {
        key: key.clone(),
        range_end: end.clone(),
        limit: 3,
        revision: 4,
        sort_order: 2,
        sort_target: 4,
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 10,
        max_mod_revision: 11,
        min_create_revision: 12,
        max_create_revision: 13,
    };
    show("RangeRequest", range.encode_to_vec());
    let put = pb::PutRequest { key: key.clone(), value: value.clone(), lease: 3, prev_kv: true, ignore_value: true, ignore_lease: true };
    show("PutRequest", put.encode_to_vec());
    let delete = pb::DeleteRangeRequest { key: key.clone(), range_end: end.clone(), prev_kv: true };
    show("DeleteRangeRequest", delete.encode_to_vec());
    for (target, union) in [
        (0, TargetUnion::Version(4)),
        (1, TargetUnion::CreateRevision(5)),
        (2, TargetUnion::ModRevision(6)),
        (3, TargetUnion::Value(value)),
        (4, TargetUnion::Lease(8)),
    ] {
        let compare = pb::Compare { result: 3, target, key: key.clone(), range_end: end.clone(), target_union: Some(union) };
        show("Compare", compare.encode_to_vec());
    }
    let op = |request| pb::RequestOp { request: Some(request) };
    let inner = pb::TxnRequest { success: vec![op(Request::RequestPut(put))], ..Default::default() };
    let failure =
        vec![op(Request::RequestRange(pb::RangeRequest { key: key.clone(), ..Default::default() })), op(Request::RequestTxn(inner))];
    let txn = pb::TxnRequest { compare: vec![pb::Compare::default()], success: vec![op(Request::RequestDeleteRange(delete))], failure };
    show("TxnRequest", txn.encode_to_vec());
    show("CompactionRequest", pb::CompactionRequest { revision: 1, physical: true }.encode_to_vec());
    let create = pb::WatchCreateRequest {
        key,
        range_end: end,
        start_revision: 3,
        progress_notify: true,
        filters: vec![0, 1],
        prev_kv: true,
        watch_id: 7,
        fragment: true,
    };
    for union in [
        RequestUnion::CreateRequest(create),
        RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 1 }),
        RequestUnion::ProgressRequest(pb::WatchProgressRequest {}),
    ] {
        show("WatchRequest", pb::WatchRequest { request_union: Some(union) }.encode_to_vec());
    }
    let member = pb::Member { id: 1, name: "n".into(), peer_ur_ls: vec!["p".into()], client_ur_ls: vec!["c".into()], is_learner: true };
    show("MemberListResponse", pb::MemberListResponse { header: None, members: vec![member] }.encode_to_vec());
    let status = pb::StatusResponse {
        header: None,
        version: "3".into(),
        db_size: 3,
        leader: 4,
        raft_index: 5,
        raft_term: 6,
        raft_applied_index: 7,
        errors: vec!["e".into()],
        db_size_in_use: 9,
        is_learner: true,
        storage_version: "s".into(),
        db_size_quota: 12,
        downgrade_info: Some(pb::DowngradeInfo { enabled: true, target_version: "t".into() }),
    };
    show("StatusResponse", status.encode_to_vec());
    show("AlarmRequest", pb::AlarmRequest { action: 2, member_id: 2, alarm: 1 }.encode_to_vec());
    let alarms = vec![pb::AlarmMember { member_id: 1, alarm: 2 }];
    show("AlarmResponse", pb::AlarmResponse { header: None, alarms }.encode_to_vec());
    let hash = pb::HashKvResponse { header: None, hash: 2, compact_revision: -1, hash_revision: 4 };
    show("HashKVResponse", hash.encode_to_vec());
    show("MoveLeaderRequest", pb::MoveLeaderRequest { target_id: 1 }.encode_to_vec());
    insta::assert_snapshot!(lines);
}
