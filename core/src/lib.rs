//! The part of Quorate that decides: Raft, multi-version key-values, watchers and the write-ahead log's format, as pure actors.
//!
//! Nothing in here can name a clock, a socket, a file, a thread or global chance: the crate is `no_std`. Time and chance are
//! arguments, effects are data, and whoever hosts an actor carries them out. The simulator hosts the same actors as production.
//!
//! ```text
//!  client ─> web ─ ticket ─> LogHalf ── Wal ──> WAL
//!                             │  ^ └─ Send ─> other members
//!                       Order v  │ Report
//!                            StateHalf ─ Answer, Publish(View) ─> web, watch hubs
//!                                └─ Store ─> state store, written behind
//!  LogHalf = Consensus and clients' requests, StateHalf = Machine and their answers: see [`member`]
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod codec;
pub mod command;
pub mod consensus;
pub mod entry;
pub mod lease;
pub mod machine;
pub mod member;
pub mod mutant;
pub mod mvcc;
pub mod storage;
pub mod types;
pub mod v2;
pub mod wal;
pub mod watch;
