//! Leases as the world sees them: what of them is committed when, what their clients are told, and what the oracle says to it.

use crate::clock::{Nanos, SECOND};
use crate::invariants::Checker;
use crate::parameters::Parameters;
use crate::schedule::{Fault, Schedule};
use crate::world::World;
use quorate_checker::lease::LeaseOracle;
use quorate_core::command::{AlarmChange, AlarmKind, Command, Refusal};
use quorate_core::lease::LeaseCall;
use quorate_core::machine::decode_command;
use quorate_core::member::Answer;
use quorate_core::types::{LeaseId, LogIndex, MemberId, Term};
use std::collections::{BTreeMap, BTreeSet};

/// Clocks are taken to be off by so much at least, whether they drift in this seed or not.
const DRIFT_PPM_MIN: u64 = 100_000;
/// What a lease may take to end beyond its time.
const SLACK: Nanos = 2 * SECOND;

#[derive(Debug)]
pub(crate) struct LeaseWatch {
    pub(crate) oracle: LeaseOracle,
    /// The committed log is known to here.
    known: LogIndex,
    /// The entry that granted each lease there is.
    granted: BTreeMap<LeaseId, LogIndex>,
    /// While any of these is full nothing is granted.
    full: BTreeSet<MemberId>,
    /// Who leads last, and since when.
    promoted: (Term, Nanos),
}

impl LeaseWatch {
    pub(crate) fn new(schedule: &Schedule, parameters: &Parameters) -> Self {
        let drifts = schedule.items.iter().map(|item| match item.fault {
            Fault::ClockDrift { ppm, .. } => ppm.unsigned_abs(),
            _ => 0,
        });
        let drift_ppm = drifts.max().unwrap_or(0).max(DRIFT_PPM_MIN);
        // A machine that stalls ends nothing meanwhile.
        let slack = SLACK + 2 * parameters.apply_stall;
        Self {
            oracle: LeaseOracle::new(drift_ppm, slack),
            known: LogIndex(0),
            granted: BTreeMap::new(),
            full: BTreeSet::new(),
            promoted: (Term(0), 0),
        }
    }

    pub(crate) fn on_promoted(&mut self, term: Term, now: Nanos) {
        if term > self.promoted.0 {
            self.promoted = (term, now);
            self.oracle.promoted(now);
        }
    }

    fn on_committed(&mut self, index: LogIndex, term: Term, command: &Command, now: Nanos) -> Result<(), String> {
        match command {
            Command::Alarm(AlarmChange { alarm, active }) if alarm.kind == AlarmKind::NoSpace => {
                if *active {
                    self.full.insert(alarm.member);
                } else {
                    self.full.remove(&alarm.member);
                }
            }
            Command::LeaseGrant(grant) if self.full.is_empty() && !self.granted.contains_key(&grant.lease) => {
                self.granted.insert(grant.lease, index);
                // What an earlier leader left is counted from the promotion on.
                let begun = if term < self.promoted.0 { self.promoted.1 } else { now };
                self.oracle.granted(grant.lease.0, grant.ttl_s, begun, now);
            }
            Command::LeaseRevoke(revoke) if self.granted.remove(&revoke.lease).is_some() => self.oracle.revoked(revoke.lease.0, now),
            Command::LeaseExpire(expire) if self.granted.get(&expire.lease) == Some(&expire.granted) => {
                self.granted.remove(&expire.lease);
                self.oracle.expired(expire.lease.0, now)?;
            }
            Command::LeaseCheckpoint(checkpoint) => {
                for of in checkpoint.leases.iter().filter(|of| self.granted.get(&of.lease) == Some(&of.granted)) {
                    self.oracle.checkpointed(of.lease.0, of.remaining_s);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl World {
    /// Takes note of what was committed since.
    pub(crate) fn follow_leases(&mut self) {
        while self.leases.known < self.checks.committed() {
            self.leases.known = self.leases.known.next();
            let Some((term, command)) = self.checks.committed_command(self.leases.known) else { continue };
            let Ok(command) = decode_command(command) else { continue };
            let found = self.leases.on_committed(self.leases.known, term, &command, self.now);
            self.note_lease(found);
        }
    }

    pub(crate) fn judge_leases(&mut self) {
        let found = self.leases.oracle.overdue(self.now);
        self.note_lease(found);
    }

    pub(crate) fn on_lease_call(&mut self, call: LeaseCall) {
        if let LeaseCall::KeepAlive(lease) = call {
            self.leases.oracle.asked(lease.0, self.now);
        }
    }

    pub(crate) fn on_lease_answer(&mut self, call: LeaseCall, called: Nanos, answer: &Result<Answer, Refusal>) {
        let told = match answer {
            Ok(Answer::Lease(time)) => Some(time.map(|time| (time.ttl_s, time.remaining_s))),
            _ => None,
        };
        let oracle = &mut self.leases.oracle;
        let found = match (call, told) {
            (LeaseCall::KeepAlive(lease), told) => oracle.kept(lease.0, called, self.now, told.map(|told| told.map(|(ttl_s, _)| ttl_s))),
            (LeaseCall::TimeToLive(lease), Some(told)) => oracle.asked_time(lease.0, called, self.now, told),
            (LeaseCall::TimeToLive(_), None) => Ok(()),
        };
        self.note_lease(found);
    }

    /// The member that was asked is gone.
    pub(crate) fn on_lease_call_lost(&mut self, call: LeaseCall, called: Nanos) {
        if let LeaseCall::KeepAlive(lease) = call {
            let found = self.leases.oracle.kept(lease.0, called, self.now, None);
            self.note_lease(found);
        }
    }

    fn note_lease(&mut self, found: Result<(), String>) {
        if let Err(text) = found {
            self.checks.report(Checker::Leases, || text);
        }
    }
}
