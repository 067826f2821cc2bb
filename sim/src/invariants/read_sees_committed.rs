//! A linearizable read is answered from a state that has everything that was committed when it arrived (Raft §6.4, ReadIndex).

use super::{Checker, Found};
use quorate_checker::history::OpId;
use quorate_core::types::LogIndex;

pub(super) fn check(member: usize, op: OpId, committed: LogIndex, applied: LogIndex) -> Found {
    if committed <= applied {
        return Ok(());
    }
    let text = format!("member {member} answers read {op} from entry {applied}, but {committed} was committed when it arrived");
    Err((Checker::ReadSeesCommitted, text))
}
