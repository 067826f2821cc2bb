//! etcd's command line and environment: one table of options, and what each may be given as.

use clap::{Arg, ArgAction, Command, builder::StyledStr};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
};

/// How far an option is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Support {
    Served,
    /// Taken at its default only: the part it steers does not exist yet, and ignoring it would mislead.
    DefaultOnly,
    /// Means nothing here and harms nobody; taken with a warning.
    Ignored,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Text,
    Boolean,
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub group: &'static str,
    pub help: &'static str,
    pub support: Support,
}

const fn served(group: &'static str, name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind: Kind::Text, default, group, help, support: Support::Served }
}

const fn switch(group: &'static str, name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind: Kind::Boolean, default, group, help, support: Support::Served }
}

const fn later(name: &'static str, default: &'static str) -> Flag {
    Flag { name, kind: Kind::Text, default, group: LATER, help: "", support: Support::DefaultOnly }
}

const fn later_switch(name: &'static str, default: &'static str) -> Flag {
    Flag { name, kind: Kind::Boolean, default, group: LATER, help: "", support: Support::DefaultOnly }
}

const fn checked(name: &'static str, default: &'static str) -> Flag {
    Flag { name, kind: Kind::Text, default, group: LATER, help: "", support: Support::Ignored }
}

const fn ignored(name: &'static str, kind: Kind) -> Flag {
    Flag { name, kind, default: "", group: LATER, help: "", support: Support::Ignored }
}

const MEMBER: &str = "Member";
const CLUSTER: &str = "Cluster";
const LIMITS: &str = "Limits";
const LOGS: &str = "Logs and metrics";
const LATER: &str = "";

/// Every option etcd 3.7 knows, and a few that its users still pass.
pub const FLAGS: &[Flag] = &[
    served(MEMBER, "name", "default", "This member's name"),
    served(MEMBER, "data-dir", "", "Where data lies [default: NAME.etcd]"),
    served(MEMBER, "wal-dir", "", "Where the write-ahead log lies [default: in the data directory]"),
    served(MEMBER, "listen-client-urls", "http://localhost:2379", "Where clients are served, comma separated"),
    served(MEMBER, "listen-peer-urls", "http://localhost:2380", "Where other members are served, comma separated"),
    served(MEMBER, "advertise-client-urls", "http://localhost:2379", "Where clients reach this member from elsewhere"),
    served(MEMBER, "heartbeat-interval", "100", "Milliseconds between a leader's heartbeats"),
    served(MEMBER, "election-timeout", "1000", "Milliseconds without a leader before an election"),
    served(MEMBER, "snapshot-count", "10000", "Entries applied between two syncs of the state store, after which log space is given back"),
    served(MEMBER, "snapshot-catchup-entries", "5000", "Entries kept in the log for a slow member, beyond which it is sent a snapshot"),
    served(CLUSTER, "initial-advertise-peer-urls", "http://localhost:2380", "Where other members reach this one"),
    served(CLUSTER, "initial-cluster", "", "The first members, as NAME=URL,..."),
    served(CLUSTER, "initial-cluster-state", "new", "\"new\", or \"existing\" to join a running cluster"),
    served(CLUSTER, "initial-cluster-token", "etcd-cluster", "Tells clusters with the same members apart"),
    switch(CLUSTER, "pre-vote", "true", "Ask whether an election could be won before disturbing the cluster"),
    switch(CLUSTER, "initial-election-tick-advance", "true", "Let a starting member ask for an election after half a timeout"),
    switch(CLUSTER, "strict-reconfig-check", "true", "Refuse membership changes that would cost the quorum"),
    served(LIMITS, "quota-backend-bytes", "0", "Refuse writes above this size; 0 is 2 GiB, negative is unlimited"),
    served(LIMITS, "max-request-bytes", "1572864", "The largest request"),
    served(LIMITS, "max-txn-ops", "128", "The most operations in one transaction"),
    served(LIMITS, "max-concurrent-streams", "4294967295", "The most streams a client may open on one connection"),
    served(LIMITS, "memory-budget-bytes", "0", "Memory for buffers and caches beside the index; 0 is half of what there is, at most 2 GiB"),
    served(LIMITS, "watch-progress-notify-interval", "10m", "Time between progress notifications of quiet watches"),
    served(LOGS, "log-level", "info", "debug, info, warn, error, panic or fatal"),
    served(LOGS, "log-outputs", "default", "default, stderr, stdout or file paths, comma separated"),
    served(LOGS, "log-format", "json", "json or console"),
    served(LOGS, "logger", "zap", "Only \"zap\" is known"),
    served(LOGS, "metrics", "basic", "basic or extensive"),
    switch(LIMITS, "enable-grpc-gateway", "true", "Serve JSON under /v3/"),
    served(LIMITS, "cors", "*", "Origins whose web pages may call, comma separated"),
    // Checked as etcd checks them, and without a meaning here.
    checked("feature-gates", ""),
    checked("max-snapshots", "5"),
    checked("max-wals", "5"),
    checked("v2-deprecation", "write-only"),
    // Parts that are not served yet.
    later("listen-client-http-urls", ""),
    later("listen-metrics-urls", ""),
    later("auto-compaction-retention", "0"),
    later("auto-compaction-mode", "periodic"),
    later("config-file", ""),
    later("discovery-token", ""),
    later("discovery-endpoints", ""),
    later("discovery-dial-timeout", "2s"),
    later("discovery-request-timeout", "5s"),
    later("discovery-keepalive-time", "2s"),
    later("discovery-keepalive-timeout", "6s"),
    later_switch("discovery-insecure-transport", "true"),
    later_switch("discovery-insecure-skip-tls-verify", "false"),
    later("discovery-cert", ""),
    later("discovery-key", ""),
    later("discovery-cacert", ""),
    later("discovery-user", ""),
    later("discovery-password", ""),
    later("discovery-fallback", "exit"),
    later("discovery-srv", ""),
    later("discovery-srv-name", ""),
    later("cert-file", ""),
    later("key-file", ""),
    later_switch("client-cert-auth", "false"),
    later("client-cert-file", ""),
    later("client-key-file", ""),
    later("client-crl-file", ""),
    later("client-cert-allowed-hostname", ""),
    later("trusted-ca-file", ""),
    later_switch("auto-tls", "false"),
    later("peer-cert-file", ""),
    later("peer-key-file", ""),
    later_switch("peer-client-cert-auth", "false"),
    later("peer-client-cert-file", ""),
    later("peer-client-key-file", ""),
    later("peer-trusted-ca-file", ""),
    later("peer-cert-allowed-cn", ""),
    later("peer-cert-allowed-hostname", ""),
    later_switch("peer-auto-tls", "false"),
    later("peer-crl-file", ""),
    later_switch("peer-skip-client-san-verification", "false"),
    later("self-signed-cert-validity", "1"),
    later("cipher-suites", ""),
    later("tls-min-version", "TLS1.2"),
    later("tls-max-version", ""),
    later("host-whitelist", "*"),
    later("auth-token", "simple"),
    later("bcrypt-cost", "10"),
    later("auth-token-ttl", "300"),
    later_switch("enable-pprof", "false"),
    later_switch("enable-log-rotation", "false"),
    later("log-rotation-config-json", ""),
    later_switch("enable-distributed-tracing", "false"),
    later("distributed-tracing-address", "localhost:4317"),
    later("distributed-tracing-service-name", "etcd"),
    later("distributed-tracing-instance-id", ""),
    later("distributed-tracing-sampling-rate", "0"),
    later("corrupt-check-time", "0s"),
    later_switch("socket-reuse-port", "false"),
    later_switch("socket-reuse-address", "false"),
    later_switch("memory-mlock", "false"),
    later_switch("force-new-cluster", "false"),
    later_switch("unsafe-no-fsync", "false"),
    later("max-learners", "1"),
    later("grpc-keepalive-min-time", "5s"),
    later("grpc-keepalive-interval", "2h"),
    later("grpc-keepalive-timeout", "20s"),
    // Knobs of another storage engine or of another release.
    ignored("backend-bbolt-freelist-type", Kind::Text),
    ignored("backend-batch-interval", Kind::Text),
    ignored("backend-batch-limit", Kind::Text),
    ignored("bootstrap-defrag-threshold-megabytes", Kind::Text),
    ignored("compact-hash-check-time", Kind::Text),
    ignored("compaction-batch-limit", Kind::Text),
    ignored("compaction-sleep-interval", Kind::Text),
    ignored("downgrade-check-time", Kind::Text),
    ignored("warning-unary-request-duration", Kind::Text),
    ignored("warning-apply-duration", Kind::Text),
    ignored("raft-read-timeout", Kind::Text),
    ignored("raft-write-timeout", Kind::Text),
    ignored("cluster-active-size", Kind::Text),
    ignored("cluster-remove-delay", Kind::Text),
    ignored("cluster-sync-interval", Kind::Text),
    ignored("config", Kind::Text),
    ignored("force", Kind::Boolean),
    ignored("max-result-buffer", Kind::Text),
    ignored("max-retry-attempts", Kind::Text),
    ignored("peer-heartbeat-interval", Kind::Text),
    ignored("peer-election-timeout", Kind::Text),
    ignored("retry-interval", Kind::Text),
    ignored("snapshot", Kind::Boolean),
    ignored("v", Kind::Boolean),
    ignored("vv", Kind::Boolean),
];

/// What the command line and the environment set, by option name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Given {
    pub values: BTreeMap<&'static str, String>,
    /// Those of them that the environment set.
    pub from_environment: BTreeSet<&'static str>,
    pub warnings: Vec<String>,
}

/// Why a command line is not taken, and how the process should end over it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsageError {
    pub message: String,
    pub exit: u8,
    /// For `--help` and `--version`: the message goes to standard output.
    pub asked: bool,
}

impl UsageError {
    pub(crate) fn wrong(message: impl Into<String>, exit: u8) -> Self {
        Self { message: message.into(), exit, asked: false }
    }
}

/// The etcd release whose interface this is; nothing but integers and dots, because clients parse it.
pub const ETCD_VERSION: &str = "3.7.1";

fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The environment variable that stands for a flag.
pub(crate) fn variable(name: &str) -> String {
    format!("ETCD_{}", name.to_uppercase().replace('-', "_"))
}

/// Reads the arguments (without the program's name) and the environment.
///
/// # Errors
/// [`UsageError`] with the text to print: also for `--help` and `--version`.
pub fn read(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Given, UsageError> {
    let normal = normalise(arguments)?;
    let matches = command().try_get_matches_from(normal).map_err(|error| {
        let asked = !error.use_stderr();
        UsageError { message: error.render().to_string().trim_end().to_owned(), exit: if asked { 0 } else { 2 }, asked }
    })?;
    if matches.get_flag("version") {
        let message = format!(
            "etcd Version: {ETCD_VERSION}\nQuorate Version: {}\nOS/Arch: {}/{}",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH
        );
        return Err(UsageError { message, exit: 0, asked: true });
    }
    let mut given = Given::default();
    for flag in FLAGS {
        if let Some(value) = matches.get_one::<String>(flag.name) {
            given.values.insert(flag.name, value.clone());
        }
    }
    read_environment(environment, &mut given)?;
    check_support(&mut given)?;
    Ok(given)
}

/// Brings every form etcd takes into `--name=value`.
fn normalise(arguments: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>, UsageError> {
    let mut normal = vec![OsString::from("quorate")];
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().ok_or_else(|| UsageError::wrong(format!("{argument:?} is not valid UTF-8"), 2))?;
        let Some(body) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')).filter(|body| !body.is_empty()) else {
            return Err(UsageError::wrong(format!("{text:?} is not a valid flag"), 1));
        };
        let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value.to_owned())));
        if matches!(name, "h" | "help" | "version") {
            let name = if name == "h" { "help" } else { name };
            if value.as_deref() != Some("false") {
                normal.push(format!("--{name}").into());
            }
            continue;
        }
        let Some(flag) = find(name) else {
            normal.push(format!("--{name}").into());
            break;
        };
        let value = match (value, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Boolean) => "true".to_owned(),
            (None, Kind::Text) => match arguments.next() {
                Some(value) => value.into_string().map_err(|raw| UsageError::wrong(format!("{raw:?} is not valid UTF-8"), 2))?,
                None => return Err(UsageError::wrong(format!("flag needs an argument: -{name}"), 2)),
            },
        };
        normal.push(format!("--{name}={value}").into());
    }
    Ok(normal)
}

fn command() -> Command {
    let mut command = Command::new("quorate")
        .about("A distributed, strongly consistent key-value store; a drop-in for etcd")
        .override_usage("quorate [FLAGS]    every flag also as ETCD_NAME_OF_FLAG in the environment")
        .disable_version_flag(true)
        .disable_help_flag(true)
        .arg(Arg::new("help").long("help").action(ArgAction::Help).help("Print this"))
        .arg(Arg::new("version").long("version").action(ArgAction::SetTrue).help("Print the version"));
    for flag in FLAGS {
        let mut argument = Arg::new(flag.name)
            .long(flag.name)
            .action(ArgAction::Set)
            .overrides_with(flag.name)
            .require_equals(true)
            .allow_hyphen_values(true)
            .value_name("VALUE")
            .help(help(flag));
        argument = if flag.group == LATER { argument.hide(true) } else { argument.help_heading(flag.group) };
        command = command.arg(argument);
    }
    command
}

fn help(flag: &Flag) -> StyledStr {
    let default = if flag.default.is_empty() { String::new() } else { format!(" [default: {}]", flag.default) };
    format!("{}{default}", flag.help).into()
}

fn read_environment(environment: impl IntoIterator<Item = (OsString, OsString)>, given: &mut Given) -> Result<(), UsageError> {
    let known: BTreeMap<String, &Flag> = FLAGS.iter().map(|flag| (variable(flag.name), flag)).collect();
    let mut found: Vec<(String, String)> = environment
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, value)| name.starts_with("ETCD_") && !value.is_empty())
        .collect();
    found.sort();
    for (name, value) in found {
        // Set by package managers and images for their own use.
        if matches!(name.as_str(), "ETCD_VERSION" | "ETCD_HELP" | "ETCD_UNSUPPORTED_ARCH") {
            continue;
        }
        let Some(flag) = known.get(&name) else {
            given.warnings.push(format!("unrecognized environment variable {name}={value}"));
            continue;
        };
        if given.values.contains_key(flag.name) {
            return Err(UsageError::wrong(
                format!(
                    "conflicting environment variable {name:?} is shadowed by corresponding command-line flag (either unset environment variable or disable flag)"
                ),
                1,
            ));
        }
        given.values.insert(flag.name, value);
        given.from_environment.insert(flag.name);
    }
    Ok(())
}

fn check_support(given: &mut Given) -> Result<(), UsageError> {
    for (name, value) in &given.values {
        let flag = find(name).expect("only known options are kept");
        match flag.support {
            Support::Served => {}
            Support::Ignored => given.warnings.push(format!("flag --{name} has no effect here and will not be accepted in release 1.0")),
            Support::DefaultOnly if is_default(flag, value) => {}
            Support::DefaultOnly => {
                return Err(UsageError::wrong(
                    format!("--{name} is not supported by this release (value {value:?}): what it asks for would not happen"),
                    1,
                ));
            }
        }
    }
    Ok(())
}

fn is_default(flag: &Flag, value: &str) -> bool {
    let is_zero = |text: &str| matches!(text, "0" | "0s" | "0h" | "0m");
    value == flag.default
        || (is_zero(value) && is_zero(flag.default))
        || (flag.kind == Kind::Boolean && boolean(value) == boolean(flag.default))
        || flag.name == "auto-compaction-mode" && value == "revision"
}

/// Go's `strconv.ParseBool`.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Given {
    /// The value of an option: as given, or its default.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.values.get(name).map_or_else(|| find(name).expect("an option of the table").default, String::as_str)
    }

    #[must_use]
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }
}
