//! The v2 keys API: `/v2/keys/...` over HTTP/1.1 (etcd 3.4's contract).

mod answer;
mod form;
mod watch;

use crate::{
    api_error::ApiError,
    backend::{Backend, Consistency, Source},
    body::Body,
    connection::Connection,
    permit::WithPermit,
    service::{Call, Service},
};
use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method, StatusCode,
        header::{ALLOW, ContentType},
    },
    web::{self, Payload, ServiceConfig},
};
use answer::{Head, Shown};
use form::{Asked, Form, Read};
use quorate_core::{
    command::{Command, Refusal, Reply},
    types::WallMs,
    v2::{Error, ErrorCode, NodePath, Request},
};
use std::time::SystemTime;

const KEYS: &str = "/v2/keys";
const METHODS: &str = "HEAD,GET,PUT,POST,DELETE";

pub(crate) fn configure<B: Backend>(config: &mut ServiceConfig, service: &Service<B>) {
    let service = service.clone();
    let serve = move |request: HttpRequest, payload: Payload| {
        let service = service.clone();
        async move { answer(&service, &request, payload).await }
    };
    config.service(web::resource([KEYS.to_owned(), format!("{KEYS}/{{path:.*}}")]).default_service(web::to(serve)));
}

async fn answer<B: Backend>(service: &Service<B>, request: &HttpRequest, payload: Payload) -> HttpResponse {
    if ![Method::HEAD, Method::GET, Method::PUT, Method::POST, Method::DELETE].contains(request.method()) {
        let mut answer = HttpResponse::MethodNotAllowed();
        return answer.insert_header((ALLOW, METHODS)).content_type(ContentType::plaintext()).body("Method Not Allowed\n");
    }
    let served = serve(service, request, payload).await;
    served.unwrap_or_else(|error| answer::refused(&service.backend.status(), &error))
}

async fn serve<B: Backend>(service: &Service<B>, request: &HttpRequest, payload: Payload) -> Result<HttpResponse, Error> {
    let connection = request.conn_data::<Connection>().cloned();
    let call = Call::new(|_| None, Source::Gateway, connection).map_err(of_api)?;
    service.admit(&call, false).map_err(of_api)?;
    let form = Form::read(request.query_string(), &body(service, request, payload, &call).await?)?;
    let tail = request.uri().path().get(KEYS.len()..).unwrap_or_default();
    let path = NodePath::parse(&form::percent_decoded(tail))?;
    match form.ask(request.method(), path.clone())? {
        Asked::Read(read) => get(service, &path, &read, &call).await,
        Asked::Watch { point, from, stream } => watch::answer(service, point, from, stream),
        Asked::Change { request, without_node } => change(service, request, without_node, &call).await,
    }
}

/// A body counts only where one is expected, and only as a form.
async fn body<B: Backend>(service: &Service<B>, request: &HttpRequest, payload: Payload, call: &Call) -> Result<String, Error> {
    let is_form =
        request.headers().get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    if ![Method::PUT, Method::POST].contains(request.method()) || !is_form {
        return Ok(String::new());
    }
    let mut body = Body::new(payload, &service.surface, call.connection.as_ref());
    while body.more().await.map_err(|error| Error::of_request(ErrorCode::InvalidForm, error.reply().text.into_owned()))? {}
    Ok(String::from_utf8_lossy(&body.bytes).into_owned())
}

async fn get<B: Backend>(service: &Service<B>, path: &NodePath, read: &Read, call: &Call) -> Result<HttpResponse, Error> {
    let consistency = if read.quorum { Consistency::Linearizable } else { Consistency::Serializable };
    let view = service.backend.view(consistency, call.context).await.map_err(|refusal| of_api(refusal.into()))?;
    let bytes = view.v2_bytes(path);
    let permit = service.permit(bytes, call).await.map_err(of_api)?;
    let head = Head::new(&service.backend.status(), view.v2_index());
    let listed = (path.clone(), read.recursive);
    let listing = service.read(view, bytes, move |view| Ok(view.v2_get(&listed.0, listed.1))).await.map_err(of_api)??;
    Ok(answer::listed(&head, WithPermit { answer: listing, permit }, now()))
}

async fn change<B: Backend>(service: &Service<B>, request: Request, without_node: bool, call: &Call) -> Result<HttpResponse, Error> {
    let bytes = form::request_bytes(&request);
    let reply = service.backend.propose(Command::V2(request), call.proposing(bytes)).await;
    match reply.map_err(|refusal| of_api(refusal.into()))? {
        Reply::V2(done) => {
            let event = done?.expect("a client's change has an event");
            let head = Head::new(&service.backend.status(), event.index);
            let status = if event.is_created() { StatusCode::CREATED } else { StatusCode::OK };
            let shown = if without_node { Shown::action(event.action) } else { Shown::event(&event) };
            Ok(answer::shown(&head, status, &shown))
        }
        other => unreachable!("a change of the v2 tree is answered by {other}"),
    }
}

/// What is not about the tree: that it cannot be served now, or is too large.
fn of_api(error: ApiError) -> Error {
    let code = if matches!(error, ApiError::Refused(Refusal::RequestTooLarge)) { ErrorCode::InvalidForm } else { ErrorCode::RaftInternal };
    Error::of_request(code, error.reply().text.into_owned())
}

/// By this member's own clock: how long a node still has is told as of now.
fn now() -> WallMs {
    let passed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    WallMs(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX))
}
