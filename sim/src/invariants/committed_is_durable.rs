//! What is committed is on the disks of a majority, whatever anybody believes (Raft §5.3, and thesis §10.2.1: a leader may write
//! its own disk in parallel, but counts itself only once that is done).

use super::{Checker, Facts, Found};

pub(super) fn check(facts: &Facts, voters: usize) -> Found {
    let newest = facts.committed.len() as u64;
    let Some(committed) = facts.committed.last() else { return Ok(()) };
    let holders = facts.members.iter().filter(|member| member.durable_end().0 >= newest && member.at(newest) == Some(*committed)).count();
    if holders * 2 > voters {
        return Ok(());
    }
    Err((Checker::CommittedIsDurable, format!("entry {newest} is committed but durable on {holders} of {voters} disks only")))
}
