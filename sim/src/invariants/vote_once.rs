//! A server votes for at most one candidate in a given term, and its term never goes back, whatever crashes lie between
//! (Raft §5.2; Figure 2: `currentTerm` and `votedFor` are persistent state, updated before responding).

use super::{Checker, Found};
use quorate_core::types::{MemberId, Term};

#[derive(Debug)]
pub(super) struct VoteOnce {
    /// The newest vote that left, and the newest term that a promise was made in.
    members: Vec<(Term, Option<MemberId>, Term)>,
}

impl VoteOnce {
    pub(super) fn new(members: usize) -> Self {
        Self { members: vec![(Term(0), None, Term(0)); members] }
    }

    pub(super) fn granted(&mut self, member: usize, term: Term, to: MemberId) -> Found {
        let (newest, vote, promised) = &mut self.members[member];
        if term == *newest && vote.is_some_and(|first| first != to) {
            return Err((
                Checker::VoteOnce,
                format!("member {member} voted for both {} and {to} in term {term}", vote.unwrap_or_default()),
            ));
        }
        if term < *newest {
            return Err((Checker::VoteOnce, format!("member {member} voted in term {term} after it had in term {newest}")));
        }
        (*newest, *vote, *promised) = (term, Some(to), term.max(*promised));
        Ok(())
    }

    pub(super) fn promised(&mut self, member: usize, term: Term) {
        let promised = &mut self.members[member].2;
        *promised = term.max(*promised);
    }

    pub(super) fn recovered(&self, member: usize, term: Term) -> Found {
        let promised = self.members[member].2;
        if term >= promised {
            return Ok(());
        }
        Err((Checker::VoteOnce, format!("member {member} made promises in term {promised} and came back in term {term}")))
    }
}
