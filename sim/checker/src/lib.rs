//! Judges histories. Depends neither on the store nor on the simulator, so real processes are judged by the same code.
//!
//! ```
//! use quorate_checker::{check, history::*};
//!
//! let request = Request::Put(Put { key: b"k".to_vec(), value: b"0".to_vec(), ..Put::default() });
//! let response = Response::Put { revision: 2, prev_kv: None };
//! let history = [
//!     Record::Invoke { op: 0, client: 0, at: 10, request },
//!     Record::Return { op: 0, at: 20, outcome: Outcome::Ok { response, rank: None } },
//! ];
//! assert_eq!(check(&history).expect("linearizable").writes, 1);
//! ```

mod blame;
pub mod history;
mod linearizability;
pub mod model;
mod operation;
mod real_time;
mod stats;
mod unknown;
mod violation;
mod watch;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod wgl;

pub use stats::Stats;
pub use violation::{Property, Violation};

use history::Record;

/// Judges a whole history: linearizability of everything answered, and every promise of every watch.
///
/// Complete: no sampling, no time limit. The records must stand in the order in which they happened (see [`history`]).
pub fn check(records: &[Record]) -> Result<Stats, Violation> {
    let history = operation::History::gather(records)?;
    let mut watches = watch::Tally::default();
    let order = linearizability::check(&history, |order| {
        watches = watch::check(&history, &order.model)?;
        Ok(())
    })?;
    Ok(Stats::new(&history, &order, watches))
}
