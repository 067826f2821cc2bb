//! Which keys a dead end of the search hangs on, and which choices could have made these keys otherwise.

use crate::history::{Keys, Request};
use crate::violation::Violation;

/// An attempt that cannot go on.
#[derive(Debug)]
pub(crate) struct DeadEnd {
    pub(crate) violation: Violation,
    /// Other values of other keys would not help.
    pub(crate) blamed: Vec<Keys>,
}

impl DeadEnd {
    /// The keys of all `requests` are to blame.
    pub(crate) fn of<'r>(violation: Violation, requests: impl IntoIterator<Item = &'r Request>) -> Self {
        let mut blamed = Vec::new();
        requests.into_iter().for_each(|request| add_keys(request, &mut blamed));
        Self { violation, blamed }
    }

    /// Any key may be to blame.
    pub(crate) fn anywhere(violation: Violation) -> Self {
        Self { violation, blamed: vec![Keys { key: Vec::new(), end: Some(Vec::new()) }] }
    }
}

/// Adds those of `more` that are not there yet.
pub(crate) fn add(blamed: &mut Vec<Keys>, more: &[Keys]) {
    for keys in more {
        if !blamed.contains(keys) {
            blamed.push(keys.clone());
        }
    }
}

/// Whether `request` could change one of these keys, whichever branch it takes.
pub(crate) fn could_change(request: &Request, blamed: &[Keys]) -> bool {
    match request {
        Request::Put(put) => blamed.iter().any(|keys| keys.contains(&put.key)),
        Request::DeleteRange(delete) => blamed.iter().any(|keys| keys.overlaps(&delete.keys)),
        Request::Txn(txn) => txn.success.iter().chain(&txn.failure).any(|request| could_change(request, blamed)),
        // Which keys a lease has it does not say.
        Request::LeaseRevoke { .. } => true,
        Request::Range(_) | Request::Compact { .. } | Request::Watch(_) => false,
        Request::LeaseGrant { .. } | Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. } => false,
    }
}

/// Every key on which the answer or the effect of `request` depends.
fn add_keys(request: &Request, blamed: &mut Vec<Keys>) {
    match request {
        Request::Range(range) => add(blamed, std::slice::from_ref(&range.keys)),
        Request::Put(put) => add(blamed, &[Keys { key: put.key.clone(), end: None }]),
        Request::DeleteRange(delete) => add(blamed, std::slice::from_ref(&delete.keys)),
        Request::Txn(txn) => {
            txn.compare.iter().for_each(|compare| add(blamed, std::slice::from_ref(&compare.keys)));
            txn.success.iter().chain(&txn.failure).for_each(|request| add_keys(request, blamed));
        }
        Request::Compact { .. } | Request::Watch(_) => {}
        Request::LeaseGrant { .. } | Request::LeaseRevoke { .. } | Request::LeaseKeepAlive { .. } | Request::LeaseTimeToLive { .. } => {}
    }
}
