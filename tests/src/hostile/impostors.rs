//! Members that do not belong: of another cluster, twice the same one, or without their memory.

use super::{Claim, Ground, Outcome, refused, require, start::files, wait_logged};
use crate::process::Member;
use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

pub const CLAIMS: &[Claim] = &[
    ("a cluster's first leader outlives the restart of a follower", first_leader_stays),
    ("a peer of another cluster is refused by both sides", peer_of_another_cluster),
    ("a data directory of another cluster is refused with both ids and left as it is", data_dir_of_another_cluster),
    ("a clone of a running member is refused", clone_of_a_member),
    ("a member on an old copy of its data directory is refused", old_copy),
    ("a wiped member that returns under its old id is refused, however often it and the healthy ones start", wiped_member),
    ("a wiped member does not vote for one that has nothing but its log", wiped_member_does_not_vote),
];

/// Copies a data directory of a member that does not run.
fn copy(from: &Path, to: &Path) -> Outcome {
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

/// From a member's line about what it recovered.
fn cluster_id(log: &str) -> Option<&str> {
    log.split_once("\"cluster-id\":\"")?.1.split('"').next()
}

fn data_dir_of_another_cluster() -> Outcome {
    let mut other = Ground::new(3, &["--initial-cluster-token", "another"])?;
    let mut ground = Ground::new(3, &[])?;
    for member in &mut other.cluster.members {
        member.kill()?;
    }
    ground.cluster.members[2].kill()?;
    let mut wrong = ground.cluster.members[2].twin("wrong");
    let theirs = other.cluster.members[2].data_dir.clone();
    let named = theirs.to_str().ok_or("not UTF-8")?;
    // But for the lock, which names its last holder, and files being prepared for the log, which belong to no life but the one that ended.
    let content = || {
        let passing = |path: &Path| path.file_name().is_some_and(|name| name == "LOCK") || path.extension().is_some_and(|end| end == "tmp");
        Ok::<_, Box<dyn Error>>(files(&theirs)?.into_iter().filter(|(path, _)| !passing(path)).collect::<Vec<_>>())
    };
    let before = content()?;
    wrong.set("--data-dir", named);
    let text = refused(&mut wrong, &[named, "holds the data of member", "--initial-cluster-token", "Nothing was changed", "--data-dir"])?;
    for log in [ground.cluster.members[2].log_text()?, other.cluster.members[2].log_text()?] {
        let cluster = cluster_id(&log).ok_or("a member does not log its cluster's id")?;
        require(text.contains(cluster), || format!("cluster {cluster} is not named in: {text}"))?;
    }
    require(content()? == before, || "the other cluster's data was changed".into())?;
    ground.check_unharmed(&[0, 1])?;
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

/// What a wiped member is told.
const WIPED: &[&str] = &["has run before", "empty data directory", "member remove", "member add"];

/// The third member's name is in the log of the first: from then on its id is one that has run.
fn third_is_known(ground: &mut Ground) -> Outcome {
    wait_logged(&ground.cluster.members[2], &["published local member to cluster"])?;
    ground.put_many(0, 1, 100)
}

/// The third member's twin, with the same flags, in the same place, whose data is gone. The data is put aside.
fn wipe_third(ground: &Ground) -> Result<(Member, PathBuf), Box<dyn Error>> {
    let aside = ground.cluster.folder().join("aside");
    fs::rename(&ground.cluster.members[2].data_dir, &aside)?;
    let mut wiped = ground.cluster.members[2].twin("wiped");
    wiped.set("--initial-cluster-state", "new");
    Ok((wiped, aside))
}

/// With its data back, the third member serves again.
fn restore_third(ground: &mut Ground, aside: &Path) -> Outcome {
    fs::remove_dir_all(&ground.cluster.members[2].data_dir)?;
    fs::rename(aside, &ground.cluster.members[2].data_dir)?;
    ground.start_unharmed(2)?;
    ground.check_unharmed(&[0, 1, 2])
}

fn wiped_member() -> Outcome {
    let mut ground = Ground::new(3, &[])?;
    third_is_known(&mut ground)?;
    ground.cluster.members[2].kill()?;
    let (mut wiped, aside) = wipe_third(&ground)?;
    // The second start finds the directory that the first one made.
    for _ in 0..2 {
        refused(&mut wiped, WIPED)?;
        ground.check_unharmed(&[0, 1])?;
    }
    // The healthy say it too, whichever of them was met first.
    let said = |member: &Member| member.log_text().is_ok_and(|text| WIPED.iter().all(|part| text.contains(part)));
    require(ground.cluster.members[..2].iter().any(said), || "no healthy member says whom it refused".into())?;
    for restarted in [0, 1] {
        ground.cluster.members[restarted].kill()?;
        ground.start_unharmed(restarted)?;
        refused(&mut wiped, WIPED)?;
        ground.check_unharmed(&[0, 1])?;
    }
    restore_third(&mut ground, &aside)
}

/// One healthy member that lost its state and has its log, and the wiped one: if that voted, there would be a leader who may lack
/// what the other two have acknowledged.
fn wiped_member_does_not_vote() -> Outcome {
    let mut ground = Ground::new(3, &[])?;
    third_is_known(&mut ground)?;
    for member in &mut ground.cluster.members {
        member.kill()?;
    }
    let (mut wiped, aside) = wipe_third(&ground)?;
    fs::remove_dir_all(ground.cluster.members[0].data_dir.join("member/state"))?;
    ground.cluster.members[0].start()?;
    wait_logged(&ground.cluster.members[0], &["\"applied\":0", "serving peer traffic"])?;
    for _ in 0..3 {
        refused(&mut wiped, WIPED)?;
    }
    let log = ground.cluster.members[0].log_text()?;
    require(!log.contains("\"role\":\"Leader\""), || format!("it leads with the vote of a wiped member: {log}"))?;
    ground.start_unharmed(1)?;
    ground.check_unharmed(&[0, 1])?;
    restore_third(&mut ground, &aside)
}
