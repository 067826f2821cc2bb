//! How two members meet. The one that dials says who it is and whom it wants; the other answers the same of itself, or refuses.

use quorate_core::types::{Boot, ClusterId, MemberId};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// First on every connection, so that anything else is told apart by its first bytes.
pub const MAGIC: &[u8; 8] = b"QUORATE\n";
/// The version of the frames on a peer connection.
pub const PROTOCOL: u8 = 1;

/// Members that a process keeps in mind; far more than any cluster has.
pub const MEMBERS_SEEN_MAX: usize = 64;
/// Connections that one member may have open: two, and those whose end has not been noticed yet.
pub const MEMBER_CONNECTIONS_MAX: usize = 16;

/// What a connection carries. Control never waits behind bulk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Channel {
    Control,
    Bulk,
}

/// What a process says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Introduction {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub release: String,
    pub boot: Boot,
    /// Drawn at start: tells two processes apart that were started from copies of one directory.
    pub process: u64,
    /// Its directory holds nothing from a leader, in whatever life it was made: a wiped member that is started twice is still wiped.
    pub fresh: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub from: Introduction,
    pub to: MemberId,
    pub channel: Channel,
}

/// The answer to a hello, and also how either side takes leave.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    Welcome(Introduction),
    /// Try again later.
    Refused(String),
    /// You must not run at all.
    Banned(String),
}

/// Why a process is not talked to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Objection {
    Refused(String),
    Banned(String),
}

impl Objection {
    pub(super) fn into_answer(self) -> Answer {
        match self {
            Self::Refused(reason) => Answer::Refused(reason),
            Self::Banned(reason) => Answer::Banned(reason),
        }
    }
}

impl std::fmt::Display for Objection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Refused(reason) | Self::Banned(reason)) = self;
        f.write_str(reason)
    }
}

/// The processes seen so far, by the member they speak for.
#[derive(Debug)]
pub struct Registry {
    own: (ClusterId, MemberId),
    /// A connection silent for longer no longer answers.
    silence: Duration,
    seen: Mutex<BTreeMap<MemberId, Seen>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    boot: Boot,
    process: u64,
    connections: usize,
    heard: Instant,
}

impl Registry {
    #[must_use]
    pub fn new(cluster: ClusterId, member: MemberId, silence: Duration) -> Self {
        Self { own: (cluster, member), silence, seen: Mutex::new(BTreeMap::new()) }
    }

    /// Judges a process that introduced itself. `started`: the cluster's state says that this member has run before.
    ///
    /// # Errors
    /// Why it is not talked to.
    pub fn judge(&self, peer: &Introduction, started: bool, now: Instant) -> Result<(), Objection> {
        let (cluster, member) = self.own;
        if peer.cluster != cluster {
            return Err(Objection::Refused(format!(
                "cluster ID mismatch: member {} belongs to cluster {}, this is cluster {cluster} (--initial-cluster-token and --initial-cluster must be equal on all members)",
                peer.member, peer.cluster
            )));
        }
        if peer.member == member {
            return Err(Objection::Refused(format!("member {member} is this process; another one runs under its id")));
        }
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&peer.member).copied();
        if seen.is_none() && !self.has_room() {
            return Err(Objection::Refused(format!("{MEMBERS_SEEN_MAX} other members are connected already")));
        }
        if seen.is_some_and(|seen| seen.connections >= MEMBER_CONNECTIONS_MAX) {
            return Err(Objection::Refused(format!("member {} has {MEMBER_CONNECTIONS_MAX} connections already", peer.member)));
        }
        let same_process = seen.is_some_and(|seen| seen.process == peer.process);
        if peer.fresh && started && !same_process {
            return Err(Objection::Banned(format!(
                "member {0} has run before, but the process that speaks for it now has an empty data directory: what it promised is lost, so it may not vote. Put its data back, or run `etcdctl member remove {0}` and `etcdctl member add`, and start it with the new id's flags",
                peer.member
            )));
        }
        let Some(seen) = seen else { return Ok(()) };
        if same_process {
            return Ok(());
        }
        if seen.connections > 0 && now.saturating_duration_since(seen.heard) < self.silence {
            return Err(Objection::Refused(format!("another process speaks for member {} and still answers", peer.member)));
        }
        if peer.boot <= seen.boot {
            return Err(Objection::Refused(format!(
                "member {} was seen in boot {}, this process is in boot {}: it runs on an old copy of the data directory",
                peer.member, seen.boot, peer.boot
            )));
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.len() < MEMBERS_SEEN_MAX || seen.values().any(|entry| entry.connections == 0)
    }

    /// A process that was judged well opened a connection. Whoever is connected is kept in mind; the others only while there is room.
    pub fn opened(&self, peer: &Introduction, now: Instant) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MEMBERS_SEEN_MAX && !seen.contains_key(&peer.member) {
            let longest_gone = seen.iter().filter(|(_, entry)| entry.connections == 0).min_by_key(|(_, entry)| entry.heard);
            if let Some(member) = longest_gone.map(|(member, _)| *member) {
                seen.remove(&member);
            }
        }
        let entry = seen.entry(peer.member).or_insert(Seen { boot: peer.boot, process: peer.process, connections: 0, heard: now });
        if entry.process != peer.process {
            *entry = Seen { boot: peer.boot, process: peer.process, connections: 0, heard: now };
        }
        entry.connections += 1;
        entry.heard = now;
    }

    pub fn heard(&self, member: MemberId, process: u64, now: Instant) {
        if let Some(entry) = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&member)
            && entry.process == process
        {
            entry.heard = now;
        }
    }

    pub fn closed(&self, member: MemberId, process: u64) {
        if let Some(entry) = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&member)
            && entry.process == process
        {
            entry.connections = entry.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(1);

    fn registry() -> Registry {
        Registry::new(ClusterId(1), MemberId(1), SILENCE)
    }

    fn peer(boot: u64, process: u64) -> Introduction {
        Introduction { cluster: ClusterId(1), member: MemberId(2), release: "0".into(), boot: Boot(boot), process, fresh: false }
    }

    #[test]
    fn a_member_of_another_cluster_is_refused() {
        let stranger = Introduction { cluster: ClusterId(9), ..peer(1, 1) };
        let objection = registry().judge(&stranger, false, Instant::now()).unwrap_err();
        assert!(objection.to_string().starts_with("cluster ID mismatch"), "{objection}");
    }

    #[test]
    fn a_process_with_our_own_id_is_refused() {
        let twin = Introduction { member: MemberId(1), ..peer(1, 1) };
        assert!(matches!(registry().judge(&twin, true, Instant::now()), Err(Objection::Refused(_))));
    }

    #[test]
    fn a_second_process_is_refused_while_the_first_answers() {
        let (registry, start) = (registry(), Instant::now());
        registry.judge(&peer(3, 10), true, start).unwrap();
        registry.opened(&peer(3, 10), start);
        assert!(registry.judge(&peer(4, 11), true, start).unwrap_err().to_string().contains("still answers"));
        registry.judge(&peer(3, 10), true, start).unwrap();
        registry.judge(&peer(4, 11), true, start + SILENCE).unwrap();
    }

    #[test]
    fn a_restarted_process_is_taken_at_once_when_the_old_connection_closed() {
        let (registry, start) = (registry(), Instant::now());
        registry.opened(&peer(3, 10), start);
        registry.closed(MemberId(2), 10);
        registry.judge(&peer(4, 11), true, start).unwrap();
    }

    #[test]
    fn a_member_has_only_so_many_connections() {
        let (registry, start) = (registry(), Instant::now());
        for _ in 0..MEMBER_CONNECTIONS_MAX {
            registry.judge(&peer(3, 10), true, start).unwrap();
            registry.opened(&peer(3, 10), start);
        }
        assert!(registry.judge(&peer(3, 10), true, start).unwrap_err().to_string().contains("connections already"));
        registry.closed(MemberId(2), 10);
        registry.judge(&peer(3, 10), true, start).unwrap();
    }

    #[test]
    fn only_so_many_members_are_kept_in_mind_and_those_that_left_make_room() {
        let (registry, start) = (registry(), Instant::now());
        let member = |number: u64| Introduction { member: MemberId(number), process: number, ..peer(1, 1) };
        for number in 0..MEMBERS_SEEN_MAX as u64 {
            registry.judge(&member(100 + number), false, start).unwrap();
            registry.opened(&member(100 + number), start);
        }
        assert!(registry.judge(&member(99), false, start).unwrap_err().to_string().contains("other members are connected"));
        registry.closed(MemberId(100), 100);
        registry.judge(&member(99), false, start).unwrap();
        registry.opened(&member(99), start);
        assert_eq!(registry.seen.lock().unwrap().len(), MEMBERS_SEEN_MAX);
    }

    #[test]
    fn a_process_on_an_old_copy_is_refused() {
        let (registry, start) = (registry(), Instant::now());
        registry.opened(&peer(3, 10), start);
        registry.closed(MemberId(2), 10);
        for boot in [2, 3] {
            assert!(registry.judge(&peer(boot, 11), true, start).unwrap_err().to_string().contains("old copy"), "boot {boot}");
        }
    }

    #[test]
    fn an_empty_directory_under_an_id_that_has_run_is_banned_and_told_what_to_do() {
        let wiped = Introduction { fresh: true, ..peer(1, 11) };
        registry().judge(&wiped, false, Instant::now()).unwrap();
        let Err(Objection::Banned(reason)) = registry().judge(&wiped, true, Instant::now()) else { panic!("it was let in") };
        assert!(reason.contains("member remove 2") && reason.contains("member add"), "{reason}");
    }

    #[test]
    fn a_new_member_stays_welcome_while_the_cluster_learns_of_it() {
        let (registry, start) = (registry(), Instant::now());
        let new = Introduction { fresh: true, ..peer(1, 11) };
        registry.opened(&new, start);
        registry.judge(&new, true, start).unwrap();
    }
}
