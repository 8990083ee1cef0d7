//! Ends mesh TLS of inbound connections, and learns who the peer is.

use crate::io::{Io, Rewound};
use crate::worker::Worker;
use heddle_identity::tls::MeshProtocol;
use heddle_identity::verify::{PeerError, VerifiedPeer};
use std::io;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;

/// From the ClientHello to the client's Finished. A handshake that is never finished costs a task and no more for so long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a client is not a peer.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// There is no own certificate to show yet.
    #[error("this sidecar has no certificate yet")]
    NoCertificate,
    /// It took too long.
    #[error("the handshake took longer than {HANDSHAKE_TIMEOUT:?}")]
    Timeout,
    /// TLS failed: no certificate, an expired one, one of foreign roots.
    #[error("the handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// The certificate is no proof.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The client speaks none of the mesh's protocols.
    #[error("the client offers no protocol of the mesh")]
    Protocol,
}

/// Accepts mesh TLS.
///
/// Cancel safe: an unfinished handshake is cut.
pub async fn accept(worker: &Worker, plain: Rewound) -> Result<(Io, VerifiedPeer, MeshProtocol), AcceptError> {
    let context = worker.credentials().ok_or(AcceptError::NoCertificate)?;
    let handshake = TlsAcceptor::from(context.server()).accept(plain);
    let stream =
        tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await.map_err(|_| AcceptError::Timeout)?.map_err(AcceptError::Handshake)?;
    let connection = stream.get_ref().1;
    let peer = VerifiedPeer::from_client(connection, heddle_identity::unix_now())?;
    let protocol = MeshProtocol::from_alpn(connection.alpn_protocol()).ok_or(AcceptError::Protocol)?;
    Ok((Io::Server(Box::new(stream)), peer, protocol))
}
