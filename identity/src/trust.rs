//! The roots that a trust domain's certificates are verified against, several at a time while one replaces another.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::digest;
use heddle_model::spiffe_id::TrustDomain;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;

use crate::certificate::parse;

/// Most roots of one trust domain. A rotation needs two; the rest is room for outside CAs that hand over whole histories.
pub const MAX_ROOTS: usize = 16;

/// Most trust domains in a bundle: its own, and those that somebody federates with.
pub const MAX_TRUST_DOMAINS: usize = 64;

/// Why roots make no trust bundle.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The text is no PEM.
    #[error("the roots of {trust_domain} are not readable as pem")]
    Pem {
        /// Whose roots.
        trust_domain: TrustDomain,
        /// What is wrong with the text.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// There is not a single root: nobody would be trusted, which is never what was meant.
    #[error("the trust bundle has no root for {0}: give at least one certificate")]
    NoRoots(TrustDomain),
    /// More roots than [`MAX_ROOTS`].
    #[error("the trust bundle of {0} has more than {MAX_ROOTS} roots: remove the expired ones")]
    TooManyRoots(TrustDomain),
    /// More trust domains than [`MAX_TRUST_DOMAINS`].
    #[error("the trust bundle has more than {MAX_TRUST_DOMAINS} trust domains")]
    TooManyTrustDomains,
    /// A certificate is no usable root: not X.509, or not a CA.
    #[error("root {at} of {trust_domain} (counted from 0) is not a ca certificate")]
    NotRoot {
        /// Whose root.
        trust_domain: TrustDomain,
        /// Its place in what was given.
        at: usize,
    },
}

/// Roots by trust domain. The order in which roots were given does not matter; duplicates count once.
///
/// A peer is verified against the roots of its own trust domain only, so that one domain's authority cannot name workloads of
/// another (SPIFFE Federation §4).
#[derive(Clone, PartialEq, Eq)]
pub struct TrustBundle {
    // Each list is sorted by bytes and free of duplicates; none is empty.
    domains: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>,
    revision: String,
}

impl TrustBundle {
    /// Makes the bundle of one trust domain from DER certificates.
    ///
    /// # Errors
    /// When there is no root, there are too many, or one is no CA certificate.
    pub fn new(trust_domain: &TrustDomain, roots: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, TrustError> {
        let mut checked = Vec::new();
        for (at, root) in roots.into_iter().enumerate() {
            if at >= MAX_ROOTS {
                return Err(TrustError::TooManyRoots(trust_domain.clone()));
            }
            let root = CertificateDer::from(root);
            if !is_root(&root) {
                return Err(TrustError::NotRoot { trust_domain: trust_domain.clone(), at });
            }
            checked.push(root);
        }
        if checked.is_empty() {
            return Err(TrustError::NoRoots(trust_domain.clone()));
        }
        Self::from_domains(BTreeMap::from([(trust_domain.clone(), checked)]))
    }

    /// Makes the bundle of one trust domain from PEM; sections that are no certificates are passed over.
    ///
    /// # Errors
    /// As [`TrustBundle::new`], and when the text is no PEM.
    pub fn from_pem(trust_domain: &TrustDomain, pem: &[u8]) -> Result<Self, TrustError> {
        let mut roots = Vec::new();
        for root in CertificateDer::pem_slice_iter(pem).take(MAX_ROOTS + 1) {
            let root = root.map_err(|source| TrustError::Pem { trust_domain: trust_domain.clone(), source })?;
            roots.push(root.to_vec());
        }
        Self::new(trust_domain, roots)
    }

    /// Trusts what either bundle trusts: the overlap in which an old and a new root, or several trust domains, are valid together.
    ///
    /// # Errors
    /// When the result has too many roots or trust domains.
    pub fn union(&self, other: &Self) -> Result<Self, TrustError> {
        let mut domains = self.domains.clone();
        for (trust_domain, roots) in &other.domains {
            domains.entry(trust_domain.clone()).or_default().extend(roots.iter().cloned());
        }
        Self::from_domains(domains)
    }

    /// Returns the roots of a trust domain; empty for one that is not trusted.
    #[must_use]
    pub fn roots(&self, trust_domain: &TrustDomain) -> &[CertificateDer<'static>] {
        self.domains.get(trust_domain).map_or(&[], |roots| roots.as_slice())
    }

    /// Returns the trust domains, in the order of their names.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.domains.keys()
    }

    /// Writes the roots of a trust domain as PEM; empty for one that is not trusted.
    #[must_use]
    pub fn to_pem(&self, trust_domain: &TrustDomain) -> String {
        let sections: Vec<_> = self.roots(trust_domain).iter().map(|root| pem::Pem::new("CERTIFICATE", root.to_vec())).collect();
        let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_many_config(&sections, lines)
    }

    /// Returns the SHA-256 of the content, as 64 hexadecimal digits. Equal bundles have equal revisions in every process, so
    /// that the two planes can compare them, and a sidecar rebuilds its TLS configurations only on a change.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    fn from_domains(mut domains: BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>) -> Result<Self, TrustError> {
        if domains.len() > MAX_TRUST_DOMAINS {
            return Err(TrustError::TooManyTrustDomains);
        }
        for (trust_domain, roots) in &mut domains {
            roots.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
            roots.dedup();
            if roots.len() > MAX_ROOTS {
                return Err(TrustError::TooManyRoots(trust_domain.clone()));
            }
        }
        let revision = revision(&domains);
        Ok(Self { domains, revision })
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.domains.iter().map(|(name, roots)| (name, roots.len()));
        f.debug_struct("TrustBundle").field("revision", &self.revision).field("roots", &counts.collect::<BTreeMap<_, _>>()).finish()
    }
}

/// A root is an X.509 certificate of a CA that rustls can use as an anchor.
fn is_root(der: &CertificateDer<'static>) -> bool {
    parse(der, 0).is_ok_and(|certificate| certificate.is_ca()) && RootCertStore::empty().add(der.clone()).is_ok()
}

/// Hashes names and roots, each with its length before it, so that no two different bundles give the same input.
fn revision(domains: &BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>) -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut add = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    for (trust_domain, roots) in domains {
        add(trust_domain.as_str().as_bytes());
        add(&(roots.len() as u64).to_be_bytes());
        roots.iter().for_each(|root| add(root));
    }
    let digest = hash.finish();
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issue::CertificateAuthority;

    const NOW: u64 = 1_800_000_000;

    fn domain(name: &str) -> TrustDomain {
        name.parse().unwrap()
    }

    fn bundle(name: &str) -> TrustBundle {
        CertificateAuthority::create(&domain(name), NOW).unwrap().trust_bundle().clone()
    }

    #[test]
    fn pem_round_trip_keeps_every_root() {
        let both = bundle("td").union(&bundle("td")).unwrap();
        let text = both.to_pem(&domain("td"));
        assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 2);
        let read = TrustBundle::from_pem(&domain("td"), text.as_bytes()).unwrap();
        assert_eq!(read, both);
        assert_eq!(read.revision(), both.revision());
        assert_eq!(both.to_pem(&domain("other")), "");
    }

    #[test]
    fn revision_ignores_order_and_duplicates_and_tells_contents_apart() {
        let (a, b) = (bundle("td"), bundle("td"));
        let ab = a.union(&b).unwrap();
        assert_eq!(ab.revision(), b.union(&a).unwrap().revision());
        assert_eq!(ab.revision(), ab.union(&a).unwrap().revision());
        assert_eq!(ab.revision().len(), 64);
        assert_ne!(ab.revision(), a.revision());
        let elsewhere = TrustBundle::new(&domain("te"), a.roots(&domain("td")).iter().map(|r| r.to_vec()));
        assert_ne!(elsewhere.unwrap().revision(), a.revision());
    }

    #[test]
    fn trust_domains_are_kept_apart() {
        let both = bundle("a").union(&bundle("b")).unwrap();
        assert_eq!(both.trust_domains().map(TrustDomain::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(both.roots(&domain("a")).len(), 1);
        assert_ne!(both.roots(&domain("a")), both.roots(&domain("b")));
        assert!(both.roots(&domain("c")).is_empty());
    }

    #[test]
    fn what_is_no_root_is_refused_with_its_place() {
        let good = bundle("td").roots(&domain("td"))[0].to_vec();
        let refused = TrustBundle::new(&domain("td"), [good.clone(), vec![1]]).unwrap_err();
        assert_eq!(refused.to_string(), "root 1 of td (counted from 0) is not a ca certificate");
        assert!(matches!(TrustBundle::new(&domain("td"), []), Err(TrustError::NoRoots(_))));
        assert!(matches!(TrustBundle::from_pem(&domain("td"), b"nothing here"), Err(TrustError::NoRoots(_))));
        assert!(matches!(
            TrustBundle::from_pem(&domain("td"), b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"),
            Err(TrustError::Pem { .. })
        ));
        assert!(matches!(TrustBundle::new(&domain("td"), vec![good; MAX_ROOTS + 1]), Err(TrustError::TooManyRoots(_))));
    }

    #[test]
    fn a_leaf_is_no_root() {
        let authority = CertificateAuthority::create(&domain("td"), NOW).unwrap();
        let id = "spiffe://td/a".parse().unwrap();
        let (_, request) = crate::csr::csr(&id).unwrap();
        let lifetime = std::time::Duration::from_secs(60);
        let leaf = authority.sign(&request, &id, lifetime, NOW).unwrap();
        let refused = TrustBundle::new(&domain("td"), [leaf.chain()[0].to_vec()]);
        assert!(matches!(refused, Err(TrustError::NotRoot { at: 0, .. })));
    }
}
