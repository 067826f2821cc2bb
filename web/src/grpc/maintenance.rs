//! Maintenance: status, alarms, hashes and leadership of the member asked.

use super::{convert, unserved};
use crate::{
    api_error::ApiError,
    backend::{Backend, Consistency},
    proto::{
        etcdserverpb::{self as pb, alarm_request::AlarmAction},
        served::etcdserverpb::maintenance_server::Maintenance,
    },
    service::{Call, Service, header},
};
use futures::stream::BoxStream;
use quorate_core::{
    command::{Alarm, AlarmChange, Command, Refusal, Reply},
    types::{MemberId, Revision},
};
use tonic::{Request, Response, Status};

/// What a store takes that holds nothing: the tables themselves. Those who watch sizes divide by it.
const EMPTY_STORE_BYTES: i64 = 20 << 10;

impl<B: Backend> Service<B> {
    /// From this member alone, learner or not.
    pub(crate) fn status(&self, call: &Call) -> Result<pb::StatusResponse, ApiError> {
        let status = self.admit(call, true)?;
        let view = self.backend.current();
        let no_leader = status.raft.leader.is_none().then(|| ApiError::from(Refusal::NoLeader).reply().text.into_owned());
        let alarms = view.alarms().iter().map(|alarm| {
            let alarm = convert::alarm(alarm);
            format!("memberID:{} alarm:{}", alarm.member_id, alarm.alarm().as_str_name())
        });
        let versions = &self.surface.options().versions;
        Ok(pb::StatusResponse {
            header: Some(header(&status, view.revision())),
            version: versions.server.clone(),
            db_size: status.db_bytes.max(EMPTY_STORE_BYTES),
            leader: status.raft.leader.map_or(0, |leader| leader.0),
            // The state may have been published after this status was.
            raft_index: status.raft.committed.max(view.applied().index).0,
            raft_term: status.raft.term.0,
            raft_applied_index: view.applied().index.0,
            errors: no_leader.into_iter().chain(alarms).collect(),
            db_size_in_use: status.db_bytes_in_use.max(EMPTY_STORE_BYTES),
            is_learner: status.raft.is_learner,
            storage_version: versions.storage.clone(),
            db_size_quota: status.quota_bytes,
            downgrade_info: Some(pb::DowngradeInfo::default()),
        })
    }

    /// Asking for alarms looks at their kind only, never at the member.
    pub(crate) async fn alarm(&self, request: pb::AlarmRequest, call: &Call) -> Result<pb::AlarmResponse, ApiError> {
        self.admit(call, false)?;
        let kind = convert::alarm_kind(request.alarm)?;
        let active = match AlarmAction::try_from(request.action).map_err(|_| ApiError::UnknownAlarm)? {
            AlarmAction::Get => {
                let view = self.backend.view(Consistency::Linearizable, call.context).await?;
                let alarms = view.alarms().iter().filter(|alarm| kind.is_none_or(|kind| alarm.kind == kind));
                return Ok(pb::AlarmResponse { header: self.header(view.revision()), alarms: alarms.map(convert::alarm).collect() });
            }
            AlarmAction::Activate => true,
            AlarmAction::Deactivate => false,
        };
        let Some(kind) = kind else {
            return Ok(pb::AlarmResponse { header: self.header(self.backend.current().revision()), alarms: Vec::new() });
        };
        let change = AlarmChange { alarm: Alarm { member: MemberId(request.member_id), kind }, active };
        match self.backend.propose(Command::Alarm(change), call.context).await? {
            Reply::Alarm { revision, alarms } => {
                Ok(pb::AlarmResponse { header: self.header(revision), alarms: alarms.iter().map(convert::alarm).collect() })
            }
            other => unreachable!("an alarm was answered {other:?}"),
        }
    }

    /// Space comes back by itself, so there is nothing to wait for.
    pub(crate) fn defragment(&self, call: &Call) -> Result<pb::DefragmentResponse, ApiError> {
        self.admit(call, false)?;
        Ok(pb::DefragmentResponse { header: None })
    }

    pub(crate) async fn hash_kv(&self, request: pb::HashKvRequest, call: &Call) -> Result<pb::HashKvResponse, ApiError> {
        self.admit(call, false)?;
        let view = self.backend.current();
        let current = view.revision();
        // It goes over every key, so never on the worker.
        let hash = self.read(view, u64::MAX, move |view| view.hash_kv(Revision(request.revision))).await?;
        Ok(pb::HashKvResponse {
            header: self.header(current),
            hash: hash.hash,
            compact_revision: hash.compact_revision.0,
            hash_revision: hash.hash_revision.0,
        })
    }

    pub(crate) async fn move_leader(&self, request: pb::MoveLeaderRequest, call: &Call) -> Result<pb::MoveLeaderResponse, ApiError> {
        self.admit(call, false)?;
        self.backend.transfer(MemberId(request.target_id), call.context).await?;
        Ok(pb::MoveLeaderResponse { header: None })
    }
}

#[tonic::async_trait]
impl<B: Backend> Maintenance for Service<B> {
    type SnapshotStream = BoxStream<'static, Result<pb::SnapshotResponse, Status>>;

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let call = Call::grpc(&request)?;
        Ok(Response::new(self.alarm(request.into_inner(), &call).await?))
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        Ok(Response::new(self.status(&Call::grpc(&request)?)?))
    }

    async fn defragment(&self, request: Request<pb::DefragmentRequest>) -> Result<Response<pb::DefragmentResponse>, Status> {
        Ok(Response::new(self.defragment(&Call::grpc(&request)?)?))
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        unserved("Hash")
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        let call = Call::grpc(&request)?;
        Ok(Response::new(self.hash_kv(request.into_inner(), &call).await?))
    }

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        unserved("Snapshot")
    }

    async fn move_leader(&self, request: Request<pb::MoveLeaderRequest>) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let call = Call::grpc(&request)?;
        Ok(Response::new(self.move_leader(request.into_inner(), &call).await?))
    }

    async fn downgrade(&self, _: Request<pb::DowngradeRequest>) -> Result<Response<pb::DowngradeResponse>, Status> {
        unserved("Downgrade")
    }
}
