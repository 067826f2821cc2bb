//! Applied is at most committed (Raft Figure 2, rules for all servers: `commitIndex > lastApplied` is what lets an entry be applied).

use super::{Checker, Found};
use quorate_core::command::RaftStatus;

pub(super) fn check(member: usize, status: &RaftStatus) -> Found {
    if status.applied <= status.committed {
        return Ok(());
    }
    Err((Checker::AppliedAtMostCommitted, format!("member {member} applied {} but committed only {}", status.applied, status.committed)))
}
