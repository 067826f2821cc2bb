//! The same etcdctl commands and JSON requests against etcd 3.7.1 and Quorate: output and exit code must be equal.

use crate::{
    normalise::Normaliser,
    peers,
    process::{Cluster, Server},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    error::Error,
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

/// A watch is over once it has been silent for so long.
const WATCH_SILENCE: Duration = Duration::from_millis(700);
/// No command takes longer.
const COMMAND_LIMIT_S: &str = "20s";

#[derive(clap::Args, Debug)]
pub struct Options {
    /// Compare etcd with itself: what differs then is the suite's own fault.
    #[arg(long)]
    self_check: bool,
    /// Also run `check perf` against Quorate (a minute).
    #[arg(long)]
    check_perf: bool,
    /// Print every command's output, not only of those that differ.
    #[arg(long)]
    verbose: bool,
}

/// One command and what feeds it. `{follower}` and `{leader}` in arguments stand for the id of a member.
#[derive(Debug)]
enum Case {
    Etcdctl { arguments: &'static str, input: &'static str },
    Watch { arguments: &'static str },
    Http { path: &'static str, body: &'static str },
}

const fn ctl(arguments: &'static str) -> Case {
    Case::Etcdctl { arguments, input: "" }
}

const fn http(path: &'static str, body: &'static str) -> Case {
    Case::Http { path, body }
}

/// In this order: later ones see what earlier ones wrote.
const CASES: &[Case] = &[
    ctl("put foo bar"),
    ctl("put foo bar2 --prev-kv"),
    ctl("put foo bar3 -w json --prev-kv"),
    ctl("put foo bar4 -w fields --prev-kv"),
    ctl("put k1 v1"),
    ctl("put k2 v3"),
    ctl("put k3 v2"),
    ctl("put k4 v0"),
    ctl("put k2 v9"),
    Case::Etcdctl { arguments: "put from-stdin", input: "a value\nof two lines" },
    ctl("put foo --ignore-value"),
    ctl("put missing --ignore-value"),
    ctl("put foo x --ignore-lease"),
    ctl("put missing x --ignore-lease"),
    ctl("put foo x --lease 1234"),
    ctl("put --  --strange-key value"),
    ctl("put"),
    ctl("get foo"),
    ctl("get foo -w json"),
    ctl("get foo -w fields"),
    ctl("get foo --hex"),
    ctl("get missing"),
    ctl("get missing -w json"),
    ctl("get k --prefix"),
    ctl("get k --prefix -w json"),
    ctl("get k --prefix -w fields"),
    ctl("get k2 k4"),
    ctl("get k2 --from-key"),
    ctl("get --prefix --keys-only k"),
    ctl("get --prefix --keys-only k -w json"),
    ctl("get --prefix --count-only k"),
    ctl("get --prefix --count-only k -w fields"),
    ctl("get --prefix --print-value-only k"),
    ctl("get --prefix k --limit 2"),
    ctl("get --prefix k --limit 2 -w json"),
    ctl("get --prefix k --rev 7"),
    ctl("get --prefix k --rev 7 -w json"),
    ctl("get k1 --rev 1000"),
    ctl("get --prefix k --sort-by VALUE --order ASCEND"),
    ctl("get --prefix k --sort-by VALUE --order DESCEND"),
    ctl("get --prefix k --sort-by MODIFY --order DESCEND"),
    ctl("get --prefix k --sort-by CREATE --order DESCEND"),
    ctl("get --prefix k --sort-by VERSION --order DESCEND --limit 1"),
    ctl("get --prefix k --sort-by KEY --order DESCEND"),
    ctl("get --prefix k --order DESCEND --limit 2 -w json"),
    ctl("get --prefix k --consistency s"),
    ctl("get --prefix k --min-mod-rev 7"),
    ctl("get --prefix k --max-create-rev 6 -w json"),
    ctl("get --prefix --stream k"),
    Case::Etcdctl {
        arguments: "txn",
        input: "mod(\"foo\") > \"0\"\nvalue(\"k1\") = \"v1\"\n\nput t1 yes\nget foo\nget k --prefix\n\nput t1 no\n\n",
    },
    Case::Etcdctl { arguments: "txn -w json", input: "create(\"foo\") = \"0\"\n\nput t2 yes\n\nput t2 no\ndel t1 --prev-kv\nget t1\n\n" },
    Case::Etcdctl { arguments: "txn -w fields", input: "version(\"k2\") < \"5\"\n\nget k2\nput t3 a\n\n\n" },
    Case::Etcdctl { arguments: "txn", input: "lease(\"k2\") = \"0\"\n\nput dup 1\nput dup 2\n\n\n" },
    Case::Etcdctl { arguments: "txn", input: "garbage\n\nput t4 1\n\n\n" },
    ctl("del t2"),
    ctl("del t2"),
    ctl("del t --prefix --prev-kv"),
    ctl("put d1 1"),
    ctl("put d2 2"),
    ctl("del d --prefix --prev-kv -w json"),
    ctl("del missing -w fields"),
    ctl("del k4 --from-key --range"),
    Case::Watch { arguments: "watch k --prefix --rev 1" },
    Case::Watch { arguments: "watch k --prefix --rev 5 --prev-kv" },
    Case::Watch { arguments: "watch foo --rev 2 --prev-kv -w json" },
    Case::Watch { arguments: "watch foo --rev 3 -w fields" },
    Case::Watch { arguments: "watch d --prefix --rev 1" },
    ctl("compact 5"),
    ctl("compact 5"),
    ctl("compact 1000"),
    ctl("compact 8 --physical"),
    ctl("get foo --rev 3"),
    ctl("get foo --rev 8"),
    Case::Watch { arguments: "watch foo --rev 2" },
    Case::Watch { arguments: "watch k --prefix --rev 8" },
    ctl("endpoint status"),
    ctl("endpoint status -w json"),
    ctl("endpoint status -w fields"),
    ctl("endpoint status -w table"),
    ctl("endpoint health"),
    ctl("endpoint health -w json"),
    ctl("endpoint health --cluster"),
    ctl("endpoint hashkv"),
    ctl("endpoint hashkv -w json"),
    ctl("endpoint hashkv --rev 9 -w fields"),
    ctl("member list"),
    ctl("member list -w json"),
    ctl("member list -w fields"),
    ctl("member list -w table"),
    ctl("alarm list"),
    ctl("alarm disarm"),
    ctl("defrag"),
    ctl("version"),
    ctl("move-leader {follower}"),
    ctl("move-leader 1234"),
    ctl("put after-the-move 1"),
    ctl("get after-the-move -w json"),
    ctl("unknown-command"),
    http("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy","prev_kv":true}"#),
    http("/v3/kv/put", r#"{"key":"","value":"YmFy"}"#),
    http("/v3/kv/put", r#"{"key":"!!","value":"YmFy"}"#),
    http("/v3/kv/put", r#"{"key":"#),
    http("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy","unknownField":1}"#),
    http("/v3/kv/range", r#"{"key":"Zm9v"}"#),
    http("/v3/kv/range", r#"{"key":"AA==","range_end":"AA==","limit":"2","sortOrder":"DESCEND"}"#),
    http("/v3/kv/range", r#"{"key":"AA==","range_end":"AA==","count_only":true}"#),
    http("/v3/kv/range", r#"{"key":"Zm9v","revision":"99999"}"#),
    http("/v3/kv/range", r#"{"key":"Zm9v","revision":2}"#),
    http("/v3/kv/range", "{}"),
    http(
        "/v3/kv/txn",
        r#"{"compare":[{"key":"Zm9v","target":"VERSION","result":"GREATER","version":"0"}],"success":[{"request_put":{"key":"dA==","value":"dg=="}},{"requestRange":{"key":"dA=="}}]}"#,
    ),
    http("/v3/kv/txn", r#"{"success":[{"RequestPut":{"key":"dA==","value":"dg=="}}]}"#),
    http("/v3/kv/deleterange", r#"{"key":"dA==","prev_kv":true}"#),
    http("/v3/kv/deleterange", r#"{"key":"dA=="}"#),
    http("/v3/kv/compaction", r#"{"revision":"10"}"#),
    http("/v3/kv/compaction", r#"{"revision":"9"}"#),
    http("/v3/maintenance/status", "{}"),
    http("/v3/maintenance/defragment", "{}"),
    http("/v3/maintenance/alarm", "{}"),
    http("/v3/cluster/member/list", "{}"),
    http("/v3/no/such/path", "{}"),
    http("GET /v3/kv/range", ""),
    http("GET /health", ""),
    http("GET /health?serializable=true", ""),
    http("GET /livez", ""),
    http("GET /livez?verbose=true", ""),
    http("GET /readyz", ""),
    http("GET /readyz?verbose=true", ""),
    http("GET /readyz/linearizable_read", ""),
    http("GET /readyz/no_such_check", ""),
    http("GET /version", ""),
    http("/health", "{}"),
];

/// What a command left: equal ones are equal answers.
#[derive(PartialEq, Eq, Debug)]
struct Answer {
    exit: String,
    output: String,
}

/// Runs all cases with one and with three members; prints a line for each difference and the count.
pub fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let etcdctl = peers::build()?.join("etcdctl");
    let other = if options.self_check { Server::Etcd } else { Server::Quorate };
    let normaliser = Normaliser::new();
    let (mut passed, mut failed) = (0, 0);
    for size in [1, 3] {
        let sides = [Cluster::start(Server::Etcd, size, &[])?, Cluster::start(other, size, &[])?];
        for case in CASES {
            let answers = sides
                .iter()
                .map(|cluster| {
                    let answer = case.run(&etcdctl, cluster)?;
                    let output = normaliser.apply(&answer.output);
                    Ok(Answer { output: if size > 1 { positions_aside(&output) } else { output }, ..answer })
                })
                .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
            let name = format!("{size} member{}: {case}", if size == 1 { "" } else { "s" });
            if answers[0] == answers[1] {
                passed += 1;
                if options.verbose {
                    println!("equal    {name}\n{}", indent(&answers[0].output));
                }
            } else {
                failed += 1;
                println!("DIFFERS  {name}");
                for (cluster, answer) in sides.iter().zip(&answers) {
                    println!("  {} ({})\n{}", cluster.server.name(), answer.exit, indent(&answer.output));
                }
            }
        }
    }
    if options.check_perf {
        let cluster = Cluster::start(other, 1, &[])?;
        let status = Command::new(&etcdctl).args(["--endpoints", &cluster.endpoints(), "check", "perf"]).stderr(Stdio::null()).status()?;
        if status.success() {
            passed += 1
        } else {
            failed += 1
        }
        println!("check perf: {status}");
    }
    println!("etcdctl and JSON against {} and etcd: {passed} passed, {failed} failed", other.name());
    Ok(failed == 0)
}

/// With several members it is chance how many elections there were, and so which term and index an answer shows.
fn positions_aside(text: &str) -> String {
    let rules = [
        r#"("(?:raft_term|raftTerm|raftIndex|raftAppliedIndex)":"?)\d+"#,
        r#"("(?:RaftTerm|RaftIndex|RaftAppliedIndex)" : )\d+"#,
        r"((?:true|false), (?:true|false), )\d+, \d+, \d+",
        r"(\| +(?:true|false) \| +(?:true|false) \| +)\d+ \| +\d+ \| +\d+",
    ];
    rules.iter().fold(text.to_owned(), |text, rule| {
        regex::Regex::new(rule).expect("a rule is a valid pattern").replace_all(&text, "$1<position>").into_owned()
    })
}

fn indent(text: &str) -> String {
    text.lines().fold(String::new(), |mut out, line| {
        let _ = writeln!(out, "    {line}");
        out
    })
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Etcdctl { arguments, input: "" } | Self::Watch { arguments } => write!(f, "etcdctl {arguments}"),
            Self::Etcdctl { arguments, input } => write!(f, "etcdctl {arguments} < {input:?}"),
            Self::Http { path, body } => write!(f, "curl {path} {body}"),
        }
    }
}

impl Case {
    fn run(&self, etcdctl: &Path, cluster: &Cluster) -> Result<Answer, Box<dyn Error>> {
        match self {
            Self::Etcdctl { arguments, input } => run_etcdctl(etcdctl, cluster, arguments, input),
            Self::Watch { arguments } => run_watch(etcdctl, cluster, arguments),
            Self::Http { path, body } => run_http(cluster, path, body),
        }
    }
}

/// Commands go to the leader, so that `move-leader` and `endpoint status` mean the same on both sides.
fn command(etcdctl: &Path, cluster: &Cluster, arguments: &str) -> Result<Command, Box<dyn Error>> {
    let leader = leader_endpoint(etcdctl, cluster)?;
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", COMMAND_LIMIT_S]).arg(etcdctl).args(["--endpoints", &leader]).env_clear();
    for argument in arguments.split_whitespace() {
        command.arg(if argument == "{follower}" { follower_id(etcdctl, cluster, &leader)? } else { argument.to_owned() });
    }
    Ok(command)
}

fn statuses(etcdctl: &Path, cluster: &Cluster) -> Result<Vec<serde_json::Value>, Box<dyn Error>> {
    let output =
        Command::new(etcdctl).args(["--endpoints", &cluster.endpoints(), "endpoint", "status", "-w", "json"]).env_clear().output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Waits until a member says it leads.
fn leader_endpoint(etcdctl: &Path, cluster: &Cluster) -> Result<String, Box<dyn Error>> {
    if cluster.members.len() == 1 {
        return Ok(cluster.endpoints());
    }
    for _ in 0..100 {
        for status in statuses(etcdctl, cluster)? {
            if status["Status"]["leader"] == status["Status"]["header"]["member_id"] {
                return Ok(status["Endpoint"].as_str().ok_or("no endpoint")?.to_owned());
            }
        }
    }
    Err("no member leads".into())
}

fn follower_id(etcdctl: &Path, cluster: &Cluster, leader: &str) -> Result<String, Box<dyn Error>> {
    let statuses = statuses(etcdctl, cluster)?;
    let other = statuses.iter().find(|status| status["Endpoint"] != leader).or(statuses.first()).ok_or("no status")?;
    let id = other["Status"]["header"]["member_id"].as_u64().ok_or("no member id")?;
    Ok(format!("{id:x}"))
}

fn run_etcdctl(etcdctl: &Path, cluster: &Cluster, arguments: &str, input: &str) -> Result<Answer, Box<dyn Error>> {
    let mut child = command(etcdctl, cluster, arguments)?.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    // A command that fails at once may have closed its input already.
    let _ = child.stdin.take().ok_or("no stdin")?.write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    Ok(Answer { exit: output.status.to_string(), output: String::from_utf8_lossy(&output.stdout).into_owned() })
}

/// Reads what a watch prints until it falls silent, then interrupts it.
fn run_watch(etcdctl: &Path, cluster: &Cluster, arguments: &str) -> Result<Answer, Box<dyn Error>> {
    let mut child = command(etcdctl, cluster, arguments)?.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let reader = BufReader::new(child.stdout.take().ok_or("no stdout")?);
    let (sender, lines) = mpsc::channel();
    let pump = std::thread::spawn(move || reader.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let mut output = String::new();
    while let Ok(line) = lines.recv_timeout(WATCH_SILENCE) {
        output += &line;
        output.push('\n');
    }
    let _ = kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM);
    let status = child.wait()?;
    let _ = pump.join();
    // Ended by itself (with its code) or by us.
    let exit = if status.code() == Some(124) || status.code() == Some(143) { "interrupted".to_owned() } else { status.to_string() };
    Ok(Answer { exit, output })
}

/// The order in which etcd lists its checks is that of a Go map: chance.
fn sort_checks(text: &str) -> String {
    let (mut checks, rest): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with('['));
    checks.sort_unstable();
    checks.extend(rest);
    checks.join("\n")
}

fn run_http(cluster: &Cluster, path: &str, body: &str) -> Result<Answer, Box<dyn Error>> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(10))).build().into();
    let url = |path: &str| format!("http://{}{path}", cluster.members[0].client);
    let mut response = match path.strip_prefix("GET ") {
        Some(path) => agent.get(url(path)).call()?,
        None => agent.post(url(path)).content_type("application/json").send(body)?,
    };
    let kind = response.headers().get("content-type").map_or_else(String::new, |v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let exit = format!("{} {kind}", response.status());
    let text = response.body_mut().read_to_string()?;
    // Go's JSON of protobuf messages has spaces at random, another way in each build.
    let output = serde_json::from_str::<serde_json::Value>(&text).map_or_else(|_| sort_checks(&text), |json| json.to_string());
    Ok(Answer { exit, output })
}

#[cfg(test)]
mod tests {
    use super::positions_aside;

    #[test]
    fn terms_and_indexes_are_set_aside_in_every_form() {
        for (raw, aside) in [
            (r#"{"revision":3,"raft_term":2}"#, r#"{"revision":3,"raft_term":<position>}"#),
            ("\"RaftTerm\" : 2\n\"Revision\" : 3", "\"RaftTerm\" : <position>\n\"Revision\" : 3"),
            ("<size>, true, false, 2, 9, 9, ", "<size>, true, false, <position>, "),
        ] {
            assert_eq!(positions_aside(raw), aside);
        }
    }
}
