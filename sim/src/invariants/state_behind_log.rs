//! A member's state store never runs ahead of what its own disk has of the log: a restart would find applied what it cannot read.

use super::{Checker, Facts, Found};
use quorate_core::types::{LogId, LogIndex};

pub(super) fn check(facts: &Facts, member: usize, applied: LogId) -> Found {
    let log = &facts.members[member];
    // Before the log's first write is durable there is nothing that a state could follow from, not even the one before any entry.
    let has = applied.index == LogIndex(0) || log.at(applied.index.0).is_some_and(|(term, _)| term == applied.term);
    if log.durable_end() >= applied.index.max(LogIndex(1)) && has {
        return Ok(());
    }
    let text =
        format!("member {member} stores what it applied through {applied}, but its log is durable through {} only", log.durable_end());
    Err((Checker::StateBehindLog, text))
}
