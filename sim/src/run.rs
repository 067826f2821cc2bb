//! One seed in a fresh thread, inside a madsim runtime: its outcome, or the assertion that ended it.

use crate::clock::Nanos;
use crate::invariants::{Checker, Violation};
use crate::judge::{Judgement, Judging, Recorded, judge};
use crate::schedule::Schedule;
use crate::trace::{Hash128, Lines};
use crate::world::{Outcomes, World};
use std::{cell::RefCell, panic, sync::Once, thread};

thread_local! {
    /// Where and why this thread panicked.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes a panic in a seed's thread a finding instead of noise on the terminal.
fn catch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if thread::current().name() == Some(SEED_THREAD) {
                PANIC.with(|place| {
                    place.borrow_mut().get_or_insert_with(|| info.to_string());
                });
            } else {
                usual(info);
            }
        }));
    });
}

const SEED_THREAD: &str = "seed";

/// Runs a schedule and judges it. `lines`: where to tell what happens.
#[must_use]
pub fn run(schedule: &Schedule, judging: Judging, lines: Option<Lines>) -> Outcomes {
    catch_panics();
    let off = judging.off;
    let schedule = schedule.clone();
    let seed = schedule.seed;
    // Hash maps of the standard library are seeded once per thread: a run is only repeatable in a new one.
    let thread = thread::Builder::new().name(SEED_THREAD.into()).spawn(move || {
        let runtime = madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default());
        // Inside, so that the runtime adds no words of its own.
        let result =
            runtime.block_on(async move { panic::catch_unwind(panic::AssertUnwindSafe(|| World::new(schedule, off, lines).run())) });
        let result = result.and_then(|outcomes| panic::catch_unwind(panic::AssertUnwindSafe(|| judged(outcomes, judging))));
        result.map_err(|_| PANIC.with(|place| place.borrow_mut().take()).unwrap_or_else(|| "panic".into()))
    });
    let result = thread.expect("threads can be made").join().unwrap_or_else(|_| Err("the runtime panicked".into()));
    result.unwrap_or_else(|text| {
        let violation = (off != Some(Checker::Assertion)).then_some(Violation { checker: Checker::Assertion, at: Nanos::MAX, text });
        Outcomes {
            violation,
            hash: Hash128::default(),
            operations: 0,
            completed: 0,
            elections: 0,
            events: 0,
            simulated: 0,
            tally: crate::member::Tally::default(),
            recorded: Recorded::default(),
            undecided: None,
        }
    })
}

fn judged(mut outcomes: Outcomes, judging: Judging) -> Outcomes {
    if outcomes.violation.is_none() {
        match judge(&outcomes.recorded, judging) {
            Judgement::Right => {}
            Judgement::Wrong(checker, text) => outcomes.violation = Some(Violation { checker, at: outcomes.simulated, text }),
            Judgement::Undecided(text) => outcomes.undecided = Some(text),
        }
    }
    outcomes
}
