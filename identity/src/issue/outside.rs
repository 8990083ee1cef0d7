//! An authority as text: to be kept in a Secret, or handed over by an outside CA (cert-manager's form: `tls.key`, `tls.crt`, `ca.crt`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use heddle_model::spiffe_id::{SpiffeId, TrustDomain};
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{AuthorityError, CertificateAuthority, private_key};
use crate::certificate::MAX_CHAIN;
use crate::trust::TrustBundle;
use crate::verify::{Anchors, ServerVerifier};

/// A private key and its certificate as PEM. Its `Debug` shows no key.
pub struct AuthorityPem {
    /// The private key, PKCS #8.
    pub key: String,
    /// The certificate.
    pub certificate: String,
}

impl fmt::Debug for AuthorityPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityPem").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// Reads an authority from the PEM of its private key, of its certificate with those above it, and of the roots that everybody is
    /// to trust. Roots of an outside CA are above the issuing certificate; a root of its own is both.
    ///
    /// It is tried out: a certificate that it signs `now` (Unix seconds) must be verifiable with these roots.
    ///
    /// # Errors
    /// As [`CertificateAuthority::from_pem`]; when the roots make no trust bundle, when the chain is longer than a leaf may show, and
    /// when the roots do not verify what the key signs.
    pub fn from_chain_pem(
        trust_domain: &TrustDomain,
        key: &str,
        certificates: &str,
        roots: &str,
        now: u64,
    ) -> Result<Self, AuthorityError> {
        let unreadable = || AuthorityError::Unusable("the certificate is not in pem form");
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificates.as_bytes())
            .take(MAX_CHAIN + 1)
            .collect::<Result<_, _>>()
            .map_err(|_| unreadable())?;
        let issuing = chain.first().cloned().ok_or_else(unreadable)?;
        let bundle = TrustBundle::from_pem(trust_domain, roots.as_bytes())?;
        let mut authority = Self::new(trust_domain, private_key(key)?, issuing)?;
        // An anchor is what peers have already.
        authority.chain = chain.into_iter().take_while(|certificate| !bundle.roots(trust_domain).contains(certificate)).collect();
        if authority.chain.len() >= MAX_CHAIN {
            return Err(AuthorityError::Unusable("the chain is too long: give the issuing certificate and those between it and the root"));
        }
        authority.bundle = bundle;
        authority.try_out(now)?;
        Ok(authority)
    }

    /// Returns the key and the certificate, for a place that only the owner can read.
    #[must_use]
    pub fn to_pem(&self) -> AuthorityPem {
        let certificate = pem::encode_config(
            &pem::Pem::new("CERTIFICATE", self.certificate.to_vec()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        );
        AuthorityPem { key: self.issuer.key().serialize_pem(), certificate }
    }

    /// Signs a certificate that nobody uses, and verifies it as a peer would.
    fn try_out(&self, now: u64) -> Result<(), AuthorityError> {
        const FAILED: AuthorityError =
            AuthorityError::Unusable("the roots do not verify what the key signs: the chain between them is incomplete, or not valid now");
        let id = SpiffeId::workload(&self.trust_domain, "heddle", "trial").map_err(|_| AuthorityError::Unusable("no trial id"))?;
        let (_, request) = crate::csr::csr(&id).map_err(|_| AuthorityError::Unusable("the system makes no key"))?;
        let trial = self.sign(&request, &id, Duration::from_secs(60), now)?;
        let (leaf, intermediates) = trial.chain().split_first().ok_or(FAILED)?;
        let anchors = Arc::new(Anchors::new(&self.bundle, crate::tls::provider()).map_err(|_| FAILED)?);
        let verifier = ServerVerifier { anchors, expected: id };
        let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
        let at = UnixTime::since_unix_epoch(Duration::from_secs(now));
        verifier.verify_server_cert(leaf, intermediates, &name, &[], at).map_err(|_| FAILED)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

    const NOW: u64 = 1_800_000_000;

    fn domain() -> TrustDomain {
        "td".parse().unwrap()
    }

    fn ca(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        super::super::set_dates(&mut params, NOW - 60, NOW + 1_000_000);
        params
    }

    /// An outside root, an intermediate, and an issuing certificate below it: key, certificates, roots.
    fn outside() -> (String, [String; 3]) {
        let [root_key, middle_key, key] = [(); 3].map(|()| KeyPair::generate().unwrap());
        let root = ca("root").self_signed(&root_key).unwrap();
        let middle = ca("middle").signed_by(&middle_key, &Issuer::from_params(&ca("root"), &root_key)).unwrap();
        let issuing = ca("issuing").signed_by(&key, &Issuer::from_params(&ca("middle"), &middle_key)).unwrap();
        (key.serialize_pem(), [issuing.pem(), middle.pem(), root.pem()])
    }

    #[test]
    fn an_outside_ca_signs_with_its_chain_and_its_root_is_trusted() {
        let (key, [issuing, middle, root]) = outside();
        for certificates in [format!("{issuing}{middle}"), format!("{issuing}{middle}{root}")] {
            let authority = CertificateAuthority::from_chain_pem(&domain(), &key, &certificates, &root, NOW).unwrap();
            assert_eq!(authority.trust_bundle().to_pem(&domain()).replace("\r\n", "\n").trim(), root.replace("\r\n", "\n").trim());
            let id: SpiffeId = "spiffe://td/ns/a/sa/b".parse().unwrap();
            let (_, request) = crate::csr(&id).unwrap();
            // The leaf, the issuing certificate, and the one in the middle: the root is known.
            assert_eq!(authority.sign(&request, &id, Duration::from_secs(60), NOW).unwrap().chain().len(), 3);
        }
    }

    #[test]
    fn a_chain_that_does_not_reach_the_roots_is_refused() {
        let (key, [issuing, _, root]) = outside();
        let (_, [_, _, other]) = outside();
        for roots in [&root, &other] {
            let error = CertificateAuthority::from_chain_pem(&domain(), &key, &issuing, roots, NOW).unwrap_err();
            assert!(error.to_string().contains("do not verify what the key signs"), "{error}");
        }
    }

    #[test]
    fn an_own_root_survives_as_text_and_its_debug_shows_no_key() {
        let authority = CertificateAuthority::create(&domain(), NOW).unwrap();
        let pem = authority.to_pem();
        assert!(!format!("{pem:?}").contains("PRIVATE"));
        let roots = authority.trust_bundle().to_pem(&domain());
        let read = CertificateAuthority::from_chain_pem(&domain(), &pem.key, &pem.certificate, &roots, NOW).unwrap();
        assert_eq!(read.trust_bundle(), authority.trust_bundle());
        assert!(read.chain.is_empty());
    }
}
