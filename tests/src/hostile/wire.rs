//! What anyone can send to an open port.

use super::{Claim, Ground, Outcome, REQUEST_LIMIT, require, require_parts, wait_logged, wait_logged_for};
use bytes::Bytes;
use nix::sys::signal::Signal;
use quorate_web::proto::etcdserverpb::{PutRequest, PutResponse, RangeRequest, RequestOp, TxnRequest, kv_client::KvClient, request_op};
use std::{
    error::Error,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::{
        Service,
        http::{self, uri::PathAndQuery},
    },
    transport::Endpoint,
};
use tonic_prost::ProstCodec;

pub const CLAIMS: &[Claim] = &[
    ("garbage on the client port harms nobody", garbage_on_the_client_port),
    ("garbage on the peer port harms nobody", garbage_on_the_peer_port),
    ("bytes that start well and go wrong harm nobody", late_garbage),
    ("connections that say nothing, by the hundred, harm nobody", silent_connections),
    ("a member out of file descriptors serves again when they are back", descriptors_exhausted),
    ("a transaction nested 1,000 deep is refused", nested_transaction),
    ("invalid protobuf is refused", invalid_protobuf),
    ("invalid JSON is refused", invalid_json),
    ("a request over either size limit is refused with that limit's error", oversized_requests),
    ("the largest request is taken", largest_request),
    ("headers above their limit are refused", oversized_headers),
    ("puts that never end are bounded, and others are served meanwhile", unfinished_puts),
    ("an answer that nobody reads is ended, and others are served meanwhile", unread_answers),
    ("watchers in JSON are told that their member stops", stopped_watcher),
    ("the first list a fresh member gives has its own name and addresses", first_member_list),
];

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The start of a TLS 1.2 handshake: a record with a ClientHello.
const TLS_HELLO: &[u8] = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03 thirty-two bytes of randomness..";
const PEER_MAGIC: &[u8] = b"QUORATE\n";
/// What a member may leave open after bad bytes before it is held to have swallowed them.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

fn connect(address: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(CLOSE_LIMIT))?;
    stream.set_write_timeout(Some(CLOSE_LIMIT))?;
    Ok(stream)
}

/// Sends bytes and says no more. The other side must close; what it said is returned.
fn send(address: &str, bytes: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut stream = connect(address)?;
    // It may refuse before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    read_to_close(stream)
}

fn read_to_close(mut stream: TcpStream) -> Result<Vec<u8>, Box<dyn Error>> {
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(said),
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(said),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(format!("the connection is still open after {CLOSE_LIMIT:?}").into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| 0x80 | (at * 7 + at / 251) as u8).collect()
}

fn garbage_on_the_client_port() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    let address = ground.member().client.clone();
    let rejected = "rejected connection on client endpoint";
    for (bytes, message) in [
        (noise(100_000), "neither HTTP/1.1 nor HTTP/2"),
        (TLS_HELLO.to_vec(), "a TLS hello, but this endpoint does not speak TLS"),
        (PREFACE[..10].to_vec(), "closed within its first bytes"),
    ] {
        send(&address, &bytes).map_err(|error| format!("{message}: {error}"))?;
        wait_logged(ground.member(), &[rejected, message])?;
        ground.check_unharmed(&[0])?;
    }
    // Frames of HTTP/2: one longer than any setting allows, and one that no connection begins with.
    let oversized = [PREFACE, b"\0\0\0\x04\0\0\0\0\0", b"\xff\xff\xff\0\0\0\0\0\x01", &noise(70_000)].concat();
    let unknown = [PREFACE, &noise(5_000)].concat();
    for bytes in [oversized, unknown] {
        send(&address, &bytes)?;
        ground.check_unharmed(&[0])?;
    }
    for bytes in [b"GET / HTTP/9.9\r\n\r\n".to_vec(), b"NONSENSE\r\n\r\n".to_vec(), [b"GET /".to_vec(), vec![b'a'; 1 << 20]].concat()] {
        let said = send(&address, &bytes)?;
        require(said.is_empty() || said.starts_with(b"HTTP/1.1 4"), || format!("it answered {}", String::from_utf8_lossy(&said)))?;
        ground.check_unharmed(&[0])?;
    }
    Ok(())
}

fn garbage_on_the_peer_port() -> Outcome {
    let mut ground = Ground::new(3, &[])?;
    let rejected = "rejected connection on peer endpoint";
    for member in 0..3 {
        let address = ground.cluster.members[member].peer.clone();
        for (bytes, message) in [
            (noise(100_000), "not a member: its first bytes are not the protocol's"),
            (TLS_HELLO.to_vec(), "a TLS hello, but this endpoint does not speak TLS"),
            (b"GET /members HTTP/1.1\r\n\r\n".to_vec(), "an HTTP request, but this endpoint is for other members only"),
            (PEER_MAGIC[..5].to_vec(), "connection closed"),
            ([PEER_MAGIC, &[0xff; 64]].concat(), "is over the limit of"),
            ([PEER_MAGIC, b"\x05\0\0\0abcd\x01zzzz"].concat(), "checksum mismatch"),
        ] {
            send(&address, &bytes).map_err(|error| format!("{message}: {error}"))?;
            wait_logged(&ground.cluster.members[member], &[rejected, message])?;
        }
    }
    ground.check_unharmed(&[0, 1, 2])
}

/// Half a preface that stays, and a body that never ends.
fn late_garbage() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    let (client, peer) = (ground.member().client.clone(), ground.member().peer.clone());
    let mut held = Vec::new();
    for (address, bytes) in [
        (&client, &PREFACE[..12]),
        (&client, PREFACE),
        (&client, b"POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{\"key\"".as_slice()),
        (&peer, &PEER_MAGIC[..4]),
        (&peer, PEER_MAGIC),
    ] {
        let mut stream = connect(address)?;
        stream.write_all(bytes)?;
        held.push(stream);
        ground.check_unharmed(&[0])?;
    }
    // The peer port gives up on who does not go on.
    for stream in held.split_off(3) {
        read_to_close(stream)?;
    }
    drop(held);
    ground.check_unharmed(&[0])
}

fn silent_connections() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    let (client, peer) = (ground.member().client.clone(), ground.member().peer.clone());
    let held = (0..400).flat_map(|_| [connect(&client), connect(&peer)]).collect::<Result<Vec<_>, _>>()?;
    ground.check_unharmed(&[0])?;
    wait_logged(ground.member(), &["too many connections that say nothing"])?;
    drop(held);
    ground.check_unharmed(&[0])
}

fn descriptors_exhausted() -> Outcome {
    const DESCRIPTORS: usize = 256;
    let mut ground = Ground::new(1, &[])?;
    ground.member().kill()?;
    ground.member().wrapper = vec!["prlimit".into(), format!("--nofile={DESCRIPTORS}")];
    ground.start_unharmed(0)?;
    let (client, peer) = (ground.member().client.clone(), ground.member().peer.clone());
    let pid = ground.member().pid().ok_or("no pid")?;
    let addresses: [SocketAddr; 2] = [client.parse()?, peer.parse()?];
    let mut held = Vec::new();
    let limit = std::time::Instant::now() + REQUEST_LIMIT;
    while std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() < DESCRIPTORS {
        require(std::time::Instant::now() < limit, || "the member never ran out of descriptors".into())?;
        // The kernel's queue is full while the member takes none: then there is nothing to do but to try again.
        if held.len() < 4 * DESCRIPTORS {
            held.extend(addresses.iter().flat_map(|address| TcpStream::connect_timeout(address, Duration::from_millis(200))));
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    drop(held);
    ground.check_unharmed(&[0])?;
    require(ground.member().pid() == Some(pid), || "the member was replaced".into())?;
    require(!ground.member().log_text()?.contains("panicked"), || "the member panicked".into())
}

/// What a unary method answers to a message of another type.
fn call<T: prost::Message + Clone + Default + 'static>(
    ground: &Ground,
    method: &'static str,
    message: T,
) -> Result<Status, Box<dyn Error>> {
    let address = format!("http://{}", ground.cluster.members[0].client);
    let answer = ground.runtime.block_on(async {
        let channel = Endpoint::from_shared(address)?.connect().await?;
        let mut client = Grpc::new(channel);
        client.ready().await?;
        Ok::<_, Box<dyn Error>>(
            client.unary(Request::new(message), PathAndQuery::from_static(method), ProstCodec::<T, PutResponse>::default()).await,
        )
    })?;
    answer.err().ok_or_else(|| "the request was taken".into())
}

fn nested_transaction() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    let put = PutRequest { key: b"deep".to_vec().into(), ..PutRequest::default() };
    let mut operation = request_op::Request::RequestPut(put);
    for _ in 0..1_000 {
        let inner = TxnRequest { success: vec![RequestOp { request: Some(operation) }], ..TxnRequest::default() };
        operation = request_op::Request::RequestTxn(inner);
    }
    let request_op::Request::RequestTxn(request) = operation else { return Err("no transaction".into()) };
    let mut client = ground.client(0)?;
    let status = ground.runtime.block_on(client.txn(request)).err().ok_or("the transaction was taken")?;
    require(matches!(status.code(), Code::InvalidArgument | Code::Internal | Code::ResourceExhausted), || format!("{status:?}"))?;
    require(!status.message().is_empty(), || format!("{status:?} says nothing"))?;
    let range = RangeRequest { key: b"deep".to_vec().into(), ..RangeRequest::default() };
    let answer = ground.runtime.block_on(client.range(range))?.into_inner();
    require(answer.kvs.is_empty(), || "the innermost put was carried out".into())?;
    ground.check_unharmed(&[0])
}

fn invalid_protobuf() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    for method in [
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.KV/Txn",
        "/etcdserverpb.KV/DeleteRange",
        "/etcdserverpb.Watch/Watch",
    ] {
        // Field 1 as a number, where each of these messages has bytes or a message.
        let status = call(&ground, method, 7_u64)?;
        require(status.code() == Code::Internal, || format!("{method}: {status:?}"))?;
        require(!status.message().is_empty(), || format!("{method}: {status:?} says nothing"))?;
        ground.check_unharmed(&[0])?;
    }
    let status = call(&ground, "/etcdserverpb.KV/Nothing", 7_u64)?;
    require(status.code() == Code::Unimplemented, || format!("an unknown method: {status:?}"))
}

fn invalid_json() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    let url = format!("http://{}/v3/kv/put", ground.member().client);
    for body in ["", "{", "[]", "{\"key\": \"not base64!\"}", "{\"key\": 5}", "{\"nonsense\": \"YQ==\"}"] {
        let mut answer = ureq::post(&url).config().http_status_as_error(false).build().send(body)?;
        let text = answer.body_mut().read_to_string()?;
        require(answer.status().is_client_error(), || format!("{body:?} was answered {} {text}", answer.status()))?;
        require_parts(&text, &["\"message\""])?;
        ground.check_unharmed(&[0])?;
    }
    Ok(())
}

/// etcd's default for `--max-request-bytes`, and what its gRPC server takes on top.
const MAX_REQUEST_BYTES: usize = 3 << 19;
const RECEIVE_OVERHEAD_BYTES: usize = 512 << 10;
/// What a put of the five bytes `large` adds to its value in etcd's log: the message's tags and lengths, the field around it, and a
/// header whose id has ten bytes, or nine; seldom eight or seven, as its first bits are those of the member's own id.
const PUT_OVERHEAD: std::ops::RangeInclusive<usize> = 26..=29;

fn put_of(ground: &Ground, bytes: usize) -> Result<Result<(), Status>, Box<dyn Error>> {
    let mut client = ground.client(0)?;
    let request = PutRequest { key: b"large".to_vec().into(), value: vec![b'v'; bytes].into(), ..PutRequest::default() };
    Ok(ground.runtime.block_on(client.put(request)).map(|_| ()))
}

fn oversized_requests() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    let over_limit = put_of(&ground, MAX_REQUEST_BYTES - PUT_OVERHEAD.start() + 1)?.err().ok_or("a request over the limit was taken")?;
    require(over_limit.code() == Code::InvalidArgument && over_limit.message() == "etcdserver: request is too large", || {
        format!("{over_limit:?}")
    })?;
    ground.check_unharmed(&[0])?;
    for bytes in [MAX_REQUEST_BYTES + RECEIVE_OVERHEAD_BYTES, 64 << 20] {
        let over_frame = put_of(&ground, bytes)?.err().ok_or("a message over the limit was taken")?;
        let expected = format!("vs. {})", MAX_REQUEST_BYTES + RECEIVE_OVERHEAD_BYTES);
        require(
            over_frame.code() == Code::ResourceExhausted
                && over_frame.message().starts_with("grpc: received message larger than max (")
                && over_frame.message().ends_with(&expected),
            || format!("{bytes} bytes: {over_frame:?}"),
        )?;
        ground.check_unharmed(&[0])?;
    }
    Ok(())
}

fn largest_request() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    put_of(&ground, MAX_REQUEST_BYTES - PUT_OVERHEAD.end())?.map_err(|status| format!("{status:?}"))?;
    ground.check_unharmed(&[0])
}

/// As `METADATA_BYTES` of the surfaces has it.
const METADATA_BYTES: usize = 64 << 10;

fn oversized_headers() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    let address = ground.member().client.clone();
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    // One connection, which must outlive what is refused on it.
    let channel = ground.runtime.block_on(endpoint.connect())?;
    let limit = std::time::Instant::now() + REQUEST_LIMIT;
    let before = loop {
        let open = established(&address)?;
        if open.len() == 1 {
            break open;
        }
        require(std::time::Instant::now() < limit, || format!("other connections stay: {open:?}"))?;
        std::thread::park_timeout(Duration::from_millis(20));
    };
    let mut client = KvClient::new(channel);
    let mut range = |bytes: usize| -> Result<Result<(), Status>, Box<dyn Error>> {
        let mut request = Request::new(RangeRequest { key: b"large".to_vec().into(), ..RangeRequest::default() });
        request.metadata_mut().insert("x-large", "h".repeat(bytes).parse()?);
        Ok(ground.runtime.block_on(client.range(request)).map(|_| ()))
    };
    range(METADATA_BYTES / 2)?.map_err(|status| format!("half of the limit: {status:?}"))?;
    for bytes in [METADATA_BYTES, 200 << 10] {
        let status = range(bytes)?.err().ok_or("metadata over the limit was taken")?;
        require(status.code() == Code::ResourceExhausted && status.message().contains("metadata is too large"), || format!("{status:?}"))?;
    }
    range(0)?.map_err(|status| format!("the connection is of no use any more: {status:?}"))?;
    require(established(&address)? == before, || "the connection was replaced".into())?;
    ground.check_unharmed(&[0])
}

/// The clients' ends of the connections to an address, as the kernel lists them.
fn established(address: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let port = address.rsplit_once(':').ok_or("no port")?.1.parse::<u16>()?;
    let remote = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    Ok(fields.filter(|line| line.get(2) == Some(&remote.as_str()) && line.get(3) == Some(&"01")).map(|line| line[1].to_owned()).collect())
}

/// More than a member may hold for all of them.
const UNFINISHED_PUTS: usize = 3_000;
/// What a member may come to hold over that: its budget for one connection, and what the transport holds of each.
const UNFINISHED_RESIDENT_BYTES: u64 = 400 << 20;

/// A body of a put of 1 MiB that stops before its last byte.
struct Unfinished(Vec<Bytes>);

impl http_body::Body for Unfinished {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        self.0.pop().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(http_body::Frame::data(bytes)))))
    }
}

fn unfinished_puts() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    let before = ground.member().resident_bytes()?;
    let address = format!("http://{}", ground.member().client);
    let value = Bytes::from(vec![b'v'; (1 << 20) - 1]);
    let prefix = Bytes::from_static(&[0, 0, 0x10, 0, 0]);
    let statuses = ground.runtime.block_on(async {
        let channel = Endpoint::from_shared(address.clone())?.connect().await?;
        let answers = (0..UNFINISHED_PUTS).map(|_| {
            let body = tonic::body::Body::new(Unfinished(vec![value.clone(), prefix.clone()]));
            let request = http::Request::post("/etcdserverpb.KV/Put").header("content-type", "application/grpc").body(body);
            let mut channel = channel.clone();
            async move {
                std::future::poll_fn(|context| channel.poll_ready(context)).await?;
                let answer = channel.call(request?).await?;
                Ok::<_, Box<dyn Error>>(Status::from_header_map(answer.headers()).map(|status| status.code()))
            }
        });
        // Those that find no room are refused at once, the others once they have made no progress for long.
        futures::future::join_all(answers).await.into_iter().collect::<Result<Vec<_>, _>>()
    })?;
    let told = |code| statuses.iter().filter(|status| **status == Some(code)).count();
    let (refused, ended) = (told(Code::Unknown), told(Code::DeadlineExceeded));
    require(refused > 0 && ended > 0 && refused + ended == UNFINISHED_PUTS, || format!("{refused} refused, {ended} ended"))?;
    let after = ground.member().resident_bytes()?;
    require(after < before + UNFINISHED_RESIDENT_BYTES, || format!("{before} bytes became {after}"))?;
    ground.check_unharmed(&[0])
}

/// How long the answers that nobody reads may keep others from theirs: a few times what the surfaces wait.
const UNREAD_LIMIT: Duration = Duration::from_secs(120);

fn unread_answers() -> Outcome {
    let body = r#"{"key":"AA==","range_end":"AA=="}"#;
    let json = format!("POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    unread_answers_to(json.as_bytes())?;
    unread_answers_to(&unread_grpc_range())
}

/// Connections that each ask for everything and are not read from.
fn unread_answers_to(request: &[u8]) -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    ground.put_many(0, 60, 1 << 20)?;
    let address = ground.member().client.clone();
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(&address)?;
        stream.write_all(request)?;
        held.push(stream);
    }
    // Small answers pass at any time, and large ones once the first are ended.
    ground.check_unharmed(&[0])?;
    wait_logged_for(ground.member(), &["the client does not read an answer it asked for"], UNREAD_LIMIT)?;
    let limit = std::time::Instant::now() + UNREAD_LIMIT;
    loop {
        let all = RangeRequest { key: b"\0".to_vec().into(), range_end: b"\0".to_vec().into(), ..RangeRequest::default() };
        let mut client = ground.client(0)?;
        match ground.runtime.block_on(client.range(all)) {
            Ok(answer) => {
                require(answer.get_ref().kvs.len() == ground.acknowledged.len(), || "a part is missing".into())?;
                break;
            }
            Err(status) => require(std::time::Instant::now() < limit, || format!("{status:?}"))?,
        }
    }
    drop(held);
    ground.check_unharmed(&[0])
}

/// A connection that asks for everything over gRPC, in the frames of RFC 9113, and lets the server send as much as it likes.
fn unread_grpc_range() -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    };
    // RFC 7541: POST and http from the static table, then literals that name an entry of it.
    let mut block = vec![0x83, 0x86];
    for (name, value) in [(&[0x04][..], "/etcdserverpb.KV/Range"), (&[0x01], "test"), (&[0x0f, 0x10], "application/grpc")] {
        block.extend_from_slice(name);
        block.push(u8::try_from(value.len()).expect("short"));
        block.extend_from_slice(value.as_bytes());
    }
    let window = [&[0, 4][..], &(i32::MAX).to_be_bytes()].concat();
    // `key` and `range_end`, each one byte of zero.
    let range = [0, 0, 0, 0, 6, 0x0a, 1, 0, 0x12, 1, 0];
    [
        PREFACE.to_vec(),
        frame(4, 0, 0, &window),
        frame(8, 0, 0, &(i32::MAX - 65_535).to_be_bytes()),
        frame(1, 4, 1, &block),
        frame(0, 1, 1, &range),
    ]
    .concat()
}

fn stopped_watcher() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    let mut stream = connect(&ground.member().client.clone())?;
    let body = r#"{"create_request":{"key":"Zm9v"}}"#;
    let request = format!("POST /v3/watch HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes())?;
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("created") {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer)?;
        require(count > 0, || format!("closed after {}", String::from_utf8_lossy(&said)))?;
        said.extend_from_slice(&buffer[..count]);
    }
    ground.member().signal(Signal::SIGTERM)?;
    let last = String::from_utf8(read_to_close(stream)?)?;
    require_parts(&last, &["{\"error\":{\"code\":14,", "etcdserver: server stopped"])?;
    require(last.ends_with("0\r\n\r\n"), || format!("no last chunk: {last:?}"))?;
    let status = ground.member().wait_end()?;
    require(status.success(), || format!("it ended with {status}"))
}

fn first_member_list() -> Outcome {
    let ground = Ground::new(1, &[])?;
    for count in [1, 3] {
        let mut members = (0..count)
            .map(|number| {
                let mut member = ground.loner(&format!("fresh-{count}-{number}"))?;
                member.name = format!("fresh{number}");
                member.set("--name", &format!("fresh{number}"));
                Ok(member)
            })
            .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
        let initial = members.iter().map(|member| format!("{}=http://{}", member.name, member.peer)).collect::<Vec<_>>().join(",");
        for member in &mut members {
            member.set("--initial-cluster", &initial);
            member.start()?;
        }
        for member in &members {
            let list = first_answer(&format!("http://{}/v3/cluster/member/list", member.client))?;
            let named = format!(
                "\"name\":\"{}\",\"peerURLs\":[\"http://{}\"],\"clientURLs\":[\"http://{}\"]",
                member.name, member.peer, member.client
            );
            require_parts(&list, &[&named])?;
        }
    }
    Ok(())
}

/// What a URL says as soon as it says anything.
fn first_answer(url: &str) -> Result<String, Box<dyn Error>> {
    let limit = std::time::Instant::now() + REQUEST_LIMIT;
    loop {
        let answer = ureq::post(url).config().http_status_as_error(false).timeout_global(Some(REQUEST_LIMIT)).build().send("{}");
        match answer {
            Ok(mut answer) => return Ok(answer.body_mut().read_to_string()?),
            Err(error) => require(std::time::Instant::now() < limit, || format!("{url}: {error}"))?,
        }
    }
}
