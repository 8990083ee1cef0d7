//! Verification of a peer: its chain against the roots of its own trust domain, and its SPIFFE id instead of a host name.
//!
//! The verifiers run inside the handshake. What comes out of it is [`VerifiedPeer`]: a value that only this file makes, and without
//! which the proxy has no mesh connection to send bytes on.

use std::collections::HashMap;
use std::sync::Arc;

use heddle_model::spiffe_id::{SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConnection, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, ServerConnection, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use thiserror::Error;

use crate::certificate::{CertificateError, Leaf};
use crate::trust::TrustBundle;

/// Why a peer's certificate is refused, beyond what rustls itself finds (expired, unknown issuer, bad signature).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// The certificate is no X509-SVID.
    #[error("the peer's certificate is not a workload certificate")]
    Certificate(#[from] CertificateError),
    /// There are no roots for the trust domain that the certificate names.
    #[error("the peer calls itself {0}, and there is no root for its trust domain")]
    UntrustedDomain(SpiffeId),
    /// The chain is good, but it names another workload.
    #[error("the peer is {presented}, and {expected} was expected")]
    WrongIdentity {
        /// Who should have been there.
        expected: SpiffeId,
        /// Who was there.
        presented: SpiffeId,
    },
}

impl VerifyError {
    /// Finds this error in what a handshake has failed with, for its metric and its log line.
    #[must_use]
    pub fn find(error: &rustls::Error) -> Option<&Self> {
        if let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(OtherError(e))) = error { e.downcast_ref() } else { None }
    }
}

impl From<VerifyError> for rustls::Error {
    fn from(error: VerifyError) -> Self {
        Self::InvalidCertificate(rustls::CertificateError::Other(OtherError(Arc::new(error))))
    }
}

/// Why a finished connection has no verified peer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PeerError {
    /// The handshake goes on: nothing is proven yet.
    #[error("the handshake is not finished")]
    Handshaking,
    /// The peer has shown no certificate.
    #[error("the peer has shown no certificate")]
    NoCertificate,
    /// The certificate is no X509-SVID, or names another workload.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// A resumed session outlived the certificate that it was made with.
    #[error("the certificate of {id} expired at {not_after} (unix seconds), after it was verified")]
    Expired {
        /// Whose certificate.
        id: SpiffeId,
        /// The last second of its life.
        not_after: u64,
    },
}

/// Proof that the other side of a connection holds the key of a certificate which one of its trust domain's roots has signed.
///
/// Constructed only here, from a finished connection with a configuration of [`crate::tls`]. A resumed session shows the certificate
/// that was verified when the session began; since no time has been compared for it in this handshake, the end of its validity
/// is checked here, for every connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPeer {
    id: SpiffeId,
    not_after: u64,
}

impl VerifiedPeer {
    /// Takes the proof from a connection that a mesh client has made to us. `now` is in Unix seconds.
    ///
    /// # Errors
    /// When the handshake goes on, or the certificate is missing or has expired.
    pub fn from_client(connection: &ServerConnection, now: u64) -> Result<Self, PeerError> {
        finished(connection.is_handshaking())?;
        Self::from_chain(connection.peer_certificates(), now)
    }

    /// Takes the proof from a connection whose client may have no certificate yet: `None` for such a client. `now` is in Unix
    /// seconds.
    ///
    /// # Errors
    /// When the handshake goes on, or there is a certificate and it has expired.
    pub fn from_optional_client(connection: &ServerConnection, now: u64) -> Result<Option<Self>, PeerError> {
        match Self::from_client(connection, now) {
            Ok(peer) => Ok(Some(peer)),
            Err(PeerError::NoCertificate) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes the proof from a connection that we have made to `expected`. `now` is in Unix seconds.
    ///
    /// The handshake has compared the id already, unless it was resumed; the comparison here holds for both.
    ///
    /// # Errors
    /// When the handshake goes on, the certificate has expired, or the server is not `expected`.
    pub fn from_server(connection: &ClientConnection, expected: &SpiffeId, now: u64) -> Result<Self, PeerError> {
        finished(connection.is_handshaking())?;
        let peer = Self::from_chain(connection.peer_certificates(), now)?;
        check_identity(expected, &peer.id)?;
        Ok(peer)
    }

    /// Returns who the peer is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Returns the end of the certificate's validity in Unix seconds. A connection may last longer: what expires is the right to
    /// open new ones.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    fn from_chain(chain: Option<&[CertificateDer<'_>]>, now: u64) -> Result<Self, PeerError> {
        let chain = chain.filter(|chain| !chain.is_empty()).ok_or(PeerError::NoCertificate)?;
        let Leaf { id, not_before: _, not_after } = Leaf::parse(chain).map_err(VerifyError::from)?;
        if now > not_after {
            return Err(PeerError::Expired { id, not_after });
        }
        Ok(Self { id, not_after })
    }
}

fn finished(handshaking: bool) -> Result<(), PeerError> {
    if handshaking { Err(PeerError::Handshaking) } else { Ok(()) }
}

fn check_identity(expected: &SpiffeId, presented: &SpiffeId) -> Result<(), VerifyError> {
    if expected == presented {
        Ok(())
    } else {
        Err(VerifyError::WrongIdentity { expected: expected.clone(), presented: presented.clone() })
    }
}

/// A trust bundle in the form that verification needs: anchors parsed once, one set for each trust domain.
#[derive(Debug)]
pub(crate) struct Anchors {
    domains: HashMap<TrustDomain, Domain>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Domain {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Anchors {
    pub(crate) fn new(bundle: &TrustBundle, provider: &Arc<CryptoProvider>) -> Result<Self, rustls::Error> {
        let mut domains = HashMap::new();
        for trust_domain in bundle.trust_domains() {
            let mut roots = RootCertStore::empty();
            for root in bundle.roots(trust_domain) {
                roots.add(root.clone())?;
            }
            let roots = Arc::new(roots);
            let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
                .build()
                .map_err(|e| rustls::Error::General(e.to_string()))?;
            domains.insert(trust_domain.clone(), Domain { roots, clients });
        }
        Ok(Self { domains, algorithms: provider.signature_verification_algorithms })
    }

    /// Parses the leaf and finds the anchors of the trust domain that it names.
    fn find(&self, end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(SpiffeId, &Domain), VerifyError> {
        // The issuers are webpki's matter; here they only count.
        if intermediates.len() >= crate::certificate::MAX_CHAIN {
            return Err(CertificateError::ChainLength(intermediates.len() + 1).into());
        }
        let Leaf { id, .. } = Leaf::parse(std::slice::from_ref(end_entity))?;
        match self.domains.get(id.trust_domain()) {
            Some(domain) => Ok((id, domain)),
            None => Err(VerifyError::UntrustedDomain(id)),
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

/// No configuration of ours offers TLS 1.2, so that rustls never asks for this.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::General("only tls 1.3 is spoken between heddle's processes".into()))
}

/// Verifies that a server is one expected workload. There is one verifier for each expected id; they share the anchors.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    pub(crate) anchors: Arc<Anchors>,
    pub(crate) expected: SpiffeId,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (id, domain) = self.anchors.find(end_entity, intermediates)?;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &domain.roots,
            intermediates,
            now,
            self.anchors.algorithms.all,
        )?;
        // After the chain, so that the error never repeats a name which nobody vouches for.
        check_identity(&self.expected, &id)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.anchors.verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.anchors.algorithms.supported_schemes()
    }
}

/// Verifies that a client is some workload of a trusted domain. Who may do what is authorization's matter.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub(crate) anchors: Arc<Anchors>,
    /// Whether a client without a certificate is refused.
    pub(crate) mandatory: bool,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    // Empty: a workload has one certificate to show, whatever we would hint at, and the hints cost bytes.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let (_, domain) = self.anchors.find(end_entity, intermediates)?;
        domain.clients.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.anchors.verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.anchors.algorithms.supported_schemes()
    }
}
