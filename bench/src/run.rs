//! The measuring run: every subject in every scenario, repetitions interleaved, so that a slow minute hits all alike.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::client::Protocol;
use crate::load::{Outcome, Work};
use crate::process::Reporter;
use crate::procfs;
use crate::report::{Figure, Report};
use crate::stats::Arrivals;
use crate::subject::{Bed, Pair, Subject};

/// What is done to a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// HTTP/1.1: saturation, then a fixed rate.
    Http1,
    /// gRPC unary: saturation, then a fixed rate.
    Grpc,
    /// Bytes in bulk, up and then down.
    Tcp,
    /// A new connection for every request.
    Connect,
    /// Idle keep-alive connections.
    Idle,
}

impl Scenario {
    fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Connect => "connect",
            Self::Idle => "idle",
        }
    }

    fn protocol(self) -> Protocol {
        match self {
            Self::Http1 | Self::Connect | Self::Idle => Protocol::Http1,
            Self::Grpc => Protocol::Grpc,
            Self::Tcp => Protocol::Tcp,
        }
    }

    fn columns(self) -> &'static [Figure] {
        match self {
            Self::Http1 | Self::Grpc => &[RPS, CPU, BUSY, CPU_FIXED, ADDED_P50, P50, P99, P999],
            Self::Connect => &[RPS, CPU, BUSY],
            Self::Tcp => &[MIB, CPU_MIB, BUSY],
            Self::Idle => &[RSS, GROWTH, GROWTH_EACH],
        }
    }

    fn title(self, settings: &Settings) -> String {
        let Settings {
            rate,
            arrivals,
            connections,
            grpc_connections,
            grpc_streams,
            bulk_connections,
            bulk_mib,
            connect_clients,
            idle_connections,
            body,
            ..
        } = settings;
        let fixed = match arrivals {
            Arrivals::Even => format!("latency at {rate} requests/s, evenly spaced"),
            Arrivals::Random => format!("latency at {rate} requests/s, randomly spaced"),
        };
        match self {
            Self::Http1 => format!("HTTP/1.1, answers of {body} bytes; {connections} connections at saturation; {fixed}"),
            Self::Grpc => {
                format!("gRPC unary of {body} bytes; {grpc_connections} connections x {grpc_streams} streams at saturation; {fixed}")
            }
            Self::Tcp => format!("{bulk_connections} connections, {bulk_mib} MiB up and then down on each"),
            Self::Connect => format!("a new connection for each request, {connect_clients} at a time"),
            Self::Idle => format!("one request on each of {idle_connections} connections, which are then idle"),
        }
    }
}

/// Sizes and lengths of a run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// In the order of the table.
    pub(crate) subjects: Vec<Subject>,
    /// In the order of the tables.
    pub(crate) scenarios: Vec<Scenario>,
    /// Samples of each figure.
    pub(crate) repetitions: usize,
    /// Of each measurement.
    pub(crate) measure: Duration,
    /// Before each measurement.
    pub(crate) warm: Duration,
    /// Requests per second of the open loop.
    pub(crate) rate: u64,
    /// How the requests of the open loop follow each other.
    pub(crate) arrivals: Arrivals,
    /// HTTP/1.1 connections at saturation.
    pub(crate) connections: usize,
    /// gRPC connections.
    pub(crate) grpc_connections: usize,
    /// Streams on each gRPC connection.
    pub(crate) grpc_streams: usize,
    /// Bulk connections.
    pub(crate) bulk_connections: usize,
    /// MiB each way on each bulk connection.
    pub(crate) bulk_mib: u64,
    /// Clients that connect anew for each request.
    pub(crate) connect_clients: usize,
    /// Idle connections.
    pub(crate) idle_connections: usize,
    /// Bytes of answers.
    pub(crate) body: usize,
    /// Descriptors that one process may have.
    pub(crate) descriptors: u64,
    /// The cores of client and server.
    pub(crate) load_cpus: Option<String>,
}

/// Descriptors that a process needs besides those of idle connections: libraries, logs, 64 connections being opened.
const DESCRIPTORS_SPARE: u64 = 256;

const RPS: Figure = figure("requests_per_second", "requests/s", 0);
const CPU: Figure = figure("proxy_cpu_us_per_request", "CPU us/request", 1);
const BUSY: Figure = figure("proxy_core_percent", "core %", 0);
const CPU_FIXED: Figure = figure("proxy_cpu_us_per_request_at_rate", "CPU us at rate", 1);
const ADDED_P50: Figure = figure("added_p50_us", "added p50 us", 0);
const P50: Figure = figure("p50_us", "p50 us", 0);
const P99: Figure = figure("p99_us", "p99 us", 0);
const P999: Figure = figure("p999_us", "p99.9 us", 0);
const MIB: Figure = figure("mib_per_second", "MiB/s", 0);
const CPU_MIB: Figure = figure("proxy_cpu_us_per_mib", "CPU us/MiB", 0);
const RSS: Figure = figure("rss_idle_kib", "RSS KiB of one", 0);
const GROWTH: Figure = figure("rss_growth_kib", "growth KiB of both", 0);
const GROWTH_EACH: Figure = figure("rss_growth_bytes_per_connection", "bytes/connection", 0);

const fn figure(name: &'static str, title: &'static str, digits: usize) -> Figure {
    Figure { name, title, digits }
}

/// Measures everything; what cannot be measured becomes a note. `progress` is told what is being done.
pub(crate) fn run(bed: &Bed, settings: &Settings, report: &mut Report, progress: &dyn Fn(&str)) {
    for scenario in &settings.scenarios {
        report.table(scenario.name(), scenario.title(settings), scenario.columns());
    }
    for repetition in 1..=settings.repetitions {
        for scenario in &settings.scenarios {
            // Added latency is against the direct one of the same repetition.
            let mut direct_p50 = None;
            for subject in &order(&settings.subjects, repetition) {
                let tool = bed.tools.missing(*subject, scenario.protocol());
                if let Some(why) = tool.or_else(|| no_room(settings, *scenario, *subject)) {
                    report.note(scenario.name(), *subject, why);
                    continue;
                }
                let (name, total) = (subject.name(), settings.repetitions);
                progress(&format!("{repetition}/{total} {} {name}", scenario.name()));
                let mut trial = Trial { bed, settings, report, scenario: *scenario, subject: *subject, direct_p50: &mut direct_p50 };
                if let Err(error) = trial.measure() {
                    progress(&format!("{name}: {error:#}"));
                    report.fail(scenario.name(), *subject, &error);
                }
            }
        }
    }
    report.finish();
}

/// Orders the subjects of one repetition: each time another one is the first, so that none always follows the same one.
///
/// `direct` stays in front, because the added latency of the others is against it.
fn order(subjects: &[Subject], repetition: usize) -> Vec<Subject> {
    let (mut order, mut others): (Vec<_>, Vec<_>) = subjects.iter().partition(|subject| **subject == Subject::Direct);
    let by = (repetition - 1) % others.len().max(1);
    others.rotate_left(by);
    order.append(&mut others);
    order
}

/// Says why there are too few descriptors for a subject in a scenario, if so.
///
/// A proxy that shares its connections to the next hop needs one descriptor for each idle client; the relay needs two.
fn no_room(settings: &Settings, scenario: Scenario, subject: Subject) -> Option<String> {
    let each = if subject == Subject::Relay { 2 } else { 1 };
    let wanted = each * settings.idle_connections as u64 + DESCRIPTORS_SPARE;
    let limit = settings.descriptors;
    (scenario == Scenario::Idle && wanted > limit).then(|| {
        format!("not measured: it needs {wanted} descriptors and may have {limit}; raise `ulimit -Hn`, or lower --idle-connections")
    })
}

/// One subject in one scenario, once.
struct Trial<'a> {
    bed: &'a Bed,
    settings: &'a Settings,
    report: &'a mut Report,
    scenario: Scenario,
    subject: Subject,
    direct_p50: &'a mut Option<f64>,
}

impl Trial<'_> {
    fn measure(&mut self) -> Result<()> {
        // There is no proxy whose memory could be looked at.
        if self.scenario == Scenario::Idle && self.subject == Subject::Direct {
            return Ok(());
        }
        let pair = Pair::start(self.bed, self.subject, self.scenario.protocol(), None)?;
        let Settings { measure, warm, rate, .. } = *self.settings;
        let (warm_ms, measure_ms) = (millis(warm), millis(measure));
        match self.scenario {
            Scenario::Http1 | Scenario::Grpc => {
                let (outcome, cpu) = self.load(&pair, Work::Saturate { warm_ms, measure_ms })?;
                self.throughput(&outcome, cpu);
                let arrivals = self.settings.arrivals;
                let work = Work::Fixed { arrivals, rate, warm_ms, measure_ms };
                let (outcome, cpu) = self.load(&pair, work)?;
                self.latency(&outcome, cpu);
            }
            Scenario::Connect => {
                let (outcome, cpu) = self.load(&pair, Work::Connect { warm_ms, measure_ms })?;
                self.throughput(&outcome, cpu);
            }
            Scenario::Tcp => {
                let mib = self.settings.bulk_mib;
                let (outcome, cpu) = self.load(&pair, Work::Bulk { mib })?;
                let moved = (2 * mib * outcome.requests) as f64;
                self.sample(MIB, moved / outcome.seconds);
                self.proxy_sample(CPU_MIB, microseconds(cpu) / moved);
                self.proxy_sample(BUSY, percent(cpu, outcome.seconds));
            }
            Scenario::Idle => self.idle(&pair)?,
        }
        Ok(())
    }

    fn throughput(&mut self, outcome: &Outcome, cpu: Duration) {
        let requests = outcome.requests as f64;
        self.sample(RPS, requests / outcome.seconds);
        self.proxy_sample(CPU, microseconds(cpu) / requests);
        self.proxy_sample(BUSY, percent(cpu, outcome.seconds));
    }

    fn latency(&mut self, outcome: &Outcome, cpu: Duration) {
        let latency = outcome.latency;
        self.proxy_sample(CPU_FIXED, microseconds(cpu) / outcome.requests as f64);
        if self.subject == Subject::Direct {
            *self.direct_p50 = Some(latency.p50_us);
        } else if let Some(direct) = *self.direct_p50 {
            self.sample(ADDED_P50, latency.p50_us - direct);
        }
        self.sample(P50, latency.p50_us);
        self.sample(P99, latency.p99_us);
        self.sample(P999, latency.p999_us);
    }

    fn idle(&mut self, pair: &Pair) -> Result<()> {
        let before = resident(&pair.pids)?;
        self.sample(RSS, before.iter().copied().max().unwrap_or(0) as f64);
        let mut load = self.start(pair, Work::Idle)?;
        load.begin()?;
        let after = resident(&pair.pids)?;
        load.go()?;
        let outcome = load.outcome()?;
        self.errors(&outcome);
        let growth = after.iter().sum::<u64>() as f64 - before.iter().sum::<u64>() as f64;
        self.sample(GROWTH, growth);
        self.sample(GROWTH_EACH, growth * 1024.0 / self.settings.idle_connections as f64);
        Ok(())
    }

    /// Does some work, and says what it cost the proxies between its begin and its end.
    fn load(&mut self, pair: &Pair, work: Work) -> Result<(Outcome, Duration)> {
        let mut load = self.start(pair, work)?;
        load.begin()?;
        let before = procfs::cpu_time_of(&pair.pids)?;
        let outcome = load.outcome()?;
        let after = procfs::cpu_time_of(&pair.pids)?;
        self.errors(&outcome);
        anyhow::ensure!(outcome.requests > 0, "no request was answered: {:?}", outcome.first_error);
        Ok((outcome, after.saturating_sub(before)))
    }

    fn start(&self, pair: &Pair, work: Work) -> Result<Reporter> {
        let settings = self.settings;
        let fixed = matches!(work, Work::Fixed { .. });
        let mut spec = pair.spec(self.bed, self.scenario.protocol(), work);
        (spec.connections, spec.streams) = match self.scenario {
            Scenario::Http1 => (settings.connections, 1),
            // Enough for any rate that is not saturation, and as few streams as a real client has.
            Scenario::Grpc if fixed => (settings.grpc_connections, settings.grpc_streams.min(8)),
            Scenario::Grpc => (settings.grpc_connections, settings.grpc_streams),
            Scenario::Tcp => (settings.bulk_connections, 1),
            Scenario::Connect => (settings.connect_clients, 1),
            Scenario::Idle => (settings.idle_connections, 1),
        };
        let log = self.bed.folder.join("load.log");
        Reporter::load(&spec, settings.load_cpus.as_deref(), &log).context("cannot start the load generator")
    }

    fn errors(&mut self, outcome: &Outcome) {
        if outcome.errors > 0 {
            let first = outcome.first_error.as_deref().unwrap_or("answers did not come");
            let what = format!("{} errors, the first: {first}", outcome.errors);
            self.report.note(self.scenario.name(), self.subject, what);
        }
    }

    fn sample(&mut self, figure: Figure, value: f64) {
        self.report.sample(self.scenario.name(), self.subject, figure, value);
    }

    fn proxy_sample(&mut self, figure: Figure, value: f64) {
        if self.subject != Subject::Direct {
            self.sample(figure, value);
        }
    }
}

fn resident(pids: &[u32]) -> Result<Vec<u64>> {
    pids.iter().map(|pid| procfs::resident_kib(*pid)).collect()
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn percent(cpu: Duration, seconds: f64) -> f64 {
    100.0 * cpu.as_secs_f64() / seconds
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_rotates_behind_direct() {
        use Subject::{Direct, Envoy, Heddle, Relay};
        let subjects = [Relay, Heddle, Direct, Envoy];
        assert_eq!(order(&subjects, 1), [Direct, Relay, Heddle, Envoy]);
        assert_eq!(order(&subjects, 2), [Direct, Heddle, Envoy, Relay]);
        assert_eq!(order(&subjects, 4), order(&subjects, 1));
        assert_eq!(order(&[Direct], 3), [Direct]);
    }
}
