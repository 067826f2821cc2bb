//! Everything a client talks to, over one [`backend::Backend`].
//!
//! A host makes one [`Surface`] for the process and mounts it as often as it likes, say once a worker with that worker's backend:
//! [`grpc_routes`] for HTTP/2, [`configure_http`] for the JSON gateway, health, version and metrics.

mod answer_body;
pub mod api_error;
pub mod backend;
mod body;
mod budget;
mod connection;
mod cors;
pub mod encoded;
mod gateway;
pub mod grpc;
mod ops;
mod permit;
pub mod proto;
mod query;
mod service;
mod surface;
mod v2;
pub mod watch_stream;

pub use budget::ByteBudget;
pub use connection::Connection;
pub use cors::{Cors, answer_cors};
pub use surface::{METADATA_BYTES, Options, Surface, Versions};

use crate::{backend::Backend, service::Service};
use actix_web::web::ServiceConfig;
use tonic::service::Routes;

/// The gRPC services: KV, Watch, Lease, Cluster, Maintenance and Health; every other path answers `Unimplemented`.
#[must_use]
pub fn grpc_routes<B: Backend>(backend: B, surface: &Surface) -> Routes {
    grpc::routes(&Service::new(backend, surface.clone()))
}

/// Everything over HTTP/1.1, as configuration for an `actix_web::App`; unknown paths answer 404.
pub fn configure_http<B: Backend>(backend: B, surface: &Surface) -> impl Fn(&mut ServiceConfig) + Clone + Send + 'static {
    let service = Service::new(backend, surface.clone());
    move |config: &mut ServiceConfig| {
        ops::configure(config, &service);
        v2::configure(config, &service);
        gateway::configure(config, &service);
    }
}
