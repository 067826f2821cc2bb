//! Leases of real members in true time: kept and let go while leaders are killed, and very many due at one moment.

use crate::process::{Cluster, Server};
use futures::StreamExt as _;
use quorate_checker::lease::LeaseOracle;
use quorate_web::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, MoveLeaderRequest, PutRequest, RangeRequest, RequestOp, StatusRequest,
    TxnRequest, WatchCreateRequest, WatchRequest, kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
    request_op, watch_client::WatchClient, watch_request::RequestUnion,
};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::{
    collections::BTreeMap,
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::timeout};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

const MEMBERS: usize = 3;
/// Clients that each grant one lease after the other.
const HOLDERS: u64 = 48;
/// Members of one machine have one clock.
const DRIFT_PPM: u64 = 1_000;
/// How late a lease may end, its way to the watcher included.
const SLACK: Duration = Duration::from_secs(2);
/// Between two kills of a leader.
const KILL_INTERVAL: Duration = Duration::from_secs(7);
/// How long a killed leader stays down.
const DOWN: Duration = Duration::from_secs(2);
/// How often members are asked who leads.
const POLL: Duration = Duration::from_millis(25);
/// A request that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// The last leases have ended by then.
const AFTERMATH: Duration = Duration::from_secs(15);
/// While all those leases end, a client's put waits for no longer.
const GAP_LIMIT: Duration = Duration::from_millis(200);
/// And all of them are gone within this.
const GONE_LIMIT: Duration = Duration::from_secs(10);
/// Puts in one transaction; the default `--max-txn-ops` allows 128.
const TXN_OPS: i64 = 100;
const POISONED: &str = "no client panics";

#[derive(clap::Args, Debug)]
pub struct Options {
    /// How often the leader is killed with SIGKILL.
    #[arg(long, default_value_t = 10)]
    kills: u32,
    /// Leases that are due at one moment.
    #[arg(long, default_value_t = 100_000)]
    together: i64,
    /// A short run: two kills, 5,000 leases.
    #[arg(long)]
    smoke: bool,
    /// Run it against etcd, whose leases begin anew with each leader and end a thousand a second: what else is wrong is the suite's
    /// own fault.
    #[arg(long)]
    self_check: bool,
}

pub fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let server = if options.self_check { Server::Etcd } else { Server::Quorate };
    let (kills, together, ttl_s) = if options.smoke { (2, 5_000, 10) } else { (options.kills, options.together, 60) };
    let lives = through_kills(server, kills)?;
    let together = due_together(server, together, ttl_s)?;
    Ok(lives && together)
}

fn channels(cluster: &Cluster) -> Result<Vec<Channel>, Box<dyn Error>> {
    let connect =
        |client: &String| Endpoint::from_shared(format!("http://{client}")).map(|endpoint| endpoint.timeout(PATIENCE).connect_lazy());
    Ok(cluster.members.iter().map(|member| connect(&member.client)).collect::<Result<_, _>>()?)
}

/// Who leads and in which term, as any member says that answers at once.
async fn leader(channels: &[Channel]) -> Option<(u64, usize)> {
    let mut found = None;
    for (number, channel) in channels.iter().enumerate() {
        let asked = timeout(Duration::from_millis(200), MaintenanceClient::new(channel.clone()).status(StatusRequest {})).await;
        let Ok(Ok(status)) = asked.map(|answer| answer.map(tonic::Response::into_inner)) else { continue };
        let own = status.header.as_ref().map_or(0, |header| header.member_id);
        if status.leader == own && own != 0 {
            found = found.max(Some((status.raft_term, number)));
        }
    }
    found
}

/// What all clients of the run share.
struct Run {
    channels: Vec<Channel>,
    begun: Instant,
    oracle: Mutex<LeaseOracle>,
    /// Leases whose end is awaited.
    awaited: Mutex<BTreeMap<i64, Arc<Notify>>>,
    broken: Mutex<Vec<String>>,
    next: AtomicI64,
    stopping: AtomicBool,
    granted: AtomicU64,
    kept: AtomicU64,
    expired: AtomicU64,
}

impl Run {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn oracle(&self) -> MutexGuard<'_, LeaseOracle> {
        self.oracle.lock().expect(POISONED)
    }

    fn note(&self, found: Result<(), String>) {
        if let Err(text) = found {
            self.broken.lock().expect(POISONED).push(text);
        }
    }

    fn stops(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// Leases are kept for a while and let go, and leaders die meanwhile.
fn through_kills(server: Server, kills: u32) -> Result<bool, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut cluster = Cluster::start(server, MEMBERS, &[])?;
    let _inside = runtime.enter();
    let slack = u64::try_from(SLACK.as_nanos())?;
    let mut oracle = LeaseOracle::new(DRIFT_PPM, slack);
    oracle.healed(0);
    let run = Arc::new(Run {
        channels: channels(&cluster)?,
        begun: Instant::now(),
        oracle: Mutex::new(oracle),
        awaited: Mutex::default(),
        broken: Mutex::default(),
        next: AtomicI64::new(1),
        stopping: AtomicBool::new(false),
        granted: AtomicU64::new(0),
        kept: AtomicU64::new(0),
        expired: AtomicU64::new(0),
    });
    let mut tasks: Vec<_> = (0..MEMBERS).map(|member| tokio::spawn(observe(Arc::clone(&run), member))).collect();
    tasks.push(tokio::spawn(follow_leaders(Arc::clone(&run))));
    let holders: Vec<_> = (0..HOLDERS).map(|holder| tokio::spawn(hold(Arc::clone(&run), holder))).collect();
    for _ in 0..kills {
        std::thread::sleep(KILL_INTERVAL);
        let Some((_, member)) = runtime.block_on(leader(&run.channels)) else { continue };
        cluster.members[member].kill()?;
        std::thread::sleep(DOWN);
        cluster.members[member].start()?;
    }
    run.stopping.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        for holder in holders {
            let _ = timeout(AFTERMATH, holder).await;
        }
    });
    let overdue = run.oracle().overdue(run.now());
    run.note(overdue);
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    let broken = std::mem::take(&mut *run.broken.lock().expect(POISONED));
    let [granted, kept, expired] = [&run.granted, &run.kept, &run.expired].map(|count| count.load(Ordering::Relaxed));
    for text in &broken {
        println!("FAILED: {text}");
    }
    println!(
        "{granted} leases granted, {kept} keepalives answered, {expired} expired through {kills} kills of the leader; {} promises broken",
        broken.len()
    );
    Ok(broken.is_empty() && expired > 0)
}

/// One lease after the other: granted with a key, kept alive some times, and let go.
async fn hold(run: Arc<Run>, holder: u64) {
    let mut chance = ChaCha8Rng::seed_from_u64(holder);
    let mut below = move |most: u64| chance.next_u64() % most;
    while !run.stops() {
        let lease = run.next.fetch_add(1, Ordering::Relaxed);
        let ttl_s = 2 + below(4).cast_signed();
        let member = usize::try_from(below(MEMBERS as u64)).expect("small");
        let channel = run.channels[member].clone();
        let called = run.now();
        let grant = LeaseGrantRequest { id: lease, ttl: ttl_s };
        if LeaseClient::new(channel.clone()).lease_grant(grant).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        run.oracle().granted(lease, ttl_s, called, run.now());
        run.granted.fetch_add(1, Ordering::Relaxed);
        let over = Arc::new(Notify::new());
        run.awaited.lock().expect(POISONED).insert(lease, Arc::clone(&over));
        let put = PutRequest { key: key_of(lease).into(), lease, ..PutRequest::default() };
        let mut attached = KvClient::new(channel).put(put.clone()).await.is_ok();
        let mut keep = below(6);
        while keep > 0 {
            tokio::time::sleep(Duration::from_millis(u64::try_from(ttl_s).unwrap_or(1) * (150 + below(350)))).await;
            let channel = run.channels[usize::try_from(below(MEMBERS as u64)).expect("small")].clone();
            if !attached {
                attached = KvClient::new(channel.clone()).put(put.clone()).await.is_ok();
            }
            match keep_alive(&run, channel, lease).await {
                Some(None) => break,
                Some(Some(_)) => keep -= 1,
                None => {}
            }
        }
        if !attached {
            // Whether it has a key is not known, so neither is whether its end will show.
            run.oracle().revoked(lease, run.now());
            run.awaited.lock().expect(POISONED).remove(&lease);
            continue;
        }
        // Its end has come already if it lived no longer than its key.
        if run.awaited.lock().expect(POISONED).contains_key(&lease) && timeout(AFTERMATH, over.notified()).await.is_err() {
            let overdue = run.oracle().overdue(run.now());
            run.note(overdue);
        }
    }
}

fn key_of(lease: i64) -> String {
    format!("l/{lease}")
}

/// One keepalive: what it was answered, or that nobody knows.
async fn keep_alive(run: &Run, channel: Channel, lease: i64) -> Option<Option<i64>> {
    let called = run.now();
    run.oracle().asked(lease, called);
    let asked = async {
        let requests = futures::stream::iter([LeaseKeepAliveRequest { id: lease }]).chain(futures::stream::pending());
        let mut answers = LeaseClient::new(channel).lease_keep_alive(requests).await?.into_inner();
        answers.message().await?.ok_or_else(|| Status::unknown("the stream ended"))
    };
    let answer = match timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Some((answer.ttl > 0).then_some(answer.ttl)),
        Ok(Err(_)) | Err(_) => None,
    };
    let found = run.oracle().kept(lease, called, run.now(), answer.filter(Option::is_some));
    run.note(found);
    if answer.is_some_and(|answer| answer.is_some()) {
        run.kept.fetch_add(1, Ordering::Relaxed);
    }
    answer
}

/// Watches all keys on one member, and goes on where it was when that is back. The first watcher that sees a key go tells the oracle.
async fn observe(run: Arc<Run>, member: usize) {
    let mut next = 1;
    loop {
        let create = WatchCreateRequest { key: "l/".into(), range_end: "l0".into(), start_revision: next, ..WatchCreateRequest::default() };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let requests = futures::stream::iter([request]).chain(futures::stream::pending());
        if let Ok(answers) = WatchClient::new(run.channels[member].clone()).watch(requests).await {
            let mut answers = answers.into_inner();
            while let Ok(Some(answer)) = answers.message().await {
                for event in answer.events {
                    let Some(kv) = event.kv else { continue };
                    next = kv.mod_revision + 1;
                    let lease = str::from_utf8(&kv.key).ok().and_then(|key| key.strip_prefix("l/")).and_then(|id| id.parse().ok());
                    if let Some(lease) = lease.filter(|_| event.r#type == 1) {
                        on_gone(&run, lease);
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn on_gone(run: &Run, lease: i64) {
    let Some(over) = run.awaited.lock().expect(POISONED).remove(&lease) else { return };
    let found = run.oracle().expired(lease, run.now());
    run.note(found);
    run.expired.fetch_add(1, Ordering::Relaxed);
    over.notify_one();
}

async fn follow_leaders(run: Arc<Run>) {
    let mut term = 0;
    loop {
        if let Some((newest, _)) = leader(&run.channels).await.filter(|(newest, _)| *newest > term) {
            term = newest;
            run.oracle().promoted(run.now());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A new leader gives all leases their whole time from one moment on, so that is when they are due.
fn due_together(server: Server, leases: i64, ttl_s: i64) -> Result<bool, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let cluster = Cluster::start(server, MEMBERS, &[])?;
    let _inside = runtime.enter();
    let channels = channels(&cluster)?;
    runtime.block_on(async {
        let begun = Instant::now();
        grant_all(&channels, leases, ttl_s).await?;
        let (_, old) = leader(&channels).await.ok_or("no leader")?;
        let new = (old + 1) % MEMBERS;
        let status = MaintenanceClient::new(channels[new].clone()).status(StatusRequest {}).await?.into_inner();
        let target_id = status.header.map_or(0, |header| header.member_id);
        MaintenanceClient::new(channels[old].clone()).move_leader(MoveLeaderRequest { target_id }).await?;
        println!("{leases} leases of {ttl_s} s granted in {:.1} s, then another leader", begun.elapsed().as_secs_f64());
        watch_them_go(&channels, leases).await
    })
}

/// Each with a key.
async fn grant_all(channels: &[Channel], leases: i64, ttl_s: i64) -> Result<(), Box<dyn Error>> {
    let chunks = (1..=leases).step_by(usize::try_from(TXN_OPS)?);
    let work = futures::stream::iter(chunks.zip(channels.iter().cycle())).map(|(first, channel)| async move {
        let last = leases.min(first + TXN_OPS - 1);
        for lease in first..=last {
            LeaseClient::new(channel.clone()).lease_grant(LeaseGrantRequest { id: lease, ttl: ttl_s }).await?;
        }
        let put = |lease| PutRequest { key: format!("t/{lease:08}").into(), lease, ..PutRequest::default() };
        let success = (first..=last).map(|lease| RequestOp { request: Some(request_op::Request::RequestPut(put(lease))) }).collect();
        KvClient::new(channel.clone()).txn(TxnRequest { success, ..TxnRequest::default() }).await?;
        Ok::<_, Status>(())
    });
    let mut work = std::pin::pin!(work.buffer_unordered(64));
    while let Some(done) = work.next().await {
        done?;
    }
    Ok(())
}

/// When a put was answered last, and the longest that all of them together went without an answer.
type Gap = Mutex<(Instant, Duration)>;

fn note_answer(gap: &Gap) {
    let mut gap = gap.lock().expect(POISONED);
    *gap = (Instant::now(), gap.1.max(gap.0.elapsed()));
}

/// Puts go on while the leases end; tells how long one waited, and how long it took until all were gone.
async fn watch_them_go(channels: &[Channel], leases: i64) -> Result<bool, Box<dyn Error>> {
    let longest = Arc::new(Mutex::new((Instant::now(), Duration::ZERO)));
    let ended = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = channels
        .iter()
        .enumerate()
        .map(|(number, channel)| {
            let (mut client, longest, ended) = (KvClient::new(channel.clone()), Arc::clone(&longest), Arc::clone(&ended));
            tokio::spawn(async move {
                while !ended.load(Ordering::Relaxed) {
                    client.put(PutRequest { key: format!("w/{number}").into(), ..PutRequest::default() }).await?;
                    note_answer(&longest);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Ok::<_, Status>(())
            })
        })
        .collect();
    let term = leader(channels).await.map(|(term, _)| term);
    let mut first_gone = None;
    let mut client = KvClient::new(channels[0].clone());
    let count = RangeRequest { key: "t/".into(), range_end: "t0".into(), count_only: true, serializable: true, ..RangeRequest::default() };
    loop {
        let left = client.range(count.clone()).await?.into_inner().count;
        if left < leases && first_gone.is_none() {
            first_gone = Some(Instant::now());
            // Only what is measured from here on counts.
            longest.lock().expect(POISONED).1 = Duration::ZERO;
        }
        if left == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = first_gone.map_or(Duration::ZERO, |first| first.elapsed());
    ended.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await??;
    }
    let gap = longest.lock().expect(POISONED).1;
    let left = LeaseClient::new(channels[0].clone()).lease_leases(LeaseLeasesRequest {}).await?.into_inner().leases.len();
    let same = leader(channels).await.map(|(term, _)| term) == term;
    let passed = took <= GONE_LIMIT && gap <= GAP_LIMIT && left == 0 && same;
    println!(
        "{}{leases} leases due at one moment were gone in {:.2} s, {left} are left; the longest gap between puts {:.3} s; the leader {}",
        if passed { "" } else { "FAILED: " },
        took.as_secs_f64(),
        gap.as_secs_f64(),
        if same { "stayed" } else { "changed" }
    );
    Ok(passed)
}
