//! ① ⑨ KV: a request is checked here, proposed or read, and answered.

use super::{convert, streamed::ranged, with_permit};
use crate::{
    api_error::ApiError,
    backend::{Backend, Consistency},
    encoded,
    permit::{BudgetPermit, WithPermit},
    proto::{etcdserverpb as pb, mvccpb::KeyValue, served::etcdserverpb::kv_server::Kv},
    service::{Call, Service},
};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use prost::Message as _;
use quorate_core::{
    command::{Command, Compact, DeleteRange, Op, Range, RangeReply, Refusal, Reply, SortOrder, SortTarget, Txn},
    machine,
    mvcc::View,
    storage::StateReader,
    types::Revision,
};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Keys in the first chunk of a `RangeStream`; later ones adapt to the request limit, as etcd's do.
const FIRST_CHUNK_KEYS: i64 = 10;

impl<B: Backend> Service<B> {
    pub(crate) async fn range(&self, request: pb::RangeRequest, call: &Call) -> Result<WithPermit<encoded::RangeResponse>, ApiError> {
        let (range, view) = self.begin_range(request, call).await?;
        let bytes = view.range_bytes(&range);
        let permit = self.permit(bytes, call).await?;
        let reply = self.read(view, bytes, move |view| view.range(&range)).await?;
        Ok(WithPermit { answer: convert::range_answer(self.header(reply.revision), reply), permit })
    }

    /// The answer of `range` in chunks of one state.
    pub(crate) async fn range_stream(&self, request: pb::RangeRequest, call: &Call) -> Result<RangeAnswers, ApiError> {
        let filters = [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
        let (range, view) = self.begin_range(request, call).await?;
        if !is_in_key_order(&range) {
            return Err(ApiError::StreamSorted);
        }
        if filters.iter().any(|revision| *revision != 0) {
            return Err(ApiError::StreamFiltered);
        }
        let chunks = Chunks::new(self.clone(), range, view, call.clone());
        Ok(stream::try_unfold(Some(chunks), Chunks::next).boxed())
    }

    pub(crate) async fn put(&self, request: pb::PutRequest, call: &Call) -> Result<encoded::PutResponse, ApiError> {
        self.admit(call, false)?;
        let bytes = request.encoded_len();
        match self.propose(Command::Put(convert::put(request)), bytes, call).await? {
            Reply::Put(reply) => Ok(convert::put_answer(self.header(reply.revision), reply)),
            other => unreachable!("a put was answered {other:?}"),
        }
    }

    pub(crate) async fn delete_range(
        &self,
        request: pb::DeleteRangeRequest,
        call: &Call,
    ) -> Result<WithPermit<encoded::DeleteRangeResponse>, ApiError> {
        self.admit(call, false)?;
        let bytes = request.encoded_len();
        let command = Command::DeleteRange(convert::delete_range(request));
        machine::validate(&command, self.surface.options().max_txn_ops)?;
        let permit = self.permit(answer_bytes(&self.backend.current(), &command), call).await?;
        match self.backend.propose(command, call.proposing(bytes)).await? {
            Reply::DeleteRange(reply) => {
                Ok(WithPermit { answer: convert::delete_range_answer(self.header(reply.revision), reply), permit })
            }
            other => unreachable!("a delete was answered {other:?}"),
        }
    }

    pub(crate) async fn txn(&self, request: pb::TxnRequest, call: &Call) -> Result<WithPermit<encoded::TxnResponse>, ApiError> {
        self.admit(call, false)?;
        let bytes = request.encoded_len();
        let txn = convert::txn(request, self.surface.options().max_txn_ops)?;
        let (reply, permit) = match ranges_only(&txn) {
            Some(consistency) => self.read_txn(txn, consistency, call).await?,
            None => {
                let command = Command::Txn(txn);
                let permit = self.permit(answer_bytes(&self.backend.current(), &command), call).await?;
                match self.backend.propose(command, call.proposing(bytes)).await? {
                    Reply::Txn(reply) => (reply, permit),
                    other => unreachable!("a txn was answered {other:?}"),
                }
            }
        };
        Ok(WithPermit { answer: convert::txn_answer(self.header(reply.revision), reply), permit })
    }

    pub(crate) async fn compact(&self, request: pb::CompactionRequest, call: &Call) -> Result<pb::CompactionResponse, ApiError> {
        self.admit(call, false)?;
        let bytes = request.encoded_len();
        let compact = Compact { revision: Revision(request.revision), physical: request.physical };
        match self.propose(Command::Compact(compact), bytes, call).await? {
            Reply::Compact { revision } => {
                if compact.physical {
                    self.backend.compacted_physically(compact.revision, call.context).await?;
                }
                Ok(pb::CompactionResponse { header: self.header(revision) })
            }
            other => unreachable!("a compaction was answered {other:?}"),
        }
    }

    async fn propose(&self, command: Command, bytes: usize, call: &Call) -> Result<Reply, ApiError> {
        machine::validate(&command, self.surface.options().max_txn_ops)?;
        Ok(self.backend.propose(command, call.proposing(bytes)).await?)
    }

    async fn begin_range(&self, request: pb::RangeRequest, call: &Call) -> Result<(Range, Arc<View<B::Reader>>), ApiError> {
        self.admit(call, request.serializable)?;
        let range = convert::range(request)?;
        let consistency = if range.serializable { Consistency::Serializable } else { Consistency::Linearizable };
        let view = self.backend.view(consistency, call.context).await?;
        Ok((range, view))
    }

    async fn read_txn(
        &self,
        txn: Txn,
        consistency: Consistency,
        call: &Call,
    ) -> Result<(quorate_core::command::TxnReply, BudgetPermit), ApiError> {
        let view = self.backend.view(consistency, call.context).await?;
        let bytes = txn_bytes(&view, &txn);
        let permit = self.permit(bytes, call).await?;
        let reply = self.read(view, bytes, move |view| view.read_txn(&txn)).await?;
        Ok((reply, permit))
    }
}

/// Bytes of key-values that the answer to a write will hold, as the state is now: what the log brings first may change it.
fn answer_bytes<R: StateReader>(view: &View<R>, command: &Command) -> u64 {
    match command {
        Command::DeleteRange(delete) => deleted_bytes(view, delete),
        Command::Txn(txn) => txn_bytes(view, txn),
        _ => 0,
    }
}

/// Of the larger branch.
fn txn_bytes<R: StateReader>(view: &View<R>, txn: &Txn) -> u64 {
    let of = |op: &Op| match op {
        Op::Range(range) => view.range_bytes(range),
        Op::DeleteRange(delete) => deleted_bytes(view, delete),
        Op::Txn(nested) => txn_bytes(view, nested),
        Op::Put(_) => 0,
    };
    let sum = |ops: &[Op]| ops.iter().map(of).sum::<u64>();
    sum(&txn.success).max(sum(&txn.failure))
}

fn deleted_bytes<R: StateReader>(view: &View<R>, delete: &DeleteRange) -> u64 {
    if delete.prev_kv { view.range_bytes(&Range { range: delete.range.clone(), ..Range::default() }) } else { 0 }
}

/// What a txn must see that only reads; `None` for one that goes through the log. With no ops at all it asks for nothing.
fn ranges_only(txn: &Txn) -> Option<Consistency> {
    let mut consistency = Consistency::Serializable;
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(range) if range.serializable => {}
            Op::Range(_) => consistency = Consistency::Linearizable,
            Op::Put(_) | Op::DeleteRange(_) | Op::Txn(_) => return None,
        }
    }
    Some(consistency)
}

/// What a range has without sorting: the target means nothing unless an order is asked for.
const fn is_in_key_order(range: &Range) -> bool {
    matches!((range.sort_order, range.sort_target), (SortOrder::None, _) | (SortOrder::Ascend, SortTarget::Key))
}

/// Chunks of a range.
pub(crate) type RangeAnswers = BoxStream<'static, Result<encoded::RangeStreamResponse, ApiError>>;

/// A `RangeStream` between two chunks.
struct Chunks<B: Backend> {
    service: Service<B>,
    view: Arc<View<B::Reader>>,
    call: Call,
    /// What is still to be read, at the pinned revision; `limit` is that of the whole stream.
    range: Range,
    /// Keys sent.
    sent: i64,
    /// Keys asked for at a time.
    chunk_keys: i64,
    /// What the first chunk found.
    total: Option<i64>,
    /// Of the chunk being sent: the transport has it once it asks for the next.
    _permit: BudgetPermit,
    is_done: bool,
}

impl<B: Backend> Chunks<B> {
    fn new(service: Service<B>, mut range: Range, view: Arc<View<B::Reader>>, call: Call) -> Self {
        if range.revision.0 <= 0 {
            range.revision = view.revision();
        }
        Self {
            service,
            view,
            call,
            range,
            sent: 0,
            chunk_keys: FIRST_CHUNK_KEYS,
            total: None,
            _permit: BudgetPermit::default(),
            is_done: false,
        }
    }

    async fn next(this: Option<Self>) -> Result<Option<(encoded::RangeStreamResponse, Option<Self>)>, ApiError> {
        let Some(mut this) = this.filter(|this| !this.is_done) else { return Ok(None) };
        // The view would still answer, but a client is to see the same whichever member and moment it meets.
        if this.service.backend.current().compact_revision() > this.range.revision {
            return Err(Refusal::Compacted.into());
        }
        let reply = this.read().await?;
        let bytes: usize = reply.kvs.iter().map(|kv| kv.0.len()).sum();
        let count = i64::try_from(reply.kvs.len()).unwrap_or(i64::MAX);
        let total = *this.total.get_or_insert(reply.count);
        this.sent += count;
        let limited = this.range.limit > 0 && this.sent >= this.range.limit;
        let last = reply.kvs.last().filter(|_| !limited && this.sent < total);
        let Some(last) = last else {
            let more = limited && this.sent < total;
            let answer = convert::range_answer(this.service.header(this.view.revision()), RangeReply { more, count: total, ..reply });
            this.is_done = true;
            return Ok(Some((encoded::RangeStreamResponse { range_response: Some(answer) }, Some(this))));
        };
        this.range.range = quorate_core::command::KeyRange { key: key_after(&last.0)?, end: this.rest_end() };
        this.adapt(bytes);
        let answer = convert::range_answer(None, RangeReply { more: false, count: 0, ..reply });
        Ok(Some((encoded::RangeStreamResponse { range_response: Some(answer) }, Some(this))))
    }

    async fn read(&mut self) -> Result<RangeReply, ApiError> {
        let left = if self.range.limit > 0 { self.range.limit - self.sent } else { i64::MAX };
        let chunk = Range { limit: self.chunk_keys.min(left), ..self.range.clone() };
        let bytes = self.view.range_bytes(&chunk);
        self._permit = BudgetPermit::default();
        self._permit = self.service.permit(bytes, &self.call).await?;
        self.service.read(Arc::clone(&self.view), bytes, move |view| view.range(&chunk)).await
    }

    /// Only an interval has a rest: a single key is one chunk.
    fn rest_end(&self) -> bytes::Bytes {
        self.range.range.end.clone()
    }

    /// Doubles small chunks and halves large ones, around the request limit.
    fn adapt(&mut self, bytes: usize) {
        let target = self.service.surface.options().max_request_bytes;
        if bytes < target / 2 {
            self.chunk_keys = self.chunk_keys.saturating_mul(2);
        } else if bytes > target.saturating_mul(2) {
            self.chunk_keys = (self.chunk_keys / 2).max(1);
        }
    }
}

/// The smallest key above that of a stored key-value.
fn key_after(encoded: &bytes::Bytes) -> Result<bytes::Bytes, ApiError> {
    let stored = KeyValue::decode(encoded.clone()).map_err(|_| Refusal::StorageFailed)?;
    let mut key = Vec::with_capacity(stored.key.len() + 1);
    key.extend_from_slice(&stored.key);
    key.push(0);
    Ok(key.into())
}

#[tonic::async_trait]
impl<B: Backend> Kv for Service<B> {
    type RangeStreamStream = BoxStream<'static, Result<encoded::RangeStreamResponse, Status>>;

    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<encoded::RangeResponse>, Status> {
        let call = Call::grpc(&request)?;
        Ok(ranged(self.range(request.into_inner(), &call).await?))
    }

    async fn range_stream(&self, request: Request<pb::RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        let call = Call::grpc(&request)?;
        let answers = self.range_stream(request.into_inner(), &call).await?;
        Ok(Response::new(answers.map(|answer| answer.map_err(Status::from)).boxed()))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<encoded::PutResponse>, Status> {
        let call = Call::grpc(&request)?;
        Ok(Response::new(self.put(request.into_inner(), &call).await?))
    }

    async fn delete_range(&self, request: Request<pb::DeleteRangeRequest>) -> Result<Response<encoded::DeleteRangeResponse>, Status> {
        let call = Call::grpc(&request)?;
        Ok(with_permit(self.delete_range(request.into_inner(), &call).await?))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<encoded::TxnResponse>, Status> {
        let call = Call::grpc(&request)?;
        Ok(with_permit(self.txn(request.into_inner(), &call).await?))
    }

    async fn compact(&self, request: Request<pb::CompactionRequest>) -> Result<Response<pb::CompactionResponse>, Status> {
        let call = Call::grpc(&request)?;
        Ok(Response::new(self.compact(request.into_inner(), &call).await?))
    }
}
