//! A member was away for so long that what it needs next is gone. It is sent a state, chunk by chunk; its log says in one record that it
//! goes on from there, and its state half swaps the whole of its state.

use crate::cluster::{Cluster, ELECTION_TIMEOUT};

#[test]
fn a_member_far_behind_is_given_a_snapshot() {
    let mut cluster = Cluster::with_short_log();
    cluster.isolate(3);
    cluster.pass(1, ELECTION_TIMEOUT);
    for value in ["on", "off", "on", "off"] {
        cluster.put(1, "lamp", value);
        cluster.settle();
    }
    cluster.pass(1, ELECTION_TIMEOUT);
    cluster.show_only(&[1, 3]);
    cluster.heal();
    cluster.beat(1);
    insta::assert_snapshot!(cluster.trace());
    cluster.put(3, "lamp", "on");
    cluster.settle();
    cluster.read(3, "lamp");
    cluster.settle();
    assert!(cluster.trace().contains("reads b\"lamp\" = b\"on\" at revision 6"), "{}", cluster.trace());
}
