//! A workload's token → its identity: by a file of tokens in local mode; by TokenReview in a cluster, behind the same trait.

pub mod review;

pub use review::TokenReviewer;

use crate::watch::Stamp;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Largest file of tokens that is read: 10,000 workloads at some hundred bytes each, several times over.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Who a token belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Proven {
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The workload instance (a pod's name), where the token is bound to one; for logs and events.
    #[serde(default)]
    pub workload: Option<String>,
    /// The pod's uid, where the token is bound to one; for events.
    #[serde(default)]
    pub uid: Option<String>,
}

/// Why a token proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticateError {
    /// Nobody has this token.
    #[error("the token is not known")]
    Unknown,
    /// It is good for another purpose.
    #[error("the token is not for the audience \"heddle\": send the one of the volume that injection adds")]
    Audience,
    /// Its time is over.
    #[error("the token has expired: send the one that is in the file now")]
    Expired,
    /// Its pod or its service account is gone.
    #[error("the token's pod or service account does not exist any more")]
    Gone,
    /// It is a service account's, of no pod.
    #[error("the token is not bound to a pod")]
    Unbound,
    /// It is somebody's who is no service account.
    #[error("the token is not of a service account")]
    NoServiceAccount,
    /// Whoever could tell cannot be asked now; the same token may be good later.
    #[error("tokens cannot be checked now: {0}")]
    Unavailable(String),
}

/// Proves workloads by token. Two implementations: [`TokensFile`], and [`TokenReviewer`] in a cluster.
pub trait Authenticate: fmt::Debug + Send + Sync {
    /// Finds out who holds `token`.
    ///
    /// Cancel safe. Errors when the token is unknown, or cannot be checked now.
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Proven, AuthenticateError>>;
}

/// A JSON file, `{"tokens": {"<token>": {"namespace": "…", "serviceAccount": "…", "workload": "…"}}}`, read again when it changes.
///
/// It must be its owner's alone. While it is missing, open to others or no JSON, every token is refused as unavailable: unlike a
/// policy, a list of secrets has no last good state to go on with, because the change may have been a revocation.
pub struct TokensFile {
    path: PathBuf,
    read: Mutex<Option<(Stamp, Tokens)>>,
}

type Tokens = Arc<HashMap<String, Proven>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    tokens: HashMap<String, Proven>,
}

impl TokensFile {
    /// Names the file; it is read on first use.
    pub fn new(path: PathBuf) -> Self {
        Self { path, read: Mutex::default() }
    }

    fn tokens(&self) -> Result<Tokens, String> {
        let at = |error: std::io::Error| format!("{}: {error}", self.path.display());
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&std::fs::metadata(&self.path).map_err(at)?);
        if let Some((known, tokens)) = &*read
            && *known == stamp
        {
            return Ok(tokens.clone());
        }
        *read = None;
        let tokens = Arc::new(load(&self.path)?);
        *read = Some((stamp, tokens.clone()));
        Ok(tokens)
    }
}

impl Authenticate for TokensFile {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Proven, AuthenticateError>> {
        let answer = match self.tokens() {
            Ok(tokens) => tokens.get(token).cloned().ok_or(AuthenticateError::Unknown),
            Err(reason) => Err(AuthenticateError::Unavailable(reason)),
        };
        Box::pin(std::future::ready(answer))
    }
}

impl fmt::Debug for TokensFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokensFile").field("path", &self.path).finish_non_exhaustive()
    }
}

fn load(path: &Path) -> Result<HashMap<String, Proven>, String> {
    let at = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = std::fs::File::open(path).map_err(at)?;
    // Of the opened file, so that nobody can swap it between the check and the reading.
    let mode = file.metadata().map_err(at)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("{}: mode {mode:04o} lets others read the tokens: run chmod 0600", path.display()));
    }
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(at)?;
    // The position only: a parser's message may quote a token.
    let content: Content = serde_json::from_str(&text)
        .map_err(|e| format!("{}:{}:{}: not a file of tokens as the documentation shows", path.display(), e.line(), e.column()))?;
    if content.tokens.contains_key("") {
        return Err(format!("{}: an empty token would let everybody in", path.display()));
    }
    Ok(content.tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Folder, write_private};

    async fn check(file: &TokensFile, token: &str, expected: Result<&str, AuthenticateError>) {
        let proven = file.authenticate(token).await.map(|p| p.service_account);
        assert_eq!(proven, expected.map(str::to_owned));
    }

    #[tokio::test]
    async fn the_file_is_read_again_when_it_changes_and_refused_while_it_is_bad() {
        let folder = Folder::new("tokens");
        let path = folder.path().join("tokens.json");
        let file = TokensFile::new(path.clone());
        assert!(matches!(file.authenticate("a").await, Err(AuthenticateError::Unavailable(_))));

        write_private(&path, r#"{"tokens": {"a": {"namespace": "n", "serviceAccount": "one", "workload": "w"}}}"#);
        check(&file, "a", Ok("one")).await;
        check(&file, "b", Err(AuthenticateError::Unknown)).await;
        check(&file, "", Err(AuthenticateError::Unknown)).await;

        write_private(&path, r#"{"tokens": {"b": {"namespace": "n", "serviceAccount": "three"}}}"#);
        check(&file, "a", Err(AuthenticateError::Unknown)).await;
        check(&file, "b", Ok("three")).await;

        write_private(&path, r#"{"tokens": {"secret": 1}}"#);
        let Err(AuthenticateError::Unavailable(reason)) = file.authenticate("b").await else { panic!("accepted") };
        assert!(reason.contains("tokens.json:1:") && !reason.contains("secret"), "{reason}");
    }

    #[tokio::test]
    async fn a_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = Folder::new("open-tokens");
        let path = folder.path().join("tokens.json");
        write_private(&path, r#"{"tokens": {"a": {"namespace": "n", "serviceAccount": "one"}}}"#);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let Err(AuthenticateError::Unavailable(reason)) = TokensFile::new(path).authenticate("a").await else { panic!("accepted") };
        assert!(reason.contains("chmod 0600"), "{reason}");
    }

    #[tokio::test]
    async fn an_empty_token_is_never_good() {
        let folder = Folder::new("empty-token");
        let path = folder.path().join("tokens.json");
        write_private(&path, r#"{"tokens": {"": {"namespace": "n", "serviceAccount": "one"}}}"#);
        assert!(matches!(TokensFile::new(path).authenticate("").await, Err(AuthenticateError::Unavailable(_))));
    }
}
