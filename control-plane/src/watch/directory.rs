//! Directories of manifests as a source: what changed is read again; what is bad leaves the last good version in force.
//!
//! By polling metadata, and not by inotify: editors write files in a dozen ways (rename, truncate, backup and new file), mounted
//! ConfigMaps swap a link, and network file systems tell nothing; one look at metadata covers all of them, costs microseconds a file,
//! and needs no dependency.

use super::files::{FileKey, Look, Stamp, look};
use super::{Batch, Change, Problem};
use heddle_crds::{Level, Manifests, Object, ObjectId, manifest, read_dir};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// How often directories are looked at: an edit is in force well within the promised second.
pub const POLL: Duration = Duration::from_millis(100);

/// A file counts as written when it has not changed for so long: longer than the clock tick (at most 10 ms) that stamps are rounded to.
const SETTLE: Duration = Duration::from_millis(20);

/// After so many changes in a row a file is read all the same: nothing that is written all the time may blind the rest.
const MAX_SETTLE: u32 = 10;

/// Watches directories and sends what changed; the first batch, which may be empty, says that all was read once.
///
/// Runs until the receiver is gone or it is cancelled; cancel safe.
pub async fn watch_directories(directories: Vec<PathBuf>, batches: mpsc::Sender<Batch>) {
    let directories: Arc<[PathBuf]> = directories.into();
    let mut held = Held::default();
    let mut is_first = true;
    let mut ticks = tokio::time::interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut found = look_at(&directories).await;
        if held.is_current(&found) && !is_first {
            continue;
        }
        if !is_first {
            found = settled(&directories, found).await;
        }
        let batch;
        (held, batch) = blocking(move || {
            let batch = held.take_in(found);
            (held, batch)
        })
        .await;
        if batches.send(batch).await.is_err() {
            return;
        }
        is_first = false;
    }
}

async fn look_at(directories: &Arc<[PathBuf]>) -> Look {
    let directories = directories.clone();
    blocking(move || look(&directories)).await
}

/// Looks again until nothing is being written any more.
async fn settled(directories: &Arc<[PathBuf]>, mut found: Look) -> Look {
    for _ in 0..MAX_SETTLE {
        tokio::time::sleep(SETTLE).await;
        let again = look_at(directories).await;
        let is_settled = again.files == found.files;
        found = again;
        if is_settled {
            break;
        }
    }
    found
}

/// Runs what blocks on a thread for it; when the caller is cancelled, the result is dropped.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is ending, and so is whoever waits for this.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Everything that was read and is in force.
#[derive(Debug, Default)]
struct Held {
    files: BTreeMap<FileKey, File>,
    in_force: BTreeMap<ObjectId, Arc<Object>>,
    problems: Vec<Problem>,
}

/// One file as it was last read.
#[derive(Debug)]
struct File {
    stamp: Stamp,
    objects: BTreeMap<ObjectId, Arc<Object>>,
    problems: Vec<Problem>,
}

impl Held {
    fn is_current(&self, found: &Look) -> bool {
        let known = |key: &FileKey| found.files.contains_key(key) || found.unreadable.contains(&key.0);
        self.problems == found.problems
            && found.files.iter().all(|(key, stamp)| self.files.get(key).is_some_and(|file| file.stamp == *stamp))
            && self.files.keys().all(known)
    }

    /// Reads what has changed, and says what that means for the snapshot. Blocks.
    fn take_in(&mut self, found: Look) -> Batch {
        let Look { files, unreadable, problems, .. } = found;
        self.files.retain(|key, _| files.contains_key(key) || unreadable.contains(&key.0));
        for (key, stamp) in files {
            let before = self.files.get(&key);
            if before.is_some_and(|file| file.stamp == stamp) {
                continue;
            }
            let read = read_dir(&key.1);
            // Written while it was read: its stamp stays the old one, so that the next look finds it changed.
            if Stamp::read(&key.1) == Some(stamp) {
                let file = File::new(&key.1, stamp, read, before);
                self.files.insert(key, file);
            }
        }
        self.problems = problems;
        let (wanted, duplicates) = self.merge();
        let changes = difference(&self.in_force, &wanted);
        self.in_force = wanted;
        let of_files = self.files.values().flat_map(|file| &file.problems);
        let problems = self.problems.iter().chain(of_files).cloned().chain(duplicates).collect();
        Batch { changes, problems }
    }

    /// All objects by name. Of duplicates the one in the first directory and file counts.
    fn merge(&self) -> (BTreeMap<ObjectId, Arc<Object>>, Vec<Problem>) {
        let mut wanted = BTreeMap::new();
        let mut owners: BTreeMap<&ObjectId, &Path> = BTreeMap::new();
        let mut duplicates = Vec::new();
        for ((_, path), file) in &self.files {
            for (id, object) in &file.objects {
                if let Some(owner) = owners.get(id) {
                    let message = format!("is there already, in {}; this one is not in force", owner.display());
                    duplicates.push(problem(Level::Error, path, Some(id), message));
                } else {
                    owners.insert(id, path);
                    wanted.insert(id.clone(), object.clone());
                }
            }
        }
        (wanted, duplicates)
    }
}

impl File {
    /// What a file holds after reading: what it says, and the last good version of what it says badly.
    fn new(path: &Path, stamp: Stamp, read: Manifests, before: Option<&Self>) -> Self {
        let Manifests { objects, problems: found } = read;
        let mut objects: BTreeMap<_, _> = objects.into_iter().map(|located| (located.object.id(), Arc::new(located.object))).collect();
        let mut problems: Vec<_> = found.iter().map(Problem::from).collect();
        let missing: Vec<_> = before.iter().flat_map(|file| &file.objects).filter(|(id, _)| !objects.contains_key(id)).collect();
        let kept: Vec<_> = missing.into_iter().filter(|(id, _)| stamp.is_empty() || found.iter().any(|p| is_bad_version(p, id))).collect();
        if !kept.is_empty() {
            let names = kept.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>().join(", ");
            let message = if stamp.is_empty() {
                format!("is empty: the last version of {names} stays in force; remove the file to remove what it held")
            } else {
                format!("the last good version of {names} stays in force")
            };
            problems.push(problem(if stamp.is_empty() { Level::Warning } else { Level::Note }, path, None, message));
        }
        objects.extend(kept.into_iter().map(|(id, object)| (id.clone(), object.clone())));
        Self { stamp, objects, problems }
    }
}

/// Whether a problem may be about a new version of `id`: it names it, or nobody can say what it is about.
fn is_bad_version(problem: &manifest::Problem, id: &ObjectId) -> bool {
    if problem.level != Level::Error {
        return false;
    }
    problem.object.as_ref().is_none_or(|bad| {
        // A kind that does not exist is a known one misspelt; the reader cannot know whether that has namespaces.
        let is_misspelt = problem.field_path == "kind";
        let namespace = bad.namespace.as_deref().or_else(|| is_misspelt.then_some(manifest::DEFAULT_NAMESPACE));
        bad.name == id.name && (bad.kind == id.kind || is_misspelt) && (id.namespace.is_none() || namespace == id.namespace.as_deref())
    })
}

fn problem(level: Level, path: &Path, object: Option<&ObjectId>, message: String) -> Problem {
    Problem::from(&manifest::Problem {
        level,
        file: Arc::from(path),
        position: None,
        object: object.cloned(),
        field_path: String::new(),
        message,
    })
}

/// What leads from one set of objects to another.
fn difference(from: &BTreeMap<ObjectId, Arc<Object>>, to: &BTreeMap<ObjectId, Arc<Object>>) -> Vec<Change> {
    let gone = from.keys().filter(|id| !to.contains_key(id));
    // Equal pointers come first: most objects are from files that were not read again.
    let changed = to.iter().filter(|(id, object)| from.get(*id).is_none_or(|old| !Arc::ptr_eq(old, object) && old != *object));
    gone.cloned().map(Change::Delete).chain(changed.map(|(_, object)| Change::Apply((**object).clone()))).collect()
}

#[cfg(test)]
mod tests;
