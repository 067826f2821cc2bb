//! The order of the committed log, read from the data directories of stopped members, in the checker's words.

use bytes::Bytes;
use quorate_checker::{
    Entry, Step, Witness,
    history::{OpId, Record, Request},
};
use quorate_core::{
    command::{AlarmKind, Command, Op},
    consensus::{Entry as LogEntry, Payload},
    machine::decode_command,
    types::{LogIndex, SegmentId, Term},
    wal::{Recovered, Recovery, WalSettings},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs,
    path::{Path, PathBuf},
};

/// Where a member of some release keeps its log, below its data directory.
const WAL_FOLDERS: [&str; 2] = ["member/wal", "wal"];

/// The committed log of the cluster whose members had these data directories. Not whole if every member has dropped its beginning.
///
/// # Errors
/// A log that does not read, no quorum that agrees, or a command that no recorded client can have sent.
pub fn read(data_dirs: &[PathBuf], records: &[Record]) -> Result<Witness, Box<dyn Error>> {
    let logs = data_dirs.iter().map(|folder| read_log(folder)).collect::<Result<Vec<_>, _>>()?;
    let (log, committed) = committed(&logs).ok_or("no quorum of the logs agrees about their end")?;
    let entries = log.entries.iter().take_while(|entry| entry.id.index <= committed);
    Ok(Witness { entries: translate(entries, records)?, is_whole: log.base.index == LogIndex(0) })
}

fn read_log(data_dir: &Path) -> Result<Recovered, Box<dyn Error>> {
    let folder = WAL_FOLDERS.iter().map(|name| data_dir.join(name)).find(|folder| folder.is_dir());
    let folder = folder.ok_or_else(|| format!("{} holds no log", data_dir.display()))?;
    let mut segments = BTreeMap::new();
    for file in fs::read_dir(&folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "wal") {
            let name = path.file_stem().and_then(|name| name.to_str()).ok_or("a segment's name is UTF-8")?;
            segments.insert(SegmentId(u64::from_str_radix(name, 16)?), path);
        }
    }
    // Nothing counts as applied, so every entry is kept in memory.
    let mut recovery = Recovery::new(LogIndex(0), WalSettings::default(), [0; 32]);
    for (segment, path) in segments {
        recovery.segment(segment, &Bytes::from(fs::read(&path)?)).map_err(|damage| damage.to_string())?;
    }
    Ok(recovery.finish().map_err(|damage| format!("{}: {damage}", folder.display()))?)
}

/// The longest log, and through where it is committed: the last entry of the newest term that a quorum has (Raft 5.4.2).
fn committed(logs: &[Recovered]) -> Option<(&Recovered, LogIndex)> {
    let term_at = |log: &Recovered, index: LogIndex| -> Option<Term> {
        let place = index.0.checked_sub(log.entries.first()?.id.index.0)?;
        log.entries.get(usize::try_from(place).ok()?).map(|entry| entry.id.term)
    };
    let newest = logs.iter().filter_map(|log| log.entries.last()).map(|entry| entry.id.term).max()?;
    let has = |log: &&Recovered, index| term_at(log, index) == Some(newest);
    let ends = logs.iter().filter_map(|log| log.entries.last()).filter(|entry| entry.id.term == newest).map(|entry| entry.id.index);
    let quorum = logs.len() / 2 + 1;
    let committed = ends.filter(|end| logs.iter().filter(|log| has(log, *end)).count() >= quorum).max()?;
    let log = logs.iter().filter(|log| has(log, committed)).min_by_key(|log| log.base.index)?;
    Some((log, committed))
}

fn translate<'a>(entries: impl Iterator<Item = &'a LogEntry>, records: &[Record]) -> Result<Vec<Entry>, String> {
    let compactions: BTreeMap<i64, OpId> = records
        .iter()
        .filter_map(|record| match record {
            Record::Invoke { op, request: Request::Compact { revision }, .. } => Some((*revision, *op)),
            _ => None,
        })
        .collect();
    let mut no_space = BTreeSet::new();
    let mut steps = Vec::new();
    for entry in entries {
        let Payload::Command { command, .. } = &entry.payload else { continue };
        let command = decode_command(command).map_err(|error| format!("entry {}: {error}", entry.id))?;
        let op = match &command {
            Command::Publish(_) | Command::V2(_) => continue,
            Command::Alarm(change) => {
                if change.alarm.kind == AlarmKind::NoSpace {
                    if change.active {
                        no_space.insert(change.alarm.member)
                    } else {
                        no_space.remove(&change.alarm.member)
                    };
                    steps.push(Entry { index: entry.id.index.0, step: Step::NoSpace(!no_space.is_empty()) });
                }
                continue;
            }
            Command::Put(put) => number(&put.value),
            Command::DeleteRange(delete) => marked(&delete.range.key, &delete.range.end),
            // No client of these runs asks for leases, so none ends.
            Command::LeaseGrant(_) | Command::LeaseRevoke(_) | Command::LeaseExpire(_) | Command::LeaseCheckpoint(_) => None,
            Command::Compact(compact) => compactions.get(&compact.revision.0).copied(),
            Command::Txn(txn) => txn.success.iter().chain(&txn.failure).find_map(|op| match op {
                Op::Put(put) => number(&put.value),
                _ => None,
            }),
        };
        let op = op.ok_or_else(|| format!("entry {} is of no client: {command:?}", entry.id))?;
        steps.push(Entry { index: entry.id.index.0, step: Step::Operation(op) });
    }
    Ok(steps)
}

/// The end of a range that holds `key` alone and says which operation deletes it: the keys of a run are all of one length.
pub fn mark(key: &[u8], op: OpId) -> Vec<u8> {
    [key, b"\0", op.to_string().as_bytes()].concat()
}

fn marked(key: &[u8], end: &[u8]) -> Option<OpId> {
    number(end.strip_prefix(key)?.strip_prefix(b"\0")?)
}

/// The operation's number, first in all it writes.
fn number(value: &[u8]) -> Option<OpId> {
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&value[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::{
        command::{DeleteRange, KeyRange, Put, Txn},
        consensus::Configuration,
        machine::encode_command,
        types::{Boot, LogId, MemberId, RequestId},
    };

    fn entry(index: u64, command: &Command) -> LogEntry {
        let payload = Payload::Command {
            request: RequestId { member: MemberId(1), boot: Boot(1), sequence: index },
            command: encode_command(command),
        };
        LogEntry { id: LogId { term: Term(2), index: LogIndex(index) }, payload }
    }

    fn put(op: OpId) -> Put {
        Put { key: "k".into(), value: format!("{op}:7").into(), ..Put::default() }
    }

    #[test]
    fn every_kind_of_command_names_its_operation() {
        let range = KeyRange { key: "key07".into(), end: mark(b"key07", 12).into() };
        let txn = Txn { failure: vec![Op::Put(put(13))], ..Txn::default() };
        let entries = [
            LogEntry {
                id: LogId { term: Term(1), index: LogIndex(1) },
                payload: Payload::Configuration { request: None, configuration: Configuration::default() },
            },
            entry(2, &Command::Put(put(11))),
            entry(4, &Command::DeleteRange(DeleteRange { range, prev_kv: true })),
            entry(5, &Command::Txn(txn)),
        ];
        let step = |index, op| Entry { index, step: Step::Operation(op) };
        assert_eq!(translate(entries.iter(), &[]), Ok(vec![step(2, 11), step(4, 12), step(5, 13)]));
    }

    #[test]
    fn a_command_that_no_client_sent_is_an_error() {
        let range = KeyRange { key: "key07".into(), end: Bytes::new() };
        let entries = [entry(2, &Command::DeleteRange(DeleteRange { range, prev_kv: true }))];
        assert!(translate(entries.iter(), &[]).is_err_and(|error| error.contains("is of no client")));
    }
}
