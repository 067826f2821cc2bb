//! Inputs, effects and messages in protocol notation: one line each, as traces, logs and the console show them.

use super::{Entry, Envelope, ForwardRefusal, Message, Payload, Role};
use crate::effect::{ConsensusEffect, ConsensusInput};
use core::fmt::{self, Display, Formatter};

/// Entries or ids that a line shows in full; of more it shows the ends.
const LISTED_MAX: usize = 8;

/// `[a b c]`, or `[a .. z (n)]` if they are many.
struct List<'a, T>(&'a [T]);

impl<T: Display> Display for List<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            [first, .., last] if self.0.len() > LISTED_MAX => write!(f, "[{first} .. {last} ({})]", self.0.len()),
            items => {
                write!(f, "[")?;
                for (position, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if position == 0 { "" } else { " " })?;
                }
                write!(f, "]")
            }
        }
    }
}

impl Display for Role {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        })
    }
}

impl Display for Entry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.payload {
            Payload::Empty => write!(f, "{}", self.id),
            Payload::Command { request, .. } => write!(f, "{}:n{}#{}", self.id, request.member, request.sequence),
            Payload::Configuration(_) => write!(f, "{}:configuration", self.id),
        }
    }
}

impl Display for ForwardRefusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotLeader => "not leader",
            Self::TooMany => "too many",
        })
    }
}

impl Display for Envelope {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { from, to, term, message } = self;
        write!(f, "n{from} → n{to} ")?;
        match message {
            Message::PreVote { end } => write!(f, "PreVote@{term} end={end}"),
            Message::PreVoteReply { granted } => write!(f, "PreVoteReply@{term} granted={granted}"),
            Message::RequestVote { end, transfer } => {
                write!(f, "RequestVote@{term} end={end}{}", if *transfer { " transfer" } else { "" })
            }
            Message::Vote { granted } => write!(f, "Vote@{term} granted={granted}"),
            Message::Append { previous, entries, commit, round } => {
                write!(f, "Append@{term} after={previous} {} commit={commit} round={round}", List(entries))
            }
            Message::Appended { matched, round } => write!(f, "Appended@{term} matched={matched} round={round}"),
            Message::AppendRejected { previous, hint, .. } => write!(f, "AppendRejected@{term} after={previous} hint={hint}"),
            Message::Heartbeat { commit, round, .. } => write!(f, "Heartbeat@{term} commit={commit} round={round}"),
            Message::HeartbeatReply { round } => write!(f, "HeartbeatReply@{term} round={round}"),
            Message::Forward(proposals) => {
                write!(f, "Forward@{term} {}", List(&proposals.iter().map(|p| p.request).collect::<alloc::vec::Vec<_>>()))
            }
            Message::ForwardRefused { requests, refusal } => write!(f, "ForwardRefused@{term} {} {refusal}", List(requests)),
            Message::ReadIndex(reads) => write!(f, "ReadIndex@{term} {}", List(reads)),
            Message::ReadIndexReply { reads, index } => write!(f, "ReadIndexReply@{term} {} index={index}", List(reads)),
            Message::ReadIndexRefused { reads } => write!(f, "ReadIndexRefused@{term} {}", List(reads)),
            Message::TimeoutNow => write!(f, "TimeoutNow@{term}"),
        }
    }
}

impl Display for ConsensusInput {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wake => write!(f, "wake"),
            Self::Receive(envelope) => write!(f, "{envelope}"),
            Self::PeerClosed(peer) => write!(f, "connection from n{peer} closed"),
            Self::Propose(proposals) => {
                write!(f, "propose {}", List(&proposals.iter().map(|p| p.request).collect::<alloc::vec::Vec<_>>()))
            }
            Self::Read(read) => write!(f, "read {read}"),
            Self::Durable(number) => write!(f, "durable {number}"),
            Self::LogRead { segment, bytes, .. } => write!(f, "log read from segment {segment}, {} bytes", bytes.len()),
            Self::Applied(index) => write!(f, "applied {index}"),
            Self::StateSynced(index) => write!(f, "state synced {index}"),
            Self::DiskFailed => write!(f, "disk failed"),
            Self::Transfer(target) => write!(f, "transfer to n{target}"),
        }
    }
}

/// `|` in front of a message: the disk still holds it back.
impl Display for ConsensusEffect {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { number, then, .. } if then.is_empty() => write!(f, "write {number}"),
            Self::Write { number, then, .. } => {
                write!(f, "write {number}, then")?;
                then.iter().try_for_each(|envelope| write!(f, "\n| {envelope}"))
            }
            Self::Prepare { segment, .. } => write!(f, "prepare segment {segment}"),
            Self::Send(envelope) => write!(f, "{envelope}"),
            Self::ReadLog { segment, .. } => write!(f, "read log in segment {segment}"),
            Self::Committed(entries) => write!(f, "committed {}", List(entries)),
            Self::ReadReady(read, index) => write!(f, "read {read} ready at {index}"),
            Self::RefuseRead(read, refusal) => write!(f, "refuse read {read}: {refusal:?}"),
            Self::Refuse(request, refusal) => write!(f, "refuse {request}: {refusal:?}"),
            Self::RoleChanged { term, role, leader: Some(leader) } if *role == Role::Follower => {
                write!(f, "became follower(n{leader})@{term}")
            }
            Self::RoleChanged { term, role, .. } => write!(f, "became {role}@{term}"),
            Self::Distrust { peer, reason } => write!(f, "distrust n{peer}: {reason}"),
        }
    }
}
