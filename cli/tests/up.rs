//! `heddle up` as people start it: the real binary with real processes, told by what it prints, and by what it leaves behind.

#![expect(clippy::unwrap_used, reason = "what a test's function unwraps fails the test")]

mod harness;

use harness::{Up, alive, free_port};
use std::net::TcpListener;

/// A workload that serves HTTP, with the Service that selects it.
fn ratings(name: &str) -> String {
    format!(
        "apiVersion: heddle.dev/v1alpha1
kind: LocalWorkload
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  command: [heddle, example, ratings]
  ports: [{{name: http, port: 8080}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
"
    )
}

/// A workload of one shell command.
fn shell(name: &str, script: &str) -> String {
    format!(
        "apiVersion: heddle.dev/v1alpha1
kind: LocalWorkload
metadata: {{name: {name}}}
spec:
  command: [sh, -c, {}]
---
",
        serde_json::Value::from(script)
    )
}

#[test]
fn a_run_ends_by_itself_and_writes_its_report() {
    let mut up = Up::new("report").manifest("shop.yaml", &ratings("ratings")).start(&["--for", "500ms", "--report", "REPORT"]);
    assert_eq!(up.exit_code(), Some(0), "{}", up.said());
    let report = up.report();
    assert_eq!(report["endedBy"], "time");
    assert_eq!(report["processes"]["replicas"][0]["pod"], "ratings-0");
    assert_eq!(report["processes"]["replicas"][0]["ready"], true);
    assert_eq!(report["problems"].as_array().unwrap().len(), 0);
    assert!(up.leaves_nothing());
}

/// Runs an example for a while; gives the rows of its report: route, version, and whether all of it went well and over mutual TLS.
fn rows_of_example(name: &str) -> Vec<(String, String, bool)> {
    let mut up = Up::new(name).example(name).start(&["--for", "4s", "--report", "REPORT"]);
    assert_eq!(up.exit_code(), Some(0), "{}", up.said());
    let report = up.report();
    assert_eq!((report["problems"].to_string().as_str(), report["endedBy"].as_str()), ("[]", Some("time")), "{report:#}");
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let mut rows = Vec::new();
    for route in report["routes"].as_array().unwrap() {
        for backend in route["backends"].as_array().unwrap() {
            // A connection that is still open does not tell how it ended.
            let good = backend["failures"] == 0 && (backend["mtls"] == "yes" || backend["mtls"] == "unknown");
            let name = if route["route"] == "" { &route["service"] } else { &route["route"] };
            rows.push((text(name), text(&backend["version"]), good));
        }
    }
    assert!(up.leaves_nothing());
    rows
}

#[test]
fn the_canary_goes_by_header_and_by_weight_over_mutual_tls() {
    let expected = [
        ("Service/default/front", "v1"),
        ("Service/default/ratings", "v1"),
        ("HTTPRoute/default/reviews#beta-testers", "v2"),
        ("HTTPRoute/default/reviews#everybody", "v1"),
        ("HTTPRoute/default/reviews#everybody", "v2"),
    ];
    assert_eq!(rows_of_example("canary"), expected.map(|(route, version)| (route.to_owned(), version.to_owned(), true)));
}

#[test]
fn the_other_examples_run_without_a_failure() {
    for name in ["grpc", "tcp"] {
        let rows = rows_of_example(name);
        assert!(rows.len() >= 2 && rows.iter().all(|(.., good)| *good), "{name}: {rows:?}");
    }
}

#[test]
fn a_crash_is_named_in_one_line_and_the_application_started_again() {
    let script = "echo began >> runs; echo it is broken >&2; exit 3";
    let mut up = Up::new("crash").manifest("a.yaml", &shell("broken", script)).start(&[]);
    up.wait_for("broken-0 exited with status 3: it is broken; starting again in 1 s");
    up.wait_for("broken-0 exited with status 3: it is broken; starting again in 2 s");
    up.terminate();
    assert_eq!(up.exit_code(), Some(0));
}

#[test]
fn a_crash_at_the_end_of_the_time_is_a_failure() {
    let script = "test -e ran && exit 3; touch ran; echo here; exec sleep 1000";
    let mut up = Up::new("late-crash").manifest("a.yaml", &shell("late", script)).start(&["--for", "2s", "--verbose"]);
    up.wait_for("late-0 | here");
    up.kill_application("late-0");
    up.wait_for("late-0 was ended by signal 9 (SIGKILL): here; starting again in 1 s");
    assert_eq!(up.exit_code(), Some(1), "{}", up.said());
}

#[test]
fn a_missing_command_is_named_once() {
    let manifest = shell("lost", "true").replace("sh, -c", "no-such-program, -c");
    let mut up = Up::new("missing").manifest("a.yaml", &manifest).start(&[]);
    up.wait_for("lost-0: command not found: no-such-program is in no directory of PATH");
    up.terminate();
    assert_eq!(up.exit_code(), Some(0));
    assert_eq!(up.said().matches("no-such-program").count(), 1, "{}", up.said());
}

#[test]
fn a_port_in_use_is_named_before_anything_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let manifest = format!(
        "apiVersion: heddle.dev/v1alpha1
kind: LocalWorkload
metadata: {{name: client}}
spec:
  upstreams: [{{service: reviews, port: 80, listen: \"{address}\"}}]
"
    );
    let mut up = Up::new("port").manifest("a.yaml", &manifest).start(&[]);
    assert_eq!(up.exit_code(), Some(1));
    let expected = format!("LocalWorkload/default/client: spec.upstreams[0].listen: {address} is in use by up-");
    assert!(up.said().contains(&expected), "{}", up.said());
    assert_eq!(up.said().lines().count(), 1, "{}", up.said());
}

#[test]
fn manifests_without_anything_usable_are_refused_with_the_reasons() {
    let mut up = Up::new("unusable").manifest("a.yaml", &shell("a", "true").replace("command: [", "command: [[")).start(&[]);
    assert_eq!(up.exit_code(), Some(64));
    assert!(up.said().contains("a.yaml:") && up.said().contains("no usable"), "{}", up.said());
    let mut up = Up::new("empty").start(&[]);
    assert_eq!(up.exit_code(), Some(64));
    assert!(up.said().contains("no usable manifests"), "{}", up.said());
}

#[test]
fn a_mistake_is_named_with_its_place_and_the_rest_runs() {
    let broken = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: typo}
spec:
  parentRefs: [{group: \"\", kind: Service, name: ratings}]
  rules:
  - backendRefs: [{name: ratings, port: 80, weight: ninety}]
";
    let lost = broken.replace("typo", "lost").replace("ninety", "1").replace("[{name: ratings", "[{name: nobody");
    let up = Up::new("mistake").manifest("shop.yaml", &ratings("ratings")).manifest("typo.yaml", broken).manifest("lost.yaml", &lost);
    let mut up = up.start(&["--for", "1500ms", "--report", "REPORT", "-o", "json"]);
    assert_eq!(up.exit_code(), Some(0), "{}", up.said());
    assert_eq!(up.said().matches("typo.yaml:7:").count(), 1, "{}", up.said());
    assert_eq!(
        up.said().matches("HTTPRoute/default/lost (for ratings): ResolvedRefs is False: BackendNotFound").count(),
        1,
        "{}",
        up.said()
    );
    let report = up.report();
    assert!(report["problems"][0].as_str().unwrap().contains("weight"), "{report:#}");
    let last: serde_json::Value = serde_json::from_str(up.printed().lines().last().unwrap()).unwrap();
    let problems = last["problems"].to_string();
    assert!(problems.contains("HTTPRoute/default/lost") && problems.contains("ResolvedRefs"), "{problems}");
}

#[test]
fn added_and_removed_workloads_come_and_go() {
    let mut up = Up::new("edits").manifest("a.yaml", &ratings("a")).start(&[]);
    up.wait_for("ready after");
    let old = up.pids("a-0");
    up.edit("b.yaml", &ratings("b").replace("spec:\n  command", "spec:\n  replicas: 2\n  command"));
    up.wait_until("b-0 and b-1 are ready", |running| running.ready() == ["a-0", "b-0", "b-1"]);
    up.edit("b.yaml", &ratings("b"));
    up.wait_until("b-1 is gone", |running| running.ready() == ["a-0", "b-0"]);
    // A mistake ends nothing.
    up.edit("b.yaml", "apiVersion: heddle.dev/v1alpha1\nkind: LocalWorkload\nmetadata: {name: b}\nspec: {command: serve}\n");
    up.wait_for("b.yaml:4:");
    up.remove("a.yaml");
    up.wait_until("only b-0 is there", |running| running.ready() == ["b-0"] && running.pods() == ["b-0"]);
    assert!(old.iter().all(|pid| !alive(*pid)), "{old:?}");
    up.terminate();
    assert_eq!(up.exit_code(), Some(0));
    assert!(up.leaves_nothing());
}

#[test]
fn the_meshs_own_processes_are_started_again_and_named() {
    let mut up = Up::new("restart").manifest("a.yaml", &ratings("a")).start(&[]);
    up.wait_for("ready after");
    up.kill_sidecar("a-0");
    up.wait_for("sidecar of a-0 was ended by signal 9 (SIGKILL)");
    up.wait_until("a-0 is ready again", |running| running.ready() == ["a-0"] && running.sidecar_restarts("a-0") == 1);
    up.kill_control_plane();
    up.wait_for("control plane was ended by signal 9 (SIGKILL)");
    up.wait_until("a-0 is still ready", |running| running.ready() == ["a-0"] && running.control_plane_restarts() == 1);
    up.terminate();
    assert_eq!(up.exit_code(), Some(0));
}

#[test]
fn a_workload_of_somebody_else_is_reached_at_its_own_address() {
    let (own, listen, upstream, admin) = (TcpListener::bind("127.0.0.1:0").unwrap(), free_port(), free_port(), free_port());
    let port = own.local_addr().unwrap().port();
    let manifest = format!(
        "apiVersion: heddle.dev/v1alpha1
kind: LocalWorkload
metadata: {{name: foreign, labels: {{app: foreign}}}}
spec:
  ports: [{{name: tcp, port: {port}, listen: \"127.0.0.1:{listen}\"}}]
  upstreams: [{{service: foreign, port: 80, listen: \"127.0.0.1:{upstream}\"}}]
  sidecar: {{admin: \"127.0.0.1:{admin}\"}}
---
apiVersion: v1
kind: Service
metadata: {{name: foreign}}
spec:
  selector: {{app: foreign}}
  ports: [{{name: tcp, port: 80, targetPort: tcp}}]
"
    );
    let mut up = Up::new("foreign").manifest("a.yaml", &manifest).start(&[]);
    up.wait_until("foreign-0 is ready", |running| running.ready() == ["foreign-0"]);
    for place in [listen, upstream, admin] {
        let _connected = std::net::TcpStream::connect(("127.0.0.1", place)).unwrap();
    }
    drop(own);
    up.wait_until("foreign-0 is not ready", |running| running.ready().is_empty());
    up.terminate();
    assert_eq!(up.exit_code(), Some(0));
}

#[test]
fn everything_ends_with_an_up_that_was_killed() {
    let mut up = Up::new("killed").manifest("a.yaml", &ratings("a")).manifest("b.yaml", &shell("b", "exec sleep 1000")).start(&[]);
    up.wait_for("ready after");
    let pids = [up.pids("a-0"), up.pids("b-0"), vec![up.control_plane_pid()]].concat();
    assert_eq!(pids.len(), 5);
    up.kill();
    for pid in pids {
        harness::wait("the process ends with its parent", || !alive(pid));
    }
}

#[test]
fn what_ignores_the_end_is_ended_all_the_same() {
    let script = "trap '' TERM; echo deaf; while :; do sleep 0.1; done";
    let mut up = Up::new("deaf").manifest("a.yaml", &shell("deaf", script)).start(&["--verbose"]);
    up.wait_for("deaf-0 | deaf");
    up.wait_for("ready after");
    let pids = up.pids("deaf-0");
    up.terminate();
    up.wait_for("ending:");
    up.terminate();
    assert_eq!(up.exit_code(), Some(130), "{}", up.said());
    assert!(pids.iter().all(|pid| !alive(*pid)));
    assert!(up.leaves_nothing());
}
