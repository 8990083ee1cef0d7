//! A fresh key pair, and the certificate signing request that carries its SPIFFE id.

use std::fmt;

use heddle_model::spiffe_id::SpiffeId;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;

/// Why no key pair or request could be made: the cryptographic library refused.
#[derive(Debug, Error)]
#[error("cannot make a key pair and certificate signing request")]
pub struct CsrError(#[from] rcgen::Error);

/// An ECDSA P-256 key pair of a workload. It lives in memory only.
///
/// P-256, because every TLS stack and every outside CA takes it, and signing costs tens of microseconds. Whatever prints it
/// prints no key.
pub struct KeyPair(rcgen::KeyPair);

impl KeyPair {
    /// Generates a key pair from the system's randomness.
    ///
    /// # Errors
    /// When the cryptographic library has no randomness.
    pub fn generate() -> Result<Self, CsrError> {
        Ok(Self(rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }

    /// Writes the request (PKCS #10, DER) for a certificate of this key: an empty subject and one URI SAN, the id
    /// (X509-SVID §2).
    ///
    /// # Errors
    /// When the cryptographic library cannot sign.
    pub fn csr(&self, id: &SpiffeId) -> Result<Vec<u8>, CsrError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(id)?];
        Ok(params.serialize_request(&self.0)?.der().to_vec())
    }

    /// The pair itself, for the authority to sign its public half.
    pub(crate) fn key_pair(&self) -> &rcgen::KeyPair {
        &self.0
    }

    /// Returns a copy of the private key for rustls. It stays inside this crate.
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(hidden)")
    }
}

/// Generates a key pair and the request (PKCS #10, DER) for its first certificate.
///
/// # Errors
/// As [`KeyPair::generate`] and [`KeyPair::csr`].
pub fn csr(id: &SpiffeId) -> Result<(KeyPair, Vec<u8>), CsrError> {
    let key = KeyPair::generate()?;
    let request = key.csr(id)?;
    Ok((key, request))
}

/// The id as a URI subject alternative name.
pub(crate) fn uri(id: &SpiffeId) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(Ia5String::try_from(id.as_str())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_key() {
        let key = KeyPair::generate().unwrap();
        assert_eq!(format!("{key:?}"), "KeyPair(hidden)");
    }

    #[test]
    fn request_carries_only_the_id_and_is_signed() {
        use x509_parser::prelude::*;
        let id: SpiffeId = "spiffe://td/ns/a/sa/b".parse().unwrap();
        let (_, der) = csr(&id).unwrap();
        let (rest, request) = X509CertificationRequest::from_der(&der).unwrap();
        assert!(rest.is_empty());
        request.verify_signature().unwrap();
        assert_eq!(request.certification_request_info.subject.iter_rdn().count(), 0);
        let names: Vec<_> =
            request
                .requested_extensions()
                .unwrap()
                .filter_map(|extension| {
                    if let ParsedExtension::SubjectAlternativeName(san) = extension { Some(san.general_names.clone()) } else { None }
                })
                .flatten()
                .collect();
        assert_eq!(names, [GeneralName::URI("spiffe://td/ns/a/sa/b")]);
    }
}
