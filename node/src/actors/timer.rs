//! One timer for an actor that asks to be woken at its next deadline.

use crate::clock::Clock;
use actix::{Actor, AsyncContext, Context, SpawnHandle};
use quorate_core::types::Monotonic;

/// At most one timer is armed. If it fires early, that is harmless.
#[derive(Debug, Default)]
pub(super) struct Timer(Option<(Monotonic, SpawnHandle)>);

impl Timer {
    /// Has `fire` called at the deadline, unless it will be before. `fire` begins with [`Self::fired`].
    pub(super) fn arm<A>(&mut self, ctx: &mut Context<A>, clock: Clock, deadline: Monotonic, fire: fn(&mut A, &mut Context<A>))
    where
        A: Actor<Context = Context<A>>,
    {
        if deadline == Monotonic::NEVER || self.0.as_ref().is_some_and(|(armed, _)| *armed <= deadline) {
            return;
        }
        if let Some((_, handle)) = self.0.take() {
            ctx.cancel_future(handle);
        }
        let wait = deadline.since(clock.now().monotonic);
        self.0 = Some((deadline, ctx.run_later(wait, fire)));
    }

    pub(super) fn fired(&mut self) {
        self.0 = None;
    }
}
