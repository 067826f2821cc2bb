//! HTTP through actix's handlers, without sockets.

use crate::local::Local;
use actix_web::{
    App,
    body::MessageBody as _,
    dev::Payload,
    http::{Method, StatusCode},
    test::{self, TestRequest},
};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use prometheus_client::registry::Registry;
use quorate_web::{Cors, Options, Surface, answer_cors, configure_http};
use serde_json::{Value, json};
use std::time::Duration;

async fn send(local: &Local, request: TestRequest) -> (StatusCode, String) {
    let surface = Surface::new(Options::default(), Registry::default());
    let app = test::init_service(App::new().configure(configure_http(local.clone(), &surface))).await;
    let response = test::call_service(&app, request.to_request()).await;
    let status = response.status();
    let body = test::read_body(response).await;
    (status, String::from_utf8(body.to_vec()).expect("text"))
}

async fn post(local: &Local, path: &str, body: &str) -> (u16, Value) {
    let (status, body) = send(local, TestRequest::post().uri(path).set_payload(body.to_owned())).await;
    (status.as_u16(), serde_json::from_str(&body).unwrap_or_else(|_| panic!("not JSON: {body}")))
}

async fn get(local: &Local, path: &str) -> (u16, String) {
    let (status, body) = send(local, TestRequest::get().uri(path)).await;
    (status.as_u16(), body)
}

#[actix_web::test]
async fn json_keeps_its_names_and_leaves_out_what_is_default() {
    let local = Local::new();
    let header = |revision: &str| json!({"cluster_id": "14841639068965178418", "member_id": "10276657743932975437", "revision": revision, "raft_term": "2"});
    let answer = post(&local, "/v3/kv/put", r#"{"key": "Zm9v", "value": "YmFy"}"#).await;
    assert_eq!(answer, (200, json!({ "header": header("2") })));
    let answer = post(&local, "/v3/kv/range", r#"{"key": "Zm9v"}"#).await;
    let kv = json!({"key": "Zm9v", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YmFy"});
    assert_eq!(answer, (200, json!({ "header": header("2"), "kvs": [kv], "count": "1" })));
    let answer = post(&local, "/v3/kv/deleterange", r#"{"key": "Zm9v", "prevKv": true}"#).await;
    assert_eq!(answer, (200, json!({ "header": header("3"), "deleted": "1", "prev_kvs": [kv] })));
    let answer = post(&local, "/v3beta/kv/compaction", r#"{"revision": "3"}"#).await;
    assert_eq!(answer, (200, json!({ "header": header("3") })));
}

#[actix_web::test]
async fn json_is_read_in_all_its_forms() {
    let local = Local::new();
    for body in [
        r#"{"key": "Zm9v", "range_end": "AA==", "sort_order": "DESCEND", "limit": "3"}"#,
        r#"{"key": "Zm9v", "rangeEnd": "AA==", "sortOrder": 2, "limit": 3, "whatever": {"is": "unknown"}}"#,
        r#"{"key": "-_8", "count_only": true}"#,
    ] {
        let (status, answer) = post(&local, "/v3/kv/range", body).await;
        assert_eq!((status, answer["header"]["revision"].as_str()), (200, Some("1")), "{body}");
    }
}

#[actix_web::test]
async fn a_txn_takes_both_spellings_and_answers_by_field_name() {
    let local = Local::new();
    let body = r#"{"compare": [{"target": "CREATE", "key": "Zm9v", "createRevision": "0"}],
        "success": [{"requestPut": {"key": "Zm9v", "value": "YmFy"}}, {"request_range": {"key": "Zm9v"}}]}"#;
    let (status, answer) = post(&local, "/v3/kv/txn", body).await;
    assert_eq!((status, &answer["succeeded"]), (200, &json!(true)));
    assert_eq!(answer["responses"][0], json!({"response_put": {"header": {"revision": "2"}}}));
    assert_eq!(answer["responses"][1]["response_range"]["count"], "1");
    let (status, answer) = post(&local, "/v3/kv/txn", r#"{"success": [{"RequestPut": {"key": "Zm9v"}}]}"#).await;
    assert_eq!((status, answer), (400, json!({"code": 3, "message": "etcdserver: key not found"})));
}

#[actix_web::test]
async fn errors_have_code_and_message_and_the_status_for_them() {
    let local = Local::new();
    assert_eq!(post(&local, "/v3/kv/range", "").await, (400, json!({"code": 3, "message": "etcdserver: key is not provided"})));
    let (status, answer) = post(&local, "/v3/kv/put", r#"{"key": "not base64!"}"#).await;
    assert_eq!((status, &answer["code"]), (400, &json!(3)));
    let (status, answer) = post(&local, "/v3/kv/put", r#"{"key": "#).await;
    assert_eq!((status, &answer["code"]), (400, &json!(3)));
    assert_eq!(post(&local, "/v3/no/such", "{}").await, (404, json!({"code": 5, "message": "Not Found"})));
    let (status, body) = get(&local, "/v3/kv/range").await;
    assert_eq!((status, body.as_str()), (501, r#"{"code":12,"message":"Method Not Allowed"}"#));
    let (status, answer) = post(&local, "/v3/auth/enable", "{}").await;
    assert_eq!((status, &answer["code"]), (501, &json!(12)));
    let answer = post(&Local::without_leader(), "/v3/kv/put", r#"{"key": "Zm9v"}"#).await;
    assert_eq!(answer, (503, json!({"code": 14, "message": "etcdserver: no leader"})));
    let answer = post(&Local::crowded(), "/v3/kv/put", r#"{"key": "Zm9v"}"#).await;
    assert_eq!(answer, (500, json!({"code": 2, "message": "etcdserver: too many requests"})));
}

#[actix_web::test]
async fn leases_in_json_have_their_paths_and_older_names() {
    let local = Local::new();
    let (status, answer) = post(&local, "/v3/lease/grant", r#"{"TTL": "60", "ID": "5"}"#).await;
    assert_eq!((status, &answer["ID"], &answer["TTL"]), (200, &json!("5"), &json!("60")));
    let (status, answer) = post(&local, "/v3/lease/grant", r#"{"TTL": "60", "ID": "5"}"#).await;
    assert_eq!((status, answer), (400, json!({"code": 9, "message": "etcdserver: lease already exists"})));
    let (status, answer) = post(&local, "/v3/lease/grant", r#"{"TTL": "9000000001", "ID": "6"}"#).await;
    assert_eq!((status, answer), (400, json!({"code": 11, "message": "etcdserver: too large lease TTL"})));
    assert_eq!(post(&local, "/v3/kv/put", r#"{"key": "Zm9v", "lease": "5"}"#).await.0, 200);
    for path in ["/v3/lease/timetolive", "/v3/kv/lease/timetolive"] {
        let (status, answer) = post(&local, path, r#"{"ID": "5", "keys": true}"#).await;
        assert_eq!((status, &answer["grantedTTL"], &answer["keys"]), (200, &json!("60"), &json!(["Zm9v"])), "{path}");
    }
    for path in ["/v3/lease/leases", "/v3/kv/lease/leases"] {
        assert_eq!(post(&local, path, "{}").await.1["leases"], json!([{"ID": "5"}]), "{path}");
    }
    let (status, answer) = post(&local, "/v3/lease/keepalive", r#"{"ID": "5"}"#).await;
    assert_eq!((status, &answer["result"]["ID"], &answer["result"]["TTL"]), (200, &json!("5"), &json!("60")));
    let (status, lines) = send(&local, TestRequest::post().uri("/v3/lease/keepalive").set_payload(r#"{"ID":"5"}{"ID":"6"}"#)).await;
    assert_eq!((status.as_u16(), lines.lines().count()), (200, 2), "{lines}");
    assert_eq!(post(&local, "/v3/kv/lease/revoke", r#"{"ID": "5"}"#).await.0, 200);
    let (status, answer) = post(&local, "/v3/lease/revoke", r#"{"ID": "5"}"#).await;
    assert_eq!((status, answer), (404, json!({"code": 5, "message": "etcdserver: requested lease not found"})));
    assert_eq!(post(&local, "/v3/lease/timetolive", r#"{"ID": "5"}"#).await.1["TTL"], json!("-1"));
}

#[actix_web::test]
async fn a_body_above_the_receive_limit_is_not_read() {
    let body = format!(r#"{{"key": "Zm9v", "value": "{}"}}"#, "A".repeat(3 << 20));
    let (status, answer) = post(&Local::new(), "/v3/kv/put", &body).await;
    assert_eq!((status, &answer["code"]), (429, &json!(8)));
    assert_eq!(answer["message"], "grpc: received message larger than max (2359306 vs. 2097152)");
    let endless = format!(r#"{{"x": "{}"}}"#, "A".repeat(5 << 20));
    let (status, answer) = post(&Local::new(), "/v3/kv/put", &endless).await;
    assert_eq!((status, &answer["code"]), (429, &json!(8)));
}

/// A body that came in two parts, and of which no more comes.
fn unfinished() -> Payload {
    let came = [r#"{"key": "#, r#""Zm9v", "value": "#].map(|part| Ok(Bytes::from_static(part.as_bytes())));
    Payload::Stream { payload: stream::iter(came).chain(stream::pending()).boxed_local() }
}

#[actix_web::test]
async fn a_body_that_makes_no_progress_is_ended() {
    let options = Options { receive_timeout: Duration::from_millis(10), ..Options::default() };
    let surface = Surface::new(options, Registry::default());
    let app = test::init_service(App::new().configure(configure_http(Local::new(), &surface))).await;
    for (path, status) in [("/v3/kv/put", StatusCode::GATEWAY_TIMEOUT), ("/v3/watch", StatusCode::OK)] {
        let mut request = TestRequest::post().uri(path).to_request();
        *request.payload() = unfinished();
        let response = test::call_service(&app, request).await;
        assert_eq!(response.status(), status, "{path}");
        let answer: Value = test::read_body_json(response).await;
        let error = if path == "/v3/watch" { &answer["error"] } else { &answer };
        assert_eq!((&error["code"], &error["message"]), (&json!(4), &json!("the request's body made no progress for 10ms")), "{path}");
    }
}

#[actix_web::test]
async fn bodies_that_came_in_part_are_bounded_in_bytes_and_a_whole_one_is_served_meanwhile() {
    // Room for two, each of which takes 64 KiB to begin with.
    let options = Options { received_bytes: 128 << 10, receive_timeout: Duration::from_secs(3_600), ..Options::default() };
    let surface = Surface::new(options, Registry::default());
    let app = test::init_service(App::new().configure(configure_http(Local::new(), &surface))).await;
    let put = || TestRequest::post().uri("/v3/kv/put");
    let part = || {
        let mut request = put().to_request();
        *request.payload() = unfinished();
        Box::pin(test::call_service(&app, request))
    };
    let mut held = [part(), part()];
    assert!(held.iter_mut().all(|held| held.now_or_never().is_none()));
    let refused = part().now_or_never().expect("at once");
    assert_eq!(refused.status(), 500);
    let answer: Value = test::read_body_json(refused).await;
    assert_eq!(answer, json!({"code": 2, "message": "etcdserver: too many requests"}));
    let whole = test::call_service(&app, put().set_payload(r#"{"key": "Zm9v"}"#).to_request()).await;
    assert_eq!(whole.status(), 200, "what comes whole needs no room");
    drop(held);
    assert!(part().now_or_never().is_none(), "there is room again");
}

#[actix_web::test]
async fn maintenance_and_members_are_served() {
    let local = Local::new();
    assert_eq!(post(&local, "/v3/maintenance/defragment", "{}").await, (200, json!({})));
    let (_, answer) = post(&local, "/v3/cluster/member/list", "{}").await;
    assert_eq!(answer["members"][0], json!({"ID": "10276657743932975437", "peerURLs": ["http://127.0.0.1:2380"]}));
    let (_, answer) = post(&local, "/v3/maintenance/status", "{}").await;
    assert_eq!((&answer["version"], &answer["dbSize"], &answer["downgradeInfo"]), (&json!("3.7.1"), &json!("20480"), &json!({})));
    let (_, answer) = post(&local, "/v3/maintenance/hashkv", "{}").await;
    assert!(answer["hash"].is_number() && answer["compact_revision"] == "-1", "{answer}");
    let (_, answer) = post(&local, "/v3/maintenance/alarm", r#"{"action": "ACTIVATE", "memberID": "5", "alarm": "NOSPACE"}"#).await;
    assert_eq!(answer["alarms"], json!([{"memberID": "5", "alarm": "NOSPACE"}]));
    let (status, answer) = post(&local, "/v3/maintenance/transfer-leadership", r#"{"targetID": "5"}"#).await;
    assert_eq!((status, answer), (400, json!({"code": 9, "message": "etcdserver: bad leader transferee"})));
}

#[actix_web::test]
async fn a_watch_takes_several_requests_in_one_body_and_answers_in_lines() {
    let local = Local::new();
    post(&local, "/v3/kv/put", r#"{"key": "Zm9v", "value": "YmFy"}"#).await;
    let surface = Surface::new(Options::default(), Registry::default());
    let app = test::init_service(App::new().configure(configure_http(local.clone(), &surface))).await;
    let body = r#"{"create_request": {"key": "Zm9v", "start_revision": "2"}} {"createRequest": {"key": "YmFy"}}
        {"cancel_request": {"watch_id": "1"}}"#;
    let request = TestRequest::post().uri("/v3/watch").set_payload(body).to_request();
    let mut stream = Box::pin(test::call_service(&app, request).await.into_body());
    let mut lines = Vec::new();
    while lines.len() < 4 {
        let chunk = std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await.expect("open").expect("served");
        let text = String::from_utf8(chunk.to_vec()).expect("text");
        assert!(text.ends_with('\n'));
        lines.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["result"].clone()));
    }
    let of = |id: Option<&str>| lines.iter().filter(|line| line["watch_id"].as_str() == id).collect::<Vec<_>>();
    let (first, second) = (of(None), of(Some("1")));
    assert_eq!((first.len(), &first[0]["created"]), (2, &json!(true)));
    let kv = json!({"key": "Zm9v", "create_revision": "2", "mod_revision": "2", "version": "1", "value": "YmFy"});
    assert_eq!(first[1]["events"], json!([{ "kv": kv }]));
    assert_eq!((&second[0]["created"], &second[1]["canceled"]), (&json!(true), &json!(true)));
}

#[actix_web::test]
async fn a_watch_body_that_is_not_json_ends_the_stream_with_an_error() {
    let (status, body) = send(&Local::new(), TestRequest::post().uri("/v3/watch").set_payload("{]")).await;
    let error = &serde_json::from_str::<Value>(&body).expect("JSON")["error"];
    assert_eq!(status, 200);
    assert_eq!(
        (&error["code"], &error["grpc_code"], &error["http_code"], &error["http_status"]),
        (&json!(3), &json!(3), &json!(400), &json!("Bad Request"))
    );
}

#[actix_web::test]
async fn health_goes_by_alarms_leader_and_a_read() {
    let local = Local::new();
    assert_eq!(get(&local, "/health").await, (200, r#"{"health":"true","reason":""}"#.into()));
    let (status, _) = send(&local, TestRequest::post().uri("/health")).await;
    assert_eq!(status, 405);
    let local = Local::following();
    assert_eq!(get(&local, "/health").await, (503, r#"{"health":"false","reason":"RANGE ERROR:etcdserver: request timed out"}"#.into()));
    assert_eq!(get(&local, "/health?serializable=true").await.0, 200);
    local.lose_leader();
    assert_eq!(get(&local, "/health").await, (503, r#"{"health":"false","reason":"RAFT NO LEADER"}"#.into()));
    assert_eq!(get(&local, "/health?serializable=true").await.0, 200);
}

#[actix_web::test]
async fn an_alarm_is_unhealthy_unless_excluded_and_only_corruption_is_not_ready() {
    let local = Local::new();
    post(&local, "/v3/maintenance/alarm", r#"{"action": "ACTIVATE", "alarm": "NOSPACE"}"#).await;
    assert_eq!(get(&local, "/health").await, (503, r#"{"health":"false","reason":"ALARM NOSPACE"}"#.into()));
    assert_eq!(get(&local, "/health?exclude=NOSPACE").await.0, 200);
    assert_eq!(get(&local, "/readyz").await, (200, "ok\n".into()));
    post(&local, "/v3/maintenance/alarm", r#"{"action": "ACTIVATE", "alarm": "CORRUPT"}"#).await;
    assert_eq!(get(&local, "/health?exclude=NOSPACE").await, (503, r#"{"health":"false","reason":"ALARM CORRUPT"}"#.into()));
    assert_eq!(get(&local, "/health?exclude=NOSPACE&exclude=CORRUPT&exclude=X").await.0, 200);
    let (status, body) = get(&local, "/readyz").await;
    assert_eq!((status, body.lines().next()), (503, Some("[-]data_corruption failed: alarm activated: CORRUPT")));
    assert_eq!(get(&local, "/livez").await.0, 200);
}

#[actix_web::test]
async fn ready_lists_its_checks_when_asked_or_when_one_fails() {
    let local = Local::new();
    let lines = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
    assert_eq!(get(&local, "/readyz?verbose").await, (200, lines.into()));
    assert_eq!(get(&local, "/livez?verbose=true").await, (200, "[+]serializable_read ok\nok\n".into()));
    let local = Local::following();
    let (status, body) = get(&local, "/readyz").await;
    assert_eq!((status, body.lines().nth(2)), (503, Some("[-]linearizable_read failed: etcdserver: request timed out")));
    assert_eq!(get(&local, "/readyz?exclude=linearizable_read").await, (200, "ok\n".into()));
    assert_eq!(get(&local, "/readyz/serializable_read").await, (200, "ok\n".into()));
    assert_eq!(get(&local, "/readyz/linearizable_read").await.0, 503);
    assert_eq!(get(&local, "/livez/serializable_read").await, (200, "ok\n".into()));
    assert_eq!(get(&local, "/livez/non_learner").await.0, 404);
}

#[actix_web::test]
async fn wrong_methods_are_told_which_one_is_right() {
    let surface = Surface::new(Options::default(), Registry::default());
    let app = test::init_service(App::new().configure(configure_http(Local::new(), &surface))).await;
    for path in ["/health", "/livez", "/readyz", "/version", "/metrics"] {
        let response = test::call_service(&app, TestRequest::default().method(Method::PUT).uri(path).to_request()).await;
        assert_eq!(response.status(), 405, "{path}");
        assert_eq!(response.headers().get("allow").expect("set"), "GET", "{path}");
    }
}

#[actix_web::test]
async fn versions_metrics_and_variables_agree() {
    let local = Local::new();
    let versions = r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#;
    assert_eq!(get(&local, "/version").await, (200, versions.into()));
    post(&local, "/v3/kv/put", r#"{"key": "Zm9v"}"#).await;
    post(&local, "/v3/lease/grant", r#"{"TTL": "60"}"#).await;
    let (_, metrics) = get(&local, "/metrics").await;
    for line in [
        "# TYPE etcd_server_has_leader gauge",
        "etcd_server_has_leader 1",
        "etcd_server_id{server_id=\"8e9e05c52164694d\"} 1",
        "etcd_server_version{server_version=\"3.7.1\"} 1",
        "etcd_cluster_version{cluster_version=\"3.7\"} 1",
        "etcd_debugging_mvcc_keys_total 1",
        "etcd_debugging_mvcc_current_revision 2",
        "etcd_debugging_mvcc_compact_revision -1",
        "etcd_server_quota_backend_bytes 2147483648",
        "# TYPE etcd_server_leader_changes_seen_total counter",
        "etcd_server_leader_changes_seen_total 1",
        "etcd_debugging_lease_granted_total 1",
        "etcd_debugging_lease_revoked_total 0",
    ] {
        assert!(metrics.lines().any(|have| have == line), "no {line} in\n{metrics}");
    }
    let (_, variables) = get(&local, "/debug/vars").await;
    let variables: Value = serde_json::from_str(&variables).expect("JSON");
    assert_eq!(variables["raft.status"]["id"], "8e9e05c52164694d");
    assert_eq!(get(&local, "/nothing/here").await, (404, "404 page not found\n".into()));
}

#[actix_web::test]
async fn an_answer_in_json_keeps_its_share_until_it_has_left_and_the_next_is_refused_in_time() {
    let local = Local::new();
    let value = "A".repeat(1 << 20);
    for key in ["YQ==", "Yg==", "Yw=="] {
        let (status, _) = post(&local, "/v3/kv/put", &format!(r#"{{"key": "{key}", "value": "{value}"}}"#)).await;
        assert_eq!(status, 200);
    }
    let surface = Surface::new(Options { answer_bytes: 10 << 20, ..Options::default() }, Registry::default());
    let app = test::init_service(App::new().configure(configure_http(local.clone(), &surface))).await;
    let range = || TestRequest::post().uri("/v3/kv/range").set_payload(r#"{"key": "AA==", "range_end": "AA=="}"#);
    let held = test::call_service(&app, range().to_request()).await;
    assert_eq!(held.status(), 200);
    // The transport copies what it is given, lets go of it, and asks for no more while nobody reads.
    let mut held = Box::pin(held.into_body());
    let first = std::future::poll_fn(|context| held.as_mut().poll_next(context)).await.expect("a piece").expect("served").len();
    let refused = test::call_service(&app, range().insert_header(("grpc-timeout", "50m")).to_request()).await;
    assert_eq!(refused.status(), 500);
    let text = String::from_utf8(test::read_body(refused).await.to_vec()).expect("text");
    assert!(text.contains("etcdserver: too many requests"), "{text}");
    let rest = actix_web::body::to_bytes(held).await.expect("served");
    assert!(first < rest.len() && first + rest.len() > 3 << 20, "{first} bytes, then {}", rest.len());
    drop(rest);
    assert_eq!(test::call_service(&app, range().to_request()).await.status(), 200);
}

#[actix_web::test]
async fn a_watch_in_json_is_told_that_its_member_stops() {
    let local = Local::new();
    let surface = Surface::new(Options::default(), Registry::default());
    let app = test::init_service(App::new().configure(configure_http(local.clone(), &surface))).await;
    let request = TestRequest::post().uri("/v3/watch").set_payload(r#"{"create_request": {"key": "Zm9v"}}"#).to_request();
    let response = test::call_service(&app, request).await;
    surface.stop();
    let body = test::read_body(response).await;
    let lines: Vec<Value> = body.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let last = lines.last().expect("a line");
    assert_eq!((&last["error"]["grpc_code"], &last["error"]["message"]), (&json!(14), &json!("etcdserver: server stopped")));
}

#[actix_web::test]
async fn pages_are_told_whether_they_may_call() {
    let local = Local::new();
    let surface = Surface::new(Options::default(), Registry::default());
    let named = Cors::Only(["http://a.b".to_owned()].into());
    for (cors, origin, expected) in [
        (Cors::Any, None, Some("*")),
        (Cors::Any, Some("http://a.b"), Some("*")),
        (named.clone(), Some("http://a.b"), Some("http://a.b")),
        (named.clone(), Some("http://c.d"), None),
        (named, None, None),
    ] {
        for method in [Method::OPTIONS, Method::GET] {
            let cors = cors.clone();
            let app = App::new()
                .configure(configure_http(local.clone(), &surface))
                .wrap_fn(move |request, service| answer_cors(&cors, request, service));
            let app = test::init_service(app).await;
            let mut request = TestRequest::default().method(method.clone()).uri("/version");
            if let Some(origin) = origin {
                request = request.insert_header(("Origin", origin));
            }
            let response = test::call_service(&app, request.to_request()).await;
            assert_eq!(response.status(), StatusCode::OK);
            let told = |name: &str| response.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
            assert_eq!(told("access-control-allow-origin").as_deref(), expected);
            let methods = expected.map(|_| "POST, GET, OPTIONS, PUT, DELETE".to_owned());
            assert_eq!(told("access-control-allow-methods"), methods);
            let body = test::read_body(response).await;
            assert_eq!(body.is_empty(), method == Method::OPTIONS, "{method}");
        }
    }
}

#[actix_web::test]
async fn authenticating_is_refused_while_authentication_is_off() {
    let (status, answer) = post(&Local::new(), "/v3/auth/authenticate", r#"{"name": "root", "password": "p"}"#).await;
    assert_eq!((status, answer), (400, json!({"code": 9, "message": "etcdserver: authentication is not enabled"})));
}
