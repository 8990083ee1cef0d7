//! The proxy beside each application.
//!
//! ```text
//! run.rs                        threads, listeners, the end of the process
//! outbound.rs inbound.rs        THE WALK of a connection, one direction each
//! accept intercept original_dst first detect tls    its begin
//! http1/ http2/ exchange filter message   requests
//! policy authorize balance budget         decisions
//! connect pool forward clock              bytes
//! record cause metrics access_log trace telemetry    what is told of it
//! config credentials discover drain admin health probe worker     the process around it
//! redirect                      the other command: the rules that bring a pod's connections here
//! ```

pub mod accept;
pub mod access_log;
pub mod admin;
pub mod authorize;
pub mod balance;
pub mod budget;
pub mod buffer;
pub mod busy_poll;
pub mod cause;
pub mod clock;
pub mod config;
pub mod connect;
pub mod credentials;
pub mod detect;
pub mod discover;
pub mod drain;
pub mod exchange;
pub mod filter;
pub mod first;
pub mod forward;
pub mod health;
pub mod http1;
pub mod http2;
pub mod inbound;
pub mod intercept;
pub mod io;
pub mod message;
pub mod metrics;
pub mod original_dst;
pub mod outbound;
pub mod policy;
pub mod pool;
pub mod probe;
pub mod record;
pub mod redirect;
pub mod run;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod worker;

pub use run::run_from_env;
