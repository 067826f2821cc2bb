//! Leases over gRPC and over JSON.

use crate::local::Local;
use futures::{StreamExt as _, stream};
use prometheus_client::registry::Registry;
use quorate_web::{
    Options, Surface, grpc_routes,
    proto::etcdserverpb::{self as pb, kv_client::KvClient, lease_client::LeaseClient},
};
use tonic::{Code, Status, service::Routes};

fn routes(local: &Local, options: Options) -> Routes {
    grpc_routes(local.clone(), &Surface::new(options, Registry::default()))
}

fn client(local: &Local) -> LeaseClient<Routes> {
    LeaseClient::new(routes(local, Options::default()))
}

async fn grant(local: &Local, id: i64, ttl: i64) -> Result<(i64, i64), Status> {
    let answer = client(local).lease_grant(pb::LeaseGrantRequest { id, ttl }).await?.into_inner();
    Ok((answer.id, answer.ttl))
}

async fn time_to_live(local: &Local, id: i64, keys: bool) -> pb::LeaseTimeToLiveResponse {
    client(local).lease_time_to_live(pb::LeaseTimeToLiveRequest { id, keys }).await.expect("answered").into_inner()
}

async fn put(local: &Local, key: &str, lease: i64) -> Result<(), Status> {
    let request = pb::PutRequest { key: key.to_owned().into(), lease, ..Default::default() };
    KvClient::new(routes(local, Options::default())).put(request).await.map(drop)
}

fn told(result: Result<impl std::fmt::Debug, Status>) -> (Code, String) {
    let status = result.expect_err("refused");
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn a_ttl_is_raised_to_the_least_there_is_and_an_id_chosen_for_who_wants_any() {
    let local = Local::new();
    let mut one = client(&local);
    for ttl in [i64::MIN, -1, 0, 1, 2] {
        let answer = one.lease_grant(pb::LeaseGrantRequest { id: 0, ttl }).await.expect("granted").into_inner();
        assert!(answer.id > 0);
        assert_eq!(answer.ttl, 2, "{ttl}");
    }
    assert_eq!(grant(&local, -7, 9_000_000_000).await.expect("granted"), (-7, 9_000_000_000));
    let leases = client(&local).lease_leases(pb::LeaseLeasesRequest {}).await.expect("listed").into_inner().leases;
    assert_eq!(leases.len(), 6);
    assert!(leases.is_sorted_by_key(|lease| lease.id));
}

#[tokio::test]
async fn what_is_refused_is_told_as_etcd_tells_it() {
    let local = Local::new();
    let too_large = (Code::OutOfRange, "etcdserver: too large lease TTL".to_owned());
    assert_eq!(told(grant(&local, 1, 9_000_000_001).await), too_large);
    assert_eq!(told(grant(&local, 1, i64::MAX).await), too_large);
    grant(&local, 1, 5).await.expect("granted");
    assert_eq!(told(grant(&local, 1, 5).await), (Code::FailedPrecondition, "etcdserver: lease already exists".to_owned()));
    let not_found = (Code::NotFound, "etcdserver: requested lease not found".to_owned());
    assert_eq!(told(client(&local).lease_revoke(pb::LeaseRevokeRequest { id: 2 }).await), not_found);
    assert_eq!(told(client(&local).lease_revoke(pb::LeaseRevokeRequest { id: 0 }).await), not_found);
    assert_eq!(told(put(&local, "k", 2).await), not_found);
}

#[tokio::test]
async fn a_lease_tells_its_time_and_its_keys_and_takes_them_along() {
    let local = Local::new();
    grant(&local, 5, 60).await.expect("granted");
    for key in ["b", "a"] {
        put(&local, key, 5).await.expect("put");
    }
    let time = time_to_live(&local, 5, true).await;
    assert_eq!((time.id, time.granted_ttl, time.header.expect("set").revision), (5, 60, 3));
    assert!((59..=60).contains(&time.ttl), "{}", time.ttl);
    assert_eq!(time.keys, ["a", "b"]);
    assert!(time_to_live(&local, 5, false).await.keys.is_empty());
    let revoked = client(&local).lease_revoke(pb::LeaseRevokeRequest { id: 5 }).await.expect("revoked").into_inner();
    assert_eq!(revoked.header.expect("set").revision, 4);
    let gone = time_to_live(&local, 5, true).await;
    assert_eq!((gone.id, gone.ttl, gone.granted_ttl, gone.keys.len()), (5, -1, 0, 0));
}

#[tokio::test]
async fn keepalives_of_a_stream_are_answered_in_their_order_and_an_unknown_lease_ends_nothing() {
    let local = Local::new();
    grant(&local, 5, 60).await.expect("granted");
    let ids: Vec<i64> = (0..300).map(|place| if place % 3 == 0 { 5 } else { place }).collect();
    let requests = stream::iter(ids.clone().into_iter().map(|id| pb::LeaseKeepAliveRequest { id }));
    let answers = client(&local).lease_keep_alive(requests).await.expect("a stream").into_inner();
    let answers: Vec<_> = answers.map(|answer| answer.expect("answered")).map(|answer| (answer.id, answer.ttl)).collect().await;
    let expected: Vec<_> = ids.into_iter().map(|id| (id, if id == 5 { 60 } else { 0 })).collect();
    assert_eq!(answers, expected);
}

#[tokio::test]
async fn a_stream_of_keepalives_is_told_that_its_member_stops() {
    let local = Local::new();
    let surface = Surface::new(Options::default(), Registry::default());
    let mut client = LeaseClient::new(grpc_routes(local, &surface));
    let mut answers = client.lease_keep_alive(stream::pending()).await.expect("a stream").into_inner();
    surface.stop();
    let status = answers.message().await.expect_err("ended");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: server stopped"));
}

#[tokio::test]
async fn without_a_leader_a_keepalive_gets_an_error_and_not_a_wait_for_ever() {
    let local = Local::without_leader();
    let requests = stream::iter([pb::LeaseKeepAliveRequest { id: 5 }]);
    let mut answers = client(&local).lease_keep_alive(requests).await.expect("a stream").into_inner();
    let status = answers.message().await.expect_err("no leader");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "etcdserver: request timed out"));
}

#[tokio::test]
async fn a_learner_serves_no_leases() {
    let local = Local::learner();
    let error = (Code::FailedPrecondition, "etcdserver: rpc not supported for learner".to_owned());
    assert_eq!(told(grant(&local, 5, 60).await), error);
    assert_eq!(told(client(&local).lease_leases(pb::LeaseLeasesRequest {}).await), error);
}
