//! A state that comes from another member, in a directory beside the one in force, until it takes its place.

use super::{FjallReader, StateError, StateStore, Usage, failed, persister::StateWriter};
use crate::{data_dir::StateDirectories, memory::MemoryBudget};
use quorate_core::{
    storage::WriteBatch,
    types::{BatchNumber, StateNumber},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

/// The directories that the persister's thread has, beside the one in force.
pub(super) struct Receiver {
    directories: StateDirectories,
    memory: MemoryBudget,
    receiving: Option<(StateNumber, StateWriter)>,
    /// Directories that were in force, and what each of their readers holds: they go when nobody reads them any more.
    obsolete: Vec<(PathBuf, Arc<()>)>,
}

impl Receiver {
    pub(super) fn new(directories: StateDirectories, memory: MemoryBudget) -> Self {
        Self { directories, memory, receiving: None, obsolete: Vec::new() }
    }

    /// Opens the directory, or makes it; `anew`: whatever it held is gone. What cannot be opened is of no use either.
    pub(super) fn begin(&mut self, state: StateNumber, anew: bool) -> Result<FjallReader, StateError> {
        if self.receiving.as_ref().is_none_or(|(number, _)| anew || *number != state) {
            self.receiving = None;
            let path = self.directories.path(state);
            if anew {
                void(&path)?;
            }
            let store = match StateStore::open(&path, self.memory) {
                Err(StateError::Lost(_)) => {
                    void(&path)?;
                    StateStore::open(&path, self.memory)?
                }
                opened => opened?,
            };
            self.receiving = Some((state, StateWriter::new(store)?));
        }
        Ok(self.writer(state)?.store.reader())
    }

    fn writer(&mut self, state: StateNumber) -> Result<&mut StateWriter, StateError> {
        match &mut self.receiving {
            Some((number, writer)) if *number == state => Ok(writer),
            _ => Err(StateError::Failed(format!("state {state} is not being received"))),
        }
    }

    pub(super) fn store(&mut self, state: StateNumber, batch: WriteBatch) -> Result<(FjallReader, u64), StateError> {
        let writer = self.writer(state)?;
        writer.write(BatchNumber::default(), batch)?;
        Ok((writer.store.reader(), writer.store.usage.stored_bytes()))
    }

    /// The rows, and the names of directory and files.
    pub(super) fn sync(&mut self, state: StateNumber) -> Result<(FjallReader, u64), StateError> {
        let path = self.directories.path(state);
        let writer = self.writer(state)?;
        writer.sync()?;
        sync_parent(&path)?;
        Ok((writer.store.reader(), writer.store.usage.stored_bytes()))
    }

    /// The received state takes the place of the one in force, and its counters that of the other's.
    pub(super) fn switch(&mut self, state: StateNumber, in_force: &mut StateWriter) -> Result<(), StateError> {
        self.writer(state)?;
        let Some((_, received)) = self.receiving.take() else { return Ok(()) };
        let before = std::mem::replace(in_force, received);
        let usage: Arc<Usage> = before.store.usage();
        let received = &in_force.store.usage;
        usage.recent.store(received.recent.load(Ordering::Relaxed), Ordering::Relaxed);
        usage.settled.store(received.settled.load(Ordering::Relaxed), Ordering::Relaxed);
        in_force.store.usage = usage;
        self.obsolete.push((before.store.path.clone(), Arc::clone(&before.store.readers)));
        Ok(())
    }

    pub(super) fn drop_state(&mut self, state: StateNumber) {
        self.receiving = None;
        tell(void(&self.directories.path(state)));
    }

    /// Deletes what was in force and is not read any more.
    pub(super) fn sweep(&mut self) {
        self.obsolete.retain(|(path, readers)| {
            let read = Arc::strong_count(readers) > 1;
            if !read {
                tell(void(path));
            }
            read
        });
    }
}

/// What is left over is deleted by the next start.
fn tell(deleted: Result<(), StateError>) {
    if let Err(error) = deleted {
        tracing::warn!(target: "quorate", %error, "a directory that is of no use any more could not be deleted");
    }
}

/// Deletes a directory: first its name goes, so that half of it is never taken for a whole.
pub(super) fn void(path: &Path) -> Result<(), StateError> {
    let gone = PathBuf::from(format!("{}.void", path.display()));
    let missing = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    match fs::remove_dir_all(&gone) {
        Err(error) if !missing(&error) => return Err(failed("delete", &gone)(error)),
        _ => {}
    }
    match fs::rename(path, &gone) {
        Err(error) if missing(&error) => return Ok(()),
        renamed => renamed.map_err(failed("rename", path))?,
    }
    sync_parent(path)?;
    let delete = if gone.is_dir() { fs::remove_dir_all(&gone) } else { fs::remove_file(&gone) };
    delete.map_err(failed("delete", &gone))
}

/// Makes the name of a directory durable.
pub(super) fn sync_parent(path: &Path) -> Result<(), StateError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync", parent))
}
