//! Why a control plane does not start, or ends by itself.

use crate::ca::{CaError, Chain};
use std::net::SocketAddr;

/// The end of a control plane that nobody asked to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {purpose}: {source}; choose another address with {flag}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Who would connect there.
        purpose: &'static str,
        /// The argument that sets it.
        flag: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificate authority cannot be opened.
    #[error("the certificate authority cannot be used: {}", Chain(.0))]
    Authority(#[from] CaError),
    /// The API server cannot be found.
    #[error("no cluster can be reached: {0}; run in a pod with a ServiceAccount, or set KUBECONFIG")]
    Cluster(String),
    /// The injector's configuration cannot be used.
    #[error("--injection: {0}")]
    Injection(String),
    /// Two metrics have one name: a fault of this program.
    #[error("metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A part that runs for ever has ended: a fault of this program.
    #[error("a part of the control plane has ended: {0}")]
    Ended(String),
}
