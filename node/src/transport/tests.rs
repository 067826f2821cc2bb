use super::{
    hello::{Answer, Hello, MAGIC, PROTOCOL},
    *,
};
use quorate_core::{
    codec,
    types::{LogIndex, Term},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

const FRAME_LIMIT: usize = 1 << 20;

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
        frame_limit: FRAME_LIMIT,
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
        Introduction { cluster: ClusterId(cluster), member: MemberId(9), release: "0".into(), boot: Boot(1), process: 9, fresh: false };
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
        let (Answer::Refused(reason), _) = codec::decode::<Answer>(PROTOCOL, &bytes, 4_096).unwrap() else { panic!("it was let in") };
        assert!(reason.contains(expected), "{reason}");
    }
}

#[tokio::test]
async fn an_oversized_frame_and_a_newer_protocol_end_the_connection() {
    let mut b = side(2, false, &[]).await;
    b.serve();
    let length = u32::try_from(FRAME_LIMIT + 1).unwrap().to_le_bytes();
    let mut newer = Vec::new();
    codec::encode(PROTOCOL + 1, &0_u8, &mut newer);
    for bad in [[&length[..], &[0; 5]].concat(), newer] {
        let bytes = rest(connect(&b, &[hello(1, 2), bad].concat()).await).await;
        let (answer, taken) = codec::decode::<Answer>(PROTOCOL, &bytes, 4_096).unwrap();
        assert!(matches!(answer, Answer::Welcome(_)) && taken == bytes.len());
        assert_eq!(b.events.recv().await, Some(PeerEvent::Closed(MemberId(9))));
    }
}

#[tokio::test]
async fn a_member_that_says_nothing_after_its_hello_is_closed() {
    let mut b = side_with_silence(2, false, &[], Duration::from_millis(1)).await;
    b.serve();
    let bytes = rest(connect(&b, &hello(1, 2)).await).await;
    let (answer, taken) = codec::decode::<Answer>(PROTOCOL, &bytes, 4_096).unwrap();
    assert!(matches!(answer, Answer::Welcome(_)) && taken == bytes.len());
    assert_eq!(b.events.recv().await, Some(PeerEvent::Closed(MemberId(9))));
}

#[tokio::test]
async fn a_message_in_another_members_name_ends_the_connection() {
    #[derive(serde::Serialize)]
    enum Frame {
        #[expect(dead_code, reason = "holds the place of the real frame's first variant")]
        Ping,
        Message(Envelope),
    }
    let mut b = side(2, false, &[]).await;
    b.serve();
    let mut bytes = hello(1, 2);
    codec::encode(PROTOCOL, &Frame::Message(heartbeat(1, 2, 0)), &mut bytes);
    rest(connect(&b, &bytes).await).await;
    assert_eq!(b.events.recv().await, Some(PeerEvent::Closed(MemberId(9))), "the forged heartbeat was not delivered");
}
