//! etcd's own benchmark, interleaved against etcd and Quorate: rate, latency and server CPU per operation, as ratios.

use crate::{
    peers,
    process::{Cluster, Server},
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::{
    error::Error,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Both sides get the same client tool; a run that takes longer is hung.
const RUN_LIMIT_S: &str = "300s";
/// Puts in one prefilling transaction: the default `--max-txn-ops` allows 128.
const PREFILL_OPS: usize = 100;

#[derive(clap::Args, Debug)]
pub struct Options {
    /// A tenth of the operations, one round, one member: shows that every row runs.
    #[arg(long)]
    smoke: bool,
    /// Rounds a row; the median of each figure is shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only rows whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Cluster sizes.
    #[arg(long, value_delimiter = ',', default_value = "1,3")]
    members: Vec<usize>,
    /// Memory with a million keys, time to serve after kill -9, and an idle member, instead of the speed rows.
    #[arg(long)]
    footprint: bool,
    /// Also write the figures here as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One workload of etcd's benchmark.
struct Row {
    name: &'static str,
    arguments: &'static str,
    /// The flag that says how many requests, and how many in the full form.
    total: (&'static str, u64),
    /// Operations one request stands for: events of a watched put, else 1.
    operations: u64,
    /// Cluster sizes it runs with.
    sizes: &'static [usize],
}

const ROWS: &[Row] = &[
    Row {
        name: "put 256 B, 1 client",
        arguments: "put --clients=1 --conns=1 --val-size=256 --key-space-size=10000 --sequential-keys",
        total: ("--total", 5_000),
        operations: 1,
        sizes: &[1, 3],
    },
    Row {
        name: "put 256 B, 1,000 clients",
        arguments: "put --clients=1000 --conns=100 --val-size=256 --key-space-size=100000 --sequential-keys",
        total: ("--total", 100_000),
        operations: 1,
        sizes: &[1, 3],
    },
    Row {
        name: "linearizable get, 100 clients",
        arguments: "range KEY --consistency=l --clients=100 --conns=10",
        total: ("--total", 100_000),
        operations: 1,
        sizes: &[1, 3],
    },
    Row {
        name: "serializable get, 100 clients",
        arguments: "range KEY --consistency=s --clients=100 --conns=10",
        total: ("--total", 100_000),
        operations: 1,
        sizes: &[1, 3],
    },
    Row {
        name: "range of 10,000 keys of 1 KB",
        arguments: "range r/ r0 --consistency=s --clients=8 --conns=4",
        total: ("--total", 400),
        operations: 1,
        sizes: &[1],
    },
    Row {
        name: "txn, one put on 8 hot keys, 100 clients",
        arguments: "txn-put --clients=100 --conns=10 --txn-ops=1 --val-size=256 --key-space-size=8",
        total: ("--total", 50_000),
        operations: 1,
        sizes: &[1, 3],
    },
    Row {
        name: "lease keepalive, 100 clients",
        arguments: "lease-keepalive --clients=100 --conns=10",
        total: ("--total", 100_000),
        operations: 1,
        sizes: &[1, 3],
    },
    Row {
        name: "watch fan-out, events to 1,000 watchers",
        arguments: "watch-latency --streams=10 --watchers-per-stream=100 --put-rate=100000",
        total: ("--put-total", 3_000),
        operations: 1_000,
        sizes: &[1],
    },
];

/// One run's figures, or the medians of several.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figures {
    operations_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    server_cpu_us: f64,
}

#[derive(Debug, Serialize)]
struct Comparison {
    row: &'static str,
    members: usize,
    etcd: Figures,
    quorate: Figures,
    rate_ratio: f64,
    cpu_ratio: f64,
}

/// What all members of a cluster hold in memory once all rows have run.
#[derive(Debug, Serialize)]
struct Resident {
    members: usize,
    etcd_mib: f64,
    quorate_mib: f64,
    ratio: f64,
}

impl Resident {
    fn of(size: usize, [etcd, quorate]: &[Cluster; 2]) -> Result<Self, Box<dyn Error>> {
        let (etcd_mib, quorate_mib) = (resident_mib(etcd)?, resident_mib(quorate)?);
        Ok(Self { members: size, etcd_mib, quorate_mib, ratio: quorate_mib / etcd_mib })
    }
}

fn resident_mib(cluster: &Cluster) -> Result<f64, Box<dyn Error>> {
    let mut bytes = 0;
    for member in &cluster.members {
        bytes += member.resident_bytes()?;
    }
    Ok(bytes as f64 / f64::from(1 << 20))
}

/// All figures of a run.
#[derive(Debug, Serialize)]
struct Report {
    rows: Vec<Comparison>,
    resident: Vec<Resident>,
}

/// Runs the rows; prints the table.
pub fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    if options.footprint {
        return footprint(options);
    }
    let benchmark = peers::build()?.join("benchmark");
    let rounds = if options.smoke { 1 } else { options.rounds };
    let sizes: &[usize] = if options.smoke { &[1] } else { &options.members };
    let rows = |size: usize| ROWS.iter().filter(move |row| row.sizes.contains(&size) && row.name.contains(&options.only));
    let runs: usize = sizes.iter().map(|size| rows(*size).count() * rounds * 2).sum();
    let progress = progress_bar(runs);
    let (mut comparisons, mut resident) = (Vec::new(), Vec::new());
    for &size in sizes {
        let sides = [Cluster::start(Server::Etcd, size, &[])?, Cluster::start(Server::Quorate, size, &[])?];
        for side in &sides {
            prefill(side)?;
        }
        for row in rows(size) {
            let total = if options.smoke { row.total.1 / 10 } else { row.total.1 };
            let mut figures = [Vec::new(), Vec::new()];
            for round in 0..rounds {
                // Who goes first alternates, so that neither always finds the warmer machine.
                for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                    progress.set_message(format!("{size} x {}: {}", sides[side].server.name(), row.name));
                    figures[side].push(measure(&benchmark, &sides[side], row, total)?);
                    progress.inc(1);
                }
            }
            let [etcd, quorate] = figures.map(|runs| medians(&runs));
            comparisons.push(Comparison {
                row: row.name,
                members: size,
                etcd,
                quorate,
                rate_ratio: quorate.operations_per_second / etcd.operations_per_second,
                cpu_ratio: quorate.server_cpu_us / etcd.server_cpu_us,
            });
        }
        resident.push(Resident::of(size, &sides)?);
    }
    progress.finish_and_clear();
    print_table(&comparisons);
    println!("\n| resident after these rows | etcd MiB | quorate MiB | ratio |\n|---|---|---|---|");
    for r in &resident {
        println!("| {} members | {:.0} | {:.0} | {:.2} |", r.members, r.etcd_mib, r.quorate_mib, r.ratio);
    }
    let report = Report { rows: comparisons, resident };
    write_json(options, &report)?;
    println!("benchmark rows: {} passed, 0 failed (figures are for reading, not for passing)", report.rows.len());
    Ok(true)
}

fn progress_bar(runs: usize) -> ProgressBar {
    let bar = ProgressBar::new(runs as u64);
    bar.set_style(ProgressStyle::with_template("[{elapsed}] {bar:30} {pos}/{len} {msg}").expect("a valid template"));
    bar
}

fn measure(benchmark: &Path, cluster: &Cluster, row: &Row, total: u64) -> Result<Figures, Box<dyn Error>> {
    let before = cluster.cpu();
    let output = Command::new("timeout")
        .args(["--signal=KILL", RUN_LIMIT_S])
        .arg(benchmark)
        .args(["--endpoints", &cluster.endpoints()])
        .args(row.arguments.split(' '))
        .arg(format!("{}={total}", row.total.0))
        .env_clear()
        .output()?;
    let cpu = cluster.cpu().saturating_sub(before);
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("{} against {} ended with {}:\n{text}", row.name, cluster.server.name(), output.status).into());
    }
    let report = parse_report(&text).ok_or_else(|| format!("{}: no summary in the benchmark's output:\n{text}", row.name))?;
    Ok(Figures { server_cpu_us: cpu.as_secs_f64() * 1e6 / (total * row.operations) as f64, ..report })
}

/// Reads the last summary of the benchmark's output: in a watch run that is the one of the events.
fn parse_report(text: &str) -> Option<Figures> {
    let last = |label: &str, before: &str| {
        let line = text.lines().rev().map(str::trim).find(|line| line.starts_with(label))?;
        line[label.len()..].trim().trim_end_matches(before).trim().parse::<f64>().ok()
    };
    Some(Figures {
        operations_per_second: last("Requests/sec:", "")?,
        p50_ms: last("50% in", "secs.")? * 1e3,
        // With fewer than a hundred requests there is no such line; the slowest is then no better.
        p99_ms: last("99% in", "secs.").or_else(|| last("Slowest:", "secs."))? * 1e3,
        server_cpu_us: 0.0,
    })
}

fn medians(runs: &[Figures]) -> Figures {
    let median = |figure: fn(&Figures) -> f64| {
        let mut values = runs.iter().map(figure).collect::<Vec<_>>();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Figures {
        operations_per_second: median(|f| f.operations_per_second),
        p50_ms: median(|f| f.p50_ms),
        p99_ms: median(|f| f.p99_ms),
        server_cpu_us: median(|f| f.server_cpu_us),
    }
}

/// What the read rows read: one key, and 10,000 keys of 1 KB under `r/`.
fn prefill(cluster: &Cluster) -> Result<(), Box<dyn Error>> {
    let post = |path: &str, body: serde_json::Value| -> Result<(), Box<dyn Error>> {
        let url = format!("http://{}{path}", cluster.members[0].client);
        ureq::post(&url).content_type("application/json").send(body.to_string())?;
        Ok(())
    };
    post("/v3/kv/put", serde_json::json!({ "key": base64(b"KEY"), "value": base64(&[b'v'; 256]) }))?;
    let value = base64(&[b'v'; 1_024]);
    for first in (0..10_000).step_by(PREFILL_OPS) {
        let puts = (first..first + PREFILL_OPS)
            .map(|n| serde_json::json!({ "request_put": { "key": base64(format!("r/{n:08}").as_bytes()), "value": value } }))
            .collect::<Vec<_>>();
        post("/v3/kv/txn", serde_json::json!({ "success": puts }))?;
    }
    Ok(())
}

/// Standard base64 with padding, for the gateway's byte fields.
fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn print_table(comparisons: &[Comparison]) {
    println!(
        "| work | members | etcd /s | quorate /s | rate ratio | etcd p50/p99 ms | quorate p50/p99 ms | etcd CPU us | quorate CPU us | CPU ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for c in comparisons {
        println!(
            "| {} | {} | {:.0} | {:.0} | {:.2} | {:.2} / {:.2} | {:.2} / {:.2} | {:.1} | {:.1} | {:.2} |",
            c.row,
            c.members,
            c.etcd.operations_per_second,
            c.quorate.operations_per_second,
            c.rate_ratio,
            c.etcd.p50_ms,
            c.etcd.p99_ms,
            c.quorate.p50_ms,
            c.quorate.p99_ms,
            c.etcd.server_cpu_us,
            c.quorate.server_cpu_us,
            c.cpu_ratio
        );
    }
}

fn write_json<T: Serialize>(options: &Options, figures: &T) -> Result<(), Box<dyn Error>> {
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(figures)?)?;
    }
    Ok(())
}

/// What a member costs beside time.
#[derive(Debug, Serialize)]
struct Footprint {
    server: &'static str,
    idle_resident_mib: f64,
    loaded_resident_mib: f64,
    serve_after_kill_s: f64,
    restarted_resident_mib: f64,
}

fn footprint(options: &Options) -> Result<bool, Box<dyn Error>> {
    let benchmark = peers::build()?.join("benchmark");
    let keys = if options.smoke { 20_000 } else { 1_000_000 };
    let mut figures = Vec::new();
    for server in [Server::Etcd, Server::Quorate] {
        let mut cluster = Cluster::start(server, 1, &[])?;
        let idle_resident_mib = resident_mib(&cluster)?;
        eprintln!("{}: putting {keys} keys of 64 B/256 B", server.name());
        let row = Row {
            name: "load",
            arguments: "put --clients=200 --conns=20 --key-size=64 --val-size=256 --key-space-size=1000000 --sequential-keys",
            total: ("--total", keys),
            operations: 1,
            sizes: &[1],
        };
        measure(&benchmark, &cluster, &row, keys)?;
        let loaded_resident_mib = resident_mib(&cluster)?;
        cluster.members[0].kill()?;
        let begun = Instant::now();
        cluster.members[0].start()?;
        cluster.members[0].wait_ready()?;
        let serve_after_kill_s = begun.elapsed().as_secs_f64();
        // What loading leaves behind is given back by then, if at all.
        std::thread::park_timeout(Duration::from_secs(2));
        let restarted_resident_mib = resident_mib(&cluster)?;
        figures.push(Footprint {
            server: server.name(),
            idle_resident_mib,
            loaded_resident_mib,
            serve_after_kill_s,
            restarted_resident_mib,
        });
    }
    println!("| server | idle MiB | {keys} keys MiB | serves after kill -9, s | MiB after restart |\n|---|---|---|---|---|");
    for f in &figures {
        println!(
            "| {} | {:.0} | {:.0} | {:.2} | {:.0} |",
            f.server, f.idle_resident_mib, f.loaded_resident_mib, f.serve_after_kill_s, f.restarted_resident_mib
        );
    }
    write_json(options, &figures)?;
    println!("footprint rows: {} passed, 0 failed (figures are for reading, not for passing)", figures.len());
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::{Figures, medians, parse_report};

    #[test]
    fn the_last_summary_counts() {
        let report = "Summary:\n  Requests/sec:\t68.5\n  50% in 0.0120 secs.\n  99% in 0.0501 secs.\nWatch events summary:\n  Requests/sec:\t67431.6662\n  50% in 0.0041 secs.\n  99% in 0.0642 secs.\n  99.9% in 0.0926 secs.\n";
        let figures = parse_report(report).expect("a summary");
        assert!((figures.operations_per_second - 67_431.666_2).abs() < 1e-6);
        assert!((figures.p50_ms - 4.1).abs() < 1e-9 && (figures.p99_ms - 64.2).abs() < 1e-9);
    }

    #[test]
    fn a_short_run_has_its_slowest_for_a_99th_percentile() {
        let figures = parse_report("  Slowest:\t0.5651 secs.\n  Requests/sec:\t27.4\n  50% in 0.2434 secs.\n  95% in 0.5047 secs.\n")
            .expect("a summary");
        assert!((figures.p99_ms - 565.1).abs() < 1e-9);
    }

    #[test]
    fn output_without_a_summary_is_refused() {
        assert!(parse_report("panic: no endpoints").is_none());
    }

    #[test]
    fn each_figure_has_its_own_median() {
        let run = |rate, cpu| Figures { operations_per_second: rate, p50_ms: rate, p99_ms: rate, server_cpu_us: cpu };
        let median = medians(&[run(1.0, 9.0), run(3.0, 8.0), run(2.0, 7.0)]);
        assert!((median.operations_per_second - 2.0).abs() < 1e-9 && (median.server_cpu_us - 8.0).abs() < 1e-9);
    }
}
