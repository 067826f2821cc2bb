//! The JSON gateway: `/v3/...` over HTTP/1.1, the same functions as over gRPC with proto3 JSON around them.

use crate::{
    api_error::ApiError,
    backend::{Backend, Source},
    connection::Connection,
    grpc::watch_answers,
    permit::{BudgetPermit, ReceivePermit, WithPermit},
    proto::etcdserverpb as pb,
    service::{Call, Service},
    surface::{PROGRESS_BYTES, Surface},
};
use actix_web::{
    HttpRequest, HttpResponse, Scope,
    body::{BodySize, MessageBody},
    http::{StatusCode, header::ContentType},
    web::{self, Payload, ServiceConfig},
};
use bytes::{Buf as _, Bytes, BytesMut};
use futures::StreamExt as _;
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Deserializer, json};
use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// JSON is larger than the message it describes, by a third for base64 alone.
const JSON_FACTOR: usize = 2;
/// Watch requests of one stream read ahead of the hub.
const REQUESTS_AHEAD: usize = 16;
/// The API's paths; `/v3beta` is its older name.
const PREFIXES: [&str; 2] = ["/v3", "/v3beta"];

/// Of the API, but not served by this release.
const NOT_SERVED: [&str; 38] = [
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
    let scope = scope.service(watch(service));
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
                    Ok(json) => HttpResponse::Ok().content_type(ContentType::json()).body(AnswerBody { rest: json.into(), permit }),
                    Err(error) => refused(&ApiError::BadJson(error.to_string())),
                },
                Err(error) => refused(&error),
            }
        }
    });
    scope.service(web::resource(path).route(post).default_service(web::to(method_not_allowed)))
}

/// Bytes of one piece of an answer.
const PIECE_BYTES: usize = 64 << 10;

/// An answer that leaves in pieces, with its share of the budget held until the last one has. The transport copies what it is given and
/// lets go of it at once, but asks for more only while its own buffer has room: in one piece, all of an answer would lie there.
struct AnswerBody {
    rest: Bytes,
    permit: BudgetPermit,
}

impl MessageBody for AnswerBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.rest.len() as u64)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let size = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(size);
        Poll::Ready(Some(Ok(self.permit.attach(piece))))
    }
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

/// A body on its way in, bounded in bytes and in time.
struct Body<'a> {
    payload: Payload,
    surface: &'a Surface,
    connection: Option<&'a Connection>,
    /// What came and was not taken yet.
    bytes: BytesMut,
    /// Bytes that the permit stands for.
    permitted: usize,
    permit: Option<ReceivePermit>,
    /// When more must have come, once something has.
    deadline: Option<Instant>,
    /// Came since the deadline was set.
    progress_bytes: usize,
}

impl<'a> Body<'a> {
    /// A permit is taken for so much at a time.
    const PERMIT_BYTES: usize = 64 << 10;

    fn new(payload: Payload, surface: &'a Surface, connection: Option<&'a Connection>) -> Self {
        let bytes = BytesMut::new();
        Self { payload, surface, connection, bytes, permitted: 0, permit: None, deadline: None, progress_bytes: 0 }
    }

    /// Waits for more; `false` if there is no more.
    async fn more(&mut self) -> Result<bool, ApiError> {
        let options = self.surface.options();
        if self.bytes.is_empty() {
            (self.deadline, self.permit, self.permitted) = (None, None, 0);
        } else if self.deadline.is_none() || self.progress_bytes >= PROGRESS_BYTES {
            (self.deadline, self.progress_bytes) = (Some(Instant::now() + options.receive_timeout), 0);
        }
        let chunk = match self.deadline {
            Some(deadline) => {
                timeout_at(deadline, self.payload.next()).await.map_err(|_| ApiError::BodyStalled(options.receive_timeout))?
            }
            None => self.payload.next().await,
        };
        let Some(chunk) = chunk else { return Ok(false) };
        let chunk = chunk.map_err(|error| ApiError::BadJson(error.to_string()))?;
        let (bytes, limit) = (self.bytes.len() + chunk.len(), options.receive_bytes());
        if bytes > limit.saturating_mul(JSON_FACTOR) {
            return Err(ApiError::ReceivedTooLarge { bytes: bytes as u64, limit });
        }
        // What comes in one piece is answered at once and holds nothing.
        if !self.bytes.is_empty() && bytes > self.permitted {
            let more = (bytes - self.permitted).next_multiple_of(Self::PERMIT_BYTES);
            let taken = ReceivePermit::try_take(self.surface, self.connection, more)?;
            match &mut self.permit {
                Some(permit) => permit.merge(taken),
                None => self.permit = Some(taken),
            }
            self.permitted += more;
        }
        self.progress_bytes += chunk.len();
        self.bytes.extend_from_slice(&chunk);
        Ok(true)
    }
}

fn within<Q: Message>(message: Q, limit: usize) -> Result<Q, ApiError> {
    match message.encoded_len() {
        bytes if bytes > limit => Err(ApiError::ReceivedTooLarge { bytes: bytes as u64, limit }),
        _ => Ok(message),
    }
}

/// A body of several JSON values, and an answer of lines for as long as the client listens.
fn watch<B: Backend>(service: &Service<B>) -> actix_web::Resource {
    let service = service.clone();
    let post = web::post().to(move |request: HttpRequest, payload: Payload| {
        let service = service.clone();
        async move {
            let (sender, receiver) = mpsc::channel(REQUESTS_AHEAD);
            let answers = call(&request).and_then(|call| {
                let answers = watch_answers(&service, ReceiverStream::new(receiver), &call)?;
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
    web::resource("/watch").route(post).default_service(web::to(method_not_allowed))
}

/// One line of a stream. An error tells its code both ways that clients of the gateway know.
fn line(answer: Result<crate::encoded::WatchResponse, Status>) -> Bytes {
    let value = match answer {
        Ok(answer) => json!({ "result": shown::<_, pb::WatchResponse>(&answer) }),
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

async fn read_requests(
    payload: Payload,
    surface: Surface,
    connection: Option<Connection>,
    sender: mpsc::Sender<Result<pb::WatchRequest, Status>>,
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
fn take_requests(body: &mut BytesMut) -> Result<Vec<pb::WatchRequest>, ApiError> {
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
        let mut taken = || take_requests(&mut body).expect("JSON").len();
        assert_eq!([taken(), taken(), taken(), taken()], [REQUESTS_AHEAD, REQUESTS_AHEAD, 3, 0]);
    }
}
