//! Lease: granted and revoked through the log; kept alive and asked for by way of the leader's clock.

use super::with_permit;
use crate::{
    api_error::ApiError,
    backend::{Backend, Consistency},
    permit::WithPermit,
    proto::{etcdserverpb as pb, served::etcdserverpb::lease_server::Lease},
    service::{Call, Service},
};
use futures::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use prost::Message as _;
use quorate_core::{
    command::{Command, LeaseGrant, LeaseRevoke, Refusal, Reply},
    lease::LeaseCall,
    machine,
    types::LeaseId,
};
use tonic::{Request, Response, Status};

/// Keepalives of one stream that are under way; beyond that its requests are not read.
const KEEP_ALIVES_AHEAD: usize = 64;
/// Bytes of an id in an answer that lists leases, at most.
const LEASE_BYTES: u64 = 16;

/// What a client is told over a stream of keepalives.
pub(crate) type KeepAliveAnswers = BoxStream<'static, Result<pb::LeaseKeepAliveResponse, Status>>;

impl<B: Backend> Service<B> {
    pub(crate) async fn lease_grant(&self, request: pb::LeaseGrantRequest, call: &Call) -> Result<pb::LeaseGrantResponse, ApiError> {
        self.admit(call, false)?;
        let bytes = request.encoded_len();
        let lease = if request.id == 0 { self.surface.draw_lease() } else { LeaseId(request.id) };
        let ttl_s = request.ttl.max(self.surface.options().lease_ttl_min_s);
        match self.propose_about_leases(Command::LeaseGrant(LeaseGrant { lease, ttl_s }), bytes, call).await? {
            Reply::LeaseGranted { revision, lease, ttl_s } => {
                Ok(pb::LeaseGrantResponse { header: self.header(revision), id: lease.0, ttl: ttl_s, error: String::new() })
            }
            other => unreachable!("a grant was answered {other:?}"),
        }
    }

    pub(crate) async fn lease_revoke(&self, request: pb::LeaseRevokeRequest, call: &Call) -> Result<pb::LeaseRevokeResponse, ApiError> {
        self.admit(call, false)?;
        let bytes = request.encoded_len();
        match self.propose_about_leases(Command::LeaseRevoke(LeaseRevoke { lease: LeaseId(request.id) }), bytes, call).await? {
            Reply::LeaseRevoked { revision } => Ok(pb::LeaseRevokeResponse { header: self.header(revision) }),
            other => unreachable!("a revocation was answered {other:?}"),
        }
    }

    async fn propose_about_leases(&self, command: Command, bytes: usize, call: &Call) -> Result<Reply, ApiError> {
        machine::validate(&command, self.surface.options().max_txn_ops)?;
        Ok(self.backend.propose(command, call.proposing(bytes)).await?)
    }

    /// Answers in the order of the requests, as many as may be under way at once. The first error ends it.
    pub(crate) fn lease_keep_alive(
        &self,
        requests: impl Stream<Item = Result<pb::LeaseKeepAliveRequest, Status>> + Send + 'static,
        call: &Call,
    ) -> Result<KeepAliveAnswers, ApiError> {
        self.admit(call, false)?;
        let (service, call) = (self.clone(), call.clone());
        let answers = requests
            .map(move |request| {
                let (service, call) = (service.clone(), call.clone());
                async move { Ok(service.keep_alive(request?, &call).await?) }
            })
            .buffered(KEEP_ALIVES_AHEAD);
        let stream = KeepAlives { answers: answers.boxed(), stopping: self.surface.stopping() };
        Ok(stream::unfold(Some(stream), KeepAlives::next).boxed())
    }

    async fn keep_alive(&self, request: pb::LeaseKeepAliveRequest, call: &Call) -> Result<pb::LeaseKeepAliveResponse, ApiError> {
        // From before the renewal, as in etcd: what is read there is not newer than the lease was.
        let header = self.header(self.backend.current().revision());
        let time = self.backend.lease(LeaseCall::KeepAlive(LeaseId(request.id)), call.context).await?;
        Ok(pb::LeaseKeepAliveResponse { header, id: request.id, ttl: time.map_or(0, |time| time.ttl_s) })
    }

    pub(crate) async fn lease_time_to_live(
        &self,
        request: pb::LeaseTimeToLiveRequest,
        call: &Call,
    ) -> Result<WithPermit<pb::LeaseTimeToLiveResponse>, ApiError> {
        self.admit(call, false)?;
        let lease = LeaseId(request.id);
        let gone = |header| pb::LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, ..Default::default() };
        let Some(time) = self.backend.lease(LeaseCall::TimeToLive(lease), call.context).await? else {
            return Ok(WithPermit::free(gone(self.header(self.backend.current().revision()))));
        };
        let answer =
            |header, keys| pb::LeaseTimeToLiveResponse { header, id: request.id, ttl: time.remaining_s, granted_ttl: time.ttl_s, keys };
        if !request.keys {
            return Ok(WithPermit::free(answer(self.header(self.backend.current().revision()), Vec::new())));
        }
        let view = self.backend.view(Consistency::Linearizable, call.context).await?;
        let header = self.header(view.revision());
        if view.lease(lease).is_none() {
            return Ok(WithPermit::free(gone(header)));
        }
        let bytes = view.lease_key_bytes(lease);
        let permit = self.permit(bytes, call).await?;
        let keys = self.read(view, bytes, move |view| Ok(view.lease_keys(lease).collect())).await?;
        Ok(WithPermit { answer: answer(header, keys), permit })
    }

    /// What this member has applied, in order of the ids.
    pub(crate) async fn lease_leases(&self, call: &Call) -> Result<WithPermit<pb::LeaseLeasesResponse>, ApiError> {
        self.admit(call, false)?;
        let view = self.backend.current();
        let permit = self.permit(view.lease_count().saturating_mul(LEASE_BYTES), call).await?;
        let leases = view.leases().map(|(lease, _)| pb::LeaseStatus { id: lease.0 }).collect();
        Ok(WithPermit { answer: pb::LeaseLeasesResponse { header: self.header(view.revision()), leases }, permit })
    }
}

/// The answers of one stream, until the process is about to end.
struct KeepAlives {
    answers: KeepAliveAnswers,
    stopping: tokio::sync::watch::Receiver<bool>,
}

impl KeepAlives {
    async fn next(this: Option<Self>) -> Option<(Result<pb::LeaseKeepAliveResponse, Status>, Option<Self>)> {
        let mut this = this?;
        let answer = tokio::select! {
            answer = this.answers.next() => answer?,
            // The sender lives as long as the surface, which the service holds.
            _ = this.stopping.wait_for(|stopping| *stopping) => Err(ApiError::from(Refusal::Stopped).into()),
        };
        let next = answer.is_ok().then_some(this);
        Some((answer, next))
    }
}

#[tonic::async_trait]
impl<B: Backend> Lease for Service<B> {
    type LeaseKeepAliveStream = KeepAliveAnswers;

    async fn lease_grant(&self, request: Request<pb::LeaseGrantRequest>) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let call = Call::grpc(&request)?;
        Ok(Response::new(self.lease_grant(request.into_inner(), &call).await?))
    }

    async fn lease_revoke(&self, request: Request<pb::LeaseRevokeRequest>) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let call = Call::grpc(&request)?;
        Ok(Response::new(self.lease_revoke(request.into_inner(), &call).await?))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<tonic::Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAliveAnswers>, Status> {
        let call = Call::grpc(&request)?;
        Ok(Response::new(self.lease_keep_alive(request.into_inner(), &call)?))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let call = Call::grpc(&request)?;
        Ok(with_permit(self.lease_time_to_live(request.into_inner(), &call).await?))
    }

    async fn lease_leases(&self, request: Request<pb::LeaseLeasesRequest>) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let call = Call::grpc(&request)?;
        Ok(with_permit(self.lease_leases(&call).await?))
    }
}
