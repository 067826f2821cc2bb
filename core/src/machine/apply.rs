//! What each command does.

use super::{Answer, Machine, decode_command, tables};
use crate::command::{AlarmChange, AlarmKind, Command, Compact, MemberAttributes, Op, Put, Refusal, Reply, Txn};
use crate::entry::{Configuration, Entry, Payload};
use crate::mutant::{Mutant, planted};
use crate::mvcc::txn::{self, Stop, Writer};
use crate::storage::{RowOp, StateReader, Table, recent_key};
use alloc::{format, string::String, sync::Arc, vec::Vec};
use bytes::Bytes;

impl<R: StateReader> Machine<R> {
    /// Carries out one entry. An error is not an answer: this member cannot go on.
    pub(super) fn apply_payload(&mut self, entry: &Entry) -> Result<Answer, String> {
        match &entry.payload {
            Payload::Empty => Ok(None),
            Payload::Configuration { configuration, .. } => {
                self.apply_configuration(configuration);
                Ok(None)
            }
            Payload::Command { request, command } => {
                let command = decode_command(command).map_err(|error| format!("entry {}: {error}", entry.id))?;
                let answers = request.member == self.settings.member && request.boot == self.settings.boot;
                if planted(Mutant::K4) && self.stale.is_none() {
                    self.stale = Some(self.store.clone());
                }
                let answer = match self.apply_command(&command, answers) {
                    Ok(reply) => Ok(reply),
                    Err(Stop::Refused(refusal)) => Err(refusal),
                    Err(Stop::Failed(failed)) => return Err(format!("entry {}: {failed}", entry.id)),
                };
                let floor = match command {
                    Command::Compact(Compact { revision, physical: true }) => Some(revision),
                    _ => None,
                };
                Ok(answers.then_some((*request, answer, floor)))
            }
        }
    }

    fn apply_command(&mut self, command: &Command, answers: bool) -> Result<Reply, Stop> {
        self.check_alarms(command)?;
        match command {
            Command::Put(put) => {
                txn::check_lease(put)?;
                txn::check_previous(&self.store, put)?;
                let reply = self.write(answers, |writer| Ok(writer.put(put)?))?;
                Ok(Reply::Put(reply))
            }
            Command::DeleteRange(request) => {
                let reply = self.write(answers, |writer| Ok(writer.delete_range(request)?))?;
                Ok(Reply::DeleteRange(reply))
            }
            Command::Txn(request) => {
                let before = self.stale.as_ref().filter(|_| planted(Mutant::K4)).unwrap_or(&self.store);
                let path = txn::path(before, request)?;
                txn::check(&self.store, request, &path)?;
                let reply = self.write(answers, |writer| writer.txn(request, &path))?;
                Ok(Reply::Txn(reply))
            }
            Command::Compact(request) => Ok(self.compact(*request)?),
            Command::Alarm(change) => Ok(self.change_alarm(*change)),
            Command::Publish(attributes) => Ok(self.publish(attributes)?),
        }
    }

    fn write<T>(&mut self, answers: bool, run: impl FnOnce(&mut Writer<'_, R>) -> Result<T, Stop>) -> Result<T, Stop> {
        let mut rows = Vec::new();
        let reply = run(&mut Writer::new(&mut self.store, &mut rows, answers))?;
        for (id, row) in rows {
            self.chain.word(id.main.0.cast_unsigned());
            self.chain.bytes(row.stored());
            self.batch.put(Table::Recent, Bytes::copy_from_slice(&recent_key(id)), row.stored().clone());
        }
        Ok(reply)
    }

    /// Raised alarms forbid what would make things worse (etcd API, alarms): a corrupt cluster changes no keys, a full one takes
    /// nothing that costs space.
    fn check_alarms(&self, command: &Command) -> Result<(), Refusal> {
        let raised = |kind| self.alarms.iter().any(|alarm| alarm.kind == kind);
        let changes_keys = matches!(command, Command::Put(_) | Command::DeleteRange(_) | Command::Txn(_) | Command::Compact(_));
        if changes_keys && raised(AlarmKind::Corrupt) {
            return Err(Refusal::Corrupt);
        }
        let costs = match command {
            Command::Put(_) => true,
            Command::Txn(txn) => has_put(txn),
            _ => false,
        };
        if costs && raised(AlarmKind::NoSpace) { Err(Refusal::NoSpace) } else { Ok(()) }
    }

    fn compact(&mut self, request: Compact) -> Result<Reply, Refusal> {
        if request.revision <= self.store.floor {
            return Err(Refusal::Compacted);
        }
        if request.revision > self.store.revision {
            return Err(Refusal::FutureRevision);
        }
        self.store.floor = request.revision;
        self.write_small(|_, batch| tables::write_floor(request.revision, batch));
        Ok(Reply::Compact { revision: self.store.revision })
    }

    fn change_alarm(&mut self, AlarmChange { alarm, active }: AlarmChange) -> Reply {
        let changed = if active { self.alarms.insert(alarm) } else { self.alarms.remove(&alarm) };
        if changed {
            self.write_small(|machine, batch| tables::write_alarms(&machine.alarms, batch));
        }
        let alarms = if active || changed { alloc::vec![alarm] } else { Vec::new() };
        Reply::Alarm { revision: self.store.revision, alarms }
    }

    fn publish(&mut self, attributes: &MemberAttributes) -> Result<Reply, Refusal> {
        let known = self.configuration.as_ref().is_some_and(|members| members.peer_urls.contains_key(&attributes.member));
        if !known {
            return Err(Refusal::MemberNotFound);
        }
        Arc::make_mut(&mut self.attributes).insert(attributes.member, attributes.clone());
        self.write_small(|machine, batch| tables::write_attributes(&machine.attributes, batch));
        Ok(Reply::Published)
    }

    fn apply_configuration(&mut self, configuration: &Configuration) {
        let members = &configuration.peer_urls;
        if self.attributes.keys().any(|id| !members.contains_key(id)) {
            Arc::make_mut(&mut self.attributes).retain(|id, _| members.contains_key(id));
            self.write_small(|machine, batch| tables::write_attributes(&machine.attributes, batch));
        }
        self.write_small(|_, batch| tables::write_configuration(configuration, batch));
        self.configuration = Some(Arc::new(configuration.clone()));
    }

    /// Writes small rows that every member writes alike, so that they count in the chain.
    fn write_small(&mut self, write: impl FnOnce(&Self, &mut crate::storage::WriteBatch)) {
        let mut batch = crate::storage::WriteBatch::default();
        write(self, &mut batch);
        for row in &batch.rows {
            if let RowOp::Put { key, value, .. } = row {
                self.chain.bytes(key);
                self.chain.bytes(value);
            }
        }
        self.batch.absorb(batch);
    }
}

fn has_put(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put(Put { .. }) => true,
        Op::Txn(nested) => has_put(nested),
        Op::Range(_) | Op::DeleteRange(_) => false,
    })
}
