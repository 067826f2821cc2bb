//! The time that the pure actors are told.

use nix::time::{ClockId, clock_gettime};
use quorate_core::types::{Monotonic, Now, WallMs};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Reads the clock that counts suspended time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// # Panics
    /// If the kernel has no such clock, which none that runs this lacks.
    #[must_use]
    pub fn now(self) -> Now {
        let boot_time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("the kernel counts time since boot");
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now { monotonic: Monotonic(boot_time.into()), wall: WallMs(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)) }
    }
}
