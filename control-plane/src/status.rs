//! What the control plane says about objects: a pure function of the snapshot, from the same conversions that resolving uses.
//!
//! Conditions follow `apis/v1/shared_types.go` and `policy_types.go` of the Gateway API v1.6; the times of transitions belong
//! to whoever writes them.

pub mod write;

use std::collections::BTreeMap;

use heddle_crds::gateway::{ParentReference, PolicyTargetRef};
use heddle_crds::heddle::{AuthenticationPolicy, MeshConfig, Mode, TrafficPolicy};
use heddle_model::{Protocol, TrustDomain};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::resolve::attach::{self, Binding, Target};
use crate::resolve::backend::Backends;
use crate::resolve::route::{self, Converted};
use crate::resolve::service::{self, Frontend, ServiceKind};
use crate::resolve::traffic_policy::{self, Traffic};
use crate::resolve::{self, inbound};
use crate::snapshot::{ObjectKey, Snapshot};

/// Who writes our entries of a status, as `domain/path`.
pub const CONTROLLER_NAME: &str = "heddle.dev/mesh";

/// The most ancestors that the status of a policy has (`policy_types.go`).
const ANCESTORS_MAX: usize = 16;

/// The most bytes of a condition's message (`metav1.Condition`).
const MESSAGE_MAX: usize = 32_768;

/// What is said about one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// The object's kind, as manifests write it.
    pub kind: String,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Of a route: one entry for each parent that is a Service and exists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentStatus>,
    /// Of a policy: one entry for each target, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<AncestorStatus>,
    /// Of kinds whose status has neither.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// What a status of the Gateway API has no place for, in sentences: a parent that does not exist, say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What is said about a route and one of its parents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// As the route's spec names it.
    pub parent_ref: ParentReference,
    /// [`CONTROLLER_NAME`].
    pub controller_name: String,
    /// `Accepted`, `ResolvedRefs` and, when it is true, `PartiallyInvalid`.
    pub conditions: Vec<Condition>,
}

/// What is said about a policy and one of its targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AncestorStatus {
    /// The target.
    pub ancestor_ref: ParentReference,
    /// [`CONTROLLER_NAME`].
    pub controller_name: String,
    /// `Accepted`.
    pub conditions: Vec<Condition>,
}

/// One condition, without the time of its transition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about, such as `Accepted`.
    #[serde(rename = "type")]
    pub condition_type: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word.
    pub reason: String,
    /// For people; may be empty.
    pub message: String,
    /// The generation of the object that was looked at; `None` where the source counts none, as files do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
}

impl ObjectStatus {
    /// Nothing is said yet.
    pub(crate) fn new(kind: &str, key: &ObjectKey) -> Self {
        Self {
            kind: kind.to_owned(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            parents: Vec::new(),
            ancestors: Vec::new(),
            conditions: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn is_silent(&self) -> bool {
        self.parents.is_empty() && self.ancestors.is_empty() && self.conditions.is_empty() && self.notes.is_empty()
    }
}

/// What is to be said about all objects, by kind, namespace and name. Objects about which there is nothing to say, such as
/// routes of Gateways, are not in it.
pub fn statuses(snapshot: &Snapshot) -> Vec<ObjectStatus> {
    let http = snapshot.http_routes.iter().map(|(key, r)| {
        let converted = route::http(key, r, &mut Backends::new(snapshot, None), None);
        let rule = |frontend: &Frontend<'_>| grpc_in_the_way(snapshot, key, frontend);
        route_status(snapshot, &Subject { kind: "HTTPRoute", key, metadata: &r.metadata }, &r.spec.parent_refs, &converted, rule)
    });
    let grpc = snapshot.grpc_routes.iter().map(|(key, r)| {
        let converted = route::grpc(key, r, &mut Backends::new(snapshot, None), None);
        route_status(snapshot, &Subject { kind: "GRPCRoute", key, metadata: &r.metadata }, &r.spec.parent_refs, &converted, |_| None)
    });
    let tcp = snapshot
        .tcp_routes
        .iter()
        .map(|(key, r)| unimplemented_route(snapshot, &Subject { kind: "TCPRoute", key, metadata: &r.metadata }, &r.spec.parent_refs));
    let tls = snapshot
        .tls_routes
        .iter()
        .map(|(key, r)| unimplemented_route(snapshot, &Subject { kind: "TLSRoute", key, metadata: &r.metadata }, &r.spec.parent_refs));
    let traffic = snapshot.traffic_policies.iter().map(|(key, policy)| traffic_policy_status(snapshot, key, policy));
    let authentication = snapshot.authentication_policies.iter().map(|(key, policy)| authentication_policy_status(snapshot, key, policy));
    let mesh = snapshot.mesh_configs.iter().map(|(key, config)| mesh_config_status(key, config));
    let mut all: Vec<_> =
        http.chain(grpc).chain(tcp).chain(tls).chain(traffic).chain(authentication).chain(mesh).filter(|s| !s.is_silent()).collect();
    all.sort_by(|a, b| (&a.kind, &a.namespace, &a.name).cmp(&(&b.kind, &b.namespace, &b.name)));
    all
}

/// The object that is spoken about.
struct Subject<'a> {
    kind: &'static str,
    key: &'a ObjectKey,
    metadata: &'a ObjectMeta,
}

impl Subject<'_> {
    fn condition(&self, condition_type: &str, holds: bool, reason: &str, mut message: String) -> Condition {
        message.truncate(message.floor_char_boundary(MESSAGE_MAX));
        Condition {
            condition_type: condition_type.to_owned(),
            status: if holds { ConditionStatus::True } else { ConditionStatus::False },
            reason: reason.to_owned(),
            message,
            observed_generation: self.metadata.generation,
        }
    }

    fn accepted(&self, verdict: Result<String, (&str, String)>) -> Condition {
        match verdict {
            Ok(message) => self.condition("Accepted", true, "Accepted", message),
            Err((reason, message)) => self.condition("Accepted", false, reason, message),
        }
    }
}

/// `taken` names the route of another kind that has a port instead.
fn route_status(
    snapshot: &Snapshot,
    subject: &Subject<'_>,
    parents: &[ParentReference],
    converted: &Converted,
    taken: impl Fn(&Frontend<'_>) -> Option<String>,
) -> ObjectStatus {
    let mut status = ObjectStatus::new(subject.kind, subject.key);
    for parent in parents {
        let verdict = match attach::bind(snapshot, &subject.key.namespace, parent) {
            Binding::Foreign => continue,
            Binding::Missing(service) => {
                status.notes.push(format!("parent Service {service} does not exist: the route has no effect there"));
                continue;
            }
            Binding::Refused(message) => Err(("NoMatchingParent", message)),
            Binding::Bound(ports) => {
                status.notes.extend(opaque_ports(snapshot, &ports));
                verdict(converted, &ports, &taken)
            }
        };
        let accepted = verdict.is_ok();
        let mut conditions = vec![subject.accepted(verdict), resolved_refs(subject, converted)];
        if accepted && !converted.unusable.is_empty() {
            let message: Vec<_> =
                converted.unusable.iter().map(|(rule, unusable)| format!("Dropped Rule {rule}: {}", unusable.message())).collect();
            conditions.push(subject.condition("PartiallyInvalid", true, "UnsupportedValue", message.join("; ")));
        }
        status.parents.push(ParentStatus { parent_ref: parent.clone(), controller_name: CONTROLLER_NAME.to_owned(), conditions });
    }
    status
}

/// Whether a route is accepted on at least one of these ports, by at least one rule.
fn verdict(
    converted: &Converted,
    ports: &[Frontend<'_>],
    taken: impl Fn(&Frontend<'_>) -> Option<String>,
) -> Result<String, (&'static str, String)> {
    if converted.implemented == 0
        && let Some((_, first)) = converted.unusable.first()
    {
        let message: Vec<_> = converted.unusable.iter().map(|(rule, unusable)| format!("rule {rule}: {}", unusable.message())).collect();
        return Err((first.reason(), format!("no rule can be implemented: {}", message.join("; "))));
    }
    let losses: BTreeMap<u16, String> = ports.iter().filter_map(|port| Some((port.number, taken(port)?))).collect();
    let message: Vec<_> = losses.iter().map(|(port, by)| format!("port {port} belongs to {by}")).collect();
    if losses.len() == ports.len() {
        return Err(("Conflicted", format!("only one kind of route applies to a port: {}", message.join("; "))));
    }
    Ok(message.join("; "))
}

/// The GRPCRoutes of an HTTPRoute's namespace that have a port (GEP-1426: GRPCRoute before HTTPRoute).
fn grpc_in_the_way(snapshot: &Snapshot, key: &ObjectKey, frontend: &Frontend<'_>) -> Option<String> {
    let grpc = attach::routes_of(snapshot, frontend, &key.namespace).grpc;
    resolve::grpc_applies(snapshot, &grpc).then(|| {
        let names: Vec<_> = grpc.iter().map(|(key, _)| format!("GRPCRoute {key}")).collect();
        names.join(", ")
    })
}

/// Ports whose declared protocol shows no requests.
fn opaque_ports(snapshot: &Snapshot, ports: &[Frontend<'_>]) -> Vec<String> {
    ports
        .iter()
        .filter_map(|frontend| {
            let protocol = traffic_policy::protocol(frontend, traffic_policy::of_port(snapshot, frontend).as_ref());
            let spoken = match protocol {
                Protocol::Opaque => "opaque bytes",
                Protocol::Tls => "the application's own TLS",
                Protocol::Detect | Protocol::Http | Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => return None,
            };
            let Frontend { key, number, .. } = frontend;
            Some(format!("port {number} of Service {key} is declared to speak {spoken}: the route has no effect there"))
        })
        .collect()
}

fn resolved_refs(subject: &Subject<'_>, converted: &Converted) -> Condition {
    match converted.problems.first() {
        None => subject.condition("ResolvedRefs", true, "ResolvedRefs", String::new()),
        Some(first) => {
            let mut messages: Vec<&str> = Vec::new();
            for problem in &converted.problems {
                if !messages.contains(&problem.message.as_str()) {
                    messages.push(&problem.message);
                }
            }
            subject.condition("ResolvedRefs", false, first.reason, messages.join("; "))
        }
    }
}

/// A route of a kind that is read and has no effect yet, said aloud.
fn unimplemented_route(snapshot: &Snapshot, subject: &Subject<'_>, parents: &[ParentReference]) -> ObjectStatus {
    let mut status = ObjectStatus::new(subject.kind, subject.key);
    for parent in parents {
        match attach::bind(snapshot, &subject.key.namespace, parent) {
            Binding::Foreign => continue,
            Binding::Missing(service) => {
                status.notes.push(format!("parent Service {service} does not exist: the route has no effect there"));
                continue;
            }
            Binding::Refused(_) | Binding::Bound(_) => {}
        }
        let verdict = Err(("UnsupportedValue", format!("{} is not implemented: connections go to the Service itself", subject.kind)));
        status.parents.push(ParentStatus {
            parent_ref: parent.clone(),
            controller_name: CONTROLLER_NAME.to_owned(),
            conditions: vec![subject.accepted(verdict)],
        });
    }
    status
}

fn traffic_policy_status(snapshot: &Snapshot, key: &ObjectKey, policy: &TrafficPolicy) -> ObjectStatus {
    let subject = Subject { kind: "TrafficPolicy", key, metadata: &policy.metadata };
    policy_status(&subject, &policy.spec.target_refs, |reference| {
        let target = target(snapshot, key, reference)?;
        Traffic::parse(key, &policy.spec).map_err(|message| ("Invalid", message))?;
        if policy.spec.mode == Mode::Shadow {
            return Ok("mode is Shadow: without effect".to_owned());
        }
        let target = Target { service: &target, section: reference.section_name.as_deref() };
        let rivals = traffic_policy::attached(snapshot, target).filter(|(key, policy)| Traffic::parse(key, &policy.spec).is_ok());
        oldest_or_conflicted(&subject, rivals.map(|(key, policy)| (key, &policy.metadata)))?;
        let without_effect = traffic_policy::without_effect(&policy.spec);
        Ok(if without_effect.is_empty() { String::new() } else { format!("without effect: {}", without_effect.join("; ")) })
    })
}

fn authentication_policy_status(snapshot: &Snapshot, key: &ObjectKey, policy: &AuthenticationPolicy) -> ObjectStatus {
    let subject = Subject { kind: "AuthenticationPolicy", key, metadata: &policy.metadata };
    policy_status(&subject, &policy.spec.target_refs, |reference| {
        let is_rival: Box<dyn Fn(&PolicyTargetRef) -> bool> = if reference.kind == "Namespace" {
            if !inbound::is_namespace(reference, &key.namespace) {
                return Err(("TargetNotFound", format!("a policy in namespace {} cannot be about another namespace", key.namespace)));
            }
            Box::new(|other| inbound::is_namespace(other, &key.namespace))
        } else {
            let service = target(snapshot, key, reference)?;
            let section = reference.section_name.clone();
            Box::new(move |other| Target { service: &service, section: section.as_deref() }.is(other))
        };
        let rivals = snapshot
            .authentication_policies
            .in_namespace(&key.namespace)
            .filter(|(_, other)| other.spec.mode == policy.spec.mode && other.spec.target_refs.iter().any(&is_rival))
            .map(|(key, policy)| (key, &policy.metadata));
        oldest_or_conflicted(&subject, rivals)?;
        Ok(match policy.spec.mode {
            Mode::Enforce => String::new(),
            Mode::Shadow => "mode is Shadow: what the policy would refuse is counted and not refused".to_owned(),
        })
    })
}

/// The Service that a policy's reference means.
fn target(snapshot: &Snapshot, policy: &ObjectKey, reference: &PolicyTargetRef) -> Result<ObjectKey, (&'static str, String)> {
    let PolicyTargetRef { group, kind, name, section_name } = reference;
    if !reference.is_service() {
        let group = if group.is_empty() { "core" } else { group };
        return Err(("Invalid", format!("{kind} ({group}) cannot be a target")));
    }
    let key = ObjectKey::new(&policy.namespace, name);
    let Some(service) = snapshot.services.get(&key) else {
        return Err(("TargetNotFound", format!("Service {key} does not exist")));
    };
    if service::kind(service) == ServiceKind::External {
        return Err(("Invalid", format!("Service {key} is of type ExternalName, which has no traffic of its own")));
    }
    match section_name {
        Some(name) if !service::ports(service).any(|(_, port)| port.name.as_ref() == Some(name)) => {
            Err(("TargetNotFound", format!("Service {key} has no TCP port named \"{name}\"")))
        }
        Some(_) | None => Ok(key),
    }
}

/// Fails when one of the policies with the same target is older (GEP-713).
fn oldest_or_conflicted<'a>(
    subject: &Subject<'_>,
    rivals: impl Iterator<Item = (&'a ObjectKey, &'a ObjectMeta)>,
) -> Result<(), (&'static str, String)> {
    match rivals.min_by_key(|(key, metadata)| attach::age(key, metadata)) {
        Some((winner, _)) if winner != subject.key => {
            Err(("Conflicted", format!("{} {winner} has the same target and is older, or first by name", subject.kind)))
        }
        Some(_) | None => Ok(()),
    }
}

fn policy_status(
    subject: &Subject<'_>,
    targets: &[PolicyTargetRef],
    verdict: impl Fn(&PolicyTargetRef) -> Result<String, (&'static str, String)>,
) -> ObjectStatus {
    let mut status = ObjectStatus::new(subject.kind, subject.key);
    for reference in targets.iter().take(ANCESTORS_MAX) {
        let PolicyTargetRef { group, kind, name, section_name } = reference.clone();
        status.ancestors.push(AncestorStatus {
            ancestor_ref: ParentReference { group, kind, namespace: None, name, section_name, port: None },
            controller_name: CONTROLLER_NAME.to_owned(),
            conditions: vec![subject.accepted(verdict(reference))],
        });
    }
    status
}

fn mesh_config_status(key: &ObjectKey, config: &MeshConfig) -> ObjectStatus {
    let subject = Subject { kind: "MeshConfig", key, metadata: &config.metadata };
    let mut status = ObjectStatus::new(subject.kind, key);
    let verdict = if *key.name != *resolve::MESH_CONFIG_NAME {
        Err(("Invalid", format!("only the MeshConfig named \"{}\" counts", resolve::MESH_CONFIG_NAME)))
    } else {
        match config.spec.trust_domain.parse::<TrustDomain>() {
            Ok(_) => Ok(String::new()),
            Err(e) => Err(("Invalid", format!("spec.trustDomain: {e}"))),
        }
    };
    status.conditions.push(subject.accepted(verdict));
    status
}
