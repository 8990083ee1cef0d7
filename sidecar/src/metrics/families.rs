//! From a worker's counters to Prometheus' families, when a scrape asks.

use super::series::{Counter, Durations, Flow, Flows, Gauge, OVERFLOW, Shared};
use crate::cause::Cause;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::HashMap;
use std::sync::Arc;

/// Labels of all HTTP series.
const HTTP_LABELS: &[&str] = &["direction", "service", "route", "backend", "version"];
/// Labels of all series of opaque connections.
const TCP_LABELS: &[&str] = &["direction", "service", "backend", "version"];

/// A family's name, what it says, and its labels.
#[derive(Debug, Clone, Copy)]
struct Family {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
}

const fn family(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family {
    Family { name, help, labels }
}

/// Endpoints of a backend; see [`super::sum`] for why it has a name.
pub(super) const ENDPOINTS: &str = "heddle_endpoints";

/// Families of one kind of flow.
#[derive(Debug)]
struct FlowFamilies {
    ended: Family,
    duration: Family,
    by_client: Family,
    to_client: Family,
    open: Family,
    /// Whether ends have a class of status codes.
    has_class: bool,
}

const HTTP: FlowFamilies = FlowFamilies {
    ended: family(
        "heddle_http_requests_total",
        "Finished HTTP requests, by class of the status that the client was told, and by what made the proxy answer itself.",
        &["direction", "service", "route", "backend", "version", "code_class", "cause", "mtls"],
    ),
    duration: family(
        "heddle_http_request_duration_seconds",
        "From a request's head to the end of its response, with all tries.",
        HTTP_LABELS,
    ),
    by_client: family("heddle_http_request_body_bytes_total", "Bytes of request bodies.", HTTP_LABELS),
    to_client: family("heddle_http_response_body_bytes_total", "Bytes of response bodies.", HTTP_LABELS),
    open: family("heddle_http_requests_in_flight", "Requests begun and not finished.", HTTP_LABELS),
    has_class: true,
};

const TCP: FlowFamilies = FlowFamilies {
    ended: family(
        "heddle_tcp_connections_total",
        "Finished opaque connections, by what made the proxy end them.",
        &["direction", "service", "backend", "version", "cause", "mtls"],
    ),
    duration: family("heddle_tcp_connection_duration_seconds", "How long opaque connections lasted.", TCP_LABELS),
    by_client: family("heddle_tcp_received_bytes_total", "Bytes that clients sent on opaque connections.", TCP_LABELS),
    to_client: family("heddle_tcp_sent_bytes_total", "Bytes that were sent to clients on opaque connections.", TCP_LABELS),
    open: family("heddle_tcp_connections_open", "Opaque connections begun and not finished.", TCP_LABELS),
    has_class: false,
};

const ATTEMPTS: Family =
    family("heddle_http_attempts_total", "Tries at one endpoint, by outcome: none, or the cause of the failure.", &["outcome"]);
const BUDGET: Family =
    family("heddle_retry_budget_exhausted_total", "Further tries that a policy wanted and the retry budget did not allow.", &[]);
const REPLAYS: Family = family(
    "heddle_reuse_race_replayed_total",
    "Requests sent again because the kept connection was closed by its server before they came.",
    &[],
);
const MIRRORS: Family = family("heddle_http_mirrors_skipped_total", "Copies of requests that were not sent.", &[]);
const ACCEPTED: Family = family("heddle_connections_accepted_total", "Connections accepted from clients.", &[]);
const OPENED: Family =
    family("heddle_pool_connections_opened_total", "Connections that were opened to endpoints and to the application.", &[]);
const REUSED: Family = family("heddle_pool_connections_reused_total", "Exchanges that found an idle connection.", &[]);
const EVICTED: Family = family("heddle_pool_connections_evicted_total", "Connections closed because the pool was full.", &[]);
const IDLE: Family = family("heddle_pool_connections_idle", "Connections kept for the next exchange.", &[]);
const OVERFLOWS: Family = family(
    "heddle_metric_series_overflow_total",
    "Times that a series found no room and was counted under labels with the value overflow.",
    &[],
);
const BACKENDS: Family = family(ENDPOINTS, "Endpoints of a backend, draining ones among them.", &["backend"]);

/// All of it.
const ALL: [Family; 21] = [
    HTTP.ended,
    HTTP.duration,
    HTTP.by_client,
    HTTP.to_client,
    HTTP.open,
    TCP.ended,
    TCP.duration,
    TCP.by_client,
    TCP.to_client,
    TCP.open,
    ATTEMPTS,
    BUDGET,
    REPLAYS,
    MIRRORS,
    ACCEPTED,
    OPENED,
    REUSED,
    EVICTED,
    IDLE,
    OVERFLOWS,
    BACKENDS,
];

/// A worker's counters as a collector of its registry.
#[derive(Debug)]
pub(super) struct Collected {
    shared: Arc<Shared>,
    descs: Vec<Desc>,
}

impl Collected {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let desc = |Family { name, help, labels }: Family| {
            let labels = labels.iter().map(|l| (*l).to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new()).expect("a valid metric")
        };
        Self { shared, descs: ALL.into_iter().map(desc).collect() }
    }
}

impl Collector for Collected {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Shared {
            http,
            tcp,
            backends,
            attempts,
            budget_exhausted,
            replays,
            mirrors_skipped,
            accepted,
            pool_opened,
            pool_reused,
            pool_evicted,
            pool_idle,
            overflows,
        } = &*self.shared;
        let single = |family: Family, value: &Counter| counters(family, [(Vec::new(), value.value())]);
        let tried = Cause::ALL.iter().zip(attempts).map(|(cause, count)| (vec![cause.flag()], count.value()));
        let endpoints = backends.all().clone();
        let mut families = vec![
            counters(ATTEMPTS, tried.filter(|(_, count)| *count > 0)),
            single(BUDGET, budget_exhausted),
            single(REPLAYS, replays),
            single(MIRRORS, mirrors_skipped),
            single(ACCEPTED, accepted),
            single(OPENED, pool_opened),
            single(REUSED, pool_reused),
            single(EVICTED, pool_evicted),
            gauges(IDLE, [(Vec::new(), pool_idle)]),
            single(OVERFLOWS, overflows),
            gauges(BACKENDS, endpoints.iter().map(|(backend, gauge)| (vec![backend.as_str()], &**gauge))),
        ];
        families.extend(flows(&HTTP, http));
        families.extend(flows(&TCP, tcp));
        families
    }
}

fn flows(families: &FlowFamilies, flows: &Flows) -> [MetricFamily; 5] {
    let FlowFamilies { ended, duration, by_client, to_client, open, has_class } = families;
    // Copied, so that no worker waits for what is written below.
    let all: Vec<Arc<Flow>> = flows.all().clone();
    let values = |flow: &'_ Arc<Flow>| -> Vec<String> { flow.labels.clone() };
    let texts = |labels: &'static [&'static str], flow: &Arc<Flow>| pairs(labels, values(flow).iter().map(String::as_str));
    let mut ends = Vec::new();
    for flow in &all {
        for (mtls, outcome, count) in flow.outcomes() {
            let (class, cause) = outcome.map_or((OVERFLOW, OVERFLOW), |(class, cause)| (class, cause.flag()));
            let of_flow = flow.labels.iter().map(String::as_str);
            let of_end = has_class.then_some(class).into_iter().chain([cause, if mtls { "true" } else { "false" }]);
            let mut metric = Metric::from_label(pairs(ended.labels, of_flow.chain(of_end)));
            metric.set_counter(counter(count));
            ends.push(metric);
        }
    }
    let bytes = |family: &Family, value: fn(&Flow) -> &Counter| {
        let metrics = all.iter().map(|flow| {
            let mut metric = Metric::from_label(texts(family.labels, flow));
            metric.set_counter(counter(value(flow).value()));
            metric
        });
        made(*family, MetricType::COUNTER, metrics.collect())
    };
    let durations = all.iter().map(|flow| {
        let mut metric = Metric::from_label(texts(duration.labels, flow));
        metric.set_histogram(histogram(&flow.durations));
        metric
    });
    let opened = all.iter().map(|flow| {
        let mut metric = Metric::from_label(texts(open.labels, flow));
        metric.set_gauge(gauge(&flow.open));
        metric
    });
    [
        made(*ended, MetricType::COUNTER, ends),
        made(*duration, MetricType::HISTOGRAM, durations.collect()),
        bytes(by_client, |f| &f.sent_by_client),
        bytes(to_client, |f| &f.sent_to_client),
        made(*open, MetricType::GAUGE, opened.collect()),
    ]
}

fn counters<'a>(family: Family, values: impl IntoIterator<Item = (Vec<&'a str>, u64)>) -> MetricFamily {
    let metrics = values.into_iter().map(|(labels, value)| {
        let mut metric = Metric::from_label(pairs(family.labels, labels));
        metric.set_counter(counter(value));
        metric
    });
    made(family, MetricType::COUNTER, metrics.collect())
}

fn gauges<'a>(family: Family, values: impl IntoIterator<Item = (Vec<&'a str>, &'a Gauge)>) -> MetricFamily {
    let metrics = values.into_iter().map(|(labels, value)| {
        let mut metric = Metric::from_label(pairs(family.labels, labels));
        metric.set_gauge(gauge(value));
        metric
    });
    made(family, MetricType::GAUGE, metrics.collect())
}

fn made(family: Family, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut made = MetricFamily::default();
    made.set_name(family.name.to_owned());
    made.set_help(family.help.to_owned());
    made.set_field_type(kind);
    made.set_metric(metrics);
    made
}

/// In the order of names, as Prometheus' own metrics have them.
fn pairs<'a>(names: &[&str], values: impl IntoIterator<Item = &'a str>) -> Vec<LabelPair> {
    let pair = |(name, value): (&&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.to_owned());
        pair
    };
    let mut pairs: Vec<_> = names.iter().zip(values).map(pair).collect();
    pairs.sort_by(|a, b| a.name().cmp(b.name()));
    pairs
}

fn counter(value: u64) -> proto::Counter {
    let mut counter = proto::Counter::default();
    counter.set_value(value as f64);
    counter
}

fn gauge(value: &Gauge) -> proto::Gauge {
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value.value() as f64);
    gauge
}

fn histogram(durations: &Durations) -> proto::Histogram {
    let mut cumulative = 0;
    let buckets = durations.bounds.iter().zip(&durations.counts).map(|(bound, count)| {
        cumulative += count.value();
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(seconds(*bound));
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let buckets = buckets.collect();
    let above = durations.counts.last().map_or(0, Counter::value);
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(cumulative + above);
    histogram.set_sample_sum(seconds(durations.sum_nanos.value()));
    histogram
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
