//! Why an exchange ended as it did, and the one table from causes to what clients, metrics and logs are told.

/// What made the proxy answer itself or cut an exchange short; [`Cause::None`]: the application's own answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Cause {
    /// The application answered.
    #[default]
    None,
    /// A redirect, a preflight's answer: a filter answered as it should.
    Filter,
    /// No rule matches.
    NoRoute,
    /// The rule's backend reference is invalid.
    InvalidBackend,
    /// A filter of the rule cannot be honoured.
    InvalidFilter,
    /// The backend has no endpoints.
    NoEndpoints,
    /// The destination's policy has not been learned in time.
    PolicyUnknown,
    /// The mesh does not know the destination, and egress is denied.
    EgressDenied,
    /// The endpoint refused the connection.
    ConnectFailed,
    /// The endpoint did not accept in time.
    ConnectTimeout,
    /// The mTLS handshake failed, or the endpoint is not who it should be.
    TlsFailed,
    /// This sidecar has no certificate yet.
    NoCertificate,
    /// The whole request took too long.
    RequestTimeout,
    /// The last attempt took too long.
    AttemptTimeout,
    /// Nothing was sent for too long.
    IdleTimeout,
    /// The endpoint ended the connection or the stream before its response was complete.
    Reset,
    /// The endpoint's answer is not HTTP.
    UpstreamProtocol,
    /// The request is not HTTP as the RFCs have it, or ambiguous.
    BadRequest,
    /// The request's head exceeds the limit.
    HeaderTooLarge,
    /// The response's head or trailers exceed the limit.
    ResponseHeaderTooLarge,
    /// Too many requests at once.
    Overload,
    /// Plaintext where only mTLS is taken.
    PlaintextRefused,
    /// The client went away.
    ClientGone,
    /// The sidecar ends.
    Draining,
}

/// What a cause means at the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The value of the metric label `cause` and of the header that marks the proxy's own answers.
    pub flag: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The gRPC status for gRPC requests.
    pub grpc: u8,
    /// A sentence for people, without the place.
    pub text: &'static str,
    /// Whether the application never saw the request and another endpoint may well do better with it: whatever the method, the other
    /// sidecar is told so.
    pub unprocessed: bool,
    /// Whether the client's connection must end.
    pub close: bool,
}

const UNAVAILABLE: u8 = 14;
const DEADLINE_EXCEEDED: u8 = 4;
const INTERNAL: u8 = 13;
const UNIMPLEMENTED: u8 = 12;
const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;

impl Cause {
    /// Every cause, for tables and metrics.
    pub const ALL: [Self; 24] = [
        Self::None,
        Self::Filter,
        Self::NoRoute,
        Self::InvalidBackend,
        Self::InvalidFilter,
        Self::NoEndpoints,
        Self::PolicyUnknown,
        Self::EgressDenied,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::TlsFailed,
        Self::NoCertificate,
        Self::RequestTimeout,
        Self::AttemptTimeout,
        Self::IdleTimeout,
        Self::Reset,
        Self::UpstreamProtocol,
        Self::BadRequest,
        Self::HeaderTooLarge,
        Self::ResponseHeaderTooLarge,
        Self::Overload,
        Self::PlaintextRefused,
        Self::ClientGone,
        Self::Draining,
    ];

    /// The table.
    pub fn answer(self) -> Answer {
        let (flag, status, grpc, unprocessed, close, text) = match self {
            Self::None => ("none", 200, 0, false, false, "answered by the application"),
            Self::Filter => ("filter", 200, 0, false, false, "answered by a filter of the rule"),
            Self::NoRoute => ("no_route", 404, UNIMPLEMENTED, false, false, "no rule of the attached routes matches this request"),
            Self::InvalidBackend => ("invalid_backend", 500, UNAVAILABLE, false, false, "the rule refers to a backend that cannot be used"),
            Self::InvalidFilter => ("invalid_filter", 500, UNAVAILABLE, false, false, "the rule has a filter that cannot be applied"),
            Self::NoEndpoints => ("no_endpoints", 503, UNAVAILABLE, false, false, "the backend has no ready endpoint"),
            Self::PolicyUnknown => {
                ("policy_unknown", 503, UNAVAILABLE, true, false, "the control plane has not yet said how to reach this destination")
            }
            Self::EgressDenied => {
                ("egress_denied", 502, PERMISSION_DENIED, false, false, "the mesh does not know this destination and egress is denied")
            }
            Self::ConnectFailed => ("connect_failed", 503, UNAVAILABLE, true, false, "no connection to the endpoint"),
            Self::ConnectTimeout => {
                ("connect_timeout", 503, UNAVAILABLE, true, false, "the endpoint did not accept the connection in time")
            }
            Self::TlsFailed => ("tls_failed", 503, UNAVAILABLE, false, false, "mutual TLS with the endpoint failed"),
            Self::NoCertificate => ("no_certificate", 503, UNAVAILABLE, false, false, "this sidecar has no certificate yet"),
            Self::RequestTimeout => ("request_timeout", 504, DEADLINE_EXCEEDED, false, false, "the request took longer than its timeout"),
            Self::AttemptTimeout => ("attempt_timeout", 504, DEADLINE_EXCEEDED, false, false, "the attempt took longer than its timeout"),
            Self::IdleTimeout => ("idle_timeout", 504, DEADLINE_EXCEEDED, false, true, "nothing was sent for longer than the idle timeout"),
            Self::Reset => ("reset", 502, UNAVAILABLE, false, false, "the endpoint ended the connection before its response was complete"),
            Self::UpstreamProtocol => ("upstream_protocol", 502, INTERNAL, false, false, "the endpoint's answer breaks the protocol"),
            Self::BadRequest => ("bad_request", 400, INTERNAL, false, true, "the request is malformed or ambiguous"),
            Self::HeaderTooLarge => ("header_too_large", 431, RESOURCE_EXHAUSTED, false, true, "the request's headers exceed the limit"),
            Self::ResponseHeaderTooLarge => {
                ("response_header_too_large", 502, RESOURCE_EXHAUSTED, false, false, "the response's headers or trailers exceed the limit")
            }
            Self::Overload => ("overload", 503, RESOURCE_EXHAUSTED, true, false, "too many requests at once"),
            Self::PlaintextRefused => {
                ("plaintext_refused", 403, PERMISSION_DENIED, false, true, "this workload takes connections with mutual TLS only")
            }
            Self::ClientGone => ("client_gone", 499, 1, false, true, "the client went away"),
            Self::Draining => ("draining", 503, UNAVAILABLE, true, true, "this sidecar is ending"),
        };
        Answer { flag, status, grpc, text, unprocessed, close }
    }

    /// The value of the metric label `cause`.
    pub fn flag(self) -> &'static str {
        self.answer().flag
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_cause_is_listed_once_and_has_its_own_flag() {
        for (index, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, index);
        }
        let flags: HashSet<_> = Cause::ALL.iter().map(|c| c.flag()).collect();
        assert_eq!(flags.len(), Cause::ALL.len());
    }
}
