//! When the leader asks for nodes of the v2 tree to be taken away, whose time is up.

use crate::types::{Monotonic, WallMs};
use core::time::Duration;

/// Between two that it asks for at least (etcd's interval).
const PAUSE: Duration = Duration::from_millis(500);

/// Told by the state half when the next node goes.
#[derive(Debug)]
pub(super) struct V2Expiry {
    next_end: Option<WallMs>,
    not_before: Monotonic,
    /// When to look again.
    due: Monotonic,
}

impl Default for V2Expiry {
    fn default() -> Self {
        Self { next_end: None, not_before: Monotonic::default(), due: Monotonic::NEVER }
    }
}

impl V2Expiry {
    pub(super) const fn due(&self) -> Monotonic {
        self.due
    }

    pub(super) fn on_next_end(&mut self, next_end: Option<WallMs>) {
        self.next_end = next_end;
    }

    /// Whether to ask now; `time` is the cluster's, if this member leads. One that is asked for and gets lost is asked for again.
    pub(super) fn is_due(&mut self, now: Monotonic, time: Option<WallMs>) -> bool {
        self.due = Monotonic::NEVER;
        let (Some(time), Some(end)) = (time, self.next_end) else { return false };
        let at = (now + Duration::from_millis(end.0.saturating_sub(time.0))).max(self.not_before);
        if at > now {
            self.due = at;
            return false;
        }
        self.not_before = now + PAUSE;
        self.due = self.not_before;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> Monotonic {
        Monotonic(Duration::from_millis(ms))
    }

    #[test]
    fn only_a_leader_asks_and_not_before_the_end() {
        let mut expiry = V2Expiry::default();
        assert!(!expiry.is_due(at_ms(10_000), Some(WallMs(1))));
        expiry.on_next_end(Some(WallMs(5_000)));
        assert!(!expiry.is_due(at_ms(10_000), None));
        assert_eq!(expiry.due(), Monotonic::NEVER);
        assert!(!expiry.is_due(at_ms(10_000), Some(WallMs(4_000))));
        assert_eq!(expiry.due(), at_ms(11_000));
        assert!(expiry.is_due(at_ms(11_000), Some(WallMs(5_000))));
    }

    #[test]
    fn it_asks_again_after_a_pause_until_the_node_is_gone() {
        let mut expiry = V2Expiry::default();
        expiry.on_next_end(Some(WallMs(0)));
        assert!(expiry.is_due(at_ms(10_000), Some(WallMs(1))));
        assert!(!expiry.is_due(at_ms(10_499), Some(WallMs(500))));
        assert_eq!(expiry.due(), at_ms(10_500));
        assert!(expiry.is_due(at_ms(10_500), Some(WallMs(501))));
        expiry.on_next_end(None);
        assert!(!expiry.is_due(at_ms(12_000), Some(WallMs(2_001))));
        assert_eq!(expiry.due(), Monotonic::NEVER);
    }
}
