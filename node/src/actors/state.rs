//! Hosts the state half on a thread of its own, where nothing waits for a heartbeat.

use super::{Shared, SnapshotMetrics, inbox::Told, log::unbounded_batches, timer::Timer};
use crate::{
    fatal,
    state::{FjallReader, Persister, StateEvent, Usage},
};
use actix::{Actor, AsyncContext, Context, Handler, Message, StreamHandler};
use quorate_core::{
    member::{StateEffect, StateHalf, StateInput, StoreDone, StoreWork},
    types::WriteNumber,
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::mpsc;

/// Where the state half's inputs enter. Unbounded: orders are bounded by the consensus actor's limits, and each of the store's
/// answers an effect.
pub type StateQueue = mpsc::UnboundedSender<StateInput<FjallReader>>;

/// What the store's thread has done, with what the store takes then.
#[must_use]
pub fn store_done(event: StateEvent, usage: &Usage) -> StateInput<FjallReader> {
    StateInput::Store(match event {
        StateEvent::Persisted(number, reader) => StoreDone::Persisted { number, reader, stored_bytes: usage.stored_bytes() },
        StateEvent::Retired(reader) => StoreDone::Retired { reader, stored_bytes: usage.stored_bytes() },
        StateEvent::Synced(number) => StoreDone::Synced(number),
        StateEvent::Begun(reader) => StoreDone::StateBegun { reader },
        StateEvent::Stored(reader, stored_bytes) => StoreDone::StateStored { reader, stored_bytes },
        StateEvent::NotStored(error) => StoreDone::StateFailed(error),
        StateEvent::Switched => StoreDone::Switched,
        StateEvent::Failed(error) => StoreDone::Failed(format!("the state store failed: {error}")),
    })
}

/// What the actor hosts and is connected to.
pub struct StateParts {
    pub half: StateHalf<FjallReader>,
    pub persister: Persister,
    pub shared: Arc<Shared>,
    pub queue: mpsc::UnboundedReceiver<StateInput<FjallReader>>,
    /// To this very queue.
    pub tell: StateQueue,
    pub log: mpsc::UnboundedSender<Told>,
    pub snapshots: SnapshotMetrics,
    /// The newest durable write of the log.
    pub durable: Arc<AtomicU64>,
}

impl fmt::Debug for StateParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateParts").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// The state half's actor.
pub struct StateActor {
    parts: StateParts,
    effects: Vec<StateEffect<FjallReader>>,
    timer: Timer,
    work_asked: bool,
}

impl fmt::Debug for StateActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateActor").field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl StateActor {
    #[must_use]
    pub fn new(parts: StateParts) -> Self {
        Self { parts, effects: Vec::new(), timer: Timer::default(), work_asked: false }
    }

    fn step(&mut self, input: StateInput<FjallReader>) {
        self.parts.half.step(self.parts.shared.clock.now(), input, &mut self.effects);
    }

    fn flush(&mut self, ctx: &mut Context<Self>) {
        self.parts.half.flush(self.parts.shared.clock.now(), &mut self.effects);
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            self.carry_out(effect);
        }
        self.effects = effects;
        if self.parts.half.has_background_work() {
            if !std::mem::replace(&mut self.work_asked, true) {
                ctx.notify(Work);
            }
        } else {
            let compact_revision = self.parts.half.view().compact_revision();
            self.parts.shared.compacted_to.send_if_modified(|to| std::mem::replace(to, compact_revision) != compact_revision);
        }
        let (clock, deadline) = (self.parts.shared.clock, self.parts.half.deadline());
        self.timer.arm(ctx, clock, deadline, |actor, ctx| {
            actor.timer.fired();
            actor.step(StateInput::Wake);
            actor.flush(ctx);
        });
    }

    fn carry_out(&mut self, effect: StateEffect<FjallReader>) {
        match effect {
            StateEffect::Publish(view) => self.parts.shared.publish(view),
            StateEffect::Answer(ticket, answer) => self.parts.shared.tickets.answer(ticket, answer),
            StateEffect::Store(StoreWork::Persist { number, batch, after, .. }) => {
                let durable = WriteNumber(self.parts.durable.load(Ordering::Acquire));
                self.parts.persister.commit(number, batch, after, durable);
            }
            StateEffect::Store(StoreWork::Sync) => self.parts.persister.sync(),
            StateEffect::Store(StoreWork::Retire { below, .. }) => self.parts.persister.retire(below),
            StateEffect::Store(work) => self.parts.persister.receive(work),
            StateEffect::ReadChunk(read) => {
                let tell = self.parts.tell.clone();
                tokio::task::spawn_blocking(move || drop(tell.send(StateInput::ChunkRead(read.run()))));
            }
            StateEffect::Snapshot(notice) => self.parts.snapshots.note(&notice),
            // A thread that ended has said why, which ends the process.
            StateEffect::Log(report) => drop(self.parts.log.send(Told::State(report))),
            StateEffect::Fatal(reason) => fatal(&reason),
        }
    }
}

impl Actor for StateActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (_, nothing) = mpsc::unbounded_channel();
        ctx.add_stream(unbounded_batches(std::mem::replace(&mut self.parts.queue, nothing)));
        self.flush(ctx);
    }
}

impl StreamHandler<Vec<StateInput<FjallReader>>> for StateActor {
    fn handle(&mut self, batch: Vec<StateInput<FjallReader>>, ctx: &mut Self::Context) {
        for input in batch {
            self.step(input);
        }
        self.flush(ctx);
    }
}

/// Do a slice of background work, now that what came first is done.
#[derive(Message)]
#[rtype(result = "()")]
struct Work;

impl Handler<Work> for StateActor {
    type Result = ();

    fn handle(&mut self, _: Work, ctx: &mut Self::Context) {
        self.work_asked = false;
        self.step(StateInput::Work);
        self.flush(ctx);
    }
}
