//! What the etcd API promises of watches, one claim a test.

use crate::log::{Log, STREAM, World, cancel, key, line, lines, range, roomy};
use quorate_core::types::{Monotonic, Revision, StreamId, WatchId};
use quorate_core::watch::{HubLimits, WatchInput, WatchRequest};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

const NOTHING: [&str; 0] = [];

/// Keys `a` = 2, `b` = 3, `a` = 4, none of them compacted.
fn with_history() -> World {
    let mut log = Log::new();
    log.put("a", "x");
    log.put("b", "y");
    log.put("a", "z");
    World::on(log, roomy())
}

fn from(revision: i64, request: WatchRequest) -> WatchRequest {
    WatchRequest { start_revision: Revision(revision), ..request }
}

#[test]
fn a_watch_gets_changes_after_its_creation_and_its_own_keys_only() {
    let mut world = with_history();
    assert_eq!(lines(&world.create(key("a"))), ["0@4 created"]);
    world.log.put("b", "1");
    world.log.put("a", "2");
    assert_eq!(lines(&world.publish()), ["0@6 [a=2@6]"]);
    world.log.delete("a");
    assert_eq!(lines(&world.publish()), ["0@7 [a=@7]"]);
}

#[test]
fn every_stream_numbers_its_watches_from_0_and_skips_ids_in_use() {
    let mut world = World::new(roomy());
    world.step(WatchInput::Open(StreamId(2)));
    let chosen = WatchRequest { watch: WatchId(1), ..key("a") };
    assert_eq!(lines(&world.create(key("a"))), ["0@1 created"]);
    assert_eq!(lines(&world.create(chosen.clone())), ["1@1 created"]);
    assert_eq!(lines(&world.create(key("a"))), ["2@1 created"]);
    assert_eq!(lines(&world.create(chosen.clone())), ["-1@1 created canceled DuplicateId"]);
    assert_eq!(lines(&world.told(WatchInput::Create(StreamId(2), key("a")))), ["0@1 created"]);
    world.step(cancel(0));
    world.step(cancel(1));
    assert_eq!(lines(&world.create(key("a"))), ["3@1 created"], "ids are not handed out twice");
    assert_eq!(lines(&world.create(chosen)), ["1@1 created"], "a client may choose again what it gave back");
}

#[test]
fn a_refused_watch_leaves_the_stream_and_its_other_watches_alone() {
    let mut world = World::new(roomy());
    world.create(key("a"));
    assert_eq!(lines(&world.create(range("b", "a"))), ["-1@1 created canceled EmptyRange"]);
    assert_eq!(lines(&world.create(range("b", "b"))), ["-1@1 created canceled EmptyRange"]);
    assert_eq!(lines(&world.create(from(-1, key("b")))), ["-1@1 created canceled NegativeStart"]);
    assert_eq!(lines(&world.create(key("b"))), ["1@1 created"], "a refused watch takes no id");
    world.log.txn(&[("a", Some("1")), ("b", Some("2"))]);
    assert_eq!(lines(&world.publish()), ["0@2 [a=1@2]", "1@2 [b=2@2]"]);
}

#[test]
fn the_empty_key_is_the_first_key_and_an_open_end_reaches_the_last() {
    let mut world = World::new(roomy());
    world.create(key(""));
    world.create(range("", "\0"));
    world.create(range("b", "\0"));
    world.create(range("a", "b"));
    world.log.txn(&[("\0", Some("0")), ("a", Some("1")), ("b", Some("2")), ("\u{7f}", Some("3"))]);
    let told = world.publish();
    assert_eq!(told.len(), 4);
    let of = |watch: i64| line(told.iter().find(|response| response.watch == WatchId(watch)).expect("one each"));
    assert_eq!(of(0), "0@2 [\0=0@2]");
    assert_eq!(of(1), "1@2 [\0=0@2, a=1@2, b=2@2, \u{7f}=3@2]");
    assert_eq!(of(2), "2@2 [b=2@2, \u{7f}=3@2]");
    assert_eq!(of(3), "3@2 [a=1@2]");
}

#[test]
fn a_start_in_the_past_replays_history_and_goes_on_live() {
    let mut world = with_history();
    assert_eq!(lines(&world.create(from(2, key("a")))), ["0@4 created"]);
    assert_eq!(lines(&world.settle()), ["0@4 [a=x@2, a=z@4]"]);
    world.log.put("a", "live");
    assert_eq!(lines(&world.publish()), ["0@5 [a=live@5]"]);
    assert_eq!(lines(&world.settle()), NOTHING);
}

#[test]
fn history_in_several_slices_knows_the_newest_revision_in_each() {
    let mut log = Log::new();
    for value in ["1", "2", "3", "4", "5"] {
        log.put("a", value);
    }
    let mut world = World::on(log, HubLimits { slice_events: 2, ..roomy() });
    world.create(from(2, key("a")));
    let told = world.settle();
    let revisions: Vec<_> = told.iter().map(|response| (response.revision, response.store_revision)).collect();
    assert_eq!(revisions, [3, 5, 6].map(|through| (Revision(through), Revision(6))));
}

#[test]
fn a_start_below_the_floor_is_created_and_then_cancelled() {
    let mut world = with_history();
    world.log.compact(Revision(4));
    world.publish();
    assert_eq!(lines(&world.create(from(3, key("a")))), ["0@4 created", "0@0 canceled Compacted(Revision(4))"]);
    world.log.put("a", "1");
    assert_eq!(lines(&world.publish()), NOTHING);
}

#[test]
fn a_start_at_the_floor_gets_the_event_there_without_what_was_before_it() {
    let mut world = with_history();
    world.log.delete("a");
    world.log.compact(Revision(5));
    world.publish();
    world.create(WatchRequest { prev_kv: true, ..from(5, key("a")) });
    assert_eq!(lines(&world.settle()), ["0@5 [a=@5]"]);
}

#[test]
fn a_start_ahead_gets_neither_events_nor_progress_before_it_is_reached() {
    let mut world = World::new(HubLimits { progress_interval: Duration::from_secs(10), ..roomy() });
    world.create(WatchRequest { progress_notify: true, ..from(4, key("a")) });
    for value in ["two", "three"] {
        world.log.put("a", value);
        assert_eq!(lines(&world.publish()), NOTHING);
        assert_eq!(lines(&world.pass(Duration::from_secs(10))), NOTHING);
        assert_eq!(lines(&world.told(WatchInput::Progress(STREAM))), NOTHING);
    }
    world.log.put("a", "four");
    assert_eq!(lines(&world.publish()), ["0@4 [a=four@4]"]);
    assert_eq!(lines(&world.told(WatchInput::Progress(STREAM))), ["-1@4"]);
}

#[test]
fn a_start_ahead_holds_also_when_one_view_jumps_across_it() {
    let mut world = World::new(roomy());
    world.create(from(4, key("a")));
    world.create(key("a"));
    for value in ["2", "3", "4", "5"] {
        world.log.put("a", value);
    }
    assert_eq!(lines(&world.publish()), ["0@5 [a=4@4, a=5@5]", "1@5 [a=2@2, a=3@3, a=4@4, a=5@5]"]);
}

#[test]
fn filters_drop_events_and_what_is_empty_then_is_not_sent() {
    let mut world = World::new(roomy());
    world.create(WatchRequest { no_put: true, ..key("a") });
    world.create(WatchRequest { no_delete: true, ..key("a") });
    world.create(WatchRequest { no_put: true, no_delete: true, ..key("a") });
    world.log.put("a", "1");
    assert_eq!(lines(&world.publish()), ["1@2 [a=1@2]"]);
    world.log.delete("a");
    assert_eq!(lines(&world.publish()), ["0@3 [a=@3]"]);
    world.create(WatchRequest { no_put: true, ..from(2, range("a", "b")) });
    world.create(WatchRequest { no_put: true, no_delete: true, ..from(2, range("a", "b")) });
    assert_eq!(lines(&world.settle()), ["3@3 [a=@3]"]);
}

#[test]
fn the_previous_version_comes_only_to_those_that_asked_for_it() {
    let mut world = World::new(roomy());
    world.create(WatchRequest { prev_kv: true, ..key("a") });
    world.create(key("a"));
    world.log.put("a", "1");
    assert_eq!(sorted(&world.publish()), ["0@2 [a=1@2]", "1@2 [a=1@2]"], "nothing is before a create");
    world.log.put("a", "2");
    assert_eq!(sorted(&world.publish()), ["0@3 [a=2@3 after a=1@2]", "1@3 [a=2@3]"]);
    world.log.delete("a");
    assert_eq!(sorted(&world.publish()), ["0@4 [a=@4 after a=2@3]", "1@4 [a=@4]"]);
    world.log.put("a", "3");
    assert_eq!(sorted(&world.publish()), ["0@5 [a=3@5]", "1@5 [a=3@5]"], "nothing is after a delete");
}

fn sorted(told: &[quorate_core::watch::WatchResponse]) -> Vec<String> {
    let mut lines = lines(told);
    lines.sort();
    lines
}

#[test]
fn watches_that_want_the_same_share_one_list_of_events() {
    let mut world = World::new(roomy());
    for stream in 1..=10 {
        world.step(WatchInput::Open(StreamId(stream)));
        for _ in 0..10 {
            world.step(WatchInput::Create(StreamId(stream), key("a")));
        }
    }
    world.log.put("a", "1");
    let told = world.publish();
    assert_eq!(told.len(), 100);
    assert!(told.iter().all(|response| Arc::ptr_eq(&response.events, &told[0].events)));
    assert_eq!(world.log.reads.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn a_transaction_comes_as_one_response_in_its_own_order() {
    let mut world = World::new(roomy());
    world.create(range("a", "z"));
    world.log.txn(&[("c", Some("1")), ("a", Some("2")), ("b", None)]);
    assert_eq!(lines(&world.publish()), ["0@2 [c=1@2, a=2@2, b=@2]"]);
    world.create(from(2, range("a", "z")));
    assert_eq!(lines(&world.settle()), ["1@2 [c=1@2, a=2@2, b=@2]"]);
}

#[test]
fn overlapping_watches_each_get_each_change_once() {
    let mut world = World::new(roomy());
    world.create(key("b"));
    world.create(range("a", "c"));
    world.create(range("b", "\0"));
    for value in ["1", "2"] {
        world.log.put("b", value);
        assert_eq!(world.publish().iter().map(|response| response.watch.0).collect::<Vec<_>>(), [0, 1, 2]);
    }
}

#[test]
fn a_cancelled_watch_is_told_so_and_then_nothing_more() {
    let mut world = with_history();
    world.create(key("a"));
    world.create(from(2, key("a")));
    assert_eq!(lines(&world.told(cancel(0))), ["0@4 canceled Requested"]);
    assert_eq!(lines(&world.told(cancel(1))), ["1@4 canceled Requested"], "it had not caught up yet");
    assert_eq!(lines(&world.told(cancel(1))), NOTHING, "unknown by now");
    world.log.put("a", "1");
    assert_eq!(lines(&world.publish()), NOTHING);
    assert_eq!(lines(&world.settle()), NOTHING);
}

#[test]
fn a_closed_stream_is_forgotten() {
    let mut world = World::new(HubLimits { progress_interval: Duration::from_secs(10), ..roomy() });
    world.log.put("a", "1");
    world.publish();
    world.create(WatchRequest { progress_notify: true, ..key("a") });
    world.create(from(2, key("a")));
    world.step(WatchInput::Close(STREAM));
    assert_eq!(world.hub.deadline(), Monotonic::NEVER);
    world.log.put("a", "2");
    assert_eq!(lines(&world.publish()), NOTHING);
    assert_eq!(lines(&world.create(key("a"))), NOTHING);
    world.step(WatchInput::Open(STREAM));
    assert_eq!(lines(&world.create(key("a"))), ["0@3 created"], "a new stream under its number starts anew");
}

#[test]
fn progress_is_told_at_each_interval_in_which_nothing_happened() {
    let interval = Duration::from_secs(10);
    let mut world = World::new(HubLimits { progress_interval: interval, ..roomy() });
    world.create(key("a"));
    assert_eq!(world.hub.deadline(), Monotonic::NEVER, "nobody asked for it");
    world.create(WatchRequest { progress_notify: true, ..key("a") });
    assert_eq!(world.hub.deadline(), world.now.monotonic + interval);
    assert_eq!(lines(&world.pass(interval / 2)), NOTHING, "early");
    assert_eq!(lines(&world.pass(interval / 2)), ["1@1"]);
    world.log.put("a", "1");
    assert_eq!(lines(&world.publish()), ["0@2 [a=1@2]", "1@2 [a=1@2]"]);
    assert_eq!(lines(&world.pass(interval)), NOTHING, "the event told as much");
    world.log.put("b", "1");
    world.publish();
    assert_eq!(lines(&world.pass(interval)), ["1@3"], "another key's change is none of its own");
    assert_eq!(lines(&world.pass(interval * 5)), ["1@3"], "once after a pause");
    assert_eq!(world.hub.deadline(), world.now.monotonic + interval);
    world.step(cancel(1));
    world.pass(interval);
    assert_eq!(world.hub.deadline(), Monotonic::NEVER, "nobody asks any more");
}

#[test]
fn progress_is_not_told_to_a_watch_that_lags() {
    let interval = Duration::from_secs(10);
    let mut log = Log::new();
    for value in 0..10 {
        log.put("a", &value.to_string());
    }
    let mut world = World::on(log, HubLimits { progress_interval: interval, slice_events: 2, ..roomy() });
    world.create(WatchRequest { progress_notify: true, ..from(1, key("b")) });
    assert_eq!(lines(&world.pass(interval)), NOTHING);
    assert_eq!(lines(&world.told(WatchInput::Progress(STREAM))), NOTHING);
    assert_eq!(lines(&world.settle()), NOTHING);
    assert_eq!(lines(&world.told(WatchInput::Progress(STREAM))), ["-1@11"]);
    assert_eq!(lines(&world.pass(interval)), ["0@11"]);
}

#[test]
fn manual_progress_speaks_for_all_watches_of_a_stream_or_not_at_all() {
    let mut world = with_history();
    let progress = || WatchInput::Progress(STREAM);
    assert_eq!(lines(&world.told(progress())), NOTHING, "no watch, no progress");
    world.create(key("a"));
    assert_eq!(lines(&world.told(progress())), ["-1@4"]);
    world.create(key("b"));
    assert_eq!(lines(&world.told(progress())), ["-1@4"]);
    world.create(from(2, key("a")));
    assert_eq!(lines(&world.told(progress())), NOTHING, "one of them is unsynced");
    assert_eq!(lines(&world.settle()), ["2@4 [a=x@2, a=z@4]"]);
    assert_eq!(lines(&world.told(progress())), ["-1@4"]);
    assert_eq!(lines(&world.told(WatchInput::Progress(StreamId(9)))), NOTHING, "no such stream");
}

#[test]
fn a_view_that_jumps_leaves_no_gap_and_repeats_nothing() {
    let mut world = World::new(HubLimits { slice_events: 3, ..roomy() });
    world.create(key("a"));
    for value in 2..=9 {
        world.log.put("a", &value.to_string());
    }
    assert_eq!(lines(&world.publish()), ["0@4 [a=2@2, a=3@3, a=4@4]"]);
    assert_eq!(lines(&world.told(WatchInput::Progress(STREAM))), NOTHING, "the rest is on its way");
    world.log.put("a", "10");
    assert_eq!(lines(&world.publish()), NOTHING, "in turn");
    assert_eq!(lines(&world.settle()), ["0@7 [a=5@5, a=6@6, a=7@7]", "0@10 [a=8@8, a=9@9, a=10@10]"]);
    assert_eq!(lines(&world.told(WatchInput::Progress(STREAM))), ["-1@10"]);
}

#[test]
fn a_view_that_jumps_past_the_floor_cancels_whom_it_owes_what_is_gone() {
    let mut world = World::new(roomy());
    world.create(key("a"));
    world.create(from(9, key("a")));
    for value in 2..=9 {
        world.log.put("a", &value.to_string());
    }
    world.log.compact(Revision(8));
    assert_eq!(lines(&world.publish()), ["0@0 canceled Compacted(Revision(8))", "1@9 [a=9@9]"]);
}

#[test]
fn a_view_older_than_the_last_is_ignored() {
    let mut world = World::new(roomy());
    world.create(key("a"));
    let old = Arc::new(world.log.clone());
    world.log.put("a", "1");
    assert_eq!(lines(&world.publish()), ["0@2 [a=1@2]"]);
    assert_eq!(lines(&world.told(WatchInput::Published(old))), NOTHING);
    assert_eq!(lines(&world.create(key("a"))), ["1@2 created"]);
}

#[test]
fn an_unsynced_watch_that_compaction_overtakes_is_cancelled() {
    let mut world = World::on(with_history().log, HubLimits { slice_events: 1, ..roomy() });
    world.create(from(2, range("a", "c")));
    assert_eq!(lines(&world.told(WatchInput::Wake)), ["0@2 [a=x@2]"]);
    world.log.compact(Revision(4));
    assert_eq!(lines(&world.publish()), NOTHING);
    assert_eq!(lines(&world.settle()), ["0@0 canceled Compacted(Revision(4))"]);
    assert_eq!(lines(&world.told(cancel(0))), NOTHING, "it is gone");
}

#[test]
fn a_slice_that_compaction_overtakes_while_it_is_read_is_not_handed_out() {
    let mut log = with_history().log;
    log.raised_by_read = Some(Revision(3));
    let mut world = World::on(log, roomy());
    world.create(from(2, key("a")));
    assert_eq!(lines(&world.settle()), ["0@0 canceled Compacted(Revision(3))"]);
    world.create(from(3, key("a")));
    assert_eq!(lines(&world.settle()), ["1@4 [a=z@4]"], "what is read from the floor on is whole");
}

#[test]
fn a_store_that_cannot_be_read_makes_nobody_miss_anything() {
    let mut world = with_history();
    world.create(WatchRequest { prev_kv: true, ..from(3, key("a")) });
    world.create(key("a"));
    world.log.is_broken.store(true, Ordering::Relaxed);
    world.log.put("a", "1");
    assert_eq!(lines(&world.publish()), NOTHING);
    assert!(!world.has_work(), "trying again at once would spin");
    assert_eq!(lines(&world.told(WatchInput::Wake)), NOTHING);
    world.log.is_broken.store(false, Ordering::Relaxed);
    assert_eq!(lines(&world.publish()), NOTHING);
    assert_eq!(sorted(&world.settle()), ["0@4 [a=z@4 after a=x@2]", "0@5 [a=1@5 after a=z@4]", "1@5 [a=1@5]"]);
}

#[test]
fn a_read_that_failed_is_tried_again_although_nothing_new_is_published() {
    let mut world = with_history();
    world.create(from(2, key("a")));
    world.log.is_broken.store(true, Ordering::Relaxed);
    assert_eq!(lines(&world.told(WatchInput::Wake)), NOTHING);
    world.log.is_broken.store(false, Ordering::Relaxed);
    assert!(!world.has_work(), "not at once");
    assert_eq!(lines(&world.pass(Duration::from_millis(100))), ["0@4 [a=x@2, a=z@4]"]);
}

#[test]
fn a_slice_with_a_hole_is_not_handed_out_and_the_next_view_says_why() {
    for dropped in [2, 3, 4] {
        let mut log = with_history().log;
        log.dropped = Some(Revision(dropped));
        let mut world = World::on(log, roomy());
        world.create(from(2, range("a", "c")));
        assert_eq!(lines(&world.settle()), NOTHING, "without revision {dropped}");
        world.log.compact(Revision(dropped + 1));
        world.log.put("a", "1");
        world.log.dropped = None;
        assert_eq!(lines(&world.publish()), NOTHING);
        assert_eq!(lines(&world.settle()), [format!("0@0 canceled Compacted(Revision({}))", dropped + 1)]);
    }
}

#[test]
fn a_transaction_with_a_hole_is_not_handed_out() {
    let mut world = World::new(roomy());
    world.create(range("a", "z"));
    world.log.txn(&[("a", Some("1")), ("b", Some("2")), ("c", Some("3"))]);
    for sub in 0..2 {
        let whole = world.log.all();
        world.log.forget(sub);
        assert_eq!(lines(&world.publish()), NOTHING, "without change {sub}");
        world.log.restore(whole);
    }
    assert_eq!(lines(&world.publish()), NOTHING, "in turn");
    assert_eq!(lines(&world.settle()), ["0@2 [a=1@2, b=2@2, c=3@2]"]);
}
