//! Judges real processes from outside: the same commands, requests, faults and benchmarks against etcd 3.7.1 and Quorate.

mod benchmark;
mod chaos;
mod compare;
mod fuzz;
mod hostile;
mod leases;
mod load;
mod network;
mod normalise;
mod peers;
mod process;
mod recorder;
mod snapshots;
mod wire;
mod witness;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Suites that need real processes. The peers (etcd, etcdctl and etcd's benchmark 3.7.1) are built into target/peers at first use.
///
/// Exit code: 0 nothing found, 1 something was, 2 the suite could not run, 3 a history that nobody could decide about.
#[derive(Parser, Debug)]
#[command(name = "tests", version)]
struct Arguments {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Subcommand, Debug)]
enum Suite {
    /// Build etcd, etcdctl and etcd's benchmark 3.7.1 into target/peers (needs Go).
    Peers,
    /// Run the same etcdctl commands and JSON requests against both and compare output and exit codes byte for byte.
    Compare(compare::Options),
    /// Send random requests, valid and not, to both and compare answers and errors.
    Fuzz(fuzz::Options),
    /// Give members bad input, damaged files, full disks and impostors: clear errors, nothing lost, the healthy unharmed.
    Hostile(hostile::Options),
    /// Run etcd's own benchmark interleaved against both and print rates, percentiles, server CPU per operation and ratios.
    Benchmark(benchmark::Options),
    /// Kill, stop and cut off real members under load, then judge the history: nothing acknowledged lost, linearizable, watches whole.
    Chaos(chaos::Options),
    /// Grant, keep and let go leases in true time while leaders are killed; then let very many of them end at one moment.
    Leases(leases::Options),
    /// Leave members behind under load, kill sender and receiver on the way: installed by snapshot, resumed, equal.
    Snapshots(snapshots::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().suite {
        Suite::Peers => peers::build().map(|folder| {
            println!("peers are in {}", folder.display());
            true
        }),
        Suite::Compare(options) => compare::run(&options),
        Suite::Fuzz(options) => fuzz::run(&options),
        Suite::Hostile(options) => hostile::run(&options),
        Suite::Benchmark(options) => benchmark::run(&options),
        Suite::Chaos(options) => chaos::run(&options),
        Suite::Leases(options) => leases::run(&options),
        Suite::Snapshots(options) => snapshots::run(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Neither a pass nor a failure.
        Err(undecided) if undecided.is::<quorate_checker::Undecided>() => {
            println!("UNDECIDED: {undecided}");
            ExitCode::from(3)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
