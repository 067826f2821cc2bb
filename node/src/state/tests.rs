use super::*;
use crate::data_dir::StateDirectories;
use bytes::Bytes;
use quorate_core::{
    member::StoreWork,
    storage::{Direction, RowOp, StateReader, Table, WriteBatch, recent_key},
    types::{BatchNumber, Revision, StateNumber, WriteNumber},
};
use rand_core::{RngCore, SeedableRng};
use std::{ops::ControlFlow, sync::mpsc};

struct Host {
    persister: Persister,
    events: mpsc::Receiver<StateEvent>,
    number: BatchNumber,
}

/// A row to write, or with no value to delete.
type Row<'a> = (Table, &'a [u8], Option<&'a [u8]>);

impl Host {
    fn open(path: &Path) -> Self {
        let store = StateStore::open(path, MemoryBudget::default()).unwrap();
        let (sender, events) = mpsc::channel();
        let persister =
            Persister::start(store, StateDirectories::beside(path.to_path_buf()), move |event| drop(sender.send(event))).unwrap();
        Self { persister, events, number: BatchNumber::default() }
    }

    fn commit(&mut self, rows: &[Row<'_>]) -> FjallReader {
        let mut batch = WriteBatch::default();
        for (table, key, value) in rows {
            let key = Bytes::copy_from_slice(key);
            match value {
                Some(value) => batch.put(*table, key, Bytes::copy_from_slice(value)),
                None => batch.delete(*table, key),
            }
        }
        self.number = self.number.next();
        self.persister.commit(self.number, batch, WriteNumber(1), WriteNumber(1));
        loop {
            match self.events.recv().unwrap() {
                StateEvent::Persisted(number, reader) if number == self.number => return reader,
                StateEvent::Failed(error) => panic!("{error}"),
                _ => {}
            }
        }
    }

    fn sync(&self) -> BatchNumber {
        self.persister.sync();
        loop {
            match self.events.recv().unwrap() {
                StateEvent::Synced(number) => return number,
                StateEvent::Failed(error) => panic!("{error}"),
                other => drop(other),
            }
        }
    }
}

fn id(main: i64) -> RevisionId {
    RevisionId { main: Revision(main), sub: 0 }
}

fn keys(reader: &FjallReader, table: Table, start: &[u8], end: &[u8], direction: Direction) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    reader
        .scan(table, start, end, direction, &mut |key, _| {
            found.push(key.to_vec());
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

#[test]
fn what_is_synced_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let mut host = Host::open(directory.path());
    host.commit(&[
        (Table::Meta, b"applied", Some(b"1")),
        (Table::Recent, &recent_key(id(2)), Some(b"row")),
        (Table::Settled, b"k", Some(b"v")),
    ]);
    assert_eq!(host.sync(), BatchNumber(1));
    host.persister.close();
    let reader = StateStore::open(directory.path(), MemoryBudget::default()).unwrap().reader();
    assert_eq!(reader.get(Table::Meta, b"applied").unwrap().unwrap(), "1");
    assert_eq!(reader.get(Table::Recent, &recent_key(id(2))).unwrap().unwrap(), "row");
    assert_eq!(reader.get(Table::Settled, b"k").unwrap().unwrap(), "v");
    assert_eq!(reader.get(Table::Settled, b"x").unwrap(), None);
}

#[test]
fn a_reader_stays_at_its_instant() {
    let directory = tempfile::tempdir().unwrap();
    let mut host = Host::open(directory.path());
    let before = host.commit(&[(Table::Meta, b"a", Some(b"1"))]);
    let after = host.commit(&[(Table::Meta, b"a", Some(b"2"))]);
    assert_eq!(before.get(Table::Meta, b"a").unwrap().unwrap(), "1");
    assert_eq!(after.get(Table::Meta, b"a").unwrap().unwrap(), "2");
}

#[test]
fn the_last_change_of_a_key_in_a_batch_counts() {
    let directory = tempfile::tempdir().unwrap();
    let mut host = Host::open(directory.path());
    let reader = host.commit(&[
        (Table::Settled, b"a", Some(b"1")),
        (Table::Settled, b"a", None),
        (Table::Settled, b"b", None),
        (Table::Settled, b"b", Some(b"2")),
    ]);
    assert_eq!(keys(&reader, Table::Settled, b"", b"", Direction::Forward), [b"b".to_vec()]);
}

#[test]
fn scans_go_both_ways_within_their_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let mut host = Host::open(directory.path());
    let reader = host.commit(&[
        (Table::Settled, b"a", Some(b"1")),
        (Table::Settled, b"b", Some(b"1")),
        (Table::Settled, b"c", Some(b"1")),
        (Table::Settled, b"d", Some(b"1")),
    ]);
    let letters = |keys: Vec<Vec<u8>>| String::from_utf8(keys.concat()).unwrap();
    assert_eq!(letters(keys(&reader, Table::Settled, b"b", b"d", Direction::Forward)), "bc");
    assert_eq!(letters(keys(&reader, Table::Settled, b"b", b"", Direction::Backward)), "dcb");
    assert_eq!(letters(keys(&reader, Table::Settled, b"c", b"b", Direction::Forward)), "");
    let mut first = None;
    reader
        .scan(Table::Settled, b"", b"", Direction::Forward, &mut |key, _| {
            first = Some(key.to_vec());
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(first.unwrap(), b"a");
}

#[test]
fn keys_longer_than_the_engine_takes_keep_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let mut host = Host::open(directory.path());
    let long = |tail: &str| [&vec![b'k'; 70_000][..], tail.as_bytes()].concat();
    let (a, b, c) = (long("a"), long("b"), long("c"));
    let reader = host.commit(&[
        (Table::Settled, &c, Some(b"3")),
        (Table::Settled, &a, Some(b"1")),
        (Table::Settled, &b, Some(b"2")),
        (Table::Settled, b"k", Some(b"0")),
        (Table::Settled, b"l", Some(b"4")),
    ]);
    assert_eq!(reader.get(Table::Settled, &b).unwrap().unwrap(), "2");
    let all = [b"k".to_vec(), a.clone(), b.clone(), c.clone(), b"l".to_vec()];
    assert_eq!(keys(&reader, Table::Settled, b"", b"", Direction::Forward), all);
    let mut reversed = all.to_vec();
    reversed.reverse();
    assert_eq!(keys(&reader, Table::Settled, b"", b"", Direction::Backward), reversed);
    assert_eq!(keys(&reader, Table::Settled, &b, &c, Direction::Forward), std::slice::from_ref(&b));
    let reader = host.commit(&[(Table::Settled, &b, None)]);
    assert_eq!(reader.get(Table::Settled, &b).unwrap(), None);
    assert_eq!(keys(&reader, Table::Settled, &a, b"l", Direction::Forward), [a, c]);
}

#[test]
fn a_scan_of_all_parts_that_reads_ahead_visits_what_one_without_does() {
    let directory = tempfile::tempdir().unwrap();
    let mut host = Host::open(directory.path());
    let mut reader = None;
    for main in 1..=600_i64 {
        // Rows of many sizes, some larger than a chunk, and three parts: a retirement closes one of over a megabyte.
        let value =
            vec![main.to_le_bytes()[0]; usize::try_from(main * 7_919 % 9_973 + main / 200 * 70_000 * i64::from(main % 50 == 0)).unwrap()];
        reader = Some(host.commit(&[(Table::Recent, &recent_key(id(main)), Some(&value))]));
        if main % 250 == 0 {
            host.persister.retire(id(main / 250));
        }
    }
    let reader = reader.unwrap();
    let scan = |end: &[u8], limit: usize| {
        let mut rows: Vec<(Vec<u8>, Bytes)> = Vec::new();
        let visit = &mut |key: &[u8], value: Bytes| {
            rows.push((key.to_vec(), value));
            if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        reader.scan(Table::Recent, &recent_key(id(3)), end, Direction::Forward, visit).unwrap();
        rows
    };
    assert!(reader.parts() > 1, "only a scan of several parts reads ahead");
    let plain = scan(&recent_key(id(1_000)), usize::MAX);
    assert_eq!(plain.len(), 598);
    assert_eq!(scan(b"", usize::MAX), plain);
    assert_eq!(scan(b"", 20), plain[..20], "it ends when told to");
}

#[test]
fn retired_rows_are_gone_for_new_readers_and_stay_for_old_ones() {
    let directory = tempfile::tempdir().unwrap();
    let mut host = Host::open(directory.path());
    let mut before = None;
    let big = vec![7; 2 << 20];
    // Each row is large enough to close its part at the next retirement.
    for main in 1..=6 {
        before = Some(host.commit(&[(Table::Recent, &recent_key(id(main)), Some(&big))]));
        if main % 2 == 0 {
            host.persister.retire(id(main - 1));
        }
    }
    let before = before.unwrap();
    host.persister.retire(id(5));
    let after = host.commit(&[(Table::Meta, b"x", Some(b""))]);
    let mains = |reader: &FjallReader| keys(reader, Table::Recent, b"", b"", Direction::Forward).len();
    assert_eq!(mains(&after), 2, "revisions 5 and 6");
    assert_eq!(after.get(Table::Recent, &recent_key(id(4))).unwrap(), None);
    assert!(after.get(Table::Recent, &recent_key(id(5))).unwrap().is_some());
    assert_eq!(mains(&before), 4, "revisions 3 to 6: nothing below 3 was left when it was taken");
    assert!(before.get(Table::Recent, &recent_key(id(3))).unwrap().is_some());
    drop((before, after));
    host.persister.close();
    let store = StateStore::open(directory.path(), MemoryBudget::default()).unwrap();
    assert_eq!(mains(&store.reader()), 2);
    assert!(!store.keyspaces.recent.contains_key(&1), "the first part is deleted, not hidden: {:?}", store.keyspaces);
}

#[test]
fn usage_counts_what_is_stored_and_what_retirement_frees() {
    let directory = tempfile::tempdir().unwrap();
    let mut host = Host::open(directory.path());
    let usage = host.persister.usage();
    let row = vec![1; 8 << 10];
    for main in 1..=10 {
        host.commit(&[(Table::Recent, &recent_key(id(main)), Some(&row)), (Table::Settled, b"same", Some(&row))]);
    }
    let (recent, settled) = (10 * (12 + row.len() as u64), 4 + row.len() as u64);
    assert_eq!(usage.bytes(), recent + settled);
    host.persister.retire(id(10));
    host.sync();
    assert_eq!(usage.bytes(), 12 + row.len() as u64 + settled);
    host.commit(&[(Table::Settled, b"same", None)]);
    assert_eq!(usage.bytes(), 12 + row.len() as u64);
    host.persister.close();
    let mut reopened = Host::open(directory.path());
    reopened.commit(&[]);
    assert_eq!(reopened.persister.usage().bytes(), 12 + row.len() as u64);
}

/// Ten batches, each larger than a page, then no sync: what a power cut may tear.
fn written(directory: &Path) -> PathBuf {
    let mut host = Host::open(directory);
    for number in 1..=10_u8 {
        host.commit(&[(Table::Meta, b"applied", Some(&[number])), (Table::Settled, &[number], Some(&[number; 20_000]))]);
    }
    host.persister.abandon();
    journal_of(directory)
}

fn journal_of(directory: &Path) -> PathBuf {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some_and(|e| e == "jnl")).unwrap()
}

fn find_last(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).rposition(|window| window == needle).unwrap()
}

#[test]
fn a_journal_with_a_lost_page_in_its_last_batch_is_cut_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let journal = written(directory.path());
    let mut bytes = fs::read(&journal).unwrap();
    let middle = find_last(&bytes, &[10; 64]) - 8_192;
    bytes[middle..middle + 4_096].fill(0);
    fs::write(&journal, &bytes).unwrap();
    assert!(open_database(directory.path(), MemoryBudget::default()).is_err(), "the engine alone does not open it");
    let store = StateStore::open(directory.path(), MemoryBudget::default()).unwrap();
    assert!(store.repaired.as_ref().unwrap().contains("was cut at byte"), "{:?}", store.repaired);
    let reader = store.reader();
    assert_eq!(reader.get(Table::Meta, b"applied").unwrap().unwrap()[..], [9]);
    assert_eq!(reader.get(Table::Settled, &[10]).unwrap(), None);
    drop((reader, store));
    let mut host = Host::open(directory.path());
    let reader = host.commit(&[(Table::Meta, b"applied", Some(b"again"))]);
    assert_eq!(reader.get(Table::Meta, b"applied").unwrap().unwrap(), "again", "new writes are newer than what was there");
}

#[test]
fn a_journal_that_ends_within_a_batch_loses_that_batch() {
    let directory = tempfile::tempdir().unwrap();
    let journal = written(directory.path());
    let bytes = fs::read(&journal).unwrap();
    let end = find_last(&bytes, &[10; 64]);
    fs::OpenOptions::new().write(true).open(&journal).unwrap().set_len(end as u64 - 100).unwrap();
    let reader = StateStore::open(directory.path(), MemoryBudget::default()).unwrap().reader();
    assert_eq!(reader.get(Table::Meta, b"applied").unwrap().unwrap()[..], [9]);
}

/// The same, all of it synced, and then one batch more that is not.
fn synced(directory: &Path) -> PathBuf {
    let mut host = Host::open(directory);
    for number in 1..=10_u8 {
        host.commit(&[(Table::Meta, b"applied", Some(&[number])), (Table::Settled, &[number], Some(&[number; 20_000]))]);
    }
    host.sync();
    host.commit(&[(Table::Meta, b"applied", Some(&[11])), (Table::Settled, &[11], Some(&[11; 20_000]))]);
    host.persister.abandon();
    journal_of(directory)
}

fn lost(path: &Path) -> String {
    match StateStore::open(path, MemoryBudget::default()) {
        Err(StateError::Lost(what)) => what,
        other => panic!("not lost: {other:?}"),
    }
}

#[test]
fn a_journal_is_never_cut_below_a_sync_whatever_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let journal = synced(directory.path());
    let good = fs::read(&journal).unwrap();
    let synced_end = find_last(&good, &[10; 64]) + 64;
    // The first tag, bits all over, the last value; zeros; a shorter file.
    for at in [0, 1, 13, 40, synced_end / 3, synced_end / 2, synced_end - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        fs::write(&journal, &bytes).unwrap();
        let what = lost(directory.path());
        assert!(what.contains(journal.to_str().unwrap()) && what.contains("was synced to byte"), "{at}: {what}");
        assert!(fs::read(&journal).unwrap() == bytes, "byte {at}: the journal was changed");
    }
    fs::write(&journal, &good[..synced_end - 30_000]).unwrap();
    lost(directory.path());
    fs::write(&journal, [&good[..synced_end - 30_000], &vec![0; 100_000]].concat()).unwrap();
    lost(directory.path());
    // Behind the sync it is a torn tail as ever.
    let mut bytes = good;
    let unsynced = find_last(&bytes, &[11; 64]);
    bytes[unsynced] ^= 4;
    fs::write(&journal, &bytes).unwrap();
    let store = StateStore::open(directory.path(), MemoryBudget::default()).unwrap();
    assert!(store.repaired.as_ref().unwrap().contains("was cut at byte"), "{:?}", store.repaired);
    assert_eq!(store.reader().get(Table::Meta, b"applied").unwrap().unwrap()[..], [10]);
}

#[test]
fn a_journal_that_another_follows_is_whole_or_the_state_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let journal = written(directory.path());
    fs::write(directory.path().join("1.jnl"), vec![0; 1 << 20]).unwrap();
    let good = fs::read(&journal).unwrap();
    let mut bytes = good.clone();
    bytes[0] ^= 4;
    fs::write(&journal, &bytes).unwrap();
    assert!(lost(directory.path()).contains("when the next one was begun"));
    fs::write(&journal, &good).unwrap();
    assert_eq!(
        StateStore::open(directory.path(), MemoryBudget::default()).unwrap().reader().get(Table::Meta, b"applied").unwrap().unwrap()[..],
        [10]
    );
}

#[test]
fn a_journal_that_is_gone_is_missed() {
    let directory = tempfile::tempdir().unwrap();
    let journal = synced(directory.path());
    fs::rename(&journal, directory.path().join("aside")).unwrap();
    assert!(lost(directory.path()).contains("has no journal"));
    fs::rename(directory.path().join("aside"), directory.path().join("7.jnl")).unwrap();
    fs::write(directory.path().join("9.jnl"), b"").unwrap();
    assert!(lost(directory.path()).contains("8.jnl is missing"));
}

#[test]
fn a_newest_journal_that_is_gone_is_missed_though_an_older_one_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    synced(directory.path());
    let mut marks = MarkFile::open(directory.path()).unwrap();
    marks.set(Mark { journal: 1, offset: 100, ..marks.mark() }).unwrap();
    assert!(lost(directory.path()).contains("1.jnl, which was synced, is missing"));
}

/// The engine syncs its journal before it writes a table, and marks nothing.
#[test]
fn a_cut_behind_which_a_table_has_more_is_a_lost_state_also_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let mut host = Host::open(directory.path());
    host.commit(&[(Table::Meta, b"swept", Some(b"1"))]);
    host.commit(&[(Table::Meta, b"swept", Some(b"2")), (Table::Settled, b"moved", Some(&[2; 20_000]))]);
    host.persister.abandon();
    let database = open_database(directory.path(), MemoryBudget::default()).unwrap();
    database.keyspace("meta", || options(MemoryBudget::default())).unwrap().rotate_memtable_and_wait().unwrap();
    drop(database);
    let journal = journal_of(directory.path());
    let mut bytes = fs::read(&journal).unwrap();
    let at = find_last(&bytes, &[2; 64]);
    bytes[at] ^= 4;
    fs::write(&journal, &bytes).unwrap();
    for _ in 0..2 {
        assert!(lost(directory.path()).contains("but the journals end with batch"));
    }
}

#[test]
fn rows_that_outlived_a_compaction_are_missed_when_their_table_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let store = StateStore::open(directory.path(), MemoryBudget::default()).unwrap();
    store.host.insert(SETTLED_BYTES_KEY, 7_u64.to_le_bytes()).unwrap();
    drop(store);
    assert!(lost(directory.path()).contains("outlived a compaction"));
}

#[test]
fn a_lost_store_is_left_as_it_is_until_it_is_moved_aside() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("state");
    fs::create_dir(&directory).unwrap();
    drop(written(&directory));
    for entry in fs::read_dir(directory.join("keyspaces/0")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::write(&path, b"rotten").unwrap();
        }
    }
    let what = lost(&directory);
    let store = StateStore::begin_anew(&directory, MemoryBudget::default(), &what).unwrap();
    assert!(store.repaired.as_ref().unwrap().contains("state.damaged-1"), "{:?}", store.repaired);
    assert_eq!(store.reader().get(Table::Meta, b"applied").unwrap(), None);
    assert!(parent.path().join("state.damaged-1/keyspaces").is_dir());
}

#[test]
fn a_write_that_failed_in_the_background_is_put_down_to_a_full_disk_where_it_is_full() {
    let path = Path::new("/somewhere/state");
    let full = "/somewhere/state: state store: a write in the background failed: No space left on device, only 1000 bytes are free";
    assert_eq!(explain(path, &StateError::Poisoned, Some(1_000)), full);
    let unknown = "/somewhere/state: state store: a write in the background failed; the log says why";
    assert_eq!(explain(path, &StateError::Poisoned, Some(PART_BYTES)), unknown);
    assert_eq!(explain(path, &StateError::Poisoned, None), unknown);
    assert_eq!(explain(path, &StateError::Failed("a reason".into()), Some(0)), "/somewhere/state: state store: a reason");
}

#[test]
#[should_panic(expected = "needs write 2 of the log, but only 1 is durable")]
fn a_batch_ahead_of_the_log_is_a_bug() {
    let directory = tempfile::tempdir().unwrap();
    let host = Host::open(directory.path());
    host.persister.commit(BatchNumber(1), WriteBatch { rows: Vec::<RowOp>::new(), bytes: 0 }, WriteNumber(2), WriteNumber(1));
}

#[test]
fn a_store_whose_making_was_interrupted_is_made_again() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("state");
    Host::open(&path).persister.close();
    std::fs::remove_file(path.join("version")).unwrap();
    let store = StateStore::open(&path, MemoryBudget::default()).unwrap();
    assert!(store.repaired.is_some_and(|what| what.contains("moved to")));
}

#[test]
fn a_block_damaged_under_an_open_reader_is_an_error_that_names_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let mut host = Host::open(directory.path());
    let mut values = rand_chacha::ChaCha20Rng::seed_from_u64(1);
    let rows: Vec<([u8; 1], Vec<u8>)> = (0..100)
        .map(|key| {
            let mut value = vec![0; 3_000];
            values.fill_bytes(&mut value);
            ([key], value)
        })
        .collect();
    let recent = recent_key(id(2));
    let mut batch: Vec<Row<'_>> = rows.iter().map(|(key, value)| (Table::Settled, &key[..], Some(&value[..]))).collect();
    batch.push((Table::Recent, &recent, Some(&rows[0].1)));
    host.commit(&batch);
    host.persister.close();
    let store = StateStore::open(directory.path(), MemoryBudget::default()).unwrap();
    let part = store.keyspaces.recent.values().next().unwrap();
    let reader_of = |keyspace: &Keyspace, value: &[u8]| {
        keyspace.rotate_memtable_and_wait().unwrap();
        let reader = store.reader();
        let tables = fs::read_dir(keyspace.path().join("tables")).unwrap().map(|entry| entry.unwrap().path());
        let mut flipped = 0;
        for path in tables {
            let mut bytes = fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(64).position(|window| window == &value[1_000..1_064]) {
                bytes[at] ^= 1;
                // In place: the reader has the file open.
                fs::write(&path, &bytes).unwrap();
                flipped += 1;
            }
        }
        assert_eq!(flipped, 1);
        reader
    };
    let reader = reader_of(&store.keyspaces.settled, &rows[50].1);
    let place = store.keyspaces.settled.path().display().to_string();
    let error = reader.get(Table::Settled, &[50]).unwrap_err();
    assert!(error.0.contains(&place), "{error}");
    for direction in [Direction::Forward, Direction::Backward] {
        let error = reader
            .scan(Table::Settled, b"", b"", direction, &mut |key, value| {
                assert_eq!(value, rows[usize::from(key[0])].1);
                ControlFlow::Continue(())
            })
            .unwrap_err();
        assert!(error.0.contains(&place), "{error}");
    }
    assert_eq!(reader.get(Table::Settled, &[0]).unwrap().unwrap(), rows[0].1, "other blocks are whole");
    let reader = reader_of(part, &rows[0].1);
    let error = reader.get(Table::Recent, &recent).unwrap_err();
    assert!(error.0.contains(&part.path().display().to_string()), "{error}");
}

impl Host {
    /// What comes of work on a state that is received.
    fn receive(&self, work: StoreWork) -> StateEvent {
        self.persister.receive(work);
        self.events.recv().unwrap()
    }

    fn store_row(&self, state: StateNumber, key: &'static [u8]) -> FjallReader {
        let mut batch = WriteBatch::default();
        batch.put(Table::Settled, Bytes::from_static(key), Bytes::from_static(b"received"));
        let StateEvent::Stored(reader, _) = self.receive(StoreWork::StoreRows { state, batch }) else { panic!("not stored") };
        reader
    }
}

#[test]
fn a_received_state_takes_the_place_of_the_one_in_force_whose_directory_goes_when_nobody_reads_it() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("state");
    let next = temporary.path().join("state-1");
    let state = StateNumber(1);
    let mut host = Host::open(&path);
    let reading = host.commit(&[(Table::Settled, b"old", Some(b"old"))]);
    let usage = host.persister.usage();
    assert!(matches!(host.receive(StoreWork::BeginState { state, anew: false }), StateEvent::Begun(_)));
    drop(host.store_row(state, b"given up"));
    assert!(
        matches!(host.receive(StoreWork::BeginState { state, anew: true }), StateEvent::Begun(reader) if reader.get(Table::Settled, b"given up").unwrap().is_none())
    );
    drop(host.store_row(state, b"k"));
    assert_eq!(usage.stored_bytes(), 6, "what is received counts only when it is in force");
    assert!(matches!(host.receive(StoreWork::SyncState { state }), StateEvent::Stored(_, 9)));
    assert!(matches!(host.receive(StoreWork::SwitchState { state }), StateEvent::Switched));
    assert_eq!(usage.stored_bytes(), 9);
    let reader = host.commit(&[(Table::Settled, b"new", Some(b"new"))]);
    assert_eq!(reader.get(Table::Settled, b"k").unwrap().unwrap()[..], *b"received");
    assert!(reader.get(Table::Settled, b"old").unwrap().is_none());
    assert_eq!(reading.get(Table::Settled, b"old").unwrap().unwrap()[..], *b"old", "who reads it goes on");
    assert!(path.exists());
    drop(reading);
    host.commit(&[(Table::Settled, b"newer", Some(b"newer"))]);
    assert!(!path.exists() && next.exists());
    drop(reader);
    host.persister.close();
    let store = StateStore::open(&next, MemoryBudget::default()).unwrap();
    assert_eq!(store.reader().get(Table::Settled, b"newer").unwrap().unwrap()[..], *b"newer");
}

#[test]
fn a_state_that_cannot_be_received_leaves_the_one_in_force_as_it_is() {
    let temporary = tempfile::tempdir().unwrap();
    let mut host = Host::open(&temporary.path().join("state"));
    // A file stands where the directory should be made.
    fs::write(temporary.path().join("state-1"), b"in the way").unwrap();
    let state = StateNumber(1);
    let StateEvent::NotStored(error) = host.receive(StoreWork::BeginState { state, anew: false }) else { panic!("stored") };
    assert!(error.contains("state-1"), "{error}");
    assert!(matches!(host.receive(StoreWork::BeginState { state, anew: true }), StateEvent::Begun(_)));
    drop(host.store_row(state, b"k"));
    host.persister.receive(StoreWork::DropState { state });
    let reader = host.commit(&[(Table::Settled, b"k", Some(b"v"))]);
    assert_eq!(reader.get(Table::Settled, b"k").unwrap().unwrap()[..], *b"v");
    assert!(!temporary.path().join("state-1").exists());
}
