//! Many seeds: in parallel, with progress, and with planted bugs.

use crate::cli::Arguments;
#[cfg(feature = "mutants")]
use crate::invariants::Checker;
use crate::judge::Judging;
use crate::nemesis;
use crate::report::{Summary, explain};
use crate::run::run;
use crate::schedule::Schedule;
use crate::world::Outcomes;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    ops::Range,
    process::ExitCode,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

const CLEAN: u8 = 0;
const VIOLATION: u8 = 1;
const USAGE: u8 = 2;
/// No violation, and no pass either.
const UNDECIDED: u8 = 3;

pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    ExitCode::from(match carry_out(&arguments) {
        Ok(code) => code,
        Err(usage) => {
            eprintln!("error: {usage}");
            USAGE
        }
    })
}

fn carry_out(arguments: &Arguments) -> Result<u8, String> {
    if let Some(name) = &arguments.mutant {
        plant(name)?;
    }
    if arguments.mutants {
        return mutants(arguments.jobs);
    }
    if let Some(file) = &arguments.schedule {
        let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let schedule = Schedule::from_text(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        return Ok(one(&schedule, arguments));
    }
    if let Some(seeds) = &arguments.seeds {
        return Ok(many(seeds, arguments));
    }
    let schedule = nemesis::schedule(arguments.seed.unwrap_or(0));
    if let Some(file) = &arguments.save {
        std::fs::write(file, schedule.to_text()).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(one(&schedule, arguments))
}

fn command(arguments: &Arguments, schedule: &Schedule) -> String {
    let what = match &arguments.schedule {
        Some(file) => format!("--schedule {}", file.display()),
        None => format!("--seed {}", schedule.seed),
    };
    let features = if cfg!(feature = "mutants") { " --features mutants" } else { "" };
    let mutant = arguments.mutant.as_ref().map_or(String::new(), |name| format!(" --mutant {name}"));
    let without = arguments.without_checker.map_or(String::new(), |checker| format!(" --without-checker {checker}"));
    let search = if arguments.search { " --search" } else { "" };
    format!("cargo run -p sim{features} -- {what}{mutant}{without}{search}")
}

fn judging(arguments: &Arguments) -> Judging {
    Judging { off: arguments.without_checker, by_search: arguments.search }
}

fn one(schedule: &Schedule, arguments: &Arguments) -> u8 {
    let judging = judging(arguments);
    let begun = Instant::now();
    let outcomes = run(schedule, judging, None);
    if outcomes.violation.is_some() {
        print!("{}", explain(schedule, judging, &command(arguments, schedule)));
        return VIOLATION;
    }
    if arguments.check && !same(schedule, judging, &outcomes) {
        return VIOLATION;
    }
    let mut summary = Summary::default();
    summary.add(schedule.seed, &outcomes, begun.elapsed());
    print!("{}", summary.text(begun.elapsed(), 1));
    println!("trace {}", outcomes.hash);
    if arguments.trace > 0 {
        let lines = crate::trace::Lines::default();
        drop(run(schedule, judging, Some(std::sync::Arc::clone(&lines))));
        let lines = lines.lock().expect("the run is over");
        lines.iter().skip(lines.len().saturating_sub(arguments.trace)).for_each(|line| println!("{line}"));
    }
    match outcomes.undecided {
        Some(text) => {
            println!("seed {}: {text}", schedule.seed);
            UNDECIDED
        }
        None => CLEAN,
    }
}

fn same(schedule: &Schedule, judging: Judging, outcomes: &Outcomes) -> bool {
    let again = run(schedule, judging, None);
    if again.hash == outcomes.hash {
        return true;
    }
    println!("seed {} is not deterministic: trace {} and then {}", schedule.seed, outcomes.hash, again.hash);
    false
}

/// What one of many seeds came to.
struct Done {
    seed: u64,
    outcomes: Outcomes,
    /// How long its first run and the judgement of it took.
    took: Duration,
    /// With `--check`: whether a second run was the same.
    same: bool,
}

fn many(seeds: &Range<u64>, arguments: &Arguments) -> u8 {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left {msg}").expect("a valid template");
    let bar = ProgressBar::new(seeds.end - seeds.start).with_style(style);
    let begun = Instant::now();
    let judging = judging(arguments);
    let mut summary = Summary::default();
    let mut failed = Vec::new();
    each(seeds, arguments.jobs, judging, arguments.check, |done| {
        bar.inc(1);
        summary.add(done.seed, &done.outcomes, done.took);
        if let Some(violation) = &done.outcomes.violation {
            bar.println(format!("seed {}: {} broken: {}", done.seed, violation.checker, violation.text));
            failed.push(done.seed);
        } else if !done.same {
            bar.println(format!("seed {} is not deterministic", done.seed));
            failed.push(done.seed);
        } else if let Some(text) = &done.outcomes.undecided {
            bar.println(format!("seed {}: {text}", done.seed));
        }
        true
    });
    bar.finish_and_clear();
    print!("{}", summary.text(begun.elapsed(), arguments.jobs));
    failed.sort_unstable();
    let Some(first) = failed.first() else {
        if summary.undecided > 0 {
            println!("nothing found, but {} seeds are undecided", summary.undecided);
            return UNDECIDED;
        }
        println!("nothing found");
        return CLEAN;
    };
    println!("{} seeds failed: {failed:?}\n", failed.len());
    let schedule = nemesis::schedule(*first);
    print!("{}", explain(&schedule, judging, &command(arguments, &schedule)));
    VIOLATION
}

/// Runs seeds on `jobs` threads; `on_done` says whether to go on.
fn each(seeds: &Range<u64>, jobs: u16, judging: Judging, check: bool, mut on_done: impl FnMut(Done) -> bool) {
    let next = AtomicU64::new(seeds.start);
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let schedule = nemesis::schedule(seed);
                    let begun = Instant::now();
                    let outcomes = run(&schedule, judging, None);
                    let took = begun.elapsed();
                    let same = !check || run(&schedule, judging, None).hash == outcomes.hash;
                    if sender.send(Done { seed, outcomes, took, same }).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        while let Ok(done) = receiver.recv() {
            if !on_done(done) {
                next.store(seeds.end, Ordering::Relaxed);
            }
        }
    });
}

#[cfg(not(feature = "mutants"))]
fn plant(name: &str) -> Result<(), String> {
    Err(format!("mutant {name} can only be planted in a build with `--features mutants`"))
}

#[cfg(not(feature = "mutants"))]
fn mutants(_jobs: u16) -> Result<u8, String> {
    Err("mutants can only be planted in a build with `--features mutants`".into())
}

#[cfg(feature = "mutants")]
fn plant(name: &str) -> Result<(), String> {
    use quorate_core::mutant::{Mutant, plant};
    let found = Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}").eq_ignore_ascii_case(name));
    let mutant = found.ok_or_else(|| format!("no mutant is called {name}; there are {:?}", Mutant::ALL))?;
    plant(Some(mutant));
    Ok(())
}

/// Seeds within which a mutant must die.
#[cfg(feature = "mutants")]
const SEEDS_TO_KILL_MAX: u64 = 1_000;

/// Plants each mutant, looks for the first seed that kills it, and asks who else would have seen it.
#[cfg(feature = "mutants")]
fn mutants(jobs: u16) -> Result<u8, String> {
    use quorate_core::mutant::{Mutant, plant};
    let begun = Instant::now();
    println!("{:<6} {:>13}  {:<24} without it", "mutant", "seeds to kill", "found by");
    let mut killers = Vec::new();
    let mut code = CLEAN;
    for mutant in Mutant::ALL {
        plant(Some(mutant));
        let mut first: Option<(u64, Checker)> = None;
        each(&(0..SEEDS_TO_KILL_MAX), jobs, Judging::default(), false, |done| {
            if let Some(violation) = done.outcomes.violation
                && first.is_none_or(|(seed, _)| done.seed < seed)
            {
                first = Some((done.seed, violation.checker));
            }
            first.is_none()
        });
        let Some((seed, checker)) = first else {
            println!("{:<6} {:>13}  lives", format!("{mutant:?}"), format!("> {SEEDS_TO_KILL_MAX}"));
            code = VIOLATION;
            continue;
        };
        let others = run(&nemesis::schedule(seed), Judging { off: Some(checker), ..Judging::default() }, None).violation;
        let others = others.map_or_else(|| "nobody in this seed".into(), |violation| violation.checker.to_string());
        println!("{:<6} {:>13}  {:<24} {others}", format!("{mutant:?}"), seed + 1, checker.to_string());
        killers.push(seed);
    }
    plant(None);
    let falsely: Vec<u64> =
        killers.into_iter().filter(|seed| run(&nemesis::schedule(*seed), Judging::default(), None).violation.is_some()).collect();
    if falsely.is_empty() {
        println!("without a mutant the same seeds find nothing");
    } else {
        println!("without a mutant these seeds fail too, so they prove nothing: {falsely:?}");
        code = VIOLATION;
    }
    println!("{:.0} s", begun.elapsed().as_secs_f64());
    Ok(code)
}
