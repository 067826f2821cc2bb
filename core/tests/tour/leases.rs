//! What the log half of a member says of leases to its clients and to other members.

use crate::member::{ELECTION_TIMEOUT, Member, refusals};
use quorate_core::command::{Command, Refusal};
use quorate_core::consensus::{Envelope, LeaseMessage, Message, Payload, RaftMessage};
use quorate_core::lease::{Lease, LeaseCall, LeaseChange, LeaseLimits, LeaseTime};
use quorate_core::machine::decode_command;
use quorate_core::member::{Answer, Body, LogEffect, LogInput, MemberLimits, MemberSettings, Order, Report, Ticket};
use quorate_core::types::{Boot, LeaseId, LogId, LogIndex, MemberId, ReadId, Term};
use std::time::Duration;

const LEASE: LeaseId = LeaseId(7);
const TTL: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(100);

fn keep_alive() -> Body {
    Body::Lease(LeaseCall::KeepAlive(LEASE))
}

fn whole() -> Option<LeaseTime> {
    Some(LeaseTime { ttl_s: 5, remaining_s: 5 })
}

/// An attempt of member 2.
fn theirs(sequence: u64) -> ReadId {
    ReadId { member: MemberId(2), boot: Boot(1), sequence }
}

fn said(effects: &[LogEffect]) -> Vec<LeaseMessage> {
    let said = |effect: &LogEffect| match effect {
        LogEffect::Send(Envelope { to: MemberId(2), message: Message::Lease(message), .. }) => Some(message.clone()),
        _ => None,
    };
    effects.iter().filter_map(said).collect()
}

fn answers(effects: &[LogEffect]) -> Vec<(Ticket, Option<LeaseTime>)> {
    let answered = |effect: &LogEffect| match effect {
        LogEffect::Answer(ticket, Ok(Answer::Lease(time))) => Some((*ticket, *time)),
        _ => None,
    };
    effects.iter().filter_map(answered).collect()
}

/// The calls that member 2 is asked to answer.
fn asked(effects: &[LogEffect]) -> Vec<(ReadId, LeaseCall)> {
    said(effects).into_iter().flat_map(|message| if let LeaseMessage::Request(calls) = message { calls } else { vec![] }).collect()
}

/// Member 1 leads, and has applied its own first entry and a lease.
fn leading(settings: MemberSettings) -> Member {
    let mut member = Member::starting(settings);
    member.durable();
    member.pass(2 * ELECTION_TIMEOUT);
    member.receive(Message::Raft(RaftMessage::PreVoteReply { granted: true }));
    member.durable();
    member.receive(Message::Raft(RaftMessage::Vote { granted: true }));
    member.durable();
    member.receive(Message::Raft(RaftMessage::Appended { matched: LogIndex(4), round: 0 }));
    assert_eq!(member.half.status().committed, LogIndex(4), "it leads");
    applied(&mut member, vec![LeaseChange::Is(LEASE, Lease { ttl_s: 5, granted: LogIndex(3), remaining_s: None })], 4);
    member.look();
    member
}

/// The state half says what it has applied.
fn applied(member: &mut Member, changes: Vec<LeaseChange>, index: u64) {
    member.step(LogInput::State(Report::Leases(changes)));
    member.step(LogInput::State(Report::Applied { index: LogIndex(index), stored_bytes: 0, no_space: false }));
}

fn confirm(member: &mut Member, round: u64) {
    member.receive(Message::Raft(RaftMessage::HeartbeatReply { round }));
}

/// The leader's own entries about leases, from the log.
fn appended(member: &Member, index: u64) -> Option<Command> {
    let entry = member.half.consensus().entry(LogIndex(index))?;
    let Payload::Command { command, .. } = &entry.payload else { return None };
    Some(decode_command(command).unwrap())
}

#[test]
fn a_keepalive_at_a_follower_goes_to_the_leader_and_unanswered_is_asked_again_under_another_id() {
    let mut member = Member::following(MemberSettings::default());
    let ticket = member.ask(keep_alive(), None);
    let first = asked(&member.look());
    member.pass(MemberLimits::default().read_retry);
    member.hear_leader();
    let second = asked(&member.look());
    assert_eq!([first.len(), second.len()], [1, 1]);
    assert_ne!(first, second);
    member.receive(Message::Lease(LeaseMessage::Reply(vec![(first[0].0, whole())])));
    assert_eq!(answers(&member.look()), [], "nobody waits for it any more");
    member.receive(Message::Lease(LeaseMessage::Reply(vec![(second[0].0, whole())])));
    assert_eq!(answers(&member.look()), [(ticket, whole())]);
}

#[test]
fn a_keepalive_that_the_leader_refuses_is_asked_again_and_without_a_leader_it_times_out() {
    let mut member = Member::following(MemberSettings::default());
    let ticket = member.ask(keep_alive(), Some(ELECTION_TIMEOUT * 3));
    let first = asked(&member.look());
    member.receive(Message::Lease(LeaseMessage::Refused(vec![first[0].0])));
    member.pass(MemberLimits::default().read_pause);
    assert_eq!(asked(&member.look()).len(), 1);
    for _ in 0..40 {
        member.pass(ELECTION_TIMEOUT / 10);
    }
    assert_eq!(refusals(&member.look()), [(ticket, Refusal::TimedOut)]);
}

#[test]
fn a_keepalive_is_answered_once_a_quorum_has_confirmed_the_leader_and_no_sooner() {
    let mut member = leading(MemberSettings::default());
    let ticket = member.ask(keep_alive(), None);
    assert_eq!(answers(&member.look()), []);
    confirm(&mut member, 1);
    assert_eq!(answers(&member.look()), [(ticket, whole())]);
}

#[test]
fn calls_that_come_together_share_one_round_and_go_back_to_who_asked() {
    let mut member = leading(MemberSettings::default());
    let gone = LeaseId(99);
    let calls = vec![(theirs(1), LeaseCall::KeepAlive(LEASE)), (theirs(2), LeaseCall::TimeToLive(gone))];
    member.receive(Message::Lease(LeaseMessage::Request(calls)));
    assert_eq!(said(&member.look()), []);
    confirm(&mut member, 1);
    assert_eq!(said(&member.look()), [LeaseMessage::Reply(vec![(theirs(1), whole()), (theirs(2), None)])]);
}

#[test]
fn keepalives_above_their_number_are_refused_and_asked_again() {
    let leases = LeaseLimits { calls: 2, ..LeaseLimits::default() };
    let mut member = leading(MemberSettings { leases, ..MemberSettings::default() });
    let calls = |ids: &[u64]| ids.iter().map(|id| (theirs(*id), LeaseCall::KeepAlive(LEASE))).collect();
    member.receive(Message::Lease(LeaseMessage::Request(calls(&[1, 2]))));
    member.receive(Message::Lease(LeaseMessage::Request(calls(&[3]))));
    assert_eq!(said(&member.look()), [LeaseMessage::Refused(vec![theirs(3)])]);
    confirm(&mut member, 1);
    assert_eq!(said(&member.look()).len(), 1);
    member.receive(Message::Lease(LeaseMessage::Request(calls(&[3]))));
    confirm(&mut member, 2);
    assert_eq!(said(&member.look()), [LeaseMessage::Reply(vec![(theirs(3), whole())])]);
}

#[test]
fn a_keepalive_sees_all_that_was_committed_when_it_came() {
    let mut member = leading(MemberSettings::default());
    // Something is committed that the state half has not applied: it may be the end of the lease.
    let ticket = member.ask(crate::member::put(), None);
    member.durable();
    member.receive(Message::Raft(RaftMessage::Appended { matched: LogIndex(5), round: 0 }));
    let kept = member.ask(keep_alive(), None);
    member.look();
    confirm(&mut member, 1);
    let effects = member.look();
    assert_eq!(answers(&effects), [], "{ticket} may have ended it");
    assert!(effects.contains(&LogEffect::State(Order::Tell { index: LogIndex(5) })));
    applied(&mut member, vec![LeaseChange::Ended(LEASE)], 5);
    assert_eq!(answers(&member.look()), [(kept, None)]);
}

#[test]
fn the_leader_alone_appends_that_the_time_of_a_lease_is_over() {
    let mut member = leading(MemberSettings::default());
    let mut pass = |time: Duration| {
        for _ in 0..(time.as_millis() / STEP.as_millis()) {
            member.receive(Message::Raft(RaftMessage::HeartbeatReply { round: 0 }));
            member.pass(STEP);
            // A leader whose disk does not answer would hand over.
            member.durable();
        }
        appended(&member, 5)
    };
    assert_eq!(pass(TTL - STEP), None, "its time is not over");
    let expired = pass(STEP);
    let Some(Command::LeaseExpire(expire)) = expired else { panic!("{expired:?}") };
    assert_eq!((expire.lease, expire.granted, expire.term.0), (LEASE, LogIndex(3), 2));

    let mut follower = Member::following(MemberSettings::default());
    follower
        .step(LogInput::State(Report::Leases(vec![LeaseChange::Is(LEASE, Lease { ttl_s: 1, granted: LogIndex(3), remaining_s: None })])));
    for _ in 0..30 {
        follower.hear_leader();
        follower.pass(ELECTION_TIMEOUT / 10);
    }
    assert_eq!(follower.half.consensus().last(), LogId { term: Term(1), index: LogIndex(3) });
}

#[test]
fn whoever_waits_at_a_leader_that_is_deposed_is_told_to_ask_again() {
    let mut member = leading(MemberSettings::default());
    member.receive(Message::Lease(LeaseMessage::Request(vec![(theirs(1), LeaseCall::KeepAlive(LEASE))])));
    let ticket = member.ask(keep_alive(), None);
    member.look();
    let heartbeat = RaftMessage::Heartbeat { commit: LogIndex(0), round: 0, replicated: LogIndex(0) };
    let term = Term(3);
    member.step(LogInput::Peer(Envelope { from: MemberId(2), to: MemberId(1), term, message: Message::Raft(heartbeat) }));
    member.pass(MemberLimits::default().read_pause);
    let effects = member.look();
    assert!(said(&effects).contains(&LeaseMessage::Refused(vec![theirs(1)])), "{effects:?}");
    assert_eq!(asked(&effects).len(), 1, "and {ticket} is asked of the new leader");
}
