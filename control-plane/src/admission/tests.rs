//! Both webhooks over real TLS, asked as an API server asks.

use super::*;
use crate::ca::{Ca, webhook};
use crate::events::Recorder;
use crate::inject::{self, InjectionConfig};
use heddle_identity::{CertificateAuthority, unix_now};
use hyper::client::conn::http1::SendRequest;
use k8s_openapi::ByteString;
use prometheus::{Registry, TextEncoder};
use serde_json::{Value, json};
use std::sync::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const TRUST_DOMAIN: &str = "cluster.local";
const SYSTEM: &str = "heddle-system";

/// A cluster whose namespaces are asked for.
#[derive(Debug, Clone, Default)]
struct Fake {
    ensured: Arc<Mutex<Vec<String>>>,
    refusal: Option<String>,
    pod_security: Option<String>,
}

impl Namespaces for Fake {
    async fn ensure_roots(&self, namespace: &str) -> Result<(), String> {
        self.ensured.lock().unwrap().push(namespace.to_owned());
        self.refusal.clone().map_or(Ok(()), Err)
    }

    fn label(&self, _: &str, label: &str) -> Option<String> {
        self.pod_security.clone().filter(|_| label == namespace::POD_SECURITY_LABEL)
    }
}

/// A server, and what is needed to ask it.
struct Webhooks {
    address: SocketAddr,
    client: Arc<ClientConfig>,
    closing: watch::Sender<bool>,
    registry: Registry,
    ensured: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
    _configs: (watch::Sender<Arc<InjectionConfig>>, watch::Sender<Arc<ServerConfig>>),
}

impl Webhooks {
    async fn start(namespaces: Fake) -> Self {
        let trust_domain = TRUST_DOMAIN.parse().unwrap();
        let ca = Ca::new(CertificateAuthority::create(&trust_domain, unix_now()).unwrap(), crate::ca::NAMESPACE).unwrap();
        let (configs, config) = watch::channel(webhook::first(&ca, &webhook::names(SYSTEM)).unwrap().config());
        let mut roots = RootCertStore::empty();
        for root in ca.trust().roots(&trust_domain) {
            roots.add(root.clone()).unwrap();
        }
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (injection, current) = watch::channel(Arc::new(InjectionConfig::with_image("heddle-sidecar:1").unwrap()));
        let recorder = Recorder::nobody(Arc::new(crate::metrics::Metrics::new().unwrap()));
        let registry = Registry::new();
        let ensured = namespaces.ensured.clone();
        let (closing, is_closing) = watch::channel(false);
        let injector = Injector::new(current, namespaces, recorder, SYSTEM);
        let server = Server::new(injector, config, is_closing, Metrics::new(&registry).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, client)) = listener.accept().await {
                connections.spawn(server.clone().connection(stream, client));
            }
        });
        Self { address, client: Arc::new(client), closing, registry, ensured, _tasks: tasks, _configs: (injection, configs) }
    }

    async fn connect(&self) -> (SendRequest<Full<Bytes>>, JoinSet<()>) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from(format!("heddle-control-plane.{SYSTEM}.svc")).unwrap();
        let tls = TlsConnector::from(self.client.clone()).connect(name, stream).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move { drop(connection.await) });
        (sender, task)
    }

    async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Response<Bytes> {
        let (mut sender, task) = self.connect().await;
        let response = send(&mut sender, method, path, body).await;
        drop(task);
        response
    }

    /// The `response` of a review.
    async fn ask(&self, path: &str, request: &Value) -> Value {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        let response = self.send(Method::POST, path, review.to_string()).await;
        assert_eq!(response.status(), StatusCode::OK);
        let answer: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!((&answer["apiVersion"], &answer["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
        assert_eq!(answer["response"]["uid"], request["uid"]);
        answer["response"].clone()
    }
}

async fn send(sender: &mut SendRequest<Full<Bytes>>, method: Method, path: &str, body: impl Into<Bytes>) -> Response<Bytes> {
    let request = Request::builder().method(method).uri(path).header("host", "webhook").body(Full::new(body.into())).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

/// A question about a new pod, with all the fields that an API server sends; `fields` come over the pod's spec.
fn new_pod(namespace: &str, fields: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "reviews-5d8f-", "creationTimestamp": null, "labels": {"app": "reviews"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "reviews-5d8f", "uid": "r-1", "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {
            "volumes": [{"name": "kube-api-access-x", "projected": {"sources": [], "defaultMode": 420}}],
            "containers": [{
                "name": "app", "image": "reviews:1", "ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "web", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "imagePullPolicy": "IfNotPresent",
            }],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "serviceAccountName": "reviews",
            "securityContext": {}, "schedulerName": "default-scheduler", "priority": 0, "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority",
        },
        "status": {},
    });
    for (field, value) in fields.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    json!({
        "uid": "0c9a8d74-9cb7-44dd-b98e-09fd62def2f4",
        "kind": {"group": "", "version": "v1", "kind": "Pod"}, "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"}, "requestResource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": namespace, "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller", "uid": "u", "groups": ["system:serviceaccounts"]},
        "object": pod, "oldObject": null, "dryRun": false, "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    })
}

fn patched(request: &Value, response: &Value) -> Value {
    assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")), "{response}");
    let ByteString(patch) = serde_json::from_value(response["patch"].clone()).unwrap();
    let mut object = request["object"].clone();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    json_patch::patch(&mut object, &patch).unwrap();
    object
}

#[tokio::test]
async fn a_new_pod_gets_its_sidecar_and_its_namespace_the_roots() {
    let webhooks = Webhooks::start(Fake::default()).await;
    let request = new_pod("shop", &Value::Null);
    let pod = patched(&request, &webhooks.ask("/inject", &request).await);
    let names: Vec<_> = pod["spec"]["initContainers"].as_array().unwrap().iter().map(|container| &container["name"]).collect();
    assert_eq!(names, ["heddle-redirect", "heddle-sidecar"]);
    assert_eq!(pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"], "/probe/app/readiness");
    assert_eq!(pod["metadata"]["labels"], json!({"app": "reviews", "heddle.dev/injected": "true"}));
    assert_eq!(*webhooks.ensured.lock().unwrap(), ["shop"]);

    // Called again, as after another webhook: nothing is left to do.
    let mut again = request;
    again["object"] = pod.clone();
    assert_eq!(patched(&again, &webhooks.ask("/inject", &again).await), pod);
}

#[tokio::test]
async fn a_dry_run_changes_nothing_elsewhere() {
    let webhooks = Webhooks::start(Fake { refusal: Some("not now".to_owned()), ..Fake::default() }).await;
    let mut request = new_pod("shop", &Value::Null);
    request["dryRun"] = json!(true);
    assert!(inject::is_injected(&patched(&request, &webhooks.ask("/inject", &request).await)));
    assert_eq!(webhooks.ensured.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn refusals_are_sentences_that_name_the_pod_and_the_way_out() {
    let webhooks = Webhooks::start(Fake::default()).await;
    let response = webhooks.ask("/inject", &new_pod("shop", &json!({"hostNetwork": true}))).await;
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(403)));
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("Pod shop/reviews-5d8f-… cannot have a sidecar: spec.hostNetwork is true"), "{message}");
    assert!(message.contains("heddle.dev/inject: disabled"), "{message}");

    let webhooks = Webhooks::start(Fake { refusal: Some("namespace is being terminated".to_owned()), ..Fake::default() }).await;
    let response = webhooks.ask("/inject", &new_pod("shop", &Value::Null)).await;
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(503)));
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.contains("heddle-trust-roots of namespace shop") && message.contains("being terminated"), "{message}");
}

#[tokio::test]
async fn a_refusal_is_an_event_about_the_controller_of_the_pod() {
    let (recorder, mut events) = Recorder::new(Arc::new(crate::metrics::Metrics::new().unwrap()));
    let (_configs, config) = watch::channel(Arc::new(InjectionConfig::with_image("heddle-sidecar:1").unwrap()));
    let injector = Injector::new(config, Fake::default(), recorder, SYSTEM);
    let ask = |request: Value| injector.review(serde_json::from_value(request).unwrap());
    let mut dry = new_pod("shop", &json!({"hostNetwork": true}));
    dry["dryRun"] = json!(true);
    ask(dry).await;
    assert!(events.try_recv().is_err());
    ask(new_pod("shop", &json!({"hostNetwork": true}))).await;
    let event = format!("{:?}", events.try_recv().unwrap());
    assert!(event.contains("ReplicaSet") && event.contains("reviews-5d8f") && event.contains("InjectionRefused"), "{event}");
}

#[tokio::test]
async fn what_is_not_a_new_pod_of_an_application_is_left_alone() {
    let webhooks = Webhooks::start(Fake::default()).await;
    for (field, value) in [
        ("namespace", json!("kube-system")),
        ("namespace", json!(SYSTEM)),
        ("operation", json!("UPDATE")),
        ("subResource", json!("ephemeralcontainers")),
        ("kind", json!({"group": "apps", "version": "v1", "kind": "Deployment"})),
        ("object", Value::Null),
    ] {
        let mut request = new_pod("shop", &Value::Null);
        request[field] = value;
        let response = webhooks.ask("/inject", &request).await;
        assert_eq!(response, json!({"uid": request["uid"], "allowed": true}), "{field}");
    }
}

#[tokio::test]
async fn a_namespace_that_forbids_the_redirection_is_a_warning() {
    let webhooks = Webhooks::start(Fake { pod_security: Some("restricted".to_owned()), ..Fake::default() }).await;
    let response = webhooks.ask("/inject", &new_pod("shop", &Value::Null)).await;
    let warning = response["warnings"][0].as_str().unwrap();
    assert!(warning.contains("Pod Security \"restricted\"") && warning.contains("NET_ADMIN") && warning.len() <= 256, "{warning}");
    let webhooks = Webhooks::start(Fake { pod_security: Some("privileged".to_owned()), ..Fake::default() }).await;
    assert_eq!(webhooks.ask("/inject", &new_pod("shop", &Value::Null)).await.get("warnings"), None);
}

#[tokio::test]
async fn what_is_no_question_is_said_and_bounded() {
    let webhooks = Webhooks::start(Fake::default()).await;
    for (method, path, body, status, sentence) in [
        (Method::POST, "/inject", "{".to_owned(), StatusCode::BAD_REQUEST, "no AdmissionReview"),
        (
            Method::POST,
            "/inject",
            json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}).to_string(),
            StatusCode::BAD_REQUEST,
            "v1beta1",
        ),
        (
            Method::POST,
            "/validate",
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}).to_string(),
            StatusCode::BAD_REQUEST,
            "no request",
        ),
        (Method::POST, "/inject", " ".repeat(MAX_BODY + 1), StatusCode::PAYLOAD_TOO_LARGE, "4194304"),
        (Method::GET, "/inject", String::new(), StatusCode::METHOD_NOT_ALLOWED, "POST"),
        (Method::POST, "/status", String::new(), StatusCode::NOT_FOUND, "/inject and /validate"),
    ] {
        let response = webhooks.send(method, path, body).await;
        let text = String::from_utf8_lossy(response.body()).into_owned();
        assert!(response.status() == status && text.contains(sentence), "{path}: {} {text}", response.status());
    }
    webhooks.ask("/inject", &new_pod("shop", &Value::Null)).await;
    let metrics = TextEncoder::new().encode_to_string(&webhooks.registry.gather()).unwrap();
    for line in [
        "heddle_control_plane_admission_requests_total{path=\"inject\",verdict=\"injected\"} 1",
        "heddle_control_plane_admission_requests_total{path=\"inject\",verdict=\"malformed\"} 4",
        "heddle_control_plane_admission_requests_total{path=\"validate\",verdict=\"malformed\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_connection_ends_with_its_next_answer_once_the_end_has_begun() {
    let webhooks = Webhooks::start(Fake::default()).await;
    let (mut sender, mut task) = webhooks.connect().await;
    let review =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": new_pod("shop", &Value::Null)}).to_string();
    let first = send(&mut sender, Method::POST, "/inject", review.clone()).await;
    assert_eq!(first.headers().get(CONNECTION), None);
    webhooks.closing.send_replace(true);
    let last = send(&mut sender, Method::POST, "/inject", review).await;
    assert_eq!((last.status(), last.headers().get(CONNECTION).unwrap().to_str().unwrap()), (StatusCode::OK, "close"));
    task.join_next().await.unwrap().unwrap();
}

fn route(spec: &Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "reviews", "namespace": "shop", "managedFields": [{"manager": "kubectl"}]}, "spec": spec})
}

fn question(object: &Value) -> Value {
    let (group, version) = object["apiVersion"].as_str().unwrap().split_once('/').unwrap();
    json!({
        "uid": "u", "kind": {"group": group, "version": version, "kind": object["kind"]}, "resource": {"group": group, "version": version, "resource": "x"},
        "name": "reviews", "namespace": "shop", "operation": "CREATE", "userInfo": {}, "object": object, "oldObject": null, "dryRun": false, "options": null,
    })
}

fn judged(request: Value) -> Value {
    validate::review(serde_json::from_value(request).unwrap()).to_json()["response"].clone()
}

#[tokio::test]
async fn all_that_is_wrong_with_a_route_is_said_at_once_with_its_fields() {
    let webhooks = Webhooks::start(Fake::default()).await;
    let parents = json!([{"group": "", "kind": "Service", "name": "reviews"}]);
    let wrong = route(&json!({"parentRefs": parents, "rules": [
        {"backendRefs": [{"name": "reviews", "port": 80, "weight": "ninety"}], "timeouts": {"request": "soon"}},
        {"backendRefs": [{"name": "reviews", "port": 0}]},
    ]}));
    let response = webhooks.ask("/validate", &question(&wrong)).await;
    assert_eq!(
        (&response["allowed"], &response["status"]["code"], &response["status"]["reason"]),
        (&json!(false), &json!(422), &json!("Invalid"))
    );
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("HTTPRoute shop/reviews is not valid, in 3 places:"), "{message}");
    for field in ["spec.rules[0].backendRefs[0].weight: ", "spec.rules[0].timeouts.request: ", "spec.rules[1].backendRefs[0].port: "] {
        assert!(message.contains(field), "{message}");
    }
    let good = route(&json!({"parentRefs": parents, "rules": [{"backendRefs": [{"name": "reviews", "port": 80}]}]}));
    assert_eq!(webhooks.ask("/validate", &question(&good)).await, json!({"uid": "u", "allowed": true}));
}

#[test]
fn policies_are_judged_too_and_what_has_no_effect_is_a_warning() {
    let policy = |spec: &Value| json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"generateName": "reviews-"}, "spec": spec});
    let targets = json!([{"group": "", "kind": "Service", "name": "reviews"}]);
    let response = judged(question(&policy(&json!({"targetRefs": targets, "retry": {"attempts": "many"}}))));
    assert_eq!(response["allowed"], json!(false), "{response}");
    let mut unknown = question(&policy(&json!({"targetRefs": targets, "retires": {}})));
    unknown["name"] = json!("");
    let response = judged(unknown);
    assert_eq!(response["allowed"], json!(true), "{response}");
    assert!(response["warnings"][0].as_str().unwrap().contains("spec.retires"), "{response}");
    let gateway = json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}]);
    let response = judged(question(&policy(&json!({ "targetRefs": gateway }))));
    assert!(response["allowed"] == json!(false) || response["warnings"][0].as_str().unwrap().contains("cannot be a target"), "{response}");
}

#[test]
fn an_unsupported_value_of_a_route_is_a_warning_and_a_missing_service_is_not() {
    let spec = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "later", "port": 8080}], "rules": [
        {"backendRefs": [{"name": "later-too", "port": 90}], "filters": [{"type": "FromTheFuture"}]},
        {"backendRefs": [{"name": "later-too", "port": 90}]},
    ]});
    let response = judged(question(&route(&spec)));
    assert_eq!(response["allowed"], json!(true), "{response}");
    let warnings = response["warnings"].as_array().unwrap();
    assert!(warnings.iter().all(|warning| warning.as_str().unwrap().contains("FromTheFuture")), "{response}");
}

#[test]
fn nobody_is_in_the_way_of_others_of_deletion_and_of_labels() {
    let bad = json!({"parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}], "rules": [{"timeouts": {"request": "soon"}}]});
    assert_eq!(judged(question(&route(&bad)))["allowed"], json!(false));
    let of_a_gateway = json!({"parentRefs": [{"name": "edge"}], "rules": [{"timeouts": {"request": "soon"}}]});
    let mut deleted = question(&route(&bad));
    deleted["operation"] = json!("DELETE");
    let mut status = question(&route(&bad));
    status["subResource"] = json!("status");
    let mut relabelled = question(&route(&bad));
    relabelled["operation"] = json!("UPDATE");
    relabelled["oldObject"] = route(&bad);
    relabelled["object"]["metadata"]["labels"] = json!({"a": "b"});
    let mut leaving = question(&route(&bad));
    leaving["object"]["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let of_others =
        question(&json!({"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": {"parentRefs": 1}}));
    for request in [question(&route(&of_a_gateway)), deleted, status, relabelled, leaving, of_others] {
        assert_eq!(judged(request.clone()), json!({"uid": "u", "allowed": true}), "{request}");
    }
}
