//! Cluster: who is a member. Changing that is not served yet.

use super::{convert, unserved};
use crate::{
    api_error::ApiError,
    backend::{Backend, Consistency},
    proto::{etcdserverpb as pb, served::etcdserverpb::cluster_server::Cluster},
    service::{Call, Service},
};
use quorate_core::types::Revision;
use tonic::{Request, Response, Status};

impl<B: Backend> Service<B> {
    /// Sorted by id; the header has no revision, as in all of this service.
    pub(crate) async fn member_list(&self, request: pb::MemberListRequest, call: &Call) -> Result<pb::MemberListResponse, ApiError> {
        self.admit(call, false)?;
        let consistency = if request.linearizable { Consistency::Linearizable } else { Consistency::Serializable };
        let view = self.backend.view(consistency, call.context).await?;
        let members = view.members().into_iter().map(convert::member).collect();
        Ok(pb::MemberListResponse { header: self.header(Revision(0)), members })
    }
}

#[tonic::async_trait]
impl<B: Backend> Cluster for Service<B> {
    async fn member_add(&self, _: Request<pb::MemberAddRequest>) -> Result<Response<pb::MemberAddResponse>, Status> {
        unserved("MemberAdd")
    }

    async fn member_remove(&self, _: Request<pb::MemberRemoveRequest>) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        unserved("MemberRemove")
    }

    async fn member_update(&self, _: Request<pb::MemberUpdateRequest>) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        unserved("MemberUpdate")
    }

    async fn member_list(&self, request: Request<pb::MemberListRequest>) -> Result<Response<pb::MemberListResponse>, Status> {
        let call = Call::grpc(&request)?;
        Ok(Response::new(self.member_list(request.into_inner(), &call).await?))
    }

    async fn member_promote(&self, _: Request<pb::MemberPromoteRequest>) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        unserved("MemberPromote")
    }
}
