//! The leases that there are and the keys attached to them: replicated state, the same on every member at the same index.

use crate::mvcc::index::{Index, Key};
use crate::mvcc::tree::{Measure, Sum, Tree};
use crate::types::{LeaseId, LogIndex};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A lease as every member knows it. Stored: fields are only ever appended, behind a new version of the row's frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// Seconds granted.
    pub ttl_s: i64,
    /// The entry that granted it: tells a lease from a later one of the same id.
    pub granted: LogIndex,
    /// Seconds that were left at its last checkpoint; `None`: there was none since it was granted or renewed.
    pub remaining_s: Option<i64>,
}

/// What became of a lease, for the clock of the log half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseChange {
    /// It was granted, or checkpointed: this is all there is to know of it.
    Is(LeaseId, Lease),
    /// It was revoked or has expired.
    Ended(LeaseId),
}

impl Measure for Lease {
    fn measure(&self) -> Sum {
        Sum { count: 1, entries: 1, bytes: 0 }
    }
}

/// Bytes of an attached key.
#[derive(Clone, Copy, Debug)]
struct Attached(u64);

impl Measure for Attached {
    fn measure(&self) -> Sum {
        Sum { count: 1, entries: 1, bytes: self.0 }
    }
}

/// What one process has applied since it started: for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeaseCounts {
    pub granted: u64,
    /// Revoked or expired.
    pub ended: u64,
}

/// Immutable once cloned, like the index: readers keep theirs.
///
/// Invariant: a key is attached to a lease if and only if its newest version names it, and that lease is there. So attachments are
/// not stored but found again in the rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeaseTable {
    leases: Tree<LeaseId, Lease>,
    /// By lease, then by key: the order in which a revoked lease's keys go.
    attached: Tree<(LeaseId, Key), Attached>,
    pub counts: LeaseCounts,
}

impl LeaseTable {
    /// Of stored leases, in order of their ids; their keys come with [`Self::attach_all`].
    pub fn of(leases: Vec<(LeaseId, Lease)>) -> Self {
        Self { leases: Tree::from_sorted(leases), attached: Tree::default(), counts: LeaseCounts::default() }
    }

    /// Attaches what the index says. The key of a lease that is not there is returned: it should not be.
    pub fn attach_all(&mut self, index: &Index) -> Result<(), Key> {
        let mut attached = Vec::new();
        // Without a lease there is no attached key, so nothing to look for.
        let keys = if self.leases.first().is_none() { None } else { Some(index.range::<[u8]>(None, None)) };
        for (key, record) in keys.into_iter().flatten() {
            let Some(lease) = record.live().map(|version| version.lease).filter(|lease| *lease != LeaseId(0)) else { continue };
            if self.get(lease).is_none() {
                return Err(key.clone());
            }
            attached.push(((lease, key.clone()), Attached(key.len() as u64)));
        }
        attached.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        self.attached = Tree::from_sorted(attached);
        Ok(())
    }

    pub fn get(&self, lease: LeaseId) -> Option<Lease> {
        self.leases.get(&lease).copied()
    }

    pub fn contains(&self, lease: LeaseId) -> bool {
        self.leases.get(&lease).is_some()
    }

    /// In order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, Lease)> {
        self.leases.range::<LeaseId>(None, None).map(|(id, lease)| (*id, *lease))
    }

    pub fn len(&self) -> u64 {
        self.leases.sum().count
    }

    pub fn set(&mut self, id: LeaseId, lease: Lease) {
        self.leases.insert(id, lease);
    }

    /// Ends a lease whose keys are gone.
    pub fn remove(&mut self, id: LeaseId) {
        debug_assert!(self.keys(id).next().is_none(), "lease {id} ends and has keys");
        self.leases.remove(&id);
    }

    /// The keys of a lease, ascending.
    pub fn keys(&self, lease: LeaseId) -> impl Iterator<Item = &Key> {
        let start = (lease, Key::default());
        self.attached.range(Some(&start), None).take_while(move |((of, _), _)| *of == lease).map(|((_, key), _)| key)
    }

    /// Bytes of the keys of a lease, in logarithmic time.
    pub fn key_bytes(&self, lease: LeaseId) -> u64 {
        let end = lease.0.checked_add(1).map(|next| (LeaseId(next), Key::default()));
        self.attached.measure(Some(&(lease, Key::default())), end.as_ref()).bytes
    }

    pub fn attach(&mut self, lease: LeaseId, key: Key) {
        let bytes = Attached(key.len() as u64);
        self.attached.insert((lease, key), bytes);
    }

    pub fn detach(&mut self, lease: LeaseId, key: &Key) {
        self.attached.remove(&(lease, key.clone()));
    }

    /// Panics unless exactly the keys of the index that name a lease are attached to it. Visits everything.
    pub fn check_invariants(&self, index: &Index) {
        self.leases.check_invariants();
        self.attached.check_invariants();
        let mut attached = 0;
        for (key, record) in index.range::<[u8]>(None, None) {
            let Some(lease) = record.live().map(|version| version.lease).filter(|lease| *lease != LeaseId(0)) else { continue };
            assert!(self.contains(lease), "{key:?} has lease {lease}, which is not there");
            assert!(self.attached.get(&(lease, key.clone())).is_some(), "{key:?} is not attached to lease {lease}");
            attached += 1;
        }
        assert!(self.attached.sum().count == attached, "{} keys are attached, {attached} have a lease", self.attached.sum().count);
    }
}
