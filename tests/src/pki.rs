//! Certificates that a test makes itself, by the mesh's own authority or a foreign one, and TLS clients and servers which show them.

use crate::mesh::Mesh;
use heddle_identity::issue::CertificateAuthority;
use heddle_identity::unix_now;
use heddle_model::spiffe_id::{SpiffeId, TrustDomain};
use rcgen::{CertificateParams, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;

/// An authority that signs what a test wants.
#[derive(Debug)]
pub struct Authority(CertificateAuthority);

/// What a client shows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// No certificate.
    None,
    /// A certificate of this id that is valid now.
    Valid(String),
    /// A certificate of this id that was valid an hour ago.
    Expired(String),
}

impl Authority {
    /// The authority of a mesh.
    ///
    /// # Panics
    /// When its files cannot be read.
    pub fn of(mesh: &Mesh) -> Self {
        let read = |name| std::fs::read_to_string(mesh.state().join("ca").join(name)).expect("the authority's files");
        Self(CertificateAuthority::from_pem(&trust_domain(), &read("ca.key"), &read("root.pem")).expect("an authority"))
    }

    /// Another authority of the same trust domain, which the mesh has never heard of.
    ///
    /// # Panics
    /// When there is no randomness.
    pub fn foreign() -> Self {
        Self(CertificateAuthority::create(&trust_domain(), unix_now()).expect("an authority"))
    }

    /// A client that takes any server, offers `alpn`, and shows `credential`.
    ///
    /// # Panics
    /// When the credential's id is none.
    pub fn client(&self, credential: &Credential, alpn: &[u8]) -> Arc<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().expect("versions");
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
        let mut config = match credential {
            Credential::None => builder.with_no_client_auth(),
            Credential::Valid(id) => self.with(builder, id, unix_now(), Duration::from_secs(3600)),
            // Dated back by a minute at most, so it has long ended.
            Credential::Expired(id) => self.with(builder, id, unix_now() - 3600, Duration::from_secs(60)),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }

    fn with(
        &self,
        builder: rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
        id: &str,
        now: u64,
        lifetime: Duration,
    ) -> ClientConfig {
        let id: SpiffeId = id.parse().expect("a SPIFFE id");
        let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().expect("an id in ASCII"))];
        let request = params.serialize_request(&key).expect("a request");
        let certificate = self.0.sign(request.der(), &id, lifetime, now).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        builder.with_client_auth_cert(certificate.chain().to_vec(), key.into()).expect("a certificate for its key")
    }
}

/// An ordinary TLS server for a DNS name and a client that trusts it: an application's own TLS, which is no business of the mesh.
///
/// # Panics
/// When there is no randomness.
pub fn application(name: &str, alpn: &[u8]) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let certificate = CertificateParams::new([name.to_owned()]).expect("a name").self_signed(&key).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("a root");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().expect("versions");
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut server = server.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key.into()).expect("a certificate");
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    server.alpn_protocols = vec![alpn.to_vec()];
    client.alpn_protocols = vec![alpn.to_vec()];
    (Arc::new(server), Arc::new(client))
}

fn trust_domain() -> TrustDomain {
    "cluster.local".parse().expect("a trust domain")
}

/// Takes any server: a test looks at the certificate itself.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
