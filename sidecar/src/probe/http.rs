//! HTTP and HTTPS checks as the kubelet does them: GET, 200 to 399 is well, redirects within the same host are followed, certificates
//! are not verified, connections are not kept.

use super::{Asked, HttpProbe, Scheme, connect};
use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::net::IpAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// Redirects that are followed (`pkg/probe/http`).
const REDIRECTS_MAX: usize = 10;
/// Of the body, only that the first of it comes is waited for (`maxRespBodyLength` of the kubelet).
const BODY_BYTES_MAX: usize = 10 * 1024;

/// Where one request of a check goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    scheme: Scheme,
    /// Empty: the pod.
    host: String,
    port: u16,
    path: PathAndQuery,
}

pub(super) async fn check(probe: &HttpProbe, asked: Asked<'_>) -> Result<(), String> {
    let HttpProbe { port, path, scheme, host, headers } = probe;
    let first = Place { scheme: *scheme, host: host.clone(), port: *port, path: path_of(path)? };
    let mut place = first.clone();
    for _ in 0..REDIRECTS_MAX {
        let response = get(&place, headers, asked).await?;
        let status = response.status();
        let next = redirected(&place, &response, asked).filter(|next| next.host_name(asked) == first.host_name(asked));
        drain(response).await?;
        match next {
            Some(next) => place = next,
            None if asked.is_hook() || (200..400).contains(&status.as_u16()) => return Ok(()),
            None => return Err(format!("the application answered {status}")),
        }
    }
    Err(format!("more than {REDIRECTS_MAX} redirects"))
}

/// As Go writes it: with a slash in front.
fn path_of(path: &str) -> Result<PathAndQuery, String> {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    path.parse().map_err(|error| format!("\"{path}\" is no path: {error}"))
}

/// Where the answer sends us, if it is a redirect that Go's client follows.
fn redirected(from: &Place, response: &Response<Incoming>, asked: Asked<'_>) -> Option<Place> {
    let follows = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let location = response.headers().get(LOCATION).filter(|_| follows)?.to_str().ok()?;
    resolve(from, location, asked)
}

/// RFC 3986 §5.2, as far as redirects use it.
fn resolve(from: &Place, location: &str, asked: Asked<'_>) -> Option<Place> {
    let location = location.split('#').next().unwrap_or_default();
    let absolute = if location.starts_with("//") {
        let scheme = if from.scheme == Scheme::Https { "https" } else { "http" };
        format!("{scheme}:{location}")
    } else if location.contains("://") {
        location.to_owned()
    } else {
        let path = if location.starts_with('/') {
            location.to_owned()
        } else {
            let base = from.path.path();
            format!("{}{location}", &base[..=base.rfind('/')?])
        };
        return Some(Place { path: path_of(&path).ok()?, ..from.clone() });
    };
    let uri: Uri = absolute.parse().ok()?;
    let scheme = match uri.scheme_str()? {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let port = uri.port_u16().unwrap_or(if scheme == Scheme::Https { 443 } else { 80 });
    let named = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let host = if named == from.host_name(asked) { from.host.clone() } else { named.to_owned() };
    Some(Place { scheme, host, port, path: uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")) })
}

impl Place {
    /// The host as the kubelet's URL has it.
    fn host_name(&self, asked: Asked<'_>) -> String {
        if self.host.is_empty() { asked.pod().to_string() } else { self.host.trim_matches(['[', ']']).to_owned() }
    }

    fn authority(&self, asked: Asked<'_>) -> String {
        let host = self.host_name(asked);
        if host.contains(':') { format!("[{host}]:{}", self.port) } else { format!("{host}:{}", self.port) }
    }
}

async fn get(place: &Place, headers: &[(String, String)], asked: Asked<'_>) -> Result<Response<Incoming>, String> {
    let request = request(place, headers, asked)?;
    let tcp = connect(&place.host, place.port, asked).await?;
    match place.scheme {
        Scheme::Http => send(tcp, request).await,
        Scheme::Https => {
            let host = place.host_name(asked);
            let name = match host.parse::<IpAddr>() {
                Ok(ip) => ServerName::IpAddress(ip.into()),
                Err(_) => ServerName::try_from(host).map_err(|error| format!("the host of the probe: {error}"))?,
            };
            let config = heddle_identity::unverified::client().map_err(|error| error.to_string())?;
            let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| format!("the TLS handshake: {error}"))?;
            send(tls, request).await
        }
    }
}

fn request(place: &Place, headers: &[(String, String)], asked: Asked<'_>) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = Uri::from(place.path.clone());
    let fields = request.headers_mut();
    for (name, value) in headers {
        // Both were checked when the configuration was read.
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            fields.append(name, value);
        }
    }
    if !fields.contains_key(HOST) {
        let host = place.authority(asked).parse::<HeaderValue>().map_err(|error| format!("the host of the probe: {error}"))?;
        fields.insert(HOST, host);
    }
    if !fields.contains_key(USER_AGENT) {
        fields.insert(USER_AGENT, asked.agent.cloned().unwrap_or(HeaderValue::from_static("kube-probe/heddle")));
    }
    if !fields.contains_key(ACCEPT) {
        fields.insert(ACCEPT, HeaderValue::from_static("*/*"));
    }
    fields.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

async fn send<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| format!("the request: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // It ends with the response's body, at the latest when the check is given up and the body dropped.
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await;
    if response.is_err() {
        driver.abort();
    }
    response.map_err(failed)
}

/// Reads the begin of the body, and gives up the rest.
async fn drain(response: Response<Incoming>) -> Result<(), String> {
    let mut body = response.into_body();
    let mut read = 0;
    while read < BODY_BYTES_MAX {
        match body.frame().await {
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(error)) => return Err(format!("the body: {error}")),
            None => return Ok(()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_as_browsers_do() {
        let ips = ["10.0.0.1".parse().unwrap()];
        let asked = Asked { kind: "liveness", agent: None, ips: &ips };
        let from = Place { scheme: Scheme::Http, host: String::new(), port: 8080, path: "/a/b?c".parse().unwrap() };
        let to = |location: &str| resolve(&from, location, asked).map(|p| (p.scheme, p.host_name(asked), p.port, p.path.to_string()));
        let own = || "10.0.0.1".to_owned();
        assert_eq!(to("/x?y"), Some((Scheme::Http, own(), 8080, "/x?y".to_owned())));
        assert_eq!(to("x#f"), Some((Scheme::Http, own(), 8080, "/a/x".to_owned())));
        assert_eq!(to("https://10.0.0.1:8443/s"), Some((Scheme::Https, own(), 8443, "/s".to_owned())));
        assert_eq!(to("//other/s"), Some((Scheme::Http, "other".to_owned(), 80, "/s".to_owned())));
        assert_eq!(to("ftp://10.0.0.1/"), None);
    }
}
