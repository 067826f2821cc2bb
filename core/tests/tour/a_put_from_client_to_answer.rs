//! One put, from the client to the answer, at the leader.

use crate::cluster::Cluster;

#[test]
fn a_put_from_client_to_answer() {
    let mut cluster = Cluster::new();
    cluster.show_only(&[1, 2]);
    cluster.put(1, "lamp", "on");
    cluster.settle();
    insta::assert_snapshot!(cluster.trace());
}
