//! What the other replicas count: the leader asks each of them over the mesh's own mTLS, which costs the API server nothing.

use crate::ca::{Chain, Serving};
use crate::cluster::NAME;
use crate::resolve;
use crate::serve::View;
use crate::serve::force::{Counts, PATH};
use crate::snapshot::ObjectKey;
use heddle_identity::tls::session_name;
use heddle_model::ServicePort;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

/// The port of the control plane's Service at which sidecars and replicas connect.
pub const DISCOVERY_PORT: u16 = 15010;

/// Most replicas that are asked. More than two serve nobody better than two.
const MAX_REPLICAS: usize = 8;

/// How long all of them together may take to answer: statuses are newer than that.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Largest answer: ten thousand objects at 200 bytes.
const MAX_ANSWER: usize = 2 * 1024 * 1024;

/// The replicas besides this one.
#[derive(Debug)]
pub struct Replicas {
    namespace: String,
    pod: String,
    servings: watch::Receiver<Arc<Serving>>,
}

impl Replicas {
    /// The replicas in a namespace, of which this one is `pod`.
    #[must_use]
    pub fn new(namespace: &str, pod: &str, servings: watch::Receiver<Arc<Serving>>) -> Self {
        Self { namespace: namespace.to_owned(), pod: pod.to_owned(), servings }
    }

    /// Asks them all at once. One that does not answer is left out: its sidecars connect to another one.
    ///
    /// Cancel safe.
    pub async fn counts(&self, view: &View) -> Vec<Counts> {
        let others = self.others(view);
        let asked = others.into_iter().map(|address| async move {
            match tokio::time::timeout(TIMEOUT, self.ask(address)).await {
                Ok(Ok(counts)) => Some(counts),
                Ok(Err(error)) => {
                    tracing::debug!(replica = %address, error = %Chain(&*error), "replica did not tell its counts");
                    None
                }
                Err(_) => {
                    tracing::debug!(replica = %address, "replica did not tell its counts in time");
                    None
                }
            }
        });
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }

    fn others(&self, view: &View) -> Vec<SocketAddr> {
        let own = view.snapshot().pods.get(&ObjectKey::new(&self.namespace, &self.pod)).map(|pod| pod.ips.clone()).unwrap_or_default();
        let service = ServicePort { namespace: self.namespace.clone(), name: NAME.to_owned(), port: DISCOVERY_PORT };
        let endpoints = resolve::endpoints(view.snapshot(), &service).into_iter().map(|endpoint| endpoint.address);
        endpoints.filter(|address| !own.contains(&address.ip())).take(MAX_REPLICAS).collect()
    }

    async fn ask(&self, address: SocketAddr) -> Result<Counts, Box<dyn Error + Send + Sync>> {
        let config = self.servings.borrow().client.clone();
        let tcp = TcpStream::connect(address).await?;
        let tls = TlsConnector::from(config).connect(session_name(address), tcp).await?;
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await?;
        let request = http::Request::get(format!("https://{NAME}{PATH}")).body(Empty::<bytes::Bytes>::new())?;
        let answer = async {
            let response = sender.send_request(request).await?;
            if response.status() != http::StatusCode::OK {
                return Err(format!("it answers {}", response.status()).into());
            }
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await?.to_bytes();
            Ok(serde_json::from_slice(&body)?)
        };
        tokio::select! {
            // The connection makes the answer come, and has nothing left to do after it.
            answer = answer => answer,
            ended = connection => Err(ended.map_or_else(Into::into, |()| "the connection ended before its answer".into())),
        }
    }
}
