//! How many keys a command visits, from the counts of the index: known before anything is visited.

use super::read;
use super::store::{Interval, Store};
use super::tree::Sum;
use crate::command::walk::{Branches, Visitor, walk};
use crate::command::{COMMAND_KEYS_MAX, Command, KeyRange, Op, Rejection, Txn};
use crate::storage::StateReader;
use core::convert::Infallible;

/// What to take for the keys that an interval had at an older revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Older {
    /// Those it has now: the same on every member, as apply needs it. What was deleted since is not in it.
    AsNow,
    /// All that this member's index still has of it, deleted or not: what a read here may really visit. It depends on how far this
    /// member's background work is.
    AllIndexed,
}

impl Older {
    const fn of(self, sum: Sum) -> u64 {
        match self {
            Self::AsNow => sum.count,
            Self::AllIndexed => sum.entries,
        }
    }
}

/// Keys that the compares, ranges and deletes of a command visit at most, from the branch that visits more. A put visits none:
/// it is bounded by the number of ops. In logarithmic time for each op.
pub(crate) fn cost<R: StateReader>(store: &Store<R>, command: &Command, older: Older) -> u64 {
    match command {
        Command::DeleteRange(request) => count(store, &request.range),
        Command::Txn(txn) => {
            let mut sum = CostOfTxn { store, older, open: alloc::vec![Branch::default()] };
            let Ok(()) = walk(txn, &mut sum);
            sum.open.first().map_or(0, |whole| whole.keys)
        }
        // Those of a lease once each, which always passes.
        Command::LeaseGrant(_) | Command::LeaseRevoke(_) | Command::LeaseExpire(_) | Command::LeaseCheckpoint(_) => 0,
        Command::Put(_) | Command::Compact(_) | Command::Alarm(_) | Command::Publish(_) | Command::V2(_) => 0,
    }
}

/// Whether a command may visit so many keys: each once, and [`COMMAND_KEYS_MAX`] more.
pub(crate) fn check<R: StateReader>(store: &Store<R>, command: &Command, older: Older) -> Result<(), Rejection> {
    let allowed = store.index.sum().count.saturating_add(COMMAND_KEYS_MAX);
    if cost(store, command, older) > allowed { Err(Rejection::TooManyKeys) } else { Ok(()) }
}

fn count<R: StateReader>(store: &Store<R>, range: &KeyRange) -> u64 {
    let interval = Interval::of(range);
    if interval.single().is_some() { 1 } else { store.measure(&interval).count }
}

/// The keys of the branch being walked, and of the one before it if this is the second.
#[derive(Clone, Copy, Default)]
struct Branch {
    keys: u64,
    first: u64,
}

struct CostOfTxn<'s, R: StateReader> {
    store: &'s Store<R>,
    older: Older,
    /// What holds the whole, then one for each open txn.
    open: alloc::vec::Vec<Branch>,
}

impl<R: StateReader> CostOfTxn<'_, R> {
    fn add(&mut self, keys: u64) {
        if let Some(branch) = self.open.last_mut() {
            branch.keys = branch.keys.saturating_add(keys);
        }
    }
}

impl<R: StateReader> Visitor<'_> for CostOfTxn<'_, R> {
    type Error = Infallible;

    fn enter(&mut self, txn: &Txn) -> Result<Branches, Infallible> {
        let compares = txn.compare.iter().map(|compare| count(self.store, &compare.range)).fold(0, u64::saturating_add);
        self.add(compares);
        self.open.push(Branch::default());
        Ok(Branches::Both)
    }

    fn turn(&mut self) -> Result<(), Infallible> {
        if let Some(branch) = self.open.last_mut() {
            *branch = Branch { keys: 0, first: branch.keys };
        }
        Ok(())
    }

    fn op(&mut self, op: &Op) -> Result<(), Infallible> {
        let keys = match op {
            Op::Range(request) => read::visits(self.store, request, |sum| self.older.of(sum)),
            Op::DeleteRange(request) => count(self.store, &request.range),
            Op::Put(_) | Op::Txn(_) => 0,
        };
        self.add(keys);
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Infallible> {
        let ended = self.open.pop().unwrap_or_default();
        self.add(ended.keys.max(ended.first));
        Ok(())
    }
}
