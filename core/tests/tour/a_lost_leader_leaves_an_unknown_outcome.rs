//! A leader that is cut off takes a write it cannot commit. Another is elected; the old one learns of it, and can only say that the
//! outcome is not known.

use crate::cluster::Cluster;

#[test]
fn a_lost_leader_leaves_an_unknown_outcome() {
    let mut cluster = Cluster::new();
    cluster.show_only(&[1, 2]);
    cluster.isolate(1);
    cluster.put(1, "lamp", "on");
    cluster.settle();
    cluster.elect(2);
    cluster.heal();
    cluster.beat(2);
    insta::assert_snapshot!(cluster.trace());
}
