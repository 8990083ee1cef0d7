//! A projected ServiceAccount token → the pod that holds it, as the API server's TokenReview says.
//!
//! The token must be for the mesh's audience and bound to a pod that exists: a token of the API server itself, stolen from a pod, is worth
//! nothing here, and one of the mesh ends with its pod.

use super::{Authenticate, AuthenticateError, Proven};
use crate::cluster::bounded;
use crate::metrics::{Bound, Metrics};
use aws_lc_rs::digest;
use futures_util::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// What a token must be for (KEP-1205): the audience of the volume that injection projects.
pub const AUDIENCE: &str = "heddle";

/// Longest token that is looked at; one of Kubernetes has about 1 KiB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// How long an answer is remembered: for a sidecar that asks again after it lost the answer, and no longer, as its pod may be deleted.
const REMEMBERED: Duration = Duration::from_secs(5);

/// Most answers that are remembered: more pods than start in that time.
const MAX_REMEMBERED: usize = 4096;

/// Most questions at a time. The API server answers in milliseconds; more would only queue there.
const MAX_ASKING: usize = 32;

/// How long an answer may take, the wait for one of [`MAX_ASKING`] included: shorter than a sidecar waits for its certificate.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The extra fields by which the API server names the pod that a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Longest text of the API server that is passed on, in characters.
const MAX_REASON: usize = 256;

type Digest = [u8; digest::SHA256_OUTPUT_LEN];

/// Asks the API server.
pub struct TokenReviewer {
    client: Client,
    asking: Semaphore,
    // By the token's hash, so that no list of tokens lies in memory. Every change is one insertion or removal, whole even after a panic.
    remembered: Mutex<HashMap<Digest, (Instant, Proven)>>,
    metrics: Arc<Metrics>,
}

impl TokenReviewer {
    /// Asks through this client.
    pub fn new(client: Client, metrics: Arc<Metrics>) -> Self {
        Self { client, asking: Semaphore::new(MAX_ASKING), remembered: Mutex::default(), metrics }
    }

    async fn review(&self, token: &str) -> Result<Proven, AuthenticateError> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(AuthenticateError::Unknown);
        }
        let hash = hash(token);
        if let Some(proven) = self.remembered(&hash) {
            return Ok(proven);
        }
        let asked = tokio::time::timeout(TIMEOUT, async {
            let _place = self.asking.acquire().await;
            let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.to_owned()]) };
            let review = TokenReview { spec, ..TokenReview::default() };
            bounded(TIMEOUT, Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review)).await
        });
        let status = match asked.await {
            Ok(Ok(review)) => review.status.unwrap_or_default(),
            Ok(Err(error)) => return Err(AuthenticateError::Unavailable(error.to_string())),
            Err(_) => {
                self.metrics.refused(Bound::Reviews);
                return Err(AuthenticateError::Unavailable("too many tokens are being checked".to_owned()));
            }
        };
        let proven = read(status)?;
        self.remember(hash, &proven);
        Ok(proven)
    }

    fn remembered(&self, hash: &Digest) -> Option<Proven> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(hash).filter(|(at, _)| at.elapsed() < REMEMBERED).map(|(_, proven)| proven.clone())
    }

    /// Only who was proven: a refusal may be the API server's lag behind a new pod.
    fn remember(&self, hash: Digest, proven: &Proven) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.retain(|_, (at, _)| at.elapsed() < REMEMBERED);
        if remembered.len() < MAX_REMEMBERED {
            remembered.insert(hash, (Instant::now(), proven.clone()));
        }
    }
}

impl Authenticate for TokenReviewer {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Proven, AuthenticateError>> {
        Box::pin(self.review(token))
    }
}

impl fmt::Debug for TokenReviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReviewer").finish_non_exhaustive()
    }
}

fn hash(token: &str) -> Digest {
    let mut hash = Digest::default();
    hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    hash
}

/// Reads the API server's verdict.
fn read(status: TokenReviewStatus) -> Result<Proven, AuthenticateError> {
    let TokenReviewStatus { audiences, authenticated, error, user } = status;
    if authenticated != Some(true) {
        return Err(refusal(error.as_deref().unwrap_or_default()));
    }
    // An API server that does not know of audiences answers for its own.
    if !audiences.unwrap_or_default().iter().any(|audience| audience == AUDIENCE) {
        return Err(AuthenticateError::Audience);
    }
    let UserInfo { extra, groups: _, uid: _, username } = user.unwrap_or_default();
    let username = username.unwrap_or_default();
    let account = username.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
    let Some((namespace, service_account)) = account else {
        return Err(AuthenticateError::NoServiceAccount);
    };
    let mut extra = extra.unwrap_or_default();
    let mut first = |key: &str| extra.remove(key).and_then(|values| values.into_iter().next()).filter(|value| !value.is_empty());
    let (Some(workload), Some(uid)) = (first(POD_NAME), first(POD_UID)) else {
        return Err(AuthenticateError::Unbound);
    };
    Ok(Proven { namespace: namespace.to_owned(), service_account: service_account.to_owned(), workload: Some(workload), uid: Some(uid) })
}

/// Why a token was refused, from the words of the API server (pkg/serviceaccount in Kubernetes): it has no codes for it. What is not
/// recognised is refused all the same.
fn refusal(error: &str) -> AuthenticateError {
    let has = |part: &str| error.contains(part);
    if has("audience") {
        AuthenticateError::Audience
    } else if has("expired") {
        AuthenticateError::Expired
    } else if has("invalidated") || has("not found") || has("does not match claim") || has("has been deleted") {
        AuthenticateError::Gone
    } else {
        if !error.is_empty() {
            tracing::debug!(error = %error.chars().take(MAX_REASON).collect::<String>(), "token refused by the API server");
        }
        AuthenticateError::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::api::{Answer, Api as Fake};
    use serde_json::{Value, json};

    fn pod() -> Value {
        json!({
            "authenticated": true, "audiences": ["heddle"],
            "user": {"username": "system:serviceaccount:shop:web", "uid": "a",
                     "extra": {POD_NAME: ["web-1"], POD_UID: ["7e9"]}},
        })
    }

    async fn check(status: Value) -> Result<Proven, AuthenticateError> {
        let fake = Fake::new(move |request| {
            assert_eq!(request.path, "/apis/authentication.k8s.io/v1/tokenreviews");
            assert_eq!(request.body["spec"], json!({"token": "t", "audiences": ["heddle"]}));
            Answer::created(json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {}, "status": status}))
        });
        TokenReviewer::new(fake.client(), Arc::new(Metrics::new().unwrap())).authenticate("t").await
    }

    #[tokio::test]
    async fn a_token_of_a_pod_proves_its_service_account() {
        let proven = check(pod()).await.unwrap();
        let expected = Proven {
            namespace: "shop".to_owned(),
            service_account: "web".to_owned(),
            workload: Some("web-1".to_owned()),
            uid: Some("7e9".to_owned()),
        };
        assert_eq!(proven, expected);
    }

    #[tokio::test]
    async fn tokens_that_prove_no_pod_are_refused_with_the_reason() {
        let refused = |error: &str| json!({"authenticated": false, "error": error});
        let edited = |pointer: &str, value: Value| {
            let mut pod = pod();
            *pod.pointer_mut(pointer).unwrap() = value;
            pod
        };
        for (status, expected) in [
            (
                refused("[invalid bearer token, token audiences [\"x\"] is invalid for the target audiences [\"heddle\"]]"),
                AuthenticateError::Audience,
            ),
            (refused("[invalid bearer token, service account token has expired]"), AuthenticateError::Expired),
            (refused("[invalid bearer token, service account token has been invalidated]"), AuthenticateError::Gone),
            (refused("[invalid bearer token, square/go-jose: error in cryptographic primitive]"), AuthenticateError::Unknown),
            (json!({}), AuthenticateError::Unknown),
            (edited("/audiences", json!(["https://kubernetes.default.svc"])), AuthenticateError::Audience),
            (edited("/audiences", json!([])), AuthenticateError::Audience),
            (edited("/user/username", json!("admin")), AuthenticateError::NoServiceAccount),
            (edited("/user/extra", json!({})), AuthenticateError::Unbound),
            (edited("/user/extra", json!({POD_NAME: ["web-1"]})), AuthenticateError::Unbound),
        ] {
            assert_eq!(check(status.clone()).await, Err(expected), "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_remembered_for_seconds_and_a_refusal_not() {
        let answer = Arc::new(Mutex::new(json!({"authenticated": false})));
        let fake = Fake::new({
            let answer = answer.clone();
            move |_| Answer::created(json!({"spec": {}, "status": *answer.lock().unwrap()}))
        });
        let reviewer = TokenReviewer::new(fake.client(), Arc::new(Metrics::new().unwrap()));
        assert_eq!(reviewer.authenticate("t").await, Err(AuthenticateError::Unknown));
        *answer.lock().unwrap() = pod();
        assert!(reviewer.authenticate("t").await.is_ok());
        *answer.lock().unwrap() = json!({"authenticated": false, "error": "service account token has been invalidated"});
        assert!(reviewer.authenticate("t").await.is_ok());
        assert_eq!(reviewer.authenticate("u").await, Err(AuthenticateError::Gone));
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(reviewer.authenticate("t").await, Err(AuthenticateError::Gone));
        assert_eq!(fake.requests().len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_does_not_answer_refuses_nobody_for_good() {
        let fake = Fake::silent();
        let reviewer = TokenReviewer::new(fake.client(), Arc::new(Metrics::new().unwrap()));
        assert!(matches!(reviewer.authenticate("t").await, Err(AuthenticateError::Unavailable(_))));
        assert_eq!(reviewer.authenticate("").await, Err(AuthenticateError::Unknown));
    }
}
