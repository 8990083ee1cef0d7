//! The loop of `heddle up`: events, changes of manifests, figures and signals, until the end; then the end, in order.

use super::event::{Event, Scrape};
use super::manifests::{Changes, Desired, Files};
use super::mesh::{Life, Mesh};
use super::process::{ProcessId, Role};
use super::report::{EndedBy, Report, Running, waiting};
use super::signals::Signals;
use super::state::{StateError, write_private};
use super::{FAILED, HURRIED, listing};
use crate::command_line::{Output, Up};
use crate::console::Console;
use crate::fetch::fetch;
use crate::status::Status;
use crate::table::View;
use crate::text::{Line, Style};
use crate::traffic::{Reading, Traffic};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

/// How often to look for edits; what two looks saw alike is read, so an edit is in force after at most twice this and the start of a process.
const LOOK: Duration = Duration::from_millis(250);
/// How long the control plane may take to be ready.
const CONTROL_PLANE_PATIENCE: Duration = Duration::from_secs(20);
/// After as long, what is not ready is named, and `--for` begins all the same.
const READY_PATIENCE: Duration = Duration::from_secs(15);
/// How long it takes at most until every sidecar knows of a replica that became ready: those who only call others start after that, so that
/// their first requests find everybody.
const IN_FORCE: Duration = Duration::from_millis(500);
/// How long an admin port may take to answer.
const SCRAPE_PATIENCE: Duration = Duration::from_secs(1);
/// Problems shown below the table.
const PROBLEMS_SHOWN: usize = 12;

/// A run that has begun.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    options: &'a Up,
    mesh: Mesh,
    console: Console,
    desired: Desired,
    changes: Changes,
    events: mpsc::Receiver<Event>,
    signals: Signals,
    traffic: Traffic,
    status: Status,
    /// Whether the replicas have been started.
    begun: bool,
    /// Since when everybody who can be called is ready.
    servers_ready_at: Option<Instant>,
    /// When everything was ready, or had its time to be; `--for` counts from here.
    ready_at: Option<Instant>,
    began: Instant,
    interval_began: Instant,
    scraping: bool,
    /// What could not be started at the last try, a sentence each.
    refused: Vec<String>,
    /// What is wrong with the manifests and has been said.
    announced: Vec<String>,
}

impl<'a> Run<'a> {
    /// Takes over from the preparations.
    pub(crate) fn new(
        options: &'a Up,
        mesh: Mesh,
        console: Console,
        desired: Desired,
        changes: Changes,
        events: mpsc::Receiver<Event>,
        signals: Signals,
    ) -> Self {
        let began = Instant::now();
        Self {
            options,
            mesh,
            console,
            desired,
            changes,
            events,
            signals,
            traffic: Traffic::default(),
            status: Status::default(),
            begun: false,
            servers_ready_at: None,
            ready_at: None,
            began,
            interval_began: began,
            scraping: false,
            refused: Vec::new(),
            announced: Vec::new(),
        }
    }

    /// Runs, ends everything, writes the report, and removes what was left.
    pub(crate) async fn drive(mut self) -> ExitCode {
        for note in &self.desired.notes {
            self.console.say(&Line::new(Style::Dim, note.clone()));
        }
        self.announce();
        let ended = match self.control_plane_ready().await {
            Ok(None) => self.until_end().await,
            Ok(Some(ended)) => Ok(ended),
            Err(failure) => Err(failure),
        };
        let ended_by = match &ended {
            Ok(ended_by) => *ended_by,
            Err(failure) => {
                self.console.say(&Line::new(Style::Bad, format!("! {failure}")));
                EndedBy::Failure
            }
        };
        // Before the processes are told to end: what ends now did not fail.
        let failed = self.mesh.any_failed();
        let report = self.last_figures(ended_by).await;
        let hurried = self.end_processes().await;
        let reported = self.write_report(report.as_deref());
        self.mesh.state.remove();
        match ended_by {
            _ if hurried => ExitCode::from(HURRIED),
            EndedBy::Failure => ExitCode::from(FAILED),
            EndedBy::Time if failed => ExitCode::from(FAILED),
            EndedBy::Time | EndedBy::Signal if !reported => ExitCode::from(FAILED),
            EndedBy::Time | EndedBy::Signal => ExitCode::SUCCESS,
        }
    }

    /// Waits for the control plane; `Some` when the run was ended before.
    async fn control_plane_ready(&mut self) -> Result<Option<EndedBy>, Failure> {
        let deadline = self.began + CONTROL_PLANE_PATIENCE;
        let mut look = interval(Duration::from_millis(20));
        loop {
            tokio::select! {
                end = self.signals.next() => if end { return Ok(Some(EndedBy::Signal)) },
                event = self.events.recv() => match event {
                    Some(Event::Ended { how, .. }) => return Err(Failure::ControlPlane(how)),
                    Some(Event::NotStarted(_, reason)) => return Err(Failure::ControlPlane(reason)),
                    Some(event) => self.on(event)?,
                    None => return Err(Failure::ControlPlane("its end was not reported".to_owned())),
                },
                () = sleep_until(deadline) => {
                    return Err(Failure::ControlPlane(format!("not ready after {} s", CONTROL_PLANE_PATIENCE.as_secs())));
                }
                _ = look.tick() => {
                    let ready = fetch(self.mesh.surroundings.control_plane_admin, "/ready", SCRAPE_PATIENCE).await;
                    if ready.is_ok_and(|fetched| fetched.success) {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// The loop.
    async fn until_end(&mut self) -> Result<EndedBy, Failure> {
        self.reconcile()?;
        self.begun = true;
        self.list();
        self.check_ready();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut figures = interval(self.options.interval.get());
        figures.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let end = self.ready_at.zip(self.options.duration).map(|(ready, duration)| ready + duration.get());
            let patience = self.began + READY_PATIENCE;
            tokio::select! {
                end = self.signals.next() => if end { return Ok(EndedBy::Signal) } else { self.console.redraw() },
                event = self.events.recv() => if let Some(event) = event { self.on(event)? },
                () = sleep_until(end.unwrap_or(patience)), if end.is_some() => return Ok(EndedBy::Time),
                () = sleep_until(patience), if self.ready_at.is_none() => self.not_ready_in_time(),
                _ = look.tick() => self.look()?,
                _ = figures.tick() => if !self.scraping { self.scrape() },
            }
        }
    }

    /// One event.
    fn on(&mut self, event: Event) -> Result<(), StateError> {
        match event {
            Event::Started(id, pid) => {
                self.mesh.started(&id, pid)?;
                self.write_running()?;
                self.check_ready();
            }
            Event::NotStarted(id, reason) => {
                if self.mesh.down(&id, true, reason.clone())? {
                    self.warn(format!("{id}: {reason}; trying again until it can be started"));
                }
                self.write_running()?;
            }
            Event::Ended { id, success, how, pause } => {
                self.mesh.down(&id, !success, how.clone())?;
                if id.role == Role::Sidecar {
                    self.traffic.forget(&id.pod);
                }
                let again = if pause.is_zero() { "started again".to_owned() } else { format!("starting again in {} s", pause.as_secs()) };
                self.warn(format!("{id} {how}; {again}"));
                self.write_running()?;
            }
            Event::Line(id, line) => {
                let mut shown = Line::new(Style::Dim, format!("{} | ", prefix(&id)));
                shown.push(Style::Plain, line);
                self.console.say(&shown);
            }
            Event::Probed { pod, life, health } => {
                if self.mesh.probed(&pod, life, health)? {
                    self.write_running()?;
                    self.check_ready();
                }
            }
            Event::Retired(id) => {
                self.mesh.retired(&id)?;
                self.traffic.forget(&id);
                self.reconcile()?;
            }
            Event::Scraped(scrape) => self.scraped(scrape),
        }
        Ok(())
    }

    fn warn(&mut self, sentence: String) {
        self.console.say(&Line::new(Style::Bad, format!("! {sentence}")));
    }

    /// Brings what runs to what is wanted, and names what could not be started once.
    fn reconcile(&mut self) -> Result<(), StateError> {
        let before: Vec<_> = self.mesh.replicas.keys().cloned().collect();
        let refused = self.mesh.reconcile(&self.desired)?;
        for sentence in &refused {
            if !self.refused.contains(sentence) {
                self.warn(sentence.clone());
            }
        }
        self.refused = refused;
        if self.ready_at.is_some() {
            let new: Vec<_> = self.mesh.replicas.keys().filter(|id| !before.contains(id)).cloned().collect();
            self.list_replicas(&new);
        }
        self.write_running()
    }

    /// Looks for edits, and reads the manifests again when there are any.
    fn look(&mut self) -> Result<(), StateError> {
        if self.changes.look(Files::look(&self.options.directory)) {
            let mut desired = Desired::read(&self.options.directory);
            desired.keep_from(&self.desired);
            if desired.trust_domain != self.desired.trust_domain {
                self.warn(format!("the trust domain is now {}: end this run and start again to use it", desired.trust_domain));
            }
            self.desired = desired;
            self.announce();
            self.reconcile()?;
        } else if !self.refused.is_empty() {
            self.reconcile()?;
        }
        self.check_ready();
        Ok(())
    }

    /// Lets those start whose turn it is, and notes the moment when everything is ready.
    fn check_ready(&mut self) {
        let now = Instant::now();
        self.servers_ready_at = if self.mesh.servers_ready() { self.servers_ready_at.or(Some(now)) } else { None };
        let known = self.servers_ready_at.is_some_and(|at| now.duration_since(at) >= IN_FORCE);
        self.mesh.release(known || self.ready_at.is_some());
        if self.begun && self.ready_at.is_none() && self.refused.is_empty() && self.mesh.all_ready() {
            let words = format!("ready after {:.1} s", now.duration_since(self.began).as_secs_f64());
            self.console.say(&Line::new(Style::Good, words));
            self.ready_at = Some(now);
        }
    }

    fn not_ready_in_time(&mut self) {
        for problem in self.troubles() {
            self.warn(problem);
        }
        self.ready_at = Some(Instant::now());
        self.mesh.release(true);
    }

    /// Asks all admin ports, without waiting for them here.
    fn scrape(&mut self) {
        self.scraping = true;
        let (sidecars, control_plane) = (self.mesh.admin_ports(), self.mesh.surroundings.control_plane_admin);
        let events = self.mesh.events();
        self.mesh.spawn(async move {
            let scrape = scrape(sidecars, control_plane).await;
            let _gone = events.send(Event::Scraped(scrape)).await;
        });
    }

    /// Takes in what the admin ports answered, and shows it.
    fn scraped(&mut self, scrape: Scrape) {
        self.scraping = false;
        self.count(scrape);
        let now = Instant::now();
        self.traffic.close_interval(now.duration_since(self.interval_began));
        self.interval_began = now;
        let view = View { elapsed: self.began.elapsed(), routes: self.traffic.recent(), problems: self.problems() };
        self.console.show(view);
    }

    fn count(&mut self, scrape: Scrape) {
        for (pod, life, reading) in scrape.readings {
            // One of an earlier life has been forgotten.
            if self.mesh.replicas.get(&pod).is_some_and(|running| running.life() == life) {
                self.traffic.record(&pod, reading);
            }
        }
        if let Some(status) = scrape.status {
            self.status = Status::new(status);
            self.announce();
        }
    }

    /// What is wrong with the manifests: as read here, and as the control plane sees them, which reads the same files at another moment.
    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = self.desired.problems.clone();
        mistakes.extend(self.status.all().into_iter().filter(|mistake| !self.desired.problems.contains(mistake)));
        mistakes
    }

    /// Says what is wrong with the manifests, once for as long as it lasts.
    fn announce(&mut self) {
        let mistakes = self.mistakes();
        let new: Vec<_> = mistakes.iter().filter(|mistake| !self.announced.contains(mistake)).cloned().collect();
        self.announced = mistakes;
        for mistake in new {
            self.warn(mistake);
        }
    }

    /// Everything that is not as it should be.
    fn problems(&self) -> Vec<String> {
        let mut problems = self.troubles();
        problems.extend(self.mistakes());
        if problems.len() > PROBLEMS_SHOWN {
            let more = problems.len() - (PROBLEMS_SHOWN - 1);
            problems.truncate(PROBLEMS_SHOWN - 1);
            problems.push(format!("and {more} more: see http://{}/status", self.mesh.surroundings.control_plane_admin));
        }
        problems
    }

    /// What is wrong with processes.
    fn troubles(&self) -> Vec<String> {
        let mut troubles = self.refused.clone();
        if let Life::Down(how) = &self.mesh.control_plane.life {
            troubles.push(format!("the control plane is down: {how}"));
        }
        for (id, running) in &self.mesh.replicas {
            let name = id.strip_prefix("default/").unwrap_or(id);
            match (running.application.as_ref().map(|kept| &kept.life), &running.health) {
                (Some(Life::Down(how)), _) => troubles.push(format!("{name} is down: {how}")),
                (Some(Life::Coming | Life::Running(_)) | None, Some(health)) => {
                    troubles.extend(waiting(health).map(|words| format!("{name} is not ready: {words}")));
                }
                (Some(Life::Coming | Life::Running(_)) | None, None) => {}
            }
        }
        troubles
    }

    /// Says where to reach what.
    fn list(&mut self) {
        let surroundings = &self.mesh.surroundings;
        let text = format!(
            "{}: control plane at {} (status: http://{}/status), logs in {}",
            self.options.directory.display(),
            surroundings.control_plane,
            surroundings.control_plane_admin,
            self.mesh.state.logs().display(),
        );
        self.console.say(&Line::new(Style::Bold, text));
        let ids: Vec<_> = self.mesh.replicas.keys().cloned().collect();
        self.list_replicas(&ids);
    }

    fn list_replicas(&mut self, ids: &[String]) {
        for id in ids {
            let Some(running) = self.mesh.replicas.get(id) else { continue };
            for line in listing::lines(&running.replica) {
                self.console.say(&line);
            }
        }
    }

    fn write_running(&self) -> Result<(), StateError> {
        let json = serde_json::to_vec_pretty(&Running::new(&self.mesh)).unwrap_or_default();
        write_private(&self.mesh.state.path().join("running.json"), &json)
    }

    /// Counts what passed since the last look; the report, when one is wanted.
    async fn last_figures(&mut self, ended_by: EndedBy) -> Option<String> {
        let scrape = scrape(self.mesh.admin_ports(), self.mesh.surroundings.control_plane_admin).await;
        self.count(scrape);
        let elapsed = self.began.elapsed();
        if self.begun && self.options.output == Output::Text {
            self.console.say(&Line::new(Style::Bold, format!("totals of {:.1} s", elapsed.as_secs_f64())));
            self.console.show(View { elapsed, routes: self.traffic.total(elapsed), problems: self.problems() });
        }
        self.options.report.as_ref()?;
        let problems = self.desired.problems.clone();
        let report =
            Report::new(&self.options.directory, elapsed, ended_by, self.traffic.total(elapsed), &self.status, &problems, &self.mesh);
        serde_json::to_string_pretty(&report).ok()
    }

    /// Ends all processes; whether somebody was in a hurry.
    async fn end_processes(&mut self) -> bool {
        self.console.say(&Line::new(Style::Dim, "ending: applications, sidecars, control plane (Ctrl-C again: at once)"));
        let mut hurried = false;
        let mut end = std::pin::pin!(self.mesh.end());
        loop {
            tokio::select! {
                () = &mut end => return hurried,
                another = self.signals.next() => if another {
                    hurried = true;
                    self.mesh.kill();
                },
                event = self.events.recv() => if let Some(Event::Line(id, line)) = event {
                    self.console.say(&Line::new(Style::Plain, format!("{} | {line}", prefix(&id))));
                },
            }
        }
    }

    /// Writes the report; whether that was possible.
    fn write_report(&mut self, report: Option<&str>) -> bool {
        let Some(path) = &self.options.report else { return true };
        let Some(report) = report else {
            self.warn("the report could not be written as JSON".to_owned());
            return false;
        };
        match std::fs::write(path, format!("{report}\n")) {
            Ok(()) => true,
            Err(error) => {
                self.warn(format!("{} cannot be written: {error}", path.display()));
                false
            }
        }
    }
}

/// Why a run could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The control plane did not start.
    #[error("the control plane could not be started: it {0}")]
    ControlPlane(String),
    /// The state directory cannot be written any more.
    #[error(transparent)]
    State(#[from] StateError),
}

/// What stands before a line of a process.
fn prefix(id: &ProcessId) -> String {
    let pod = id.pod.rsplit('/').next().unwrap_or_default();
    match id.role {
        Role::ControlPlane => "control-plane".to_owned(),
        Role::Sidecar => format!("{pod}.sidecar"),
        Role::Application => pod.to_owned(),
    }
}

/// Asks all admin ports at once; those that do not answer in time have no reading.
async fn scrape(sidecars: Vec<(String, u64, SocketAddr)>, control_plane: SocketAddr) -> Scrape {
    let mut asked = JoinSet::new();
    for (pod, life, address) in sidecars {
        asked.spawn(async move {
            let fetched = fetch(address, "/metrics", SCRAPE_PATIENCE).await.ok().filter(|fetched| fetched.success);
            fetched.map(|fetched| (pod, life, Reading::parse(&fetched.body)))
        });
    }
    let status = timeout(SCRAPE_PATIENCE, fetch(control_plane, "/status", SCRAPE_PATIENCE)).await.ok().and_then(Result::ok);
    let mut scrape = Scrape { readings: Vec::new(), status: status.and_then(|fetched| serde_json::from_str(&fetched.body).ok()) };
    while let Some(answered) = asked.join_next().await {
        scrape.readings.extend(answered.ok().flatten());
    }
    scrape
}
