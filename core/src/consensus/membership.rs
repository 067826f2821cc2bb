//! Who is in the cluster, as this log has it: the last configuration entry counts, committed or not (Raft §6).

use crate::entry::Configuration;
use crate::types::LogIndex;
use alloc::collections::VecDeque;

/// The configuration in force, and those a truncation could bring back.
#[derive(Debug)]
pub(super) struct Membership {
    /// Invariant: never empty; indexes ascend. The first is at or below the applied index, so no truncation reaches it.
    history: VecDeque<(LogIndex, Configuration)>,
}

impl Membership {
    /// `configuration` was in force at `index`.
    pub(super) fn new(index: LogIndex, configuration: Configuration) -> Self {
        Self { history: VecDeque::from([(index, configuration)]) }
    }

    pub(super) fn current(&self) -> &Configuration {
        &self.history.back().expect("a configuration is always in force").1
    }

    pub(super) fn append(&mut self, index: LogIndex, configuration: Configuration) {
        assert!(self.history.back().is_none_or(|(last, _)| *last < index), "a configuration at {index} before the last");
        self.history.push_back((index, configuration));
    }

    /// The log now ends before `from`; so does what its entries configured.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        while self.history.len() > 1 && self.history.back().is_some_and(|(index, _)| *index >= from) {
            self.history.pop_back();
        }
    }

    /// Nothing at or below `applied` can be truncated any more.
    pub(super) fn compact(&mut self, applied: LogIndex) {
        while self.history.get(1).is_some_and(|(index, _)| *index <= applied) {
            self.history.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::MemberId;

    fn voters(ids: &[u64]) -> Configuration {
        Configuration { voters: ids.iter().copied().map(MemberId).collect(), ..Configuration::default() }
    }

    #[test]
    fn truncation_rolls_back_over_several_configurations() {
        let mut membership = Membership::new(LogIndex(3), voters(&[1]));
        for (index, ids) in [(5, &[1, 2][..]), (7, &[1, 2, 3]), (9, &[2, 3])] {
            membership.append(LogIndex(index), voters(ids));
        }
        assert_eq!(membership.current(), &voters(&[2, 3]));
        membership.truncate(LogIndex(6));
        assert_eq!(membership.current(), &voters(&[1, 2]));
        membership.truncate(LogIndex(4));
        assert_eq!(membership.current(), &voters(&[1]));
    }

    #[test]
    fn compaction_keeps_the_configuration_of_the_applied_index() {
        let mut membership = Membership::new(LogIndex(0), voters(&[1]));
        membership.append(LogIndex(5), voters(&[1, 2]));
        membership.append(LogIndex(7), voters(&[1, 2, 3]));
        membership.compact(LogIndex(6));
        membership.truncate(LogIndex(7));
        assert_eq!(membership.current(), &voters(&[1, 2]));
    }
}
