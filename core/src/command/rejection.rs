//! Why an applied command changed nothing.

use super::Refusal;

/// The refusals that apply may give: each follows from state and command alone, so every member gives the same. That a disk
/// could not be read is none of them: whoever cannot read cannot know what the others did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rejection {
    EmptyKey,
    KeyNotFound,
    TooManyKeys,
    Compacted,
    FutureRevision,
    LeaseNotFound,
    LeaseExists,
    MemberNotFound,
    NoSpace,
    Corrupt,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::EmptyKey => Self::EmptyKey,
            Rejection::KeyNotFound => Self::KeyNotFound,
            Rejection::TooManyKeys => Self::TooManyKeys,
            Rejection::Compacted => Self::Compacted,
            Rejection::FutureRevision => Self::FutureRevision,
            Rejection::LeaseNotFound => Self::LeaseNotFound,
            Rejection::LeaseExists => Self::LeaseExists,
            Rejection::MemberNotFound => Self::MemberNotFound,
            Rejection::NoSpace => Self::NoSpace,
            Rejection::Corrupt => Self::Corrupt,
        }
    }
}
