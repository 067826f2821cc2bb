//! Hosts the replica: drains the inbox, steps, flushes once, and carries out what comes. The only place that does.

use super::{
    Shared,
    inbox::{Done, Inbound, TellReplica},
    shared::Leadership,
};
use crate::{
    fatal,
    state::{FjallReader, Persister, StateEvent},
    transport::{PeerEvent, Transport},
    wal::Wal,
};
use actix::{Actor, AsyncContext, Context, Handler, Message, SpawnHandle, StreamHandler};
use futures::FutureExt;
use quorate_core::{
    command::{Refusal, Reply},
    consensus::{Configuration, Envelope, Role},
    effect::{INPUTS_PER_FLUSH, Proposal},
    replica::{Replica, ReplicaEffect, ReplicaInput},
    storage::WalOp,
    types::{MemberId, Monotonic, ReadId, RequestId, SegmentId, WriteNumber},
};
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    pin::pin,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// How often answers that nobody waits for any more are forgotten.
const PRUNE_INTERVAL: Duration = Duration::from_secs(1);

type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// The replica's actor.
pub struct ReplicaActor {
    replica: Replica<FjallReader>,
    wal: Wal,
    persister: Persister,
    transport: Transport,
    shared: Arc<Shared>,
    /// See [`crate::transport::PeerSettings::fresh`].
    fresh: Arc<AtomicBool>,
    inbox: Option<mpsc::Receiver<Inbound>>,
    events: Option<mpsc::UnboundedReceiver<Done>>,
    tell: TellReplica,
    effects: Vec<ReplicaEffect<FjallReader>>,
    proposals: Vec<Proposal>,
    /// Bounded by the consensus actor's `pending_proposals` and the inbox; pruned of those who left.
    replies: HashMap<RequestId, Answer<Reply>>,
    /// Bounded by the consensus actor's `pending_reads` and the inbox; pruned likewise.
    reads: HashMap<ReadId, Answer<()>>,
    /// What must not leave before a write is durable, in order of the writes.
    held: VecDeque<(WriteNumber, Vec<Envelope>)>,
    durable: WriteNumber,
    /// Whom to talk to, once this boot is durable: ids and hellos name it, so nothing may be said before.
    unopened: Option<Configuration>,
    timer: Option<(Monotonic, SpawnHandle)>,
    slice_asked: bool,
    distrusted: u64,
}

impl fmt::Debug for ReplicaActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaActor").field("member", &self.shared.member.member).field("durable", &self.durable).finish_non_exhaustive()
    }
}

/// What the actor hosts and is connected to.
pub struct Parts {
    pub replica: Replica<FjallReader>,
    pub wal: Wal,
    pub persister: Persister,
    pub transport: Transport,
    pub shared: Arc<Shared>,
    pub fresh: Arc<AtomicBool>,
    pub inbox: mpsc::Receiver<Inbound>,
    pub events: mpsc::UnboundedReceiver<Done>,
    pub tell: TellReplica,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl ReplicaActor {
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { replica, wal, persister, transport, shared, fresh, inbox, events, tell } = parts;
        Self {
            replica,
            wal,
            persister,
            transport,
            shared,
            fresh,
            inbox: Some(inbox),
            events: Some(events),
            tell,
            effects: Vec::new(),
            proposals: Vec::new(),
            replies: HashMap::new(),
            reads: HashMap::new(),
            held: VecDeque::new(),
            durable: WriteNumber::default(),
            unopened: Some(Configuration::default()),
            timer: None,
            slice_asked: false,
            distrusted: 0,
        }
    }

    fn step(&mut self, input: ReplicaInput<FjallReader>) {
        self.replica.step(self.shared.clock.now(), input, &mut self.effects);
    }

    fn take(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Propose { proposal, answer } => {
                self.replies.insert(proposal.request, answer);
                self.proposals.push(proposal);
            }
            Inbound::Read { read, answer } => {
                self.reads.insert(read, answer);
                self.step(ReplicaInput::Read(read));
            }
            Inbound::Peer(PeerEvent::Received(envelope), _) => self.step(ReplicaInput::Receive(envelope)),
            Inbound::Peer(PeerEvent::Closed(peer), _) => self.step(ReplicaInput::PeerClosed(peer)),
            Inbound::Peer(PeerEvent::Banned(reason), _) => {
                // Nobody may stop a member that has a log of its own.
                if self.fresh.load(Ordering::Relaxed) {
                    fatal(&reason);
                }
                tracing::warn!(target: "quorate", reason, "a peer says that this member must not run, but it has data, so it stays");
            }
            Inbound::Transfer(target) => self.step(ReplicaInput::Transfer(target)),
            Inbound::HandOver => {
                if let Some(target) = self.replica.consensus().successor() {
                    tracing::info!(target: "quorate", to = %target, "handing leadership over");
                    self.step(ReplicaInput::Transfer(target));
                }
            }
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Durable(number) => {
                self.durable = self.durable.max(number);
                while let Some((_, envelopes)) = self.held.pop_front_if(|(held, _)| *held <= number) {
                    for envelope in envelopes {
                        self.transport.send(envelope);
                    }
                }
                self.step(ReplicaInput::Durable(number));
            }
            Done::LogRead { segment, offset, bytes } => self.step(ReplicaInput::LogRead { segment, offset, bytes }),
            Done::WalFailed(error) => {
                self.step(ReplicaInput::DiskFailed);
                fatal(&format!("nothing more can be made durable: {error}"));
            }
            Done::State(StateEvent::Persisted(number, reader)) => self.step(ReplicaInput::Persisted(number, reader)),
            Done::State(StateEvent::Synced(number)) => self.step(ReplicaInput::Synced(number)),
            Done::State(StateEvent::Failed(error)) => fatal(&format!("the state store failed: {error}")),
        }
    }

    /// Hands a write to the log's thread. If its queue is full, the disk has stalled and this member with it: what is on its way
    /// must become durable before more is promised.
    fn write(&self, number: WriteNumber, ops: Vec<WalOp>) {
        let mut handing_over = pin!(tokio::task::unconstrained(self.wal.write(number, ops)));
        let handed_over = match handing_over.as_mut().now_or_never() {
            Some(result) => result,
            None => futures::executor::block_on(handing_over),
        };
        // A thread that ended has said why, which ends the process.
        let _ = handed_over;
    }

    fn read_log(&self, segment: SegmentId, offset: u64, length: u32) {
        let (wal, tell) = (self.wal.clone(), self.tell.clone());
        tokio::task::spawn_blocking(move || {
            let done = match wal.read(segment, offset, length) {
                Ok(bytes) => Done::LogRead { segment, offset, bytes },
                Err(error) => Done::WalFailed(error),
            };
            let _ = tell.0.send(done);
        });
    }

    /// One turn: what was stepped leaves for disk and peers, then the machine works.
    fn flush(&mut self, ctx: &mut Context<Self>) {
        if !self.proposals.is_empty() {
            let proposals = std::mem::take(&mut self.proposals);
            self.step(ReplicaInput::Propose(proposals));
        }
        self.replica.flush_log(self.shared.clock.now(), &mut self.effects);
        self.carry_out();
        self.replica.flush_state(self.shared.clock.now(), &mut self.effects);
        self.carry_out();
        self.shared.set_status(self.replica.status());
        if self.replica.has_background_work() {
            if !std::mem::replace(&mut self.slice_asked, true) {
                ctx.notify(Slice);
            }
        } else {
            let floor = self.replica.view().compacted();
            self.shared.swept.send_if_modified(|swept| std::mem::replace(swept, floor) != floor);
        }
        self.arm(ctx);
    }

    fn carry_out(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                ReplicaEffect::Write { number, ops, then } => {
                    self.write(number, ops);
                    if !then.is_empty() {
                        self.held.push_back((number, then));
                    }
                }
                ReplicaEffect::Prepare { segment, length } => self.wal.prepare(segment, length),
                ReplicaEffect::Send(envelope) => self.transport.send(envelope),
                ReplicaEffect::ReadLog { segment, offset, length } => self.read_log(segment, offset, length),
                ReplicaEffect::ReadReady(read) => self.answer_read(read, Ok(())),
                ReplicaEffect::RefuseRead(read, refusal) => self.answer_read(read, Err(refusal)),
                ReplicaEffect::Reply(request, answer) => {
                    // Whoever asked may have left.
                    if let Some(waiting) = self.replies.remove(&request) {
                        let _ = waiting.send(answer);
                    }
                }
                ReplicaEffect::Publish(view) => drop(self.shared.view.send_replace(view)),
                ReplicaEffect::Commit { number, batch, after, .. } => self.persister.commit(number, batch, after, self.durable),
                ReplicaEffect::SyncState => self.persister.sync(),
                ReplicaEffect::Retire { below, .. } => self.persister.retire(below),
                ReplicaEffect::RoleChanged { term, role, leader } => self.role_changed(Leadership { term, leader }, role),
                ReplicaEffect::ConfigurationChanged(configuration) => match &mut self.unopened {
                    Some(unopened) => *unopened = configuration,
                    None => self.transport.configure(&configuration),
                },
                ReplicaEffect::Distrust { peer, reason } => {
                    self.distrusted += 1;
                    // Powers of two: a peer gone mad must not fill the log.
                    if self.distrusted.is_power_of_two() {
                        tracing::warn!(target: "quorate", remote_peer_id = %peer, reason, count = self.distrusted, "dropped an impossible message from a peer");
                    }
                }
                ReplicaEffect::Fatal(reason) => fatal(&reason),
            }
        }
        self.effects = effects;
    }

    fn answer_read(&mut self, read: ReadId, answer: Result<(), Refusal>) {
        if let Some(waiting) = self.reads.remove(&read) {
            let _ = waiting.send(answer);
        }
    }

    fn role_changed(&mut self, now: Leadership, role: Role) {
        if role == Role::Leader {
            // A quorum voted for what is in this log. The leader itself receives no append that would tell.
            self.fresh.store(false, Ordering::Relaxed);
        }
        let text = |leader: Option<MemberId>| leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
        let before = self.shared.leadership.send_replace(now);
        if before != now {
            tracing::info!(target: "quorate", term = now.term.0, leader = %text(now.leader), was = %text(before.leader), ?role, "raft leadership changed");
        }
    }

    /// One timer is enough: if it fires early, that is harmless.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        let deadline = self.replica.deadline();
        if deadline == Monotonic::NEVER || self.timer.as_ref().is_some_and(|(armed, _)| *armed <= deadline) {
            return;
        }
        if let Some((_, handle)) = self.timer.take() {
            ctx.cancel_future(handle);
        }
        let wait = deadline.since(self.shared.clock.now().monotonic);
        let handle = ctx.run_later(wait, |actor, ctx| {
            actor.timer = None;
            actor.step(ReplicaInput::Wake);
            actor.flush(ctx);
        });
        self.timer = Some((deadline, handle));
    }
}

impl ReplicaActor {
    /// The first write, and with it this boot, is durable: listen to clients and talk to peers.
    fn open(&mut self, ctx: &mut Context<Self>) {
        let Some(configuration) = self.unopened.take() else { return };
        self.transport.configure(&configuration);
        ctx.add_stream(batches(self.inbox.take().expect("opened once")));
    }
}

impl Actor for ReplicaActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.add_stream(event_batches(self.events.take().expect("started once")));
        ctx.run_interval(PRUNE_INTERVAL, |actor, _| {
            actor.replies.retain(|_, waiting| !waiting.is_closed());
            actor.reads.retain(|_, waiting| !waiting.is_closed());
        });
        self.flush(ctx);
    }
}

/// What waits in a queue, up to one flush's worth at a time.
pub(super) fn batches<T>(queue: mpsc::Receiver<T>) -> impl futures::Stream<Item = Vec<T>> {
    futures::stream::unfold(queue, |mut queue| async move {
        let mut batch = Vec::new();
        (queue.recv_many(&mut batch, INPUTS_PER_FLUSH).await > 0).then_some((batch, queue))
    })
}

fn event_batches(queue: mpsc::UnboundedReceiver<Done>) -> impl futures::Stream<Item = Vec<Done>> {
    futures::stream::unfold(queue, |mut queue| async move {
        let mut batch = Vec::new();
        (queue.recv_many(&mut batch, INPUTS_PER_FLUSH).await > 0).then_some((batch, queue))
    })
}

impl StreamHandler<Vec<Done>> for ReplicaActor {
    fn handle(&mut self, batch: Vec<Done>, ctx: &mut Self::Context) {
        for done in batch {
            self.done(done);
        }
        if self.durable > WriteNumber(0) {
            self.open(ctx);
        }
        self.flush(ctx);
    }
}

impl StreamHandler<Vec<Inbound>> for ReplicaActor {
    fn handle(&mut self, batch: Vec<Inbound>, ctx: &mut Self::Context) {
        for inbound in batch {
            self.take(inbound);
        }
        self.flush(ctx);
    }
}

/// Do a slice of background work, now that what came first is done.
#[derive(Message)]
#[rtype(result = "()")]
struct Slice;

impl Handler<Slice> for ReplicaActor {
    type Result = ();

    fn handle(&mut self, _: Slice, ctx: &mut Self::Context) {
        self.slice_asked = false;
        self.step(ReplicaInput::Slice);
        self.flush(ctx);
    }
}
