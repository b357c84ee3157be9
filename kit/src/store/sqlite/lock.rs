//! A lock on a file beside the store, held while the store is open. It allows one process at a time.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

/// The lock, held until dropped. The system releases it when the process dies.
pub(in crate::store) struct Lock(#[expect(dead_code, reason = "held for its lock, never read")] File);

pub(in crate::store) enum Locked {
    Ours(Lock),
    /// Another process holds the lock. This is its id, if it could be read.
    Theirs(Option<u32>),
}

/// Takes the lock of a store. Two paths that lead to one file by symbolic links have one lock.
pub(in crate::store) fn acquire(store: &Path) -> io::Result<Locked> {
    let path = path(&resolve(store)?);
    let mut file = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "{}", std::process::id())?;
            Ok(Locked::Ours(Lock(file)))
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            Ok(Locked::Theirs(holder.parse().ok()))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Follows symbolic links, also to a file that does not exist yet.
fn resolve(store: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(store) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        resolved => return resolved,
    }
    match fs::read_link(store) {
        Ok(target) => resolve(&store.parent().unwrap_or(Path::new("")).join(target)),
        Err(_no_link) => Ok(store.to_owned()),
    }
}

fn path(store: &Path) -> PathBuf {
    let mut path = store.as_os_str().to_owned();
    path.push("-lock");
    path.into()
}
