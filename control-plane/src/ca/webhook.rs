//! The certificate of the webhooks, by which the API server knows them: issued by the mesh's own authority, in memory, and renewed.

use super::{Ca, Chain};
use heddle_identity::{AuthorityError, HttpsServer, unix_now};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_rustls::rustls::ServerConfig;

/// How long one is valid. Not the mesh's own lifetime, which tests set to seconds: the API server keeps its connections.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How long to wait after one could not be issued. Half of the last one's life is left by then.
const RETRY: Duration = Duration::from_secs(5);

/// Longest sleep before the wall clock is read again.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The names by which the API server and people call the control plane's Service in a namespace.
#[must_use]
pub fn names(namespace: &str) -> Vec<String> {
    let name = crate::cluster::NAME;
    vec![format!("{name}.{namespace}.svc"), format!("{name}.{namespace}.svc.cluster.local")]
}

/// Issues the first.
///
/// # Errors
/// When the authority has expired, or the cryptographic library refuses.
pub fn first(ca: &Ca, names: &[String]) -> Result<HttpsServer, AuthorityError> {
    ca.authority().https_server(names, LIFETIME, unix_now())
}

/// Renews the certificate at the half of its life, and when the authority changes. Runs until cancelled; cancel safe. A failure is logged
/// and tried again, with the last certificate in force.
pub async fn keep(ca: Arc<Ca>, names: Vec<String>, first: HttpsServer, configs: watch::Sender<Arc<ServerConfig>>) {
    let mut authority = ca.changes();
    let mut not_after = first.not_after();
    loop {
        tokio::select! {
            // Losing leaves nothing behind: the next turn waits for either again.
            () = until_half(not_after) => {}
            Ok(()) = authority.changed() => {}
        }
        match ca.authority().https_server(&names, LIFETIME, unix_now()) {
            Ok(server) => {
                not_after = server.not_after();
                configs.send_replace(server.config());
            }
            Err(error) => {
                tracing::error!(error = %Chain(&error), "the webhooks' certificate is not renewed, the last one stays in use");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Waits until half of what is left now has passed, by the wall clock.
async fn until_half(not_after: u64) {
    let left = |now: u64| Duration::from_secs(not_after.saturating_sub(now));
    let renew_at = left(unix_now()) / 2;
    loop {
        let left = left(unix_now());
        if left <= renew_at {
            return;
        }
        tokio::time::sleep((left - renew_at).min(LONGEST_SLEEP)).await;
    }
}
