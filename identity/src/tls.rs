//! The one place where rustls configurations are made: TLS 1.3, hybrid post-quantum key exchange, SPIFFE ids on both sides.
//!
//! **One client configuration for each expected id.** A DNS name (what rustls verifies by itself, and what SNI carries) has 253
//! bytes and labels of 63; a SPIFFE id has 2048 bytes, and a service account may contain dots, so that no bijective
//! encoding exists. Hence the expected id sits in the verifier, and [`TlsContext`] keeps a configuration for each id: everything
//! big (anchors, certificate, key, crypto provider) is shared, so that one more costs about a kilobyte. No SNI is sent: the
//! server has one identity and needs no hint, and an observer on the path learns no workload's name. The `ServerName`
//! that rustls asks for is only the key of the session cache; [`session_name`] makes it from the endpoint's address.
//!
//! **Exchange at run time.** A context is immutable. When the certificate or the bundle changes, build a new one, and take
//! configurations for new connections from it: those that are open keep the old one alive and are not disturbed.
//!
//! **Resumption never outlives verification.** A resumed handshake skips certificates, so three bounds hold it: session stores and
//! ticket keys belong to one context, so that a new certificate or bundle ends all sessions at once; ticket keys live an hour
//! at most ([`TICKET_SECONDS`]); and [`crate::verify::VerifiedPeer`] compares the certificate's end with the clock on every
//! connection, resumed or not. No early data (it can be replayed), and no resumption with the control plane at all, whose
//! connections are few and long.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use heddle_model::spiffe_id::SpiffeId;
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::aws_lc_rs::{Ticketer, cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, GetRandomFailed};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig, TicketRotator, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use thiserror::Error;

use crate::certificate::Certificate;
use crate::csr::KeyPair;
use crate::trust::TrustBundle;
use crate::verify::{Anchors, ClientVerifier, ServerVerifier};

/// What all ALPN names between sidecars start with: how mesh TLS is told from an application's own.
pub const MESH_ALPN_PREFIX: &[u8] = b"heddle/";

/// The ALPN name between sidecars and the control plane (RFC 9113 §3.2).
pub const CONTROL_PLANE_ALPN: &[u8] = b"h2";

/// How long a session ticket can be resumed at most: its key is used for half of this and accepted for the other half.
pub const TICKET_SECONDS: u32 = 3600;

/// Most expected ids with a kept client configuration, and so with sessions to resume: more upstreams than one workload has.
/// Beyond it configurations are made for each connection, which is slower and counted by [`TlsContext::uncached`].
pub const MAX_KEPT_CLIENTS: usize = 1024;

/// Most endpoints of one expected id whose sessions are kept (rustls keeps up to 8 tickets of about 1.5 KiB for each).
const MAX_SESSION_ENDPOINTS: usize = 64;

/// Why no TLS configuration can be made from a key, a certificate and a bundle.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The key does not belong to the certificate, or rustls cannot use one of them.
    #[error("the certificate of {id} cannot be used with its key")]
    Identity {
        /// Whose certificate.
        id: SpiffeId,
        /// What rustls found.
        #[source]
        source: rustls::Error,
    },
    /// The roots are unusable, or the library refused.
    #[error("cannot make a tls configuration")]
    Rustls(#[from] rustls::Error),
}

/// What mesh TLS carries inside, agreed by ALPN (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MeshProtocol {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2, and gRPC in it.
    H2,
    /// Any bytes.
    Opaque,
}

impl MeshProtocol {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Http1, Self::H2, Self::Opaque];

    /// Returns its ALPN name.
    #[must_use]
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"heddle/http1",
            Self::H2 => b"heddle/h2",
            Self::Opaque => b"heddle/opaque",
        }
    }

    /// Finds the protocol that a handshake has agreed on; nothing for another name, or when none was agreed.
    #[must_use]
    pub fn from_alpn(alpn: Option<&[u8]>) -> Option<Self> {
        Self::ALL.into_iter().find(|p| alpn == Some(p.alpn()))
    }
}

/// All TLS configurations of one workload, for one certificate and one trust bundle. Its `Debug` shows no key.
pub struct TlsContext {
    certificate: Certificate,
    bundle_revision: String,
    anchors: Arc<Anchors>,
    server: Arc<ServerConfig>,
    control_plane_server: Arc<ServerConfig>,
    // What all client configurations share; its verifier is replaced in each of them.
    client: ClientConfig,
    clients: Mutex<HashMap<SpiffeId, [Arc<ClientConfig>; 3]>>,
    uncached: AtomicU64,
}

impl TlsContext {
    /// Builds the configurations. A copy of the key is kept in memory, for as long as the context or a connection lives.
    ///
    /// # Errors
    /// When the key is not the certificate's, or a root is unusable.
    pub fn new(key: &KeyPair, certificate: Certificate, bundle: &TrustBundle) -> Result<Self, TlsError> {
        let certified = CertifiedKey::from_der(certificate.chain().to_vec(), key.private_key(), provider())
            .map_err(|source| TlsError::Identity { id: certificate.id().clone(), source })?;
        let identity = Arc::new(SingleCertAndKey::from(certified));
        let anchors = Arc::new(Anchors::new(bundle, provider())?);
        let mut server = server_config(&anchors, &identity, true)?;
        server.alpn_protocols = MeshProtocol::ALL.map(|p| p.alpn().to_vec()).to_vec();
        server.ticketer = Arc::new(TicketRotator::new(TICKET_SECONDS / 2, ticket_keys)?);
        // A resumption uses up one ticket and brings one: the number of sessions stays, at half of rustls' default cost.
        server.send_tls13_tickets = 1;
        let mut control_plane_server = server_config(&anchors, &identity, false)?;
        control_plane_server.alpn_protocols = vec![CONTROL_PLANE_ALPN.to_vec()];
        Ok(Self {
            client: client_config(&anchors, certificate.id(), Some(&identity))?,
            certificate,
            bundle_revision: bundle.revision().to_owned(),
            anchors,
            server: Arc::new(server),
            control_plane_server: Arc::new(control_plane_server),
            clients: Mutex::default(),
            uncached: AtomicU64::new(0),
        })
    }

    /// Returns the configuration for mesh TLS from other sidecars: a client certificate is required, and the client's ALPN
    /// chooses the protocol.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// Returns the configuration for mesh TLS to a sidecar whose id must be `expected`. The handshake fails for every other.
    ///
    /// Give [`session_name`] of the endpoint as the server name. Takes a lock for the time of a map look-up; keep the result
    /// for as long as the context where that is easy.
    #[must_use]
    pub fn client(&self, expected: &SpiffeId, protocol: MeshProtocol) -> Arc<ClientConfig> {
        // Every change to the map is a single insertion, so that it is whole even after a panic elsewhere.
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = clients.get(expected) {
            return of(kept, protocol);
        }
        let made = self.mesh_clients(expected);
        let config = of(&made, protocol);
        if clients.len() < MAX_KEPT_CLIENTS {
            clients.insert(expected.clone(), made);
        } else {
            self.uncached.fetch_add(1, Ordering::Relaxed);
        }
        config
    }

    /// Returns the configuration of a control plane's server. A client certificate is asked for and verified when there is one;
    /// a sidecar without one may only request its first, by token: see
    /// [`VerifiedPeer::from_optional_client`](crate::verify::VerifiedPeer::from_optional_client).
    #[must_use]
    pub fn control_plane_server(&self) -> Arc<ServerConfig> {
        self.control_plane_server.clone()
    }

    /// Makes the configuration of a client of the control plane, which must be `expected`, showing this certificate.
    #[must_use]
    pub fn control_plane_client(&self, expected: &SpiffeId) -> Arc<ClientConfig> {
        let mut config = self.client_of(expected);
        config.alpn_protocols = vec![CONTROL_PLANE_ALPN.to_vec()];
        Arc::new(config)
    }

    /// Returns the certificate that both sides are shown.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Returns the revision of the trust bundle that this context was made from: rebuild it only when another arrives.
    #[must_use]
    pub fn bundle_revision(&self) -> &str {
        &self.bundle_revision
    }

    /// Returns how often a client configuration was made and not kept, because [`MAX_KEPT_CLIENTS`] were.
    #[must_use]
    pub fn uncached(&self) -> u64 {
        self.uncached.load(Ordering::Relaxed)
    }

    /// The three configurations for one expected id. They share verifier and sessions, and differ in ALPN.
    fn mesh_clients(&self, expected: &SpiffeId) -> [Arc<ClientConfig>; 3] {
        let mut config = self.client_of(expected);
        // rustls counts tickets: eight for each server name.
        config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(MAX_SESSION_ENDPOINTS * 8)));
        MeshProtocol::ALL.map(|protocol| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.alpn().to_vec()];
            Arc::new(config)
        })
    }

    /// A configuration for one expected id, without ALPN and without resumption.
    fn client_of(&self, expected: &SpiffeId) -> ClientConfig {
        let mut config = self.client.clone();
        let verifier = ServerVerifier { anchors: self.anchors.clone(), expected: expected.clone() };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        config
    }
}

impl fmt::Debug for TlsContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsContext")
            .field("id", self.certificate.id())
            .field("not_after", &self.certificate.not_after())
            .field("bundle_revision", &self.bundle_revision)
            .finish_non_exhaustive()
    }
}

/// Makes the configuration of a client of the control plane that has no certificate yet. The server must be `expected`.
///
/// # Errors
/// When a root is unusable.
pub fn bootstrap_client(bundle: &TrustBundle, expected: &SpiffeId) -> Result<Arc<ClientConfig>, TlsError> {
    let anchors = Arc::new(Anchors::new(bundle, provider())?);
    let mut config = client_config(&anchors, expected, None)?;
    config.alpn_protocols = vec![CONTROL_PLANE_ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// Makes the configuration of an HTTPS server for clients outside the mesh, which know it by DNS name and show no certificate: an API
/// server that calls webhooks. HTTP/1.1 only, so that an end is one response away and never a stream.
pub(crate) fn https_server(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Returns the key of an endpoint in the session cache, in the only form that rustls takes. It is never sent and never verified.
///
/// Sessions are kept by address and port, because each sidecar has its own ticket keys, also where several share an address.
#[must_use]
pub fn session_name(endpoint: SocketAddr) -> ServerName<'static> {
    let mut name = format!("p{}", endpoint.port());
    let octets: &[u8] = match &endpoint.ip() {
        IpAddr::V4(ip) => &ip.octets(),
        IpAddr::V6(ip) => &ip.octets(),
    };
    for octet in octets {
        // Writing to a String cannot fail.
        let _ = write!(name, "x{octet:02x}");
    }
    // Falls back to the address alone, which is a valid name always; letters and digits are a valid DNS label too.
    ServerName::try_from(name).unwrap_or_else(|_| ServerName::from(endpoint.ip()))
}

/// The algorithms, chosen once: TLS 1.3 only, AES-128 first (the fastest where the processor has AES, which both of our targets have),
/// and the hybrid of X25519 and ML-KEM-768 before the classical groups, so that recorded traffic stays closed to later quantum
/// computers.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = default_provider();
        provider.cipher_suites = vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1];
        Arc::new(provider)
    });
    &PROVIDER
}

fn of(configs: &[Arc<ClientConfig>; 3], protocol: MeshProtocol) -> Arc<ClientConfig> {
    let [http1, h2, opaque] = configs;
    match protocol {
        MeshProtocol::Http1 => http1.clone(),
        MeshProtocol::H2 => h2.clone(),
        MeshProtocol::Opaque => opaque.clone(),
    }
}

/// A server configuration without ALPN and without resumption.
fn server_config(anchors: &Arc<Anchors>, identity: &Arc<SingleCertAndKey>, mandatory: bool) -> Result<ServerConfig, rustls::Error> {
    let verifier = ClientVerifier { anchors: anchors.clone(), mandatory };
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(identity.clone());
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// A client configuration without ALPN and without resumption.
fn client_config(
    anchors: &Arc<Anchors>,
    expected: &SpiffeId,
    identity: Option<&Arc<SingleCertAndKey>>,
) -> Result<ClientConfig, rustls::Error> {
    let verifier = ServerVerifier { anchors: anchors.clone(), expected: expected.clone() };
    let builder = ClientConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity.clone()),
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Fresh ticket keys for the rotator, which takes a boxed producer where rustls gives a shared one.
fn ticket_keys() -> Result<Box<dyn ProducesTickets>, GetRandomFailed> {
    let keys = Ticketer::new().map_err(|_| GetRandomFailed)?;
    Ok(Box::new(TicketKeys(keys)))
}

#[derive(Debug)]
struct TicketKeys(Arc<dyn ProducesTickets>);

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpn_names_are_distinct_and_of_the_mesh() {
        for protocol in MeshProtocol::ALL {
            assert!(protocol.alpn().starts_with(MESH_ALPN_PREFIX));
            assert_eq!(MeshProtocol::from_alpn(Some(protocol.alpn())), Some(protocol));
        }
        assert_eq!(MeshProtocol::from_alpn(Some(b"h2")), None);
        assert_eq!(MeshProtocol::from_alpn(None), None);
    }

    #[test]
    fn session_names_tell_endpoints_apart() {
        let names: std::collections::HashSet<_> =
            ["127.0.0.1:80", "127.0.0.1:8080", "127.0.0.2:80", "[::1]:80", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"]
                .map(|a| session_name(a.parse().unwrap()))
                .into_iter()
                .collect();
        assert_eq!(names.len(), 5);
        assert!(names.iter().all(|n| matches!(n, ServerName::DnsName(_))));
    }
}
