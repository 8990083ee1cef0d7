//! The authority in the Secret `heddle-ca`: made once by the leader, or handed over by an outside CA; replaced in order when it changes.
//!
//! The Secret has the form of `kubernetes.io/tls` with `ca.crt`, as cert-manager writes it. The chart ships it empty, so that no right to
//! create Secrets is needed; whoever leads fills it, with the empty one's `resourceVersion` as the precondition, so that it is written
//! once. A Secret with content is never written.
//!
//! When its content changes, three things happen in order, on each replica: the new roots are trusted beside the old ones; after
//! [`SETTLE`], when sidecars, webhooks and the other replica know them, the new key signs; and when the longest certificate of the old key
//! has ended, the old roots go, unless `ca.crt` still has them. What happened so far lives in memory: for an overlap that survives restarts
//! keep both roots in `ca.crt`.

use super::{Ca, CaError, Chain};
use crate::cluster::{self, ApiError, Patience, bounded};
use crate::leader::Leadership;
use heddle_identity::{AuthorityError, AuthorityPem, CertificateAuthority, TrustDomain, unix_now};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The Secret's name.
pub const NAME: &str = "heddle-ca";

/// Its keys.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const ROOTS: &str = "ca.crt";

/// How often a replica looks for a Secret that is still empty: an installation waits for it.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// How often it looks for a change.
const LOOK: Duration = Duration::from_secs(10);

/// How long new roots are trusted before the new key signs: three looks, so that the other replica and the webhooks have them too.
pub const SETTLE: Duration = Duration::from_secs(30);

/// Why the Secret makes no authority. No variant quotes its content.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read or written.
    #[error("Secret {namespace}/{NAME}: {source}")]
    Api {
        /// Where it is.
        namespace: String,
        /// What the API server said.
        source: ApiError,
    },
    /// A part of it is missing.
    #[error("Secret {namespace}/{NAME} has no usable {key}: give {CERTIFICATE}, {KEY} and {ROOTS}, or no data at all to have a root made")]
    Incomplete {
        /// Where it is.
        namespace: String,
        /// Which part.
        key: &'static str,
    },
    /// It had an authority of somebody else's, and has nothing now.
    #[error(
        "Secret {namespace}/{NAME} is empty, and held an outside authority, which stays in use until this process ends: write it again"
    )]
    Emptied {
        /// Where it is.
        namespace: String,
    },
    /// Its content makes no authority.
    #[error("Secret {namespace}/{NAME} makes no certificate authority: {}", Chain(source))]
    Unusable {
        /// Where it is.
        namespace: String,
        /// Why.
        source: AuthorityError,
    },
}

/// The Secret, as seen from one replica.
#[derive(Debug)]
pub struct Store {
    api: Api<Secret>,
    namespace: String,
    trust_domain: TrustDomain,
}

/// What was found.
enum Found {
    Empty(Box<Secret>),
    /// With the resourceVersion.
    Authority(Box<CertificateAuthority>, Seen),
}

impl Store {
    /// The Secret of a namespace, for a trust domain.
    #[must_use]
    pub fn new(client: Client, namespace: &str, trust_domain: &TrustDomain) -> Self {
        Self { api: Api::namespaced(client, namespace), namespace: namespace.to_owned(), trust_domain: trust_domain.clone() }
    }

    /// Waits until there is an authority: makes one where the Secret is empty and this replica leads, and else waits for whoever does.
    ///
    /// Cancel safe. Trouble is logged and tried again for as long as it lasts: there is no mesh without.
    pub async fn open(&self, leadership: &Leadership) -> Result<(Ca, Seen), CaError> {
        let mut patience = Patience::new("certificate authority read");
        loop {
            match self.try_open(leadership).await {
                Ok(Some((authority, seen))) => {
                    patience.succeeded();
                    let not_after = authority.not_after();
                    tracing::info!(namespace = self.namespace, secret = NAME, not_after, "certificate authority opened");
                    return Ok((Ca::new(*authority, &self.namespace)?, seen));
                }
                Ok(None) => {
                    patience.succeeded();
                    tracing::debug!("the Secret is empty, and another replica leads");
                    tokio::time::sleep(FIRST_LOOK).await;
                }
                Err(error) => tokio::time::sleep(patience.failed(&error)).await,
            }
        }
    }

    async fn try_open(&self, leadership: &Leadership) -> Result<Option<(Box<CertificateAuthority>, Seen)>, SecretError> {
        match self.look().await? {
            Found::Authority(authority, seen) => Ok(Some((authority, seen))),
            Found::Empty(_) if !leadership.leads() => Ok(None),
            Found::Empty(secret) => {
                let authority = CertificateAuthority::create(&self.trust_domain, unix_now()).map_err(|e| self.unusable(e))?;
                self.fill(*secret, &authority).await?;
                tracing::info!(namespace = self.namespace, secret = NAME, "a new root was made");
                // Read again, so that what is used is what is kept.
                match self.look().await? {
                    Found::Authority(authority, seen) => Ok(Some((authority, seen))),
                    Found::Empty(_) => Ok(None),
                }
            }
        }
    }

    async fn look(&self) -> Result<Found, SecretError> {
        let secret = bounded(cluster::REQUEST_TIMEOUT, self.api.get(NAME)).await.map_err(|source| self.refused(source))?;
        let Some(data) = secret.data.as_ref().filter(|data| !data.values().all(|value| value.0.is_empty())) else {
            return Ok(Found::Empty(Box::new(secret)));
        };
        let authority = self.read(data)?;
        Ok(Found::Authority(Box::new(authority), Seen(secret.metadata.resource_version)))
    }

    fn read(&self, data: &BTreeMap<String, ByteString>) -> Result<CertificateAuthority, SecretError> {
        let part = |key: &'static str| {
            let text = data.get(key).and_then(|value| std::str::from_utf8(&value.0).ok()).filter(|text| !text.trim().is_empty());
            text.ok_or_else(|| SecretError::Incomplete { namespace: self.namespace.clone(), key })
        };
        let (key, certificates, roots) = (part(KEY)?, part(CERTIFICATE)?, part(ROOTS)?);
        CertificateAuthority::from_chain_pem(&self.trust_domain, key, certificates, roots, unix_now()).map_err(|e| self.unusable(e))
    }

    /// Only an unchanged empty Secret is filled: it carries its resourceVersion.
    async fn fill(&self, mut secret: Secret, authority: &CertificateAuthority) -> Result<(), SecretError> {
        let AuthorityPem { key, certificate } = authority.to_pem();
        let roots = authority.trust_bundle().to_pem(&self.trust_domain);
        let data = [(KEY, key), (CERTIFICATE, certificate), (ROOTS, roots)];
        secret.data = Some(data.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes()))).collect());
        let params = PostParams { field_manager: Some(cluster::FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match bounded(crate::leader::WRITE_TIMEOUT, self.api.replace(NAME, &params, &secret)).await {
            Ok(_) => Ok(()),
            // Somebody was faster: what is there now counts.
            Err(error) if error.is_conflict() => Ok(()),
            Err(source) => Err(self.refused(source)),
        }
    }

    /// Writes an authority of our own making back; that of an outside CA is its owner's to write.
    async fn refill(&self, secret: Secret, authority: &CertificateAuthority) -> Result<(), SecretError> {
        let roots = authority.trust_bundle().to_pem(&self.trust_domain);
        if roots.contains(authority.to_pem().certificate.trim()) {
            return self.fill(secret, authority).await;
        }
        Err(SecretError::Emptied { namespace: self.namespace.clone() })
    }

    fn refused(&self, source: ApiError) -> SecretError {
        SecretError::Api { namespace: self.namespace.clone(), source }
    }

    fn unusable(&self, source: AuthorityError) -> SecretError {
        SecretError::Unusable { namespace: self.namespace.clone(), source }
    }
}

/// The state of the Secret that was read last: its resourceVersion.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen(Option<String>);

/// Takes in changes of the Secret, in the order that this module's text gives, until cancelled. `lifetime` says how long a certificate that
/// is signed now may live. A Secret that became unusable changes nothing: the last authority goes on.
pub async fn keep(store: Store, ca: Arc<Ca>, mut seen: Seen, lifetime: impl Fn() -> Duration) {
    let mut patience = Patience::new("certificate authority watched");
    // Until when roots are trusted that the Secret does not have any more.
    let mut fading: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        if fading.is_some_and(|until| until <= Instant::now()) {
            fading = None;
            let authority = ca.authority();
            let trust = Arc::new(authority.trust_bundle().clone());
            tracing::info!(roots = ?trust, "a root that was replaced is not trusted any more");
            ca.replace(authority, trust);
        }
        let (authority, found) = match store.look().await {
            Ok(Found::Authority(authority, found)) => (Arc::new(*authority), found),
            Ok(Found::Empty(secret)) => {
                // Somebody has replaced it by the chart's: without its content the next start would make another root.
                let refilled = store.refill(*secret, &ca.authority()).await;
                let reason = refilled
                    .err()
                    .map_or_else(|| "the Secret was empty; the authority in use was written back".to_owned(), |e| e.to_string());
                tokio::time::sleep(patience.failed(&reason)).await;
                continue;
            }
            Err(error) => {
                tokio::time::sleep(patience.failed(&error)).await;
                continue;
            }
        };
        patience.succeeded();
        if found == seen {
            continue;
        }
        seen = found;
        let old = ca.trust();
        let both = match old.union(authority.trust_bundle()) {
            Ok(both) => Arc::new(both),
            Err(error) => {
                tracing::error!(error = %Chain(&error), "new roots cannot be trusted beside the old ones; the last authority stays in use");
                continue;
            }
        };
        if both != old {
            tracing::info!(roots = ?both, "a new root is trusted beside the old one");
            ca.replace(ca.authority(), both.clone());
            tokio::time::sleep(SETTLE).await;
        }
        fading = (*both != *authority.trust_bundle()).then(|| Instant::now() + lifetime() + SETTLE);
        tracing::info!(not_after = authority.not_after(), "another issuing certificate is in use");
        ca.replace(authority, both);
    }
}

#[cfg(test)]
mod tests;
