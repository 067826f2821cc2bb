//! A front over a bare machine: a proposal is applied at once, rows live in a map.

use bytes::Bytes;
use quorate_core::{
    command::{Command, RaftStatus, Refusal, Reply},
    consensus::{Configuration, Entry, Payload},
    machine::{Machine, MachineLimits, MachineSettings, encode_command},
    machine::{MachineEffect, MachineInput},
    member::raft_request_bytes,
    mvcc::View,
    storage::{Direction, ReadFailed, RowOp, StateReader, Table, recent_key},
    types::{BatchNumber, Boot, ClusterId, LogId, LogIndex, MemberId, Now, RequestId, Revision, StreamId, Term},
    watch::{Hub, HubInput, HubLimits},
};
use quorate_web::backend::{Backend, Consistency, Context, Drained, Status, WatchReceiver, WatchSender, WatchStreamRequest};
use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::mpsc;

pub const MEMBER: MemberId = MemberId(0x8e9e05c52164694d);
pub const CLUSTER: ClusterId = ClusterId(0xcdf818194e3a8c32);

type Rows = BTreeMap<(Table, Bytes), Bytes>;

#[derive(Clone, Debug, Default)]
pub struct MapReader(Arc<Rows>);

impl StateReader for MapReader {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ReadFailed> {
        Ok(self.0.get(&(table, Bytes::copy_from_slice(key))).cloned())
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], Bytes) -> ControlFlow<()>,
    ) -> Result<(), ReadFailed> {
        let bound = (Bound::Included((table, Bytes::copy_from_slice(start))), Bound::Unbounded);
        let rows = self.0.range(bound).take_while(|((at, key), _)| *at == table && (end.is_empty() || key.as_ref() < end));
        let visit_row = |((_, key), value): ((_, &Bytes), &Bytes)| visit(key, value.clone());
        let rows = rows.map(|((table, key), value)| ((*table, key), value));
        let _: ControlFlow<()> = match direction {
            Direction::Forward => rows.into_iter().try_for_each(visit_row),
            Direction::Backward => rows.collect::<Vec<_>>().into_iter().rev().try_for_each(visit_row),
        };
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub struct Local(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    machine: Machine<MapReader>,
    rows: Rows,
    hub: Hub<MapReader>,
    streams: BTreeMap<StreamId, mpsc::UnboundedSender<quorate_core::watch::WatchResponse>>,
    streams_opened: u64,
    /// Bytes of watch responses reported as taken.
    drained: usize,
    /// The newest batch in `rows`.
    persisted: Option<BatchNumber>,
    applied: u64,
    leader: Option<MemberId>,
    is_learner: bool,
    /// The answer to the next proposal and to linearizable reads, instead of serving them.
    refusal: Option<Refusal>,
    max_request_bytes: usize,
    transferred: Option<MemberId>,
}

impl Local {
    pub fn new() -> Self {
        let settings = MachineSettings { member: MEMBER, boot: Boot(1), limits: MachineLimits::default() };
        let mut machine = Machine::open(settings, MapReader::default()).expect("an empty store opens");
        machine.bootstrap(Configuration {
            voters: [MEMBER].into(),
            peer_urls: [(MEMBER, vec!["http://127.0.0.1:2380".into()])].into(),
            ..Configuration::default()
        });
        let hub = Hub::new(HubLimits::default(), machine.view(), Now::default());
        Self(Arc::new(Mutex::new(Inner {
            machine,
            rows: Rows::new(),
            hub,
            streams: BTreeMap::new(),
            streams_opened: 0,
            drained: 0,
            persisted: None,
            applied: 0,
            leader: Some(MEMBER),
            is_learner: false,
            refusal: None,
            max_request_bytes: 1_536 << 10,
            transferred: None,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no test panics while it holds the member")
    }

    pub fn lose_leader(&self) {
        self.inner().leader = None;
    }

    pub fn become_learner(&self) {
        self.inner().is_learner = true;
    }

    pub fn refuse(&self, refusal: Refusal) {
        self.inner().refusal = Some(refusal);
    }

    pub fn drained(&self) -> usize {
        self.inner().drained
    }

    pub fn transferred(&self) -> Option<MemberId> {
        self.inner().transferred
    }
}

impl Inner {
    fn apply(&mut self, command: &Command) -> Result<Reply, Refusal> {
        self.applied += 1;
        let request = RequestId { member: MEMBER, boot: Boot(1), sequence: self.applied };
        let id = LogId { term: Term(2), index: LogIndex(self.applied) };
        let entry = Entry { id, payload: Payload::Command { request, command: encode_command(command) } };
        let mut effects = Vec::new();
        self.machine.step(MachineInput::Apply([entry].into()), &mut effects);
        self.machine.flush(&mut effects);
        let mut answer = self.carry_out(effects);
        while self.machine.has_background_work() {
            let mut effects = Vec::new();
            self.machine.step(MachineInput::Slice, &mut effects);
            self.machine.flush(&mut effects);
            answer = self.carry_out(effects).or(answer);
        }
        answer.expect("every proposal is answered")
    }

    fn carry_out(&mut self, effects: Vec<MachineEffect<MapReader>>) -> Option<Result<Reply, Refusal>> {
        let mut answer = None;
        let mut later = Vec::new();
        for effect in effects {
            match effect {
                MachineEffect::Reply(_, result) => answer = Some(result),
                MachineEffect::Publish(view) => self.step_hub(HubInput::Published(view)),
                MachineEffect::Persist { number, batch, .. } => {
                    for row in batch.rows {
                        match row {
                            RowOp::Put { table, key, value } => drop(self.rows.insert((table, key), value)),
                            RowOp::Delete { table, key } => drop(self.rows.remove(&(table, key))),
                        }
                    }
                    self.persisted = Some(number);
                    self.machine.step(MachineInput::Persisted(number, MapReader(Arc::new(self.rows.clone()))), &mut later);
                }
                MachineEffect::SyncState => {
                    let covered = self.persisted.expect("a sync follows a batch");
                    self.machine.step(MachineInput::Synced(covered), &mut later);
                }
                MachineEffect::Retire { table, below } => {
                    let end = (table, Bytes::copy_from_slice(&recent_key(below)));
                    self.rows.retain(|row, _| row.0 != table || *row >= end);
                }
                MachineEffect::Applied(_) => {}
                MachineEffect::Fatal(reason) => panic!("{reason}"),
            }
        }
        if later.is_empty() { answer } else { self.carry_out(later).or(answer) }
    }

    fn step_hub(&mut self, input: HubInput<MapReader>) {
        let mut effects = Vec::new();
        self.hub.step(Now::default(), input, &mut effects);
        self.hub.flush(Now::default(), &mut effects);
        while self.hub.deadline() <= Now::default().monotonic {
            self.hub.flush(Now::default(), &mut effects);
        }
        for effect in effects {
            if let Some(stream) = self.streams.get(&effect.stream) {
                // A receiver that is gone closes its stream soon.
                let _ = stream.send(effect.response);
            }
        }
    }
}

impl Backend for Local {
    type Reader = MapReader;

    async fn propose(&self, command: Command, context: Context) -> Result<Reply, Refusal> {
        let mut inner = self.inner();
        if raft_request_bytes(MEMBER, context.request_bytes) > inner.max_request_bytes {
            return Err(Refusal::RequestTooLarge);
        }
        match inner.refusal.clone() {
            Some(refusal) => Err(refusal),
            None => inner.apply(&command),
        }
    }

    async fn view(&self, consistency: Consistency, _: Context) -> Result<Arc<View<MapReader>>, Refusal> {
        let inner = self.inner();
        match (consistency, inner.refusal.clone()) {
            (Consistency::Linearizable, Some(refusal)) => Err(refusal),
            _ => Ok(inner.machine.view()),
        }
    }

    fn current(&self) -> Arc<View<MapReader>> {
        self.inner().machine.view()
    }

    fn watch(&self, _: Context) -> (WatchSender, WatchReceiver) {
        let (sender, mut requests) = mpsc::channel(16);
        let (responses, receiver) = mpsc::unbounded_channel();
        let mut inner = self.inner();
        inner.streams_opened += 1;
        let stream = StreamId(inner.streams_opened);
        inner.streams.insert(stream, responses);
        inner.step_hub(HubInput::Open(stream));
        let this = self.clone();
        let drained = Arc::new(Drained::default());
        let told = Arc::clone(&drained);
        tokio::spawn(async move {
            loop {
                let request = tokio::select! {
                    bytes = told.take() => {
                        let mut inner = this.inner();
                        inner.drained += bytes;
                        inner.step_hub(HubInput::Drained(stream, bytes));
                        continue;
                    }
                    request = requests.recv() => request,
                };
                let Some(request) = request else { break };
                let mut inner = this.inner();
                match request {
                    WatchStreamRequest::Create(request) => inner.step_hub(HubInput::Create(stream, request)),
                    WatchStreamRequest::Cancel(watch) => inner.step_hub(HubInput::Cancel(stream, watch)),
                    WatchStreamRequest::Progress => inner.step_hub(HubInput::Progress(stream)),
                }
            }
            let mut inner = this.inner();
            inner.step_hub(HubInput::Close(stream));
            inner.streams.remove(&stream);
        });
        (WatchSender(sender), WatchReceiver { responses: receiver, drained })
    }

    fn status(&self) -> Status {
        let inner = self.inner();
        let raft = RaftStatus {
            member: MEMBER,
            leader: inner.leader,
            term: Term(2),
            committed: LogIndex(inner.applied),
            applied: LogIndex(inner.applied),
            is_learner: inner.is_learner,
            ..RaftStatus::default()
        };
        Status { cluster: CLUSTER, raft, db_bytes: 20_480, db_bytes_in_use: 16_384, quota_bytes: 2 << 30 }
    }

    async fn transfer(&self, target: MemberId, _: Context) -> Result<(), Refusal> {
        if target != MEMBER {
            return Err(Refusal::BadLeaderTransferee);
        }
        self.inner().transferred = Some(target);
        Ok(())
    }

    async fn compacted_physically(&self, revision: Revision, _: Context) -> Result<(), Refusal> {
        if self.current().compacted() >= revision { Ok(()) } else { Err(Refusal::FutureRevision) }
    }
}
