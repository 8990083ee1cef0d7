//! The shop's services wired directly, without a mesh.

use super::load::Options;
use super::{front, load, ratings, reviews};
use crate::{AppError, Shutdown, Stop};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// front → reviews → ratings on free ports.
struct Shop {
    url: String,
    stop: Stop,
    apps: JoinSet<Result<(), AppError>>,
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

async fn shop(version: reviews::Version) -> Shop {
    let (stop, shutdown) = Shutdown::new();
    let mut apps = JoinSet::new();
    let (at, ratings_url) = listener().await;
    apps.spawn(ratings::serve(at, "v1".to_owned(), shutdown.clone()));
    let (at, reviews_url) = listener().await;
    let hearing = shutdown.clone();
    apps.spawn(async move { reviews::serve(at, &ratings_url, version, hearing).await });
    let (at, url) = listener().await;
    apps.spawn(async move { front::serve(at, &reviews_url, "v1".to_owned(), shutdown).await });
    Shop { url, stop, apps }
}

async fn get(url: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Bytes) {
    let mut request = Request::get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    (head.status, head.headers, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn each_version_of_reviews_says_who_it_is() {
    for (version, name, stars) in [(reviews::Version::V1, "v1", Value::Null), (reviews::Version::V2, "v2", Value::from(5))] {
        let shop = shop(version).await;
        let (status, headers, body) = get(&format!("{}/api/product/2", shop.url), &[]).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, StatusCode::OK);
        assert_eq!((&headers["x-version"], &headers["x-reviews-version"]), (&"v1".parse().unwrap(), &name.parse().unwrap()));
        assert_eq!((&body["name"], &body["reviews"]["version"]), (&"Bobbin".into(), &name.into()));
        assert_eq!((&body["reviews"]["rating_count"], &body["reviews"]["reviews"][0]["stars"]), (&2.into(), &stars));
    }
}

#[tokio::test]
async fn page_shows_stars_of_v2() {
    let shop = shop(reviews::Version::V2).await;
    let (status, headers, body) = get(&shop.url, &[]).await;
    assert_eq!((status, headers["content-type"].to_str().unwrap()), (StatusCode::OK, "text/html; charset=utf-8"));
    let page = String::from_utf8(body.to_vec()).unwrap();
    assert!(page.contains("★★★★") && page.contains("reviews v2"), "{page}");
}

#[tokio::test]
async fn unknown_paths_products_and_methods_are_refused() {
    let shop = shop(reviews::Version::V1).await;
    for path in ["/nowhere", "/api/product/0", "/api/product/5", "/api/product/x"] {
        assert_eq!(get(&format!("{}{path}", shop.url), &[]).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(get(&format!("{}/healthz", shop.url), &[]).await.0, StatusCode::OK);
    let post = Request::post(format!("{}/", shop.url)).body(Empty::<Bytes>::new()).unwrap();
    let answer = Client::builder(TokioExecutor::new()).build_http().request(post).await.unwrap();
    assert_eq!((answer.status(), answer.headers()["allow"].to_str().unwrap()), (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD"));
}

#[tokio::test]
async fn trace_headers_reach_the_last_service() {
    let seen = Arc::new(Mutex::new(HeaderMap::new()));
    let (at, ratings_url) = listener().await;
    let recorder = Arc::clone(&seen);
    let mut apps = JoinSet::new();
    apps.spawn(async move {
        let (stream, _) = at.accept().await.unwrap();
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            *recorder.lock().unwrap() = request.headers().clone();
            async { Ok::<_, std::convert::Infallible>(super::http::json(StatusCode::OK, &serde_json::json!({ "stars": {} }))) }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connection.await.unwrap();
    });
    let (_stop, shutdown) = Shutdown::new();
    let (at, reviews_url) = listener().await;
    let hearing = shutdown.clone();
    apps.spawn(async move { reviews::serve(at, &ratings_url, reviews::Version::V2, hearing).await.unwrap() });
    let (at, url) = listener().await;
    apps.spawn(async move { front::serve(at, &reviews_url, "v1".to_owned(), shutdown).await.unwrap() });

    let sent = [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=1"),
        ("baggage", "k=v"),
        ("b3", "0"),
        ("x-b3-traceid", "463ac35c9f6413ad"),
        ("x-request-id", "r-1"),
        ("end-user", "beta-tester"),
    ];
    let mut headers = sent.to_vec();
    headers.push(("x-private", "1"));
    assert_eq!(get(&format!("{url}/api/product/1"), &headers).await.0, StatusCode::OK);
    let seen = seen.lock().unwrap();
    for (name, value) in sent {
        assert_eq!(seen.get(name).and_then(|seen| seen.to_str().ok()), Some(value), "{name}");
    }
    assert!(!seen.contains_key("x-private"));
}

#[tokio::test]
async fn a_missing_upstream_is_a_named_502() {
    let (at, reviews_url) = listener().await;
    drop(at);
    let (_stop, shutdown) = Shutdown::new();
    let (at, url) = listener().await;
    let mut apps = JoinSet::new();
    apps.spawn(async move { front::serve(at, &reviews_url, "v1".to_owned(), shutdown).await });
    let (status, _, body) = get(&format!("{url}/api/product/1"), &[]).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(body.contains("reviews is unreachable"), "{body}");
}

#[tokio::test]
async fn load_reaches_the_front_and_ends() {
    let shop = shop(reviews::Version::V1).await;
    let options = Options { rate: 1000, beta_percent: 10, concurrency: 8, count: Some(40) };
    let (stop, shutdown) = Shutdown::new();
    load::run(&shop.url, options, shutdown.clone()).await.unwrap();

    stop.tell();
    let endless = Options { count: None, ..options };
    tokio::time::timeout(Duration::from_secs(5), load::run(&shop.url, endless, shutdown)).await.unwrap().unwrap();
}

/// A request that waits in ratings while everybody is told to end is answered nevertheless.
#[tokio::test]
async fn what_is_in_flight_is_answered_before_the_end() {
    let (at, ratings_url) = listener().await;
    let (stop, shutdown) = Shutdown::new();
    let (reviews_at, reviews_url) = listener().await;
    let mut apps = JoinSet::new();
    apps.spawn(async move { reviews::serve(reviews_at, &ratings_url, reviews::Version::V1, shutdown).await });
    let request = tokio::spawn(async move { get(&format!("{reviews_url}/reviews/1"), &[]).await.0 });

    let (stream, _) = at.accept().await.unwrap();
    stop.tell();
    let service = hyper::service::service_fn(|_| async {
        Ok::<_, std::convert::Infallible>(super::http::json(StatusCode::OK, &serde_json::json!({ "stars": {} })))
    });
    apps.spawn(async move {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        Ok(())
    });
    assert_eq!(request.await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn all_services_end_when_told() {
    let mut shop = shop(reviews::Version::V1).await;
    assert_eq!(get(&shop.url, &[]).await.0, StatusCode::OK);
    shop.stop.tell();
    let ended = async {
        while let Some(ended) = shop.apps.join_next().await {
            ended.unwrap().unwrap()
        }
    };
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("idle connections must not hold up the end");
}
