use super::*;
use crate::url::Url;
use quorate_core::watch::HubLimits;
use std::ffi::OsString;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What a new member with these flags says over HTTP/1.1, head and body. It keeps seven bytes of log.
async fn said(flags: &[&str], request: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::read(flags.iter().map(OsString::from), []).unwrap();
    let kept_log = Gauge::<u64, AtomicU64>::default();
    kept_log.set(7);
    let (_stop, stop) = watch::channel(false);
    let served = Served {
        shared: Shared::of_a_new_member(directory.path()),
        inbox: Inbound::queue().0,
        surface: surface(&config, kept_log, &SnapshotMetrics::default(), 0),
        hub_limits: HubLimits::default(),
        max_concurrent_streams: config.max_concurrent_streams,
        stop,
    };
    let socket = listen::bind(&Url::parse("http://127.0.0.1:0").unwrap(), "listen-client-urls").unwrap();
    let Bound::Tcp(listener) = &socket else { panic!("a TCP URL") };
    let address = listener.local_addr().unwrap();
    let server = listen::serve(vec![socket], 1, &served).unwrap();
    let handle = server.handle();
    let running = actix_rt::spawn(server);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    handle.stop(false).await;
    running.await.unwrap().unwrap();
    answer
}

#[actix_rt::test]
async fn metrics_tell_how_much_log_a_member_keeps() {
    let answer = said(&[], "GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await;
    assert!(answer.lines().any(|line| line == "quorate_wal_kept_bytes 7"), "{answer}");
}

#[actix_rt::test]
async fn pages_may_call_from_where_the_flag_says() {
    for (flags, origin, expected) in [
        (&[][..], "http://c.d:80", Some("*")),
        (&["--cors=http://a.b:80"], "http://a.b:80", Some("http://a.b:80")),
        (&["--cors=http://a.b:80"], "http://c.d:80", None),
    ] {
        let request = format!("OPTIONS /v3/kv/range HTTP/1.1\r\nhost: test\r\norigin: {origin}\r\nconnection: close\r\n\r\n");
        let answer = said(flags, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let told = answer.lines().find_map(|line| line.strip_prefix("access-control-allow-origin: "));
        assert_eq!(told, expected, "{flags:?} {origin}: {answer}");
    }
}
