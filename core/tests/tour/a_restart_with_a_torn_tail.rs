//! A follower dies in the middle of a write to its log. It cuts what was torn, says nothing before its new boot is durable, and
//! gets from the leader what it lacks.

use crate::cluster::Cluster;

#[test]
fn a_restart_with_a_torn_tail() {
    let mut cluster = Cluster::new();
    cluster.stall_disk(3);
    cluster.put(1, "lamp", "on");
    cluster.settle();
    cluster.show_only(&[1, 3]);
    cluster.crash_torn(3);
    cluster.start(3);
    cluster.settle();
    cluster.beat(1);
    insta::assert_snapshot!(cluster.trace());
}
