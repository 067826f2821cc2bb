//! Real members as child processes on loopback: started, awaited, killed, stopped, and always cleaned up.

use crate::peers;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sha1::{Digest, Sha1};
use std::{
    error::Error,
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a member may take until it serves.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Server {
    Etcd,
    Quorate,
}

impl Server {
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Quorate => "quorate",
        }
    }

    pub fn binary(self) -> Result<PathBuf, Box<dyn Error>> {
        match self {
            Self::Etcd => Ok(peers::build()?.join("etcd")),
            Self::Quorate => peers::quorate(),
        }
    }
}

/// One member: its process, if it runs, and what is needed to start it again.
#[derive(Debug)]
pub struct Member {
    pub name: String,
    pub client: String,
    pub peer: String,
    pub data_dir: PathBuf,
    pub log: PathBuf,
    /// A command that runs the member, such as `prlimit` with its options; it must become the member by `exec`.
    pub wrapper: Vec<String>,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub binary: PathBuf,
    child: Option<Child>,
    /// Where this life's part of the log begins, in bytes.
    log_start: u64,
}

/// Where a member runs: its two addresses, and what runs it there.
#[derive(Clone, Debug)]
pub struct Site {
    pub client: String,
    pub peer: String,
    /// See [`Member::wrapper`].
    pub wrapper: Vec<String>,
}

/// Members that form one cluster, in a folder that goes away with them.
#[derive(Debug)]
pub struct Cluster {
    pub server: Server,
    pub members: Vec<Member>,
    /// Goes away with everything in it.
    folder: TempDir,
}

/// A port that was free a moment ago. Members are given theirs by number, as an operator would.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The id etcd derives from a peer URL and the default token.
fn member_id(peer: &str) -> [u8; 8] {
    let digest = Sha1::digest(format!("http://{peer}etcd-cluster"));
    digest[..8].try_into().expect("a digest is longer")
}

impl Cluster {
    /// Starts `size` members on loopback with etcd's own flags and waits until all serve.
    pub fn start(server: Server, size: usize, extra: &[&str]) -> Result<Self, Box<dyn Error>> {
        let site = |_| {
            let address = || free_port().map(|port| format!("127.0.0.1:{port}"));
            Ok(Site { client: address()?, peer: address()?, wrapper: Vec::new() })
        };
        Self::start_at(server, (0..size).map(site).collect::<std::io::Result<_>>()?, extra)
    }

    /// The same, each member at a site of its own.
    pub fn start_at(server: Server, mut sites: Vec<Site>, extra: &[&str]) -> Result<Self, Box<dyn Error>> {
        let binary = server.binary()?;
        let folder = tempfile::Builder::new().prefix("quorate-tests-").tempdir()?;
        let mut members = Vec::new();
        // Lists are sorted by member id, which comes from the peer address: names follow that order, on every run.
        sites.sort_by_key(|site| member_id(&site.peer));
        for (number, Site { client, peer, wrapper }) in (1..).zip(sites) {
            let name = format!("m{number}");
            members.push(Member {
                client,
                peer,
                data_dir: folder.path().join(&name),
                log: folder.path().join(format!("{name}.log")),
                wrapper,
                arguments: Vec::new(),
                environment: Vec::new(),
                binary: binary.clone(),
                child: None,
                log_start: 0,
                name,
            });
        }
        let initial = members.iter().map(|m| format!("{}=http://{}", m.name, m.peer)).collect::<Vec<_>>().join(",");
        for member in &mut members {
            let (client, peer) = (format!("http://{}", member.client), format!("http://{}", member.peer));
            member.arguments = [
                "--name",
                &member.name,
                "--data-dir",
                member.data_dir.to_str().ok_or("data directory is not UTF-8")?,
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
                "--initial-cluster",
                &initial,
            ]
            .iter()
            .chain(extra)
            .map(ToString::to_string)
            .collect();
            member.start()?;
        }
        let cluster = Self { server, members, folder };
        for member in &cluster.members {
            member.wait_ready()?;
        }
        Ok(cluster)
    }

    /// A folder for the suite's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All client addresses, for `--endpoints`.
    pub fn endpoints(&self) -> String {
        self.members.iter().map(|m| m.client.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Server CPU used so far by all running members.
    pub fn cpu(&self) -> Duration {
        self.members.iter().filter_map(|m| m.cpu().ok()).sum()
    }
}

impl Member {
    pub fn start(&mut self) -> std::io::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        self.log_start = log.metadata()?.len();
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, options)) => {
                let mut command = Command::new(wrapper);
                command.args(options).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        let child = command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let url = format!("http://{}/readyz", self.client);
        ureq::get(&url).config().timeout_global(Some(Duration::from_secs(2))).build().call().is_ok()
    }

    /// Waits until `/readyz` says ok, or the process has ended by itself: whether it serves.
    pub fn wait_ready_or_end(&mut self) -> Result<bool, Box<dyn Error>> {
        let deadline = Instant::now() + READY_LIMIT;
        while Instant::now() < deadline {
            if self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some())) {
                return Ok(false);
            }
            if self.is_ready() {
                return Ok(true);
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Err(format!("{} neither became ready nor ended within {READY_LIMIT:?}; its log: {}", self.name, self.log_text()?).into())
    }

    /// Waits until `/readyz` says ok.
    pub fn wait_ready(&self) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + READY_LIMIT;
        while Instant::now() < deadline {
            if self.is_ready() {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail = log.lines().rev().take(15).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
        Err(format!("{} did not become ready within {READY_LIMIT:?}; its log ends:\n{tail}", self.name).into())
    }

    pub fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(|child| Pid::from_raw(i32::try_from(child.id()).expect("a pid")))
    }

    pub fn signal(&self, signal: Signal) -> Result<(), Box<dyn Error>> {
        let pid = self.pid().ok_or_else(|| format!("{} does not run", self.name))?;
        Ok(kill(pid, signal)?)
    }

    /// `kill -9`, then waits for the process to be gone.
    pub fn kill(&mut self) -> Result<(), Box<dyn Error>> {
        self.signal(Signal::SIGKILL)?;
        self.wait()?;
        Ok(())
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> Result<ExitStatus, Box<dyn Error>> {
        Ok(self.child.take().ok_or_else(|| format!("{} does not run", self.name))?.wait()?)
    }

    /// Waits for the process to end by itself, killing it at the limit.
    pub fn wait_end(&mut self) -> Result<ExitStatus, Box<dyn Error>> {
        let deadline = Instant::now() + READY_LIMIT;
        let child = self.child.as_mut().ok_or_else(|| format!("{} does not run", self.name))?;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        self.kill()?;
        Err(format!("{} still runs after {READY_LIMIT:?}; its log: {}", self.name, self.log_text()?).into())
    }

    /// What this life, or the last one if it has ended, has logged.
    pub fn log_text(&self) -> std::io::Result<String> {
        let bytes = std::fs::read(&self.log)?;
        let start = usize::try_from(self.log_start).unwrap_or(usize::MAX).min(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[start..]).into_owned())
    }

    /// A member that is as this one but for what the caller then changes; it does not run.
    pub fn twin(&self, name: &str) -> Self {
        Self {
            name: self.name.clone(),
            client: self.client.clone(),
            peer: self.peer.clone(),
            data_dir: self.data_dir.clone(),
            log: self.log.with_file_name(format!("{name}.log")),
            wrapper: Vec::new(),
            arguments: self.arguments.clone(),
            environment: Vec::new(),
            binary: self.binary.clone(),
            child: None,
            log_start: 0,
        }
    }

    /// Gives an option another value.
    pub fn set(&mut self, option: &str, value: &str) {
        match self.arguments.iter().position(|argument| argument == option) {
            Some(at) => self.arguments[at + 1] = value.to_owned(),
            None => self.arguments.extend([option.to_owned(), value.to_owned()]),
        }
    }

    /// User and system time from `/proc`.
    pub fn cpu(&self) -> Result<Duration, Box<dyn Error>> {
        let pid = self.pid().ok_or_else(|| format!("{} does not run", self.name))?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields = stat.rsplit_once(") ").ok_or("/proc stat has no command")?.1.split(' ').collect::<Vec<_>>();
        // Fields 14 and 15 of proc(5), in clock ticks of 10 ms; the command and what stands before it are cut off here.
        let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Resident memory from `/proc`, in bytes.
    pub fn resident_bytes(&self) -> Result<u64, Box<dyn Error>> {
        let pid = self.pid().ok_or_else(|| format!("{} does not run", self.name))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse::<u64>()? * 1024)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A stopped process dies of SIGKILL as well.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
