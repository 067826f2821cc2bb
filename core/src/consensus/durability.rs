//! What this member's disk still holds back: writes under way, and the messages that promise what they contain.

use super::Envelope;
use crate::types::{LogId, LogIndex, Monotonic, StateNumber, WriteNumber};
use crate::wal::{Planner, Record};
use alloc::{collections::VecDeque, vec::Vec};
use core::time::Duration;

/// Writes handed to the host and not yet durable; above it records gather for one larger write.
const OUTSTANDING_WRITES_MAX: usize = 128;
/// Messages that wait for a write already handed over. More are dropped, as a network may drop them.
const WAITING_MESSAGES_MAX: usize = 4_096;

/// Where the newest term and vote are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ballot {
    Unsealed,
    Sealed(WriteNumber),
    Durable,
}

#[derive(Debug)]
struct Outstanding {
    number: WriteNumber,
    begun: Monotonic,
    /// The log is durable through here once this write is, less what is truncated in the meantime.
    end: LogIndex,
}

#[derive(Debug)]
pub(super) struct Durability {
    planner: Planner,
    /// Whether records were added since the last seal.
    unsealed: bool,
    /// Leaves once the write in the making is durable.
    then: Vec<Envelope>,
    /// Invariant: numbers ascend.
    outstanding: VecDeque<Outstanding>,
    /// Invariant: numbers ascend.
    waiting: VecDeque<(WriteNumber, Envelope)>,
    ballot: Ballot,
    durable: LogIndex,
    sealed_at: Monotonic,
    failed: bool,
}

impl Durability {
    /// What recovery found may be in the page cache only, so nothing above `applied` counts as durable before the first write,
    /// which the planner has begun already: it carries the boot.
    pub(super) fn new(planner: Planner, applied: LogIndex) -> Self {
        Self {
            planner,
            unsealed: true,
            then: Vec::new(),
            outstanding: VecDeque::new(),
            waiting: VecDeque::new(),
            ballot: Ballot::Unsealed,
            durable: applied,
            sealed_at: Monotonic::default(),
            failed: false,
        }
    }

    pub(super) fn planner(&self) -> &Planner {
        &self.planner
    }

    pub(super) fn planner_mut(&mut self) -> &mut Planner {
        &mut self.planner
    }

    /// The log is durable through here.
    pub(super) fn durable(&self) -> LogIndex {
        self.durable
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(super) fn fail(&mut self) {
        self.failed = true;
        self.then.clear();
        self.waiting.clear();
    }

    /// Whether the oldest write has been under way for longer than `limit`.
    pub(super) fn is_stalled(&self, now: Monotonic, limit: Duration) -> bool {
        self.failed || self.outstanding.front().is_some_and(|write| now.since(write.begun) > limit)
    }

    pub(super) fn record(&mut self, record: &Record) {
        self.planner.append(record);
        self.unsealed = true;
        match record {
            Record::Ballot { .. } => self.ballot = Ballot::Unsealed,
            Record::Truncate { from } => {
                // Writes under way now vouch only for what is left; entries that replace the rest come in later ones.
                let kept = from.previous();
                self.durable = self.durable.min(kept);
                self.outstanding.iter_mut().for_each(|write| write.end = write.end.min(kept));
            }
            _ => {}
        }
    }

    /// The log is void and goes on behind `last`. Of what it held, entries through `kept` are what `last` stands for; no write
    /// vouches for others.
    pub(super) fn install(&mut self, last: LogId, state: StateNumber, kept: LogIndex) {
        self.planner.install(last, state);
        self.unsealed = true;
        self.durable = self.durable.min(kept);
        self.outstanding.iter_mut().for_each(|write| write.end = write.end.min(kept));
    }

    /// A message that promises our term or vote: to be sent now if that is durable, else held back.
    #[must_use]
    pub(super) fn after_ballot(&mut self, envelope: Envelope) -> Option<Envelope> {
        match self.ballot {
            Ballot::Durable => return Some(envelope),
            Ballot::Unsealed => self.hold(envelope),
            Ballot::Sealed(number) => self.wait(number, envelope),
        }
        None
    }

    /// A message that promises our log through `index`, and our term: to be sent now if both are durable, else held back.
    #[must_use]
    pub(super) fn after_entries(&mut self, index: LogIndex, envelope: Envelope) -> Option<Envelope> {
        if index <= self.durable {
            return self.after_ballot(envelope);
        }
        let ballot = match self.ballot {
            Ballot::Durable => WriteNumber::default(),
            Ballot::Sealed(number) => number,
            Ballot::Unsealed => WriteNumber(u64::MAX),
        };
        match self.outstanding.iter().find(|write| write.end >= index && write.number >= ballot).map(|write| write.number) {
            Some(number) => self.wait(number, envelope),
            None => self.hold(envelope),
        }
        None
    }

    fn hold(&mut self, envelope: Envelope) {
        assert!(self.unsealed || self.failed, "nothing is being written that {envelope} could wait for");
        if !self.failed && self.then.len() < WAITING_MESSAGES_MAX {
            self.then.push(envelope);
        }
    }

    fn wait(&mut self, number: WriteNumber, envelope: Envelope) {
        if !self.failed && self.waiting.len() < WAITING_MESSAGES_MAX {
            let at = self.waiting.partition_point(|(other, _)| *other <= number);
            self.waiting.insert(at, (number, envelope));
        }
    }

    /// Lets the log say what was last synced, if nothing was written for `quiet`.
    pub(super) fn idle(&mut self, now: Monotonic, quiet: Duration) {
        if !self.failed && now.since(self.sealed_at) >= quiet {
            self.planner.idle();
        }
    }

    /// Whether the write in the making holds records and may leave.
    pub(super) fn will_seal(&self) -> bool {
        self.unsealed && self.may_seal()
    }

    fn may_seal(&self) -> bool {
        !self.failed && self.outstanding.len() < OUTSTANDING_WRITES_MAX
    }

    /// Ends the write in the making; the log through `end` is in it or in earlier ones.
    pub(super) fn seal(&mut self, now: Monotonic, end: LogIndex) -> Option<(WriteNumber, Vec<crate::storage::WalOp>, Vec<Envelope>)> {
        if !self.may_seal() {
            return None;
        }
        let (number, ops) = self.planner.seal()?;
        self.unsealed = false;
        self.sealed_at = now;
        if self.ballot == Ballot::Unsealed {
            self.ballot = Ballot::Sealed(number);
        }
        self.outstanding.push_back(Outstanding { number, begun: now, end });
        Some((number, ops, core::mem::take(&mut self.then)))
    }

    /// Takes note of a durable write. Returns whether term and vote became durable with it.
    pub(super) fn on_durable(&mut self, number: WriteNumber) -> bool {
        if self.failed {
            return false;
        }
        self.planner.durable(number);
        while let Some(write) = self.outstanding.pop_front_if(|write| write.number <= number) {
            self.durable = self.durable.max(write.end);
        }
        match self.ballot {
            Ballot::Sealed(ballot) if ballot <= number => {
                self.ballot = Ballot::Durable;
                true
            }
            _ => false,
        }
    }

    /// The next message that durable writes have released.
    pub(super) fn released(&mut self) -> Option<Envelope> {
        let oldest = self.outstanding.front().map(|write| write.number);
        let (_, envelope) = self.waiting.pop_front_if(|(number, _)| oldest.is_none_or(|oldest| *number < oldest))?;
        Some(envelope)
    }
}
