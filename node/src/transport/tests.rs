use super::{
    frame::{FRAME_BYTES, Frame},
    hello::{Hello, HelloReply, MAGIC, PROTOCOL},
    *,
};
use quorate_core::{
    codec,
    member::COMMAND_BYTES,
    types::{LogIndex, RequestId, Term},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

struct Side {
    transport: Transport,
    events: mpsc::UnboundedReceiver<PeerEvent>,
    address: std::net::SocketAddr,
    listener: Option<TcpListener>,
}

async fn side(member: u64, fresh: bool, started: &'static [u64]) -> Side {
    side_with_silence(member, fresh, started, Duration::from_secs(1)).await
}

async fn side_with_silence(member: u64, fresh: bool, started: &'static [u64], silence: Duration) -> Side {
    let (sender, events) = mpsc::unbounded_channel();
    let settings = PeerSettings {
        cluster: ClusterId(1),
        member: MemberId(member),
        boot: Boot(1),
        process: member,
        fresh: Arc::new(AtomicBool::new(fresh)),
        ping_interval: Duration::from_millis(50),
        silence,
        deliver: Arc::new(move |event| {
            let sender = sender.clone();
            Box::pin(async move { drop(sender.send(event)) })
        }),
        started: Arc::new(move |member| started.contains(&member.0)),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Side { transport: Transport::new(settings), events, address, listener: Some(listener) }
}

impl Side {
    fn serve(&mut self) -> AbortHandle {
        tokio::spawn(self.transport.clone().serve(self.listener.take().unwrap())).abort_handle()
    }
}

fn configuration(sides: &[&Side]) -> Configuration {
    let mut configuration = Configuration::default();
    for side in sides {
        let member = side.transport.0.settings.member;
        configuration.voters.insert(member);
        configuration.peer_urls.insert(member, vec![format!("http://{}", side.address)]);
    }
    configuration
}

fn heartbeat(from: u64, to: u64, round: u64) -> Envelope {
    Envelope {
        from: MemberId(from),
        to: MemberId(to),
        term: Term(1),
        message: Message::Raft(RaftMessage::Heartbeat { commit: LogIndex(0), replicated: LogIndex(0), round }),
    }
}

/// Sends until one arrives: what is queued before the connection stands is dropped.
async fn exchange(from: &Side, to: &mut Side) -> Envelope {
    let (own, other) = (from.transport.0.settings.member.0, to.transport.0.settings.member.0);
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    loop {
        tokio::select! {
            event = to.events.recv() => match event.unwrap() {
                PeerEvent::Received(envelope) => return envelope,
                other => panic!("{other:?}"),
            },
            _ = pause.tick() => from.transport.send(heartbeat(own, other, 7)),
        }
    }
}

#[tokio::test]
async fn members_exchange_messages() {
    let (mut a, mut b) = (side(1, false, &[]).await, side(2, false, &[]).await);
    a.serve();
    b.serve();
    let both = configuration(&[&a, &b]);
    a.transport.configure(&both);
    b.transport.configure(&both);
    assert_eq!(exchange(&a, &mut b).await, heartbeat(1, 2, 7));
    assert_eq!(exchange(&b, &mut a).await, heartbeat(2, 1, 7));
}

#[tokio::test]
async fn a_closed_connection_is_told() {
    let (a, mut b) = (side(1, false, &[]).await, side(2, false, &[]).await);
    b.serve();
    a.transport.configure(&configuration(&[&a, &b]));
    exchange(&a, &mut b).await;
    a.transport.configure(&Configuration::default());
    loop {
        match b.events.recv().await.unwrap() {
            PeerEvent::Closed(member) => {
                assert_eq!(member, MemberId(1));
                return;
            }
            PeerEvent::Received(_) => {}
            other @ PeerEvent::Banned(_) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_empty_directory_under_a_known_id_is_banned_when_it_dials() {
    let (mut wiped, mut healthy) = (side(1, true, &[]).await, side(2, false, &[1]).await);
    healthy.serve();
    wiped.transport.configure(&configuration(&[&wiped, &healthy]));
    let Some(PeerEvent::Banned(reason)) = wiped.events.recv().await else { panic!("it was let in") };
    assert!(reason.contains("member remove 1"), "{reason}");
    assert!(healthy.events.try_recv().is_err(), "nothing reached the healthy member");
}

#[tokio::test]
async fn an_empty_directory_under_a_known_id_is_banned_when_it_is_dialled() {
    let (mut wiped, healthy) = (side(1, true, &[]).await, side(2, false, &[1]).await);
    wiped.serve();
    healthy.transport.configure(&configuration(&[&wiped, &healthy]));
    loop {
        match wiped.events.recv().await.unwrap() {
            PeerEvent::Banned(reason) => return assert!(reason.contains("member remove 1"), "{reason}"),
            PeerEvent::Closed(_) => {}
            PeerEvent::Received(envelope) => panic!("it was talked to: {envelope:?}"),
        }
    }
}

#[tokio::test]
async fn a_frame_far_above_the_default_request_limit_arrives() {
    let (a, mut b) = (side(1, false, &[]).await, side(2, false, &[]).await);
    b.serve();
    a.transport.configure(&configuration(&[&a, &b]));
    exchange(&a, &mut b).await;
    let request = RequestId { member: MemberId(1), boot: Boot(1), sequence: 0 };
    let proposal = Proposal { request, command: vec![7; 24 << 20].into() };
    let forward =
        Envelope { from: MemberId(1), to: MemberId(2), term: Term(1), message: Message::Forward(ForwardMessage::Request(vec![proposal])) };
    let mut pause = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            event = b.events.recv() => match event.unwrap() {
                PeerEvent::Received(envelope) if matches!(envelope.message, Message::Forward(_)) => return assert!(envelope == forward),
                PeerEvent::Received(_) => {}
                other => panic!("{other:?}"),
            },
            // Again, because what is queued before the bulk connection stands is dropped.
            _ = pause.tick() => a.transport.send(forward.clone()),
        }
    }
}

/// Takes a connection as member 2 would, and says nothing more.
async fn accept_as_second(listener: &TcpListener) -> (TcpStream, Channel) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = vec![0; MAGIC.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    let mut frame = Vec::new();
    let hello = loop {
        match codec::decode::<Hello>(PROTOCOL, &frame, 4_096) {
            Ok((hello, _)) => break hello,
            Err(_) => assert!(stream.read_buf(&mut frame).await.unwrap() > 0, "a hello"),
        }
    };
    let identity = PeerIdentity { member: MemberId(2), process: 2, ..hello.from };
    let mut reply = Vec::new();
    codec::encode(PROTOCOL, &HelloReply::Accepted(identity), &mut reply);
    stream.write_all(&reply).await.unwrap();
    (stream, hello.channel)
}

#[tokio::test]
async fn a_member_that_no_longer_reads_is_dialled_again() {
    let a = side_with_silence(1, false, &[], Duration::from_millis(100)).await;
    let mut b = side(2, false, &[]).await;
    let listener = b.listener.take().unwrap();
    a.transport.configure(&configuration(&[&a, &b]));
    let (sender, mut accepted) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let _ = sender.send(accept_as_second(&listener).await);
        }
    });
    // Kept open and never read.
    let mut stuck = Vec::new();
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    while stuck.iter().filter(|(_, channel)| *channel == Channel::Bulk).count() < 2 {
        tokio::select! {
            connection = accepted.recv() => stuck.push(connection.unwrap()),
            _ = pause.tick() => {
                let request = RequestId { member: MemberId(1), boot: Boot(1), sequence: 0 };
                let message = Message::Forward(ForwardMessage::Request(vec![Proposal { request, command: vec![7; 1 << 20].into() }]));
                a.transport.send(Envelope { from: MemberId(1), to: MemberId(2), term: Term(1), message });
            }
        }
    }
}

#[tokio::test]
async fn what_is_sent_and_not_acknowledged_is_bounded_in_time() {
    let (client, server) = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (TcpStream::connect(address).await.unwrap(), listener.accept().await.unwrap().0)
    };
    for stream in [client, server] {
        connection::prepare(&stream, Duration::from_millis(1_500)).unwrap();
        assert_eq!(nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::TcpUserTimeout).unwrap(), 1_500);
    }
}

async fn connect(to: &Side, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(to.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Everything the other side says until it closes.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is a close, too.
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

fn hello(cluster: u64, to: u64) -> Vec<u8> {
    let from =
        PeerIdentity { cluster: ClusterId(cluster), member: MemberId(9), release: "0".into(), boot: Boot(1), process: 9, fresh: false };
    let mut bytes = MAGIC.to_vec();
    codec::encode(PROTOCOL, &Hello { from, to: MemberId(to), channel: Channel::Control }, &mut bytes);
    bytes
}

#[tokio::test]
async fn what_is_not_a_member_is_closed_and_harms_nobody() {
    let (a, mut b) = (side(1, false, &[]).await, side(2, false, &[]).await);
    b.serve();
    for bytes in [&b"GET /version HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 2, 0, 1], &[0xff; 64], b"QUORATE\n\xff\xff\xff\xff\0\0\0\0\0"] {
        assert!(rest(connect(&b, bytes).await).await.is_empty(), "nothing is said to {bytes:?}");
    }
    a.transport.configure(&configuration(&[&a, &b]));
    exchange(&a, &mut b).await;
}

#[tokio::test]
async fn a_stranger_is_refused_with_the_reason() {
    let mut b = side(2, false, &[]).await;
    b.serve();
    for (hello, expected) in [(hello(77, 2), "cluster ID mismatch"), (hello(1, 3), "this is member 2, not 3")] {
        let bytes = rest(connect(&b, &hello).await).await;
        let (HelloReply::Refused(reason), _) = codec::decode::<HelloReply>(PROTOCOL, &bytes, 4_096).unwrap() else {
            panic!("it was let in")
        };
        assert!(reason.contains(expected), "{reason}");
    }
}

#[tokio::test]
async fn a_hello_of_a_newer_protocol_is_refused_with_a_reply_it_can_read() {
    let mut b = side(2, false, &[]).await;
    b.serve();
    let mut bytes = MAGIC.to_vec();
    codec::encode(PROTOCOL + 1, &"a hello of another form", &mut bytes);
    let bytes = rest(connect(&b, &bytes).await).await;
    let (reply, _) = codec::decode::<HelloReply>(1, &bytes, 4_096).unwrap();
    let HelloReply::Refused(reason) = reply else { panic!("it was let in") };
    assert!(reason.contains("format version 2 is newer than 1"), "{reason}");
}

#[tokio::test]
async fn a_command_that_others_could_not_receive_ends_the_connection() {
    let mut b = side(2, false, &[]).await;
    b.serve();
    let request = RequestId { member: MemberId(9), boot: Boot(1), sequence: 0 };
    let proposal = Proposal { request, command: vec![0; COMMAND_BYTES + 1].into() };
    let forward =
        Envelope { from: MemberId(9), to: MemberId(2), term: Term(1), message: Message::Forward(ForwardMessage::Request(vec![proposal])) };
    let mut bytes = hello(1, 2);
    codec::encode(PROTOCOL, &Frame::Message(forward), &mut bytes);
    let (mut reader, mut writer) = TcpStream::connect(b.address).await.unwrap().into_split();
    let writing = async { drop(writer.write_all(&bytes).await) };
    let mut said = Vec::new();
    // A reset is a close, too.
    let _ = tokio::join!(writing, reader.read_to_end(&mut said));
    assert_eq!(b.events.recv().await, Some(PeerEvent::Closed(MemberId(9))), "it was not delivered");
}

#[tokio::test]
async fn an_oversized_frame_and_a_newer_protocol_end_the_connection() {
    let mut b = side(2, false, &[]).await;
    b.serve();
    let length = u32::try_from(FRAME_BYTES + 1).unwrap().to_le_bytes();
    let mut newer = Vec::new();
    codec::encode(PROTOCOL + 1, &0_u8, &mut newer);
    for bad in [[&length[..], &[0; 5]].concat(), newer] {
        let bytes = rest(connect(&b, &[hello(1, 2), bad].concat()).await).await;
        let (answer, taken) = codec::decode::<HelloReply>(PROTOCOL, &bytes, 4_096).unwrap();
        assert!(matches!(answer, HelloReply::Accepted(_)) && taken == bytes.len());
        assert_eq!(b.events.recv().await, Some(PeerEvent::Closed(MemberId(9))));
    }
}

#[tokio::test]
async fn a_member_that_says_nothing_after_its_hello_is_closed() {
    let mut b = side_with_silence(2, false, &[], Duration::from_millis(1)).await;
    b.serve();
    let bytes = rest(connect(&b, &hello(1, 2)).await).await;
    let (answer, taken) = codec::decode::<HelloReply>(PROTOCOL, &bytes, 4_096).unwrap();
    assert!(matches!(answer, HelloReply::Accepted(_)) && taken == bytes.len());
    assert_eq!(b.events.recv().await, Some(PeerEvent::Closed(MemberId(9))));
}

#[tokio::test]
async fn a_message_in_another_members_name_ends_the_connection() {
    let mut b = side(2, false, &[]).await;
    b.serve();
    let mut bytes = hello(1, 2);
    codec::encode(PROTOCOL, &Frame::Message(heartbeat(1, 2, 0)), &mut bytes);
    rest(connect(&b, &bytes).await).await;
    assert_eq!(b.events.recv().await, Some(PeerEvent::Closed(MemberId(9))), "the forged heartbeat was not delivered");
}
