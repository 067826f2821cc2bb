//! The directory that is this member: made, locked, and checked for being ours.

use nix::fcntl::{Flock, FlockArg};
use quorate_core::types::StateNumber;
use std::{
    collections::BTreeSet,
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

const LOCK: &str = "LOCK";
const STATE: &str = "member/state";
/// What a data directory should be: its owner's alone.
const MODE: u32 = 0o700;

/// A locked data directory. Dropping it gives the lock back: not before the last file in it is closed.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    wal: PathBuf,
    _lock: Flock<fs::File>,
}

/// Why a data directory is not taken; each says what to do.
#[derive(Debug)]
pub enum DataDirError {
    NotADirectory(PathBuf),
    Etcd(PathBuf),
    Locked { path: PathBuf, holder: Option<i32> },
    Io { path: PathBuf, doing: &'static str, error: io::Error },
}

impl fmt::Display for DataDirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADirectory(path) => write!(f, "{} is not a directory; give another --data-dir", path.display()),
            Self::Etcd(path) => write!(
                f,
                "{} holds the data of etcd, which has another format; it was left untouched. Give another --data-dir, and bring the data over with `etcdctl snapshot` or `etcdctl make-mirror`",
                path.display()
            ),
            Self::Locked { path, holder } => {
                write!(f, "{} is in use by another process", path.display())?;
                if let Some(pid) = holder {
                    write!(f, " (pid {pid})")?;
                }
                write!(f, "; stop it, or give another --data-dir")
            }
            Self::Io { path, doing, error } => write!(f, "cannot {doing} {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for DataDirError {}

impl DataDir {
    /// Makes the directories if they are missing (mode 0700), and takes the lock. Nothing in a directory that is not ours is touched.
    ///
    /// # Errors
    /// [`DataDirError`], whose text names the directory and what to do.
    pub fn open(root: &Path, wal: Option<&Path>) -> Result<Self, DataDirError> {
        make(root)?;
        refuse_etcd(root, wal)?;
        let lock = lock(root)?;
        warn_of_others(root);
        // As in etcd, so that what operators and their tools do with `member` goes on being right.
        let wal = wal.map_or_else(|| root.join("member/wal"), Path::to_path_buf);
        make(&wal)?;
        let opened = Self { root: root.to_path_buf(), wal, _lock: lock };
        let states = opened.states();
        make(&root.join("member"))?;
        if states.numbers().map_err(failed(root, "read"))?.is_empty() {
            make(&states.first)?;
        }
        Ok(opened)
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    #[must_use]
    pub fn wal(&self) -> &Path {
        &self.wal
    }

    #[must_use]
    pub fn states(&self) -> StateDirectories {
        StateDirectories::beside(self.root.join(STATE))
    }
}

/// Where states lie: the first in `state`, each that was received from another member in `state-N`. One is in force, which the log
/// says; the one after it may be on its way here.
#[derive(Clone, Debug)]
pub struct StateDirectories {
    first: PathBuf,
}

impl StateDirectories {
    /// The first lies there, the others beside it.
    #[must_use]
    pub fn beside(first: PathBuf) -> Self {
        Self { first }
    }

    #[must_use]
    pub fn path(&self, state: StateNumber) -> PathBuf {
        match state.0 {
            0 => self.first.clone(),
            number => PathBuf::from(format!("{}-{number}", self.first.display())),
        }
    }

    /// The oldest that there is, which is in force unless the log says otherwise.
    ///
    /// # Errors
    /// The directory above cannot be read.
    pub fn oldest(&self) -> io::Result<StateNumber> {
        Ok(self.numbers()?.into_iter().min().unwrap_or_default())
    }

    /// Those that a log that goes on from `state` has no use for, in the order of their names.
    ///
    /// # Errors
    /// The directory above cannot be read.
    pub fn void(&self, state: StateNumber) -> io::Result<Vec<PathBuf>> {
        let others = self.numbers()?.into_iter().filter(|number| *number < state || *number > state.next());
        Ok(others.map(|number| self.path(number)).collect())
    }

    fn numbers(&self) -> io::Result<BTreeSet<StateNumber>> {
        let parent = self.first.parent().unwrap_or(Path::new("."));
        let first = self.first.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mut numbers = BTreeSet::new();
        for entry in fs::read_dir(parent)? {
            let name = entry?.file_name();
            let number = match name.to_str().and_then(|name| name.strip_prefix(first)) {
                Some("") => Some(0),
                Some(rest) => rest.strip_prefix('-').and_then(|number| number.parse().ok()).filter(|number| *number > 0),
                None => None,
            };
            numbers.extend(number.map(StateNumber));
        }
        Ok(numbers)
    }
}

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> DataDirError {
    move |error| DataDirError::Io { path: path.to_path_buf(), doing, error }
}

fn make(path: &Path) -> Result<(), DataDirError> {
    make_with(path, &mut |parent| fs::File::open(parent)?.sync_all())
}

/// `sync` makes the names in a directory durable.
fn make_with(path: &Path, sync: &mut dyn FnMut(&Path) -> io::Result<()>) -> Result<(), DataDirError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            fs::read_dir(path).map_err(failed(path, "read"))?;
            Ok(())
        }
        Ok(_) => Err(DataDirError::NotADirectory(path.to_path_buf())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            for made in missing(path) {
                match fs::DirBuilder::new().mode(MODE).create(made) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(made, "create")(error)),
                    _ => {}
                }
                // Its name stands in its parent.
                let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
                sync(parent).map_err(failed(parent, "sync"))?;
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(DataDirError::NotADirectory(path.to_path_buf())),
        Err(error) => Err(failed(path, "read")(error)),
    }
}

/// The directories on the way to `path` that have to be made, outermost first.
fn missing(path: &Path) -> Vec<&Path> {
    let mut missing: Vec<&Path> =
        path.ancestors().filter(|part| !part.as_os_str().is_empty()).take_while(|part| fs::symlink_metadata(part).is_err()).collect();
    missing.reverse();
    missing
}

/// Not ours to change: the operator may want it so. Files in it are private whatever it is.
fn warn_of_others(root: &Path) {
    let Ok(mode) = fs::metadata(root).map(|found| found.permissions().mode() & 0o777) else { return };
    if mode & 0o077 != 0 {
        tracing::warn!(
            target: "quorate", data_dir = %root.display(), mode = format!("{mode:o}"), recommended = format!("{MODE:o}"),
            "others than its owner may read or change the data directory"
        );
    }
}

/// etcd keeps `member/snap/db` and `member/wal/<16 hex>-<16 hex>.wal`.
fn refuse_etcd(root: &Path, wal: Option<&Path>) -> Result<(), DataDirError> {
    let is_theirs = |directory: &Path| {
        fs::read_dir(directory).is_ok_and(|files| {
            files.flatten().any(|file| {
                let name = file.file_name();
                let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".wal")) else { return false };
                stem.split_once('-').is_some_and(|(sequence, index)| {
                    [sequence, index].iter().all(|part| part.len() == 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
                })
            })
        })
    };
    if root.join("member/snap/db").exists() || is_theirs(&root.join("member/wal")) {
        return Err(DataDirError::Etcd(root.to_path_buf()));
    }
    match wal {
        Some(wal) if is_theirs(wal) => Err(DataDirError::Etcd(wal.to_path_buf())),
        _ => Ok(()),
    }
}

fn lock(root: &Path) -> Result<Flock<fs::File>, DataDirError> {
    let path = root.join(LOCK);
    let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed(&path, "open"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            // Only a courtesy to whoever is refused; the lock itself is the kernel's.
            let text = format!("{}\n", std::process::id());
            lock.set_len(0).and_then(|()| lock.write_all(text.as_bytes())).map_err(failed(&path, "write"))?;
            Ok(lock)
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            let holder = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
            Err(DataDirError::Locked { path: root.to_path_buf(), holder })
        }
        Err((_, errno)) => Err(failed(&path, "lock")(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_made_for_its_owner_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("a/b");
        let opened = DataDir::open(&root, None).unwrap();
        assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(opened.wal().is_dir() && opened.states().path(StateNumber(0)).is_dir());
    }

    /// Each is made, and its name made durable, on its own.
    #[test]
    fn every_ancestor_that_is_missing_is_known_outermost_first() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("a/b/c");
        let names = [temporary.path().join("a"), temporary.path().join("a/b"), path.clone()];
        assert_eq!(missing(&path), names);
        fs::create_dir(&names[0]).unwrap();
        assert_eq!(missing(&path), names[1..]);
        assert_eq!(missing(Path::new("no/such")), [Path::new("no"), Path::new("no/such")]);
    }

    #[test]
    fn every_directory_that_is_made_is_made_durable_before_the_next() {
        let temporary = tempfile::tempdir().unwrap();
        let mut synced = Vec::new();
        let mut sync = |parent: &Path| {
            let names = fs::read_dir(parent)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
            synced.push((parent.strip_prefix(temporary.path()).unwrap().to_path_buf(), names));
            Ok(())
        };
        make_with(&temporary.path().join("a/b/c"), &mut sync).unwrap();
        assert_eq!(synced, [("", "a"), ("a", "b"), ("a/b", "c")].map(|(parent, name)| (parent.into(), vec![name.into()])));
        let refused = make_with(&temporary.path().join("d"), &mut |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert!(refused.to_string().starts_with(&format!("cannot sync {}", temporary.path().display())), "{refused}");
    }

    #[test]
    fn the_layout_is_that_of_etcd() {
        let temporary = tempfile::tempdir().unwrap();
        let opened = DataDir::open(temporary.path(), None).unwrap();
        assert_eq!(opened.wal(), temporary.path().join("member/wal"));
        assert_eq!(opened.states().path(StateNumber(0)), temporary.path().join("member/state"));
    }

    #[test]
    fn of_the_states_the_one_in_force_and_the_one_after_it_are_of_use() {
        let temporary = tempfile::tempdir().unwrap();
        let states = DataDir::open(temporary.path(), None).unwrap().states();
        assert_eq!(states.oldest().unwrap(), StateNumber(0));
        for name in ["state-2", "state-3", "state-4", "state-0", "state-x", "state.damaged-1", "state-1.void"] {
            fs::create_dir(temporary.path().join("member").join(name)).unwrap();
        }
        assert_eq!(states.oldest().unwrap(), StateNumber(0));
        let names = [0, 4].map(|number| states.path(StateNumber(number)));
        assert_eq!(states.void(StateNumber(2)).unwrap(), names);
        fs::remove_dir(&names[0]).unwrap();
        assert_eq!(states.oldest().unwrap(), StateNumber(2));
    }

    #[test]
    fn a_second_opener_is_told_who_holds_it() {
        let temporary = tempfile::tempdir().unwrap();
        let first = DataDir::open(temporary.path(), None).unwrap();
        let error = DataDir::open(temporary.path(), None).unwrap_err().to_string();
        assert!(error.contains("in use by another process") && error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        DataDir::open(temporary.path(), None).unwrap();
    }

    #[test]
    fn a_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(DataDir::open(file.path(), None).unwrap_err().to_string().contains("is not a directory"));
        assert!(DataDir::open(&file.path().join("below"), None).unwrap_err().to_string().contains("is not a directory"));
    }

    #[test]
    fn the_data_of_etcd_is_refused_untouched() {
        let temporary = tempfile::tempdir().unwrap();
        fs::create_dir_all(temporary.path().join("member/wal")).unwrap();
        fs::write(temporary.path().join("member/wal/0000000000000000-0000000000000000.wal"), b"x").unwrap();
        let error = DataDir::open(temporary.path(), None).unwrap_err().to_string();
        assert!(error.contains("holds the data of etcd") && error.contains("untouched"), "{error}");
        let names: Vec<_> = fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["member"]);
    }

    #[test]
    fn etcds_log_in_a_directory_of_its_own_is_refused_too() {
        let (root, wal) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(wal.path().join("0000000000000001-00000000000000af.wal"), b"x").unwrap();
        assert!(matches!(DataDir::open(root.path(), Some(wal.path())), Err(DataDirError::Etcd(_))));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        if nix::unistd::geteuid().is_root() {
            // Permissions do not bind root: a file system that does is in the process tests. Here, a path through a dead link.
            let temporary = tempfile::tempdir().unwrap();
            let link = temporary.path().join("link");
            std::os::unix::fs::symlink("/proc/nonexistent/x", &link).unwrap();
            assert!(DataDir::open(&link, None).unwrap_err().to_string().contains(&link.display().to_string()));
            return;
        }
        let temporary = tempfile::tempdir().unwrap();
        fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o500)).unwrap();
        let error = DataDir::open(temporary.path(), None).unwrap_err().to_string();
        assert!(error.contains("cannot open") && error.contains("Permission denied"), "{error}");
    }
}
