//! Which ranges hold a key: a balanced tree ordered by start, in which each node knows the farthest end below it.
//!
//! Looking a key up skips every subtree that ends before it. Balance (AVL) keeps the depth, and with it the recursion, below
//! 1.45 log2 of the number of ranges, whatever ranges clients choose.

use alloc::boxed::Box;
use bytes::Bytes;
use core::cmp::Ordering;

/// Where a range ends. Field order makes `Ord` the order of ends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum End {
    /// Just before this key.
    Before(Bytes),
    /// With the last key there is.
    Open,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < end,
            Self::Open => true,
        }
    }
}

/// All keys from `start` on that lie before `end`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Interval {
    pub start: Bytes,
    pub end: End,
}

/// One value for each distinct interval.
#[derive(Debug)]
pub(super) struct IntervalMap<T> {
    root: Tree<T>,
}

type Tree<T> = Option<Box<Node<T>>>;

#[derive(Debug)]
struct Node<T> {
    interval: Interval,
    value: T,
    /// Invariant: the greatest end in this subtree.
    farthest: End,
    /// Invariant: one more than the higher child's; children differ by at most one.
    height: u8,
    left: Tree<T>,
    right: Tree<T>,
}

impl<T> Default for IntervalMap<T> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<T> IntervalMap<T> {
    pub fn get_mut(&mut self, interval: &Interval) -> Option<&mut T> {
        let mut tree = &mut self.root;
        while let Some(node) = tree {
            match interval.cmp(&node.interval) {
                Ordering::Less => tree = &mut node.left,
                Ordering::Greater => tree = &mut node.right,
                Ordering::Equal => return Some(&mut node.value),
            }
        }
        None
    }

    /// Adds a value; one that is there already for the same interval stays.
    pub fn insert(&mut self, interval: Interval, value: T) {
        self.root = Some(insert(self.root.take(), interval, value));
    }

    pub fn remove(&mut self, interval: &Interval) -> Option<T> {
        let (root, removed) = remove(self.root.take(), interval);
        self.root = root;
        removed
    }

    /// Visits the value of every interval that holds `key`, in order of the intervals.
    pub fn visit<'a>(&'a self, key: &[u8], mut visitor: impl FnMut(&'a T)) {
        visit(&self.root, key, &mut visitor);
    }

    /// Visits every interval in order.
    pub fn for_each<'a>(&'a self, mut visitor: impl FnMut(&'a Interval, &'a T)) {
        for_each(&self.root, &mut visitor);
    }
}

fn visit<'a, T>(tree: &'a Tree<T>, key: &[u8], visitor: &mut impl FnMut(&'a T)) {
    let Some(node) = tree else { return };
    if !node.farthest.is_after(key) {
        return;
    }
    visit(&node.left, key, visitor);
    if node.interval.start <= key {
        if node.interval.end.is_after(key) {
            visitor(&node.value);
        }
        visit(&node.right, key, visitor);
    }
}

fn for_each<'a, T>(tree: &'a Tree<T>, visitor: &mut impl FnMut(&'a Interval, &'a T)) {
    if let Some(node) = tree {
        for_each(&node.left, visitor);
        visitor(&node.interval, &node.value);
        for_each(&node.right, visitor);
    }
}

fn insert<T>(tree: Tree<T>, interval: Interval, value: T) -> Box<Node<T>> {
    let Some(mut node) = tree else {
        return Box::new(Node { farthest: interval.end.clone(), interval, value, height: 1, left: None, right: None });
    };
    match interval.cmp(&node.interval) {
        Ordering::Less => node.left = Some(insert(node.left.take(), interval, value)),
        Ordering::Greater => node.right = Some(insert(node.right.take(), interval, value)),
        Ordering::Equal => return node,
    }
    balance(node)
}

fn remove<T>(tree: Tree<T>, interval: &Interval) -> (Tree<T>, Option<T>) {
    let Some(mut node) = tree else { return (None, None) };
    let removed = match interval.cmp(&node.interval) {
        Ordering::Less => {
            let (left, removed) = remove(node.left.take(), interval);
            node.left = left;
            removed
        }
        Ordering::Greater => {
            let (right, removed) = remove(node.right.take(), interval);
            node.right = right;
            removed
        }
        Ordering::Equal => {
            let Node { value, left, right, .. } = *node;
            return (join(left, right), Some(value));
        }
    };
    (Some(balance(node)), removed)
}

/// One tree of two siblings whose parent is gone: the first of the right one takes its place.
fn join<T>(left: Tree<T>, right: Tree<T>) -> Tree<T> {
    let Some(right) = right else { return left };
    let (rest, mut first) = take_first(right);
    first.left = left;
    first.right = rest;
    Some(balance(first))
}

fn take_first<T>(mut node: Box<Node<T>>) -> (Tree<T>, Box<Node<T>>) {
    let Some(left) = node.left.take() else { return (node.right.take(), node) };
    let (rest, first) = take_first(left);
    node.left = rest;
    (Some(balance(node)), first)
}

fn height<T>(tree: &Tree<T>) -> u8 {
    tree.as_ref().map_or(0, |node| node.height)
}

fn refresh<T>(node: &mut Node<T>) {
    node.height = 1 + height(&node.left).max(height(&node.right));
    let below = [&node.left, &node.right].into_iter().flatten().map(|child| &child.farthest);
    node.farthest = below.chain([&node.interval.end]).max().expect("at least its own end").clone();
}

fn balance<T>(mut node: Box<Node<T>>) -> Box<Node<T>> {
    let (left, right) = (height(&node.left), height(&node.right));
    if left > right + 1 {
        node.left = node.left.take().map(|child| if height(&child.left) < height(&child.right) { rotate_left(child) } else { child });
        rotate_right(node)
    } else if right > left + 1 {
        node.right = node.right.take().map(|child| if height(&child.right) < height(&child.left) { rotate_right(child) } else { child });
        rotate_left(node)
    } else {
        refresh(&mut node);
        node
    }
}

fn rotate_left<T>(mut node: Box<Node<T>>) -> Box<Node<T>> {
    let mut top = node.right.take().expect("rotated towards a missing child");
    node.right = top.left.take();
    refresh(&mut node);
    top.left = Some(node);
    refresh(&mut top);
    top
}

fn rotate_right<T>(mut node: Box<Node<T>>) -> Box<Node<T>> {
    let mut top = node.left.take().expect("rotated towards a missing child");
    node.left = top.right.take();
    refresh(&mut node);
    top.right = Some(node);
    refresh(&mut top);
    top
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{collections::BTreeMap, vec, vec::Vec};
    use rand_chacha::ChaCha8Rng;
    use rand_core::{RngCore, SeedableRng};

    /// Of heights and ends; returns the height.
    fn check<T>(tree: &Tree<T>) -> u8 {
        let Some(node) = tree else { return 0 };
        let (left, right) = (check(&node.left), check(&node.right));
        assert!(left.abs_diff(right) <= 1, "children of height {left} and {right}");
        assert_eq!(node.height, 1 + left.max(right));
        let mut farthest = node.interval.end.clone();
        for child in [&node.left, &node.right].into_iter().flatten() {
            farthest = farthest.max(child.farthest.clone());
        }
        assert_eq!(node.farthest, farthest);
        node.height
    }

    fn key(rng: &mut ChaCha8Rng, letters: u32) -> Bytes {
        let length = 1 + rng.next_u32() % 2;
        (0..length).map(|_| b'a' + u8::try_from(rng.next_u32() % letters).expect("few letters")).collect::<Vec<u8>>().into()
    }

    fn interval(rng: &mut ChaCha8Rng, letters: u32) -> Interval {
        let end = if rng.next_u32().is_multiple_of(8) { End::Open } else { End::Before(key(rng, letters)) };
        Interval { start: key(rng, letters), end }
    }

    #[test]
    fn a_tree_of_ranges_finds_what_a_scan_of_all_ranges_finds() {
        for seed in 0..60 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let letters = 2 + rng.next_u32() % 20;
            let mut tree = IntervalMap::default();
            let mut model: BTreeMap<Interval, u32> = BTreeMap::new();
            for step in 0..400 {
                let interval = interval(&mut rng, letters);
                if rng.next_u32() % 5 < 3 {
                    tree.insert(interval.clone(), step);
                    model.entry(interval).or_insert(step);
                } else {
                    // One that is there, or at times one that is not.
                    let at = model.range(interval.clone()..).next().map_or(interval, |(found, _)| found.clone());
                    assert_eq!(tree.remove(&at), model.remove(&at));
                }
                check(&tree.root);
                let key = key(&mut rng, letters);
                let mut found = vec![];
                tree.visit(&key, |value| found.push(*value));
                let holds = |interval: &Interval| interval.start <= key && interval.end.is_after(&key);
                let expected: Vec<u32> = model.iter().filter(|(interval, _)| holds(interval)).map(|(_, value)| *value).collect();
                assert_eq!(found, expected, "seed {seed}, step {step}, key {key:?}");
            }
            let mut all = vec![];
            tree.for_each(|interval, value| all.push((interval.clone(), *value)));
            assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn ranges_that_arrive_in_order_do_not_make_a_list() {
        let mut tree = IntervalMap::default();
        for number in 0..4_096_u32 {
            let start = Bytes::copy_from_slice(&number.to_be_bytes());
            tree.insert(Interval { start, end: End::Open }, number);
        }
        assert!(check(&tree.root) <= 18, "height {}", height(&tree.root));
    }
}
