//! How many rows a state store holds.

use quorate_core::storage::{Direction, StateReader, Table};
use std::ops::ControlFlow;

pub fn count(store: &impl StateReader, table: Table) -> usize {
    let mut count = 0;
    let visited = store.scan(table, &[], &[], Direction::Forward, &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    });
    visited.expect("a store in memory reads");
    count
}
