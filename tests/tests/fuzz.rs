//! The fuzz targets of `tests/fuzz` on mutated seeds: with stable Rust, and always the same inputs.
//!
//! `HEDDLE_FUZZ_INPUTS=1000000` runs more of them. `HEDDLE_FUZZ_CORPUS=DIR` writes the seeds to `DIR/TARGET`, for
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz -s none TARGET DIR/TARGET`.

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "the library of the fuzz crate")]
mod targets;

use fastrand::Rng;
use heddle_control_plane::resolve;
use heddle_control_plane::snapshot::Snapshot;
use heddle_model::endpoint::EndpointsUpdate;
use heddle_model::{Target, proto};
use prost::Message;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Inputs of a target: about a second in a debug build.
const INPUTS: usize = 20_000;
/// Longer inputs say nothing new, and take their time.
const BYTES_MAX: usize = 16 * 1024;
/// What inputs are mutated with: pieces that some target gives a meaning.
const PIECES: [&str; 26] = [
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    ",",
    ";",
    "0",
    "-1",
    "ffffffffffffffff",
    "\r\n\r\n",
    "0\r\n\r\n",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close, x-a\r\n",
    "Upgrade: websocket\r\n",
    "Host: a\r\n",
    "HTTP/1.0",
    "http://a/",
    "%2f",
    "spiffe://",
    "---\n",
    "- ",
    "\u{feff}",
];

fn check(name: &str, target: fn(&[u8]), seeds: &[Vec<u8>], inputs: usize) {
    if let Some(folder) = std::env::var_os("HEDDLE_FUZZ_CORPUS") {
        let folder = Path::new(&folder).join(name);
        std::fs::create_dir_all(&folder).expect("a folder for seeds");
        seeds.iter().enumerate().for_each(|(n, seed)| std::fs::write(folder.join(format!("seed-{n}")), seed).expect("a seed"));
    }
    let more = std::env::var("HEDDLE_FUZZ_INPUTS").ok().and_then(|n| n.parse().ok());
    let mut rng = Rng::with_seed(0x6865_6464_6c65);
    seeds.iter().for_each(|seed| run(name, target, seed));
    for _ in 0..more.unwrap_or(inputs) {
        run(name, target, &mutated(seeds, &mut rng));
    }
}

fn run(name: &str, target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let kept = std::env::temp_dir().join(format!("heddle-fuzz-{name}-{}", std::process::id()));
        std::fs::write(&kept, input).expect("a file");
        eprintln!("{name}: the input is in {}:\n{:?}", kept.display(), String::from_utf8_lossy(input));
        std::panic::resume_unwind(panic);
    }
}

/// One of the seeds with one to eight changes.
fn mutated(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut input = seeds[rng.usize(..seeds.len())].clone();
    for _ in 0..rng.usize(1..=8) {
        let at = rng.usize(..=input.len());
        let to = at + rng.usize(..=(input.len() - at).min(32));
        match rng.u8(..7) {
            0 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
            1 if at < input.len() => input[at] = rng.u8(..),
            2 => drop(input.drain(at..to)),
            3 => input.truncate(at),
            4 => drop(input.splice(at..at, rng.choice(PIECES).unwrap_or_default().bytes())),
            5 => {
                let copied = input[at..to].to_vec();
                let place = rng.usize(..=input.len());
                drop(input.splice(place..place, copied));
            }
            _ => {
                let other = &seeds[rng.usize(..seeds.len())];
                let from = rng.usize(..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
        input.truncate(BYTES_MAX);
    }
    input
}

fn texts(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

const REQUESTS: [&str; 8] = [
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /p?q=1 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello",
    "PUT http://b/c HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE\r\n\r\n0\r\n\r\n",
    "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    "GET /chat HTTP/1.1\r\nhost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\nX: \r\nX: y, z\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\nexpect: 100-continue\r\nX-Nominated: 1\r\nConnection: x-nominated, close\r\n\r\n",
    "GET /a%2Fb/../c?d=e&f HTTP/1.1\r\nHost: a\r\nend-user: beta-tester\r\nCookie: a=b\r\n\r\n",
];

#[test]
fn detection_does_not_change_its_mind() {
    let mut seeds = texts(&REQUESTS);
    seeds.extend(texts(&["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "*1\r\n$4\r\nPING\r\n", "EHLO me\r\n", "SSH-2.0-x\r\n"]));
    seeds.extend(client_hellos());
    check("detect", targets::detect, &seeds, INPUTS);
}

/// The first bytes of TLS clients: one of the mesh, one of an application.
fn client_hellos() -> Vec<Vec<u8>> {
    let hello = |alpn: &[u8]| {
        let (_, client) = heddle_tests::pki::application("shop.example", alpn);
        let mut connection = rustls::ClientConnection::new(client, "shop.example".try_into().expect("a name")).expect("a connection");
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).expect("a hello");
        bytes
    };
    vec![hello(b"heddle/h2"), hello(b"http/1.1")]
}

#[test]
fn a_client_hello_says_the_same_however_it_arrives() {
    check("client_hello", targets::client_hello, &client_hellos(), INPUTS);
}

/// The fixtures of the golden tests and of the examples.
fn fixtures() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["golden", "../examples/canary", "../examples/grpc", "../examples/tcp"].map(|folder| root.join(folder));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("fixtures")).map(|file| file.expect("a file").path());
    let mut files: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|e| e == "yaml")).collect();
    files.sort();
    files.iter().map(|file| std::fs::read_to_string(file).expect("a fixture")).collect()
}

/// The policies that the fixtures ask for, as the wire carries them, and endpoints of their backends.
fn policies() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut policies, mut endpoints) = (Vec::new(), Vec::new());
    for text in fixtures() {
        let mut snapshot = Snapshot::default();
        for located in heddle_crds::read_str(Path::new("fixture.yaml"), &text).objects {
            snapshot.apply(located.object);
        }
        for question in text.lines().filter_map(|line| line.strip_prefix("#? outbound ")) {
            let Some((namespace, target)) = question.split_once(' ') else { continue };
            let Some(policy) = resolve::outbound(&snapshot, namespace, &Target::Authority(target.to_owned())) else { continue };
            policies.push(proto::OutboundPolicy::from(&policy).encode_to_vec());
            for backend in policy.backends {
                let upsert = resolve::endpoints(&snapshot, &backend.service);
                let remove = upsert.iter().map(|e| e.address).collect();
                let update = EndpointsUpdate { backend: backend.service, reset: true, upsert, remove };
                endpoints.push(proto::EndpointsUpdate::from(&update).encode_to_vec());
            }
        }
    }
    assert!(policies.len() > 10 && !endpoints.is_empty(), "{} policies", policies.len());
    (policies, endpoints)
}

#[test]
fn the_wire_between_the_planes_loses_nothing() {
    let (policies, endpoints) = policies();
    let target = proto::Target::from(&Target::Authority("reviews:80".to_owned())).encode_to_vec();
    let chosen = |kind: u8, message: &[u8]| [&[kind][..], message].concat();
    let mut seeds: Vec<_> = policies.iter().map(|policy| chosen(0, policy)).collect();
    seeds.extend(policies.iter().map(|policy| chosen(1, &policy[..policy.len().min(40)])));
    seeds.extend(endpoints.iter().map(|update| chosen(2, update)));
    seeds.push(chosen(3, &target));
    check("wire", targets::wire, &seeds, INPUTS);
}

#[test]
fn the_rule_that_is_found_accepts_the_request() {
    let (policies, _) = policies();
    let seed = |policy: &Vec<u8>, request: &str| {
        let length = u16::try_from(policy.len()).expect("a policy of a fixture").to_be_bytes();
        [&length, policy.as_slice(), request.as_bytes()].concat()
    };
    let seeds: Vec<_> = policies.iter().flat_map(|policy| REQUESTS.map(|request| seed(policy, request))).collect();
    check("route_find", targets::route_find, &seeds, INPUTS / 2);
}

#[test]
fn a_spiffe_id_is_the_text_that_it_was_read_from() {
    let seeds = texts(&["spiffe://cluster.local/ns/default/sa/echo", "spiffe://a.b-c_d/x", "spiffe://td", "spiffe://td/.a/..b/~"]);
    check("spiffe_id", targets::spiffe_id, &seeds, INPUTS * 5);
}

#[test]
fn a_requests_head_says_the_same_to_the_next_reader() {
    check("request_head", targets::request_head, &texts(&REQUESTS), INPUTS);
}

#[test]
fn a_responses_head_says_the_same_to_the_next_reader() {
    let heads = [
        "\0HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "\0HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: a\r\n\r\n0\r\na: b\r\n\r\n",
        "\0HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "\0HTTP/1.0 200 \r\nConnection: keep-alive\r\nKeep-Alive: timeout=5, max=10\r\nX: a\r\n b\r\n\r\n",
        "\u{1}HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\nETag: \"a\"\r\n\r\n",
        "\u{2}HTTP/1.1 200 Connection established\r\n\r\n",
        "\0HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nSet-Cookie: a=b\r\nSet-Cookie: c\r\n\r\n",
    ];
    check("response_head", targets::response_head, &texts(&heads), INPUTS);
}

#[test]
fn a_body_ends_at_the_same_place_however_it_arrives() {
    let bodies = [
        "\u{2}\u{3}5;ext=\"a b\"\r\nhello\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\nGET /",
        "\u{3}\u{1}a\r\n0123456789\r\n00\r\n\r\n",
        "\u{7}\u{7}1 \r\na\r\n1\t;b\r\nc\r\n0\r\n\r\n",
        "\u{8}\u{2}01234567rest",
        "\u{1}\u{5}until the end",
    ];
    check("body", targets::body, &texts(&bodies), INPUTS);
}

#[test]
fn manifests_are_read_and_resolved_whatever_they_say() {
    let seeds: Vec<_> = fixtures().into_iter().map(String::into_bytes).collect();
    check("manifests", targets::manifests, &seeds, INPUTS / 20);
}

#[test]
fn every_question_of_an_api_server_has_an_answer() {
    let pod = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","kind":{"group":"","version":"v1","kind":"Pod"},"namespace":"shop","operation":"CREATE","object":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"heddle.dev/inject":"enabled"},"annotations":{"heddle.dev/exclude-inbound-ports":"9100","heddle.dev/drain-seconds":"5"}},"spec":{"containers":[{"name":"a","ports":[{"name":"web","containerPort":80}],"livenessProbe":{"httpGet":{"port":"web","path":"/"}},"readinessProbe":{"grpc":{"port":80}},"lifecycle":{"preStop":{"httpGet":{"port":80}}}}],"initContainers":[{"name":"heddle-sidecar","env":[{"name":"HEDDLE_PROBES","value":"{}"}]}],"volumes":[]}}}}"#;
    let route = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","kind":{"group":"gateway.networking.k8s.io","version":"v1","kind":"HTTPRoute"},"name":"r","namespace":"shop","operation":"UPDATE","object":{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"r"},"spec":{"parentRefs":[{"group":"","kind":"Service","name":"a","port":80}],"rules":[{"matches":[{"path":{"type":"PathPrefix","value":"/a"}}],"filters":[{"type":"RequestHeaderModifier","requestHeaderModifier":{"set":[{"name":"x","value":"y"}]}}],"backendRefs":[{"name":"a","port":80,"weight":1}],"timeouts":{"request":"1s"}}]}},"oldObject":{"spec":{}}}}"#;
    let policy = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","kind":{"group":"heddle.dev","version":"v1alpha1","kind":"TrafficPolicy"},"operation":"CREATE","object":{"apiVersion":"heddle.dev/v1alpha1","kind":"TrafficPolicy","metadata":{"generateName":"r-","namespace":"shop"},"spec":{"targetRefs":[{"group":"","kind":"Service","name":"a"}]}}}}"#;
    check("admission_review", targets::admission_review, &texts(&[pod, route, policy]), INPUTS / 4);
}
