//! Applying: a committed command meets the state. A pure function of the two; nothing local decides anything.
//!
//! What comes of a command is an answer, which is the same on every member, or a broken promise, at which the member ends. The
//! types keep the two apart: an answer is made of [`Reply`] and [`Rejection`], and a failed read is neither.

use super::tables;
use super::view::{View, v2_fresh_index};
use crate::command::{Alarm, AlarmChange, AlarmKind, Command, Compact, MemberAttributes, Rejection, Reply, decode_with_time};
use crate::entry::{Configuration, Entry, Payload};
use crate::lease::LeaseChange;
use crate::mutant::{Mutant, planted};
use crate::mvcc::KvHash;
use crate::mvcc::cost::{self, Older};
use crate::mvcc::hash::RunningHash;
use crate::mvcc::hash_kv::HashWalk;
use crate::mvcc::stop::Stop;
use crate::mvcc::store::Store;
use crate::mvcc::txn::{self, TxnWriter};
use crate::storage::{RowOp, StateReader, Table, WriteBatch, recent_key};
use crate::types::{Boot, LogId, MemberId, RequestId, Revision, WallMs};
use crate::v2::{self, SpaceWriter};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    sync::Arc,
    vec::Vec,
};
use bytes::Bytes;

/// Why this member cannot go on.
#[derive(Debug)]
pub(super) struct Broken(pub String);

/// The answer to a request of this life.
#[derive(Debug)]
pub(super) struct AppliedReply {
    pub request: RequestId,
    pub reply: Result<Reply, Rejection>,
    /// Of a physical compaction: its revision, below which rows must be gone first.
    pub physical: Option<Revision>,
}

/// The replicated state, and the rows that its last changes made.
#[derive(Debug)]
pub(super) struct Applier<R: StateReader> {
    /// Whose requests are answered here.
    pub answers_for: (MemberId, Boot),
    pub store: Store<R>,
    pub applied: LogId,
    /// Over every entry applied and what it wrote.
    pub digest: RunningHash,
    pub configuration: Option<Arc<Configuration>>,
    attributes: Arc<BTreeMap<MemberId, MemberAttributes>>,
    alarms: BTreeSet<Alarm>,
    pub v2: SpaceWriter,
    /// Rows since the last flush.
    pub batch: WriteBatch,
    /// What became of leases since the last flush.
    pub lease_changes: Vec<LeaseChange>,
    /// The hash to take of the last compaction, until somebody takes it up.
    pub compaction: Option<HashWalk<R>>,
    /// The state at the first command after the last flush, for the mutant that looks at it.
    stale: Option<Store<R>>,
}

impl<R: StateReader> Applier<R> {
    pub fn new(answers_for: (MemberId, Boot), store: Store<R>, tables: tables::Tables, v2: SpaceWriter) -> Self {
        let mut batch = WriteBatch::default();
        if !tables.has_format {
            tables::write_format(&mut batch);
        }
        Self {
            answers_for,
            store,
            applied: tables.applied.applied,
            digest: tables.applied.chain,
            configuration: tables.configuration.map(Arc::new),
            attributes: Arc::new(tables.attributes),
            alarms: tables.alarms,
            v2,
            batch,
            lease_changes: Vec::new(),
            compaction: None,
            stale: None,
        }
    }

    pub const fn member(&self) -> MemberId {
        self.answers_for.0
    }

    /// What a fresh cluster starts with, which no entry carries. `false` if there is a configuration already.
    pub fn bootstrap(&mut self, configuration: Configuration) -> bool {
        let is_fresh = self.configuration.is_none();
        if is_fresh {
            tables::write_configuration(&configuration, &mut self.batch);
            self.configuration = Some(Arc::new(configuration));
        }
        is_fresh
    }

    pub fn snapshot(&self, compaction_hashes: Arc<[KvHash]>) -> View<R> {
        View {
            store: self.store.clone(),
            compaction_hashes,
            applied: self.applied,
            configuration: self.configuration.clone().unwrap_or_default(),
            attributes: Arc::clone(&self.attributes),
            alarms: self.alarms.iter().copied().collect(),
            v2: self.v2.space().clone(),
            digest: self.digest,
        }
    }

    /// The rows since the last flush, without the mark that vouches for them, which comes apart.
    pub fn take_batch(&mut self) -> (WriteBatch, tables::Applied) {
        self.stale = None;
        let mark = tables::Applied { applied: self.applied, revision: self.store.revision, chain: self.digest };
        (core::mem::take(&mut self.batch), mark)
    }

    /// Carries out the next entry; one that was carried out before changes nothing. After an error the state is half changed and
    /// must not be looked at again.
    pub fn apply(&mut self, entry: &Entry) -> Result<Option<AppliedReply>, Broken> {
        if entry.id.index <= self.applied.index {
            return Ok(None);
        }
        if entry.id.index != self.applied.index.next() {
            return Err(Broken(format!("entry {} follows {}", entry.id, self.applied)));
        }
        let answer = self.apply_payload(entry)?;
        self.applied = entry.id;
        self.digest.word(entry.id.index.0);
        self.check_invariants();
        Ok(answer)
    }

    fn apply_payload(&mut self, entry: &Entry) -> Result<Option<AppliedReply>, Broken> {
        match &entry.payload {
            Payload::Empty => Ok(None),
            Payload::Configuration { configuration, .. } => {
                self.apply_configuration(configuration);
                Ok(None)
            }
            Payload::Command { request, command } => {
                let (command, at) = decode_with_time(command).map_err(|error| Broken(format!("entry {}: {error}", entry.id)))?;
                let answers = (request.member, request.boot) == self.answers_for;
                if planted(Mutant::K4) && self.stale.is_none() {
                    self.stale = Some(self.store.clone());
                }
                let reply = match self.apply_command(&command, (entry.id, at), answers) {
                    Ok(reply) => Ok(reply),
                    Err(Stop::Rejected(rejection)) => Err(rejection),
                    Err(Stop::Failed(_)) if planted(Mutant::K6) => Err(Rejection::Corrupt),
                    Err(Stop::Failed(failed)) => return Err(Broken(format!("entry {}: {failed}", entry.id))),
                };
                let physical = match command {
                    Command::Compact(Compact { revision, physical: true }) if reply.is_ok() => Some(revision),
                    _ => None,
                };
                Ok(answers.then_some(AppliedReply { request: *request, reply, physical }))
            }
        }
    }

    /// `at`: where it stands, and the time that it was stamped with, if it needs one.
    fn apply_command(&mut self, command: &Command, (id, at): (LogId, Option<WallMs>), answers: bool) -> Result<Reply, Stop> {
        self.check_alarms(command)?;
        match command {
            Command::Put(put) => {
                txn::check_put(&self.store, put)?;
                let reply = self.write(answers, |writer| Ok(writer.put(put)?))?;
                Ok(Reply::Put(reply))
            }
            Command::DeleteRange(request) => {
                let reply = self.write(answers, |writer| Ok(writer.delete_range(request)?))?;
                Ok(Reply::DeleteRange(reply))
            }
            Command::Txn(request) => {
                cost::check(&self.store, command, Older::AsNow)?;
                let before = self.stale.as_ref().filter(|_| planted(Mutant::K4)).unwrap_or(&self.store);
                let path = txn::path(before, request)?;
                txn::check(&self.store, request, &path)?;
                let reply = self.write(answers, |writer| writer.txn(request, &path))?;
                Ok(Reply::Txn(reply))
            }
            Command::Compact(request) => Ok(self.compact(*request)?),
            Command::Alarm(change) => Ok(self.change_alarm(*change)),
            Command::Publish(attributes) => Ok(self.publish(attributes)?),
            Command::V2(request) => Ok(self.change_v2(request, at)),
            Command::LeaseGrant(grant) => Ok(self.grant_lease(*grant, id)?),
            Command::LeaseRevoke(revoke) => self.revoke_lease(*revoke),
            Command::LeaseExpire(expire) => self.expire_lease(*expire, id),
            Command::LeaseCheckpoint(checkpoint) => Ok(self.checkpoint_leases(checkpoint, id)),
        }
    }

    pub(super) fn write<T>(&mut self, answers: bool, run: impl FnOnce(&mut TxnWriter<'_, R>) -> Result<T, Stop>) -> Result<T, Stop> {
        let mut rows = Vec::new();
        let reply = run(&mut TxnWriter::new(&mut self.store, &mut rows, answers))?;
        for (id, row) in rows {
            self.digest.word(id.main.0.cast_unsigned());
            self.digest.bytes(row.stored());
            self.batch.put(Table::Recent, Bytes::copy_from_slice(&recent_key(id)), row.stored().clone());
        }
        Ok(reply)
    }

    /// On any member.
    pub(super) fn is_raised(&self, kind: AlarmKind) -> bool {
        self.alarms.iter().any(|alarm| alarm.kind == kind)
    }

    /// Raised alarms forbid what would make things worse (etcd API, alarms): a corrupt cluster changes no keys, a full one takes
    /// nothing that costs space.
    fn check_alarms(&self, command: &Command) -> Result<(), Rejection> {
        let raised = |kind| self.is_raised(kind);
        let changes_keys = matches!(
            command,
            Command::Put(_)
                | Command::DeleteRange(_)
                | Command::Txn(_)
                | Command::Compact(_)
                | Command::V2(_)
                | Command::LeaseGrant(_)
                | Command::LeaseRevoke(_)
        );
        if changes_keys && raised(AlarmKind::Corrupt) {
            return Err(Rejection::Corrupt);
        }
        let costs = || match command {
            Command::Put(_) | Command::LeaseGrant(_) => true,
            Command::Txn(txn) => txn.has_put(),
            Command::V2(request) => matches!(request.change, v2::Change::Write(_)),
            _ => false,
        };
        if raised(AlarmKind::NoSpace) && costs() { Err(Rejection::NoSpace) } else { Ok(()) }
    }

    fn compact(&mut self, request: Compact) -> Result<Reply, Rejection> {
        if request.revision <= self.store.compact_revision {
            return Err(Rejection::Compacted);
        }
        if request.revision > self.store.revision {
            return Err(Rejection::FutureRevision);
        }
        // Of the state before it. Revision 0 asks for the newest wherever a hash is asked for, so it has none of its own.
        self.compaction = HashWalk::new(self.store.clone(), request.revision).ok().filter(|_| request.revision.0 > 0);
        self.store.compact_revision = request.revision;
        self.write_small(|_, batch| tables::write_compact_revision(request.revision, batch));
        Ok(Reply::Compact { revision: self.store.revision })
    }

    fn change_alarm(&mut self, AlarmChange { alarm, active }: AlarmChange) -> Reply {
        let changed = if active { self.alarms.insert(alarm) } else { self.alarms.remove(&alarm) };
        if changed {
            self.write_small(|state, batch| tables::write_alarms(&state.alarms, batch));
        }
        let alarms = if active || changed { alloc::vec![alarm] } else { Vec::new() };
        Reply::Alarm { revision: self.store.revision, alarms }
    }

    fn publish(&mut self, attributes: &MemberAttributes) -> Result<Reply, Rejection> {
        let known = self.configuration.as_ref().is_some_and(|members| members.peer_urls.contains_key(&attributes.member));
        if !known {
            return Err(Rejection::MemberNotFound);
        }
        Arc::make_mut(&mut self.attributes).insert(attributes.member, attributes.clone());
        self.write_small(|state, batch| tables::write_attributes(&state.attributes, batch));
        Ok(Reply::Published)
    }

    fn change_v2(&mut self, request: &v2::Request, at: Option<WallMs>) -> Reply {
        let at = at.unwrap_or(self.v2.space().time());
        let fresh = v2_fresh_index(self.configuration.as_deref());
        let mut batch = WriteBatch::default();
        let done = self.v2.apply(at, fresh, request, &mut batch);
        self.absorb_small(batch);
        Reply::V2(done)
    }

    fn apply_configuration(&mut self, configuration: &Configuration) {
        let members = &configuration.peer_urls;
        if self.attributes.keys().any(|id| !members.contains_key(id)) {
            Arc::make_mut(&mut self.attributes).retain(|id, _| members.contains_key(id));
            self.write_small(|state, batch| tables::write_attributes(&state.attributes, batch));
        }
        self.write_small(|_, batch| tables::write_configuration(configuration, batch));
        self.configuration = Some(Arc::new(configuration.clone()));
    }

    /// Writes small rows that every member writes alike, so that they count in the digest.
    pub(super) fn write_small(&mut self, write: impl FnOnce(&Self, &mut WriteBatch)) {
        let mut batch = WriteBatch::default();
        write(self, &mut batch);
        self.absorb_small(batch);
    }

    fn absorb_small(&mut self, batch: WriteBatch) {
        for row in &batch.rows {
            match row {
                RowOp::Put { key, value, .. } => {
                    self.digest.bytes(key);
                    self.digest.bytes(value);
                }
                RowOp::Delete { key, .. } => self.digest.bytes(key),
            }
        }
        self.batch.absorb(batch);
    }

    pub fn check_invariants(&self) {
        let (compacted, newest) = (self.store.compact_revision, self.store.revision);
        assert!(compacted <= newest, "compacted to {compacted}, above the newest revision {newest}");
    }
}
