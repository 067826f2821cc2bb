//! The part of Quorate that decides: Raft, multi-version key-values, watchers and the write-ahead log's format, as pure actors.
//!
//! Nothing in here can name a clock, a socket, a file, a thread or global chance: the crate is `no_std`. Time and chance are
//! arguments, effects are data, and whoever hosts an actor carries them out. The simulator hosts the same actors as production.
//!
//! ```text
//!  client ─> web ─ propose ─> Consensus ─ Write ─> WAL
//!                                │   ^ Durable ────┘
//!                                ├─ Send ─> other members
//!                                └─ Committed ─> Machine ─ Reply, Publish(View) ─> web, watch hubs
//!                                                  └─ Commit ─> state store, written behind
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod codec;
pub mod command;
pub mod consensus;
pub mod effect;
pub mod entry;
pub mod machine;
pub mod member;
pub mod mutant;
pub mod mvcc;
pub mod storage;
pub mod types;
pub mod wal;
pub mod watch;
