//! When the next of many deadlines is due, without keeping them sorted.

use crate::types::Monotonic;

/// The earliest of many moments, or one before it. Whoever finds it due looks at all of them and notes what is left: with
/// deadlines of some seconds that happens some times a second at most, where a sorted set would cost twice per request.
#[derive(Debug)]
pub(super) struct Due(Monotonic);

impl Default for Due {
    fn default() -> Self {
        Self(Monotonic::NEVER)
    }
}

impl Due {
    pub(super) fn note(&mut self, at: Monotonic) {
        self.0 = self.0.min(at);
    }

    pub(super) fn at(&self) -> Monotonic {
        self.0
    }

    /// Whether it is time to look; if so, forgets what was noted.
    pub(super) fn take(&mut self, now: Monotonic) -> bool {
        let due = self.0 <= now;
        if due {
            self.0 = Monotonic::NEVER;
        }
        due
    }

    /// Whether a deadline has passed; if not, it is looked at again in time.
    pub(super) fn is_over(&mut self, deadline: Monotonic, now: Monotonic) -> bool {
        let over = deadline <= now;
        if !over {
            self.note(deadline);
        }
        over
    }
}
