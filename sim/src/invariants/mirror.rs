//! One member's log as it looks from outside, and what of it its disk has for certain.

use crate::trace::Hash128;
use quorate_core::types::{LogIndex, Term, WriteNumber};
use std::collections::VecDeque;

#[derive(Clone, Debug, Default)]
pub(super) struct Mirror {
    /// Term and chain hash of the entry at index `i + 1`. The chain covers all entries before it.
    pub(super) log: Vec<(Term, Hash128)>,
    /// Writes under way: the log is on disk through `.1` once the write is.
    under_way: VecDeque<(WriteNumber, u64)>,
    /// Entries through here were reported durable and not overruled since.
    durable: u64,
}

impl Mirror {
    pub(super) fn at(&self, index: u64) -> Option<(Term, Hash128)> {
        self.log.get(usize::try_from(index.checked_sub(1)?).ok()?).copied()
    }

    pub(super) fn end(&self) -> u64 {
        self.log.len() as u64
    }

    pub(super) fn durable_end(&self) -> LogIndex {
        LogIndex(self.durable)
    }

    pub(super) fn truncate(&mut self, to: u64) {
        self.log.truncate(usize::try_from(to).expect("in memory"));
        self.durable = self.durable.min(to);
        self.under_way.iter_mut().for_each(|write| write.1 = write.1.min(to));
    }

    /// The log is this one from now on. What its disk had for certain, it has still, as far as the two agree.
    pub(super) fn install(&mut self, log: &[(Term, Hash128)]) {
        let agreed = self.log.iter().zip(log).take_while(|(own, other)| own == other).count();
        self.truncate(agreed as u64);
        self.log.extend_from_slice(&log[agreed..]);
    }

    pub(super) fn seal(&mut self, number: WriteNumber) {
        let end = self.end();
        self.under_way.push_back((number, end));
    }

    pub(super) fn durable(&mut self, number: WriteNumber) {
        while let Some((_, end)) = self.under_way.pop_front_if(|write| write.0 <= number) {
            self.durable = self.durable.max(end);
        }
    }

    pub(super) fn crash(&mut self) {
        self.under_way.clear();
    }
}
