use super::*;
use quorate_core::consensus::{Entry, Payload};
use quorate_core::types::{ClusterId, LogId, LogIndex, MemberId, RequestId, Term};
use quorate_core::wal::{Identity, Planner, Record, Recovered, Recovery, WalDamage, WalSettings, bootstrap_entries, read_entries};
use std::sync::mpsc as events;

const SETTINGS: WalSettings = WalSettings { segment_bytes: 32 << 10, spare_segments: 1 };

#[derive(Debug)]
enum Event {
    Durable(WriteNumber),
    Failed(WalError),
}

struct Events(events::Sender<Event>);

impl WalListener for Events {
    fn durable(&mut self, number: WriteNumber) {
        self.0.send(Event::Durable(number)).unwrap();
    }
    fn failed(&mut self, error: WalError) {
        self.0.send(Event::Failed(error)).unwrap();
    }
}

fn start(directory: &Path) -> (Wal, WalThreads, events::Receiver<Event>) {
    let (sender, receiver) = events::channel();
    let (wal, threads) = Wal::start(directory, Events(sender)).unwrap();
    (wal, threads, receiver)
}

fn recover(directory: &Path) -> Result<Recovered, WalDamage> {
    let mut recovery = Recovery::new(LogIndex(0), SETTINGS, [5; 32]);
    for (segment, path) in list(directory).unwrap().segments {
        recovery.segment(segment, &std::fs::read(path).unwrap().into())?;
    }
    recovery.finish()
}

fn bootstrap() -> Recovered {
    let (entries, _) = bootstrap_entries(&[(MemberId(1), vec!["http://127.0.0.1:1".into()])]);
    Planner::bootstrap(Identity { cluster: ClusterId(1), member: MemberId(1) }, entries, SETTINGS, [4; 32])
}

fn entry(index: u64, size: usize) -> Entry {
    let request = RequestId { member: MemberId(1), boot: quorate_core::types::Boot(1), sequence: index };
    Entry { id: LogId { term: Term(1), index: LogIndex(index) }, payload: Payload::Command { request, command: vec![7; size].into() } }
}

/// Hands over what is planned and waits until it is durable.
fn write(planner: &mut Planner, wal: &Wal, events: &events::Receiver<Event>) {
    let (number, ops) = planner.seal().unwrap();
    wal.write_blocking(number, ops).unwrap();
    loop {
        match events.recv().unwrap() {
            Event::Durable(durable) => {
                planner.durable(durable);
                if durable == number {
                    return;
                }
            }
            Event::Failed(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_was_reported_durable_is_there_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("member/wal");
    std::fs::create_dir_all(&directory).unwrap();
    let mut planner = bootstrap().planner;
    let mut written = 1;
    for life in 1..4 {
        let (wal, threads, events) = start(&directory);
        write(&mut planner, &wal, &events);
        for _ in 0..40 {
            written += 1;
            planner.append(&Record::Entry(entry(written, 1_500)));
            if let Some((segment, length)) = planner.prepare() {
                wal.prepare(segment, length);
            }
            write(&mut planner, &wal, &events);
        }
        let location = planner.locate(LogIndex(5), 4_000).unwrap();
        let read = wal.read(location.segment, location.offset, location.length).unwrap();
        assert_eq!(read_entries(location, &read).unwrap(), [entry(5, 1_500), entry(6, 1_500)]);
        assert!(wal.metrics().written_bytes.load(Ordering::Relaxed) > 60_000);
        assert!(wal.metrics().syncs.load(Ordering::Relaxed) >= 41);
        drop(wal);
        threads.join();
        let recovered = recover(&directory).unwrap();
        assert_eq!((recovered.boot.0, recovered.torn_tail.as_deref()), (life + 1, None));
        assert_eq!(recovered.entries.len() as u64, written);
        assert_eq!(recovered.entries.last(), Some(&entry(written, 1_500)));
        planner = recovered.planner;
    }
}

#[test]
fn queued_writes_share_a_sync() {
    let write_at = |segment, offset| WalOp::WriteAt { segment: SegmentId(segment), offset, bytes: vec![1].into() };
    let sync = |segment| WalOp::Sync { segment: SegmentId(segment) };
    let grouped = group(vec![write_at(1, 0), sync(1), write_at(1, 1), sync(1), write_at(2, 0), sync(2)]);
    assert_eq!(grouped, [write_at(1, 0), write_at(1, 1), sync(1), write_at(2, 0), sync(2)]);
    let resumed = vec![WalOp::SyncDirectory, sync(1), write_at(1, 0), sync(1)];
    assert_eq!(group(resumed.clone()), resumed, "what was read after a crash is synced before a record vouches for it");
}

/// Holds its thread up, as a slow disk would: says what is durable, and waits to be let go.
struct HeldUp {
    durable: events::Sender<WriteNumber>,
    go: events::Receiver<()>,
}

impl WalListener for HeldUp {
    fn durable(&mut self, number: WriteNumber) {
        self.durable.send(number).unwrap();
        // Let go for good once the other side is dropped.
        let _ = self.go.recv();
    }
    fn failed(&mut self, error: WalError) {
        panic!("{error}");
    }
}

#[test]
fn only_so_many_writes_wait_for_the_disk_and_who_hands_over_more_waits() {
    let home = tempfile::tempdir().unwrap();
    let (sender, durable) = events::channel();
    let (go, held_up) = events::channel();
    let (wal, threads) = Wal::start(home.path(), HeldUp { durable: sender, go: held_up }).unwrap();
    wal.write_blocking(WriteNumber(1), Vec::new()).unwrap();
    assert_eq!(durable.recv().unwrap(), WriteNumber(1));
    let accepted = (2..).take_while(|number| wal.writes.try_send((WriteNumber(*number), Vec::new())).is_ok()).count();
    assert_eq!(accepted, QUEUED_WRITES);
    drop(go);
    let last = WriteNumber(2 + QUEUED_WRITES as u64);
    wal.write_blocking(last, Vec::new()).unwrap();
    drop(wal);
    threads.join();
    assert_eq!(durable.iter().last(), Some(last));
}

#[test]
fn segments_are_recycled_on_disk() {
    let home = tempfile::tempdir().unwrap();
    let mut planner = bootstrap().planner;
    let (wal, threads, events) = start(home.path());
    for index in 2..120 {
        planner.append(&Record::Entry(entry(index, 3_000)));
        planner.release(LogIndex(index - 1));
        write(&mut planner, &wal, &events);
    }
    drop(wal);
    threads.join();
    let segments = list(home.path()).unwrap().segments;
    assert!(segments.len() <= 3 && segments[0].0 > SegmentId(8), "{segments:?}");
    assert_eq!(recover(home.path()).unwrap().entries.last(), Some(&entry(119, 3_000)));
}

#[test]
fn a_failure_is_final_and_says_what_where_and_why() {
    let home = tempfile::tempdir().unwrap();
    let mut planner = bootstrap().planner;
    let (wal, threads, events) = start(home.path());
    write(&mut planner, &wal, &events);
    let segment = SegmentId(99);
    wal.write_blocking(WriteNumber(2), vec![WalOp::WriteAt { segment, offset: 0, bytes: vec![1].into() }, WalOp::Sync { segment }])
        .unwrap();
    let Event::Failed(error) = events.recv().unwrap() else { panic!("a write to nowhere succeeded") };
    assert_eq!((error.operation, error.kind), ("open", io::ErrorKind::NotFound));
    assert_eq!(error.path, home.path().join(segment_file_name(segment)));
    assert!(error.to_string().contains("No such file"), "{error}");
    threads.join();
    assert_eq!(wal.write_blocking(WriteNumber(3), Vec::new()), Err(WalStopped));
    assert!(events.recv().is_err(), "nothing is reported after a failure");
}

#[test]
fn a_prepared_file_becomes_the_segment() {
    let home = tempfile::tempdir().unwrap();
    let (wal, threads, events) = start(home.path());
    wal.prepare(SegmentId(3), 8_192);
    {
        let state = wal.preparer.lock();
        let state = wal.preparer.changed.wait_while(state, |state| state.ready.is_empty()).unwrap();
        assert!(state.ready[0].1.exists());
    }
    wal.write_blocking(WriteNumber(1), vec![WalOp::Create { segment: SegmentId(4), length: 8_192 }, WalOp::SyncDirectory]).unwrap();
    assert!(matches!(events.recv().unwrap(), Event::Durable(WriteNumber(1))));
    assert!(wal.preparer.lock().ready.is_empty());
    drop(wal);
    threads.join();
    let names: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["0000000000000004.wal"]);
}

#[test]
fn leftovers_of_a_preparation_go_when_the_owner_says_so_and_strangers_are_named() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("7.tmp"), b"half").unwrap();
    let found = list(home.path()).unwrap();
    assert!(found.segments.is_empty() && home.path().join("7.tmp").exists());
    found.remove_unfinished().unwrap();
    assert!(!home.path().join("7.tmp").exists());
    std::fs::write(home.path().join("notes.txt"), b"?").unwrap();
    let error = list(home.path()).unwrap_err();
    assert!(error.to_string().contains("notes.txt"), "{error}");
}

#[test]
fn the_lost_and_found_of_a_file_system_of_its_own_is_no_stranger() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("lost+found")).unwrap();
    assert!(list(home.path()).unwrap().segments.is_empty());
}

/// Hears about a log that grows.
struct Grown(events::Sender<u64>);

impl WalListener for Grown {
    fn durable(&mut self, _: WriteNumber) {}
    fn failed(&mut self, error: WalError) {
        panic!("{error}");
    }
    fn grown(&mut self, kept_bytes: u64) {
        self.0.send(kept_bytes).unwrap();
    }
}

#[test]
fn a_log_that_nobody_releases_is_told_once_it_is_above_its_limit_and_always_measured() {
    let home = tempfile::tempdir().unwrap();
    let (sender, grown) = events::channel();
    let (wal, threads) = Wal::start_with(home.path(), Grown(sender), 20_000).unwrap();
    let metrics = Arc::clone(&wal.metrics);
    let create = |segment| WalOp::Create { segment: SegmentId(segment), length: 8_192 };
    let remove = |segment| WalOp::Remove { segment: SegmentId(segment) };
    wal.write_blocking(WriteNumber(1), (1..=5).map(create).collect()).unwrap();
    wal.write_blocking(WriteNumber(2), vec![remove(1), WalOp::Recycle { from: SegmentId(2), to: SegmentId(6) }]).unwrap();
    drop(wal);
    threads.join();
    assert_eq!(grown.iter().collect::<Vec<_>>(), [3 * 8_192], "one line in a minute");
    assert_eq!(metrics.kept_bytes.get(), 4 * 8_192);
    let (sender, _grown) = events::channel();
    let (wal, threads) = Wal::start_with(home.path(), Grown(sender), 20_000).unwrap();
    assert_eq!(wal.metrics().kept_bytes.get(), 4 * 8_192, "what an earlier life left counts");
    drop(wal);
    threads.join();
}

#[test]
fn the_line_about_a_log_that_grows_says_how_large_it_is_and_why() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let subscriber = tracing_subscriber::fmt().with_writer(Mutex::new(file.reopen().unwrap())).with_ansi(false).finish();
    let (sender, _events) = events::channel();
    tracing::subscriber::with_default(subscriber, || Events(sender).grown(KEPT_LOG_ALARM_BYTES + 1));
    let line = std::fs::read_to_string(file.path()).unwrap();
    for part in ["WARN quorate", "kept_bytes=1610612737", "limit_bytes=1610612736", "will fill the disk", "the state store is behind it"] {
        assert!(line.contains(part), "{part:?} is missing in: {line}");
    }
}

#[test]
fn a_retired_segment_reads_as_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (wal, ..) = start(home.path());
    assert!(wal.read(SegmentId(1), 0, 100).unwrap().is_empty());
}
