//! One connection to the control plane: dial, TLS with its SPIFFE identity verified, HTTP/2.

use crate::config::HostPort;
use heddle_identity::{SpiffeId, TrustDomain};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// Dialling and both handshakes together. The control plane is in the same cluster: a second means that it is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// What the control plane may hold back before we read: a policy of some hundred rules, or a thousand endpoints.
const WINDOW_BYTES: u32 = 1024 * 1024;
/// Never resolved: the connection is made before, and is verified by SPIFFE id. It only fills `:authority`.
const NAME: &str = "http://heddle-control-plane";

/// Where the control plane's workload lives when its address names no namespace; its identity follows from it.
const NAMESPACE: &str = "heddle-system";
const SERVICE_ACCOUNT: &str = "heddle-control-plane";

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Nobody answers there.
    #[error("cannot connect to the control plane at {at}")]
    Connect {
        /// Where.
        at: HostPort,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody answers who is not the control plane, or who does not take our certificate.
    #[error("the handshake with the control plane at {at} failed")]
    Tls {
        /// Where.
        at: HostPort,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It does not speak HTTP/2.
    #[error("the control plane at {at} does not speak HTTP/2")]
    Http2 {
        /// Where.
        at: HostPort,
        /// Why not.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Who the control plane of a trust domain is: its ServiceAccount in the namespace that its address names, as in
/// `heddle-control-plane.heddle-system.svc`. So nobody who may make a ServiceAccount in another namespace can stand in for it.
pub(crate) fn control_plane_id(trust_domain: &TrustDomain, at: &HostPort) -> Result<SpiffeId, heddle_identity::SpiffeIdError> {
    let mut labels = at.host.split('.').skip(1);
    let namespace = labels.next().filter(|_| labels.next() == Some("svc")).unwrap_or(NAMESPACE);
    SpiffeId::workload(trust_domain, namespace, SERVICE_ACCOUNT)
}

/// Connects; the result serves calls until the connection ends, and then fails: it never connects again by itself.
///
/// Cancel safe: dropped, the connection is closed.
pub(crate) async fn connect(at: &HostPort, tls: Arc<ClientConfig>) -> Result<Channel, ChannelError> {
    match timeout(CONNECT_TIMEOUT, handshakes(at, tls)).await {
        Ok(result) => result,
        Err(_) => Err(ChannelError::Connect { at: at.clone(), source: io::ErrorKind::TimedOut.into() }),
    }
}

async fn handshakes(at: &HostPort, tls: Arc<ClientConfig>) -> Result<Channel, ChannelError> {
    let failed = |source| ChannelError::Connect { at: at.clone(), source };
    let tcp = TcpStream::connect((at.host.as_str(), at.port)).await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    let address = tcp.peer_addr().map_err(failed)?;
    let name = heddle_identity::tls::session_name(address);
    let tls = TlsConnector::from(tls).connect(name, tcp).await.map_err(|source| ChannelError::Tls { at: at.clone(), source })?;
    over(tls).await.map_err(|source| ChannelError::Http2 { at: at.clone(), source })
}

/// HTTP/2 over a stream that exists. Should it break, the channel asks for another, and is refused: who called knows better.
async fn over(stream: TlsStream<TcpStream>) -> Result<Channel, tonic::transport::Error> {
    let stream = Mutex::new(Some(TokioIo::new(stream)));
    let once = tower::service_fn(move |_| {
        let taken = stream.lock().ok().and_then(|mut stream| stream.take());
        std::future::ready(taken.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    });
    let endpoint = Endpoint::from_static(NAME).initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
    endpoint.connect_with_connector(once).await
}

/// An error with all its causes, in one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Wrappers repeat what they wrap.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_plane_is_of_the_namespace_that_its_address_names() {
        let trust_domain = "cluster.local".parse().unwrap();
        for (host, namespace) in [
            ("heddle-control-plane.mesh.svc", "mesh"),
            ("heddle-control-plane.mesh.svc.cluster.local", "mesh"),
            ("127.0.0.1", "heddle-system"),
            ("control.example.com", "heddle-system"),
            ("localhost", "heddle-system"),
        ] {
            let id = control_plane_id(&trust_domain, &HostPort { host: host.to_owned(), port: 1 }).unwrap();
            assert_eq!(id.as_str(), format!("spiffe://cluster.local/ns/{namespace}/sa/heddle-control-plane"), "{host}");
        }
    }
}
