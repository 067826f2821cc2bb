//! The bytes on disk, kept for ever: a change here is a new format version.

use super::*;
use crate::wal::record::{Incarnation, LogPosition, encode, preamble};
use alloc::{collections::BTreeSet, format};

const INCARNATION: Incarnation = Incarnation { segment: SegmentId(5), seed: 0x1122_3344_5566_7788 };
const SYNCED: LogPosition = LogPosition { segment: SegmentId(4), offset: 0x1f00 };

fn hex(bytes: &[u8]) -> String {
    let words: Vec<String> = bytes.chunks(8).map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    words.chunks(6).map(|line| line.join(" ")).collect::<Vec<_>>().join("\n")
}

fn encoded(record: &Record) -> String {
    let mut bytes = Vec::new();
    encode(record, INCARNATION, SYNCED, &mut bytes);
    assert_eq!(bytes.len() % 8, 0);
    let Ok(ReadRecord::Record { header, record: read, taken }) = record::read(&bytes, INCARNATION.segment, Some(INCARNATION.seed), 0)
    else {
        panic!("does not read back: {record:?}")
    };
    assert_eq!((&read, taken, header.synced_through, header.incarnation), (record, bytes.len(), SYNCED, INCARNATION));
    hex(&bytes)
}

#[test]
fn every_kind_of_record_keeps_its_bytes() {
    let id = LogId { term: Term(3), index: LogIndex(300) };
    let configuration = Configuration {
        voters: BTreeSet::from([MemberId(1), MemberId(2)]),
        outgoing: BTreeSet::from([MemberId(1)]),
        learners: BTreeSet::from([MemberId(3)]),
        peer_urls: BTreeMap::from([(MemberId(1), vec!["http://a:1".into()])]),
    };
    let header =
        SegmentHeader { identity: identity(), boot: Boot(2), term: Term(3), vote: Some(MemberId(0xb)), end: id, commit: LogIndex(299) };
    let request = RequestId { member: MemberId(0xb), boot: Boot(2), sequence: 7 };
    let records = [
        Record::SegmentHeader(header),
        Record::Boot(Boot(2)),
        Record::Ballot { term: Term(3), vote: None },
        Record::Ballot { term: Term(3), vote: Some(MemberId(0xb)) },
        Record::Entry(Entry { id, payload: Payload::Empty }),
        Record::Entry(entry(3, 300, 3)),
        Record::Entry(Entry { id, payload: Payload::Configuration { request: None, configuration: configuration.clone() } }),
        Record::Entry(Entry { id, payload: Payload::Configuration { request: Some(request), configuration } }),
        Record::Truncate { from: LogIndex(300) },
        Record::Commit(LogIndex(299)),
        Record::TornTail { segment: SegmentId(4), offset: 0x1f08 },
        Record::Idle,
        Record::Install { last: id, state: StateNumber(2) },
        Record::State(StateNumber(2)),
    ];
    let text: Vec<String> = records.iter().map(|record| format!("{record:?}\n{}", encoded(record))).collect();
    insta::assert_snapshot!(text.join("\n\n"));
}

#[test]
fn the_preamble_keeps_its_bytes() {
    let front = preamble(INCARNATION);
    assert!(front[40..4096].iter().chain(&front[4096 + 40..]).all(|byte| *byte == 0));
    assert_eq!(front[..40], front[4096..4096 + 40]);
    insta::assert_snapshot!(format!("{} bytes, of which twice\n{}", front.len(), hex(&front[..40])));
}

#[test]
fn each_kind_of_damage_names_the_file_and_the_way_out() {
    let segment = SegmentId(0x1f);
    let damage = [
        WalDamage::Corrupt { segment, offset: 4608, what: "there is no whole record".into() },
        WalDamage::Missing { segment },
        WalDamage::Newer { segment, offset: 0, version: 2 },
        WalDamage::Foreign { segment },
        WalDamage::Empty,
    ];
    let text: Vec<String> = damage.iter().map(|damage| format!("{damage}")).collect();
    insta::assert_snapshot!(text.join("\n"));
}
