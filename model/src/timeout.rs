//! How long an exchange may take.

use crate::ResourceRef;
use crate::proto;
use crate::wire::{duration, millis, source};
use std::time::Duration;

/// Limits of one exchange; `None` is no limit (GEP-1742: zero disables).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's head to the response's end, all attempts included.
    pub request: Option<Duration>,
    /// From one attempt's start to the end of its response.
    pub attempt: Option<Duration>,
    /// Without a byte in either direction.
    pub idle: Option<Duration>,
    /// Who says so.
    pub source: Option<ResourceRef>,
}

impl From<&Timeouts> for proto::Timeouts {
    fn from(timeouts: &Timeouts) -> Self {
        let Timeouts { request, attempt, idle, source } = timeouts;
        Self { request_ms: millis(*request), attempt_ms: millis(*attempt), idle_ms: millis(*idle), source: source.as_ref().map(Into::into) }
    }
}

impl From<proto::Timeouts> for Timeouts {
    fn from(timeouts: proto::Timeouts) -> Self {
        let proto::Timeouts { request_ms, attempt_ms, idle_ms, source: from } = timeouts;
        Self { request: duration(request_ms), attempt: duration(attempt_ms), idle: duration(idle_ms), source: source(from) }
    }
}
