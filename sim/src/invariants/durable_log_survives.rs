//! What a disk reported durable is there after a crash (Raft Figure 2: `log[]` is persistent state, updated before responding).

use super::{Checker, Facts, Found, log_matching};
use quorate_core::consensus::Consensus;

pub(super) fn check(facts: &mut Facts, member: usize, consensus: &Consensus) -> Found {
    let mirror = &facts.members[member];
    let durable = mirror.durable_end().0;
    let promised = mirror.at(durable);
    log_matching::follow(facts, member, consensus)?;
    if durable > 0 && facts.members[member].at(durable) != promised {
        let text = format!("member {member} had its log durable through {durable} and came back with {}", consensus.last());
        return Err((Checker::DurableLogSurvives, text));
    }
    Ok(())
}
