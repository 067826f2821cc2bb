//! Which operations a write becomes.

use super::*;

#[test]
fn a_write_is_one_stretch_and_one_sync() {
    let (mut planner, mut disk) = started();
    planner.append(&Record::Ballot { term: Term(2), vote: Some(MemberId(0xb)) });
    planner.append(&Record::Entry(entry(2, 3, 100)));
    planner.append(&Record::Entry(entry(2, 4, 100)));
    let ops = write(&mut planner, &mut disk);
    assert!(matches!(ops[..], [WalOp::WriteAt { .. }, WalOp::Sync { .. }]), "{ops:?}");
}

#[test]
fn nothing_appended_is_nothing_to_write() {
    let (mut planner, _) = started();
    assert_eq!(planner.seal(), None);
}

#[test]
fn the_first_write_of_a_life_holds_its_boot() {
    let (_, mut disk) = started();
    let mut recovered = disk.recover().unwrap();
    assert_eq!((recovered.boot, recovered.term, recovered.commit), (Boot(2), Term(1), LogIndex(2)));
    assert_eq!(recovered.entries, founders());
    write(&mut recovered.planner, &mut disk);
    assert_eq!(disk.recover().unwrap().boot, Boot(3));
}

#[test]
fn founders_join_one_by_one_in_the_order_of_their_ids() {
    let urls = |name: &str| vec![name.into()];
    let (entries, configuration) = bootstrap_entries(&[(MemberId(9), urls("http://c")), (MemberId(2), urls("http://a"))]);
    let ids: Vec<LogId> = entries.iter().map(|entry| entry.id).collect();
    assert_eq!(ids, [1, 2].map(|index| LogId { term: Term(1), index: LogIndex(index) }));
    let Payload::Configuration { configuration: first, .. } = &entries[0].payload else { panic!("{entries:?}") };
    assert_eq!(first.voters.iter().collect::<Vec<_>>(), [&MemberId(2)]);
    assert_eq!(entries[1].payload, Payload::Configuration { request: None, configuration: configuration.clone() });
    assert_eq!(configuration.voters.len(), 2);
    assert!(configuration.learners.is_empty() && configuration.outgoing.is_empty());
}

#[test]
fn a_full_segment_is_synced_before_the_next_is_written() {
    let (mut planner, mut disk) = started();
    planner.append(&Record::Entry(entry(1, 3, 1_500)));
    planner.append(&Record::Entry(entry(1, 4, 3_000)));
    let ops = write(&mut planner, &mut disk);
    let [
        WalOp::WriteAt { segment: SegmentId(1), .. },
        WalOp::Sync { segment: SegmentId(1) },
        WalOp::Create { segment: SegmentId(2), length: 8_192 },
        WalOp::SyncDirectory,
        WalOp::WriteAt { segment: SegmentId(2), offset: 0, .. },
        WalOp::Sync { segment: SegmentId(2) },
    ] = ops[..]
    else {
        panic!("{ops:?}")
    };
}

#[test]
fn a_record_larger_than_a_segment_gets_one_made_for_it() {
    let (mut planner, mut disk) = started();
    planner.append(&Record::Entry(entry(1, 3, 2 << 20)));
    planner.append(&Record::Entry(entry(1, 4, 10)));
    write(&mut planner, &mut disk);
    assert!(disk.files[&SegmentId(2)].len() > 2 << 20);
    assert_eq!(disk.recover().unwrap().entries[2..], [entry(1, 3, 2 << 20), entry(1, 4, 10)]);
}

#[test]
fn the_next_segment_is_asked_for_once() {
    let (mut planner, mut disk) = started();
    assert_eq!(planner.prepare(), Some((SegmentId(2), SETTINGS.segment_bytes)));
    assert_eq!(planner.prepare(), None);
    planner.append(&Record::Entry(entry(1, 3, 4_000)));
    write(&mut planner, &mut disk);
    assert_eq!(planner.prepare(), Some((SegmentId(3), SETTINGS.segment_bytes)));
}

#[test]
fn an_idle_log_records_its_last_sync_once() {
    let (mut planner, mut disk) = started();
    planner.append(&Record::Entry(entry(1, 3, 10)));
    planner.idle();
    let (number, ops) = planner.seal().unwrap();
    disk.apply(&ops);
    planner.idle();
    assert_eq!(planner.seal(), None, "the write is not durable yet");
    planner.durable(number);
    planner.idle();
    write(&mut planner, &mut disk);
    planner.idle();
    assert_eq!(planner.seal(), None, "the mark is recorded");
}

#[test]
fn released_segments_are_recycled_and_their_past_is_never_read() {
    let (mut planner, mut disk) = started();
    let mut creations = 0;
    let mut recycled = 0;
    for index in 3..200 {
        planner.append(&Record::Entry(entry(1, index, 700)));
        planner.release(LogIndex(index - 1));
        let ops = write(&mut planner, &mut disk);
        creations += ops.iter().filter(|op| matches!(op, WalOp::Create { .. })).count();
        recycled += ops.iter().filter(|op| matches!(op, WalOp::Recycle { .. })).count();
        let recovered = disk.recover().unwrap();
        assert_eq!(recovered.base.index.next(), planner.first());
        assert_eq!(recovered.entries.last(), Some(&entry(1, index, 700)));
        assert_eq!(recovered.torn_tail, None);
    }
    assert!(creations <= 2, "{creations} segments made, {recycled} recycled");
    assert!(recycled > 20, "{recycled}");
    assert!(disk.files.len() <= 3, "{:?}", disk.files.keys());
}

#[test]
fn spares_beyond_the_setting_are_removed() {
    let (mut planner, mut disk) = started();
    for index in 3..40 {
        planner.append(&Record::Entry(entry(1, index, 3_000)));
        write(&mut planner, &mut disk);
    }
    assert!(disk.files.len() > 15);
    planner.release(LogIndex(39));
    for index in 40..46 {
        planner.append(&Record::Entry(entry(1, index, 10)));
        write(&mut planner, &mut disk);
    }
    assert_eq!(disk.files.len(), 1 + SETTINGS.spare_segments, "{:?}", disk.files.keys());
}

#[test]
fn a_released_segment_goes_only_after_the_write_is_synced() {
    let (mut planner, mut disk) = started();
    planner.append(&Record::Entry(entry(1, 3, 3_000)));
    planner.append(&Record::Entry(entry(1, 4, 3_000)));
    planner.release(LogIndex(3));
    let ops = write(&mut planner, &mut disk);
    let synced = ops.iter().rposition(|op| matches!(op, WalOp::Sync { .. })).unwrap();
    let retired = ops.iter().position(|op| matches!(op, WalOp::Recycle { .. } | WalOp::Remove { .. })).unwrap();
    assert!(synced < retired, "{ops:?}");
    assert_eq!(ops.last(), Some(&WalOp::SyncDirectory));
}

#[test]
fn entries_are_found_where_they_were_written() {
    let (mut planner, mut disk) = started();
    for index in 3..30 {
        planner.append(&Record::Entry(entry(1, index, 500)));
        write(&mut planner, &mut disk);
    }
    for index in 3..30 {
        let all = disk.read(planner.locate(LogIndex(index), 1).unwrap());
        assert_eq!(all, [entry(1, index, 500)]);
        let many = disk.read(planner.locate(LogIndex(index), 1_200).unwrap());
        assert_eq!(many[0], entry(1, index, 500));
        assert!(many.len() <= 2);
    }
    assert_eq!(planner.locate(LogIndex(30), 100), None);
    planner.release(LogIndex(20));
    planner.append(&Record::Commit(LogIndex(29)));
    write(&mut planner, &mut disk);
    assert_eq!(planner.locate(planner.first().previous(), 100), None);
    assert!(planner.locate(planner.first(), 100).is_some());
}

#[test]
fn entries_are_not_found_before_they_are_durable() {
    let (mut planner, mut disk) = started();
    planner.append(&Record::Entry(entry(1, 3, 500)));
    assert_eq!(planner.locate(LogIndex(3), 100), None);
    let (number, ops) = planner.seal().unwrap();
    assert_eq!(planner.locate(LogIndex(3), 100), None);
    disk.apply(&ops);
    planner.durable(number);
    assert!(planner.locate(LogIndex(3), 100).is_some());
}

#[test]
fn a_stretch_never_reaches_into_what_was_truncated() {
    let (mut planner, mut disk) = started();
    for index in 3..7 {
        planner.append(&Record::Entry(entry(1, index, 50)));
    }
    planner.append(&Record::Truncate { from: LogIndex(5) });
    for index in 5..8 {
        planner.append(&Record::Entry(entry(2, index, 50)));
    }
    write(&mut planner, &mut disk);
    for planner in [&planner, &opened(&mut disk).planner] {
        assert_eq!(disk.read(planner.locate(LogIndex(3), 4_000).unwrap()), [entry(1, 3, 50), entry(1, 4, 50)]);
        assert_eq!(disk.read(planner.locate(LogIndex(5), 4_000).unwrap()), [5, 6, 7].map(|index| entry(2, index, 50)));
        let terms = [2, 4, 5, 7].map(|index| planner.term(LogIndex(index)).unwrap().0);
        assert_eq!((terms, planner.term(LogIndex(8))), ([1, 1, 2, 2], None));
    }
}

/// Recovered, with its first write durable.
fn opened(disk: &mut Disk) -> Recovered {
    let mut recovered = disk.recover().unwrap();
    write(&mut recovered.planner, disk);
    recovered
}

#[test]
fn what_is_applied_is_located_and_not_held() {
    let (mut planner, mut disk) = started();
    for index in 3..9 {
        planner.append(&Record::Entry(entry(2, index, 50)));
    }
    write(&mut planner, &mut disk);
    let mut recovered = disk.recover_from(LogIndex(6), 1).unwrap();
    assert_eq!(recovered.before, LogId { term: Term(2), index: LogIndex(6) });
    assert_eq!(recovered.entries, [entry(2, 7, 50), entry(2, 8, 50)]);
    write(&mut recovered.planner, &mut disk);
    assert_eq!(disk.read(recovered.planner.locate(LogIndex(4), 1).unwrap()), [entry(2, 4, 50)]);
    assert_eq!(disk.recover_from(LogIndex(100), 1).unwrap().before.index, LogIndex(8));
}

#[test]
fn numbers_of_writes_start_at_one_and_grow() {
    let mut planner = bootstrap().planner;
    assert_eq!(planner.seal().unwrap().0, WriteNumber(1));
    planner.append(&Record::Idle);
    assert_eq!(planner.seal().unwrap().0, WriteNumber(2));
}

#[test]
fn a_head_that_speaks_of_overruled_entries_may_become_the_first() {
    let (mut planner, mut disk) = started();
    for index in 3..6 {
        planner.append(&Record::Entry(entry(1, index, 1_000)));
    }
    write(&mut planner, &mut disk);
    let segments = disk.files.len();
    assert_eq!(segments, 2, "entry 5 stands in a segment whose header ends at entry 4, or the test tests nothing");
    planner.append(&Record::Truncate { from: LogIndex(4) });
    for index in 4..8 {
        planner.append(&Record::Entry(entry(2, index, 300)));
    }
    planner.append(&Record::Commit(LogIndex(7)));
    write(&mut planner, &mut disk);
    planner.release(LogIndex(6));
    planner.append(&Record::Idle);
    write(&mut planner, &mut disk);
    assert!(!disk.files.contains_key(&SegmentId(1)));
    let recovered = disk.recover().unwrap();
    assert_eq!(recovered.base, LogId { term: Term(2), index: LogIndex(4) });
    assert_eq!(recovered.base.index.next(), planner.first());
    assert_eq!(planner.term(recovered.base.index), Some(Term(2)));
    assert_eq!(recovered.entries, [5, 6, 7].map(|index| entry(2, index, 300)));
}
