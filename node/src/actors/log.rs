//! Hosts the log half on a thread of its own: drains the queues, steps, flushes once, and carries out what comes.

use super::{
    Shared, StateQueue,
    inbox::{Inbound, Told},
    shared::Leadership,
    timer::Timer,
};
use crate::{fatal, transport::Transport, wal::Wal};
use actix::{Actor, AsyncContext, Context, StreamHandler};
use futures::FutureExt;
use quorate_core::{
    consensus::Role,
    member::{INPUTS_PER_FLUSH, LogEffect, LogHalf, LogInput, Notice, StateInput, WalDone, WalWork},
    storage::WalOp,
    types::{MemberId, SegmentId, WriteNumber},
};
use std::{
    fmt,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::mpsc;

/// What the actor hosts and is connected to.
pub struct LogParts {
    pub half: LogHalf,
    pub wal: Wal,
    pub transport: Transport,
    pub shared: Arc<Shared>,
    /// See [`crate::transport::PeerSettings::fresh`].
    pub fresh: Arc<AtomicBool>,
    pub inbox: mpsc::Receiver<Inbound>,
    pub told: mpsc::UnboundedReceiver<Told>,
    pub tell: mpsc::UnboundedSender<Told>,
    pub state: StateQueue,
}

impl fmt::Debug for LogParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogParts").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// The log half's actor.
pub struct LogActor {
    parts: LogParts,
    effects: Vec<LogEffect>,
    timer: Timer,
    distrusted: u64,
}

impl fmt::Debug for LogActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogActor").field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl LogActor {
    #[must_use]
    pub fn new(parts: LogParts) -> Self {
        Self { parts, effects: Vec::new(), timer: Timer::default(), distrusted: 0 }
    }

    fn step(&mut self, input: LogInput) {
        self.parts.half.step(self.parts.shared.clock.now(), input, &mut self.effects);
    }

    /// One turn: what was stepped leaves for disk, peers and the state half.
    fn flush(&mut self, ctx: &mut Context<Self>) {
        self.parts.half.flush(self.parts.shared.clock.now(), &mut self.effects);
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            self.carry_out(effect);
        }
        self.effects = effects;
        self.parts.shared.set_status(self.parts.half.status());
        let (clock, deadline) = (self.parts.shared.clock, self.parts.half.deadline());
        self.timer.arm(ctx, clock, deadline, |actor, ctx| {
            actor.timer.fired();
            actor.step(LogInput::Wake);
            actor.flush(ctx);
        });
    }

    fn carry_out(&mut self, effect: LogEffect) {
        match effect {
            LogEffect::Wal(WalWork::Write { number, ops }) => self.write(number, ops),
            LogEffect::Wal(WalWork::Prepare { segment, length }) => self.parts.wal.prepare(segment, length),
            LogEffect::Wal(WalWork::Read { segment, offset, length }) => self.read_log(segment, offset, length),
            LogEffect::Send(envelope) => self.parts.transport.send(envelope),
            // A thread that ended has said why, which ends the process.
            LogEffect::State(order) => drop(self.parts.state.send(StateInput::Log(order))),
            LogEffect::Answer(ticket, answer) => self.parts.shared.tickets.answer(ticket, answer),
            LogEffect::Connect(configuration) => self.parts.transport.configure(&configuration),
            LogEffect::Notice(notice) => self.notice(notice),
            LogEffect::Fatal(reason) => fatal(&reason),
        }
    }

    /// Hands a write to the log's thread. If its queue is full, the disk has stalled and this member with it: what is on its way
    /// must become durable before more is promised.
    fn write(&self, number: WriteNumber, ops: Vec<WalOp>) {
        let mut handing_over = pin!(tokio::task::unconstrained(self.parts.wal.write(number, ops)));
        let handed_over = match handing_over.as_mut().now_or_never() {
            Some(result) => result,
            None => futures::executor::block_on(handing_over),
        };
        // A thread that ended has said why, which ends the process.
        let _ = handed_over;
    }

    fn read_log(&self, segment: SegmentId, offset: u64, length: u32) {
        let (wal, tell) = (self.parts.wal.clone(), self.parts.tell.clone());
        tokio::task::spawn_blocking(move || {
            let done = match wal.read(segment, offset, length) {
                Ok(bytes) => WalDone::Read { segment, offset, bytes },
                Err(error) => WalDone::Failed(error.to_string()),
            };
            let _ = tell.send(Told::Wal(done));
        });
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Opened => {}
            Notice::RoleChanged { term, role, leader } => self.role_changed(Leadership { term, leader }, role),
            Notice::Distrust { peer, reason } => {
                self.distrusted += 1;
                // Powers of two: a peer gone mad must not fill the log.
                if self.distrusted.is_power_of_two() {
                    tracing::warn!(target: "quorate", remote_peer_id = %peer, reason, count = self.distrusted, "dropped an impossible message from a peer");
                }
            }
            Notice::NoLongerFresh => self.parts.fresh.store(false, Ordering::Relaxed),
            Notice::BanIgnored(reason) => {
                tracing::warn!(target: "quorate", reason, "a peer says that this member must not run, but it has data, so it stays");
            }
            Notice::HandingOver { to } => tracing::info!(target: "quorate", to = %to, "handing leadership over"),
            Notice::QuotaExceeded { stored_bytes, quota_bytes } => {
                tracing::warn!(target: "quorate", stored_bytes, quota_bytes, "database space exceeds its quota; raising the NOSPACE alarm");
            }
        }
    }

    fn role_changed(&mut self, now: Leadership, role: Role) {
        let text = |leader: Option<MemberId>| leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
        let before = self.parts.shared.leadership.send_replace(now);
        if before != now {
            tracing::info!(target: "quorate", term = now.term.0, leader = %text(now.leader), was = %text(before.leader), ?role, "raft leadership changed");
        }
    }
}

impl Actor for LogActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let closed = || (mpsc::channel(1).1, mpsc::unbounded_channel().1);
        let (no_inbox, nothing_told) = closed();
        ctx.add_stream(unbounded_batches(std::mem::replace(&mut self.parts.told, nothing_told)));
        ctx.add_stream(batches(std::mem::replace(&mut self.parts.inbox, no_inbox)));
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

pub(super) fn unbounded_batches<T>(queue: mpsc::UnboundedReceiver<T>) -> impl futures::Stream<Item = Vec<T>> {
    futures::stream::unfold(queue, |mut queue| async move {
        let mut batch = Vec::new();
        (queue.recv_many(&mut batch, INPUTS_PER_FLUSH).await > 0).then_some((batch, queue))
    })
}

impl StreamHandler<Vec<Told>> for LogActor {
    fn handle(&mut self, batch: Vec<Told>, ctx: &mut Self::Context) {
        for told in batch {
            self.step(told.into());
        }
        self.flush(ctx);
    }
}

impl StreamHandler<Vec<Inbound>> for LogActor {
    fn handle(&mut self, batch: Vec<Inbound>, ctx: &mut Self::Context) {
        for inbound in batch {
            self.step(inbound.into());
        }
        self.flush(ctx);
    }
}
