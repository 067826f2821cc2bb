//! Inputs and effects of both halves in protocol notation: one line each.

use super::log_half::{LogEffect, LogInput, Notice, WalDone, WalWork};
use super::orders::{Order, Owed, Report};
use super::request::{Answer, Body, Request, Ticket};
use super::snapshot::SnapshotNotice;
use super::state_half::{StateEffect, StateInput, StoreDone, StoreWork};
use crate::command::{OpReply, Refusal, Reply};
use crate::consensus::{Role, SnapshotMessage};
use crate::storage::StateReader;
use core::fmt::{self, Display, Formatter};

impl Display for Request {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.ticket)?;
        match &self.body {
            Body::Propose(prepared) => write!(f, "propose {} bytes", prepared.command.len()),
            Body::Read => write!(f, "read"),
            Body::Lease(call) => write!(f, "{call}"),
            Body::Transfer(target) => write!(f, "transfer to n{target}"),
            Body::HandOver => write!(f, "hand over"),
        }
    }
}

impl Display for LogInput {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(request) => write!(f, "client: {request}"),
            Self::Cancel(ticket) => write!(f, "client: {ticket} cancelled"),
            Self::Peer(envelope) => write!(f, "{envelope}"),
            Self::PeerClosed(peer) => write!(f, "connection from n{peer} closed"),
            Self::Banned(reason) => write!(f, "banned: {reason}"),
            Self::Wal(done) => write!(f, "wal: {done}"),
            Self::State(report) => write!(f, "state: {report}"),
            Self::Wake => write!(f, "wake"),
            Self::Stop => write!(f, "stop"),
        }
    }
}

impl Display for WalDone {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Durable(number) => write!(f, "durable {number}"),
            Self::Read { segment, bytes, .. } => write!(f, "read {} bytes of segment {segment}", bytes.len()),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

impl Display for LogEffect {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wal(work) => write!(f, "to wal: {work}"),
            Self::Send(envelope) => write!(f, "{envelope}"),
            Self::State(order) => write!(f, "to state: {order}"),
            Self::Answer(ticket, answer) => answered(f, *ticket, answer),
            Self::Connect(configuration) => write!(f, "connect to {} members", configuration.members().len()),
            Self::Notice(notice) => write!(f, "{notice}"),
            Self::Fatal(reason) => write!(f, "fatal: {reason}"),
        }
    }
}

impl Display for WalWork {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { number, .. } => write!(f, "write {number}"),
            Self::Prepare { segment, .. } => write!(f, "prepare segment {segment}"),
            Self::Read { segment, .. } => write!(f, "read segment {segment}"),
        }
    }
}

impl Display for Notice {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened => write!(f, "opened: this boot is durable"),
            Self::RoleChanged { term, role: Role::Follower, leader: Some(leader) } => write!(f, "became follower(n{leader})@{term}"),
            Self::RoleChanged { term, role, .. } => write!(f, "became {role}@{term}"),
            Self::Distrust { peer, reason } => write!(f, "distrust n{peer}: {reason}"),
            Self::NoLongerFresh => write!(f, "no longer fresh"),
            Self::BanIgnored(reason) => write!(f, "ban ignored: {reason}"),
            Self::HandingOver { to } => write!(f, "handing over to n{to}"),
            Self::QuotaExceeded { stored_bytes, quota_bytes } => write!(f, "quota exceeded: {stored_bytes} of {quota_bytes} bytes"),
        }
    }
}

impl Display for Order {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply { entries, owed } => {
                write!(f, "apply {}", entries.first().map_or_else(Default::default, |entry| entry.id))?;
                if entries.len() > 1 {
                    write!(f, " .. {} ({})", entries[entries.len() - 1].id, entries.len())?;
                }
                for Owed { ticket, .. } in owed {
                    write!(f, ", owed {ticket}")?;
                }
                Ok(())
            }
            Self::Serve { ticket, index, .. } => write!(f, "serve {ticket} at {index}"),
            Self::Tell { index } => write!(f, "tell when applied {index}"),
            Self::Durable { log, write } => write!(f, "log durable to {log} by write {write}"),
            Self::SendSnapshot { to, first } => write!(f, "send n{to} a snapshot for a log from {first} on"),
            Self::StopSnapshot(to) => write!(f, "send n{to} no snapshot"),
            Self::Snapshot { from, message } => write!(f, "from n{from}: {}", Said(message)),
            Self::Install(last) => write!(f, "install through {last}"),
            Self::NotInstalled => write!(f, "not installed"),
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied { index, no_space, .. } => write!(f, "applied {index}{}", if *no_space { " NOSPACE" } else { "" }),
            Self::Leases(changes) => {
                write!(f, "leases:")?;
                changes.iter().try_for_each(|change| write!(f, " {change}"))
            }
            Self::Synced(index) => write!(f, "synced {index}"),
            Self::V2End(Some(end)) => write!(f, "v2 node ends at {}ms", end.0),
            Self::V2End(None) => write!(f, "no v2 node ends"),
            Self::Say { to, message } => write!(f, "say to n{to}: {}", Said(message)),
            Self::SnapshotEnded(to) => write!(f, "snapshot to n{to} ended"),
            Self::Installable(installable) => write!(f, "installable through {} in state {}", installable.last, installable.state),
        }
    }
}

impl<R: StateReader> Display for StateInput<R> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(order) => write!(f, "log: {order}"),
            Self::Store(StoreDone::Persisted { number, .. }) => write!(f, "store: persisted {number}"),
            Self::Store(StoreDone::Retired { .. }) => write!(f, "store: retired"),
            Self::Store(StoreDone::Synced(number)) => write!(f, "store: synced {number}"),
            Self::Store(StoreDone::StateBegun { .. }) => write!(f, "store: state begun"),
            Self::Store(StoreDone::StateStored { .. }) => write!(f, "store: state stored"),
            Self::Store(StoreDone::StateFailed(reason)) => write!(f, "store: state failed: {reason}"),
            Self::Store(StoreDone::Switched) => write!(f, "store: switched"),
            Self::ChunkRead(read) => write!(f, "chunk read for n{}", read.to),
            Self::Store(StoreDone::Failed(reason)) => write!(f, "store: failed: {reason}"),
            Self::Work => write!(f, "work"),
            Self::Wake => write!(f, "wake"),
        }
    }
}

impl<R: StateReader> Display for StateEffect<R> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(work) => write!(f, "to store: {work}"),
            Self::Publish(view) => write!(f, "publish revision {} applied {}", view.revision(), view.applied()),
            Self::Answer(ticket, answer) => answered(f, *ticket, answer),
            Self::Log(report) => write!(f, "to log: {report}"),
            Self::ReadChunk(read) => write!(f, "read a chunk for n{}", read.to),
            Self::Snapshot(notice) => write!(f, "{notice}"),
            Self::Fatal(reason) => write!(f, "fatal: {reason}"),
        }
    }
}

impl Display for StoreWork {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Persist { number, applied, after, .. } => write!(f, "persist {number} applied {applied} after write {after}"),
            Self::Sync => write!(f, "sync"),
            Self::Retire { table, below } => write!(f, "retire {table:?} below {below}"),
            Self::BeginState { state, anew } => write!(f, "begin state {state}{}", if *anew { " anew" } else { "" }),
            Self::StoreRows { state, batch } => write!(f, "store {} rows of state {state}", batch.rows.len()),
            Self::SyncState { state } => write!(f, "sync state {state}"),
            Self::SwitchState { state } => write!(f, "switch to state {state}"),
            Self::DropState { state } => write!(f, "drop state {state}"),
        }
    }
}

/// What is said over a snapshot, without what it carries.
struct Said<'a>(&'a SnapshotMessage);

impl Display for Said<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            SnapshotMessage::Offer(snapshot) => write!(f, "offer through {}", snapshot.last),
            SnapshotMessage::Fetch { after: None, .. } => write!(f, "fetch"),
            SnapshotMessage::Fetch { after: Some(row), .. } => write!(f, "fetch after {:?}/{}", row.table, row.key.escape_ascii()),
            SnapshotMessage::Chunk { chunk, .. } => write!(f, "chunk of {} bytes", chunk.body.len()),
            SnapshotMessage::Over { .. } => write!(f, "over"),
            SnapshotMessage::Gone { .. } => write!(f, "gone"),
        }
    }
}

impl Display for SnapshotNotice {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sending { to, last } => write!(f, "snapshot through {last} for n{to}"),
            Self::SentChunk { to, bytes } => write!(f, "chunk of {bytes} bytes for n{to}"),
            Self::SendingEnded { to, over } => write!(f, "snapshot for n{to} {}", if *over { "over" } else { "given up" }),
            Self::Receiving { from, last, resumed } => {
                write!(f, "{} snapshot through {last} from n{from}", if *resumed { "resuming" } else { "receiving" })
            }
            Self::ReceivedChunk { bytes } => write!(f, "received {bytes} bytes"),
            Self::ReceivedBad { from, what } => write!(f, "bad snapshot from n{from}: {what}"),
            Self::NotStored { reason } => write!(f, "snapshot not stored: {reason}"),
            Self::NotNeeded { last } => write!(f, "snapshot through {last} not needed"),
            Self::Installed { last, state } => write!(f, "installed snapshot through {last} as state {state}"),
        }
    }
}

fn answered(f: &mut Formatter<'_>, ticket: Ticket, answer: &Result<Answer, Refusal>) -> fmt::Result {
    write!(f, "answer {ticket}: ")?;
    match answer {
        Ok(Answer::Reply(reply)) => write!(f, "{}", Short(reply)),
        Ok(Answer::Ready) => write!(f, "ready"),
        Ok(Answer::Lease(Some(time))) => write!(f, "{time}"),
        Ok(Answer::Lease(None)) => write!(f, "no such lease"),
        Ok(Answer::Transferred) => write!(f, "transferred"),
        Err(refusal) => write!(f, "{refusal:?}"),
    }
}

/// A reply without what it carries.
struct Short<'a>(&'a Reply);

impl Display for Short<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Reply::Put(reply) => write!(f, "put at revision {}", reply.revision),
            Reply::DeleteRange(reply) => write!(f, "{} deleted at revision {}", reply.deleted, reply.revision),
            Reply::Txn(reply) => {
                let writes = reply.responses.iter().filter(|op| !matches!(op, OpReply::Range(_))).count();
                write!(f, "txn succeeded={} with {writes} writes at revision {}", reply.succeeded, reply.revision)
            }
            Reply::Compact { revision } => write!(f, "compacted at revision {revision}"),
            Reply::Alarm { alarms, .. } => write!(f, "{} alarms", alarms.len()),
            Reply::Published | Reply::V2(_) | Reply::LeaseGranted { .. } | Reply::LeaseRevoked { .. } | Reply::LeaseClockHeard => {
                write!(f, "{}", self.0)
            }
        }
    }
}
