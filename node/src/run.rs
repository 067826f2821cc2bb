//! A member's life: recover, serve, hand over, end.

use crate::{
    actors::{
        Inbound, LogActor, LogParts, Member, MemberHandle, PeerInbox, Shared, SnapshotMetrics, StateActor, StateParts, TellLog, store_done,
    },
    clock::Clock,
    config::{ClusterState, Config},
    data_dir::DataDir,
    identity::Founding,
    listen::{self, Bound, Served},
    memory::{ANSWERS, LOG_TAIL, PEER_INBOX, PROPOSALS, RECEIVED, UNAPPLIED_LOG, WATCH_RESPONSES},
    recover::{self, Origin, RecoveredMember},
    state::Persister,
    transport::{PeerEvent, PeerSettings, Transport},
    wal::Wal,
};
use actix::{Actor, Arbiter};
use prometheus_client::{
    metrics::gauge::Gauge,
    registry::{Registry, Unit},
};
use quorate_core::{
    command::{Command, MemberAttributes},
    consensus::{Limits, Settings},
    member::{self, Body, MemberSettings, SyncLimits},
    types::MemberId,
    watch::HubLimits,
};
use quorate_web::{
    Options, Surface,
    backend::{Backend, Consistency, Context, Source},
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

/// For a new leader, after SIGTERM. Twice the aim, so that a slow machine hands over too.
const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(700);
/// For open requests, after that.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(400);
/// A follower that was just made leader may still need this member's vote.
const LINGER: Duration = Duration::from_millis(50);
/// Between two attempts to tell the cluster this member's name.
const PUBLISH_PAUSE: Duration = Duration::from_millis(100);
/// Beside two election timeouts, what a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs a member until it is told to stop.
///
/// # Errors
/// What keeps it from starting, for the operator.
pub fn run(config: Config) -> Result<(), String> {
    for warning in &config.warnings {
        tracing::warn!(target: "quorate", "{warning}");
    }
    let clients = bind_all(&config.listen_client_urls, "listen-client-urls")?;
    let peers = bind_all(&config.listen_peer_urls, "listen-peer-urls")?;
    let directory = DataDir::open(&config.data_dir, config.wal_dir.as_deref()).map_err(|error| error.to_string())?;
    greet(&config, &directory, &clients);
    let founding = Founding::new(&config.initial_cluster, &config.name, &config.initial_cluster_token)?;
    let origin = match config.initial_cluster_state {
        ClusterState::Existing => Origin::Joined,
        ClusterState::New if config.founding_stated => Origin::Founded,
        ClusterState::New => Origin::Unstated,
    };
    tracing::info!(
        target: "quorate", budget_bytes = config.memory.bytes, because = %config.memory.because,
        "memory for buffers and caches beside the index"
    );
    let recovered = recover::recover(&directory, &founding, origin, config.memory)?;
    actix_rt::System::new().block_on(serve(config, directory, recovered, clients, peers))
}

fn bind_all(urls: &[crate::url::Url], flag: &str) -> Result<Vec<Bound>, String> {
    urls.iter().map(|url| listen::bind(url, flag)).collect()
}

/// The first lines are for people.
fn greet(config: &Config, directory: &DataDir, clients: &[Bound]) {
    let data = std::path::absolute(directory.root()).unwrap_or_else(|_| directory.root().to_path_buf());
    let endpoint = clients.first().map_or_else(String::new, Bound::describe);
    tracing::info!(
        target: "quorate",
        name = config.name,
        version = env!("CARGO_PKG_VERSION"),
        etcd_version = crate::flags::ETCD_VERSION,
        "quorate keeps its data in {}; talk to it with: etcdctl --endpoints={endpoint} put greeting hello",
        data.display()
    );
}

async fn serve(
    config: Config,
    directory: DataDir,
    recovered: RecoveredMember,
    clients: Vec<Bound>,
    peers: Vec<Bound>,
) -> Result<(), String> {
    let RecoveredMember { identity, boot, announced, log, store, machine, bootstrap, .. } = recovered;
    let clock = Clock;
    let mut chance = ChaCha20Rng::from_os_rng();
    let mut seed = [0; 32];
    chance.fill_bytes(&mut seed);
    let (tell, told) = mpsc::unbounded_channel();
    let (state_queue, state_inputs) = mpsc::unbounded_channel();
    let tell_log = TellLog { told: tell.clone(), durable: Arc::default() };
    let durable = Arc::clone(&tell_log.durable);
    let (wal, _wal_threads) = Wal::start(directory.wal(), tell_log).map_err(|error| error.to_string())?;
    let kept_log = wal.metrics().kept_bytes.clone();
    let (usage, store_queue) = (store.usage(), state_queue.clone());
    let stored_bytes = usage.stored_bytes();
    let persister = Persister::start(store, directory.states(), move |event| drop(store_queue.send(store_done(event, &usage))))
        .map_err(|error| error.to_string())?;
    let member = Member {
        cluster: identity.cluster,
        member: identity.member,
        boot,
        quota_bytes: config.quota_bytes,
        max_request_bytes: config.max_request_bytes,
        // Two of the largest find room, whatever the budget: one alone would wait for a moment without any other.
        proposals_bytes: config.memory.of(PROPOSALS).max(2 * config.max_request_bytes),
        request_timeout: REQUEST_TIMEOUT + 2 * config.election_timeout,
        election_timeout: config.election_timeout,
    };
    let shared = Arc::new(Shared::new(member, clock, persister.usage(), machine.view()));
    let (inbox, inbox_receiver) = Inbound::queue();
    let fresh = Arc::new(AtomicBool::new(log.holds_only_bootstrap()));
    let limits = Limits {
        tail_bytes: config.memory.of(LOG_TAIL),
        unapplied_bytes: config.memory.of(UNAPPLIED_LOG),
        retained_entries: config.snapshot_catchup_entries,
        ..Limits::default()
    };
    let transport = Transport::new(peer_settings(&config, &shared, &fresh, announced, inbox.clone(), chance.next_u64()));
    let settings = Settings {
        member: identity.member,
        boot,
        heartbeat_interval: config.heartbeat_interval,
        election_timeout: config.election_timeout,
        pre_vote: config.pre_vote,
        advance_first_election: config.initial_election_tick_advance,
        seed,
        limits,
    };
    let member_settings = MemberSettings {
        quota_bytes: config.quota_bytes,
        request_timeout: shared.member.request_timeout,
        sync: SyncLimits { entries: config.snapshot_count, ..SyncLimits::default() },
        ..MemberSettings::default()
    };
    let (log_half, state_half) = member::open(settings, member_settings, log, bootstrap, machine, stored_bytes, clock.now());
    let log_parts = LogParts {
        half: log_half,
        wal,
        transport: transport.clone(),
        shared: Arc::clone(&shared),
        fresh,
        inbox: inbox_receiver,
        told,
        tell: tell.clone(),
        state: state_queue.clone(),
    };
    let snapshots = SnapshotMetrics::default();
    let state_parts = StateParts {
        half: state_half,
        persister,
        shared: Arc::clone(&shared),
        queue: state_inputs,
        tell: state_queue,
        log: tell,
        snapshots: snapshots.clone(),
        durable,
    };
    let (arbiter, state_arbiter) = (Arbiter::new(), Arbiter::new());
    StateActor::start_in_arbiter(&state_arbiter.handle(), |_| StateActor::new(state_parts));
    LogActor::start_in_arbiter(&arbiter.handle(), |_| LogActor::new(log_parts));
    for socket in peers {
        serve_peers(&arbiter, transport.clone(), socket)?;
    }
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (stop_sender, stop) = watch::channel(false);
    let served = Served {
        shared: Arc::clone(&shared),
        inbox: inbox.clone(),
        surface: surface(&config, kept_log, &snapshots, chance.next_u64()),
        hub_limits: HubLimits {
            progress_interval: config.progress_interval,
            hub_bytes: config.memory.of(WATCH_RESPONSES) / workers,
            ..HubLimits::default()
        },
        max_concurrent_streams: config.max_concurrent_streams,
        stop,
    };
    let addresses: Vec<String> = clients.iter().map(Bound::describe).collect();
    let mut signals = Signals::new()?;
    // Who is served earlier may ask for the members and find this one without its name and addresses.
    let backend = served.backend();
    let signal = tokio::select! {
        () = announce(&backend, &config, shared.member.member) => None,
        signal = signals.next() => Some(signal),
    };
    let (server, signal) = match signal {
        Some(signal) => (None, signal),
        None => {
            let server = listen::serve(clients, workers, &served).map_err(|error| format!("cannot serve clients: {error}"))?;
            let handle = server.handle();
            actix_rt::spawn(server);
            tell_ready(&addresses);
            (Some(handle), signals.next().await)
        }
    };
    tracing::info!(target: "quorate", signal, "received signal; shutting down");
    hand_over(&backend).await;
    // A member that is gone takes the process with it.
    let _ = inbox.send(Inbound::Stop).await;
    served.surface.stop();
    let _ = stop_sender.send(true);
    // Streams that never end by themselves are cut here.
    if let Some(server) = server {
        let _ = timeout(DRAIN_TIMEOUT, server.stop(true)).await;
    }
    tracing::info!(target: "quorate", "stopped");
    // The end of the process closes log and state store, and only then gives the directory's lock back.
    let _held = directory;
    std::process::exit(0)
}

fn peer_settings(
    config: &Config,
    shared: &Arc<Shared>,
    fresh: &Arc<AtomicBool>,
    announced: BTreeSet<MemberId>,
    inbox: mpsc::Sender<Inbound>,
    process: u64,
) -> PeerSettings {
    let state = Arc::clone(shared);
    let inbox = Arc::new(PeerInbox::new(inbox, config.memory.of(PEER_INBOX)));
    PeerSettings {
        cluster: shared.member.cluster,
        member: shared.member.member,
        boot: shared.member.boot,
        process,
        fresh: Arc::clone(fresh),
        ping_interval: config.election_timeout / 4,
        silence: config.election_timeout,
        deliver: Arc::new(move |event: PeerEvent| {
            let inbox = Arc::clone(&inbox);
            Box::pin(async move { inbox.deliver(event).await })
        }),
        // The log counts beside the state: after a restart, what it holds is not applied before there is a leader.
        started: Arc::new(move |member| {
            announced.contains(&member) || state.view.borrow().members().iter().any(|known| known.id == member && !known.name.is_empty())
        }),
    }
}

fn surface(config: &Config, kept_log: Gauge<u64, AtomicU64>, snapshots: &SnapshotMetrics, lease_seed: u64) -> Surface {
    let options = Options {
        max_request_bytes: config.max_request_bytes,
        max_txn_ops: config.max_txn_ops,
        election_timeout: config.election_timeout,
        lease_ttl_min_s: config.lease_ttl_min_s(),
        lease_seed,
        gateway: config.gateway,
        cors: config.cors.clone(),
        answer_bytes: config.memory.of(ANSWERS),
        // A connection has a quarter of it.
        received_bytes: config.memory.of(RECEIVED).max(8 * config.max_request_bytes),
        ..Options::default()
    };
    let mut metrics = Registry::default();
    metrics.register_with_unit(
        "quorate_wal_kept",
        "Bytes of the write-ahead log's segments on disk, spares included",
        Unit::Bytes,
        kept_log,
    );
    snapshots.register(&mut metrics);
    Surface::new(options, metrics)
}

fn serve_peers(arbiter: &Arbiter, transport: Transport, socket: Bound) -> Result<(), String> {
    let address = socket.describe();
    let Bound::Tcp(listener) = socket else {
        return Err(format!("cannot serve members on {address} (--listen-peer-urls): only http:// is supported there"));
    };
    listener.set_nonblocking(true).map_err(|error| format!("cannot serve members on {address}: {error}"))?;
    tracing::info!(target: "quorate", address, "serving peer traffic");
    arbiter.spawn(async move {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => transport.serve(listener).await,
            Err(error) => crate::fatal(&format!("cannot serve members on {address}: {error}")),
        }
    });
    Ok(())
}

/// Tells the cluster this member's name and addresses, until this member has applied them.
async fn announce(backend: &MemberHandle, config: &Config, member: MemberId) {
    let client_urls: Vec<String> = config.advertise_client_urls.iter().map(ToString::to_string).collect();
    let attributes = MemberAttributes { member, name: config.name.clone(), client_urls };
    let context = Context { deadline: None, require_leader: false, source: Source::Internal, request_bytes: 0 };
    let is_known = || {
        backend
            .current()
            .members()
            .iter()
            .any(|known| known.id == member && known.name == attributes.name && known.client_urls == attributes.client_urls)
    };
    // Its own earlier announcement may be in the log, not yet applied: one linearizable read tells. And what others may have asked
    // of this member before it stopped, it answers no older than that.
    let mut is_current = backend.view(Consistency::Linearizable, context).await.is_ok();
    while !(is_current && is_known()) {
        let outcome = if is_known() {
            backend.view(Consistency::Linearizable, context).await.map(drop)
        } else {
            backend.propose(Command::Publish(attributes.clone()), context).await.map(drop)
        };
        match outcome {
            Ok(()) => is_current = true,
            Err(refusal) => {
                tracing::info!(target: "quorate", ?refusal, "could not tell the cluster about this member yet");
                sleep(PUBLISH_PAUSE).await;
            }
        }
    }
    tracing::info!(target: "quorate", member_id = %member, name = config.name, "published local member to cluster through raft");
}

/// Tells everyone that this member serves.
fn tell_ready(addresses: &[String]) {
    for address in addresses {
        tracing::info!(target: "quorate", address, "serving client traffic insecurely; this is strongly discouraged!");
    }
    tracing::info!(target: "quorate", "ready to serve client requests");
    notify_ready();
}

/// `sd_notify`: tells a service manager that the member is up.
fn notify_ready() {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    };
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let text = path.to_string_lossy();
    let address = match text.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&*text),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    if let Err(error) = sent {
        tracing::warn!(target: "quorate", error = %error, "could not tell the service manager that this member is ready");
    }
}

/// What tells this process to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|error| format!("cannot wait for signals: {error}"));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "terminated",
            _ = self.interrupt.recv() => "interrupt",
        }
    }
}

/// A leader that stops makes another first, so that nobody has to wait for an election.
async fn hand_over(backend: &MemberHandle) {
    let led = backend.status().raft;
    let deadline = Some(Instant::now() + HAND_OVER_TIMEOUT);
    let context = Context { deadline, require_leader: false, source: Source::Internal, request_bytes: 0 };
    match backend.ask(Body::HandOver, context).await {
        Ok(_) if led.leader == Some(led.member) => sleep(LINGER).await,
        Ok(_) => {}
        Err(refusal) => tracing::warn!(target: "quorate", ?refusal, "no other member took over leadership in time"),
    }
}

#[cfg(test)]
mod tests;
