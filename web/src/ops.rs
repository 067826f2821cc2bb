//! For operators: `/health`, `/livez`, `/readyz`, `/version`, `/metrics`, `/debug/vars`. None of them asks who is calling.

mod metrics;

use crate::{
    api_error::ApiError,
    backend::{Backend, Consistency, Context, Source},
    query::pairs,
    service::Service,
};
use actix_web::{
    HttpRequest, HttpResponse, Resource,
    http::{
        StatusCode,
        header::{ALLOW, ContentType},
    },
    web::{self, ServiceConfig},
};
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use quorate_core::command::{AlarmKind, KeyRange, Range};
use serde_json::json;
use std::fmt::Write as _;

pub(crate) fn configure<B: Backend>(config: &mut ServiceConfig, service: &Service<B>) {
    config.service(get("/health", service, |service, request| Box::pin(health(service, request))));
    for (path, checks) in [("/livez", LIVE), ("/readyz", READY)] {
        config.service(get(path, service, move |service, request| Box::pin(checked(service, request, checks))));
        for check in checks {
            config.service(get(&format!("{path}/{}", check.name()), service, move |service, request| {
                Box::pin(checked(service, request, std::slice::from_ref(check)))
            }));
        }
    }
    config.service(get("/version", service, |service, _| Box::pin(async move { version(&service) })));
    config.service(get("/metrics", service, |service, request| Box::pin(async move { metrics::answer(&service, &request) })));
    config.service(get("/debug/vars", service, |service, _| Box::pin(async move { variables(&service) })));
    config.default_service(web::to(|| async { text(StatusCode::NOT_FOUND, "404 page not found\n") }));
}

/// A resource that is only read; any other method is told so.
fn get<B: Backend>(
    path: &str,
    service: &Service<B>,
    answer: impl Fn(Service<B>, HttpRequest) -> LocalBoxFuture<'static, HttpResponse> + Clone + 'static,
) -> Resource {
    let service = service.clone();
    let route = web::get().to(move |request: HttpRequest| answer(service.clone(), request));
    web::resource(path).route(route).default_service(web::to(|| async {
        HttpResponse::MethodNotAllowed().insert_header((ALLOW, "GET")).content_type(ContentType::plaintext()).body("Method Not Allowed\n")
    }))
}

fn text(status: StatusCode, body: impl Into<String>) -> HttpResponse {
    HttpResponse::build(status)
        .content_type(ContentType::plaintext())
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .body(body.into())
}

/// The values of a query parameter, in order.
fn parameter(request: &HttpRequest, name: &str) -> Vec<String> {
    pairs(request.query_string()).into_iter().filter(|(key, _)| key == name).map(|(_, value)| value).collect()
}

/// JSON, but sent as plain text: etcd's clients know it so.
async fn health<B: Backend>(service: Service<B>, request: HttpRequest) -> HttpResponse {
    let excluded = parameter(&request, "exclude");
    let serializable = parameter(&request, "serializable").iter().any(|value| value == "true");
    match unhealthy(&service, &excluded, serializable).await {
        None => {
            service.surface.counters().health_success.inc();
            HttpResponse::Ok().content_type(ContentType::plaintext()).body(r#"{"health":"true","reason":""}"#)
        }
        Some(reason) => {
            service.surface.counters().health_failure.inc();
            let body = json!({ "health": "false", "reason": reason }).to_string();
            HttpResponse::ServiceUnavailable().content_type(ContentType::plaintext()).body(body)
        }
    }
}

/// What is wrong: an alarm, then no leader, then that a read fails.
async fn unhealthy<B: Backend>(service: &Service<B>, excluded: &[String], serializable: bool) -> Option<String> {
    let alarm =
        service.backend.current().alarms().iter().map(|alarm| alarm_name(alarm.kind)).find(|name| !excluded.iter().any(|e| e == name));
    if let Some(alarm) = alarm {
        return Some(format!("ALARM {alarm}"));
    }
    if !serializable && service.backend.status().raft.leader.is_none() {
        return Some("RAFT NO LEADER".into());
    }
    let consistency = if serializable { Consistency::Serializable } else { Consistency::Linearizable };
    read(service, consistency).await.err().map(|reason| format!("RANGE ERROR:{reason}"))
}

const fn alarm_name(kind: AlarmKind) -> &'static str {
    match kind {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    }
}

/// Reads one key, whichever is first.
async fn read<B: Backend>(service: &Service<B>, consistency: Consistency) -> Result<(), String> {
    let context = Context { deadline: None, require_leader: false, source: Source::Internal, request_bytes: 0 };
    let first = KeyRange { key: Bytes::from_static(b"\0"), end: Bytes::from_static(b"\0") };
    let range = Range { range: first, limit: 1, keys_only: true, ..Range::default() };
    let result = service.backend.view(consistency, context).await.and_then(|view| view.range(&range));
    result.map(drop).map_err(|refusal| ApiError::from(refusal).reply().text.into_owned())
}

/// One question of `/livez` or `/readyz`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

/// Whether the process is worth keeping.
const LIVE: &[Check] = &[Check::SerializableRead];
/// Whether clients should be sent here.
const READY: &[Check] = &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

impl Check {
    const fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run<B: Backend>(self, service: &Service<B>) -> Result<(), String> {
        match self {
            Self::DataCorruption => {
                let corrupt = service.backend.current().alarms().iter().any(|alarm| alarm.kind == AlarmKind::Corrupt);
                if corrupt { Err("alarm activated: CORRUPT".into()) } else { Ok(()) }
            }
            Self::SerializableRead => read(service, Consistency::Serializable).await,
            Self::LinearizableRead => read(service, Consistency::Linearizable).await,
            Self::NonLearner => {
                if service.backend.status().raft.is_learner {
                    Err("member is a learner".into())
                } else {
                    Ok(())
                }
            }
        }
    }
}

/// Runs the checks that are not excluded, and lists them if one failed or `verbose` is asked for.
async fn checked<B: Backend>(service: Service<B>, request: HttpRequest, checks: &'static [Check]) -> HttpResponse {
    let excluded = parameter(&request, "exclude");
    let verbose = parameter(&request, "verbose").iter().any(|value| value != "false");
    let mut lines = String::new();
    let mut failed = false;
    for check in checks {
        let name = check.name();
        // Writing to a string cannot fail.
        let _ = if excluded.iter().any(|excluded| excluded == name) {
            writeln!(lines, "[+]{name} excluded: ok")
        } else {
            match check.run(&service).await {
                Ok(()) => writeln!(lines, "[+]{name} ok"),
                Err(reason) => {
                    failed = true;
                    writeln!(lines, "[-]{name} failed: {reason}")
                }
            }
        };
    }
    match (failed, verbose) {
        (true, _) => text(StatusCode::SERVICE_UNAVAILABLE, lines),
        (false, true) => text(StatusCode::OK, lines + "ok\n"),
        (false, false) => text(StatusCode::OK, "ok\n"),
    }
}

fn version<B: Backend>(service: &Service<B>) -> HttpResponse {
    let versions = &service.surface.options().versions;
    // Written out, because its readers are used to the order.
    let body = format!(r#"{{"etcdserver":"{}","etcdcluster":"{}","storage":"{}"}}"#, versions.server, versions.cluster, versions.storage);
    HttpResponse::Ok().content_type(ContentType::json()).body(body)
}

fn variables<B: Backend>(service: &Service<B>) -> HttpResponse {
    let (raft, view) = (service.backend.status().raft, service.backend.current());
    let leader = raft.leader.map_or_else(|| "0".into(), |leader| leader.to_string());
    HttpResponse::Ok().json(json!({
        "cmdline": std::env::args().collect::<Vec<_>>(),
        "raft.status": {
            "id": raft.member.to_string(),
            "term": raft.term.0,
            "lead": leader,
            "commit": raft.committed.0,
            "applied": view.applied().index.0,
        },
    }))
}
