//! What one member does: configuration, files, peers, threads. The deciding is in `quorate-core`.

pub mod actors;
pub mod clock;
pub mod config;
pub mod data_dir;
pub mod flags;
pub mod identity;
pub mod listen;
pub mod logging;
pub mod memory;
pub mod recover;
pub mod run;
pub mod state;
pub mod throttle;
pub mod transport;
pub mod url;
pub mod wal;

/// Says why, and ends the process: a member that cannot keep its promises must not go on.
pub fn fatal(reason: &str) -> ! {
    tracing::error!(target: "quorate", error = reason, "this member stops");
    std::process::exit(1)
}
