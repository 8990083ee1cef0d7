//! What an operator sets for all injected pods: the file of `--injection`, YAML, with every mistake named.

use super::annotation::{self, Cidr};
use super::quantity;
use heddle_crds::name;
use heddle_model::TrustDomain;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Largest file that is read: it has a few dozen lines.
pub const MAX_BYTES: usize = 256 * 1024;
/// How often the file is looked at. Kubelet brings a changed ConfigMap to its volume within about a minute, so that more often is
/// no sooner.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Longest that connections may take to end: an hour, as the sidecar has it.
const DRAIN_SECONDS_MAX: u64 = 3600;

/// What an operator sets for all injected pods. Every field but the image has a default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InjectionConfig {
    /// The image of both containers.
    pub image: String,
    /// When kubelet pulls it.
    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,
    /// Names of Secrets for pulling it, added to those of the pod.
    #[serde(default)]
    pub image_pull_secrets: Vec<String>,
    /// The mesh's trust domain.
    #[serde(default = "cluster_local")]
    pub trust_domain: String,
    /// The DNS domain of the cluster.
    #[serde(default = "cluster_local")]
    pub cluster_domain: String,
    /// `host:port` of the control plane.
    #[serde(default = "control_plane")]
    pub control_plane: String,
    /// What sidecars log.
    #[serde(default = "log_level")]
    pub log_level: String,
    /// The form of their log.
    #[serde(default)]
    pub log_format: LogFormat,
    /// How long connections may take to end, in seconds; at most a pod's own grace period.
    #[serde(default = "drain_seconds")]
    pub drain_seconds: u64,
    /// The resources of each of the two containers.
    #[serde(default)]
    pub resources: Resources,
    /// Ports of pods that are not redirected.
    #[serde(default)]
    pub exclude_inbound_ports: Vec<u16>,
    /// Ports of destinations that are not redirected.
    #[serde(default)]
    pub exclude_outbound_ports: Vec<u16>,
    /// Networks of destinations that are not redirected.
    #[serde(default)]
    pub exclude_outbound_cidrs: Vec<String>,
    /// Further variables of the sidecar.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// When kubelet pulls an image (`core/v1` Container).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum ImagePullPolicy {
    /// At each start.
    Always,
    /// When the node has it not.
    #[default]
    IfNotPresent,
    /// Never.
    Never,
}

impl ImagePullPolicy {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// The form of the sidecars' log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Requests and limits of a container.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// What the scheduler sets aside.
    #[serde(default)]
    pub requests: Amounts,
    /// What it may use at most; none by default.
    #[serde(default)]
    pub limits: Amounts,
}

/// Amounts of CPU and memory, as Kubernetes writes them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amounts {
    /// Cores, such as `10m`.
    #[serde(default, deserialize_with = "amount")]
    pub cpu: Option<String>,
    /// Bytes, such as `16Mi`.
    #[serde(default, deserialize_with = "amount")]
    pub memory: Option<String>,
}

impl Default for Resources {
    fn default() -> Self {
        let requests = Amounts { cpu: Some("10m".to_owned()), memory: Some("16Mi".to_owned()) };
        Self { requests, limits: Amounts::default() }
    }
}

/// What is wrong with a configuration: one sentence each, with the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct InjectionConfigError {
    /// The sentences.
    pub mistakes: Vec<String>,
}

impl fmt::Display for InjectionConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration of injection cannot be used: {}", self.mistakes.join("; "))
    }
}

impl InjectionConfig {
    /// The defaults with an image.
    ///
    /// # Errors
    /// When the image is no reference.
    pub fn with_image(image: &str) -> Result<Self, InjectionConfigError> {
        Self::from_value(serde_json::json!({ "image": image }))
    }

    /// Reads YAML.
    ///
    /// # Errors
    /// What does not fit the form, with its line; or else every value that cannot be used.
    pub fn from_yaml(text: &str) -> Result<Self, InjectionConfigError> {
        if text.len() > MAX_BYTES {
            return Err(InjectionConfigError { mistakes: vec![format!("it has more than {MAX_BYTES} bytes")] });
        }
        // The value first: its positions are those of the text.
        let config: Self = serde_saphyr::from_str(text).map_err(|error| {
            let place = error.location().map(|at| format!("line {}: ", at.line())).unwrap_or_default();
            InjectionConfigError { mistakes: vec![format!("{place}{}", first_line(&error.to_string()))] }
        })?;
        config.checked()
    }

    fn from_value(value: serde_json::Value) -> Result<Self, InjectionConfigError> {
        let config: Self = serde_json::from_value(value).map_err(|error| InjectionConfigError { mistakes: vec![error.to_string()] })?;
        config.checked()
    }

    fn checked(self) -> Result<Self, InjectionConfigError> {
        let mut mistakes = Vec::new();
        let mut check = |field: &str, result: Result<(), String>| {
            if let Err(message) = result {
                mistakes.push(format!("{field} {message}"));
            }
        };
        let named = |text: &str, good: bool, form: &str| if good { Ok(()) } else { Err(format!("is {text:?}: write {form}")) };
        check("image", annotation::image(&self.image));
        for secret in &self.image_pull_secrets {
            check("imagePullSecrets", named(secret, name::is_subdomain(secret), "names of Secrets"));
        }
        if let Err(error) = self.trust_domain.parse::<TrustDomain>() {
            check("trustDomain", Err(format!("is {:?}: {error}", self.trust_domain)));
        }
        check("clusterDomain", named(&self.cluster_domain, name::is_subdomain(&self.cluster_domain), "a DNS name such as cluster.local"));
        check("controlPlane", named(&self.control_plane, is_host_port(&self.control_plane), "host:port"));
        check("logLevel", annotation::log_level(&self.log_level));
        if self.drain_seconds > DRAIN_SECONDS_MAX {
            check("drainSeconds", Err(format!("is {}: write 0 to {DRAIN_SECONDS_MAX}", self.drain_seconds)));
        }
        let Resources { requests, limits } = &self.resources;
        for (field, amounts) in [("resources.requests", requests), ("resources.limits", limits)] {
            for (of, amount) in [("cpu", &amounts.cpu), ("memory", &amounts.memory)] {
                if let Some(amount) = amount {
                    check(&format!("{field}.{of}"), annotation::amount(amount));
                }
            }
        }
        for (of, request, limit) in [("cpu", &requests.cpu, &limits.cpu), ("memory", &requests.memory, &limits.memory)] {
            let amount = |text: &Option<String>| text.as_deref().and_then(quantity::parse);
            if let (Some(request), Some(limit)) = (amount(request), amount(limit))
                && request > limit
            {
                check(&format!("resources.limits.{of}"), Err("is below the request".to_owned()));
            }
        }
        for (field, ports) in [("excludeInboundPorts", &self.exclude_inbound_ports), ("excludeOutboundPorts", &self.exclude_outbound_ports)]
        {
            if ports.contains(&0) {
                check(field, Err("has 0: write ports from 1 to 65535".to_owned()));
            }
        }
        for network in &self.exclude_outbound_cidrs {
            check("excludeOutboundCidrs", Cidr::parse(network).map(drop));
        }
        for variable in self.env.keys() {
            let ours = super::container::SET_HERE.contains(&variable.as_str());
            let message = if ours {
                "is set by injection itself: remove it"
            } else {
                "is no variable of the sidecar: its variables begin with HEDDLE_"
            };
            let good = !ours && variable.starts_with("HEDDLE_") && name::is_variable(variable);
            check(&format!("env.{variable}"), if good { Ok(()) } else { Err(message.to_owned()) });
        }
        if mistakes.is_empty() { Ok(self) } else { Err(InjectionConfigError { mistakes }) }
    }
}

/// Reads a file.
///
/// # Errors
/// As [`InjectionConfig::from_yaml`], or that it cannot be read; the file is named.
pub fn read(file: &Path) -> Result<InjectionConfig, InjectionConfigError> {
    let in_file = |mistake: String| format!("{}: {mistake}", file.display());
    let text = text_of(file).map_err(|error| InjectionConfigError { mistakes: vec![in_file(error.to_string())] })?;
    InjectionConfig::from_yaml(&text)
        .map_err(|InjectionConfigError { mistakes }| InjectionConfigError { mistakes: mistakes.into_iter().map(in_file).collect() })
}

/// The text, and one byte more than may be used when there is more.
fn text_of(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let most = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::open(file)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}

/// Looks at a file again and again, and publishes what it says when that has changed. What cannot be used is logged once, and the
/// last good configuration stays. Ends when nobody reads any more.
pub async fn keep_reading(file: PathBuf, current: watch::Sender<Arc<InjectionConfig>>) {
    let mut refused: Option<InjectionConfigError> = None;
    loop {
        tokio::select! {
            () = current.closed() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        match read(&file) {
            Ok(config) => {
                refused = None;
                let changed = current.send_if_modified(|published| {
                    let changed = **published != config;
                    if changed {
                        *published = Arc::new(config);
                    }
                    changed
                });
                if changed {
                    tracing::info!(file = %file.display(), "the configuration of injection has changed; it holds for new pods");
                }
            }
            Err(error) if refused.as_ref() == Some(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "the last good configuration of injection stays");
                refused = Some(error);
            }
        }
    }
}

/// A quantity may be written as a number.
fn amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Whole(u64),
        Fraction(f64),
    }
    Ok(Option::<Written>::deserialize(deserializer)?.map(|written| match written {
        Written::Text(text) => text,
        Written::Whole(number) => number.to_string(),
        Written::Fraction(number) => number.to_string(),
    }))
}

/// `host:port` with a name or an address, and a port that is not 0.
fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name::is_subdomain(host),
    };
    host && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// The sentence of an error that also shows the source.
pub(super) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or(text)
}

fn cluster_local() -> String {
    "cluster.local".to_owned()
}

fn control_plane() -> String {
    "heddle-control-plane.heddle-system.svc:15010".to_owned()
}

fn log_level() -> String {
    "info".to_owned()
}

const fn drain_seconds() -> u64 {
    30
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        InjectionConfig::from_yaml(text).unwrap_err().mistakes
    }

    #[test]
    fn an_image_is_all_that_is_needed() {
        let config = InjectionConfig::from_yaml("image: registry.example/heddle-sidecar:1.2").unwrap();
        assert_eq!(config, InjectionConfig::with_image("registry.example/heddle-sidecar:1.2").unwrap());
        assert_eq!(config.resources.requests.cpu.as_deref(), Some("10m"));
        assert_eq!((config.drain_seconds, config.image_pull_policy), (30, ImagePullPolicy::IfNotPresent));
    }

    #[test]
    fn all_fields_are_read() {
        let text = "
image: heddle-sidecar:0.1.0
imagePullPolicy: Always
imagePullSecrets: [registry]
trustDomain: example.org
clusterDomain: cluster.example
controlPlane: 'heddle-control-plane.mesh.svc:15010'
logLevel: info,heddle_sidecar=debug
logFormat: json
drainSeconds: 5
resources:
  requests: {cpu: 1, memory: 32Mi}
  limits: {cpu: 1.5}
excludeInboundPorts: [9100]
excludeOutboundPorts: [25]
excludeOutboundCidrs: [169.254.0.0/16, 'fd00:ec2::/32']
env: {HEDDLE_WORKERS: '2'}
";
        let config = InjectionConfig::from_yaml(text).unwrap();
        assert_eq!(config.resources.requests.cpu.as_deref(), Some("1"));
        assert_eq!(config.resources.limits.cpu.as_deref(), Some("1.5"));
    }

    #[test]
    fn what_has_another_form_is_named_with_its_line() {
        let found = mistakes("image: a\nimagePullPolcy: Always\n");
        assert!(found[0].contains("line 2") && found[0].contains("imagePullPolcy"), "{found:?}");
        assert!(mistakes("logLevel: info\n")[0].contains("image"), "{:?}", mistakes("logLevel: info\n"));
    }

    #[test]
    fn every_wrong_value_is_named_at_once() {
        let found = mistakes(
            "
image: 'a b'
trustDomain: 'Not A Domain'
clusterDomain: '-'
controlPlane: nowhere
logLevel: loud
drainSeconds: 10000
resources: {requests: {cpu: 2}, limits: {cpu: 1, memory: much}}
excludeInboundPorts: [0]
excludeOutboundCidrs: [10.1.2.3/8]
env: {HEDDLE_LOG: info, PATH: /}
",
        );
        let fields = [
            "image ",
            "trustDomain ",
            "clusterDomain ",
            "controlPlane ",
            "logLevel ",
            "drainSeconds ",
            "resources.limits.memory ",
            "resources.limits.cpu ",
            "excludeInboundPorts ",
            "excludeOutboundCidrs ",
            "env.HEDDLE_LOG ",
            "env.PATH ",
        ];
        for field in fields {
            assert!(found.iter().any(|sentence| sentence.starts_with(field)), "{field}: {found:#?}");
        }
        assert_eq!(found.len(), fields.len(), "{found:#?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_published_and_a_bad_one_is_not() {
        let folder = crate::test_support::Folder::new("injection");
        let file = folder.path().join("injection.yaml");
        std::fs::write(&file, "image: a:1\n").unwrap();
        let (sender, mut current) = watch::channel(Arc::new(read(&file).unwrap()));
        let task = tokio::spawn(keep_reading(file.clone(), sender));
        std::fs::write(&file, "image: a b\n").unwrap();
        tokio::time::sleep(3 * LOOK_INTERVAL).await;
        assert!(!current.has_changed().unwrap());
        assert!(read(&file).unwrap_err().to_string().contains("injection.yaml: image is \"a b\""));
        std::fs::write(&file, "image: a:2\n").unwrap();
        current.changed().await.unwrap();
        assert_eq!(current.borrow_and_update().image, "a:2");
        drop(current);
        task.await.unwrap();
    }
}
