//! What the members agree on: the entries of the replicated log, what they carry, and who the members are.

use crate::types::{LogId, MemberId, RequestId};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};
use bytes::Bytes;
use core::fmt::{self, Display, Formatter};
use serde::{Deserialize, Serialize};

/// One position of the replicated log (Raft §5.3).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub id: LogId,
    pub payload: Payload,
}

/// What an entry carries. Append-only: the variant numbers are on disk and on the wire.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Payload {
    /// A leader's first entry in its term: committing it commits all before it (Raft §5.4.2, §8).
    Empty,
    Command {
        request: RequestId,
        command: Bytes,
    },
    Configuration {
        /// Who asked for the change and waits for its answer; nobody for those that a cluster is founded with.
        request: Option<RequestId>,
        configuration: Configuration,
    },
}

/// What an entry is reckoned to take beside its command.
pub(crate) const ENTRY_OVERHEAD_BYTES: usize = 64;

impl Entry {
    /// The bytes it counts for in every limit.
    #[must_use]
    pub fn bytes(&self) -> usize {
        ENTRY_OVERHEAD_BYTES
            + match &self.payload {
                Payload::Empty => 0,
                Payload::Command { command, .. } => command.len(),
                Payload::Configuration { configuration, .. } => {
                    configuration.peer_urls.values().flatten().map(|url| ENTRY_OVERHEAD_BYTES + url.len()).sum()
                }
            }
    }
}

impl Payload {
    /// Whose request this carries out: that member answers it once it is applied.
    #[must_use]
    pub const fn request(&self) -> Option<RequestId> {
        match self {
            Self::Empty => None,
            Self::Command { request, .. } => Some(*request),
            Self::Configuration { request, .. } => *request,
        }
    }
}

/// Who votes. `outgoing` empty: a simple configuration. Else joint consensus (Raft §6): a quorum of both is needed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Configuration {
    pub voters: BTreeSet<MemberId>,
    pub outgoing: BTreeSet<MemberId>,
    pub learners: BTreeSet<MemberId>,
    /// Where each member, voter or learner, is reached by its peers.
    pub peer_urls: BTreeMap<MemberId, Vec<String>>,
}

impl Configuration {
    /// Whether its vote counts, in either half of a joint configuration.
    #[must_use]
    pub fn is_voter(&self, member: MemberId) -> bool {
        self.voters.contains(&member) || self.outgoing.contains(&member)
    }

    /// Whether it votes or learns.
    #[must_use]
    pub fn contains(&self, member: MemberId) -> bool {
        self.is_voter(member) || self.learners.contains(&member)
    }

    /// Voters of both halves and learners, each once, in the order of their ids.
    #[must_use]
    pub fn members(&self) -> Vec<MemberId> {
        let mut members: Vec<_> = self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied().collect();
        members.sort_unstable();
        members.dedup();
        members
    }
}

impl Display for Entry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id)?;
        if matches!(self.payload, Payload::Configuration { .. }) {
            write!(f, ":configuration")?;
        }
        match self.payload.request() {
            Some(RequestId { member, sequence, .. }) => write!(f, ":n{member}#{sequence}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_listed_once() {
        let ids = |ids: &[u64]| ids.iter().copied().map(MemberId).collect();
        let joint = Configuration { voters: ids(&[1, 2]), outgoing: ids(&[2, 3]), learners: ids(&[9]), ..Configuration::default() };
        assert_eq!(joint.members(), [1, 2, 3, 9].map(MemberId));
        assert!(joint.is_voter(MemberId(3)) && !joint.is_voter(MemberId(9)) && joint.contains(MemberId(9)));
    }
}
