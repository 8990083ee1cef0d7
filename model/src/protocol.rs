//! What is spoken on a port, as declared or as to be found out.

use crate::proto;

/// The protocol of a port. Declared wins over detected (design §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// Not declared: the first bytes decide, without a stall.
    #[default]
    Detect,
    /// HTTP, whose version the client's first bytes tell; never degrades to opaque bytes.
    Http,
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/2 with prior knowledge whose errors are told as gRPC statuses.
    Grpc,
    /// The applications' own TLS, passed through.
    Tls,
    /// Any bytes, passed through.
    Opaque,
}

impl Protocol {
    /// What a Service port's `appProtocol` declares (KEP-3726 and common use); `None` where the value says nothing to us.
    ///
    /// ```
    /// use heddle_model::Protocol;
    /// assert_eq!(Protocol::from_app_protocol("kubernetes.io/h2c"), Some(Protocol::Http2));
    /// assert_eq!(Protocol::from_app_protocol("vendor.example/strange"), None);
    /// ```
    pub fn from_app_protocol(value: &str) -> Option<Self> {
        Some(match value.to_ascii_lowercase().as_str() {
            "http" | "http1" | "http1.1" | "http/1.1" | "kubernetes.io/ws" | "ws" => Self::Http,
            "http2" | "h2c" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" | "grpc-web" => Self::Grpc,
            "https" | "tls" | "kubernetes.io/wss" | "wss" => Self::Tls,
            "tcp" | "mongo" | "mysql" | "postgres" | "postgresql" | "redis" | "kafka" | "amqp" | "nats" => Self::Opaque,
            _ => return None,
        })
    }

    /// What a Service port's name declares by its prefix, as in `http-web` or `grpc`.
    pub fn from_port_name(name: &str) -> Option<Self> {
        let prefix = name.split_once('-').map_or(name, |(prefix, _)| prefix);
        match prefix {
            "http" | "http2" | "grpc" | "https" | "tls" | "tcp" | "mongo" | "mysql" | "redis" | "h2c" => Self::from_app_protocol(prefix),
            _ => None,
        }
    }

    /// Whether requests are seen, and routes of HTTP kinds apply, once the protocol is known.
    pub fn is_http(self) -> bool {
        match self {
            Self::Http | Self::Http1 | Self::Http2 | Self::Grpc => true,
            Self::Detect | Self::Tls | Self::Opaque => false,
        }
    }
}

impl From<proto::Protocol> for Protocol {
    fn from(protocol: proto::Protocol) -> Self {
        match protocol {
            proto::Protocol::Unspecified | proto::Protocol::Detect => Self::Detect,
            proto::Protocol::Http => Self::Http,
            proto::Protocol::Http1 => Self::Http1,
            proto::Protocol::Http2 => Self::Http2,
            proto::Protocol::Grpc => Self::Grpc,
            proto::Protocol::Tls => Self::Tls,
            proto::Protocol::Opaque => Self::Opaque,
        }
    }
}

impl From<Protocol> for proto::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Detect => Self::Detect,
            Protocol::Http => Self::Http,
            Protocol::Http1 => Self::Http1,
            Protocol::Http2 => Self::Http2,
            Protocol::Grpc => Self::Grpc,
            Protocol::Tls => Self::Tls,
            Protocol::Opaque => Self::Opaque,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_names_declare_by_prefix_only() {
        assert_eq!(Protocol::from_port_name("http-web"), Some(Protocol::Http));
        assert_eq!(Protocol::from_port_name("grpc"), Some(Protocol::Grpc));
        assert_eq!(Protocol::from_port_name("tcp-db"), Some(Protocol::Opaque));
        assert_eq!(Protocol::from_port_name("httpish"), None);
        assert_eq!(Protocol::from_port_name("web-http"), None);
    }
}
