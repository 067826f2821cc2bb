//! Damaged, missing, foreign and full: what lies under a member is not what it wrote, or takes no more.

use super::{Claim, Ground, Outcome, ended, refused, require, require_parts, start::files, wait_logged_for};
use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

pub const CLAIMS: &[Claim] = &[
    ("damage behind the last record of the log costs nothing acknowledged", damaged_tail),
    ("damage below the synced mark is refused with file and offset", damaged_record),
    ("a flipped bit in any kind of file is refused or harmless", flipped_bits),
    ("a missing segment between others is refused by name", missing_segment),
    ("a newer format of the log is refused", newer_log_format),
    ("a newer format of the state store is refused", newer_state_format),
    ("a log that is gone while its state is there is refused", missing_log),
    ("a data directory that may not grow from the start is named", no_room_to_start),
    ("a file size limit ends a member with a message, and nothing is lost", file_size_limit),
    ("a full file system ends a member with a message, and nothing is lost", full_disk),
    ("a full file system under the state store alone is named", full_disk_under_the_state),
    ("a full file system in the middle of a snapshot is named, and the snapshot comes again once there is room", full_disk_in_a_snapshot),
    ("a file system of 96 MiB is enough to start and serve", small_disk),
    ("a log whose front is gone is refused, left as it is, and good again once it is put back", log_without_front),
    ("a short segment is refused, left as it is, and good again once it is put back", short_segment),
    ("a log directory with lost+found is taken", lost_and_found),
];

const MIB: u64 = 1 << 20;
/// Where the preamble's second copy lies, and where a preamble has its version and its checksum (`quorate_core::wal`).
const PREAMBLE_COPIES: [u64; 2] = [0, 4096];
const VERSION_AT: usize = 8;
const PREAMBLE_CHECKED: usize = 32;

fn open(path: &Path) -> std::io::Result<fs::File> {
    fs::File::options().read(true).write(true).open(path)
}

fn flip(path: &Path, offset: u64) -> std::io::Result<()> {
    let file = open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ 0x10], offset)
}

/// The segments of a member's log, oldest first.
fn segments(data_dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data_dir.join("member/wal"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wal") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Where the zeros at the end of a file begin.
fn content_end(bytes: &[u8]) -> u64 {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}

fn damaged_tail() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    let garbage: Vec<u8> = (1..=255).cycle().take(5_000).collect();
    let damages: [(&str, &[u8]); 3] = [("one bit", &garbage[..1]), ("half a sector", &garbage[..256]), ("more than a block", &garbage)];
    for (what, bytes) in damages {
        ground.put_many(0, 20, 100)?;
        ground.member().kill()?;
        let newest = segments(&ground.member().data_dir)?.pop().ok_or("no segment")?;
        // A record may end in a few zeros of its own.
        let behind = content_end(&fs::read(&newest)?).next_multiple_of(8) + 64;
        open(&newest)?.write_all_at(bytes, behind)?;
        ground.start_unharmed(0).map_err(|error| format!("{what} at {behind}: {error}"))?;
    }
    // Bytes behind the segment's own length.
    ground.member().kill()?;
    let newest = segments(&ground.member().data_dir)?.pop().ok_or("no segment")?;
    let length = fs::metadata(&newest)?.len();
    open(&newest)?.write_all_at(&garbage, length)?;
    ground.start_unharmed(0).map_err(|error| format!("behind the end of the file: {error}"))?;
    // What was written after the damage is as safe as what was before.
    ground.member().kill()?;
    ground.start_unharmed(0)
}

fn damaged_record() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    ground.put_many(0, 200, 100)?;
    ground.member().kill()?;
    let first = segments(&ground.member().data_dir)?.remove(0);
    let bytes = fs::read(&first)?;
    let key = b"key 000005";
    let at = bytes.windows(key.len()).position(|window| window == key).ok_or("the log does not hold the fifth put")? as u64;
    flip(&first, at)?;
    let text = refused(ground.member(), &[&name(&first), "corrupt at offset", "so remove it from the cluster"])?;
    let offset: u64 = text
        .split_once("corrupt at offset ")
        .and_then(|(_, rest)| rest.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok())
        .ok_or("no offset")?;
    require(offset <= at && at - offset < 512, || format!("the flipped byte is at {at}, the message says {offset}"))?;
    require(fs::read(&first)?.len() == bytes.len(), || "the damaged segment was cut".into())?;
    flip(&first, at)?;
    ground.start_unharmed(0)
}

/// A copy of a data directory, to go back to after each damage.
fn copy(from: &Path, to: &Path) -> Outcome {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    let status = Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(to).status()?;
    require(status.success(), || format!("cp ended with {status}"))
}

/// What a file is for, as its place and name tell.
fn kind(path: &Path, data_dir: &Path) -> String {
    let relative = path.strip_prefix(data_dir).unwrap_or(path).display().to_string();
    relative.chars().map(|character| if character.is_ascii_digit() { '#' } else { character }).collect()
}

fn flipped_bits() -> Outcome {
    let mut ground = Ground::new(1, &["--snapshot-count", "50"])?;
    // Enough for tables; the rest is in the store's journal.
    ground.put_many(0, 300, 100)?;
    ground.put_many(0, 120, MIB as usize)?;
    ground.put_many(0, 20, 100)?;
    // Rows that are moved stand in no log: only the store itself has them.
    ground.compact()?;
    ground.put_many(0, 60, 100)?;
    ground.member().kill()?;
    let data_dir = ground.member().data_dir.clone();
    let good = ground.cluster.folder().join("good");
    copy(&data_dir, &good)?;
    // Of each kind the largest file: it holds the most that can be lost.
    let mut kinds: BTreeMap<String, (u64, PathBuf)> = BTreeMap::new();
    for path in files(&data_dir)?.into_keys() {
        let (kind, length) = (kind(&path, &data_dir), fs::metadata(&path)?.len());
        // What is being prepared, and the locks, hold no data.
        if !kind.ends_with(".tmp") && !kind.to_ascii_lowercase().ends_with("lock") && length > 0 {
            let largest = kinds.entry(kind).or_default();
            *largest = (length, path).max(std::mem::take(largest));
        }
    }
    for needed in ["wal/", "state/#.jnl", "/tables/", "/current", "/v#", "state/version", "state/synced"] {
        require(kinds.keys().any(|kind| kind.contains(needed)), || format!("no file of kind {needed}: {kinds:?}"))?;
    }
    let mut wrong = Vec::new();
    for (kind, (_, path)) in kinds {
        // The start before may have moved files aside.
        copy(&good, &data_dir)?;
        let end = content_end(&fs::read(&path)?);
        for offset in [1, end / 4, end / 2, end / 4 * 3, end.saturating_sub(2)] {
            copy(&good, &data_dir)?;
            flip(&path, offset)?;
            if let Err(error) = refused_or_harmless(&mut ground) {
                wrong.push(format!("{kind} at {offset} of {end}: {error}"));
            }
        }
    }
    copy(&good, &data_dir)?;
    ground.start_unharmed(0)?;
    require(wrong.is_empty(), || wrong.join("\n    "))
}

/// A member over damaged files either says what is wrong, or has everything. What it must not do is serve less.
fn refused_or_harmless(ground: &mut Ground) -> Outcome {
    ground.member().start()?;
    if ground.member().wait_ready_or_end()? {
        let kept = ground.check_kept(0);
        ground.member().kill()?;
        return kept;
    }
    ended(ground.member(), &["this member"])?;
    Ok(())
}

fn missing_segment() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    ground.put_many(0, 170, MIB as usize)?;
    ground.member().kill()?;
    let all = segments(&ground.member().data_dir)?;
    require(all.len() >= 3, || format!("only {} segments", all.len()))?;
    let aside = ground.cluster.folder().join("aside");
    fs::rename(&all[1], &aside)?;
    refused(ground.member(), &[&name(&all[1]), "is missing between other segments", "put it back"])?;
    fs::rename(&aside, &all[1])?;
    ground.start_unharmed(0)
}

fn newer_log_format() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    ground.member().kill()?;
    let first = segments(&ground.member().data_dir)?.remove(0);
    let set_version = |version: u8| -> Outcome {
        let file = open(&first)?;
        for copy in PREAMBLE_COPIES {
            let mut preamble = [0; PREAMBLE_CHECKED];
            file.read_exact_at(&mut preamble, copy)?;
            preamble[VERSION_AT] = version;
            file.write_all_at(&preamble, copy)?;
            file.write_all_at(&crc32c::crc32c(&preamble).to_le_bytes(), copy + PREAMBLE_CHECKED as u64)?;
        }
        Ok(())
    };
    set_version(2)?;
    refused(ground.member(), &[&name(&first), "format version 2", "start the release that wrote it"])?;
    set_version(1)?;
    ground.start_unharmed(0)
}

fn newer_state_format() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    ground.member().kill()?;
    let version = ground.member().data_dir.join("member/state/version");
    let good = fs::read(&version)?;
    let mut newer = good.clone();
    *newer.last_mut().ok_or("the version file is empty")? = 200;
    fs::write(&version, newer)?;
    refused(ground.member(), &["state", "format", "not known here"])?;
    fs::write(&version, good)?;
    ground.start_unharmed(0)
}

fn missing_log() -> Outcome {
    let mut ground = Ground::new(1, &["--snapshot-count", "10"])?;
    ground.put_many(0, 100, 100)?;
    ground.member().kill()?;
    let (wal, aside) = (ground.member().data_dir.join("member/wal"), ground.cluster.folder().join("aside"));
    fs::rename(&wal, &aside)?;
    refused(ground.member(), &["has no write-ahead log", "lost what it promised"])?;
    fs::remove_dir_all(&wal)?;
    fs::rename(&aside, &wal)?;
    ground.start_unharmed(0)
}

fn log_without_front() -> Outcome {
    damaged_log(|path| open(path)?.write_all_at(&[0; 8 << 10], 0))
}

fn short_segment() -> Outcome {
    [0, 100, 5_000, 70_000].into_iter().try_for_each(|length| damaged_log(move |path| open(path)?.set_len(length)))
}

/// A member over a damaged log says so, keeps every file, and has lost nothing once the log is whole again.
fn damaged_log(damage: impl Fn(&Path) -> std::io::Result<()>) -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    ground.put_many(0, 50, 1_000)?;
    ground.member().kill()?;
    let path = segments(&ground.member().data_dir)?.remove(0);
    let good = fs::read(&path)?;
    damage(&path)?;
    let damaged = fs::read(&path)?;
    for _ in 0..2 {
        refused(ground.member(), &[&name(&path), "this member", "remove"])?;
        require(fs::read(&path)? == damaged, || "the damaged log was changed".into())?;
    }
    fs::write(&path, good)?;
    ground.start_unharmed(0)
}

fn lost_and_found() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    let mut loner = ground.loner("loner")?;
    let wal = ground.cluster.folder().join("own");
    fs::create_dir_all(wal.join("lost+found"))?;
    loner.set("--wal-dir", wal.to_str().ok_or("not UTF-8")?);
    loner.start()?;
    loner.wait_ready()?;
    loner.kill()?;
    loner.start()?;
    loner.wait_ready()?;
    ground.check_unharmed(&[0])
}

fn no_room_to_start() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    let mut loner = ground.loner("loner")?;
    loner.wrapper = vec!["prlimit".into(), format!("--fsize={}", 8 * MIB)];
    let folder = loner.data_dir.display().to_string();
    refused(&mut loner, &[&folder, "File too large"])?;
    // What was begun is no obstacle once there is room.
    loner.wrapper.clear();
    loner.start()?;
    loner.wait_ready()?;
    ground.check_unharmed(&[0])
}

fn file_size_limit() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    ground.member().kill()?;
    let first = segments(&ground.member().data_dir)?.remove(0);
    ground.member().wrapper = vec!["prlimit".into(), format!("--fsize={}", 8 * MIB)];
    ground.start_unharmed(0)?;
    ground.put_until_refused(MIB as usize / 4)?;
    ended(ground.member(), &["nothing more can be made durable", &first.display().to_string(), "File too large"])?;
    ground.member().wrapper.clear();
    ground.start_unharmed(0)
}

/// A small file system in a mount namespace of its own. It lives as long as the process in it, which ends with its input.
struct SmallDisk {
    holder: Child,
    _input: Option<ChildStdin>,
}

impl SmallDisk {
    fn mount(folder: &Path, mebibytes: u64) -> Result<Self, Box<dyn Error>> {
        require(nix::unistd::geteuid().is_root(), || "mounting a file system needs root".into())?;
        fs::create_dir(folder)?;
        let script = format!("mount -t tmpfs -o size={mebibytes}m,mode=0700 small \"$0\" && echo mounted && exec cat");
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (holder.stdin.take(), holder.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line)?;
        let disk = Self { holder, _input: input };
        require(line == "mounted\n", || "the file system could not be mounted".into())?;
        Ok(disk)
    }

    /// What makes a command run where the file system is.
    fn enter(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--mount=/proc/{}/ns/mnt", self.holder.id())]
    }

    fn resize(&self, folder: &Path, mebibytes: u64) -> Outcome {
        let enter = self.enter();
        let status =
            Command::new(&enter[0]).args(&enter[1..]).args(["mount", "-o", &format!("remount,size={mebibytes}m")]).arg(folder).status()?;
        require(status.success(), || format!("remounting ended with {status}"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn full_disk() -> Outcome {
    for mebibytes in [16, 160] {
        let mut ground = Ground::new(1, &[])?;
        let folder = ground.cluster.folder().join("small");
        let disk = SmallDisk::mount(&folder, mebibytes)?;
        let mut small = ground.loner("loner")?;
        small.set("--data-dir", folder.join("data").to_str().ok_or("not UTF-8")?);
        small.wrapper = disk.enter();
        if mebibytes < 64 {
            // Not even the log's first segment finds room.
            refused(&mut small, &[&folder.display().to_string(), "No space left on device"])?;
            ground.check_unharmed(&[0])?;
            continue;
        }
        let healthy = ground.cluster.members.remove(0);
        ground.acknowledged.clear();
        ground.cluster.members.push(small);
        ground.start_unharmed(0)?;
        ground.put_until_refused(MIB as usize)?;
        require(!ground.acknowledged.is_empty(), || "nothing was acknowledged before the disk was full".into())?;
        let text = ended(ground.member(), &[&folder.display().to_string(), "No space left on device"])?;
        require_parts(&text, &["this member stops"])?;
        // Still full: it must say so again, or serve what it has.
        refused_or_harmless(&mut ground)?;
        disk.resize(&folder, 1024)?;
        ground.start_unharmed(0)?;
        ground.member().kill()?;
        drop(healthy);
    }
    Ok(())
}

fn full_disk_under_the_state() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    let folder = ground.cluster.folder().join("small");
    let disk = SmallDisk::mount(&folder, 96)?;
    let mut small = ground.loner("loner")?;
    small.set("--data-dir", folder.join("data").to_str().ok_or("not UTF-8")?);
    small.set("--wal-dir", ground.cluster.folder().join("roomy").to_str().ok_or("not UTF-8")?);
    small.wrapper = disk.enter();
    let healthy = ground.cluster.members.remove(0);
    ground.acknowledged.clear();
    ground.cluster.members.push(small);
    ground.start_unharmed(0)?;
    ground.put_until_refused(MIB as usize)?;
    ended(ground.member(), &[&folder.display().to_string(), "No space left on device", "this member stops"])?;
    disk.resize(&folder, 1024)?;
    ground.start_unharmed(0)?;
    ground.member().kill()?;
    drop(healthy);
    Ok(())
}

/// Longer than a leader waits for a member that it does not hear.
const ABSENT: Duration = Duration::from_secs(12);
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(60);

fn full_disk_in_a_snapshot() -> Outcome {
    let mut ground = Ground::new(3, &["--snapshot-count=10", "--snapshot-catchup-entries=5"])?;
    ground.put_many(0, 30, MIB as usize)?;
    ground.cluster.members[2].kill()?;
    let since = Instant::now();
    let folder = ground.cluster.folder().join("small");
    let disk = SmallDisk::mount(&folder, 1024)?;
    let (data, moved) = (ground.cluster.members[2].data_dir.clone(), folder.join("data"));
    let enter = disk.enter();
    let script = "mkdir -p $1/member && cp -a $0/member/state $1/member && du -sm $1 | cut -f1";
    let output = Command::new(&enter[0]).args(&enter[1..]).args(["sh", "-c", script]).arg(&data).arg(&moved).output()?;
    let used: u64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    // Room for a part of what comes.
    disk.resize(&folder, used + 12)?;
    let member = &mut ground.cluster.members[2];
    member.set("--wal-dir", data.join("member/wal").to_str().ok_or("not UTF-8")?);
    member.set("--data-dir", moved.to_str().ok_or("not UTF-8")?);
    member.wrapper = enter;
    ground.put_many(0, 50, 1_000)?;
    while since.elapsed() < ABSENT {
        ground.put_many(0, 1, 1_000)?;
    }
    ground.put_many(0, 50, 1_000)?;
    ground.cluster.members[2].start()?;
    wait_logged_for(&ground.cluster.members[2], &["a database snapshot could not be stored", "No space left on device"], SNAPSHOT_LIMIT)?;
    disk.resize(&folder, 1024)?;
    wait_logged_for(&ground.cluster.members[2], &["applied database snapshot"], SNAPSHOT_LIMIT)?;
    ground.cluster.members[2].wait_ready()?;
    ground.check_unharmed(&[0, 1, 2])?;
    ground.cluster.members[2].kill()
}

fn small_disk() -> Outcome {
    let mut ground = Ground::new(1, &[])?;
    let folder = ground.cluster.folder().join("small");
    let disk = SmallDisk::mount(&folder, 96)?;
    let mut small = ground.loner("loner")?;
    small.set("--data-dir", folder.join("data").to_str().ok_or("not UTF-8")?);
    small.wrapper = disk.enter();
    let healthy = ground.cluster.members.remove(0);
    ground.acknowledged.clear();
    ground.cluster.members.push(small);
    for _ in 0..2 {
        ground.start_unharmed(0)?;
        ground.put_many(0, 50, 10_000)?;
        ground.member().kill()?;
    }
    drop(healthy);
    Ok(())
}
