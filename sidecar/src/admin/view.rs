//! `/config` as JSON: what is in force, and the objects that it came from. Field names may change with the model.

use super::Workload;
use crate::discover::{Endpoints, Inventory, InventoryItem, Known, ResolvedInbound, ResolvedOutbound};
use crate::drain::Phase;
use heddle_identity::TlsContext;
use heddle_model::filter::{Filter, Mirror, PathRewrite};
use heddle_model::retry::RetryPolicy;
use heddle_model::route::{HttpMatch, PathMatch, StringMatch, ValueMatch};
use heddle_model::timeout::Timeouts;
use heddle_model::{Backend, BackendTarget, Endpoint, InboundPolicy, OutboundPolicy, ResourceRef, RouteBackend, Rule, Settings, Target};
use serde_json::{Value, json};
use std::time::Duration;

/// `now` is in Unix seconds.
pub(super) fn config(workload: &Workload, context: Option<&TlsContext>, now: u64, inventory: &Inventory, phase: Phase) -> Value {
    let Workload { namespace, name, service_account } = workload;
    let Inventory { connected, age, revision, settings, targets } = inventory;
    let Settings { otlp_endpoint, sampling_ppm, access_log, egress_allow } = &**settings;
    let (mut outbound, mut inbound) = (Vec::new(), Vec::new());
    for (target, item) in targets {
        match target {
            Target::Address(_) | Target::Authority(_) => outbound.push(target_view(target, item)),
            Target::InboundPort(_) => inbound.push(target_view(target, item)),
        }
    }
    json!({
        "workload": {"namespace": namespace, "name": name, "serviceAccount": service_account},
        "phase": format!("{phase:?}"),
        "controlPlane": {"connected": connected, "ageSeconds": age.as_secs_f64(), "revision": revision},
        "certificate": context.map(|context| certificate(context, now)),
        "settings": {
            "otlpEndpoint": otlp_endpoint,
            "samplingPpm": sampling_ppm,
            "accessLog": access_log,
            "egressAllow": egress_allow,
        },
        "inbound": inbound,
        "outbound": outbound,
    })
}

fn certificate(context: &TlsContext, now: u64) -> Value {
    let certificate = context.certificate();
    json!({
        "id": certificate.id().as_str(),
        "notBefore": certificate.not_before(),
        "notAfter": certificate.not_after(),
        "secondsLeft": certificate.remaining(now).as_secs(),
        "trustRevision": context.bundle_revision(),
    })
}

fn target_view(target: &Target, item: &InventoryItem) -> Value {
    let InventoryItem { version, waiting, error, outbound, inbound } = item;
    let (state, policy) = match (outbound, inbound) {
        (Some(known), _) => known_view(known, outbound_view),
        (None, Some(known)) => known_view(known, inbound_view),
        (None, None) => ("pending", Value::Null),
    };
    let name = match target {
        Target::Address(address) => address.to_string(),
        Target::Authority(authority) => authority.clone(),
        Target::InboundPort(port) => port.to_string(),
    };
    json!({
        "target": name,
        "state": state,
        "version": version,
        "waitingForEndpoints": waiting,
        "error": error,
        "policy": policy,
    })
}

fn known_view<T>(known: &Known<T>, view: impl Fn(&T) -> Value) -> (&'static str, Value) {
    match known {
        Known::Pending => ("pending", Value::Null),
        Known::Unknown => ("unknown", Value::Null),
        Known::Policy(policy) => ("inForce", view(policy)),
    }
}

fn inbound_view(resolved: &ResolvedInbound) -> Value {
    let ResolvedInbound { policy, version: _ } = resolved;
    let InboundPolicy { port, protocol, mtls, mtls_source, idle, service } = policy;
    json!({
        "port": port,
        "protocol": format!("{protocol:?}"),
        "mtls": format!("{mtls:?}"),
        "mtlsSource": source(mtls_source.as_ref()),
        "idleMs": idle.map(millis),
        "service": source(service.as_ref()),
    })
}

fn outbound_view(resolved: &ResolvedOutbound) -> Value {
    let ResolvedOutbound { policy, version: _, endpoints } = resolved;
    let OutboundPolicy { service, protocol, backends, http, tcp, tcp_source, tcp_idle } = policy;
    json!({
        "service": service.as_ref().map(ToString::to_string),
        "protocol": format!("{protocol:?}"),
        "backends": backends.iter().zip(endpoints).map(|(backend, endpoints)| backend_view(backend, endpoints)).collect::<Vec<_>>(),
        "precedence": format!("{:?}", http.precedence()),
        "rules": http.rules().iter().map(|rule| rule_view(rule, backends)).collect::<Vec<_>>(),
        "tcp": route_backends(tcp, backends),
        "tcpSource": source(tcp_source.as_ref()),
        "tcpIdle": tcp_idle.map(|d| format!("{d:?}")),
    })
}

fn backend_view(backend: &Backend, endpoints: &Endpoints) -> Value {
    let Backend { service, load_balancing, connect_timeout, http1_idle_timeout, retry_budget, protocol, source: from } = backend;
    json!({
        "service": service.to_string(),
        "source": source(from.as_ref()),
        "loadBalancing": format!("{load_balancing:?}"),
        "connectTimeoutMs": millis(*connect_timeout),
        "http1IdleTimeoutMs": millis(*http1_idle_timeout),
        "retryBudget": {"percent": retry_budget.percent, "minPerSecond": retry_budget.min_per_second},
        "protocol": format!("{protocol:?}"),
        "endpoints": endpoints.borrow().iter().map(endpoint_view).collect::<Vec<_>>(),
    })
}

fn endpoint_view(endpoint: &Endpoint) -> Value {
    let Endpoint { address, identity, zone, workload, version, draining } = endpoint;
    json!({
        "address": address.to_string(),
        "identity": identity.as_ref().map(ToString::to_string),
        "zone": zone,
        "workload": workload,
        "version": version,
        "draining": draining,
    })
}

fn rule_view(rule: &Rule, backends: &[Backend]) -> Value {
    let Rule { source: from, matches, filters, backends: to, timeouts, retry, session_persistence } = rule;
    let Timeouts { request, attempt, idle, source: timeouts_from } = timeouts;
    let RetryPolicy { attempts, statuses, grpc_codes, methods, backoff, source: retry_from } = retry;
    json!({
        "source": from.to_string(),
        "matches": matches.iter().map(match_view).collect::<Vec<_>>(),
        "filters": filters.iter().map(|filter| filter_view(filter, backends)).collect::<Vec<_>>(),
        "backends": route_backends(to, backends),
        "timeouts": {
            "requestMs": request.map(millis),
            "attemptMs": attempt.map(millis),
            "idleMs": idle.map(millis),
            "source": source(timeouts_from.as_ref()),
        },
        "retry": {
            "attempts": attempts,
            "statuses": statuses,
            "grpcCodes": grpc_codes,
            "methods": methods,
            "backoffMs": [millis(backoff.base()), millis(backoff.max())],
            "source": source(retry_from.as_ref()),
        },
        "sessionPersistence": session_persistence.as_ref().map(|session| &session.name),
    })
}

fn match_view(matched: &HttpMatch) -> Value {
    let HttpMatch { path, headers, query, method } = matched;
    let values = |values: &[ValueMatch]| -> Vec<String> {
        values.iter().map(|ValueMatch { name, value }| format!("{name} {}", string_match(value))).collect()
    };
    let path = match path {
        PathMatch::Exact(exact) => format!("= {exact}"),
        PathMatch::Prefix(prefix) => format!("{prefix}*"),
        PathMatch::Regex(pattern) => format!("~ {}", pattern.text()),
        PathMatch::Grpc { service, method } => {
            let part = |part: &Option<StringMatch>| part.as_ref().map_or_else(|| "*".to_owned(), string_match);
            format!("grpc {}/{}", part(service), part(method))
        }
    };
    json!({"path": path, "headers": values(headers), "query": values(query), "method": method})
}

fn string_match(value: &StringMatch) -> String {
    match value {
        StringMatch::Exact(exact) => format!("= {exact}"),
        StringMatch::Regex(pattern) => format!("~ {}", pattern.text()),
    }
}

fn route_backends(to: &[RouteBackend], backends: &[Backend]) -> Vec<Value> {
    to.iter().map(|backend| route_backend(backend, backends)).collect()
}

fn route_backend(backend: &RouteBackend, backends: &[Backend]) -> Value {
    let RouteBackend { weight, target, filters } = backend;
    let filters: Vec<_> = filters.iter().map(|filter| filter_view(filter, backends)).collect();
    match target {
        BackendTarget::Backend(index) => {
            let service = backends.get(*index).map(|b| b.service.to_string());
            json!({"weight": weight, "service": service, "filters": filters})
        }
        BackendTarget::Invalid { status, message } => {
            json!({"weight": weight, "invalid": {"status": status, "message": message}, "filters": filters})
        }
    }
}

fn filter_view(filter: &Filter, backends: &[Backend]) -> Value {
    let path = |path: &Option<PathRewrite>| {
        path.as_ref().map(|path| match path {
            PathRewrite::Full(full) => json!({"full": full}),
            PathRewrite::Prefix(prefix) => json!({"prefix": prefix}),
        })
    };
    match filter {
        Filter::RequestHeaders(edits) => json!({"requestHeaders": {"set": edits.set, "add": edits.add, "remove": edits.remove}}),
        Filter::ResponseHeaders(edits) => json!({"responseHeaders": {"set": edits.set, "add": edits.add, "remove": edits.remove}}),
        Filter::Redirect(to) => json!({"redirect": {
            "scheme": to.scheme, "hostname": to.hostname, "path": path(&to.path), "port": to.port, "status": to.status,
        }}),
        Filter::Rewrite(to) => json!({"rewrite": {"hostname": to.hostname, "path": path(&to.path)}}),
        Filter::Mirror(Mirror { backend, numerator, denominator }) => {
            json!({"mirror": {"to": route_backend(backend, backends), "share": format!("{numerator}/{denominator}")}})
        }
        Filter::Cors(cors) => json!({"cors": {
            "allowOrigins": cors.allow_origins,
            "allowCredentials": cors.allow_credentials,
            "allowMethods": cors.allow_methods,
            "allowHeaders": cors.allow_headers,
            "exposeHeaders": cors.expose_headers,
            "maxAgeSeconds": cors.max_age_seconds,
        }}),
        Filter::Fail { status, message } => json!({"fail": {"status": status, "message": message}}),
    }
}

fn source(source: Option<&ResourceRef>) -> Option<String> {
    source.map(ToString::to_string)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
