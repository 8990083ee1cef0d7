//! Manifests in, resolved policy and status out: each `tests/golden/*.yaml` against the `.out` file beside it.
//!
//! Comments that begin with `#?` in a manifest are questions, in this form:
//!
//! ```text
//! #? outbound CLIENT-NAMESPACE AUTHORITY-OR-ADDRESS
//! #? find CLIENT-NAMESPACE AUTHORITY-OR-ADDRESS METHOD PATH[?QUERY] [header=value ...]
//! #? endpoints NAMESPACE/SERVICE:PORT
//! #? inbound NAMESPACE POD PORT
//! #? mesh
//! ```
//!
//! A client on a node is `NAMESPACE@NODE`.
//!
//! `HEDDLE_BLESS=1` writes the answers instead of comparing them; read the difference before you commit it.
#![expect(clippy::unwrap_used, reason = "a test: what cannot be read, or written to a text, fails it")]

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use heddle_control_plane::resolve::{self, Client};
use heddle_control_plane::snapshot::Snapshot;
use heddle_control_plane::status::{self, Condition};
use heddle_model::filter::{Mirror, PathRewrite};
use heddle_model::route::{HttpMatch, PathMatch, SessionCarrier, StringMatch, ValueMatch};
use heddle_model::{
    Backend, BackendTarget, Endpoint, Filter, InboundPolicy, OutboundPolicy, RequestView, RouteBackend, Rule, ServicePort, Target, proto,
};

#[test]
fn every_manifest_gives_its_answers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "no case in {}", folder.display());
    let bless = std::env::var_os("HEDDLE_BLESS").is_some();
    let mut wrong = Vec::new();
    for case in cases {
        let name = case.file_stem().unwrap().to_string_lossy().into_owned();
        let answers = answers(&case);
        let expected_path = case.with_extension("out");
        if bless {
            std::fs::write(&expected_path, &answers).unwrap();
            continue;
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if expected != answers {
            wrong.push(format!("=== {name}\n{}", difference(&expected, &answers)));
        }
    }
    assert!(wrong.is_empty(), "answers changed; HEDDLE_BLESS=1 accepts them\n{}", wrong.join("\n"));
}

/// The first line that differs, with what is around it.
fn difference(expected: &str, found: &str) -> String {
    let (expected, found): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let at = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
    let around = |lines: &[&str]| lines.iter().skip(at.saturating_sub(2)).take(6).map(|l| format!("    {l}\n")).collect::<String>();
    format!("line {}\n  expected:\n{}  found:\n{}", at + 1, around(&expected), around(&found))
}

fn answers(case: &Path) -> String {
    let text = std::fs::read_to_string(case).unwrap();
    let manifests = heddle_crds::read_str(Path::new(case.file_name().unwrap()), &text);
    let mut out = String::new();
    for problem in &manifests.problems {
        writeln!(out, "problem: {problem}").unwrap();
    }
    let mut snapshot = Snapshot::default();
    for located in manifests.objects {
        snapshot.apply(located.object);
    }
    for question in text.lines().filter_map(|line| line.strip_prefix("#? ")) {
        writeln!(out, "# {question}").unwrap();
        answer(&mut out, &snapshot, question);
        out.push('\n');
    }
    out.push_str("# status\n");
    for status in status::statuses(&snapshot) {
        writeln!(out, "{}/{}/{}", status.kind, status.namespace, status.name).unwrap();
        for parent in &status.parents {
            writeln!(out, "  parent {}", serde_json::to_string(&parent.parent_ref).unwrap()).unwrap();
            conditions(&mut out, &parent.conditions);
        }
        for ancestor in &status.ancestors {
            writeln!(out, "  ancestor {}", serde_json::to_string(&ancestor.ancestor_ref).unwrap()).unwrap();
            conditions(&mut out, &ancestor.conditions);
        }
        conditions(&mut out, &status.conditions);
        for note in &status.notes {
            writeln!(out, "  note: {note}").unwrap();
        }
    }
    out
}

fn conditions(out: &mut String, conditions: &[Condition]) {
    for Condition { condition_type, status, reason, message, observed_generation } in conditions {
        let generation = observed_generation.map(|g| format!(" @{g}")).unwrap_or_default();
        writeln!(out, "    {condition_type}={status:?} {reason}{generation}{}{message}", if message.is_empty() { "" } else { ": " })
            .unwrap();
    }
}

fn answer(out: &mut String, snapshot: &Snapshot, question: &str) {
    let words: Vec<&str> = question.split_whitespace().collect();
    match words.as_slice() {
        ["outbound", namespace, target] => match resolve::outbound(snapshot, client(namespace), &target_of(target)) {
            None => out.push_str("not in the mesh\n"),
            Some(policy) => {
                let wire = proto::OutboundPolicy::from(&policy);
                assert_eq!(OutboundPolicy::try_from(wire), Ok(policy.clone()), "the wire changes the policy");
                outbound(out, &policy);
            }
        },
        ["find", namespace, target, method, path, headers @ ..] => {
            let policy = resolve::outbound(snapshot, client(namespace), &target_of(target)).unwrap();
            let (path, query) = path.split_once('?').map_or((*path, None), |(path, query)| (path, Some(query)));
            let request = Request { method, path, query, headers: headers.iter().map(|h| h.split_once('=').unwrap()).collect() };
            match policy.http.find(&request) {
                None => out.push_str("404\n"),
                Some(found) => writeln!(out, "{}", found.rule.source).unwrap(),
            }
        }
        ["endpoints", backend] => {
            for Endpoint { address, identity, zone, workload, version, draining } in
                resolve::endpoints(snapshot, &backend.parse::<ServicePort>().unwrap())
            {
                let identity = identity.map_or_else(|| "plaintext".to_owned(), |id| id.to_string());
                let draining = if draining { " draining" } else { "" };
                writeln!(out, "{address} {identity} workload={workload} version={version:?} zone={zone:?}{draining}").unwrap();
            }
        }
        ["inbound", namespace, pod, port] => match resolve::inbound(snapshot, namespace, pod, port.parse().unwrap()) {
            None => out.push_str("nothing is permitted\n"),
            Some(policy) => {
                let wire = proto::InboundPolicy::from(&policy);
                assert_eq!(InboundPolicy::try_from(wire), Ok(policy.clone()), "the wire changes the policy");
                let InboundPolicy { port, protocol, mtls, mtls_source, idle, service } = policy;
                writeln!(out, "port {port} {protocol:?} {mtls:?} by {mtls_source:?} idle {idle:?} service {service:?}").unwrap();
            }
        },
        ["mesh"] => writeln!(out, "{:?}\n{:?}", resolve::mesh(snapshot), resolve::settings(snapshot)).unwrap(),
        _ => panic!("\"{question}\" is no question"),
    }
}

fn client(text: &str) -> Client<'_> {
    text.split_once('@').map_or_else(|| text.into(), |(namespace, node)| Client::on_node(namespace, node))
}

fn target_of(text: &str) -> Target {
    text.parse().map_or_else(|_| Target::Authority(text.to_owned()), Target::Address)
}

fn outbound(out: &mut String, policy: &OutboundPolicy) {
    let OutboundPolicy { service, protocol, backends, http, tcp, tcp_source, tcp_idle } = policy;
    let service = service.as_ref().map_or_else(|| "no service".to_owned(), ToString::to_string);
    writeln!(out, "{service} {protocol:?}").unwrap();
    for (index, backend) in backends.iter().enumerate() {
        let Backend { service, load_balancing, connect_timeout, http1_idle_timeout, retry_budget, protocol, source } = backend;
        writeln!(
            out,
            "  backend {index} {service} {protocol:?} {load_balancing:?} connect {connect_timeout:?} keep {http1_idle_timeout:?} \
             budget {}%+{}/s by {source:?}",
            retry_budget.percent, retry_budget.min_per_second
        )
        .unwrap();
    }
    for item in http.rules() {
        rule(out, item);
    }
    if tcp.is_empty() {
        out.push_str("  tcp: refused\n");
    } else {
        writeln!(out, "  tcp: {} by {tcp_source:?}, idle {tcp_idle:?}", weighted(tcp)).unwrap();
    }
}

fn rule(out: &mut String, rule: &Rule) {
    let Rule { source, matches, filters, backends, timeouts, retry, session_persistence } = rule;
    writeln!(out, "  rule {source}").unwrap();
    for matched in matches {
        writeln!(out, "    match {}", match_text(matched)).unwrap();
    }
    for filter in filters {
        writeln!(out, "    filter {}", filter_text(filter)).unwrap();
    }
    writeln!(out, "    to {}", weighted(backends)).unwrap();
    for backend in backends {
        for filter in &backend.filters {
            writeln!(out, "    for {}: filter {}", backend_text(backend), filter_text(filter)).unwrap();
        }
    }
    let limit = |limit: Option<std::time::Duration>| limit.map_or_else(|| "none".to_owned(), |d| format!("{d:?}"));
    if timeouts.source.is_some() {
        let (request, attempt, idle) = (limit(timeouts.request), limit(timeouts.attempt), limit(timeouts.idle));
        writeln!(out, "    timeouts request {request} attempt {attempt} idle {idle} by {:?}", timeouts.source).unwrap();
    }
    if retry.source.is_some() {
        writeln!(
            out,
            "    retry {} on {:?} grpc {:?} methods {:?} backoff {:?}..{:?} by {:?}",
            retry.attempts,
            retry.statuses,
            retry.grpc_codes,
            retry.methods,
            retry.backoff.base(),
            retry.backoff.max(),
            retry.source
        )
        .unwrap();
    }
    if let Some(session) = session_persistence {
        let carrier = match &session.carrier {
            SessionCarrier::Header => "header".to_owned(),
            SessionCarrier::Cookie { permanent, path } => format!("cookie permanent={permanent} path={path:?}"),
        };
        writeln!(out, "    session {} by {carrier} for {}", session.name, limit(session.absolute_timeout)).unwrap();
    }
}

fn match_text(matched: &HttpMatch) -> String {
    let HttpMatch { path, headers, query, method } = matched;
    let value = |m: &StringMatch| match m {
        StringMatch::Exact(text) => format!("\"{text}\""),
        StringMatch::Regex(pattern) => format!("{pattern:?}"),
    };
    let mut parts = vec![match path {
        PathMatch::Exact(path) => format!("exact {path}"),
        PathMatch::Prefix(path) => format!("prefix {path}"),
        PathMatch::Regex(pattern) => format!("{pattern:?}"),
        PathMatch::Grpc { service, method } => {
            let part = |m: &Option<StringMatch>| m.as_ref().map_or_else(|| "*".to_owned(), value);
            format!("grpc {} {}", part(service), part(method))
        }
    }];
    parts.extend(method.clone());
    let pair = |kind: &str, m: &ValueMatch| format!("{kind} {}={}", m.name, value(&m.value));
    parts.extend(headers.iter().map(|m| pair("header", m)));
    parts.extend(query.iter().map(|m| pair("query", m)));
    parts.join(" ")
}

fn filter_text(filter: &Filter) -> String {
    let path = |p: &Option<PathRewrite>| p.as_ref().map_or_else(|| "path kept".to_owned(), |p| format!("{p:?}"));
    match filter {
        Filter::RequestHeaders(e) => format!("request set {:?} add {:?} remove {:?}", e.set, e.add, e.remove),
        Filter::ResponseHeaders(e) => format!("response set {:?} add {:?} remove {:?}", e.set, e.add, e.remove),
        Filter::Redirect(r) => format!("redirect {} {:?} {:?} {:?} {}", r.status, r.scheme, r.hostname, r.port, path(&r.path)),
        Filter::Rewrite(r) => format!("rewrite {:?} {}", r.hostname, path(&r.path)),
        Filter::Mirror(Mirror { backend, numerator, denominator }) => {
            format!("mirror {numerator}/{denominator} to {}", backend_text(backend))
        }
        Filter::Cors(c) => format!("{c:?}"),
        Filter::Fail { status, message } => format!("fail {status} {message}"),
    }
}

fn weighted(backends: &[RouteBackend]) -> String {
    if backends.is_empty() {
        return "nowhere".to_owned();
    }
    backends.iter().map(|b| format!("{} × {}", b.weight, backend_text(b))).collect::<Vec<_>>().join(", ")
}

fn backend_text(backend: &RouteBackend) -> String {
    match &backend.target {
        BackendTarget::Backend(index) => format!("backend {index}"),
        BackendTarget::Invalid { status, message } => format!("{status} ({message})"),
    }
}

struct Request<'a> {
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    headers: Vec<(&'a str, &'a str)>,
}

impl RequestView for Request<'_> {
    fn method(&self) -> &str {
        self.method
    }

    fn path(&self) -> &str {
        self.path
    }

    fn query(&self) -> Option<&str> {
        self.query
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| Cow::Borrowed(value.as_bytes()))
    }
}
