//! One frame between members: what it may hold, and how it is read without trusting what it says of itself.

use super::hello::{HelloReply, PROTOCOL};
use bytes::{Buf, BytesMut};
use quorate_core::{
    codec::{self, FrameError},
    consensus::{Envelope, ForwardMessage, Message},
    member::COMMAND_BYTES,
};
use quorate_web::ByteBudget;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::OwnedSemaphorePermit,
    time::timeout,
};

/// The largest frame that any member of this release takes, whatever its flags: what one may append, all can receive.
/// Beside a command there is room for what stands around it.
pub const FRAME_BYTES: usize = COMMAND_BYTES + (16 << 20);
/// Frames above this share [`RECEIVE_BYTES`], and the buffer of one is not kept for the next.
pub const LARGE_FRAME_BYTES: usize = 2 << 20;
/// Room made for one read.
const READ_BYTES: usize = 16 << 10;
/// Large frames being received, over all connections.
pub const RECEIVE_BYTES: usize = FRAME_BYTES;

/// What members say to each other after the hello. Append-only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Frame {
    Ping,
    Message(Envelope),
    Leave(HelloReply),
}

impl Frame {
    /// Whether it holds what no member of this release sends, because others could not receive it as an entry.
    pub(super) fn is_oversized(&self) -> bool {
        let Self::Message(Envelope { message: Message::Forward(ForwardMessage::Request(proposals)), .. }) = self else { return false };
        proposals.iter().any(|proposal| proposal.command.len() > COMMAND_BYTES)
    }
}

/// Why no frame could be read.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(io::Error),
    Closed,
    Frame(FrameError),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Closed } else { Self::Io(error) }
    }
}

/// A frame, and its share of the bytes being received if it is large.
pub(super) struct Received<T> {
    pub(super) body: T,
    pub(super) _share: Option<OwnedSemaphorePermit>,
}

/// Reads frames from one connection.
pub(super) struct FrameReader {
    buffer: BytesMut,
    limit: usize,
    /// No byte for so long ends the connection.
    silence: Duration,
    receiving: Arc<ByteBudget>,
}

impl FrameReader {
    pub(super) fn new(limit: usize, silence: Duration, receiving: Arc<ByteBudget>) -> Self {
        Self { buffer: BytesMut::new(), limit, silence, receiving }
    }

    /// After the hello, frames may be longer, and come less often.
    pub(super) fn relax(&mut self, limit: usize, silence: Duration) {
        (self.limit, self.silence) = (limit, silence);
    }

    /// Reads the bytes that are expected; else says which byte came first.
    pub(super) async fn expect(&mut self, stream: &mut (impl AsyncRead + Unpin), expected: &[u8]) -> Result<Result<(), u8>, ReadError> {
        loop {
            let seen = self.buffer.len().min(expected.len());
            if self.buffer[..seen] != expected[..seen] {
                return Ok(Err(self.buffer[0]));
            }
            if seen == expected.len() {
                self.buffer.advance(seen);
                return Ok(Ok(()));
            }
            self.fill(stream).await?;
        }
    }

    pub(super) async fn read<T: DeserializeOwned>(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<Received<T>, ReadError> {
        let mut share = None;
        loop {
            match codec::decode::<T>(PROTOCOL, &self.buffer, self.limit) {
                Ok((body, taken)) => {
                    self.buffer.advance(taken);
                    if self.buffer.is_empty() && taken > LARGE_FRAME_BYTES {
                        self.buffer = BytesMut::new();
                    }
                    return Ok(Received { body, _share: share });
                }
                Err(FrameError::Short { needed }) => {
                    if needed > LARGE_FRAME_BYTES && share.is_none() {
                        share = Some(self.receiving.take(needed as u64).await);
                    }
                    // By what has come, not by what is announced: only who sends bytes gets memory.
                    let missing = (needed - self.buffer.len()).max(READ_BYTES);
                    self.buffer.reserve(missing.min(self.buffer.len().max(LARGE_FRAME_BYTES)));
                    self.fill(stream).await?;
                }
                Err(error) => return Err(ReadError::Frame(error)),
            }
        }
    }

    async fn fill(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<(), ReadError> {
        match timeout(self.silence, stream.read_buf(&mut self.buffer)).await {
            Ok(Ok(0)) => Err(ReadError::Closed),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(ReadError::Io(io::ErrorKind::TimedOut.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::{
        consensus::{Proposal, RaftMessage},
        types::{Boot, LogIndex, MemberId, RequestId, Term},
    };

    const SILENCE: Duration = Duration::from_secs(600);

    fn reader(receive_bytes: usize) -> FrameReader {
        FrameReader::new(FRAME_BYTES, SILENCE, Arc::new(ByteBudget::new(receive_bytes)))
    }

    fn encoded(frame: &Frame) -> Vec<u8> {
        let mut bytes = Vec::new();
        codec::encode(PROTOCOL, frame, &mut bytes);
        bytes
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn message(message: Message) -> Frame {
        Frame::Message(Envelope { from: MemberId(1), to: MemberId(2), term: Term(3), message })
    }

    fn forward(bytes: usize) -> Frame {
        let request = RequestId { member: MemberId(1), boot: Boot(1), sequence: 0 };
        message(Message::Forward(ForwardMessage::Request(vec![Proposal { request, command: vec![7; bytes].into() }])))
    }

    #[test]
    fn frames_keep_their_bytes() {
        let heartbeat = Message::Raft(RaftMessage::Heartbeat { commit: LogIndex(4), replicated: LogIndex(5), round: 6 });
        insta::assert_snapshot!(hex(&encoded(&Frame::Ping)), @"02000000a5efc3e20100");
        insta::assert_snapshot!(hex(&encoded(&message(heartbeat))), @"0a00000015ebd3aa01010102030007040605");
        insta::assert_snapshot!(hex(&encoded(&Frame::Leave(HelloReply::Banned("no".into())))), @"060000008da1a273010202026e6f");
    }

    #[test]
    fn only_a_command_that_leaves_no_room_around_it_is_oversized() {
        assert!(!forward(COMMAND_BYTES).is_oversized());
        assert!(forward(COMMAND_BYTES + 1).is_oversized());
        assert!(encoded(&forward(COMMAND_BYTES)).len() < FRAME_BYTES);
    }

    #[tokio::test]
    async fn a_frame_gets_memory_by_what_has_come_and_not_by_what_it_announces() {
        let mut reader = reader(RECEIVE_BYTES);
        let announced = [&u32::try_from(FRAME_BYTES).unwrap().to_le_bytes()[..], &[0; 60]].concat();
        assert!(matches!(reader.read::<Frame>(&mut &announced[..]).await, Err(ReadError::Closed)));
        assert!(reader.buffer.capacity() <= 2 * LARGE_FRAME_BYTES, "{}", reader.buffer.capacity());
    }

    #[tokio::test]
    async fn a_large_frame_has_its_share_until_it_is_handed_on_and_leaves_no_buffer_behind() {
        let mut reader = reader(4 * LARGE_FRAME_BYTES);
        let bytes = encoded(&forward(3 * LARGE_FRAME_BYTES));
        let received = reader.read::<Frame>(&mut &bytes[..]).await.ok().unwrap();
        assert!(received.body == forward(3 * LARGE_FRAME_BYTES));
        let share = 2 * LARGE_FRAME_BYTES as u64;
        assert!(reader.receiving.try_take(share).is_none(), "another large frame waits");
        drop(received);
        assert!(reader.receiving.try_take(share).is_some());
        assert_eq!(reader.buffer.capacity(), 0);
    }
}
