//! Programs read logs through a terminal, too: there they are as JSON as anywhere, unless the console is asked for.

use nix::pty::openpty;
use std::{
    fs::File,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

/// What a member that cannot start, because its data directory is a file, says on a terminal.
fn said(flags: &[&str]) -> Vec<String> {
    let terminal = openpty(None, None).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut member = Command::new(env!("CARGO_BIN_EXE_quorate"));
    member.arg("--data-dir").arg(file.path()).args(["--listen-client-urls=http://127.0.0.1:0", "--listen-peer-urls=http://127.0.0.1:0"]);
    member.arg("--advertise-client-urls=http://127.0.0.1:0").args(flags).env_clear().stdin(Stdio::null()).stderr(terminal.slave);
    let mut running = member.spawn().unwrap();
    // Nobody else holds the other end then, so reading ends with the member.
    drop(member);
    let lines = BufReader::new(File::from(terminal.master)).lines().map_while(Result::ok).collect();
    assert_eq!(running.wait().unwrap().code(), Some(1));
    lines
}

#[test]
fn logs_are_json_on_a_terminal_too() {
    let lines = said(&[]);
    let last: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap_or_else(|error| panic!("{error}: {lines:?}"));
    assert_eq!((&last["level"], &last["msg"]), (&"error".into(), &"this member cannot start".into()));
    assert!(last["error"].as_str().unwrap().ends_with("is not a directory; give another --data-dir"), "{last}");
    let lines = said(&["--log-format=console"]);
    assert!(!lines.is_empty() && lines.iter().all(|line| !line.starts_with('{')), "{lines:?}");
}
