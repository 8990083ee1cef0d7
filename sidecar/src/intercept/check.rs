//! Whether the redirection really leads to this sidecar: it connects to a port of loopback that the pod's rules redirect for the
//! sidecar's user alone, and must meet itself.
//!
//! Without it a pod whose rules are missing, or were overwritten by somebody else's, would start: its traffic bypasses the mesh, and all
//! looks well.

use crate::config::Config;
use crate::drain::Watch;
use crate::metrics::Direction;
use crate::redirect::rules::{CHECK_INBOUND_PORT, CHECK_OUTBOUND_PORT};
use prometheus::{IntGauge, Registry};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// One connection within this host: whatever takes longer is not there.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Between two tries that failed.
const PAUSE: Duration = Duration::from_millis(200);
/// Between two checks that passed: rules that are removed later are noticed.
const INTERVAL: Duration = Duration::from_secs(30);
/// So many in a row make an earlier success void: a busy moment of the node does not.
const FAILURES: u32 = 5;
/// What only this process knows.
const WORD_BYTES: usize = 16;

/// The check, and how it went last.
pub struct Check {
    word: [u8; WORD_BYTES],
    places: Vec<(Direction, SocketAddr)>,
    failure: Mutex<Option<String>>,
    passes: IntGauge,
}

/// Whether a redirected connection is the sidecar's own check.
pub(super) fn is_check(to: SocketAddr, direction: Direction) -> bool {
    to.ip().is_loopback() && to.port() == port(direction)
}

fn port(direction: Direction) -> u16 {
    match direction {
        Direction::Inbound => CHECK_INBOUND_PORT,
        Direction::Outbound => CHECK_OUTBOUND_PORT,
    }
}

impl Check {
    /// The check for a sidecar; `None`: it intercepts nothing.
    #[must_use]
    pub fn new(config: &Config, rng: &mut fastrand::Rng) -> Option<Self> {
        let listeners = [(Direction::Outbound, config.outbound_intercept), (Direction::Inbound, config.inbound_intercept)];
        let directions = listeners.into_iter().filter_map(|(direction, address)| address.map(|_| direction));
        let ips = &config.pod.ips;
        let mut families: Vec<IpAddr> = Vec::new();
        if ips.is_empty() || ips.iter().any(IpAddr::is_ipv4) {
            families.push(Ipv4Addr::LOCALHOST.into());
        }
        if ips.iter().any(IpAddr::is_ipv6) {
            families.push(Ipv6Addr::LOCALHOST.into());
        }
        let places: Vec<_> =
            directions.flat_map(|d| families.iter().map(move |loopback| (d, SocketAddr::new(*loopback, port(d))))).collect();
        let mut word = [0; WORD_BYTES];
        rng.fill(&mut word);
        let failure = Mutex::new(Some("the redirection has not been checked yet".to_owned()));
        let passes = IntGauge::new("heddle_redirection_passes", "Whether the pod's connections lead to this sidecar: 1 or 0.");
        (!places.is_empty()).then_some(Self { word, places, failure, passes: passes.expect("the name is valid") })
    }

    /// Adds its metric to a registry.
    ///
    /// # Errors
    /// When the registry has a metric of this name.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.passes.clone()))
    }

    /// What a listener says to the check.
    pub(super) fn word(&self) -> &[u8] {
        &self.word
    }

    /// Why connections do not lead here; `None`: they do.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Checks until the sidecar ends. Cancel safe.
    pub async fn run(&self, drain: Watch) {
        tokio::select! {
            () = drain.lame_duck() => {}
            () = self.check_for_ever() => {}
        }
    }

    async fn check_for_ever(&self) {
        let mut failures = 0u32;
        let mut passed = false;
        loop {
            match self.once().await {
                Ok(()) => {
                    if self.failure().is_some() {
                        tracing::info!("the redirection leads here");
                    }
                    self.set(None);
                    (failures, passed) = (0, true);
                    sleep(INTERVAL).await;
                }
                Err(reason) => {
                    failures = failures.saturating_add(1);
                    if failures.is_power_of_two() {
                        tracing::warn!(reason, failures, "the redirection does not lead here");
                    }
                    if !passed || failures >= FAILURES {
                        self.set(Some(reason));
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn set(&self, failure: Option<String>) {
        self.passes.set(failure.is_none().into());
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    async fn once(&self) -> Result<(), String> {
        for (direction, place) in &self.places {
            self.meet(*place).await.map_err(|reason| {
                let family = if place.is_ipv4() { "IPv4" } else { "IPv6" };
                format!(
                    "{} {family} connections are not redirected to this sidecar ({place}: {reason}): the init container heddle-redirect \
                     must have run in this pod (`nft list table inet heddle` shows its rules), and the sidecar must run as the user that it \
                     was told (HEDDLE_SIDECAR_UID)",
                    direction.as_str()
                )
            })?;
        }
        Ok(())
    }

    /// Connects, and must be told the word.
    async fn meet(&self, place: SocketAddr) -> Result<(), String> {
        let meeting = async {
            let mut stream = TcpStream::connect(place).await?;
            let mut heard = [0; WORD_BYTES];
            stream.read_exact(&mut heard).await?;
            Ok::<_, io::Error>(heard == self.word)
        };
        match timeout(TIMEOUT, meeting).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("somebody else answers there".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("places", &self.places).field("failure", &self.failure()).finish_non_exhaustive()
    }
}
