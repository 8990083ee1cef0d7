//! Heads of HTTP/2 messages, seen and edited as every phase of an exchange expects it.

use crate::message::{RequestEdit, ResponseEdit, joined};
use heddle_model::RequestView;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Uri};
use http::{request, response};
use std::borrow::Cow;

/// The head of a request.
#[derive(Debug)]
pub struct Request {
    /// Its parts.
    pub parts: request::Parts,
}

impl Request {
    /// The size by which HTTP/2 limits a header list: name, value and 32 for each field (RFC 9113 §6.5.2).
    pub fn size(&self) -> usize {
        let target =
            self.parts.uri.path_and_query().map_or(0, |p| p.as_str().len()) + self.parts.uri.authority().map_or(0, |a| a.as_str().len());
        header_size(&self.parts.headers) + target + 4 * 42
    }

    /// Whether `:authority` and `Host` name the same host, as far as both are there (RFC 9113 §8.3.1): else this proxy and the
    /// application could take one request for two different hosts.
    pub fn has_one_host(&self) -> bool {
        let mut hosts = self.parts.headers.get_all(http::header::HOST).iter().map(HeaderValue::as_bytes);
        let authority = self.parts.uri.authority().map(|a| a.as_str().as_bytes());
        let Some(first) = authority.or_else(|| hosts.next()) else {
            return true;
        };
        hosts.all(|host| host.eq_ignore_ascii_case(first))
    }

    /// The head as it goes to the next hop.
    pub fn to_send(&self) -> http::Request<()> {
        let mut request = http::Request::new(());
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        // A request without `:authority` has a `Host` of an HTTP/1 client further down, which passes (RFC 9113 §8.3.1): `h2` wants to
        // be told that this is the reason.
        let has_authority = self.parts.uri.authority().is_some();
        *request.version_mut() = if has_authority { http::Version::HTTP_2 } else { http::Version::HTTP_11 };
        *request.headers_mut() = self.parts.headers.clone();
        if let Some(protocol) = self.parts.extensions.get::<h2::ext::Protocol>() {
            request.extensions_mut().insert(protocol.clone());
        }
        request
    }

    fn set_uri(&mut self, edit: impl FnOnce(&mut http::uri::Parts)) {
        let mut parts = std::mem::take(&mut self.parts.uri).into_parts();
        let before = Uri::from_parts(parts.clone_parts());
        edit(&mut parts);
        // An edit that makes no URI is not applied: the filter's text was checked for what it is, not for where it goes.
        self.parts.uri = Uri::from_parts(parts).or(before).unwrap_or_default();
    }
}

trait CloneParts {
    fn clone_parts(&self) -> http::uri::Parts;
}

impl CloneParts for http::uri::Parts {
    fn clone_parts(&self) -> http::uri::Parts {
        let mut copy = Self::default();
        copy.scheme.clone_from(&self.scheme);
        copy.authority.clone_from(&self.authority);
        copy.path_and_query.clone_from(&self.path_and_query);
        copy
    }
}

/// The size of fields as HTTP/2 counts it.
pub fn header_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

fn set(headers: &mut HeaderMap, name: &str, value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
        headers.insert(name, value);
    }
}

fn append(headers: &mut HeaderMap, name: &str, value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
        headers.append(name, value);
    }
}

impl RequestView for Request {
    fn method(&self) -> &str {
        self.parts.method.as_str()
    }

    fn path(&self) -> &str {
        self.parts.uri.path()
    }

    fn query(&self) -> Option<&str> {
        self.parts.uri.query()
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        if name == "host"
            && let Some(authority) = self.parts.uri.authority()
        {
            return Some(Cow::Borrowed(authority.as_str().as_bytes()));
        }
        joined(self.parts.headers.get_all(name).iter().map(HeaderValue::as_bytes))
    }
}

impl RequestEdit for Request {
    fn each<'a>(&'a self, f: &mut dyn FnMut(&'a [u8], &'a [u8])) {
        for (name, value) in &self.parts.headers {
            f(name.as_str().as_bytes(), value.as_bytes());
        }
    }

    fn value(&self, name: &str) -> Option<&[u8]> {
        self.parts.headers.get(name).map(HeaderValue::as_bytes)
    }

    fn set(&mut self, name: &str, value: &[u8]) {
        set(&mut self.parts.headers, name, value);
    }

    fn append(&mut self, name: &str, value: &[u8]) {
        append(&mut self.parts.headers, name, value);
    }

    fn remove(&mut self, name: &str) {
        self.parts.headers.remove(name);
    }

    fn set_path(&mut self, path: &str) {
        let query = self.parts.uri.query().map(str::to_owned);
        let text = query.map_or_else(|| path.to_owned(), |q| format!("{path}?{q}"));
        if let Ok(new) = PathAndQuery::try_from(text) {
            self.set_uri(|parts| parts.path_and_query = Some(new));
        }
    }

    fn set_authority(&mut self, authority: &str) {
        if let Ok(new) = Authority::try_from(authority) {
            self.set_uri(|parts| parts.authority = Some(new));
            self.parts.headers.remove(http::header::HOST);
        }
    }

    fn authority_text(&self) -> Option<&str> {
        let host = || self.parts.headers.get(http::header::HOST)?.to_str().ok();
        self.parts.uri.authority().map(Authority::as_str).or_else(host)
    }

    fn protocol_name(&self) -> &'static str {
        "HTTP/2"
    }
}

/// The head of a response, and its body until somebody takes it.
#[derive(Debug)]
pub struct Response {
    /// Its parts.
    pub parts: response::Parts,
    /// What follows.
    pub body: Option<h2::RecvStream>,
}

impl Response {
    /// The gRPC status, where the head carries it: a response without messages.
    pub fn grpc_status(&self) -> Option<u32> {
        grpc_status(&self.parts.headers)
    }
}

/// The value of `grpc-status`.
pub fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

impl ResponseEdit for Response {
    fn status_code(&self) -> u16 {
        self.parts.status.as_u16()
    }

    fn value(&self, name: &str) -> Option<&[u8]> {
        self.parts.headers.get(name).map(HeaderValue::as_bytes)
    }

    fn set(&mut self, name: &str, value: &[u8]) {
        set(&mut self.parts.headers, name, value);
    }

    fn append(&mut self, name: &str, value: &[u8]) {
        append(&mut self.parts.headers, name, value);
    }

    fn remove(&mut self, name: &str) {
        self.parts.headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_for_one_host() {
        let request = |uri: &str, hosts: &[&str]| {
            let builder = http::Request::builder().uri(uri);
            let request = hosts.iter().fold(builder, |b, host| b.header("host", *host)).body(()).unwrap();
            Request { parts: request.into_parts().0 }.has_one_host()
        };
        assert!(request("http://a:80/", &[]) && request("http://a:80/", &["A:80"]) && request("/", &["a"]) && request("/", &[]));
        assert!(!request("http://a/", &["b"]) && !request("http://a/", &["a", "b"]) && !request("/", &["a", "b"]));
    }
}
