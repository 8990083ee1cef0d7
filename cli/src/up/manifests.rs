//! What the manifests of a directory want of `up`: which workloads run, and which Services select them. Notices when a file changes.

use super::plan::key;
use heddle_crds::core::Service;
use heddle_crds::heddle::LocalWorkload;
use heddle_crds::manifest::{Level, read_dir};
use heddle_crds::object::{Object, ObjectId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The trust domain of a mesh that does not name one.
const TRUST_DOMAIN_DEFAULT: &str = "cluster.local";

/// What is wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Desired {
    /// The workloads, by namespace and name.
    pub(crate) workloads: BTreeMap<(String, String), LocalWorkload>,
    /// The Services.
    pub(crate) services: Vec<Service>,
    /// The trust domain.
    pub(crate) trust_domain: String,
    /// How many objects there are of any kind.
    pub(crate) objects: usize,
    /// The objects that are written wrong, so that they are not here.
    broken: BTreeSet<ObjectId>,
    /// Something is so wrong that nobody knows which objects it is.
    unreadable: bool,
    /// Everything that is wrong, with its place, a sentence each: errors and warnings.
    pub(crate) problems: Vec<String>,
    /// What was left out on purpose, a sentence each.
    pub(crate) notes: Vec<String>,
}

impl Desired {
    /// Reads a directory. Blocks while reading.
    pub(crate) fn read(directory: &Path) -> Self {
        let manifests = read_dir(directory);
        let mut desired = Self { objects: manifests.objects.len(), trust_domain: TRUST_DOMAIN_DEFAULT.to_owned(), ..Self::default() };
        for problem in &manifests.problems {
            match (&problem.object, problem.level) {
                (Some(object), Level::Error) => drop(desired.broken.insert(object.clone())),
                (None, Level::Error) => desired.unreadable = true,
                (_, Level::Warning | Level::Note) => {}
            }
            match problem.level {
                Level::Error | Level::Warning => desired.problems.push(problem.to_string()),
                Level::Note => desired.notes.push(problem.to_string()),
            }
        }
        for located in manifests.objects {
            match located.object {
                Object::LocalWorkload(workload) => {
                    desired.workloads.insert(key(&workload), *workload);
                }
                Object::Service(service) => desired.services.push(*service),
                Object::MeshConfig(config) => desired.trust_domain.clone_from(&config.spec.trust_domain),
                // The control plane's business.
                Object::Namespace(_)
                | Object::ServiceAccount(_)
                | Object::Pod(_)
                | Object::EndpointSlice(_)
                | Object::HttpRoute(_)
                | Object::GrpcRoute(_)
                | Object::TcpRoute(_)
                | Object::TlsRoute(_)
                | Object::ReferenceGrant(_)
                | Object::TrafficPolicy(_)
                | Object::AuthenticationPolicy(_) => {}
            }
        }
        desired
    }

    /// Keeps what an earlier reading had and this one misses only because it is written wrong now: a mistake in an edit ends nothing.
    pub(crate) fn keep_from(&mut self, earlier: &Self) {
        let is_broken = |kind: &str, namespace: &str, name: &str| {
            let id = ObjectId { kind: kind.to_owned(), namespace: Some(namespace.to_owned()), name: name.to_owned() };
            self.unreadable || self.broken.contains(&id)
        };
        let name_of = |service: &Service| {
            let metadata = &service.metadata;
            (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
        };
        let present: BTreeSet<_> = self.services.iter().map(name_of).collect();
        let services = earlier.services.iter().filter(|service| {
            let (namespace, name) = name_of(service);
            is_broken("Service", &namespace, &name) && !present.contains(&(namespace, name))
        });
        let services: Vec<_> = services.cloned().collect();
        let workloads = earlier.workloads.iter().filter(|((namespace, name), _)| is_broken("LocalWorkload", namespace, name));
        let workloads: Vec<_> = workloads.map(|(key, workload)| (key.clone(), workload.clone())).collect();
        self.services.extend(services);
        for (key, workload) in workloads {
            self.workloads.entry(key).or_insert(workload);
        }
    }
}

/// The files of a directory as they were last seen: a change of any shows as a difference of two of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Files(BTreeMap<PathBuf, (u64, Option<SystemTime>)>);

/// Deeper directories are not read as manifests either.
const DEPTH_MAX: usize = 16;

impl Files {
    /// Looks at the manifests (`.yaml`, `.yml`, `.json`) of a directory, and those below. Blocks; opens no file.
    pub(crate) fn look(directory: &Path) -> Self {
        let mut files = BTreeMap::new();
        collect(directory, 0, &mut files);
        Self(files)
    }
}

fn collect(directory: &Path, depth: usize, files: &mut BTreeMap<PathBuf, (u64, Option<SystemTime>)>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().first() == Some(&b'.');
        // Follows links: a mounted ConfigMap changes by the target of one.
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if metadata.is_dir() && !hidden && depth < DEPTH_MAX {
            collect(&path, depth + 1, files);
        } else if path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e.eq_ignore_ascii_case(known))) {
            files.insert(path, (metadata.len(), metadata.modified().ok()));
        }
    }
}

/// Finds changes, and waits until a writer has finished: what two looks in a row saw alike has settled.
#[derive(Debug)]
pub(crate) struct Changes {
    applied: Files,
    last: Files,
}

impl Changes {
    /// Begins with what was read.
    pub(crate) fn since(files: Files) -> Self {
        Self { last: files.clone(), applied: files }
    }

    /// Takes a look; whether there is something new to be read.
    pub(crate) fn look(&mut self, now: Files) -> bool {
        let settled = now == self.last && now != self.applied;
        if settled {
            self.applied = now.clone();
        }
        self.last = now;
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("heddle-manifests-{name}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("below")).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.0.join(name), text).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _gone = std::fs::remove_dir_all(&self.0);
        }
    }

    const WORKLOAD: &str = "apiVersion: heddle.dev/v1alpha1\nkind: LocalWorkload\nmetadata: {name: front}\nspec: {command: [serve]}\n";
    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: front}\nspec: {selector: {app: front}, ports: [{port: 80}]}\n";

    #[test]
    fn a_mistake_costs_its_object_alone() {
        let scratch = Scratch::new("mistake");
        scratch.write("front.yaml", &format!("{WORKLOAD}---\n{SERVICE}"));
        let desired = Desired::read(&scratch.0);
        assert!(desired.problems.is_empty(), "{:?}", desired.problems);
        assert_eq!(desired.services.len(), 1);
        assert_eq!(desired.trust_domain, "cluster.local");
        scratch.write("below/back.yaml", &WORKLOAD.replace("front", "back").replace("command: [serve]", "command: serve"));
        let desired = Desired::read(&scratch.0);
        assert!(desired.problems.iter().any(|problem| problem.contains("back.yaml:4")), "{:?}", desired.problems);
        assert_eq!(desired.workloads.keys().collect::<Vec<_>>(), [&("default".to_owned(), "front".to_owned())]);
    }

    #[test]
    fn a_mistake_in_an_edit_ends_nothing() {
        let scratch = Scratch::new("edit");
        scratch.write("front.yaml", &format!("{WORKLOAD}---\n{SERVICE}"));
        let before = Desired::read(&scratch.0);
        let edits = [
            (WORKLOAD.replace("[serve]", "serve"), 1),
            (SERVICE.replace("port: 80", "port: eighty"), 1),
            (format!("{}---\n{}", WORKLOAD.replace("[serve]", "serve"), SERVICE.replace("port: 80", "port: eighty")), 2),
            ("this: [is not".to_owned(), 2),
            (String::new(), 0),
        ];
        for (edit, kept) in edits {
            scratch.write("front.yaml", &edit);
            let mut after = Desired::read(&scratch.0);
            assert_eq!(after.workloads.len() + after.services.len(), 0, "{edit}");
            after.keep_from(&before);
            assert_eq!(after.workloads.len() + after.services.len(), kept, "{edit}");
        }
    }

    #[test]
    fn a_change_is_told_once_it_has_settled() {
        let scratch = Scratch::new("change");
        scratch.write("a.yaml", "one");
        let mut changes = Changes::since(Files::look(&scratch.0));
        assert!(!changes.look(Files::look(&scratch.0)));
        scratch.write("below/b.yml", "two");
        assert!(!changes.look(Files::look(&scratch.0)));
        assert!(changes.look(Files::look(&scratch.0)));
        assert!(!changes.look(Files::look(&scratch.0)));
        scratch.write("notes.txt", "no manifest");
        scratch.write(".hidden", "neither");
        assert!(!changes.look(Files::look(&scratch.0)) && !changes.look(Files::look(&scratch.0)));
        std::fs::remove_file(scratch.0.join("a.yaml")).unwrap();
        assert!(!changes.look(Files::look(&scratch.0)));
        assert!(changes.look(Files::look(&scratch.0)));
    }
}
