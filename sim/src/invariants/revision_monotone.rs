//! Revisions and applied indexes that a member shows only grow in one life, and together (etcd API, KV: revisions).

use super::{Checker, Found};
use quorate_core::types::{LogId, Revision};

#[derive(Debug)]
pub(super) struct RevisionMonotone {
    shown: Vec<(Revision, LogId)>,
}

impl RevisionMonotone {
    pub(super) fn new(members: usize) -> Self {
        Self { shown: vec![<(Revision, LogId)>::default(); members] }
    }

    pub(super) fn crash(&mut self, member: usize) {
        self.shown[member] = <(Revision, LogId)>::default();
    }

    pub(super) fn published(&mut self, member: usize, revision: Revision, applied: LogId) -> Found {
        let before = core::mem::replace(&mut self.shown[member], (revision, applied));
        if revision >= before.0 && applied >= before.1 {
            return Ok(());
        }
        let text = format!("member {member} showed revision {} of {} and then revision {revision} of {applied}", before.0, before.1);
        Err((Checker::RevisionMonotone, text))
    }
}
