//! Writes the `status` of routes, policies and the MeshConfig while this replica leads.
//!
//! Each object is read before it is written, and written with the `resourceVersion` that was read: entries of other controllers are never
//! lost. What was written is remembered, so that an object costs nothing until something is to be said that is new.

use super::replicas::Replicas;
use super::{Leadership, WRITE_TIMEOUT};
use crate::cluster::{self, ApiError, Patience, bounded};
use crate::events::{Event, Recorder, Regarding, timestamp};
use crate::metrics::Metrics;
use crate::serve::force::{Count, ObjectName};
use crate::serve::{Sidecars, View};
use crate::snapshot::ObjectKey;
use crate::status::{ObjectStatus, write};
use crate::watch::Severity;
use heddle_crds::{gateway, heddle};
use heddle_identity::unix_now;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::discovery::ApiResource;
use kube::{Api, Client};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Shortest time between two looks at what is to be said: an edit and its acknowledgements are one write or two, and not one for each
/// sidecar.
const GATHER: Duration = Duration::from_millis(500);

/// How often the other replicas are asked.
const LOOK: Duration = Duration::from_secs(2);

/// How long an object is left alone after a write where only the number of sidecars has changed.
const COUNTS_GAP: Duration = Duration::from_secs(5);

/// How often everything is compared anew: somebody may have changed a status of ours.
const COMPARE_ALL: Duration = Duration::from_secs(600);

/// Shortest time between two objects: 50 a second, each with a read and a write.
const GAP: Duration = Duration::from_millis(20);

/// What the writer needs to know.
#[derive(Debug)]
pub struct Sources {
    /// The latest view.
    pub views: watch::Receiver<Arc<View>>,
    /// This replica's sidecars.
    pub sidecars: Arc<Sidecars>,
    /// The other replicas.
    pub replicas: Replicas,
    /// Where refusals are told.
    pub events: Recorder,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Writes while this replica leads, until cancelled.
pub async fn keep(client: Client, mut leadership: Leadership, sources: Sources) {
    let mut changes = sources.sidecars.changes();
    let mut views = sources.views.clone();
    let mut patience = Patience::new("statuses written");
    loop {
        leadership.gained().await;
        let mut writer = Writer::new(client.clone(), leadership.clone(), &sources);
        while leadership.leads() {
            let began = Instant::now();
            views.mark_unchanged();
            changes.mark_unchanged();
            match writer.turn().await {
                Ok(()) => patience.succeeded(),
                Err(error) => {
                    sources.metrics.status_written(false);
                    tokio::time::sleep(patience.failed(&error)).await;
                }
            }
            tokio::time::sleep_until(began + GATHER).await;
            tokio::select! {
                // Nothing is lost with the losers: everything is looked at in the next turn.
                Ok(()) = views.changed() => {}
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep_until(began + LOOK) => {}
            }
        }
    }
}

/// What is to be said of one object.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    status: ObjectStatus,
    count: Option<Count>,
}

/// The state of one term of leadership.
struct Writer<'a> {
    client: Client,
    leadership: Leadership,
    sources: &'a Sources,
    kinds: Kinds,
    written: HashMap<ObjectName, (Wanted, Instant)>,
    told: HashSet<String>,
    compared: Instant,
}

impl<'a> Writer<'a> {
    fn new(client: Client, leadership: Leadership, sources: &'a Sources) -> Self {
        let kinds = Kinds { client: client.clone(), known: HashMap::new() };
        Self { client, leadership, sources, kinds, written: HashMap::new(), told: HashSet::new(), compared: Instant::now() }
    }

    async fn turn(&mut self) -> Result<(), ApiError> {
        let now = Instant::now();
        if now.duration_since(self.compared) >= COMPARE_ALL {
            self.written.clear();
            self.compared = now;
        }
        let view = self.sources.views.borrow().clone();
        self.tell_problems(&view);
        let own = self.sources.sidecars.counts(&view);
        let others = self.sources.replicas.counts(&view).await;
        let wanted = wanted(&view, &own.with(&others));
        self.written.retain(|name, _| wanted.contains_key(name));
        for (name, wanted) in wanted {
            if !self.is_due(&name, &wanted) {
                continue;
            }
            if !self.leadership.leads() {
                return Ok(());
            }
            if self.write(&name, &wanted).await? {
                self.written.insert(name, (wanted, Instant::now()));
            }
            tokio::time::sleep(GAP).await;
        }
        Ok(())
    }

    fn is_due(&self, name: &ObjectName, wanted: &Wanted) -> bool {
        match self.written.get(name) {
            None => true,
            Some((written, _)) if written == wanted => false,
            // The step to "everywhere" is told at once; how many it is in between can wait.
            Some((written, at)) => {
                let is_everywhere = wanted.count.is_some_and(|count| count.in_force == count.sidecars);
                written.status != wanted.status || is_everywhere || at.elapsed() >= COUNTS_GAP
            }
        }
    }

    /// Brings one status up to date. Returns whether it is now; not so where somebody else has just changed the object.
    async fn write(&mut self, name: &ObjectName, wanted: &Wanted) -> Result<bool, ApiError> {
        let Some(kind) = self.kinds.find(&name.kind).await? else {
            return Ok(true);
        };
        let api: Api<DynamicObject> = if name.namespace.is_empty() {
            Api::all_with(self.client.clone(), &kind)
        } else {
            Api::namespaced_with(self.client.clone(), &name.namespace, &kind)
        };
        let object = match bounded(WRITE_TIMEOUT, api.get(&name.name)).await {
            Err(error) if error.is_not_found() => {
                // Gone; or its definition is, or has another version now.
                self.kinds.forget(&name.kind);
                return Ok(true);
            }
            object => object?,
        };
        let existing = object.data.get("status").unwrap_or(&Value::Null);
        let now = timestamp(unix_now()).to_string();
        let Some(write::Next { status, refused }) = write::next(existing, &wanted.status, wanted.count, &now) else {
            return Ok(true);
        };
        if !self.leadership.leads() {
            return Ok(false);
        }
        let patch = json!({"metadata": {"resourceVersion": object.metadata.resource_version}, "status": status});
        let params = PatchParams { field_manager: Some(cluster::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        match bounded(WRITE_TIMEOUT, api.patch_status(&name.name, &params, &Patch::Merge(&patch))).await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => return Ok(false),
            Err(error) if error.is_not_found() => return Ok(true),
            Err(error) => return Err(error),
        }
        self.sources.metrics.status_written(true);
        for (reason, message) in refused {
            let regarding = Regarding {
                api_version: kind.api_version.clone(),
                kind: name.kind.clone(),
                namespace: name.namespace.clone(),
                name: name.name.clone(),
                uid: object.metadata.uid.clone(),
            };
            self.sources.events.record(Event::warning(regarding, reason, message));
        }
        Ok(true)
    }

    /// Objects that cannot be read have no status that could be written truthfully: an Event says it.
    fn tell_problems(&mut self, view: &View) {
        let problems: Vec<_> = view.report().problems.iter().filter(|problem| problem.level == Severity::Error).collect();
        self.told.retain(|told| problems.iter().any(|problem| problem.text == *told));
        for problem in problems {
            let Some(regarding) = problem.object.as_deref().and_then(named) else { continue };
            if self.told.insert(problem.text.clone()) {
                self.sources.events.record(Event::warning(regarding, "NotInForce", problem.text.clone()));
            }
        }
    }
}

/// `HTTPRoute/shop/canary` or `MeshConfig/default`, of the kinds whose status we write.
fn named(object: &str) -> Option<Regarding> {
    let (kind, rest) = object.split_once('/')?;
    let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
    let api_version = match group_and_plural(kind)? {
        (gateway::GROUP, _) => format!("{}/v1", gateway::GROUP),
        (group, _) => format!("{group}/{}", heddle::VERSION),
    };
    Some(Regarding { api_version, kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned(), uid: None })
}

/// Everything that has a status of ours, or may have an old one.
fn wanted(view: &View, counts: &BTreeMap<ObjectName, Count>) -> BTreeMap<ObjectName, Wanted> {
    let snapshot = view.snapshot();
    let silent =
        |kind: &'static str, key: &ObjectKey| (ObjectName::new(kind, key), Wanted { status: ObjectStatus::new(kind, key), count: None });
    let http = snapshot.http_routes.iter().map(|(key, _)| silent("HTTPRoute", key));
    let grpc = snapshot.grpc_routes.iter().map(|(key, _)| silent("GRPCRoute", key));
    let tcp = snapshot.tcp_routes.iter().map(|(key, _)| silent("TCPRoute", key));
    let tls = snapshot.tls_routes.iter().map(|(key, _)| silent("TLSRoute", key));
    let mut wanted: BTreeMap<_, _> = http.chain(grpc).chain(tcp).chain(tls).collect();
    for status in view.statuses() {
        let name = ObjectName { kind: status.kind.clone(), namespace: status.namespace.clone(), name: status.name.clone() };
        let count = counts.get(&name).copied();
        // Notes have no place in a status of the Gateway API, and change nothing in it.
        let status = ObjectStatus { notes: Vec::new(), ..status.clone() };
        wanted.insert(name, Wanted { status, count });
    }
    wanted
}

/// Where the kinds are in the API. The Gateway API's versions are looked up: clusters have old and new ones.
struct Kinds {
    client: Client,
    known: HashMap<&'static str, ApiResource>,
}

/// Versions of the Gateway API in which routes are served, the latest first.
const GATEWAY_VERSIONS: [&str; 4] = ["v1", "v1beta1", "v1alpha3", "v1alpha2"];

/// Group and plural of the kinds whose status we write.
fn group_and_plural(kind: &str) -> Option<(&'static str, &'static str)> {
    Some(match kind {
        "HTTPRoute" => (gateway::GROUP, "httproutes"),
        "GRPCRoute" => (gateway::GROUP, "grpcroutes"),
        "TCPRoute" => (gateway::GROUP, "tcproutes"),
        "TLSRoute" => (gateway::GROUP, "tlsroutes"),
        "TrafficPolicy" => (heddle::GROUP, "trafficpolicies"),
        "AuthenticationPolicy" => (heddle::GROUP, "authenticationpolicies"),
        "MeshConfig" => (heddle::GROUP, "meshconfigs"),
        _ => return None,
    })
}

impl Kinds {
    fn forget(&mut self, kind: &str) {
        if let Some((_, plural)) = group_and_plural(kind) {
            self.known.remove(plural);
        }
    }

    /// `None`: the API server does not serve the kind.
    async fn find(&mut self, kind: &str) -> Result<Option<ApiResource>, ApiError> {
        let Some((group, plural)) = group_and_plural(kind) else {
            return Ok(None);
        };
        if let Some(known) = self.known.get(plural) {
            return Ok(Some(known.clone()));
        }
        let versions: &[&str] = if group == heddle::GROUP { &[heddle::VERSION] } else { &GATEWAY_VERSIONS };
        for version in versions {
            let api_version = format!("{group}/{version}");
            let resources = match bounded(cluster::REQUEST_TIMEOUT, self.client.list_api_group_resources(&api_version)).await {
                Err(error) if error.is_not_found() => continue,
                resources => resources?,
            };
            if resources.resources.iter().any(|resource| resource.name == plural) {
                let gvk = kube::core::GroupVersionKind::gvk(group, version, kind);
                let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
                self.known.insert(plural, resource.clone());
                return Ok(Some(resource));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
#[path = "status/tests.rs"]
mod tests;
