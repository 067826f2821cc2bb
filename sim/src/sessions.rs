//! The sessions of clients with members: requests on their way, answers, watch streams, and the history of it all.

use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::convert::{self, Served};
use crate::invariants::Checker;
use crate::member::{Asked, Process};
use crate::schedule::FaultClass;
use crate::workload::{Answer, Ask, Tell};
use crate::world::{Event, Phase, World};
use quorate_checker::history::{Delivery, Event as Change, OpId, Outcome, Record, Refused, Request, Response, Watch};
use quorate_core::command::{Alarm, AlarmChange, AlarmKind, Command, OpReply, Refusal};
use quorate_core::machine::validate;
use quorate_core::member::{Answer as MemberAnswer, Body, LogInput, Request as MemberRequest, Ticket, prepare};
use quorate_core::storage::MemoryStore;
use quorate_core::types::{Monotonic, RequestId, StreamId, WatchId};
use quorate_core::watch::{Canceled, HubEffect, HubInput, WatchResponse};
use std::{
    collections::{BTreeMap, VecDeque},
    task::{Context, Waker},
};

/// Operations in a txn, as etcd's default has it.
const TXN_OPS_MAX: usize = 128;
/// The world's own clients, which ask whether a member still serves.
pub(crate) const PROBES: u32 = 1_000;

/// An operation on its way.
#[derive(Debug)]
pub(crate) struct Operation {
    /// `None` for the world's own.
    pub(crate) client: Option<usize>,
    pub(crate) member: usize,
    incarnation: u64,
    request: Option<Request>,
    pub(crate) invoked: Nanos,
    /// How long its client lets the member take; `None`: as long as that likes.
    deadline: Option<Nanos>,
    ticket: Option<Ticket>,
}

#[derive(Debug)]
pub(crate) struct Stream {
    client: usize,
    pub(crate) member: usize,
    incarnation: u64,
    stream: StreamId,
    request: Option<Watch>,
    created: bool,
    /// Broken or cancelled: what still comes is not looked at.
    pub(crate) ended: bool,
    /// Events of a response that comes in fragments.
    fragments: Vec<Change>,
    deliveries: VecDeque<Delivery>,
    /// Nothing arrives before this.
    in_order: Nanos,
    drain_delay: Nanos,
}

#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) ops: BTreeMap<OpId, Operation>,
    pub(crate) watches: BTreeMap<OpId, Stream>,
    pub(crate) history: Vec<Record>,
    /// The operation behind each request that was proposed, answered or not.
    pub(crate) proposed: BTreeMap<RequestId, OpId>,
    /// Which incarnation of which member each client was last attached to.
    attached: BTreeMap<u32, (usize, u64)>,
    pub(crate) invoked: u64,
    pub(crate) completed: u64,
    next_stream: u64,
    probes: u64,
    relief_planned: bool,
}

impl World {
    /// Lets a client go on until it waits for something again.
    pub(crate) fn poll(&mut self, client: usize) {
        let Some(mut task) = self.clients[client].task.take() else { return };
        let mut context = Context::from_waker(Waker::noop());
        if task.as_mut().poll(&mut context).is_pending() {
            self.clients[client].task = Some(task);
        }
        let mailbox = std::rc::Rc::clone(&self.clients[client].port.mailbox);
        let told: Vec<Tell> = mailbox.borrow_mut().told.drain(..).collect();
        for told in told {
            self.on_told(told);
        }
        let asked = mailbox.borrow_mut().ask.take();
        if let Some(ask) = asked {
            self.on_ask(client, ask);
        }
    }

    pub(crate) fn answer(&mut self, client: usize, answer: Answer) {
        self.clients[client].port.mailbox.borrow_mut().answer = Some(answer);
        self.clients[client].timer += 1;
        self.poll(client);
    }

    fn plan_timer(&mut self, client: usize, delay: Nanos) {
        let number = self.clients[client].timer;
        self.after(delay, Event::Timer { client, number });
    }

    /// The time of a way between a client and a member.
    pub(crate) fn way(&mut self) -> Nanos {
        self.latency.tailed(100_000, 4 * MILLISECOND)
    }

    fn on_ask(&mut self, client: usize, ask: Ask) {
        match ask {
            Ask::Sleep(time) => self.plan_timer(client, time.max(1)),
            Ask::Call { member, op, request } => {
                let name = client as u32;
                self.invoke(Some(client), name, member, op, request);
            }
            Ask::Watch { member, op, request } => self.open_watch(client, member, op, request),
            Ask::V2 { member, op, asked } => self.invoke_v2(client, member, op, asked),
            Ask::Delivery { watch, patience } => {
                let ready = self.sessions.watches.get_mut(&watch).and_then(|stream| stream.deliveries.pop_front());
                match ready {
                    Some(delivery) => self.answer(client, Answer::Delivery(Some(delivery))),
                    None => self.plan_timer(client, patience),
                }
            }
        }
    }

    pub(crate) fn on_timer(&mut self, client: usize, number: u64) {
        if self.clients[client].timer == number {
            let waits_for_delivery = client >= crate::workload::CLIENTS as usize
                && self.sessions.watches.values().any(|stream| stream.client == client && stream.created && !stream.ended);
            let answer = if waits_for_delivery { Answer::Delivery(None) } else { Answer::Slept };
            self.answer(client, answer);
        }
    }

    fn attach(&mut self, name: u32, member: usize) {
        let incarnation = self.members[member].incarnation;
        if self.sessions.attached.insert(name, (member, incarnation)) != Some((member, incarnation)) {
            self.sessions.history.push(Record::Attached { client: name, at: self.now, member: member as u64 });
        }
    }

    fn invoke(&mut self, client: Option<usize>, name: u32, member: usize, op: OpId, request: Request) {
        self.attach(name, member);
        self.trace.tell(self.now, || format!("client {name} asks member {member}, operation {op}: {request:?}"));
        self.sessions.history.push(Record::Invoke { op, client: name, at: self.now, request: request.clone() });
        self.sessions.invoked += 1;
        let incarnation = self.members[member].incarnation;
        // The world's own clients are patient: they ask whether a member serves at all.
        let is_hurried = client.is_some() && self.latency.permille(self.parameters.hurried_permille);
        let deadline = is_hurried.then(|| self.latency.tailed(5 * MILLISECOND, 3 * SECOND));
        let leaves = client.is_some() && self.latency.permille(self.parameters.leaving_permille);
        let patience = if leaves { self.latency.tailed(MILLISECOND, 2 * SECOND) } else { self.parameters.patience };
        self.sessions
            .ops
            .insert(op, Operation { client, member, incarnation, request: Some(request), invoked: self.now, deadline, ticket: None });
        let way = self.way();
        self.after(way, Event::Request { op });
        self.after(patience, Event::GiveUp { op, leaves });
    }

    /// A put by the world itself, to a member; true in the history like any other.
    pub(crate) fn probe(&mut self, member: usize) -> OpId {
        self.sessions.probes += 1;
        let name = PROBES + member as u32;
        let op = u64::from(name) * 1_000_000 + self.sessions.probes;
        let put = quorate_checker::history::Put { key: b"probe".to_vec(), value: op.to_string().into_bytes(), ..Default::default() };
        self.invoke(None, name, member, op, Request::Put(put));
        op
    }

    pub(crate) fn on_request(&mut self, op: OpId) {
        let Some(operation) = self.sessions.ops.get_mut(&op) else { return };
        let (member, deadline) = (operation.member, operation.deadline);
        let request = operation.request.take().expect("a request arrives once");
        let host = &mut self.members[member];
        let alive = operation.incarnation == host.incarnation;
        let Some(process) = host.process.as_mut().filter(|_| alive) else {
            return self.reply(op, Outcome::Refused(Refused::Other("connection refused".into())));
        };
        let (body, served) = match convert::served(&request) {
            Served::Range(range) if range.serializable => {
                let outcome = outcome_of(process.view.range(&range).map(|reply| convert::range_response(&reply)));
                return self.reply(op, outcome);
            }
            Served::Propose(command) => {
                if let Err(refusal) = validate(&command, TXN_OPS_MAX).and_then(|()| process.view.check_cost(&command)) {
                    return self.reply(op, Outcome::Refused(convert::refused(&refusal)));
                }
                (Body::Propose(prepare(host.id, &command, 0, usize::MAX).expect("of no size")), None)
            }
            Served::Lease(call) => (Body::Lease(call), None),
            read => (Body::Read, Some(read)),
        };
        let call = if let Body::Lease(call) = body { Some((call, self.now)) } else { None };
        let ticket = process.open_ticket(Some(op), served, self.checks.committed());
        process.asked.get_mut(&ticket).expect("just opened").call = call;
        self.sessions.ops.get_mut(&op).expect("just seen").ticket = Some(ticket);
        let now = host.clock.now(self.now).monotonic;
        let deadline = deadline.map(|after| now + std::time::Duration::from_nanos(after));
        self.tell(member, LogInput::Client(MemberRequest { ticket, deadline, require_leader: op.is_multiple_of(16), body }));
        if let Some((call, _)) = call {
            self.on_lease_call(call);
        }
    }

    /// A request of the world's own, whose answer nobody looks at.
    pub(crate) fn ask_quietly(&mut self, member: usize, body: Body) {
        let committed = self.checks.committed();
        if let Some(process) = self.members[member].process.as_mut() {
            let ticket = process.open_ticket(None, None, committed);
            self.tell(member, LogInput::Client(MemberRequest { ticket, deadline: None, require_leader: false, body }));
        }
    }

    /// Every ticket is answered once, and none after its answer.
    pub(crate) fn on_answer(&mut self, member: usize, ticket: Ticket, answer: Result<MemberAnswer, Refusal>) {
        let process = self.members[member].process.as_mut().expect("runs");
        let Some(asked) = process.asked.remove(&ticket) else {
            return self
                .checks
                .report(Checker::Health, || format!("member {member} answers {ticket}, which it was not asked, or answered"));
        };
        if let Err(Refusal::TooManyRequests) = answer
            && self.parameters.tiny
        {
            self.tally.mattered(FaultClass::Tiny);
        }
        if asked.must_refuse && answer.is_ok() {
            return self.checks.report(Checker::Quota, || format!("member {member} took {ticket}, which grows its store beyond the quota"));
        }
        if let Some((call, called)) = asked.call {
            self.on_lease_answer(call, called, &answer);
        }
        let Some(op) = asked.op.filter(|_| !asked.cancelled) else { return };
        if crate::v2::is_op(op) {
            return self.on_v2_answer(member, op, asked, answer);
        }
        let outcome = match answer {
            Ok(MemberAnswer::Reply(reply)) => match convert::response(&reply) {
                Some(response) => Outcome::Ok { response, rank: asked.rank.map(|rank| rank.0) },
                None => return self.checks.report(Checker::Health, || format!("{ticket} was answered {reply:?}")),
            },
            Ok(MemberAnswer::Ready) => return self.serve(member, op, asked),
            Ok(MemberAnswer::Lease(time)) => {
                let seconds = time.map(|time| (time.ttl_s, time.remaining_s));
                Outcome::Ok { response: Response::LeaseTime { seconds }, rank: None }
            }
            Ok(MemberAnswer::Transferred) => unreachable!("only the world asks for transfers"),
            Err(Refusal::OutcomeUnknown) => Outcome::Unknown,
            Err(refusal) => Outcome::Refused(convert::refused(&refusal)),
        };
        self.reply(op, outcome);
    }

    /// A read is answered from the view published last.
    fn serve(&mut self, member: usize, op: OpId, asked: Asked) {
        let view = &self.members[member].process.as_ref().expect("runs").view;
        self.checks.on_read_answered(member, op, asked.committed, view.applied().index);
        let answer = match asked.served {
            Some(Served::Range(range)) => view.range(&range).map(|reply| convert::range_response(&reply)),
            Some(Served::ReadTxn(txn)) => view.read_txn(&txn).map(|reply| convert::op_response(&OpReply::Txn(reply))),
            Some(Served::Propose(_) | Served::Lease(_) | Served::V2Get { .. }) | None => unreachable!("not a read of this kind"),
        };
        self.reply(op, outcome_of(answer));
    }

    /// A write was refused by the quota: somebody makes room after a while.
    pub(crate) fn on_quota_exceeded(&mut self) {
        self.tally.mattered(FaultClass::Quota);
        if !std::mem::replace(&mut self.sessions.relief_planned, true) {
            let delay = self.latency.tailed(200 * MILLISECOND, 3 * SECOND);
            self.after(delay, Event::Relief);
        }
    }

    /// An operator compacts, and lowers the alarms once that had time to work.
    pub(crate) fn on_relief(&mut self) {
        self.sessions.relief_planned = false;
        let Some(member) = self.alive().next() else { return self.on_quota_exceeded() };
        let revision = self.clients.iter().map(|client| client.port.mailbox.borrow().revision).max().unwrap_or_default();
        self.sessions.probes += 1;
        let name = PROBES + member as u32;
        let op = u64::from(name) * 1_000_000 + self.sessions.probes;
        self.invoke(None, name, member, op, Request::Compact { revision });
        self.after(SECOND, Event::Disarm);
    }

    pub(crate) fn on_disarm(&mut self) {
        // Members are compared once nothing is under way any more.
        if matches!(self.phase, Phase::Stopping | Phase::Converging | Phase::Judged) {
            return;
        }
        let alarmed: Vec<_> = self.members.iter().map(|host| host.id).collect();
        let Some(member) = self.alive().next() else { return self.on_quota_exceeded() };
        for id in alarmed {
            let alarm = Alarm { member: id, kind: AlarmKind::NoSpace };
            let command = Command::Alarm(AlarmChange { alarm, active: false });
            let prepared = prepare(self.members[member].id, &command, 0, usize::MAX).expect("of no size");
            self.ask_quietly(member, Body::Propose(prepared));
        }
        let view = self.members[member].process.as_ref().map(|process| process.view.alarms().len());
        if view.is_some_and(|alarms| alarms > 0) {
            // The disarming may not get through, so look again.
            self.on_quota_exceeded();
        }
    }

    fn reply(&mut self, op: OpId, outcome: Outcome) {
        let way = self.way();
        self.after(way, Event::Reply { op, outcome: Box::new(outcome) });
    }

    pub(crate) fn on_reply(&mut self, op: OpId, outcome: Outcome) {
        let Some(operation) = self.sessions.ops.remove(&op) else { return };
        self.trace.tell(self.now, || format!("operation {op} ends: {outcome:?}"));
        self.sessions.history.push(Record::Return { op, at: self.now, outcome: outcome.clone() });
        match &outcome {
            Outcome::Ok { response, .. } => {
                self.sessions.completed += 1;
                if matches!(response, Response::Put { .. }) {
                    self.cut.on_write(operation.invoked, self.now);
                }
            }
            Outcome::Refused(Refused::Compacted) if self.now < self.compaction_until => self.tally.mattered(FaultClass::Compaction),
            Outcome::Refused(_) | Outcome::Unknown => {}
        }
        match operation.client {
            Some(client) => self.answer(client, Answer::Outcome(outcome)),
            None => self.on_probed(op, &outcome),
        }
    }

    pub(crate) fn on_give_up(&mut self, op: OpId, leaves: bool) {
        let Some(operation) = self.sessions.ops.get(&op) else { return };
        let (member, incarnation, ticket, invoked) = (operation.member, operation.incarnation, operation.ticket, operation.invoked);
        self.cancel(member, incarnation, ticket);
        if !leaves {
            self.judge_silence(op, member, invoked);
        }
        self.on_reply(op, Outcome::Unknown);
    }

    /// Nobody waits any more for what that process was asked under a ticket.
    pub(crate) fn cancel(&mut self, member: usize, incarnation: u64, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket
            && self.members[member].incarnation == incarnation
            && let Some(asked) = self.members[member].process.as_mut().and_then(|process| process.asked.get_mut(&ticket))
        {
            asked.cancelled = true;
            self.tell(member, LogInput::Cancel(ticket));
        }
    }

    /// A patient client was never answered: once all is healed, that must not be.
    pub(crate) fn judge_silence(&mut self, op: OpId, member: usize, invoked: Nanos) {
        if self.cut.alive_since.is_some_and(|alive_since| invoked >= alive_since) {
            self.checks.report(Checker::Liveness, || {
                format!(
                    "operation {op}, asked of member {member} at {:.3} s, was never answered though all is healed",
                    invoked as f64 / 1e9
                )
            });
        }
    }

    /// The process that served these is gone.
    pub(crate) fn break_connections(&mut self, process: &Process) {
        for (call, called) in process.asked.values().filter_map(|asked| asked.call) {
            self.on_lease_call_lost(call, called);
        }
        let ops: Vec<OpId> = process.asked.values().filter(|asked| !asked.cancelled).filter_map(|asked| asked.op).collect();
        for op in ops {
            if crate::v2::is_op(op) {
                self.reply_v2(op, crate::v2::Outcome::Unknown);
            } else {
                self.reply(op, Outcome::Unknown);
            }
        }
        for waiting in &process.v2_waiting {
            self.reply_v2(waiting.op, crate::v2::Outcome::Unknown);
        }
        let watches: Vec<OpId> = process.streams.values().copied().collect();
        for op in watches {
            self.after(5 * MILLISECOND, Event::WatchBroken { op });
        }
    }

    fn open_watch(&mut self, client: usize, member: usize, op: OpId, request: Watch) {
        self.attach(client as u32, member);
        self.trace.tell(self.now, || format!("client {client} watches at member {member}, operation {op}: {request:?}"));
        self.sessions.history.push(Record::Invoke { op, client: client as u32, at: self.now, request: Request::Watch(request.clone()) });
        self.sessions.next_stream += 1;
        let stream = Stream {
            client,
            member,
            incarnation: self.members[member].incarnation,
            stream: StreamId(self.sessions.next_stream),
            request: Some(request),
            created: false,
            ended: false,
            fragments: Vec::new(),
            deliveries: VecDeque::new(),
            in_order: 0,
            drain_delay: if self.latency.permille(300) { self.latency.tailed(MILLISECOND, 2 * SECOND) } else { MILLISECOND },
        };
        self.sessions.watches.insert(op, stream);
        let way = self.way();
        self.after(way, Event::WatchOpen { op });
    }

    fn live(&mut self, op: OpId) -> Option<(usize, StreamId)> {
        let stream = self.sessions.watches.get(&op).filter(|stream| !stream.ended)?;
        let host = &self.members[stream.member];
        host.process.as_ref().filter(|process| host.incarnation == stream.incarnation && process.log.is_open())?;
        Some((stream.member, stream.stream))
    }

    pub(crate) fn on_watch_open(&mut self, op: OpId) {
        let Some((member, stream)) = self.live(op) else {
            let way = self.way();
            return self.after(way, Event::WatchBroken { op });
        };
        let watch = self.sessions.watches.get_mut(&op).expect("just seen");
        let request = watch.request.take().expect("a watch is opened once");
        self.members[member].process.as_mut().expect("runs").streams.insert(stream, op);
        self.step_hub(member, HubInput::<MemoryStore>::Open(stream));
        let progress_notify = op.is_multiple_of(2);
        let fragment = op.is_multiple_of(3);
        let request = quorate_core::watch::WatchRequest { progress_notify, fragment, ..convert::watch(&request) };
        self.step_hub(member, HubInput::<MemoryStore>::Create(stream, request.clone()));
        if self.parameters.hub.stream_watches == 1 {
            self.step_hub(member, HubInput::<MemoryStore>::Create(stream, request));
        }
    }

    pub(crate) fn on_watch_drained(&mut self, op: OpId, bytes: usize) {
        if let Some((member, stream)) = self.live(op) {
            self.step_hub(member, HubInput::<MemoryStore>::Drained(stream, bytes));
        }
    }

    pub(crate) fn on_watch_asked(&mut self, op: OpId, close: bool) {
        let served = self.sessions.watches.get(&op).map(|stream| (stream.member, stream.incarnation, stream.stream));
        let Some((member, incarnation, stream)) = served else { return };
        if self.members[member].incarnation != incarnation {
            return;
        }
        let Some(process) = self.members[member].process.as_mut() else { return };
        if close {
            process.streams.remove(&stream);
            self.step_hub(member, HubInput::<MemoryStore>::Close(stream));
        } else {
            self.step_hub(member, HubInput::<MemoryStore>::Progress(stream));
        }
    }

    fn on_told(&mut self, told: Tell) {
        let way = self.way();
        match told {
            Tell::Progress { watch } => self.after(way, Event::WatchAsked { op: watch, close: false }),
            Tell::Close { watch } => {
                self.end_watch(watch, None);
                self.after(way, Event::WatchAsked { op: watch, close: true });
            }
        }
    }

    pub(crate) fn step_hub(&mut self, member: usize, input: HubInput<MemoryStore>) {
        let mut out = Vec::new();
        let host = &mut self.members[member];
        let now = host.clock.now(self.now);
        let hub = &mut host.process.as_mut().expect("runs").hub;
        hub.step(now, input, &mut out);
        hub.flush(now, &mut out);
        self.after_hub(member, out);
    }

    pub(crate) fn on_hub_wake(&mut self, member: usize) {
        let host = &mut self.members[member];
        host.process.as_mut().expect("runs").hub_wake_planned = None;
        let now = host.clock.now(self.now);
        let process = host.process.as_mut().expect("runs");
        if process.hub.deadline() <= now.monotonic {
            self.step_hub(member, HubInput::<MemoryStore>::Wake);
        } else {
            self.after_hub(member, Vec::new());
        }
    }

    fn after_hub(&mut self, member: usize, effects: Vec<HubEffect>) {
        for HubEffect { stream, response } in effects {
            let Some(op) = self.members[member].process.as_ref().expect("runs").streams.get(&stream).copied() else { continue };
            let way = self.way();
            let watch = self.sessions.watches.get_mut(&op).expect("streams are of watches");
            watch.in_order = (watch.in_order + 1).max(self.now + way);
            let at = watch.in_order;
            self.at(at, Event::WatchSays { op, response: Box::new(response) });
        }
        let host = &mut self.members[member];
        let incarnation = host.incarnation;
        let process = host.process.as_mut().expect("runs");
        let deadline = process.hub.deadline();
        if deadline == Monotonic::NEVER {
            return;
        }
        let Some(at) = host.clock.when(deadline) else { return };
        let at = at.max(self.now + 300_000);
        if process.hub_wake_planned.is_none_or(|planned| planned > at) {
            process.hub_wake_planned = Some(at);
            self.at(at, Event::HubWake { member, incarnation });
        }
    }

    pub(crate) fn on_watch_says(&mut self, op: OpId, response: &WatchResponse) {
        let quick = self.phase >= Phase::Stopping;
        let Some(stream) = self.sessions.watches.get_mut(&op).filter(|stream| !stream.ended) else { return };
        let delay = if quick { MILLISECOND } else { stream.drain_delay };
        let client = stream.client;
        let revision = response.revision.0;
        let mut delivery = None;
        if response.created && stream.created {
            if response.canceled != Some(Canceled::TooManyWatches) {
                let text = || format!("the stream of watch {op} may have one watch and has another: {:?}", response.canceled);
                return self.checks.report(Checker::Watch, text);
            }
            self.tally.mattered(FaultClass::Tiny);
            return self.after(delay, Event::WatchDrained { op, bytes: response.bytes() });
        }
        if response.created {
            stream.created = true;
        } else if response.watch != WatchId(0) && response.watch != WatchId(-1) {
            return self
                .checks
                .report(Checker::Watch, || format!("watch {op} was told of watch {}, which is not on its stream", response.watch));
        } else if let Some(canceled) = &response.canceled {
            let Canceled::Compacted(compacted) = canceled else {
                return self.checks.report(Checker::Watch, || format!("watch {op} was cancelled without reason: {canceled:?}"));
            };
            if self.now < self.compaction_until {
                self.tally.mattered(FaultClass::Compaction);
            }
            delivery = Some(Delivery::Compacted { compact_revision: compacted.0 });
        } else if response.events.is_empty() && !response.fragment && stream.fragments.is_empty() {
            delivery = Some(Delivery::Progress { revision });
        } else {
            stream.fragments.extend(response.events.iter().map(convert::event));
            if !response.fragment {
                delivery = Some(Delivery::Events { revision, events: std::mem::take(&mut stream.fragments) });
            }
        }
        let bytes = response.bytes();
        self.after(delay, Event::WatchDrained { op, bytes });
        if response.created {
            let outcome = if response.canceled.is_some() {
                Outcome::Refused(Refused::Other(format!("{:?}", response.canceled)))
            } else {
                Outcome::Ok { response: Response::Watch { revision }, rank: None }
            };
            self.trace.tell(self.now, || format!("watch {op} is open: {outcome:?}"));
            self.sessions.history.push(Record::Return { op, at: self.now, outcome: outcome.clone() });
            if matches!(outcome, Outcome::Refused(_)) {
                self.sessions.watches.get_mut(&op).expect("just seen").ended = true;
            }
            return self.answer(client, Answer::Outcome(outcome));
        }
        if let Some(delivery) = delivery {
            if let Delivery::Compacted { .. } = delivery {
                self.end_watch(op, Some(delivery));
            } else {
                self.deliver(op, delivery);
            }
        }
    }

    fn deliver(&mut self, op: OpId, delivery: Delivery) {
        self.trace.tell(self.now, || format!("watch {op}: {delivery:?}"));
        self.sessions.history.push(Record::Delivered { watch: op, at: self.now, delivery: delivery.clone() });
        let stream = self.sessions.watches.get_mut(&op).expect("a watch");
        let client = stream.client;
        stream.deliveries.push_back(delivery);
        self.offer(op, client);
    }

    /// If the client waits for a delivery of this watch, it gets the oldest.
    fn offer(&mut self, op: OpId, client: usize) {
        // A watcher waits for nothing else once its watch is open.
        if let Some(delivery) = self.sessions.watches.get_mut(&op).and_then(|stream| stream.deliveries.pop_front()) {
            self.answer(client, Answer::Delivery(Some(delivery)));
        }
    }

    /// The watch ends for its client: by `last`, or because the client leaves it.
    fn end_watch(&mut self, op: OpId, last: Option<Delivery>) {
        let Some(stream) = self.sessions.watches.get_mut(&op).filter(|stream| !stream.ended) else { return };
        stream.ended = true;
        match last {
            Some(delivery) => self.deliver(op, delivery),
            None => self.sessions.history.push(Record::Delivered { watch: op, at: self.now, delivery: Delivery::Closed }),
        }
    }

    pub(crate) fn on_watch_broken(&mut self, op: OpId) {
        let Some(stream) = self.sessions.watches.get_mut(&op).filter(|stream| !stream.ended) else { return };
        if stream.created {
            self.end_watch(op, Some(Delivery::Closed));
        } else {
            stream.ended = true;
            let client = stream.client;
            let outcome = Outcome::Refused(Refused::Other("connection refused".into()));
            self.sessions.history.push(Record::Return { op, at: self.now, outcome: outcome.clone() });
            self.answer(client, Answer::Outcome(outcome));
        }
    }
}

fn outcome_of(answer: Result<Response, Refusal>) -> Outcome {
    match answer {
        Ok(response) => Outcome::Ok { response, rank: None },
        Err(refusal) => Outcome::Refused(convert::refused(&refusal)),
    }
}
