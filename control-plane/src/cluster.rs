//! The API server as this process talks to it: one client, bounded requests, and refusals as sentences.

use crate::ca::Chain;
use crate::watch::kubernetes::notice_silence;
use http::header::{HeaderValue, USER_AGENT};
use kube::{Client, Config};
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// The namespace in which a control plane runs unless its chart is told otherwise.
pub const NAMESPACE: &str = crate::ca::NAMESPACE;

/// The name of its Deployment, Service, ServiceAccount, ClusterRole and Lease.
pub const NAME: &str = crate::ca::SERVICE_ACCOUNT;

/// Who writes, in `managedFields`.
pub const FIELD_MANAGER: &str = NAME;

/// How long one request may take, the client's own repetitions (429, 503, 504) included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The first pause after a request that failed; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause. Long enough not to be felt by an API server that comes back, short enough for people who watch.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why the API server gave no answer, in words of this process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// It answered that it does not do it.
    #[error("the API server refuses with {code} {reason}: {message}")]
    Refused {
        /// The status of HTTP.
        code: u16,
        /// One word, such as `Conflict`.
        reason: String,
        /// What it says.
        message: String,
    },
    /// It took longer than it may.
    #[error("the API server did not answer within {0:?}")]
    Slow(Duration),
    /// It could not be asked, or not be understood.
    #[error("the API server cannot be asked: {0}")]
    Unreachable(String),
}

impl ApiError {
    /// Whether somebody else has changed the object meanwhile.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.is(409)
    }

    /// Whether there is no such object, or no such kind.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.is(404)
    }

    fn is(&self, wanted: u16) -> bool {
        match self {
            Self::Refused { code, .. } => *code == wanted,
            Self::Slow(_) | Self::Unreachable(_) => false,
        }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            let kube::core::Status { code, reason, message, .. } = *status;
            return Self::Refused { code, reason, message };
        }
        Self::Unreachable(Chain(&error).to_string())
    }
}

/// Waits for a request, at most so long. Cancel safe as the request is: it may have had its effect.
///
/// # Errors
/// When it takes longer, or is refused.
pub async fn bounded<T>(longest: Duration, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ApiError> {
    match tokio::time::timeout(longest, request).await {
        Ok(answer) => answer.map_err(ApiError::from),
        Err(_) => Err(ApiError::Slow(longest)),
    }
}

/// Makes the client: from `KUBECONFIG` (or `~/.kube/config`) where there is one, else from the pod's ServiceAccount.
///
/// # Errors
/// A sentence, when neither is there or usable. Nobody is asked yet.
pub async fn client() -> Result<Client, String> {
    let mut config = Config::infer().await.map_err(|error| Chain(&error).to_string())?;
    let agent = HeaderValue::from_static(concat!("heddle-control-plane/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, agent));
    Client::try_from(notice_silence(config)).map_err(|error| Chain(&error).to_string())
}

/// Pauses between attempts, growing and with jitter; one line in the log when a trouble begins, and one when it is over.
#[derive(Debug)]
pub struct Patience {
    what: &'static str,
    pause: Duration,
    since: Option<Instant>,
}

impl Patience {
    /// No trouble yet; `what` is to be done, such as "lease renewed".
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        Self { what, pause: FIRST_PAUSE, since: None }
    }

    /// It worked.
    pub fn succeeded(&mut self) {
        self.pause = FIRST_PAUSE;
        if let Some(since) = self.since.take() {
            tracing::info!(what = self.what, after = ?since.elapsed(), "works again");
        }
    }

    /// It failed: says so once, and for how long to wait. Between half of the pause and all of it, so that replicas do not ask together.
    pub fn failed(&mut self, error: &dyn std::fmt::Display) -> Duration {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            tracing::warn!(what = self.what, %error, "failed, and is tried again");
        }
        let pause = self.pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut patience = Patience::new("test");
        let pauses: Vec<_> = (0..10).map(|_| patience.failed(&"no")).collect();
        assert!(pauses[0] <= FIRST_PAUSE && pauses[0] >= FIRST_PAUSE / 2, "{pauses:?}");
        assert!(pauses[9] <= LONGEST_PAUSE && pauses[9] >= LONGEST_PAUSE / 2, "{pauses:?}");
        patience.succeeded();
        assert!(patience.failed(&"no") <= FIRST_PAUSE);
    }

    #[test]
    fn a_refusal_is_one_sentence() {
        let status = kube::core::Status::failure("leases is forbidden", "Forbidden").with_code(403);
        let error = ApiError::from(kube::Error::Api(status.boxed()));
        assert_eq!(error.to_string(), "the API server refuses with 403 Forbidden: leases is forbidden");
        assert!(!error.is_conflict() && !error.is_not_found());
    }
}
