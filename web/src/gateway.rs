//! The JSON gateway: `/v3/...` over HTTP/1.1, the same functions as over gRPC with proto3 JSON around them.

use crate::{
    answer_body::AnswerBody,
    api_error::ApiError,
    backend::{Backend, Source},
    body::Body,
    connection::Connection,
    grpc::watch_answers,
    permit::WithPermit,
    proto::etcdserverpb as pb,
    service::{Call, Service},
    surface::Surface,
};
use actix_web::{
    HttpRequest, HttpResponse, Scope,
    http::{StatusCode, header::ContentType},
    web::{self, Payload, ServiceConfig},
};
use bytes::{Buf as _, Bytes, BytesMut};
use futures::{StreamExt as _, stream::BoxStream};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Deserializer, json};
use std::future::Future;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Requests of one stream read ahead of who serves it.
const REQUESTS_AHEAD: usize = 16;
/// The API's paths; `/v3beta` is its older name.
const PREFIXES: [&str; 2] = ["/v3", "/v3beta"];

/// Of the API, but not served by this release.
const NOT_SERVED: [&str; 30] = [
    "/cluster/member/add",
    "/cluster/member/remove",
    "/cluster/member/update",
    "/cluster/member/promote",
    "/maintenance/hash",
    "/maintenance/snapshot",
    "/maintenance/downgrade",
    "/auth/enable",
    "/auth/disable",
    "/auth/status",
    "/auth/user/add",
    "/auth/user/get",
    "/auth/user/list",
    "/auth/user/delete",
    "/auth/user/changepw",
    "/auth/user/grant",
    "/auth/user/revoke",
    "/auth/role/add",
    "/auth/role/get",
    "/auth/role/list",
    "/auth/role/delete",
    "/auth/role/grant",
    "/auth/role/revoke",
    "/lock/lock",
    "/lock/unlock",
    "/election/campaign",
    "/election/proclaim",
    "/election/leader",
    "/election/observe",
    "/election/resign",
];

pub(crate) fn configure<B: Backend>(config: &mut ServiceConfig, service: &Service<B>) {
    if !service.surface.options().gateway {
        return;
    }
    for prefix in PREFIXES {
        config.service(scope(prefix, service));
    }
}

fn scope<B: Backend>(prefix: &str, service: &Service<B>) -> Scope {
    let scope = web::scope(prefix).default_service(web::to(|| async { refused(&ApiError::NotFound) }));
    let scope = kv(scope, service);
    let scope = maintenance(scope, service);
    let scope = lease(scope, service);
    let scope = scope.service(watch(service)).service(keep_alive(service));
    let authenticate = web::post().to(|| async { refused(&ApiError::AuthNotEnabled) });
    let scope = scope.service(web::resource("/auth/authenticate").route(authenticate).default_service(web::to(method_not_allowed)));
    NOT_SERVED.into_iter().fold(scope, |scope, path| {
        let post = web::post().to(move || async move { refused(&ApiError::NotServed(path)) });
        scope.service(web::resource(path).route(post).default_service(web::to(method_not_allowed)))
    })
}

fn kv<B: Backend>(scope: Scope, service: &Service<B>) -> Scope {
    let scope = unary(scope, "/kv/range", service, |service, request, call| async move {
        Ok(service.range(request, &call).await?.map(|answer| shown::<_, pb::RangeResponse>(&answer)))
    });
    let scope = unary(scope, "/kv/put", service, |service, request, call| async move {
        Ok(WithPermit::free(shown::<_, pb::PutResponse>(&service.put(request, &call).await?)))
    });
    let scope = unary(scope, "/kv/deleterange", service, |service, request, call| async move {
        Ok(service.delete_range(request, &call).await?.map(|answer| shown::<_, pb::DeleteRangeResponse>(&answer)))
    });
    let scope = unary(scope, "/kv/txn", service, |service, request, call| async move {
        Ok(service.txn(request, &call).await?.map(|answer| shown::<_, pb::TxnResponse>(&answer)))
    });
    unary(
        scope,
        "/kv/compaction",
        service,
        |service, request, call| async move { service.compact(request, &call).await.map(WithPermit::free) },
    )
}

fn lease<B: Backend>(scope: Scope, service: &Service<B>) -> Scope {
    let scope = unary(scope, "/lease/grant", service, |service, request, call| async move {
        service.lease_grant(request, &call).await.map(WithPermit::free)
    });
    // Each under its older name, too.
    let scope = ["/lease/revoke", "/kv/lease/revoke"].into_iter().fold(scope, |scope, path| {
        unary(
            scope,
            path,
            service,
            |service, request, call| async move { service.lease_revoke(request, &call).await.map(WithPermit::free) },
        )
    });
    let scope = ["/lease/timetolive", "/kv/lease/timetolive"].into_iter().fold(scope, |scope, path| {
        unary(scope, path, service, |service, request, call| async move { service.lease_time_to_live(request, &call).await })
    });
    ["/lease/leases", "/kv/lease/leases"].into_iter().fold(scope, |scope, path| {
        unary(scope, path, service, |service, _: pb::LeaseLeasesRequest, call| async move { service.lease_leases(&call).await })
    })
}

fn maintenance<B: Backend>(scope: Scope, service: &Service<B>) -> Scope {
    let scope = unary(scope, "/cluster/member/list", service, |service, request, call| async move {
        service.member_list(request, &call).await.map(WithPermit::free)
    });
    let scope = unary(scope, "/maintenance/status", service, |service, _: pb::StatusRequest, call| async move {
        service.status(&call).map(WithPermit::free)
    });
    let scope = unary(scope, "/maintenance/alarm", service, |service, request, call| async move {
        service.alarm(request, &call).await.map(WithPermit::free)
    });
    let scope = unary(scope, "/maintenance/defragment", service, |service, _: pb::DefragmentRequest, call| async move {
        service.defragment(&call).map(WithPermit::free)
    });
    let scope = unary(scope, "/maintenance/hashkv", service, |service, request, call| async move {
        service.hash_kv(request, &call).await.map(WithPermit::free)
    });
    unary(scope, "/maintenance/transfer-leadership", service, |service, request, call| async move {
        service.move_leader(request, &call).await.map(WithPermit::free)
    })
}

/// One request, one answer.
fn unary<B, Q, A, Serving>(
    scope: Scope,
    path: &str,
    service: &Service<B>,
    serve: impl Fn(Service<B>, Q, Call) -> Serving + Clone + 'static,
) -> Scope
where
    B: Backend,
    Q: DeserializeOwned + Default + Message + 'static,
    A: Serialize + 'static,
    Serving: Future<Output = Result<WithPermit<A>, ApiError>> + 'static,
{
    let service = service.clone();
    let post = web::post().to(move |request: HttpRequest, payload: Payload| {
        let (service, serve) = (service.clone(), serve.clone());
        async move {
            let answering = async {
                let call = call(&request)?;
                let message = read_message(payload, &service.surface, call.connection.as_ref()).await?;
                serve(service, message, call).await
            };
            match answering.await {
                Ok(WithPermit { answer, permit }) => match serde_json::to_vec(&answer) {
                    Ok(json) => HttpResponse::Ok().content_type(ContentType::json()).body(AnswerBody::new(json.into(), permit)),
                    Err(error) => refused(&ApiError::BadJson(error.to_string())),
                },
                Err(error) => refused(&error),
            }
        }
    });
    scope.service(web::resource(path).route(post).default_service(web::to(method_not_allowed)))
}

async fn method_not_allowed() -> HttpResponse {
    refused(&ApiError::MethodNotAllowed)
}

fn refused(error: &ApiError) -> HttpResponse {
    let answer = error.reply();
    let status = StatusCode::from_u16(answer.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status).json(json!({ "code": i32::from(answer.code), "message": answer.text }))
}

/// `Grpc-Metadata-X` stands for metadata x.
fn call(request: &HttpRequest) -> Result<Call, ApiError> {
    let header = |name: &str| request.headers().get(name).map(|value| value.as_bytes());
    let connection = request.conn_data::<Connection>().cloned();
    let metadata = |name: &'static str| if name == "grpc-timeout" { header(name) } else { header(&format!("grpc-metadata-{name}")) };
    Call::new(metadata, Source::Gateway, connection)
}

/// An answer of encoded parts as its message, to be shown in JSON.
fn shown<R: Message, P: Message + Default>(answer: &R) -> P {
    P::decode(Bytes::from(answer.encode_to_vec())).expect("such an answer has the wire form of its message")
}

/// The first JSON value of the body, within the limit; nothing at all is a message of defaults.
async fn read_message<Q: DeserializeOwned + Default + Message>(
    payload: Payload,
    surface: &Surface,
    connection: Option<&Connection>,
) -> Result<Q, ApiError> {
    let mut body = Body::new(payload, surface, connection);
    while body.more().await? {}
    if body.bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Q::default());
    }
    let message = Q::deserialize(&mut Deserializer::from_slice(&body.bytes)).map_err(|error| ApiError::BadJson(error.to_string()))?;
    within(message, surface.options().receive_bytes())
}

fn within<Q: Message>(message: Q, limit: usize) -> Result<Q, ApiError> {
    match message.encoded_len() {
        bytes if bytes > limit => Err(ApiError::ReceivedTooLarge { bytes: bytes as u64, limit }),
        _ => Ok(message),
    }
}

fn watch<B: Backend>(service: &Service<B>) -> actix_web::Resource {
    streamed("/watch", service, |service, requests, call| {
        let answers = watch_answers(service, requests, call)?;
        Ok(answers.map(|answer| answer.map(|answer| shown::<_, pb::WatchResponse>(&answer))).boxed())
    })
}

fn keep_alive<B: Backend>(service: &Service<B>) -> actix_web::Resource {
    streamed("/lease/keepalive", service, |service, requests, call| service.lease_keep_alive(requests, call))
}

/// Answers over a stream, ended by an error at the latest.
type Answers<A> = BoxStream<'static, Result<A, Status>>;

/// A body of several JSON values, and an answer of lines for as long as the client listens.
fn streamed<B, Q, A>(
    path: &str,
    service: &Service<B>,
    serve: impl Fn(&Service<B>, ReceiverStream<Result<Q, Status>>, &Call) -> Result<Answers<A>, ApiError> + Clone + 'static,
) -> actix_web::Resource
where
    B: Backend,
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + 'static,
{
    let service = service.clone();
    let post = web::post().to(move |request: HttpRequest, payload: Payload| {
        let (service, serve) = (service.clone(), serve.clone());
        async move {
            let (sender, receiver) = mpsc::channel(REQUESTS_AHEAD);
            let answers = call(&request).and_then(|call| {
                let answers = serve(&service, ReceiverStream::new(receiver), &call)?;
                Ok((answers, call.connection))
            });
            match answers {
                Ok((answers, connection)) => {
                    // Ends with the body, or with the stream, which drops the receiver.
                    actix_web::rt::spawn(read_requests(payload, service.surface.clone(), connection, sender));
                    let lines = answers.map(|answer| Ok::<_, actix_web::Error>(line(answer)));
                    HttpResponse::Ok().content_type(ContentType::json()).streaming(lines)
                }
                Err(error) => refused(&error),
            }
        }
    });
    web::resource(path).route(post).default_service(web::to(method_not_allowed))
}

/// One line of a stream. An error tells its code both ways that clients of the gateway know.
fn line<A: Serialize>(answer: Result<A, Status>) -> Bytes {
    let value = match answer {
        Ok(answer) => json!({ "result": answer }),
        Err(status) => {
            let http = crate::api_error::http_status(status.code());
            let name = StatusCode::from_u16(http).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
            let code = i32::from(status.code());
            let error = json!({ "code": code, "grpc_code": code, "http_code": http, "http_status": name, "message": status.message() });
            json!({ "error": error })
        }
    };
    format!("{value}\n").into()
}

async fn read_requests<Q: DeserializeOwned>(
    payload: Payload,
    surface: Surface,
    connection: Option<Connection>,
    sender: mpsc::Sender<Result<Q, Status>>,
) {
    let mut body = Body::new(payload, &surface, connection.as_ref());
    loop {
        let more = tokio::select! {
            more = body.more() => more,
            () = sender.closed() => return,
        };
        let mut came = match more {
            Ok(true) => Ok(()),
            // The client asks for nothing more, or is gone, and then so is the stream.
            Ok(false) | Err(ApiError::BadJson(_)) => return,
            Err(error) => Err(error),
        };
        loop {
            let requests = match std::mem::replace(&mut came, Ok(())).and_then(|()| take_requests(&mut body.bytes)) {
                Ok(requests) if requests.is_empty() => break,
                Ok(requests) => requests.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(Status::from(error))],
            };
            for request in requests {
                let failed = request.is_err();
                if sender.send(request).await.is_err() || failed {
                    return;
                }
            }
        }
        // Whitespace between values is nobody's request.
        if body.bytes.iter().all(u8::is_ascii_whitespace) {
            body.bytes.clear();
        }
    }
}

/// Takes whole values at the front of what has come so far, at most [`REQUESTS_AHEAD`]: a body of small ones would grow many times
/// over as messages.
fn take_requests<Q: DeserializeOwned>(body: &mut BytesMut) -> Result<Vec<Q>, ApiError> {
    let mut values = Deserializer::from_slice(body).into_iter();
    let mut requests = Vec::new();
    let mut taken = 0;
    while requests.len() < REQUESTS_AHEAD
        && let Some(request) = values.next()
    {
        match request {
            Ok(request) => requests.push(request),
            Err(error) if error.is_eof() => break,
            Err(error) => return Err(ApiError::BadJson(error.to_string())),
        }
        taken = values.byte_offset();
    }
    body.advance(taken);
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_many_small_requests_becomes_messages_a_few_at_a_time() {
        let mut body = BytesMut::from("{}".repeat(2 * REQUESTS_AHEAD + 3).as_str());
        let mut taken = || take_requests::<pb::WatchRequest>(&mut body).expect("JSON").len();
        assert_eq!([taken(), taken(), taken(), taken()], [REQUESTS_AHEAD, REQUESTS_AHEAD, 3, 0]);
    }
}
