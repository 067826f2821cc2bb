//! Who this member is and which cluster it belongs to: hashes over what the operator configured, as in etcd.

use crate::url::Url;
use quorate_core::types::{ClusterId, MemberId};
use sha1::{Digest, Sha1};
use std::collections::BTreeMap;

/// A member's id: over its sorted peer URLs and the cluster's token.
#[must_use]
pub fn member_id(peer_urls: &[Url], token: &str) -> MemberId {
    let mut urls: Vec<&str> = peer_urls.iter().map(Url::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(token);
    MemberId(first_eight(hash))
}

/// The cluster's id: over the sorted ids of its first members.
#[must_use]
pub fn cluster_id(members: &[MemberId]) -> ClusterId {
    let mut members = members.to_vec();
    members.sort_unstable();
    let mut hash = Sha1::new();
    for member in members {
        hash.update(member.0.to_be_bytes());
    }
    ClusterId(first_eight(hash))
}

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("a digest has 20 bytes"))
}

/// What a new cluster's members derive from the same `--initial-cluster`, each on its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Founding {
    pub cluster: ClusterId,
    pub member: MemberId,
    /// Every first member with its peer URLs.
    pub members: Vec<(MemberId, Vec<String>)>,
}

impl Founding {
    /// # Errors
    /// Two members of one id, or `name` not among them.
    pub fn new(initial_cluster: &BTreeMap<String, Vec<Url>>, name: &str, token: &str) -> Result<Self, String> {
        let mut members: BTreeMap<MemberId, (&str, Vec<String>)> = BTreeMap::new();
        let mut own = None;
        for (member_name, urls) in initial_cluster {
            let id = member_id(urls, token);
            if member_name == name {
                own = Some(id);
            }
            let texts = urls.iter().map(ToString::to_string).collect();
            if let Some((other, _)) = members.insert(id, (member_name, texts)) {
                return Err(format!("--initial-cluster gives {other:?} and {member_name:?} the same URLs, so both would be member {id}"));
            }
        }
        let member = own.ok_or_else(|| format!("couldn't find local name {name:?} in the initial cluster configuration"))?;
        let ids: Vec<MemberId> = members.keys().copied().collect();
        let members = members.into_iter().map(|(id, (_, urls))| (id, urls)).collect();
        Ok(Self { cluster: cluster_id(&ids), member, members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(members: &[(&str, &str)]) -> BTreeMap<String, Vec<Url>> {
        members.iter().map(|(name, url)| ((*name).to_owned(), vec![Url::parse(url).unwrap()])).collect()
    }

    #[test]
    fn the_default_member_has_etcds_well_known_ids() {
        let founding = Founding::new(&cluster(&[("default", "http://localhost:2380")]), "default", "etcd-cluster").unwrap();
        assert_eq!((founding.member.to_string(), founding.cluster.to_string()), ("8e9e05c52164694d".into(), "cdf818194e3a8c32".into()));
    }

    #[test]
    fn every_member_derives_the_same_cluster() {
        let members = cluster(&[("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2"), ("c", "http://127.0.0.1:3")]);
        let of = |name| Founding::new(&members, name, "t").unwrap();
        assert_eq!(of("a").cluster, of("c").cluster);
        assert_eq!(of("a").members, of("b").members);
        assert_ne!(of("a").member, of("b").member);
    }

    #[test]
    fn the_token_tells_clusters_apart() {
        let members = cluster(&[("a", "http://127.0.0.1:1")]);
        let of = |token| Founding::new(&members, "a", token).unwrap();
        assert_ne!(of("one").cluster, of("two").cluster);
        assert_ne!(of("one").member, of("two").member);
    }

    #[test]
    fn the_order_of_urls_does_not_matter() {
        let urls = |list: &[&str]| list.iter().map(|url| Url::parse(url).unwrap()).collect::<Vec<_>>();
        let (one, two) = (urls(&["http://a:1", "http://b:1"]), urls(&["http://b:1", "http://a:1"]));
        assert_eq!(member_id(&one, "t"), member_id(&two, "t"));
    }
}
