use super::*;
use crate::{
    state::{Persister, StateEvent},
    url::Url,
    wal::{Wal, WalError, WalListener},
};
use quorate_core::{
    command::MemberAttributes,
    machine::encode_command,
    machine::{MachineEffect, MachineInput},
    types::{LogId, RequestId, Revision, Term, WriteNumber},
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
    let recovery = recover(&directory, &founding("one"), Origin::Founded, MemoryBudget::default()).unwrap();
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
    fs::write(home.path().join("member/wal/7.tmp"), b"half").unwrap();
    let before = content(home.path());
    let (ours, theirs) = (founding("another"), founding("one"));
    let error = recover(&open(home.path()), &ours, Origin::Founded, MemoryBudget::default()).unwrap_err();
    let ids = [ours.member.to_string(), ours.cluster.to_string(), theirs.member.to_string(), theirs.cluster.to_string()];
    for part in ids.iter().map(String::as_str).chain([home.path().to_str().unwrap(), "--data-dir", "--initial-cluster-token"]) {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
    assert_eq!(content(home.path()), before);
    recover(&open(home.path()), &theirs, Origin::Founded, MemoryBudget::default()).unwrap();
    assert!(!home.path().join("member/wal/7.tmp").exists(), "leftovers are the owner's to remove");
}

#[test]
fn another_members_data_of_the_same_cluster_is_refused_too() {
    let home = tempfile::tempdir().unwrap();
    found(home.path(), &[]);
    let other = Founding { member: MemberId(5), ..founding("one") };
    assert!(
        recover(&open(home.path()), &other, Origin::Founded, MemoryBudget::default()).unwrap_err().contains("holds the data of member")
    );
}

#[test]
fn flags_that_do_not_found_a_cluster_are_ignored_once_there_is_data() {
    let home = tempfile::tempdir().unwrap();
    found(home.path(), &[]);
    for origin in [Origin::Unstated, Origin::Joined] {
        let recovery = recover(&open(home.path()), &founding("another"), origin, MemoryBudget::default()).unwrap();
        assert_eq!((recovery.identity.cluster, recovery.founded), (founding("one").cluster, false), "{origin:?}");
    }
}

#[test]
fn joining_without_data_is_refused_and_says_what_is_served() {
    let home = tempfile::tempdir().unwrap();
    let error = recover(&open(home.path()), &founding("one"), Origin::Joined, MemoryBudget::default()).unwrap_err();
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
        let recovery = recover(&directory, &founding("one"), Origin::Founded, MemoryBudget::default()).unwrap();
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
    let recovery = recover(&open(home.path()), &founding("one"), Origin::Founded, MemoryBudget::default()).unwrap();
    assert_eq!(applied(&recovery.store).unwrap(), LogIndex(0));
    assert_eq!(recovery.announced, BTreeSet::from([MemberId(7), MemberId(8)]));
}

#[test]
fn state_that_is_gone_while_the_log_was_released_is_refused_with_both_directories() {
    let home = tempfile::tempdir().unwrap();
    let directory = open(home.path());
    let ours = founding("one");
    let identity = Identity { cluster: ours.cluster, member: ours.member };
    let (entries, _) = bootstrap_entries(&ours.members);
    let first = entries.len() as u64 + 1;
    let small = WalSettings { segment_bytes: 32 << 10, spare_segments: 0 };
    let mut planner = Planner::bootstrap(identity, entries, small, [4; 32]).planner;
    let (sender, durable) = mpsc::channel();
    let (wal, threads) = Wal::start(directory.wal(), Tell(sender)).unwrap();
    for index in first..first + 40 {
        let attributes = MemberAttributes { member: MemberId(1), name: "n".repeat(3_000), client_urls: Vec::new() };
        planner.append(&Record::Entry(command(index, &Command::Publish(attributes))));
        planner.release(LogIndex(index - 1));
        let (number, ops) = planner.seal().unwrap();
        wal.write_blocking(number, ops).unwrap();
        planner.durable(durable.recv().unwrap());
    }
    assert!(planner.first() > LogIndex(1), "nothing was released");
    let behind = planner.first().0 - 1;
    drop(wal);
    threads.join();
    let error = recover(&directory, &ours, Origin::Founded, MemoryBudget::default()).unwrap_err();
    let places = [
        directory.states().path(StateNumber(0)).display().to_string(),
        directory.wal().display().to_string(),
        format!("begins behind {behind}"),
    ];
    for part in places.iter().map(String::as_str).chain(["has applied 0", "is lost", "remove this member"]) {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
}

/// A member with one voter and no clients: commands go to log, machine and state store, as far as each is asked for.
struct Loner {
    _directory: DataDir,
    machine: Machine<FjallReader>,
    planner: Planner,
    wal: Wal,
    threads: crate::wal::WalThreads,
    durable: mpsc::Receiver<WriteNumber>,
    persister: Persister,
    events: mpsc::Receiver<StateEvent>,
}

impl Loner {
    fn found(root: &Path, settings: WalSettings) -> Self {
        let directory = open(root);
        let mut recovery = recover(&directory, &founding("one"), Origin::Founded, MemoryBudget::default()).unwrap();
        recovery.machine.bootstrap(recovery.bootstrap);
        let identity = recovery.identity;
        let (entries, _) = bootstrap_entries(&founding("one").members);
        let planner = Planner::bootstrap(identity, entries, settings, [4; 32]).planner;
        let (sender, durable) = mpsc::channel();
        let (wal, threads) = Wal::start(directory.wal(), Tell(sender)).unwrap();
        let (sender, events) = mpsc::channel();
        let persister = Persister::start(recovery.store, directory.states(), move |event| drop(sender.send(event))).unwrap();
        Self { _directory: directory, machine: recovery.machine, planner, wal, threads, durable, persister, events }
    }

    /// Applies commands once they are in the log, and writes behind; everything that is asked for is done when this returns.
    fn run(&mut self, commands: &[Command]) {
        let mut next = self.machine.applied().index.0 + 1;
        let mut entries = Vec::new();
        if next == 1 {
            entries.extend(bootstrap_entries(&founding("one").members).0);
            next = entries.len() as u64 + 1;
        }
        let fresh: Vec<Entry> = (next..).zip(commands).map(|(index, each)| command(index, each)).collect();
        for entry in &fresh {
            self.planner.append(&Record::Entry(entry.clone()));
        }
        let (number, ops) = self.planner.seal().unwrap();
        self.wal.write_blocking(number, ops).unwrap();
        while self.durable.recv().unwrap() < number {}
        self.planner.durable(number);
        entries.extend(fresh);
        self.step(MachineInput::Apply(entries.into()));
        while self.machine.has_background_work() {
            self.step(MachineInput::BackgroundWork);
        }
    }

    fn step(&mut self, input: MachineInput<FjallReader>) {
        let mut effects = Vec::new();
        self.machine.step(input, &mut effects);
        self.machine.flush(&mut effects);
        for effect in effects {
            match effect {
                MachineEffect::Persist { number, batch, .. } => {
                    self.persister.commit(number, batch, WriteNumber(1), WriteNumber(1));
                    let StateEvent::Persisted(done, reader) = self.events.recv().unwrap() else { panic!("not persisted") };
                    assert_eq!(done, number);
                    self.step(MachineInput::Persisted(number, reader));
                }
                MachineEffect::SyncState => {
                    self.persister.sync();
                    let StateEvent::Synced(number) = self.events.recv().unwrap() else { panic!("not synced") };
                    self.step(MachineInput::Synced(number));
                }
                MachineEffect::Retire { below, .. } => {
                    self.persister.retire(below);
                    let StateEvent::Retired(reader) = self.events.recv().unwrap() else { panic!("not retired") };
                    self.step(MachineInput::Retired(reader));
                }
                MachineEffect::Fatal(reason) => panic!("{reason}"),
                MachineEffect::Reply(..) | MachineEffect::Publish(_) | MachineEffect::Leases(_) | MachineEffect::Applied(_) => {}
            }
        }
    }

    /// The process is gone; its files are as they are.
    fn end(self) {
        self.persister.close();
        drop(self.wal);
        self.threads.join();
    }
}

const SMALL: WalSettings = WalSettings { segment_bytes: 32 << 10, spare_segments: 0 };

fn put(key: usize) -> Command {
    let (key, value) = (format!("key {key:06}").into_bytes().into(), vec![7; 1_000].into());
    let lease = quorate_core::types::LeaseId(0);
    Command::Put(quorate_core::command::Put { key, value, lease, prev_kv: false, ignore_value: false, ignore_lease: false })
}

/// The newest journal of the state store, and where its batches end.
fn journal(directory: &DataDir) -> (PathBuf, usize) {
    let mut journals: Vec<PathBuf> = fs::read_dir(directory.states().path(StateNumber(0)))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "jnl"))
        .collect();
    journals.sort();
    let path = journals.pop().unwrap();
    let end = fs::read(&path).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (path, end)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// 1,800 keys whose rows were moved to the settled generation and retired; the log that had them is released.
fn moved(root: &Path) -> u32 {
    let mut loner = Loner::found(root, SMALL);
    for first in (0..1_800).step_by(50) {
        loner.run(&(first..first + 50).map(put).collect::<Vec<_>>());
    }
    let revision = loner.machine.view().revision();
    loner.run(&[Command::Compact(quorate_core::command::Compact { revision, physical: false })]);
    let through = loner.machine.applied().index;
    loner.planner.release(through);
    for _ in 0..20 {
        loner.run(&[put(0)]);
    }
    let hash = loner.machine.view().hash_kv(revision.next()).unwrap().hash;
    loner.end();
    hash
}

/// What a start over damaged files may do: refuse with all that an operator needs, or have everything.
fn refused_or_whole(directory: &DataDir, hash: u32) -> Option<String> {
    match recover(directory, &founding("one"), Origin::Founded, MemoryBudget::default()) {
        Err(error) => Some(error),
        Ok(recovery) => {
            let view = recovery.machine.view();
            assert_eq!(view.key_count(), 1_800);
            assert_eq!(view.hash_kv(Revision(1_802)).unwrap().hash, hash, "another state");
            None
        }
    }
}

#[test]
fn a_flipped_bit_in_what_the_state_store_had_synced_is_never_cut_away() {
    let home = tempfile::tempdir().unwrap();
    let hash = moved(home.path());
    let directory = open(home.path());
    let (path, end) = journal(&directory);
    assert_eq!(refused_or_whole(&directory, hash), None);
    for at in (0..40).map(|step| end * step / 40) {
        let before = fs::read(&path).unwrap();
        flip(&path, at);
        let damaged = fs::read(&path).unwrap();
        if let Some(error) = refused_or_whole(&directory, hash) {
            for part in ["state", "is lost", path.to_str().unwrap(), "Put the state back", "remove this member"] {
                assert!(error.contains(part), "{part:?} is missing in: {error}");
            }
            assert!(fs::read(&path).unwrap() == damaged, "a refused journal stays as it is");
        }
        fs::write(&path, before).unwrap();
    }
    assert_eq!(refused_or_whole(&directory, hash), None);
}

#[test]
fn a_lost_state_is_made_again_from_a_log_that_has_everything() {
    let home = tempfile::tempdir().unwrap();
    let mut loner = Loner::found(home.path(), WalSettings::default());
    loner.run(&(0..50).map(put).collect::<Vec<_>>());
    loner.persister.sync();
    loner.end();
    let directory = open(home.path());
    let (path, end) = journal(&directory);
    flip(&path, end / 2);
    let recovery = recover(&directory, &founding("one"), Origin::Founded, MemoryBudget::default()).unwrap();
    assert!(recovery.store.repaired.as_ref().is_some_and(|what| what.contains("state.damaged-1")), "{:?}", recovery.store.repaired);
    assert_eq!((recovery.log.base.index, recovery.log.entries.len()), (LogIndex(0), 52));
}

fn only_segment(directory: &DataDir) -> PathBuf {
    let segments = crate::wal::list(directory.wal()).unwrap().segments;
    assert_eq!(segments.len(), 1);
    segments[0].1.clone()
}

/// Nothing is applied yet, and the log is damaged: the member has promised things and must not begin anew.
#[test]
fn a_log_whose_front_is_gone_is_refused_and_left_as_it_is() {
    for applied in [false, true] {
        let home = tempfile::tempdir().unwrap();
        if applied {
            let mut loner = Loner::found(home.path(), WalSettings::default());
            loner.run(&(0..50).map(put).collect::<Vec<_>>());
            loner.end();
        } else {
            found(home.path(), &(3..50).map(|index| command(index, &put(7))).collect::<Vec<_>>());
            let directory = open(home.path());
            live(&directory, recover(&directory, &founding("one"), Origin::Founded, MemoryBudget::default()).unwrap().log.planner, &[]);
        }
        let directory = open(home.path());
        let path = only_segment(&directory);
        let mut bytes = fs::read(&path).unwrap();
        bytes[..8 << 10].fill(0);
        fs::write(&path, bytes).unwrap();
        fs::write(directory.wal().join("7.tmp"), b"half").unwrap();
        let before = content(directory.wal());
        for origin in [Origin::Founded, Origin::Unstated] {
            let error = recover(&directory, &founding("one"), origin, MemoryBudget::default()).unwrap_err();
            for part in [path.file_name().unwrap().to_str().unwrap(), "this member", "remove"] {
                assert!(error.contains(part), "{part:?} is missing in: {error}");
            }
            assert!(content(directory.wal()) == before, "the damaged log was changed");
        }
    }
}

#[test]
fn a_short_segment_is_refused_and_left_as_it_is() {
    for length in [0, 100, 5_000, 9_000, 60_000] {
        let home = tempfile::tempdir().unwrap();
        found(home.path(), &(3..80).map(|index| command(index, &put(7))).collect::<Vec<_>>());
        let directory = open(home.path());
        let path = only_segment(&directory);
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        let error = recover(&directory, &founding("one"), Origin::Founded, MemoryBudget::default()).unwrap_err();
        for part in [path.file_name().unwrap().to_str().unwrap(), "this member", "remove"] {
            assert!(error.contains(part), "{length}: {part:?} is missing in: {error}");
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), length);
    }
}

#[test]
fn a_log_that_ends_before_what_is_applied_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let mut loner = Loner::found(home.path(), WalSettings::default());
    loner.run(&(0..50).map(put).collect::<Vec<_>>());
    loner.end();
    let directory = open(home.path());
    let path = only_segment(&directory);
    fs::remove_file(&path).unwrap();
    let founded = Planner::bootstrap(
        Identity { cluster: founding("one").cluster, member: founding("one").member },
        bootstrap_entries(&founding("one").members).0,
        WalSettings::default(),
        [5; 32],
    );
    live(&directory, founded.planner, &[]);
    let error = recover(&directory, &founding("one"), Origin::Founded, MemoryBudget::default()).unwrap_err();
    for part in ["has applied 52", "ends at 2", "Put the log back"] {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
}

#[test]
fn a_first_start_that_was_interrupted_is_started_again_and_its_files_are_kept() {
    let home = tempfile::tempdir().unwrap();
    let directory = open(home.path());
    let segment = directory.wal().join("0000000000000001.wal");
    fs::write(&segment, vec![0; 64 << 10]).unwrap();
    assert!(recover(&directory, &founding("one"), Origin::Founded, MemoryBudget::default()).unwrap().founded);
    assert!(directory.wal().join("aside-1/0000000000000001.wal").exists() && !segment.exists());
    assert!(recover(&directory, &founding("one"), Origin::Founded, MemoryBudget::default()).unwrap().founded);
}
