//! The health protocol of gRPC: a member that answers serves.

use crate::{
    api_error::ApiError,
    proto::{
        health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse, health_check_response::ServingStatus},
        served::health::health_server,
    },
};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tonic::{Request, Response, Status};

/// Knows the one service "", which stands for the member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Health;

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match request.into_inner().service.as_str() {
            "" => Ok(Response::new(answer(ServingStatus::Serving))),
            _ => Err(ApiError::UnknownHealthService.into()),
        }
    }

    /// Tells the state, and then of changes: there are none while the member lives.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let status = match request.into_inner().service.as_str() {
            "" => ServingStatus::Serving,
            _ => ServingStatus::ServiceUnknown,
        };
        Ok(Response::new(stream::iter([Ok(answer(status))]).chain(stream::pending()).boxed()))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let statuses = [(String::new(), answer(ServingStatus::Serving))].into();
        Ok(Response::new(HealthListResponse { statuses }))
    }
}
