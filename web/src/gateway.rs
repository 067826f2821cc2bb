//! The JSON gateway: `/v3/...` over HTTP/1.1, the same functions as over gRPC with proto3 JSON around them.

use crate::{
    front::{Front, Source},
    grpc::watch_answers,
    proto::etcdserverpb as pb,
    refusal::Fault,
    service::{Call, Charged, Service},
};
use actix_web::{
    HttpRequest, HttpResponse, Scope,
    http::{StatusCode, header::ContentType},
    web::{self, Payload, ServiceConfig},
};
use bytes::{Buf as _, Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Deserializer, json};
use std::future::Future;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// JSON is larger than the message it describes, by a third for base64 alone.
const JSON_FACTOR: usize = 2;
/// Watch requests of one stream read ahead of the hub.
const REQUESTS_AHEAD: usize = 16;
/// The API's paths; `/v3beta` is its older name.
const PREFIXES: [&str; 2] = ["/v3", "/v3beta"];

/// Of the API, but not served by this release.
const NOT_SERVED: [&str; 39] = [
    "/lease/grant",
    "/lease/revoke",
    "/kv/lease/revoke",
    "/lease/keepalive",
    "/lease/timetolive",
    "/kv/lease/timetolive",
    "/lease/leases",
    "/kv/lease/leases",
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
    "/auth/authenticate",
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

pub(crate) fn configure<F: Front>(config: &mut ServiceConfig, service: &Service<F>) {
    if !service.surface.options().gateway {
        return;
    }
    for prefix in PREFIXES {
        config.service(scope(prefix, service));
    }
}

fn scope<F: Front>(prefix: &str, service: &Service<F>) -> Scope {
    let scope = web::scope(prefix).default_service(web::to(|| async { refused(&Fault::NotFound) }));
    let scope = kv(scope, service);
    let scope = maintenance(scope, service);
    let scope = scope.service(watch(service));
    NOT_SERVED.into_iter().fold(scope, |scope, path| {
        let post = web::post().to(move || async move { refused(&Fault::NotServed(path)) });
        scope.service(web::resource(path).route(post).default_service(web::to(method_not_allowed)))
    })
}

fn kv<F: Front>(scope: Scope, service: &Service<F>) -> Scope {
    let scope = unary(scope, "/kv/range", service, |service, request, call| async move {
        Ok(service.range(request, &call).await?.map(|answer| shown::<_, pb::RangeResponse>(&answer)))
    });
    let scope = unary(scope, "/kv/put", service, |service, request, call| async move {
        Ok(Charged::free(shown::<_, pb::PutResponse>(&service.put(request, &call).await?)))
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
        |service, request, call| async move { service.compact(request, &call).await.map(Charged::free) },
    )
}

fn maintenance<F: Front>(scope: Scope, service: &Service<F>) -> Scope {
    let scope = unary(scope, "/cluster/member/list", service, |service, request, call| async move {
        service.member_list(request, &call).await.map(Charged::free)
    });
    let scope = unary(scope, "/maintenance/status", service, |service, _: pb::StatusRequest, call| async move {
        service.status(&call).map(Charged::free)
    });
    let scope = unary(scope, "/maintenance/alarm", service, |service, request, call| async move {
        service.alarm(request, &call).await.map(Charged::free)
    });
    let scope = unary(scope, "/maintenance/defragment", service, |service, _: pb::DefragmentRequest, call| async move {
        service.defragment(&call).map(Charged::free)
    });
    let scope = unary(scope, "/maintenance/hashkv", service, |service, request, call| async move {
        service.hash_kv(request, &call).await.map(Charged::free)
    });
    unary(scope, "/maintenance/transfer-leadership", service, |service, request, call| async move {
        service.move_leader(request, &call).await.map(Charged::free)
    })
}

/// One request, one answer.
fn unary<F, Q, A, Serving>(
    scope: Scope,
    path: &str,
    service: &Service<F>,
    serve: impl Fn(Service<F>, Q, Call) -> Serving + Clone + 'static,
) -> Scope
where
    F: Front,
    Q: DeserializeOwned + Default + Message + 'static,
    A: Serialize + 'static,
    Serving: Future<Output = Result<Charged<A>, Fault>> + 'static,
{
    let service = service.clone();
    let post = web::post().to(move |request: HttpRequest, payload: Payload| {
        let (service, serve) = (service.clone(), serve.clone());
        async move {
            let answering = async {
                let call = call(&request)?;
                let message = read_message(payload, service.surface.options().receive_bytes()).await?;
                serve(service, message, call).await
            };
            match answering.await {
                Ok(Charged { answer, charge }) => match serde_json::to_vec(&answer) {
                    Ok(json) => HttpResponse::Ok().content_type(ContentType::json()).body(charge.attach(json.into())),
                    Err(error) => refused(&Fault::BadJson(error.to_string())),
                },
                Err(fault) => refused(&fault),
            }
        }
    });
    scope.service(web::resource(path).route(post).default_service(web::to(method_not_allowed)))
}

async fn method_not_allowed() -> HttpResponse {
    refused(&Fault::MethodNotAllowed)
}

fn refused(fault: &Fault) -> HttpResponse {
    let answer = fault.answer();
    let status = StatusCode::from_u16(answer.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status).json(json!({ "code": i32::from(answer.code), "message": answer.text }))
}

/// `Grpc-Metadata-X` stands for metadata x.
fn call(request: &HttpRequest) -> Result<Call, Fault> {
    let header = |name: &str| request.headers().get(name).map(|value| value.as_bytes());
    Call::new(|name| if name == "grpc-timeout" { header(name) } else { header(&format!("grpc-metadata-{name}")) }, Source::Gateway)
}

/// A raw answer as its message, to be shown in JSON.
fn shown<R: Message, P: Message + Default>(raw: &R) -> P {
    P::decode(Bytes::from(raw.encode_to_vec())).expect("a raw answer has the wire form of its message")
}

/// The first JSON value of the body, within the limit; nothing at all is a message of defaults.
async fn read_message<Q: DeserializeOwned + Default + Message>(mut payload: Payload, limit: usize) -> Result<Q, Fault> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        extend(&mut body, &chunk.map_err(|error| Fault::BadJson(error.to_string()))?, limit)?;
    }
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Q::default());
    }
    let message = Q::deserialize(&mut Deserializer::from_slice(&body)).map_err(|error| Fault::BadJson(error.to_string()))?;
    within(message, limit)
}

fn extend(body: &mut BytesMut, chunk: &[u8], limit: usize) -> Result<(), Fault> {
    let bytes = body.len() + chunk.len();
    if bytes > limit.saturating_mul(JSON_FACTOR) {
        return Err(Fault::ReceivedTooLarge { bytes: bytes as u64, limit });
    }
    body.extend_from_slice(chunk);
    Ok(())
}

fn within<Q: Message>(message: Q, limit: usize) -> Result<Q, Fault> {
    match message.encoded_len() {
        bytes if bytes > limit => Err(Fault::ReceivedTooLarge { bytes: bytes as u64, limit }),
        _ => Ok(message),
    }
}

/// A body of several JSON values, and an answer of lines for as long as the client listens.
fn watch<F: Front>(service: &Service<F>) -> actix_web::Resource {
    let service = service.clone();
    let post = web::post().to(move |request: HttpRequest, payload: Payload| {
        let service = service.clone();
        async move {
            let limit = service.surface.options().receive_bytes();
            let (sender, receiver) = mpsc::channel(REQUESTS_AHEAD);
            let answers = call(&request).and_then(|call| watch_answers(&service, ReceiverStream::new(receiver), &call));
            match answers {
                Ok(answers) => {
                    // Ends with the body, or with the stream, which drops the receiver.
                    actix_web::rt::spawn(read_requests(payload, limit, sender));
                    let lines = answers.map(|answer| Ok::<_, actix_web::Error>(line(answer)));
                    HttpResponse::Ok().content_type(ContentType::json()).streaming(lines)
                }
                Err(fault) => refused(&fault),
            }
        }
    });
    web::resource("/watch").route(post).default_service(web::to(method_not_allowed))
}

/// One line of a stream. An error tells its code both ways that clients of the gateway know.
fn line(answer: Result<crate::raw::WatchResponse, Status>) -> Bytes {
    let value = match answer {
        Ok(answer) => json!({ "result": shown::<_, pb::WatchResponse>(&answer) }),
        Err(status) => {
            let http = crate::refusal::http_status(status.code());
            let name = StatusCode::from_u16(http).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
            let code = i32::from(status.code());
            let error = json!({ "code": code, "grpc_code": code, "http_code": http, "http_status": name, "message": status.message() });
            json!({ "error": error })
        }
    };
    format!("{value}\n").into()
}

async fn read_requests(mut payload: Payload, limit: usize, sender: mpsc::Sender<Result<pb::WatchRequest, Status>>) {
    let mut body = BytesMut::new();
    loop {
        let chunk = tokio::select! {
            chunk = payload.try_next() => chunk,
            () = sender.closed() => return,
        };
        let Ok(Some(chunk)) = chunk else { return };
        let mut extended = extend(&mut body, &chunk, limit);
        loop {
            let requests = match std::mem::replace(&mut extended, Ok(())).and_then(|()| take_requests(&mut body)) {
                Ok(requests) if requests.is_empty() => break,
                Ok(requests) => requests.into_iter().map(Ok).collect(),
                Err(fault) => vec![Err(Status::from(fault))],
            };
            for request in requests {
                let failed = request.is_err();
                if sender.send(request).await.is_err() || failed {
                    return;
                }
            }
        }
    }
}

/// Takes whole values at the front of what has come so far, at most [`REQUESTS_AHEAD`]: a body of small ones would grow many times
/// over as messages.
fn take_requests(body: &mut BytesMut) -> Result<Vec<pb::WatchRequest>, Fault> {
    let mut values = Deserializer::from_slice(body).into_iter();
    let mut requests = Vec::new();
    let mut taken = 0;
    while requests.len() < REQUESTS_AHEAD
        && let Some(request) = values.next()
    {
        match request {
            Ok(request) => requests.push(request),
            Err(error) if error.is_eof() => break,
            Err(error) => return Err(Fault::BadJson(error.to_string())),
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
        let mut taken = || take_requests(&mut body).expect("JSON").len();
        assert_eq!([taken(), taken(), taken(), taken()], [REQUESTS_AHEAD, REQUESTS_AHEAD, 3, 0]);
    }
}
