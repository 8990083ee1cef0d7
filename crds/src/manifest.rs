//! Reading manifests: files in, objects and problems out.
//!
//! A mistake costs its object and nothing else: the other documents of the file, and the other files, are read all the
//! same. The steps, one file each: `files` (which files), `tree` (YAML with places), `kinds` (which kind), `decode`
//! (types, unknown fields), `limits` (ranges, lengths, patterns), and the rules between fields beside their kinds.

mod decode;
mod files;
mod json;
mod kinds;
mod limits;
mod problem;
mod suggest;
mod tree;

use std::{
    collections::{HashMap, HashSet, hash_map},
    path::Path,
    sync::Arc,
};

pub use json::{Flaw, JsonObject, read_json};
pub use problem::{Level, Position, Problem};
pub use suggest::nearest;

use self::{
    decode::Finding,
    kinds::{KindInfo, Verdict},
    tree::{Node, Value},
};
use crate::{
    name,
    object::{Object, ObjectId},
};

/// Namespace of objects that name none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Most objects of one reading: the scale that one control plane is built for, with room.
const MAX_OBJECTS: usize = 20_000;
/// Most problems of one reading; nobody reads the thousandth.
const MAX_PROBLEMS: usize = 1_000;

/// What was read.
#[derive(Debug, Default)]
pub struct Manifests {
    /// The objects, in the order of files and lines; each name once.
    pub objects: Vec<Located<Object>>,
    /// What is wrong, in the order of files and lines; at most 1,000.
    pub problems: Vec<Problem>,
}

impl Manifests {
    /// Whether an object, or a file, is not in force.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.level == Level::Error)
    }
}

/// Something read, and where it was written.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// What was read.
    pub object: T,
    /// The file.
    pub file: Arc<Path>,
    /// Where it begins.
    pub position: Position,
    tree: Arc<Node>,
}

impl<T> Located<T> {
    /// The place of a field, such as `spec.rules[0].matches[1].path.value`; of what is around it when it is not written.
    #[must_use]
    pub fn field_position(&self, field_path: &str) -> Position {
        self.tree.position(field_path)
    }
}

/// Reads a directory with its subdirectories (`.yaml`, `.yml`, `.json`), or one file.
///
/// Blocks while reading; at most 2,000 files of 4 MiB. Never fails as a whole: what cannot be read is a problem.
#[must_use]
pub fn read_dir(root: &Path) -> Manifests {
    let mut reader = Reader::default();
    let mut file_problems = Vec::new();
    let paths = files::list(root, &mut file_problems);
    for files::FileProblem { level, path, message } in file_problems {
        reader.file_problem(level, &path, message);
    }
    for path in paths {
        match files::read(&path) {
            Ok(text) => reader.file(&path, &text),
            Err(message) => reader.file_problem(Level::Error, &path, message),
        }
    }
    reader.finish()
}

/// Reads the text of one manifest; `file` is what problems call it.
#[must_use]
pub fn read_str(file: &Path, text: &str) -> Manifests {
    let mut reader = Reader::default();
    reader.file(file, text);
    reader.finish()
}

/// The state of one reading.
#[derive(Default)]
struct Reader {
    manifests: Manifests,
    /// Where each object was first written.
    seen: HashMap<ObjectId, (Arc<Path>, Position)>,
}

impl Reader {
    fn finish(mut self) -> Manifests {
        self.manifests.problems.sort_by(|a, b| (&a.file, a.position).cmp(&(&b.file, b.position)));
        self.manifests.problems.truncate(MAX_PROBLEMS);
        self.manifests
    }

    fn file_problem(&mut self, level: Level, path: &Path, message: String) {
        self.manifests.problems.push(Problem {
            level,
            file: Arc::from(path),
            position: None,
            object: None,
            field_path: String::new(),
            message,
        });
    }

    fn file(&mut self, path: &Path, text: &str) {
        let file: Arc<Path> = Arc::from(path);
        for document in tree::documents(text) {
            let object = document.root.as_ref().or(document.beginning.as_ref()).and_then(identify);
            let refused = !document.errors.is_empty();
            for error in document.errors {
                self.problem(&file, Level::Error, error.at, object.clone(), "", error.message);
            }
            // An object with two values for one key says two things: neither is in force.
            if let Some(root) = document.root
                && !refused
            {
                self.root(&file, root);
            }
        }
    }

    /// An object, or a list of objects.
    fn root(&mut self, file: &Arc<Path>, mut root: Node) {
        let is_list = root.field("kind").and_then(Node::text).is_some_and(|kind| kind.ends_with("List")) && root.field("items").is_some();
        if !is_list {
            self.object(file, root);
            return;
        }
        let Value::Map(entries) = &mut root.value else { return };
        let items = entries.iter_mut().find(|entry| entry.key == "items");
        match items.map(|entry| (entry.place(), std::mem::replace(&mut entry.value.value, Value::List(Vec::new())))) {
            Some((_, Value::List(items))) => {
                for item in items {
                    self.root(file, item);
                }
            }
            Some((at, Value::Scalar(_) | Value::Map(_))) => {
                self.problem(file, Level::Error, at, None, "items", "expected a list".to_owned());
            }
            None => {}
        }
    }

    fn object(&mut self, file: &Arc<Path>, node: Node) {
        let at = node.at;
        let (api_version, kind) = match type_of(&node) {
            Ok(found) => found,
            Err((level, field, message)) => {
                self.problem(file, level, node.position(field), identify(&node), field, message);
                return;
            }
        };
        let (level, message) = match kinds::find(api_version, kind) {
            Verdict::Read(info) => {
                self.known_object(file, info, node);
                return;
            }
            Verdict::Ignore => return,
            Verdict::Note(message) => (Level::Note, message),
            Verdict::Refuse(message) => (Level::Error, message),
        };
        let field = if level == Level::Error { "apiVersion" } else { "" };
        let field = if message.starts_with("unknown kind") { "kind" } else { field };
        let at = if field.is_empty() { at } else { node.position(field) };
        self.problem(file, level, at, identify(&node), field, message);
    }

    fn known_object(&mut self, file: &Arc<Path>, info: &KindInfo, node: Node) {
        let mut findings = Vec::new();
        let object = read_object(info, &node, &mut findings);
        let id = object.as_ref().map(Object::id).or_else(|| identify(&node));
        for Finding { level, at, field_path, message } in findings {
            self.problem(file, level, at, id.clone(), &field_path, message);
        }
        let (Some(object), Some(id)) = (object, id) else { return };
        let position = node.at;
        match self.seen.entry(id.clone()) {
            hash_map::Entry::Occupied(first) => {
                let (first_file, first_position) = first.get();
                let message = format!("is there already, in {}:{first_position}; this one is not in force", first_file.display());
                self.problem(file, Level::Error, position, Some(id), "", message);
                return;
            }
            hash_map::Entry::Vacant(slot) => {
                slot.insert((Arc::clone(file), position));
            }
        }
        if self.manifests.objects.len() == MAX_OBJECTS {
            let message = format!("there are more than {MAX_OBJECTS} objects; this one and all later ones are not in force");
            self.problem(file, Level::Error, position, Some(id), "", message);
        } else if self.manifests.objects.len() < MAX_OBJECTS {
            let tree = Arc::new(node);
            self.manifests.objects.push(Located { object, file: Arc::clone(file), position, tree });
        }
    }

    fn problem(&mut self, file: &Arc<Path>, level: Level, at: Position, object: Option<ObjectId>, field_path: &str, message: String) {
        if self.manifests.problems.len() >= MAX_PROBLEMS {
            return;
        }
        self.manifests.problems.push(Problem {
            level,
            file: Arc::clone(file),
            position: Some(at),
            object,
            field_path: field_path.to_owned(),
            message,
        });
    }
}

/// `apiVersion` and `kind`, or what is wrong with them.
fn type_of(node: &Node) -> Result<(&str, &str), (Level, &'static str, String)> {
    if !matches!(node.value, Value::Map(_)) {
        return Err((Level::Error, "", "expected an object (a mapping with apiVersion, kind and metadata)".to_owned()));
    }
    let text = |field: &'static str| match node.field(field) {
        Some(value) => match value.text() {
            Some(text) => Ok(Some(text)),
            None => Err((Level::Error, field, "expected a string".to_owned())),
        },
        None => Ok(None),
    };
    match (text("apiVersion")?, text("kind")?) {
        (Some(api_version), Some(kind)) => Ok((api_version, kind)),
        (None, None) => {
            let message = "is not a Kubernetes object: it has neither apiVersion nor kind; it is skipped";
            Err((Level::Warning, "", message.to_owned()))
        }
        (None, Some(_)) => Err((Level::Error, "apiVersion", "is required, but missing".to_owned())),
        (Some(_), None) => Err((Level::Error, "kind", "is required, but missing".to_owned())),
    }
}

/// The name of an object that may be no more than half of one.
fn identify(node: &Node) -> Option<ObjectId> {
    let kind = node.field("kind")?.text()?;
    let metadata = node.field("metadata")?;
    let name = metadata.field("name")?.text()?;
    let namespace = metadata.field("namespace").and_then(Node::text);
    let namespace = match kinds::is_namespaced(kind) {
        Some(true) => Some(namespace.unwrap_or(DEFAULT_NAMESPACE).to_owned()),
        Some(false) => None,
        None => namespace.map(str::to_owned),
    };
    Some(ObjectId { kind: kind.to_owned(), namespace, name: name.to_owned() })
}

/// Decodes and checks one object. Without errors in `findings` there is one.
fn read_object(info: &KindInfo, node: &Node, findings: &mut Vec<Finding>) -> Option<Object> {
    check_names(info, node, findings);
    let mut decoding = Vec::new();
    let decoded = (info.decode)(node, &mut decoding);
    add_news(findings, decoding);
    if let (Some(limits), Some(spec)) = (info.limits, node.field("spec")) {
        let mut broken = Vec::new();
        limits.check(spec, node.position("spec"), "spec", &mut broken);
        add_news(findings, broken);
    }
    let mut object = decoded?;
    findings.extend(object.mistakes().into_iter().map(|mistake| Finding {
        level: Level::Error,
        at: node.position(&mistake.field_path),
        field_path: mistake.field_path.into_owned(),
        message: mistake.message,
    }));
    if findings.iter().any(|finding| finding.level == Level::Error) {
        return None;
    }
    let meta = object.meta_mut();
    if info.namespaced {
        meta.namespace.get_or_insert_with(|| DEFAULT_NAMESPACE.to_owned());
    } else {
        meta.namespace = None;
    }
    object.clear_status();
    Some(object)
}

/// Adds what is found at fields without an error so far: what has the wrong type also breaks limits.
fn add_news(findings: &mut Vec<Finding>, more: Vec<Finding>) {
    let old: HashSet<String> = findings.iter().filter(|found| found.level == Level::Error).map(|found| found.field_path.clone()).collect();
    findings.extend(more.into_iter().filter(|found| !old.contains(&found.field_path)));
}

/// The rules for names, which Kubernetes has its API server check (RFC 1123).
fn check_names(info: &KindInfo, node: &Node, findings: &mut Vec<Finding>) {
    let mut error = |field: &str, message: String| {
        let at = node.position(field);
        findings.push(Finding { level: Level::Error, at, field_path: field.to_owned(), message });
    };
    let Some(metadata) = node.field("metadata").filter(|metadata| !metadata.is_null()) else {
        error("metadata", "is required, but missing".to_owned());
        return;
    };
    match metadata.field("name") {
        Some(value) if !value.is_null() => {
            if let Some(text) = value.text() {
                check_name(info.label_names, text).into_iter().for_each(|message| error("metadata.name", message));
            }
        }
        Some(_) | None => {
            let message = if metadata.field("generateName").is_some() {
                "is required: names are generated in a cluster only"
            } else {
                "is required, but missing"
            };
            error("metadata.name", message.to_owned());
        }
    }
    if let Some(namespace) = metadata.field("namespace").and_then(Node::text) {
        if info.namespaced {
            check_name(true, namespace).into_iter().for_each(|message| error("metadata.namespace", message));
        } else {
            let message = format!("{} has no namespace; it has no effect", info.kind);
            let at = node.position("metadata.namespace");
            findings.push(Finding { level: Level::Warning, at, field_path: "metadata.namespace".to_owned(), message });
        }
    }
}

fn check_name(label: bool, text: &str) -> Option<String> {
    let (good, form, max) = if label {
        (name::is_label(text), "lower-case letters, digits and '-'", name::MAX_LABEL)
    } else {
        (name::is_subdomain(text), "lower-case letters, digits, '-' and '.'", name::MAX_SUBDOMAIN)
    };
    (!good).then(|| {
        let text = decode::shorten(text);
        format!("{text:?} is not a valid name: 1 to {max} {form}, beginning and ending with a letter or digit (RFC 1123)")
    })
}
