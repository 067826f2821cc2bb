//! A command as the log has it: a frame with a header, in which later releases say who asks and when, and the command.
//!
//! What a header field or a command means decides what every member's state is. So a release that meets one it does not know
//! must not skip it: the frame cannot be read, and the member stops instead of going its own way. A release that adds one
//! therefore writes it only once every member can read it.

use super::Command;
use crate::codec::{self, FRAME_HEADER, FrameError};
use crate::types::WallMs;
use alloc::vec::Vec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Version of a command's frame: 1 had the command alone, 2 has a header before it.
const COMMAND_VERSION: u8 = 2;
const WITHOUT_HEADER: u8 = 1;

/// What goes with a command, each at most once. Append-only: a user with the auth revision at which it was let through takes the
/// next number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum HeaderField {
    /// The cluster's time. Left open by whoever proposes; the leader fills it in as it appends, see [`stamp`].
    Time(Option<WallMs>),
}

/// How the body of a command begins that waits for its time: one field, the first of its kind, and nothing in it.
const OPEN_TIME: [u8; 3] = [1, 0, 0];

#[derive(Serialize)]
struct FramedRef<'a> {
    header: &'a [HeaderField],
    command: &'a Command,
}

#[derive(Deserialize)]
struct Framed {
    header: Vec<HeaderField>,
    command: Command,
}

/// A command in its frame, as [`crate::consensus::Proposal`] carries it.
#[must_use]
pub fn encode_command(command: &Command) -> Bytes {
    let header: &[HeaderField] = if matches!(command, Command::V2(_)) { &[HeaderField::Time(None)] } else { &[] };
    codec::encoded(COMMAND_VERSION, &FramedRef { header, command })
}

/// Gives a command its time, if it waits for one; any other bytes stay what they are.
pub(crate) fn stamp(command: Bytes, at: WallMs) -> Bytes {
    let Some(rest) = body(&command).and_then(|body| body.strip_prefix(&OPEN_TIME)) else { return command };
    let header = postcard::to_allocvec(&[HeaderField::Time(Some(at))].as_slice()).expect("serialising to memory");
    codec::framed(COMMAND_VERSION, [&header, rest])
}

/// The time that a command was given.
pub(crate) fn time_of(command: &[u8]) -> Option<WallMs> {
    let body = body(command).filter(|body| body.first() == OPEN_TIME.first())?;
    let (header, _) = postcard::take_from_bytes::<Vec<HeaderField>>(body).ok()?;
    time_in(&header)
}

/// The body of a frame of this version, its checksum left to whoever reads the command.
fn body(command: &[u8]) -> Option<&[u8]> {
    command.get(FRAME_HEADER..).filter(|_| command[FRAME_HEADER - 1] == COMMAND_VERSION)
}

fn time_in(header: &[HeaderField]) -> Option<WallMs> {
    header.iter().find_map(|HeaderField::Time(at)| *at)
}

/// The inverse of [`encode_command`].
pub fn decode_command(bytes: &[u8]) -> Result<Command, FrameError> {
    decode_with_time(bytes).map(|(command, _)| command)
}

/// A command, and the time that it was given.
pub fn decode_with_time(bytes: &[u8]) -> Result<(Command, Option<WallMs>), FrameError> {
    let (version, body, taken) = codec::split(bytes, bytes.len())?;
    if taken != bytes.len() {
        return Err(FrameError::Body);
    }
    let command = match version {
        WITHOUT_HEADER => postcard::from_bytes(body).map(|command| (command, None)),
        COMMAND_VERSION => postcard::from_bytes(body).map(|Framed { header, command }| (command, time_in(&header))),
        found => return Err(FrameError::Version { found, newest: COMMAND_VERSION }),
    };
    command.map_err(|_| FrameError::Body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Compact, Put};
    use crate::types::Revision;
    use crate::v2::{Change, NodePath, Request};
    use alloc::{string::String, vec};

    /// As a later release may have it.
    #[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
    enum LaterField {
        Time(Option<WallMs>),
        Identity { user: String, auth_revision: u64 },
    }

    /// The commands of this release, and one of another key space.
    #[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
    enum LaterCommand {
        Put(Put),
        DeleteRange(crate::command::DeleteRange),
        Txn(crate::command::Txn),
        Compact(Compact),
        Alarm(crate::command::AlarmChange),
        Publish(crate::command::MemberAttributes),
        V2(crate::v2::Request),
        LeaseGrant(crate::command::LeaseGrant),
        LeaseRevoke(crate::command::LeaseRevoke),
        LeaseExpire(crate::command::LeaseExpire),
        LeaseCheckpoint(crate::command::LeaseCheckpoint),
        SetNode { path: String },
    }

    #[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
    struct Later {
        header: Vec<LaterField>,
        command: LaterCommand,
    }

    fn put() -> Put {
        Put { key: "k".into(), value: "v".into(), ..Put::default() }
    }

    #[test]
    fn a_release_with_more_header_fields_and_commands_reads_the_bytes_of_this_one() {
        let bytes = encode_command(&Command::Put(put()));
        let expected = Later { header: vec![], command: LaterCommand::Put(put()) };
        assert_eq!(codec::decode(COMMAND_VERSION, &bytes, bytes.len()), Ok((expected, bytes.len())));
    }

    #[test]
    fn what_a_later_release_adds_is_refused_and_not_skipped() {
        let fields = || vec![LaterField::Time(Some(WallMs(1))), LaterField::Identity { user: "root".into(), auth_revision: 7 }];
        let set = LaterCommand::SetNode { path: "/a".into() };
        for (header, command) in [(fields(), LaterCommand::Put(put())), (vec![], set)] {
            let mut bytes = Vec::new();
            codec::encode(COMMAND_VERSION, &Later { header, command }, &mut bytes);
            assert_eq!(decode_command(&bytes), Err(FrameError::Body));
        }
        let mut bytes = Vec::new();
        codec::encode(COMMAND_VERSION + 1, &Command::Put(put()), &mut bytes);
        assert_eq!(decode_command(&bytes), Err(FrameError::Version { found: 3, newest: 2 }));
    }

    #[test]
    fn a_command_without_a_header_is_read() {
        let command = Command::Compact(Compact { revision: Revision(9), physical: true });
        let mut bytes = Vec::new();
        codec::encode(WITHOUT_HEADER, &command, &mut bytes);
        assert_eq!(decode_command(&bytes), Ok(command));
    }

    #[test]
    fn a_command_that_waits_for_its_time_gets_it_once_and_no_other_gets_one() {
        let request = Request { path: NodePath::parse("/a").unwrap(), change: Change::Expire };
        let command = Command::V2(request);
        let open = encode_command(&command);
        assert_eq!((time_of(&open), decode_with_time(&open)), (None, Ok((command.clone(), None))));
        let stamped = stamp(open, WallMs(1_700_000_000_000));
        assert_eq!(time_of(&stamped), Some(WallMs(1_700_000_000_000)));
        assert_eq!(decode_with_time(&stamped), Ok((command, Some(WallMs(1_700_000_000_000)))));
        assert_eq!(stamp(stamped.clone(), WallMs(9)), stamped);
        let put = encode_command(&Command::Put(put()));
        assert_eq!((stamp(put.clone(), WallMs(9)), time_of(&put)), (put, None));
        for garbage in [&b""[..], b"x", b"a frame is longer than that"] {
            assert_eq!((stamp(Bytes::from_static(garbage), WallMs(9)), time_of(garbage)), (garbage.into(), None));
        }
    }

    #[test]
    fn bytes_after_the_frame_are_refused() {
        let mut bytes = encode_command(&Command::Put(put())).to_vec();
        bytes.push(0);
        assert_eq!(decode_command(&bytes), Err(FrameError::Body));
    }
}
