//! The one shared model: protocol-neutral policy that the control plane computes and the sidecar executes.
//!
//! No I/O, no clock, no randomness: time and random numbers are arguments. Each type's file also holds its conversions to and from
//! the messages of `proto/heddle/v1`, which destructure without `..`, so that a new field breaks every reader that has to think of it.
//!
//! ```text
//! outbound, inbound   the two resolved answers
//! route, filter       rules, matches and their precedence; what a rule does to a message
//! backend, endpoint   where requests go
//! timeout, retry      limits of an exchange
//! settings            what is the same for a whole sidecar
//! name, spiffe_id     what things are called
//! proto, wire         generated messages; conversion errors
//! ```

pub mod backend;
pub mod endpoint;
pub mod filter;
pub mod inbound;
pub mod name;
pub mod outbound;
pub mod proto;
pub mod protocol;
pub mod retry;
pub mod route;
pub mod settings;
pub mod spiffe_id;
pub mod target;
pub mod timeout;
pub mod wire;

pub use backend::{Backend, BackendTarget, LoadBalancing, RouteBackend};
pub use endpoint::Endpoint;
pub use filter::Filter;
pub use inbound::{InboundPolicy, MtlsMode};
pub use name::{ResourceRef, ServicePort};
pub use outbound::OutboundPolicy;
pub use protocol::Protocol;
pub use route::{Matched, RequestView, Route, RouteTable, Rule};
pub use settings::Settings;
pub use spiffe_id::{SpiffeId, TrustDomain};
pub use target::Target;
