//! One replica of a `LocalWorkload`: where it and its sidecar listen, and what each is told in its environment. Pure but for free ports.

use super::objects::reachable;
use super::ports::{NoFreePort, Ports};
use super::process::{ProcessId, Role, Start};
use heddle_crds::heddle::{ListenAddress, LocalWorkload};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// A place that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FixedPlace {
    /// The field that names it, such as `spec.upstreams[0].listen`.
    pub(crate) field: String,
    /// The place.
    pub(crate) address: SocketAddr,
}

/// A port of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReplicaPort {
    /// Its name.
    pub(crate) name: String,
    /// Its number, as Services and policies call it.
    pub(crate) port: u16,
    /// Where the application listens.
    pub(crate) application: SocketAddr,
    /// Where the sidecar accepts what is meant for it.
    pub(crate) listen: SocketAddr,
}

/// A Service that a replica calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReplicaUpstream {
    /// The Service: its name, and its namespace.
    pub(crate) service: String,
    /// The namespace of the Service.
    pub(crate) namespace: String,
    /// The Service's port.
    pub(crate) port: u16,
    /// Where the sidecar listens for it.
    pub(crate) listen: SocketAddr,
}

/// One replica, with all of its addresses.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Replica {
    /// Its namespace.
    pub(crate) namespace: String,
    /// The name of its workload.
    pub(crate) workload: String,
    /// The name of its Pod: the workload's, and a number from 0.
    pub(crate) pod: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its service account.
    pub(crate) service_account: String,
    /// Its ports.
    pub(crate) ports: Vec<ReplicaPort>,
    /// What it calls.
    pub(crate) upstreams: Vec<ReplicaUpstream>,
    /// Its sidecar's admin port.
    pub(crate) admin: SocketAddr,
    /// What goes back to the free ports when it is gone.
    allocated: Vec<u16>,
}

impl Replica {
    /// Chooses the addresses of replica number `index`.
    ///
    /// # Errors
    ///
    /// When there are no free ports.
    pub(crate) fn plan(workload: &LocalWorkload, index: u32, ports: &mut Ports) -> Result<Self, NoFreePort> {
        let spec = &workload.spec;
        let (namespace, name) = key(workload);
        let mut place = Placing { ports, allocated: Vec::new() };
        let mut replica_ports = Vec::new();
        for port in &spec.ports {
            let application = match spec.own_address() {
                Some(address) => SocketAddr::new(reachable(address), port.port),
                None => place.anywhere()?,
            };
            let listen = place.at(port.listen)?;
            replica_ports.push(ReplicaPort { name: port.name.clone(), port: port.port, application, listen });
        }
        let mut upstreams = Vec::new();
        for upstream in &spec.upstreams {
            let (service, of) = upstream.service_and_namespace(&namespace);
            let listen = place.at(upstream.listen)?;
            upstreams.push(ReplicaUpstream { service: service.to_owned(), namespace: of.to_owned(), port: upstream.port, listen });
        }
        let admin = place.at(spec.sidecar.as_ref().and_then(|sidecar| sidecar.admin))?;
        let Placing { allocated, .. } = place;
        Ok(Self {
            pod: format!("{name}-{index}"),
            workload: name,
            labels: workload.metadata.labels.clone().unwrap_or_default(),
            service_account: spec.service_account_name.clone(),
            ports: replica_ports,
            upstreams,
            admin,
            allocated,
            namespace,
        })
    }

    /// `namespace/pod`.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }

    /// Gives its ports back.
    pub(crate) fn give_back(&self, ports: &mut Ports) {
        for port in &self.allocated {
            ports.give_back(*port);
        }
    }

    /// How to start its application; `None` where somebody else runs it.
    pub(crate) fn application(&self, workload: &LocalWorkload, surroundings: &Surroundings) -> Option<Start> {
        let spec = &workload.spec;
        let env = self.environment(workload, surroundings);
        let mut words = spec.command.as_ref()?.iter().map(|word| expand(word, &env));
        Some(Start {
            id: ProcessId { role: Role::Application, pod: self.id() },
            program: words.next()?,
            args: words.collect(),
            directory: surroundings.directory.join(spec.working_dir.as_deref().unwrap_or_default()),
            env,
            log: surroundings.logs.join(format!("{}.{}.log", self.namespace, self.pod)),
            launcher: Some(surroundings.own.clone()),
        })
    }

    /// What its application is told. The workload's own variables win over ours.
    fn environment(&self, workload: &LocalWorkload, surroundings: &Surroundings) -> BTreeMap<String, String> {
        let spec = &workload.spec;
        let mut env = BTreeMap::from([("HOSTNAME".to_owned(), self.pod.clone()), ("PATH".to_owned(), surroundings.path.clone())]);
        // What the manifest promises first; what only helps never takes the place of that.
        for (port, planned) in spec.ports.iter().zip(&self.ports) {
            env.insert(spec.port_variable(port), planned.application.port().to_string());
        }
        for (upstream, planned) in spec.upstreams.iter().zip(&self.upstreams) {
            env.insert(upstream.variable(), called(planned.listen).to_string());
        }
        for port in &self.ports {
            let number = port.application.port().to_string();
            env.entry("PORT".to_owned()).or_insert_with(|| number.clone());
            env.entry(format!("PORT_{}", variable_part(&port.name))).or_insert(number);
        }
        for (upstream, planned) in spec.upstreams.iter().zip(&self.upstreams) {
            let address = called(planned.listen).to_string();
            let url = format!("http://{address}");
            if let Some(stem) = upstream.variable().strip_suffix("_ADDR") {
                env.entry(format!("{stem}_URL")).or_insert_with(|| url.clone());
            }
            let service = variable_part(&planned.service);
            env.entry(format!("{service}_ADDR")).or_insert(address);
            env.entry(format!("{service}_URL")).or_insert(url);
        }
        for variable in &spec.env {
            let value = expand(&variable.value, &env);
            env.insert(variable.name.clone(), value);
        }
        env
    }

    /// How to start its sidecar.
    pub(crate) fn sidecar(&self, token: &Path, surroundings: &Surroundings) -> Start {
        let inbound: Vec<_> = self.ports.iter().map(|p| format!("{}={}#{}", p.listen, p.application, p.port)).collect();
        let outbound: Vec<_> = self.upstreams.iter().map(|u| format!("{}={}.{}:{}", u.listen, u.service, u.namespace, u.port)).collect();
        let mut env: BTreeMap<String, String> = [
            ("HEDDLE_NAMESPACE", self.namespace.clone()),
            ("HEDDLE_WORKLOAD", self.pod.clone()),
            ("HEDDLE_SERVICE_ACCOUNT", self.service_account.clone()),
            ("HEDDLE_TRUST_DOMAIN", surroundings.trust_domain.clone()),
            ("HEDDLE_CONTROL_PLANE", surroundings.control_plane.to_string()),
            ("HEDDLE_TOKEN_FILE", token.display().to_string()),
            ("HEDDLE_TRUST_ROOTS_FILE", surroundings.trust_roots.display().to_string()),
            ("HEDDLE_ADMIN", self.admin.to_string()),
            ("HEDDLE_WORKERS", surroundings.workers.to_string()),
            ("HEDDLE_DRAIN_SECONDS", surroundings.drain_seconds.to_string()),
            // Changes of endpoints reach every sidecar of this machine within a second.
            ("HEDDLE_LAME_DUCK_SECONDS", "1".to_owned()),
            (crate::orphan::VARIABLE, "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        // Empty lists are no lists, also when the environment of `up` has others.
        env.insert("HEDDLE_INBOUND".to_owned(), inbound.join(","));
        env.insert("HEDDLE_OUTBOUND".to_owned(), outbound.join(","));
        let (program, args) = surroundings.sidecar_command.clone();
        Start {
            id: ProcessId { role: Role::Sidecar, pod: self.id() },
            launcher: surroundings.foreign_sidecar.then(|| surroundings.own.clone()),
            program,
            args,
            env,
            directory: surroundings.directory.clone(),
            log: surroundings.logs.join(format!("{}.{}.sidecar.log", self.namespace, self.pod)),
        }
    }
}

/// What is the same for all replicas of one `up`.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// This program.
    pub(crate) own: PathBuf,
    /// Where `up` was started.
    pub(crate) directory: PathBuf,
    /// Where logs go.
    pub(crate) logs: PathBuf,
    /// `PATH`, with the directory of this program first.
    pub(crate) path: String,
    /// The mesh's trust domain.
    pub(crate) trust_domain: String,
    /// Where the control plane listens.
    pub(crate) control_plane: SocketAddr,
    /// The control plane's admin port.
    pub(crate) control_plane_admin: SocketAddr,
    /// The root certificate that sidecars begin with.
    pub(crate) trust_roots: PathBuf,
    /// Worker threads of a sidecar.
    pub(crate) workers: usize,
    /// How long a sidecar waits for its connections to end.
    pub(crate) drain_seconds: u64,
    /// What starts a sidecar: a program and its arguments.
    pub(crate) sidecar_command: (String, Vec<String>),
    /// That program is none of ours.
    pub(crate) foreign_sidecar: bool,
}

/// Chooses places, and remembers what was chosen.
struct Placing<'a> {
    ports: &'a mut Ports,
    allocated: Vec<u16>,
}

impl Placing<'_> {
    /// A free port of loopback.
    fn anywhere(&mut self) -> Result<SocketAddr, NoFreePort> {
        let port = self.ports.free()?;
        self.allocated.push(port);
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Where the manifest says, or anywhere.
    fn at(&mut self, wanted: Option<ListenAddress>) -> Result<SocketAddr, NoFreePort> {
        wanted.map_or_else(|| self.anywhere(), |wanted| Ok(wanted.get()))
    }
}

/// Namespace and name of a workload; an object without a namespace is in `default`.
pub(crate) fn key(workload: &LocalWorkload) -> (String, String) {
    let metadata = &workload.metadata;
    (metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()), metadata.name.clone().unwrap_or_default())
}

/// Every place that a manifest names, and that must be free before the workload starts. Where somebody else runs the process, its own
/// ports are not among them: it is meant to be there already.
pub(crate) fn fixed_places(workload: &LocalWorkload) -> Vec<FixedPlace> {
    let spec = &workload.spec;
    let mut places = Vec::new();
    let mut add = |field: String, listen: Option<SocketAddr>| places.extend(listen.map(|address| FixedPlace { field, address }));
    for (number, port) in spec.ports.iter().enumerate() {
        let own = spec.own_address().filter(|_| spec.command.is_some());
        add(format!("spec.ports[{number}].port"), own.map(|address| SocketAddr::new(address, port.port)));
        add(format!("spec.ports[{number}].listen"), port.listen.map(ListenAddress::get));
    }
    for (number, upstream) in spec.upstreams.iter().enumerate() {
        add(format!("spec.upstreams[{number}].listen"), upstream.listen.map(ListenAddress::get));
    }
    add("spec.sidecar.admin".to_owned(), spec.sidecar.as_ref().and_then(|sidecar| sidecar.admin).map(ListenAddress::get));
    places
}

/// The ports that a process of somebody else has, or will have: not to be given to another one.
pub(crate) fn foreign_ports(workload: &LocalWorkload) -> impl Iterator<Item = u16> {
    let foreign = workload.spec.command.is_none();
    workload.spec.ports.iter().map(|port| port.port).filter(move |_| foreign)
}

/// The address by which a listener is called.
pub(crate) fn called(listen: SocketAddr) -> SocketAddr {
    SocketAddr::new(reachable(listen.ip()), listen.port())
}

/// Replaces `$(NAME)` by the variable's value; `$$` stands for `$`, and a name that is not known stays as it is, as in a Pod
/// (Kubernetes, "Define Dependent Environment Variables").
fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = from.strip_prefix("$$") {
            out.push('$');
            rest = after;
            continue;
        }
        let known = from.strip_prefix("$(").and_then(|inner| {
            let (name, after) = inner.split_once(')')?;
            Some((env.get(name)?, after))
        });
        match known {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push('$');
                rest = from.strip_prefix('$').unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

/// A name as a part of a variable: capital letters and digits, and `_` for the rest.
fn variable_part(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn workload(spec: Value) -> LocalWorkload {
        let labels = json!({"app": "reviews", "version": "v1"});
        let object = json!({
            "apiVersion": "heddle.dev/v1alpha1", "kind": "LocalWorkload",
            "metadata": {"name": "reviews-v1", "namespace": "default", "labels": labels}, "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    }

    pub(crate) fn replica() -> Replica {
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let port = |name: &str, port, application, listen| ReplicaPort {
            name: name.to_owned(),
            port,
            application: address(application),
            listen: address(listen),
        };
        Replica {
            namespace: "default".to_owned(),
            workload: "reviews-v1".to_owned(),
            pod: "reviews-v1-0".to_owned(),
            labels: BTreeMap::from([("app".to_owned(), "reviews".to_owned()), ("version".to_owned(), "v1".to_owned())]),
            service_account: "reviews".to_owned(),
            ports: vec![port("http", 8080, 20_000, 20_001), port("admin", 9090, 20_002, 20_003)],
            upstreams: vec![ReplicaUpstream {
                service: "my-ratings".to_owned(),
                namespace: "shop".to_owned(),
                port: 80,
                listen: address(20_004),
            }],
            admin: address(20_005),
            allocated: Vec::new(),
        }
    }

    fn surroundings() -> Surroundings {
        Surroundings {
            own: PathBuf::from("/opt/heddle/heddle"),
            directory: PathBuf::from("/work"),
            logs: PathBuf::from("/state/logs"),
            path: "/opt/heddle:/usr/bin".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            control_plane: SocketAddr::from((Ipv4Addr::LOCALHOST, 20_010)),
            control_plane_admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 20_011)),
            trust_roots: PathBuf::from("/state/ca/root.pem"),
            workers: 1,
            drain_seconds: 4,
            sidecar_command: ("/opt/heddle/heddle".to_owned(), vec!["sidecar".to_owned()]),
            foreign_sidecar: false,
        }
    }

    fn ports() -> Ports {
        Ports::new(&mut fastrand::Rng::with_seed(1))
    }

    #[test]
    fn an_application_is_told_where_it_is_and_whom_it_calls() {
        let workload = workload(json!({
            "command": ["serve", "--port=$(PORT_HTTP)", "$$(PORT)", "$(UNKNOWN)"],
            "workingDir": "shop",
            "ports": [{"name": "http", "port": 8080}, {"name": "admin", "port": 9090}],
            "upstreams": [{"service": "my-ratings.shop", "port": 80}],
            "env": [{"name": "GREETING", "value": "at $(MY_RATINGS_ADDR)"}, {"name": "PATH", "value": "/bin"}],
        }));
        let start = replica().application(&workload, &surroundings()).unwrap();
        assert_eq!(start.program, "serve");
        assert_eq!(start.args, ["--port=20000", "$(PORT)", "$(UNKNOWN)"]);
        assert_eq!(start.directory, Path::new("/work/shop"));
        let expected = [
            ("PORT", "20000"),
            ("PORT_HTTP", "20000"),
            ("PORT_ADMIN", "20002"),
            ("MY_RATINGS_ADDR", "127.0.0.1:20004"),
            ("MY_RATINGS_URL", "http://127.0.0.1:20004"),
            ("HOSTNAME", "reviews-v1-0"),
            ("GREETING", "at 127.0.0.1:20004"),
            ("PATH", "/bin"),
        ];
        for (name, value) in expected {
            assert_eq!(start.env[name], value, "{name}");
        }
    }

    #[test]
    fn variables_of_the_manifest_have_their_own_names() {
        let workload = workload(json!({
            "command": ["serve"],
            "ports": [{"name": "http", "port": 8080, "env": "LISTEN"}, {"name": "admin", "port": 9090}],
            "upstreams": [{"service": "my-ratings.shop", "port": 80, "env": "STARS_ADDR"}],
        }));
        let env = replica().environment(&workload, &surroundings());
        for (name, value) in [("LISTEN", "20000"), ("STARS_ADDR", "127.0.0.1:20004"), ("STARS_URL", "http://127.0.0.1:20004")] {
            assert_eq!(env[name], value, "{name}");
        }
        assert_eq!(env["PATH"], "/opt/heddle:/usr/bin");
    }

    #[test]
    fn a_sidecar_is_told_its_listeners() {
        let start = replica().sidecar(Path::new("/state/tokens/t"), &surroundings());
        assert_eq!((start.program.as_str(), start.args.as_slice()), ("/opt/heddle/heddle", &["sidecar".to_owned()][..]));
        let expected = [
            ("HEDDLE_INBOUND", "127.0.0.1:20001=127.0.0.1:20000#8080,127.0.0.1:20003=127.0.0.1:20002#9090"),
            ("HEDDLE_OUTBOUND", "127.0.0.1:20004=my-ratings.shop:80"),
            ("HEDDLE_WORKLOAD", "reviews-v1-0"),
            ("HEDDLE_CONTROL_PLANE", "127.0.0.1:20010"),
            ("HEDDLE_TOKEN_FILE", "/state/tokens/t"),
            ("HEDDLE_WORKERS", "1"),
        ];
        for (name, value) in expected {
            assert_eq!(start.env[name], value, "{name}");
        }
    }

    #[test]
    fn every_place_of_a_replica_is_its_own() {
        let workload = workload(json!({
            "command": ["serve"], "replicas": 2,
            "ports": [{"name": "http", "port": 8080}], "upstreams": [{"service": "ratings", "port": 80}],
        }));
        let mut ports = ports();
        let (first, second) = (Replica::plan(&workload, 0, &mut ports).unwrap(), Replica::plan(&workload, 1, &mut ports).unwrap());
        assert_eq!((first.pod.as_str(), second.pod.as_str()), ("reviews-v1-0", "reviews-v1-1"));
        let all: std::collections::BTreeSet<_> = first.allocated.iter().chain(&second.allocated).collect();
        assert_eq!(all.len(), 8);
        assert!(fixed_places(&workload).is_empty());
        assert_eq!(first.upstreams[0].namespace, "default");
    }

    #[test]
    fn a_process_of_somebody_else_stays_where_it_is() {
        let workload = workload(json!({
            "ports": [{"name": "http", "port": 8080, "listen": "127.0.0.1:18080"}],
            "upstreams": [{"service": "ratings", "port": 80, "listen": "0.0.0.0:9001"}],
            "sidecar": {"admin": "127.0.0.1:15000"},
        }));
        assert_eq!(foreign_ports(&workload).collect::<Vec<_>>(), [8080]);
        let replica = Replica::plan(&workload, 0, &mut ports()).unwrap();
        assert_eq!(replica.ports[0].application.to_string(), "127.0.0.1:8080");
        assert_eq!(replica.ports[0].listen.to_string(), "127.0.0.1:18080");
        assert_eq!(replica.upstreams[0].listen.to_string(), "0.0.0.0:9001");
        assert_eq!(called(replica.upstreams[0].listen).to_string(), "127.0.0.1:9001");
        assert_eq!(replica.admin.to_string(), "127.0.0.1:15000");
        let fields: Vec<_> = fixed_places(&workload).into_iter().map(|place| place.field).collect();
        assert_eq!(fields, ["spec.ports[0].listen", "spec.upstreams[0].listen", "spec.sidecar.admin"]);
        assert_eq!(replica.application(&workload, &surroundings()), None);
    }

    #[test]
    fn a_server_that_cannot_be_told_a_port_needs_it_free() {
        let workload = workload(json!({"command": ["serve"], "address": "127.0.0.1", "ports": [{"name": "http", "port": 8080}]}));
        let places = fixed_places(&workload);
        assert_eq!(places.len(), 1);
        assert_eq!((places[0].field.as_str(), places[0].address.to_string().as_str()), ("spec.ports[0].port", "127.0.0.1:8080"));
        assert_eq!(foreign_ports(&workload).count(), 0);
    }
}
