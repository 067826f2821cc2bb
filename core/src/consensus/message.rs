//! What members say to each other, and what they agree on: entries, configurations, messages.

use crate::effect::Proposal;
use crate::types::{LogId, LogIndex, MemberId, ReadId, RequestId, Term};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};
use bytes::Bytes;
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
    Configuration(Configuration),
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

/// A message with its way. `term` is the sender's, except in pre-votes, where it is the term asked about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Envelope {
    pub from: MemberId,
    pub to: MemberId,
    pub term: Term,
    pub message: Message,
}

/// Append-only: variant numbers are on the wire.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Message {
    /// Would you vote for me in this term? Changes nothing at either end (Raft thesis §9.6).
    PreVote {
        end: LogId,
    },
    PreVoteReply {
        granted: bool,
    },
    /// `transfer`: the leader itself asked for this campaign, so its followers' stickiness does not stand in the way.
    RequestVote {
        end: LogId,
        transfer: bool,
    },
    Vote {
        granted: bool,
    },
    /// Entries after `previous`. `round` is the newest read round the sender had begun when this left.
    Append {
        previous: LogId,
        entries: Vec<Entry>,
        commit: LogIndex,
        round: u64,
    },
    /// The sender's log agrees with the leader's, durably, through `matched`.
    Appended {
        matched: LogIndex,
        round: u64,
    },
    /// `previous` did not match: try again from `hint`, the sender's guess at the last agreeing entry.
    AppendRejected {
        previous: LogId,
        hint: LogId,
        round: u64,
    },
    /// `commit` is never above what the receiver acknowledged. `replicated`: every member's log agrees durably through here, so
    /// nobody needs the log before it from anyone.
    Heartbeat {
        commit: LogIndex,
        round: u64,
        replicated: LogIndex,
    },
    HeartbeatReply {
        round: u64,
    },
    /// Proposals taken by a follower. Only the leader of the envelope's term appends them, each once.
    Forward(Vec<Proposal>),
    /// The leader did not append these, and says why.
    ForwardRefused {
        requests: Vec<RequestId>,
        refusal: ForwardRefusal,
    },
    /// Reads taken by a follower, each with a new id.
    ReadIndex(Vec<ReadId>),
    ReadIndexReply {
        reads: Vec<ReadId>,
        index: LogIndex,
    },
    ReadIndexRefused {
        reads: Vec<ReadId>,
    },
    /// Campaign now (leadership transfer, Raft thesis §3.10).
    TimeoutNow,
}

impl Message {
    /// The highest index of the log that this speaks of; 0 if it speaks of none.
    pub(super) fn highest_index(&self) -> LogIndex {
        match self {
            Self::PreVote { end } | Self::RequestVote { end, .. } => end.index,
            Self::Append { previous, entries, commit, .. } => {
                LogIndex(previous.index.0.saturating_add(entries.len() as u64)).max(*commit)
            }
            Self::Appended { matched, .. } => *matched,
            Self::AppendRejected { previous, hint, .. } => previous.index.max(hint.index),
            Self::Heartbeat { commit, replicated, .. } => (*commit).max(*replicated),
            Self::ReadIndexReply { index, .. } => *index,
            Self::PreVoteReply { .. }
            | Self::Vote { .. }
            | Self::HeartbeatReply { .. }
            | Self::Forward(_)
            | Self::ForwardRefused { .. }
            | Self::ReadIndex(_)
            | Self::ReadIndexRefused { .. }
            | Self::TimeoutNow => LogIndex(0),
        }
    }
}

/// Why a leader did not take a forwarded proposal. Nothing was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ForwardRefusal {
    NotLeader,
    TooMany,
}

/// A member's part in its term.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Role {
    Follower,
    PreCandidate,
    Candidate,
    Leader,
}
