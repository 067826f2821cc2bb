//! actix actors that host the pure ones: the replica on a thread of its own, a watch hub on each worker, and the front they share.

mod front;
mod inbox;
mod replica;
mod shared;
mod watch;

pub use front::NodeFront;
pub use inbox::{Done, INBOX_INPUTS, INBOX_PEER_BYTES, Inbound, PeerInbox, TellReplica};
pub use replica::{Parts, ReplicaActor};
pub use shared::{Leadership, Member, PROPOSALS_BYTES, Shared};
pub use watch::{HubActor, HubHandle};
