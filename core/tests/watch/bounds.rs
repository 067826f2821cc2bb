//! Every bound of a hub, reached.

use crate::log::{Log, STREAM, World, cancel, key, line, lines, range, roomy};
use quorate_core::types::{Revision, StreamId};
use quorate_core::watch::{HubLimits, WatchInput, WatchRequest, WatchResponse};
use std::{sync::atomic::Ordering, time::Duration};

const NOTHING: [&str; 0] = [];

/// `count` puts of the one key, from revision 2 on.
fn puts(key: &str, count: usize) -> Log {
    let mut log = Log::new();
    for number in 0..count {
        log.put(key, &number.to_string());
    }
    log
}

fn from(revision: i64, request: WatchRequest) -> WatchRequest {
    WatchRequest { start_revision: Revision(revision), ..request }
}

fn bytes(responses: &[WatchResponse]) -> usize {
    responses.iter().map(WatchResponse::bytes).sum()
}

#[test]
fn a_stream_has_only_so_many_watches() {
    let mut world = World::new(HubLimits { stream_watches: 2, ..roomy() });
    world.create(key("a"));
    world.create(key("b"));
    assert_eq!(lines(&world.create(key("c"))), ["-1@1 created canceled TooManyWatches"]);
    world.step(cancel(0));
    assert_eq!(lines(&world.create(key("c"))), ["2@1 created"]);
}

#[test]
fn a_hub_has_only_so_many_watches_over_all_its_streams() {
    let other = StreamId(2);
    let mut world = World::new(HubLimits { hub_watches: 2, ..roomy() });
    world.step(WatchInput::Open(other));
    let create = |world: &mut World| {
        let told = world.step(WatchInput::Create(other, key("b")));
        told.iter().map(|effect| line(&effect.response)).collect::<Vec<_>>()
    };
    world.create(key("a"));
    assert_eq!(create(&mut world), ["0@1 created"]);
    assert_eq!(create(&mut world), ["-1@1 created canceled TooManyWatches"]);
    world.step(WatchInput::Close(STREAM));
    assert_eq!(create(&mut world), ["1@1 created"]);
}

#[test]
fn a_response_holds_only_so_many_revisions_and_all_of_each() {
    let mut log = Log::new();
    for _ in 0..3 {
        log.txn(&[("a", Some("1")), ("b", Some("2"))]);
    }
    let mut world = World::on(log, HubLimits { catch_up_revisions: 2, ..roomy() });
    world.create(from(2, range("a", "c")));
    assert_eq!(lines(&world.settle()), ["0@3 [a=1@2, b=2@2, a=1@3, b=2@3]", "0@4 [a=1@4, b=2@4]"]);
}

#[test]
fn a_response_ends_with_the_revision_that_fills_its_stream_and_the_next_waits() {
    let mut world = World::on(puts("a", 5), HubLimits { stream_bytes: 60, ..roomy() });
    let created = world.create(from(2, key("a")));
    assert_eq!(lines(&world.settle()), NOTHING, "the answer to the request fills it already");
    world.drain(bytes(&created));
    let first = world.settle();
    assert_eq!(lines(&first), ["0@4 [a=0@2, a=1@3, a=2@4]"]);
    assert_eq!(lines(&world.settle()), NOTHING);
    world.drain(bytes(&first));
    assert_eq!(lines(&world.settle()), ["0@6 [a=3@5, a=4@6]"]);
}

#[test]
fn a_slice_is_completed_to_a_whole_revision() {
    let mut log = Log::new();
    log.txn(&[("a", Some("1")), ("b", Some("2")), ("c", Some("3"))]);
    log.put("a", "4");
    let mut world = World::on(log, HubLimits { slice_events: 2, ..roomy() });
    world.create(from(2, range("a", "z")));
    assert_eq!(lines(&world.told(WatchInput::Wake)), ["0@2 [a=1@2, b=2@2, c=3@2]"]);
    assert_eq!(lines(&world.told(WatchInput::Wake)), ["0@3 [a=4@3]"]);
    assert!(!world.has_work());
}

#[test]
fn one_flush_reads_only_so_many_events_over_all_watches() {
    let mut world = World::on(puts("a", 100), HubLimits { slice_events: 10, ..roomy() });
    world.create(from(2, key("a")));
    world.create(from(50, key("a")));
    let mut wakes = 0;
    while world.has_work() {
        let told = world.told(WatchInput::Wake);
        let sent: usize = told.iter().map(|response| response.events.len()).sum();
        assert!(sent <= 10, "{sent} events in one flush");
        wakes += 1;
    }
    assert_eq!(world.log.greatest_read.load(Ordering::Relaxed), 10);
    assert!(wakes >= 15, "{wakes} wakes for 149 events");
}

#[test]
fn a_slice_ends_with_the_revision_that_fills_it_with_bytes() {
    let mut log = Log::new();
    let value = "v".repeat(100);
    for _ in 0..6 {
        log.put("a", &value);
    }
    let size = log.all()[0].kv.0.len();
    // Two revisions and a byte: the third completes it.
    let mut world = World::on(log, HubLimits { slice_bytes: 2 * size + 1, ..roomy() });
    world.create(from(2, key("a")));
    let revisions = |told: Vec<WatchResponse>| told.iter().map(|response| (response.revision.0, response.events.len())).collect::<Vec<_>>();
    assert_eq!(revisions(world.told(WatchInput::Wake)), [(4, 3)]);
    assert_eq!(revisions(world.told(WatchInput::Wake)), [(7, 3)]);
    assert!(!world.has_work());
}

#[test]
fn what_was_before_counts_against_the_slice_as_well() {
    let mut log = Log::new();
    let value = "v".repeat(100);
    for _ in 0..4 {
        log.put("a", &value);
        log.delete("a");
    }
    let mut world = World::on(log, HubLimits { slice_bytes: 150, ..roomy() });
    world.create(from(2, WatchRequest { prev_kv: true, no_put: true, ..key("a") }));
    world.log.put("b", "elsewhere");
    world.publish();
    let mut told = Vec::new();
    while world.has_work() {
        let wake = world.told(WatchInput::Wake);
        let previous: usize =
            wake.iter().flat_map(|response| response.events.iter()).filter_map(|event| event.prev_kv.as_ref()).map(|kv| kv.0.len()).sum();
        assert!(previous < 150 + 110, "{previous} bytes of previous versions in one wake");
        told.extend(wake);
    }
    let events: Vec<_> = told.iter().flat_map(|response| response.events.iter()).collect();
    assert_eq!(events.len(), 4);
    assert!(events.iter().all(|event| event.prev_kv.is_some()));
}

#[test]
fn a_cut_for_what_was_before_loses_nothing_of_those_it_took_along() {
    let mut log = Log::new();
    let value = "v".repeat(100);
    for number in 0..20 {
        log.put("a", &format!("{number}{value}"));
    }
    // The events fit one slice; what was before them does not, for a watch that has all of it.
    let whole: usize = log.all().iter().map(|event| event.kv.0.len()).sum();
    let mut world = World::on(log, HubLimits { slice_bytes: whole - 300, ..roomy() });
    for start in [2, 9, 15, 20] {
        world.create(from(start, WatchRequest { prev_kv: true, ..key("a") }));
    }
    let told = world.settle();
    for (watch, start) in [2, 9, 15, 20].into_iter().enumerate() {
        let given = told.iter().filter(|response| response.watch.0 == watch as i64);
        let values: Vec<_> = given.flat_map(|response| response.events.iter()).map(|event| event.kv.clone()).collect();
        let owed: Vec<_> = world.log.all().into_iter().filter(|event| event.id.main.0 >= start).map(|event| event.kv).collect();
        assert_eq!(values, owed, "the watch from {start}");
    }
}

#[test]
fn when_all_streams_together_hold_too_much_only_who_reads_is_served() {
    let idle = StreamId(2);
    let mut world = World::new(HubLimits { hub_bytes: 300, ..roomy() });
    world.step(WatchInput::Open(idle));
    world.step(WatchInput::Create(idle, key("a")));
    let mut owed = bytes(&world.create(key("a")));
    let mut served = 0;
    for number in 0..20 {
        world.drain(std::mem::take(&mut owed));
        world.log.put("a", &number.to_string());
        let mut told = world.step(WatchInput::Published(world.log.clone().into()));
        while world.has_work() {
            told.extend(world.step(WatchInput::Wake));
        }
        let mine: Vec<WatchResponse> = told.into_iter().filter(|effect| effect.stream == STREAM).map(|effect| effect.response).collect();
        served += mine.iter().map(|response| response.events.len()).sum::<usize>();
        owed = bytes(&mine);
    }
    assert_eq!(served, 20, "who takes everything gets everything");
    assert!(world.hub.is_over_budget(idle), "who takes nothing is held back by the hub's bound, far below its own");
    world.step(WatchInput::Drained(idle, 1_000));
    let mut told = Vec::new();
    while world.has_work() {
        told.extend(world.step(WatchInput::Wake));
    }
    assert!(told.iter().any(|effect| effect.stream == idle), "and gets the rest once it takes what it has");
}

#[test]
fn a_jump_is_read_in_slices() {
    let mut world = World::new(HubLimits { slice_events: 10, ..roomy() });
    world.create(key("b"));
    for _ in 0..95 {
        world.log.put("a", "1");
    }
    world.publish();
    world.settle();
    assert_eq!(world.log.greatest_read.load(Ordering::Relaxed), 10);
    assert_eq!(world.log.reads.load(Ordering::Relaxed), 10);
}

#[test]
fn watches_far_behind_do_not_starve_those_that_nearly_have_it_all() {
    let mut world = World::on(puts("a", 1_000), HubLimits { slice_events: 10, ..roomy() });
    for start in [2, 300, 600, 990] {
        world.create(from(start, key("a")));
    }
    let mut told = Vec::new();
    for _ in 0..4 {
        told.extend(world.told(WatchInput::Wake));
    }
    assert_eq!(told.iter().map(|response| response.watch.0).collect::<Vec<_>>(), [0, 1, 2, 3], "one slice each");
    world.log.put("a", "live");
    let live = world.publish();
    assert!(live.is_empty(), "none of them is synced yet");
    let told = world.settle();
    assert_eq!(told.last().map(|response| response.revision), Some(Revision(1_002)));
}

#[test]
fn one_read_serves_all_that_stand_where_it_passes() {
    let mut world = World::on(puts("a", 100), roomy());
    for start in 2..=100 {
        world.create(from(start, key("a")));
    }
    let told = world.settle();
    assert_eq!(world.log.reads.load(Ordering::Relaxed), 1);
    for response in &told {
        let owed = 100 - usize::try_from(response.watch.0).expect("an id of the hub's");
        assert_eq!(response.events.len(), owed, "{}", line(response));
    }
    assert_eq!(told.len(), 99);
}

#[test]
fn watches_on_other_keys_and_streams_are_not_looked_at() {
    let mut world = World::new(HubLimits { stream_watches: 10_000, stream_bytes: 1 << 30, ..roomy() });
    for number in 0..5_000 {
        world.create(key(&format!("idle{number}")));
        world.create(range(&format!("range{number}"), &format!("range{number}~")));
    }
    world.log.put("busy", "1");
    assert_eq!(lines(&world.publish()), NOTHING);
    assert_eq!(world.log.reads.load(Ordering::Relaxed), 1, "one read for all of them");
    assert!(!world.has_work());
}

#[test]
fn a_hub_without_watches_reads_nothing() {
    let mut world = World::new(roomy());
    world.log.put("a", "1");
    world.publish();
    assert_eq!(world.log.reads.load(Ordering::Relaxed), 0);
    assert_eq!(lines(&world.create(key("a"))), ["0@2 created"]);
}

#[test]
fn a_stream_over_its_budget_gets_nothing_until_it_is_drained_and_then_everything() {
    let interval = Duration::from_secs(10);
    let mut world = World::new(HubLimits { stream_bytes: 140, progress_interval: interval, ..roomy() });
    world.step(WatchInput::Open(StreamId(2)));
    world.step(WatchInput::Create(StreamId(2), key("a")));
    let mut owed = bytes(&world.create(WatchRequest { progress_notify: true, ..key("a") }));
    assert!(!world.hub.is_over_budget(STREAM));
    world.log.put("a", "1");
    let told = world.step(WatchInput::Published(world.log.clone().into()));
    let mine: Vec<WatchResponse> = told.into_iter().filter(|effect| effect.stream == STREAM).map(|effect| effect.response).collect();
    owed += bytes(&mine);
    assert_eq!(lines(&mine), ["0@2 [a=1@2]"]);
    assert!(world.hub.is_over_budget(STREAM));
    for value in ["2", "3"] {
        world.step(WatchInput::Drained(StreamId(2), 1_000));
        world.log.put("a", value);
        let told = world.step(WatchInput::Published(world.log.clone().into()));
        assert_eq!(told.iter().map(|effect| effect.stream).collect::<Vec<_>>(), [StreamId(2)], "the other one is full");
    }
    assert!(!world.has_work(), "a full stream gives nothing to do");
    assert_eq!(lines(&world.pass(interval)), NOTHING, "no progress to a full stream");
    assert_eq!(lines(&world.told(WatchInput::Progress(STREAM))), NOTHING);
    world.drain(owed);
    assert_eq!(lines(&world.settle()), ["0@4 [a=2@3, a=3@4]"]);
    assert_eq!(lines(&world.told(WatchInput::Progress(STREAM))), ["-1@4"]);
}

#[test]
fn a_victim_watch_that_is_cancelled_gets_nothing_later() {
    let mut world = World::on(puts("a", 3), HubLimits { stream_bytes: 10, ..roomy() });
    let created = world.create(from(2, key("a")));
    assert_eq!(lines(&world.settle()), NOTHING);
    let cancelled = world.told(cancel(0));
    assert_eq!(lines(&cancelled), ["0@4 canceled Requested"]);
    world.drain(bytes(&created) + bytes(&cancelled));
    assert_eq!(lines(&world.settle()), NOTHING);
}

#[test]
fn a_victim_watch_that_compaction_overtakes_is_told_once_there_is_room() {
    let mut world = World::on(puts("a", 3), HubLimits { stream_bytes: 10, ..roomy() });
    let created = world.create(from(2, key("a")));
    assert_eq!(lines(&world.settle()), NOTHING);
    world.log.compact(Revision(4));
    assert_eq!(lines(&world.publish()), NOTHING);
    assert_eq!(lines(&world.settle()), NOTHING);
    world.drain(bytes(&created));
    assert_eq!(lines(&world.settle()), ["0@0 canceled Compacted(Revision(4))"]);
}

#[test]
fn fragments_are_below_the_limit_or_a_single_event_and_only_the_last_says_so() {
    let limits = HubLimits { fragment_bytes: 50, ..roomy() };
    let mut world = World::new(limits);
    world.create(WatchRequest { fragment: true, ..range("a", "z") });
    world.create(range("a", "z"));
    let long = "0123456789".repeat(10);
    world.log.txn(&[("a", Some("1")), ("b", Some("2")), ("c", Some(&long)), ("d", Some("3"))]);
    let told = world.publish();
    let whole = told.iter().find(|response| response.watch.0 == 1).expect("the watch that did not ask");
    assert_eq!((whole.events.len(), whole.fragment), (4, false));
    let pieces: Vec<&WatchResponse> = told.iter().filter(|response| response.watch.0 == 0).collect();
    assert_eq!(pieces.iter().map(|piece| piece.events.len()).collect::<Vec<_>>(), [2, 1, 1]);
    assert_eq!(pieces.iter().map(|piece| piece.fragment).collect::<Vec<_>>(), [true, true, false]);
    assert!(pieces.iter().all(|piece| piece.revision == Revision(2)));
    let joined: Vec<_> = pieces.iter().flat_map(|piece| piece.events.iter().cloned()).collect();
    assert_eq!(joined[..], whole.events[..]);
    world.log.put("a", "small");
    assert!(world.publish().iter().all(|response| !response.fragment), "what fits is not split");
}
