//! What a check says of a history: one of three.

use crate::{Stats, Violation};
use std::fmt;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Every promise was kept.
    Holds(Stats),
    Broken(Violation),
    /// Neither a violation nor a pass: the search used up its budget.
    Undecided(Undecided),
}

/// Where a search was given up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Undecided {
    pub steps: u64,
    /// What the longest attempt ended with. Another order may avoid it.
    pub nearest: Violation,
}

impl Verdict {
    /// The history holds.
    ///
    /// # Panics
    /// If it does not, or nobody knows; with the reason.
    #[track_caller]
    pub fn expect_holds(self) -> Stats {
        match self {
            Self::Holds(stats) => stats,
            Self::Broken(violation) => panic!("{violation}"),
            Self::Undecided(undecided) => panic!("{undecided}"),
        }
    }
}

impl fmt::Display for Undecided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "undecided after {} steps of search; the longest attempt ended so: {}", self.steps, self.nearest)
    }
}

impl std::error::Error for Undecided {}

/// Why a check ended before its end.
#[derive(Debug)]
pub(crate) enum Failure {
    Broken(Violation),
    Undecided(Undecided),
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::Broken(violation)
    }
}
