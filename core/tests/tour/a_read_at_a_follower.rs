//! One linearizable read at a follower: it asks the leader for an index, and answers from its own state.

use crate::cluster::Cluster;

#[test]
fn a_read_at_a_follower() {
    let mut cluster = Cluster::new();
    cluster.put(1, "lamp", "on");
    cluster.settle();
    cluster.show_only(&[1, 2]);
    cluster.read(2, "lamp");
    cluster.settle();
    insta::assert_snapshot!(cluster.trace());
}
