//! A file system that takes no more bytes, as `RLIMIT_FSIZE` makes one of any: the process must end with its own words.

use std::process::Command;

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_member_that_may_write_no_more_says_which_file_and_exits() {
    let folder = tempfile::tempdir().unwrap();
    let (client, peer) = (format!("http://127.0.0.1:{}", free_port()), format!("http://127.0.0.1:{}", free_port()));
    // Blocks of 512 or 1,024 bytes: in both cases less than the first segment of the log.
    let output = Command::new("sh")
        .args(["-c", r#"ulimit -f 8192 && exec "$0" "$@""#, env!("CARGO_BIN_EXE_quorate")])
        .args(["--data-dir", folder.path().join("data").to_str().unwrap()])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}"), "--log-outputs", "stderr"])
        .env_clear()
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{}: {text}", output.status);
    assert!(text.contains("File too large") && text.contains(folder.path().to_str().unwrap()), "{text}");
}
