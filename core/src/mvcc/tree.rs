//! A persistent B+tree: cloning it is O(1), and a clone never sees what is done to the original.
//!
//! Nodes are shared between clones and copied when one of them first writes to them, so that a writer which is cloned once per
//! batch copies one path per touched leaf. Inner nodes carry the [`Sum`] of what is below each child: counting an interval never
//! visits its entries.

use crate::mutant::{Mutant, planted};
use alloc::{sync::Arc, vec::Vec};
use core::{borrow::Borrow, cmp::Ordering, fmt, ops::AddAssign};

/// Entries in a leaf and children of an inner node at most. Small, because a write after a clone copies a whole path.
const LEAF_MAX: usize = 16;
const INNER_MAX: usize = 16;
/// A node with fewer entries than this joins a neighbour if the two fit into one.
const LEAF_MIN: usize = LEAF_MAX / 4;
const INNER_MIN: usize = INNER_MAX / 4;

/// What an interval of the tree adds up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum {
    /// Entries that count.
    pub count: u64,
    /// All entries.
    pub entries: u64,
    pub bytes: u64,
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.entries += other.entries;
        self.bytes += other.bytes;
    }
}

impl Sum {
    fn without(self, part: Self) -> Self {
        let less = |whole: u64, part: u64| whole.checked_sub(part).expect("a part is not more than the whole");
        Self { count: less(self.count, part.count), entries: less(self.entries, part.entries), bytes: less(self.bytes, part.bytes) }
    }
}

/// What one entry adds to the sums above it.
pub trait Measure {
    fn measure(&self) -> Sum;
}

/// The tree. See the module's page.
pub struct Tree<K, V> {
    root: Option<Node<K, V>>,
}

enum Node<K, V> {
    Leaf(Arc<Leaf<K, V>>),
    Inner(Arc<Inner<K, V>>),
}

struct Leaf<K, V> {
    /// In key order, never empty.
    entries: Vec<(K, V)>,
}

struct Inner<K, V> {
    /// In key order, never empty.
    children: Vec<Child<K, V>>,
}

struct Child<K, V> {
    /// Not above any key below this child, and above every key of the child before. Of the first child it is not looked at.
    first: K,
    sum: Sum,
    node: Node<K, V>,
}

impl<K, V> Clone for Tree<K, V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone() }
    }
}
impl<K, V> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        match self {
            Self::Leaf(leaf) => Self::Leaf(Arc::clone(leaf)),
            Self::Inner(inner) => Self::Inner(Arc::clone(inner)),
        }
    }
}
impl<K: Clone, V: Clone> Clone for Leaf<K, V> {
    fn clone(&self) -> Self {
        // Room for one more: a copy is made because something is about to change.
        let mut entries = Vec::with_capacity(self.entries.len() + 1);
        entries.extend_from_slice(&self.entries);
        Self { entries }
    }
}
impl<K: Clone, V> Clone for Inner<K, V> {
    fn clone(&self) -> Self {
        Self { children: self.children.clone() }
    }
}
impl<K: Clone, V> Clone for Child<K, V> {
    fn clone(&self) -> Self {
        Self { first: self.first.clone(), sum: self.sum, node: self.node.clone() }
    }
}
impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self { root: None }
    }
}
impl<K, V> fmt::Debug for Tree<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("empty", &self.root.is_none()).finish_non_exhaustive()
    }
}

impl<K: Ord + Clone, V: Clone + Measure> Tree<K, V> {
    /// What all entries add up to.
    #[must_use]
    pub fn sum(&self) -> Sum {
        self.root.as_ref().map_or_else(Sum::default, Node::sum)
    }

    /// Builds a tree from entries in strictly ascending key order.
    #[must_use]
    pub fn from_sorted(entries: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut leaves: Vec<Child<K, V>> = Vec::new();
        let mut open: Vec<(K, V)> = Vec::new();
        for entry in entries {
            debug_assert!(open.last().is_none_or(|(key, _)| *key < entry.0), "entries out of order");
            if open.len() == LEAF_MAX {
                leaves.push(Child::leaf(core::mem::replace(&mut open, Vec::with_capacity(LEAF_MAX))));
            }
            open.push(entry);
        }
        if !open.is_empty() {
            leaves.push(Child::leaf(open));
        }
        let mut level = leaves;
        while level.len() > 1 {
            let mut above = Vec::with_capacity(level.len().div_ceil(INNER_MAX));
            let mut rest = level.into_iter().peekable();
            while rest.peek().is_some() {
                above.push(Child::inner(rest.by_ref().take(INNER_MAX).collect()));
            }
            level = above;
        }
        Self { root: level.pop().map(|child| child.node) }
    }

    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_entry(key).map(|(_, value)| value)
    }

    /// The tree's own key with its value.
    #[must_use]
    pub fn get_entry<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let mut node = self.root.as_ref()?;
        loop {
            match node {
                Node::Inner(inner) => node = &inner.children[inner.child_of(key)].node,
                Node::Leaf(leaf) => {
                    let at = leaf.search(key).ok()?;
                    let (key, value) = &leaf.entries[at];
                    return Some((key, value));
                }
            }
        }
    }

    #[must_use]
    pub fn first(&self) -> Option<(&K, &V)> {
        let mut node = self.root.as_ref()?;
        loop {
            match node {
                Node::Inner(inner) => node = &inner.children[0].node,
                Node::Leaf(leaf) => return leaf.entries.first().map(|(key, value)| (key, value)),
            }
        }
    }

    #[must_use]
    pub fn last(&self) -> Option<(&K, &V)> {
        let mut node = self.root.as_ref()?;
        loop {
            match node {
                Node::Inner(inner) => node = &inner.children[inner.children.len() - 1].node,
                Node::Leaf(leaf) => return leaf.entries.last().map(|(key, value)| (key, value)),
            }
        }
    }

    /// Sets a key's value; returns the one it replaces.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some(root) = &mut self.root else {
            self.root = Some(Node::Leaf(Arc::new(Leaf { entries: alloc::vec![(key, value)] })));
            return None;
        };
        let (old, split) = root.insert(key, value);
        if let Some(right) = split {
            let left = self.root.take().expect("a root was split");
            self.root = Some(Child::inner(alloc::vec![Child::of(left), right]).node);
        }
        old
    }

    /// Changes a value in place, if the key is there.
    pub fn update<Q: Ord + ?Sized, T>(&mut self, key: &Q, change: impl FnOnce(&mut V) -> T) -> Option<T>
    where
        K: Borrow<Q>,
    {
        self.get(key)?;
        self.root.as_mut()?.update(key, change)
    }

    /// Takes a key out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.get(key)?;
        let root = self.root.as_mut()?;
        let old = root.remove(key);
        self.shrink_root();
        old
    }

    /// Drops every entry below `key`.
    pub fn trim_below<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some(root) = &mut self.root {
            root.trim_below(key);
            self.shrink_root();
        }
    }

    fn shrink_root(&mut self) {
        loop {
            let next = match &mut self.root {
                Some(Node::Leaf(leaf)) if leaf.entries.is_empty() => None,
                Some(Node::Inner(inner)) if inner.children.is_empty() => None,
                Some(Node::Inner(inner)) if inner.children.len() == 1 => Some(inner.children[0].node.clone()),
                _ => return,
            };
            self.root = next;
        }
    }

    /// What the entries with `start <= key < end` add up to (`None`: no bound), in logarithmic time.
    #[must_use]
    pub fn measure<Q: Ord + ?Sized>(&self, start: Option<&Q>, end: Option<&Q>) -> Sum
    where
        K: Borrow<Q>,
    {
        if let (Some(start), Some(end)) = (start, end)
            && start >= end
        {
            return Sum::default();
        }
        let below_end = end.map_or_else(|| self.sum(), |end| self.sum_below(end));
        below_end.without(start.map_or_else(Sum::default, |start| self.sum_below(start)))
    }

    /// What the entries below `key` add up to: its rank and offset.
    fn sum_below<Q: Ord + ?Sized>(&self, key: &Q) -> Sum
    where
        K: Borrow<Q>,
    {
        let mut sum = Sum::default();
        let mut next = self.root.as_ref();
        while let Some(node) = next {
            next = match node {
                Node::Inner(inner) => {
                    let at = inner.child_of(key);
                    inner.children[..at].iter().for_each(|child| sum += child.sum);
                    Some(&inner.children[at].node)
                }
                Node::Leaf(leaf) => {
                    let at = leaf.search(key).unwrap_or_else(|at| at);
                    leaf.entries[..at].iter().for_each(|(_, value)| sum += value.measure());
                    None
                }
            };
        }
        sum
    }

    /// Entries with `start <= key < end` in key order; `None` is no bound.
    #[must_use]
    pub fn range<'a, Q: Ord + ?Sized>(&'a self, start: Option<&Q>, end: Option<&'a Q>) -> Range<'a, K, V, Q>
    where
        K: Borrow<Q>,
    {
        let mut range = Range { path: Vec::new(), entries: [].iter(), end, last_leaf: false, passes_over: false };
        if let Some(root) = &self.root {
            range.descend(root, start);
        }
        range
    }

    /// The same entries from the last to the first.
    #[must_use]
    pub fn range_back<'a, Q: Ord + ?Sized>(&'a self, start: Option<&'a Q>, end: Option<&Q>) -> RangeBack<'a, K, V, Q>
    where
        K: Borrow<Q>,
    {
        let mut range = RangeBack { path: Vec::new(), entries: [].iter(), start, last_leaf: false, passes_over: false };
        if let Some(root) = &self.root {
            range.descend(root, end);
        }
        range
    }

    /// Panics unless order, sums and node sizes are as they must be. Visits every entry.
    pub fn check_invariants(&self) {
        if let Some(root) = &self.root {
            root.check(None, None);
        }
    }
}

impl<K: Ord + Clone, V: Clone + Measure> Child<K, V> {
    fn of(node: Node<K, V>) -> Self {
        Self { first: node.first_key().clone(), sum: node.sum(), node }
    }
    fn leaf(entries: Vec<(K, V)>) -> Self {
        Self::of(Node::Leaf(Arc::new(Leaf { entries })))
    }
    fn inner(children: Vec<Self>) -> Self {
        Self::of(Node::Inner(Arc::new(Inner { children })))
    }
}

impl<K: Ord, V> Leaf<K, V> {
    fn search<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        // Appending is the common case of the log of recent rows.
        match self.entries.last().map(|(last, _)| last.borrow().cmp(key)) {
            None | Some(Ordering::Less) => Err(self.entries.len()),
            Some(Ordering::Equal) => Ok(self.entries.len() - 1),
            Some(Ordering::Greater) => self.entries.binary_search_by(|(found, _)| found.borrow().cmp(key)),
        }
    }
}

impl<K: Ord, V> Inner<K, V> {
    fn child_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.children[1..].partition_point(|child| child.first.borrow() <= key)
    }
}

impl<K: Ord + Clone, V: Clone + Measure> Node<K, V> {
    fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        match self {
            Self::Leaf(leaf) => leaf.entries.iter().for_each(|(_, value)| sum += value.measure()),
            Self::Inner(inner) => inner.children.iter().for_each(|child| sum += child.sum),
        }
        sum
    }

    fn first_key(&self) -> &K {
        match self {
            Self::Leaf(leaf) => &leaf.entries[0].0,
            Self::Inner(inner) => &inner.children[0].first,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.entries.len(),
            Self::Inner(inner) => inner.children.len(),
        }
    }

    /// The replaced value, and the right half if the node had to be split.
    fn insert(&mut self, key: K, value: V) -> (Option<V>, Option<Child<K, V>>) {
        match self {
            Self::Leaf(leaf) => {
                let leaf = Arc::make_mut(leaf);
                let at = match leaf.search(&key) {
                    Ok(at) => return (Some(core::mem::replace(&mut leaf.entries[at].1, value)), None),
                    Err(at) => at,
                };
                leaf.entries.insert(at, (key, value));
                if leaf.entries.len() <= LEAF_MAX {
                    return (None, None);
                }
                let right = leaf.entries.split_off(split_point(at, LEAF_MAX));
                (None, Some(Child::leaf(right)))
            }
            Self::Inner(inner) => {
                let inner = Arc::make_mut(inner);
                let at = inner.child_of(&key);
                let child = &mut inner.children[at];
                let (old, split) = child.node.insert(key, value);
                child.sum = child.node.sum();
                let Some(right) = split else { return (old, None) };
                inner.children.insert(at + 1, right);
                if inner.children.len() <= INNER_MAX {
                    return (old, None);
                }
                let right = inner.children.split_off(split_point(at + 1, INNER_MAX));
                (old, Some(Child::inner(right)))
            }
        }
    }

    fn update<Q: Ord + ?Sized, T>(&mut self, key: &Q, change: impl FnOnce(&mut V) -> T) -> Option<T>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Leaf(leaf) => {
                let leaf = Arc::make_mut(leaf);
                let at = leaf.search(key).ok()?;
                Some(change(&mut leaf.entries[at].1))
            }
            Self::Inner(inner) => {
                let inner = Arc::make_mut(inner);
                let at = inner.child_of(key);
                let child = &mut inner.children[at];
                let result = child.node.update(key, change);
                let before = core::mem::replace(&mut child.sum, child.node.sum());
                if planted(Mutant::K5) {
                    child.sum.bytes = child.sum.bytes.max(before.bytes);
                }
                result
            }
        }
    }

    fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Leaf(leaf) => {
                let leaf = Arc::make_mut(leaf);
                let at = leaf.search(key).ok()?;
                Some(leaf.entries.remove(at).1)
            }
            Self::Inner(inner) => {
                let inner = Arc::make_mut(inner);
                let at = inner.child_of(key);
                let child = &mut inner.children[at];
                let old = child.node.remove(key);
                child.sum = child.node.sum();
                inner.tidy(at);
                old
            }
        }
    }

    fn trim_below<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Leaf(leaf) => {
                let at = leaf.search(key).unwrap_or_else(|at| at);
                if at > 0 {
                    Arc::make_mut(leaf).entries.drain(..at);
                }
            }
            Self::Inner(inner) => {
                let at = inner.child_of(key);
                let inner = Arc::make_mut(inner);
                inner.children.drain(..at);
                let child = &mut inner.children[0];
                child.node.trim_below(key);
                child.sum = child.node.sum();
                inner.tidy(0);
            }
        }
    }

    fn check(&self, above: Option<&K>, below: Option<&K>) {
        let within = |key: &K| above.is_none_or(|bound| bound <= key) && below.is_none_or(|bound| key < bound);
        assert!(self.len() > 0, "an empty node");
        match self {
            Self::Leaf(leaf) => {
                assert!(leaf.entries.len() <= LEAF_MAX, "a leaf over its bound");
                assert!(leaf.entries.is_sorted_by(|a, b| a.0 < b.0), "a leaf out of order");
                assert!(leaf.entries.iter().all(|(key, _)| within(key)), "a key in the wrong leaf");
            }
            Self::Inner(inner) => {
                assert!(inner.children.len() <= INNER_MAX, "an inner node over its bound");
                for (at, child) in inner.children.iter().enumerate() {
                    assert_eq!(child.sum, child.node.sum(), "a sum that does not add up");
                    let from = if at == 0 { above } else { Some(&child.first) };
                    child.node.check(from, inner.children.get(at + 1).map_or(below, |next| Some(&next.first)));
                }
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone + Measure> Inner<K, V> {
    /// After the child at `at` has lost entries: takes it out if empty, joins it with a neighbour if that fits.
    fn tidy(&mut self, at: usize) {
        let (length, minimum, maximum) = match &self.children[at].node {
            Node::Leaf(leaf) => (leaf.entries.len(), LEAF_MIN, LEAF_MAX),
            Node::Inner(inner) => (inner.children.len(), INNER_MIN, INNER_MAX),
        };
        if length == 0 {
            self.children.remove(at);
            return;
        }
        if length >= minimum || self.children.len() < 2 {
            return;
        }
        let left = if at > 0 { at - 1 } else { at };
        if self.children[left].node.len() + self.children[left + 1].node.len() > maximum {
            return;
        }
        let right = self.children.remove(left + 1);
        let joined = &mut self.children[left];
        match (&mut joined.node, right.node) {
            (Node::Leaf(into), Node::Leaf(from)) => {
                let from = Arc::try_unwrap(from).unwrap_or_else(|shared| (*shared).clone());
                Arc::make_mut(into).entries.extend(from.entries);
            }
            (Node::Inner(into), Node::Inner(from)) => {
                let mut from = Arc::try_unwrap(from).unwrap_or_else(|shared| (*shared).clone());
                // It was a first child, whose bound is not kept up; now it is one among others.
                from.children[0].first = right.first;
                Arc::make_mut(into).children.extend(from.children);
            }
            _ => unreachable!("neighbours are of one height"),
        }
        joined.sum = joined.node.sum();
    }
}

/// Where an overfull node is cut: in the middle, but a node that grew at its end stays full, as ascending keys fill it no more.
const fn split_point(inserted: usize, maximum: usize) -> usize {
    if inserted == maximum { maximum } else { maximum.div_ceil(2) }
}

/// Ascending entries of a [`Tree`].
pub struct Range<'a, K, V, Q: ?Sized> {
    path: Vec<core::slice::Iter<'a, Child<K, V>>>,
    entries: core::slice::Iter<'a, (K, V)>,
    end: Option<&'a Q>,
    last_leaf: bool,
    /// Whether nodes without an entry that counts are left out.
    passes_over: bool,
}

impl<'a, K: Borrow<Q> + Ord, V, Q: Ord + ?Sized> Range<'a, K, V, Q> {
    /// Leaves out what it can of the entries that do not count, if `passes_over`: whole nodes of them.
    pub fn passing_over_uncounted(mut self, passes_over: bool) -> Self {
        self.passes_over = passes_over;
        self
    }

    fn descend(&mut self, mut node: &'a Node<K, V>, start: Option<&Q>) {
        loop {
            match node {
                Node::Inner(inner) => {
                    let at = start.map_or(0, |start| inner.child_of(start));
                    self.path.push(inner.children[at + 1..].iter());
                    node = &inner.children[at].node;
                }
                Node::Leaf(leaf) => {
                    let from = start.map_or(0, |start| leaf.search(start).unwrap_or_else(|at| at));
                    let mut to = leaf.entries.len();
                    if let Some(end) = self.end
                        && leaf.entries[to - 1].0.borrow() >= end
                    {
                        to = leaf.search(end).unwrap_or_else(|at| at).max(from);
                        self.last_leaf = true;
                    }
                    self.entries = leaf.entries[from..to].iter();
                    return;
                }
            }
        }
    }
}

impl<'a, K: Borrow<Q> + Ord, V, Q: Ord + ?Sized> Iterator for Range<'a, K, V, Q> {
    type Item = (&'a K, &'a V);
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.entries.next() {
                return Some((key, value));
            }
            if self.last_leaf {
                return None;
            }
            match self.path.last_mut()?.next() {
                Some(child) if self.passes_over && child.sum.count == 0 => {}
                Some(child) => self.descend(&child.node, None),
                None => {
                    self.path.pop();
                }
            }
        }
    }
}

/// Descending entries of a [`Tree`].
pub struct RangeBack<'a, K, V, Q: ?Sized> {
    path: Vec<core::slice::Iter<'a, Child<K, V>>>,
    entries: core::slice::Iter<'a, (K, V)>,
    start: Option<&'a Q>,
    last_leaf: bool,
    /// Whether nodes without an entry that counts are left out.
    passes_over: bool,
}

impl<'a, K: Borrow<Q> + Ord, V, Q: Ord + ?Sized> RangeBack<'a, K, V, Q> {
    /// Leaves out what it can of the entries that do not count, if `passes_over`: whole nodes of them.
    pub fn passing_over_uncounted(mut self, passes_over: bool) -> Self {
        self.passes_over = passes_over;
        self
    }

    fn descend(&mut self, mut node: &'a Node<K, V>, end: Option<&Q>) {
        loop {
            match node {
                Node::Inner(inner) => {
                    let at = end.map_or(inner.children.len() - 1, |end| inner.child_of(end));
                    self.path.push(inner.children[..at].iter());
                    node = &inner.children[at].node;
                }
                Node::Leaf(leaf) => {
                    let to = end.map_or(leaf.entries.len(), |end| leaf.search(end).unwrap_or_else(|at| at));
                    let mut from = 0;
                    if let Some(start) = self.start
                        && leaf.entries[0].0.borrow() < start
                    {
                        from = leaf.search(start).unwrap_or_else(|at| at).min(to);
                        self.last_leaf = true;
                    }
                    self.entries = leaf.entries[from..to].iter();
                    return;
                }
            }
        }
    }
}

impl<'a, K: Borrow<Q> + Ord, V, Q: Ord + ?Sized> Iterator for RangeBack<'a, K, V, Q> {
    type Item = (&'a K, &'a V);
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.entries.next_back() {
                return Some((key, value));
            }
            if self.last_leaf {
                return None;
            }
            match self.path.last_mut()?.next_back() {
                Some(child) if self.passes_over && child.sum.count == 0 => {}
                Some(child) => self.descend(&child.node, None),
                None => {
                    self.path.pop();
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
