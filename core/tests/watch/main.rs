//! The watch hub against a log that a test writes by hand, and against a model that knows every event there ever was.

mod bounds;
mod claims;
mod log;
mod model;
