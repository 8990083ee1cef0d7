//! The workload's certificate: obtained by token, renewed at half of its life, published to everybody who makes connections.
//!
//! The key is made here, lives in memory only, and is replaced with every certificate. While the control plane is away the old
//! certificate stays; it is asked again with growing pauses. Wall time is read through [`heddle_identity::unix_now`] only.

mod metrics;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use crate::config::{Config, HostPort};
use crate::discover::channel::{self, ChannelError, causes};
use crate::discover::wire::certificates_client::CertificatesClient;
use fastrand::Rng;
use heddle_identity::{Certificate, CertificateError, CsrError, KeyPair, SpiffeId, SpiffeIdError, TlsContext, TlsError};
use heddle_identity::{TrustBundle, TrustDomain, TrustError, tls, unix_now};
use heddle_model::proto;
use heddle_model::retry::Backoff;
use metrics::Metrics;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// One call of `Certify`, connection made. Signing takes a millisecond, a review of a token by Kubernetes some tens.
const CERTIFY_TIMEOUT: Duration = Duration::from_secs(3);
/// Pauses begin here.
const BACKOFF_BASE: Duration = Duration::from_millis(100);
/// Without a certificate nothing works: ask often.
const BACKOFF_MAX_WITHOUT: Duration = Duration::from_millis(500);
/// With one, an eighth of what is left of its life, so that there are at least eight tries; within these.
const BACKOFF_MAX_WITH: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// The monotonic clock stands still while a machine sleeps: the wall clock is compared this often.
const WALL_CLOCK_CHECK: Duration = Duration::from_secs(30);
/// Tokens are a few KiB; whatever is larger is some other file.
const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// Failures before the first certificate that nobody is told of: about a third of a second.
const QUIET_START: u32 = 2;
/// Doubts about the certificate lead to at most one try in this time.
const SUSPICION_PAUSE: Duration = Duration::from_secs(1);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file that the sidecar was given is not readable.
    #[error("cannot read {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The roots, from the file or from the control plane, are unusable.
    #[error("the roots cannot be used")]
    Trust(#[from] TrustError),
    /// There is no connection to the control plane.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The control plane refused, or the call failed.
    #[error("the control plane gave no certificate ({code:?}): {message}")]
    Refused {
        /// The gRPC status.
        code: tonic::Code,
        /// What it says.
        message: String,
    },
    /// The control plane gave something that is not a certificate for this workload.
    #[error("the control plane's answer cannot be used: {0}")]
    Answer(String),
    /// The cryptographic library refused.
    #[error(transparent)]
    Key(#[from] CsrError),
    /// The same, for a TLS configuration.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl From<CertificateError> for CredentialsError {
    fn from(error: CertificateError) -> Self {
        Self::Answer(error.to_string())
    }
}

impl CredentialsError {
    /// Whether nobody answered, so that other means of proof would do no better.
    fn unreachable(&self) -> bool {
        matches!(self, Self::Channel(ChannelError::Connect { .. }))
    }
}

/// What everybody else sees of the credentials. Cloning gives another view of the same.
#[derive(Debug, Clone)]
pub struct Credentials {
    context: watch::Receiver<Option<Arc<TlsContext>>>,
    trust: watch::Sender<Option<TrustBundle>>,
    doubts: Arc<Notify>,
    metrics: Metrics,
}

/// The task that keeps the certificate fresh: [`Renewal::run`] on the control thread.
#[derive(Debug)]
pub struct Renewal {
    id: SpiffeId,
    trust_domain: TrustDomain,
    control_plane: HostPort,
    control_plane_id: SpiffeId,
    token_file: PathBuf,
    trust_roots_file: PathBuf,
    context: watch::Sender<Option<Arc<TlsContext>>>,
    trust: watch::Receiver<Option<TrustBundle>>,
    doubts: Arc<Notify>,
    metrics: Metrics,
    held: Option<Held>,
    rng: Rng,
}

/// What the current context was made of.
#[derive(Debug)]
struct Held {
    key: KeyPair,
    bundle: TrustBundle,
    context: Arc<TlsContext>,
}

/// How a request is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    Certificate,
    Token,
}

impl Credentials {
    /// The view, and the task behind it.
    ///
    /// # Errors
    /// When the workload's names make no SPIFFE id.
    pub fn new(config: &Config, rng: Rng) -> Result<(Self, Renewal), SpiffeIdError> {
        let Config { trust_domain, namespace, service_account, control_plane, token_file, trust_roots_file, .. } = config;
        let (context, contexts) = watch::channel(None);
        let (trust, bundles) = watch::channel(None);
        let doubts = Arc::new(Notify::new());
        let metrics = Metrics::new();
        let renewal = Renewal {
            id: SpiffeId::workload(trust_domain, namespace, service_account)?,
            trust_domain: trust_domain.clone(),
            control_plane: control_plane.clone(),
            control_plane_id: channel::control_plane_id(trust_domain, control_plane)?,
            token_file: token_file.clone(),
            trust_roots_file: trust_roots_file.clone(),
            context,
            trust: bundles,
            doubts: Arc::clone(&doubts),
            metrics: metrics.clone(),
            held: None,
            rng,
        };
        Ok((Self { context: contexts, trust, doubts, metrics }, renewal))
    }

    /// Own certificate and trust; `None` until the first certificate is here. Replaced at renewal and when the roots change.
    #[must_use]
    pub fn context(&self) -> watch::Receiver<Option<Arc<TlsContext>>> {
        self.context.clone()
    }

    /// Takes a newer trust bundle, as the control plane streams it.
    pub fn update_trust(&self, bundle: TrustBundle) {
        self.trust.send_replace(Some(bundle));
    }

    /// Says that the control plane does not take the certificate, or cannot be verified any more: a new one is asked for soon.
    pub fn doubt(&self) {
        self.doubts.notify_one();
    }

    /// Adds the certificate's metrics to a registry.
    ///
    /// # Errors
    /// When the registry has metrics of these names.
    pub fn register(&self, registry: &prometheus::Registry) -> prometheus::Result<()> {
        self.metrics.register(registry)
    }
}

impl Renewal {
    /// Obtains and renews, for ever. Cancel safe: dropped, the last context stays with who has it.
    pub async fn run(mut self) {
        let mut failures = 0u32;
        loop {
            match self.renew().await {
                Ok(certificate) => {
                    failures = 0;
                    self.rest(&certificate).await;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.metrics.failed();
                    // 1, 2, 4, 8 …: told at once, and seldom while it lasts. At the start a control plane that comes a moment later
                    // is no news.
                    if failures.is_power_of_two() && (self.held.is_some() || failures > QUIET_START) {
                        tracing::warn!(error = causes(&error), failures, "no new certificate");
                    }
                    let wait = self.backoff(failures);
                    self.pause(Instant::now() + wait, SUSPICION_PAUSE).await;
                }
            }
        }
    }

    /// Waits until the certificate is to be renewed, or is doubted.
    async fn rest(&mut self, certificate: &Certificate) {
        let now = unix_now();
        let after = certificate.refresh_after(now, self.rng.f64());
        let due = Instant::now() + after;
        let left_then = certificate.remaining(now).saturating_sub(after);
        let earliest = Instant::now() + SUSPICION_PAUSE;
        while Instant::now() < due && certificate.remaining(unix_now()) > left_then {
            let doubted = self.pause(due.min(Instant::now() + WALL_CLOCK_CHECK), Duration::ZERO).await;
            if doubted {
                sleep_until(earliest.min(due)).await;
                return;
            }
        }
    }

    /// Waits, taking newer trust bundles meanwhile. Ends early, with true, on a doubt; doubts within `deaf` are not heard.
    async fn pause(&mut self, until: Instant, deaf: Duration) -> bool {
        let hearing = Instant::now() + deaf;
        let (mut hears, mut closed) = (deaf.is_zero(), false);
        loop {
            // Cancelled branches lose nothing: a doubt leaves a permit, and a trust bundle stays marked as unseen.
            tokio::select! {
                () = sleep_until(until) => return false,
                () = sleep_until(hearing), if !hears => hears = true,
                () = self.doubts.notified(), if hears => return true,
                changed = self.trust.changed(), if !closed => match changed {
                    Ok(()) => self.take_trust(),
                    // All views are gone: nobody will send another.
                    Err(_) => closed = true,
                },
            }
        }
    }

    fn backoff(&mut self, failures: u32) -> Duration {
        let max = match &self.held {
            None => BACKOFF_MAX_WITHOUT,
            Some(held) => {
                let left = held.context.certificate().remaining(unix_now());
                (left / 8).clamp(BACKOFF_MAX_WITH.0, BACKOFF_MAX_WITH.1)
            }
        };
        // The base is below every maximum above.
        Backoff::try_new(BACKOFF_BASE, max).map_or(BACKOFF_BASE, |backoff| backoff.delay(failures, self.rng.f64()))
    }

    /// Rebuilds the context with the same certificate and newer roots. What cannot be used changes nothing.
    fn take_trust(&mut self) {
        let Some(bundle) = self.trust.borrow_and_update().clone() else { return };
        let Some(held) = &mut self.held else { return };
        if bundle.revision() == held.context.bundle_revision() {
            return;
        }
        match TlsContext::new(&held.key, held.context.certificate().clone(), &bundle) {
            Ok(context) => {
                held.context = Arc::new(context);
                held.bundle = bundle;
                self.context.send_replace(Some(Arc::clone(&held.context)));
                self.metrics.trust_changed();
                tracing::info!(revision = held.context.bundle_revision(), "trust bundle replaced");
            }
            Err(error) => tracing::warn!(error = causes(&error), "trust bundle cannot be used, the old one stays"),
        }
    }

    /// One round of all means: by the certificate where there is a valid one, by token, and by token with the roots of the file, for
    /// a control plane whose root was replaced while we were apart.
    async fn renew(&mut self) -> Result<Certificate, CredentialsError> {
        let by_certificate = self.held.as_ref().filter(|h| !h.context.certificate().remaining(unix_now()).is_zero());
        if let Some(held) = by_certificate {
            let tls = held.context.control_plane_client(&self.control_plane_id);
            match self.certify(tls, Proof::Certificate).await {
                Err(error) if error.unreachable() => return Err(error),
                Err(error) => tracing::debug!(error = causes(&error), "not renewed by certificate, next by token"),
                Ok(held) => return Ok(self.publish(held)),
            }
        }
        if let Some(bundle) = self.held.as_ref().map(|held| held.bundle.clone()) {
            let tls = tls::bootstrap_client(&bundle, &self.control_plane_id)?;
            match self.certify(tls, Proof::Token).await {
                Err(error) if error.unreachable() => return Err(error),
                Err(error) => tracing::debug!(error = causes(&error), "not renewed with the known roots, next with the file's"),
                Ok(held) => return Ok(self.publish(held)),
            }
        }
        let roots = read_file(&self.trust_roots_file)?;
        let bundle = TrustBundle::from_pem(&self.trust_domain, &roots)?;
        let tls = tls::bootstrap_client(&bundle, &self.control_plane_id)?;
        let held = self.certify(tls, Proof::Token).await?;
        Ok(self.publish(held))
    }

    async fn certify(&self, tls: Arc<rustls::ClientConfig>, proof: Proof) -> Result<Held, CredentialsError> {
        let token = match proof {
            Proof::Certificate => String::new(),
            Proof::Token => {
                let token = read_file(&self.token_file)?;
                let text = String::from_utf8(token).map_err(|_| self.bad_token("it is not text"))?;
                Some(text.trim().to_owned()).filter(|t| !t.is_empty()).ok_or_else(|| self.bad_token("it is empty"))?
            }
        };
        let (key, csr_der) = heddle_identity::csr(&self.id)?;
        let channel = channel::connect(&self.control_plane, tls).await?;
        let mut client = CertificatesClient::new(channel);
        let answer = timeout(CERTIFY_TIMEOUT, client.certify(proto::CertifyRequest { csr_der, token }))
            .await
            .map_err(|_| tonic::Status::deadline_exceeded("no answer in time"))
            .flatten()
            .map_err(|status| CredentialsError::Refused { code: status.code(), message: status.message().to_owned() })?;
        self.check(key, answer.into_inner())
    }

    fn check(&self, key: KeyPair, answer: proto::CertifyResponse) -> Result<Held, CredentialsError> {
        let proto::CertifyResponse { chain_der, trust } = answer;
        let certificate = Certificate::from_der(chain_der)?;
        if *certificate.id() != self.id {
            return Err(CredentialsError::Answer(format!("the certificate is for {} and not for {}", certificate.id(), self.id)));
        }
        if certificate.remaining(unix_now()).is_zero() {
            return Err(CredentialsError::Answer("the certificate has expired already: compare the clocks of both machines".to_owned()));
        }
        let trust = trust.ok_or_else(|| CredentialsError::Answer("it names no roots".to_owned()))?;
        let bundle = trust_bundle(&trust)?;
        let context = Arc::new(TlsContext::new(&key, certificate, &bundle)?);
        Ok(Held { key, bundle, context })
    }

    fn publish(&mut self, held: Held) -> Certificate {
        let certificate = held.context.certificate().clone();
        tracing::info!(id = %certificate.id(), not_after = certificate.not_after(), "certificate obtained");
        self.metrics.renewed(&certificate);
        self.context.send_replace(Some(Arc::clone(&held.context)));
        self.held = Some(held);
        certificate
    }

    fn bad_token(&self, reason: &str) -> CredentialsError {
        CredentialsError::File { path: self.token_file.clone(), source: io::Error::new(io::ErrorKind::InvalidData, reason) }
    }
}

/// The roots that a message brings.
pub(crate) fn trust_bundle(message: &proto::TrustBundle) -> Result<TrustBundle, CredentialsError> {
    // The revision is computed from the content and not taken from the message.
    let proto::TrustBundle { trust_domain, roots_pem, revision: _ } = message;
    let domain: TrustDomain = trust_domain.parse().map_err(|e: SpiffeIdError| CredentialsError::Answer(e.to_string()))?;
    Ok(TrustBundle::from_pem(&domain, roots_pem.as_bytes())?)
}

/// A small file. Read on this thread: it is in memory (a projected volume), and there is nothing else to do meanwhile.
fn read_file(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    let failed = |source| CredentialsError::File { path: path.to_owned(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > TOKEN_BYTES_MAX as u64 {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has {length} bytes, more than {TOKEN_BYTES_MAX}"))));
    }
    std::fs::read(path).map_err(failed)
}
