//! The state directory of one `up`: what its processes read, readable by its owner alone, and gone at the end.

use rustix::io::Errno;
use rustix::process::{Pid, geteuid, test_kill_process};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why there is no state directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// A file or directory could not be made.
    #[error("{} cannot be made: {source}", path.display())]
    Make {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else works there.
    #[error("{} is in use by another `heddle up`: choose another --state", .0.display())]
    InUse(PathBuf),
    /// The system's random numbers could not be read.
    #[error("no random numbers for tokens: /dev/urandom: {0}")]
    Random(#[source] io::Error),
}

/// The directory, locked for this process.
///
/// | in it | what | who reads it |
/// |---|---|---|
/// | `objects/` | a Pod and its EndpointSlices for each replica | the control plane |
/// | `tokens.json` | whose each token is | the control plane |
/// | `tokens/NAMESPACE.POD` | a replica's token | its sidecar |
/// | `ca/` | the certificate authority | the control plane; sidecars read its `root.pem` |
/// | `logs/` | what each process wrote | people |
/// | `running.json` | processes and addresses | tools |
#[derive(Debug)]
pub(crate) struct StateDirectory {
    path: PathBuf,
    /// Made by us, so removed by us.
    own: bool,
    /// Holds the lock until this process ends, however it ends.
    _lock: File,
    tokens: BTreeMap<String, TokenOwner>,
}

/// Whose a token is, in the form that the control plane reads.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenOwner {
    namespace: String,
    service_account: String,
    workload: String,
}

#[derive(Serialize)]
struct TokenFile<'a> {
    tokens: &'a BTreeMap<String, TokenOwner>,
}

impl StateDirectory {
    /// Makes or takes over `given`; or else makes a directory of this process's own, under `$XDG_STATE_HOME` or the directory for
    /// temporary files.
    ///
    /// # Errors
    ///
    /// When it cannot be made, or another `up` has it.
    pub(crate) fn open(given: Option<&Path>) -> Result<Self, StateError> {
        let (path, own) = match given {
            Some(path) => {
                private_directory(path)?;
                (path.to_owned(), false)
            }
            None => (own_directory()?, true),
        };
        // Absolute: processes may be started in other directories.
        let path = path.canonicalize().map_err(|source| StateError::Make { path: path.clone(), source })?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.map_err(|source| StateError::Make { path: lock_path.clone(), source })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::InUse(path)),
            Err(TryLockError::Error(source)) => return Err(StateError::Make { path: lock_path, source }),
        }
        let state = Self { path, own, _lock: lock, tokens: BTreeMap::new() };
        // What an earlier `up` left after SIGKILL names processes that are gone.
        state.remove_transient();
        for folder in [state.objects(), state.path.join("tokens"), state.logs()] {
            private_directory(&folder)?;
        }
        state.write_tokens()?;
        Ok(state)
    }

    /// The directory itself; absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where Pods and EndpointSlices go.
    pub(crate) fn objects(&self) -> PathBuf {
        self.path.join("objects")
    }

    /// Where the output of processes goes.
    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Whose each token is.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.path.join("tokens.json")
    }

    /// The root that sidecars verify the control plane by at first; written by the control plane.
    pub(crate) fn trust_roots(&self) -> PathBuf {
        self.path.join("ca").join("root.pem")
    }

    /// Makes a token for a replica and writes it where its sidecar finds it; the one it had is no longer valid.
    ///
    /// # Errors
    ///
    /// When random numbers cannot be had or files not be written.
    pub(crate) fn issue_token(&mut self, namespace: &str, service_account: &str, pod: &str) -> Result<PathBuf, StateError> {
        self.revoke_token(namespace, pod)?;
        let token = random_token().map_err(StateError::Random)?;
        let path = self.path.join("tokens").join(format!("{namespace}.{pod}"));
        write_private(&path, token.as_bytes())?;
        let owner = TokenOwner { namespace: namespace.to_owned(), service_account: service_account.to_owned(), workload: pod.to_owned() };
        self.tokens.insert(token, owner);
        self.write_tokens()?;
        Ok(path)
    }

    /// Makes a replica's token invalid.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub(crate) fn revoke_token(&mut self, namespace: &str, pod: &str) -> Result<(), StateError> {
        let before = self.tokens.len();
        self.tokens.retain(|_, owner| owner.namespace != namespace || owner.workload != pod);
        if self.tokens.len() == before { Ok(()) } else { self.write_tokens() }
    }

    fn write_tokens(&self) -> Result<(), StateError> {
        let json = serde_json::to_vec_pretty(&TokenFile { tokens: &self.tokens }).unwrap_or_default();
        write_private(&self.token_file(), &json)
    }

    /// Removes all of a directory that was made here; of one that was given, what names processes that are gone.
    pub(crate) fn remove(&self) {
        if self.own {
            let _gone = std::fs::remove_dir_all(&self.path);
            if let Some(parent) = self.path.parent().filter(|parent| parent.ends_with("heddle")) {
                // Only when it is empty: other meshes may be running.
                let _in_use = std::fs::remove_dir(parent);
            }
        } else {
            self.remove_transient();
        }
    }

    fn remove_transient(&self) {
        for folder in ["objects", "tokens"] {
            let _absent = std::fs::remove_dir_all(self.path.join(folder));
        }
        for file in ["tokens.json", "running.json"] {
            let _absent = std::fs::remove_file(self.path.join(file));
        }
    }
}

/// Makes a directory that was not there: what was there may be somebody else's, or a link that leads to something dear.
fn own_directory() -> Result<PathBuf, StateError> {
    let (parent, prefix) = match std::env::var_os("XDG_STATE_HOME").filter(|home| !home.is_empty()) {
        Some(home) => (PathBuf::from(home).join("heddle"), "up-"),
        None => (std::env::temp_dir(), "heddle-up-"),
    };
    let make = |path: &Path, recursive| DirBuilder::new().recursive(recursive).mode(0o700).create(path);
    make(&parent, true).map_err(|source| StateError::Make { path: parent.clone(), source })?;
    sweep(&parent, prefix);
    let pid = std::process::id();
    let mut path = parent.join(format!("{prefix}{pid}"));
    for number in 1.. {
        match make(&path, false) {
            Ok(()) => break,
            // Left by a process that had the same number, in a directory that we may not remove.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number <= NAMES_MAX => {
                path = parent.join(format!("{prefix}{pid}-{number}"));
            }
            Err(source) => return Err(StateError::Make { path, source }),
        }
    }
    Ok(path)
}

/// How many names are tried.
const NAMES_MAX: u32 = 100;

/// Removes what an `up` left that was ended by SIGKILL: a directory of ours, with the number of a process that is gone.
fn sweep(parent: &Path, prefix: &str) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(prefix)).and_then(|rest| rest.split('-').next());
        let pid = number.and_then(|number| Pid::from_raw(number.parse().ok()?));
        let gone = pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH));
        // Of the entry itself: a link is no directory.
        let ours = entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == geteuid().as_raw());
        // Numbers of processes are those of one container, and directories may be shared by several: a lock is not.
        let locked = File::open(entry.path().join("lock")).is_ok_and(|lock| lock.try_lock().is_err());
        if gone && ours && !locked {
            let _kept = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn private_directory(path: &Path) -> Result<(), StateError> {
    let make = || {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // One that was there before may be open to others.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
    };
    make().map_err(|source| StateError::Make { path: path.to_owned(), source })
}

/// 256 bits from the system, in hexadecimal: nobody guesses one.
fn random_token() -> io::Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Replaces a file at once, mode 0600: a reader sees the old or the new content, never a part.
///
/// # Errors
///
/// When it cannot be written.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), StateError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // A name that no reader of manifests takes for a manifest.
    let temporary = path.with_file_name(format!(".{name}.new"));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| StateError::Make { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("heddle-state-{name}-{}", std::process::id()))
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn tokens_are_readable_by_their_owner_alone() {
        let path = scratch("tokens");
        let mut state = StateDirectory::open(Some(&path)).unwrap();
        let file = state.issue_token("shop", "front", "front-0").unwrap();
        assert_eq!((mode(state.path()), mode(&file), mode(&state.token_file())), (0o700, 0o600, 0o600));
        let token = std::fs::read_to_string(&file).unwrap();
        assert_eq!(token.len(), 64);
        let all: serde_json::Value = serde_json::from_slice(&std::fs::read(state.token_file()).unwrap()).unwrap();
        assert_eq!(all["tokens"][&token]["serviceAccount"], "front");
        assert_eq!(all["tokens"][&token]["namespace"], "shop");
        assert_eq!(all["tokens"][&token]["workload"], "front-0");
        state.revoke_token("shop", "front-0").unwrap();
        let all = std::fs::read_to_string(state.token_file()).unwrap();
        assert!(!all.contains(&token));
        state.remove();
        assert!(!state.token_file().exists() && !state.objects().exists() && state.path().exists());
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn only_what_a_process_left_that_is_gone_is_swept() {
        let parent = scratch("sweep");
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let gone = ended.id();
        ended.wait().unwrap();
        let names = [format!("up-{gone}"), format!("up-{gone}-1"), format!("up-{}", std::process::id()), "up-other".to_owned()];
        for name in &names {
            std::fs::create_dir_all(parent.join(name).join("logs")).unwrap();
        }
        std::os::unix::fs::symlink(&parent, parent.join(format!("up-{gone}-2"))).unwrap();
        sweep(&parent, "up-");
        let mut left: Vec<_> = std::fs::read_dir(&parent).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        let mut expected = [names[2].clone(), names[3].clone(), format!("up-{gone}-2")].map(std::ffi::OsString::from);
        expected.sort();
        assert_eq!(left, expected);
        std::fs::remove_dir_all(&parent).unwrap();
    }

    #[test]
    fn a_directory_belongs_to_one_mesh_at_a_time() {
        let path = scratch("lock");
        let first = StateDirectory::open(Some(&path)).unwrap();
        let error = StateDirectory::open(Some(&path)).unwrap_err();
        assert!(matches!(error, StateError::InUse(_)), "{error}");
        drop(first);
        drop(StateDirectory::open(Some(&path)).unwrap());
        std::fs::remove_dir_all(&path).unwrap();
    }
}
