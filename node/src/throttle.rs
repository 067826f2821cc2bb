//! How often strangers may make this process say something.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines about refused connections on one endpoint that may follow each other at once.
pub const REFUSALS_BURST: u32 = 64;
/// After a burst, one more line in each of these.
pub const REFUSALS_INTERVAL: Duration = Duration::from_secs(1);

/// Admits a burst, then one in each interval, and counts what it did not admit. A token bucket.
#[derive(Debug)]
pub struct Throttle {
    burst: u32,
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Invariant: at most `burst`.
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
}

impl Throttle {
    #[must_use]
    pub fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self { burst, interval, state: Mutex::new(State { tokens: burst, refilled: now, suppressed: 0 }) }
    }

    /// For lines about refused connections.
    #[must_use]
    pub fn of_refusals() -> Self {
        Self::new(REFUSALS_BURST, REFUSALS_INTERVAL, Instant::now())
    }

    /// Whether to speak now: `Some` with how often that was denied since the last time.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let due = now.saturating_duration_since(state.refilled).as_nanos() / self.interval.as_nanos().max(1);
        if due >= u128::from(self.burst - state.tokens) {
            (state.tokens, state.refilled) = (self.burst, now);
        } else {
            let due = u32::try_from(due).unwrap_or(u32::MAX);
            state.tokens += due;
            state.refilled += self.interval * due;
        }
        if state.tokens == 0 {
            state.suppressed += 1;
            return None;
        }
        state.tokens -= 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_is_admitted_and_then_one_in_each_interval() {
        let start = Instant::now();
        let throttle = Throttle::new(3, SECOND, start);
        let admitted = |now: Instant| (0..10).filter(|_| throttle.admit(now).is_some()).count();
        assert_eq!(admitted(start), 3);
        assert_eq!(admitted(start + SECOND / 2), 0);
        assert_eq!(admitted(start + SECOND), 1);
        assert_eq!(admitted(start + SECOND * 3), 2);
        assert_eq!(admitted(start + SECOND * 1_000), 3, "no more than a burst, however long nothing was said");
    }

    #[test]
    fn what_was_not_said_is_counted_and_told_once() {
        let start = Instant::now();
        let throttle = Throttle::new(1, SECOND, start);
        assert_eq!(throttle.admit(start), Some(0));
        assert_eq!([throttle.admit(start), throttle.admit(start)], [None, None]);
        assert_eq!(throttle.admit(start + SECOND), Some(2));
        assert_eq!(throttle.admit(start + SECOND * 2), Some(0));
    }

    #[test]
    fn halves_of_an_interval_add_up() {
        let start = Instant::now();
        let throttle = Throttle::new(1, SECOND, start);
        assert!(throttle.admit(start).is_some());
        assert!(throttle.admit(start + SECOND / 2).is_none());
        assert!(throttle.admit(start + SECOND).is_some());
    }
}
