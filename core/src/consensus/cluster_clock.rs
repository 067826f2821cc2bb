//! The cluster's time, as a leader gives it to the commands that ask for it.
//!
//! A leader's wall clock is believed once, when its term begins, and never if a time was logged that lies ahead of it; from then on
//! its monotonic clock counts. So the cluster's time never goes back, and a step of a wall clock changes nothing within a term.

use super::shared::Shared;
use crate::command;
use crate::entry::{Entry, Payload};
use crate::mutant::{Mutant, planted};
use crate::types::{Monotonic, WallMs};

#[derive(Debug, Default)]
pub(super) struct ClusterClock {
    /// The latest time that any entry here had.
    logged: WallMs,
    /// A moment of this term's leader, and what the cluster's time was then.
    began: (Monotonic, WallMs),
}

impl ClusterClock {
    pub(super) fn on_logged(&mut self, at: WallMs) {
        self.logged = self.logged.max(at);
    }

    pub(super) fn on_entry(&mut self, entry: &Entry) {
        if let Payload::Command { command, .. } = &entry.payload
            && let Some(at) = command::time_of(command)
        {
            self.on_logged(at);
        }
    }

    fn begin(&mut self, now: Monotonic, wall: WallMs) {
        let logged = if planted(Mutant::D3) { WallMs(0) } else { self.logged };
        self.began = (now, wall.max(logged));
    }

    fn at(&self, now: Monotonic) -> WallMs {
        let (then, time) = self.began;
        let passed_ms = u64::try_from(now.since(then).as_millis()).unwrap_or(u64::MAX);
        let time = WallMs(time.0.saturating_add(passed_ms));
        if planted(Mutant::D3) { time } else { time.max(self.logged) }
    }
}

impl Shared {
    /// This member leads from now on, and gives the time.
    pub(super) fn begin_cluster_time(&mut self) {
        self.cluster_clock.begin(self.now, self.wall);
    }

    /// For a leader.
    pub(super) fn cluster_time(&self) -> WallMs {
        self.cluster_clock.at(self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    fn at_s(s: u64) -> Monotonic {
        Monotonic(Duration::from_secs(s))
    }

    #[test]
    fn time_goes_on_from_the_wall_clock_at_the_beginning_of_a_term() {
        let mut clock = ClusterClock::default();
        clock.begin(at_s(10), WallMs(1_000_000));
        assert_eq!(clock.at(at_s(12)), WallMs(1_002_000));
    }

    #[test]
    fn time_goes_on_from_what_was_logged_if_the_wall_clock_is_behind() {
        let mut clock = ClusterClock::default();
        clock.on_logged(WallMs(5_000_000));
        clock.begin(at_s(10), WallMs(1_000_000));
        assert_eq!(clock.at(at_s(12)), WallMs(5_002_000));
        clock.on_logged(WallMs(9_000_000));
        assert_eq!(clock.at(at_s(12)), WallMs(9_000_000), "it never goes back");
    }
}
