//! Why reading or applying stopped.

use crate::command::Rejection;
use crate::storage::ReadFailed;

/// An answer, the same on every member, or a store that could not be read.
///
/// Neither turns into the other: who applies answers the first and ends at the second; who reads for a client tells it either.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    Rejected(Rejection),
    Failed(ReadFailed),
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}
impl From<ReadFailed> for Stop {
    fn from(failed: ReadFailed) -> Self {
        Self::Failed(failed)
    }
}
