//! A command as the log has it: a frame with a header, in which later releases say who asks and when, and the command.
//!
//! What a header field or a command means decides what every member's state is. So a release that meets one it does not know
//! must not skip it: the frame cannot be read, and the member stops instead of going its own way. A release that adds one
//! therefore writes it only once every member can read it.

use super::Command;
use crate::codec::{self, FrameError};
use alloc::vec::Vec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Version of a command's frame: 1 had the command alone, 2 has a header before it.
const COMMAND_VERSION: u8 = 2;
const WITHOUT_HEADER: u8 = 1;

/// What goes with a command, each at most once. Append-only, and empty so far: a user with the auth revision at which it was
/// let through, or the leader's time, takes the next number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum HeaderField {}

#[derive(Serialize)]
struct FramedRef<'a> {
    header: &'a [HeaderField],
    command: &'a Command,
}

#[derive(Deserialize)]
struct Framed {
    #[expect(dead_code, reason = "there is no field yet that could be in it; reading it refuses those of a later release")]
    header: Vec<HeaderField>,
    command: Command,
}

/// A command in its frame, as [`crate::consensus::Proposal`] carries it.
#[must_use]
pub fn encode_command(command: &Command) -> Bytes {
    codec::encoded(COMMAND_VERSION, &FramedRef { header: &[], command })
}

/// The inverse of [`encode_command`].
pub fn decode_command(bytes: &[u8]) -> Result<Command, FrameError> {
    let (version, body, taken) = codec::split(bytes, bytes.len())?;
    if taken != bytes.len() {
        return Err(FrameError::Body);
    }
    let command = match version {
        WITHOUT_HEADER => postcard::from_bytes(body),
        COMMAND_VERSION => postcard::from_bytes(body).map(|framed: Framed| framed.command),
        found => return Err(FrameError::Version { found, newest: COMMAND_VERSION }),
    };
    command.map_err(|_| FrameError::Body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Compact, Put};
    use crate::types::{Revision, WallMs};
    use alloc::{string::String, vec};

    /// As a later release may have it.
    #[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
    enum LaterField {
        Time(WallMs),
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
        let fields = || vec![LaterField::Time(WallMs(1)), LaterField::Identity { user: "root".into(), auth_revision: 7 }];
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
    fn bytes_after_the_frame_are_refused() {
        let mut bytes = encode_command(&Command::Put(put())).to_vec();
        bytes.push(0);
        assert_eq!(decode_command(&bytes), Err(FrameError::Body));
    }
}
