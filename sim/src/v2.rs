//! The v2 tree in the simulated world: clients that change it, read it and wait for it, and how members serve them.
//!
//! What they saw is judged apart from the v3 history, by [`judge`]: the same log replayed through the v2 model.

mod judge;

pub(crate) use judge::recorded;
pub use judge::{Recorded, judge};

use crate::chance::Chance;
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::convert::Served;
use crate::invariants::Checker;
use crate::member::Asked as AskedOfMember;
use crate::workload::{Answer, Ask, Port};
use crate::world::{Event, World};
use quorate_checker::history::OpId;
use quorate_core::command::{Command, Refusal, Reply};
use quorate_core::member::{Answer as MemberAnswer, Body, LogInput, Request as MemberRequest, Ticket, prepare};
use quorate_core::v2::{self, Change, Compare, Condition, Delete, Listing, NodePath, Request, WatchPoint, Write};
use std::collections::BTreeMap;

pub const V2_CLIENTS: u32 = 2;
/// Their names, apart from all others'.
const NAMES: u32 = 2_000;

#[derive(Clone, Debug)]
pub enum Asked {
    Change(Request),
    Get { path: NodePath, recursive: bool, quorum: bool },
    Wait { point: WatchPoint, from: u64 },
}

#[derive(Clone, Debug)]
pub enum Outcome {
    Changed(Result<v2::Event, v2::Error>),
    Got {
        index: u64,
        listing: Result<Listing, v2::Error>,
    },
    Told(Result<v2::Event, v2::Error>),
    /// For certain nothing was done.
    Refused(Refusal),
    Unknown,
}

/// An operation, from its call on.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    client: usize,
    member: usize,
    incarnation: u64,
    asked: Asked,
    invoked: Nanos,
    ticket: Option<Ticket>,
    /// The moments of its call and of its return, in one count over all.
    called: u64,
    ended: Option<(u64, Outcome)>,
}

/// Everything that v2 clients asked and were told.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    ops: BTreeMap<OpId, Operation>,
    moments: u64,
}

impl Sessions {
    fn next_moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }
}

/// Somebody who waits at a member for a change.
#[derive(Debug)]
pub struct Waiting {
    pub op: OpId,
    point: WatchPoint,
    from: u64,
}

/// Whether an operation is of a v2 client.
pub(crate) const fn is_op(op: OpId) -> bool {
    let name = op / 1_000_000;
    name >= NAMES as u64 && name < (NAMES + V2_CLIENTS) as u64
}

fn some_path(chance: &mut Chance) -> NodePath {
    let paths = ["/a", "/a/b", "/a/b/c", "/a-b", "/q", "/q/_h", "/_h/x", "/"];
    NodePath::parse(chance.pick::<&str>(&paths)).expect("a clean path")
}

fn some_change(op: OpId, known: u64, chance: &mut Chance) -> Change {
    let compare = |chance: &mut Chance| Compare { value: None, modified: Some(known.saturating_sub(chance.below(3)).max(1)) };
    if chance.permille(150) {
        let compare = chance.permille(300).then(|| compare(chance));
        return Change::Delete(Delete { directory: chance.permille(300), recursive: chance.permille(300), compare });
    }
    let refresh = chance.permille(100);
    let condition = match chance.below(10) {
        0..=3 => Condition::Set,
        4 | 5 => Condition::Create,
        6 => Condition::CreateInOrder,
        7 => Condition::Update,
        _ => Condition::CompareAndSwap(compare(chance)),
    };
    let value = if refresh { String::new() } else { op.to_string() };
    let ttl_s = (refresh || chance.permille(250)).then(|| chance.below(4));
    Change::Write(Write { value: value.into(), is_directory: chance.permille(150), ttl_s, refresh, condition })
}

/// A client that changes the tree, reads it and waits for it until the world stops it.
pub async fn tend(port: Port, mut chance: Chance) {
    let mut member = chance.below(port.members() as u64) as usize;
    let mut known = 1;
    port.sleep(chance.below(SECOND)).await;
    for number in 1.. {
        if port.is_stopping() {
            return;
        }
        let op = u64::from(NAMES + port.v2_number()) * 1_000_000 + number;
        let asked = match chance.below(10) {
            0..=5 => Asked::Change(Request { path: some_path(&mut chance), change: some_change(op, known, &mut chance) }),
            6..=8 => Asked::Get { path: some_path(&mut chance), recursive: chance.permille(500), quorum: chance.permille(500) },
            _ => {
                let from = if chance.permille(500) { 0 } else { known.saturating_sub(chance.below(4)).max(1) };
                Asked::Wait { point: WatchPoint { path: some_path(&mut chance), recursive: chance.permille(500) }, from }
            }
        };
        let Answer::V2(outcome) = port.ask(Ask::V2 { member, op, asked }).await else { unreachable!("a v2 request was asked") };
        let failed = matches!(outcome, Outcome::Refused(_) | Outcome::Unknown);
        match outcome {
            Outcome::Changed(Ok(event)) | Outcome::Told(Ok(event)) => known = known.max(event.index),
            Outcome::Got { index, .. } => known = known.max(index),
            Outcome::Changed(Err(_)) | Outcome::Told(Err(_)) | Outcome::Refused(_) | Outcome::Unknown => {}
        }
        if failed || chance.permille(50) {
            member = chance.below(port.members() as u64) as usize;
        }
        port.sleep(if failed { 150 * MILLISECOND } else { chance.tailed(5 * MILLISECOND, SECOND) }).await;
    }
}

impl World {
    pub(crate) fn invoke_v2(&mut self, client: usize, member: usize, op: OpId, asked: Asked) {
        self.trace.tell(self.now, || format!("client {client} asks member {member}, v2 operation {op}: {asked:?}"));
        let leaves = matches!(asked, Asked::Wait { .. }) || self.latency.permille(self.parameters.leaving_permille);
        let patience = if leaves { self.latency.tailed(MILLISECOND, 4 * SECOND) } else { self.parameters.patience };
        let incarnation = self.members[member].incarnation;
        let called = self.v2.next_moment();
        let operation = Operation { client, member, incarnation, asked, invoked: self.now, ticket: None, called, ended: None };
        self.v2.ops.insert(op, operation);
        let way = self.way();
        self.after(way, Event::V2Request { op });
        self.after(patience, Event::V2GiveUp { op, leaves });
    }

    pub(crate) fn v2_member(&self, op: OpId) -> Option<usize> {
        self.v2.ops.get(&op).map(|operation| operation.member)
    }

    pub(crate) fn on_v2_request(&mut self, op: OpId) {
        let operation = &self.v2.ops[&op];
        if operation.ended.is_some() {
            return;
        }
        let (member, asked) = (operation.member, operation.asked.clone());
        let host = &mut self.members[member];
        let is_same = operation.incarnation == host.incarnation;
        let Some(process) = host.process.as_mut().filter(|_| is_same) else {
            return self.reply_v2(op, Outcome::Refused(Refusal::Stopped));
        };
        let (body, served) = match asked {
            Asked::Change(request) => {
                let prepared = prepare(host.id, &Command::V2(request), 0, usize::MAX).expect("of no size");
                (Body::Propose(prepared), None)
            }
            Asked::Get { path, recursive, quorum: true } => (Body::Read, Some(Served::V2Get { path, recursive })),
            Asked::Get { path, recursive, quorum: false } => {
                let outcome = Outcome::Got { index: process.view.v2_index(), listing: process.view.v2_get(&path, recursive) };
                return self.reply_v2(op, outcome);
            }
            Asked::Wait { point, from } => {
                let from = if from == 0 { process.view.v2_index() + 1 } else { from };
                // What is judged is what it waits for from here on.
                self.v2.ops.get_mut(&op).expect("just seen").asked = Asked::Wait { point: point.clone(), from };
                process.v2_waiting.push(Waiting { op, point, from });
                return self.wake_v2(member);
            }
        };
        let ticket = process.open_ticket(Some(op), served, self.checks.committed());
        self.v2.ops.get_mut(&op).expect("just seen").ticket = Some(ticket);
        self.tell(member, LogInput::Client(MemberRequest { ticket, deadline: None, require_leader: false, body }));
    }

    /// The member shows another state: whoever waits for something in it is told.
    pub(crate) fn wake_v2(&mut self, member: usize) {
        let Some(process) = self.members[member].process.as_mut() else { return };
        let mut told = Vec::new();
        process.v2_waiting.retain(|waiting| match process.view.v2_next_event(&waiting.point, waiting.from) {
            Ok(None) => true,
            Ok(Some(event)) => {
                told.push((waiting.op, Ok((*event).clone())));
                false
            }
            Err(error) => {
                told.push((waiting.op, Err(error)));
                false
            }
        });
        for (op, told) in told {
            self.reply_v2(op, Outcome::Told(told));
        }
    }

    pub(crate) fn on_v2_answer(&mut self, member: usize, op: OpId, asked: AskedOfMember, answer: Result<MemberAnswer, Refusal>) {
        let outcome = match answer {
            Ok(MemberAnswer::Reply(Reply::V2(done))) => {
                Outcome::Changed(done.map(|event| (*event.expect("a client's change has an event")).clone()))
            }
            Ok(MemberAnswer::Ready) => {
                let view = &self.members[member].process.as_ref().expect("runs").view;
                self.checks.on_read_answered(member, op, asked.committed, view.applied().index);
                let Some(Served::V2Get { path, recursive }) = asked.served else { unreachable!("only reads become ready") };
                Outcome::Got { index: view.v2_index(), listing: view.v2_get(&path, recursive) }
            }
            Ok(answer) => return self.checks.report(Checker::Health, || format!("v2 operation {op} was answered {answer:?}")),
            Err(Refusal::OutcomeUnknown) => Outcome::Unknown,
            Err(refusal) => Outcome::Refused(refusal),
        };
        self.reply_v2(op, outcome);
    }

    pub(crate) fn reply_v2(&mut self, op: OpId, outcome: Outcome) {
        let way = self.way();
        self.after(way, Event::V2Reply { op, outcome: Box::new(outcome) });
    }

    pub(crate) fn on_v2_reply(&mut self, op: OpId, outcome: Outcome) {
        let moment = self.v2.next_moment();
        let operation = self.v2.ops.get_mut(&op).expect("it was asked");
        if operation.ended.is_some() {
            return;
        }
        operation.ended = Some((moment, outcome.clone()));
        let client = operation.client;
        self.trace.tell(self.now, || format!("v2 operation {op} ends: {outcome:?}"));
        self.answer(client, Answer::V2(outcome));
    }

    pub(crate) fn on_v2_give_up(&mut self, op: OpId, leaves: bool) {
        let operation = &self.v2.ops[&op];
        if operation.ended.is_some() {
            return;
        }
        let (member, incarnation, ticket, invoked) = (operation.member, operation.incarnation, operation.ticket, operation.invoked);
        if let Some(process) = self.members[member].process.as_mut() {
            process.v2_waiting.retain(|waiting| waiting.op != op);
        }
        self.cancel(member, incarnation, ticket);
        if !leaves {
            self.judge_silence(op, member, invoked);
        }
        self.on_v2_reply(op, Outcome::Unknown);
    }
}
