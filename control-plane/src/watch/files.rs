//! Which manifests a directory has, and by what a changed one is recognised.

use super::{Problem, Severity};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Most manifests of all directories.
const MAX_FILES: usize = 10_000;

/// Most entries that are looked at: what a home directory given by mistake would exceed soon.
const MAX_ENTRIES: usize = 50_000;

/// Deepest subdirectory.
const MAX_DEPTH: usize = 16;

/// What tells one content of a file from the next without reading it. The change time (`ctime`) catches what keeps size and modification
/// time, the inode a rename onto the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
    inode: u64,
}

impl Stamp {
    /// The stamp of what `metadata` is about.
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
            inode: metadata.ino(),
        }
    }

    /// The stamp of a file; `None` when there is no such file.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|metadata| Self::of(&metadata))
    }

    /// Whether there is not a byte in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.size == 0
    }
}

/// A manifest: the place of its directory in the list of directories, and its path. Earlier ones have precedence.
pub(crate) type FileKey = (usize, PathBuf);

/// One look at all directories.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// The manifests.
    pub(crate) files: BTreeMap<FileKey, Stamp>,
    /// Directories that could not be looked at as a whole: what is missing in `files` is not known to be gone.
    pub(crate) unreadable: BTreeSet<usize>,
    /// What is wrong with directories and links.
    pub(crate) problems: Vec<Problem>,
    entries: usize,
}

/// Looks at all directories and their subdirectories, for `.yaml`, `.yml` and `.json`. Hidden entries are left out. A symbolic link is
/// followed to a file in the same directory tree that is hidden (as in a mounted ConfigMap), and to nothing else.
///
/// Blocks.
pub(crate) fn look(directories: &[PathBuf]) -> Look {
    let mut look = Look::default();
    for (at, directory) in directories.iter().enumerate() {
        match directory.canonicalize() {
            Ok(root) => look.directory(at, &root, directory, 0),
            Err(error) => look.unreadable(at, directory, &error),
        }
    }
    look
}

impl Look {
    fn directory(&mut self, at: usize, root: &Path, directory: &Path, depth: usize) {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => return self.unreadable(at, directory, &error),
        };
        for entry in entries {
            self.entries += 1;
            if self.entries > MAX_ENTRIES || self.files.len() >= MAX_FILES {
                let reason = io::Error::other(format!("there are more than {MAX_FILES} manifests or {MAX_ENTRIES} entries"));
                return self.unreadable(at, directory, &reason);
            }
            match entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))) {
                Ok((path, kind)) => self.entry(at, root, &path, kind, depth),
                Err(error) => self.unreadable(at, directory, &error),
            }
        }
    }

    fn entry(&mut self, at: usize, root: &Path, path: &Path, kind: fs::FileType, depth: usize) {
        if is_hidden(path) {
            return;
        }
        if kind.is_dir() {
            if depth < MAX_DEPTH {
                self.directory(at, root, path, depth + 1);
            } else {
                let reason = io::Error::other(format!("it is nested more than {MAX_DEPTH} directories deep"));
                self.unreadable(at, path, &reason);
            }
        } else if is_manifest(path) && (kind.is_file() || (kind.is_symlink() && self.follows(root, path))) {
            // Gone since the directory was read: the next look will not have it.
            if let Some(stamp) = Stamp::read(path) {
                self.files.insert((at, path.to_owned()), stamp);
            }
        }
    }

    /// Whether a link leads to a file below the root which is not listed anyway.
    fn follows(&mut self, root: &Path, link: &Path) -> bool {
        let Ok(target) = link.canonicalize() else {
            self.problem(link, "is a symbolic link to nothing; it is not read");
            return false;
        };
        let Ok(inside) = target.strip_prefix(root) else {
            self.problem(link, "is a symbolic link that leads out of the directory; it is not read");
            return false;
        };
        target.is_file() && inside.ancestors().any(is_hidden)
    }

    fn unreadable(&mut self, at: usize, path: &Path, error: &io::Error) {
        self.unreadable.insert(at);
        self.problem(path, &format!("cannot be read: {error}; what was read before stays in force"));
    }

    fn problem(&mut self, path: &Path, message: &str) {
        let file = path.display().to_string();
        let problem = Problem {
            level: Severity::Error,
            line: None,
            column: None,
            object: None,
            field: None,
            message: message.to_owned(),
            text: format!("{file}: {message}"),
            file: Some(file),
        };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Folder;
    use std::os::unix::fs::symlink;

    #[test]
    fn manifests_are_found_below_and_links_only_to_what_is_hidden() {
        let folder = Folder::new("look");
        let root = folder.path();
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::create_dir_all(root.join("..data")).unwrap();
        for file in ["a.yaml", "sub/b.YML", "c.json", "d.txt", ".e.yaml", "..data/f.yaml"] {
            fs::write(root.join(file), "x").unwrap();
        }
        symlink("..data/f.yaml", root.join("f.yaml")).unwrap();
        symlink("a.yaml", root.join("again.yaml")).unwrap();
        symlink("/etc/hostname", root.join("out.yaml")).unwrap();
        let look = look(&[root.to_owned(), root.join("nowhere")]);
        let found: Vec<_> = look.files.keys().map(|(at, path)| (*at, path.strip_prefix(root).unwrap().to_str().unwrap())).collect();
        assert_eq!(found, [(0, "a.yaml"), (0, "c.json"), (0, "f.yaml"), (0, "sub/b.YML")]);
        let texts: Vec<_> = look.problems.iter().map(|p| &p.message).collect();
        assert!(texts.iter().any(|t| t.contains("leads out of")), "{texts:?}");
        assert!(texts.iter().any(|t| t.contains("cannot be read")), "{texts:?}");
        assert_eq!(look.unreadable, BTreeSet::from([1]));
    }
}
