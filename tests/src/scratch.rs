//! Directories that are gone with the test, unless it failed.

use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A directory of one test; kept when the test panics, because its files tell why.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("heddle-test-{}-{number}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).unwrap_or_else(|e| panic!("{} cannot be made: {e}", path.display()));
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A directory in it.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&path).unwrap_or_else(|e| panic!("{} cannot be made: {e}", path.display()));
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // What cannot be removed is left to the system's cleaner.
            let _left = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Replaces a file at once, mode 0600.
pub(crate) fn write(path: &Path, content: &[u8]) {
    let temporary = path.with_extension("new");
    let replace = || {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        std::fs::rename(&temporary, path)
    };
    replace().unwrap_or_else(|e| panic!("{} cannot be written: {e}", path.display()));
}
