//! A small stable hash, for telling apart what should be equal: the same on every member, every build and every machine.
//!
//! Not cryptographic: it finds divergence by accident, not by malice.

use serde::{Deserialize, Serialize};

const MULTIPLIER: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];

/// A running 128-bit hash over words: two lanes, each word multiplied into both, each lane stirred by the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RunningHash([u64; 2]);

impl Default for RunningHash {
    fn default() -> Self {
        Self([0x6a09_e667_f3bc_c908, 0xbb67_ae85_84ca_a73b])
    }
}

impl RunningHash {
    pub fn word(&mut self, word: u64) {
        let [a, b] = self.0;
        let a = (a ^ word).wrapping_mul(MULTIPLIER[0]).rotate_left(29) ^ b;
        let b = b.wrapping_add(word).wrapping_mul(MULTIPLIER[1]).rotate_left(31).wrapping_add(a);
        self.0 = [a, b];
    }

    /// The length goes in first, so that no two lists of byte strings run together.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.word(u64::from_le_bytes(last));
        }
    }

    /// The value so far; more may follow.
    #[must_use]
    pub fn value(mut self) -> u128 {
        // Two more rounds carry the last word into every bit.
        self.word(0);
        self.word(0);
        u128::from(self.0[0]) << 64 | u128::from(self.0[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(parts: &[&[u8]]) -> u128 {
        let mut hash = RunningHash::default();
        parts.iter().for_each(|part| hash.bytes(part));
        hash.value()
    }

    #[test]
    fn every_flipped_bit_shows_in_both_halves() {
        let base = [7_u8; 24];
        for bit in 0..192 {
            let mut flipped = base;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let difference = of(&[&base]) ^ of(&[&flipped]);
            assert!(
                (difference >> 64).count_ones() > 8 && (difference & u128::from(u64::MAX)).count_ones() > 8,
                "bit {bit}: {difference:x}"
            );
        }
    }

    #[test]
    fn neighbours_do_not_run_together() {
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_ne!(of(&[b"a\0"]), of(&[b"a"]));
    }

    #[test]
    fn the_hash_never_changes() {
        assert_eq!(alloc::format!("{:032x}", of(&[b"quorate", b""])), "2264e43c46eec2ece7b76c324ee82922");
    }
}
