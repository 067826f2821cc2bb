//! Clients of a run under faults: writers, readers, watchers, and one that compacts. Each records all it does.

use crate::{recorder::Recorder, wire, witness};
use quorate_checker::history::{
    ClientId, Compare, DeleteRange, Delivery, Keys, OpId, Outcome, Put, Range, Relation, Request, Response, Target, Txn, Watch,
};
use quorate_web::proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, WatchResponse, kv_client::KvClient, watch_client::WatchClient, watch_request::RequestUnion,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};
use tonic::{Streaming, transport::Channel};

const KEYS: u64 = 64;
/// A client gives an operation up after so long; what became of it is unknown then.
const OPERATION_LIMIT: Duration = Duration::from_secs(5);
/// A prober gives up sooner, so that it notices the end of an outage: others may still wait for a member that is gone.
const PROBE_LIMIT: Duration = Duration::from_millis(200);
/// One attempt of a client that waits for the first write to be acknowledged.
const FIRST_WRITE_LIMIT: Duration = Duration::from_secs(1);
/// Between two tries of a client that could not do anything.
const BACKOFF: Duration = Duration::from_millis(100);
const COMPACTION_PERIOD: Duration = Duration::from_secs(2);
/// How many revisions the compactions leave.
const COMPACTION_KEEPS: i64 = 500;

#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    pub writers: usize,
    pub readers: usize,
    pub watchers: usize,
    /// What a writer or reader waits between two operations.
    pub pause: Duration,
}

/// Starts all clients; they end when the recorder says so.
pub fn start(runtime: &tokio::runtime::Runtime, recorder: &Arc<Recorder>, endpoints: &[String], numbers: Numbers) -> Clients {
    let channels: Vec<_> = endpoints
        .iter()
        .map(|endpoint| Channel::from_shared(format!("http://{endpoint}")).expect("an address"))
        .map(|endpoint| endpoint.connect_timeout(Duration::from_secs(1)))
        .collect();
    let _inside = runtime.enter();
    let mut clients = Clients { operating: Vec::new(), watching: Vec::new() };
    let mut number = 0;
    // Every client has a connection of its own to each member, as separate programs would.
    let mut client = |limit| {
        number += 1;
        Client {
            number,
            limit,
            pause: numbers.pause,
            recorder: Arc::clone(recorder),
            channels: channels.iter().map(tonic::transport::Endpoint::connect_lazy).collect(),
            member: number as usize % channels.len(),
            random: ChaCha8Rng::seed_from_u64(u64::from(number)),
        }
    };
    for _ in 0..numbers.writers {
        clients.operating.push(runtime.spawn(client(OPERATION_LIMIT).write()));
    }
    for _ in 0..channels.len() {
        clients.operating.push(runtime.spawn(client(PROBE_LIMIT).write()));
    }
    for _ in 0..numbers.readers {
        clients.operating.push(runtime.spawn(client(OPERATION_LIMIT).read()));
    }
    clients.operating.push(runtime.spawn(client(OPERATION_LIMIT).compact()));
    for watcher in 0..numbers.watchers {
        clients.watching.push(runtime.spawn(client(OPERATION_LIMIT).watch(watcher)));
    }
    clients
}

#[derive(Debug)]
pub struct Clients {
    operating: Vec<tokio::task::JoinHandle<()>>,
    watching: Vec<tokio::task::JoinHandle<()>>,
}

impl Clients {
    /// Waits for the operations under way after the recorder said stop.
    pub async fn finish_operations(&mut self) {
        for client in self.operating.drain(..) {
            client.await.expect("no client panics");
        }
    }

    pub fn end_watches(self) {
        self.watching.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// A last linearizable read of everything, so that the end is known.
pub async fn read_everything(recorder: &Recorder, endpoint: &str) -> bool {
    let Ok(endpoint) = Channel::from_shared(format!("http://{endpoint}")) else { return false };
    let (op, request) = recorder.invoke(0, |_| Request::Range(Range::default()));
    let outcome =
        timeout(OPERATION_LIMIT, wire::send(&mut KvClient::new(endpoint.connect_lazy()), &request)).await.unwrap_or(Outcome::Unknown);
    let done = matches!(outcome, Outcome::Ok { .. });
    recorder.returned(op, outcome);
    done
}

/// Writes through one member until it acknowledges one; says how long that took. What the value holds beyond its name is filling.
pub async fn first_write(recorder: &Recorder, client: ClientId, endpoint: &str, value_bytes: usize, limit: Duration) -> Option<Duration> {
    let start = Instant::now();
    let key = format!("first{client}").into_bytes();
    let endpoint = Channel::from_shared(format!("http://{endpoint}")).expect("an address").connect_timeout(Duration::from_secs(1));
    let mut kv = KvClient::new(endpoint.connect_lazy());
    let attempt_limit = if value_bytes == 0 { FIRST_WRITE_LIMIT } else { OPERATION_LIMIT };
    while start.elapsed() < limit {
        let (op, request) = recorder.invoke(client, |op| {
            let mut value = format!("{op}:{client}").into_bytes();
            value.resize(value.len().max(value_bytes), b'.');
            Request::Put(Put { key: key.clone(), value, ..Put::default() })
        });
        let outcome = timeout(attempt_limit, wire::send(&mut kv, &request)).await.unwrap_or(Outcome::Unknown);
        let is_done = matches!(outcome, Outcome::Ok { .. });
        recorder.returned(op, outcome);
        if is_done {
            return Some(start.elapsed());
        }
        sleep(BACKOFF).await;
    }
    None
}

struct Client {
    number: ClientId,
    limit: Duration,
    pause: Duration,
    recorder: Arc<Recorder>,
    channels: Vec<Channel>,
    member: usize,
    random: ChaCha8Rng,
}

impl Client {
    fn below(&mut self, bound: u64) -> u64 {
        self.random.next_u64() % bound
    }

    fn key(&mut self) -> Vec<u8> {
        format!("key{:02}", self.below(KEYS)).into_bytes()
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channels[self.member].clone())
    }

    /// One operation, recorded; a client that is not served turns to the next member after a moment.
    async fn operate(&mut self, request: impl FnOnce(OpId) -> Request) -> bool {
        let (op, request) = self.recorder.invoke(self.number, request);
        let outcome = timeout(self.limit, wire::send(&mut self.kv(), &request)).await.unwrap_or(Outcome::Unknown);
        let served = matches!(outcome, Outcome::Ok { .. });
        self.recorder.returned(op, outcome);
        if !served {
            self.member = (self.member + 1) % self.channels.len();
            sleep(BACKOFF).await;
        } else if !self.pause.is_zero() {
            sleep(self.pause).await;
        }
        served
    }

    async fn write(mut self) {
        while !self.recorder.stopped() {
            let (kind, key, other, client) = (self.below(20), self.key(), self.key(), self.number);
            self.operate(|op| {
                let put =
                    |key| Request::Put(Put { key, value: format!("{op}:{client}").into_bytes(), prev_kv: kind < 2, ..Put::default() });
                match kind {
                    0..14 => put(key),
                    14 => {
                        let end = Some(witness::mark(&key, op));
                        Request::DeleteRange(DeleteRange { keys: Keys { key, end }, prev_kv: true })
                    }
                    15 if key != other => Request::Txn(Txn { success: vec![put(key), put(other)], ..Txn::default() }),
                    _ => {
                        let read = Request::Range(Range { keys: Keys::one(key.clone()), ..Range::default() });
                        let compare = Compare { keys: Keys::one(key.clone()), relation: Relation::Greater, target: Target::Version(2) };
                        Request::Txn(Txn { compare: vec![compare], success: vec![read.clone(), put(key)], failure: vec![read] })
                    }
                }
            })
            .await;
        }
    }

    /// Half of the reads may be stale; those of one life of one member must not go back.
    async fn read(mut self) {
        let mut attached = None;
        while !self.recorder.stopped() {
            let here = (self.member, self.recorder.life(self.member));
            if attached != Some(here) {
                self.recorder.attached(self.number, here.0);
                attached = Some(here);
            }
            let kind = self.below(10);
            let keys = if kind == 0 { Keys::default() } else { Keys::one(self.key()) };
            let limit = i64::try_from(self.below(3) * 10).expect("small");
            let range = Range { keys, limit, serializable: kind % 2 == 1, ..Range::default() };
            let (op, request) = self.recorder.invoke(self.number, |_| Request::Range(range));
            let mut outcome = timeout(OPERATION_LIMIT, wire::send(&mut self.kv(), &request)).await.unwrap_or(Outcome::Unknown);
            let served = matches!(outcome, Outcome::Ok { .. });
            if self.recorder.life(here.0) != here.1 {
                // Which of the member's lives answered is not known.
                outcome = Outcome::Unknown;
            }
            self.recorder.returned(op, outcome);
            if !served {
                self.member = (self.member + 1) % self.channels.len();
                sleep(BACKOFF).await;
            } else if !self.pause.is_zero() {
                sleep(self.pause).await;
            }
        }
    }

    /// Never to one revision twice, so that the log says whose a compaction is.
    async fn compact(mut self) {
        let mut last = 0;
        while !self.recorder.stopped() {
            sleep(COMPACTION_PERIOD).await;
            let revision = self.recorder.newest_revision() - COMPACTION_KEEPS;
            if revision > last {
                last = revision;
                self.operate(|_| Request::Compact { revision }).await;
            }
        }
    }

    /// Watches everything; resumes after the last revision it knows, on another member, whenever its stream breaks.
    async fn watch(mut self, watcher: usize) {
        let mut next = 1;
        loop {
            let watch = Watch { start_revision: next, prev_kv: true, ..Watch::default() };
            let (op, _) = self.recorder.invoke(self.number, |_| Request::Watch(watch.clone()));
            match timeout(OPERATION_LIMIT, self.open(&watch)).await {
                Ok(Ok((_requests, mut stream, revision))) => {
                    self.recorder.returned(op, Outcome::Ok { response: Response::Watch { revision }, rank: None });
                    next = self.follow(watcher, op, next, &mut stream).await;
                }
                _ => self.recorder.returned(op, Outcome::Unknown),
            }
            self.member = (self.member + 1) % self.channels.len();
            sleep(BACKOFF).await;
        }
    }

    async fn open(&self, watch: &Watch) -> Result<(tokio::sync::mpsc::Sender<WatchRequest>, Streaming<WatchResponse>, i64), tonic::Status> {
        let (key, range_end) = wire::to_keys(&watch.keys);
        let create = WatchCreateRequest { key, range_end, start_revision: watch.start_revision, prev_kv: true, ..Default::default() };
        let (requests, queue) = tokio::sync::mpsc::channel(1);
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.try_send(create).expect("the queue is empty");
        let queue = futures::stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|request| (request, queue)) });
        let channel = self.channels[self.member].clone();
        let mut stream = WatchClient::new(channel).max_decoding_message_size(usize::MAX).watch(queue).await?.into_inner();
        match stream.message().await? {
            Some(created) if created.created && !created.canceled => Ok((requests, stream, wire::revision_of(created.header.as_ref()))),
            other => Err(tonic::Status::unknown(format!("not created: {other:?}"))),
        }
    }

    /// Records what comes until the stream ends; returns the revision to resume at.
    async fn follow(&self, watcher: usize, op: OpId, mut next: i64, stream: &mut Streaming<WatchResponse>) -> i64 {
        loop {
            let delivery = match stream.message().await {
                Ok(Some(response)) if response.canceled && response.compact_revision > 0 => {
                    next = response.compact_revision;
                    Delivery::Compacted { compact_revision: response.compact_revision }
                }
                Ok(Some(response)) if !response.canceled => {
                    let revision = wire::revision_of(response.header.as_ref());
                    if response.events.is_empty() {
                        next = next.max(revision + 1);
                        Delivery::Progress { revision }
                    } else {
                        let events: Vec<_> = response.events.into_iter().map(wire::from_event).collect();
                        next = events.iter().map(|event| event.kv.mod_revision + 1).max().unwrap_or(next);
                        Delivery::Events { revision, events }
                    }
                }
                _ => Delivery::Closed,
            };
            let over = matches!(delivery, Delivery::Closed | Delivery::Compacted { .. });
            self.recorder.delivered(watcher, op, delivery);
            if over {
                return next;
            }
        }
    }
}
