use super::*;
use crate::{
    url::Url,
    wal::{Wal, WalError, WalListener},
};
use quorate_core::{
    command::MemberAttributes,
    machine::encode_command,
    types::{LogId, RequestId, Term, WriteNumber},
    wal::Record,
};
use std::{collections::BTreeMap, path::PathBuf, sync::mpsc};

struct Tell(mpsc::Sender<WriteNumber>);

impl WalListener for Tell {
    fn durable(&mut self, number: WriteNumber) {
        let _ = self.0.send(number);
    }
    fn failed(&mut self, error: WalError) {
        panic!("{error}");
    }
}

fn founding(token: &str) -> Founding {
    let members = ["a", "b"].map(|name| (name.to_owned(), vec![Url::parse(&format!("http://{name}:2380")).unwrap()]));
    Founding::new(&BTreeMap::from(members), "a", token).unwrap()
}

/// Makes durable what a start found, and these entries after it; then the process is gone.
fn live(directory: &DataDir, mut planner: Planner, entries: &[Entry]) {
    let (sender, durable) = mpsc::channel();
    let (wal, threads) = Wal::start(directory.wal(), Tell(sender)).unwrap();
    for entry in entries {
        planner.append(&Record::Entry(entry.clone()));
    }
    let (number, ops) = planner.seal().unwrap();
    wal.write_blocking(number, ops).unwrap();
    assert_eq!(durable.recv().unwrap(), number);
    drop(wal);
    threads.join();
}

fn open(root: &Path) -> DataDir {
    DataDir::open(root, None).unwrap()
}

fn found(root: &Path, entries: &[Entry]) {
    let directory = open(root);
    let recovery = recover(&directory, &founding("one"), Origin::Founded).unwrap();
    assert!(recovery.founded);
    live(&directory, recovery.log.planner, entries);
}

fn command(index: u64, command: &Command) -> Entry {
    let request = RequestId { member: MemberId(1), boot: Boot(1), sequence: index };
    let id = LogId { term: Term(2), index: LogIndex(index) };
    Entry { id, payload: Payload::Command { request, command: encode_command(command) } }
}

fn announcement(index: u64, member: u64) -> Entry {
    let attributes = MemberAttributes { member: MemberId(member), name: "n".into(), client_urls: Vec::new() };
    command(index, &Command::Publish(attributes))
}

/// All files but the lock, which names whoever held it last.
fn content(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "LOCK") {
                found.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn data_of_another_cluster_is_refused_with_both_ids_and_left_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    found(home.path(), &[]);
    let before = content(home.path());
    let (ours, theirs) = (founding("another"), founding("one"));
    let error = recover(&open(home.path()), &ours, Origin::Founded).unwrap_err();
    let ids = [ours.member.to_string(), ours.cluster.to_string(), theirs.member.to_string(), theirs.cluster.to_string()];
    for part in ids.iter().map(String::as_str).chain([home.path().to_str().unwrap(), "--data-dir", "--initial-cluster-token"]) {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
    assert_eq!(content(home.path()), before);
    recover(&open(home.path()), &theirs, Origin::Founded).unwrap();
}

#[test]
fn another_members_data_of_the_same_cluster_is_refused_too() {
    let home = tempfile::tempdir().unwrap();
    found(home.path(), &[]);
    let other = Founding { member: MemberId(5), ..founding("one") };
    assert!(recover(&open(home.path()), &other, Origin::Founded).unwrap_err().contains("holds the data of member"));
}

#[test]
fn flags_that_do_not_found_a_cluster_are_ignored_once_there_is_data() {
    let home = tempfile::tempdir().unwrap();
    found(home.path(), &[]);
    for origin in [Origin::Unstated, Origin::Joined] {
        let recovery = recover(&open(home.path()), &founding("another"), origin).unwrap();
        assert_eq!((recovery.identity.cluster, recovery.founded), (founding("one").cluster, false), "{origin:?}");
    }
}

#[test]
fn joining_without_data_is_refused_and_says_what_is_served() {
    let home = tempfile::tempdir().unwrap();
    let error = recover(&open(home.path()), &founding("one"), Origin::Joined).unwrap_err();
    for part in [home.path().to_str().unwrap(), "existing", "does not serve yet", "--initial-cluster-state=new"] {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
}

#[test]
fn a_member_that_never_heard_from_a_leader_is_still_new_in_its_second_life() {
    let home = tempfile::tempdir().unwrap();
    found(home.path(), &[]);
    let life = |entries: &[Entry]| {
        let directory = open(home.path());
        let recovery = recover(&directory, &founding("one"), Origin::Founded).unwrap();
        let new = recovery.log.holds_only_bootstrap();
        live(&directory, recovery.log.planner, entries);
        (recovery.founded, new)
    };
    assert_eq!(life(&[]), (false, true));
    assert_eq!(life(&[announcement(3, 7)]), (false, true));
    assert_eq!(life(&[]), (false, false));
}

#[test]
fn who_announced_itself_is_known_from_the_log_before_anything_is_applied() {
    let home = tempfile::tempdir().unwrap();
    let range = quorate_core::command::KeyRange { key: vec![1].into(), end: Vec::new().into() };
    let delete = Command::DeleteRange(quorate_core::command::DeleteRange { range, prev_kv: false });
    found(home.path(), &[announcement(3, 7), command(4, &delete), announcement(5, 8)]);
    let recovery = recover(&open(home.path()), &founding("one"), Origin::Founded).unwrap();
    assert_eq!(applied(&recovery.store).unwrap(), LogIndex(0));
    assert_eq!(recovery.announced, BTreeSet::from([MemberId(7), MemberId(8)]));
}
