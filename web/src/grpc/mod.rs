//! The gRPC services, one file each. A file holds what the service does, and the thin trait that serves it.

mod cluster;
pub mod convert;
mod health;
mod kv;
mod layer;
mod lease;
mod maintenance;
mod received;
mod streamed;
mod watch;

use crate::{
    api_error::ApiError,
    backend::Backend,
    permit::WithPermit,
    proto::served::{
        etcdserverpb::{
            cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer, maintenance_server::MaintenanceServer,
            watch_server::WatchServer,
        },
        health::health_server::HealthServer,
    },
    service::Service,
};
use tonic::service::{LayerExt as _, Routes};

pub(crate) use watch::watch_answers;

pub(crate) fn routes<B: Backend>(service: &Service<B>) -> Routes {
    let limit = service.surface.options().receive_bytes();
    let layer = layer::BoundsLayer(service.surface.clone());
    let mut routes = Routes::new(layer.named_layer(KvServer::new(service.clone()).max_decoding_message_size(limit)))
        .add_service(layer.named_layer(WatchServer::new(service.clone()).max_decoding_message_size(limit)))
        .add_service(layer.named_layer(LeaseServer::new(service.clone()).max_decoding_message_size(limit)))
        .add_service(layer.named_layer(ClusterServer::new(service.clone()).max_decoding_message_size(limit)))
        .add_service(layer.named_layer(MaintenanceServer::new(service.clone()).max_decoding_message_size(limit)))
        .add_service(layer.named_layer(HealthServer::new(health::Health).max_decoding_message_size(limit)));
    let router = routes.axum_router_mut();
    *router = std::mem::take(router).fallback(not_served);
    routes.prepare()
}

/// What clients ask for before they do anything else, if they were given a user.
const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";

/// What answers paths of no service mounted.
async fn not_served(uri: http::Uri) -> http::Response<tonic::body::Body> {
    if uri.path() == AUTHENTICATE {
        return tonic::Status::from(ApiError::AuthNotEnabled).into_http();
    }
    tonic::Status::unimplemented(format!("{} is not served by this release", uri.path().trim_start_matches('/'))).into_http()
}

/// Its share of the budget travels with an answer until the last byte is with the transport.
fn with_permit<T>(WithPermit { answer, permit }: WithPermit<T>) -> tonic::Response<T> {
    let mut response = tonic::Response::new(answer);
    response.extensions_mut().insert(permit);
    response
}

/// The error of an RPC of a mounted service that this release does not serve.
fn unserved<T>(name: &'static str) -> Result<T, tonic::Status> {
    Err(ApiError::NotServed(name).into())
}
