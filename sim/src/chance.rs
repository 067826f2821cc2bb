//! Seeded chance, one stream per concern, so that taking one fault out of a schedule does not shift what others draw.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// Whose stream it is. The discriminant is part of the seed; append only.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Concern {
    Schedule = 1,
    Parameters = 2,
    Network = 3,
    Host = 4,
    Disk = 5,
    Store = 6,
    Client = 7,
    Core = 8,
    Wal = 9,
    Latency = 10,
    Snapshot = 11,
}

#[derive(Clone, Debug)]
pub struct Chance(ChaCha8Rng);

impl Chance {
    /// The stream of one concern of one member or client (`part`) in a seed.
    #[must_use]
    pub fn new(seed: u64, concern: Concern, part: u64) -> Self {
        Self(ChaCha8Rng::from_seed(bytes(seed, concern, part)))
    }

    /// Uniform below `bound`, 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { ((u128::from(self.0.next_u64()) * u128::from(bound)) >> 64) as u64 }
    }

    /// Uniform in `[low, high]`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True with `permille` in a thousand.
    pub fn permille(&mut self, permille: u64) -> bool {
        self.below(1_000) < permille
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// Mostly near `low`, seldom up to `high`: the cube of a uniform number.
    pub fn tailed(&mut self, low: u64, high: u64) -> u64 {
        let unit = self.below(1 << 20);
        let cubed = (u128::from(unit) * u128::from(unit) * u128::from(unit)) >> 40;
        low + (((u128::from(high - low)) * cubed) >> 20) as u64
    }

    pub fn stream(&mut self) -> &mut ChaCha8Rng {
        &mut self.0
    }
}

/// The seed of an actor's own stream.
#[must_use]
pub fn bytes(seed: u64, concern: Concern, part: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&(concern as u64).to_le_bytes());
    bytes[16..24].copy_from_slice(&part.to_le_bytes());
    bytes
}
