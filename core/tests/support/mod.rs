//! What tests of the machine share: a state store in memory, and a slow obvious model of key-values.

pub mod model;
pub mod store;
