//! What the sidecars' outbound metrics say about routes: requests, shares, successes and durations by backend and version.

use crate::exposition::{Sample, samples};
use crate::histogram::Histogram;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How far back the table looks: long enough for a steady share, short enough for an edit to be seen.
pub(crate) const WINDOW: Duration = Duration::from_secs(5);

/// The sidecar's counter of finished HTTP requests.
const REQUESTS: &str = "heddle_http_requests_total";
/// The sidecar's histogram of their durations.
const DURATIONS: &str = "heddle_http_request_duration_seconds_bucket";
/// The sidecar's counter of finished opaque connections.
const CONNECTIONS: &str = "heddle_tcp_connections_total";

/// What one row is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    service: String,
    route: String,
    backend: String,
    version: String,
    kind: Kind,
}

/// The sidecar's gauge of HTTP requests that are not finished: streams among them.
const REQUESTS_OPEN: &str = "heddle_http_requests_in_flight";
/// The sidecar's gauge of opaque connections that are not finished.
const CONNECTIONS_OPEN: &str = "heddle_tcp_connections_open";
/// The sidecar's counters of bytes on opaque connections, which count while these last.
const CONNECTION_BYTES: [&str; 2] = ["heddle_tcp_received_bytes_total", "heddle_tcp_sent_bytes_total"];

/// What is counted as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// One HTTP request.
    Http,
    /// One opaque connection.
    Tcp,
}

/// Whether the other side was authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mtls {
    /// Every request went over mutual TLS.
    Yes,
    /// None did.
    No,
    /// Some did.
    Some,
    /// Nothing has ended yet that would tell.
    Unknown,
}

/// What was counted for one row.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counts {
    requests: f64,
    failures: f64,
    over_mtls: f64,
    /// Of opaque connections, both ways.
    bytes: f64,
    /// Begun and not finished now: no count, so it has no sum over time.
    open: f64,
    /// Failures by the cause that the proxy gave.
    causes: BTreeMap<String, f64>,
    durations: Histogram,
}

impl Counts {
    fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.over_mtls += other.over_mtls;
        self.bytes += other.bytes;
        for (cause, count) in &other.causes {
            *self.causes.entry(cause.clone()).or_default() += count;
        }
        self.durations.merge(&other.durations);
    }

    /// What was counted since `earlier`; everything, where the count went back because the process began anew.
    fn since(&self, earlier: &Self) -> Self {
        if self.requests < earlier.requests || self.bytes < earlier.bytes {
            return self.clone();
        }
        let cause = |(cause, count): (&String, &f64)| (cause.clone(), (count - earlier.causes.get(cause).unwrap_or(&0.0)).max(0.0));
        Self {
            requests: self.requests - earlier.requests,
            failures: (self.failures - earlier.failures).max(0.0),
            over_mtls: (self.over_mtls - earlier.over_mtls).max(0.0),
            bytes: self.bytes - earlier.bytes,
            open: self.open,
            causes: self.causes.iter().map(cause).collect(),
            durations: self.durations.since(&earlier.durations),
        }
    }
}

/// Everything that one sidecar has counted since it began.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Reading(BTreeMap<Key, Counts>);

impl Reading {
    /// Takes the outbound series out of a sidecar's `/metrics`.
    pub(crate) fn parse(text: &str) -> Self {
        let mut reading = Self::default();
        for sample in samples(text, REQUESTS).filter(|s| s.name == REQUESTS) {
            reading.count(&sample, Kind::Http);
        }
        for sample in samples(text, CONNECTIONS).filter(|s| s.name == CONNECTIONS) {
            reading.count(&sample, Kind::Tcp);
        }
        for (name, kind) in [(REQUESTS_OPEN, Kind::Http), (CONNECTIONS_OPEN, Kind::Tcp)] {
            for sample in samples(text, name).filter(|s| s.name == name) {
                if let Some(counts) = reading.counts(&sample, kind) {
                    counts.open += sample.value;
                }
            }
        }
        for name in CONNECTION_BYTES {
            for sample in samples(text, name).filter(|s| s.name == name) {
                if let Some(counts) = reading.counts(&sample, Kind::Tcp) {
                    counts.bytes += sample.value;
                }
            }
        }
        for sample in samples(text, DURATIONS).filter(|s| s.name == DURATIONS) {
            if let (Some(counts), Ok(bound)) = (reading.counts(&sample, Kind::Http), sample.label("le").parse()) {
                counts.durations.add(bound, sample.value);
            }
        }
        reading
    }

    fn count(&mut self, sample: &Sample<'_>, kind: Kind) {
        let Some(counts) = self.counts(sample, kind) else { return };
        counts.requests += sample.value;
        if sample.label("mtls") == "true" || sample.label("mtls") == "yes" {
            counts.over_mtls += sample.value;
        }
        if is_failure(sample) {
            counts.failures += sample.value;
        }
        let cause = sample.label("cause");
        if !is_no_cause(cause) {
            *counts.causes.entry(cause.to_owned()).or_default() += sample.value;
        }
    }

    fn counts(&mut self, sample: &Sample<'_>, kind: Kind) -> Option<&mut Counts> {
        if sample.label("direction") != "outbound" {
            return None;
        }
        // A label that has nothing to say is "none": the rows say that in their own words.
        let label = |name| Some(sample.label(name)).filter(|value| *value != "none").unwrap_or_default().to_owned();
        let key = Key { service: label("service"), route: label("route"), backend: label("backend"), version: label("version"), kind };
        Some(self.0.entry(key).or_default())
    }
}

/// Whether a series counts failures: answers of class 5xx, and exchanges that the mesh cut short. What the client did wrong (4xx), and a
/// client that went away, are no failures of the Service.
fn is_failure(sample: &Sample<'_>) -> bool {
    match sample.label("code_class") {
        "5xx" => true,
        "1xx" | "2xx" | "3xx" | "4xx" => false,
        _ => !is_no_cause(sample.label("cause")) && sample.label("cause") != "client_gone",
    }
}

/// Causes that are none: the application answered, or a filter of the rule, as it should.
fn is_no_cause(cause: &str) -> bool {
    matches!(cause, "" | "none" | "filter")
}

/// What passed over all sidecars: since the beginning, and within the last few intervals.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// The last reading by sidecar.
    last: BTreeMap<String, Reading>,
    totals: BTreeMap<Key, Counts>,
    current: BTreeMap<Key, Counts>,
    /// Closed intervals, oldest first; as many as [`WINDOW`] holds.
    intervals: VecDeque<(Duration, BTreeMap<Key, Counts>)>,
}

impl Traffic {
    /// Adds what a sidecar has counted since its last reading.
    pub(crate) fn record(&mut self, sidecar: &str, reading: Reading) {
        let before = self.last.remove(sidecar).unwrap_or_default();
        for (key, counts) in &reading.0 {
            let new = before.0.get(key).map_or_else(|| counts.clone(), |earlier| counts.since(earlier));
            if new.requests > 0.0 || new.bytes > 0.0 {
                self.totals.entry(key.clone()).or_default().merge(&new);
                self.current.entry(key.clone()).or_default().merge(&new);
            }
        }
        self.last.insert(sidecar.to_owned(), reading);
    }

    /// Forgets the last reading of a sidecar whose process is gone: its successor counts from zero.
    pub(crate) fn forget(&mut self, sidecar: &str) {
        self.last.remove(sidecar);
    }

    /// Closes an interval that took `length`.
    pub(crate) fn close_interval(&mut self, length: Duration) {
        self.intervals.push_back((length, std::mem::take(&mut self.current)));
        let mut held: Duration = self.intervals.iter().map(|(length, _)| *length).sum();
        while self.intervals.len() > 1 && held > WINDOW {
            if let Some((length, _)) = self.intervals.pop_front() {
                held = held.saturating_sub(length);
            }
        }
    }

    /// What passed within the last [`WINDOW`], by route.
    pub(crate) fn recent(&self) -> Vec<RouteTraffic> {
        let mut sum = BTreeMap::<Key, Counts>::new();
        let mut held = Duration::ZERO;
        for (length, interval) in &self.intervals {
            held += *length;
            for (key, counts) in interval {
                sum.entry(key.clone()).or_default().merge(counts);
            }
        }
        self.with_open(&mut sum);
        by_route(&sum, held)
    }

    /// What passed since the beginning, `elapsed` ago, by route.
    pub(crate) fn total(&self, elapsed: Duration) -> Vec<RouteTraffic> {
        let mut sum = self.totals.clone();
        self.with_open(&mut sum);
        by_route(&sum, elapsed)
    }

    /// Adds what is open now, after the last readings.
    fn with_open(&self, sum: &mut BTreeMap<Key, Counts>) {
        for (key, counts) in self.last.values().flat_map(|reading| &reading.0) {
            if counts.open > 0.0 {
                sum.entry(key.clone()).or_default().open += counts.open;
            }
        }
    }
}

/// What passed by one route (or rule) of one Service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RouteTraffic {
    /// The Service that was addressed; empty for an address outside any.
    pub(crate) service: String,
    /// The object and rule that decided, such as `HTTPRoute/default/reviews#canary`; empty where none did.
    pub(crate) route: String,
    /// What the requests of the backends are.
    pub(crate) kind: Kind,
    /// All requests together.
    pub(crate) requests: u64,
    /// The backends that the requests went to, by name and version.
    pub(crate) backends: Vec<BackendTraffic>,
}

/// What passed by one route to one version of one backend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct BackendTraffic {
    /// The Service port that answered; empty where the proxy itself answered.
    pub(crate) backend: String,
    /// The version of the endpoints, from their label.
    pub(crate) version: String,
    /// How many requests (or connections) ended.
    pub(crate) requests: u64,
    /// Of all requests of the route, 0 to 1.
    pub(crate) share: f64,
    /// How many ended per second.
    pub(crate) per_second: f64,
    /// How many are begun and not finished now.
    pub(crate) open: u64,
    /// Bytes of opaque connections, both ways.
    pub(crate) bytes: u64,
    /// Bytes of opaque connections per second.
    pub(crate) bytes_per_second: f64,
    /// How many failed: answers of class 5xx, and failures of the proxy.
    pub(crate) failures: u64,
    /// The share that did not fail, 0 to 1.
    pub(crate) success: f64,
    /// Half of the durations lie below, in seconds.
    pub(crate) p50_seconds: Option<f64>,
    /// Of the durations, 99 % lie below, in seconds.
    pub(crate) p99_seconds: Option<f64>,
    /// Whether it went over mutual TLS.
    pub(crate) mtls: Mtls,
    /// Failures of the proxy by cause.
    pub(crate) causes: BTreeMap<String, u64>,
}

fn by_route(sums: &BTreeMap<Key, Counts>, length: Duration) -> Vec<RouteTraffic> {
    let per_second = |count: f64| if length.is_zero() { 0.0 } else { count / length.as_secs_f64() };
    let mut routes = Vec::<RouteTraffic>::new();
    for (key, counts) in sums {
        let Key { service, route, backend, version, kind } = key;
        let row = BackendTraffic {
            backend: backend.clone(),
            version: version.clone(),
            requests: whole(counts.requests),
            share: 0.0,
            per_second: per_second(counts.requests),
            open: whole(counts.open),
            bytes: whole(counts.bytes),
            bytes_per_second: per_second(counts.bytes),
            failures: whole(counts.failures),
            success: if counts.requests > 0.0 { 1.0 - counts.failures / counts.requests } else { 1.0 },
            p50_seconds: counts.durations.quantile(0.5),
            p99_seconds: counts.durations.quantile(0.99),
            mtls: mtls(counts),
            causes: counts.causes.iter().filter(|(_, count)| **count > 0.0).map(|(cause, count)| (cause.clone(), whole(*count))).collect(),
        };
        match routes.iter_mut().find(|r| r.service == *service && r.route == *route && r.kind == *kind) {
            Some(found) => found.backends.push(row),
            None => {
                routes.push(RouteTraffic { service: service.clone(), route: route.clone(), kind: *kind, requests: 0, backends: vec![row] })
            }
        }
    }
    for route in &mut routes {
        route.requests = route.backends.iter().map(|backend| backend.requests).sum();
        for backend in &mut route.backends {
            backend.share = ratio(backend.requests, route.requests);
        }
    }
    routes
}

/// What can be said about mutual TLS: an exchange that failed before there was a connection says nothing.
fn mtls(counts: &Counts) -> Mtls {
    let failed: f64 = counts.causes.values().sum();
    if counts.over_mtls >= counts.requests - failed {
        if counts.over_mtls > 0.0 { Mtls::Yes } else { Mtls::Unknown }
    } else if counts.over_mtls > 0.0 {
        Mtls::Some
    } else {
        Mtls::No
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests stay far below 2^52")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters are whole and never negative")]
fn whole(count: f64) -> u64 {
    count.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(v1: u32, v2: u32, failed: u32) -> String {
        let labels = r#"direction="outbound",service="default/reviews:80",route="HTTPRoute/default/reviews#0""#;
        let (b1, b2) =
            (r#"backend="default/reviews-v1:80",version="v1",mtls="true""#, r#"backend="default/reviews-v2:80",version="v2",mtls="true""#);
        format!(
            "# TYPE heddle_http_requests_total counter\n\
             heddle_http_requests_total{{{labels},{b1},code_class=\"2xx\",cause=\"\"}} {v1}\n\
             heddle_http_requests_total{{{labels},{b1},code_class=\"5xx\",cause=\"connect\"}} {failed}\n\
             heddle_http_requests_total{{{labels},{b2},code_class=\"2xx\",cause=\"\"}} {v2}\n\
             heddle_http_requests_total{{direction=\"inbound\",service=\"x\",code_class=\"2xx\"}} 99\n\
             heddle_http_request_duration_seconds_bucket{{{labels},{b1},le=\"0.01\"}} {v1}\n\
             heddle_http_request_duration_seconds_bucket{{{labels},{b1},le=\"+Inf\"}} {v1}\n"
        )
    }

    #[test]
    fn shares_and_successes_come_by_route_and_version() {
        let mut traffic = Traffic::default();
        traffic.record("front-0", Reading::parse(&metrics(85, 10, 5)));
        traffic.close_interval(Duration::from_secs(1));
        let routes = traffic.recent();
        assert_eq!(routes.len(), 1);
        let route = &routes[0];
        assert_eq!((route.service.as_str(), route.route.as_str()), ("default/reviews:80", "HTTPRoute/default/reviews#0"));
        assert_eq!((route.requests, route.backends.len()), (100, 2));
        let v1 = &route.backends[0];
        assert_eq!((v1.version.as_str(), v1.requests, v1.failures, v1.mtls), ("v1", 90, 5, Mtls::Yes));
        assert!((v1.share - 0.9).abs() < 1e-9 && (v1.per_second - 90.0).abs() < 1e-9);
        assert_eq!(v1.causes["connect"], 5);
        assert!((v1.p50_seconds.unwrap() - 0.005).abs() < 1e-9);
        assert_eq!(route.backends[1].p99_seconds, None);
    }

    #[test]
    fn only_what_is_new_is_counted() {
        let mut traffic = Traffic::default();
        traffic.record("a", Reading::parse(&metrics(10, 0, 0)));
        traffic.record("a", Reading::parse(&metrics(30, 10, 0)));
        traffic.record("b", Reading::parse(&metrics(5, 5, 0)));
        let total = traffic.total(Duration::from_secs(10));
        assert_eq!(total[0].requests, 50);
        assert!((total[0].backends[0].per_second - 3.5).abs() < 1e-9);
    }

    #[test]
    fn a_sidecar_that_began_anew_counts_from_zero() {
        let mut traffic = Traffic::default();
        traffic.record("a", Reading::parse(&metrics(100, 0, 0)));
        traffic.forget("a");
        traffic.record("a", Reading::parse(&metrics(120, 0, 0)));
        traffic.record("a", Reading::parse(&metrics(10, 0, 0)));
        assert_eq!(traffic.total(Duration::from_secs(1))[0].requests, 230);
    }

    #[test]
    fn only_exchanges_with_a_connection_tell_about_mtls() {
        let counts = |requests: f64, over_mtls: f64, failed: f64| Counts {
            requests,
            over_mtls,
            causes: BTreeMap::from([("no_endpoints".to_owned(), failed)]),
            ..Counts::default()
        };
        for (counts, expected) in [
            (counts(10.0, 10.0, 0.0), Mtls::Yes),
            (counts(10.0, 10.0, 3.0), Mtls::Yes),
            (counts(10.0, 7.0, 3.0), Mtls::Yes),
            (counts(10.0, 5.0, 3.0), Mtls::Some),
            (counts(10.0, 0.0, 3.0), Mtls::No),
            (counts(10.0, 0.0, 10.0), Mtls::Unknown),
            (counts(0.0, 0.0, 0.0), Mtls::Unknown),
        ] {
            assert_eq!(mtls(&counts), expected, "{counts:?}");
        }
    }

    #[test]
    fn an_open_connection_is_seen_while_it_lasts() {
        let metrics = |open: u32, sent: u32| {
            let labels = r#"direction="outbound",service="default/store:6379",backend="default/store:6379",version="v1""#;
            format!(
                "heddle_tcp_connections_open{{{labels}}} {open}\nheddle_tcp_received_bytes_total{{{labels}}} 10\nheddle_tcp_sent_bytes_total{{{labels}}} {sent}\n"
            )
        };
        let mut traffic = Traffic::default();
        traffic.record("a", Reading::parse(&metrics(2, 90)));
        traffic.close_interval(Duration::from_secs(1));
        let backend = &traffic.recent()[0].backends[0];
        assert_eq!((backend.open, backend.bytes, backend.requests, backend.mtls), (2, 100, 0, Mtls::Unknown));
        traffic.record("a", Reading::parse(&metrics(0, 190)));
        let backend = &traffic.total(Duration::from_secs(2))[0].backends[0];
        assert_eq!((backend.open, backend.bytes), (0, 200));
        assert!((backend.bytes_per_second - 100.0).abs() < 1e-9);
    }

    #[test]
    fn old_intervals_leave_the_window() {
        let mut traffic = Traffic::default();
        traffic.record("a", Reading::parse(&metrics(100, 0, 0)));
        traffic.close_interval(Duration::from_secs(1));
        for _ in 0..5 {
            traffic.close_interval(Duration::from_secs(1));
        }
        assert!(traffic.recent().is_empty());
        assert_eq!(traffic.total(Duration::from_secs(6))[0].requests, 100);
    }
}
