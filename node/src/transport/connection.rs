//! One connection: dialled or accepted, from the hello to the end.

use super::{
    PeerEvent, Transport,
    frame::{FRAME_BYTES, Frame, FrameReader, ReadError},
    hello::{Channel, Hello, HelloReply, MAGIC, PROTOCOL, PeerIdentity, PeerRejection},
    queue::Queue,
};
use nix::sys::socket::{setsockopt, sockopt::TcpUserTimeout};
use quorate_core::{
    codec::{self, FrameError},
    types::MemberId,
};
use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// From connecting to the answered hello, at most; twice [`super::PeerSettings::silence`] where that is shorter.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// A hello or its reply.
pub(super) const HELLO_BYTES: usize = 4 << 10;
/// Between the starts of two attempts to connect: doubled from one to the other.
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
/// The longest; [`super::PeerSettings::silence`] where that is shorter.
const BACKOFF_LAST: Duration = Duration::from_secs(1);
/// Bytes encoded into one write.
const WRITE_BYTES: usize = 1 << 20;
/// Connections that have not said hello yet.
const HANDSHAKES_MAX: usize = 256;
/// A connection that makes no progress for so many times [`super::PeerSettings::silence`] is closed: nothing comes, what was sent is
/// not acknowledged, or nothing more can be sent. Its peer is dialled again from then on, so that the connection is a new one when
/// the network comes back; the old one's retransmissions would be minutes apart by then.
pub(super) const SILENCES_MAX: u32 = 5;
/// After the system had no descriptor left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a connection ended.
enum End {
    Io(io::Error),
    Closed,
    Frame(FrameError),
    Rejection(PeerRejection),
    /// The other side wants nothing to do with us.
    Reply(HelloReply),
    /// Not a member at all.
    Foreign(&'static str),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Closed => write!(f, "connection closed"),
            Self::Frame(error) => write!(f, "{error}"),
            Self::Rejection(rejection) => write!(f, "{rejection}"),
            Self::Reply(HelloReply::Refused(reason) | HelloReply::Banned(reason)) => write!(f, "refused by the other side: {reason}"),
            Self::Reply(HelloReply::Accepted(_)) => write!(f, "unexpected acceptance"),
            Self::Foreign(what) => f.write_str(what),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Io(error),
            ReadError::Closed => Self::Closed,
            ReadError::Frame(error) => Self::Frame(error),
        }
    }
}

/// Bounds what is sent and not acknowledged: the kernel itself would try for a quarter of an hour.
pub(super) fn prepare(stream: &TcpStream, stall: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let stall_ms = u32::try_from(stall.as_millis()).unwrap_or(u32::MAX).max(1);
    Ok(setsockopt(stream, TcpUserTimeout, &stall_ms)?)
}

/// Writes everything as long as some of it can be written in each `stall`.
async fn write_all(writer: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8], stall: Duration) -> io::Result<()> {
    while !bytes.is_empty() {
        match timeout(stall, writer.write(bytes)).await {
            Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(Ok(written)) => bytes = &bytes[written..],
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
    Ok(())
}

/// Keeps one outgoing connection to a member, for ever.
pub(super) async fn dial(transport: Transport, member: MemberId, addresses: Vec<(String, u16)>, channel: Channel, queue: Arc<Queue>) {
    let silence = transport.0.settings.silence;
    let (hello_timeout, backoff_last) = (HELLO_TIMEOUT.min(2 * silence), BACKOFF_LAST.min(silence));
    let mut backoff = BACKOFF_FIRST;
    let mut last_logged = String::new();
    for (host, port) in addresses.iter().cycle() {
        let started = Instant::now();
        let connected = timeout(hello_timeout, handshake(&transport, member, host, *port, channel)).await;
        let (ended, pause) = match connected.unwrap_or_else(|_| Err(End::Io(io::ErrorKind::TimedOut.into()))) {
            Ok((stream, peer)) => {
                tracing::info!(target: "quorate", remote_peer_id = %member, ?channel, "established a connection with remote peer");
                backoff = BACKOFF_FIRST;
                last_logged.clear();
                queue.clear();
                (send(&transport, stream, &peer, &queue).await, backoff)
            }
            Err(end) => (end, backoff.saturating_sub(started.elapsed())),
        };
        let text = ended.to_string();
        if text != last_logged {
            tracing::warn!(target: "quorate", remote_peer_id = %member, address = %format!("{host}:{port}"), ?channel, error = %text, "lost or could not make a connection with remote peer");
            last_logged = text;
        }
        if let End::Reply(HelloReply::Banned(reason)) = ended {
            (transport.0.settings.deliver)(PeerEvent::Banned(reason)).await;
        }
        queue.clear();
        sleep(pause).await;
        backoff = (backoff * 2).min(backoff_last);
    }
}

async fn handshake(
    transport: &Transport,
    member: MemberId,
    host: &str,
    port: u16,
    channel: Channel,
) -> Result<(TcpStream, PeerIdentity), End> {
    let mut stream = TcpStream::connect((host, port)).await?;
    prepare(&stream, transport.stall())?;
    let mut out = MAGIC.to_vec();
    codec::encode(PROTOCOL, &Hello { from: transport.identity(), to: member, channel }, &mut out);
    stream.write_all(&out).await?;
    let reply: HelloReply = transport.hello_reader().read(&mut stream).await?.body;
    let HelloReply::Accepted(peer) = reply else { return Err(End::Reply(reply)) };
    let judged = if peer.member == member {
        transport.0.registry.judge(&peer, (transport.0.settings.started)(member), Instant::now())
    } else {
        Err(PeerRejection::Refused(format!("member {} answers where member {member} should", peer.member)))
    };
    if let Err(rejection) = judged {
        let mut out = Vec::new();
        codec::encode(PROTOCOL, &Frame::Leave(rejection.clone().into_reply()), &mut out);
        let _ = stream.write_all(&out).await;
        let _ = stream.shutdown().await;
        return Err(End::Rejection(rejection));
    }
    Ok((stream, peer))
}

/// Sends what is queued until the connection breaks.
async fn send(transport: &Transport, stream: TcpStream, peer: &PeerIdentity, queue: &Queue) -> End {
    let settings = &transport.0.settings;
    let (mut reader, mut writer) = stream.into_split();
    let mut out = Vec::new();
    let mut byte = [0; 1];
    loop {
        out.clear();
        tokio::select! {
            biased;
            // Nothing is said on this way after the hello, so what comes is the end.
            read = reader.read(&mut byte) => return match read {
                Ok(0) => End::Closed,
                Ok(_) => End::Foreign("the other side spoke out of turn"),
                Err(error) => End::Io(error),
            },
            taken = timeout(settings.ping_interval, queue.take(WRITE_BYTES)) => match taken {
                Ok(envelopes) => {
                    for envelope in envelopes {
                        debug_assert_eq!(envelope.to, peer.member);
                        codec::encode(PROTOCOL, &Frame::Message(envelope), &mut out);
                    }
                }
                Err(_) => codec::encode(PROTOCOL, &Frame::Ping, &mut out),
            },
        }
        if let Err(error) = write_all(&mut writer, &out, transport.stall()).await {
            return End::Io(error);
        }
        // One large message must not keep its memory for ever.
        out.shrink_to(2 * WRITE_BYTES);
    }
}

/// Takes connections, for ever. Running out of descriptors makes it wait, not end.
pub(super) async fn accept(transport: Transport, listener: TcpListener) {
    let handshakes = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES_MAX));
    let mut is_logged = false;
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if !std::mem::replace(&mut is_logged, true) {
                    tracing::warn!(target: "quorate", error = %error, "cannot accept a connection on peer endpoint");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        is_logged = false;
        let Ok(handshaking) = Arc::clone(&handshakes).try_acquire_owned() else {
            reject(&transport, &address, &"too many connections that say nothing");
            continue;
        };
        let transport = transport.clone();
        tokio::spawn(async move {
            if let Err(end) = serve(&transport, stream, handshaking).await {
                reject(&transport, &address, &end);
            }
        });
    }
}

/// Says why, unless that was said too often of late.
fn reject(transport: &Transport, from: &dyn fmt::Display, why: &dyn fmt::Display) {
    if let Some(suppressed) = transport.0.refusals.admit(Instant::now()) {
        tracing::warn!(target: "quorate", remote_addr = %from, error = %why, suppressed, "rejected connection on peer endpoint");
    }
}

/// One accepted connection. An error is one from before it was welcome.
async fn serve(transport: &Transport, mut stream: TcpStream, handshaking: tokio::sync::OwnedSemaphorePermit) -> Result<(), End> {
    prepare(&stream, transport.stall())?;
    let mut reader = transport.hello_reader();
    let hello = match timeout(HELLO_TIMEOUT, read_hello(&mut stream, &mut reader)).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(End::Frame(error @ FrameError::Version { .. }))) => {
            // A newer release must learn why.
            let reason = format!("release {} cannot read the hello: {error}", env!("CARGO_PKG_VERSION"));
            let mut out = Vec::new();
            codec::encode(PROTOCOL, &HelloReply::Refused(reason), &mut out);
            stream.write_all(&out).await?;
            let _ = stream.shutdown().await;
            return Err(End::Frame(error));
        }
        Ok(Err(end)) => return Err(end),
        Err(_) => return Err(End::Foreign("said nothing for too long")),
    };
    let settings = &transport.0.settings;
    let judged = if hello.to == settings.member {
        transport.0.registry.judge(&hello.from, (settings.started)(hello.from.member), Instant::now())
    } else {
        Err(PeerRejection::Refused(format!("this is member {}, not {}", settings.member, hello.to)))
    };
    let mut out = Vec::new();
    if let Err(rejection) = judged {
        codec::encode(PROTOCOL, &rejection.clone().into_reply(), &mut out);
        stream.write_all(&out).await?;
        let _ = stream.shutdown().await;
        return Err(End::Rejection(rejection));
    }
    codec::encode(PROTOCOL, &HelloReply::Accepted(transport.identity()), &mut out);
    stream.write_all(&out).await?;
    drop(handshaking);
    transport.0.registry.opened(&hello.from, hello.channel, Instant::now());
    reader.relax(FRAME_BYTES, transport.stall());
    let end = receive(transport, &mut stream, &mut reader, &hello.from).await;
    let is_gone = transport.0.registry.closed(&hello.from, hello.channel);
    let member = hello.from.member;
    match end {
        End::Closed | End::Io(_) => {
            if let Some(suppressed) = transport.0.refusals.admit(Instant::now()) {
                tracing::info!(target: "quorate", remote_peer_id = %member, channel = ?hello.channel, suppressed, "peer connection ended");
            }
        }
        other => reject(transport, &member, &other),
    }
    if is_gone {
        (settings.deliver)(PeerEvent::Closed(member)).await;
    }
    Ok(())
}

async fn read_hello(stream: &mut TcpStream, reader: &mut FrameReader) -> Result<Hello, End> {
    if let Err(first) = reader.expect(stream, MAGIC).await? {
        return Err(End::Foreign(match first {
            0x16 => "a TLS hello, but this endpoint does not speak TLS",
            b'A'..=b'Z' if first != MAGIC[0] => "an HTTP request, but this endpoint is for other members only",
            _ => "not a member: its first bytes are not the protocol's",
        }));
    }
    Ok(reader.read(stream).await?.body)
}

async fn receive(transport: &Transport, stream: &mut TcpStream, reader: &mut FrameReader, peer: &PeerIdentity) -> End {
    let settings = &transport.0.settings;
    loop {
        // Pings come four times in an election timeout, so who says nothing for so long is gone, or its way here is.
        let received = match reader.read::<Frame>(stream).await {
            Ok(received) => received,
            Err(error) => return error.into(),
        };
        if received.body.is_oversized() {
            return End::Foreign("a command above what members can receive");
        }
        let frame = received.body;
        transport.0.registry.heard(peer.member, peer.process, Instant::now());
        match frame {
            Frame::Ping => {}
            Frame::Message(envelope) if envelope.from != peer.member => return End::Foreign("a message in another member's name"),
            Frame::Message(envelope) => {
                (settings.deliver)(PeerEvent::Received(envelope)).await;
            }
            Frame::Leave(answer) => {
                if let HelloReply::Banned(reason) = &answer {
                    (settings.deliver)(PeerEvent::Banned(reason.clone())).await;
                }
                return End::Reply(answer);
            }
        }
    }
}
