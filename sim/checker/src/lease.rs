//! What leases promise in true time, whatever the clocks of the members do within a bound.
//!
//! Told of what happens in the order in which it happens, so that whoever watches a cluster, simulated or real, hears of a broken
//! promise at once.

use crate::history::Nanos;
use std::collections::BTreeMap;

const SECOND: u128 = 1_000_000_000;
const MILLION: u128 = 1_000_000;

/// Follows the leases of one cluster.
#[derive(Debug)]
pub struct LeaseOracle {
    /// How much faster or slower than true time a clock may run, in millionths; below a million.
    drift_ppm: u64,
    /// How late an end may be beyond that.
    slack: Nanos,
    lives: BTreeMap<i64, Life>,
    /// When the last life of an id ended.
    ended: BTreeMap<i64, Nanos>,
    /// From here on lateness counts: before, nobody may have been able to end anything.
    healed: Option<Nanos>,
}

/// One lease from its grant to its end.
#[derive(Debug)]
struct Life {
    ttl_s: u64,
    /// When its grant was committed.
    granted: Nanos,
    /// Its time has certainly not begun anew after this.
    kept: Nanos,
    /// By then it is over, if nobody keeps it.
    due: Nanos,
    /// What a new leader begins with; `None`: all of it.
    remaining_s: Option<u64>,
    /// Keepalives on their way.
    open: u64,
    /// When the last of them came.
    asked: Option<Nanos>,
}

/// A promise that was not kept.
pub type Broken = String;

/// Keepalives as old as this may still renew something when all is healed: a paused member had them.
const LINGERING: Nanos = 20_000_000_000;

impl LeaseOracle {
    #[must_use]
    pub fn new(drift_ppm: u64, slack: Nanos) -> Self {
        assert!(drift_ppm < 1_000_000, "a clock that stands still");
        Self { drift_ppm, slack, lives: BTreeMap::new(), ended: BTreeMap::new(), healed: None }
    }

    /// The least true time in which some clock shows so many seconds.
    fn shortest(&self, seconds: u64) -> Nanos {
        nanos(u128::from(seconds) * SECOND * MILLION / (MILLION + u128::from(self.drift_ppm)))
    }

    /// The most true time that it takes some clock to show so many seconds.
    fn longest(&self, seconds: u64) -> Nanos {
        nanos(u128::from(seconds) * SECOND * MILLION / (MILLION - u128::from(self.drift_ppm)))
    }

    /// A grant was committed. `begun`: the earliest moment from which a leader may count its time.
    pub fn granted(&mut self, lease: i64, ttl_s: i64, begun: Nanos, at: Nanos) {
        let ttl_s = u64::try_from(ttl_s).unwrap_or(0);
        let due = at.saturating_add(self.longest(ttl_s));
        self.lives.insert(lease, Life { ttl_s, granted: at, kept: begun, due, remaining_s: None, open: 0, asked: None });
    }

    /// It was committed how much is left of a lease.
    pub fn checkpointed(&mut self, lease: i64, remaining_s: Option<i64>) {
        if let Some(life) = self.lives.get_mut(&lease) {
            life.remaining_s = remaining_s.map(|left| u64::try_from(left).unwrap_or(0));
        }
    }

    /// The end of a lease was committed because somebody asked for it.
    pub fn revoked(&mut self, lease: i64, at: Nanos) {
        if self.lives.remove(&lease).is_some() {
            self.ended.insert(lease, at);
        }
    }

    /// The end of a lease was committed because its time is over.
    pub fn expired(&mut self, lease: i64, at: Nanos) -> Result<(), Broken> {
        let Some(life) = self.lives.remove(&lease) else { return Ok(()) };
        self.ended.insert(lease, at);
        let least = self.shortest(life.ttl_s);
        if at < life.kept.saturating_add(least) {
            return Err(format!(
                "lease {lease:x} of {} s was kept alive as of {}, and expired at {}: after {} of at least {}",
                life.ttl_s,
                show(life.kept),
                show(at),
                show(at - life.kept),
                show(least)
            ));
        }
        self.check_late(lease, &life, at)
    }

    fn check_late(&self, lease: i64, life: &Life, at: Nanos) -> Result<(), Broken> {
        let Some(healed) = self.healed else { return Ok(()) };
        let latest = life.due.max(healed).saturating_add(self.slack);
        if at > latest && life.open == 0 {
            let (ttl_s, due) = (life.ttl_s, show(life.due));
            return Err(format!("lease {lease:x} of {ttl_s} s was due at {due} at the latest, and is there at {}", show(at)));
        }
        Ok(())
    }

    /// Another leader begins to count.
    pub fn promoted(&mut self, at: Nanos) {
        for lease in self.lives.keys().copied().collect::<Vec<_>>() {
            let left = self.lives[&lease].remaining_s.unwrap_or(self.lives[&lease].ttl_s);
            let due = at.saturating_add(self.longest(left));
            let life = self.lives.get_mut(&lease).expect("just seen");
            life.due = life.due.max(due);
        }
    }

    /// All that stood in the way of the cluster is gone.
    pub fn healed(&mut self, at: Nanos) {
        self.healed = Some(at);
        for lease in self.lives.keys().copied().collect::<Vec<_>>() {
            let whole = self.longest(self.lives[&lease].ttl_s);
            let life = self.lives.get_mut(&lease).expect("just seen");
            if life.asked.is_some_and(|asked| asked.saturating_add(LINGERING) > at) {
                life.due = life.due.max(at.saturating_add(whole));
            }
        }
    }

    /// A keepalive has come to a member.
    pub fn asked(&mut self, lease: i64, at: Nanos) {
        if let Some(life) = self.lives.get_mut(&lease) {
            life.open += 1;
            life.asked = Some(at);
        }
    }

    /// A keepalive that came at `called` has its end at `at`: answered with `Some` time, with none, or (`None`) not known how.
    pub fn kept(&mut self, lease: i64, called: Nanos, at: Nanos, answer: Option<Option<i64>>) -> Result<(), Broken> {
        let whole = self.lives.get(&lease).map_or(0, |life| self.longest(life.ttl_s));
        if let Some(life) = self.lives.get_mut(&lease) {
            life.open = life.open.saturating_sub(1);
            life.due = life.due.max(at.saturating_add(whole));
            if let (Some(Some(_)), true) = (answer, life.granted <= called) {
                life.kept = life.kept.max(called);
            }
        }
        answer.map_or(Ok(()), |answer| self.check_answer(lease, called, at, answer))
    }

    /// A question that came at `called` was answered at `at`.
    pub fn asked_time(&self, lease: i64, called: Nanos, at: Nanos, answer: Option<(i64, i64)>) -> Result<(), Broken> {
        self.check_answer(lease, called, at, answer.map(|(ttl_s, _)| ttl_s))?;
        match answer {
            Some((ttl_s, remaining_s)) if !(0..=ttl_s).contains(&remaining_s) => {
                Err(format!("lease {lease:x} is said to have {remaining_s} s of {ttl_s}"))
            }
            _ => Ok(()),
        }
    }

    /// Whoever was told of a lease: it was there at some moment of the call. Whoever was told of none: it was away at some moment.
    fn check_answer(&self, lease: i64, called: Nanos, at: Nanos, answer: Option<i64>) -> Result<(), Broken> {
        let life = self.lives.get(&lease);
        match (answer, life) {
            (Some(_), None) if self.ended.get(&lease).is_none_or(|ended| *ended < called) => Err(format!(
                "lease {lease:x} is said at {} to be there, who asked did so at {}, and it ended at {}",
                show(at),
                show(called),
                self.ended.get(&lease).map_or_else(|| "no time".into(), |ended| show(*ended))
            )),
            (Some(ttl_s), Some(life)) if life.granted < called && u64::try_from(ttl_s) != Ok(life.ttl_s) => {
                Err(format!("lease {lease:x} of {} s is said to be one of {ttl_s} s", life.ttl_s))
            }
            (None, Some(life)) if life.granted < called => Err(format!(
                "lease {lease:x} is said at {} not to be there, who asked did so at {}, and it is there since {}",
                show(at),
                show(called),
                show(life.granted)
            )),
            _ => Ok(()),
        }
    }

    /// Says which lease should be gone by now, if one should.
    pub fn overdue(&self, at: Nanos) -> Result<(), Broken> {
        self.lives.iter().try_for_each(|(lease, life)| self.check_late(*lease, life, at))
    }

    /// How many leases there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lives.len()
    }
}

fn nanos(value: u128) -> Nanos {
    Nanos::try_from(value).unwrap_or(Nanos::MAX)
}

fn show(at: Nanos) -> String {
    format!("{:.3} s", at as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Nanos = 1_000_000_000;

    fn oracle() -> LeaseOracle {
        LeaseOracle::new(100_000, 2 * S)
    }

    #[test]
    fn a_lease_lives_its_time_as_the_fastest_clock_shows_it() {
        let mut early = oracle();
        early.granted(1, 11, S, S);
        assert!(early.expired(1, 11 * S - 1).is_err());
        let mut right = oracle();
        right.granted(1, 11, S, S);
        assert_eq!(right.expired(1, 11 * S), Ok(()));
    }

    #[test]
    fn an_acknowledged_keepalive_begins_its_time_anew_from_its_call_and_a_lost_one_does_not() {
        let mut kept = oracle();
        kept.granted(1, 11, 0, 0);
        kept.asked(1, 5 * S);
        assert_eq!(kept.kept(1, 5 * S, 6 * S, Some(Some(11))), Ok(()));
        assert!(kept.expired(1, 15 * S - 1).is_err());
        let mut lost = oracle();
        lost.granted(1, 11, 0, 0);
        lost.asked(1, 5 * S);
        assert_eq!(lost.kept(1, 5 * S, 6 * S, None), Ok(()));
        assert_eq!(lost.expired(1, 11 * S), Ok(()));
    }

    #[test]
    fn a_lease_that_nobody_keeps_is_gone_in_time_once_all_is_healed() {
        let mut oracle = oracle();
        oracle.granted(1, 9, 0, 0);
        assert_eq!(oracle.overdue(100 * S), Ok(()), "nothing counts before it is healed");
        oracle.healed(S);
        assert_eq!(oracle.overdue(12 * S), Ok(()));
        assert!(oracle.overdue(12 * S + 1).is_err());
        oracle.promoted(8 * S);
        assert_eq!(oracle.overdue(20 * S), Ok(()), "the new leader counts anew");
        oracle.asked(1, 18 * S);
        assert_eq!(oracle.overdue(30 * S), Ok(()), "a keepalive is on its way");
    }

    #[test]
    fn a_checkpoint_bounds_what_a_new_leader_may_give() {
        let mut oracle = oracle();
        oracle.granted(1, 900, 0, 0);
        oracle.lives.get_mut(&1).expect("granted").due = 0;
        oracle.checkpointed(1, Some(9));
        oracle.healed(0);
        oracle.promoted(10 * S);
        assert_eq!(oracle.overdue(22 * S), Ok(()));
        assert!(oracle.overdue(23 * S).is_err());
    }

    #[test]
    fn an_answer_is_true_at_some_moment_of_its_call() {
        let mut oracle = oracle();
        assert!(oracle.kept(1, S, 2 * S, Some(Some(9))).is_err(), "never granted");
        assert_eq!(oracle.kept(1, S, 2 * S, Some(None)), Ok(()));
        oracle.granted(1, 9, 3 * S, 3 * S);
        assert!(oracle.kept(1, 4 * S, 5 * S, Some(None)).is_err(), "it is there all the time");
        assert!(oracle.asked_time(1, 4 * S, 5 * S, Some((9, 10))).is_err());
        assert!(oracle.asked_time(1, 4 * S, 5 * S, Some((8, 8))).is_err());
        assert_eq!(oracle.asked_time(1, 4 * S, 5 * S, Some((9, 9))), Ok(()));
        oracle.revoked(1, 6 * S);
        assert_eq!(oracle.kept(1, 5 * S, 7 * S, Some(Some(9))), Ok(()), "it was there when that was asked");
        assert!(oracle.kept(1, 6 * S + 1, 7 * S, Some(Some(9))).is_err());
        assert_eq!(oracle.kept(1, 5 * S, 7 * S, Some(None)), Ok(()));
    }
}
