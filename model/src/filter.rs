//! What a rule or one of its backends does to a message, as data.

use crate::backend::RouteBackend;
use crate::proto;
use crate::wire::{WireError, port, text};

/// One filter of a rule or of a backend reference (Gateway API `HTTPRouteFilter`).
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// Edits of the request's headers.
    RequestHeaders(HeaderEdits),
    /// Edits of the response's headers.
    ResponseHeaders(HeaderEdits),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Changes host or path before forwarding.
    Rewrite(Rewrite),
    /// Sends a copy elsewhere and ignores its answer.
    Mirror(Mirror),
    /// Answers preflights and marks answers for browsers.
    Cors(Cors),
    /// A filter that cannot be honoured: requests must not pass as if it were absent.
    Fail {
        /// The HTTP status of the answer.
        status: u16,
        /// What is wrong, for people.
        message: String,
    },
}

/// Edits of headers, applied in the order set, add, remove. Names are lower-case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replaces whatever is there.
    pub set: Vec<(String, String)>,
    /// Appends a value.
    pub add: Vec<(String, String)>,
    /// Removes all values.
    pub remove: Vec<String>,
}

/// What becomes of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRewrite {
    /// The whole path is replaced.
    Full(String),
    /// The matched prefix is replaced.
    Prefix(String),
}

impl PathRewrite {
    /// Rewrites `path` (without query); `matched_prefix` is the prefix of the rule's match, if it had one.
    ///
    /// Follows the table of `ReplacePrefixMatch` in Gateway API: `/foo` → `/xyz` turns `/foo/bar` into `/xyz/bar` and `/foo` into `/xyz`;
    /// trailing slashes of prefix and replacement make no difference; an empty result is `/`.
    pub fn apply(&self, path: &str, matched_prefix: Option<&str>) -> String {
        match self {
            Self::Full(full) => full.clone(),
            Self::Prefix(replacement) => {
                let prefix = matched_prefix.unwrap_or("/").trim_end_matches('/');
                let Some(rest) = path.strip_prefix(prefix) else {
                    return path.to_owned();
                };
                let replacement = replacement.trim_end_matches('/');
                let mut result = String::with_capacity(replacement.len() + rest.len() + 1);
                result.push_str(replacement);
                if !rest.is_empty() && !rest.starts_with('/') {
                    result.push('/');
                }
                result.push_str(rest);
                if result.is_empty() {
                    result.push('/');
                }
                result
            }
        }
    }
}

/// A redirect; what is unset stays as the request had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host of `Location`.
    pub hostname: Option<String>,
    /// The path of `Location`.
    pub path: Option<PathRewrite>,
    /// The port of `Location`.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A rewrite before forwarding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// The new `Host` / `:authority`.
    pub hostname: Option<String>,
    /// The new path.
    pub path: Option<PathRewrite>,
}

/// A copy of requests to another backend.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// Where copies go.
    pub backend: RouteBackend,
    /// `numerator / denominator` of all requests are copied.
    pub numerator: u32,
    /// Not 0.
    pub denominator: u32,
}

/// Cross-origin rules (Gateway API `HTTPCORSFilter`; the Fetch standard's protocol).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cors {
    /// Origins, with `*` for any or as a wildcard label in the host (`https://*.example.com`).
    pub allow_origins: Vec<String>,
    /// Whether credentials are allowed.
    pub allow_credentials: bool,
    /// Methods, or `*`.
    pub allow_methods: Vec<String>,
    /// Request headers, or `*`.
    pub allow_headers: Vec<String>,
    /// Response headers that scripts may read, or `*`.
    pub expose_headers: Vec<String>,
    /// Seconds that a browser may keep the answer of a preflight.
    pub max_age_seconds: u32,
}

impl Cors {
    /// Whether `origin` may read answers.
    pub fn allows_origin(&self, origin: &str) -> bool {
        self.allow_origins.iter().any(|allowed| {
            if allowed == "*" || allowed.eq_ignore_ascii_case(origin) {
                return true;
            }
            let Some((scheme, pattern)) = allowed.split_once("://*.") else {
                return false;
            };
            origin.split_once("://").is_some_and(|(s, host)| {
                s.eq_ignore_ascii_case(scheme)
                    && host.len() > pattern.len() + 1
                    && host.as_bytes()[host.len() - pattern.len() - 1] == b'.'
                    && host.as_bytes()[host.len() - pattern.len()..].eq_ignore_ascii_case(pattern.as_bytes())
            })
        })
    }
}

impl From<&HeaderEdits> for proto::HeaderEdits {
    fn from(edits: &HeaderEdits) -> Self {
        let HeaderEdits { set, add, remove } = edits;
        let wire = |list: &[(String, String)]| {
            list.iter().map(|(name, value)| proto::Header { name: name.clone(), value: value.clone() }).collect()
        };
        Self { set: wire(set), add: wire(add), remove: remove.clone() }
    }
}

impl TryFrom<proto::HeaderEdits> for HeaderEdits {
    type Error = WireError;

    fn try_from(edits: proto::HeaderEdits) -> Result<Self, WireError> {
        let proto::HeaderEdits { set, add, remove } = edits;
        let parse = |list: Vec<proto::Header>| {
            list.into_iter()
                .map(|proto::Header { name, value }| {
                    http::HeaderValue::from_str(&value).map_err(|e| WireError::invalid("header_edits.value", e))?;
                    Ok((header_name(&name)?, value))
                })
                .collect::<Result<Vec<_>, WireError>>()
        };
        Ok(Self { set: parse(set)?, add: parse(add)?, remove: remove.iter().map(|name| header_name(name)).collect::<Result<_, _>>()? })
    }
}

fn header_name(name: &str) -> Result<String, WireError> {
    http::HeaderName::from_bytes(name.as_bytes())
        .map(|name| name.as_str().to_owned())
        .map_err(|e| WireError::invalid("header_edits.name", e))
}

impl From<&PathRewrite> for proto::PathRewrite {
    fn from(rewrite: &PathRewrite) -> Self {
        use proto::path_rewrite::Path;
        Self {
            path: Some(match rewrite {
                PathRewrite::Full(path) => Path::Full(path.clone()),
                PathRewrite::Prefix(path) => Path::Prefix(path.clone()),
            }),
        }
    }
}

fn path_rewrite(rewrite: Option<proto::PathRewrite>) -> Option<PathRewrite> {
    use proto::path_rewrite::Path;
    rewrite.and_then(|r| r.path).map(|path| match path {
        Path::Full(path) => PathRewrite::Full(path),
        Path::Prefix(path) => PathRewrite::Prefix(path),
    })
}

impl From<&Filter> for proto::Filter {
    fn from(filter: &Filter) -> Self {
        use proto::filter::Filter as Wire;
        let filter = match filter {
            Filter::RequestHeaders(edits) => Wire::RequestHeaders(edits.into()),
            Filter::ResponseHeaders(edits) => Wire::ResponseHeaders(edits.into()),
            Filter::Redirect(redirect) => Wire::Redirect(redirect.into()),
            Filter::Rewrite(Rewrite { hostname, path }) => {
                Wire::Rewrite(proto::Rewrite { hostname: hostname.clone().unwrap_or_default(), path: path.as_ref().map(Into::into) })
            }
            Filter::Mirror(Mirror { backend, numerator, denominator }) => {
                Wire::Mirror(proto::Mirror { backend: Some(backend.into()), numerator: *numerator, denominator: *denominator })
            }
            Filter::Cors(cors) => Wire::Cors(cors.into()),
            Filter::Fail { status, message } => Wire::Fail(proto::InvalidBackend { status: u32::from(*status), message: message.clone() }),
        };
        Self { filter: Some(filter) }
    }
}

impl From<&Redirect> for proto::Redirect {
    fn from(redirect: &Redirect) -> Self {
        let Redirect { scheme, hostname, path, port, status } = redirect;
        Self {
            scheme: scheme.clone().unwrap_or_default(),
            hostname: hostname.clone().unwrap_or_default(),
            path: path.as_ref().map(Into::into),
            port: port.map_or(0, u32::from),
            status: u32::from(*status),
        }
    }
}

impl From<&Cors> for proto::Cors {
    fn from(cors: &Cors) -> Self {
        let Cors { allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age_seconds } = cors.clone();
        Self { allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age_seconds }
    }
}

impl TryFrom<proto::Filter> for Filter {
    type Error = WireError;

    fn try_from(filter: proto::Filter) -> Result<Self, WireError> {
        use proto::filter::Filter as Wire;
        Ok(match filter.filter.ok_or(WireError::Missing("filter"))? {
            Wire::RequestHeaders(edits) => Self::RequestHeaders(edits.try_into()?),
            Wire::ResponseHeaders(edits) => Self::ResponseHeaders(edits.try_into()?),
            Wire::Redirect(proto::Redirect { scheme, hostname, path, port: wire_port, status }) => Self::Redirect(Redirect {
                scheme: text(scheme),
                hostname: text(hostname),
                path: path_rewrite(path),
                port: match port("redirect.port", wire_port)? {
                    0 => None,
                    port => Some(port),
                },
                status: self::status("redirect.status", status)?,
            }),
            Wire::Rewrite(proto::Rewrite { hostname, path }) => {
                Self::Rewrite(Rewrite { hostname: text(hostname), path: path_rewrite(path) })
            }
            Wire::Mirror(proto::Mirror { backend, numerator, denominator }) => {
                if denominator == 0 {
                    return Err(WireError::invalid("mirror.denominator", "must not be 0"));
                }
                Self::Mirror(Mirror { backend: backend.ok_or(WireError::Missing("mirror.backend"))?.try_into()?, numerator, denominator })
            }
            Wire::Cors(proto::Cors { allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age_seconds }) => {
                Self::Cors(Cors { allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age_seconds })
            }
            Wire::Fail(proto::InvalidBackend { status, message }) => Self::Fail { status: self::status("fail.status", status)?, message },
        })
    }
}

/// A status code that a response may carry.
pub(crate) fn status(field: &'static str, status: u32) -> Result<u16, WireError> {
    u16::try_from(status)
        .ok()
        .filter(|s| (200..=599).contains(s))
        .ok_or_else(|| WireError::invalid(field, format!("{status} is not an HTTP status in 200..=599")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_prefix_follows_the_table_of_gateway_api() {
        for (prefix, replacement, path, expected) in [
            ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
            ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo/", "/xyz/", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz", "/foo", "/xyz"),
            ("/foo/", "/xyz", "/foo", "/xyz"),
            ("/foo", "/xyz", "/foo/", "/xyz/"),
            ("/foo", "", "/foo/bar", "/bar"),
            ("/foo", "/", "/foo/bar", "/bar"),
            ("/foo", "/", "/foo", "/"),
            ("/foo", "", "/foo/", "/"),
            ("/", "/xyz", "/bar", "/xyz/bar"),
            ("/", "/xyz", "/", "/xyz/"),
        ] {
            let rewrite = PathRewrite::Prefix(replacement.to_owned());
            assert_eq!(rewrite.apply(path, Some(prefix)), expected, "{prefix} → {replacement}: {path}");
        }
    }

    #[test]
    fn a_wildcard_origin_matches_subdomains_only() {
        let cors = Cors { allow_origins: vec!["https://*.example.com".into()], ..Cors::default() };
        assert!(cors.allows_origin("https://a.example.com"));
        assert!(cors.allows_origin("https://b.a.example.com"));
        assert!(!cors.allows_origin("https://example.com"));
        assert!(!cors.allows_origin("https://evilexample.com"));
        assert!(!cors.allows_origin("http://a.example.com"));
    }
}
