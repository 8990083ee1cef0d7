//! What can be wrong with a message from the other plane, and the helpers that all conversions share.

use crate::proto;
use std::time::Duration;

/// Why a message could not become a model value. The receiver keeps its last good value and says this to the sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that has no safe default is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field holds a value outside of its type.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field's name in the message.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl WireError {
    pub(crate) fn invalid(field: &'static str, reason: impl ToString) -> Self {
        Self::Invalid { field, reason: reason.to_string() }
    }
}

/// Milliseconds of a duration; sub-millisecond values round up so that a limit never becomes "none".
pub(crate) fn millis(duration: Option<Duration>) -> u64 {
    duration.map_or(0, |d| u64::try_from(d.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

/// The duration of so many milliseconds; 0 is none.
pub(crate) fn duration(ms: u64) -> Option<Duration> {
    (ms != 0).then(|| Duration::from_millis(ms))
}

pub(crate) fn port(field: &'static str, port: u32) -> Result<u16, WireError> {
    u16::try_from(port).map_err(|_| WireError::invalid(field, "a port is at most 65535"))
}

/// `None` for the empty string, which is what an unset string is on the wire.
pub(crate) fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(crate) fn source(source: Option<proto::Source>) -> Option<crate::ResourceRef> {
    source.map(crate::ResourceRef::from)
}
