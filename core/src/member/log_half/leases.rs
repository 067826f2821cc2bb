//! Leases in the log half: what clients and other members ask of the clock, and what the clock appends.
//!
//! A call at a member that does not lead goes to the leader under the id of its attempt. The leader gathers what has come until a
//! flush and asks for one read of its own for all of it: the round of that read is what confirms the calls.

use super::{LogEffect, LogHalf};
use crate::consensus::{ConsensusInput, LeaseMessage, Proposal};
use crate::lease::clock::{Answered, LeaseClock};
use crate::lease::{Lease, LeaseCall, LeaseChange, LeaseLimits};
use crate::member::orders::Order;
use crate::member::request::Answer;
use crate::mutant::{Mutant, planted};
use crate::types::{LeaseId, LogIndex, MemberId, Monotonic, Now, ReadId, Term};
use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};
use core::time::Duration;

/// Calls, or answers to them, that one message carries.
const CALLS_PER_MESSAGE: usize = 2_048;
/// While the log takes nothing (leadership is on its way to another, or apply is behind), the clock tries again after so long.
const BLOCKED_PAUSE: Duration = Duration::from_millis(20);

type Call = (ReadId, LeaseCall);

#[derive(Debug)]
pub(super) struct Leases {
    clock: LeaseClock,
    calls_max: usize,
    /// Since the last flush.
    gathered: Vec<Call>,
    /// By the sequence of the read that is to confirm them.
    asked: BTreeMap<u64, (Term, Vec<Call>)>,
    /// Confirmed; answered once this index is applied. Indices ascend.
    confirmed: VecDeque<(LogIndex, Vec<Call>)>,
    /// Since the last flush.
    answers: Vec<Answered>,
    /// What other members are told at the next flush.
    outbox: Vec<(MemberId, LeaseMessage)>,
    /// Calls that have come to this member and are neither answered, refused nor passed on.
    open: usize,
    blocked_until: Monotonic,
}

impl Leases {
    pub(super) fn new(limits: LeaseLimits, leases: impl IntoIterator<Item = (LeaseId, Lease)>) -> Self {
        Self {
            clock: LeaseClock::new(limits, leases),
            calls_max: limits.calls,
            gathered: Vec::new(),
            asked: BTreeMap::new(),
            confirmed: VecDeque::new(),
            answers: Vec::new(),
            outbox: Vec::new(),
            open: 0,
            blocked_until: Monotonic::default(),
        }
    }

    pub(super) fn gather(&mut self, calls: impl IntoIterator<Item = Call>) {
        let before = self.gathered.len();
        self.gathered.extend(calls);
        self.open += self.gathered.len() - before;
    }

    pub(super) fn deadline(&self) -> Monotonic {
        // With the bug planted it is on another clock; heartbeats come often enough.
        if planted(Mutant::S6) { Monotonic::NEVER } else { self.clock.deadline().max(self.blocked_until) }
    }
}

/// The time that leases go by.
fn lease_time(now: Now) -> Monotonic {
    if planted(Mutant::S6) { Monotonic(Duration::from_millis(now.wall.0)) } else { now.monotonic }
}

impl LogHalf {
    pub(super) fn flush_leases(&mut self, now: Now, out: &mut Vec<LogEffect>) {
        if !self.leases.gathered.is_empty() {
            self.ask_about_leases(now, out);
        }
        self.append_due(now);
        self.send_lease_answers(out);
        for (to, message) in core::mem::take(&mut self.leases.outbox) {
            self.step_consensus(now, ConsensusInput::Lease { to, message }, out);
        }
    }

    /// One read for all calls, at the leader; one message with them to it, at another member.
    fn ask_about_leases(&mut self, now: Now, out: &mut Vec<LogEffect>) {
        let calls = core::mem::take(&mut self.leases.gathered);
        let status = self.consensus.status();
        match status.leader {
            Some(leader) if leader == self.member && planted(Mutant::S3) => self.call_clock(now, calls),
            Some(leader) if leader == self.member => {
                let sequence = self.take_sequence();
                self.leases.asked.insert(sequence, (status.term, calls));
                let read = ReadId { member: self.member, boot: self.boot, sequence };
                self.step_consensus(now, ConsensusInput::Read(read), out);
            }
            Some(leader) => {
                let (own, theirs): (Vec<Call>, Vec<Call>) = calls.into_iter().partition(|(caller, _)| caller.member == self.member);
                self.leases.open -= own.len();
                for calls in own.chunks(CALLS_PER_MESSAGE) {
                    self.leases.outbox.push((leader, LeaseMessage::Request(calls.to_vec())));
                }
                self.refuse_lease_calls(now, theirs.into_iter().map(|(caller, _)| caller));
            }
            None => self.refuse_lease_calls(now, calls.into_iter().map(|(caller, _)| caller)),
        }
    }

    /// Appends what is due. A leader alone does, and never by way of another.
    fn append_due(&mut self, now: Now) {
        self.leases.clock.take_up();
        let time = lease_time(now);
        if self.leases.clock.deadline() > time || self.leases.blocked_until > now.monotonic {
            return;
        }
        loop {
            let leads = self.consensus.takes_own();
            if !leads && !planted(Mutant::S1) {
                self.leases.blocked_until = now.monotonic + BLOCKED_PAUSE;
                return;
            }
            let Some(command) = self.leases.clock.next_command(time) else { return };
            let command = crate::machine::encode_command(&command);
            if leads {
                let sequence = self.take_sequence();
                self.consensus.append_own(Proposal { request: self.request_id(sequence), command });
            } else {
                self.propose(None, now.monotonic + self.settings.request_timeout, command);
            }
        }
    }

    fn send_lease_answers(&mut self, out: &mut Vec<LogEffect>) {
        let answers = core::mem::take(&mut self.leases.answers);
        self.leases.open -= answers.len();
        let mut theirs: BTreeMap<MemberId, Vec<Answered>> = BTreeMap::new();
        for (caller, time) in answers {
            if caller.member == self.member {
                self.answer_lease_call((caller, time), out);
            } else {
                theirs.entry(caller.member).or_default().push((caller, time));
            }
        }
        for (to, answers) in theirs {
            for answers in answers.chunks(CALLS_PER_MESSAGE) {
                self.leases.outbox.push((to, LeaseMessage::Reply(answers.to_vec())));
            }
        }
    }

    /// To the client of this member that waits, if it still does.
    fn answer_lease_call(&mut self, (caller, time): Answered, out: &mut Vec<LogEffect>) {
        if let Some((ticket, _)) = self.reads.confirm(caller.sequence) {
            out.push(LogEffect::Answer(ticket, Ok(Answer::Lease(time))));
        }
    }

    /// This member cannot answer them: whoever asked does so again.
    fn refuse_lease_calls(&mut self, now: Now, callers: impl IntoIterator<Item = ReadId>) {
        let mut theirs: BTreeMap<MemberId, Vec<ReadId>> = BTreeMap::new();
        for caller in callers {
            self.leases.open -= 1;
            if caller.member == self.member {
                self.reads.refuse(now, caller.sequence, self.settings.limits.read_retry);
            } else {
                theirs.entry(caller.member).or_default().push(caller);
            }
        }
        for (to, callers) in theirs {
            self.leases.outbox.push((to, LeaseMessage::Refused(callers)));
        }
    }

    pub(super) fn on_lease_message(&mut self, now: Now, from: MemberId, message: LeaseMessage, out: &mut Vec<LogEffect>) {
        match message {
            LeaseMessage::Request(calls) if self.leases.open + calls.len() <= self.leases.calls_max => self.leases.gather(calls),
            LeaseMessage::Request(calls) => {
                let callers = calls.into_iter().map(|(caller, _)| caller).collect();
                self.leases.outbox.push((from, LeaseMessage::Refused(callers)));
            }
            LeaseMessage::Reply(answers) => {
                for answered in answers {
                    self.answer_lease_call(answered, out);
                }
            }
            LeaseMessage::Refused(callers) => {
                for caller in callers {
                    self.reads.refuse(now, caller.sequence, self.settings.limits.read_retry);
                }
            }
        }
    }

    /// The read of that number is confirmed, at an index; if it was asked for calls, they are answered from there. Says whether.
    pub(super) fn on_lease_round(&mut self, now: Now, sequence: u64, index: LogIndex, out: &mut Vec<LogEffect>) -> bool {
        let Some((term, calls)) = self.leases.asked.remove(&sequence) else { return false };
        let status = self.consensus.status();
        if status.leader != Some(self.member) || status.term != term {
            // Another leader confirmed it, who knows nothing of this member's clock.
            self.refuse_lease_calls(now, calls.into_iter().map(|(caller, _)| caller));
        } else if index <= self.applied || planted(Mutant::S2) {
            self.call_clock(now, calls);
        } else {
            out.push(LogEffect::State(Order::Tell { index }));
            self.leases.confirmed.push_back((index, calls));
        }
        true
    }

    /// The read of that number came to nothing. Says whether it was one for calls.
    pub(super) fn on_lease_round_refused(&mut self, now: Now, sequence: u64) -> bool {
        let Some((_, calls)) = self.leases.asked.remove(&sequence) else { return false };
        self.refuse_lease_calls(now, calls.into_iter().map(|(caller, _)| caller));
        true
    }

    fn call_clock(&mut self, now: Now, calls: Vec<Call>) {
        let Leases { clock, answers, .. } = &mut self.leases;
        for (caller, call) in calls {
            clock.call(lease_time(now), caller, call, answers);
        }
    }

    pub(super) fn on_lease_changes(&mut self, now: Now, changes: Vec<LeaseChange>) {
        self.leases.clock.on_changes(lease_time(now), changes, &mut self.leases.answers);
    }

    /// The state is applied further. What became of leases through here has been reported before.
    pub(super) fn on_applied_for_leases(&mut self, now: Now) {
        let applied = self.applied;
        self.leases.clock.on_applied(applied);
        while let Some((_, calls)) = self.leases.confirmed.pop_front_if(|(index, _)| *index <= applied) {
            self.call_clock(now, calls);
        }
    }

    /// A new leader's clock begins; whoever leads no more answers nothing.
    pub(super) fn on_role_for_leases(&mut self, now: Now, leads: Option<Term>) {
        if planted(Mutant::S1) && leads.is_none() {
            return;
        }
        let mut callers = self.leases.clock.end();
        let asked = core::mem::take(&mut self.leases.asked).into_values().flat_map(|(_, calls)| calls);
        let confirmed = core::mem::take(&mut self.leases.confirmed).into_iter().flat_map(|(_, calls)| calls);
        callers.extend(asked.chain(confirmed).map(|(caller, _)| caller));
        self.refuse_lease_calls(now, callers);
        if let Some(term) = leads {
            let first = self.consensus.term_start().expect("it leads");
            self.leases.clock.begin(term, first, lease_time(now));
            self.leases.blocked_until = Monotonic::default();
        }
    }
}
