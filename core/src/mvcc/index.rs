//! Which versions a key has, without their values: what counting, comparing and finding need.

use super::tree::{Measure, Sum, Tree};
use crate::types::{LeaseId, Revision, RevisionId};
use alloc::sync::Arc;

/// A user key in an allocation of its own, so that it never pins the request it came in.
pub(crate) type Key = Arc<[u8]>;

/// User keys and their versions above the compact revision, with those below it that compaction has not come to yet.
pub(crate) type Index = Tree<Key, KeyRecord>;

/// One version of a key, or the tombstone its deletion left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Version {
    /// Of a version read back from the settled generation `sub` is 0: nothing asks for it there.
    pub id: RevisionId,
    /// Bytes of the encoded key-value.
    pub length: u32,
    pub create: Revision,
    /// 0 in a tombstone, else from 1 on.
    pub number: i64,
    pub lease: LeaseId,
}

impl Version {
    pub const fn is_tombstone(&self) -> bool {
        self.number == 0
    }

    fn live(&self) -> Option<&Self> {
        (!self.is_tombstone()).then_some(self)
    }
}

impl Measure for Version {
    fn measure(&self) -> Sum {
        Sum { count: 1, entries: 1, bytes: 0 }
    }
}

/// The versions of one key.
#[derive(Clone, Debug)]
pub(crate) struct KeyRecord {
    newest: Version,
    older: Tree<RevisionId, Version>,
}

impl Measure for KeyRecord {
    /// Counts the key if it exists at the newest revision.
    fn measure(&self) -> Sum {
        let gone = Sum { count: 0, entries: 1, bytes: 0 };
        self.newest.live().map_or(gone, |version| Sum { count: 1, bytes: u64::from(version.length), ..gone })
    }
}

impl KeyRecord {
    pub fn new(newest: Version) -> Self {
        Self { newest, older: Tree::default() }
    }

    /// Adds a version above all others.
    pub fn push(&mut self, version: Version) {
        assert!(version.id > self.newest.id, "{} after {}", version.id, self.newest.id);
        self.older.insert(self.newest.id, self.newest);
        self.newest = version;
    }

    /// The newest version or tombstone.
    pub const fn newest(&self) -> &Version {
        &self.newest
    }

    /// The newest version that exists, if it is not a tombstone.
    pub fn live(&self) -> Option<&Version> {
        self.newest.live()
    }

    /// The newest version or tombstone of `revision` or before.
    pub fn at(&self, revision: Revision) -> Option<&Version> {
        if self.newest.id.main <= revision {
            return Some(&self.newest);
        }
        let end = RevisionId { main: revision.next(), sub: 0 };
        self.older.range_back(None, Some(&end)).next().map(|(_, version)| version)
    }

    /// The key as of `revision`, if it existed then.
    pub fn live_at(&self, revision: Revision) -> Option<&Version> {
        self.at(revision)?.live()
    }

    /// Versions and tombstones, oldest first.
    pub fn versions(&self) -> impl Iterator<Item = &Version> {
        self.older.range::<RevisionId>(None, None).map(|(_, version)| version).chain(core::iter::once(&self.newest))
    }

    /// Panics unless the versions follow from each other, from the compact revision on: below it some may be forgotten.
    pub fn check_invariants(&self, key: &[u8], compacted: Revision) {
        let mut before: Option<&Version> = None;
        for version in self.versions() {
            let id = version.id;
            assert!(before.is_none_or(|before| before.id < id), "{key:?}: {id} out of order");
            let kept = before.filter(|before| before.id.main >= compacted);
            let follows = kept.is_none_or(|before| match (before.live(), version.live()) {
                (Some(before), Some(version)) => version.number == before.number + 1 && version.create == before.create,
                (None, Some(version)) => version.number == 1 && version.create == id.main,
                (Some(_), None) => true,
                (None, None) => false,
            });
            assert!(follows, "{key:?}: {version:?} after {before:?}");
            before = Some(version);
        }
    }

    /// Whether a version below `id` is left.
    pub fn has_before(&self, id: RevisionId) -> bool {
        self.older.first().map_or(self.newest.id, |(first, _)| *first) < id
    }

    /// Forgets the versions below `id`.
    pub fn forget_before(&mut self, id: RevisionId) {
        self.older.trim_below(&id);
    }

    /// Forgets one version; `false` if it was the last, which stays: then the caller takes out the whole record.
    pub fn forget(&mut self, id: RevisionId) -> bool {
        if id != self.newest.id {
            self.older.remove(&id);
            return true;
        }
        let Some((_, below)) = self.older.last() else { return false };
        assert!(below.id < self.newest.id, "{} is kept below {}", below.id, self.newest.id);
        self.newest = *below;
        self.older.remove(&self.newest.id);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(main: i64, number: i64) -> Version {
        Version { id: RevisionId { main: Revision(main), sub: 0 }, length: 9, create: Revision(main), number, lease: LeaseId(0) }
    }

    #[test]
    fn a_record_with_one_version_takes_at_most_72_bytes_beside_its_key() {
        assert!(size_of::<(Key, KeyRecord)>() <= 80, "{}", size_of::<(Key, KeyRecord)>());
        assert!(size_of::<Version>() <= 48);
    }

    #[test]
    fn a_key_is_seen_as_of_each_revision() {
        let mut record = KeyRecord::new(version(2, 1));
        record.push(version(5, 0));
        record.push(version(7, 1));
        let seen = |revision| record.live_at(Revision(revision)).map(|version| version.id.main.0);
        assert_eq!([seen(1), seen(2), seen(4), seen(5), seen(6), seen(7), seen(9)], [None, Some(2), Some(2), None, None, Some(7), Some(7)]);
    }

    #[test]
    fn forgetting_the_only_version_is_left_to_the_caller() {
        let mut record = KeyRecord::new(version(2, 1));
        record.push(version(5, 0));
        assert!(record.forget(record.newest().id));
        assert_eq!(record.newest().id.main, Revision(2));
        assert!(!record.forget(record.newest().id));
    }
}
