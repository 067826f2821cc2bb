//! How much a search may cost, and what it has cost so far.

use std::time::{Duration, Instant};

/// What a search may spend; it ends undecided when either is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Operations evaluated on the model, and records judged.
    pub steps: u64,
    /// Where time stands still, as inside a simulation, only the steps bound a search.
    pub time: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self { steps: 20_000_000, time: Duration::from_secs(60) }
    }
}

/// Steps between two looks at the clock.
const STEPS_PER_LOOK: u64 = 4_096;

/// Counts against a budget.
#[derive(Debug)]
pub(crate) struct Meter {
    budget: Budget,
    started: Instant,
    steps: u64,
    next_look: u64,
    exhausted: bool,
}

impl Meter {
    pub(crate) fn new(budget: Budget) -> Self {
        Self { budget, started: Instant::now(), steps: 0, next_look: 0, exhausted: false }
    }

    pub(crate) fn spend(&mut self, steps: u64) {
        self.steps += steps;
        if self.steps >= self.next_look {
            self.next_look = self.steps + STEPS_PER_LOOK;
            self.exhausted |= self.started.elapsed() > self.budget.time;
        }
        self.exhausted |= self.steps > self.budget.steps;
    }

    pub(crate) const fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    pub(crate) const fn steps(&self) -> u64 {
        self.steps
    }
}
