//! What all mounts of one process share: options, budgets, and counters.

use crate::{budget::ByteBudget, cors::Cors};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use quorate_core::types::LeaseId;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// What etcd release this process is compatible with, in integers and dots only: clients parse them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versions {
    pub server: String,
    pub cluster: String,
    pub storage: String,
}

impl Default for Versions {
    fn default() -> Self {
        Self { server: "3.7.1".into(), cluster: "3.7.0".into(), storage: "3.7.0".into() }
    }
}

/// How the surfaces behave. The defaults are etcd's where it has the option.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Bytes of one request (`--max-request-bytes`); a gRPC message or JSON body may be [`RECEIVE_OVERHEAD_BYTES`] larger.
    pub max_request_bytes: usize,
    /// Operations of one txn (`--max-txn-ops`).
    pub max_txn_ops: usize,
    /// A stream with `hasleader` ends once its member has been without a leader for three of these.
    pub election_timeout: Duration,
    /// Seconds that a lease is granted at least.
    pub lease_ttl_min_s: i64,
    /// Where the ids come from that are chosen for leases: chance, another in each process.
    pub lease_seed: u64,
    /// Bytes that all answers above a small size may hold together, on their way from the store into the transport; one that does
    /// not fit waits.
    /// A connection may hold a quarter of it.
    pub answer_bytes: usize,
    /// An answer of that kind of which nothing moves for so long ends its connection.
    pub answer_timeout: Duration,
    /// Bytes that all requests may hold which have come in part; one that does not fit is refused. A connection may hold a quarter
    /// of it.
    pub received_bytes: usize,
    /// A request that has come in part ends unless it makes progress within this.
    pub receive_timeout: Duration,
    /// Whose pages may call this endpoint (`--cors`).
    pub cors: Cors,
    /// Whether `/v3/` is served (`--enable-grpc-gateway`).
    pub gateway: bool,
    pub versions: Versions,
}

/// What a request may take on the wire above its own bound.
pub const RECEIVE_OVERHEAD_BYTES: usize = 512 << 10;

/// What of a request must come within [`Options::receive_timeout`], unless it is the rest.
pub(crate) const PROGRESS_BYTES: usize = 16 << 10;
/// Bytes of the metadata of one request, names and values, each with the overhead that HTTP/2 counts (RFC 9113, section 6.5.2).
pub const METADATA_BYTES: usize = 64 << 10;

impl Default for Options {
    fn default() -> Self {
        Self {
            max_request_bytes: 1_536 << 10,
            max_txn_ops: 128,
            election_timeout: Duration::from_secs(1),
            lease_ttl_min_s: 2,
            lease_seed: 0,
            answer_bytes: 256 << 20,
            answer_timeout: Duration::from_secs(30),
            received_bytes: 256 << 20,
            receive_timeout: Duration::from_secs(10),
            cors: Cors::default(),
            gateway: true,
            versions: Versions::default(),
        }
    }
}

impl Options {
    /// The largest message that is read at all.
    #[must_use]
    pub const fn receive_bytes(&self) -> usize {
        self.max_request_bytes.saturating_add(RECEIVE_OVERHEAD_BYTES)
    }
}

/// Shared by all mounts; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Surface(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: Options,
    counters: Counters,
    registry: Registry,
    answers: ByteBudget,
    received: ByteBudget,
    /// Ids chosen for leases so far.
    leases_drawn: AtomicU64,
    /// Whether the process is about to end.
    stopping: watch::Sender<bool>,
}

impl Surface {
    /// `registry` may hold metrics of the host, under their whole names; the surfaces add theirs, and `/metrics` shows them all.
    #[must_use]
    pub fn new(options: Options, mut registry: Registry) -> Self {
        let counters = Counters::register(&mut registry);
        let answers = ByteBudget::new(options.answer_bytes);
        let received = ByteBudget::new(options.received_bytes);
        Self(Arc::new(Shared {
            options,
            counters,
            registry,
            answers,
            received,
            leases_drawn: AtomicU64::new(0),
            stopping: watch::Sender::new(false),
        }))
    }

    #[must_use]
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// An id for a lease whose client wants any: positive, and no other that this process draws. That another process has drawn it is
    /// as unlikely as a guess of 63 bits.
    pub(crate) fn draw_lease(&self) -> LeaseId {
        let drawn = self.0.leases_drawn.fetch_add(1, Ordering::Relaxed);
        // SplitMix64: each number once before any comes again, in no order.
        let mut id = self.0.options.lease_seed.wrapping_add(drawn.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        id = (id ^ id >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        id = (id ^ id >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        LeaseId(((id ^ id >> 31) >> 1).max(1).cast_signed())
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.0.counters
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The process is about to end: streams that would go on for ever tell their clients so, and end.
    pub fn stop(&self) {
        self.0.stopping.send_replace(true);
    }

    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.0.stopping.subscribe()
    }

    pub(crate) fn answers(&self) -> &ByteBudget {
        &self.0.answers
    }

    pub(crate) fn received(&self) -> &ByteBudget {
        &self.0.received
    }
}

/// What the surfaces count, under etcd's names.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub health_success: Counter,
    pub health_failure: Counter,
}

impl Counters {
    fn register(registry: &mut Registry) -> Self {
        let counters = Self::default();
        let mut add = |name: &str, help: &str, counter: &Counter| registry.register(name, help, counter.clone());
        add("etcd_server_health_success", "Successful health checks", &counters.health_success);
        add("etcd_server_health_failures", "Failed health checks", &counters.health_failure);
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn an_answer_waits_for_room_and_a_huge_one_to_be_alone() {
        let budget = ByteBudget::new(8 << 10);
        let small = budget.take(1 << 10).now_or_never().expect("fits");
        assert!(budget.take(8 << 10).now_or_never().is_none(), "would hold more than the budget");
        drop(small);
        let huge = budget.take(1 << 40).now_or_never().expect("alone");
        assert!(budget.take(1).now_or_never().is_none());
        drop(huge);
        assert!(budget.take(1).now_or_never().is_some());
    }
}
