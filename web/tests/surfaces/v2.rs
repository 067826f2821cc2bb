//! The v2 keys API through actix's handlers, without sockets: what etcd 3.4 answers, byte for byte.

use crate::local::Local;
use actix_web::{
    App, Error,
    body::{BoxBody, MessageBody},
    dev::{Service, ServiceResponse},
    http::Method,
    test::{self, TestRequest},
};
use futures::{FutureExt as _, future::poll_fn};
use prometheus_client::registry::Registry;
use quorate_web::{Options, Surface, configure_http};
use std::{pin::Pin, time::Duration};

struct Client<S> {
    app: S,
    local: Local,
}

async fn client() -> Client<impl Service<actix_http::Request, Response = ServiceResponse, Error = Error>> {
    let local = Local::new();
    let surface = Surface::new(Options::default(), Registry::default());
    let app = test::init_service(App::new().configure(configure_http(local.clone(), &surface))).await;
    Client { app, local }
}

impl<S: Service<actix_http::Request, Response = ServiceResponse, Error = Error>> Client<S> {
    async fn open(&self, method: Method, path: &str, form: &str) -> ServiceResponse<BoxBody> {
        let request = TestRequest::default().method(method).uri(&format!("/v2/keys{path}"));
        let request = if form.is_empty() {
            request
        } else {
            request.insert_header(("content-type", "application/x-www-form-urlencoded")).set_payload(form.to_owned())
        };
        test::call_service(&self.app, request.to_request()).await
    }

    /// Status, index and body.
    async fn send(&self, method: Method, path: &str, form: &str) -> String {
        let response = self.open(method, path, form).await;
        let index = response.headers().get("x-etcd-index").map_or("-", |index| index.to_str().unwrap()).to_owned();
        let status = response.status().as_u16();
        let body = test::read_body(response).await;
        format!("{status} @{index} {}", String::from_utf8(body.to_vec()).unwrap().trim_end())
    }

    async fn get(&self, path: &str) -> String {
        self.send(Method::GET, path, "").await
    }

    async fn put(&self, path: &str, form: &str) -> String {
        self.send(Method::PUT, path, form).await
    }

    async fn delete(&self, path: &str) -> String {
        self.send(Method::DELETE, path, "").await
    }
}

/// The next line of a stream.
async fn line(stream: &mut BoxBody) -> String {
    let line = poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await.unwrap().unwrap();
    String::from_utf8(line.to_vec()).unwrap()
}

#[actix_web::test]
async fn a_key_is_set_read_replaced_and_deleted() {
    let client = client().await;
    assert_eq!(
        client.put("/message", "value=Hello world").await,
        r#"201 @4 {"action":"set","node":{"key":"/message","value":"Hello world","modifiedIndex":4,"createdIndex":4}}"#
    );
    assert_eq!(
        client.get("/message").await,
        r#"200 @4 {"action":"get","node":{"key":"/message","value":"Hello world","modifiedIndex":4,"createdIndex":4}}"#
    );
    assert_eq!(
        client.put("/message?value=from+the+query", "").await,
        r#"200 @5 {"action":"set","node":{"key":"/message","value":"from the query","modifiedIndex":5,"createdIndex":5},"prevNode":{"key":"/message","value":"Hello world","modifiedIndex":4,"createdIndex":4}}"#
    );
    assert_eq!(
        client.delete("/message").await,
        r#"200 @6 {"action":"delete","node":{"key":"/message","modifiedIndex":6,"createdIndex":5},"prevNode":{"key":"/message","value":"from the query","modifiedIndex":5,"createdIndex":5}}"#
    );
    assert_eq!(client.get("/message").await, r#"404 @6 {"errorCode":100,"message":"Key not found","cause":"/message","index":6}"#);
}

#[actix_web::test]
async fn a_directory_is_listed_sorted_and_without_what_is_hidden() {
    let client = client().await;
    assert_eq!(client.get("/").await, r#"200 @3 {"action":"get","node":{"dir":true}}"#);
    client.put("/d", "dir=true").await;
    client.put("/d/b/c", "value=1").await;
    client.put("/d/a", "value=%3C%26%3E").await;
    client.put("/d/_hidden", "value=3").await;
    let file = r#"{"key":"/d/a","value":"\u003c\u0026\u003e","modifiedIndex":6,"createdIndex":6}"#;
    let inner = r#"{"key":"/d/b/c","value":"1","modifiedIndex":5,"createdIndex":5}"#;
    assert_eq!(
        client.get("/d/").await,
        format!(
            r#"200 @7 {{"action":"get","node":{{"key":"/d","dir":true,"nodes":[{file},{{"key":"/d/b","dir":true,"modifiedIndex":5,"createdIndex":5}}],"modifiedIndex":4,"createdIndex":4}}}}"#
        )
    );
    assert_eq!(
        client.get("/d?recursive=true&sorted=true&quorum=true").await,
        format!(
            r#"200 @7 {{"action":"get","node":{{"key":"/d","dir":true,"nodes":[{file},{{"key":"/d/b","dir":true,"nodes":[{inner}],"modifiedIndex":5,"createdIndex":5}}],"modifiedIndex":4,"createdIndex":4}}}}"#
        )
    );
    assert_eq!(client.delete("/d").await, r#"403 @7 {"errorCode":102,"message":"Not a file","cause":"/d","index":7}"#);
    assert_eq!(client.delete("/d?dir=true").await, r#"403 @7 {"errorCode":108,"message":"Directory not empty","cause":"/d","index":7}"#);
    assert_eq!(
        client.delete("/d?recursive=true").await,
        r#"200 @8 {"action":"delete","node":{"key":"/d","dir":true,"modifiedIndex":8,"createdIndex":4},"prevNode":{"key":"/d","dir":true,"modifiedIndex":4,"createdIndex":4}}"#
    );
}

#[actix_web::test]
async fn a_write_can_depend_on_what_is_there() {
    let client = client().await;
    let exists = r#"412 @4 {"errorCode":105,"message":"Key already exists","cause":"/k","index":4}"#;
    assert!(client.put("/k", "value=1&prevExist=false").await.starts_with(r#"201 @4 {"action":"create""#));
    assert_eq!(client.put("/k?prevExist=false", "value=1").await, exists);
    assert_eq!(
        client.put("/k?prevValue=x", "value=2").await,
        r#"412 @4 {"errorCode":101,"message":"Compare failed","cause":"[x != 1]","index":4}"#
    );
    assert!(client.put("/k?prevIndex=4", "value=2").await.starts_with(r#"200 @5 {"action":"compareAndSwap""#));
    assert!(client.put("/k?prevIndex=0", "value=3").await.starts_with(r#"200 @6 {"action":"set""#), "0 is none");
    assert_eq!(client.put("/k", "value=4&prevExist=true&noValueOnSuccess=true").await, r#"200 @7 {"action":"update"}"#);
    assert_eq!(client.send(Method::DELETE, "/k", "prevValue=no").await.split(' ').next(), Some("200"), "a DELETE has no form");
    assert_eq!(client.delete("/k?prevValue=4").await, r#"404 @8 {"errorCode":100,"message":"Key not found","cause":"/k","index":8}"#);
    assert!(client.send(Method::POST, "/q", "value=1").await.contains(r#""key":"/q/00000000000000000009""#));
}

#[actix_web::test]
async fn a_node_with_a_time_to_live_goes() {
    let client = client().await;
    let made = client.put("/k", "value=1&ttl=5").await;
    assert!(made.contains(r#""value":"1","expiration":"1970-01-01T00:00:05"#) && made.contains(r#""ttl":5,"modifiedIndex":4"#), "{made}");
    assert!(client.put("/k", "ttl=10&refresh=true&prevExist=true").await.contains(r#""value":"1""#));
    client.local.pass(Duration::from_secs(9));
    assert!(client.get("/k").await.starts_with("200 @5"));
    client.local.pass(Duration::from_secs(2));
    assert_eq!(client.get("/k").await, r#"404 @6 {"errorCode":100,"message":"Key not found","cause":"/k","index":6}"#);
    assert!(client.get("/k?wait=true&waitIndex=6").await.starts_with(r#"200 @6 {"action":"expire","node":{"key":"/k","modifiedIndex":6,"createdIndex":4},"prevNode":{"key":"/k","value":"1","expiration":"#));
}

#[actix_web::test]
async fn who_waits_is_told_of_one_change_or_of_all() {
    let client = client().await;
    client.put("/d/a", "value=1").await;
    assert!(client.get("/d/a?wait=true&waitIndex=1").await.contains(r#""value":"1""#), "what happened already is told at once");
    let mut stream = client.open(Method::GET, "/d?wait=true&recursive=true&stream=true", "").await.into_body();
    assert!(line(&mut stream).now_or_never().is_none());
    client.put("/elsewhere", "value=2").await;
    assert!(line(&mut stream).now_or_never().is_none());
    for value in ["3", "4"] {
        client.put("/d/b", &format!("value={value}")).await;
        let line = line(&mut stream).await;
        assert!(line.contains(&format!(r#""value":"{value}""#)) && line.ends_with('\n'), "{line}");
    }
}

#[actix_web::test]
async fn a_wrong_field_is_named() {
    let client = client().await;
    let error = |code: u16, message: &str, cause: &str| {
        format!(r#"400 @0 {{"errorCode":{code},"message":"{message}","cause":"{cause}","index":0}}"#)
    };
    let field = |cause| error(209, "Invalid field", cause);
    for (form, expected) in [
        ("value=1&recursive=", field(r#"invalid value for \"recursive\""#)),
        ("value=1&dir=yes", field(r#"invalid value for \"dir\""#)),
        ("value=1&prevExist=2", field("invalid value for prevExist")),
        ("refresh=2", field("invalid value for refresh")),
        ("wait=true", field(r#"\"wait\" can only be used with GET requests"#)),
        ("prevValue=", error(201, "PrevValue is Required in POST form", r#"\"prevValue\" cannot be empty"#)),
        ("ttl=-1", error(202, "The given TTL in POST form is not a number", r#"invalid value for \"ttl\""#)),
        ("ttl=18446744073709551616", error(202, "The given TTL in POST form is not a number", r#"invalid value for \"ttl\""#)),
        ("prevIndex=x", error(203, "The given index in POST form is not a number", r#"invalid value for \"prevIndex\""#)),
        (
            "waitIndex=18446744073709551616",
            error(203, "The given index in POST form is not a number", r#"invalid value for \"waitIndex\""#),
        ),
        ("value=%zz", error(210, "Invalid POST form", r#"invalid URL escape \"%zz\""#)),
        ("value=%c3%", error(210, "Invalid POST form", r#"invalid URL escape \"%\""#)),
        ("value=1&refresh=true&ttl=1", error(211, "Value provided on refresh", "A value was provided on a refresh")),
        ("refresh=true", error(212, "A TTL must be provided on refresh", "No TTL value set")),
    ] {
        assert_eq!(client.put("/k", form).await, expected, "{form}");
    }
    assert_eq!(client.put(&"/a".repeat(257), "").await, error(210, "Invalid POST form", "a key has at most 256 components"));
    assert_eq!(client.put("/..%2f../%2e%2e/k", "value=1").await.split(' ').next(), Some("201"), "nothing leads out of the root");
    assert_eq!(client.get("/").await.matches("key").count(), 1);
    assert_eq!(client.send(Method::PATCH, "/k", "").await, "405 @- Method Not Allowed");
}
