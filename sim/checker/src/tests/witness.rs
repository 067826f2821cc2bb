//! With the order of the log at hand: true histories verify whatever became of the unknown, lies of the log and lies about it are
//! found, and the cost is linear. Lies that a search finds as well are planted in `planted`.

use super::generate::{Settings, history_and_witness};
use super::script::{NO_SEARCH, Script, delete, get, get_at, lost_write, put, three_writes, two_puts};
use crate::{Budget, Entry, Property, Step, Verdict, Violation, Witness, check, history::*};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

#[test]
fn a_lost_write_is_not_in_the_log() {
    let mut script = lost_write();
    script.log.pop();
    script.done(get("b"));
    script.denies(Property::Acknowledged);
}

#[test]
fn a_doubled_write_is_in_the_log_twice() {
    let mut script = three_writes();
    let op = script.lost(put("a", "again"), true);
    script.model.apply(&put("a", "again")).expect("valid");
    script.log.push(op);
    script.done(get("a"));
    script.denies(Property::Provenance);
}

#[test]
fn reordered_writes_are_found() {
    // Both are acknowledged with the revisions of an order that real time forbids.
    let mut script = Script::default();
    let (first, second) = (script.call(put("a", "first")), put("b", "second"));
    script.model.apply(&second).expect("valid");
    let response = script.model.apply(&put("a", "first")).expect("valid");
    script.ok(first, response);
    let op = script.call(second);
    script.ok(op, Response::Put { revision: 2, prev_kv: None });
    script.log.swap(0, 1);
    script.denies(Property::RealTime);
}

#[test]
fn a_witness_that_swaps_two_writes_is_denied() {
    let mut script = three_writes();
    script.log.swap(0, 1);
    script.denies(Property::Answer);
}

#[test]
fn a_witness_that_claims_what_was_never_done_is_denied() {
    let mut script = three_writes();
    let op = script.lost(put("a", "unseen"), false);
    script.done(put("b", "after"));
    script.log.insert(3, op);
    script.denies(Property::Answer);
}

#[test]
fn a_witness_that_hides_what_was_done_is_denied() {
    let mut script = three_writes();
    script.lost(put("a", "seen"), true);
    script.done(get("a"));
    script.log.pop();
    script.denies(Property::Provenance);
}

#[test]
fn a_witness_of_nonsense_is_denied() {
    let mut script = three_writes();
    script.log.push(99);
    script.denies(Property::Witness);

    let mut script = three_writes();
    let op = script.call(get("a"));
    script.log.push(op);
    script.denies(Property::Witness);

    let script = three_writes();
    let mut witness = script.witness();
    witness.entries[2].index = 2;
    let verdict = check(&script.records, Some(&witness), NO_SEARCH);
    assert!(matches!(verdict, Verdict::Broken(Violation { property: Property::Witness, .. })), "{verdict:?}");
}

#[test]
fn an_answer_from_another_entry_is_found() {
    let mut script = three_writes();
    let op = script.call(put("a", "x"));
    let response = script.model.apply(&put("a", "x")).expect("valid");
    script.answer(op, Outcome::Ok { response, rank: Some(7) });
    script.denies(Property::LogOrder);
}

#[test]
fn a_watch_of_what_was_called_later_is_found() {
    let mut script = three_writes();
    let watch = script.watch(Watch { start_revision: 5, ..Watch::default() });
    script.deliver(watch, Delivery::Progress { revision: 5 });
    script.done(put("c", "next"));
    script.denies(Property::Causality);
}

#[test]
fn a_read_beside_a_compaction_may_come_before_it_or_after_it() {
    for refused in [false, true] {
        let mut script = three_writes();
        let op = script.call(get_at("a", 2));
        let before = script.model.evaluate(&get_at("a", 2), 4, -1).expect("valid").response;
        script.done(Request::Compact { revision: 3 });
        let outcome = if refused { Outcome::Refused(Refused::Compacted) } else { Outcome::Ok { response: before, rank: None } };
        script.answer(op, outcome);
        script.holds();
    }
}

#[test]
fn what_is_barred_by_no_space_is_refused_and_does_nothing() {
    let mut script = three_writes();
    let op = script.call(put("a", "too much"));
    script.answer(op, Outcome::Refused(Refused::Other("etcdserver: mvcc: database space exceeded".into())));
    script.logged(op);
    script.lost(put("b", "too much"), false);
    script.log.push(op + 1);
    script.done(delete("a"));
    let mut witness = script.witness();
    witness.entries[3..].iter_mut().for_each(|entry| entry.index += 1);
    witness.entries.insert(3, Entry { index: 4, step: Step::NoSpace(true) });
    let stats = check(&script.records, Some(&witness), NO_SEARCH).expect_holds();
    assert_eq!((stats.revision, stats.unknown_done), (5, 0));

    script.done(put("a", "paid"));
    witness.entries.push(Entry { index: 9, step: Step::Operation(op + 3) });
    let verdict = check(&script.records, Some(&witness), NO_SEARCH);
    assert!(matches!(verdict, Verdict::Broken(_)), "{verdict:?}");
    witness.entries.insert(7, Entry { index: 8, step: Step::NoSpace(false) });
    check(&script.records, Some(&witness), NO_SEARCH).expect_holds();
}

#[test]
fn the_end_of_a_lease_is_a_step_that_takes_its_keys_along() {
    let attached = |key: &str, lease| Request::Put(Put { key: key.into(), value: b"v".to_vec(), lease, ..Put::default() });
    let read = |kvs: Vec<KeyValue>, revision| Response::Range { revision, count: kvs.len() as i64, kvs, more: false };
    let mut script = Script::default();
    script.done(Request::LeaseGrant { lease: 5, ttl_s: 2 });
    script.done(Request::LeaseGrant { lease: 5, ttl_s: 9 });
    script.done(attached("b", 5));
    script.done(attached("a", 5));
    script.done(attached("c", 6));
    script.done(put("c", "stays"));
    let mut witness = script.witness();
    let end = witness.entries.len() as u64 + 1;
    witness.entries.push(Entry { index: end, step: Step::Expired(5) });
    let all = Request::Range(Range { keys: Keys { key: b"a".to_vec(), end: Some(b"c".to_vec()) }, ..Range::default() });
    let op = script.call(all.clone());
    script.ok(op, read(Vec::new(), 5));
    assert_eq!(check(&script.records, Some(&witness), NO_SEARCH).expect_holds().revision, 5);
    let op = script.call(all);
    script.ok(op, read(Vec::new(), 4));
    let verdict = check(&script.records, Some(&witness), NO_SEARCH);
    assert!(matches!(&verdict, Verdict::Broken(violation) if violation.property == Property::Answer), "{verdict:?}");
}

#[test]
fn a_denial_says_what_and_where_and_shows_the_log_around_it() {
    let mut script = three_writes();
    script.done(put("a", "fourth"));
    script.done(put("a", "fifth"));
    script.log.swap(3, 4);
    let text = script.denied().to_string();
    let parts = [
        "Answer broken at revision 6",
        "operation 5 of client 1",
        "> entry 4: operation 5",
        "  entry 3: operation 3",
        "  entry 5: operation 4",
    ];
    for part in parts {
        assert!(text.contains(part), "{text} lacks {part:?}");
    }
}

#[test]
fn random_histories_with_unknown_outcomes_verify_with_their_witness() {
    for seed in 0..400 {
        let settings = Settings { unknown_percent: seed % 40, dull_values: seed % 3 == 0, ..Settings::usual() };
        let (records, witness) = history_and_witness(seed, settings);
        let stats = check(&records, Some(&witness), NO_SEARCH).expect_holds();
        assert_eq!(stats.behind, [], "seed {seed}");
    }
}

#[test]
fn any_lie_about_an_acknowledged_operation_is_denied() {
    let mut lies = [0; LIES];
    for seed in 0..800 {
        let settings = Settings { unknown_percent: seed % 40, dull_values: seed % 3 == 0, ..Settings::usual() };
        let (mut records, mut witness) = history_and_witness(seed, settings);
        let mut rng = ChaCha8Rng::seed_from_u64(!seed);
        let kind = seed as usize % LIES;
        if lie(kind, &mut records, &mut witness, &mut rng).is_some() {
            lies[kind] += 1;
            let verdict = check(&records, Some(&witness), NO_SEARCH);
            assert!(matches!(verdict, Verdict::Broken(_)), "seed {seed}, lie {kind}: {verdict:?}");
        }
    }
    assert!(lies.iter().all(|&times| times > 50), "{lies:?}");
}

const LIES: usize = 8;

/// Changes something that cannot be true any more, whatever the rest; `None` if the history has nothing of the kind.
fn lie(kind: usize, records: &mut [Record], witness: &mut Witness, rng: &mut ChaCha8Rng) -> Option<()> {
    let mut pick = |bound: usize| (bound > 0).then(|| rng.next_u64() as usize % bound);
    let logged = |op: OpId, records: &[Record]| {
        records.iter().any(|record| matches!(record, Record::Invoke { op: called, request, .. } if *called == op && request.is_logged()))
    };
    let acknowledged: Vec<usize> = (0..records.len())
        .filter(|&at| matches!(&records[at], Record::Return { op, outcome: Outcome::Ok { .. }, .. } if logged(*op, records)))
        .collect();
    let answered = acknowledged[pick(acknowledged.len())?];
    let Record::Return { op, outcome, .. } = &mut records[answered] else { unreachable!() };
    let place = witness.entries.iter().position(|entry| entry.step == Step::Operation(*op)).expect("acknowledged");
    match kind {
        0 => {
            witness.entries.remove(place);
        }
        1 => {
            let again = Entry { index: witness.entries.last()?.index + 1, ..witness.entries[place] };
            witness.entries.push(again);
        }
        2 => *outcome = Outcome::Refused(Refused::Other("busy".into())),
        3 => {
            let Outcome::Ok { response, .. } = outcome else { unreachable!() };
            *revision_of(response) += if pick(2)? == 0 { 1 } else { -1 };
        }
        4 => {
            // Two acknowledged puts change places.
            let puts: Vec<usize> =
                (0..witness.entries.len()).filter(|&entry| is_acknowledged_put(records, witness.entries[entry].step)).collect();
            let first = pick(puts.len().checked_sub(1)?)?;
            let (a, b) = (puts[first], puts[first + 1]);
            (witness.entries[a].step, witness.entries[b].step) = (witness.entries[b].step, witness.entries[a].step);
        }
        5 => {
            // A value is read that nobody wrote.
            let mut shown = records.iter_mut().filter_map(|record| match record {
                Record::Return { outcome: Outcome::Ok { response: Response::Range { kvs, .. }, .. }, .. } => kvs.first_mut(),
                _ => None,
            });
            shown.next()?.value.push(b'!');
        }
        6 => {
            // A watch leaves an event out.
            let mut delivered = records.iter_mut().filter_map(|record| match record {
                Record::Delivered { delivery: Delivery::Events { events, .. }, .. } if events.len() > 1 => Some(events),
                _ => None,
            });
            drop(delivered.next()?.remove(0));
        }
        _ => {
            // What was never called is in the log.
            let entry = &mut witness.entries[place];
            entry.step = Step::Operation(OpId::MAX);
        }
    }
    Some(())
}

fn is_acknowledged_put(records: &[Record], step: Step) -> bool {
    records.iter().any(|record| {
        matches!(record, Record::Return { op, outcome: Outcome::Ok { response: Response::Put { .. }, .. }, .. } if step == Step::Operation(*op))
    })
}

fn revision_of(response: &mut Response) -> &mut i64 {
    match response {
        Response::Range { revision, .. }
        | Response::Put { revision, .. }
        | Response::DeleteRange { revision, .. }
        | Response::Txn { revision, .. }
        | Response::Compact { revision }
        | Response::LeaseGrant { revision, .. }
        | Response::LeaseRevoke { revision }
        | Response::Watch { revision } => revision,
        Response::LeaseTime { .. } => unreachable!("not made here"),
    }
}

#[test]
fn verification_takes_steps_in_proportion_to_the_operations() {
    const STEPS_PER_OPERATION_MAX: u64 = 12;
    for operations in [10_000, 100_000] {
        let settings = Settings { operations, unknown_percent: 10, ..Settings::usual() };
        let (records, witness) = history_and_witness(operations as u64, settings);
        let stats = check(&records, Some(&witness), NO_SEARCH).expect_holds();
        assert!(stats.unknown_done > 0 && stats.refused > 0 && stats.events > 0, "{stats:?}");
        let most = STEPS_PER_OPERATION_MAX * operations as u64;
        assert!(stats.steps <= most, "{} steps for {operations} operations", stats.steps);
    }
}

/// Lost writes whose order nobody saw, before and after one that was answered, and one that was not done, which shows only at the end.
fn entangled() -> Script {
    let mut script = Script::default();
    for n in 0..6 {
        script.lost(two_puts(&format!("b{n}"), "z"), true);
    }
    script.done(put("m", "middle"));
    script.lost(two_puts("a", "z"), false);
    for n in 0..6 {
        script.lost(two_puts(&format!("c{n}"), "z"), true);
    }
    script.done(put("z", "last"));
    script.done(get("a"));
    script
}

#[test]
fn a_search_that_uses_up_its_steps_or_its_time_is_undecided() {
    let script = entangled();
    check(&script.records, None, Budget::default()).expect_holds();
    for budget in [Budget { steps: 20, ..Budget::default() }, Budget { time: std::time::Duration::ZERO, ..Budget::default() }] {
        let Verdict::Undecided(undecided) = check(&script.records, None, budget) else { panic!("decided") };
        assert!(undecided.to_string().starts_with("undecided after"), "{undecided}");
    }
    check(&script.records, Some(&script.witness()), NO_SEARCH).expect_holds();
}

#[test]
fn the_end_of_a_log_narrows_the_search() {
    let script = entangled();
    let end = Witness { entries: script.witness().entries.split_off(6), is_whole: false };
    let no_second_try = Budget { steps: 20, ..Budget::default() };
    assert!(matches!(check(&script.records, None, no_second_try), Verdict::Undecided(_)));
    check(&script.records, Some(&end), no_second_try).expect_holds();
}

#[test]
fn an_end_of_a_log_that_lies_is_denied() {
    let script = entangled();
    let end = |change: fn(&mut Vec<Entry>)| {
        let mut entries = script.witness().entries.split_off(6);
        change(&mut entries);
        check(&script.records, Some(&Witness { entries, is_whole: false }), Budget::default())
    };
    let denies = |verdict: Verdict, property| match verdict {
        Verdict::Broken(violation) => assert_eq!(violation.property, property, "{violation}"),
        other => panic!("nothing found: {other:?}"),
    };
    denies(end(|entries| entries.push(Entry { index: 99, step: Step::Operation(404) })), Property::Witness);
    denies(end(|entries| entries.push(entries[0])), Property::Witness);
    denies(end(|entries| entries.reverse()), Property::LogOrder);
    denies(
        end(|entries| {
            entries.remove(3);
        }),
        Property::Provenance,
    );
}
