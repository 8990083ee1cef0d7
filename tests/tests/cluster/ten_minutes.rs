//! Certificates of one minute for ten minutes under load, behind the other scenarios: no request fails, and every sidecar has renewed.

use heddle_tests::cluster::load::Load;
use heddle_tests::cluster::workload::{ALL_PORTS, Workload, service, strict};
use heddle_tests::cluster::{World, say, standstill};
use serde_json::json;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long.
const TEN_MINUTES: Duration = Duration::from_secs(600);
/// A renewal at half of a minute, give or take jitter: at least so many in ten minutes.
const RENEWALS: f64 = 12.0;

/// What goes on between the two scenarios.
struct Running {
    namespace: String,
    load: Load,
    since: Instant,
}

static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

/// From here on every new certificate lives for one minute.
pub(crate) async fn begin(world: &World) {
    world.mesh_config(&json!({"certificateLifetime": "1m"})).await;
    let namespace = world.namespace("minute", true).await;
    world.keep(&namespace);
    world.api.apply(&service(&namespace, "server", "server", &ALL_PORTS)).await;
    world.api.apply(&strict(&namespace)).await;
    world.start(&Workload::server(&namespace, "server").deployment(2)).await;
    let args = ["http://server/", "h2c://server:81/", "grpc://server:82", "--busy", "1", "--idle", "1", "--rate", "4"];
    let load = Load::start(world, &namespace, "client", &args).await;
    let _earlier = standstill::taken();
    *RUNNING.lock().unwrap() = Some(Running { namespace, load, since: Instant::now() });
}

/// Waits for the rest of the ten minutes. Requests that failed while the machine itself stood still say nothing of certificates: the ten
/// minutes are made once more, and then nothing is excused.
pub(crate) async fn end(world: &World) {
    let mut running = rest(world).await;
    if running.load.tallies().await.failed() > 0
        && let Some(standstill) = standstill::taken()
    {
        say(&format!("requests failed, and the machine stood still for {standstill:?} meanwhile: ten minutes once more"));
        world.delete_namespace(&running.namespace).await;
        begin(world).await;
        running = rest(world).await;
    }
    let Running { namespace, load, since } = running;
    let all = load.tallies().await;
    world.report.figure("certificates", "lifetime 1 min, 10 min under load", all.words());
    all.assert_flawless("ten minutes with certificates of one minute");
    for pod in world.pods(&namespace, "heddle.dev/injected=true").await {
        let renewals = pod.metrics().await.unwrap().sum("heddle_certificate_renewals_total", &[]);
        assert!(renewals >= RENEWALS, "{} has renewed {renewals} times in {:?}", pod.name, since.elapsed());
    }
    world.mesh_config(&json!({"certificateLifetime": "24h"})).await;
    world.delete_namespace(&namespace).await;
}

/// Waits until the ten minutes of what [`begin`] began are over.
async fn rest(world: &World) -> Running {
    let Some(running) = RUNNING.lock().unwrap().take() else {
        panic!("ten_minutes::begin did not run, or failed: name both in the filter")
    };
    let left = TEN_MINUTES.saturating_sub(running.since.elapsed());
    if !left.is_zero() {
        say(&format!("waiting for {:.0} s more of ten minutes", left.as_secs_f64()));
        sleep_until(running.since + TEN_MINUTES).await;
    }
    running.load.more(world, 3).await;
    running
}
