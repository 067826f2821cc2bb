//! A linearizable read is answered from a state that has everything that was committed when it arrived (Raft §6.4, ReadIndex).

use super::{Checker, Found};
use quorate_checker::history::OpId;
use quorate_core::types::LogIndex;
use std::collections::BTreeMap;

/// What was committed when each read under way arrived.
#[derive(Debug, Default)]
pub(super) struct ReadSeesCommitted {
    asked: BTreeMap<OpId, LogIndex>,
}

impl ReadSeesCommitted {
    pub(super) fn asked(&mut self, op: OpId, committed: LogIndex) {
        self.asked.insert(op, committed);
    }

    pub(super) fn answered(&mut self, member: usize, op: OpId, applied: LogIndex) -> Found {
        match self.asked.remove(&op) {
            Some(committed) if applied < committed => Err((
                Checker::ReadSeesCommitted,
                format!("member {member} answers read {op} from entry {applied}, but {committed} was committed when it arrived"),
            )),
            _ => Ok(()),
        }
    }
}
