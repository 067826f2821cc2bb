//! Which processes speak for the other members, so that a copy, a stranger or a wiped member is told apart.

use super::hello::{Channel, PeerIdentity, PeerRejection};
use quorate_core::types::{Boot, ClusterId, MemberId};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Members that a process keeps in mind; far more than any cluster has.
pub const MEMBERS_SEEN_MAX: usize = 64;
/// Connections that one member may have open: two, and those whose end has not been noticed yet.
pub const MEMBER_CONNECTIONS_MAX: usize = 16;

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
    /// Of these, those that carry control.
    control_connections: usize,
    heard: Instant,
}

impl Seen {
    fn new(peer: &PeerIdentity, now: Instant) -> Self {
        Self { boot: peer.boot, process: peer.process, connections: 0, control_connections: 0, heard: now }
    }
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
    pub fn judge(&self, peer: &PeerIdentity, started: bool, now: Instant) -> Result<(), PeerRejection> {
        let (cluster, member) = self.own;
        if peer.cluster != cluster {
            return Err(PeerRejection::Refused(format!(
                "cluster ID mismatch: member {} belongs to cluster {}, this is cluster {cluster} (--initial-cluster-token and --initial-cluster must be equal on all members)",
                peer.member, peer.cluster
            )));
        }
        if peer.member == member {
            return Err(PeerRejection::Refused(format!("member {member} is this process; another one runs under its id")));
        }
        let all = self.lock();
        let seen = all.get(&peer.member).copied();
        let has_room = all.len() < MEMBERS_SEEN_MAX || all.values().any(|entry| entry.connections == 0);
        drop(all);
        if seen.is_none() && !has_room {
            return Err(PeerRejection::Refused(format!("{MEMBERS_SEEN_MAX} other members are connected already")));
        }
        if seen.is_some_and(|seen| seen.connections >= MEMBER_CONNECTIONS_MAX) {
            return Err(PeerRejection::Refused(format!("member {} has {MEMBER_CONNECTIONS_MAX} connections already", peer.member)));
        }
        let same_process = seen.is_some_and(|seen| seen.process == peer.process);
        if peer.fresh && started && !same_process {
            return Err(PeerRejection::Banned(format!(
                "member {0} has run before, but the process that speaks for it now has an empty data directory: what it promised is lost, so it may not vote. Put its data back, or run `etcdctl member remove {0}` and `etcdctl member add`, and start it with the new id's flags",
                peer.member
            )));
        }
        let Some(seen) = seen else { return Ok(()) };
        if same_process {
            return Ok(());
        }
        if seen.connections > 0 && now.saturating_duration_since(seen.heard) < self.silence {
            return Err(PeerRejection::Refused(format!("another process speaks for member {} and still answers", peer.member)));
        }
        if peer.boot <= seen.boot {
            return Err(PeerRejection::Refused(format!(
                "member {} was seen in boot {}, this process is in boot {}: it runs on an old copy of the data directory",
                peer.member, seen.boot, peer.boot
            )));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MemberId, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process that was judged well opened a connection. Whoever is connected is kept in mind; the others only while there is room.
    pub fn opened(&self, peer: &PeerIdentity, channel: Channel, now: Instant) {
        let mut seen = self.lock();
        if seen.len() >= MEMBERS_SEEN_MAX && !seen.contains_key(&peer.member) {
            let longest_gone = seen.iter().filter(|(_, entry)| entry.connections == 0).min_by_key(|(_, entry)| entry.heard);
            if let Some(member) = longest_gone.map(|(member, _)| *member) {
                seen.remove(&member);
            }
        }
        let entry = seen.entry(peer.member).or_insert_with(|| Seen::new(peer, now));
        if entry.process != peer.process {
            *entry = Seen::new(peer, now);
        }
        entry.connections += 1;
        entry.control_connections += usize::from(channel == Channel::Control);
        entry.heard = now;
    }

    pub fn heard(&self, member: MemberId, process: u64, now: Instant) {
        if let Some(entry) = self.lock().get_mut(&member)
            && entry.process == process
        {
            entry.heard = now;
        }
    }

    /// A connection ended. Says whether it was the member's last one that carries control: one that was replaced tells nothing
    /// about the member.
    pub fn closed(&self, peer: &PeerIdentity, channel: Channel) -> bool {
        let mut seen = self.lock();
        let Some(entry) = seen.get_mut(&peer.member).filter(|entry| entry.process == peer.process) else { return false };
        entry.connections = entry.connections.saturating_sub(1);
        if channel == Channel::Bulk {
            return false;
        }
        entry.control_connections = entry.control_connections.saturating_sub(1);
        entry.control_connections == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(1);

    fn registry() -> Registry {
        Registry::new(ClusterId(1), MemberId(1), SILENCE)
    }

    fn peer(boot: u64, process: u64) -> PeerIdentity {
        PeerIdentity { cluster: ClusterId(1), member: MemberId(2), release: "0".into(), boot: Boot(boot), process, fresh: false }
    }

    #[test]
    fn a_member_of_another_cluster_is_refused() {
        let stranger = PeerIdentity { cluster: ClusterId(9), ..peer(1, 1) };
        let rejection = registry().judge(&stranger, false, Instant::now()).unwrap_err();
        assert!(rejection.to_string().starts_with("cluster ID mismatch"), "{rejection}");
    }

    #[test]
    fn a_process_with_our_own_id_is_refused() {
        let twin = PeerIdentity { member: MemberId(1), ..peer(1, 1) };
        assert!(matches!(registry().judge(&twin, true, Instant::now()), Err(PeerRejection::Refused(_))));
    }

    #[test]
    fn a_second_process_is_refused_while_the_first_answers() {
        let (registry, start) = (registry(), Instant::now());
        registry.judge(&peer(3, 10), true, start).unwrap();
        registry.opened(&peer(3, 10), Channel::Control, start);
        assert!(registry.judge(&peer(4, 11), true, start).unwrap_err().to_string().contains("still answers"));
        registry.judge(&peer(3, 10), true, start).unwrap();
        registry.judge(&peer(4, 11), true, start + SILENCE).unwrap();
    }

    #[test]
    fn a_restarted_process_is_taken_at_once_when_the_old_connection_closed() {
        let (registry, start) = (registry(), Instant::now());
        registry.opened(&peer(3, 10), Channel::Control, start);
        registry.closed(&peer(3, 10), Channel::Control);
        registry.judge(&peer(4, 11), true, start).unwrap();
    }

    #[test]
    fn a_member_has_only_so_many_connections() {
        let (registry, start) = (registry(), Instant::now());
        for _ in 0..MEMBER_CONNECTIONS_MAX {
            registry.judge(&peer(3, 10), true, start).unwrap();
            registry.opened(&peer(3, 10), Channel::Control, start);
        }
        assert!(registry.judge(&peer(3, 10), true, start).unwrap_err().to_string().contains("connections already"));
        registry.closed(&peer(3, 10), Channel::Control);
        registry.judge(&peer(3, 10), true, start).unwrap();
    }

    #[test]
    fn only_so_many_members_are_kept_in_mind_and_those_that_left_make_room() {
        let (registry, start) = (registry(), Instant::now());
        let member = |number: u64| PeerIdentity { member: MemberId(number), process: number, ..peer(1, 1) };
        for number in 0..MEMBERS_SEEN_MAX as u64 {
            registry.judge(&member(100 + number), false, start).unwrap();
            registry.opened(&member(100 + number), Channel::Control, start);
        }
        assert!(registry.judge(&member(99), false, start).unwrap_err().to_string().contains("other members are connected"));
        registry.closed(&member(100), Channel::Control);
        registry.judge(&member(99), false, start).unwrap();
        registry.opened(&member(99), Channel::Control, start);
        assert_eq!(registry.seen.lock().unwrap().len(), MEMBERS_SEEN_MAX);
    }

    #[test]
    fn a_member_is_gone_when_its_last_control_connection_closed_and_not_with_one_that_was_replaced() {
        let (registry, start) = (registry(), Instant::now());
        for channel in [Channel::Control, Channel::Bulk, Channel::Control] {
            registry.opened(&peer(3, 10), channel, start);
        }
        assert!(!registry.closed(&peer(3, 10), Channel::Control), "the other one carries on");
        assert!(!registry.closed(&peer(3, 10), Channel::Bulk), "bulk tells nothing");
        assert!(registry.closed(&peer(3, 10), Channel::Control));
        registry.opened(&peer(4, 11), Channel::Control, start);
        assert!(!registry.closed(&peer(3, 10), Channel::Control), "a later process speaks for the member");
    }

    #[test]
    fn a_process_on_an_old_copy_is_refused() {
        let (registry, start) = (registry(), Instant::now());
        registry.opened(&peer(3, 10), Channel::Control, start);
        registry.closed(&peer(3, 10), Channel::Control);
        for boot in [2, 3] {
            assert!(registry.judge(&peer(boot, 11), true, start).unwrap_err().to_string().contains("old copy"), "boot {boot}");
        }
    }

    #[test]
    fn an_empty_directory_under_an_id_that_has_run_is_banned_and_told_what_to_do() {
        let wiped = PeerIdentity { fresh: true, ..peer(1, 11) };
        registry().judge(&wiped, false, Instant::now()).unwrap();
        let Err(PeerRejection::Banned(reason)) = registry().judge(&wiped, true, Instant::now()) else { panic!("it was let in") };
        assert!(reason.contains("member remove 2") && reason.contains("member add"), "{reason}");
    }

    #[test]
    fn a_new_member_stays_welcome_while_the_cluster_learns_of_it() {
        let (registry, start) = (registry(), Instant::now());
        let new = PeerIdentity { fresh: true, ..peer(1, 11) };
        registry.opened(&new, Channel::Control, start);
        registry.judge(&new, true, start).unwrap();
    }
}
