//! The kubelet's checks of the application, done by the sidecar in its place.
//!
//! Injection turns the probes and hooks of a pod into requests for `/probe/<container>/<kind>` of the health server, and tells the
//! sidecar what they were. So they work in strict mode and on any network, and a TCP probe says whether the application listens and
//! not whether the sidecar does. What a probe means is what the kubelet means by it (`pkg/probe` of Kubernetes).
//!
//! ```json
//! {"app/readiness": {"http": {"port": 8080, "path": "/ready", "scheme": "HTTP", "host": "", "headers": [["A", "b"]]}, "timeoutSeconds": 1},
//!  "app/liveness":  {"tcp": {"port": 6379, "host": ""}, "timeoutSeconds": 1},
//!  "app/startup":   {"grpc": {"port": 9090, "service": ""}, "timeoutSeconds": 1}}
//! ```

mod grpc;
mod http;

use ::http::{HeaderName, HeaderValue};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// Checks by `<container>/<kind>`.
pub type Probes = BTreeMap<String, Probe>;

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// A request for a page.
    http: Option<HttpProbe>,
    /// A connection.
    tcp: Option<TcpProbe>,
    /// A call of `grpc.health.v1.Health/Check`.
    grpc: Option<GrpcProbe>,
    /// How long it may take, all in all.
    #[serde(default = "one_second")]
    timeout_seconds: u64,
}

/// As `httpGet` of a container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpProbe {
    port: u16,
    #[serde(default)]
    path: String,
    #[serde(default)]
    scheme: Scheme,
    /// Empty: the pod.
    #[serde(default)]
    host: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Scheme {
    #[default]
    Http,
    Https,
}

/// As `tcpSocket` of a container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct TcpProbe {
    port: u16,
    /// Empty: the pod.
    #[serde(default)]
    host: String,
}

/// As `grpc` of a container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrpcProbe {
    port: u16,
    #[serde(default)]
    service: String,
}

fn one_second() -> u64 {
    1
}

/// Who asks, and where the application is.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// `liveness`, `readiness`, `startup`, `post-start` or `pre-stop`.
    pub kind: &'a str,
    /// The kubelet's `User-Agent`, which the application shall see.
    pub agent: Option<&'a HeaderValue>,
    /// The pod's addresses.
    pub ips: &'a [IpAddr],
}

impl Asked<'_> {
    /// Whether it is a hook: the kubelet takes any answer to one.
    pub fn is_hook(&self) -> bool {
        matches!(self.kind, "post-start" | "pre-stop")
    }

    /// The pod, as the kubelet addresses it.
    fn pod(&self) -> IpAddr {
        self.ips.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

impl Probe {
    /// What is wrong with it; `None`: nothing.
    pub fn mistake(&self) -> Option<String> {
        let Self { http, tcp, grpc, timeout_seconds } = self;
        if [http.is_some(), tcp.is_some(), grpc.is_some()].iter().filter(|is| **is).count() != 1 {
            return Some("it must have exactly one of http, tcp and grpc".to_owned());
        }
        if *timeout_seconds == 0 {
            return Some("timeoutSeconds must not be 0".to_owned());
        }
        let headers = http.iter().flat_map(|http| &http.headers);
        headers.into_iter().find_map(|(name, value)| {
            let wrong = name.parse::<HeaderName>().is_err() || value.parse::<HeaderValue>().is_err();
            wrong.then(|| format!("\"{name}\" and its value make no header"))
        })
    }

    /// Does the check.
    ///
    /// # Errors
    /// Why it failed, in a sentence.
    pub async fn check(&self, asked: Asked<'_>) -> Result<(), String> {
        let limit = Duration::from_secs(self.timeout_seconds);
        let check = async {
            match (&self.http, &self.tcp, &self.grpc) {
                (Some(probe), _, _) => http::check(probe, asked).await,
                (None, Some(TcpProbe { port, host }), _) => connect(host, *port, asked).await.map(|_| ()),
                (None, None, Some(probe)) => grpc::check(probe, asked).await,
                (None, None, None) => Err("nothing is to be checked".to_owned()),
            }
        };
        timeout(limit, check).await.unwrap_or_else(|_| Err(format!("no result within {limit:?}")))
    }
}

/// A connection of the sidecar's own user, which is not redirected: to the application itself.
async fn connect(host: &str, port: u16, asked: Asked<'_>) -> Result<TcpStream, String> {
    let addresses: Vec<SocketAddr> = if host.is_empty() {
        vec![SocketAddr::new(asked.pod(), port)]
    } else {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        lookup_host((host, port)).await.map_err(|error| format!("looking up {host}: {error}"))?.collect()
    };
    TcpStream::connect(&addresses[..]).await.map_err(|error| match addresses.first() {
        Some(address) => format!("connecting to {address}: {error}"),
        None => format!("{host} has no address"),
    })
}

#[cfg(test)]
mod tests;
