//! The mesh's certificate authority: its root in the state directory or in a Secret, workload certificates, and the control plane's own.

pub mod secret;
pub mod webhook;

use crate::metrics::Metrics;
use crate::serve::View;
use heddle_identity::{
    AuthorityError, Certificate, CertificateAuthority, CsrError, SpiffeId, SpiffeIdError, TlsContext, TlsError, TrustBundle, TrustDomain,
    csr, unix_now,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};

/// Where the control plane runs unless it is told otherwise. Sidecars expect the namespace that their address of it names.
pub const NAMESPACE: &str = "heddle-system";
/// The control plane's own service account.
pub const SERVICE_ACCOUNT: &str = "heddle-control-plane";

/// The file in `ca/` with the roots that sidecars start with, PEM: more than one while a root is being replaced.
pub const ROOTS_FILE: &str = "root.pem";

/// How long to wait after the authority could not sign its own control plane. Half of the lifetime is left by then.
const RETRY: Duration = Duration::from_secs(5);

/// Longest sleep before the wall clock is read again: a suspended machine's timers stand still while certificates expire.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Why the authority cannot be opened, or the control plane cannot prove itself.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The authority's files are unusable, or it does not sign.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The trust domain makes no SPIFFE id.
    #[error(transparent)]
    Name(#[from] SpiffeIdError),
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] CsrError),
    /// The certificate makes no TLS configuration.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The roots could not be written for sidecars to start with.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The authority, and what everybody trusts. Both may be replaced while everything runs.
#[derive(Debug)]
pub struct Ca {
    trust_domain: TrustDomain,
    own_id: SpiffeId,
    issuing: watch::Sender<Arc<Issuing>>,
}

/// Who signs, and whom everybody trusts, at one time.
#[derive(Debug)]
pub struct Issuing {
    authority: Arc<CertificateAuthority>,
    trust: Arc<TrustBundle>,
}

impl Issuing {
    /// The roots that workloads are verified against.
    pub fn trust(&self) -> &Arc<TrustBundle> {
        &self.trust
    }
}

/// The control plane's own certificate, as a configuration for new connections.
#[derive(Debug)]
pub struct Serving {
    /// For the acceptor.
    pub config: Arc<ServerConfig>,
    /// For connections to another replica.
    pub client: Arc<ClientConfig>,
    /// What it shows.
    pub certificate: Certificate,
}

impl Ca {
    /// Loads the authority from `state/ca`, or makes one there, and writes the roots beside it for sidecars to start with.
    ///
    /// # Errors
    /// When a file is unusable, open to others, or of another trust domain.
    pub fn open(state: &Path, trust_domain: &TrustDomain, now: u64) -> Result<Self, CaError> {
        let directory = state.join("ca");
        let authority = CertificateAuthority::load_or_create(&directory, trust_domain, now)?;
        write_roots(&directory.join(ROOTS_FILE), &authority.trust_bundle().to_pem(trust_domain))?;
        Self::new(authority, NAMESPACE)
    }

    /// Signs with an authority, and trusts it, as the control plane of a namespace.
    ///
    /// # Errors
    /// When its trust domain and the namespace make no SPIFFE id.
    pub fn new(authority: CertificateAuthority, namespace: &str) -> Result<Self, CaError> {
        let trust_domain = authority.trust_domain().clone();
        let own_id = SpiffeId::workload(&trust_domain, namespace, SERVICE_ACCOUNT)?;
        let trust = Arc::new(authority.trust_bundle().clone());
        let (issuing, _) = watch::channel(Arc::new(Issuing { authority: Arc::new(authority), trust }));
        Ok(Self { trust_domain, own_id, issuing })
    }

    /// From now on signs with this authority and trusts these roots, which must be of the same trust domain.
    pub fn replace(&self, authority: Arc<CertificateAuthority>, trust: Arc<TrustBundle>) {
        self.issuing.send_replace(Arc::new(Issuing { authority, trust }));
    }

    /// Tells of every replacement.
    pub fn changes(&self) -> watch::Receiver<Arc<Issuing>> {
        self.issuing.subscribe()
    }

    /// The roots that workloads are verified against.
    pub fn trust(&self) -> Arc<TrustBundle> {
        self.issuing.borrow().trust.clone()
    }

    /// Who signs now.
    pub fn authority(&self) -> Arc<CertificateAuthority> {
        self.issuing.borrow().authority.clone()
    }

    /// The trust domain whose workloads it names.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The control plane's own name.
    pub fn own_id(&self) -> &SpiffeId {
        &self.own_id
    }

    /// Signs the request of a workload that has been proven to be `id`. `now` is in Unix seconds.
    ///
    /// # Errors
    /// When the request is malformed, asks for another id, or the authority has expired.
    pub fn sign(&self, request: &[u8], id: &SpiffeId, lifetime: Duration, now: u64) -> Result<Certificate, AuthorityError> {
        self.authority().sign(request, id, lifetime, now)
    }

    /// Makes a key and a certificate for the control plane itself, in memory only.
    ///
    /// # Errors
    /// When the authority has expired, or the cryptographic library refuses.
    pub fn serving(&self, lifetime: Duration, now: u64) -> Result<Serving, CaError> {
        let (key, request) = csr(&self.own_id)?;
        let issuing = self.issuing.borrow().clone();
        let certificate = issuing.authority.sign(&request, &self.own_id, lifetime, now)?;
        let context = TlsContext::new(&key, certificate.clone(), &issuing.trust)?;
        Ok(Serving { config: context.control_plane_server(), client: context.control_plane_client(&self.own_id), certificate })
    }
}

/// Renews the control plane's certificate at the half of its life, and when the configured lifetime or the authority changes. Open
/// connections keep the configuration they were accepted with.
///
/// Runs until cancelled; cancel safe. Every failure is logged and tried again, with the last certificate in force.
pub async fn keep_serving(
    ca: Arc<Ca>,
    mut views: watch::Receiver<Arc<View>>,
    servings: watch::Sender<Arc<Serving>>,
    metrics: Arc<Metrics>,
) {
    let mut lifetime = views.borrow_and_update().mesh().certificate_lifetime;
    let mut authority = ca.changes();
    let mut certificate = servings.borrow().certificate.clone();
    loop {
        metrics.serving_expiry.set(i64::try_from(certificate.not_after()).unwrap_or(i64::MAX));
        metrics.issuer_expiry.set(i64::try_from(ca.authority().not_after()).unwrap_or(i64::MAX));
        let changed = lifetime_changed(&mut views, lifetime);
        tokio::select! {
            // Losing leaves nothing behind: the next turn waits for either again.
            () = until_half_life(&certificate) => {}
            Some(new) = changed => lifetime = new,
            Ok(()) = authority.changed() => {}
        }
        match ca.serving(lifetime, unix_now()) {
            Ok(serving) => {
                certificate = serving.certificate.clone();
                servings.send_replace(Arc::new(serving));
            }
            Err(error) => {
                tracing::error!(error = %Chain(&error), "own certificate not renewed, the last one stays in use");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Waits until half of the life that is left now has passed, by the wall clock.
async fn until_half_life(certificate: &Certificate) {
    let now = unix_now();
    let renew_at = certificate.remaining(now).saturating_sub(certificate.refresh_after(now, fastrand::f64()));
    loop {
        let left = certificate.remaining(unix_now());
        if left <= renew_at {
            return;
        }
        tokio::time::sleep((left - renew_at).min(LONGEST_SLEEP)).await;
    }
}

/// Waits for another lifetime than `known`; `None` when there will be no more snapshots.
async fn lifetime_changed(views: &mut watch::Receiver<Arc<View>>, known: Duration) -> Option<Duration> {
    loop {
        views.changed().await.ok()?;
        let lifetime = views.borrow_and_update().mesh().certificate_lifetime;
        if lifetime != known {
            return Some(lifetime);
        }
    }
}

/// An error with its causes in one line.
#[derive(Debug)]
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// By a rename, so that a sidecar that starts now reads all of it.
fn write_roots(path: &Path, pem: &str) -> Result<(), CaError> {
    let temporary = path.with_extension(format!("pem.{}.new", std::process::id()));
    std::fs::write(&temporary, pem)
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|source| CaError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::Folder;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn the_root_survives_a_restart_and_another_trust_domain_is_refused() {
        let folder = Folder::new("ca");
        let domain = "cluster.local".parse().unwrap();
        let first = Ca::open(folder.path(), &domain, NOW).unwrap();
        let written = std::fs::read(folder.path().join("ca/root.pem")).unwrap();
        assert_eq!(TrustBundle::from_pem(&domain, &written).unwrap(), *first.trust());
        let second = Ca::open(folder.path(), &domain, NOW + 1).unwrap();
        assert_eq!(first.trust(), second.trust());
        let error = Ca::open(folder.path(), &"other.example".parse().unwrap(), NOW).unwrap_err();
        assert!(Chain(&error).to_string().contains("another trust domain"), "{error}");
    }

    #[test]
    fn the_own_certificate_names_the_control_plane() {
        let folder = Folder::new("ca-serving");
        let ca = Ca::open(folder.path(), &"cluster.local".parse().unwrap(), NOW).unwrap();
        let serving = ca.serving(Duration::from_secs(4), NOW).unwrap();
        assert_eq!(serving.certificate.id().as_str(), "spiffe://cluster.local/ns/heddle-system/sa/heddle-control-plane");
        assert_eq!(serving.certificate.not_after(), NOW + 4);
    }
}
