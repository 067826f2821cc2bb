//! If an entry is committed in a given term, it is present in the logs of the leaders of all higher terms
//! (Raft §5.4, Figure 3: Leader Completeness).

use super::{Checker, Facts, Found};
use quorate_core::types::Term;

pub(super) fn check(facts: &Facts, leader: usize, term: Term) -> Found {
    let in_lower_terms = facts.committed_in.partition_point(|committed| *committed < term) as u64;
    let Some(at) = in_lower_terms.checked_sub(1) else { return Ok(()) };
    let committed = facts.committed[usize::try_from(at).expect("in memory")];
    match facts.members[leader].at(in_lower_terms) {
        Some(own) if own == committed => Ok(()),
        _ => Err((
            Checker::LeaderCompleteness,
            format!("member {leader} was elected in term {term} without entry {in_lower_terms}, which was committed before"),
        )),
    }
}
