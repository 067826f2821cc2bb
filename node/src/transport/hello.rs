//! How two members meet. The one that dials says who it is and whom it wants; the other answers the same of itself, or refuses.
//!
//! Frozen: members of two releases meet during an upgrade. A new release appends fields at the end of [`Hello`] and variants to
//! [`HelloReply`], and reads what lacks them; an older one passes over what it does not know at the end. Frames of another version
//! are refused with a reply of version 1, which every release reads.

use quorate_core::types::{Boot, ClusterId, MemberId};
use serde::{Deserialize, Serialize};
/// First on every connection, so that anything else is told apart by its first bytes.
pub const MAGIC: &[u8; 8] = b"QUORATE\n";
/// The version of the frames on a peer connection.
pub const PROTOCOL: u8 = 1;

/// What a connection carries. Control never waits behind bulk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Channel {
    Control,
    Bulk,
}

/// What a process says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerIdentity {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub release: String,
    pub boot: Boot,
    /// Drawn at start: tells two processes apart that were started from copies of one directory.
    pub process: u64,
    /// Its directory holds nothing from a leader, in whatever life it was made: a wiped member that is started twice is still wiped.
    pub fresh: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub from: PeerIdentity,
    pub to: MemberId,
    pub channel: Channel,
}

/// The answer to a hello, and also how either side takes leave.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HelloReply {
    Accepted(PeerIdentity),
    /// Try again later.
    Refused(String),
    /// You must not run at all.
    Banned(String),
}

/// Why a process is not talked to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerRejection {
    Refused(String),
    Banned(String),
}

impl PeerRejection {
    pub(super) fn into_reply(self) -> HelloReply {
        match self {
            Self::Refused(reason) => HelloReply::Refused(reason),
            Self::Banned(reason) => HelloReply::Banned(reason),
        }
    }
}

impl std::fmt::Display for PeerRejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Refused(reason) | Self::Banned(reason)) = self;
        f.write_str(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::codec;

    fn identity() -> PeerIdentity {
        PeerIdentity {
            cluster: ClusterId(0x1122_3344_5566_7788),
            member: MemberId(0x99aa),
            release: "0.1.0".into(),
            boot: Boot(3),
            process: 0xbbcc,
            fresh: true,
        }
    }

    fn encoded(body: &impl Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        codec::encode(PROTOCOL, body, &mut bytes);
        bytes
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_hello_and_its_replies_keep_their_bytes() {
        let hello = Hello { from: identity(), to: MemberId(0xddee), channel: Channel::Bulk };
        insta::assert_snapshot!(hex(&[&MAGIC[..], &encoded(&hello)].concat()), @"51554f524154450a1c000000e481a9470188ef99abc5e88c9111aab30205302e312e3003ccf70201eebb0301");
        insta::assert_snapshot!(hex(&encoded(&HelloReply::Accepted(identity()))), @"1900000042cbb4f9010088ef99abc5e88c9111aab30205302e312e3003ccf70201");
        insta::assert_snapshot!(hex(&encoded(&HelloReply::Refused("no".into()))), @"05000000e6f9dba40101026e6f");
        insta::assert_snapshot!(hex(&encoded(&HelloReply::Banned("no".into()))), @"05000000df70f9c60102026e6f");
    }

    /// What a newer release appends to a hello.
    #[derive(Serialize)]
    struct NewerHello(Hello, Vec<u64>);

    #[test]
    fn what_a_newer_release_appends_to_a_hello_is_passed_over() {
        let hello = Hello { from: identity(), to: MemberId(0xddee), channel: Channel::Control };
        let bytes = encoded(&NewerHello(hello.clone(), vec![1, 2, 3]));
        assert_eq!(codec::decode::<Hello>(PROTOCOL, &bytes, 4_096), Ok((hello, bytes.len())));
    }
}
