//! Members cut off from each other in silence, as by a switch that died: no connection ends, packets only stop to arrive.

use super::{MEMBERS, Options, Run, WHOLE_LOG, leader, wait_out};
use crate::{
    load::{self, Numbers},
    network::Network,
    process::{Cluster, Server},
};
use futures::future::join_all;
use std::{
    error::Error,
    path::PathBuf,
    time::{Duration, Instant},
};

/// `--election-timeout`'s default.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// From healing to a write through each member.
const RECOVERY_ELECTIONS: u32 = 10;
/// For how long a write is tried: long enough to measure what is far too late.
const MEASURED_LIMIT: Duration = Duration::from_secs(300);
/// Calm clients: what is measured is the network, and the whole history has to be judged.
const NUMBERS: Numbers = Numbers { writers: 4, readers: 2, watchers: 1, pause: Duration::from_millis(20) };
/// The first number of the clients that measure; the load's are below.
const FIRST_CLIENT: u32 = 1_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut {
    Leader,
    Follower,
    All,
}

impl Cut {
    const ALL: [Self; 3] = [Self::Leader, Self::Follower, Self::All];

    fn name(self) -> &'static str {
        match self {
            Self::Leader => "the leader cut off",
            Self::Follower => "a follower cut off",
            Self::All => "all cut off from all",
        }
    }

    /// Who no longer hears whom.
    fn pairs(self, leader: usize) -> Vec<(usize, usize)> {
        let all = (0..MEMBERS).flat_map(|one| (one + 1..MEMBERS).map(move |other| (one, other)));
        let alone = match self {
            Self::Leader => Some(leader),
            Self::Follower => Some((leader + 1) % MEMBERS),
            Self::All => None,
        };
        all.filter(|(one, other)| alone.is_none_or(|alone| *one == alone || *other == alone)).collect()
    }
}

/// What one partition cost.
#[derive(Clone, Copy, Debug)]
struct Measured {
    cut: Cut,
    length: Duration,
    /// From healing to the first write through the first and through the last member.
    first: Duration,
    last: Duration,
    /// The longest time without an acknowledged write, from the cut to that last one.
    gap: Duration,
}

impl Measured {
    /// What of the gap is not the partition itself: without a majority nothing can be acknowledged meanwhile.
    fn avoidable_gap(&self) -> Duration {
        if self.cut == Cut::All { self.gap.saturating_sub(self.length) } else { self.gap }
    }

    fn is_in_time(&self) -> bool {
        self.last.max(self.avoidable_gap()) <= RECOVERY_ELECTIONS * ELECTION_TIMEOUT
    }
}

/// Cuts and heals, prints what each partition cost, and judges the history.
pub(super) fn run(server: Server, options: &Options) -> Result<bool, Box<dyn Error>> {
    let plan: Vec<(u64, Cut)> = if options.smoke {
        vec![(5, Cut::Leader)]
    } else {
        let seconds = options.partition_seconds.iter().filter(|seconds| **seconds > 0);
        seconds.flat_map(|seconds| Cut::ALL.map(|cut| (*seconds, cut))).collect()
    };
    if plan.is_empty() {
        return Ok(true);
    }
    // Declared first, so that the members end before their network.
    let network = Network::new(MEMBERS)?;
    let run = Run::start(Cluster::start_at(server, network.sites(), &WHOLE_LOG)?, NUMBERS)?;
    let mut measured = Vec::new();
    for (number, &(seconds, cut)) in plan.iter().enumerate() {
        run.wait_writes(cut.name())?;
        let cost = part(&run, &network, cut, Duration::from_secs(seconds))?;
        eprintln!("{:>3}/{}  {}", number + 1, plan.len(), describe(&cost));
        measured.push(cost);
    }
    let history = options.history.as_ref().map(|file| {
        let mut name = file.clone().into_os_string();
        name.push(".partitions");
        PathBuf::from(name)
    });
    let clean = run.judge(history.as_deref())?;
    for cost in &measured {
        let verdict = if cost.is_in_time() { "" } else { "FAILED: " };
        println!("{verdict}{}", describe(cost));
    }
    Ok(clean && measured.iter().all(Measured::is_in_time))
}

fn describe(cost: &Measured) -> String {
    format!(
        "{} for {} s: after healing the first write took {:.2} s, the first through the last member {:.2} s; longest gap {:.2} s",
        cost.cut.name(),
        cost.length.as_secs(),
        cost.first.as_secs_f64(),
        cost.last.as_secs_f64(),
        cost.gap.as_secs_f64()
    )
}

fn part(run: &Run, network: &Network, cut: Cut, length: Duration) -> Result<Measured, Box<dyn Error>> {
    let host = |member: usize| run.cluster.members[member].peer.split(':').next().expect("a host and a port");
    let pairs = cut.pairs(leader(&run.runtime, &run.cluster)?);
    run.recorder.measure_gap();
    run.recorder.fault(cut.name());
    let start = Instant::now();
    pairs.iter().try_for_each(|&(one, other)| network.cut(host(one), host(other)))?;
    wait_out(start, length);
    pairs.iter().try_for_each(|&(one, other)| network.heal(host(one), host(other)))?;
    run.recorder.fault("healed");
    let first_writes = (FIRST_CLIENT..)
        .zip(&run.cluster.members)
        .map(|(client, member)| load::first_write(&run.recorder, client, &member.client, 0, MEASURED_LIMIT));
    let times = run.runtime.block_on(join_all(first_writes));
    let times = times.into_iter().collect::<Option<Vec<_>>>();
    let times = times.ok_or_else(|| format!("no write through a member within {MEASURED_LIMIT:?} after {}", cut.name()))?;
    let (first, last) = (times.iter().min(), times.iter().max());
    let (first, last) = (*first.expect("there are members"), *last.expect("there are members"));
    Ok(Measured { cut, length, first, last, gap: run.recorder.longest_gap() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_separates_whom_it_names() {
        assert_eq!(Cut::Leader.pairs(1), [(0, 1), (1, 2)]);
        assert_eq!(Cut::Follower.pairs(1), [(0, 2), (1, 2)]);
        assert_eq!(Cut::All.pairs(1), [(0, 1), (0, 2), (1, 2)]);
    }

    #[test]
    fn the_partition_itself_is_a_gap_only_where_no_majority_is_left() {
        let seconds = Duration::from_secs;
        let cost = |cut, gap| Measured { cut, length: seconds(60), first: seconds(1), last: seconds(2), gap: seconds(gap) };
        assert!(cost(Cut::All, 65).is_in_time() && !cost(Cut::All, 71).is_in_time());
        assert!(cost(Cut::Leader, 3).is_in_time() && !cost(Cut::Leader, 11).is_in_time());
        assert!(!Measured { last: seconds(11), ..cost(Cut::Leader, 3) }.is_in_time());
    }
}
