//! One of the two servers compared: a cluster, and the member of it that is asked.

use super::{Seat, cases::Case};
use crate::process::{Cluster, Server};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use std::{
    error::Error,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// A watch has told what it had to once it has been silent for so long.
const WATCH_SILENCE: Duration = Duration::from_millis(700);
/// For its first line.
const WATCH_START: Duration = Duration::from_secs(10);
/// No command takes longer.
const COMMAND_LIMIT_S: &str = "20s";
/// For all members to agree.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);
const SETTLE_POLL: Duration = Duration::from_millis(5);

/// What a command left: equal ones are equal answers.
#[derive(PartialEq, Eq, Debug)]
pub struct CommandResult {
    pub exit: String,
    pub output: String,
}

#[derive(Debug)]
pub struct Side {
    etcdctl: PathBuf,
    cluster: Cluster,
    seat: Seat,
    agent: ureq::Agent,
    /// The members' ids, in order.
    ids: Vec<u64>,
}

impl Side {
    pub fn start(etcdctl: &Path, server: Server, seat: Seat) -> Result<Self, String> {
        let limit = Some(Duration::from_secs(10));
        let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(limit).build().into();
        let cluster = Cluster::start(server, seat.members, &[]).map_err(|error| error.to_string())?;
        let mut side = Self { etcdctl: etcdctl.to_path_buf(), cluster, seat, agent, ids: Vec::new() };
        for member in 0..seat.members {
            let status = side.status(member).map_err(|error| error.to_string())?;
            side.ids.push(number(&status["header"]["member_id"]));
        }
        Ok(side)
    }

    pub fn name(&self) -> &'static str {
        self.cluster.server.name()
    }

    /// Asks the member at this side's seat, once the first one leads and all have applied the same.
    pub fn run(&self, case: &Case) -> Result<CommandResult, String> {
        let run = || {
            self.settle()?;
            match case {
                Case::Etcdctl { arguments, input } => self.etcdctl(arguments, input),
                Case::Watch { arguments, meanwhile } => self.watch(arguments, meanwhile),
                Case::Http { path, body } => self.http(path, body),
            }
        };
        run().map_err(|error: Box<dyn Error>| format!("{}: {case}: {error}", self.name()))
    }

    /// The hash of every member's whole state.
    pub fn hashes(&self) -> Result<Vec<Value>, Box<dyn Error>> {
        self.settle()?;
        (0..self.seat.members)
            .map(|member| {
                let answer = self.post(member, "/v3/maintenance/hashkv", &json!({}))?;
                if number(&answer["hash"]) == 0 { Err(format!("no hash in {answer}").into()) } else { Ok(answer["hash"].clone()) }
            })
            .collect()
    }

    fn post(&self, member: usize, path: &str, body: &Value) -> Result<Value, Box<dyn Error>> {
        let url = format!("http://{}{path}", self.cluster.members[member].client);
        let text = self.agent.post(url).content_type("application/json").send(body.to_string())?.body_mut().read_to_string()?;
        Ok(serde_json::from_str(&text)?)
    }

    fn status(&self, member: usize) -> Result<Value, Box<dyn Error>> {
        self.post(member, "/v3/maintenance/status", &json!({}))
    }

    /// Makes the first member lead, and waits until all know it and have applied what is committed. What the members answer after
    /// that depends on their role and not on chance.
    fn settle(&self) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let statuses = (0..self.seat.members).map(|member| self.status(member)).collect::<Result<Vec<_>, _>>()?;
            let leader = number(&statuses[0]["leader"]);
            let state = |status: &Value| (number(&status["leader"]), number(&status["raftIndex"]), number(&status["raftAppliedIndex"]));
            let (_, committed, _) = state(&statuses[0]);
            if statuses.iter().all(|status| state(status) == (self.ids[0], committed, committed)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("the members do not agree within {SETTLE_LIMIT:?}: {statuses:?}").into());
            }
            if let Some(other) = self.ids.iter().position(|id| *id == leader).filter(|leader| *leader > 0) {
                // It may be no leader any more; then the next look tells.
                self.post(other, "/v3/maintenance/transfer-leadership", &json!({ "targetID": self.ids[0].to_string() }))?;
            }
            std::thread::park_timeout(SETTLE_POLL);
        }
    }

    /// The member that `{follower}` stands for: the second, or the only one.
    fn follower(&self) -> u64 {
        self.ids[self.seat.members.min(2) - 1]
    }

    fn command(&self, member: usize, arguments: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", COMMAND_LIMIT_S]).arg(&self.etcdctl).args(["--endpoints", &self.cluster.members[member].client]);
        command.env_clear();
        command.args(arguments.split_whitespace().map(|argument| argument.replace("{follower}", &format!("{:x}", self.follower()))));
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }

    fn etcdctl(&self, arguments: &str, input: &str) -> Result<CommandResult, Box<dyn Error>> {
        let mut child = self.command(self.seat.member, arguments).stdin(Stdio::piped()).spawn()?;
        // A command that fails at once may have closed its input already.
        let _ = child.stdin.take().ok_or("no stdin")?.write_all(input.as_bytes());
        let output = child.wait_with_output()?;
        Ok(CommandResult { exit: output.status.to_string(), output: String::from_utf8_lossy(&output.stdout).into_owned() })
    }

    /// Reads what a watch prints until it falls silent, does what is to be done meanwhile, reads on, then interrupts it.
    fn watch(&self, arguments: &str, meanwhile: &str) -> Result<CommandResult, Box<dyn Error>> {
        let mut child = self.command(self.seat.member, arguments).stdin(Stdio::null()).spawn()?;
        let reader = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        let (sender, lines) = mpsc::channel();
        let pump = std::thread::spawn(move || reader.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut output = String::new();
        let read = |first: Duration, output: &mut String| {
            let mut patience = first;
            while let Ok(line) = lines.recv_timeout(patience) {
                *output += &line;
                output.push('\n');
                patience = WATCH_SILENCE;
            }
        };
        read(WATCH_START, &mut output);
        if !meanwhile.is_empty() {
            let elsewhere = (self.seat.member + 1) % self.seat.members;
            let status = self.command(elsewhere, meanwhile).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
            if !status.success() {
                return Err(format!("{meanwhile} ended with {status}").into());
            }
            read(WATCH_START, &mut output);
        }
        let _ = kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM);
        let status = child.wait()?;
        let _ = pump.join();
        // Ended by itself (with its code) or by us.
        let exit = if matches!(status.code(), Some(124 | 143)) { "interrupted".to_owned() } else { status.to_string() };
        Ok(CommandResult { exit, output })
    }

    fn http(&self, path: &str, body: &str) -> Result<CommandResult, Box<dyn Error>> {
        let url = |path: &str| format!("http://{}{path}", self.cluster.members[self.seat.member].client);
        let mut response = match path.split_once(' ') {
            Some(("OPTIONS", path)) => self.agent.options(url(path)).call()?,
            Some((_, path)) => self.agent.get(url(path)).call()?,
            None => {
                let body = body.replace("{follower}", &self.follower().to_string());
                self.agent.post(url(path)).content_type("application/json").send(body)?
            }
        };
        let header = |name: &str| {
            response.headers().get(name).map_or_else(String::new, |value| format!(" {}", String::from_utf8_lossy(value.as_bytes())))
        };
        let told = ["content-type", "access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers"];
        let exit = format!("{}{}", response.status(), told.map(header).concat());
        let text = response.body_mut().read_to_string()?;
        // Go's JSON of protobuf messages has spaces at random, another way in each build.
        let output = serde_json::from_str::<Value>(&text).map_or_else(|_| sort_checks(&text), |json| json.to_string());
        Ok(CommandResult { exit, output })
    }
}

/// A number of the gateway's JSON, where 64-bit ones are strings and zeros are left out.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

/// The order in which etcd lists its checks is that of a Go map: chance.
fn sort_checks(text: &str) -> String {
    let (mut checks, rest): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with('['));
    checks.sort_unstable();
    checks.extend(rest);
    checks.join("\n")
}
