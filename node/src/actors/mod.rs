//! actix actors that host the pure ones: the two halves of the member on a thread each, a watch hub on each worker, and the handle
//! that the client surfaces call.

mod handle;
mod inbox;
mod log;
mod shared;
mod snapshots;
mod state;
mod tickets;
mod timer;
mod watch;

pub use handle::MemberHandle;
pub use inbox::{INBOX_INPUTS, Inbound, PeerInbox, TellLog, Told};
pub use log::{LogActor, LogParts};
pub use shared::{Leadership, Member, Shared};
pub use snapshots::SnapshotMetrics;
pub use state::{StateActor, StateParts, StateQueue, store_done};
pub use tickets::Tickets;
pub use watch::{HubActor, HubHandle};
