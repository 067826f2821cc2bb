//! The machine from outside: one claim per test, and a million random operations against a slow model.

mod a_broken_store;
mod claims;
mod equals_a_model;
mod leases;
mod model;
#[path = "../support/rows.rs"]
mod rows;
