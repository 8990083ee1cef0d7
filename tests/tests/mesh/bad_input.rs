//! Mistakes of users: each is named with its place, and nothing else stops working.

use heddle_tests::http1::{Message, exchange};
use heddle_tests::look::{in_force, outbound, status};
use heddle_tests::mesh::ROUTES;
use heddle_tests::process::heddle;
use heddle_tests::{App, Mesh, Service, Wire, Workload};
use serde_json::Value;
use std::process::{Command, Output};

const GET: &str = "GET / HTTP/1.1\r\nHost: echo\r\n\r\n";

/// A route that marks requests, and sends them to `echo` with this weight.
fn route(mark: &str, weight: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: echo}}
spec:
  parentRefs:
  - {{group: \"\", kind: Service, name: echo}}
  rules:
  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {{set: [{{name: x-mark, value: {mark}}}]}}
    backendRefs:
    - name: echo
      port: 80
      weight: {weight}
"
    )
}

fn policy(connect: &str) -> String {
    format!(
        "---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: echo}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: echo}}]
  timeouts: {{connect: {connect}}}
"
    )
}

async fn echo(objects: &str) -> (App, Mesh) {
    let app = App::named("echo").await;
    let mesh = Mesh::builder().pair(app.address(), "http").objects(objects).start().await;
    (app, mesh)
}

/// One request on a connection of its own.
async fn get(mesh: &Mesh, authority: &str) -> Message {
    let mut wire = Wire::connect(mesh.outbound("client", authority)).await;
    exchange(&mut wire, GET).await
}

/// The mark of the route that the request has met: the application gives the request back.
async fn mark(mesh: &Mesh) -> Option<String> {
    let answer = get(mesh, "echo:80").await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    Message::parse(&answer.body).header("x-mark").map(str::to_owned)
}

fn problems(status: &Value) -> &[Value] {
    status["problems"].as_array().map_or(&[], Vec::as_slice)
}

/// Whether a file of manifests is meant.
fn is_of(problem: &Value, file: &str) -> bool {
    problem["file"].as_str().is_some_and(|path| path.ends_with(&format!("/{file}.yaml")))
}

async fn in_force_connect(mesh: &Mesh, milliseconds: u64) {
    in_force(mesh, "client", "the policy", |config| {
        outbound(config, "echo:80")["policy"]["backends"][0]["connectTimeoutMs"] == milliseconds
    })
    .await;
}

#[tokio::test]
async fn a_mistake_is_named_with_its_place_and_the_rest_stays_in_force() {
    let (_app, mesh) = echo(&format!("{}{}", route("good", "1"), policy("1s"))).await;
    assert!(problems(&mesh.status().await).is_empty());
    // The same file has a mistake and a good change.
    mesh.edit(ROUTES, &format!("{}{}", route("bad", "ninety"), policy("700ms")));
    let found = status(&mesh, "the mistake", |status| problems(status).iter().any(|p| p["level"] == "error")).await;
    let errors: Vec<_> = problems(&found).iter().filter(|p| p["level"] == "error").collect();
    let [error] = errors.as_slice() else { panic!("one error: {found:#}") };
    assert!(is_of(error, ROUTES), "{error:#}");
    assert_eq!((error["line"].as_u64(), error["column"].as_u64()), (Some(14), Some(15)), "{error:#}");
    assert_eq!(error["object"], "HTTPRoute/default/echo");
    assert_eq!(error["field"], "spec.rules[0].backendRefs[0].weight");
    assert!(error["message"].as_str().is_some_and(|m| m.contains("ninety")), "{error:#}");
    let text = error["text"].as_str().unwrap();
    assert!(text.contains("routes.yaml:14:15: HTTPRoute/default/echo: spec.rules[0].backendRefs[0].weight: "), "{text}");
    in_force_connect(&mesh, 700).await;
    assert_eq!(mark(&mesh).await.as_deref(), Some("good"), "the last good version of the route");
    // Mended, it is in force, and nothing is reported any more.
    mesh.edit(ROUTES, &format!("{}{}", route("mended", "90"), policy("700ms")));
    status(&mesh, "no problem", |status| problems(status).is_empty()).await;
    in_force(&mesh, "client", "the mended route", |config| outbound(config, "echo:80").to_string().contains("mended")).await;
    assert_eq!(mark(&mesh).await.as_deref(), Some("mended"));
}

#[tokio::test]
async fn text_that_is_no_yaml_is_named_with_its_place() {
    let (_app, mesh) = echo(&route("good", "1")).await;
    mesh.edit(ROUTES, &format!("{}    - name: [unclosed\n---\n{}", route("bad", "1"), policy("700ms")));
    let found = status(&mesh, "the mistake", |status| problems(status).iter().any(|p| p["level"] == "error")).await;
    let error = problems(&found).iter().find(|p| p["level"] == "error").unwrap();
    assert!(is_of(error, ROUTES) && error["line"].as_u64().is_some_and(|line| line >= 15) && error["column"].is_u64(), "{error:#}");
    assert_eq!(error["object"], "HTTPRoute/default/echo", "{error:#}");
    in_force_connect(&mesh, 700).await;
    assert_eq!(mark(&mesh).await.as_deref(), Some("good"));
}

#[tokio::test]
async fn unknown_fields_are_named_and_the_object_is_in_force() {
    let (_app, mesh) = echo(&route("mark", "1").replace("port: 80\n", "port: 80\n      wieght: 3\n")).await;
    let found = status(&mesh, "the field", |status| !problems(status).is_empty()).await;
    let [problem] = problems(&found) else { panic!("one problem: {found:#}") };
    assert_eq!((problem["level"].as_str(), problem["object"].as_str()), (Some("warning"), Some("HTTPRoute/default/echo")));
    assert!(problem["field"].as_str().is_some_and(|f| f.ends_with("backendRefs[0].wieght")), "{problem:#}");
    assert!(problem["line"] == 14 && problem["column"].is_u64(), "{problem:#}");
    assert_eq!(mark(&mesh).await.as_deref(), Some("mark"));
}

#[tokio::test]
async fn of_two_objects_with_one_name_the_second_is_named_and_not_in_force() {
    let (_app, mesh) = echo(&route("first", "1")).await;
    mesh.edit("second", &route("second", "1"));
    let found = status(&mesh, "the duplicate", |status| !problems(status).is_empty()).await;
    let [problem] = problems(&found) else { panic!("one problem: {found:#}") };
    assert!(problem["level"] == "error" && is_of(problem, "second"), "{problem:#}");
    assert_eq!(problem["object"], "HTTPRoute/default/echo");
    assert!(problem["message"].as_str().is_some_and(|m| m.contains("is there already, in ") && m.contains("routes.yaml")), "{problem:#}");
    assert_eq!(mark(&mesh).await.as_deref(), Some("first"));
}

/// A condition of a route's only parent, as status, reason and message.
fn condition(status: &Value, route: &str, kind: &str) -> Option<(String, String, String)> {
    let object = status["objects"].as_array()?.iter().find(|o| o["kind"] == "HTTPRoute" && o["name"] == route)?;
    let condition = object["parents"][0]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)?;
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

/// A route of the Service with its own name, and what its only rule says.
fn route_with(name: &str, rule: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: {name}}}]
  rules: [{{{rule}}}]
"
    )
}

#[tokio::test]
async fn what_a_route_asks_for_and_cannot_have_is_a_condition_and_an_answer_that_says_so() {
    let app = App::named("good").await;
    let names = ["missing", "zero", "regex", "good"];
    let rules = [
        "backendRefs: [{name: nobody, port: 80}]",
        "backendRefs: [{name: good, port: 80, weight: 0}]",
        "matches: [{path: {type: RegularExpression, value: \"/(unclosed\"}}], backendRefs: [{name: good, port: 80}]",
        "backendRefs: [{name: good, port: 80}]",
    ];
    let objects: String = names.iter().zip(rules).map(|(name, rule)| route_with(name, rule)).collect();
    let services = names.iter().fold(Mesh::builder(), |builder, name| builder.service(Service::new(name, 80).protocol("http")));
    let mut mesh = services
        .workload(Workload::new("good").label("app", "good").serves(8080, app.address()))
        .client("client", &["missing:80", "zero:80", "regex:80", "good:80"])
        .objects(&objects)
        .start()
        .await;
    let found = mesh.status().await;
    let of = |route, kind| condition(&found, route, kind).unwrap_or_else(|| panic!("no {kind} of {route} in {found:#}"));

    let (resolved, reason, message) = of("missing", "ResolvedRefs");
    assert_eq!((resolved.as_str(), reason.as_str()), ("False", "BackendNotFound"));
    assert!(message.contains("Service default/nobody does not exist"), "{message}");
    let answer = get(&mesh, "missing:80").await;
    assert_eq!((answer.status(), answer.header("x-heddle-cause")), (500, Some("invalid_backend")));
    assert!(answer.text().contains("HTTPRoute/default/missing") && answer.text().contains("nobody does not exist"), "{}", answer.text());

    let (partly, _, message) = of("zero", "PartiallyInvalid");
    assert_eq!(partly, "True");
    assert!(message.contains("weights") && message.contains("sum to 0"), "{message}");
    let answer = get(&mesh, "zero:80").await;
    assert_eq!((answer.status(), answer.header("x-heddle-cause")), (500, Some("invalid_backend")));
    assert!(answer.text().contains("HTTPRoute/default/zero") && answer.text().contains("sum to 0"), "{}", answer.text());

    let (accepted, reason, message) = of("regex", "Accepted");
    assert_eq!((accepted.as_str(), reason.as_str()), ("False", "UnsupportedValue"));
    assert!(message.contains("regular expression \"/(unclosed\"") && message.contains("unclosed group"), "{message}");
    let answer = get(&mesh, "regex:80").await;
    assert_eq!((answer.status(), answer.header("x-heddle-cause")), (404, Some("no_route")));

    assert_eq!(of("good", "Accepted").0, "True");
    assert_eq!(of("good", "ResolvedRefs").0, "True");
    assert_eq!(get(&mesh, "good:80").await.status(), 200);
    assert!(mesh.control_plane().exit_status().is_none(), "nobody has crashed");
    assert!(mesh.sidecar_mut("client").process().exit_status().is_none(), "nobody has crashed");
}

#[tokio::test]
async fn a_policy_for_a_service_that_does_not_exist_is_a_condition() {
    let (_app, mesh) = echo(&policy("1s").replace("name: echo}]", "name: nobody}]")).await;
    let found = status(&mesh, "the policy", |status| status["objects"].to_string().contains("TrafficPolicy")).await;
    let object = found["objects"].as_array().unwrap().iter().find(|o| o["kind"] == "TrafficPolicy").unwrap();
    let condition = &object["ancestors"][0]["conditions"][0];
    assert_eq!((condition["type"].as_str(), condition["status"].as_str()), (Some("Accepted"), Some("False")), "{object:#}");
    assert_eq!(condition["reason"], "TargetNotFound", "{object:#}");
    assert_eq!(get(&mesh, "echo:80").await.status(), 200);
}

/// Runs `heddle` to its end with nothing but this environment.
fn run(args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, Vec<String>) {
    let Output { status, stdout, stderr } =
        Command::new(heddle()).args(args).env_clear().envs(env.iter().copied()).output().expect("a process");
    assert!(stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
    (status.code(), String::from_utf8_lossy(&stderr).lines().map(str::to_owned).collect())
}

#[test]
fn a_sidecar_names_all_mistakes_of_its_configuration_at_once() {
    let (code, said) = run(
        &["sidecar"],
        &[
            ("HEDDLE_NAMESPACE", "default"),
            ("HEDDLE_TRUST_DOMAIN", "Not A Domain"),
            ("HEDDLE_CONTROL_PLANE", "no-port"),
            ("HEDDLE_TOKEN_FILE", "/nowhere/token"),
            ("HEDDLE_TRUST_ROOTS_FILE", "/nowhere/root.pem"),
            ("HEDDLE_ADMIN", "0.0.0.0:15020"),
            ("HEDDLE_INBOUND", "127.0.0.1:4001=127.0.0.1:8080#8080,nonsense"),
            ("HEDDLE_OUTBOUND", "127.0.0.1:4001=reviews:80"),
            ("HEDDLE_WORKERS", "many"),
            ("HEDDLE_LOG_FORMAT", "xml"),
        ],
    );
    assert_eq!(code, Some(64), "{said:#?}");
    let expected = [
        "HEDDLE_WORKLOAD is not set",
        "HEDDLE_TRUST_DOMAIN=\"Not A Domain\"",
        "HEDDLE_CONTROL_PLANE=\"no-port\"",
        "HEDDLE_ADMIN=\"0.0.0.0:15020\"",
        "HEDDLE_WORKERS=\"many\"",
        "HEDDLE_INBOUND=\"nonsense\"",
        "HEDDLE_LOG_FORMAT=\"xml\"",
        "HEDDLE_OUTBOUND: 127.0.0.1:4001 is already listened on",
    ];
    for beginning in expected {
        assert_eq!(said.iter().filter(|line| line.starts_with(beginning)).count(), 1, "{beginning} in {said:#?}");
    }
    assert_eq!(said.len(), expected.len(), "one sentence each: {said:#?}");
    assert!(said.iter().all(|line| line.ends_with('.')), "sentences: {said:#?}");
}

#[test]
fn a_control_plane_names_all_mistakes_of_its_configuration_at_once() {
    let (code, said) = run(&["control-plane", "--directory", "/nowhere/manifests", "--admin", "0.0.0.0:1", "--listen", "anywhere"], &[]);
    assert_eq!(code, Some(64), "{said:#?}");
    for option in ["--directory", "--admin", "--listen", "--state", "--tokens"] {
        assert_eq!(said.iter().filter(|line| line.contains(option)).count(), 1, "{option} in {said:#?}");
    }
}

#[test]
fn a_port_in_use_ends_a_sidecar_with_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (code, said) = run(
        &["sidecar"],
        &[
            ("HEDDLE_NAMESPACE", "default"),
            ("HEDDLE_WORKLOAD", "client"),
            ("HEDDLE_CONTROL_PLANE", "127.0.0.1:1"),
            ("HEDDLE_TOKEN_FILE", "/nowhere/token"),
            ("HEDDLE_TRUST_ROOTS_FILE", "/nowhere/root.pem"),
            ("HEDDLE_OUTBOUND", &format!("{address}=reviews:80")),
        ],
    );
    let [line] = said.as_slice() else { panic!("one line: {said:#?}") };
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains(&format!("cannot listen on {address} (HEDDLE_OUTBOUND)")), "{line}");
}
