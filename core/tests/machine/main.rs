//! The machine from outside: one claim per test, and a million random operations against a slow model.

mod claims;
mod equals_a_model;
mod model;
#[path = "../support/store.rs"]
mod store;
