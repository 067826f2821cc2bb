//! Judges histories. Depends neither on the store nor on the simulator, so real processes are judged by the same code.
//!
//! ```
//! use quorate_checker::{Budget, check, history::*};
//!
//! let request = Request::Put(Put { key: b"k".to_vec(), value: b"0".to_vec(), ..Put::default() });
//! let response = Response::Put { revision: 2, prev_kv: None };
//! let history = [
//!     Record::Invoke { op: 0, client: 0, at: 10, request },
//!     Record::Return { op: 0, at: 20, outcome: Outcome::Ok { response, rank: None } },
//! ];
//! assert_eq!(check(&history, None, Budget::default()).expect_holds().writes, 1);
//! ```

mod blame;
mod budget;
pub mod history;
pub mod lease;
mod linearizability;
mod log_order;
pub mod model;
mod operation;
mod placement;
mod real_time;
mod stats;
mod unknown;
mod verdict;
mod violation;
mod watch;
mod witness;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod wgl;

pub use budget::Budget;
pub use stats::Stats;
pub use verdict::{Undecided, Verdict};
pub use violation::{Property, Violation};
pub use witness::{Entry, Step, Witness};

use budget::Meter;
use history::Record;
use log_order::LogOrder;
use operation::History;
use verdict::Failure;

/// Judges a whole history: linearizability of everything answered, and every promise of every watch.
///
/// Complete: no sampling. The records must stand in the order in which they happened (see [`history`]). A whole witness is replayed in
/// time linear in the history, and always decides. Without one an order is searched for, within the budget; a witness whose beginning is
/// missing narrows that search.
#[must_use]
pub fn check(records: &[Record], witness: Option<&Witness>, budget: Budget) -> Verdict {
    let judged = History::gather(records).map_err(Failure::from).and_then(|history| match witness {
        Some(witness) if witness.is_whole => Ok(verify(&history, witness)?),
        _ => search(&history, witness, budget),
    });
    match judged {
        Ok(stats) => Verdict::Holds(stats),
        Err(Failure::Broken(violation)) => Verdict::Broken(violation),
        Err(Failure::Undecided(undecided)) => Verdict::Undecided(undecided),
    }
}

fn verify(history: &History<'_>, witness: &Witness) -> Result<Stats, Violation> {
    let log = LogOrder::replay(history, witness)?;
    let steps = placement::check(history, &log)?;
    let watches = watch::check(history, &log.order.model)?;
    Ok(Stats::new(history, &log.order, watches, log.steps + steps))
}

fn search(history: &History<'_>, witness: Option<&Witness>, budget: Budget) -> Result<Stats, Failure> {
    let mut meter = Meter::new(budget);
    let mut watches = watch::Tally::default();
    let order = linearizability::check(history, witness, &mut meter, |order| {
        watches = watch::check(history, &order.model)?;
        Ok(())
    })?;
    Ok(Stats::new(history, &order, watches, meter.steps()))
}
