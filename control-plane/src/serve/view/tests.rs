//! Versions, and that answers taken over from the last view are the ones that would be given anew.

use super::*;
use crate::test_support::{objects, trust};
use heddle_crds::ObjectId;
use proptest::prelude::*;
use std::sync::LazyLock;

#[test]
fn versions_tell_contents_apart() {
    let heartbeat = |revision| version(Some(&proto::Heartbeat { revision }));
    assert_eq!(heartbeat(1), heartbeat(1));
    assert_ne!(heartbeat(1), heartbeat(2));
    assert_eq!(version(None::<&proto::Heartbeat>), "none");
    // The published offset basis of the algorithm: the hash of no bytes.
    assert_eq!(version(Some(&proto::Heartbeat { revision: 0 })), "6c62272e07bb014262b821756295c58d");
}

/// Objects, each in two versions.
const OBJECTS: [[&str; 2]; 8] = [
    [
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}",
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.2, internalTrafficPolicy: Local, selector: {app: api}, ports: [{port: 80, appProtocol: http, nodePort: 30080}]}}",
    ],
    [
        "{apiVersion: v1, kind: Service, metadata: {name: api}, spec: {clusterIP: None, selector: {app: api}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}}",
        "{apiVersion: v1, kind: Service, metadata: {name: api}, spec: {clusterIP: 10.0.0.1, ports: [{port: 8080}]}}",
    ],
    [
        "{apiVersion: v1, kind: Pod, metadata: {name: web-1, labels: {app: web}}, spec: {containers: [{name: a}], initContainers: [{name: heddle-sidecar}], nodeName: n1}, status: {podIP: 10.0.0.1, hostIP: 192.168.0.1}}",
        "{apiVersion: v1, kind: Pod, metadata: {name: web-1, labels: {app: api}}, spec: {containers: [{name: a}], serviceAccountName: web, nodeName: n2}, status: {podIP: 10.0.0.2, hostIP: 192.168.0.2}}",
    ],
    [
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {name: web-a, labels: {kubernetes.io/service-name: web}}, ports: [{port: 8080}], endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-1}}]}",
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {name: web-a, labels: {kubernetes.io/service-name: api}}, ports: [{port: 8080}], endpoints: [{addresses: [10.0.0.3]}]}",
    ],
    [
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: web}, spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: api, port: 80}]}]}}",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: web}, spec: {parentRefs: [{group: '', kind: Service, name: api}], rules: [{backendRefs: [{name: web, port: 80}]}]}}",
    ],
    [
        "{apiVersion: heddle.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: web}, spec: {targetRefs: [{group: '', kind: Service, name: web}], protocol: http}}",
        "{apiVersion: heddle.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: web}, spec: {targetRefs: [{group: '', kind: Service, name: web}], loadBalancer: {policy: RoundRobin}}}",
    ],
    [
        "{apiVersion: heddle.dev/v1alpha1, kind: AuthenticationPolicy, metadata: {name: web}, spec: {targetRefs: [{group: '', kind: Service, name: web}], mtls: {mode: Strict}}}",
        "{apiVersion: heddle.dev/v1alpha1, kind: AuthenticationPolicy, metadata: {name: web}, spec: {targetRefs: [{group: '', kind: Service, name: api}], mtls: {mode: Audit}}}",
    ],
    [
        "{apiVersion: heddle.dev/v1alpha1, kind: MeshConfig, metadata: {name: default}, spec: {trustDomain: other.example}}",
        "{apiVersion: heddle.dev/v1alpha1, kind: MeshConfig, metadata: {name: default}, spec: {mtls: {mode: Strict}}}",
    ],
];

static PARSED: LazyLock<Vec<Vec<heddle_crds::Object>>> =
    LazyLock::new(|| OBJECTS.iter().map(|versions| versions.iter().flat_map(|yaml| objects(yaml)).collect()).collect());
static TRUST: LazyLock<Arc<TrustBundle>> = LazyLock::new(|| trust(&"cluster.local".parse().unwrap()));

fn view(snapshot: &Snapshot, previous: Option<&View>) -> View {
    let metrics = Arc::new(Metrics::new().unwrap());
    View::new(snapshot.clone(), Instant::now(), TRUST.clone(), Arc::default(), previous, metrics)
}

type Everything = (Vec<Arc<Outbound>>, Vec<Arc<Inbound>>, Vec<Arc<EndpointSet>>);

/// Asks for everything.
fn answers(view: &View) -> Everything {
    let names = ["web:80", "api:80", "api:8080", "10.0.0.1:8080"].map(|name| Target::Authority(name.to_owned()));
    let addresses = ["10.96.0.1:80", "10.96.0.2:80", "10.0.0.1:8080", "10.0.0.2:8080", "192.168.0.1:30080", "192.168.0.2:30080"];
    let addresses = addresses.map(|a| Target::Address(a.parse().unwrap()));
    let outbound: Vec<_> = names.iter().chain(&addresses).map(|target| view.outbound("default", "web-1", target)).collect();
    let inbound = [80, 8080].map(|port| view.inbound("default", "web-1", port)).into();
    let endpoints = outbound.iter().flat_map(|answer| &answer.backends).map(|backend| view.endpoints(backend)).collect();
    (outbound, inbound, endpoints)
}

/// Brings an object into one of its versions, or takes it out.
fn change(snapshot: &mut Snapshot, object: usize, version: usize) {
    let versions = &PARSED[object];
    let ObjectId { kind, namespace, name } = versions[0].id();
    match versions.get(version) {
        Some(object) => snapshot.apply(object.clone()),
        None => snapshot.delete(&kind, namespace.as_deref().unwrap_or_default(), &name),
    };
}

proptest! {
    #[test]
    fn what_is_taken_over_is_what_would_be_answered_anew(
        changes in prop::collection::vec((0..OBJECTS.len(), 0_usize..3, any::<bool>()), 1..40)
    ) {
        let mut snapshot = Snapshot::default();
        let mut last = view(&snapshot, None);
        for (object, version, publish) in changes {
            change(&mut snapshot, object, version);
            if publish {
                let next = view(&snapshot, Some(&last));
                prop_assert_eq!(answers(&next), answers(&view(&snapshot, None)));
                last = next;
            }
        }
    }
}

#[test]
fn a_change_of_endpoints_has_no_policy_resolved_again() {
    let mut snapshot = Snapshot::default();
    [0, 1, 2, 3, 4].into_iter().for_each(|object| change(&mut snapshot, object, 0));
    let first = view(&snapshot, None);
    let (outbound, inbound, endpoints) = answers(&first);
    change(&mut snapshot, 3, 1);
    let second = view(&snapshot, Some(&first));
    let now = answers(&second);
    assert!(outbound.iter().zip(&now.0).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert!(inbound.iter().zip(&now.1).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert_ne!(endpoints, now.2);
}

#[test]
fn endpoints_that_turn_out_the_same_are_the_same_set() {
    let mut snapshot = Snapshot::default();
    [0, 1, 2, 3].into_iter().for_each(|object| change(&mut snapshot, object, 0));
    let first = view(&snapshot, None);
    let web: ServicePort = "default/web:80".parse().unwrap();
    let told = first.endpoints(&web);
    assert_eq!(told.len(), 1);
    let other = "{apiVersion: v1, kind: Pod, metadata: {name: other}, spec: {containers: [{name: a}]}, status: {podIP: 10.0.0.9}}";
    objects(other).into_iter().for_each(|pod| assert!(snapshot.apply(pod)));
    change(&mut snapshot, 1, 1);
    let second = view(&snapshot, Some(&first));
    assert!(Arc::ptr_eq(&told, &second.endpoints(&web)));
    change(&mut snapshot, 2, 1);
    let third = view(&snapshot, Some(&second));
    assert_ne!(told, third.endpoints(&web));
}
