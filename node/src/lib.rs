//! What one member does: configuration, files, peers, threads. The deciding is in `quorate-core`.

pub mod config;
pub mod data_dir;
pub mod flags;
pub mod identity;
pub mod logging;
pub mod state;
pub mod transport;
pub mod url;
pub mod wal;
