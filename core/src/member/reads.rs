//! Linearizable reads as their clients see them: asked until confirmed, each time under a new id.

use super::request::Ticket;
use super::tickets::Due;
use crate::lease::LeaseCall;
use crate::mutant::{Mutant, planted};
use crate::types::{Monotonic, Now};
use alloc::{collections::BTreeMap, vec::Vec};
use core::time::Duration;

#[derive(Debug)]
struct Read {
    deadline: Monotonic,
    require_leader: bool,
    /// The attempt that may be answered, if one is under way.
    asked: Option<u64>,
    /// When to ask again.
    again: Monotonic,
    pause: Duration,
    /// What it asks of the leader's lease clock; `None`: an index.
    call: Option<LeaseCall>,
}

/// Reads, and calls to the lease clock, that wait for a leader's word.
#[derive(Debug, Default)]
pub(super) struct Reads {
    waiting: BTreeMap<Ticket, Read>,
    /// Attempts under way. Invariant: each is some waiting read's `asked`.
    asked: BTreeMap<u64, Ticket>,
    due: Due,
    /// Ids of attempts that came to nothing, for the mutant that uses them again.
    stale: Vec<u64>,
}

/// What has become of a read that was due.
#[derive(Debug)]
pub(super) enum Overdue {
    TimedOut,
    /// To be asked again.
    Again {
        require_leader: bool,
    },
}

impl Reads {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn due(&self) -> Monotonic {
        self.due.at()
    }

    pub(super) fn insert(&mut self, ticket: Ticket, deadline: Monotonic, require_leader: bool, pause: Duration, call: Option<LeaseCall>) {
        let read = Read { deadline, require_leader, asked: None, again: Monotonic::NEVER, pause, call };
        let previous = self.waiting.insert(ticket, read);
        assert!(previous.is_none(), "{ticket} was given twice");
        self.due.note(deadline);
    }

    /// An attempt leaves under this id; unanswered, another follows at `again`. Says what it asks of the lease clock, if anything.
    pub(super) fn ask(&mut self, ticket: Ticket, sequence: u64, again: Monotonic) -> Option<LeaseCall> {
        let read = self.waiting.get_mut(&ticket)?;
        debug_assert!(read.asked.is_none(), "one attempt at a time");
        read.asked = Some(sequence);
        read.again = again;
        self.asked.insert(sequence, ticket);
        self.due.note(again);
        read.call
    }

    /// An id for the next attempt, instead of a fresh one: only with the bug planted.
    pub(super) fn stale_id(&mut self) -> Option<u64> {
        if planted(Mutant::L4) { self.stale.pop() } else { None }
    }

    /// The attempt is confirmed. `None`: it is not waited for any more.
    pub(super) fn confirm(&mut self, sequence: u64) -> Option<(Ticket, Monotonic)> {
        let ticket = self.asked.remove(&sequence)?;
        let read = self.waiting.remove(&ticket)?;
        Some((ticket, read.deadline))
    }

    /// The attempt came to nothing; another follows after a pause, which doubles up to `pause_max`.
    pub(super) fn refuse(&mut self, now: Now, sequence: u64, pause_max: Duration) {
        let Some(ticket) = self.asked.remove(&sequence) else { return };
        let Some(read) = self.waiting.get_mut(&ticket) else { return };
        read.asked = None;
        read.again = now.monotonic + read.pause;
        read.pause = (read.pause * 2).min(pause_max);
        self.due.note(read.again);
    }

    /// Nobody waits for it any more.
    pub(super) fn cancel(&mut self, ticket: Ticket) {
        if let Some(sequence) = self.waiting.remove(&ticket).and_then(|read| read.asked) {
            self.forget(sequence);
        }
    }

    fn forget(&mut self, sequence: u64) {
        self.asked.remove(&sequence);
        if planted(Mutant::L4) {
            self.stale.push(sequence);
        }
    }

    /// Takes out what has timed out, and ends the attempts of what is to be asked again.
    pub(super) fn overdue(&mut self, now: Now) -> Vec<(Ticket, Overdue)> {
        let now = now.monotonic;
        if !self.due.take(now) {
            return Vec::new();
        }
        let mut overdue = Vec::new();
        let mut ended = Vec::new();
        for (ticket, read) in &mut self.waiting {
            if read.deadline <= now {
                ended.extend(read.asked.take());
                overdue.push((*ticket, Overdue::TimedOut));
            } else if read.again <= now {
                ended.extend(read.asked.take());
                read.again = Monotonic::NEVER;
                overdue.push((*ticket, Overdue::Again { require_leader: read.require_leader }));
                self.due.note(read.deadline);
            } else {
                self.due.note(read.deadline.min(read.again));
            }
        }
        for sequence in ended {
            self.forget(sequence);
        }
        for (ticket, what) in &overdue {
            if matches!(what, Overdue::TimedOut) {
                self.waiting.remove(ticket);
            }
        }
        overdue
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.asked.len() <= self.waiting.len(), "{} attempts of {} reads", self.asked.len(), self.waiting.len());
    }
}
