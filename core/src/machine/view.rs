//! What readers see: one instant of everything the machine knows.

use crate::command::{Alarm, Command, Member, MemberAttributes, Range, RangeReply, Refusal, Txn, TxnReply};
use crate::entry::Configuration;
use crate::lease::{Lease, LeaseCounts};
use crate::mvcc::cost::{self, Older};
use crate::mvcc::hash::RunningHash;
use crate::mvcc::hash_kv::hash_kv;
use crate::mvcc::stop::Stop;
use crate::mvcc::store::Store;
use crate::mvcc::{EncodedKeyValue, Event, KvHash, read, txn};
use crate::storage::{ReadFailed, StateReader};
use crate::types::{LeaseId, LogId, MemberId, Revision};
use crate::v2::{self, Listing, NodePath, Space, WatchPoint};
use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use bytes::Bytes;

/// An immutable state of the whole store, shared by readers. Cloning is cheap; holding one delays only memory.
///
/// A read that fails here is a refusal to the one who reads: another member may serve it. This member learns of it when it applies.
#[derive(Clone, Debug)]
pub struct View<R: StateReader> {
    pub(super) store: Store<R>,
    pub(super) compaction_hashes: Arc<[KvHash]>,
    pub(super) applied: LogId,
    pub(super) configuration: Arc<Configuration>,
    pub(super) attributes: Arc<BTreeMap<MemberId, MemberAttributes>>,
    pub(super) alarms: Arc<[Alarm]>,
    pub(super) digest: RunningHash,
    pub(super) v2: Space,
}

/// The index of the v2 tree before its first change: as in etcd, where founding a cluster and publishing its members count.
pub(super) fn v2_fresh_index(configuration: Option<&Configuration>) -> u64 {
    configuration.map_or(0, |configuration| configuration.peer_urls.len() as u64) * 2 + 1
}

/// What a reader is told.
fn told(stop: Stop) -> Refusal {
    match stop {
        Stop::Rejected(rejection) => rejection.into(),
        Stop::Failed(failed) => unreadable(failed),
    }
}

fn unreadable(_: ReadFailed) -> Refusal {
    Refusal::StorageFailed
}

impl<R: StateReader> View<R> {
    /// The newest revision; 1 in a fresh store.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.store.revision
    }

    /// The compact revision F: the oldest readable one; -1 before the first compaction.
    #[must_use]
    pub fn compact_revision(&self) -> Revision {
        self.store.compact_revision
    }

    #[must_use]
    pub fn applied(&self) -> LogId {
        self.applied
    }

    /// A hash over everything ever applied: equal on members that applied the same entries, else one has diverged.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.digest.value()
    }

    /// Sorted by id.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let of = |id: &MemberId, peer_urls: &Vec<_>| {
            let attributes = self.attributes.get(id);
            Member {
                id: *id,
                name: attributes.map(|a| a.name.clone()).unwrap_or_default(),
                peer_urls: peer_urls.clone(),
                client_urls: attributes.map(|a| a.client_urls.clone()).unwrap_or_default(),
                is_learner: self.configuration.learners.contains(id),
            }
        };
        self.configuration.peer_urls.iter().map(|(id, urls)| of(id, urls)).collect()
    }

    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    #[must_use]
    pub fn alarms(&self) -> &[Alarm] {
        &self.alarms
    }

    // The v2 tree.

    fn v2_fresh_index(&self) -> u64 {
        v2_fresh_index(Some(&self.configuration))
    }

    /// The index of the v2 tree's last change.
    #[must_use]
    pub fn v2_index(&self) -> u64 {
        self.v2.index(self.v2_fresh_index())
    }

    /// A node of the v2 tree; with those in it if it is a directory, or all below it if `recursive`. Hidden ones are left out.
    pub fn v2_get(&self, path: &NodePath, recursive: bool) -> Result<Listing, v2::Error> {
        self.v2.get(path, recursive, self.v2_fresh_index())
    }

    /// Bytes of the values that `v2_get` would return at most: for budgets. In logarithmic time.
    #[must_use]
    pub fn v2_bytes(&self, path: &NodePath) -> u64 {
        self.v2.measure(path).bytes
    }

    /// The first event of the v2 tree at or after an index that somebody waits for; `None`: it is still to come.
    pub fn v2_next_event(&self, point: &WatchPoint, from: u64) -> Result<Option<Arc<v2::Event>>, v2::Error> {
        self.v2.next_event(point, from, self.v2_fresh_index())
    }

    /// Live keys. In constant time.
    #[must_use]
    pub fn key_count(&self) -> u64 {
        self.store.index.sum().count
    }

    /// Encoded bytes of all live keys with their values. In constant time: fit for every answer's header.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.store.index.sum().bytes
    }

    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<Lease> {
        self.store.leases.get(id)
    }

    /// In order of their ids.
    pub fn leases(&self) -> impl Iterator<Item = (LeaseId, Lease)> {
        self.store.leases.iter()
    }

    /// In constant time.
    #[must_use]
    pub fn lease_count(&self) -> u64 {
        self.store.leases.len()
    }

    #[must_use]
    pub fn lease_counts(&self) -> LeaseCounts {
        self.store.leases.counts
    }

    /// The keys attached to a lease, ascending.
    pub fn lease_keys(&self, id: LeaseId) -> impl Iterator<Item = Bytes> {
        self.store.leases.keys(id).map(|key| Bytes::copy_from_slice(key))
    }

    /// Bytes of the keys attached to a lease, in logarithmic time: for budgets.
    #[must_use]
    pub fn lease_key_bytes(&self, id: LeaseId) -> u64 {
        self.store.leases.key_bytes(id)
    }

    /// Bytes of rows held in memory: those not yet persisted, and recent ones kept for readers.
    #[must_use]
    pub fn recent_bytes(&self) -> u64 {
        self.store.recent_bytes()
    }

    /// Keys that a command would visit here at most, from the index alone: with ranges of older revisions over what this member
    /// still has of them. In logarithmic time for each op.
    #[must_use]
    pub fn cost(&self, command: &Command) -> u64 {
        cost::cost(&self.store, command, Older::AllIndexed)
    }

    /// Refuses a command that visits more keys than it may (see [`crate::command::COMMAND_KEYS_MAX`]): for whoever is about to
    /// propose it. It is looked at once more when it is applied, then on the state that all members share.
    pub fn check_cost(&self, command: &Command) -> Result<(), Refusal> {
        cost::check(&self.store, command, Older::AllIndexed).map_err(Refusal::from)
    }

    /// Reads keys (etcd API, Range). Refuses a compacted or future revision and an unknown sort.
    pub fn range(&self, request: &Range) -> Result<RangeReply, Refusal> {
        read::range(&self.store, request).map_err(told)
    }

    /// Bytes that `range` would return for this request, from the index alone: for budgets.
    #[must_use]
    pub fn range_bytes(&self, request: &Range) -> u64 {
        read::range_bytes(&self.store, request)
    }

    /// Evaluates a txn whose ops are all ranges. Any other op is refused with `KeyNotFound`, as an op of no kind is.
    pub fn read_txn(&self, request: &Txn) -> Result<TxnReply, Refusal> {
        txn::read(&self.store, request).map_err(told)
    }

    /// Up to `limit` changes, or about `bytes` of key-values, with `after < revision`, in order, never splitting a revision (so it
    /// may return more). Refuses with `Compacted` if `after + 1` is below the compact revision.
    pub fn events(&self, after: Revision, limit: usize, bytes: usize) -> Result<Vec<Event>, Refusal> {
        let start = after.next();
        if start < self.store.compact_revision {
            return Err(Refusal::Compacted);
        }
        self.store.events(start, limit, bytes).map_err(unreadable)
    }

    /// The version of a key as of a revision; `None` if it did not exist then or is compacted away.
    pub fn at(&self, key: &[u8], revision: Revision) -> Result<Option<EncodedKeyValue>, Refusal> {
        if revision < self.store.compact_revision {
            return Ok(None);
        }
        let Some(version) = self.store.index.get(key).and_then(|record| record.live_at(revision)) else { return Ok(None) };
        Ok(Some(self.store.row(key, version).map_err(unreadable)?.into_kv()))
    }

    /// A hash over what is readable at the compact revision and every change after it up to `revision` (0: the newest). It is the
    /// same on every member, wherever its background work stands. Reads every value: for a worker that may take its time.
    ///
    /// At the revision of one of the last compactions it is what it was before that compaction, also below the compact revision,
    /// and costs nothing.
    pub fn hash_kv(&self, revision: Revision) -> Result<KvHash, Refusal> {
        if let Some(hash) = self.compaction_hashes.iter().find(|hash| hash.hash_revision == revision) {
            return Ok(*hash);
        }
        hash_kv(&self.store, revision).map_err(told)
    }
}
