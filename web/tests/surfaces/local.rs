//! A backend over a whole member, hosted as production does but without waiting: its log is durable once it is written, its rows are
//! in memory, and time passes only while somebody waits for an answer.

use quorate_core::{
    command::{Command, Refusal, Reply},
    consensus::{Configuration, Entry, Envelope, Limits, Message, Payload, RaftMessage, Settings},
    lease::{LeaseCall, LeaseTime},
    machine::{Machine, MachineLimits, MachineSettings},
    member::{
        self, Answer, Body, LogEffect, LogHalf, LogInput, MemberLimits, MemberSettings, Request, StateEffect, StateHalf, StateInput,
        StoreDone, StoreWork, Ticket, WalDone, WalWork, admit,
    },
    mvcc::View,
    storage::MemoryStore,
    types::{BatchNumber, ClusterId, LogId, LogIndex, MemberId, Now, Revision, StreamId, Term},
    wal::{BOOTSTRAP_TERM, Identity, Planner, WalSettings},
    watch::{Hub, HubInput, HubLimits, WatchResponse},
};
use quorate_web::{
    backend::{Backend, Consistency, Context, Status},
    watch_stream::{self, HubRequest, WatchReceiver, WatchSender},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};

pub const MEMBER: MemberId = MemberId(0x8e9e05c52164694d);
pub const CLUSTER: ClusterId = ClusterId(0xcdf818194e3a8c32);
/// A voter that is not there. A test may speak for it.
const OTHER: MemberId = MemberId(0xa5);

const LOCKED: &str = "no test panics while it holds the member";
const QUOTA_BYTES: u64 = 2 << 30;
const MAX_REQUEST_BYTES: usize = 1_536 << 10;

/// Requests of all streams waiting for the hub.
const HUB_REQUESTS: usize = 64;

#[derive(Clone, Debug)]
pub struct Local {
    host: Arc<Mutex<Host>>,
    hub: mpsc::Sender<HubRequest>,
}

#[derive(Debug)]
struct Host {
    now: Now,
    log: LogHalf,
    state: StateHalf<MemoryStore>,
    hub: Hub<MemoryStore>,
    store: MemoryStore,
    /// The state published last.
    view: Arc<View<MemoryStore>>,
    v2_index: watch::Sender<u64>,
    /// The newest batch in `store`.
    persisted: BatchNumber,
    /// What happened, in order, and nobody was told yet.
    inputs: VecDeque<Input>,
    tickets: u64,
    answers: BTreeMap<Ticket, Result<Answer, Refusal>>,
    streams: BTreeMap<StreamId, Client>,
    streams_opened: u64,
    /// Bytes of watch responses reported as taken.
    drained: usize,
}

/// A watch stream's way back.
#[derive(Debug)]
struct Client {
    responses: mpsc::UnboundedSender<WatchResponse>,
    full: watch::Sender<bool>,
}

#[derive(Debug)]
enum Input {
    Log(LogInput),
    State(StateInput<MemoryStore>),
}

impl Local {
    /// The only member, and the leader.
    pub fn new() -> Self {
        Self::leading(MemberLimits::default())
    }

    /// It leads, and already has as many requests as it takes.
    pub fn crowded() -> Self {
        Self::leading(MemberLimits { tickets: 0, ..MemberLimits::default() })
    }

    /// One of two voters, of which the other is not there.
    pub fn without_leader() -> Self {
        Self::of(Host::open(&[MEMBER, OTHER], &[], settings()))
    }

    /// It follows the other one, which was heard once. What needs an answer from there times out long before the leader is given up.
    pub fn following() -> Self {
        let settings = MemberSettings { request_timeout: Duration::from_millis(5), ..settings() };
        let mut host = Host::open(&[MEMBER, OTHER], &[], settings);
        let heartbeat = RaftMessage::Heartbeat { commit: LogIndex(0), round: 0, replicated: LogIndex(0) };
        let message = Message::Raft(heartbeat);
        host.tell(Input::Log(LogInput::Peer(Envelope { from: OTHER, to: MEMBER, term: Term(2), message })));
        assert_eq!(host.log.status().leader, Some(OTHER));
        Self::of(host)
    }

    pub fn learner() -> Self {
        Self::of(Host::open(&[OTHER], &[MEMBER], settings()))
    }

    fn leading(limits: MemberLimits) -> Self {
        let mut host = Host::open(&[MEMBER], &[], MemberSettings { limits, ..settings() });
        while host.log.status().leader != Some(MEMBER) {
            host.wait();
        }
        Self::of(host)
    }

    fn of(host: Host) -> Self {
        let (hub, mut requests) = mpsc::channel(HUB_REQUESTS);
        let local = Self { host: Arc::new(Mutex::new(host)), hub };
        let host = Arc::clone(&local.host);
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                host.lock().expect(LOCKED).take(request);
            }
        });
        local
    }

    /// So much time passes without a word that the leader is given up.
    pub fn lose_leader(&self) {
        let mut host = self.host();
        assert_ne!(host.log.status().leader, Some(MEMBER), "the only voter leads for ever");
        while host.log.status().leader.is_some() {
            host.wait();
        }
    }

    /// So much time passes.
    pub fn pass(&self, time: Duration) {
        let mut host = self.host();
        let until = host.now.monotonic + time;
        while host.log.deadline().min(host.state.deadline()) <= until {
            host.wait();
        }
        host.now.monotonic = until;
    }

    pub fn drained(&self) -> usize {
        self.host().drained
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().expect(LOCKED)
    }
}

fn settings() -> MemberSettings {
    MemberSettings { quota_bytes: Some(QUOTA_BYTES), ..MemberSettings::default() }
}

impl Host {
    fn open(voters: &[MemberId], learners: &[MemberId], settings: MemberSettings) -> Self {
        let configuration = Configuration {
            voters: voters.iter().copied().collect(),
            learners: learners.iter().copied().collect(),
            peer_urls: voters.iter().chain(learners).map(|member| (*member, vec!["http://127.0.0.1:2380".into()])).collect(),
            ..Configuration::default()
        };
        let payload = Payload::Configuration { request: None, configuration: configuration.clone() };
        let founding = Entry { id: LogId { term: BOOTSTRAP_TERM, index: LogIndex(1) }, payload };
        let identity = Identity { cluster: CLUSTER, member: MEMBER };
        let recovered = Planner::bootstrap(identity, vec![founding], WalSettings::default(), [0; 32]);
        let consensus = Settings {
            member: MEMBER,
            boot: recovered.boot,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            pre_vote: true,
            advance_first_election: false,
            seed: [0; 32],
            limits: Limits::default(),
        };
        let (now, store) = (Now::default(), MemoryStore::default());
        let machine = MachineSettings { member: MEMBER, boot: recovered.boot, limits: MachineLimits::default() };
        let machine = Machine::open(machine, store.clone()).expect("an empty store opens");
        let (log, state) = member::open(consensus, settings, recovered, configuration, machine, store.bytes(), now);
        let view = state.view();
        let hub = Hub::new(HubLimits::default(), Arc::clone(&view), now);
        let mut host = Self {
            now,
            log,
            state,
            hub,
            store,
            v2_index: watch::Sender::new(view.v2_index()),
            view,
            persisted: BatchNumber::default(),
            inputs: VecDeque::new(),
            tickets: 0,
            answers: BTreeMap::new(),
            streams: BTreeMap::new(),
            streams_opened: 0,
            drained: 0,
        };
        host.flush_log(Vec::new());
        host.flush_state(Vec::new());
        host.settle();
        assert!(host.log.is_open(), "its boot is durable");
        host
    }

    /// Asks the member; if the answer is not there at once, time passes until it is.
    fn ask(&mut self, body: Body, context: Context) -> Result<Answer, Refusal> {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let deadline = context.deadline.map(|deadline| self.now.monotonic + deadline.saturating_duration_since(Instant::now()));
        self.tell(Input::Log(LogInput::Client(Request { ticket, deadline, require_leader: context.require_leader, body })));
        loop {
            match self.answers.remove(&ticket) {
                Some(answer) => return answer,
                None => self.wait(),
            }
        }
    }

    /// Until something is due.
    fn wait(&mut self) {
        self.now.monotonic = self.now.monotonic.max(self.log.deadline().min(self.state.deadline()));
        self.inputs.push_back(Input::State(StateInput::Wake));
        self.tell(Input::Log(LogInput::Wake));
    }

    /// Something happens, and everything that follows from it.
    fn tell(&mut self, input: Input) {
        self.inputs.push_back(input);
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            while let Some(input) = self.inputs.pop_front() {
                self.step(input);
            }
            if !self.state.has_background_work() {
                return;
            }
            self.inputs.push_back(Input::State(StateInput::Work));
        }
    }

    fn step(&mut self, input: Input) {
        match input {
            Input::Log(input) => {
                let mut out = Vec::new();
                self.log.step(self.now, input, &mut out);
                self.flush_log(out);
            }
            Input::State(input) => {
                let mut out = Vec::new();
                self.state.step(self.now, input, &mut out);
                self.flush_state(out);
            }
        }
    }

    fn flush_log(&mut self, mut out: Vec<LogEffect>) {
        self.log.flush(self.now, &mut out);
        for effect in out {
            match effect {
                LogEffect::Wal(WalWork::Write { number, .. }) => self.inputs.push_back(Input::Log(LogInput::Wal(WalDone::Durable(number)))),
                LogEffect::Wal(WalWork::Read { .. }) => unreachable!("nobody is there who could lack an entry"),
                LogEffect::State(order) => self.inputs.push_back(Input::State(StateInput::Log(order))),
                LogEffect::Answer(ticket, answer) => drop(self.answers.insert(ticket, answer)),
                LogEffect::Wal(WalWork::Prepare { .. }) | LogEffect::Send(_) | LogEffect::Connect(_) | LogEffect::Notice(_) => {}
                LogEffect::Fatal(reason) => panic!("{reason}"),
            }
        }
    }

    fn flush_state(&mut self, mut out: Vec<StateEffect<MemoryStore>>) {
        self.state.flush(self.now, &mut out);
        for effect in out {
            match effect {
                StateEffect::Store(StoreWork::Persist { number, batch, .. }) => {
                    self.store.write(&batch);
                    self.persisted = number;
                    let (reader, stored_bytes) = (self.store.clone(), self.store.bytes());
                    self.stored(StoreDone::Persisted { number, reader, stored_bytes });
                }
                StateEffect::Store(StoreWork::Sync) => self.stored(StoreDone::Synced(self.persisted)),
                StateEffect::Store(StoreWork::Retire { table, below }) => {
                    self.store.retire(table, below);
                    let (reader, stored_bytes) = (self.store.clone(), self.store.bytes());
                    self.stored(StoreDone::Retired { reader, stored_bytes });
                }
                StateEffect::Publish(view) => {
                    self.view = Arc::clone(&view);
                    self.v2_index.send_if_modified(|index| std::mem::replace(index, view.v2_index()) != view.v2_index());
                    self.step_hub(HubInput::<MemoryStore>::Published(view));
                }
                StateEffect::Answer(ticket, answer) => drop(self.answers.insert(ticket, answer)),
                StateEffect::Log(report) => self.inputs.push_back(Input::Log(LogInput::State(report))),
                StateEffect::Store(_) | StateEffect::ReadChunk(_) | StateEffect::Snapshot(_) => {
                    unreachable!("nobody lacks what the log has")
                }
                StateEffect::Fatal(reason) => panic!("{reason}"),
            }
        }
    }

    fn stored(&mut self, done: StoreDone<MemoryStore>) {
        self.inputs.push_back(Input::State(StateInput::Store(done)));
    }

    fn step_hub(&mut self, input: HubInput<MemoryStore>) {
        let mut effects = Vec::new();
        self.hub.step(self.now, input, &mut effects);
        self.hub.flush(self.now, &mut effects);
        while self.hub.deadline() <= self.now.monotonic {
            self.hub.flush(self.now, &mut effects);
        }
        for effect in effects {
            if let Some(client) = self.streams.get(&effect.stream) {
                // A receiver that is gone closes its stream soon.
                let _ = client.responses.send(effect.response);
            }
        }
        for (stream, client) in &self.streams {
            let is_full = self.hub.is_over_budget(*stream);
            client.full.send_if_modified(|full| std::mem::replace(full, is_full) != is_full);
        }
    }

    fn take(&mut self, request: HubRequest) {
        let input = match request {
            HubRequest::Open { stream, responses, full } => {
                self.streams.insert(stream, Client { responses, full });
                HubInput::<MemoryStore>::Open(stream)
            }
            HubRequest::Stream(stream, request) => request.input(stream),
            HubRequest::Drained(stream, bytes) => {
                self.drained += bytes;
                HubInput::<MemoryStore>::Drained(stream, bytes)
            }
            HubRequest::Close(stream) => {
                self.streams.remove(&stream);
                HubInput::<MemoryStore>::Close(stream)
            }
        };
        self.step_hub(input);
    }
}

impl Backend for Local {
    type Reader = MemoryStore;

    async fn propose(&self, command: Command, context: Context) -> Result<Reply, Refusal> {
        let mut host = self.host();
        let prepared = admit(&host.view, MEMBER, &command, context.request_bytes, MAX_REQUEST_BYTES)?;
        host.ask(Body::Propose(prepared), context).map(Answer::into_reply)
    }

    async fn view(&self, consistency: Consistency, context: Context) -> Result<Arc<View<MemoryStore>>, Refusal> {
        let mut host = self.host();
        if consistency == Consistency::Linearizable {
            host.ask(Body::Read, context)?;
        }
        Ok(Arc::clone(&host.view))
    }

    fn current(&self) -> Arc<View<MemoryStore>> {
        Arc::clone(&self.host().view)
    }

    async fn lease(&self, call: LeaseCall, context: Context) -> Result<Option<LeaseTime>, Refusal> {
        self.host().ask(Body::Lease(call), context).map(Answer::into_lease_time)
    }

    fn watch(&self, _: Context) -> (WatchSender, WatchReceiver) {
        let mut host = self.host();
        host.streams_opened += 1;
        watch_stream::open(self.hub.clone(), StreamId(host.streams_opened))
    }

    fn v2_changes(&self) -> watch::Receiver<u64> {
        self.host().v2_index.subscribe()
    }

    fn status(&self) -> Status {
        let host = self.host();
        let signed = |bytes: u64| i64::try_from(bytes).expect("a test's store is small");
        Status {
            cluster: CLUSTER,
            raft: host.log.status(),
            db_bytes: signed(host.store.bytes()),
            db_bytes_in_use: signed(host.view.live_bytes()),
            quota_bytes: signed(QUOTA_BYTES),
        }
    }

    async fn transfer(&self, target: MemberId, context: Context) -> Result<(), Refusal> {
        self.host().ask(Body::Transfer(target), context).map(drop)
    }

    /// Background work is done as soon as there is some.
    async fn compacted_physically(&self, revision: Revision, _: Context) -> Result<(), Refusal> {
        assert!(self.current().compact_revision() >= revision, "asked once the compaction was answered");
        Ok(())
    }
}
