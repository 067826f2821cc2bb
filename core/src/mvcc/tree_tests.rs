//! The shareable tree against the standard ordered map.

use super::*;
use alloc::collections::BTreeMap;
use core::ops::Bound;
use proptest::prelude::*;

impl Measure for u64 {
    fn measure(&self) -> Sum {
        Sum { count: u64::from(*self % 2 == 1), entries: 1, bytes: *self }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, u64),
    Update(u16, u64),
    Remove(u16),
    TrimBelow(u16),
    /// Removes many neighbours: nodes run empty and join.
    RemoveFrom(u16, u16),
    Append(u16),
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..600_u16;
    prop_oneof![
        10 => (key.clone(), 0..9_u64).prop_map(|(key, value)| Step::Insert(key, value)),
        3 => (key.clone(), 0..9_u64).prop_map(|(key, value)| Step::Update(key, value)),
        5 => key.clone().prop_map(Step::Remove),
        1 => (0..100_u16).prop_map(Step::TrimBelow),
        1 => (key, 1..60_u16).prop_map(|(key, count)| Step::RemoveFrom(key, count)),
        1 => (1..60_u16).prop_map(Step::Append),
        1 => Just(Step::Snapshot),
    ]
}

fn sum<'a>(values: impl Iterator<Item = &'a u64>) -> Sum {
    let mut sum = Sum::default();
    values.for_each(|value| sum += value.measure());
    sum
}

fn compare(tree: &Tree<u16, u64>, model: &BTreeMap<u16, u64>) {
    tree.check_invariants();
    assert!(tree.range::<u16>(None, None).eq(model.iter()));
    assert!(tree.range_back::<u16>(None, None).eq(model.iter().rev()));
    assert_eq!(tree.sum(), sum(model.values()));
    assert_eq!(tree.first(), model.first_key_value());
    assert_eq!(tree.last(), model.last_key_value());
}

fn compare_interval(tree: &Tree<u16, u64>, model: &BTreeMap<u16, u64>, start: Option<u16>, end: Option<u16>) {
    let expected: Vec<_> = match (start, end) {
        (Some(start), Some(end)) if start >= end => Vec::new(),
        _ => model.range((start.map_or(Bound::Unbounded, Bound::Included), end.map_or(Bound::Unbounded, Bound::Excluded))).collect(),
    };
    assert!(tree.range(start.as_ref(), end.as_ref()).eq(expected.iter().copied()), "{start:?}..{end:?}");
    assert!(tree.range_back(start.as_ref(), end.as_ref()).eq(expected.iter().rev().copied()), "{start:?}..{end:?} back");
    let counted = |(_, value): &(&u16, &u64)| value.measure().count > 0;
    let passing = tree.range(start.as_ref(), end.as_ref()).passing_over_uncounted(true).filter(counted);
    assert!(passing.eq(expected.iter().copied().filter(counted)), "{start:?}..{end:?} counted");
    let passing = tree.range_back(start.as_ref(), end.as_ref()).passing_over_uncounted(true).filter(counted);
    assert!(passing.eq(expected.iter().rev().copied().filter(counted)), "{start:?}..{end:?} counted back");
    assert_eq!(tree.measure(start.as_ref(), end.as_ref()), sum(expected.iter().map(|(_, value)| *value)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_equals_an_ordered_map_and_its_clones_stay_as_they_were(
        steps in prop::collection::vec(step(), 1..400),
        bounds in prop::collection::vec((prop::option::of(0..700_u16), prop::option::of(0..700_u16)), 20),
    ) {
        let mut tree = Tree::default();
        let mut model = BTreeMap::new();
        let mut snapshots = Vec::new();
        for step in steps {
            match step {
                Step::Insert(key, value) => prop_assert_eq!(tree.insert(key, value), model.insert(key, value)),
                Step::Update(key, value) => {
                    let old = tree.update(&key, |found| core::mem::replace(found, value));
                    prop_assert_eq!(old, model.get_mut(&key).map(|found| core::mem::replace(found, value)));
                }
                Step::Remove(key) => prop_assert_eq!(tree.remove(&key), model.remove(&key)),
                Step::TrimBelow(key) => {
                    tree.trim_below(&key);
                    model = model.split_off(&key);
                }
                Step::RemoveFrom(key, count) => {
                    for key in key..key + count {
                        prop_assert_eq!(tree.remove(&key), model.remove(&key));
                    }
                }
                Step::Append(count) => {
                    let from = model.last_key_value().map_or(0, |(last, _)| last + 1);
                    for key in from..from + count {
                        tree.insert(key, 3);
                        model.insert(key, 3);
                    }
                }
                Step::Snapshot => snapshots.push((tree.clone(), model.clone())),
            }
            tree.check_invariants();
        }
        snapshots.push((tree, model));
        for (tree, model) in &snapshots {
            compare(tree, model);
            bounds.iter().for_each(|(start, end)| compare_interval(tree, model, *start, *end));
            for key in 0..700 {
                prop_assert_eq!(tree.get(&key), model.get(&key));
            }
        }
    }

    #[test]
    fn a_tree_built_from_sorted_entries_equals_one_built_by_inserting(keys in prop::collection::btree_map(0..5_000_u16, 0..9_u64, 0..2_000)) {
        let mut tree = Tree::from_sorted(keys.iter().map(|(key, value)| (*key, *value)));
        compare(&tree, &keys);
        tree.insert(6_000, 1);
        tree.remove(&6_000);
        compare(&tree, &keys);
    }
}

#[test]
fn ascending_inserts_fill_their_leaves() {
    let mut tree = Tree::default();
    for key in 0..10_000_u16 {
        tree.insert(key, 1_u64);
    }
    assert_eq!(count_leaves(tree.root.as_ref()), 10_000_usize.div_ceil(LEAF_MAX));
}

fn count_leaves(node: Option<&Node<u16, u64>>) -> usize {
    match node {
        None => 0,
        Some(Node::Leaf(_)) => 1,
        Some(Node::Inner(inner)) => inner.children.iter().map(|child| count_leaves(Some(&child.node))).sum(),
    }
}
