//! A workload's certificate: the leaf with its chain, whom it names (X509-SVID), and when to renew it.

use std::sync::Arc;
use std::time::Duration;

use heddle_model::spiffe_id::{SpiffeId, SpiffeIdError};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::certificate::{Validity, X509Certificate};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Most certificates in a chain, the leaf included. An own root signs leaves directly (1); an outside CA rarely has more than two
/// intermediates.
pub const MAX_CHAIN: usize = 8;

/// Renewal happens this far around the half of the remaining life at most, as a fraction of that life, so that sidecars
/// which started together do not ask together: for 24 h it spreads them over 2.4 h.
const REFRESH_SPREAD: f64 = 0.1;

/// Why a certificate chain is no X509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// The chain is empty or longer than [`MAX_CHAIN`].
    #[error("a certificate chain has 1 to {MAX_CHAIN} certificates, this one has {0}")]
    ChainLength(usize),
    /// One of the certificates is not DER of X.509.
    #[error("certificate {0} of the chain (counted from 0) is not an X.509 certificate")]
    Encoding(usize),
    /// The leaf has no URI SAN, or more than one (X509-SVID §2).
    #[error("a workload certificate has exactly one uri name, this one has {0}")]
    UriNames(usize),
    /// The URI SAN is no SPIFFE id.
    #[error("the uri name of the certificate is not a spiffe id")]
    Name(#[from] SpiffeIdError),
    /// The URI SAN names a trust domain and no workload (X509-SVID §2).
    #[error("the certificate names the trust domain {0} and no workload in it")]
    NoPath(SpiffeId),
    /// The leaf may sign certificates or may not sign handshakes (X509-SVID §4.1, §4.3).
    #[error("a workload certificate is no ca, has the key usage digitalSignature, and neither keyCertSign nor cRLSign")]
    Usage,
    /// A validity date lies before 1970.
    #[error("certificate {0} of the chain (counted from 0) has a validity date before 1970")]
    Date(usize),
}

/// A leaf certificate with its chain, parsed as X509-SVID §2 to §4 ask. Cloning copies pointers.
///
/// That it parses says nothing about who signed it: that is [`crate::verify`]'s matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    chain: Arc<[CertificateDer<'static>]>,
    id: SpiffeId,
    not_before: u64,
    not_after: u64,
}

impl Certificate {
    /// Parses a chain, leaf first, without the root.
    ///
    /// # Errors
    /// When a certificate does not parse, or the leaf is no X509-SVID of a workload.
    pub fn from_chain(chain: Vec<CertificateDer<'static>>) -> Result<Self, CertificateError> {
        let leaf = Leaf::parse(&chain)?;
        Ok(Self { chain: chain.into(), id: leaf.id, not_before: leaf.not_before, not_after: leaf.not_after })
    }

    /// Parses a chain of DER certificates, leaf first, as the wire carries it.
    ///
    /// # Errors
    /// As [`Certificate::from_chain`].
    pub fn from_der(chain: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, CertificateError> {
        // One more than allowed is enough to refuse the rest.
        let chain = chain.into_iter().take(MAX_CHAIN + 1);
        Self::from_chain(chain.map(CertificateDer::from).collect())
    }

    /// Returns the chain, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Returns the workload that the leaf names.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Returns when the leaf becomes valid, in Unix seconds.
    #[must_use]
    pub fn not_before(&self) -> u64 {
        self.not_before
    }

    /// Returns the last second, in Unix time, in which the whole chain is valid.
    #[must_use]
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Returns how long the chain stays valid after `now` (Unix seconds); zero when it has expired.
    #[must_use]
    pub fn remaining(&self, now: u64) -> Duration {
        Duration::from_secs(self.not_after.saturating_sub(now))
    }

    /// Returns how long after `now` (Unix seconds) to renew: half of the remaining life, moved by up to a twentieth of it either
    /// way. `jitter` is a random number in `0..=1`; 0.5 gives exactly the half, and anything outside is taken as the nearer end.
    ///
    /// Measured from `now` and not from `not_before`, because the authority dates certificates back: call it once, when the
    /// certificate arrives. A duration and not a date, because tests use lifetimes of a few seconds.
    #[must_use]
    pub fn refresh_after(&self, now: u64, jitter: f64) -> Duration {
        let jitter = if jitter.is_nan() { 0.5 } else { jitter.clamp(0.0, 1.0) };
        self.remaining(now).mul_f64(0.5 + (jitter - 0.5) * REFRESH_SPREAD)
    }
}

/// What the certificates of a chain say, borrowed from nobody.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    pub(crate) not_before: u64,
    /// The earliest end of the chain's certificates.
    pub(crate) not_after: u64,
}

impl Leaf {
    pub(crate) fn parse(chain: &[CertificateDer<'_>]) -> Result<Self, CertificateError> {
        let (leaf, issuers) = match chain.split_first() {
            Some((leaf, issuers)) if chain.len() <= MAX_CHAIN => (leaf, issuers),
            Some(_) | None => return Err(CertificateError::ChainLength(chain.len())),
        };
        let leaf = parse(leaf, 0)?;
        check_usage(&leaf)?;
        let id = workload_id(&leaf)?;
        let (not_before, mut not_after) = dates(leaf.validity(), 0)?;
        for (at, issuer) in issuers.iter().enumerate() {
            let (_, end) = dates(parse(issuer, at + 1)?.validity(), at + 1)?;
            not_after = not_after.min(end);
        }
        Ok(Self { id, not_before, not_after })
    }
}

/// Reads the dates of a certificate in Unix seconds. `at` is its place in the chain, for the error.
pub(crate) fn dates(validity: &Validity, at: usize) -> Result<(u64, u64), CertificateError> {
    let seconds = |time: i64| u64::try_from(time).map_err(|_| CertificateError::Date(at));
    Ok((seconds(validity.not_before.timestamp())?, seconds(validity.not_after.timestamp())?))
}

/// Parses one certificate without anything after it. `at` is its place in the chain, for the error.
pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>, at: usize) -> Result<X509Certificate<'a>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(CertificateError::Encoding(at)),
    }
}

/// X509-SVID §2: exactly one URI SAN, a SPIFFE id with a path. SANs of other types may be there and mean nothing.
fn workload_id(leaf: &X509Certificate<'_>) -> Result<SpiffeId, CertificateError> {
    let names = leaf.subject_alternative_name().map_err(|_| CertificateError::Encoding(0))?;
    let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(uri);
    let (Some(first), rest) = (uris.next(), uris.count()) else {
        return Err(CertificateError::UriNames(0));
    };
    if rest > 0 {
        return Err(CertificateError::UriNames(rest + 1));
    }
    let id: SpiffeId = first.parse()?;
    if id.path().is_empty() {
        return Err(CertificateError::NoPath(id));
    }
    Ok(id)
}

/// The text of a URI name; nothing for names of other types.
pub(crate) fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    if let GeneralName::URI(uri) = name { Some(uri) } else { None }
}

/// X509-SVID §4.1 and §4.3: a leaf is no CA, signs handshakes, and signs neither certificates nor revocation lists.
fn check_usage(leaf: &X509Certificate<'_>) -> Result<(), CertificateError> {
    let Ok(Some(usage)) = leaf.key_usage() else {
        return Err(CertificateError::Usage);
    };
    let usage = usage.value;
    if leaf.is_ca() || !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(CertificateError::Usage);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csr::csr;
    use crate::issue::CertificateAuthority;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, IsCa, KeyPair as RawKey, KeyUsagePurpose, SanType};

    const NOW: u64 = 1_800_000_000;

    fn issued(lifetime: Duration) -> Certificate {
        let authority = CertificateAuthority::create(&"td".parse().unwrap(), NOW).unwrap();
        let id = "spiffe://td/ns/a/sa/b".parse().unwrap();
        let (_, request) = csr(&id).unwrap();
        authority.sign(&request, &id, lifetime, NOW).unwrap()
    }

    /// Parses a self-signed certificate with these URI names and usages.
    fn parsed(names: &[&str], edit: impl Fn(&mut CertificateParams)) -> Result<Certificate, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = names.iter().map(|n| SanType::URI((*n).try_into().unwrap())).collect();
        edit(&mut params);
        let made = params.self_signed(&RawKey::generate().unwrap()).unwrap();
        Certificate::from_chain(vec![made.der().clone()])
    }

    #[test]
    fn issued_certificate_tells_id_and_dates() {
        let certificate = issued(Duration::from_secs(600));
        assert_eq!(certificate.id().as_str(), "spiffe://td/ns/a/sa/b");
        assert_eq!(certificate.not_before(), NOW - 60);
        assert_eq!(certificate.not_after(), NOW + 600);
        assert_eq!(certificate.remaining(NOW + 500), Duration::from_secs(100));
        assert_eq!(certificate.remaining(NOW + 700), Duration::ZERO);
    }

    #[test]
    fn chain_ends_with_its_first_certificate_to_expire() {
        let der = |life| issued(Duration::from_secs(life)).chain()[0].to_vec();
        let chain = Certificate::from_der([der(600), der(50)]).unwrap();
        assert_eq!(chain.not_after(), NOW + 50);
        let chain = Certificate::from_der([der(50), der(600)]).unwrap();
        assert_eq!(chain.not_after(), NOW + 50);
    }

    #[test]
    fn exactly_one_spiffe_uri_is_accepted() {
        use CertificateError as E;
        assert!(parsed(&["spiffe://td/a"], |_| ()).is_ok());
        let with_dns = parsed(&["spiffe://td/a"], |p| {
            p.subject_alt_names.push(SanType::DnsName("a.b".try_into().unwrap()));
        });
        assert_eq!(with_dns.unwrap().id().as_str(), "spiffe://td/a");
        assert_eq!(parsed(&[], |_| ()), Err(E::UriNames(0)));
        assert_eq!(parsed(&["spiffe://td/a", "spiffe://td/b"], |_| ()), Err(E::UriNames(2)));
        assert_eq!(parsed(&["https://td/a"], |_| ()), Err(E::Name(SpiffeIdError::Scheme)));
        assert_eq!(parsed(&["spiffe://td"], |_| ()), Err(E::NoPath("spiffe://td".parse().unwrap())));
    }

    #[test]
    fn certificates_that_may_sign_others_are_no_leaves() {
        use CertificateError as E;
        let name = ["spiffe://td/a"];
        assert_eq!(parsed(&name, |p| p.key_usages.clear()), Err(E::Usage));
        let sign = |p: &mut CertificateParams| p.key_usages.push(KeyUsagePurpose::KeyCertSign);
        assert_eq!(parsed(&name, sign), Err(E::Usage));
        let ca = |p: &mut CertificateParams| {
            p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        };
        assert_eq!(parsed(&name, ca), Err(E::Usage));
    }

    #[test]
    fn chain_is_bounded_and_every_certificate_parses() {
        let leaf = issued(Duration::from_secs(60)).chain()[0].to_vec();
        assert_eq!(Certificate::from_der([]), Err(CertificateError::ChainLength(0)));
        assert_eq!(Certificate::from_der(vec![leaf.clone(); 100]), Err(CertificateError::ChainLength(MAX_CHAIN + 1)));
        assert_eq!(Certificate::from_der([leaf.clone(), vec![1, 2, 3]]), Err(CertificateError::Encoding(1)));
        let mut trailing = leaf;
        trailing.push(0);
        assert_eq!(Certificate::from_der([trailing]), Err(CertificateError::Encoding(0)));
    }

    proptest! {
        #[test]
        fn renewal_lies_around_the_half_of_the_remaining_life(
            lifetime in 1_u64..1_000_000, age in 0_u64..1_000_000, jitter in any::<f64>()
        ) {
            let certificate = Certificate {
                chain: Arc::new([]),
                id: "spiffe://td/a".parse().unwrap(),
                not_before: NOW - 60,
                not_after: NOW + lifetime,
            };
            let wait = certificate.refresh_after(NOW + age, jitter).as_secs_f64();
            let left = certificate.remaining(NOW + age).as_secs_f64();
            prop_assert!(wait >= left * 0.449 && wait <= left * 0.551, "{wait} of {left}");
        }
    }
}
