//! Members that have fallen behind the log, on real processes: installed by snapshot while writes go on, a receiver that dies on the way
//! and resumes, a sender that dies and is replaced.

use crate::process::{Cluster, Member, Server};
use nix::sys::signal::Signal;
use quorate_web::proto::etcdserverpb::{
    HashKvRequest, PutRequest, RequestOp, StatusRequest, StatusResponse, TxnRequest, kv_client::KvClient,
    maintenance_client::MaintenanceClient, request_op,
};
use std::{
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, time::MissedTickBehavior};
use tonic::transport::{Channel, Endpoint};

const MEMBERS: usize = 3;
const FLAGS: [&str; 4] = ["--snapshot-count", "1000", "--snapshot-catchup-entries", "500"];
const VALUE_BYTES: usize = 1_000;
/// Puts in one transaction that fills the store.
const FILL_OPS: usize = 100;
/// Writes a second, whether or not those before were answered.
const RATE: u64 = 2_000;
const TICK: Duration = Duration::from_millis(2);
/// Writes on their way at most: an outage must not take all memory.
const WRITES_MAX: usize = 20_000;
/// A leader waits for a member that it heard so late; a little more.
const ABSENT: Duration = Duration::from_secs(12);
const INSTALL_LIMIT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(10);
/// While a member is installed, the others acknowledge at least so often.
const GAP_LIMIT: Duration = Duration::from_secs(1);

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Keys in the store.
    #[arg(long, default_value_t = 1_000_000)]
    keys: usize,
    /// Entries that a member misses before it is started again.
    #[arg(long, default_value_t = 100_000)]
    behind: u64,
    /// A short run: 100,000 keys, 30,000 entries.
    #[arg(long)]
    smoke: bool,
}

/// Open-loop writers, and how long they went without an acknowledgement.
struct Load {
    ended: AtomicBool,
    /// Which members are written to, a bit each.
    targets: AtomicUsize,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    under_way: AtomicUsize,
    last: Mutex<(Instant, Duration)>,
}

impl Load {
    fn acknowledge(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.1 = last.1.max(last.0.elapsed());
        last.0 = Instant::now();
    }

    /// The longest time without an acknowledgement since the last call.
    fn take_gap(&self) -> Duration {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *last, (Instant::now(), Duration::ZERO)).1.max(last.0.elapsed())
    }
}

async fn write(load: Arc<Load>, channels: Vec<Channel>, keys: usize) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let each = RATE * u64::try_from(TICK.as_millis()).unwrap_or(1) / 1_000;
    let mut number = 0_u64;
    while !load.ended.load(Ordering::Relaxed) {
        ticks.tick().await;
        for _ in 0..each {
            number += 1;
            let targets = load.targets.load(Ordering::Relaxed);
            let Some(target) = (0..MEMBERS).map(|at| (at + number as usize) % MEMBERS).find(|at| targets >> at & 1 == 1) else { continue };
            if load.under_way.fetch_add(1, Ordering::Relaxed) >= WRITES_MAX {
                load.under_way.fetch_sub(1, Ordering::Relaxed);
                load.failed.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let (load, mut client) = (Arc::clone(&load), KvClient::new(channels[target].clone()));
            let put = put(number as usize * 7_919 % keys, number);
            tokio::spawn(async move {
                match client.put(put).await {
                    Ok(_) => load.acknowledge(),
                    Err(_) => drop(load.failed.fetch_add(1, Ordering::Relaxed)),
                }
                load.under_way.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
}

fn put(key: usize, number: u64) -> PutRequest {
    let mut value = format!("{number}:").into_bytes();
    value.resize(VALUE_BYTES, b'.');
    PutRequest { key: format!("s/{key:08}").into(), value: value.into(), ..PutRequest::default() }
}

async fn fill(channels: &[Channel], keys: usize) -> Result<(), Box<dyn Error>> {
    let writers = channels.iter().cycle().take(8).enumerate().map(|(writer, channel)| {
        let mut client = KvClient::new(channel.clone());
        async move {
            for first in (writer * FILL_OPS..keys).step_by(8 * FILL_OPS) {
                let ops = (first..keys.min(first + FILL_OPS)).map(|key| put(key, 0));
                let success = ops.map(|put| RequestOp { request: Some(request_op::Request::RequestPut(put)) }).collect();
                client.txn(TxnRequest { success, ..TxnRequest::default() }).await?;
            }
            Ok::<_, tonic::Status>(())
        }
    });
    futures::future::try_join_all(writers).await?;
    Ok(())
}

struct Run {
    cluster: Cluster,
    runtime: Runtime,
    channels: Vec<Channel>,
    load: Arc<Load>,
    behind: u64,
}

/// Runs all of it; prints what it took, and how long others waited.
pub fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let (keys, behind) = if options.smoke { (100_000, 30_000) } else { (options.keys, options.behind) };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut flags = FLAGS.to_vec();
    flags.extend(["--quota-backend-bytes", "-1"]);
    let cluster = Cluster::start(Server::Quorate, MEMBERS, &flags)?;
    let inside = runtime.enter();
    let channels = cluster
        .members
        .iter()
        .map(|member| Endpoint::from_shared(format!("http://{}", member.client)).map(|endpoint| endpoint.connect_lazy()))
        .collect::<Result<Vec<_>, _>>()?;
    drop(inside);
    runtime.block_on(fill(&channels, keys))?;
    let load = Arc::new(Load {
        ended: AtomicBool::new(false),
        targets: AtomicUsize::new((1 << MEMBERS) - 1),
        acknowledged: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        under_way: AtomicUsize::new(0),
        last: Mutex::new((Instant::now(), Duration::ZERO)),
    });
    runtime.spawn(write(Arc::clone(&load), channels.clone(), keys));
    let mut run = Run { cluster, runtime, channels, load, behind };
    let installed = run.install_one()?;
    let resumed = run.kill_receiver()?;
    let replaced = run.kill_sender()?;
    run.load.ended.store(true, Ordering::Relaxed);
    let equal = run.compare()?;
    println!("{} writes acknowledged, {} not", run.load.acknowledged.load(Ordering::Relaxed), run.load.failed.load(Ordering::Relaxed));
    Ok(installed && resumed && replaced && equal)
}

impl Run {
    fn status(&self, member: usize) -> Result<StatusResponse, Box<dyn Error>> {
        let mut client = MaintenanceClient::new(self.channels[member].clone());
        Ok(self.runtime.block_on(client.status(StatusRequest {}))?.into_inner())
    }

    /// Leader and one follower.
    fn roles(&self) -> Result<(usize, usize), Box<dyn Error>> {
        let deadline = Instant::now() + INSTALL_LIMIT;
        while Instant::now() < deadline {
            for member in 0..MEMBERS {
                let Ok(status) = self.status(member) else { continue };
                if status.header.is_some_and(|header| header.member_id == status.leader) {
                    return Ok((member, (member + 1) % MEMBERS));
                }
            }
            std::thread::park_timeout(POLL);
        }
        Err("no member leads".into())
    }

    /// Stops a follower until it lacks enough and is not waited for; says who leads, and which it is.
    fn leave_behind(&mut self) -> Result<(usize, usize), Box<dyn Error>> {
        let (leader, follower) = self.roles()?;
        self.load.targets.store(((1 << MEMBERS) - 1) & !(1 << follower), Ordering::Relaxed);
        self.cluster.members[follower].kill()?;
        let (since, before) = (Instant::now(), self.status(leader)?.raft_index);
        while since.elapsed() < ABSENT || self.status(leader)?.raft_index < before + self.behind {
            std::thread::park_timeout(POLL);
        }
        self.load.take_gap();
        Ok((leader, follower))
    }

    /// It serves again, which it does only once it has caught up.
    fn wait_installed(&mut self, follower: usize) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + INSTALL_LIMIT;
        let mut served = false;
        while !served && Instant::now() < deadline {
            served = self.cluster.members[follower].wait_ready_or_end()?;
        }
        let installed = metric(&self.cluster.members[follower], "quorate_snapshot_installed_total")?;
        self.load.targets.store((1 << MEMBERS) - 1, Ordering::Relaxed);
        if installed < 1 {
            return Err(format!("{} caught up without a snapshot", self.cluster.members[follower].name).into());
        }
        Ok(())
    }

    /// Waits until a member has sent so many bytes more.
    fn wait_sent(&self, sender: usize, before: u64, bytes: u64) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + INSTALL_LIMIT;
        while Instant::now() < deadline {
            if metric(&self.cluster.members[sender], "quorate_snapshot_sent_bytes_total")? >= before + bytes {
                return Ok(());
            }
            std::thread::park_timeout(POLL);
        }
        Err(format!("no {bytes} bytes were sent in {INSTALL_LIMIT:?}").into())
    }

    fn sent(&self, sender: usize) -> Result<u64, Box<dyn Error>> {
        metric(&self.cluster.members[sender], "quorate_snapshot_sent_bytes_total")
    }

    /// Bytes of the rows that a member holds, about those of a snapshot.
    fn stored(&self, member: usize) -> Result<u64, Box<dyn Error>> {
        metric(&self.cluster.members[member], "etcd_mvcc_db_total_size_in_bytes")
    }

    /// One member far behind is installed while the others serve.
    fn install_one(&mut self) -> Result<bool, Box<dyn Error>> {
        let (leader, follower) = self.leave_behind()?;
        let (begun, before) = (Instant::now(), self.sent(leader)?);
        self.cluster.members[follower].start()?;
        self.wait_installed(follower)?;
        let (gap, whole) = (self.load.take_gap(), self.sent(leader)? - before);
        let in_time = gap <= GAP_LIMIT;
        println!(
            "{}a member {} entries behind was installed by a snapshot of {} MB and served again after {:.1} s; the longest gap between acknowledgements {:.3} s",
            if in_time { "" } else { "FAILED: " },
            self.behind,
            whole >> 20,
            begun.elapsed().as_secs_f64(),
            gap.as_secs_f64()
        );
        Ok(in_time)
    }

    /// The receiver dies half-way, and what it has is not sent again.
    fn kill_receiver(&mut self) -> Result<bool, Box<dyn Error>> {
        let (leader, follower) = self.leave_behind()?;
        let (before, whole) = (self.sent(leader)?, self.stored(leader)?);
        self.cluster.members[follower].start()?;
        self.wait_sent(leader, before, whole / 2)?;
        self.cluster.members[follower].kill()?;
        self.cluster.members[follower].start()?;
        self.wait_installed(follower)?;
        let (gap, sent) = (self.load.take_gap(), self.sent(leader)? - before);
        let again = sent.saturating_sub(whole) * 100 / whole.max(1);
        let good = again < 20 && gap <= GAP_LIMIT;
        println!(
            "{}a receiver was killed half-way and resumed: {} MB were sent, {again} % more than there are; the longest gap between acknowledgements {:.3} s",
            if good { "" } else { "FAILED: " },
            sent >> 20,
            gap.as_secs_f64()
        );
        Ok(good)
    }

    /// The sender dies half-way: another member begins anew.
    fn kill_sender(&mut self) -> Result<bool, Box<dyn Error>> {
        let (leader, follower) = self.leave_behind()?;
        let (before, whole) = (self.sent(leader)?, self.stored(leader)?);
        self.cluster.members[follower].start()?;
        self.wait_sent(leader, before, whole / 4)?;
        self.load.targets.store(0, Ordering::Relaxed);
        self.cluster.members[leader].signal(Signal::SIGKILL)?;
        self.cluster.members[leader].wait()?;
        let killed = Instant::now();
        self.wait_installed(follower)?;
        println!("a sender was killed: another installed the member {:.1} s later", killed.elapsed().as_secs_f64());
        self.cluster.members[leader].start()?;
        self.cluster.members[leader].wait_ready()?;
        Ok(true)
    }

    /// All members hold the same.
    fn compare(&self) -> Result<bool, Box<dyn Error>> {
        while self.load.under_way.load(Ordering::Relaxed) > 0 {
            std::thread::park_timeout(POLL);
        }
        let hash = |member: usize, revision: i64| {
            let mut client = MaintenanceClient::new(self.channels[member].clone());
            self.runtime.block_on(client.hash_kv(HashKvRequest { revision })).map(tonic::Response::into_inner)
        };
        let revision = hash(0, 0)?.hash_revision;
        let deadline = Instant::now() + INSTALL_LIMIT;
        let mut hashes = Vec::new();
        while hashes.len() < MEMBERS {
            match hash(hashes.len(), revision) {
                Ok(answer) => hashes.push(answer.hash),
                // It has not applied so far yet.
                Err(_) if Instant::now() < deadline => std::thread::park_timeout(POLL),
                Err(status) => return Err(status.into()),
            }
        }
        let equal = hashes.iter().all(|hash| *hash == hashes[0]);
        println!("{}HashKV at revision {revision} of all members: {hashes:08x?}", if equal { "" } else { "FAILED: " });
        Ok(equal)
    }
}

/// A counter of a member; 0 if it is not there yet.
fn metric(member: &Member, name: &str) -> Result<u64, Box<dyn Error>> {
    let text = ureq::get(format!("http://{}/metrics", member.client)).call()?.body_mut().read_to_string()?;
    let of = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
    Ok(text.lines().find_map(of).unwrap_or(0))
}
