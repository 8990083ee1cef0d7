//! A server certificate by DNS name: how an API server knows the webhooks of a control plane.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::ServerConfig;

use super::{AuthorityError, CertificateAuthority};
use crate::csr::KeyPair;
use crate::tls::https_server;

/// A server's configuration and the end of its certificate. Its `Debug` shows no key.
#[derive(Clone)]
pub struct HttpsServer {
    config: Arc<ServerConfig>,
    not_after: u64,
}

impl HttpsServer {
    /// Returns the configuration for new connections: TLS 1.3, HTTP/1.1, no client certificate.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Returns the last second, in Unix time, in which the certificate is valid.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.not_after
    }
}

impl fmt::Debug for HttpsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsServer").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// Makes a key, in memory only, and signs a server certificate for it that names DNS names and nothing else, valid from `now` (Unix
    /// seconds) for `lifetime`, cut to the authority's own end.
    ///
    /// It is no X509-SVID, so that no sidecar takes it for a workload's.
    ///
    /// # Errors
    /// When a name is no DNS name, the authority has expired, or the cryptographic library refuses.
    pub fn https_server(&self, dns_names: &[String], lifetime: Duration, now: u64) -> Result<HttpsServer, AuthorityError> {
        self.refuse_expired(now)?;
        let key = KeyPair::generate().map_err(|_| AuthorityError::Unusable("the system makes no key"))?;
        let mut params = self.leaf(lifetime, now)?;
        params.subject_alt_names =
            dns_names.iter().map(|name| Ok(SanType::DnsName(name.as_str().try_into()?))).collect::<Result<_, rcgen::Error>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let signed = params.signed_by(key.key_pair(), &self.issuer)?;
        let config = https_server(self.with_chain(signed.der()), key.private_key())
            .map_err(|_| AuthorityError::Unusable("no server configuration can be made"))?;
        Ok(HttpsServer { config, not_after: self.end_of(lifetime, now) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unix_now;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
    use rustls_pki_types::ServerName;

    const NAME: &str = "heddle-control-plane.heddle-system.svc";

    /// Shakes hands as an API server does: by DNS name, with the roots that it was given.
    fn connect(server: &HttpsServer, roots: &crate::TrustBundle, name: &str) -> Result<(), rustls::Error> {
        let mut store = RootCertStore::empty();
        for root in roots.roots(&"td".parse().unwrap()) {
            store.add(root.clone()).unwrap();
        }
        let client = ClientConfig::builder_with_provider(crate::tls::provider().clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(store)
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
        let mut server = ServerConnection::new(server.config()).unwrap();
        while client.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut &wire[..]).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            client.read_tls(&mut &wire[..]).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    fn authority() -> CertificateAuthority {
        CertificateAuthority::create(&"td".parse().unwrap(), unix_now()).unwrap()
    }

    #[test]
    fn a_client_with_the_roots_accepts_the_name_and_no_other() {
        let (own, other) = (authority(), authority());
        let server = own.https_server(&[NAME.to_owned()], Duration::from_secs(3600), unix_now()).unwrap();
        connect(&server, own.trust_bundle(), NAME).unwrap();
        assert!(connect(&server, own.trust_bundle(), "elsewhere.svc").is_err());
        assert!(connect(&server, other.trust_bundle(), NAME).is_err());
    }

    #[test]
    fn it_ends_with_its_lifetime_or_with_the_authority() {
        let authority = authority();
        let end = |lifetime| authority.https_server(&[NAME.to_owned()], lifetime, 1_800_000_000).map(|server| server.not_after());
        assert_eq!(end(Duration::from_secs(60)).unwrap(), 1_800_000_060);
        assert_eq!(end(Duration::from_secs(u64::MAX)).unwrap(), authority.not_after());
        let expired = authority.https_server(&[NAME.to_owned()], Duration::from_secs(60), authority.not_after());
        assert!(matches!(expired, Err(AuthorityError::Expired { .. })));
    }
}
