//! Who may speak to the application: a permit, or a reason why not.

use heddle_identity::verify::VerifiedPeer;
use heddle_model::{InboundPolicy, MtlsMode, ResourceRef};

/// Proof that an exchange may reach the application. Nothing is forwarded to it without one.
#[derive(Debug, Clone, Copy)]
pub struct Permit(());

/// Why an exchange may not reach the application.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plaintext is refused by {}", .by.as_ref().map_or_else(|| "the built-in default".to_owned(), ToString::to_string))]
pub struct Denied {
    /// The object that refuses.
    pub by: Option<ResourceRef>,
}

/// Decides by the policy in force now, so that a change to strict holds for the next request of an open connection.
pub fn authorize(policy: &InboundPolicy, peer: Option<&VerifiedPeer>) -> Result<Permit, Denied> {
    match (policy.mtls, peer) {
        (_, Some(_)) | (MtlsMode::Permissive | MtlsMode::Audit, None) => Ok(Permit(())),
        (MtlsMode::Strict, None) => Err(Denied { by: policy.mtls_source.clone() }),
    }
}
