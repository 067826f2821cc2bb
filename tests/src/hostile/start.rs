//! A command line or a data directory that a member must not start with.

use super::{Claim, Ground, Outcome, ended, refused, require, require_parts};
use crate::process::{Cluster, Member, Server};
use nix::sys::signal::Signal;
use sha1::{Digest, Sha1};
use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

pub const CLAIMS: &[Claim] = &[
    ("an unknown flag is answered with the one that was meant", unknown_flag),
    ("a positional argument is refused", positional_argument),
    ("one option as flag and in the environment is fatal", flag_and_environment),
    ("a member that --initial-cluster does not name is refused", own_name_absent),
    ("joining a running cluster without data is refused and says what is served", joining),
    ("a busy client port is named with its holder", busy_port),
    ("a data directory that is a file is refused", data_dir_is_a_file),
    ("a data directory that is read-only for the process's user is refused", data_dir_is_read_only),
    ("a data directory that the process's user cannot read is refused", data_dir_is_unreadable),
    ("a log file that the process's user cannot read is refused", log_is_unreadable),
    ("a data directory that others may write to is warned about", data_dir_is_open_to_others),
    ("a data directory that another process holds is refused", data_dir_is_locked),
    ("etcd's data directory is refused untouched", data_dir_of_etcd),
];

/// Someone without rights.
const NOBODY: u32 = 65534;

/// One healthy member looks on while another fails to start as told.
fn beside(prepare: impl FnOnce(&mut Ground, &mut Member) -> Result<Vec<String>, Box<dyn Error>>, code: Option<i32>) -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    let mut loner = ground.loner("loner")?;
    let parts = prepare(&mut ground, &mut loner)?;
    loner.start()?;
    let status = loner.wait_end()?;
    let text = loner.log_text()?;
    require(status.code().is_some_and(|found| found != 0 && code.is_none_or(|code| code == found)), || {
        format!("it ended with {status}: {text}")
    })?;
    require_parts(&text, &parts.iter().map(String::as_str).collect::<Vec<_>>())?;
    ground.check_unharmed(&[0])
}

fn unknown_flag() -> Outcome {
    beside(
        |_, loner| {
            loner.arguments.push("--snapshot-coutn=5".into());
            Ok(vec!["--snapshot-coutn".into(), "--snapshot-count'".into()])
        },
        Some(2),
    )
}

fn positional_argument() -> Outcome {
    beside(
        |_, loner| {
            loner.arguments.push("surplus".into());
            Ok(vec!["\"surplus\" is not a valid flag".into()])
        },
        Some(1),
    )
}

fn flag_and_environment() -> Outcome {
    beside(
        |_, loner| {
            loner.environment.push(("ETCD_NAME".into(), "other".into()));
            Ok(vec!["conflicting environment variable \"ETCD_NAME\" is shadowed".into()])
        },
        Some(1),
    )
}

fn own_name_absent() -> Outcome {
    beside(
        |_, loner| {
            loner.set("--name", "nowhere");
            Ok(vec!["couldn't find local name \"nowhere\" in the initial cluster configuration".into(), "--initial-cluster".into()])
        },
        Some(1),
    )
}

fn joining() -> Outcome {
    beside(
        |_, loner| {
            loner.set("--initial-cluster-state", "existing");
            Ok(vec![loner.data_dir.display().to_string(), "does not serve yet".into(), "--initial-cluster-state=new".into()])
        },
        Some(1),
    )
}

fn busy_port() -> Outcome {
    beside(
        |ground, loner| {
            let (address, pid) = (ground.member().client.clone(), ground.member().pid().ok_or("no pid")?);
            loner.set("--listen-client-urls", &format!("http://{address}"));
            Ok(vec![address, "--listen-client-urls".into(), "already in use".into(), format!("pid {pid}")])
        },
        None,
    )?;
    // A holder that is no member is named as well.
    let ground = Ground::new(1, &[])?;
    let mut loner = ground.loner("loner")?;
    let holder = TcpListener::bind("127.0.0.1:0")?;
    loner.set("--listen-peer-urls", &format!("http://{}", holder.local_addr()?));
    refused(&mut loner, &["--listen-peer-urls", "already in use", &format!("pid {}", std::process::id())])?;
    Ok(())
}

fn data_dir_is_a_file() -> Outcome {
    beside(
        |_, loner| {
            fs::write(&loner.data_dir, b"precious")?;
            Ok(vec![loner.data_dir.display().to_string(), "is not a directory".into()])
        },
        None,
    )
}

/// Makes a member run without rights. Who has none already needs no change.
fn without_rights(ground: &Ground, loner: &mut Member) -> Result<(), Box<dyn Error>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    // The suite's folder is the user's own; the binary must be reachable for the other one.
    fs::set_permissions(ground.cluster.folder(), fs::Permissions::from_mode(0o755))?;
    let copy = ground.cluster.folder().join("quorate");
    fs::copy(&loner.binary, &copy)?;
    loner.binary = copy;
    loner.wrapper = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(String::from).to_vec();
    Ok(())
}

fn give_away(path: &Path) -> Outcome {
    if nix::unistd::geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY))?;
    }
    Ok(())
}

fn data_dir_with_mode(mode: u32) -> Outcome {
    beside(
        |ground, loner| {
            without_rights(ground, loner)?;
            fs::create_dir(&loner.data_dir)?;
            give_away(&loner.data_dir)?;
            fs::set_permissions(&loner.data_dir, fs::Permissions::from_mode(mode))?;
            Ok(vec![loner.data_dir.display().to_string(), "Permission denied".into()])
        },
        Some(1),
    )
}

fn data_dir_is_read_only() -> Outcome {
    data_dir_with_mode(0o500)
}

fn data_dir_is_unreadable() -> Outcome {
    data_dir_with_mode(0o300)
}

fn log_is_unreadable() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    ground.member().kill()?;
    let mut unprivileged = ground.cluster.members[0].twin("unprivileged");
    without_rights(&ground, &mut unprivileged)?;
    let wal = ground.member().data_dir.join("member/wal/0000000000000001.wal");
    for file in files(&ground.member().data_dir)?.keys() {
        give_away(file)?;
    }
    for folder in folders(&ground.member().data_dir)? {
        give_away(&folder)?;
    }
    fs::set_permissions(&wal, fs::Permissions::from_mode(0o000))?;
    refused(&mut unprivileged, &["0000000000000001.wal", "Permission denied"])?;
    fs::set_permissions(&wal, fs::Permissions::from_mode(0o600))?;
    ground.start_unharmed(0)
}

fn data_dir_is_open_to_others() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    for (mode, warned) in [(0o777, true), (0o770, true), (0o755, true), (0o700, false)] {
        ground.member().kill()?;
        fs::set_permissions(&ground.member().data_dir, fs::Permissions::from_mode(mode))?;
        ground.start_unharmed(0)?;
        let text = ground.member().log_text()?;
        require(text.contains("others than its owner") == warned, || format!("mode {mode:o}: {text}"))?;
    }
    Ok(())
}

fn data_dir_is_locked() -> Outcome {
    beside(
        |ground, loner| {
            let (held, pid) = (ground.member().data_dir.display().to_string(), ground.member().pid().ok_or("no pid")?);
            loner.set("--data-dir", &held);
            Ok(vec![held, "in use by another process".into(), format!("pid {pid}")])
        },
        Some(1),
    )
}

/// Every file below a folder with the digest of its content.
pub fn files(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>, Box<dyn Error>> {
    let mut found = BTreeMap::new();
    for folder in folders(folder)? {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_file() {
                let digest = Sha1::digest(fs::read(&path)?).to_vec();
                found.insert(path, digest);
            }
        }
    }
    Ok(found)
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = vec![folder.to_path_buf()];
    let mut next = 0;
    while next < found.len() {
        for entry in fs::read_dir(&found[next])? {
            let path = entry?.path();
            if path.is_dir() {
                found.push(path);
            }
        }
        next += 1;
    }
    Ok(found)
}

fn data_dir_of_etcd() -> Outcome {
    let mut etcd = Cluster::start(Server::Etcd, 1, &[])?;
    etcd.members[0].signal(Signal::SIGTERM)?;
    etcd.members[0].wait()?;
    let theirs = etcd.members[0].data_dir.clone();
    let (before, folders_before) = (files(&theirs)?, folders(&theirs)?);
    let mut ground = Ground::new(1, &[])?;
    let mut loner = ground.loner("loner")?;
    loner.set("--data-dir", theirs.to_str().ok_or("not UTF-8")?);
    loner.start()?;
    ended(&mut loner, &[&theirs.display().to_string(), "holds the data of etcd", "untouched", "etcdctl snapshot"])?;
    require(files(&theirs)? == before && folders(&theirs)? == folders_before, || "etcd's data was changed".into())?;
    etcd.members[0].start()?;
    etcd.members[0].wait_ready()?;
    ground.check_unharmed(&[0])
}
