//! A member's two clocks over the world's one: monotonic (may run fast or slow, never steps) and wall (may do all of it).

use quorate_core::types::{Monotonic, Now, WallMs};
use std::time::Duration;

/// True time of the world in nanoseconds since the seed began.
pub type Nanos = u64;

pub const MILLISECOND: Nanos = 1_000_000;
pub const SECOND: Nanos = 1_000 * MILLISECOND;

const MILLION: i128 = 1_000_000;
/// Where wall clocks stand when a seed begins.
const EPOCH_MS: i64 = 1_700_000_000_000;

#[derive(Clone, Debug, Default)]
pub struct MemberClock {
    /// Since `set_at`, when it showed `base`, it has run at `1 + drift`.
    set_at: Nanos,
    base: Nanos,
    drift_ppm: i64,
    wall_offset_ms: i64,
}

impl MemberClock {
    #[must_use]
    pub fn now(&self, at: Nanos) -> Now {
        let monotonic = self.monotonic(at);
        let wall = EPOCH_MS + (monotonic / MILLISECOND).cast_signed() + self.wall_offset_ms;
        Now { monotonic: Monotonic(Duration::from_nanos(monotonic)), wall: WallMs(wall.max(0).cast_unsigned()) }
    }

    fn monotonic(&self, at: Nanos) -> Nanos {
        let passed = i128::from(at - self.set_at);
        self.base + u64::try_from(passed * (MILLION + i128::from(self.drift_ppm)) / MILLION).expect("drift is above -1")
    }

    /// The first moment of the world at which this clock shows at least `deadline`; `None` for never.
    #[must_use]
    pub fn when(&self, deadline: Monotonic) -> Option<Nanos> {
        let shown = u64::try_from(deadline.0.as_nanos()).ok()?;
        let ahead = i128::from(shown.saturating_sub(self.base)) * MILLION;
        let passed = ahead.div_euclid(MILLION + i128::from(self.drift_ppm)) + 1;
        Some(self.set_at + u64::try_from(passed).ok()?)
    }

    pub fn set_drift(&mut self, at: Nanos, ppm: i64) {
        self.base = self.monotonic(at);
        self.set_at = at;
        self.drift_ppm = ppm.max(-900_000);
    }

    #[must_use]
    pub fn drift_ppm(&self) -> i64 {
        self.drift_ppm
    }

    pub fn step_wall(&mut self, ms: i64) {
        self.wall_offset_ms += ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_reached_when_the_clock_says_so_and_not_before() {
        let mut clock = MemberClock::default();
        for (at, ppm) in [(0, 0), (5 * SECOND, 100_000), (9 * SECOND, -100_000)] {
            clock.set_drift(at, ppm);
            for ahead in [1, 999, 1_000_003, 3 * SECOND] {
                let deadline = clock.now(at).monotonic + Duration::from_nanos(ahead);
                let when = clock.when(deadline).expect("it comes");
                assert!(clock.now(when).monotonic >= deadline);
                assert!(clock.now(when.saturating_sub(3).max(at)).monotonic < deadline);
            }
        }
    }

    #[test]
    fn monotonic_time_does_not_jump_when_the_rate_or_the_wall_changes() {
        let mut clock = MemberClock::default();
        clock.set_drift(3 * SECOND, 50_000);
        let before = clock.now(7 * SECOND);
        clock.set_drift(7 * SECOND, -50_000);
        clock.step_wall(-3_600_000);
        let after = clock.now(7 * SECOND);
        assert_eq!(before.monotonic, after.monotonic);
        assert_eq!(before.wall.0 - after.wall.0, 3_600_000);
    }

    #[test]
    fn never_stays_never() {
        assert_eq!(MemberClock::default().when(Monotonic::NEVER), None);
    }
}
