//! What a client asks of a member, and the part of taking it that costs in proportion to it: done by the caller, before the member.

use crate::command::walk::{Branches, Visitor, walk};
use crate::command::{Command, Op, Put, Refusal, Reply, Txn};
use crate::lease::{LeaseCall, LeaseTime};
use crate::machine::encode_command;
use crate::mvcc::View;
use crate::storage::StateReader;
use crate::types::{MemberId, Monotonic};
use crate::v2;
use alloc::vec::Vec;
use bytes::Bytes;
use core::{convert::Infallible, fmt};

/// Names a request for its host, in one life of the member. The host gives them, each once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct Request {
    pub ticket: Ticket,
    /// The caller gives up here; [`super::MemberSettings::request_timeout`] applies as well.
    pub deadline: Option<Monotonic>,
    /// Refused at once if no leader is known (`hasleader`).
    pub require_leader: bool,
    pub body: Body,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Body {
    Propose(Prepared),
    /// A linearizable read (ReadIndex). Answered by [`Answer::Ready`].
    Read,
    /// Answered by [`Answer::Lease`].
    Lease(LeaseCall),
    /// Hand leadership to that member; answered once it leads. Refused unless this member leads.
    Transfer(MemberId),
    /// This member is about to stop: if it leads, hand leadership to whoever is best prepared. Answered once another leads.
    HandOver,
}

/// What a ticket is answered with.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// From this member's own apply.
    Reply(Reply),
    /// The read may be served from the view published last, or any later one.
    Ready,
    /// What the leader's lease clock says, after a keepalive its whole time; `None`: there is no such lease.
    Lease(Option<LeaseTime>),
    /// Another member leads, as was asked for.
    Transferred,
}

impl Answer {
    /// Of a proposal.
    ///
    /// # Panics
    /// If it answers something else.
    #[must_use]
    pub fn into_reply(self) -> Reply {
        match self {
            Self::Reply(reply) => reply,
            Self::Ready | Self::Lease(_) | Self::Transferred => panic!("a proposal is answered by its reply, not by {self:?}"),
        }
    }
}

impl Answer {
    /// Of a call to the lease clock.
    ///
    /// # Panics
    /// If it answers something else.
    #[must_use]
    pub fn into_lease_time(self) -> Option<LeaseTime> {
        match self {
            Self::Lease(time) => time,
            other => panic!("a lease clock is not answered by {other:?}"),
        }
    }
}

/// A command ready to be proposed: encoded once, and measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepared {
    /// [`Command`] in a frame, see [`encode_command`].
    pub command: Bytes,
    /// Bytes that it may add to the state store; 0: it adds none, so no quota forbids it.
    pub growth_bytes: u64,
}

/// The longest encoded command that every member can receive from another, whatever its own flags say.
pub const COMMAND_BYTES: usize = 240 << 20;

/// All that comes before the member is asked to carry out a command: [`View::check_cost`] in the state published last, and
/// [`prepare`].
///
/// # Errors
/// What either refuses.
pub fn admit<R: StateReader>(
    view: &View<R>,
    member: MemberId,
    command: &Command,
    request_bytes: usize,
    request_bytes_max: usize,
) -> Result<Prepared, Refusal> {
    view.check_cost(command)?;
    prepare(member, command, request_bytes, request_bytes_max)
}

/// Encodes and measures a command whose shape was checked by [`crate::command::validate`].
///
/// `request_bytes` is the request as a protobuf message; above `request_bytes_max`, counted as etcd counts it, it is refused.
///
/// # Errors
/// [`Refusal::RequestTooLarge`].
pub fn prepare(member: MemberId, command: &Command, request_bytes: usize, request_bytes_max: usize) -> Result<Prepared, Refusal> {
    if raft_request_bytes(member, request_bytes) > request_bytes_max {
        return Err(Refusal::RequestTooLarge);
    }
    let prepared = Prepared { command: encode_command(command), growth_bytes: growth_bytes(command) };
    if prepared.command.len() > COMMAND_BYTES { Err(Refusal::RequestTooLarge) } else { Ok(prepared) }
}

/// What `--max-request-bytes` is compared with: the bytes of the message that etcd's log would hold for a request, which wraps it
/// in one field and adds a header with an id. The id begins with the low 16 bits of the member's; its length is that of its value.
#[must_use]
pub fn raft_request_bytes(member: MemberId, request_bytes: usize) -> usize {
    const TAG: usize = 1;
    const HEADER_TAG: usize = 2;
    let id = member.0 << 48 | 1 << 47;
    let id_field = TAG + varint_bytes(id);
    let header = HEADER_TAG + varint_bytes(id_field as u64) + id_field;
    header + TAG + varint_bytes(request_bytes as u64) + request_bytes
}

/// Bytes of a number as protobuf writes it: seven bits a byte.
fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Bytes that a command may add to the store, about as etcd counts them; of a txn, those of the branch that adds more.
fn growth_bytes(command: &Command) -> u64 {
    const LEASE: u64 = 64;
    match command {
        Command::Put(put) => put_bytes(put),
        Command::Txn(txn) => {
            let mut growth = Growth::default();
            let Ok(()) = walk(txn, &mut growth);
            growth.whole
        }
        Command::V2(request) => v2_bytes(request),
        Command::LeaseGrant(_) => LEASE,
        Command::LeaseRevoke(_) | Command::LeaseExpire(_) | Command::LeaseCheckpoint(_) => 0,
        Command::DeleteRange(_) | Command::Compact(_) | Command::Alarm(_) | Command::Publish(_) => 0,
    }
}

/// A node, and the event that tells of it.
fn v2_bytes(request: &v2::Request) -> u64 {
    const ROWS: u64 = 192;
    match &request.change {
        v2::Change::Write(write) => ROWS + 2 * (request.path.as_str().len() + write.value.len()) as u64,
        v2::Change::Delete(_) | v2::Change::Expire => 0,
    }
}

fn put_bytes(put: &Put) -> u64 {
    const ROW: u64 = 48;
    ROW + (put.key.len() + put.value.len()) as u64
}

#[derive(Default)]
struct Growth {
    /// Of each open txn, innermost last: what the branch being walked adds, and what the other one did.
    open: Vec<(u64, u64)>,
    whole: u64,
}

impl Growth {
    fn innermost(&mut self) -> &mut (u64, u64) {
        self.open.last_mut().expect("ops are met in an open txn")
    }
}

impl Visitor<'_> for Growth {
    type Error = Infallible;

    fn enter(&mut self, _: &Txn) -> Result<Branches, Infallible> {
        self.open.push((0, 0));
        Ok(Branches::Both)
    }

    fn turn(&mut self) -> Result<(), Infallible> {
        let (walked, other) = self.innermost();
        core::mem::swap(walked, other);
        Ok(())
    }

    fn op(&mut self, op: &Op) -> Result<(), Infallible> {
        if let Op::Put(put) = op {
            self.innermost().0 += put_bytes(put);
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Infallible> {
        let (walked, other) = self.open.pop().expect("an open txn ends");
        let larger = walked.max(other);
        match self.open.last_mut() {
            Some((outer, _)) => *outer += larger,
            None => self.whole = larger,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// etcd 3.7.1 with default limits takes these and refuses a byte more; measured.
    #[test]
    fn the_largest_request_is_that_of_etcd_to_the_byte() {
        let put_of_k = |value: usize| 7 + value;
        for (member, value) in [(0x5663_7616_80a7_c179, 1_572_839), (0xe35e_bf91_6691_774e, 1_572_840), (0x31ac_3508_ac80_2ae6, 1_572_840)]
        {
            assert_eq!(raft_request_bytes(MemberId(member), put_of_k(value)), 1_572_864, "member {member:x}");
        }
    }

    #[test]
    fn a_txn_grows_the_store_by_the_larger_branch_of_each_that_is_in_it() {
        let put = |value: usize| Op::Put(Put { key: "k".into(), value: alloc::vec![0; value].into(), ..Put::default() });
        let txn = |success, failure| Txn { success, failure, ..Txn::default() };
        let inner = || Op::Txn(txn(alloc::vec![put(50)], alloc::vec![put(10), put(10)]));
        let outer = |more| Command::Txn(txn(alloc::vec![inner(), put(1)], alloc::vec![put(more), inner()]));
        let of = |values: &[usize]| values.iter().map(|value| 48 + 1 + *value as u64).sum::<u64>();
        assert_eq!(growth_bytes(&outer(0)), of(&[10, 10, 1]));
        assert_eq!(growth_bytes(&outer(2)), of(&[2, 10, 10]));
        assert_eq!(growth_bytes(&Command::Txn(Txn::default())), 0);
    }

    #[test]
    fn a_varint_has_seven_bits_a_byte() {
        for (value, bytes) in [(0, 1), (1, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (u64::MAX, 10)] {
            assert_eq!(varint_bytes(value), bytes, "{value}");
        }
    }
}
