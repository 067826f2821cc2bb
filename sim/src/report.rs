//! What people read: the summary of many seeds, and the explanation of one that failed.

use crate::judge::Judging;
use crate::run::run;
use crate::schedule::{FaultClass, Schedule};
use crate::trace::Lines;
use crate::world::Outcomes;
use std::{collections::BTreeMap, fmt::Write, sync::Arc, time::Duration};

/// Events shown around a failure.
const SHOWN: usize = 60;

/// Sums over seeds.
#[derive(Debug, Default)]
pub struct Summary {
    pub seeds: u64,
    pub operations: u64,
    pub elections: u64,
    pub events: u64,
    pub simulated_s: f64,
    /// Seeds about whose history nobody could decide.
    pub undecided: u64,
    completed: Vec<u64>,
    /// How long each seed took, and which it was.
    took: Vec<(Duration, u64)>,
    fired: BTreeMap<FaultClass, u64>,
    fired_seeds: BTreeMap<FaultClass, u64>,
    mattered_seeds: BTreeMap<FaultClass, u64>,
}

impl Summary {
    pub fn add(&mut self, seed: u64, outcomes: &Outcomes, took: Duration) {
        self.seeds += 1;
        self.took.push((took, seed));
        self.operations += outcomes.operations;
        self.elections += outcomes.elections;
        self.events += outcomes.events;
        self.simulated_s += outcomes.simulated as f64 / 1e9;
        self.undecided += u64::from(outcomes.undecided.is_some());
        self.completed.push(outcomes.completed);
        for (class, times) in &outcomes.tally.fired {
            *self.fired.entry(*class).or_default() += times;
            *self.fired_seeds.entry(*class).or_default() += 1;
        }
        for class in outcomes.tally.mattered.keys() {
            // What belongs to no fault of this run, such as a full window in a run that is not tiny, is not a fault's merit.
            if outcomes.tally.fired.contains_key(class) {
                *self.mattered_seeds.entry(*class).or_default() += 1;
            }
        }
    }

    #[must_use]
    pub fn text(&mut self, wall: Duration, jobs: u16) -> String {
        let mut text = String::new();
        self.completed.sort_unstable();
        let median = self.completed.get(self.completed.len() / 2).copied().unwrap_or(0);
        let wall_s = wall.as_secs_f64();
        let _ = writeln!(
            text,
            "{} seeds, {} operations (median {median} completed a seed), {} elections, {:.0} simulated seconds in {wall_s:.1} s",
            self.seeds, self.operations, self.elections, self.simulated_s
        );
        let _ = writeln!(
            text,
            "{:.0} simulated seconds per wall second on {jobs} thread(s), at {:.0} events per simulated second",
            self.simulated_s / wall_s,
            self.events as f64 / self.simulated_s.max(1.0)
        );
        let _ = writeln!(text, "{} undecided, {:.2} seeds per wall second", self.undecided, self.seeds as f64 / wall_s);
        self.took.sort_unstable();
        if let (Some((median, _)), Some((slowest, seed))) = (self.took.get(self.took.len() / 2), self.took.last()) {
            let _ = writeln!(text, "slowest: seed {seed}, {:.1} times the median", slowest.as_secs_f64() / median.as_secs_f64());
        }
        let _ = writeln!(text, "{:<12} {:>8} {:>12} {:>16}   mattered means", "fault", "fired", "in seeds", "mattered in");
        for class in FaultClass::ALL {
            let (fired, seeds, mattered) = (get(&self.fired, class), get(&self.fired_seeds, class), get(&self.mattered_seeds, class));
            let percent = 100.0 * mattered as f64 / self.seeds.max(1) as f64;
            let _ = writeln!(text, "{class:<12} {fired:>8} {seeds:>12} {mattered:>8} {percent:>5.1} %   {}", class.mattered_means());
        }
        text
    }
}

fn get(map: &BTreeMap<FaultClass, u64>, class: FaultClass) -> u64 {
    map.get(&class).copied().unwrap_or(0)
}

/// Runs a failing schedule again, with every event told, and says what broke, what happened around it, and how to see it again.
#[must_use]
pub fn explain(schedule: &Schedule, judging: Judging, command: &str) -> String {
    let lines = Lines::default();
    let outcomes = run(schedule, judging, Some(Arc::clone(&lines)));
    let mut text = String::new();
    let _ = writeln!(text, "seed {} breaks a promise.", schedule.seed);
    let lines = lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let skipped = lines.len().saturating_sub(SHOWN);
    let _ = writeln!(text, "\nThe last {} events:", lines.len().min(SHOWN));
    for line in lines.iter().skip(skipped) {
        let _ = writeln!(text, "  {line}");
    }
    match &outcomes.violation {
        Some(violation) => {
            let _ = writeln!(text, "\n{} broken: {}", violation.checker, violation.text);
        }
        None => {
            let _ = writeln!(text, "\nThe second run broke nothing: the simulator is not deterministic here. Please report that.");
        }
    }
    let _ = writeln!(text, "\nTo see it again: {command}");
    text
}
