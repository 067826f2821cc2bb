//! A table must never hold a batch that its journal has not yet on disk. What the engine syncs before it flushes is enough only while
//! nobody else seals what is flushed next, see `node/src/state`.

use quorate_node::{memory::MemoryBudget, state::StateStore};
use std::fs;

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn one_thread_alone_seals_and_flushes_what_a_state_store_holds() {
    let directory = tempfile::tempdir().unwrap();
    let before = threads();
    let store = StateStore::open(directory.path(), MemoryBudget::default()).unwrap();
    assert_eq!(threads(), before + 1);
    drop(store);
}
