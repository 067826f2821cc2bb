//! Members that do not belong: of another cluster, twice the same one, or without their memory.

use super::{Claim, Ground, Outcome, refused, require, wait_logged};
use std::{fs, process::Command};

pub const CLAIMS: &[Claim] = &[
    ("a cluster's first leader outlives the restart of a follower", first_leader_stays),
    ("a peer of another cluster is refused by both sides", peer_of_another_cluster),
    ("a data directory of another cluster is named, and its member refused", data_dir_of_another_cluster),
    ("a clone of a running member is refused", clone_of_a_member),
    ("a member on an old copy of its data directory is refused", old_copy),
    ("a wiped member that returns under its old id exits and says what to do", wiped_member),
];

/// Copies a data directory of a member that does not run.
fn copy(from: &std::path::Path, to: &std::path::Path) -> Outcome {
    let status = Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(to).status()?;
    require(status.success(), || format!("cp ended with {status}"))
}

/// In its first life, a leader's data directory is new; that alone must not make it look wiped to a follower that comes back.
fn first_leader_stays() -> Outcome {
    let mut ground = Ground::new(3, &[])?;
    let mut leader = None;
    for (number, member) in ground.cluster.members.iter().enumerate() {
        if member.log_text()?.contains("\"role\":\"Leader\"") {
            leader = Some(number);
        }
    }
    let leader = leader.ok_or("no member says that it leads")?;
    let follower = (leader + 1) % 3;
    ground.cluster.members[follower].kill()?;
    ground.start_unharmed(follower)?;
    wait_logged(&ground.cluster.members[leader], &["established a connection with remote peer"])?;
    ground.check_unharmed(&[0, 1, 2])
}

/// The third member's place is taken by one that was told another token.
fn peer_of_another_cluster() -> Outcome {
    let mut ground = Ground::new(3, &[])?;
    ground.cluster.members[2].kill()?;
    let mut stranger = ground.cluster.members[2].twin("stranger");
    stranger.data_dir = ground.cluster.folder().join("stranger");
    stranger.set("--data-dir", stranger.data_dir.clone().to_str().ok_or("not UTF-8")?);
    stranger.set("--initial-cluster-token", "another");
    stranger.start()?;
    wait_logged(&stranger, &["refused by the other side"])?;
    wait_logged(&ground.cluster.members[0], &["rejected connection on peer endpoint"])?;
    ground.check_unharmed(&[0, 1])?;
    stranger.kill()?;
    ground.start_unharmed(2)?;
    ground.check_unharmed(&[0, 1, 2])
}

fn data_dir_of_another_cluster() -> Outcome {
    let mut other = Ground::new(3, &["--initial-cluster-token", "another"])?;
    let mut ground = Ground::new(3, &[])?;
    for member in &mut other.cluster.members {
        member.kill()?;
    }
    ground.cluster.members[2].kill()?;
    let mut wrong = ground.cluster.members[2].twin("wrong");
    wrong.set("--data-dir", other.cluster.members[2].data_dir.to_str().ok_or("not UTF-8")?);
    wrong.start()?;
    wait_logged(&wrong, &["the data directory says another member or cluster than --initial-cluster"])?;
    ground.check_unharmed(&[0, 1])?;
    wrong.kill()?;
    ground.start_unharmed(2)?;
    for member in &mut other.cluster.members {
        member.start()?;
    }
    for member in &other.cluster.members {
        member.wait_ready()?;
    }
    other.check_unharmed(&[0, 1, 2])?;
    ground.check_unharmed(&[0, 1, 2])
}

/// Two processes with one id: the second has the same data and other ports.
fn clone_of_a_member() -> Outcome {
    let mut ground = Ground::new(3, &[])?;
    ground.cluster.members[2].kill()?;
    let copied = ground.cluster.folder().join("clone");
    copy(&ground.cluster.members[2].data_dir, &copied)?;
    ground.start_unharmed(2)?;
    let mut clone = ground.cluster.members[2].twin("clone log");
    clone.client = format!("127.0.0.1:{}", crate::process::free_port()?);
    clone.set("--data-dir", copied.to_str().ok_or("not UTF-8")?);
    let address = format!("http://{}", clone.client);
    clone.set("--listen-client-urls", &address);
    clone.set("--listen-peer-urls", &format!("http://127.0.0.1:{}", crate::process::free_port()?));
    clone.start()?;
    wait_logged(&clone, &["refused by the other side: another process speaks for member"])?;
    ground.check_unharmed(&[0, 1, 2])?;
    clone.kill()?;
    ground.check_unharmed(&[0, 1, 2])
}

/// The member's data as it was a life ago: it may have forgotten a vote and entries that it acknowledged.
fn old_copy() -> Outcome {
    let mut ground = Ground::new(3, &[])?;
    ground.cluster.members[2].kill()?;
    let old = ground.cluster.folder().join("old");
    copy(&ground.cluster.members[2].data_dir, &old)?;
    ground.start_unharmed(2)?;
    ground.put_many(0, 50, 100)?;
    ground.cluster.members[2].kill()?;
    let mut returned = ground.cluster.members[2].twin("returned");
    returned.set("--data-dir", old.to_str().ok_or("not UTF-8")?);
    returned.start()?;
    wait_logged(&returned, &["it runs on an old copy of the data directory"])?;
    ground.check_unharmed(&[0, 1])?;
    returned.kill()?;
    ground.start_unharmed(2)?;
    ground.check_unharmed(&[0, 1, 2])
}

fn wiped_member() -> Outcome {
    let mut ground = Ground::new(3, &[])?;
    ground.cluster.members[2].kill()?;
    let aside = ground.cluster.folder().join("aside");
    fs::rename(&ground.cluster.members[2].data_dir, &aside)?;
    let mut wiped = ground.cluster.members[2].twin("wiped");
    refused(&mut wiped, &["has run before", "empty data directory", "member remove", "member add"])?;
    ground.check_unharmed(&[0, 1])?;
    fs::remove_dir_all(&ground.cluster.members[2].data_dir)?;
    fs::rename(&aside, &ground.cluster.members[2].data_dir)?;
    ground.start_unharmed(2)?;
    ground.check_unharmed(&[0, 1, 2])
}
