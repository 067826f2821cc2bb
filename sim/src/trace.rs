//! What happened, twice: as a 128-bit hash over every event (always), and as lines of text (only when a failure is explained).

use crate::clock::Nanos;
use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
};

/// Lines kept for the report of a failure.
pub const LINES_MAX: usize = 400;

/// A rolling 128-bit hash. Not against adversaries: it tells two runs apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hash128(u64, u64);

impl Default for Hash128 {
    fn default() -> Self {
        Self(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344)
    }
}

impl Hash128 {
    #[inline]
    pub fn mix(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15_u128;
        self.0 = (product >> 64) as u64 ^ self.1;
        self.1 = (product as u64).rotate_left(23).wrapping_add(word);
    }

    pub fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }
}

impl fmt::Display for Hash128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0, self.1)
    }
}

/// Lines shared with whoever reports, so that they outlive a panic in the world.
pub type Lines = Arc<Mutex<VecDeque<String>>>;

#[derive(Debug, Default)]
pub struct Trace {
    pub hash: Hash128,
    lines: Option<Lines>,
}

impl Trace {
    #[must_use]
    pub fn new(lines: Option<Lines>) -> Self {
        Self { hash: Hash128::default(), lines }
    }

    /// Adds a line, if anybody reads them.
    #[inline]
    pub fn tell(&self, at: Nanos, line: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            let mut lines = lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            lines.push_back(format!("{:>12.6} {}", at as f64 / 1e9, line()));
        }
    }
}
