//! Whole runs: repeatable, and honest about what mattered.

use crate::invariants::Checker;
use crate::judge::{Judgement, Judging, judge};
use crate::nemesis;
use crate::run::run;
use crate::schedule::{Fault, FaultClass, Item, Schedule};

fn quiet(seed: u64, items: Vec<Item>) -> Schedule {
    Schedule { seed, members: 3, chaos_end_ms: 20_000, standing_cut: None, without_leases: false, items }
}

#[test]
fn the_same_seed_is_the_same_run_to_the_last_bit() {
    for seed in 0..4 {
        let schedule = nemesis::schedule(seed);
        let (first, second) = (run(&schedule, Judging::default(), None), run(&schedule, Judging::default(), None));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.recorded.history, second.recorded.history, "seed {seed}");
    }
}

#[test]
fn another_seed_is_another_run() {
    assert_ne!(run(&quiet(1, Vec::new()), Judging::default(), None).hash, run(&quiet(2, Vec::new()), Judging::default(), None).hash);
}

#[test]
fn a_cluster_without_faults_keeps_every_promise_and_one_leader() {
    let outcomes = run(&quiet(1, Vec::new()), Judging::default(), None);
    assert_eq!(outcomes.violation, None);
    assert_eq!(outcomes.elections, 1);
    assert!(outcomes.completed > 1_000, "{} operations", outcomes.completed);
}

#[test]
fn a_partition_of_a_dead_member_fires_but_does_not_matter() {
    let side = 0b001;
    let items = vec![
        Item { at_ms: 5_000, fault: Fault::Kill { member: 0, down_ms: 8_000, at_write: false } },
        // Long enough after the kill for nobody to have anything under way to it, and short enough to end before it is back.
        Item { at_ms: 9_000, fault: Fault::Symmetric { side, ms: 1_000 } },
    ];
    let outcomes = run(&quiet(3, items), Judging::default(), None);
    assert_eq!(outcomes.violation, None);
    assert_eq!(outcomes.tally.fired.get(&FaultClass::Symmetric), Some(&1));
    assert_eq!(outcomes.tally.mattered.get(&FaultClass::Symmetric), None);
}

#[test]
fn the_same_partition_of_a_live_member_matters() {
    let items = vec![Item { at_ms: 9_000, fault: Fault::Symmetric { side: 0b001, ms: 1_000 } }];
    let outcomes = run(&quiet(3, items), Judging::default(), None);
    assert_eq!(outcomes.violation, None);
    assert!(outcomes.tally.mattered.contains_key(&FaultClass::Symmetric));
}

#[test]
fn the_log_names_every_acknowledged_write_and_the_search_agrees_with_it() {
    let outcomes = run(&Schedule { without_leases: true, ..nemesis::schedule(3) }, Judging::default(), None);
    assert_eq!(outcomes.violation, None);
    assert!(outcomes.recorded.witness.is_whole && outcomes.recorded.witness.entries.len() > 500);
    let mut recorded = outcomes.recorded;
    assert!(matches!(judge(&recorded, Judging { by_search: true, ..Judging::default() }), Judgement::Right));
    recorded.witness.entries.remove(100);
    assert!(matches!(judge(&recorded, Judging::default()), Judgement::Wrong(Checker::Linearizability, _)));
}

#[test]
fn a_member_that_cannot_read_its_state_ends_and_is_back_once_it_can() {
    let items = (1..9).map(|at| Item { at_ms: 2_000 * at, fault: Fault::ReadError { member: 1, reads: 3 } }).collect();
    let outcomes = run(&quiet(7, items), Judging::default(), None);
    assert_eq!(outcomes.violation, None);
    assert!(outcomes.tally.mattered.contains_key(&FaultClass::ReadError));
}

#[test]
fn a_member_whose_state_rots_ends_or_refuses_it_and_the_others_serve_on() {
    for rot in [Fault::RowRot { member: 1 }, Fault::JournalRot { member: 1, down_ms: 300 }] {
        let class = rot.class();
        // Not every row that rots is one that anybody reads again.
        let mattered = (0..6).filter(|seed| {
            let outcomes = run(&quiet(*seed, vec![Item { at_ms: 15_000, fault: rot.clone() }]), Judging::default(), None);
            assert_eq!(outcomes.violation, None, "seed {seed}");
            outcomes.tally.mattered.contains_key(&class)
        });
        assert!(mattered.count() >= 2, "{class}");
    }
}
