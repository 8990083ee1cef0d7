//! Jobs end when their application does; init containers, the first millisecond and `preStop` have the network.

use heddle_tests::cluster::pod::{Pod, is_alive};
use heddle_tests::cluster::report::{millis, percentile, seconds};
use heddle_tests::cluster::workload::{ALL_PORTS, IMAGE, Workload, service, strict};
use heddle_tests::cluster::{World, say};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What the mesh may add to a Job's end.
const ADDED_MAX: Duration = Duration::from_secs(2);
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(10);

/// A server that takes mesh TLS only: whoever is answered went through both sidecars.
async fn server(world: &World, namespace: &str) {
    world.api.apply(&strict(namespace)).await;
    world.api.apply(&service(namespace, "server", "server", &ALL_PORTS)).await;
    world.start(&Workload::server(namespace, "server").deployment(1)).await;
}

/// When what of a Job had ended, since its application had.
struct Ends {
    sidecar: Option<Duration>,
    job: Duration,
    succeeded: bool,
}

/// Makes a Job and watches how it ends.
async fn watch(world: &World, job: &Value) -> Ends {
    world.api.create(job).await.unwrap();
    let field = |name: &str| job["metadata"][name].as_str().unwrap().to_owned();
    let (namespace, name) = (field("namespace"), field("name"));
    let selector = format!("job-name={name}");
    let (pod, app) = world
        .until("the Job's application to run", async || {
            let pod = world.pods(&namespace, &selector).await.pop().ok_or("no pod")?;
            let app = pod.process("heddle-test-app").ok_or_else(|| format!("no process; {}", pod.object["status"]))?;
            Ok((pod, app))
        })
        .await;
    // A native sidecar runs before the application does.
    let sidecar = pod.process("heddle-sidecar");
    while is_alive(app) {
        sleep(LOOK).await;
    }
    let ended = Instant::now();
    let sidecar = match sidecar {
        None => None,
        Some(sidecar) => {
            world.until("the sidecar to end", async || if is_alive(sidecar) { Err("it runs".to_owned()) } else { Ok(()) }).await;
            Some(ended.elapsed())
        }
    };
    let path = format!("/apis/batch/v1/namespaces/{namespace}/jobs/{name}");
    let succeeded = world
        .until("the Job to be done", async || {
            let status = world.api.get(&path).await["status"].clone();
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let is = |kind: &str| conditions.iter().any(|c| c["type"] == kind && c["status"] == "True");
            if is("Complete") || is("Failed") { Ok(is("Complete")) } else { Err(status.to_string()) }
        })
        .await;
    Ends { sidecar, job: ended.elapsed(), succeeded }
}

/// Jobs that succeed and that fail, against the same ones outside the mesh; and a CronJob by its schedule.
pub(crate) async fn jobs_end_with_their_application(world: &World) {
    let namespace = world.namespace("jobs", true).await;
    let outside = world.namespace("jobs-outside", false).await;
    server(world, &namespace).await;
    let call = |namespace: &str, name: &str, exit: &str| {
        Workload::new(namespace, name, &["call", "http://server/job", "--work-ms", "1500", "--exit", exit])
    };
    world.api.apply(&call(&namespace, "cron", "0").cron_job()).await;
    world.api.apply(&call(&namespace, "cron-fails", "3").cron_job()).await;

    let (mut sidecars, mut jobs, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..2 {
        for (kind, exit) in [("succeeds", "0"), ("fails", "1")] {
            let name = format!("{kind}-{round}");
            let Ends { sidecar, job, succeeded } = watch(world, &call(&namespace, &name, exit).job()).await;
            assert_eq!(succeeded, exit == "0", "{name}");
            sidecars.push(sidecar.unwrap_or_else(|| panic!("{name} has no sidecar")));
            jobs.push(job);
            // The server has no sidecar to talk to here: this one only works.
            let outside = Workload::new(&outside, &name, &["call", "--work-ms", "1500", "--exit", exit]);
            plain.push(watch(world, &outside.job()).await.job);
        }
    }
    let row = |what: &str, values: &[Duration]| {
        world.report.figure("jobs", what, format!("p50 {}, slowest {}", millis(percentile(values, 50)), millis(percentile(values, 100))));
    };
    row("from the application's end to the sidecar's", &sidecars);
    row("from the application's end to the Job's, in the mesh", &jobs);
    row("from the application's end to the Job's, outside the mesh", &plain);
    let slowest = percentile(&sidecars, 100);
    assert!(slowest <= ADDED_MAX, "a sidecar went on for {slowest:?} after its application");
    let added = percentile(&jobs, 50).saturating_sub(percentile(&plain, 50));
    assert!(added <= ADDED_MAX, "the mesh adds {added:?} to a Job's end");
    cron_jobs(world, &namespace).await;
}

async fn cron_jobs(world: &World, namespace: &str) {
    say("waiting for the CronJobs' minute");
    for (name, condition) in [("cron", "Complete"), ("cron-fails", "Failed")] {
        world
            .until(&format!("a Job of the CronJob {name} to be done"), async || {
                let jobs = world.api.list(&format!("/apis/batch/v1/namespaces/{namespace}/jobs")).await;
                let own = jobs.iter().filter(|job| job["metadata"]["ownerReferences"][0]["name"] == name);
                let done = |job: &&Value| {
                    let conditions = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
                    conditions.iter().any(|c| c["type"] == condition && c["status"] == "True")
                };
                if own.clone().any(|job| done(&job)) { Ok(()) } else { Err(format!("of {} none is {condition}", own.count())) }
            })
            .await;
    }
}

/// The application's own init container, its first millisecond, and its `preStop` hook: each call is answered, through the mesh.
pub(crate) async fn network_from_the_first_millisecond_to_the_last(world: &World) {
    let namespace = world.namespace("early", true).await;
    server(world, &namespace).await;
    let init = json!({
        "name": "init", "image": IMAGE, "imagePullPolicy": "Never", "args": ["call", "http://server/init"],
        "securityContext": {"runAsUser": 1000},
    });
    let hook = json!({"exec": {"command": ["/heddle-test-app", "call", "http://server/prestop"]}});
    let eager = Workload::new(&namespace, "eager", &["serve", "--http", "8080", "--first-call", "http://server/first"])
        .spec(&json!({"initContainers": [init]}))
        .container(&json!({"lifecycle": {"preStop": hook}}));
    let pod = world.start_pod(&eager.pod()).await;
    let first = pod.ask("/stats").await["firstCall"].clone();
    assert_eq!(first["status"], 200, "the first call: {first}");
    let micros = Duration::from_micros(first["micros"].as_u64().unwrap_or_default());
    world.report.figure("jobs", "a call in the application's first millisecond, DNS included, took", millis(micros));
    assert_eq!(asked(world, &namespace, "/init").await, 1);
    let began = Instant::now();
    world.api.delete(&pod.path()).await;
    world.gone(&pod).await;
    world.report.figure("jobs", "deletion of a pod with a preStop call", seconds(began.elapsed()));
    assert_eq!(asked(world, &namespace, "/prestop").await, 1, "the call of preStop did not arrive");
}

/// How often the server was asked for a path.
async fn asked(world: &World, namespace: &str, path: &str) -> u64 {
    let pods: Vec<Pod> = world.pods(namespace, "app=server").await;
    let mut sum = 0;
    for pod in pods {
        sum += pod.ask("/stats").await["asked"][path].as_u64().unwrap_or_default();
    }
    sum
}
