//! A witness: what the cluster's log says about the order of a history.
//!
//! It is believed in nothing. Where it holds it saves the search for an order, and where it does not, one of the two lies.

use crate::history::OpId;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Witness {
    /// The committed entries that are of interest, in the order of the log.
    pub entries: Vec<Entry>,
    /// Whether nothing before them is missing. If something is, the entries only narrow the search.
    pub is_whole: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// In the log; ascends.
    pub index: u64,
    pub step: Step,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A client's operation, whatever the client was told of it.
    Operation(OpId),
    /// The alarm of that name was raised or disarmed. While it is raised, nothing that puts is carried out.
    NoSpace(bool),
    /// The time of that lease was over.
    Expired(i64),
}
