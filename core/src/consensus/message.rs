//! What members say to each other, one enum for each concern. All of them are append-only: variant numbers are on the wire.

use super::{Proposal, SnapshotMessage};
use crate::entry::Entry;
use crate::lease::{LeaseCall, LeaseTime};
use crate::types::{LogId, LogIndex, MemberId, ReadId, RequestId, Term};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A message with its way. `term` is the sender's, except in pre-votes, where it is the term asked about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Envelope {
    pub from: MemberId,
    pub to: MemberId,
    pub term: Term,
    pub message: Message,
}

/// The concerns. A new one is a variant more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Message {
    Raft(RaftMessage),
    Read(ReadMessage),
    Forward(ForwardMessage),
    Lease(LeaseMessage),
    Snapshot(SnapshotMessage),
}

/// Elections and replication.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RaftMessage {
    /// Would you vote for me in this term? Changes nothing at either end (Raft thesis §9.6).
    PreVote {
        end: LogId,
    },
    PreVoteReply {
        granted: bool,
    },
    /// `transfer`: the leader itself asked for this campaign, so that it lives does not stand in the way.
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
    /// `commit` is never above what the receiver acknowledged. `replicated`: every member that the sender hears agrees durably
    /// through here, so none of them needs the log before it from anyone.
    Heartbeat {
        commit: LogIndex,
        round: u64,
        replicated: LogIndex,
    },
    HeartbeatReply {
        round: u64,
    },
    /// Campaign now (leadership transfer, Raft thesis §3.10).
    TimeoutNow,
}

/// Linearizable reads that a follower took (ReadIndex, Raft thesis §6.4).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ReadMessage {
    /// Each with a new id.
    Request(Vec<ReadId>),
    Reply {
        reads: Vec<ReadId>,
        index: LogIndex,
    },
    Refused {
        reads: Vec<ReadId>,
    },
}

/// Proposals that a follower took.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ForwardMessage {
    /// Only the leader of the envelope's term appends them, each once.
    Request(Vec<Proposal>),
    /// The leader did not append these, and says why.
    Refused { requests: Vec<RequestId>, refusal: ForwardRefusal },
}

/// What only the leader's lease clock can answer, asked by another member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LeaseMessage {
    /// Each with a new id, which no read has either.
    Request(Vec<(ReadId, LeaseCall)>),
    /// `None`: there is no such lease.
    Reply(Vec<(ReadId, Option<LeaseTime>)>),
    Refused(Vec<ReadId>),
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

impl Message {
    /// The highest index of the log that this speaks of; 0 if it speaks of none.
    pub(super) fn highest_index(&self) -> LogIndex {
        match self {
            Self::Raft(message) => message.highest_index(),
            Self::Read(ReadMessage::Reply { index, .. }) => *index,
            Self::Snapshot(message) => message.highest_index(),
            Self::Read(ReadMessage::Request(_) | ReadMessage::Refused { .. }) | Self::Forward(_) | Self::Lease(_) => LogIndex(0),
        }
    }
}

impl RaftMessage {
    fn highest_index(&self) -> LogIndex {
        match self {
            Self::PreVote { end } | Self::RequestVote { end, .. } => end.index,
            Self::Append { previous, entries, commit, .. } => LogIndex(previous.index.0.saturating_add(entries.len() as u64)).max(*commit),
            Self::Appended { matched, .. } => *matched,
            Self::AppendRejected { previous, hint, .. } => previous.index.max(hint.index),
            Self::Heartbeat { commit, replicated, .. } => (*commit).max(*replicated),
            Self::PreVoteReply { .. } | Self::Vote { .. } | Self::HeartbeatReply { .. } | Self::TimeoutNow => LogIndex(0),
        }
    }
}

impl From<RaftMessage> for Message {
    fn from(message: RaftMessage) -> Self {
        Self::Raft(message)
    }
}
impl From<SnapshotMessage> for Message {
    fn from(message: SnapshotMessage) -> Self {
        Self::Snapshot(message)
    }
}
impl From<ReadMessage> for Message {
    fn from(message: ReadMessage) -> Self {
        Self::Read(message)
    }
}
impl From<ForwardMessage> for Message {
    fn from(message: ForwardMessage) -> Self {
        Self::Forward(message)
    }
}
impl From<LeaseMessage> for Message {
    fn from(message: LeaseMessage) -> Self {
        Self::Lease(message)
    }
}
