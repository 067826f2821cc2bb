//! A network for members: each has a network namespace of its own, and this process is the router between them and their client.
//! What is cut is dropped in silence: no reset, no ICMP, links stay up. Clients' own connections are never cut.
//!
//! All of it lives in a namespace that this process moves into, and in processes that end with their input: nothing of it outlives
//! this process, however that ends, and the machine's own network is not touched.

use crate::process::Site;
use nix::sched::{CloneFlags, unshare};
use std::{
    error::Error,
    io::{BufRead, BufReader},
    process::{Child, ChildStdin, Command, Stdio},
};

/// Moves this thread, and those it starts, into an empty network namespace with loopback.
pub fn isolate() -> Result<(), Box<dyn Error>> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no network namespace could be made (it needs root): {error}"))?;
    ip(&["link", "set", "lo", "up"])
}

/// Namespaces and the way between them.
#[derive(Debug)]
pub struct Network {
    holders: Vec<Holder>,
}

/// A process whose only purpose is to have a namespace.
#[derive(Debug)]
struct Holder {
    process: Child,
    _input: Option<ChildStdin>,
}

impl Network {
    /// Makes a namespace for each of so many members, all connected. Only after [`isolate`].
    pub fn new(members: usize) -> Result<Self, Box<dyn Error>> {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(|error| format!("forwarding could not be turned on: {error}"))?;
        let mut network = Self { holders: Vec::new() };
        for number in 0..members {
            network.holders.push(Holder::start()?);
            network.connect(number)?;
        }
        Ok(network)
    }

    fn connect(&self, number: usize) -> Result<(), Box<dyn Error>> {
        let holder = &self.holders[number];
        let (link, pid) = (format!("member{number}"), holder.process.id().to_string());
        let (router, member) = (format!("10.77.{number}.1"), address(number));
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
        ip(&["address", "add", &format!("{router}/24"), "dev", &link])?;
        ip(&["link", "set", &link, "up"])?;
        holder.ip(&["link", "set", "lo", "up"])?;
        holder.ip(&["address", "add", &format!("{member}/24"), "dev", "eth0"])?;
        holder.ip(&["link", "set", "eth0", "up"])?;
        holder.ip(&["route", "add", "default", "via", &router])
    }

    /// Where the members run.
    pub fn sites(&self) -> Vec<Site> {
        let site = |(number, holder): (usize, &Holder)| Site {
            client: format!("{}:2379", address(number)),
            peer: format!("{}:2380", address(number)),
            wrapper: holder.enter(),
        };
        self.holders.iter().enumerate().map(site).collect()
    }

    /// Drops in silence what two hosts say to each other.
    pub fn cut(&self, one: &str, other: &str) -> Result<(), Box<dyn Error>> {
        [(one, other), (other, one)].into_iter().try_for_each(|(from, to)| ip(&["rule", "add", "from", from, "to", to, "blackhole"]))
    }

    /// Undoes [`Self::cut`].
    pub fn heal(&self, one: &str, other: &str) -> Result<(), Box<dyn Error>> {
        [(one, other), (other, one)].into_iter().try_for_each(|(from, to)| ip(&["rule", "delete", "from", from, "to", to, "blackhole"]))
    }
}

fn address(number: usize) -> String {
    format!("10.77.{number}.2")
}

impl Holder {
    fn start() -> Result<Self, Box<dyn Error>> {
        let mut process = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo made && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare could not be started: {error}"))?;
        let (input, output) = (process.stdin.take(), process.stdout.take().ok_or("no output")?);
        let holder = Self { process, _input: input };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line == "made\n" { Ok(holder) } else { Err("a network namespace could not be made".into()) }
    }

    /// What makes a command run in the namespace.
    fn enter(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--net=/proc/{}/ns/net", self.process.id())]
    }

    fn ip(&self, arguments: &[&str]) -> Result<(), Box<dyn Error>> {
        let enter = self.enter();
        run(Command::new(&enter[0]).args(&enter[1..]).arg("ip").args(arguments))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn ip(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let output = command.output().map_err(|error| format!("{command:?} could not be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()).into())
}
