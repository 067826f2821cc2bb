//! Cross-origin requests: which web pages may call this endpoint (`--cors`), told as etcd tells it.

use actix_web::{
    Error, HttpResponse,
    body::{EitherBody, MessageBody},
    dev::{Service, ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, HeaderMap, HeaderValue, ORIGIN},
    },
};
use std::collections::BTreeSet;

/// Origins whose pages may call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Cors {
    #[default]
    Any,
    Only(BTreeSet<String>),
}

impl Cors {
    /// What is told of the origin a request names.
    fn allowed(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        match self {
            Self::Any => Some(HeaderValue::from_static("*")),
            Self::Only(origins) => origin.filter(|origin| origin.to_str().is_ok_and(|origin| origins.contains(origin))).cloned(),
        }
    }
}

/// Answers `OPTIONS` itself, and everything else by `service`, with the headers that an allowed origin is told.
pub fn answer_cors<B, S>(
    cors: &Cors,
    request: ServiceRequest,
    service: &S,
) -> impl Future<Output = Result<ServiceResponse<EitherBody<B>>, Error>> + use<B, S>
where
    B: MessageBody,
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    let allowed = cors.allowed(request.headers().get(ORIGIN));
    let asked = if request.method() == Method::OPTIONS { Err(request) } else { Ok(service.call(request)) };
    async move {
        let mut response = match asked {
            Ok(answering) => answering.await?.map_into_left_body(),
            Err(request) => request.into_response(HttpResponse::Ok().finish()).map_into_right_body(),
        };
        if let Some(origin) = allowed {
            tell(response.headers_mut(), origin);
        }
        Ok(response)
    }
}

fn tell(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("accept, content-type, authorization"));
}
