use super::*;
use tokio::io::AsyncWriteExt;

fn surface() -> Surface {
    Surface::new(quorate_web::Options::default(), prometheus_client::registry::Registry::default())
}

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
    let (speaks, seen, io) = sniff(server).await?;
    let connection = Connection::new(&surface());
    let mut io = match speaks {
        Speaks::Http1 => ClientIo::http1(io, seen, connection, None),
        Speaks::Http2 => ClientIo::http2(io, &seen, connection, None, oneshot::channel().0),
    };
    let mut again = vec![0; bytes.len()];
    io.read_exact(&mut again).await.unwrap();
    assert_eq!(again, bytes, "nothing of what was read is lost");
    drop(client.await);
    Ok(speaks)
}

#[tokio::test]
async fn a_preface_is_http2_however_it_arrives() {
    assert_eq!(said(&[PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat(), false).await.unwrap(), Speaks::Http2);
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
fn two_urls_of_one_member_on_one_port_are_told_apart_from_a_port_that_another_process_holds() {
    let Bound::Tcp(first) = bind(&Url::parse("http://127.0.0.1:0").unwrap(), "listen-client-urls").unwrap() else { panic!("a TCP URL") };
    let url = Url::parse(&format!("http://{}", first.local_addr().unwrap())).unwrap();
    let error = bind(&url, "listen-peer-urls").unwrap_err();
    assert!(error.contains("already in use by this very member; give every URL a port of its own"), "{error}");
    assert!(error.contains("--listen-peer-urls") && !error.contains("pid"), "{error}");
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
    let worker = Worker { http1, grpc, surface: surface(), refusals: Throttle::of_refusals() };
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

#[tokio::test]
async fn connections_wait_for_a_grpc_server_that_is_behind() {
    let (grpc, mut handed_over) = mpsc::channel(HANDOVER);
    let http1: Http1<tokio::io::DuplexStream> = Rc::new(|_, _| panic!("not HTTP/1.1"));
    let worker = Worker { http1, grpc, surface: surface(), refusals: Throttle::of_refusals() };
    let mut serving = Vec::new();
    for _ in 0..=HANDOVER {
        let (mut client, server) = tokio::io::duplex(100);
        client.write_all(PREFACE).await.unwrap();
        // Without a budget of the scheduler's, one poll gets as far as it can.
        serving.push((client, Box::pin(tokio::task::unconstrained(worker.connection(server, None)))));
        assert!(futures::poll!(&mut serving.last_mut().unwrap().1).is_pending());
    }
    assert_eq!(handed_over.len(), HANDOVER);
    let first = handed_over.recv().await.unwrap().unwrap();
    assert_eq!(handed_over.len(), HANDOVER - 1, "the last one waits");
    let (_, last) = serving.last_mut().unwrap();
    assert!(futures::poll!(last).is_pending());
    assert_eq!(handed_over.len(), HANDOVER);
    drop(first);
}

/// What a new member serves, until the second is dropped.
fn served(directory: &tempfile::TempDir, max_concurrent_streams: u32) -> (Served, tokio::sync::watch::Sender<bool>) {
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let served = Served {
        shared: Shared::of_a_new_member(directory.path()),
        inbox: Inbound::queue().0,
        surface: surface(),
        hub_limits: HubLimits::default(),
        max_concurrent_streams,
        stop: stopped,
    };
    (served, stop)
}

/// A client that keeps to no limit, in the frames of RFC 9113.
struct Http2 {
    io: tokio::io::DuplexStream,
    /// What the server's first settings allow.
    max_concurrent_streams: Option<u32>,
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const SETTINGS_MAX_CONCURRENT_STREAMS: u16 = 3;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

impl Http2 {
    async fn connect(served: Served) -> Self {
        let worker = Worker::start(served).await.unwrap();
        let (io, server) = tokio::io::duplex(1 << 16);
        actix_rt::spawn(async move { worker.connection(server, None).await });
        let mut client = Self { io, max_concurrent_streams: None };
        client.io.write_all(PREFACE).await.unwrap();
        client.send(SETTINGS, 0, 0, &[]).await;
        let (kind, _, payload) = client.next().await;
        assert_eq!(kind, SETTINGS);
        let settings = payload.as_chunks::<6>().0.iter();
        let wanted = SETTINGS_MAX_CONCURRENT_STREAMS.to_be_bytes();
        client.max_concurrent_streams =
            settings.filter(|setting| setting[..2] == wanted).map(|[_, _, value @ ..]| u32::from_be_bytes(*value)).next();
        client
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        self.io.write_all(&frame).await.unwrap();
    }

    /// The next frame: its type, stream and payload.
    async fn next(&mut self) -> (u8, u32, Vec<u8>) {
        let mut header = [0; 9];
        self.io.read_exact(&mut header).await.unwrap();
        let [length @ .., kind, _, a, b, c, d] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize];
        self.io.read_exact(&mut payload).await.unwrap();
        (kind, u32::from_be_bytes([a, b, c, d]), payload)
    }

    /// Begins a watch, and leaves it open.
    async fn watch(&mut self, stream: u32) {
        self.watch_at(stream, &[0x01], "test").await;
    }

    /// The same, with an authority in that representation.
    async fn watch_at(&mut self, stream: u32, representation: &[u8], authority: &str) {
        const END_HEADERS: u8 = 4;
        // RFC 7541: POST and http from the static table, then literals that name an entry of it.
        let mut block = vec![0x83, 0x86];
        for (name, value) in [(&[0x04][..], "/etcdserverpb.Watch/Watch"), (representation, authority), (&[0x0f, 0x10], "application/grpc")]
        {
            block.extend_from_slice(name);
            block.push(u8::try_from(value.len()).unwrap());
            block.extend_from_slice(value.as_bytes());
        }
        self.send(HEADERS, END_HEADERS, stream, &block).await;
    }

    /// The first headers of a stream, or the reason why it was reset.
    async fn answer(&mut self, stream: u32) -> Result<(), u32> {
        loop {
            match self.next().await {
                (HEADERS, of, _) if of == stream => return Ok(()),
                (RST_STREAM, of, reason) if of == stream => return Err(u32::from_be_bytes(reason.try_into().unwrap())),
                _ => {}
            }
        }
    }
}

#[actix_rt::test]
async fn a_connection_is_told_how_many_streams_it_may_have() {
    let directory = tempfile::tempdir().unwrap();
    let (served, _stop) = served(&directory, 2);
    assert_eq!(Http2::connect(served.clone()).await.max_concurrent_streams, Some(2));
    let unlimited = Served { max_concurrent_streams: u32::MAX, ..served };
    assert_eq!(Http2::connect(unlimited).await.max_concurrent_streams, Some(CONNECTION_STREAMS));
}

#[actix_rt::test]
async fn what_a_client_calls_this_endpoint_is_not_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let (served, _stop) = served(&directory, 100);
    let mut client = Http2::connect(served).await;
    let authorities = ["127.0.0.1:2379", "", "/run/etcd.sock", "#initially=[http://127.0.0.1:2379]", "%2Frun%2Fetcd", "a b", "http://a/"];
    // Put into the table, not put, and never to be put.
    for (stream, (authority, representation)) in
        (1..).step_by(2).zip(authorities.iter().flat_map(|authority| [0x41, 0x01, 0x11].map(|representation| (authority, representation))))
    {
        client.watch_at(stream, &[representation], authority).await;
        assert_eq!(client.answer(stream).await, Ok(()), "{authority:?} in {representation:#x}");
    }
}

#[actix_rt::test]
async fn a_stream_above_the_limit_is_refused_until_another_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (served, _stop) = served(&directory, 2);
    let mut client = Http2::connect(served).await;
    for stream in [1, 3] {
        client.watch(stream).await;
        client.answer(stream).await.unwrap();
    }
    client.watch(5).await;
    assert_eq!(client.answer(5).await, Err(REFUSED_STREAM));
    client.send(RST_STREAM, 0, 1, &CANCEL.to_be_bytes()).await;
    client.watch(7).await;
    assert_eq!(client.answer(7).await, Ok(()));
}

/// Asks, and waits for the answer: a JSON object.
async fn version(stream: &mut TcpStream) {
    stream.write_all(b"GET /version HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    version_answer(stream).await;
}

async fn version_answer(stream: &mut TcpStream) {
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
}

#[actix_rt::test]
async fn a_connection_above_the_limit_of_a_worker_waits_until_another_closes() {
    let directory = tempfile::tempdir().unwrap();
    let socket = bind(&Url::parse("http://127.0.0.1:0").unwrap(), "listen-client-urls").unwrap();
    let Bound::Tcp(listener) = &socket else { panic!("a TCP URL") };
    let address = listener.local_addr().unwrap();
    let (served, _stop) = served(&directory, 1);
    let server = serve_at_most(1, vec![socket], 1, &served).unwrap();
    let handle = server.handle();
    let running = actix_rt::spawn(server);
    let mut first = TcpStream::connect(address).await.unwrap();
    version(&mut first).await;
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(b"GET /version HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    for _ in 0..100 {
        version(&mut first).await;
        let said = second.try_read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(said, Err(io::ErrorKind::WouldBlock), "the worker has one connection already");
    }
    drop(first);
    version_answer(&mut second).await;
    handle.stop(false).await;
    running.await.unwrap().unwrap();
}
