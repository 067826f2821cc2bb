//! Calls as generated clients make them, through everything but sockets; and some through a socket.

use crate::local::{CLUSTER, Local, MEMBER};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use prometheus_client::registry::Registry;
use quorate_web::{
    Connection, Options, Surface, grpc_routes,
    proto::{
        etcdserverpb::{
            self as pb, cluster_client::ClusterClient, compare::TargetUnion, kv_client::KvClient, maintenance_client::MaintenanceClient,
            request_op::Request as Op, response_op::Response as OpAnswer, watch_client::WatchClient, watch_request::RequestUnion,
        },
        health::{HealthCheckRequest, health_client::HealthClient},
    },
};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming, service::Routes};

fn routes(local: &Local) -> Routes {
    let options = Options { election_timeout: Duration::from_millis(10), ..Options::default() };
    grpc_routes(local.clone(), &Surface::new(options, Registry::default()))
}

fn kv(local: &Local) -> KvClient<Routes> {
    KvClient::new(routes(local)).max_decoding_message_size(usize::MAX)
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn prefix_range() -> pb::RangeRequest {
    pb::RangeRequest { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0"), ..Default::default() }
}

fn op(op: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(op) }
}

#[tokio::test]
async fn a_put_is_read_back_under_a_whole_header() {
    let mut kv = kv(&Local::new());
    let answer = kv.put(put("k", "v")).await.expect("put").into_inner();
    let header = pb::ResponseHeader { cluster_id: CLUSTER.0, member_id: MEMBER.0, revision: 2, raft_term: 2 };
    assert_eq!(answer, pb::PutResponse { header: Some(header), prev_kv: None });

    let answer = kv.put(pb::PutRequest { prev_kv: true, ..put("k", "w") }).await.expect("put").into_inner();
    let previous = answer.prev_kv.expect("there was one");
    assert_eq!((previous.value.as_ref(), previous.mod_revision, previous.version), (b"v".as_slice(), 2, 1));

    let answer = kv.range(pb::RangeRequest { key: "k".into(), ..Default::default() }).await.expect("range").into_inner();
    assert_eq!((answer.count, answer.more, answer.header.expect("set").revision), (1, false, 3));
    assert_eq!((answer.kvs[0].value.as_ref(), answer.kvs[0].create_revision, answer.kvs[0].version), (b"w".as_slice(), 2, 2));
}

#[tokio::test]
async fn a_txn_answers_each_op_with_a_header_of_the_revision_alone() {
    let mut kv = kv(&Local::new());
    kv.put(put("k", "v")).await.expect("put");
    let compare =
        pb::Compare { result: 0, target: 2, key: "k".into(), target_union: Some(TargetUnion::ModRevision(2)), ..Default::default() };
    let success = vec![op(Op::RequestPut(put("k", "w"))), op(Op::RequestRange(prefix_range()))];
    let answer = kv.txn(pb::TxnRequest { compare: vec![compare], success, failure: vec![] }).await.expect("txn").into_inner();
    assert!(answer.succeeded);
    assert_eq!(answer.header.expect("set").revision, 3);
    let Some(OpAnswer::ResponseRange(range)) = &answer.responses[1].response else { panic!("{answer:?}") };
    assert_eq!(range.header, Some(pb::ResponseHeader { revision: 3, ..Default::default() }));
    assert_eq!(range.kvs[0].value.as_ref(), b"w");
}

#[tokio::test]
async fn a_txn_of_no_ops_asks_no_quorum_and_one_with_a_range_does() {
    let mut kv = kv(&Local::without_leader());
    let answer = kv.txn(pb::TxnRequest::default()).await.expect("served").into_inner();
    assert!(answer.succeeded);
    let txn = |serializable| pb::TxnRequest {
        success: vec![op(Op::RequestRange(pb::RangeRequest { serializable, ..prefix_range() }))],
        ..Default::default()
    };
    kv.txn(txn(true)).await.expect("served locally");
    assert_eq!(kv.txn(txn(false)).await.expect_err("refused").message(), "etcdserver: request timed out");
}

async fn txn_error(txn: pb::TxnRequest) -> String {
    kv(&Local::new()).txn(txn).await.expect_err("refused").message().to_owned()
}

#[tokio::test]
async fn a_txn_is_refused_for_what_etcd_would_meet_first() {
    let empty = || pb::RequestOp { request: None };
    let unsorted = || op(Op::RequestRange(pb::RangeRequest { sort_order: 9, ..prefix_range() }));
    let good = || op(Op::RequestPut(put("k", "v")));
    let keyless = || op(Op::RequestPut(put("", "v")));
    let of = |success: Vec<pb::RequestOp>| pb::TxnRequest { success, ..Default::default() };
    assert_eq!(txn_error(of(vec![empty(), keyless()])).await, "etcdserver: key not found");
    assert_eq!(txn_error(of(vec![keyless(), empty()])).await, "etcdserver: key is not provided");
    assert_eq!(txn_error(of(vec![unsorted(), keyless()])).await, "etcdserver: invalid sort option");
    assert_eq!(txn_error(of(vec![good(), good()])).await, "etcdserver: duplicate key given in txn request");
    assert_eq!(txn_error(of(vec![good(), good(), empty()])).await, "etcdserver: key not found");
    assert_eq!(txn_error(of((0..129).map(|_| empty()).collect())).await, "etcdserver: too many operations in txn request");
    let nested = op(Op::RequestTxn(of(vec![keyless()])));
    assert_eq!(txn_error(of(vec![nested, empty()])).await, "etcdserver: key is not provided");
    let compare = pb::Compare { result: 7, key: "k".into(), ..Default::default() };
    assert_eq!(
        txn_error(pb::TxnRequest { compare: vec![compare], ..Default::default() }).await,
        "etcdserver: unknown result or target in compare"
    );
}

#[tokio::test]
async fn a_range_tells_compacted_and_future_revisions_apart() {
    let mut kv = kv(&Local::new());
    for value in ["1", "2", "3"] {
        kv.put(put("k", value)).await.expect("put");
    }
    let answer = kv.compact(pb::CompactionRequest { revision: 3, physical: true }).await.expect("compacted").into_inner();
    assert_eq!(answer.header.expect("set").revision, 4);
    let mut at =
        async |revision| kv.range(pb::RangeRequest { revision, ..prefix_range() }).await.map(|a| a.into_inner().kvs[0].value.clone());
    assert_eq!(at(3).await.expect("readable").as_ref(), b"2");
    let error = at(2).await.expect_err("gone");
    assert_eq!((error.code(), error.message()), (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"));
    let error = at(5).await.expect_err("not yet");
    assert_eq!((error.code(), error.message()), (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"));
}

/// Keys that make several chunks, each too large for the server to encode the next one ahead.
async fn fill(local: &Local, count: usize) {
    let mut kv = kv(local);
    for key in 0..count {
        kv.put(put(&format!("key-{key:04}"), &"value".repeat(1_000))).await.expect("put");
    }
}

async fn collect(local: &Local, request: pb::RangeRequest) -> Vec<pb::RangeResponse> {
    let chunks = kv(local).range_stream(request).await.expect("served").into_inner();
    chunks.map(|chunk| chunk.expect("chunk").range_response.expect("set")).collect().await
}

#[tokio::test]
async fn the_chunks_of_a_range_stream_add_up_to_the_range() {
    let local = Local::new();
    fill(&local, 100).await;
    for limit in [0, 1, 10, 37, 99, 100, 101] {
        let request = pb::RangeRequest { limit, ..prefix_range() };
        let whole = kv(&local).range(request.clone()).await.expect("range").into_inner();
        let chunks = collect(&local, request).await;
        let (last, before) = chunks.split_last().expect("at least one");
        assert!(before.iter().all(|chunk| chunk.header.is_none() && !chunk.more && chunk.count == 0), "limit {limit}");
        let kvs: Vec<_> = chunks.iter().flat_map(|chunk| chunk.kvs.clone()).collect();
        assert_eq!(pb::RangeResponse { kvs, ..last.clone() }, whole, "limit {limit}");
    }
    assert!(collect(&local, prefix_range()).await.len() > 2, "was to make several chunks");
    let counted = collect(&local, pb::RangeRequest { count_only: true, ..prefix_range() }).await;
    assert_eq!((counted.len(), counted[0].count, counted[0].kvs.len()), (1, 100, 0));
    let nothing = collect(&local, pb::RangeRequest { key: "none".into(), ..Default::default() }).await;
    assert_eq!((nothing.len(), nothing[0].count), (1, 0));
    assert!(nothing[0].header.is_some());
}

#[tokio::test]
async fn a_range_stream_keeps_its_revision_and_ends_when_that_is_compacted() {
    let local = Local::new();
    fill(&local, 100).await;
    let mut chunks = kv(&local).range_stream(prefix_range()).await.expect("served").into_inner();
    chunks.next().await.expect("a chunk").expect("served");
    kv(&local).put(put("key-9999", "late")).await.expect("put");
    kv(&local).compact(pb::CompactionRequest { revision: 102, physical: false }).await.expect("compacted");
    let rest: Vec<_> = chunks.collect().await;
    let error = rest.last().expect("an end").as_ref().expect_err("compacted");
    assert_eq!((error.code(), error.message()), (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"));

    let mut chunks = kv(&local).range_stream(prefix_range()).await.expect("served").into_inner();
    let mut keys = chunks.next().await.expect("a chunk").expect("served").range_response.expect("set").kvs.len();
    kv(&local).put(put("key-99999", "later")).await.expect("put");
    while let Some(chunk) = chunks.next().await {
        keys += chunk.expect("served").range_response.expect("set").kvs.len();
    }
    assert_eq!(keys, 101, "the write made meanwhile is not seen");
}

#[tokio::test]
async fn a_range_stream_neither_sorts_nor_filters_and_serves_what_needs_no_sorting() {
    let local = Local::new();
    fill(&local, 3).await;
    let whole = kv(&local).range(prefix_range()).await.expect("range").into_inner();
    let unsorted = (0..5).map(|target| (0, target));
    for (sort_order, sort_target) in unsorted.chain([(1, 0)]) {
        let chunks = collect(&local, pb::RangeRequest { sort_order, sort_target, ..prefix_range() }).await;
        assert_eq!(chunks, std::slice::from_ref(&whole), "order {sort_order}, target {sort_target}");
    }
    for (sort_order, sort_target) in [(2, 0), (1, 3), (2, 3)] {
        let request = pb::RangeRequest { sort_order, sort_target, ..prefix_range() };
        let error = kv(&local).range_stream(request).await.expect_err("refused");
        assert_eq!((error.code(), error.message()), (Code::Unimplemented, "RangeStream does not support custom sort orders"));
    }
    let error = kv(&local).range_stream(pb::RangeRequest { min_mod_revision: 3, ..prefix_range() }).await.expect_err("refused");
    assert_eq!((error.code(), error.message()), (Code::Unimplemented, "RangeStream does not support revision filters"));
}

#[tokio::test]
async fn a_request_above_its_limit_and_one_above_the_receive_limit_are_told_apart() {
    let mut kv = kv(&Local::new()).max_encoding_message_size(usize::MAX);
    let of = |bytes: usize| pb::PutRequest { key: "k".into(), value: vec![b'x'; bytes].into(), ..Default::default() };
    // The member's id makes this the largest value there is, see `raft_request_bytes`.
    kv.put(of(1_572_840)).await.expect("fits");
    let error = kv.put(of(1_572_841)).await.expect_err("refused");
    assert_eq!((error.code(), error.message()), (Code::InvalidArgument, "etcdserver: request is too large"));
    let error = kv.put(of(2_200_000)).await.expect_err("refused");
    assert_eq!((error.code(), error.message()), (Code::ResourceExhausted, "grpc: received message larger than max (2200008 vs. 2097152)"));
}

#[tokio::test]
async fn without_a_leader_a_call_that_requires_one_fails_at_once() {
    let local = Local::without_leader();
    let mut request = Request::new(pb::RangeRequest { serializable: true, ..prefix_range() });
    kv(&local).range(pb::RangeRequest { serializable: true, ..prefix_range() }).await.expect("no leader needed");
    request.metadata_mut().insert("hasleader", "true".parse().expect("ascii"));
    let error = kv(&local).range(request).await.expect_err("refused");
    assert_eq!((error.code(), error.message()), (Code::Unavailable, "etcdserver: no leader"));
}

#[tokio::test]
async fn a_learner_serves_its_status_and_serializable_ranges_alone() {
    let local = Local::learner();
    kv(&local).range(pb::RangeRequest { serializable: true, ..prefix_range() }).await.expect("served");
    let status = MaintenanceClient::new(routes(&local)).status(pb::StatusRequest {}).await.expect("served").into_inner();
    assert!(status.is_learner);
    for error in [
        kv(&local).range(prefix_range()).await.expect_err("refused"),
        kv(&local).put(put("", "v")).await.expect_err("refused"),
        kv(&local).txn(pb::TxnRequest::default()).await.expect_err("refused"),
    ] {
        assert_eq!((error.code(), error.message()), (Code::FailedPrecondition, "etcdserver: rpc not supported for learner"));
    }
}

#[tokio::test]
async fn what_is_not_served_says_so() {
    let local = Local::new();
    let error = pb::auth_client::AuthClient::new(routes(&local)).auth_enable(pb::AuthEnableRequest {}).await.expect_err("refused");
    assert_eq!((error.code(), error.message()), (Code::Unimplemented, "etcdserverpb.Auth/AuthEnable is not served by this release"));
    let authenticate = pb::AuthenticateRequest { name: "root".into(), password: "p".into() };
    let error = pb::auth_client::AuthClient::new(routes(&local)).authenticate(authenticate).await.expect_err("refused");
    assert_eq!((error.code(), error.message()), (Code::FailedPrecondition, "etcdserver: authentication is not enabled"));
    let error = ClusterClient::new(routes(&local)).member_add(pb::MemberAddRequest::default()).await.expect_err("refused");
    assert_eq!((error.code(), error.message()), (Code::Unimplemented, "MemberAdd is not served by this release"));
}

#[tokio::test]
async fn members_have_no_revision_in_their_header() {
    let mut cluster = ClusterClient::new(routes(&Local::new()));
    let answer = cluster.member_list(pb::MemberListRequest { linearizable: true }).await.expect("list").into_inner();
    assert_eq!(answer.header, Some(pb::ResponseHeader { cluster_id: CLUSTER.0, member_id: MEMBER.0, revision: 0, raft_term: 2 }));
    assert_eq!(answer.members.iter().map(|member| member.id).collect::<Vec<_>>(), [MEMBER.0]);
    assert_eq!(answer.members[0].peer_ur_ls, ["http://127.0.0.1:2380"]);
}

#[tokio::test]
async fn alarms_are_raised_listed_by_kind_and_lowered() {
    let local = Local::new();
    let mut maintenance = MaintenanceClient::new(routes(&local));
    let mut alarm = async |action, member_id, alarm| {
        maintenance.alarm(pb::AlarmRequest { action, member_id, alarm }).await.expect("served").into_inner().alarms
    };
    let raised = pb::AlarmMember { member_id: 7, alarm: 1 };
    assert_eq!(alarm(1, 7, 1).await, [raised]);
    assert_eq!(alarm(1, 7, 0).await, [], "no kind, no change");
    assert_eq!(alarm(0, 99, 0).await, [raised], "the member does not matter");
    assert_eq!(alarm(0, 0, 2).await, []);
    let status = MaintenanceClient::new(routes(&local)).status(pb::StatusRequest {}).await.expect("status").into_inner();
    assert_eq!(status.errors, ["memberID:7 alarm:NOSPACE"]);
    let error = kv(&local).put(put("k", "v")).await.expect_err("no space");
    assert_eq!((error.code(), error.message()), (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"));
    assert_eq!(alarm(2, 7, 1).await, [raised]);
    assert_eq!(alarm(2, 7, 1).await, []);
}

#[tokio::test]
async fn status_tells_versions_sizes_and_indexes() {
    let local = Local::new();
    fill(&local, 3).await;
    let status = MaintenanceClient::new(routes(&local)).status(pb::StatusRequest {}).await.expect("status").into_inner();
    assert_eq!(
        status,
        pb::StatusResponse {
            header: Some(pb::ResponseHeader { cluster_id: CLUSTER.0, member_id: MEMBER.0, revision: 4, raft_term: 2 }),
            version: "3.7.1".into(),
            db_size: 20_480,
            leader: MEMBER.0,
            // The entry that founded the cluster, and the one that its leader began with.
            raft_index: 5,
            raft_term: 2,
            raft_applied_index: 5,
            errors: vec![],
            db_size_in_use: 20_480,
            is_learner: false,
            storage_version: "3.7.0".into(),
            db_size_quota: 2 << 30,
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }
    );
    let local = Local::without_leader();
    let status = MaintenanceClient::new(routes(&local)).status(pb::StatusRequest {}).await.expect("status").into_inner();
    assert_eq!((status.leader, status.errors), (0, vec!["etcdserver: no leader".into()]));
}

#[tokio::test]
async fn leadership_moves_and_defragmenting_has_nothing_to_do() {
    let local = Local::new();
    let mut maintenance = MaintenanceClient::new(routes(&local));
    let answer = maintenance.move_leader(pb::MoveLeaderRequest { target_id: MEMBER.0 }).await.expect("moved").into_inner();
    assert_eq!(answer.header, None);
    let error = maintenance.move_leader(pb::MoveLeaderRequest { target_id: 1 }).await.expect_err("refused");
    assert_eq!((error.code(), error.message()), (Code::FailedPrecondition, "etcdserver: bad leader transferee"));
    assert_eq!(maintenance.defragment(pb::DefragmentRequest {}).await.expect("done").into_inner().header, None);
}

#[tokio::test]
async fn a_hash_speaks_of_its_revision() {
    let local = Local::new();
    fill(&local, 3).await;
    let mut maintenance = MaintenanceClient::new(routes(&local));
    let newest = maintenance.hash_kv(pb::HashKvRequest { revision: 0 }).await.expect("hash").into_inner();
    assert_eq!((newest.hash_revision, newest.compact_revision, newest.header.expect("set").revision), (4, -1, 4));
    let earlier = maintenance.hash_kv(pb::HashKvRequest { revision: 3 }).await.expect("hash").into_inner();
    assert_ne!(earlier.hash, newest.hash);
    assert_eq!(maintenance.hash_kv(pb::HashKvRequest { revision: 5 }).await.expect_err("future").code(), Code::OutOfRange);
}

#[tokio::test]
async fn health_knows_the_member_and_nothing_else() {
    let mut health = HealthClient::new(routes(&Local::new()));
    assert_eq!(health.check(HealthCheckRequest::default()).await.expect("serves").into_inner().status, 1);
    let unknown = HealthCheckRequest { service: "x".into() };
    assert_eq!(health.check(unknown.clone()).await.expect_err("unknown").code(), Code::NotFound);
    let mut states = health.watch(unknown).await.expect("stream").into_inner();
    assert_eq!(states.next().await.expect("one").expect("told").status, 3);
}

/// A watch stream seen from its client.
struct Watching {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

impl Watching {
    async fn open(local: &Local, has_leader: bool) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(receiver));
        if has_leader {
            request.metadata_mut().insert("hasleader", "true".parse().expect("ascii"));
        }
        let answers = WatchClient::new(routes(local)).watch(request).await.expect("opened").into_inner();
        Self { requests, answers }
    }

    async fn ask(&self, union: RequestUnion) {
        self.requests.send(pb::WatchRequest { request_union: Some(union) }).await.expect("the stream is open");
    }

    async fn create(&mut self, request: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(RequestUnion::CreateRequest(request)).await;
        self.answer().await
    }

    async fn answer(&mut self) -> pb::WatchResponse {
        self.answers.next().await.expect("open").expect("served")
    }
}

fn whole() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { range_end: Bytes::from_static(b"\0"), ..Default::default() }
}

#[tokio::test]
async fn a_watch_tells_of_changes_with_what_was_before() {
    let local = Local::new();
    let mut watching = Watching::open(&local, true).await;
    let created = watching.create(pb::WatchCreateRequest { prev_kv: true, ..whole() }).await;
    assert_eq!((created.watch_id, created.created, created.header.expect("set").revision), (0, true, 1));
    kv(&local).put(put("k", "v")).await.expect("put");
    kv(&local).delete_range(pb::DeleteRangeRequest { key: "k".into(), ..Default::default() }).await.expect("deleted");
    let first = watching.answer().await;
    assert_eq!((first.header.expect("set").revision, first.events[0].r#type, first.events[0].prev_kv.is_none()), (2, 0, true));
    let second = watching.answer().await;
    let event = &second.events[0];
    let (now, before) = (event.kv.as_ref().expect("set"), event.prev_kv.as_ref().expect("set"));
    assert_eq!((event.r#type, now.mod_revision, now.create_revision), (1, 3, 0));
    assert_eq!(before.value.as_ref(), b"v");
    watching.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let progress = watching.answer().await;
    assert_eq!((progress.watch_id, progress.header.expect("set").revision, progress.events.len()), (-1, 3, 0));
    assert!(local.drained() > 0, "responses that left are reported");
    watching.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 })).await;
    let canceled = watching.answer().await;
    assert_eq!((canceled.canceled, canceled.cancel_reason.as_str(), canceled.compact_revision), (true, "", 0));
}

#[tokio::test]
async fn history_comes_under_the_revision_of_the_store() {
    let local = Local::new();
    kv(&local).put(put("k", "1")).await.expect("put");
    kv(&local).put(put("k", "2")).await.expect("put");
    kv(&local).put(put("other", "3")).await.expect("put");
    let mut watching = Watching::open(&local, false).await;
    watching.create(pb::WatchCreateRequest { key: "k".into(), start_revision: 1, ..Default::default() }).await;
    let caught_up = watching.answer().await;
    assert_eq!((caught_up.header.expect("set").revision, caught_up.events.len()), (4, 2));
    kv(&local).put(put("k", "4")).await.expect("put");
    let live = watching.answer().await;
    assert_eq!((live.header.expect("set").revision, live.events.len()), (5, 1));
}

#[tokio::test]
async fn a_watch_is_told_that_its_member_stops() {
    let local = Local::new();
    let surface = Surface::new(Options::default(), Registry::default());
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(whole())) };
    let mut client = WatchClient::new(grpc_routes(local.clone(), &surface));
    let mut answers = client.watch(stream::iter([request])).await.expect("opened").into_inner();
    assert!(answers.next().await.expect("open").expect("served").created);
    surface.stop();
    let error = answers.next().await.expect("an end").expect_err("stopped");
    assert_eq!((error.code(), error.message()), (Code::Unavailable, "etcdserver: server stopped"));
}

#[tokio::test]
async fn metadata_above_its_limit_is_refused_with_a_status() {
    let local = Local::new();
    let mut request = Request::new(prefix_range());
    request.metadata_mut().insert("x-large", "h".repeat(quorate_web::METADATA_BYTES).parse().expect("ascii"));
    let error = kv(&local).range(request).await.expect_err("refused");
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().starts_with("the request's metadata is too large ("), "{error:?}");
}

/// What is left of a body whose end does not come.
struct Unfinished(Vec<Bytes>);

impl http_body::Body for Unfinished {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        self.0.pop().map_or(std::task::Poll::Pending, |bytes| std::task::Poll::Ready(Some(Ok(http_body::Frame::data(bytes)))))
    }
}

/// A body that says how long its message is, and then gives no more of it than that.
fn unfinished(message_bytes: u32, given: usize) -> tonic::body::Body {
    let prefix = [&[0][..], &message_bytes.to_be_bytes()].concat();
    tonic::body::Body::new(Unfinished(vec![vec![0; given].into(), prefix.into()]))
}

async fn put_unfinished(routes: &mut Routes, body: tonic::body::Body) -> tonic::Status {
    let request = http::Request::post("/etcdserverpb.KV/Put").header("content-type", "application/grpc").body(body).expect("a request");
    refused(routes, request).await
}

async fn refused(routes: &Routes, request: http::Request<tonic::body::Body>) -> tonic::Status {
    let answer = tower::ServiceExt::oneshot(routes.clone(), request).await.expect("answered");
    tonic::Status::from_header_map(answer.headers()).expect("refused")
}

#[tokio::test]
async fn requests_that_came_in_part_are_bounded_in_bytes_and_a_whole_one_is_served_meanwhile() {
    let local = Local::new();
    let options = Options { received_bytes: 4 << 20, receive_timeout: Duration::from_secs(3_600), ..Options::default() };
    let mut routes = grpc_routes(local.clone(), &Surface::new(options, Registry::default()));
    let held: Vec<_> = (0..4)
        .map(|_| {
            let mut routes = routes.clone();
            let mut held = Box::pin(async move { put_unfinished(&mut routes, unfinished(1 << 20, 100)).await });
            let polled = futures::FutureExt::now_or_never(&mut held);
            assert!(polled.is_none(), "{polled:?}");
            held
        })
        .collect();
    let refused = futures::FutureExt::now_or_never(put_unfinished(&mut routes, unfinished(1 << 20, 100))).expect("at once");
    assert_eq!(refused.message(), "etcdserver: too many requests");
    KvClient::new(routes.clone()).put(put("k", "v")).await.expect("what came whole needs no room");
    drop(held);
    let mut routes_again = routes.clone();
    let mut fits = Box::pin(put_unfinished(&mut routes_again, unfinished(1 << 20, 100)));
    assert!(futures::FutureExt::now_or_never(&mut fits).is_none(), "there is room again");
}

#[tokio::test]
async fn a_connection_has_a_quarter_of_what_may_come_in_part_and_the_others_have_the_rest() {
    let options = Options { received_bytes: 4 << 20, receive_timeout: Duration::from_secs(3_600), ..Options::default() };
    let surface = Surface::new(options, Registry::default());
    let routes = grpc_routes(Local::new(), &surface);
    let [one, other] = [(); 2].map(|()| Connection::new(&surface));
    let put = |connection: &Connection| {
        let request = http::Request::post("/etcdserverpb.KV/Put").header("content-type", "application/grpc").extension(connection.clone());
        Box::pin(refused(&routes, request.body(unfinished(1 << 20, 100)).expect("a request")))
    };
    let mut held = put(&one);
    assert!(futures::FutureExt::now_or_never(&mut held).is_none());
    let refused = futures::FutureExt::now_or_never(put(&one)).expect("at once");
    assert_eq!(refused.message(), "etcdserver: too many requests");
    assert!(futures::FutureExt::now_or_never(put(&other)).is_none(), "there is room for another connection");
}

#[tokio::test]
async fn a_request_that_makes_no_progress_is_ended() {
    let options = Options { receive_timeout: Duration::from_millis(10), ..Options::default() };
    let mut routes = grpc_routes(Local::new(), &Surface::new(options, Registry::default()));
    for given in [0, 100, (1 << 20) - 1] {
        let error = put_unfinished(&mut routes, unfinished(1 << 20, given)).await;
        assert_eq!((error.code(), error.message()), (Code::DeadlineExceeded, "the request's body made no progress for 10ms"));
    }
}

#[tokio::test]
async fn a_watch_that_cannot_be_says_why_and_its_stream_lives_on() {
    let local = Local::new();
    fill(&local, 3).await;
    kv(&local).compact(pb::CompactionRequest { revision: 3, physical: false }).await.expect("compacted");
    let mut watching = Watching::open(&local, false).await;
    let refused = watching.create(pb::WatchCreateRequest { key: "b".into(), range_end: "a".into(), ..Default::default() }).await;
    assert_eq!((refused.watch_id, refused.created, refused.canceled), (-1, true, true));
    assert_eq!(refused.cancel_reason, "mvcc: watcher range is empty");
    let refused = watching.create(pb::WatchCreateRequest { start_revision: -1, ..whole() }).await;
    assert_eq!((refused.watch_id, refused.created, refused.canceled, refused.compact_revision), (-1, true, true, 0));
    assert_eq!(refused.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
    let created = watching.create(pb::WatchCreateRequest { start_revision: 2, ..whole() }).await;
    assert_eq!((created.watch_id, created.created, created.canceled), (0, true, false));
    let compacted = watching.answer().await;
    assert_eq!((compacted.watch_id, compacted.canceled, compacted.compact_revision), (0, true, 3));
    assert_eq!((compacted.header.expect("set").revision, compacted.cancel_reason.as_str()), (0, ""));
}

#[tokio::test]
async fn a_stream_that_requires_a_leader_ends_without_one_and_another_does_not() {
    let local = Local::following();
    let mut requiring = Watching::open(&local, true).await;
    let mut content = Watching::open(&local, false).await;
    requiring.create(whole()).await;
    content.create(whole()).await;
    local.lose_leader();
    let error = requiring.answers.next().await.expect("an end").expect_err("no leader");
    assert_eq!((error.code(), error.message()), (Code::Unavailable, "etcdserver: no leader"));
    content.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    assert_eq!(content.answer().await.watch_id, -1);
}

#[tokio::test]
async fn a_client_that_asks_once_and_then_only_listens_is_served() {
    let local = Local::new();
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(whole())) };
    let mut answers = WatchClient::new(routes(&local)).watch(stream::iter([request])).await.expect("opened").into_inner();
    assert!(answers.next().await.expect("open").expect("served").created);
    kv(&local).put(put("k", "v")).await.expect("put");
    assert_eq!(answers.next().await.expect("open").expect("served").events.len(), 1);
}

#[tokio::test]
async fn large_answers_come_whole_through_a_socket_and_give_their_budget_back() {
    let local = Local::new();
    let options = Options { answer_bytes: 4 << 20, ..Options::default() };
    let surface = Surface::new(options, Registry::default());
    let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().expect("address")).expect("bound");
    let address = incoming.local_addr().expect("bound");
    let server = tonic::transport::Server::builder().add_routes(grpc_routes(local.clone(), &surface));
    let serving = tokio::spawn(server.serve_with_incoming(incoming));
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("uri").connect().await.expect("connected");
    let mut kv = KvClient::new(channel).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
    let value = vec![b'x'; 1 << 20];
    for key in ["a", "b", "c"] {
        kv.put(pb::PutRequest { key: key.into(), value: value.clone().into(), ..Default::default() }).await.expect("put");
    }
    // Each counts for more than half of the four MiB, so they can only go through one after the other.
    let ranges = (0..4).map(|_| {
        let mut kv = kv.clone();
        async move { kv.range(prefix_range()).await.expect("range").into_inner() }
    });
    for answer in futures::future::join_all(ranges).await {
        assert_eq!(answer.kvs.iter().map(|kv| kv.value.len()).collect::<Vec<_>>(), [1 << 20; 3]);
    }
    serving.abort();
}

/// A surface with little room for answers, and a member with three values of a MiB each.
async fn cramped() -> (Local, Surface) {
    let local = Local::new();
    let mut kv = kv(&local).max_encoding_message_size(usize::MAX);
    for key in ["a", "b", "c"] {
        kv.put(pb::PutRequest { key: key.into(), value: vec![b'x'; 1 << 20].into(), ..Default::default() }).await.expect("put");
    }
    (local, Surface::new(Options { answer_bytes: 8 << 20, ..Options::default() }, Registry::default()))
}

/// A request whose caller gives up soon.
fn impatient<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_millis(50));
    request
}

#[tokio::test]
async fn an_answer_that_nobody_reads_keeps_its_share_and_the_next_is_refused_in_time() {
    let (local, surface) = cramped().await;
    let client = || KvClient::new(grpc_routes(local.clone(), &surface)).max_decoding_message_size(usize::MAX);
    let mut held = client().range_stream(prefix_range()).await.expect("served").into_inner();
    held.next().await.expect("a chunk").expect("served");
    let error = client().range(impatient(prefix_range())).await.expect_err("there is no room");
    assert_eq!(error.message(), "etcdserver: too many requests");
    client().range(pb::RangeRequest { keys_only: true, ..prefix_range() }).await.expect("a small answer needs no room");
    drop(held);
    let answer = client().range(prefix_range()).await.expect("there is room again").into_inner();
    assert_eq!(answer.kvs.len(), 3);
}

#[tokio::test]
async fn a_delete_that_tells_what_was_there_waits_for_room_before_it_deletes() {
    let (local, surface) = cramped().await;
    let client = || KvClient::new(grpc_routes(local.clone(), &surface)).max_decoding_message_size(usize::MAX);
    let mut held = client().range_stream(prefix_range()).await.expect("served").into_inner();
    held.next().await.expect("a chunk").expect("served");
    let all = || pb::DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), prev_kv: true };
    let error = client().delete_range(impatient(all())).await.expect_err("there is no room");
    assert_eq!(error.message(), "etcdserver: too many requests");
    let counted = client().range(pb::RangeRequest { count_only: true, ..prefix_range() }).await.expect("served").into_inner();
    assert_eq!(counted.count, 3, "nothing was deleted");
    drop(held);
    assert_eq!(client().delete_range(all()).await.expect("served").into_inner().prev_kvs.len(), 3);
}

fn on<T>(connection: &Connection, mut request: Request<T>) -> Request<T> {
    request.extensions_mut().insert(connection.clone());
    request
}

#[tokio::test]
async fn a_connection_has_a_quarter_of_the_room_for_answers_and_the_others_have_the_rest() {
    let (local, _) = cramped().await;
    let surface = Surface::new(Options { answer_bytes: 16 << 20, ..Options::default() }, Registry::default());
    let client = || KvClient::new(grpc_routes(local.clone(), &surface)).max_decoding_message_size(usize::MAX);
    let [one, other] = [(); 2].map(|()| Connection::new(&surface));
    let mut held = client().range_stream(on(&one, Request::new(prefix_range()))).await.expect("served").into_inner();
    held.next().await.expect("a chunk").expect("served");
    let small = || impatient(pb::RangeRequest { key: "a".into(), ..Default::default() });
    let error = client().range(on(&one, small())).await.expect_err("its quarter is held");
    assert_eq!(error.message(), "etcdserver: too many requests");
    client().range(on(&other, small())).await.expect("there is room for another connection");
    drop(held);
    client().range(on(&one, small())).await.expect("there is room again");
}

#[tokio::test]
async fn an_answer_of_which_nothing_moves_ends_its_connection() {
    let (local, _) = cramped().await;
    let surface = Surface::new(Options { answer_timeout: Duration::from_millis(10), ..Options::default() }, Registry::default());
    let mut client = KvClient::new(grpc_routes(local, &surface)).max_decoding_message_size(usize::MAX);
    let connection = Connection::new(&surface);
    let mut held = client.range_stream(on(&connection, Request::new(prefix_range()))).await.expect("served").into_inner();
    held.next().await.expect("a chunk").expect("served");
    let why = std::future::poll_fn(|context| connection.poll_ended(context)).await;
    assert_eq!(why, "the client does not read an answer it asked for");
}
