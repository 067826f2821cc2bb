//! Three real members under load and under fire: the leader killed, all killed, the leader stopped, a flag changed on one after the
//! other, members cut off in silence; then the history is judged. And what costs in proportion to the store, while others are served.

mod flag_change;
mod heavy;
mod partition;

use crate::{
    load::{self, Clients, Numbers},
    network,
    process::{Cluster, Server},
    recorder::Recorder,
    witness,
};
use nix::sys::signal::Signal;
use quorate_checker::{
    Budget, Verdict, Witness, check,
    history::{Record, write_lines},
};
use quorate_web::proto::etcdserverpb::{StatusRequest, maintenance_client::MaintenanceClient};
use std::{
    error::Error,
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

const MEMBERS: usize = 3;
/// Without an acknowledgement for so long the cluster counts as dead.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// The log is kept from its first entry on, so that it can be read as a witness; what happens where it is not is for `snapshots`.
const WHOLE_LOG: [&str; 1] = ["--snapshot-catchup-entries=1000000000"];
/// Acknowledged writes between two faults.
const WRITES_BETWEEN: u64 = 500;

#[derive(clap::Args, Debug)]
pub struct Options {
    /// How often the leader is killed with SIGKILL.
    #[arg(long, default_value_t = 20)]
    kill_leader: u32,
    /// How often all members are killed at once.
    #[arg(long, default_value_t = 10)]
    kill_all: u32,
    /// How often the leader is stopped with SIGSTOP.
    #[arg(long, default_value_t = 1)]
    pause_leader: u32,
    /// For how many seconds it is stopped.
    #[arg(long, default_value_t = 10)]
    pause_seconds: u64,
    /// Clients that write.
    #[arg(long, default_value_t = 64)]
    writers: usize,
    /// Clients that read.
    #[arg(long, default_value_t = 8)]
    readers: usize,
    /// Clients that watch everything.
    #[arg(long, default_value_t = 3)]
    watchers: usize,
    /// How often a flag is changed on one member after the other.
    #[arg(long, default_value_t = 1)]
    flag_changes: u32,
    /// For how many seconds members are cut off in silence: the leader, a follower, and all from all. 0: not at all.
    #[arg(long, value_delimiter = ',', default_values_t = [5, 60, 120])]
    partition_seconds: Vec<u64>,
    /// Without the commands that cost in proportion to the store.
    #[arg(long)]
    skip_heavy: bool,
    /// A short run: two kills of the leader, one of all, one pause of 3 seconds, the leader cut off for 5 seconds.
    #[arg(long)]
    smoke: bool,
    /// Run it against etcd: what is wrong then is the suite's own fault.
    #[arg(long)]
    self_check: bool,
    /// Write the history here, one JSON record a line.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    KillLeader,
    KillAll,
    PauseLeader,
}

impl Fault {
    const ALL: [Self; 3] = [Self::KillLeader, Self::KillAll, Self::PauseLeader];

    fn name(self) -> &'static str {
        match self {
            Self::KillLeader => "kill -9 of the leader",
            Self::KillAll => "kill -9 of all three",
            Self::PauseLeader => "SIGSTOP of the leader",
        }
    }
}

/// A cluster, its clients, and what they did.
struct Run {
    cluster: Cluster,
    runtime: tokio::runtime::Runtime,
    recorder: Arc<Recorder>,
    clients: Clients,
}

/// Runs load and faults, prints how long each outage lasted and what the checker says.
pub fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let server = if options.self_check { Server::Etcd } else { Server::Quorate };
    // Before the network is another one: building may need it.
    server.binary()?;
    network::isolate()?;
    let struck = strikes(server, options)?;
    let heavy = options.skip_heavy || heavy::run(server, options)?;
    let parted = partition::run(server, options)?;
    Ok(struck && heavy && parted)
}

impl Run {
    fn start(cluster: Cluster, numbers: Numbers) -> Result<Self, Box<dyn Error>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let recorder = Arc::new(Recorder::new(cluster.members.len(), numbers.watchers));
        let clients = load::start(&runtime, &recorder, &endpoints(&cluster), numbers);
        Ok(Self { cluster, runtime, recorder, clients })
    }

    fn wait_writes(&self, before: &str) -> Result<(), Box<dyn Error>> {
        if self.recorder.wait_writes(WRITES_BETWEEN, RECOVERY_LIMIT) {
            return Ok(());
        }
        Err(format!("no {WRITES_BETWEEN} writes in {RECOVERY_LIMIT:?} before {before}").into())
    }

    /// Ends the load and judges what was recorded.
    fn judge(mut self, history: Option<&Path>) -> Result<bool, Box<dyn Error>> {
        self.recorder.stop();
        self.runtime.block_on(self.clients.finish_operations());
        let endpoints = endpoints(&self.cluster);
        let settled = endpoints.iter().all(|endpoint| self.runtime.block_on(load::read_everything(&self.recorder, endpoint)));
        let drained = self.recorder.wait_watchers(RECOVERY_LIMIT);
        self.clients.end_watches();
        self.runtime.shutdown_timeout(Duration::from_secs(1));
        let records = self.recorder.take_records();
        let witness = witness_of(&mut self.cluster, &records)?;
        let clean = judge(&self.recorder, &records, witness.as_ref(), history)?;
        if !settled {
            println!("FAILED: a member did not answer a last read of everything");
        }
        if !drained {
            println!("FAILED: a watcher did not come to the newest revision within {RECOVERY_LIMIT:?}");
        }
        Ok(clean && settled && drained)
    }
}

fn endpoints(cluster: &Cluster) -> Vec<String> {
    cluster.members.iter().map(|member| member.client.clone()).collect()
}

/// Kills, stops, and changes of a flag.
fn strikes(server: Server, options: &Options) -> Result<bool, Box<dyn Error>> {
    let (kills, kills_all, pauses, pause, flag_changes) = if options.smoke {
        (2, 1, 1, Duration::from_secs(3), 0)
    } else {
        let pause = Duration::from_secs(options.pause_seconds);
        (options.kill_leader, options.kill_all, options.pause_leader, pause, options.flag_changes)
    };
    let plan: Vec<_> = [(Fault::KillLeader, kills), (Fault::KillAll, kills_all), (Fault::PauseLeader, pauses)]
        .into_iter()
        .flat_map(|(fault, times)| (0..times).map(move |_| fault))
        .collect();
    if plan.is_empty() && flag_changes == 0 {
        return Ok(true);
    }
    let numbers = Numbers { writers: options.writers, readers: options.readers, watchers: options.watchers, pause: Duration::ZERO };
    let mut run = Run::start(Cluster::start(server, MEMBERS, &WHOLE_LOG)?, numbers)?;
    let mut outages = Vec::new();
    for (number, &fault) in plan.iter().enumerate() {
        run.wait_writes(fault.name())?;
        let outage = strike(&run.runtime, &mut run.cluster, &run.recorder, fault, pause)?;
        eprintln!("{:>3}/{}  {}: first acknowledgement after {:.2} s", number + 1, plan.len(), fault.name(), outage.as_secs_f64());
        outages.push((fault, outage));
    }
    let mut changed = true;
    for change in 0..flag_changes {
        changed &= flag_change::change(&mut run, change)?;
    }
    run.recorder.wait_writes(WRITES_BETWEEN, RECOVERY_LIMIT);
    let clean = run.judge(options.history.as_deref())?;
    for fault in Fault::ALL {
        print_outages(fault, &outages);
    }
    Ok(clean && changed)
}

/// One fault and its repair; returns the time to the first write that was called and acknowledged after it.
fn strike(
    runtime: &tokio::runtime::Runtime,
    cluster: &mut Cluster,
    recorder: &Recorder,
    fault: Fault,
    pause: Duration,
) -> Result<Duration, Box<dyn Error>> {
    let late = || format!("no write acknowledged within {RECOVERY_LIMIT:?} after {}", fault.name());
    let victims = match fault {
        Fault::KillAll => (0..MEMBERS).collect(),
        Fault::KillLeader | Fault::PauseLeader => vec![leader(runtime, cluster)?],
    };
    if fault == Fault::PauseLeader {
        let stopped = Instant::now();
        cluster.members[victims[0]].signal(Signal::SIGSTOP)?;
        recorder.fault(fault.name());
        let outage = recorder.wait_recovered(RECOVERY_LIMIT).ok_or_else(late)?;
        wait_out(stopped, pause);
        cluster.members[victims[0]].signal(Signal::SIGCONT)?;
        return Ok(outage);
    }
    victims.iter().for_each(|&victim| recorder.ends_a_life(victim));
    for &victim in &victims {
        cluster.members[victim].signal(Signal::SIGKILL)?;
    }
    recorder.fault(fault.name());
    for &victim in &victims {
        cluster.members[victim].wait()?;
    }
    if fault == Fault::KillAll {
        victims.iter().try_for_each(|&victim| cluster.members[victim].start())?;
    }
    let outage = recorder.wait_recovered(RECOVERY_LIMIT).ok_or_else(late)?;
    if fault == Fault::KillLeader {
        cluster.members[victims[0]].start()?;
    }
    victims.iter().try_for_each(|&victim| cluster.members[victim].wait_ready())?;
    Ok(outage)
}

/// Waits until that long has passed since then: the length of a fault is not a synchronisation.
fn wait_out(since: Instant, length: Duration) {
    while let Some(left) = length.checked_sub(since.elapsed()) {
        std::thread::park_timeout(left);
    }
}

/// The member that says of itself that it leads.
fn leader(runtime: &tokio::runtime::Runtime, cluster: &Cluster) -> Result<usize, Box<dyn Error>> {
    let deadline = Instant::now() + RECOVERY_LIMIT;
    while Instant::now() < deadline {
        for (number, member) in cluster.members.iter().enumerate() {
            let leads = runtime.block_on(async {
                let mut client = MaintenanceClient::connect(format!("http://{}", member.client)).await.ok()?;
                let status = client.status(StatusRequest::default()).await.ok()?.into_inner();
                Some(status.leader != 0 && status.header?.member_id == status.leader)
            });
            if leads == Some(true) {
                return Ok(number);
            }
        }
    }
    Err(format!("no member led within {RECOVERY_LIMIT:?}").into())
}

/// Stops all members and reads from their disks in which order they did what they were asked; etcd's are not read.
fn witness_of(cluster: &mut Cluster, records: &[Record]) -> Result<Option<Witness>, Box<dyn Error>> {
    cluster.members.iter_mut().try_for_each(crate::process::Member::kill)?;
    if cluster.server == Server::Etcd {
        println!("judged by search: etcd's log is not read");
        return Ok(None);
    }
    let data_dirs: Vec<_> = cluster.members.iter().map(|member| member.data_dir.clone()).collect();
    let witness = witness::read(&data_dirs, records)?;
    let entries = witness.entries.len();
    if witness.is_whole {
        println!("judged by the order of the members' logs, {entries} entries");
    } else {
        let first = witness.entries.first().map_or(0, |entry| entry.index);
        println!("the logs begin at entry {first}: what came before it is judged by search, the {entries} entries from there on narrow it");
    }
    Ok(Some(witness))
}

/// The checker's verdict on everything that was recorded.
fn judge(recorder: &Recorder, records: &[Record], witness: Option<&Witness>, history: Option<&Path>) -> Result<bool, Box<dyn Error>> {
    if let Some(file) = history {
        write_lines(records, BufWriter::new(File::create(file)?))?;
    }
    let start = Instant::now();
    match check(records, witness, Budget::default()) {
        Verdict::Holds(stats) => {
            println!(
                "linearizable: {} operations ({} writes, {} reads of which {} may be stale, {} refused, {} of unknown outcome of which {} were done), {} revisions, {} watches, {} events; checked in {:.2} s",
                stats.operations,
                stats.writes,
                stats.reads,
                stats.serializable,
                stats.refused,
                stats.unknown,
                stats.unknown_done,
                stats.revision,
                stats.watches,
                stats.events,
                start.elapsed().as_secs_f64()
            );
            println!("0 of {} acknowledged writes lost", recorder.acknowledged_writes());
            // A watch whose client moved on has no end of its own; the drained ones are judged by the newest revision.
            Ok(true)
        }
        Verdict::Broken(violation) => {
            println!("FAILED: {violation}");
            Ok(false)
        }
        Verdict::Undecided(undecided) => Err(undecided.into()),
    }
}

fn print_outages(fault: Fault, outages: &[(Fault, Duration)]) {
    let mut times: Vec<_> = outages.iter().filter(|(of, _)| *of == fault).map(|(_, time)| *time).collect();
    if let Some((median, most)) = median_and_most(&mut times) {
        let times = times.len();
        println!(
            "{}: {times} times, first acknowledgement after {:.2} s in the median, {:.2} s at most",
            fault.name(),
            median.as_secs_f64(),
            most.as_secs_f64()
        );
    }
}

/// The lower of the two middle ones where there are two.
fn median_and_most(times: &mut [Duration]) -> Option<(Duration, Duration)> {
    times.sort_unstable();
    Some((times[times.len().checked_sub(1)? / 2], *times.last()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_most_of_outages() {
        let seconds = |list: &[u64]| list.iter().map(|&s| Duration::from_secs(s)).collect::<Vec<_>>();
        for (times, expected) in [(&[][..], None), (&[4], Some((4, 4))), (&[9, 1, 3], Some((3, 9))), (&[2, 8, 4, 6], Some((4, 8)))] {
            let expected = expected.map(|(median, most)| (Duration::from_secs(median), Duration::from_secs(most)));
            assert_eq!(median_and_most(&mut seconds(times)), expected);
        }
    }
}
