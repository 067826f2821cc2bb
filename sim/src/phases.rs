//! After the chaos: for some seeds a cut that stays, then healing, and the proof that the cluster lives and its members agree.

use crate::chance::{Chance, Concern};
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::invariants::Checker;
use crate::world::{Event, Phase, World};
use quorate_checker::history::{OpId, Outcome, Refused};
use quorate_core::types::{Revision, Term};
use std::collections::BTreeSet;

/// Within so many election timeouts a write must succeed, or a leader be there.
const TIMEOUTS_MAX: Nanos = 10;
/// Under an unhealed cut that leaves one member a quorum, terms may grow by so much.
const TERMS_MAX: u64 = 5;
/// Once every member has taken a write after the healing, no term may change for so many election timeouts.
const STEADY_TIMEOUTS: Nanos = 4;
/// A write that was refused for lack of room is tried again after so long.
const PROBE_PAUSE: Nanos = 100 * MILLISECOND;
/// Of a thousand seeds, how many have a member that comes back when all is quiet.
const LATE_RETURN_PERMILLE: u64 = 300;
/// The identity of the cut among the disturbances.
const CUT: u64 = u64::MAX;

/// What is watched while a cut stays.
#[derive(Debug, Default)]
pub(crate) struct CutWatch {
    since: Option<Nanos>,
    term: Term,
    /// When a write that began under the cut succeeded first.
    first_write: Option<Nanos>,
    /// What is asked from then on must be answered.
    pub(crate) alive_since: Option<Nanos>,
    /// Writes on their way, one to each member that has not taken one since.
    probes: BTreeSet<OpId>,
    /// Members whose write is to be sent again.
    waiting: BTreeSet<usize>,
    converge_until: Nanos,
}

impl CutWatch {
    pub(crate) fn on_write(&mut self, invoked: Nanos, now: Nanos) {
        if self.since.is_some_and(|since| invoked >= since) {
            self.first_write.get_or_insert(now);
        }
    }
}

impl World {
    pub(crate) fn on_phase(&mut self, phase: Phase) {
        self.phase = phase;
        self.trace.tell(self.now, || format!("phase: {phase:?}"));
        let timeout = self.parameters.election;
        match phase {
            Phase::Chaos => {}
            Phase::Calm => {
                self.heal();
                for client in &self.clients {
                    client.port.mailbox.borrow_mut().unkind = false;
                }
                let next = if self.schedule.standing_cut.is_some() { Phase::Cut } else { Phase::Healed };
                let delay = if next == Phase::Cut { 4 * timeout + SECOND } else { 0 };
                self.after(delay, Event::Phase(next));
            }
            Phase::Cut => {
                let fault = self.schedule.standing_cut.clone().expect("only then is there such a phase");
                self.tally.fired(fault.class());
                self.disturb(CUT, &fault);
                self.cut.since = Some(self.now);
                self.cut.term = self.max_term();
                // Somebody asks wherever a quorum can be reached.
                for member in 0..self.members.len() {
                    if self.members[member].process.is_some() {
                        self.probe(member);
                    }
                }
                self.after(TIMEOUTS_MAX * timeout, Event::Phase(Phase::CutJudged));
            }
            Phase::CutJudged => {
                self.judge_cut();
                self.after(timeout, Event::Phase(Phase::Healed));
            }
            Phase::Healed => {
                if self.cut.since.take().is_some() {
                    self.heal();
                }
                self.after(TIMEOUTS_MAX * timeout, Event::Phase(Phase::Alive));
            }
            Phase::Alive => {
                let led = self.alive().filter(|member| self.members[*member].leads()).count();
                if led == 0 {
                    self.checks.report(Checker::Liveness, || format!("no leader {TIMEOUTS_MAX} election timeouts after all was healed"));
                }
                self.cut.alive_since = Some(self.now);
                self.leases.oracle.healed(self.now);
                self.cut.waiting = self.alive().collect();
                for member in self.cut.waiting.clone() {
                    self.on_probe(member);
                }
            }
            Phase::Accepted => {
                self.cut.term = self.max_term();
                self.after(STEADY_TIMEOUTS * timeout, Event::Phase(Phase::Steady));
            }
            Phase::Steady => {
                let (before, after) = (self.cut.term, self.max_term());
                if before != after {
                    self.checks.report(Checker::Liveness, || {
                        format!("all is healed and served, but within {STEADY_TIMEOUTS} election timeouts term {before} became {after}")
                    });
                }
                let stop = (self.now + SECOND).max(self.run_min_end().saturating_sub(3 * SECOND));
                let stop = self.plan_late_return(stop);
                self.at(stop, Event::Phase(Phase::Stopping));
            }
            Phase::Stopping => {
                for client in &self.clients {
                    client.port.mailbox.borrow_mut().stopping = true;
                }
                self.cut.converge_until = self.now + TIMEOUTS_MAX * timeout + self.parameters.patience;
                self.after(SECOND, Event::Phase(Phase::Converging));
            }
            Phase::Converging => {
                // It is quiet once nothing is left that ends by itself.
                if self.leases.oracle.count() > 0 {
                    self.judge_leases();
                    self.cut.converge_until = self.now + TIMEOUTS_MAX * timeout + self.parameters.patience;
                    return self.after(200 * MILLISECOND, Event::Phase(Phase::Converging));
                }
                let Some(unlike) = self.unlike() else {
                    let at = (self.now + 2 * SECOND).max(self.run_min_end());
                    return self.at(at, Event::Phase(Phase::Judged));
                };
                if self.now < self.cut.converge_until {
                    self.after(200 * MILLISECOND, Event::Phase(Phase::Converging));
                } else {
                    self.checks.report(Checker::Liveness, || format!("all is healed and quiet, but {unlike}"));
                }
            }
            Phase::Judged => self.done = true,
        }
    }

    /// In some seeds a member misses the last writes and is back when nobody writes any more: what it lacks may be gone everywhere.
    /// Says when clients stop.
    fn plan_late_return(&mut self, stop: Nanos) -> Nanos {
        let members = self.members.len();
        let mut chance = Chance::new(self.schedule.seed, Concern::Snapshot, u64::MAX);
        let member = chance.below(members as u64) as usize;
        if !chance.permille(LATE_RETURN_PERMILLE) || self.alive().count() < members {
            return stop;
        }
        let absent_after = self.parameters.limits.absent_after.as_nanos() as Nanos;
        let away = absent_after + chance.between(SECOND / 2, 3 * SECOND);
        let (stop, incarnation) = (stop.max(self.now + away), self.members[member].incarnation);
        self.at(stop - away, Event::Die { member, incarnation, down: away + SECOND / 2 });
        stop
    }

    fn judge_cut(&mut self) {
        let (since, before) = (self.cut.since.expect("it was cut"), self.cut.term);
        let reach = self.best_reach();
        if reach * 2 <= self.members.len() {
            // Members beyond repair leave nobody a quorum: nothing is promised.
            return;
        }
        if self.cut.first_write.is_none() {
            self.checks.report(Checker::Liveness, || {
                format!(
                    "cut since {:.3} s, one member reaches {reach}, but no write succeeded in {TIMEOUTS_MAX} election timeouts",
                    since as f64 / 1e9
                )
            });
        }
        let grown = self.max_term().0.saturating_sub(before.0);
        if grown > TERMS_MAX {
            self.checks.report(Checker::Liveness, || format!("terms grew by {grown} under a cut that leaves one member a quorum"));
        }
    }

    /// How many live members the best connected one reaches, itself included.
    fn best_reach(&self) -> usize {
        let alive: Vec<usize> = self.alive().collect();
        let reaches = |a: usize, b: usize| a == b || (self.network.cut(a, b).is_none() && self.network.cut(b, a).is_none());
        alive.iter().map(|a| alive.iter().filter(|b| reaches(*a, **b)).count()).max().unwrap_or(0)
    }

    fn max_term(&self) -> Term {
        self.alive()
            .filter_map(|member| self.members[member].process.as_ref().map(|process| process.log.status().term))
            .max()
            .unwrap_or_default()
    }

    pub(crate) fn on_probed(&mut self, op: OpId, outcome: &Outcome) {
        let member = usize::try_from(op / 1_000_000).expect("small") - crate::sessions::PROBES as usize;
        if self.phase == Phase::Cut && !matches!(outcome, Outcome::Ok { .. }) {
            // Refused for lack of a leader, perhaps; ask again.
            self.probe(member);
        }
        if !self.cut.probes.remove(&op) {
            return;
        }
        match outcome {
            Outcome::Ok { .. } => {}
            // A full store stays full until an operator makes room: that is an answer, too.
            Outcome::Refused(Refused::Other(why)) if why == "NoSpace" => {}
            Outcome::Refused(Refused::Other(why)) if why == "TooManyRequests" => {
                self.cut.waiting.insert(member);
                self.after(PROBE_PAUSE, Event::Probe { member });
            }
            Outcome::Refused(_) | Outcome::Unknown => {
                self.checks.report(Checker::Liveness, || format!("member {member} does not serve though all is healed: {outcome:?}"));
            }
        }
        if self.cut.probes.is_empty() && self.cut.waiting.is_empty() {
            self.after(0, Event::Phase(Phase::Accepted));
        }
    }

    /// Sends a write to a member until it takes one, as it must in time.
    pub(crate) fn on_probe(&mut self, member: usize) {
        let since = self.cut.alive_since.expect("only then");
        if self.now > since + TIMEOUTS_MAX * self.parameters.election {
            let text = || format!("member {member} refuses every write for {TIMEOUTS_MAX} election timeouts though all is healed");
            return self.checks.report(Checker::Liveness, text);
        }
        self.cut.waiting.remove(&member);
        let op = self.probe(member);
        self.cut.probes.insert(op);
    }

    /// Why the members are not all alike yet.
    fn unlike(&self) -> Option<String> {
        if let Some((op, operation)) = self.sessions.ops.first_key_value() {
            return Some(format!("operation {op} at member {} is not answered", operation.member));
        }
        let committed = self.checks.committed();
        for member in self.alive() {
            let process = self.members[member].process.as_ref().expect("alive");
            let (status, applied) = (process.log.status(), process.view.applied().index);
            if applied != committed || status.committed != committed {
                return Some(format!("member {member} has committed {} and applied {applied} of {committed}", status.committed));
            }
        }
        (self.alive().count() * 2 <= self.members.len()).then(|| "most members are down".into())
    }

    /// The last look at the members: all equal.
    pub(crate) fn judge(&mut self) -> Option<(Checker, String)> {
        let mut first: Option<(usize, u128, u32)> = None;
        for member in self.alive() {
            let process = self.members[member].process.as_ref().expect("alive");
            process.state.check();
            let view = &process.view;
            let hash = match view.hash_kv(Revision(0)) {
                Ok(hash) => hash.hash,
                Err(refusal) => return self.unless_off(Checker::Digests, format!("member {member} cannot hash its state: {refusal:?}")),
            };
            let seen = (member, view.digest(), hash);
            let (other, digest, known) = *first.get_or_insert(seen);
            if (digest, known) != (seen.1, seen.2)
                && let Some(found) = self.unless_off(Checker::Digests, format!("members {other} and {member} end in different states: digests {digest:032x} and {:032x}, hashes {known:08x} and {:08x}", seen.1, seen.2))
            {
                return Some(found);
            }
        }
        None
    }

    fn unless_off(&self, checker: Checker, text: String) -> Option<(Checker, String)> {
        (self.off != Some(checker)).then_some((checker, text))
    }
}
