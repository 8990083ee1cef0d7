//! Against a real control plane's certificate service, on loopback.

use super::fake::{ControlPlane, Files, Options, TOKEN, log, trust_message};
use super::*;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;

/// Long enough for a loaded machine; no test waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(20);

struct Sidecar {
    credentials: Credentials,
    contexts: watch::Receiver<Option<Arc<TlsContext>>>,
    _tasks: JoinSet<()>,
}

impl Sidecar {
    fn start(files: &Files, control_plane: std::net::SocketAddr) -> Self {
        log();
        let (credentials, renewal) = Credentials::new(&files.config(control_plane), Rng::with_seed(3)).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(renewal.run());
        Self { contexts: credentials.context(), credentials, _tasks: tasks }
    }

    /// The next context that differs in what the condition looks at.
    async fn wait_for(&mut self, condition: impl Fn(&TlsContext) -> bool) -> Arc<TlsContext> {
        let found = self.contexts.wait_for(|context| context.as_deref().is_some_and(&condition));
        timeout(PATIENCE, found).await.expect("in time").unwrap().clone().unwrap()
    }

    async fn failures(&self, at_least: u64) {
        timeout(PATIENCE, async {
            while self.credentials.metrics.failures() < at_least {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("in time");
    }
}

fn files(options: &Options) -> Files {
    let files = Files::new();
    files.write_token(&format!("{TOKEN}\n"));
    files.write_roots(&options.authority);
    files
}

#[tokio::test]
async fn the_first_certificate_comes_by_token_and_the_next_by_certificate() {
    let options = Options::new(Duration::from_secs(3));
    let (files, control) = (files(&options), ControlPlane::start(&options));
    let mut sidecar = Sidecar::start(&files, control.address);
    let first = sidecar.wait_for(|_| true).await;
    assert_eq!(first.certificate().id().as_str(), "spiffe://cluster.local/ns/shop/sa/front");
    let second = sidecar.wait_for(|next| next.certificate() != first.certificate()).await;
    sidecar.wait_for(|next| next.certificate() != second.certificate()).await;
    assert_eq!(control.asked.by_token.load(Ordering::Relaxed), 1);
    assert!(control.asked.by_certificate.load(Ordering::Relaxed) >= 2);
}

#[tokio::test]
async fn the_old_certificate_stays_while_the_control_plane_is_away() {
    let options = Options::new(Duration::from_secs(2));
    let (files, control) = (files(&options), ControlPlane::start(&options));
    let mut sidecar = Sidecar::start(&files, control.address);
    sidecar.wait_for(|_| true).await;
    let port = control.kill();
    let old = sidecar.wait_for(|_| true).await;
    // Until it has expired and longer: only the token can get a new one then.
    timeout(PATIENCE, async {
        while !old.certificate().remaining(unix_now()).is_zero() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    sidecar.failures(2).await;
    assert!(sidecar.contexts.borrow().as_ref().is_some_and(|context| context.certificate() == old.certificate()));
    let control = ControlPlane::start_at(port, &options);
    let back = Instant::now();
    sidecar.wait_for(|next| next.certificate() != old.certificate()).await;
    assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
    assert_eq!(control.asked.by_token.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_control_plane_of_another_name_is_refused() {
    let mut options = Options::new(Duration::from_secs(60));
    options.id = "spiffe://cluster.local/ns/shop/sa/impostor".parse().unwrap();
    let (files, control) = (files(&options), ControlPlane::start(&options));
    let sidecar = Sidecar::start(&files, control.address);
    sidecar.failures(3).await;
    assert!(sidecar.contexts.borrow().is_none());
    assert_eq!(control.asked.by_token.load(Ordering::Relaxed), 0, "the token was not sent");
}

#[tokio::test]
async fn a_control_plane_of_another_authority_is_refused() {
    let options = Options::new(Duration::from_secs(60));
    let (files, control) = (files(&Options::new(Duration::from_secs(60))), ControlPlane::start(&options));
    let sidecar = Sidecar::start(&files, control.address);
    sidecar.failures(3).await;
    assert!(sidecar.contexts.borrow().is_none());
    assert_eq!(control.asked.by_token.load(Ordering::Relaxed), 0, "the token was not sent");
}

#[tokio::test]
async fn files_that_come_late_are_taken() {
    let options = Options::new(Duration::from_secs(60));
    let (files, control) = (Files::new(), ControlPlane::start(&options));
    let mut sidecar = Sidecar::start(&files, control.address);
    sidecar.failures(1).await;
    files.write_roots(&options.authority);
    files.write_token("wrong");
    sidecar.failures(4).await;
    files.write_token(TOKEN);
    sidecar.wait_for(|_| true).await;
}

#[tokio::test]
async fn newer_roots_make_a_new_context_with_the_same_certificate() {
    let options = Options::new(Duration::from_secs(3600));
    let (files, control) = (files(&options), ControlPlane::start(&options));
    let mut sidecar = Sidecar::start(&files, control.address);
    let first = sidecar.wait_for(|_| true).await;
    let other = Options::new(Duration::from_secs(60));
    let both = options.authority.trust_bundle().union(other.authority.trust_bundle()).unwrap();
    sidecar.credentials.update_trust(both.clone());
    let second = sidecar.wait_for(|next| next.bundle_revision() != first.bundle_revision()).await;
    assert_eq!(second.bundle_revision(), both.revision());
    assert_eq!(second.certificate(), first.certificate());
    assert_eq!(control.asked.by_token.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_replaced_authority_is_found_by_the_file_when_the_certificate_is_doubted() {
    let options = Options::new(Duration::from_secs(3600));
    let (files, control) = (files(&options), ControlPlane::start(&options));
    let mut sidecar = Sidecar::start(&files, control.address);
    let first = sidecar.wait_for(|_| true).await;
    let port = control.kill();
    let replaced = Options::new(Duration::from_secs(3600));
    let _control = ControlPlane::start_at(port, &replaced);
    files.write_roots(&replaced.authority);
    sidecar.credentials.doubt();
    let second = sidecar.wait_for(|next| next.bundle_revision() != first.bundle_revision()).await;
    assert_eq!(second.bundle_revision(), replaced.authority.trust_bundle().revision());
}

#[test]
fn a_bundle_without_a_root_is_refused() {
    let options = Options::new(Duration::from_secs(60));
    let good = trust_message(&options.authority);
    assert!(trust_bundle(&good).is_ok());
    for bad in [
        proto::TrustBundle { roots_pem: String::new(), ..good.clone() },
        proto::TrustBundle { trust_domain: "Not a domain".to_owned(), ..good },
    ] {
        assert!(trust_bundle(&bad).is_err());
    }
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_refused() {
    let options = Options::new(Duration::from_secs(60));
    let (_credentials, renewal) = Credentials::new(&fake::config("127.0.0.1:1"), Rng::with_seed(1)).unwrap();
    let other: SpiffeId = "spiffe://cluster.local/ns/shop/sa/other".parse().unwrap();
    let answer = |id: &SpiffeId, now: u64, trust: bool| {
        let (key, csr) = heddle_identity::csr(id).unwrap();
        let certificate = options.authority.sign(&csr, id, options.lifetime, now).unwrap();
        let chain_der = certificate.chain().iter().map(|der| der.to_vec()).collect();
        (key, proto::CertifyResponse { chain_der, trust: trust.then(|| trust_message(&options.authority)) })
    };
    #[track_caller]
    fn refused(result: Result<Held, CredentialsError>, reason: &str) {
        let text = causes(&result.map(|_| ()).unwrap_err());
        assert!(text.contains(reason), "{text}");
    }
    let now = unix_now();
    let (key, good) = answer(&renewal.id, now, true);
    assert!(renewal.check(key, good.clone()).is_ok());
    let (key, _) = answer(&renewal.id, now, true);
    refused(renewal.check(key, good), "cannot be used with its key");
    let (key, wrong) = answer(&other, now, true);
    refused(renewal.check(key, wrong), "not for spiffe://cluster.local/ns/shop/sa/front");
    let (key, rootless) = answer(&renewal.id, now, false);
    refused(renewal.check(key, rootless), "no roots");
    let (key, _) = answer(&renewal.id, now, true);
    refused(renewal.check(key, proto::CertifyResponse::default()), "1 to 8 certificates");
}

#[test]
fn a_file_that_is_no_token_is_not_read() {
    let files = Files::new();
    files.write_token(&"x".repeat(TOKEN_BYTES_MAX + 1));
    let path = files.config("127.0.0.1:1".parse().unwrap()).token_file;
    let error = causes(&read_file(&path).unwrap_err());
    assert!(error.contains(&path.display().to_string()) && error.contains("more than 65536"), "{error}");
}
