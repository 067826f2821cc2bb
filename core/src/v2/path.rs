//! Where a node stands, and the key under which the tree and the state store have it.

use super::error::{Error, ErrorCode};
use alloc::{format, string::String, vec::Vec};
use bytes::Bytes;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Components of a path at most. etcd has no such bound; but a path of a megabyte of slashes is a million directories.
pub const DEPTH_MAX: usize = 256;
/// Bytes of a path at most, slashes included.
pub const PATH_BYTES_MAX: usize = 16 << 10;

/// A clean absolute path: components behind a slash each, none of them empty, `.` or `..`. The root is the empty string.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct NodePath(String);

impl NodePath {
    /// Cleans a path: empty components and `.` are passed over, `..` goes up, and never above the root.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidForm`] above [`DEPTH_MAX`] or [`PATH_BYTES_MAX`], and with a NUL in it.
    pub fn parse(path: &str) -> Result<Self, Error> {
        let refuse = |cause| Err(Error::of_request(ErrorCode::InvalidForm, cause));
        if path.contains('\0') {
            return refuse("a key holds no NUL".into());
        }
        let mut components: Vec<&str> = Vec::new();
        for component in path.split('/') {
            match component {
                "" | "." => {}
                ".." => drop(components.pop()),
                name => components.push(name),
            }
        }
        if components.len() > DEPTH_MAX {
            return refuse(format!("a key has at most {DEPTH_MAX} components"));
        }
        let path = Self(components.iter().flat_map(|component| ["/", component]).collect());
        if path.0.len() > PATH_BYTES_MAX { refuse(format!("a key has at most {PATH_BYTES_MAX} bytes")) } else { Ok(path) }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self(format!("{self}/{name}"))
    }

    /// What the root is in answers that must name it.
    #[must_use]
    pub fn or_slash(&self) -> &str {
        if self.is_root() { "/" } else { &self.0 }
    }

    /// Every directory above it but the root, from the top down.
    pub fn parents(&self) -> impl Iterator<Item = Self> + '_ {
        self.0.char_indices().skip(1).filter(|(_, character)| *character == '/').map(|(at, _)| Self(self.0[..at].into()))
    }

    /// The path that this one has below `above`, with its leading slash; empty if it is the same, `None` if it stands elsewhere.
    #[must_use]
    pub fn below<'a>(&'a self, above: &Self) -> Option<&'a str> {
        let rest = self.0.strip_prefix(&above.0)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }

    /// Whether its own name begins with `_`: it is in no listing.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.0.rsplit('/').next().is_some_and(|name| name.starts_with('_'))
    }

    /// The key of its node: the path with a NUL for each slash. So whatever is below a directory follows it at once, in the order of
    /// names: `/a`, `/a/b`, `/a-b`, where by the slash's own byte `/a-b` would come between.
    pub(super) fn key(&self) -> Bytes {
        self.0.bytes().map(|byte| if byte == b'/' { 0 } else { byte }).collect::<Vec<u8>>().into()
    }

    /// The inverse of [`Self::key`].
    pub(super) fn from_key(key: &[u8]) -> Option<Self> {
        let path: Vec<u8> = key.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }).collect();
        String::from_utf8(path).ok().map(Self)
    }
}

/// Where the keys of all nodes below a directory begin, and where they have ended.
pub(super) fn keys_below(directory: &[u8]) -> (Vec<u8>, Vec<u8>) {
    ([directory, &[0]].concat(), [directory, &[1]].concat())
}

impl fmt::Display for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn path(path: &str) -> NodePath {
        NodePath::parse(path).unwrap()
    }

    #[test]
    fn a_path_is_cleaned_and_stays_below_the_root() {
        for (given, clean) in [("", ""), ("/", ""), ("//", ""), ("/a/", "/a"), ("a//b", "/a/b"), ("/a/./b", "/a/b"), ("/a/../b", "/b")] {
            assert_eq!(path(given).as_str(), clean, "{given}");
        }
        assert_eq!(path("/../../etc/./..").as_str(), "");
    }

    #[test]
    fn a_path_without_end_is_refused_with_the_limit() {
        let deep = "/a".repeat(DEPTH_MAX);
        assert!(NodePath::parse(&deep).is_ok());
        let cause = |path: &str| NodePath::parse(path).unwrap_err().cause;
        assert_eq!(cause(&(deep + "/a")), "a key has at most 256 components");
        assert_eq!(cause(&"x".repeat(PATH_BYTES_MAX)), "a key has at most 16384 bytes");
        assert_eq!(cause("/a\0b"), "a key holds no NUL");
    }

    #[test]
    fn keys_are_in_the_order_of_a_walk_through_the_tree() {
        let walk = ["/a", "/a/!", "/a/b", "/a/b/c", "/a!", "/a-b", "/b"].map(path);
        let mut keys: Vec<Bytes> = walk.iter().map(NodePath::key).collect();
        assert!(keys.is_sorted());
        let (from, to) = keys_below(&walk[0].key());
        keys.retain(|key| (&from[..]..&to[..]).contains(&&key[..]));
        assert_eq!(keys.iter().map(|key| NodePath::from_key(key).unwrap()).collect::<Vec<_>>(), walk[1..4]);
    }

    #[test]
    fn parents_come_from_the_top_and_below_is_what_is_left() {
        assert_eq!(path("/a/b/c").parents().collect::<Vec<_>>(), vec![path("/a"), path("/a/b")]);
        assert_eq!(path("/a").parents().count(), 0);
        assert_eq!(path("/").parents().count(), 0);
        assert_eq!(path("/a/b").below(&path("/a")), Some("/b"));
        assert_eq!(path("/a").below(&path("/a")), Some(""));
        assert_eq!(path("/ab").below(&path("/a")), None);
        assert_eq!(path("/ab").below(&path("/")), Some("/ab"));
        assert!(path("/a/_b").is_hidden() && !path("/_a/b").is_hidden());
    }
}
