//! The certificate authority of the control plane: a root of its own, and short-lived workload certificates signed by it.

mod https;
mod outside;
mod store;

pub use https::HttpsServer;
pub use outside::AuthorityPem;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use heddle_model::spiffe_id::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use crate::certificate::{Certificate, CertificateError, dates, parse, uri};
use crate::trust::{TrustBundle, TrustError};

/// How long a root is valid: 10 years. Roots are replaced by overlap (see [`TrustBundle::union`]) and not by expiry.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How far certificates are dated back, for peers whose clocks are behind.
pub const BACKDATING: Duration = Duration::from_secs(60);

/// Largest request that is read. One for P-256 with the longest SPIFFE id (2 KiB) has less than 3 KiB.
pub const MAX_CSR_BYTES: usize = 8 * 1024;

/// Why the authority cannot be made, kept, or does not sign.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The cryptographic library refused to make a key or a signature.
    #[error("cannot make a key or sign a certificate")]
    Crypto(#[from] rcgen::Error),
    /// The key or the certificate of the authority is unusable, or they do not belong together.
    #[error("the authority's key and certificate are unusable: {0}")]
    Unusable(&'static str),
    /// The request is no acceptable PKCS #10 request for the expected id.
    #[error("the certificate signing request for {id} is refused: {reason}")]
    Request {
        /// Who asked, as authenticated by the caller.
        id: SpiffeId,
        /// What is wrong with the request.
        reason: &'static str,
    },
    /// The authority's own certificate is not valid now.
    #[error("the authority's certificate expired at {not_after} (unix seconds): make a new root")]
    Expired {
        /// The end of its life in Unix seconds.
        not_after: u64,
    },
    /// What was signed does not parse as a workload certificate: a fault of this program.
    #[error("the signed certificate is not a workload certificate")]
    Signed(#[from] CertificateError),
    /// The authority's certificate is no root.
    #[error("the authority's certificate makes no trust bundle")]
    Trust(#[from] TrustError),
    /// A file could not be read or written.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file or directory that must be the owner's alone, or must be complete, is not.
    #[error("{}: {reason}", path.display())]
    Unsafe {
        /// Which file or directory.
        path: PathBuf,
        /// What is wrong with it and the way out.
        reason: String,
    },
}

/// The key and certificate that sign workload certificates of one trust domain. Its `Debug` shows no key.
pub struct CertificateAuthority {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, rcgen::KeyPair>,
    certificate: CertificateDer<'static>,
    /// What follows a leaf, so that peers can verify it: the issuing certificate and those above it, without the anchor. Empty where
    /// the issuing certificate is the anchor.
    chain: Vec<CertificateDer<'static>>,
    bundle: TrustBundle,
    not_before: u64,
    not_after: u64,
}

impl CertificateAuthority {
    /// Creates a new root for a trust domain, valid for [`ROOT_LIFETIME`] from `now` (Unix seconds).
    ///
    /// The root may sign leaves only (path length 0), and names the trust domain by a SPIFFE id without a path (X509-SVID §3).
    ///
    /// # Errors
    /// When the cryptographic library refuses.
    pub fn create(trust_domain: &TrustDomain, now: u64) -> Result<Self, AuthorityError> {
        let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        // A common name has at most 64 characters (RFC 5280 appendix A.1), less than a trust domain may have: the SAN names that.
        // The serial number in it tells roots apart, so that a verifier who trusts several tries the right one only.
        let serial = random_serial()?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("heddle root {serial}"));
        let name = format!("spiffe://{trust_domain}");
        params.subject_alt_names = vec![rcgen::SanType::URI(name.try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial);
        set_dates(&mut params, now.saturating_sub(BACKDATING.as_secs()), now.saturating_add(ROOT_LIFETIME.as_secs()));
        let certificate = params.self_signed(&key)?.der().clone();
        Self::new(trust_domain, key, certificate)
    }

    /// Reads an authority from the PEM of its private key and of its certificate. The certificate is the trust anchor, whoever has
    /// signed it.
    ///
    /// # Errors
    /// When either does not parse, the certificate is no CA, names another trust domain, or does not belong to the key.
    pub fn from_pem(trust_domain: &TrustDomain, key: &str, certificate: &str) -> Result<Self, AuthorityError> {
        let key = private_key(key)?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| AuthorityError::Unusable("the certificate is not in pem form"))?;
        Self::new(trust_domain, key, certificate)
    }

    /// Signs a request (PKCS #10, DER) for a workload that the caller has authenticated as `id`, valid from `now` (Unix seconds,
    /// dated back by [`BACKDATING`]) for `lifetime`, cut to whole seconds and to the authority's own end.
    ///
    /// From the request only the public key is taken. It must be P-256 and must have signed the request, and the request must
    /// ask for exactly the id and no other name, which finds a workload that mistakes itself for another; every other extension
    /// in it is ignored.
    ///
    /// # Errors
    /// When the request is refused, the authority has expired, or the cryptographic library refuses.
    pub fn sign(&self, csr: &[u8], id: &SpiffeId, lifetime: Duration, now: u64) -> Result<Certificate, AuthorityError> {
        let refuse = |reason| AuthorityError::Request { id: id.clone(), reason };
        if id.trust_domain() != &self.trust_domain {
            return Err(refuse("the id is of another trust domain"));
        }
        if lifetime.as_secs() == 0 {
            return Err(refuse("the lifetime is shorter than a second"));
        }
        self.refuse_expired(now)?;
        let key = requested_key(csr, id).map_err(refuse)?;
        let mut params = self.leaf(lifetime, now)?;
        params.subject_alt_names = vec![crate::csr::uri(id)?];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let signed = params.signed_by(&key, &self.issuer)?;
        Ok(Certificate::from_chain(self.with_chain(signed.der()))?)
    }

    /// Returns the trust domain whose workloads it names.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns the end of its own certificate, in Unix seconds.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Returns the bundle that trusts this authority: itself, or the roots above it.
    #[must_use]
    pub fn trust_bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    fn refuse_expired(&self, now: u64) -> Result<(), AuthorityError> {
        if now >= self.not_after { Err(AuthorityError::Expired { not_after: self.not_after }) } else { Ok(()) }
    }

    /// What every leaf has in common, whomever it names.
    fn leaf(&self, lifetime: Duration, now: u64) -> Result<CertificateParams, AuthorityError> {
        let mut params = CertificateParams::default();
        // An empty subject makes the SAN critical (RFC 5280 §4.2.1.6).
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(random_serial()?);
        let not_before = now.saturating_sub(BACKDATING.as_secs()).max(self.not_before);
        set_dates(&mut params, not_before, self.end_of(lifetime, now));
        Ok(params)
    }

    fn end_of(&self, lifetime: Duration, now: u64) -> u64 {
        now.saturating_add(lifetime.as_secs()).min(self.not_after)
    }

    fn with_chain(&self, leaf: &CertificateDer<'static>) -> Vec<CertificateDer<'static>> {
        std::iter::once(leaf).chain(&self.chain).cloned().collect()
    }

    fn new(trust_domain: &TrustDomain, key: rcgen::KeyPair, certificate: CertificateDer<'static>) -> Result<Self, AuthorityError> {
        let (not_before, not_after) = check_authority(trust_domain, &key, &certificate)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        let bundle = TrustBundle::new(trust_domain, [certificate.to_vec()])?;
        Ok(Self { trust_domain: trust_domain.clone(), issuer, certificate, chain: Vec::new(), bundle, not_before, not_after })
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("trust_domain", &self.trust_domain)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Reads a private key: PKCS #8, PKCS #1 or SEC 1. The error quotes nothing of it.
fn private_key(pem: &str) -> Result<rcgen::KeyPair, AuthorityError> {
    rcgen::KeyPair::from_pem(pem).map_err(|_| AuthorityError::Unusable("the key is not a private key in pem form"))
}

/// Checks that the certificate is a CA's, belongs to the key and to the trust domain; returns its dates.
fn check_authority(
    trust_domain: &TrustDomain,
    key: &rcgen::KeyPair,
    certificate: &CertificateDer<'_>,
) -> Result<(u64, u64), AuthorityError> {
    let parsed = parse(certificate, 0)?;
    let usage = parsed.key_usage().ok().flatten();
    if !parsed.is_ca() || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(AuthorityError::Unusable("the certificate may not sign certificates (no ca)"));
    }
    if parsed.public_key().subject_public_key.data != key.public_key_raw() {
        return Err(AuthorityError::Unusable("the certificate is of another key"));
    }
    // X509-SVID §3: a signing certificate may name its trust domain; one that names another is a mix-up.
    let names = parsed.subject_alternative_name().ok().flatten();
    let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(uri);
    if uris.any(|uri| uri.strip_prefix("spiffe://") != Some(trust_domain.as_str())) {
        return Err(AuthorityError::Unusable("the certificate names another trust domain"));
    }
    Ok(dates(parsed.validity(), 0)?)
}

/// Reads the public key of a request which asks for exactly `id` and is signed by that key.
fn requested_key(csr: &[u8], id: &SpiffeId) -> Result<SubjectPublicKeyInfo, &'static str> {
    if csr.len() > MAX_CSR_BYTES {
        return Err("it is larger than 8 KiB");
    }
    let Ok(([], request)) = X509CertificationRequest::from_der(csr) else {
        return Err("it is not a pkcs #10 request in der form");
    };
    let key =
        SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw).map_err(|_| "its key is of an unknown type")?;
    if rcgen::PublicKeyData::algorithm(&key) != &PKCS_ECDSA_P256_SHA256 {
        return Err("its key is not ECDSA P-256");
    }
    request.verify_signature().map_err(|_| "its signature is not by its own key")?;
    let mut names = request
        .requested_extensions()
        .into_iter()
        .flatten()
        .filter_map(
            |extension| {
                if let ParsedExtension::SubjectAlternativeName(names) = extension { Some(&names.general_names) } else { None }
            },
        )
        .flatten();
    match (names.next(), names.next()) {
        (Some(name), None) if uri(name) == Some(id.as_str()) => Ok(key),
        (None, _) => Err("it asks for no name: put the spiffe id into a uri san"),
        (Some(_), _) => Err("it asks for another name than this id"),
    }
}

/// 127 random bits: unique without a counter (RFC 5280 §4.1.2.2 allows 20 bytes; the first bit is the sign).
fn random_serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| AuthorityError::Unusable("the system has no randomness"))?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

fn set_dates(params: &mut CertificateParams, not_before: u64, not_after: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
}

#[cfg(test)]
#[path = "issue/tests.rs"]
mod tests;
