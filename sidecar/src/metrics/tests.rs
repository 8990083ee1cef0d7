//! What is counted is what a scrape says, across workers.

use super::*;
use proptest::prelude::*;

fn labels<'a>(route: &'a str, mtls: bool) -> ExchangeLabels<'a> {
    ExchangeLabels {
        direction: Direction::Outbound,
        service: "default/reviews:80",
        route,
        backend: "default/reviews-v1:80",
        version: "v1",
        mtls,
    }
}

fn scrape(of: &[&Metrics]) -> String {
    encode(&gather(&of.iter().map(|m| m.registry()).collect::<Vec<_>>()))
}

/// The value of the one series that begins so.
fn value(text: &str, series: &str) -> f64 {
    let mut found = text.lines().filter(|l| l.starts_with(series));
    let line = found.next().unwrap_or_else(|| panic!("no {series} in:\n{text}"));
    assert_eq!(found.next(), None, "several {series}");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

const ROUTE: &str = "HTTPRoute/default/reviews#canary";

#[test]
fn exchanges_are_counted_by_their_labels_class_and_cause() {
    let metrics = Metrics::new();
    let handle = metrics.exchange(labels(ROUTE, true));
    for (status, cause) in [(200, Cause::None), (204, Cause::None), (503, Cause::ConnectFailed), (0, Cause::ClientGone)] {
        handle.start();
        handle.finish(status, cause, Duration::from_millis(3), 10, 100);
    }
    handle.start();
    let text = scrape(&[&metrics]);
    let of = |class: &str, cause: &str| {
        format!(
            "heddle_http_requests_total{{backend=\"default/reviews-v1:80\",cause=\"{cause}\",code_class=\"{class}\",\
             direction=\"outbound\",mtls=\"true\",route=\"{ROUTE}\",service=\"default/reviews:80\",version=\"v1\"}}"
        )
    };
    assert_eq!(value(&text, &of("2xx", "none")), 2.0);
    assert_eq!(value(&text, &of("5xx", "connect_failed")), 1.0);
    assert_eq!(value(&text, &of("none", "client_gone")), 1.0);
    assert_eq!(value(&text, "heddle_http_requests_in_flight"), 1.0);
    assert_eq!(value(&text, "heddle_http_request_body_bytes_total"), 40.0);
    assert_eq!(value(&text, "heddle_http_response_body_bytes_total"), 400.0);
    assert_eq!(value(&text, "heddle_http_request_duration_seconds_count"), 4.0);
    assert_eq!(value(&text, "heddle_http_request_duration_seconds_sum"), 0.012);
    handle.abandon();
    assert_eq!(value(&scrape(&[&metrics]), "heddle_http_requests_in_flight"), 0.0);
}

#[test]
fn the_same_labels_give_the_same_handle() {
    let metrics = Metrics::new();
    let handle = metrics.exchange(labels(ROUTE, true));
    let shared = metrics.clone();
    assert!(Rc::ptr_eq(&handle, &shared.exchange(labels(ROUTE, true))));
    assert!(!Rc::ptr_eq(&handle, &metrics.exchange(labels(ROUTE, false))));
    assert!(!Rc::ptr_eq(&handle, &metrics.exchange(labels("none", true))));
}

#[test]
fn mtls_tells_requests_apart_and_nothing_else() {
    let metrics = Metrics::new();
    for mtls in [false, true] {
        let handle = metrics.exchange(labels(ROUTE, mtls));
        handle.start();
        handle.finish(200, Cause::None, Duration::ZERO, 0, 0);
    }
    let text = scrape(&[&metrics]);
    assert_eq!(text.lines().filter(|l| l.starts_with("heddle_http_requests_total{")).count(), 2);
    assert_eq!(value(&text, "heddle_http_request_duration_seconds_count"), 2.0);
}

#[test]
fn workers_are_summed_and_numbers_of_the_whole_are_not() {
    let workers = [Metrics::new(), Metrics::new(), Metrics::new()];
    for worker in &workers {
        let handle = worker.exchange(labels(ROUTE, true));
        handle.start();
        handle.finish(200, Cause::None, Duration::from_millis(600), 1, 1);
        handle.start();
        worker.endpoints("default/reviews-v1:80", 5);
        worker.accepted();
        worker.pool_idle(2);
    }
    let all: Vec<_> = workers.iter().collect();
    let text = scrape(&all);
    assert_eq!(value(&text, "heddle_http_requests_total{"), 3.0);
    assert_eq!(value(&text, "heddle_http_requests_in_flight"), 3.0);
    assert_eq!(value(&text, "heddle_connections_accepted_total"), 3.0);
    assert_eq!(value(&text, "heddle_pool_connections_idle"), 6.0);
    assert_eq!(value(&text, "heddle_endpoints{backend=\"default/reviews-v1:80\"}"), 5.0);
    assert!((value(&text, "heddle_http_request_duration_seconds_sum") - 1.8).abs() < 1e-9);
    let buckets: Vec<_> = text.lines().filter(|l| l.starts_with("heddle_http_request_duration_seconds_bucket")).collect();
    assert_eq!(buckets.len(), series::HTTP_BOUNDS.len() + 1);
    let at = |bound: &str| buckets.iter().find(|b| b.contains(&format!("le=\"{bound}\""))).unwrap().rsplit(' ').next().unwrap();
    assert_eq!([at("0.0005"), at("0.25"), at("1"), at("30"), at("+Inf")], ["0", "0", "3", "3", "3"]);
}

#[test]
fn connections_are_counted_while_they_last() {
    let metrics = Metrics::new();
    let labels = TcpLabels { direction: Direction::Inbound, service: "default/db:5432", backend: "none", version: "none", mtls: true };
    let handle = metrics.tcp(labels);
    handle.start();
    handle.transferred(7, 70);
    handle.transferred(1, 1);
    let text = scrape(&[&metrics]);
    assert_eq!(value(&text, "heddle_tcp_connections_open{"), 1.0);
    assert_eq!(value(&text, "heddle_tcp_received_bytes_total{"), 8.0);
    assert_eq!(value(&text, "heddle_tcp_sent_bytes_total{"), 71.0);
    handle.finish(Cause::IdleTimeout, Duration::from_secs(100));
    handle.start();
    handle.abandon();
    let text = scrape(&[&metrics]);
    let ended = "heddle_tcp_connections_total{backend=\"none\",cause=\"idle_timeout\",direction=\"inbound\",mtls=\"true\"";
    assert_eq!(value(&text, ended), 1.0);
    assert_eq!(value(&text, "heddle_tcp_connections_open{"), 0.0);
    assert_eq!(value(&text, "heddle_tcp_connection_duration_seconds_sum{"), 100.0);
}

#[test]
fn everything_else_has_its_counter() {
    let metrics = Metrics::new();
    metrics.attempt(Cause::None.flag());
    metrics.attempt(Cause::None.flag());
    metrics.attempt(Cause::Reset.flag());
    metrics.retry("unprocessed");
    metrics.budget_exhausted();
    metrics.reuse_race_replayed();
    metrics.mirror_skipped();
    metrics.limit_hit("connections");
    metrics.tls_handshake("client", true);
    metrics.tls_handshake("server", false);
    metrics.pool_opened();
    metrics.pool_reused();
    metrics.pool_evicted(3);
    metrics.pool_evicted(3);
    let text = scrape(&[&metrics]);
    for (series, expected) in [
        ("heddle_http_attempts_total{outcome=\"none\"}", 2.0),
        ("heddle_http_attempts_total{outcome=\"reset\"}", 1.0),
        ("heddle_http_retries_total{reason=\"unprocessed\"}", 1.0),
        ("heddle_retry_budget_exhausted_total", 1.0),
        ("heddle_reuse_race_replayed_total", 1.0),
        ("heddle_http_mirrors_skipped_total", 1.0),
        ("heddle_limits_hit_total{limit=\"connections\"}", 1.0),
        ("heddle_tls_handshakes_total{outcome=\"ok\",side=\"client\"}", 1.0),
        ("heddle_tls_handshakes_total{outcome=\"failed\",side=\"server\"}", 1.0),
        ("heddle_pool_connections_opened_total", 1.0),
        ("heddle_pool_connections_reused_total", 1.0),
        ("heddle_pool_connections_evicted_total", 3.0),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
}

#[test]
fn a_backend_that_is_gone_is_not_shown() {
    let metrics = Metrics::new();
    metrics.endpoints("default/a:80", 1);
    metrics.endpoints("default/a:80", 2);
    assert_eq!(value(&scrape(&[&metrics]), "heddle_endpoints{"), 2.0);
    metrics.endpoints_gone("default/a:80");
    metrics.endpoints_gone("default/a:80");
    assert!(!scrape(&[&metrics]).contains("heddle_endpoints{"));
    assert_eq!(metrics.inner.room.left.get(), SERIES_MAX);
}

/// Lines of a scrape that are series.
fn series_of(text: &str) -> usize {
    text.lines().filter(|l| !l.starts_with('#')).count()
}

#[test]
fn series_beyond_the_bound_are_counted_as_overflow() {
    let metrics = Metrics::new();
    let routes: Vec<_> = (0..2_000).map(|n| format!("HTTPRoute/default/r{n}")).collect();
    for route in &routes {
        let handle = metrics.exchange(labels(route, true));
        for cause in [Cause::None, Cause::Reset] {
            handle.start();
            handle.finish(200, cause, Duration::ZERO, 0, 1);
        }
    }
    let text = scrape(&[&metrics]);
    let count = series_of(&text);
    // What has no labels at all and the overflow series themselves come on top.
    assert!((SERIES_MAX - 100..SERIES_MAX + 50).contains(&count), "{count}");
    assert!(value(&text, "heddle_metric_series_overflow_total") > 1_000.0);
    let overflow = metrics.exchange(labels(&routes[1_999], true));
    assert!(Rc::ptr_eq(&overflow, &metrics.exchange(labels(&routes[1_998], true))));
    assert!(!Rc::ptr_eq(&overflow, &metrics.exchange(labels(&routes[0], true))));
    let requests: f64 = text
        .lines()
        .filter(|l| l.starts_with("heddle_http_requests_total{"))
        .map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    assert_eq!(requests, 4_000.0, "none is lost");
    assert!(text.contains("route=\"overflow\""));
}

#[test]
fn the_text_is_what_prometheus_reads() {
    let metrics = Metrics::new();
    let _ = metrics.exchange(ExchangeLabels { version: "a \"quoted\\\" one", ..labels(ROUTE, false) });
    metrics.endpoints("default/a:80", 1);
    let text = scrape(&[&metrics]);
    assert!(text.contains("version=\"a \\\"quoted\\\\\\\" one\""), "{text}");
    let mut last = "";
    for line in text.lines() {
        if let Some(header) = line.strip_prefix("# HELP ") {
            last = header.split(' ').next().unwrap();
            assert!(header.ends_with('.'), "{header}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            assert!(kind.starts_with(last));
            assert_eq!(last.ends_with("_total"), kind.ends_with("counter"), "{kind}");
        } else {
            assert!(line.starts_with(last), "{line} is not of {last}");
        }
    }
}

#[test]
fn another_registry_joins_in() {
    let metrics = Metrics::new();
    metrics.accepted();
    let other = Registry::new();
    let gauge = prometheus::IntGauge::new("heddle_config_revision", "The revision.").unwrap();
    other.register(Box::new(gauge.clone())).unwrap();
    gauge.set(7);
    let text = encode(&gather(&[metrics.registry(), other]));
    assert_eq!(value(&text, "heddle_config_revision"), 7.0);
    assert_eq!(value(&text, "heddle_connections_accepted_total"), 1.0);
}

proptest! {
    /// The buckets of a scrape are what a count by hand gives, and their sums agree.
    #[test]
    fn durations_fall_into_their_buckets(nanos in prop::collection::vec(0..60_000_000_000u64, 0..100)) {
        let metrics = Metrics::new();
        let handle = metrics.exchange(labels(ROUTE, true));
        for n in &nanos {
            handle.start();
            handle.finish(200, Cause::None, Duration::from_nanos(*n), 0, 0);
        }
        let families = gather(&[metrics.registry()]);
        let family = families.iter().find(|f| f.name() == "heddle_http_request_duration_seconds").unwrap();
        let histogram = family.get_metric()[0].get_histogram();
        prop_assert_eq!(histogram.get_sample_count(), nanos.len() as u64);
        for (bucket, bound) in histogram.get_bucket().iter().zip(series::HTTP_BOUNDS) {
            prop_assert_eq!(bucket.cumulative_count(), nanos.iter().filter(|n| **n <= bound).count() as u64);
        }
        let sum = nanos.iter().sum::<u64>() as f64 / 1e9;
        prop_assert!((histogram.get_sample_sum() - sum).abs() < 1e-9);
    }
}
