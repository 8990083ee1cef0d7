//! LocalWorkload: a process of `heddle up`, in place of a Pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    format,
    mistake::{Mistake, Mistakes},
};

/// A workload on this machine: `replicas` processes with the same labels, each with a sidecar of its own.
///
/// Its labels (`metadata.labels`) are what selectors of Services look at, exactly as those of a Pod.
///
/// - With `command`, `heddle up` starts the processes. Each one is told in environment variables where to listen
///   (`ports[].env`) and where its upstreams are (`upstreams[].env`); `$(NAME)` in `command` and `env` stands for such a
///   variable, as in a Pod, so a program that takes its port as an argument needs no change.
/// - Without `command`, the process is one that somebody else runs: it listens on `address` at the number of each port,
///   and calls its upstreams at the addresses that `upstreams[].listen` says.
/// - A workload with only `upstreams` is a client: a load generator, or a test suite.
///
/// For local mode only; a cluster has Pods.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "heddle.dev",
    version = "v1alpha1",
    kind = "LocalWorkload",
    plural = "localworkloads",
    namespaced,
    derive = "PartialEq",
    schema = "disabled",
    doc = "A workload of local mode: processes with the same labels, each with a sidecar of its own."
)]
#[serde(rename_all = "camelCase")]
pub struct LocalWorkloadSpec {
    /// The service account, which is the workload's identity; `default` by default.
    #[serde(default = "default_account")]
    #[schemars(schema_with = "format::label")]
    pub service_account_name: String,
    /// Number of processes; 1 by default.
    #[serde(default = "one")]
    #[schemars(range(max = 100))]
    pub replicas: u32,
    /// Program and arguments. Unset: somebody else runs the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub command: Option<Vec<String>>,
    /// Directory in which the command is started; unset is the one in which `heddle up` was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub working_dir: Option<String>,
    /// Environment variables, besides those that `heddle up` itself got.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub env: Vec<EnvVar>,
    /// The address on which the process listens by itself, at the number of each port. Set it when the process cannot
    /// be told a port. Without a command, 127.0.0.1 by default; with one, unset means that the process is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "ip_address")]
    pub address: Option<IpAddr>,
    /// Ports that Services may point at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub ports: Vec<WorkloadPort>,
    /// Services that the process calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub upstreams: Vec<Upstream>,
    /// About the sidecars themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<LocalSidecar>,
}

impl LocalWorkloadSpec {
    /// Where the process listens by itself: nothing when it is started by `heddle up` and told its ports.
    #[must_use]
    pub fn own_address(&self) -> Option<IpAddr> {
        match (self.address, &self.command) {
            (Some(address), _) => Some(address),
            (None, None) => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            (None, Some(_)) => None,
        }
    }

    /// The variable in which the process is told the number of `port`: its `env`, or `PORT` when there is only one
    /// port, or else `PORT_` and its name.
    #[must_use]
    pub fn port_variable(&self, port: &WorkloadPort) -> String {
        match &port.env {
            Some(env) => env.clone(),
            None if self.ports.len() == 1 => "PORT".to_owned(),
            None => format!("PORT_{}", variable_part(&port.name)),
        }
    }
}

/// An environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EnvVar {
    /// Name.
    #[schemars(schema_with = "format::variable")]
    pub name: String,
    /// Value.
    #[serde(default)]
    #[schemars(length(max = 131_072))]
    pub value: String,
}

/// A port of the workload, like a container's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadPort {
    /// Name, which a Service's `targetPort` may use. Its prefix declares the protocol (`http-`, `grpc-`, …), as a
    /// Service port's does.
    #[schemars(schema_with = "format::label")]
    pub name: String,
    /// Number, which a Service's `targetPort` may use. A process that is told its port listens on another one.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// What the port speaks, as on a Service; the Service's own word wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub app_protocol: Option<String>,
    /// The variable in which the process is told the number of its port; `PORT` by default, or `PORT_` and the name
    /// when there are several ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::variable")]
    pub env: Option<String>,
    /// Where the sidecar accepts connections for this port; a free port of 127.0.0.1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<ListenAddress>,
}

/// A Service that the workload calls, through a listener of its sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// The Service: `reviews` in the workload's own namespace, or `reviews.shop` in another one.
    #[schemars(schema_with = "service_name")]
    pub service: String,
    /// Number of the Service's port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Where the sidecar listens for it; a free port of 127.0.0.1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<ListenAddress>,
    /// The variable in which the process is told that address, as `host:port`; by default the Service's name in capital
    /// letters and `_ADDR` (`REVIEWS_ADDR`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::variable")]
    pub env: Option<String>,
}

impl Upstream {
    /// Name and namespace of the Service; `namespace` is the workload's own.
    #[must_use]
    pub fn service_and_namespace<'a>(&'a self, namespace: &'a str) -> (&'a str, &'a str) {
        self.service.split_once('.').unwrap_or((&self.service, namespace))
    }

    /// The variable in which the process is told where this upstream is.
    #[must_use]
    pub fn variable(&self) -> String {
        self.env.clone().unwrap_or_else(|| format!("{}_ADDR", variable_part(self.service_and_namespace("").0)))
    }
}

/// About the sidecars of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalSidecar {
    /// Where the sidecar's admin port is; a free port of 127.0.0.1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<ListenAddress>,
}

/// An address to listen on: an IP address and a port above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenAddress(SocketAddr);

impl ListenAddress {
    /// The address as the standard library has it.
    #[must_use]
    pub const fn get(self) -> SocketAddr {
        self.0
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(Self(address)),
            Ok(_) | Err(_) => {
                Err(de::Error::custom(format_args!("expected an IP address and a port such as 127.0.0.1:9001, found {text:?}")))
            }
        }
    }
}

impl JsonSchema for ListenAddress {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ListenAddress".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

fn ip_address(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string" })
}

fn service_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "title": "the name of a Service, with or without a '.' and its namespace",
        "minLength": 1,
        "maxLength": 127,
        "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)?$",
    })
}

fn default_account() -> String {
    "default".to_owned()
}

const fn one() -> u32 {
    1
}

/// `name` as it stands in a variable: capital letters, and `_` for everything that is neither letter nor digit.
fn variable_part(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// The rules that the schema cannot say.
pub(crate) fn local_workload(spec: &LocalWorkloadSpec) -> Vec<Mistake> {
    let mut mistakes = Mistakes::default();
    if spec.command.as_ref().is_some_and(|command| command.first().is_some_and(String::is_empty)) {
        mistakes.add("spec.command[0]", "the program's name is empty".to_owned());
    }
    if spec.command.is_none() && spec.ports.is_empty() && spec.upstreams.is_empty() {
        mistakes.add("spec", "a workload needs a command, ports or upstreams".to_owned());
    }
    if spec.replicas > 1 {
        one_place_for_several_replicas(spec, &mut mistakes);
    }
    unique_ports(spec, &mut mistakes);
    unique_variables(spec, &mut mistakes);
    unique_listeners(spec, &mut mistakes);
    mistakes.into_vec()
}

/// Fixed places cannot be shared by several replicas.
fn one_place_for_several_replicas(spec: &LocalWorkloadSpec, mistakes: &mut Mistakes) {
    let replicas = spec.replicas;
    let mut fixed = |path: String| {
        mistakes.add(path, format!("{replicas} replicas cannot share one address: leave it out, or set replicas to 1"));
    };
    if spec.address.is_some() {
        fixed("spec.address".to_owned());
    }
    for (index, port) in spec.ports.iter().enumerate() {
        if port.listen.is_some() {
            fixed(format!("spec.ports[{index}].listen"));
        }
    }
    for (index, upstream) in spec.upstreams.iter().enumerate() {
        if upstream.listen.is_some() {
            fixed(format!("spec.upstreams[{index}].listen"));
        }
    }
    if spec.sidecar.as_ref().is_some_and(|sidecar| sidecar.admin.is_some()) {
        fixed("spec.sidecar.admin".to_owned());
    }
    if spec.command.is_none() {
        mistakes.add("spec.replicas", "must be 0 or 1 without a command: the process is one that somebody else runs".to_owned());
    }
}

fn unique_ports(spec: &LocalWorkloadSpec, mistakes: &mut Mistakes) {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in spec.ports.iter().enumerate() {
        if !names.insert(&port.name) {
            mistakes.add(format!("spec.ports[{index}].name"), format!("{:?} is the name of another port too", port.name));
        }
        if !numbers.insert(port.port) {
            mistakes.add(format!("spec.ports[{index}].port"), format!("{} is the number of another port too", port.port));
        }
    }
}

/// No environment variable may have two values.
fn unique_variables(spec: &LocalWorkloadSpec, mistakes: &mut Mistakes) {
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    let mut claim = |variable: String, path: String, way_out: &str| {
        if let Some(owner) = owners.get(&variable) {
            mistakes.add(path, format!("the variable {variable} is already that of {owner}{way_out}"));
        } else {
            owners.insert(variable, path);
        }
    };
    for (index, variable) in spec.env.iter().enumerate() {
        claim(variable.name.clone(), format!("spec.env[{index}]"), "");
    }
    if spec.command.is_none() {
        return; // nobody is told anything
    }
    if spec.own_address().is_none() {
        for (index, port) in spec.ports.iter().enumerate() {
            claim(spec.port_variable(port), format!("spec.ports[{index}]"), ": give this port another env");
        }
    }
    for (index, upstream) in spec.upstreams.iter().enumerate() {
        claim(upstream.variable(), format!("spec.upstreams[{index}]"), ": give this upstream another env");
    }
}

/// No address may be listened on twice.
fn unique_listeners(spec: &LocalWorkloadSpec, mistakes: &mut Mistakes) {
    let ports = spec.ports.iter().enumerate().map(|(index, port)| (format!("spec.ports[{index}].listen"), port.listen));
    let upstreams = spec.upstreams.iter().enumerate().map(|(index, upstream)| (format!("spec.upstreams[{index}].listen"), upstream.listen));
    let admin = spec.sidecar.iter().map(|sidecar| ("spec.sidecar.admin".to_owned(), sidecar.admin));
    let mut owners: BTreeMap<ListenAddress, String> = BTreeMap::new();
    for (path, listen) in ports.chain(upstreams).chain(admin) {
        let Some(listen) = listen else { continue };
        if let Some(owner) = owners.get(&listen) {
            mistakes.add(path, format!("{listen} is already that of {owner}"));
        } else {
            owners.insert(listen, path);
        }
    }
}
