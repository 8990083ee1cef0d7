//! Which files of a directory are manifests, and reading them within bounds.

use std::{
    collections::BTreeSet,
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::problem::Level;

/// Largest manifest: some ten thousand objects, and far above what a person writes.
pub(super) const MAX_FILE_BYTES: u64 = 4 << 20;
/// Most manifests of a directory.
const MAX_FILES: usize = 2_000;
/// Most entries of a directory and its subdirectories that are looked at.
const MAX_ENTRIES: usize = 50_000;
/// Deepest subdirectory.
const MAX_DEPTH: usize = 16;

/// Something to be said about a file itself.
#[derive(Debug)]
pub(super) struct FileProblem {
    pub(super) level: Level,
    pub(super) path: PathBuf,
    pub(super) message: String,
}

impl FileProblem {
    fn new(level: Level, path: &Path, message: impl Into<String>) -> Self {
        Self { level, path: path.to_owned(), message: message.into() }
    }
}

/// The manifests (`.yaml`, `.yml`, `.json`) below `root` in the order of their paths, or `root` itself when it is a
/// file. Hidden files and directories are left out. A symbolic link is followed when it leads to a file below `root`
/// that is not in the list anyway (as in a mounted ConfigMap); never to a directory, and never out of `root`.
pub(super) fn list(root: &Path, problems: &mut Vec<FileProblem>) -> Vec<PathBuf> {
    match fs::metadata(root) {
        Ok(metadata) if metadata.is_file() => return vec![root.to_owned()],
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            problems.push(FileProblem::new(Level::Error, root, "is neither a file nor a directory"));
            return Vec::new();
        }
        Err(error) => {
            problems.push(FileProblem::new(Level::Error, root, sentence(&error)));
            return Vec::new();
        }
    }
    let mut walk = Walk { files: Vec::new(), links: Vec::new(), entries: 0, problems };
    walk.directory(root, 0);
    let Walk { mut files, links, .. } = walk;
    follow_links(root, links, &mut files, problems);
    files.sort();
    if files.len() > MAX_FILES {
        let message = format!("has {} manifests; only the first {MAX_FILES} are read", files.len());
        problems.push(FileProblem::new(Level::Error, root, message));
        files.truncate(MAX_FILES);
    }
    files
}

struct Walk<'a> {
    files: Vec<PathBuf>,
    links: Vec<PathBuf>,
    entries: usize,
    problems: &'a mut Vec<FileProblem>,
}

impl Walk<'_> {
    fn directory(&mut self, directory: &Path, depth: usize) {
        if depth > MAX_DEPTH {
            let message = format!("is nested more than {MAX_DEPTH} directories deep; it is not read");
            self.problems.push(FileProblem::new(Level::Error, directory, message));
            return;
        }
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => {
                self.problems.push(FileProblem::new(Level::Error, directory, sentence(&error)));
                return;
            }
        };
        for entry in entries.flatten() {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                if self.entries == MAX_ENTRIES + 1 {
                    let message = format!("the directory has more than {MAX_ENTRIES} entries; the rest is not read");
                    self.problems.push(FileProblem::new(Level::Error, directory, message));
                }
                return;
            }
            let path = entry.path();
            let Ok(file_type) = entry.file_type() else { continue };
            if is_hidden(&path) {
                continue;
            }
            if file_type.is_dir() {
                self.directory(&path, depth + 1);
            } else if is_manifest(&path) && file_type.is_file() {
                self.files.push(path);
            } else if is_manifest(&path) && file_type.is_symlink() {
                self.links.push(path);
            }
        }
    }
}

/// Adds the links that may be followed to `files`.
fn follow_links(root: &Path, mut links: Vec<PathBuf>, files: &mut Vec<PathBuf>, problems: &mut Vec<FileProblem>) {
    if links.is_empty() {
        return;
    }
    links.sort();
    let Ok(real_root) = root.canonicalize() else { return };
    let mut known: BTreeSet<PathBuf> = files.iter().filter_map(|file| file.canonicalize().ok()).collect();
    for link in links {
        match link.canonicalize() {
            Ok(target) if !target.starts_with(&real_root) => {
                let message = "is a symbolic link that leads out of the directory; it is not read";
                problems.push(FileProblem::new(Level::Warning, &link, message));
            }
            Ok(target) => {
                if target.is_file() && known.insert(target) {
                    files.push(link);
                }
            }
            Err(error) => problems.push(FileProblem::new(Level::Warning, &link, sentence(&error))),
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// The text of a file of at most [`MAX_FILE_BYTES`].
pub(super) fn read(path: &Path) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|error| sentence(&error))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| sentence(&error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("is larger than {} MiB; it is not read", MAX_FILE_BYTES >> 20));
    }
    String::from_utf8(bytes).map_err(|error| format!("is not UTF-8: byte {} is not part of any text", error.utf8_error().valid_up_to() + 1))
}

fn sentence(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        return "does not exist".to_owned();
    }
    format!("cannot be read: {error}")
}
