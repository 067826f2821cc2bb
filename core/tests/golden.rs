//! The bytes between members and in the log's commands, kept for ever: a change here is a new format version.
//!
//! Members of two releases run side by side during an upgrade, so what one writes the other must read.

use bytes::Bytes;
use quorate_core::codec::{self, FRAME_HEADER, FrameError};
use quorate_core::command::{
    Alarm, AlarmChange, AlarmKind, Checkpointed, Command, Compact, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange,
    LEASE_TTL_MAX_S, LeaseCheckpoint, LeaseExpire, LeaseGrant, LeaseRevoke, MemberAttributes, Op, Put, Range, SortOrder, SortTarget, Txn,
};
use quorate_core::consensus::{
    Configuration, Entry, Envelope, ForwardMessage, ForwardRefusal, LeaseMessage, Message, Payload, Position, Proposal, RaftMessage,
    ReadMessage, Snapshot, SnapshotId, SnapshotMessage,
};
use quorate_core::lease::{LeaseCall, LeaseTime};
use quorate_core::member::Rows;
use quorate_core::storage::Table;
use quorate_core::types::{Boot, LeaseId, LogId, LogIndex, MemberId, ReadId, RequestId, Revision, RevisionId, Term};
use quorate_core::v2;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

const VERSION: u8 = 1;
const LIMIT: usize = 1 << 20;

/// The frame in hexadecimal, header first, once it was seen to read back.
fn frame<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &T) -> String {
    let mut bytes = Vec::new();
    codec::encode(VERSION, body, &mut bytes);
    assert_eq!(codec::decode::<T>(VERSION, &bytes, LIMIT).as_ref(), Ok(&(read_back(&bytes), bytes.len())));
    assert_eq!(&read_back::<T>(&bytes), body);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lines: Vec<String> = bytes[FRAME_HEADER..].chunks(48).map(hex).collect();
    format!("{} {} {}\n{}", hex(&bytes[..4]), hex(&bytes[4..8]), hex(&bytes[8..FRAME_HEADER]), lines.join("\n"))
}

fn read_back<T: DeserializeOwned>(bytes: &[u8]) -> T {
    let (version, body, taken) = codec::split(bytes, LIMIT).expect("a frame just written");
    assert_eq!((version, taken), (VERSION, bytes.len()));
    postcard::from_bytes(body).expect("a body just written")
}

/// Each value above its frame.
fn page<T: Serialize + DeserializeOwned + PartialEq + Debug>(values: &[T]) -> String {
    values.iter().map(|value| format!("{value:?}\n{}", frame(value))).collect::<Vec<_>>().join("\n\n")
}

/// Variant numbers are on disk and on the wire; the samples must show each of them.
fn assert_all_shown<T: Serialize>(values: &[T], number: impl Fn(&T) -> u8, count: u8) {
    let mut shown = BTreeSet::new();
    for value in values {
        let bytes = postcard::to_extend(value, Vec::new()).expect("serialising to memory");
        assert_eq!(bytes[0], number(value), "a variant number moved");
        shown.insert(bytes[0]);
    }
    assert_eq!(shown, (0..count).collect(), "each variant, and no other");
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), index: LogIndex(index) }
}

fn request(sequence: u64) -> RequestId {
    RequestId { member: MemberId(0xb), boot: Boot(2), sequence }
}

fn read(sequence: u64) -> ReadId {
    ReadId { member: MemberId(0xb), boot: Boot(2), sequence }
}

fn configuration() -> Configuration {
    Configuration {
        voters: BTreeSet::from([MemberId(1), MemberId(2)]),
        outgoing: BTreeSet::from([MemberId(1)]),
        learners: BTreeSet::from([MemberId(3)]),
        peer_urls: BTreeMap::from([(MemberId(1), vec!["http://a:2380".into()]), (MemberId(3), vec![])]),
    }
}

fn payloads() -> Vec<Payload> {
    let command = Bytes::from_static(b"command");
    vec![
        Payload::Empty,
        Payload::Command { request: request(7), command },
        Payload::Configuration { request: None, configuration: configuration() },
        Payload::Configuration { request: Some(request(7)), configuration: configuration() },
    ]
}

/// A variant without a number here does not compile; one without a sample fails.
fn payload_number(payload: &Payload) -> u8 {
    match payload {
        Payload::Empty => 0,
        Payload::Command { .. } => 1,
        Payload::Configuration { .. } => 2,
    }
}

fn concern_number(message: &Message) -> u8 {
    match message {
        Message::Raft(_) => 0,
        Message::Read(_) => 1,
        Message::Forward(_) => 2,
        Message::Lease(_) => 3,
        Message::Snapshot(_) => 4,
    }
}

fn raft_number(message: &RaftMessage) -> u8 {
    match message {
        RaftMessage::PreVote { .. } => 0,
        RaftMessage::PreVoteReply { .. } => 1,
        RaftMessage::RequestVote { .. } => 2,
        RaftMessage::Vote { .. } => 3,
        RaftMessage::Append { .. } => 4,
        RaftMessage::Appended { .. } => 5,
        RaftMessage::AppendRejected { .. } => 6,
        RaftMessage::Heartbeat { .. } => 7,
        RaftMessage::HeartbeatReply { .. } => 8,
        RaftMessage::TimeoutNow => 9,
    }
}

fn read_number(message: &ReadMessage) -> u8 {
    match message {
        ReadMessage::Request(_) => 0,
        ReadMessage::Reply { .. } => 1,
        ReadMessage::Refused { .. } => 2,
    }
}

fn forward_number(message: &ForwardMessage) -> u8 {
    match message {
        ForwardMessage::Request(_) => 0,
        ForwardMessage::Refused { .. } => 1,
    }
}

fn lease_number(message: &LeaseMessage) -> u8 {
    match message {
        LeaseMessage::Request(_) => 0,
        LeaseMessage::Reply(_) => 1,
        LeaseMessage::Refused(_) => 2,
    }
}

fn command_number(command: &Command) -> u8 {
    match command {
        Command::Put(_) => 0,
        Command::DeleteRange(_) => 1,
        Command::Txn(_) => 2,
        Command::Compact(_) => 3,
        Command::Alarm(_) => 4,
        Command::Publish(_) => 5,
        Command::V2(_) => 6,
        Command::LeaseGrant(_) => 7,
        Command::LeaseRevoke(_) => 8,
        Command::LeaseExpire(_) => 9,
        Command::LeaseCheckpoint(_) => 10,
    }
}

fn raft_messages() -> Vec<RaftMessage> {
    let entries = payloads().into_iter().zip(300..).map(|(payload, index)| Entry { id: id(3, index), payload }).collect();
    vec![
        RaftMessage::PreVote { end: id(3, 300) },
        RaftMessage::PreVoteReply { granted: true },
        RaftMessage::RequestVote { end: id(3, 300), transfer: true },
        RaftMessage::Vote { granted: false },
        RaftMessage::Append { previous: id(2, 299), entries, commit: LogIndex(298), round: 9 },
        RaftMessage::Append { previous: LogId::default(), entries: vec![], commit: LogIndex(0), round: 0 },
        RaftMessage::Appended { matched: LogIndex(302), round: 9 },
        RaftMessage::AppendRejected { previous: id(2, 299), hint: id(1, 200), round: 9 },
        RaftMessage::Heartbeat { commit: LogIndex(302), round: 10, replicated: LogIndex(150) },
        RaftMessage::HeartbeatReply { round: 10 },
        RaftMessage::TimeoutNow,
    ]
}

fn read_messages() -> Vec<ReadMessage> {
    vec![
        ReadMessage::Request(vec![read(1), read(2)]),
        ReadMessage::Reply { reads: vec![read(1)], index: LogIndex(302) },
        ReadMessage::Refused { reads: vec![read(2)] },
    ]
}

fn forward_messages() -> Vec<ForwardMessage> {
    vec![
        ForwardMessage::Request(vec![Proposal { request: request(8), command: Bytes::from_static(b"command") }]),
        ForwardMessage::Refused { requests: vec![request(8), request(9)], refusal: ForwardRefusal::NotLeader },
        ForwardMessage::Refused { requests: vec![], refusal: ForwardRefusal::TooMany },
    ]
}

fn lease_messages() -> Vec<LeaseMessage> {
    let time = LeaseTime { ttl_s: 600, remaining_s: 7 };
    vec![
        LeaseMessage::Request(vec![(read(1), LeaseCall::KeepAlive(LeaseId(-77))), (read(2), LeaseCall::TimeToLive(LeaseId(5)))]),
        LeaseMessage::Reply(vec![(read(1), Some(time)), (read(2), None)]),
        LeaseMessage::Refused(vec![read(2)]),
    ]
}

fn snapshot_number(message: &SnapshotMessage) -> u8 {
    match message {
        SnapshotMessage::Offer(_) => 0,
        SnapshotMessage::Fetch { .. } => 1,
        SnapshotMessage::Chunk { .. } => 2,
        SnapshotMessage::Over { .. } => 3,
        SnapshotMessage::Gone { .. } => 4,
    }
}

fn snapshot_messages() -> Vec<SnapshotMessage> {
    let snapshot = SnapshotId { sender: MemberId(0xb), boot: Boot(2), number: 7 };
    let place = |table, key: &'static [u8]| Position { table, key: Bytes::from_static(key) };
    let rows = Rows {
        after: Some(place(Table::Meta, b"format")),
        rows: vec![
            (Table::Recent, Bytes::from_static(b"revision"), Bytes::from_static(b"row")),
            (Table::Settled, Bytes::from_static(b"key"), Bytes::new()),
        ],
        last: true,
    };
    vec![
        SnapshotMessage::Offer(Box::new(Snapshot {
            id: snapshot,
            last: id(3, 300),
            digest: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
            revision: Revision(200),
            compact_revision: Revision(-1),
            compacted_to: RevisionId { main: Revision(1), sub: u32::MAX },
            configuration: configuration(),
            bytes: 70_000,
        })),
        SnapshotMessage::Fetch { snapshot, after: None },
        SnapshotMessage::Fetch { snapshot, after: Some(place(Table::Settled, b"key")) },
        SnapshotMessage::Chunk { snapshot, chunk: rows.encode() },
        SnapshotMessage::Over { snapshot },
        SnapshotMessage::Gone { snapshot },
    ]
}

fn messages() -> Vec<Message> {
    let raft = raft_messages().into_iter().map(Message::Raft);
    let read = read_messages().into_iter().map(Message::Read);
    let forward = forward_messages().into_iter().map(Message::Forward);
    let lease = lease_messages().into_iter().map(Message::Lease);
    raft.chain(read).chain(forward).chain(lease).chain(snapshot_messages().into_iter().map(Message::Snapshot)).collect()
}

fn v2_request(change: v2::Change) -> v2::Request {
    v2::Request { path: v2::NodePath::parse("/a/b").unwrap(), change }
}

fn commands() -> Vec<Command> {
    let range = |key: &'static str, end: &'static str| KeyRange {
        key: Bytes::from_static(key.as_bytes()),
        end: Bytes::from_static(end.as_bytes()),
    };
    let put = Put {
        key: Bytes::from_static(b"key"),
        value: Bytes::from_static(b"value"),
        lease: LeaseId(-77),
        prev_kv: true,
        ignore_value: false,
        ignore_lease: true,
    };
    let read = Range {
        range: range("a", "b"),
        limit: 10,
        revision: Revision(-1),
        sort_order: SortOrder::Descend,
        sort_target: SortTarget::Value,
        serializable: true,
        keys_only: false,
        count_only: true,
        min_mod_revision: Revision(1),
        max_mod_revision: Revision(2),
        min_create_revision: Revision(3),
        max_create_revision: Revision(4),
    };
    let targets = [
        (CompareResult::Equal, CompareTarget::Version(1)),
        (CompareResult::Greater, CompareTarget::Create(Revision(2))),
        (CompareResult::Less, CompareTarget::Mod(Revision(3))),
        (CompareResult::NotEqual, CompareTarget::Value(Bytes::from_static(b"v"))),
        (CompareResult::Equal, CompareTarget::Lease(LeaseId(5))),
    ];
    let compare = targets.into_iter().map(|(result, target)| Compare { range: range("k", ""), result, target }).collect();
    let delete = DeleteRange { range: range("a", "\0"), prev_kv: true };
    let nested = Txn { failure: vec![Op::DeleteRange(delete.clone())], ..Txn::default() };
    let alarm = Alarm { member: MemberId(0xb), kind: AlarmKind::Corrupt };
    let compare_v2 = v2::Compare { value: Some(Bytes::from_static(b"v")), modified: Some(4) };
    let condition = v2::Condition::CompareAndSwap(compare_v2);
    let write = v2::Write { value: Bytes::from_static(b"w"), is_directory: false, ttl_s: Some(60), refresh: true, condition };
    vec![
        Command::Put(put.clone()),
        Command::Put(Put::default()),
        Command::DeleteRange(delete),
        Command::Txn(Txn { compare, success: vec![Op::Range(read), Op::Put(put)], failure: vec![Op::Txn(nested)] }),
        Command::Compact(Compact { revision: Revision(1_000), physical: true }),
        Command::Alarm(AlarmChange { alarm, active: true }),
        Command::Alarm(AlarmChange { alarm: Alarm { kind: AlarmKind::NoSpace, ..alarm }, active: false }),
        Command::Publish(MemberAttributes { member: MemberId(0xb), name: "n1".into(), client_urls: vec!["http://a:2379".into()] }),
        Command::V2(v2_request(v2::Change::Write(write))),
        Command::V2(v2_request(v2::Change::Delete(v2::Delete { directory: true, recursive: false, compare: None }))),
        Command::V2(v2_request(v2::Change::Expire)),
        Command::LeaseGrant(LeaseGrant { lease: LeaseId(-77), ttl_s: LEASE_TTL_MAX_S }),
        Command::LeaseRevoke(LeaseRevoke { lease: LeaseId(5) }),
        Command::LeaseExpire(LeaseExpire { lease: LeaseId(5), granted: LogIndex(300), term: Term(3) }),
        Command::LeaseCheckpoint(LeaseCheckpoint {
            term: Term(3),
            leases: vec![
                Checkpointed { lease: LeaseId(5), granted: LogIndex(300), remaining_s: Some(7) },
                Checkpointed { lease: LeaseId(-77), granted: LogIndex(301), remaining_s: None },
            ],
        }),
    ]
}

#[test]
fn every_message_between_members_keeps_its_bytes() {
    assert_all_shown(&messages(), concern_number, 5);
    assert_all_shown(&raft_messages(), raft_number, 10);
    assert_all_shown(&read_messages(), read_number, 3);
    assert_all_shown(&forward_messages(), forward_number, 2);
    assert_all_shown(&lease_messages(), lease_number, 3);
    assert_all_shown(&snapshot_messages(), snapshot_number, 5);
    let envelope = |message| Envelope { from: MemberId(0xb), to: MemberId(u64::MAX), term: Term(3), message };
    insta::assert_snapshot!(page(&messages().into_iter().map(envelope).collect::<Vec<_>>()));
}

#[test]
fn every_payload_of_an_entry_keeps_its_bytes() {
    assert_all_shown(&payloads(), payload_number, 3);
    insta::assert_snapshot!(page(&payloads()));
}

/// A later release, with a concern and a kind of entry more.
#[derive(PartialEq, Debug, Serialize, Deserialize)]
enum LaterMessage {
    Raft(RaftMessage),
    Read(ReadMessage),
    Forward(ForwardMessage),
    Lease(LeaseMessage),
    Snapshot(SnapshotMessage),
    Added { lease: LeaseId },
}

#[derive(PartialEq, Debug, Serialize, Deserialize)]
enum LaterPayload {
    Empty,
    Command { request: RequestId, command: Bytes },
    Configuration { request: Option<RequestId>, configuration: Configuration },
    Added { lease: LeaseId },
}

fn encoded<T: Serialize>(version: u8, body: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(version, body, &mut bytes);
    bytes
}

#[test]
fn a_concern_or_a_payload_more_leaves_the_old_bytes_as_they_are() {
    for message in messages() {
        let later = match message.clone() {
            Message::Raft(message) => LaterMessage::Raft(message),
            Message::Read(message) => LaterMessage::Read(message),
            Message::Forward(message) => LaterMessage::Forward(message),
            Message::Lease(message) => LaterMessage::Lease(message),
            Message::Snapshot(message) => LaterMessage::Snapshot(message),
        };
        let bytes = encoded(VERSION, &message);
        assert_eq!(bytes, encoded(VERSION, &later));
        assert_eq!(codec::decode(VERSION, &bytes, LIMIT), Ok((later, bytes.len())));
    }
    for payload in payloads() {
        let later = match payload.clone() {
            Payload::Empty => LaterPayload::Empty,
            Payload::Command { request, command } => LaterPayload::Command { request, command },
            Payload::Configuration { request, configuration } => LaterPayload::Configuration { request, configuration },
        };
        let bytes = encoded(VERSION, &payload);
        assert_eq!(bytes, encoded(VERSION, &later));
        assert_eq!(codec::decode(VERSION, &bytes, LIMIT), Ok((later, bytes.len())));
    }
    // What this release does not know it refuses whole; it never takes it for something else.
    let added = encoded(VERSION, &LaterMessage::Added { lease: LeaseId(1) });
    assert_eq!(codec::decode::<Message>(VERSION, &added, LIMIT), Err(FrameError::Body));
    let added = encoded(VERSION, &LaterPayload::Added { lease: LeaseId(1) });
    assert_eq!(codec::decode::<Payload>(VERSION, &added, LIMIT), Err(FrameError::Body));
}

/// A later release, with a field more behind a version more.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct LaterProposal {
    request: RequestId,
    command: Bytes,
    user: String,
}

fn read_either(bytes: &[u8]) -> Result<LaterProposal, FrameError> {
    if codec::split(bytes, LIMIT)?.0 == VERSION {
        let (Proposal { request, command }, _) = codec::decode(VERSION, bytes, LIMIT)?;
        return Ok(LaterProposal { request, command, user: String::new() });
    }
    codec::decode(VERSION + 1, bytes, LIMIT).map(|(proposal, _)| proposal)
}

#[test]
fn a_field_more_is_a_version_more_and_leaves_the_old_bytes_readable() {
    let proposal = Proposal { request: request(8), command: Bytes::from_static(b"command") };
    let later = LaterProposal { request: proposal.request, command: proposal.command.clone(), user: "root".into() };
    assert_eq!(read_either(&encoded(VERSION, &proposal)), Ok(LaterProposal { user: String::new(), ..later.clone() }));
    let new = encoded(VERSION + 1, &later);
    assert_eq!(read_either(&new), Ok(later));
    assert_eq!(codec::decode::<Proposal>(VERSION, &new, LIMIT), Err(FrameError::Version { found: 2, newest: 1 }));
}

#[test]
fn every_command_in_the_log_keeps_its_bytes() {
    assert_all_shown(&commands(), command_number, 11);
    insta::assert_snapshot!(page(&commands()));
}

#[test]
fn a_frame_starts_with_its_length_its_checksum_and_its_version() {
    let mut bytes = vec![0xee];
    codec::encode(7, &1_u64, &mut bytes);
    // The checksum is of "07 01", CRC-32C as in RFC 3720, here computed bit by bit.
    assert_eq!(bytes[..5], [0xee, 2, 0, 0, 0], "appended, and the length counts version and body");
    assert_eq!(bytes[5..9], crc32c_bit_by_bit(&[7, 1]).to_le_bytes());
    assert_eq!(bytes[9..], [7, 1]);
}

fn crc32c_bit_by_bit(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())))
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    let mut bytes = Vec::new();
    codec::encode(VERSION, &messages(), &mut bytes);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let read = codec::decode::<Vec<Message>>(VERSION, &flipped, LIMIT);
        assert!(read.is_err(), "bit {bit} of {}", bytes.len() * 8);
    }
}

#[test]
fn a_frame_that_is_cut_says_how_many_bytes_are_needed() {
    let mut bytes = Vec::new();
    codec::encode(VERSION, &messages(), &mut bytes);
    for length in 0..bytes.len() {
        let needed = if length < FRAME_HEADER { FRAME_HEADER } else { bytes.len() };
        assert_eq!(codec::decode::<Vec<Message>>(VERSION, &bytes[..length], LIMIT), Err(FrameError::Short { needed }));
    }
}

#[test]
fn a_frame_over_the_limit_or_of_another_version_or_of_other_content_is_refused() {
    let mut bytes = Vec::new();
    codec::encode(VERSION, &"text", &mut bytes);
    let length = bytes.len() - 8;
    assert_eq!(codec::decode::<String>(VERSION, &bytes, length), Ok(("text".into(), bytes.len())));
    assert_eq!(codec::decode::<String>(VERSION, &bytes, length - 1), Err(FrameError::TooLong { length, limit: length - 1 }));
    assert_eq!(codec::decode::<String>(VERSION + 1, &bytes, LIMIT), Err(FrameError::Version { found: 1, newest: 2 }));
    assert_eq!(codec::decode::<Vec<Message>>(VERSION, &bytes, LIMIT), Err(FrameError::Body));
    assert_eq!(codec::decode::<String>(VERSION, &[0; FRAME_HEADER], LIMIT), Err(FrameError::TooLong { length: 0, limit: LIMIT }));
}
