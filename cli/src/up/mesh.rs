//! The processes of one mesh: brings what runs to what is wanted, and keeps the objects of the replicas true.

use super::event::Event;
use super::manifests::Desired;
use super::objects::{Condition, file_name, manifest};
use super::plan::{FixedPlace, Replica, Surroundings, called, fixed_places, foreign_ports};
use super::ports::{Ports, bindable, holder};
use super::probe::{self, Health, Places};
use super::process::{Handle, ProcessId, Role, Start, Wish, keep};
use super::state::{StateDirectory, StateError, write_private};
use heddle_crds::core::Service;
use heddle_crds::heddle::LocalWorkload;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

/// How long a replica that goes is kept while others learn of it: the control plane has an edit in force within a second.
const LAME_DUCK: Duration = Duration::from_secs(1);

/// How a process of ours is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Life {
    /// Not started yet.
    #[default]
    Coming,
    /// Runs under this number.
    Running(u32),
    /// Ended by itself, or could not be started, and will be started again: in these words.
    Down(String),
}

/// A process that is kept running.
#[derive(Debug)]
pub(crate) struct Kept {
    handle: Handle,
    /// How it is.
    pub(crate) life: Life,
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// Its last end was a failure.
    pub(crate) failed: bool,
}

/// A replica and its processes.
#[derive(Debug)]
pub(crate) struct Running {
    workload: LocalWorkload,
    /// Its addresses.
    pub(crate) replica: Replica,
    /// Its sidecar.
    pub(crate) sidecar: Kept,
    /// Its application; `None` where somebody else runs it.
    pub(crate) application: Option<Kept>,
    /// What was found when it was looked at last.
    pub(crate) health: Option<Health>,
    lives: watch::Sender<u64>,
    probe: AbortHandle,
    /// What its file says now.
    written: String,
    retiring: bool,
}

impl Running {
    /// The current life of its processes.
    pub(crate) fn life(&self) -> u64 {
        *self.lives.borrow()
    }

    /// Whether it can be used.
    pub(crate) fn is_ready(&self) -> bool {
        // One without ports has nobody to look at: it is ready when it runs.
        let runs = self.application.as_ref().is_none_or(|application| matches!(application.life, Life::Running(_)));
        runs && self.health == Some(Health::Ready) && !self.retiring
    }

    /// Whether others can call it: it has ports.
    fn is_server(&self) -> bool {
        !self.replica.ports.is_empty()
    }

    fn condition(&self) -> Condition {
        match (self.retiring, self.is_ready()) {
            (true, _) => Condition::Terminating,
            (false, true) => Condition::Ready,
            (false, false) => Condition::NotReady,
        }
    }
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Mesh {
    /// What is the same for all.
    pub(crate) surroundings: Surroundings,
    /// Where files are.
    pub(crate) state: StateDirectory,
    ports: Ports,
    /// The replicas, by `namespace/pod`.
    pub(crate) replicas: BTreeMap<String, Running>,
    /// The control plane.
    pub(crate) control_plane: Kept,
    services: Vec<Service>,
    tasks: JoinSet<()>,
    events: mpsc::Sender<Event>,
    verbose: bool,
}

impl Mesh {
    /// Starts the control plane, and nothing else.
    pub(crate) fn new(
        surroundings: Surroundings,
        state: StateDirectory,
        ports: Ports,
        control_plane: Start,
        events: mpsc::Sender<Event>,
        verbose: bool,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let control_plane = start(&mut tasks, control_plane, &events, verbose);
        control_plane.handle.wish(Wish::Run);
        Self { surroundings, state, ports, replicas: BTreeMap::new(), control_plane, services: Vec::new(), tasks, events, verbose }
    }

    /// Brings what runs to what is wanted: starts what is new, ends what is gone, replaces what was changed. Gives what could not be
    /// started, a sentence each; to be tried again.
    ///
    /// # Errors
    ///
    /// When the state directory cannot be written.
    pub(crate) fn reconcile(&mut self, desired: &Desired) -> Result<Vec<String>, StateError> {
        self.services.clone_from(&desired.services);
        let wanted: BTreeMap<String, (&LocalWorkload, u32)> = desired
            .workloads
            .iter()
            .flat_map(|((namespace, name), workload)| {
                (0..workload.spec.replicas).map(move |index| (format!("{namespace}/{name}-{index}"), (workload, index)))
            })
            .collect();
        let ids: Vec<_> = self.replicas.keys().cloned().collect();
        for id in ids {
            match wanted.get(&id) {
                None => self.retire(&id),
                Some((workload, _)) => self.update(&id, workload),
            }
        }
        let mut refused = Vec::new();
        for (id, (workload, index)) in wanted {
            if !self.replicas.contains_key(&id) {
                self.add(workload, index).map(|sentence| refused.extend(sentence))?;
            }
        }
        for id in self.replicas.keys().cloned().collect::<Vec<_>>() {
            self.write(&id)?;
        }
        Ok(refused)
    }

    /// Starts a replica, or says why that cannot be now.
    fn add(&mut self, workload: &LocalWorkload, index: u32) -> Result<Option<String>, StateError> {
        for place in fixed_places(workload) {
            if let Some(sentence) = taken(workload, &place) {
                return Ok(Some(sentence));
            }
            self.ports.reserve(place.address.port());
        }
        foreign_ports(workload).for_each(|port| self.ports.reserve(port));
        let replica = match Replica::plan(workload, index, &mut self.ports) {
            Ok(replica) => replica,
            Err(none) => return Ok(Some(format!("{}: {none}", name(workload)))),
        };
        let token = self.state.issue_token(&replica.namespace, &replica.service_account, &replica.pod)?;
        let sidecar = start(&mut self.tasks, replica.sidecar(&token, &self.surroundings), &self.events, self.verbose);
        sidecar.handle.wish(Wish::Run);
        let application = replica.application(workload, &self.surroundings);
        let application = application.map(|application| start(&mut self.tasks, application, &self.events, self.verbose));
        let (lives, current) = watch::channel(1);
        let places = Places {
            pod: replica.id(),
            application: replica.ports.iter().map(|port| called(port.application)).collect(),
            admin: replica.admin,
        };
        let probe = self.tasks.spawn(probe::watch(places, current, self.events.clone()));
        let running = Running {
            workload: workload.clone(),
            sidecar,
            application,
            health: None,
            lives,
            probe,
            written: String::new(),
            retiring: false,
            replica,
        };
        self.replicas.insert(running.replica.id(), running);
        Ok(None)
    }

    /// Whether every replica that others can call is ready.
    pub(crate) fn servers_ready(&self) -> bool {
        self.replicas.values().all(|running| !running.is_server() || running.is_ready() || running.retiring)
    }

    /// Lets applications start whose turn it is: each after its sidecar, as in a Pod; those that only call others, when it is the clients'
    /// turn.
    pub(crate) fn release(&self, clients: bool) {
        for running in self.replicas.values() {
            let sidecar_ready = matches!(running.health, Some(Health::Ready | Health::Silent(_)));
            if let Some(application) = &running.application
                && sidecar_ready
                && (running.is_server() || clients)
            {
                application.handle.wish(Wish::Run);
            }
        }
    }

    /// Gives a running replica its new labels, or ends it where its processes would have to be told something else.
    fn update(&mut self, id: &str, workload: &LocalWorkload) {
        let Some(running) = self.replicas.get_mut(id) else { return };
        let mut same = workload.spec.clone();
        same.replicas = running.workload.spec.replicas;
        if same == running.workload.spec {
            running.replica.labels = workload.metadata.labels.clone().unwrap_or_default();
            running.workload = workload.clone();
        } else {
            self.retire(id);
        }
    }

    /// Takes a replica out of balancing, ends its application and then its sidecar, and reports when it is gone.
    fn retire(&mut self, id: &str) {
        let Some(running) = self.replicas.get_mut(id) else { return };
        if std::mem::replace(&mut running.retiring, true) {
            return;
        }
        running.probe.abort();
        let (application, sidecar) = (running.application.as_ref().map(|kept| kept.handle.clone()), running.sidecar.handle.clone());
        let (events, id) = (self.events.clone(), id.to_owned());
        self.tasks.spawn(async move {
            sleep(LAME_DUCK).await;
            if let Some(application) = application {
                application.wish(Wish::End);
                application.ended().await;
            }
            sidecar.wish(Wish::End);
            sidecar.ended().await;
            let _gone = events.send(Event::Retired(id)).await;
        });
    }

    /// Takes note of a replica that is gone.
    ///
    /// # Errors
    ///
    /// When the state directory cannot be written.
    pub(crate) fn retired(&mut self, id: &str) -> Result<(), StateError> {
        let Some(running) = self.replicas.remove(id) else { return Ok(()) };
        let replica = &running.replica;
        let _absent = std::fs::remove_file(self.state.objects().join(file_name(replica)));
        replica.give_back(&mut self.ports);
        self.state.revoke_token(&replica.namespace, &replica.pod)
    }

    /// Takes note of what was found at a replica; whether that is news.
    ///
    /// # Errors
    ///
    /// When the state directory cannot be written.
    pub(crate) fn probed(&mut self, id: &str, life: u64, health: Health) -> Result<bool, StateError> {
        match self.replicas.get_mut(id) {
            Some(running) if running.life() == life && running.health.as_ref() != Some(&health) => {
                running.health = Some(health);
                self.write(id)?;
                Ok(true)
            }
            Some(_) | None => Ok(false),
        }
    }

    /// Takes note of the start of a process.
    ///
    /// # Errors
    ///
    /// When the state directory cannot be written.
    pub(crate) fn started(&mut self, id: &ProcessId, pid: u32) -> Result<(), StateError> {
        if let Some(kept) = self.kept(id) {
            if kept.life != Life::Coming {
                kept.restarts += 1;
            }
            kept.life = Life::Running(pid);
            kept.failed = false;
        }
        self.write(&id.pod)
    }

    /// Takes note of the end of a process, or of one that could not be started: its replica is not to be used. Whether that is news.
    ///
    /// # Errors
    ///
    /// When the state directory cannot be written.
    pub(crate) fn down(&mut self, id: &ProcessId, failed: bool, how: String) -> Result<bool, StateError> {
        let Some(kept) = self.kept(id) else { return Ok(false) };
        kept.failed = failed;
        let down = Life::Down(how);
        let news = kept.life != down;
        kept.life = down;
        if let Some(running) = self.replicas.get_mut(&id.pod) {
            running.health = None;
            // What was looked at before is of an earlier life.
            running.lives.send_modify(|life| *life += 1);
            self.write(&id.pod)?;
        }
        Ok(news)
    }

    fn kept(&mut self, id: &ProcessId) -> Option<&mut Kept> {
        match id.role {
            Role::ControlPlane => Some(&mut self.control_plane),
            Role::Sidecar => self.replicas.get_mut(&id.pod).map(|running| &mut running.sidecar),
            Role::Application => self.replicas.get_mut(&id.pod)?.application.as_mut(),
        }
    }

    /// Writes the objects of a replica, if they say something else now.
    fn write(&mut self, id: &str) -> Result<(), StateError> {
        let Some(running) = self.replicas.get_mut(id) else { return Ok(()) };
        let text = manifest(&running.replica, &self.services, running.condition());
        if text != running.written {
            write_private(&self.state.objects().join(file_name(&running.replica)), text.as_bytes())?;
            running.written = text;
        }
        Ok(())
    }

    /// Whether every replica is ready.
    pub(crate) fn all_ready(&self) -> bool {
        self.replicas.values().all(|running| running.is_ready() || running.retiring)
    }

    /// Whether some application of ours is down because it failed, now.
    pub(crate) fn any_failed(&self) -> bool {
        self.replicas.values().any(|running| running.application.as_ref().is_some_and(|application| application.failed))
    }

    /// Where each sidecar's admin port is: Pod, life, address.
    pub(crate) fn admin_ports(&self) -> Vec<(String, u64, SocketAddr)> {
        self.replicas.iter().map(|(id, running)| (id.clone(), running.life(), called(running.replica.admin))).collect()
    }

    /// Ends everything: applications (those that only call others first), then sidecars, then the control plane; each within the time that one process has. Events are drained
    /// meanwhile by the caller, so that nobody waits to report.
    pub(crate) fn end(&self) -> impl Future<Output = ()> + use<> {
        let applications = |servers: bool| -> Vec<Handle> {
            let those = self.replicas.values().filter(|running| running.is_server() == servers);
            those.filter_map(|running| running.application.as_ref()).map(|kept| kept.handle.clone()).collect()
        };
        let sidecars = self.replicas.values().map(|running| running.sidecar.handle.clone()).collect();
        let steps = [applications(false), applications(true), sidecars, vec![self.control_plane.handle.clone()]];
        for running in self.replicas.values() {
            running.probe.abort();
        }
        async move {
            for step in steps {
                for handle in &step {
                    handle.wish(Wish::End);
                }
                for handle in &step {
                    handle.ended().await;
                }
            }
        }
    }

    /// Ends everything at once. [`Mesh::end`] still has to be awaited.
    pub(crate) fn kill(&self) {
        let of_replicas = self.replicas.values().flat_map(|r| r.application.iter().chain([&r.sidecar]));
        for kept in of_replicas.chain([&self.control_plane]) {
            kept.handle.wish(Wish::Kill);
        }
    }

    /// Runs a task that ends with the mesh.
    pub(crate) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
        // Those that ended need no place.
        while self.tasks.try_join_next().is_some() {}
    }

    /// A way to report events.
    pub(crate) fn events(&self) -> mpsc::Sender<Event> {
        self.events.clone()
    }
}

fn start(tasks: &mut JoinSet<()>, start: Start, events: &mpsc::Sender<Event>, verbose: bool) -> Kept {
    let (handle, wish) = Handle::new();
    tasks.spawn(keep(start, wish, events.clone(), verbose));
    Kept { handle, life: Life::Coming, restarts: 0, failed: false }
}

/// The name of a workload, as problems call it.
fn name(workload: &LocalWorkload) -> String {
    let (namespace, name) = super::plan::key(workload);
    format!("LocalWorkload/{namespace}/{name}")
}

/// Why a place that a manifest names cannot be had: a sentence that names who has it, as far as the system tells.
fn taken(workload: &LocalWorkload, place: &FixedPlace) -> Option<String> {
    let error = bindable(place.address).err()?;
    if error.kind() != ErrorKind::AddrInUse {
        return Some(format!("{}: {}: nobody can listen on {}: {error}", name(workload), place.field, place.address));
    }
    let by = holder(place.address.port()).map(|holder| format!(" by {holder}")).unwrap_or_default();
    Some(format!("{}: {}: {} is in use{by}: end that program, or choose another port", name(workload), place.field, place.address))
}

/// Every port that a workload claims by a number of its own: not to be given to another one.
pub(crate) fn claimed_ports(workload: &LocalWorkload) -> impl Iterator<Item = u16> {
    fixed_places(workload).into_iter().map(|place| place.address.port()).chain(foreign_ports(workload).collect::<Vec<_>>())
}

/// Everything that stands in the way of a start: places in use, and places that two workloads claim.
pub(crate) fn obstacles(desired: &Desired) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut claimed = BTreeMap::<SocketAddr, String>::new();
    let mut seen = BTreeSet::new();
    for workload in desired.workloads.values().filter(|workload| workload.spec.replicas > 0) {
        for place in fixed_places(workload) {
            let claim = format!("{}: {}", name(workload), place.field);
            match claimed.get(&place.address) {
                Some(first) => sentences.push(format!("{claim}: {} is claimed by {first} too: choose another port", place.address)),
                None => {
                    claimed.insert(place.address, claim);
                }
            }
            if seen.insert(place.address) {
                sentences.extend(taken(workload, &place));
            }
        }
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::plan::tests::workload;
    use serde_json::json;
    use std::net::TcpListener;

    #[test]
    fn a_port_in_use_is_named_with_its_field() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let workload = workload(json!({"upstreams": [{"service": "reviews", "port": 80, "listen": address.to_string()}]}));
        let mut desired = Desired::default();
        desired.workloads.insert(("default".to_owned(), "a".to_owned()), workload.clone());
        let sentences = obstacles(&desired);
        assert_eq!(sentences.len(), 1);
        let start = format!("LocalWorkload/default/reviews-v1: spec.upstreams[0].listen: {address} is in use");
        assert!(sentences[0].starts_with(&start), "{}", sentences[0]);
        drop(listener);
        assert_eq!(obstacles(&desired), Vec::<String>::new());
        desired.workloads.insert(("default".to_owned(), "b".to_owned()), workload);
        assert!(obstacles(&desired)[0].contains("is claimed by"), "{:?}", obstacles(&desired));
    }
}
