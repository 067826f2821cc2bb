//! Each kind of lie is found and called by its name.

use super::script::{Script, delete, get, get_at, lost_write, put, stale_get, three_writes, two_puts};
use crate::{Budget, Property, Verdict, check, history::*};

/// Writes of unknown outcome whose order nobody saw: too many to try them all.
const MANY: i64 = 13;

fn many_puts(prefix: &str) -> impl Iterator<Item = Request> {
    (1..=MANY).map(move |n| put(&format!("{prefix}{n}"), ""))
}

/// A read that is answered from before the writes that were over when it was called.
fn stale_read() -> Script {
    let mut script = three_writes();
    let op = script.call(get("a"));
    let old = script.model.evaluate(&get("a"), 2, -1).expect("valid").response;
    script.ok(op, old);
    script
}

#[test]
fn a_stale_read_is_found() {
    stale_read().breaks(Property::RealTime);
}

#[test]
fn a_lost_acknowledged_write_is_found() {
    let mut script = lost_write();
    script.done(put("b", "next"));
    script.breaks_either(Property::UniqueRevision, Property::Answer);
}

#[test]
fn a_lost_write_with_no_successor_is_found() {
    let mut script = lost_write();
    script.done(get("a"));
    script.breaks(Property::RealTime);
}

#[test]
fn a_write_done_twice_is_found() {
    let mut script = three_writes();
    script.done(put("a", "again"));
    script.model.apply(&put("a", "again")).expect("valid");
    script.done(get("a"));
    script.breaks(Property::Provenance);
}

#[test]
fn an_unknown_write_done_twice_is_found() {
    let mut script = three_writes();
    script.lost(put("a", "again"), true);
    script.done(get("a"));
    script.model.apply(&put("a", "again")).expect("valid");
    script.lost(delete("b"), false);
    script.done(get("a"));
    script.breaks(Property::Provenance);
}

#[test]
fn a_refused_write_that_shows_is_found() {
    for in_log in [false, true] {
        let mut script = three_writes();
        let op = script.call(put("a", "dirty"));
        script.answer(op, Outcome::Refused(Refused::Other("etcdserver: too many requests".into())));
        script.model.apply(&put("a", "dirty")).expect("valid");
        if in_log {
            script.logged(op);
        }
        script.done(get("a"));
        script.breaks(Property::Provenance);
    }
}

#[test]
fn a_read_of_a_write_not_yet_called_is_found() {
    let mut script = three_writes();
    let mut future = script.model.clone();
    future.apply(&put("a", "next")).expect("valid");
    let op = script.call(get("a"));
    script.ok(op, future.apply(&get("a")).expect("valid"));
    script.done(put("a", "next"));
    script.breaks(Property::Causality);
}

#[test]
fn a_wrong_version_is_found() {
    let mut script = three_writes();
    let op = script.call(get("a"));
    let mut response = script.model.apply(&get("a")).expect("valid");
    let Response::Range { kvs, .. } = &mut response else { unreachable!() };
    kvs[0].version += 1;
    script.ok(op, response);
    script.breaks(Property::Answer);
}

#[test]
fn half_a_txn_is_found() {
    let mut script = three_writes();
    script.done(put("a", "x"));
    let op = script.call(two_puts("a", "b"));
    script.ok(op, script.model.clone().apply(&two_puts("a", "b")).expect("valid"));
    script.model.apply(&put("a", "1")).expect("valid");
    script.done(get("b"));
    script.breaks(Property::Answer);
}

#[test]
fn a_txn_that_took_the_wrong_branch_is_found() {
    let mut script = three_writes();
    let compare = |version| Compare { keys: Keys::one("a"), relation: Relation::Equal, target: Target::Version(version) };
    let txn = |version| Request::Txn(Txn { compare: vec![compare(version)], success: vec![put("a", "new")], failure: vec![] });
    let op = script.call(txn(1));
    let lie = script.model.apply(&txn(2)).expect("valid");
    script.ok(op, lie);
    script.breaks(Property::Answer);
}

#[test]
fn a_put_that_claims_another_ones_revision_is_found() {
    let mut script = three_writes();
    let op = script.call(put("c", "x"));
    script.ok(op, Response::Put { revision: 3, prev_kv: None });
    script.breaks_either(Property::UniqueRevision, Property::Answer);
}

#[test]
fn a_read_below_a_known_compaction_is_found() {
    let mut script = three_writes();
    script.done(Request::Compact { revision: 3 });
    let op = script.call(get_at("a", 2));
    let lie = script.model.evaluate(&get_at("a", 2), 4, -1).expect("valid").response;
    script.ok(op, lie);
    script.breaks(Property::Compaction);
}

#[test]
fn a_compaction_done_twice_is_found() {
    let mut script = three_writes();
    script.done(Request::Compact { revision: 3 });
    let op = script.call(Request::Compact { revision: 3 });
    script.ok(op, Response::Compact { revision: 4 });
    script.breaks(Property::Compaction);
}

#[test]
fn refusals_that_were_never_true_are_found() {
    for (request, refused) in [
        (get_at("a", 2), Refused::Compacted),
        (get_at("a", 3), Refused::FutureRevision),
        (Request::Compact { revision: 3 }, Refused::Compacted),
        (Request::Put(Put { key: b"a".to_vec(), ignore_value: true, ..Put::default() }), Refused::KeyNotFound),
    ] {
        for in_log in [false, true] {
            let mut script = three_writes();
            let op = script.call(request.clone());
            script.answer(op, Outcome::Refused(refused.clone()));
            if in_log {
                script.logged(op);
            }
            script.breaks(Property::Refusal);
        }
    }
}

#[test]
fn a_stale_read_may_be_old_but_must_have_been_true() {
    let old = |script: &Script, at| script.model.evaluate(&stale_get("a"), at, -1).expect("valid").response;
    let mut script = three_writes();
    let op = script.call(stale_get("a"));
    script.ok(op, old(&script, 2));
    assert_eq!(script.holds().serializable, 1);

    let op = script.call(stale_get("a"));
    let Response::Range { kvs, more, count, .. } = old(&script, 4) else { unreachable!() };
    script.ok(op, Response::Range { revision: 3, kvs, more, count });
    script.breaks(Property::Answer);
}

#[test]
fn a_member_that_goes_back_within_a_session_is_found() {
    let mut script = Script::default();
    script.records.push(Record::Attached { client: 1, at: 0, member: 1 });
    script.done(put("a", "first"));
    script.done(put("a", "second"));
    let op = script.call(stale_get("a"));
    let old = script.model.evaluate(&stale_get("a"), 2, -1).expect("valid").response;
    script.ok(op, old);
    let mut elsewhere = Script { records: script.records.clone(), log: script.log.clone(), ..Script::default() };
    script.breaks(Property::Session);

    elsewhere.records.insert(5, Record::Attached { client: 1, at: 4, member: 2 });
    elsewhere.holds();
}

#[test]
fn log_entries_out_of_order_are_found() {
    let mut script = Script::default();
    for index in [7, 6] {
        let op = script.call(put("a", "x"));
        let response = script.model.apply(&put("a", "x")).expect("valid");
        script.answer(op, Outcome::Ok { response, rank: Some(index) });
    }
    script.breaks(Property::LogOrder);
}

#[test]
fn a_lost_answer_holds_whether_it_was_done_or_not() {
    for carried_out in [false, true] {
        let mut script = three_writes();
        script.lost(put("a", "lost"), carried_out);
        script.done(get("a"));
        script.done(put("b", "after"));
        assert_eq!(script.holds().unknown_done, u64::from(carried_out));
    }
}

#[test]
fn a_creation_seen_later_settles_its_revision() {
    let mut script = Script::default();
    let others: Vec<_> = many_puts("b").map(|put| script.lost(put, false)).collect();
    // Took effect before all others.
    script.lost(put("a", ""), true);
    for (op, put) in others.into_iter().zip(many_puts("b")) {
        script.model.apply(&put).expect("valid");
        script.logged(op);
    }
    script.done(put("a", ""));
    script.done(get("a"));
    script.holds();
}

#[test]
fn a_key_seen_unchanged_was_not_written_in_between() {
    let mut script = Script::default();
    script.done(put("a", ""));
    for n in 1..=MANY {
        script.lost(two_puts("a", &format!("b{n}")), false);
    }
    for put in many_puts("c") {
        script.lost(put, true);
    }
    script.done(put("d", ""));
    script.done(get("a"));
    script.holds();
}

#[test]
fn a_dead_end_takes_back_the_choice_it_hangs_on() {
    let mut script = Script::default();
    // Could have made the second revision; that it never took effect shows only at the end.
    script.lost(put("a", ""), false);
    script.lost(put("b0", ""), true);
    script.done(get("c"));
    for put in many_puts("b") {
        script.lost(put, true);
    }
    script.done(put("d", ""));
    script.done(get("a"));
    script.holds();
}

#[test]
fn lost_writes_are_first_tried_in_the_order_of_their_calls() {
    let mut script = Script::default();
    for version in 0..=MANY {
        // In any other order some of them put the other key.
        let compare = Compare { keys: Keys::one("a"), relation: Relation::Equal, target: Target::Version(version) };
        script.lost(Request::Txn(Txn { compare: vec![compare], success: vec![put("a", "")], failure: vec![put("b", "")] }), true);
    }
    script.done(put("a", ""));
    script.done(get("a"));
    script.holds();
}

#[test]
fn a_lost_delete_is_found_by_elimination() {
    let mut script = three_writes();
    script.lost(delete("a"), false);
    script.lost(delete("b"), true);
    script.lost(delete("c"), false);
    script.done(get("a"));
    script.done(get("b"));
    assert_eq!(script.holds().unknown_done, 1);
}

#[test]
fn a_revision_that_nobody_made_is_found() {
    let mut script = three_writes();
    script.lost(get("a"), false);
    script.lost(put("c", "unseen"), false);
    script.model.apply(&put("a", "ghost")).expect("valid");
    script.done(get("a"));
    script.breaks(Property::Provenance);
}

#[test]
fn records_that_make_no_sense_are_refused() {
    let mut script = three_writes();
    script.records.swap(0, 1);
    script.breaks(Property::WellFormed);
    let mut script = three_writes();
    script.records.push(Record::Return { op: 99, at: 99, outcome: Outcome::Unknown });
    script.breaks(Property::WellFormed);
}

/// A watch on everything from revision 2, not yet served, beside three writes.
fn watched() -> (Script, OpId) {
    let mut script = three_writes();
    let watch = script.watch(Watch { start_revision: 2, ..Watch::default() });
    (script, watch)
}

/// The same, with these revisions delivered, one response each.
fn delivered(revisions: &[i64]) -> (Script, OpId) {
    let (mut script, watch) = watched();
    for &revision in revisions {
        let events = script.true_events(revision);
        script.events(watch, events);
    }
    (script, watch)
}

#[test]
fn a_faithful_watch_passes_and_its_lag_is_told() {
    assert_eq!(delivered(&[2, 3, 4]).0.holds().behind, []);
    let (script, watch) = delivered(&[2, 3]);
    assert_eq!(script.holds().behind, [(watch, 4)]);
}

#[test]
fn a_watch_with_a_gap_is_found() {
    delivered(&[2, 4]).0.breaks(Property::WatchReliable);
}

#[test]
fn a_watch_that_repeats_is_found() {
    delivered(&[2, 3, 3]).0.breaks(Property::WatchUnique);
    delivered(&[2, 3, 4, 2]).0.breaks(Property::WatchUnique);
}

#[test]
fn a_watch_out_of_order_is_found() {
    delivered(&[3, 2, 4]).0.breaks(Property::WatchOrdered);
    let (mut script, watch) = delivered(&[2, 3]);
    let mut events = script.true_events(4);
    events.reverse();
    script.events(watch, events);
    script.breaks(Property::WatchOrdered);
}

#[test]
fn a_revision_split_over_two_responses_is_found() {
    let (mut script, watch) = delivered(&[2, 3]);
    for event in script.true_events(4) {
        script.events(watch, vec![event]);
    }
    script.breaks(Property::WatchAtomic);
}

#[test]
fn a_revision_of_which_a_part_never_comes_is_found() {
    let (mut script, watch) = delivered(&[2, 3]);
    let event = script.true_events(4).remove(0);
    script.events(watch, vec![event]);
    script.breaks(Property::WatchReliable);
}

#[test]
fn an_invented_event_is_found() {
    let (mut script, watch) = delivered(&[2, 3]);
    let mut events = script.true_events(4);
    events[1].kv.value = b"other".to_vec();
    script.events(watch, events);
    script.breaks(Property::WatchReliable);
}

#[test]
fn an_event_that_was_filtered_out_is_found() {
    let mut script = three_writes();
    let watch = script.watch(Watch { start_revision: 2, no_put: true, ..Watch::default() });
    let events = script.true_events(2);
    script.events(watch, events);
    script.breaks(Property::WatchReliable);
}

#[test]
fn an_event_before_the_start_is_found() {
    let mut script = three_writes();
    let watch = script.watch(Watch { start_revision: 9, ..Watch::default() });
    let events = script.true_events(4);
    script.events(watch, events);
    script.breaks(Property::WatchReliable);
}

#[test]
fn a_bookmark_that_lies_is_found() {
    let (mut script, watch) = delivered(&[2]);
    script.deliver(watch, Delivery::Progress { revision: 2 });
    script.holds();
    script.deliver(watch, Delivery::Progress { revision: 3 });
    script.breaks(Property::WatchBookmarkable);
}

#[test]
fn a_wrong_previous_value_is_found() {
    let mut script = three_writes();
    let watch = script.watch(Watch { keys: Keys::one("a"), start_revision: 3, prev_kv: true, ..Watch::default() });
    let mut events: Vec<_> = script.model.events(4).filter(|event| event.kv.key == b"a").collect();
    let honest = events.clone();
    events[0].prev_kv = None;
    script.events(watch, events);
    script.breaks(Property::WatchPreviousValue);

    script.records.pop();
    script.events(watch, honest);
    script.holds();
}

#[test]
fn a_watch_ends_as_compacted_only_when_it_needed_that() {
    let (mut script, watch) = delivered(&[2]);
    script.done(Request::Compact { revision: 4 });
    script.deliver(watch, Delivery::Compacted { compact_revision: 4 });
    script.holds();
    script.deliver(watch, Delivery::Progress { revision: 4 });
    script.breaks(Property::WatchCancel);

    let (mut script, watch) = delivered(&[2, 3, 4]);
    script.done(Request::Compact { revision: 4 });
    script.deliver(watch, Delivery::Compacted { compact_revision: 4 });
    script.breaks(Property::WatchCancel);
}

#[test]
fn a_violation_explains_itself() {
    let Verdict::Broken(violation) = check(&stale_read().records, None, Budget::default()) else { panic!("stale") };
    let text = violation.to_string();
    for part in ["RealTime broken at revision 2", "operation 4 of client 1", "revision 4 had already been answered: operation 3"] {
        assert!(text.contains(part), "{text} lacks {part:?}");
    }
}
