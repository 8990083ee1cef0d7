//! `heddle inject`: manifests in, the same manifests with sidecars out, for pipelines that want to see what a cluster will run.
//!
//! What is not touched is passed through byte by byte, comments and order included; a second run changes nothing.

mod edit;
mod tree;

use crate::cluster::{Cluster, ClusterError, Target};
use clap::{Args, ValueEnum};
use heddle_control_plane::inject::{InjectionConfig, InjectionConfigError, Outcome, Workload, inject_object};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::json;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Largest input: more than any repository's manifests together.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// The ConfigMap with the configuration of a cluster's injector, and its key.
const CONFIG_MAP: (&str, &str) = ("heddle-injection", "injection.yaml");

pub(crate) const HELP: &str = "\
What a sidecar is like comes from --injection FILE; or from --image and built-in defaults; or else from the ConfigMap heddle-injection of the
cluster, which the chart has installed. Pods that are labelled heddle.dev/inject: disabled stay as they are.

What happens to each workload is told on standard error. When one of them cannot have a sidecar nothing is printed.

Exit status: 0 done; 1 a workload is refused, or the cluster does not answer; 64 the command line, the configuration or the manifests
cannot be used.

Examples:
  heddle inject deployment.yaml | kubectl apply -f -
  kubectl get deployment reviews -o yaml | heddle inject - | kubectl apply -f -
  heddle inject --injection injection.yaml app/*.yaml > injected.yaml";

/// Options of `heddle inject`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Inject {
    /// Manifests, YAML or JSON; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The injector's configuration; by default that of the cluster
    #[arg(long, value_name = "FILE")]
    injection: Option<PathBuf>,
    /// The sidecar's image; without --injection, everything else is as by default
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Namespace of the control plane, where the cluster's configuration is
    #[arg(long, value_name = "NAMESPACE", default_value = "heddle-system")]
    system_namespace: String,
    #[command(flatten)]
    target: Target,
    /// Form of the output; `json` is one object, a List when there are several
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    output: Format,
}

/// The form of the manifests that are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// As they came in
    Yaml,
    /// As JSON
    Json,
}

/// Why nothing is printed.
#[derive(Debug, thiserror::Error)]
enum InjectError {
    /// A file cannot be read.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// Why not.
        reason: String,
    },
    /// A line that cannot be used.
    #[error("{file}:{line}: {message}")]
    Line {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] InjectionConfigError),
    /// The cluster does not give its configuration.
    #[error("{0}; or give --injection FILE, or --image IMAGE")]
    Cluster(#[from] ClusterError),
    /// The cluster has none.
    #[error("the ConfigMap {} of namespace {namespace} is not there, or has no {}: is the control plane installed there? Give --system-namespace, --injection FILE or --image IMAGE", CONFIG_MAP.0, CONFIG_MAP.1)]
    NotInstalled {
        /// Where it was looked for.
        namespace: String,
    },
    /// Workloads cannot have a sidecar; why was said line by line.
    #[error("nothing is printed, because {0} of the workloads cannot have a sidecar")]
    Refused(usize),
}

impl InjectError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::File { .. } | Self::Line { .. } | Self::Config(_) => ExitCode::from(crate::USAGE),
            Self::Cluster(_) | Self::NotInstalled { .. } | Self::Refused(_) => ExitCode::FAILURE,
        }
    }
}

/// Runs the command.
pub(crate) fn run(options: &Inject) -> ExitCode {
    let mut report = String::new();
    let result = injected(options, &mut report);
    eprint!("{report}");
    match result {
        Ok(text) => crate::print(text.as_bytes()),
        Err(error) => {
            eprintln!("heddle inject: {error}");
            error.exit_code()
        }
    }
}

fn injected(options: &Inject, report: &mut String) -> Result<String, InjectError> {
    let inputs = options.files.iter().map(|file| Input::read(file)).collect::<Result<Vec<_>, _>>()?;
    let config = config(options)?;
    let mut texts = Vec::new();
    let mut objects = Vec::new();
    let mut refused = 0;
    for input in &inputs {
        let documents = tree::documents(&input.text).map_err(|mistake| input.mistake(mistake))?;
        let mut values = Vec::new();
        for document in &documents {
            let old = document.value();
            let (new, workloads) = inject_object(&old, &config);
            refused += workloads.iter().map(|workload| tell(workload, report)).sum::<usize>();
            if options.output == Format::Json
                && let Some(ambiguous) = document.ambiguous()
            {
                let message = "this value means different things to different tools: put it in quotes, or write it out".to_owned();
                return Err(input.mistake(tree::Mistake { line: tree::line_at(&input.text, ambiguous.range.start), message }));
            }
            values.push((new != old).then(|| new.clone()));
            objects.push(new);
        }
        texts.push(edit::edited(&input.text, &documents, &values).map_err(|mistake| input.mistake(mistake))?);
    }
    if refused > 0 {
        return Err(InjectError::Refused(refused));
    }
    Ok(match options.output {
        Format::Yaml => joined(&texts),
        Format::Json => match objects.as_slice() {
            [one] => format!("{one:#}\n"),
            several => format!("{:#}\n", json!({"apiVersion": "v1", "kind": "List", "items": several})),
        },
    })
}

/// One line for a workload, and one for each warning. Returns how many cannot have a sidecar.
fn tell(Workload { name, outcome }: &Workload, report: &mut String) -> usize {
    let mut line = |text: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(report, "{name}: {text}");
    };
    match outcome {
        Outcome::Injected { warnings } => {
            line("injected");
            warnings.iter().for_each(|warning| line(&format!("warning: {warning}")));
        }
        Outcome::Unchanged => line("injected already"),
        Outcome::Skipped(reason) => line(&format!("skipped: {reason}")),
        Outcome::Refused(reasons) => {
            reasons.iter().for_each(|reason| line(&format!("refused: {reason}")));
            return 1;
        }
    }
    0
}

/// One stream of several files; a single one stays as it is.
fn joined(texts: &[String]) -> String {
    let mut all = String::new();
    for text in texts {
        if !all.is_empty() {
            if !all.ends_with('\n') {
                all.push('\n');
            }
            if !text.starts_with("---") {
                all.push_str("---\n");
            }
        }
        all.push_str(text);
    }
    all
}

/// A file's name and text.
struct Input {
    name: String,
    text: String,
}

impl Input {
    fn read(file: &Path) -> Result<Self, InjectError> {
        let is_stdin = file == Path::new("-");
        let name = if is_stdin { "standard input".to_owned() } else { file.display().to_string() };
        let mut text = String::new();
        let read = if is_stdin {
            io::stdin().lock().take(MAX_BYTES + 1).read_to_string(&mut text)
        } else {
            std::fs::File::open(file).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
        };
        match read {
            Ok(bytes) if u64::try_from(bytes).unwrap_or(u64::MAX) > MAX_BYTES => {
                Err(InjectError::File { file: name, reason: format!("it has more than {MAX_BYTES} bytes") })
            }
            Ok(_) => Ok(Self { name, text }),
            Err(error) => Err(InjectError::File { file: name, reason: error.to_string() }),
        }
    }

    fn mistake(&self, tree::Mistake { line, message }: tree::Mistake) -> InjectError {
        InjectError::Line { file: self.name.clone(), line, message }
    }
}

/// What sidecars are to be like.
fn config(options: &Inject) -> Result<InjectionConfig, InjectError> {
    let Inject { files: _, injection, image, system_namespace, target, output: _ } = options;
    let mut config = match (injection, image) {
        (Some(file), _) => heddle_control_plane::inject::config::read(file)?,
        (None, Some(image)) => InjectionConfig::with_image(image)?,
        (None, None) => of_cluster(target, system_namespace)?,
    };
    if let Some(image) = image {
        config.image = InjectionConfig::with_image(image)?.image;
    }
    Ok(config)
}

fn of_cluster(target: &Target, namespace: &str) -> Result<InjectionConfig, InjectError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| InjectError::File { file: "the runtime".to_owned(), reason: error.to_string() })?;
    let (name, key) = CONFIG_MAP;
    let found = runtime.block_on(async {
        let cluster = Cluster::connect(target).await?;
        let api: Api<ConfigMap> = Api::namespaced(cluster.client(), namespace);
        api.get_opt(name).await.map_err(|error| cluster.failed(format!("read ConfigMap {name} of namespace {namespace}"), &error))
    })?;
    let text = found.and_then(|found| found.data?.remove(key));
    Ok(InjectionConfig::from_yaml(&text.ok_or_else(|| InjectError::NotInstalled { namespace: namespace.to_owned() })?)?)
}

#[cfg(test)]
mod tests;
