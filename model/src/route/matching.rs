//! What a match accepts, and how specific it is.

use super::RequestView;
use std::borrow::Cow;
use std::fmt;

/// The compiled size to which a regular expression may grow: 256 KiB holds any sane one, and a policy has many.
const REGEX_BYTES_MAX: usize = 256 * 1024;

/// A regular expression that must match the whole text.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: regex::bytes::Regex,
}

/// A regular expression that does not compile, or is too large.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the regular expression \"{text}\" cannot be used: {reason}")]
pub struct InvalidPattern {
    text: String,
    reason: String,
}

impl Pattern {
    /// Compiles `text`; RE2 syntax without look-around and back references, so matching is linear in time.
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        let invalid = |reason: String| InvalidPattern { text: text.to_owned(), reason };
        // Alone first, so that "a)(b" cannot slip through the group around it.
        regex::bytes::Regex::new(text).map_err(|e| invalid(last_line(&e)))?;
        regex::bytes::RegexBuilder::new(&format!("^(?:{text})$"))
            .size_limit(REGEX_BYTES_MAX)
            .build()
            .map(|regex| Self { text: text.to_owned(), regex })
            .map_err(|e| invalid(last_line(&e)))
    }

    /// Whether the whole of `text` matches.
    pub fn accepts(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }

    /// The expression as written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// regex prints a picture over several lines; its last one is the sentence.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

/// How a text is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringMatch {
    /// Equal, byte for byte.
    Exact(String),
    /// The whole text matches.
    Regex(Pattern),
}

impl StringMatch {
    fn accepts(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == text,
            Self::Regex(pattern) => pattern.accepts(text),
        }
    }
}

/// How a path is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// Equal.
    Exact(String),
    /// By elements: `/v2` accepts `/v2` and `/v2/x`, not `/v2example`. A trailing slash makes no difference.
    Prefix(String),
    /// The whole path matches.
    Regex(Pattern),
    /// A gRPC call, `/service/method`.
    Grpc {
        /// `None`: any service.
        service: Option<StringMatch>,
        /// `None`: any method.
        method: Option<StringMatch>,
    },
}

impl PathMatch {
    fn accepts(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(pattern) => pattern.accepts(path.as_bytes()),
            Self::Grpc { service, method } => {
                let Some((s, m)) = path.strip_prefix('/').and_then(|p| p.split_once('/')) else {
                    return false;
                };
                service.as_ref().is_none_or(|w| w.accepts(s.as_bytes())) && method.as_ref().is_none_or(|w| w.accepts(m.as_bytes()))
            }
        }
    }
}

/// A header or query parameter that must be there with such a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueMatch {
    /// Lower-case for headers; as written for query parameters.
    pub name: String,
    /// Its value.
    pub value: StringMatch,
}

/// All conditions of one match, which all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpMatch {
    /// The path.
    pub path: PathMatch,
    /// Headers.
    pub headers: Vec<ValueMatch>,
    /// Query parameters, before percent-decoding of the pattern, after that of the request.
    pub query: Vec<ValueMatch>,
    /// The method; `None`: any.
    pub method: Option<String>,
}

impl Default for HttpMatch {
    /// Every request: the path prefix `/`, as Gateway API defaults.
    fn default() -> Self {
        Self { path: PathMatch::Prefix("/".to_owned()), headers: Vec::new(), query: Vec::new(), method: None }
    }
}

impl HttpMatch {
    /// Whether all conditions hold.
    pub fn accepts(&self, request: &impl RequestView) -> bool {
        let Self { path, headers, query, method } = self;
        method.as_deref().is_none_or(|m| m == request.method())
            && path.accepts(request.path())
            && headers.iter().all(|h| request.header(&h.name).is_some_and(|value| h.value.accepts(&value)))
            && query.iter().all(|q| parameter(request.query(), &q.name).is_some_and(|value| q.value.accepts(value.as_bytes())))
    }

    /// How specific it is: what Gateway API's precedence compares.
    pub fn specificity(&self) -> Specificity {
        let Self { path, headers, query, method } = self;
        let (rank, length, second) = match path {
            PathMatch::Exact(text) => (3, text.len(), 0),
            // It matches everything, so it is what is left over: a rule with it must not hide the patterns of others.
            PathMatch::Prefix(text) if text.trim_end_matches('/').is_empty() => (0, 0, 0),
            PathMatch::Prefix(text) => (2, text.trim_end_matches('/').len(), 0),
            // Implementation-specific in Gateway API: below exact and real prefixes, the longer pattern first.
            PathMatch::Regex(pattern) => (1, pattern.text().len(), 0),
            PathMatch::Grpc { service, method } => {
                let exact = |m: &Option<StringMatch>| match m {
                    Some(StringMatch::Exact(text)) => text.len(),
                    Some(StringMatch::Regex(_)) | None => 0,
                };
                let rank = match (service, method) {
                    (Some(StringMatch::Exact(_)), Some(StringMatch::Exact(_))) => 3,
                    (None, None) => 0,
                    (Some(StringMatch::Regex(_)), _) | (_, Some(StringMatch::Regex(_))) => 1,
                    (Some(StringMatch::Exact(_)), None) | (None, Some(StringMatch::Exact(_))) => 2,
                };
                (rank, exact(service), exact(method))
            }
        };
        Specificity {
            path_rank: rank,
            path_length: length,
            grpc_method_length: second,
            method: method.is_some(),
            headers: headers.len(),
            query: query.len(),
        }
    }
}

/// Precedence between matches, most specific greatest: exact path, longest prefix, method, most headers, most query parameters
/// (HTTPRoute); characters in service, then in method, then headers (GRPCRoute).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    path_rank: u8,
    path_length: usize,
    grpc_method_length: usize,
    method: bool,
    headers: usize,
    query: usize,
}

impl Specificity {
    /// That of a rule without matches: the path prefix `/`.
    pub fn anything() -> Self {
        HttpMatch::default().specificity()
    }
}

/// The first value of a query parameter, percent-decoded (`+` is a space, as browsers' forms write it).
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match (first, hex(tail.first()), hex(tail.get(1))) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(high << 4 | low);
                rest = &tail[2..];
                continue;
            }
            (b'+', _, _) => bytes.push(b' '),
            _ => bytes.push(first),
        }
        rest = tail;
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}
