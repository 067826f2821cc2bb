//! Inputs, effects and messages in protocol notation: one line each, as traces, logs and the console show them.

use super::{
    ConsensusEffect, ConsensusInput, Envelope, ForwardMessage, ForwardRefusal, Installable, LeaseMessage, Message, Position, RaftMessage,
    ReadMessage, Role, SnapshotMessage,
};
use crate::types::Term;
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
            Message::Raft(message) => message.fmt_at(*term, f),
            Message::Read(ReadMessage::Request(reads)) => write!(f, "ReadIndex@{term} {}", List(reads)),
            Message::Read(ReadMessage::Reply { reads, index }) => write!(f, "ReadIndexReply@{term} {} index={index}", List(reads)),
            Message::Read(ReadMessage::Refused { reads }) => write!(f, "ReadIndexRefused@{term} {}", List(reads)),
            Message::Forward(ForwardMessage::Request(proposals)) => {
                write!(f, "Forward@{term} {}", List(&proposals.iter().map(|p| p.request).collect::<alloc::vec::Vec<_>>()))
            }
            Message::Lease(LeaseMessage::Request(calls)) => {
                write!(f, "Lease@{term}")?;
                calls.iter().try_for_each(|(id, call)| write!(f, " [{id} {call}]"))
            }
            Message::Lease(LeaseMessage::Reply(answers)) => {
                write!(f, "LeaseReply@{term}")?;
                answers.iter().try_for_each(|(id, time)| match time {
                    Some(time) => write!(f, " [{id} {time}]"),
                    None => write!(f, " [{id} no such lease]"),
                })
            }
            Message::Lease(LeaseMessage::Refused(ids)) => write!(f, "LeaseRefused@{term} {}", List(ids)),
            Message::Forward(ForwardMessage::Refused { requests, refusal }) => {
                write!(f, "ForwardRefused@{term} {} {refusal}", List(requests))
            }
            Message::Snapshot(SnapshotMessage::Offer(snapshot)) => {
                write!(f, "Offer@{term} snapshot={} through={} revision={}", snapshot.id.number, snapshot.last, snapshot.revision)
            }
            Message::Snapshot(SnapshotMessage::Fetch { snapshot, after: None }) => write!(f, "Fetch@{term} snapshot={}", snapshot.number),
            Message::Snapshot(SnapshotMessage::Fetch { snapshot, after: Some(Position { table, key }) }) => {
                write!(f, "Fetch@{term} snapshot={} after={table:?}/{}", snapshot.number, key.escape_ascii())
            }
            Message::Snapshot(SnapshotMessage::Chunk { snapshot, chunk }) => {
                write!(f, "Chunk@{term} snapshot={} of {} bytes", snapshot.number, chunk.body.len())
            }
            Message::Snapshot(SnapshotMessage::Over { snapshot }) => write!(f, "Over@{term} snapshot={}", snapshot.number),
            Message::Snapshot(SnapshotMessage::Gone { snapshot }) => write!(f, "Gone@{term} snapshot={}", snapshot.number),
        }
    }
}

impl RaftMessage {
    fn fmt_at(&self, term: Term, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::PreVote { end } => write!(f, "PreVote@{term} end={end}"),
            Self::PreVoteReply { granted } => write!(f, "PreVoteReply@{term} granted={granted}"),
            Self::RequestVote { end, transfer } => {
                write!(f, "RequestVote@{term} end={end}{}", if *transfer { " transfer" } else { "" })
            }
            Self::Vote { granted } => write!(f, "Vote@{term} granted={granted}"),
            Self::Append { previous, entries, commit, round } => {
                write!(f, "Append@{term} after={previous} {} commit={commit} round={round}", List(entries))
            }
            Self::Appended { matched, round } => write!(f, "Appended@{term} matched={matched} round={round}"),
            Self::AppendRejected { previous, hint, .. } => write!(f, "AppendRejected@{term} after={previous} hint={hint}"),
            Self::Heartbeat { commit, round, .. } => write!(f, "Heartbeat@{term} commit={commit} round={round}"),
            Self::HeartbeatReply { round } => write!(f, "HeartbeatReply@{term} round={round}"),
            Self::TimeoutNow => write!(f, "TimeoutNow@{term}"),
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
            Self::SnapshotEnded(peer) => write!(f, "snapshot to n{peer} ended"),
            Self::Install(Installable { last, state, .. }) => write!(f, "install state {state} through {last}"),
            Self::DiskFailed => write!(f, "disk failed"),
            Self::Transfer(target) => write!(f, "transfer to n{target}"),
            Self::Lease { to, .. } => write!(f, "tell n{to} about leases"),
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
            Self::SendSnapshot { to, first } => write!(f, "send n{to} a snapshot for a log from {first} on"),
            Self::StopSnapshot(to) => write!(f, "send n{to} no snapshot"),
            Self::Snapshot { from, message } => write!(f, "from n{from}: {message:?}"),
            Self::Install(last) => write!(f, "install through {last}"),
            Self::NotInstalled => write!(f, "not installed"),
            Self::ReadReady(read, index) => write!(f, "read {read} ready at {index}"),
            Self::RefuseRead(read, refusal) => write!(f, "refuse read {read}: {refusal:?}"),
            Self::Refuse(request, refusal) => write!(f, "refuse {request}: {refusal:?}"),
            Self::RoleChanged { term, role, leader: Some(leader) } if *role == Role::Follower => {
                write!(f, "became follower(n{leader})@{term}")
            }
            Self::RoleChanged { term, role, .. } => write!(f, "became {role}@{term}"),
            Self::Lease { from, .. } => write!(f, "n{from} says something about leases"),
            Self::Distrust { peer, reason } => write!(f, "distrust n{peer}: {reason}"),
        }
    }
}
