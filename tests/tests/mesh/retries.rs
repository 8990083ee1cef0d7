//! What is tried again, where, and what never is.

use heddle_tests::http1::{Message, answer, exchange};
use heddle_tests::{App, Mesh, Service, Wire, Workload, free_port};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const POLICY: &str = "apiVersion: heddle.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: echo}\nspec:\n  targetRefs: \
                      [{group: '', kind: Service, name: echo}]\n";

/// An application that fails so many times with this status, then answers with the number of requests so far and the body.
async fn failing(times: usize, status: u16) -> App {
    let seen = Arc::new(AtomicUsize::new(0));
    App::http1(move |request: &Message| {
        let number = seen.fetch_add(1, Ordering::Relaxed) + 1;
        // Every series of failures and their end begins anew.
        if number.is_multiple_of(times + 1) {
            answer(200, "", format!("{number} {}", request.text()))
        } else {
            answer(status, "X-App: failed\r\n", "")
        }
    })
    .await
}

async fn get(wire: &mut Wire, method: &str, body: &str) -> Message {
    exchange(wire, format!("{method} / HTTP/1.1\r\nHost: echo\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await
}

#[tokio::test]
async fn an_answer_of_the_application_is_not_retried_unless_a_policy_says_so() {
    let app = failing(1, 503).await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    let first = get(&mut wire, "GET", "").await;
    assert_eq!((first.status(), first.header("x-app"), first.header("x-heddle-cause")), (503, Some("failed"), None));
    assert_eq!(get(&mut wire, "GET", "").await.status(), 200);
    mesh.counts("client", "heddle_http_requests_total", &[], 2.0).await;
    mesh.counts("client", "heddle_http_retries_total", &[], 0.0).await;
}

#[tokio::test]
async fn an_application_cannot_claim_that_it_never_saw_a_request() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let app = App::http1(move |_: &Message| {
        counted.fetch_add(1, Ordering::Relaxed);
        answer(503, "X-Heddle-Unprocessed: 1\r\n", "")
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    let response = get(&mut wire, "POST", "once").await;
    assert_eq!((response.status(), response.header("x-heddle-unprocessed")), (503, None));
    assert_eq!(seen.load(Ordering::Relaxed), 1, "it was sent again");
}

#[tokio::test]
async fn a_policy_retries_its_statuses_for_idempotent_methods() {
    let app = failing(2, 503).await;
    let policy = format!("{POLICY}  retry: {{attempts: 2, codes: [503], backoff: {{base: 1ms}}}}\n");
    let mesh = Mesh::builder().pair(app.address(), "http").objects(&policy).start().await;
    let mut wire = mesh.connect().await;
    let response = get(&mut wire, "PUT", "hello").await;
    assert_eq!((response.status(), response.text().as_str()), (200, "3 hello"), "the body was sent again, whole");
    mesh.counts("client", "heddle_http_retries_total", &[], 2.0).await;
    // Twice would be twice.
    assert_eq!(get(&mut wire, "POST", "hello").await.status(), 503);
    assert_eq!(get(&mut wire, "PATCH", "hello").await.status(), 503);
    assert_eq!(get(&mut wire, "GET", "").await.text(), "6 ");
}

#[tokio::test]
async fn a_policy_may_retry_other_methods_by_name() {
    let app = failing(1, 502).await;
    let policy = format!("{POLICY}  retry: {{attempts: 1, codes: [502], methods: [POST], backoff: {{base: 1ms}}}}\n");
    let mesh = Mesh::builder().pair(app.address(), "http").objects(&policy).start().await;
    let mut wire = mesh.connect().await;
    let response = get(&mut wire, "POST", "hello").await;
    assert_eq!((response.status(), response.text().as_str()), (200, "2 hello"));
}

#[tokio::test]
async fn the_last_answer_is_the_answer_when_tries_run_out() {
    let app = failing(100, 503).await;
    let policy = format!("{POLICY}  retry: {{attempts: 2, codes: [503], backoff: {{base: 1ms}}}}\n");
    let mesh = Mesh::builder().pair(app.address(), "http").objects(&policy).start().await;
    let mut wire = mesh.connect().await;
    let response = get(&mut wire, "GET", "").await;
    assert_eq!((response.status(), response.header("x-app")), (503, Some("failed")));
    assert_eq!(app.heads().len(), 3);
}

#[tokio::test]
async fn a_body_beyond_the_replay_buffer_is_sent_once() {
    let app = failing(1, 503).await;
    let policy = format!("{POLICY}  retry: {{attempts: 2, codes: [503], backoff: {{base: 1ms}}}}\n");
    let mesh = Mesh::builder().pair(app.address(), "http").objects(&policy).start().await;
    let mut wire = mesh.connect().await;
    assert_eq!(get(&mut wire, "PUT", &"x".repeat(100_000)).await.status(), 503);
    assert_eq!(get(&mut wire, "PUT", &"x".repeat(60_000)).await.status(), 200);
}

#[tokio::test]
async fn retries_stay_within_their_budget() {
    let app = failing(usize::MAX - 1, 503).await;
    let policy = format!(
        "{POLICY}  retry: {{attempts: 3, codes: [503], backoff: {{base: 1ms}}}}\n  retryBudget: {{percent: 10, minRetriesPerSecond: 0}}\n"
    );
    let mesh = Mesh::builder().pair(app.address(), "http").objects(&policy).start().await;
    let mut wire = mesh.connect().await;
    for _ in 0..200 {
        assert_eq!(get(&mut wire, "GET", "").await.status(), 503);
    }
    let metrics = mesh.metrics("client").await;
    let retried = metrics.sum("heddle_http_retries_total", &[]);
    assert!((1.0..=21.0).contains(&retried), "{retried} retries of 200 requests, at 10 %");
    assert!(metrics.sum("heddle_retry_budget_exhausted_total", &[]) > 0.0);
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_left_for_another_by_default() {
    let app = App::named("alive").await;
    let mesh = Mesh::builder()
        .service(Service::new("echo", 80).protocol("http"))
        .workload(Workload::new("alive").label("app", "echo").serves(8080, app.address()))
        // Its sidecar is not there either.
        .workload(Workload::new("dead").label("app", "echo").serves(8080, free_port()).plain())
        .client("client", &["echo:80"])
        .start()
        .await;
    let mut wire = mesh.connect().await;
    for n in 0..50 {
        // Not even a POST has been processed by somebody who is not there.
        let response = get(&mut wire, if n % 2 == 0 { "POST" } else { "GET" }, "").await;
        assert_eq!((response.status(), response.header("x-app")), (200, Some("alive")), "{}", response.text());
    }
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_is_not_retried_for_a_post() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let app = App::http1(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        Vec::new()
    })
    .await;
    let mesh = Mesh::pair(app.address(), "http").await;
    let mut wire = mesh.connect().await;
    let response = get(&mut wire, "POST", "pay").await;
    assert_eq!((response.status(), response.header("x-heddle-cause")), (502, Some("reset")), "{}", response.text());
    assert_eq!(seen.load(Ordering::Relaxed), 1, "it may have been processed");
}
