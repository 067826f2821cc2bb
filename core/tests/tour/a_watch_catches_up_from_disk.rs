//! A watcher that begins in the past is served from the state store in slices, then joins the synced group.

use crate::cluster::{Cluster, stream};
use quorate_core::command::KeyRange;
use quorate_core::machine::MachineLimits;
use quorate_core::storage::MemoryStore;
use quorate_core::types::Revision;
use quorate_core::watch::{HubInput, HubLimits, WatchRequest};

#[test]
fn a_watch_catches_up_from_disk() {
    let nothing_in_memory = MachineLimits { recent_bytes: 0, ..MachineLimits::default() };
    let mut cluster = Cluster::with(nothing_in_memory, HubLimits { catch_up_revisions: 2, ..HubLimits::default() });
    for (key, value) in [("door", "open"), ("lamp", "on"), ("door", "shut"), ("lamp", "off"), ("lamp", "on")] {
        cluster.put(1, key, value);
        cluster.settle();
    }
    cluster.show_only(&[1]);
    let range = KeyRange { key: "lamp".into(), end: "".into() };
    cluster.watch(1, HubInput::<MemoryStore>::Open(stream(1)));
    cluster.watch(
        1,
        HubInput::<MemoryStore>::Create(stream(1), WatchRequest { range, start_revision: Revision(2), ..WatchRequest::default() }),
    );
    cluster.put(1, "lamp", "dim");
    cluster.settle();
    insta::assert_snapshot!(cluster.trace());
}
