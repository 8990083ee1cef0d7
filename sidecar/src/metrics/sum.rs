//! The metrics of several threads as one: series with equal labels are summed.
//!
//! What each worker knows as a whole, and not as its part of it, is not summed: of the numbers of [`MAXIMA`] the greatest is taken.

use super::families::ENDPOINTS;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, Metric, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};
use std::collections::BTreeMap;

/// Gauges that every worker reports in full.
const MAXIMA: [&str; 1] = [ENDPOINTS];

/// The series of one family by their labels.
type Series = BTreeMap<Vec<(String, String)>, Metric>;

/// Reads several registries as one. Families are in the order of their names, and series in that of their labels.
///
/// A histogram's series are summed where the bounds agree, as those of one program do.
#[must_use]
pub fn gather(registries: &[Registry]) -> Vec<MetricFamily> {
    let mut by_name: BTreeMap<String, (MetricFamily, Series)> = BTreeMap::new();
    for mut family in registries.iter().flat_map(Registry::gather) {
        let metrics = family.take_metric();
        let kind = family.get_field_type();
        let is_maximum = MAXIMA.contains(&family.name());
        let (_, by_labels) = by_name.entry(family.name().to_owned()).or_insert_with(|| (family, BTreeMap::new()));
        for metric in metrics {
            let labels = metric.get_label().iter().map(|l| (l.name().to_owned(), l.value().to_owned())).collect();
            match by_labels.get_mut(&labels) {
                None => {
                    by_labels.insert(labels, metric);
                }
                Some(sum) => add(sum, &metric, kind, is_maximum),
            }
        }
    }
    let whole = by_name.into_values().map(|(mut family, by_labels)| {
        family.set_metric(by_labels.into_values().collect());
        family
    });
    whole.collect()
}

/// Prometheus' text format, version 0.0.4.
#[must_use]
pub fn encode(families: &[MetricFamily]) -> String {
    let mut text = String::new();
    // The only error there is concerns a family without series or without a name; gathering gives none of these.
    if let Err(error) = TextEncoder::new().encode_utf8(families, &mut text) {
        text.push_str(&format!("# incomplete: {error}\n"));
    }
    text
}

fn add(sum: &mut Metric, other: &Metric, kind: MetricType, is_maximum: bool) {
    match kind {
        MetricType::COUNTER => {
            let mut counter = Counter::default();
            counter.set_value(sum.get_counter().get_value() + other.get_counter().get_value());
            sum.set_counter(counter);
        }
        MetricType::GAUGE => {
            let (a, b) = (sum.get_gauge().get_value(), other.get_gauge().get_value());
            let mut gauge = Gauge::default();
            gauge.set_value(if is_maximum { a.max(b) } else { a + b });
            sum.set_gauge(gauge);
        }
        MetricType::HISTOGRAM => sum.set_histogram(sum_histograms(sum.get_histogram(), other.get_histogram())),
        // Not in use here: the first one stands.
        MetricType::SUMMARY | MetricType::UNTYPED => {}
    }
}

fn sum_histograms(a: &Histogram, b: &Histogram) -> Histogram {
    let buckets = a.get_bucket().iter().zip(b.get_bucket()).map(|(a, b)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(a.upper_bound());
        bucket.set_cumulative_count(a.cumulative_count() + b.cumulative_count());
        bucket
    });
    let mut sum = Histogram::default();
    sum.set_bucket(buckets.collect());
    sum.set_sample_count(a.get_sample_count() + b.get_sample_count());
    sum.set_sample_sum(a.get_sample_sum() + b.get_sample_sum());
    sum
}
