//! Command lines that both servers refuse before they do anything: the exit code and, where it is about one value, the words must be
//! equal.

use crate::process::Server;
use std::{
    error::Error,
    process::{Command, Stdio},
};

/// Longer than any of them takes to be refused.
const LIMIT_S: &str = "20s";

const REFUSED: &[&[&str]] = &[
    &["--no-such-flag"],
    &["argument"],
    &["--name"],
    &["--snapshot-count=many"],
    &["--pre-vote=maybe"],
    &["--watch-progress-notify-interval=soon"],
    &["--initial-cluster-state=old"],
    &["--listen-client-urls=x", "--advertise-client-urls=http://127.0.0.1:1"],
    &["--feature-gates=Nonsense=true"],
    &["--feature-gates=InitialCorruptCheck"],
    &["--feature-gates=InitialCorruptCheck=maybe"],
    &["--max-snapshots=x"],
    &["--max-snapshots=-1"],
    &["--v2-deprecation=x"],
    &["--cors=a.b"],
    &["--cors=http://a.b"],
    &["--cors=http://127.0.0.1:1,*"],
    &["--heartbeat-interval=0"],
    &["--election-timeout=50001"],
    &["--log-format=loud"],
];

/// What the two servers say to a command line, if that is not the same.
pub fn differences() -> Result<Vec<String>, Box<dyn Error>> {
    let mut found = Vec::new();
    for arguments in REFUSED {
        let (theirs, ours) = (refusal(Server::Etcd, arguments)?, refusal(Server::Quorate, arguments)?);
        if theirs != ours {
            found.push(format!("{}: etcd {theirs:?}, quorate {ours:?}", arguments.join(" ")));
        }
    }
    Ok(found)
}

/// How many are looked at.
pub const fn count() -> usize {
    REFUSED.len()
}

/// The exit code, and the line that speaks of a value.
fn refusal(server: Server, arguments: &[&str]) -> Result<(Option<i32>, String), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let output = Command::new("timeout")
        .args(["--signal=KILL", LIMIT_S])
        .arg(server.binary()?)
        .args(arguments)
        .current_dir(folder.path())
        .env_clear()
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("invalid ")).unwrap_or_default();
    Ok((output.status.code(), line.to_owned()))
}
