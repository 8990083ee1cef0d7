//! Which endpoints a call reaches: pod IPs, headless Services and StatefulSets, oneself, and pods on either side of the mesh's edge.

use heddle_tests::cluster::World;
use heddle_tests::cluster::load::Load;
use heddle_tests::cluster::pod::Pod;
use heddle_tests::cluster::workload::{ALL_PORTS, HTTP, Workload, account, service, split, strict};
use serde_json::{Value, json};

async fn call_of(world: &World, pod: &Pod, url: &str) -> Value {
    world.until(&format!("{url} from {}", pod.name), async || pod.call(url).await).await
}

/// In a strict namespace, so that whatever is answered came by mTLS, to exactly the pod that was dialled.
pub(crate) async fn pod_ips_and_headless_services(world: &World) {
    let namespace = world.namespace("headless", true).await;
    world.api.apply(&strict(&namespace)).await;
    for name in ["web", "client"] {
        world.api.apply(&account(&namespace, name)).await;
    }
    let mut headless = service(&namespace, "web", "web", &[("http", HTTP, "http"), ("grpc", 8090, "grpc")]);
    headless["spec"]["clusterIP"] = "None".into();
    world.api.apply(&headless).await;
    world.api.apply(&service(&namespace, "balanced", "web", &ALL_PORTS)).await;
    world.api.apply(&service(&namespace, "other", "other", &ALL_PORTS)).await;
    world.start(&Workload::server(&namespace, "other").deployment(1)).await;
    let webs = world.start(&Workload::server(&namespace, "web").account("web").stateful_set(2)).await;
    let client = world.start_pod(&Workload::server(&namespace, "client").account("client").pod()).await;

    for web in &webs {
        for url in [
            format!("http://{}:{HTTP}/", web.ip),
            format!("http://{}.web.{namespace}.svc:{HTTP}/", web.name),
            format!("http://{}.web:{HTTP}/", web.name),
        ] {
            let answer = call_of(world, &client, &url).await;
            assert_eq!(answer["pod"], web.name.as_str(), "{url} went elsewhere: {answer}");
        }
        // Itself: by its own address, and by Services that lead to it as well.
        for url in [
            format!("http://{}:{HTTP}/", web.ip),
            format!("http://web:{HTTP}/"),
            "http://balanced/".to_owned(),
            "grpc://balanced:82".to_owned(),
        ] {
            call_of(world, web, &url).await;
        }
    }
    assert!(call_of(world, &client, &format!("http://web:{HTTP}/")).await["pod"].as_str().unwrap_or_default().starts_with("web-"));

    // A Service's route is not a pod's: the frontend is elsewhere now, and a pod's address is still the pod.
    world.api.apply(&split(&namespace, "HTTPRoute", "balanced", ("balanced", 80), &[("other", 1)])).await;
    world
        .until("the Service's route", async || {
            let answer = client.call("http://balanced/").await?;
            if answer["app"] == "other" { Ok(()) } else { Err(answer.to_string()) }
        })
        .await;
    for web in &webs {
        assert_eq!(call_of(world, &client, &format!("http://{}:{HTTP}/", web.ip)).await["pod"], web.name.as_str());
    }
    for pod in world.pods(&namespace, "app=web").await {
        let plain = pod.metrics().await.unwrap().sum("heddle_http_requests_total", &[("direction", "inbound"), ("mtls", "false")]);
        assert_eq!(plain, 0.0, "{} was asked in the clear", pod.name);
    }
}

/// Meshed pods call what is not meshed, and are called from there until they are strict; bytes and HTTP alike.
pub(crate) async fn clients_and_servers_outside_the_mesh(world: &World) {
    let meshed = world.namespace("inside", true).await;
    let outside = world.namespace("outside", false).await;
    let mut pods = Vec::new();
    for namespace in [&meshed, &outside] {
        let mut service = service(namespace, "server", "server", &ALL_PORTS);
        let bytes = json!({"name": "bytes", "port": 9000, "targetPort": 9000, "appProtocol": "tcp"});
        service["spec"]["ports"].as_array_mut().unwrap().push(bytes);
        world.api.apply(&service).await;
        let server = Workload::server(namespace, "server")
            .container(&json!({"args": ["serve", "--name", "server", "--http", "8080", "--tcp", "9000"]}));
        pods.push(world.start(&server.deployment(1)).await.remove(0));
    }
    let [inside, beyond] = [&pods[0], &pods[1]];
    assert!(inside.is_injected() && !beyond.is_injected());
    for (from, to) in [(inside, &outside), (beyond, &meshed), (inside, &meshed)] {
        for url in [
            format!("http://server.{to}/"),
            format!("h2c://server.{to}:81/"),
            format!("grpc://server.{to}:82"),
            format!("tcp://server.{to}:9000"),
        ] {
            call_of(world, from, &url).await;
        }
    }
    let long =
        Load::start(world, &meshed, "long", &[&format!("http://server.{outside}/"), "--busy", "1", "--idle", "1", "--fresh", "1"]).await;
    world.api.apply(&strict(&meshed)).await;
    world
        .until("strict mode to refuse plaintext", async || match beyond.call(&format!("http://server.{meshed}/")).await {
            Ok(answer) => Err(answer.to_string()),
            Err(_) => Ok(()),
        })
        .await;
    call_of(world, inside, &format!("http://server.{meshed}/")).await;
    call_of(world, inside, &format!("http://server.{outside}/")).await;
    long.more(world, 2).await;
    long.tallies().await.assert_flawless("calls out of the mesh");
}
