//! Who a workload is and how it proves it: keys, certificates, trust bundles, and every TLS configuration of Heddle.
//!
//! ```text
//! csr           a fresh key, and the request for a certificate with a SPIFFE id
//! issue         the certificate authority: answers such requests; its root on disk, or an outside CA's issuing certificate
//! certificate   a leaf with its chain, and when to renew it
//! trust         roots by trust domain, several at a time while one replaces another
//! verify        the chain and the expected id of a peer; yields `VerifiedPeer`, the proof of it
//! tls           the one place where rustls configurations are made
//! unverified    TLS without verification, for the kubelet's HTTPS probes alone
//! client_hello  what the first bytes of a TLS connection say, without taking part in it
//! ```
//!
//! No I/O but the authority's two files, no runtime, and no clock but [`unix_now`]: times are arguments, in Unix seconds.
//!
//! **Never logged, printed or serialised**: private keys, and anything derived from them. [`KeyPair`] and
//! [`CertificateAuthority`] have a `Debug` that hides the key, and no `Serialize`. A workload's key never leaves the memory
//! of its process; only the authority's root key is ever written, to a file that its owner alone can read.

pub mod certificate;
pub mod client_hello;
pub mod csr;
pub mod issue;
pub mod tls;
pub mod trust;
pub mod unverified;
pub mod verify;

pub use certificate::{Certificate, CertificateError};
pub use client_hello::ClientHello;
pub use csr::{CsrError, KeyPair, csr};
pub use heddle_model::spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};
pub use issue::{AuthorityError, AuthorityPem, CertificateAuthority, HttpsServer};
pub use tls::{MeshProtocol, TlsContext, TlsError};
pub use trust::{TrustBundle, TrustError};
pub use verify::{PeerError, VerifiedPeer, VerifyError};

/// Returns the wall-clock time in Unix seconds: the one place where it is read for certificates.
///
/// Callers pass the result on as an argument, so that tests can choose the time.
#[must_use]
pub fn unix_now() -> u64 {
    rustls_pki_types::UnixTime::now().as_secs()
}

#[cfg(test)]
mod tests {
    mod handshake;
}
