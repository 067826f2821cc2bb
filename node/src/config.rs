//! What this member was told to be: flags and environment, checked by etcd's rules and with its words.

use crate::flags::{self, Given, UsageError};
use crate::memory::{BUDGET_LEAST_BYTES, MemoryBudget};
use crate::url::Url;
use quorate_core::member::COMMAND_BYTES;
use quorate_web::Cors;
use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, time::Duration};

/// Whether `--initial-cluster` describes a cluster to found or one to join.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClusterState {
    New,
    Existing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// On a terminal too: programs read logs through one.
    Json,
    Console,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogOutput {
    Stderr,
    Stdout,
    File(PathBuf),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSettings {
    pub level: tracing::Level,
    pub format: LogFormat,
    pub outputs: Vec<LogOutput>,
}

/// A member's whole configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    pub wal_dir: Option<PathBuf>,
    pub listen_client_urls: Vec<Url>,
    pub listen_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    pub advertise_peer_urls: Vec<Url>,
    /// The members of `--initial-cluster` by name, each with its sorted peer URLs.
    pub initial_cluster: BTreeMap<String, Vec<Url>>,
    pub initial_cluster_state: ClusterState,
    pub initial_cluster_token: String,
    /// One of the flags was given that, for a new cluster, say who this member is.
    pub founding_stated: bool,
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    /// `None`: unlimited.
    pub quota_bytes: Option<u64>,
    pub max_request_bytes: usize,
    pub memory: MemoryBudget,
    pub max_txn_ops: usize,
    pub max_concurrent_streams: u32,
    pub progress_interval: Duration,
    pub pre_vote: bool,
    pub initial_election_tick_advance: bool,
    pub gateway: bool,
    pub cors: Cors,
    pub log: LogSettings,
    /// To be logged once logging works.
    pub warnings: Vec<String>,
}

/// What `--quota-backend-bytes=0` means.
pub const QUOTA_DEFAULT_BYTES: u64 = 2 << 30;
/// etcd's own ceiling on `--election-timeout`.
const ELECTION_TIMEOUT_MAX_MS: u64 = 50_000;

impl Config {
    /// From this process's arguments and environment.
    ///
    /// # Errors
    /// What to print and how to exit, also for `--help` and `--version`.
    pub fn from_process() -> Result<Self, UsageError> {
        Self::read(std::env::args_os().skip(1), std::env::vars_os())
    }

    /// # Errors
    /// As [`Config::from_process`].
    pub fn read(
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, UsageError> {
        let given = flags::read(arguments, environment)?;
        Self::from_given(&given).map_err(|invalid| invalid.usage_error(&given))
    }

    /// Seconds that a lease is granted at least: one and a half election timeouts in whole heartbeats, as in etcd, rounded up.
    #[must_use]
    pub fn lease_ttl_min_s(&self) -> i64 {
        let (heartbeat, election) = (self.heartbeat_interval.as_millis(), self.election_timeout.as_millis());
        let millis = 3 * (election / heartbeat) / 2 * heartbeat;
        i64::try_from(millis.div_ceil(1_000)).unwrap_or(i64::MAX)
    }

    fn from_given(given: &Given) -> Result<Self, Invalid> {
        let name = given.text("name").to_owned();
        let data_dir = match given.text("data-dir") {
            "" => PathBuf::from(format!("{name}.etcd")),
            directory => PathBuf::from(directory),
        };
        let wal_dir = Some(given.text("wal-dir")).filter(|directory| !directory.is_empty()).map(PathBuf::from);
        let listen_client_urls = listen_urls(given, "listen-client-urls")?;
        let listen_peer_urls = listen_urls(given, "listen-peer-urls")?;
        if given.is_set("listen-client-urls") && !given.is_set("advertise-client-urls") {
            return Err("--advertise-client-urls is required when --listen-client-urls is set explicitly".to_owned().into());
        }
        let advertise_client_urls = urls(given, "advertise-client-urls")?;
        let advertise_peer_urls = urls(given, "initial-advertise-peer-urls")?;
        let initial_cluster = initial_cluster(given, &name, &advertise_peer_urls)?;
        let initial_cluster_state =
            choice(given, "initial-cluster-state", &[("new", ClusterState::New), ("existing", ClusterState::Existing)])?;
        let (heartbeat_interval, election_timeout) = timing(given)?;
        choice(given, "logger", &[("zap", ())])?;
        choice(given, "metrics", &[("basic", ()), ("extensive", ())])?;
        choice(given, "v2-deprecation", &[("write-only", ()), ("write-only-drop-data", ()), ("gone", ())])?;
        flag(given, "strict-reconfig-check")?;
        check_feature_gates(given)?;
        number::<u32>(given, "max-snapshots")?;
        number::<u32>(given, "max-wals")?;
        let quota: i64 = number(given, "quota-backend-bytes")?;
        let config = Self {
            data_dir,
            wal_dir,
            listen_client_urls,
            listen_peer_urls,
            advertise_client_urls,
            advertise_peer_urls,
            initial_cluster,
            initial_cluster_state,
            initial_cluster_token: given.text("initial-cluster-token").to_owned(),
            founding_stated: ["initial-cluster", "initial-cluster-token", "initial-advertise-peer-urls"]
                .iter()
                .any(|name| given.is_set(name)),
            heartbeat_interval,
            election_timeout,
            snapshot_count: number(given, "snapshot-count")?,
            snapshot_catchup_entries: number(given, "snapshot-catchup-entries")?,
            quota_bytes: match quota {
                0 => Some(QUOTA_DEFAULT_BYTES),
                bytes => u64::try_from(bytes).ok(),
            },
            max_request_bytes: number(given, "max-request-bytes")?,
            memory: memory(given)?,
            max_txn_ops: number(given, "max-txn-ops")?,
            max_concurrent_streams: number(given, "max-concurrent-streams")?,
            progress_interval: duration(given, "watch-progress-notify-interval")?,
            pre_vote: flag(given, "pre-vote")?,
            initial_election_tick_advance: flag(given, "initial-election-tick-advance")?,
            gateway: flag(given, "enable-grpc-gateway")?,
            cors: cors(given)?,
            log: log_settings(given)?,
            warnings: given.warnings.clone(),
            name,
        };
        if config.snapshot_count == 0 {
            return Err(invalid(given, "snapshot-count", "invalid value \"0\""));
        }
        if config.max_request_bytes > MAX_REQUEST_BYTES_CEILING {
            return Err(format!(
                "--max-request-bytes {} is over {MAX_REQUEST_BYTES_CEILING}, the most that every member of this release can receive",
                config.max_request_bytes
            )
            .into());
        }
        Ok(config)
    }
}

/// The largest `--max-request-bytes`: what one member takes, all must be able to receive, whatever their own flag says. Half of the
/// largest command, because that is longer than its request if it has many small ops.
pub const MAX_REQUEST_BYTES_CEILING: usize = COMMAND_BYTES / 2;

/// Why a configuration is not taken.
#[derive(Debug)]
enum Invalid {
    /// The value of one flag is none of its kind.
    Value { name: &'static str, message: String },
    /// The values together, or what one of them asks for.
    Configuration(String),
}

impl From<String> for Invalid {
    fn from(message: String) -> Self {
        Self::Configuration(message)
    }
}

impl Invalid {
    /// As etcd: a command line that cannot be read exits with 2, everything else with 1.
    fn usage_error(self, given: &Given) -> UsageError {
        match self {
            Self::Value { name, message } if !given.from_environment.contains(name) => UsageError::wrong(message, 2),
            Self::Value { message, .. } | Self::Configuration(message) => UsageError::wrong(message, 1),
        }
    }
}

/// A value that is none of its flag's: of the command line or, in etcd's words too, of the environment.
fn invalid(given: &Given, name: &'static str, why: impl std::fmt::Display) -> Invalid {
    let from = if given.from_environment.contains(name) { flags::variable(name) } else { format!("flag -{name}") };
    Invalid::Value { name, message: format!("invalid value {:?} for {from}: {why}", given.text(name)) }
}

fn urls(given: &Given, name: &'static str) -> Result<Vec<Url>, Invalid> {
    Url::list(given.text(name)).map_err(|error| invalid(given, name, error))
}

fn listen_urls(given: &Given, name: &'static str) -> Result<Vec<Url>, Invalid> {
    let urls = urls(given, name)?;
    for url in &urls {
        url.check_listen().map_err(|error| format!("{error} (--{name})"))?;
    }
    Ok(urls)
}

fn initial_cluster(given: &Given, name: &str, advertised: &[Url]) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let text = given.text("initial-cluster");
    let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    if text.is_empty() {
        members.insert(name.to_owned(), advertised.to_vec());
        return Ok(members);
    }
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (member, url) = part
            .split_once('=')
            .filter(|(member, url)| !member.is_empty() && !url.is_empty())
            .ok_or_else(|| format!("invalid value {text:?} for flag -initial-cluster: {part:?} is not of the form NAME=URL"))?;
        let url = Url::parse(url).map_err(|error| format!("invalid value {text:?} for flag -initial-cluster: {error}"))?;
        members.entry(member.to_owned()).or_default().push(url);
    }
    for urls in members.values_mut() {
        urls.sort();
        urls.dedup();
    }
    let Some(own) = members.get(name) else {
        let names: Vec<&str> = members.keys().map(String::as_str).collect();
        return Err(format!(
            "couldn't find local name {name:?} in the initial cluster configuration (--name is {name:?}, --initial-cluster names {})",
            names.join(", ")
        ));
    };
    if own != advertised {
        let join = |urls: &[Url]| urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        return Err(format!(
            "--initial-cluster has {name}={} but --initial-advertise-peer-urls={}; they must be equal",
            join(own),
            join(advertised)
        ));
    }
    let mut owners: BTreeMap<&Url, &str> = BTreeMap::new();
    for (member, url) in members.iter().flat_map(|(member, urls)| urls.iter().map(move |url| (member, url))) {
        if let Some(other) = owners.insert(url, member) {
            return Err(format!("duplicate URL {url} in --initial-cluster: given to {other} and to {member}"));
        }
    }
    Ok(members)
}

fn timing(given: &Given) -> Result<(Duration, Duration), Invalid> {
    let (heartbeat, election): (u64, u64) = (number(given, "heartbeat-interval")?, number(given, "election-timeout")?);
    if heartbeat == 0 {
        return Err("--heartbeat-interval must be >0 (set to 0ms)".to_owned().into());
    }
    if election == 0 {
        return Err("--election-timeout must be >0 (set to 0ms)".to_owned().into());
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(format!("--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]").into());
    }
    if election > ELECTION_TIMEOUT_MAX_MS {
        return Err(format!("--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_TIMEOUT_MAX_MS}ms").into());
    }
    Ok((Duration::from_millis(heartbeat), Duration::from_millis(election)))
}

fn log_settings(given: &Given) -> Result<LogSettings, String> {
    use tracing::Level;
    let level = match given.text("log-level") {
        "debug" => Level::DEBUG,
        "info" => Level::INFO,
        "warn" => Level::WARN,
        "error" | "dpanic" | "panic" | "fatal" => Level::ERROR,
        other => return Err(format!("unrecognized level: {other:?} (--log-level takes debug, info, warn, error, panic, fatal)")),
    };
    let format = match given.text("log-format") {
        "json" => LogFormat::Json,
        "console" => LogFormat::Console,
        other => return Err(format!("unknown log format {other:?} (--log-format takes json, console)")),
    };
    let outputs: Vec<LogOutput> = given
        .text("log-outputs")
        .split(',')
        .map(|output| match output {
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            path => LogOutput::File(PathBuf::from(path)),
        })
        .collect();
    if outputs.len() > 1 && given.text("log-outputs").split(',').any(|output| output == "default") {
        return Err(format!("multi logoutput for \"default\" is not supported yet (--log-outputs={})", given.text("log-outputs")));
    }
    Ok(LogSettings { level, format, outputs })
}

fn number<T: std::str::FromStr>(given: &Given, name: &'static str) -> Result<T, Invalid> {
    given.text(name).parse().map_err(|_| invalid(given, name, "parse error"))
}

fn memory(given: &Given) -> Result<MemoryBudget, Invalid> {
    const NAME: &str = "memory-budget-bytes";
    match number::<u64>(given, NAME)? {
        0 => Ok(MemoryBudget::of_process(None)),
        bytes if bytes < BUDGET_LEAST_BYTES => Err(invalid(given, NAME, format_args!("the least is {BUDGET_LEAST_BYTES}"))),
        bytes => Ok(MemoryBudget::of_process(Some(bytes))),
    }
}

fn flag(given: &Given, name: &'static str) -> Result<bool, Invalid> {
    let text = given.text(name);
    let message = || format!("invalid boolean value {text:?} for -{name}: parse error");
    flags::boolean(text).ok_or_else(|| Invalid::Value { name, message: message() })
}

fn choice<T: Copy>(given: &Given, name: &'static str, among: &[(&str, T)]) -> Result<T, Invalid> {
    let text = given.text(name);
    among.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        invalid(given, name, if name == "initial-cluster-state" { "invalid value".to_owned() } else { format!("invalid value {text:?}") })
    })
}

fn duration(given: &Given, name: &'static str) -> Result<Duration, Invalid> {
    parse_duration(given.text(name)).ok_or_else(|| invalid(given, name, "parse error"))
}

/// The feature gates etcd 3.7 knows. None of them means anything here.
const FEATURE_GATES: [&str; 11] = [
    "AllAlpha",
    "AllBeta",
    "CompactHashCheck",
    "FastLeaseKeepAlive",
    "InitialCorruptCheck",
    "LeaseCheckpoint",
    "LeaseCheckpointPersist",
    "PriorityRequest",
    "SetMemberLocalAddr",
    "StopGRPCServiceOnDefrag",
    "TxnModeWriteWithSharedBuffer",
];

/// `Name=true,..` of known names.
fn check_feature_gates(given: &Given) -> Result<(), Invalid> {
    const NAME: &str = "feature-gates";
    for part in given.text(NAME).split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (gate, value) = part.split_once('=').ok_or_else(|| invalid(given, NAME, format_args!("missing bool value for {part}")))?;
        let (gate, value) = (gate.trim(), value.trim());
        if flags::boolean(value).is_none() {
            let why = format_args!("strconv.ParseBool: parsing {value:?}: invalid syntax");
            return Err(invalid(given, NAME, format_args!("invalid value of {gate}={value}, err: {why}")));
        }
        if !FEATURE_GATES.contains(&gate) {
            return Err(invalid(given, NAME, format_args!("unrecognized feature gate: {gate}")));
        }
    }
    Ok(())
}

/// Whose pages may call: anyone's, or those of a list of origins, which are URLs with a port.
fn cors(given: &Given) -> Result<Cors, Invalid> {
    let text = given.text("cors");
    if text == "*" {
        return Ok(Cors::Any);
    }
    let origin = |part: &str| {
        // A page may come over TLS to a server that does not speak it.
        Url::parse(&part.replacen("https://", "http://", 1)).map_err(|error| invalid(given, "cors", error))?;
        Ok(part.trim().to_owned())
    };
    Ok(Cors::Only(text.split(',').map(origin).collect::<Result<_, Invalid>>()?))
}

/// Go's `time.ParseDuration` without signs: `1h30m`, `100ms`, `1.5s`, `0`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 12 {
            return None;
        }
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        nanos = nanos.checked_add(whole.checked_mul(unit)?)?.checked_add(part * unit / scale)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(())?;
    Some(Duration::from_nanos(u64::try_from(nanos).ok()?))
}

#[cfg(test)]
mod tests;
