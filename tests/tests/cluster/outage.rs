//! No control plane at all: what runs goes on; what would start unmeshed by accident is refused, everything else starts.

use heddle_tests::cluster::World;
use heddle_tests::cluster::load::Load;
use heddle_tests::cluster::report::seconds;
use heddle_tests::cluster::workload::{ALL_PORTS, Workload, service};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Of the outage: several pauses of idle connections.
const OUTAGE: Duration = Duration::from_secs(20);

/// Scaled to zero, and back.
pub(crate) async fn without_a_control_plane(world: &World) {
    let namespace = world.namespace("outage", true).await;
    let elsewhere = world.namespace("outage-elsewhere", false).await;
    world.api.apply(&service(&namespace, "server", "server", &ALL_PORTS)).await;
    world.start(&Workload::server(&namespace, "server").deployment(2)).await;
    let urls = ["http://server/", "h2c://server:81/", "grpc://server:82", "--rest-ms", "4000"];
    let load = Load::start(world, &namespace, "client", &urls).await;
    let before = load.tallies().await;
    world.scale_control_plane(0).await;
    let began = Instant::now();
    let refused = world.api.create(&Workload::server(&namespace, "new").pod()).await;
    let refusal = refused.expect_err("a pod starts without its sidecar while the control plane is away");
    let words = ["inject.heddle.dev", "heddle-control-plane"];
    assert!(words.iter().all(|word| refusal.message.contains(word)), "the refusal does not name the webhook: {}", refusal.message);
    heddle_tests::cluster::say(&format!("refused: {}", refusal.message));
    let free = world.start_pod(&Workload::server(&elsewhere, "free").pod()).await;
    assert!(!free.is_injected());
    // The outage is to last; nothing else is waited for.
    sleep(OUTAGE.saturating_sub(began.elapsed())).await;
    load.more(world, 3).await;
    let window = load.tallies().await.since(&before);
    let figure = format!("{} of {} requests failed in {}", window.failed(), window.total(), seconds(began.elapsed()));
    world.report.figure("outage", "no control plane: running pods", figure);
    window.assert_flawless("the outage");
    world.scale_control_plane(2).await;
    let began = Instant::now();
    let pod = world.start_pod(&Workload::server(&namespace, "new").pod()).await;
    assert!(pod.is_injected());
    world.report.figure("outage", "after it: a new pod is ready in", seconds(began.elapsed()));
    load.more(world, 3).await;
    load.tallies().await.assert_flawless("the end of the outage");
}
