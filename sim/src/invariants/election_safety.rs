//! At most one leader can be elected in a given term (Raft §5.2, Figure 3: Election Safety).

use super::{Checker, Facts, Found};
use quorate_core::types::Term;

pub(super) fn elected(facts: &mut Facts, member: usize, term: Term) -> Found {
    match facts.leaders.insert(term, member) {
        Some(other) if other != member => {
            Err((Checker::ElectionSafety, format!("members {other} and {member} were both elected in term {term}")))
        }
        Some(_) => Ok(()),
        None => {
            facts.elections += 1;
            Ok(())
        }
    }
}
