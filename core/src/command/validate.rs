//! What a request must look like before it is proposed (etcd API error table). Looks at no state.

use super::walk::{Branches, Visitor, walk};
use super::{Command, DeleteRange, LEASE_TTL_MAX_S, Op, Put, Range, Refusal, TXN_DEPTH_MAX, Txn};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::ops::Bound;

/// Checks a command's shape before it is proposed: limits, duplicate keys, empty keys (etcd API error table).
pub fn validate(command: &Command, txn_ops_max: usize) -> Result<(), Refusal> {
    match command {
        Command::Put(put) => validate_put(put),
        Command::DeleteRange(request) => validate_delete(request),
        Command::Txn(txn) => {
            walk(txn, &mut Shape { budgets: alloc::vec![txn_ops_max] })?;
            walk(txn, &mut Duplicates::default())
        }
        Command::LeaseGrant(grant) if grant.ttl_s > LEASE_TTL_MAX_S => Err(Refusal::LeaseTtlTooLarge),
        Command::LeaseGrant(_) | Command::LeaseRevoke(_) | Command::LeaseExpire(_) | Command::LeaseCheckpoint(_) => Ok(()),
        Command::Compact(_) | Command::Alarm(_) | Command::Publish(_) | Command::V2(_) => Ok(()),
    }
}

/// Checks a read's shape.
pub fn validate_range(request: &Range) -> Result<(), Refusal> {
    if request.range.key.is_empty() { Err(Refusal::EmptyKey) } else { Ok(()) }
}

fn validate_put(put: &Put) -> Result<(), Refusal> {
    if put.key.is_empty() {
        Err(Refusal::EmptyKey)
    } else if put.ignore_value && !put.value.is_empty() {
        Err(Refusal::ValueProvided)
    } else if put.ignore_lease && put.lease.0 != 0 {
        Err(Refusal::LeaseProvided)
    } else {
        Ok(())
    }
}

fn validate_delete(request: &DeleteRange) -> Result<(), Refusal> {
    if request.range.key.is_empty() { Err(Refusal::EmptyKey) } else { Ok(()) }
}

/// Checks the shape of a txn and of all in it.
struct Shape {
    /// What each open txn was given, outermost first.
    budgets: Vec<usize>,
}

impl Visitor<'_> for Shape {
    type Error = Refusal;

    /// A nested txn has what its parent's largest list leaves of the budget, so a default budget also bounds the depth; a large
    /// one does not, the depth's own bound does.
    fn enter(&mut self, txn: &Txn) -> Result<Branches, Refusal> {
        let budget = self.budgets.last().copied().unwrap_or(0);
        let ops = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
        if ops > budget || self.budgets.len() > TXN_DEPTH_MAX {
            return Err(Refusal::TooManyOps);
        }
        if txn.compare.iter().any(|compare| compare.range.key.is_empty()) {
            return Err(Refusal::EmptyKey);
        }
        self.budgets.push(budget - ops);
        Ok(Branches::Both)
    }

    fn op(&mut self, op: &Op) -> Result<(), Refusal> {
        match op {
            Op::Range(request) => validate_range(request),
            Op::Put(put) => validate_put(put),
            Op::DeleteRange(request) => validate_delete(request),
            Op::Txn(_) => Ok(()),
        }
    }

    fn leave(&mut self) -> Result<(), Refusal> {
        self.budgets.pop();
        Ok(())
    }
}

/// Keys put and intervals deleted by a branch, with those of the txns nested in it.
#[derive(Default)]
struct Touched<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Intervals<'a>,
}

/// A branch whose ops are still coming.
#[derive(Default)]
struct Branch<'a> {
    puts: Vec<&'a [u8]>,
    deletes: Intervals<'a>,
    /// The nested txns, with both branches of each.
    nested: Vec<[Touched<'a>; 2]>,
}

impl<'a> Branch<'a> {
    /// Finds keys that a branch may change twice. Both branches of a nested txn count, but not against each other; deletes may
    /// overlap; intervals are taken as written, so one that ends in `"\0"` covers nothing here (etcd's check is the same).
    fn close(self) -> Result<Touched<'a>, Refusal> {
        let mut all = Touched { puts: BTreeSet::new(), deletes: self.deletes };
        for [success, failure] in self.nested {
            for &key in success.puts.union(&failure.puts) {
                if all.puts.contains(key) || all.deletes.contains(key) {
                    return Err(Refusal::DuplicateKey);
                }
            }
            all.puts.extend(success.puts.into_iter().chain(failure.puts));
            all.deletes.absorb(success.deletes);
            all.deletes.absorb(failure.deletes);
        }
        for key in self.puts {
            if all.deletes.contains(key) || !all.puts.insert(key) {
                return Err(Refusal::DuplicateKey);
            }
        }
        Ok(all)
    }
}

/// Closes each branch once it is walked.
#[derive(Default)]
struct Duplicates<'a> {
    /// Of each open txn the branch that is being walked.
    open: Vec<Branch<'a>>,
    /// Of those in their second branch, the first.
    first: Vec<Touched<'a>>,
}

impl<'a> Duplicates<'a> {
    fn close(&mut self) -> Result<Touched<'a>, Refusal> {
        self.open.pop().unwrap_or_default().close()
    }
}

impl<'a> Visitor<'a> for Duplicates<'a> {
    type Error = Refusal;

    fn enter(&mut self, _: &'a Txn) -> Result<Branches, Refusal> {
        self.open.push(Branch::default());
        Ok(Branches::Both)
    }

    fn turn(&mut self) -> Result<(), Refusal> {
        let first = self.close()?;
        self.first.push(first);
        self.open.push(Branch::default());
        Ok(())
    }

    fn op(&mut self, op: &'a Op) -> Result<(), Refusal> {
        let Some(branch) = self.open.last_mut() else { return Ok(()) };
        match op {
            Op::Put(put) => branch.puts.push(&put.key),
            Op::DeleteRange(DeleteRange { range, .. }) => branch.deletes.add(&range.key, &range.end),
            Op::Range(_) | Op::Txn(_) => {}
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Refusal> {
        let failure = self.close()?;
        let success = self.first.pop().unwrap_or_default();
        if let Some(parent) = self.open.last_mut() {
            parent.nested.push([success, failure]);
        }
        Ok(())
    }
}

/// A union of half-open intervals, kept disjoint.
#[derive(Default)]
struct Intervals<'a> {
    /// Start to end.
    disjoint: BTreeMap<&'a [u8], End<'a>>,
}

/// The end of a single key's interval is just above it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End<'a> {
    Before(&'a [u8]),
    Through(&'a [u8]),
}

impl<'a> End<'a> {
    fn is_beyond(self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < end,
            Self::Through(last) => key <= last,
        }
    }

    /// Whether this end is at or above the other.
    fn covers(self, other: End<'_>) -> bool {
        match (self, other) {
            (Self::Before(a), End::Before(b)) | (Self::Through(a), End::Through(b)) | (Self::Through(a), End::Before(b)) => a >= b,
            (Self::Before(a), End::Through(b)) => a > b,
        }
    }
}

impl<'a> Intervals<'a> {
    fn add(&mut self, key: &'a [u8], end: &'a [u8]) {
        if end.is_empty() {
            self.insert(key, End::Through(key));
        } else if key < end {
            self.insert(key, End::Before(end));
        }
    }

    fn insert(&mut self, start: &'a [u8], end: End<'a>) {
        let (mut start, mut end) = (start, end);
        if let Some((&from, &to)) = self.disjoint.range::<[u8], _>((Bound::Unbounded, Bound::Included(start))).next_back()
            && to.is_beyond(start)
        {
            if to.covers(end) {
                return;
            }
            start = from;
        }
        let swallowed: Vec<&[u8]> = self
            .disjoint
            .range::<[u8], _>((Bound::Included(start), Bound::Unbounded))
            .map(|(from, _)| *from)
            .take_while(|from| end.is_beyond(from))
            .collect();
        for from in swallowed {
            if let Some(to) = self.disjoint.remove(from)
                && to.covers(end)
            {
                end = to;
            }
        }
        self.disjoint.insert(start, end);
    }

    fn contains(&self, key: &[u8]) -> bool {
        let below = self.disjoint.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        below.is_some_and(|(_, end)| end.is_beyond(key))
    }

    fn absorb(&mut self, other: Self) {
        for (start, end) in other.disjoint {
            self.insert(start, end);
        }
    }
}
