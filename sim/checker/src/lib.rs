//! Judges histories. Depends neither on the store nor on the simulator, so real processes are judged by the same code.

pub mod history;
