//! What must hold at every step, whatever clients see: one property a file, each judged from outside the actors.

mod applied_at_most_committed;
mod boot_gate;
mod committed_is_durable;
mod durable_log_survives;
mod election_safety;
mod leader_completeness;
mod log_matching;
mod mirror;
mod read_sees_committed;
mod revision_monotone;
mod state_behind_log;
mod state_machine_safety;
mod vote_once;

use crate::clock::Nanos;
use crate::trace::Hash128;
use bytes::Bytes;
use mirror::Mirror;
use quorate_checker::history::OpId;
use quorate_core::consensus::{Consensus, Envelope, Message, RaftMessage, Role};
use quorate_core::types::{LogId, LogIndex, RequestId, Revision, Term, WriteNumber};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// Who found it. Each can be turned off, to see who else would have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Checker {
    ElectionSafety,
    LogMatching,
    LeaderCompleteness,
    StateMachineSafety,
    CommittedIsDurable,
    AppliedAtMostCommitted,
    VoteOnce,
    DurableLogSurvives,
    RevisionMonotone,
    ReadSeesCommitted,
    /// A member stopped, or distrusted another, without a fault that explains it.
    Health,
    /// An assertion of the code itself.
    Assertion,
    Linearizability,
    Watch,
    Digests,
    Liveness,
    /// A member took what its quota forbids.
    Quota,
    StateBehindLog,
    BootGate,
    /// What a client of the v2 tree saw is not what the log says.
    V2,
    /// A lease ended too early or too late, or an answer about one was true at no moment of its call.
    Leases,
}

impl Checker {
    pub const ALL: [Self; 21] = [
        Self::ElectionSafety,
        Self::LogMatching,
        Self::LeaderCompleteness,
        Self::StateMachineSafety,
        Self::CommittedIsDurable,
        Self::AppliedAtMostCommitted,
        Self::VoteOnce,
        Self::DurableLogSurvives,
        Self::RevisionMonotone,
        Self::ReadSeesCommitted,
        Self::Health,
        Self::Assertion,
        Self::Linearizability,
        Self::Watch,
        Self::Digests,
        Self::Liveness,
        Self::Quota,
        Self::StateBehindLog,
        Self::BootGate,
        Self::V2,
        Self::Leases,
    ];
}

impl fmt::Display for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Checker {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|checker| checker.to_string().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(ToString::to_string).collect();
            format!("no checker is called {name}; there are {}", names.join(", "))
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub checker: Checker,
    pub at: Nanos,
    pub text: String,
}

/// What the properties share: every member's log as it looks from outside, and what is committed.
#[derive(Debug)]
pub struct Facts {
    members: Vec<Mirror>,
    /// Every entry that any member ever had, by index: its term, its chain hash (which covers all before it).
    known: Vec<Vec<(Term, Hash128)>>,
    /// The chain of the committed log; index 1 is at 0.
    committed: Vec<(Term, Hash128)>,
    /// The term in which an entry was first seen committed.
    committed_in: Vec<Term>,
    /// Every command that any member ever had in its log.
    commands: BTreeMap<(u64, Term), (RequestId, Bytes)>,
    requests: BTreeMap<RequestId, u64>,
    leaders: BTreeMap<Term, usize>,
    pub elections: u64,
}

/// Collects what the properties find.
#[derive(Debug)]
pub struct Checks {
    pub facts: Facts,
    votes: vote_once::VoteOnce,
    revisions: revision_monotone::RevisionMonotone,
    off: Option<Checker>,
    found: Option<(Checker, String)>,
}

type Found = Result<(), (Checker, String)>;

impl Checks {
    #[must_use]
    pub fn new(members: usize, off: Option<Checker>) -> Self {
        Self {
            facts: Facts {
                members: vec![Mirror::default(); members],
                known: Vec::new(),
                committed: Vec::new(),
                committed_in: Vec::new(),
                commands: BTreeMap::new(),
                requests: BTreeMap::new(),
                leaders: BTreeMap::new(),
                elections: 0,
            },
            votes: vote_once::VoteOnce::new(members),
            revisions: revision_monotone::RevisionMonotone::new(members),
            off,
            found: None,
        }
    }

    /// The first thing found, if any.
    #[must_use]
    pub fn found(&mut self) -> Option<(Checker, String)> {
        self.found.take()
    }

    pub fn report(&mut self, checker: Checker, text: impl FnOnce() -> String) {
        if self.off != Some(checker) && self.found.is_none() {
            self.found = Some((checker, text()));
        }
    }

    fn note(&mut self, found: Found) {
        if let Err((checker, text)) = found {
            self.report(checker, || text);
        }
    }

    /// After every step: follows the member's log and commit index.
    pub fn observe(&mut self, member: usize, consensus: &Consensus, voters: usize) {
        let matching = log_matching::follow(&mut self.facts, member, consensus);
        self.note(matching);
        let status = consensus.status();
        let applied = applied_at_most_committed::check(member, &status);
        self.note(applied);
        let before = self.facts.committed.len();
        let safety = state_machine_safety::advance(&mut self.facts, member, &status, consensus);
        self.note(safety);
        if self.facts.committed.len() > before {
            // The founding configuration, an entry per member, is committed by definition.
            if self.facts.committed.len() > voters {
                let durable = committed_is_durable::check(&self.facts, voters);
                self.note(durable);
            }
        }
    }

    pub fn on_role(&mut self, member: usize, term: Term, role: Role) {
        if role == Role::Leader {
            let safety = election_safety::elected(&mut self.facts, member, term);
            self.note(safety);
            let complete = leader_completeness::check(&self.facts, member, term);
            self.note(complete);
        }
    }

    /// A message is on its way: what it promises must hold for ever.
    pub fn on_sent(&mut self, member: usize, reported: WriteNumber, envelope: &Envelope) {
        let opened = boot_gate::check(member, reported, envelope);
        self.note(opened);
        match envelope.message {
            Message::Raft(RaftMessage::Vote { granted: true }) => {
                let once = self.votes.granted(member, envelope.term, envelope.to);
                self.note(once);
            }
            Message::Raft(RaftMessage::Appended { .. }) => self.votes.promised(member, envelope.term),
            _ => {}
        }
    }

    /// The member's log is about to go on behind a state that others applied.
    pub fn on_install(&mut self, member: usize, last: LogId) {
        let installed = state_machine_safety::install(&mut self.facts, member, last);
        self.note(installed);
    }

    pub fn on_persist(&mut self, member: usize, applied: LogId) {
        let behind = state_behind_log::check(&self.facts, member, applied);
        self.note(behind);
    }

    pub fn on_write(&mut self, member: usize, number: WriteNumber) {
        self.facts.members[member].seal(number);
    }

    pub fn on_durable(&mut self, member: usize, number: WriteNumber) {
        self.facts.members[member].durable(number);
    }

    pub fn on_crash(&mut self, member: usize) {
        self.facts.members[member].crash();
        self.revisions.crash(member);
    }

    pub fn on_recovered(&mut self, member: usize, consensus: &Consensus, term: Term) {
        let survived = durable_log_survives::check(&mut self.facts, member, consensus);
        self.note(survived);
        let kept = self.votes.recovered(member, term);
        self.note(kept);
    }

    pub fn on_published(&mut self, member: usize, revision: Revision, applied: LogId) {
        let monotone = self.revisions.published(member, revision, applied);
        self.note(monotone);
    }

    /// A linearizable read that arrived when that was committed is answered from a state that has the log through `applied`.
    pub fn on_read_answered(&mut self, member: usize, op: OpId, committed: LogIndex, applied: LogIndex) {
        let sees = read_sees_committed::check(member, op, committed, applied);
        self.note(sees);
    }

    /// The commands of the committed log, in its order.
    pub fn committed_commands(&self) -> impl Iterator<Item = (u64, RequestId, &Bytes)> {
        (1..).zip(&self.facts.committed).filter_map(|(index, (term, _))| {
            let (request, command) = self.facts.commands.get(&(index, *term))?;
            Some((index, *request, command))
        })
    }

    /// The command of a committed entry, if it has one, with the entry's term.
    #[must_use]
    pub fn committed_command(&self, index: LogIndex) -> Option<(Term, &Bytes)> {
        let (term, _) = self.facts.committed.get(usize::try_from(index.0.checked_sub(1)?).ok()?)?;
        let (_, command) = self.facts.commands.get(&(index.0, *term))?;
        Some((*term, command))
    }

    #[must_use]
    pub fn committed(&self) -> LogIndex {
        LogIndex(self.facts.committed.len() as u64)
    }
}
