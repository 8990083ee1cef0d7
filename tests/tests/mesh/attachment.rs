//! Which routes apply to whom: ports, kinds, namespaces, and destinations that come and go.

use heddle_tests::http1::{Message, exchange};
use heddle_tests::http2::{self, Client};
use heddle_tests::{App, Mesh, Service, Wire, Workload, wait};
use std::net::SocketAddr;

/// An HTTPRoute `metadata` on Service `web` that sends everything to `backend`.
fn route(metadata: &str, parent: &str, backend: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{{metadata}}}\nspec:\n  parentRefs:\n  \
         - {{group: '', kind: Service, name: web{parent}}}\n  rules:\n  - backendRefs: [{{name: {backend}, namespace: default, port: 80}}]\n"
    )
}

async fn get(address: SocketAddr) -> Message {
    exchange(&mut Wire::connect(address).await, "GET / HTTP/1.1\r\nHost: web\r\n\r\n").await
}

fn app_of(response: &Message) -> String {
    response.header("x-app").map_or_else(|| format!("{}: {}", response.status(), response.text()), str::to_owned)
}

fn serves(name: &str, app: &App) -> Workload {
    Workload::new(name).label("app", name).serves(8080, app.address())
}

#[tokio::test]
async fn a_route_of_one_port_leaves_the_others_alone() {
    let (web, other) = (App::named("web").await, App::named("other").await);
    let mesh = Mesh::builder()
        .service(Service::new("web", 80).protocol("http"))
        .service(Service::new("other", 80).protocol("http"))
        .service(Service::new("web", 8080).protocol("http").namespace("shop"))
        .workload(serves("web", &web))
        .workload(serves("web", &web).namespace("shop"))
        .workload(serves("other", &other))
        .client("client", &["web:80", "web.shop:8080"])
        .objects(&route("name: moved", ", port: 80", "other"))
        .start()
        .await;
    assert_eq!(app_of(&get(mesh.outbound("client", "web:80")).await), "other");
    assert_eq!(app_of(&get(mesh.outbound("client", "web.shop:8080")).await), "web", "another Service with the same name");
    mesh.edit(heddle_tests::mesh::ROUTES, &route("name: moved", ", port: 81", "other"));
    wait::until("the route to let go of the port", async || match app_of(&get(mesh.outbound("client", "web:80")).await).as_str() {
        "web" => Ok(()),
        found => Err(found.to_owned()),
    })
    .await;
}

#[tokio::test]
async fn routes_of_a_clients_own_namespace_win_for_it_alone() {
    let (web, producer, consumer) = (App::named("web").await, App::named("producer").await, App::named("consumer").await);
    let routes =
        [route("name: of-producer", "", "producer"), route("name: of-consumer, namespace: team", ", namespace: default", "consumer")];
    let mesh = Mesh::builder()
        .service(Service::new("web", 80).protocol("http"))
        .service(Service::new("producer", 80).protocol("http"))
        .service(Service::new("consumer", 80).protocol("http"))
        .workload(serves("web", &web))
        .workload(serves("producer", &producer))
        .workload(serves("consumer", &consumer))
        .client("client", &["web:80"])
        .workload(Workload::new("client").namespace("team").calls("web.default:80"))
        .workload(Workload::new("client").namespace("others").calls("web.default.svc.cluster.local:80"))
        .objects(&routes.join("---\n"))
        .start()
        .await;
    for (client, authority, expected) in [
        ("client", "web:80", "producer"),
        ("client.team", "web.default:80", "consumer"),
        ("client.others", "web.default.svc.cluster.local:80", "producer"),
    ] {
        assert_eq!(app_of(&get(mesh.outbound(client, authority)).await), expected, "{client}");
    }
    // Each of its own: without the consumer's route, the producer's holds.
    mesh.edit(heddle_tests::mesh::ROUTES, &routes[0]);
    wait::until("the producer's route", async || match app_of(&get(mesh.outbound("client.team", "web.default:80")).await).as_str() {
        "producer" => Ok(()),
        found => Err(found.to_owned()),
    })
    .await;
}

#[tokio::test]
async fn a_destination_that_nobody_knows_is_refused_until_it_is_there() {
    let late = App::named("late").await;
    let mut mesh = Mesh::builder().client("client", &["late:80"]).start().await;
    let address = mesh.outbound("client", "late:80");
    let response = get(address).await;
    assert!(matches!(response.status(), 502 | 503), "{response:?}");
    assert!(response.header("x-heddle-cause").is_some() && response.text().contains("outbound sidecar of"), "{}", response.text());
    mesh.add_service(Service::new("late", 80));
    let cause = wait::until("the Service without endpoints", async || match get(address).await.header("x-heddle-cause") {
        Some("no_endpoints") => Ok("no_endpoints"),
        found => Err(format!("{found:?}")),
    })
    .await;
    assert_eq!(cause, "no_endpoints");
    mesh.add(serves("late", &late));
    mesh.ready().await;
    wait::until("the application", async || match app_of(&get(address).await).as_str() {
        "late" => Ok(()),
        found => Err(found.to_owned()),
    })
    .await;
}

#[tokio::test]
async fn an_application_without_a_sidecar_is_reached_in_plaintext() {
    let app = App::named("plain").await;
    let mesh = Mesh::builder()
        .service(Service::new("web", 80).protocol("http"))
        .workload(serves("web", &app).plain())
        .client("client", &["web:80"])
        .start()
        .await;
    assert_eq!(app_of(&get(mesh.outbound("client", "web:80")).await), "plain");
    mesh.counts("client", "heddle_http_requests_total", &[("mtls", "false"), ("code_class", "2xx")], 1.0).await;
}

/// An HTTP/2 application that says its name.
async fn named2(name: &'static str) -> App {
    http2::serve(move |_, mut respond| async move {
        // A client that is gone needs no answer.
        let _gone = respond.send_response(http2::response(200, &[("x-app", name)]), true);
    })
    .await
}

#[tokio::test]
async fn grpc_routes_match_by_service_and_method_and_win_over_http_routes() {
    let (web, v1, v2) = (named2("web").await, named2("v1").await, named2("v2").await);
    let grpc = "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: calls}\nspec:\n  parentRefs: \
                [{group: '', kind: Service, name: web}]\n  rules:\n  \
                - matches: [{method: {service: shop.Reviews, method: List}}]\n    backendRefs: [{name: v2, port: 80}]\n  \
                - matches: [{method: {service: shop.Reviews}, headers: [{name: tenant, value: beta}]}]\n    backendRefs: [{name: v2, port: 80}]\n  \
                - matches: [{method: {service: shop.Reviews}}]\n    backendRefs: [{name: v1, port: 80}]\n";
    let mesh = Mesh::builder()
        .service(Service::new("web", 80).protocol("grpc"))
        .service(Service::new("v1", 80).protocol("grpc"))
        .service(Service::new("v2", 80).protocol("grpc"))
        .workload(serves("web", &web))
        .workload(serves("v1", &v1))
        .workload(serves("v2", &v2))
        .client("client", &["web:80"])
        .objects(&format!("{grpc}---\n{}", route("name: ignored", "", "web")))
        .start()
        .await;
    let client = Client::connect(mesh.outbound("client", "web:80")).await;
    for (path, tenant, expected) in [
        ("/shop.Reviews/List", "acme", Some("v2")),
        ("/shop.Reviews/Get", "acme", Some("v1")),
        ("/shop.Reviews/Get", "beta", Some("v2")),
        ("/shop.ReviewsX/Get", "acme", None),
        ("/other.Service/List", "acme", None),
    ] {
        let request = http2::request("POST", path, &[("content-type", "application/grpc"), ("te", "trailers"), ("tenant", tenant)]);
        let response = client.exchange(request, b"\0\0\0\0\0").await.unwrap();
        assert_eq!(response.header("x-app"), expected, "{path} {tenant}: {response:?}");
        if expected.is_none() {
            // UNIMPLEMENTED, as a server answers that does not have it.
            assert_eq!(
                (response.status(), response.header("grpc-status"), response.header("x-heddle-cause")),
                (200, Some("12"), Some("no_route"))
            );
        }
    }
}
