use super::*;
use tokio::io::AsyncWriteExt;

/// What is found out when a client says this, one byte at a time, and whether all of it can be read afterwards.
async fn said(bytes: &[u8], then_close: bool) -> Result<Speaks, Rejected> {
    let (mut client, server) = tokio::io::duplex(1);
    let sent = bytes.to_vec();
    let client = tokio::spawn(async move {
        for byte in &sent {
            if client.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        if then_close { None } else { Some(client) }
    });
    let (speaks, mut io) = sniff(server).await?;
    let mut again = vec![0; bytes.len()];
    io.read_exact(&mut again).await.unwrap();
    assert_eq!(again, bytes, "nothing of what was read is lost");
    drop(client.await);
    Ok(speaks)
}

#[tokio::test]
async fn a_preface_is_http2_however_it_arrives() {
    assert_eq!(said(&[PREFACE, b"\0\0\0\x04"].concat(), false).await.unwrap(), Speaks::Http2);
}

#[tokio::test]
async fn a_method_is_http1_also_one_that_begins_like_the_preface() {
    for request in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PUT / HTTP/1.1\r\n\r\n", b"PRI / HTTP/1.1\r\n\r\n", b"POST"] {
        assert_eq!(said(request, false).await.unwrap(), Speaks::Http1);
    }
}

#[tokio::test]
async fn a_tls_hello_and_garbage_are_told_apart() {
    assert!(matches!(said(&[0x16, 3, 1, 2, 0], false).await, Err(Rejected::Tls)));
    assert!(matches!(said(&[0xff; 9], false).await, Err(Rejected::Garbage)));
}

#[tokio::test]
async fn half_a_preface_and_then_nothing_is_rejected() {
    assert!(matches!(said(&PREFACE[..12], true).await, Err(Rejected::Cut)));
    assert!(matches!(said(b"", true).await, Err(Rejected::Closed)));
}

#[test]
fn a_busy_port_names_the_flag_and_who_holds_it() {
    let Bound::Tcp(first) = bind(&Url::parse("http://127.0.0.1:0").unwrap(), "listen-client-urls").unwrap() else { panic!("a TCP URL") };
    let url = Url::parse(&format!("http://{}", first.local_addr().unwrap())).unwrap();
    let error = bind(&url, "listen-client-urls").unwrap_err();
    assert!(error.contains("already in use") && error.contains("--listen-client-urls"), "{error}");
    assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
}

#[test]
fn a_unix_socket_that_nobody_serves_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let url = Url::parse(&format!("unix://{}/s", directory.path().display())).unwrap();
    drop(bind(&url, "listen-client-urls").unwrap());
    let second = bind(&url, "listen-client-urls").unwrap();
    assert!(bind(&url, "listen-client-urls").is_err(), "a socket that is served stays: {}", second.describe());
}

#[tokio::test]
async fn a_grpc_connection_counts_as_long_as_it_is_open() {
    let (grpc, mut handed_over) = mpsc::channel(HANDOVER);
    let http1: Http1<tokio::io::DuplexStream> = Rc::new(|_, _| panic!("not HTTP/1.1"));
    let worker = Worker { http1, grpc, refusals: Throttle::of_refusals() };
    let (mut client, server) = tokio::io::duplex(100);
    client.write_all(PREFACE).await.unwrap();
    let mut serving = Box::pin(worker.connection(server, None));
    let io = tokio::select! {
        io = handed_over.recv() => io.unwrap().unwrap(),
        () = &mut serving => panic!("the worker let go of a connection that is open"),
    };
    assert!(futures::poll!(&mut serving).is_pending());
    drop(io);
    serving.await;
}
