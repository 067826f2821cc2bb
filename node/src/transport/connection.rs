//! One connection: dialled or accepted, from the hello to the end.

use super::{
    PeerEvent, Transport,
    hello::{Answer, Channel, Hello, Introduction, MAGIC, Objection, PROTOCOL},
    queue::Queue,
};
use bytes::{Buf, BytesMut};
use quorate_core::{
    codec::{self, FrameError},
    consensus::Envelope,
    types::MemberId,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fmt, io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// From connecting to the answered hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// A hello or its answer.
const HELLO_LIMIT: usize = 4 << 10;
const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_LAST: Duration = Duration::from_secs(1);
/// Bytes encoded into one write.
const WRITE_BYTES: usize = 1 << 20;
/// Connections that have not said hello yet.
const STRANGERS_MAX: usize = 256;
/// A connection on which no frame was completed for so many times [`super::PeerSettings::silence`] is closed.
const SILENCES_MAX: u32 = 30;
/// After the system had no descriptor left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Serialize, Deserialize)]
enum Frame {
    Ping,
    Message(Envelope),
    Leave(Answer),
}

/// How a connection ended.
enum End {
    Io(io::Error),
    Closed,
    Frame(FrameError),
    Objection(Objection),
    /// The other side wants nothing to do with us.
    Answer(Answer),
    /// Not a member at all.
    Foreign(&'static str),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Closed => write!(f, "connection closed"),
            Self::Frame(error) => write!(f, "{error}"),
            Self::Objection(objection) => write!(f, "{objection}"),
            Self::Answer(Answer::Refused(reason) | Answer::Banned(reason)) => write!(f, "refused by the other side: {reason}"),
            Self::Answer(Answer::Welcome(_)) => write!(f, "unexpected welcome"),
            Self::Foreign(what) => f.write_str(what),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Closed } else { Self::Io(error) }
    }
}

/// Keeps one outgoing connection to a member, for ever.
pub(super) async fn dial(transport: Transport, member: MemberId, addresses: Vec<(String, u16)>, channel: Channel, queue: Arc<Queue>) {
    let mut backoff = BACKOFF_FIRST;
    let mut said = String::new();
    for (host, port) in addresses.iter().cycle() {
        let ended = match timeout(HELLO_TIMEOUT, greet(&transport, member, host, *port, channel)).await {
            Ok(Ok((stream, peer))) => {
                tracing::info!(target: "quorate", remote_peer_id = %member, ?channel, "established a connection with remote peer");
                backoff = BACKOFF_FIRST;
                said.clear();
                queue.clear();
                send(&transport, stream, &peer, &queue).await
            }
            Ok(Err(end)) => end,
            Err(_) => End::Io(io::ErrorKind::TimedOut.into()),
        };
        let text = ended.to_string();
        if text != said {
            tracing::warn!(target: "quorate", remote_peer_id = %member, address = %format!("{host}:{port}"), ?channel, error = %text, "lost or could not make a connection with remote peer");
            said = text;
        }
        if let End::Answer(Answer::Banned(reason)) = ended {
            (transport.0.settings.deliver)(PeerEvent::Banned(reason)).await;
        }
        queue.clear();
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_LAST);
    }
}

async fn greet(transport: &Transport, member: MemberId, host: &str, port: u16, channel: Channel) -> Result<(TcpStream, Introduction), End> {
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let mut out = MAGIC.to_vec();
    codec::encode(PROTOCOL, &Hello { from: transport.introduction(), to: member, channel }, &mut out);
    stream.write_all(&out).await?;
    let mut buffer = BytesMut::new();
    let answer: Answer = read_frame(&mut stream, &mut buffer, HELLO_LIMIT).await?;
    let Answer::Welcome(peer) = answer else { return Err(End::Answer(answer)) };
    let judged = if peer.member == member {
        transport.0.registry.judge(&peer, (transport.0.settings.started)(member), Instant::now())
    } else {
        Err(Objection::Refused(format!("member {} answers where member {member} should", peer.member)))
    };
    if let Err(objection) = judged {
        let mut out = Vec::new();
        codec::encode(PROTOCOL, &Frame::Leave(objection.clone().into_answer()), &mut out);
        let _ = stream.write_all(&out).await;
        let _ = stream.shutdown().await;
        return Err(End::Objection(objection));
    }
    Ok((stream, peer))
}

/// Sends what is queued until the connection breaks.
async fn send(transport: &Transport, stream: TcpStream, peer: &Introduction, queue: &Queue) -> End {
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
        if let Err(error) = writer.write_all(&out).await {
            return End::Io(error);
        }
        // One large message must not keep its memory for ever.
        out.shrink_to(2 * WRITE_BYTES);
    }
}

/// Takes connections, for ever. Running out of descriptors makes it wait, not end.
pub(super) async fn accept(transport: Transport, listener: TcpListener) {
    let strangers = Arc::new(tokio::sync::Semaphore::new(STRANGERS_MAX));
    let mut said = false;
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(target: "quorate", error = %error, "cannot accept a connection on peer endpoint");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        said = false;
        let Ok(stranger) = Arc::clone(&strangers).try_acquire_owned() else {
            reject(&transport, &address, &"too many connections that say nothing");
            continue;
        };
        let transport = transport.clone();
        tokio::spawn(async move {
            if let Err(end) = serve(&transport, stream, stranger).await {
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
async fn serve(transport: &Transport, mut stream: TcpStream, stranger: tokio::sync::OwnedSemaphorePermit) -> Result<(), End> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::new();
    let hello =
        timeout(HELLO_TIMEOUT, read_hello(&mut stream, &mut buffer)).await.map_err(|_| End::Foreign("said nothing for too long"))??;
    let settings = &transport.0.settings;
    let judged = if hello.to == settings.member {
        transport.0.registry.judge(&hello.from, (settings.started)(hello.from.member), Instant::now())
    } else {
        Err(Objection::Refused(format!("this is member {}, not {}", settings.member, hello.to)))
    };
    let mut out = Vec::new();
    if let Err(objection) = judged {
        codec::encode(PROTOCOL, &objection.clone().into_answer(), &mut out);
        stream.write_all(&out).await?;
        let _ = stream.shutdown().await;
        return Err(End::Objection(objection));
    }
    let (member, process) = (hello.from.member, hello.from.process);
    codec::encode(PROTOCOL, &Answer::Welcome(transport.introduction()), &mut out);
    stream.write_all(&out).await?;
    drop(stranger);
    transport.0.registry.opened(&hello.from, Instant::now());
    let end = receive(transport, &mut stream, &mut buffer, &hello.from).await;
    transport.0.registry.closed(member, process);
    match end {
        End::Closed | End::Io(_) => {
            if let Some(suppressed) = transport.0.refusals.admit(Instant::now()) {
                tracing::info!(target: "quorate", remote_peer_id = %member, channel = ?hello.channel, suppressed, "peer connection ended");
            }
        }
        other => reject(transport, &member, &other),
    }
    if hello.channel == Channel::Control {
        (settings.deliver)(PeerEvent::Closed(member)).await;
    }
    Ok(())
}

async fn read_hello(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<Hello, End> {
    while buffer.len() < MAGIC.len() {
        let at = buffer.len();
        if stream.read_buf(buffer).await? == 0 {
            return Err(End::Closed);
        }
        let seen = buffer.len().min(MAGIC.len());
        if buffer[at.min(seen)..seen] != MAGIC[at.min(seen)..seen] {
            return Err(End::Foreign(match buffer[0] {
                0x16 => "a TLS hello, but this endpoint does not speak TLS",
                b'A'..=b'Z' if buffer.first() != Some(&b'Q') => "an HTTP request, but this endpoint is for other members only",
                _ => "not a member: its first bytes are not the protocol's",
            }));
        }
    }
    buffer.advance(MAGIC.len());
    read_frame(stream, buffer, HELLO_LIMIT).await
}

async fn receive(transport: &Transport, stream: &mut TcpStream, buffer: &mut BytesMut, peer: &Introduction) -> End {
    let settings = &transport.0.settings;
    loop {
        // Pings come four times in an election timeout, so who says nothing for this long is gone, or its way here is.
        let reading = timeout(settings.silence * SILENCES_MAX, read_frame::<Frame>(stream, buffer, settings.frame_limit));
        let frame = match reading.await {
            Ok(Ok(frame)) => frame,
            Ok(Err(end)) => return end,
            Err(_) => return End::Io(io::ErrorKind::TimedOut.into()),
        };
        transport.0.registry.heard(peer.member, peer.process, Instant::now());
        match frame {
            Frame::Ping => {}
            Frame::Message(envelope) if envelope.from != peer.member => return End::Foreign("a message in another member's name"),
            Frame::Message(envelope) => {
                if matches!(envelope.message, quorate_core::consensus::Message::Raft(quorate_core::consensus::RaftMessage::Append { .. })) {
                    settings.fresh.store(false, Ordering::Relaxed);
                }
                (settings.deliver)(PeerEvent::Received(envelope)).await;
            }
            Frame::Leave(answer) => {
                if let Answer::Banned(reason) = &answer {
                    (settings.deliver)(PeerEvent::Banned(reason.clone())).await;
                }
                return End::Answer(answer);
            }
        }
    }
}

async fn read_frame<T: DeserializeOwned>(stream: &mut TcpStream, buffer: &mut BytesMut, limit: usize) -> Result<T, End> {
    loop {
        match codec::decode::<T>(PROTOCOL, buffer, limit) {
            Ok((value, taken)) => {
                buffer.advance(taken);
                return Ok(value);
            }
            Err(FrameError::Short { needed }) => {
                buffer.reserve(needed - buffer.len());
                if stream.read_buf(buffer).await? == 0 {
                    return Err(End::Closed);
                }
            }
            Err(error) => return Err(End::Frame(error)),
        }
    }
}
