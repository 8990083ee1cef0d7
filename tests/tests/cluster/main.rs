//! The scenarios on a real cluster: one after the other, on one mesh, in an order that begins with its installation and ends with its
//! removal. `cargo test -p heddle-tests --test cluster [-- PART-OF-A-NAME...]`; `tests/run cluster` also takes the cluster down.
//! `--soak`: those of the tier `soak`.
//!
//! A load with certificates of one minute goes on behind the scenarios between `ten_minutes::begin` and `ten_minutes::end`.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod admission;
mod canary;
mod certificates;
mod configuration;
mod endpoints;
mod jobs;
mod outage;
mod probes;
mod prometheus;
mod removal;
mod soak;
mod speed;
mod status;
mod ten_minutes;
mod without_helm;
mod zero_lost;

use heddle_tests::cluster::{World, say};
use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

/// One scenario. What needs longer hangs.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// What a scenario does; it stays in this thread.
type Body = Pin<Box<dyn Future<Output = ()>>>;
type Scenario = (&'static str, fn(Rc<World>) -> Body);

/// A scenario's name and function.
macro_rules! scenarios {
    ($($module:ident :: $name:ident),* $(,)?) => {
        vec![$((
            concat!(stringify!($module), "::", stringify!($name)),
            (|world| Box::pin(async move { $module::$name(&world).await })) as fn(Rc<World>) -> Body,
        )),*]
    };
}

/// All of them, in their order.
fn scenarios() -> Vec<Scenario> {
    scenarios![
        removal::before_anything,
        canary::installed_from_nothing,
        canary::by_weight_by_header_and_edited_live,
        canary::nothing_in_the_clear_between_pods,
        prometheus::a_real_prometheus_scrapes_everything,
        ten_minutes::begin,
        jobs::jobs_end_with_their_application,
        jobs::network_from_the_first_millisecond_to_the_last,
        probes::probes_work_in_strict_mode,
        endpoints::pod_ips_and_headless_services,
        endpoints::clients_and_servers_outside_the_mesh,
        admission::every_kind_of_pod,
        admission::refusals_are_sentences,
        admission::routes_and_policies_are_validated,
        status::status_says_what_is_in_force,
        certificates::only_its_own_token_proves_a_pod,
        zero_lost::restarts_and_scaling,
        zero_lost::canary_in_steps,
        speed::changes_are_in_force,
        speed::a_pods_start,
        configuration::ten_thousand_services_cost_nothing,
        ten_minutes::end,
        outage::without_a_control_plane,
        removal::upgraded_with_old_sidecars,
        removal::uninstalled_without_a_trace,
        without_helm::checked_installed_upgraded_and_removed,
    ]
}

/// What takes longer.
fn soak_scenarios() -> Vec<Scenario> {
    scenarios![soak::an_hour_of_disturbances, soak::as_many_pods_as_fit]
}

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let asked = |option: &str| std::env::args().any(|arg| arg == option);
    let (scenarios, limit) = if asked("--soak") { (soak_scenarios(), LIMIT * 12) } else { (scenarios(), LIMIT) };
    if asked("--list") {
        for (name, _) in scenarios {
            say(&format!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    if !is_root() {
        eprintln!("the cluster tier needs root: it makes a node in namespaces of its own (see tests/cluster/README.md)");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let world = Rc::new(World::new().await);
        let mut failed = Vec::new();
        for (name, scenario) in scenarios.into_iter().filter(|(name, _)| wanted(name)) {
            let installs = !name.starts_with("removal::before") && !name.starts_with("without_helm::");
            let shared = world.clone();
            let whole: Body = Box::pin(async move {
                if installs {
                    shared.install().await;
                }
                scenario(shared).await;
            });
            if !run(&world, name, limit, whole).await {
                failed.push(name);
            }
        }
        world.clean().await;
        say(&format!("figures:\n{}", world.report.table()));
        say(&format!("written to {}", world.report.write()));
        if failed.is_empty() {
            say("all scenarios passed");
            return ExitCode::SUCCESS;
        }
        eprintln!("failed: {}", failed.join(", "));
        ExitCode::FAILURE
    })
}

/// Runs a scenario; what it leaves to be read after a failure is printed.
async fn run(world: &World, name: &str, limit: Duration, scenario: Body) -> bool {
    say(&format!("scenario {name}"));
    let began = Instant::now();
    let mut task = tokio::task::spawn_local(scenario);
    let reason = match timeout(limit, &mut task).await {
        Ok(Ok(())) => {
            say(&format!("passed {name} in {:.1} s", began.elapsed().as_secs_f64()));
            world.clean().await;
            return true;
        }
        // The panic's text is on standard error already.
        Ok(Err(error)) => error.to_string(),
        Err(_) => {
            task.abort();
            format!("it did not end within {limit:?}")
        }
    };
    eprintln!("FAILED {name} after {:.1} s: {reason}\n{}", began.elapsed().as_secs_f64(), world.diagnosis().await);
    world.clean().await;
    false
}

fn is_root() -> bool {
    // Of this process, by proc(5): the owner of its own directory there.
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("proc(5)")) == 0
}
