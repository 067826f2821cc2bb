//! What time leases have left: known to the leader alone, on its own monotonic clock, from its election on.
//!
//! Nothing here is in proportion to all leases but the memory: they are kept by their deadlines, and a new leader takes them up a
//! slice at a time.

use super::{Lease, LeaseCall, LeaseChange, LeaseTime};
use crate::command::{Checkpointed, Command, LeaseCheckpoint, LeaseExpire};
use crate::mutant::{Mutant, planted};
use crate::types::{LeaseId, LogIndex, Monotonic, ReadId, Term};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::{ops::Bound, time::Duration};

/// The named bounds and times of a member's lease clock.
#[derive(Clone, Copy, Debug)]
pub struct LeaseLimits {
    /// A lease granted for longer than this is checkpointed; shorter ones begin anew with each leader.
    pub checkpoint_above: Duration,
    /// Between two checkpoints of a lease.
    pub checkpoint_interval: Duration,
    /// Leases in one checkpoint.
    pub checkpoint_leases: usize,
    /// Expiries in the log that are not applied: what is due beyond waits. So what is due at once is let go no faster than it is
    /// applied, and a client's write stands behind so many at most.
    pub pending_expiries: usize,
    /// Leases that a new leader takes up in one turn.
    pub taken_up_at_once: usize,
    /// Keepalives and questions that wait at the leader, of all members; more are refused.
    pub calls: usize,
}

impl Default for LeaseLimits {
    fn default() -> Self {
        Self {
            checkpoint_above: Duration::from_secs(300),
            checkpoint_interval: Duration::from_secs(300),
            checkpoint_leases: 256,
            pending_expiries: 256,
            taken_up_at_once: 1_000,
            calls: 65_536,
        }
    }
}

/// How long nothing expires after an expiry was refused, as a corrupt cluster does.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// An answer to who called, wherever that is: `None`, there is no such lease.
pub(crate) type Answered = (ReadId, Option<LeaseTime>);

#[derive(Debug)]
pub(crate) struct LeaseClock {
    limits: LeaseLimits,
    /// The table, as the state half has reported it.
    known: BTreeMap<LeaseId, Lease>,
    /// While this member leads.
    tenure: Option<Tenure>,
}

/// The time of one leader.
#[derive(Debug)]
struct Tenure {
    term: Term,
    /// Its first entry of the term.
    first: LogIndex,
    since: Monotonic,
    /// That entry is applied.
    is_settled: bool,
    /// Where the leases begin that are still to be taken up; `None`: nowhere.
    to_take_up: Option<Bound<LeaseId>>,
    /// Of the leases taken up, and of those granted or renewed since.
    timings: BTreeMap<LeaseId, Timing>,
    /// Invariant: each lease with a timing stands in `deadlines`, and in `checkpoints` if it has them, unless something of it is
    /// pending.
    deadlines: BTreeSet<(Monotonic, LeaseId)>,
    checkpoints: BTreeSet<(Monotonic, LeaseId)>,
    pending_expiries: usize,
    /// Leases of the checkpoint in the log that is not applied.
    pending_checkpoints: usize,
    /// Leases to be renewed whose checkpoint must be cleared first.
    to_clear: BTreeSet<LeaseId>,
    /// Who waits for what is pending of a lease. Bounded by `LeaseLimits::calls`.
    waiting: BTreeMap<LeaseId, Vec<(ReadId, LeaseCall)>>,
    paused_until: Monotonic,
}

#[derive(Clone, Copy, Debug)]
struct Timing {
    deadline: Monotonic,
    checkpoint_at: Monotonic,
    pending: Option<Pending>,
}

/// What of a lease is in the log, or on its way there, and not applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pending {
    Expiry,
    Checkpoint,
    /// Its checkpoint is to be cleared.
    Clearing,
}

impl LeaseClock {
    pub fn new(limits: LeaseLimits, leases: impl IntoIterator<Item = (LeaseId, Lease)>) -> Self {
        Self { limits, known: leases.into_iter().collect(), tenure: None }
    }

    /// This member leads from now on; `first` is its first entry of the term.
    pub fn begin(&mut self, term: Term, first: LogIndex, now: Monotonic) {
        self.tenure = Some(Tenure {
            term,
            first,
            since: now,
            is_settled: false,
            to_take_up: Some(Bound::Unbounded),
            timings: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            checkpoints: BTreeSet::new(),
            pending_expiries: 0,
            pending_checkpoints: 0,
            to_clear: BTreeSet::new(),
            waiting: BTreeMap::new(),
            paused_until: Monotonic::default(),
        });
    }

    /// It leads no more. Returns who waited.
    pub fn end(&mut self) -> Vec<ReadId> {
        let waiting = self.tenure.take().map(|tenure| tenure.waiting).unwrap_or_default();
        waiting.into_values().flatten().map(|(caller, _)| caller).collect()
    }

    /// The state is applied to that entry.
    pub fn on_applied(&mut self, index: LogIndex) {
        if let Some(tenure) = &mut self.tenure {
            tenure.is_settled |= index >= tenure.first;
        }
    }

    /// When to [`Self::next_command`], unless a change comes first.
    pub fn deadline(&self) -> Monotonic {
        let Some(tenure) = self.tenure.as_ref().filter(|tenure| tenure.is_settled) else { return Monotonic::NEVER };
        if tenure.to_take_up.is_some() {
            return Monotonic::default();
        }
        let first = |set: &BTreeSet<(Monotonic, LeaseId)>| set.first().map_or(Monotonic::NEVER, |(at, _)| *at);
        let mut at = Monotonic::NEVER;
        if tenure.pending_expiries < self.limits.pending_expiries {
            at = at.min(first(&tenure.deadlines).max(tenure.paused_until));
        }
        if tenure.pending_checkpoints == 0 {
            at = if tenure.to_clear.is_empty() { at.min(first(&tenure.checkpoints)) } else { Monotonic::default() };
        }
        at
    }

    /// Takes up some of the leases that were there when this leader came.
    pub fn take_up(&mut self) {
        let Some(tenure) = self.tenure.as_mut().filter(|tenure| tenure.is_settled) else { return };
        let Some(from) = tenure.to_take_up else { return };
        let mut rest = self.known.range((from, Bound::Unbounded));
        let mut last = None;
        for (id, lease) in rest.by_ref().take(self.limits.taken_up_at_once) {
            last = Some(*id);
            if !tenure.timings.contains_key(id) {
                tenure.take_up(*id, lease, &self.limits);
            }
        }
        tenure.to_take_up = rest.next().and(last).map(Bound::Excluded);
    }

    /// What the leader should append next, if anything is due: it counts as appended.
    pub fn next_command(&mut self, now: Monotonic) -> Option<Command> {
        let tenure = self.tenure.as_mut().filter(|tenure| tenure.is_settled)?;
        tenure.expire(now, &self.known, &self.limits).or_else(|| tenure.checkpoint(now, &self.known, &self.limits))
    }

    /// What was applied, in order.
    pub fn on_changes(&mut self, now: Monotonic, changes: Vec<LeaseChange>, answers: &mut Vec<Answered>) {
        for change in changes {
            match change {
                LeaseChange::Is(id, lease) => {
                    let before = self.known.insert(id, lease);
                    self.settle(now, id, lease, before.is_none(), answers);
                }
                LeaseChange::Ended(id) => {
                    self.known.remove(&id);
                    if let Some(tenure) = &mut self.tenure {
                        tenure.remove(id);
                        answers.extend(tenure.waiting.remove(&id).into_iter().flatten().map(|(caller, _)| (caller, None)));
                    }
                }
            }
        }
    }

    /// Answers a call that a quorum has confirmed, from the state that it must see; or keeps it until what is pending is settled.
    pub fn call(&mut self, now: Monotonic, caller: ReadId, call: LeaseCall, answers: &mut Vec<Answered>) {
        let (LeaseCall::KeepAlive(id) | LeaseCall::TimeToLive(id)) = call;
        let (Some(lease), Some(tenure)) = (self.known.get(&id), &mut self.tenure) else {
            return answers.push((caller, None));
        };
        let timing = match tenure.timings.get(&id) {
            Some(timing) => *timing,
            None => tenure.take_up(id, lease, &self.limits),
        };
        if matches!(call, LeaseCall::TimeToLive(_)) {
            let remaining_s = timing.deadline.since(now).as_secs().cast_signed();
            return answers.push((caller, Some(LeaseTime { ttl_s: lease.ttl_s, remaining_s })));
        }
        let whole = Some(LeaseTime { ttl_s: lease.ttl_s, remaining_s: lease.ttl_s });
        if timing.pending.is_some() && planted(Mutant::S2) {
            return answers.push((caller, whole));
        }
        if timing.pending.is_none() && lease.remaining_s.is_none() {
            tenure.resume(id, Timing::begun(now, lease.ttl_s, lease, &self.limits));
            return answers.push((caller, whole));
        }
        if timing.pending.is_none() {
            tenure.suspend(id, Pending::Clearing);
        }
        tenure.waiting.entry(id).or_default().push((caller, call));
    }

    /// A lease was granted or checkpointed, or was refused its end.
    fn settle(&mut self, now: Monotonic, id: LeaseId, lease: Lease, is_new: bool, answers: &mut Vec<Answered>) {
        let Some(tenure) = &mut self.tenure else { return };
        if is_new {
            // One that an earlier leader left, and this member's state only comes to: it is taken up with the others, by what is then
            // known to be left of it.
            if lease.granted < tenure.first {
                return;
            }
            return tenure.resume(id, Timing::begun(now, lease.ttl_s, &lease, &self.limits));
        }
        let Some(timing) = tenure.timings.get(&id).copied() else { return };
        match timing.pending {
            Some(Pending::Expiry) => tenure.paused_until = now + REFUSED_PAUSE,
            Some(Pending::Checkpoint) => {}
            Some(Pending::Clearing) | None => return,
        }
        let checkpoint_at = checkpoint_at(now, &lease, &self.limits);
        tenure.resume(id, Timing { checkpoint_at, pending: None, ..timing });
        for (caller, call) in tenure.waiting.remove(&id).unwrap_or_default() {
            self.call(now, caller, call, answers);
        }
    }
}

impl Timing {
    fn begun(at: Monotonic, length_s: i64, lease: &Lease, limits: &LeaseLimits) -> Self {
        Self { deadline: at + seconds(length_s), checkpoint_at: checkpoint_at(at, lease, limits), pending: None }
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

/// When a lease is checkpointed next; never, if it is a short one.
fn checkpoint_at(now: Monotonic, lease: &Lease, limits: &LeaseLimits) -> Monotonic {
    if seconds(lease.ttl_s) > limits.checkpoint_above { now + limits.checkpoint_interval } else { Monotonic::NEVER }
}

impl Tenure {
    /// Gives a lease that an earlier leader left the time that it has from this one's election on.
    fn take_up(&mut self, id: LeaseId, lease: &Lease, limits: &LeaseLimits) -> Timing {
        let left = if planted(Mutant::S4) { None } else { lease.remaining_s };
        let timing = Timing::begun(self.since, left.unwrap_or(lease.ttl_s), lease, limits);
        self.resume(id, timing);
        timing
    }

    /// Sets the time of a lease of which nothing is pending any more.
    fn resume(&mut self, id: LeaseId, timing: Timing) {
        self.remove(id);
        self.deadlines.insert((timing.deadline, id));
        if timing.checkpoint_at < Monotonic::NEVER {
            self.checkpoints.insert((timing.checkpoint_at, id));
        }
        self.timings.insert(id, timing);
    }

    /// Something of it goes into the log: until that is settled it has no time.
    fn suspend(&mut self, id: LeaseId, pending: Pending) {
        let timing = self.remove(id).expect("it was taken up");
        self.timings.insert(id, Timing { pending: Some(pending), ..timing });
        match pending {
            Pending::Expiry => self.pending_expiries += 1,
            Pending::Checkpoint => self.pending_checkpoints += 1,
            Pending::Clearing => drop(self.to_clear.insert(id)),
        }
    }

    fn remove(&mut self, id: LeaseId) -> Option<Timing> {
        let timing = self.timings.remove(&id)?;
        match timing.pending {
            Some(Pending::Expiry) => self.pending_expiries -= 1,
            Some(Pending::Checkpoint) => self.pending_checkpoints -= 1,
            Some(Pending::Clearing) => drop(self.to_clear.remove(&id)),
            None => {
                self.deadlines.remove(&(timing.deadline, id));
                self.checkpoints.remove(&(timing.checkpoint_at, id));
            }
        }
        Some(timing)
    }

    fn expire(&mut self, now: Monotonic, known: &BTreeMap<LeaseId, Lease>, limits: &LeaseLimits) -> Option<Command> {
        let &(at, id) = self.deadlines.first()?;
        if at > now || now < self.paused_until || self.pending_expiries >= limits.pending_expiries {
            return None;
        }
        self.suspend(id, Pending::Expiry);
        let granted = known.get(&id).expect("only what is known has a time").granted;
        Some(Command::LeaseExpire(LeaseExpire { lease: id, granted, term: self.term }))
    }

    /// One checkpoint at a time: those to be cleared, whose clients wait, and then those that are due.
    fn checkpoint(&mut self, now: Monotonic, known: &BTreeMap<LeaseId, Lease>, limits: &LeaseLimits) -> Option<Command> {
        if self.pending_checkpoints > 0 {
            return None;
        }
        let granted = |id| known.get(&id).expect("only what is known has a time").granted;
        let mut leases = Vec::new();
        while leases.len() < limits.checkpoint_leases {
            let (id, remaining_s) = if let Some(id) = self.to_clear.first() {
                (*id, None)
            } else if let Some((_, id)) = self.checkpoints.first().filter(|(at, _)| *at <= now) {
                let left = self.timings.get(id).map_or(Duration::ZERO, |timing| timing.deadline.since(now));
                // Rounded up: less than there is must never be said.
                (*id, Some((left.as_secs() + u64::from(left.subsec_nanos() > 0)).cast_signed()))
            } else {
                break;
            };
            self.suspend(id, Pending::Checkpoint);
            leases.push(Checkpointed { lease: id, granted: granted(id), remaining_s });
        }
        (!leases.is_empty()).then_some(Command::LeaseCheckpoint(LeaseCheckpoint { term: self.term, leases }))
    }
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod tests;
