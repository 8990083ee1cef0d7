//! An API server of one page: lists in pages, watches with bookmarks, versions that are forgotten, kinds that come and go.

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::StatusCode;
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::broadcast;

type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

/// How many events a watch may be behind.
const BACKLOG: usize = 1024;

/// The server. Clones are the same one.
#[derive(Clone)]
pub(super) struct Server(Arc<Mutex<State>>);

struct State {
    /// The last change.
    version: u64,
    /// By path (`/api/v1/pods`), namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    /// What is served, by group and version.
    served: BTreeMap<String, BTreeSet<String>>,
    /// All events so far, by path.
    history: Vec<(u64, String, Value)>,
    /// Versions before this one are forgotten.
    forgotten: u64,
    /// How often a watch was refused for that.
    gone: usize,
    events: broadcast::Sender<Told>,
    /// Groups' versions that are not told of, and what is answered.
    hidden: BTreeMap<String, u16>,
    /// Paths that are refused, and with which status.
    refused: BTreeMap<String, u16>,
    /// What was asked for, by path: lists, pages after the first, and watches.
    asked: BTreeMap<String, [usize; 3]>,
}

/// What a watch is told.
#[derive(Clone)]
enum Told {
    Event(String, Value),
    /// Every connection is cut: in the middle of a line, or at the end of one.
    Cut,
}

impl Server {
    /// Serves the kinds of Kubernetes itself.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            version: 100,
            objects: BTreeMap::new(),
            served: BTreeMap::new(),
            history: Vec::new(),
            forgotten: 0,
            gone: 0,
            events: broadcast::channel(BACKLOG).0,
            hidden: BTreeMap::new(),
            refused: BTreeMap::new(),
            asked: BTreeMap::new(),
        })))
    }

    pub(super) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let answer = server.answer(request.uri());
            async move { Ok::<_, Infallible>(answer) }
        });
        Client::new(service, "default")
    }

    /// Installs the definitions of kinds.
    pub(super) fn install(&self, group_version: &str, plurals: &[&str]) {
        let plurals = plurals.iter().map(|plural| (*plural).to_owned());
        self.state().served.entry(group_version.to_owned()).or_default().extend(plurals);
    }

    /// Removes all definitions of a group's version, with the objects.
    pub(super) fn uninstall(&self, group_version: &str) {
        let mut state = self.state();
        state.served.remove(group_version);
        let prefix = format!("/apis/{group_version}/");
        state.objects.retain(|(path, _, _), _| !path.starts_with(&prefix));
        state.told(Told::Cut);
    }

    /// Creates or replaces an object.
    pub(super) fn put(&self, path: &str, mut object: Value) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let key = key_of(path, &object);
        let kind = if state.objects.insert(key, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        state.record(path, json!({"type": kind, "object": object}));
    }

    /// Deletes an object.
    pub(super) fn delete(&self, path: &str, namespace: &str, name: &str) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let mut object = state.objects.remove(&(path.to_owned(), namespace.to_owned(), name.to_owned())).unwrap();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        state.record(path, json!({"type": "DELETED", "object": object}));
    }

    /// Does something that nobody hears of in time: all watches are cut, and what happened until now is forgotten.
    pub(super) fn unheard(&self, something: impl FnOnce(&Self)) {
        let events = std::mem::replace(&mut self.state().events, broadcast::channel(BACKLOG).0);
        something(self);
        let mut state = self.state();
        state.version += 1;
        state.forgotten = state.version;
        // The watches that were open end only now, so that none of them begins before all is forgotten.
        let _ = events.send(Told::Cut);
    }

    /// Cuts all connections.
    pub(super) fn cut(&self) {
        self.state().told(Told::Cut);
    }

    /// Tells all watches of a path which version it is, without any change.
    pub(super) fn bookmark(&self, path: &str) {
        let mut state = self.state();
        state.version += 1;
        let object = json!({"kind": "Bookmark", "apiVersion": "v1", "metadata": {"resourceVersion": state.version.to_string()}});
        state.told(Told::Event(path.to_owned(), json!({"type": "BOOKMARK", "object": object})));
    }

    /// Forgets what happened until now; open watches go on.
    pub(super) fn forget(&self) {
        let mut state = self.state();
        state.forgotten = state.version;
    }

    /// Refuses lists and watches of a path from now on; 0: not any more.
    pub(super) fn refuse(&self, path: &str, status: u16) {
        let mut state = self.state();
        if status == 0 {
            state.refused.remove(path);
        } else {
            state.refused.insert(path.to_owned(), status);
        }
    }

    /// Says, although it is served, that a group's version is not; or not any more.
    pub(super) fn hide(&self, group_version: &str, is_hidden: bool) {
        if is_hidden {
            self.hide_with(group_version, 404);
        } else {
            self.state().hidden.remove(group_version);
        }
    }

    /// Answers with a status when asked about a group's version.
    pub(super) fn hide_with(&self, group_version: &str, status: u16) {
        self.state().hidden.insert(group_version.to_owned(), status);
    }

    /// How many lists, further pages and watches were asked for.
    pub(super) fn asked(&self, path: &str) -> [usize; 3] {
        self.state().asked.get(path).copied().unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn answer(&self, uri: &http::Uri) -> http::Response<AnyBody> {
        let path = uri.path().to_owned();
        let query: BTreeMap<&str, &str> = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
        let mut state = self.state();
        if let Some(group_version) = path.strip_prefix("/apis/").filter(|rest| rest.matches('/').count() == 1) {
            return state.resources(group_version);
        }
        let asked = state.asked.entry(path.clone()).or_default();
        asked[if query.contains_key("watch") { 2 } else { usize::from(query.contains_key("continue")) }] += 1;
        if let Some(status) = state.refused.get(&path) {
            return status_answer(*status, "Refused");
        }
        if !state.is_served(&path) {
            return status_answer(404, "NotFound");
        }
        if query.contains_key("watch") { state.watch(&path, &query) } else { state.list(&path, &query) }
    }
}

impl State {
    fn told(&self, told: Told) {
        let _ = self.events.send(told);
    }

    fn record(&mut self, path: &str, event: Value) {
        self.history.push((self.version, path.to_owned(), event.clone()));
        self.told(Told::Event(path.to_owned(), event));
    }

    fn is_served(&self, path: &str) -> bool {
        match path.strip_prefix("/apis/").and_then(|rest| rest.rsplit_once('/')) {
            None | Some(("discovery.k8s.io/v1", _)) => true,
            Some((group_version, plural)) => self.served.get(group_version).is_some_and(|served| served.contains(plural)),
        }
    }

    fn resources(&mut self, group_version: &str) -> http::Response<AnyBody> {
        self.asked.entry(group_version.to_owned()).or_default()[0] += 1;
        if let Some(status) = self.hidden.get(group_version) {
            return status_answer(*status, "Hidden");
        }
        let Some(served) = self.served.get(group_version) else { return status_answer(404, "NotFound") };
        let resource = |plural: &String| json!({"name": plural, "singularName": "", "namespaced": true, "kind": plural, "verbs": ["get", "list", "watch"]});
        let resources: Vec<_> = served.iter().map(resource).collect();
        answer(200, &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}))
    }

    fn list(&self, path: &str, query: &BTreeMap<&str, &str>) -> http::Response<AnyBody> {
        let limit: usize = query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
        let first: usize = query.get("continue").map_or(0, |at| at.parse().unwrap());
        let all: Vec<_> = self.objects.iter().filter(|((of, _, _), _)| of == path).map(|(_, object)| object).collect();
        let page: Vec<_> = all.iter().skip(first).take(limit).collect();
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if first + page.len() < all.len() {
            metadata["continue"] = json!((first + page.len()).to_string());
        }
        answer(200, &json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": page}))
    }

    fn watch(&mut self, path: &str, query: &BTreeMap<&str, &str>) -> http::Response<AnyBody> {
        let from: u64 = query["resourceVersion"].parse().unwrap();
        if from < self.forgotten {
            // An API server says so in either way.
            let status = status_of(410, "Expired");
            self.gone += 1;
            return if self.gone.is_multiple_of(2) {
                answer(410, &status)
            } else {
                answer(200, &json!({"type": "ERROR", "object": status}))
            };
        }
        let missed: Vec<_> = self.history.iter().filter(|(at, of, _)| *at > from && of == path).map(|(_, _, event)| line(event)).collect();
        let path = path.to_owned();
        let later = stream::unfold((self.events.subscribe(), false), move |(mut events, is_cut)| {
            let path = path.clone();
            async move {
                if is_cut {
                    return None;
                }
                loop {
                    match events.recv().await {
                        Ok(Told::Event(of, event)) if of == path => return Some((Ok(Frame::data(line(&event))), (events, false))),
                        Ok(Told::Event(..)) => {}
                        // The end of a line never comes.
                        Ok(Told::Cut) => return Some((Ok(Frame::data(Bytes::from_static(b"{\"type\":\"ADD"))), (events, true))),
                        Err(_) => return None,
                    }
                }
            }
        });
        let body = StreamBody::new(stream::iter(missed).map(|line| Ok(Frame::data(line))).chain(later));
        http::Response::builder().status(StatusCode::OK).body(body.boxed_unsync()).unwrap()
    }
}

fn key_of(path: &str, object: &Value) -> (String, String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (path.to_owned(), text("namespace"), text("name"))
}

fn line(event: &Value) -> Bytes {
    Bytes::from(format!("{event}\n"))
}

fn answer(status: u16, body: &Value) -> http::Response<AnyBody> {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {});
    http::Response::builder().status(status).body(body.boxed_unsync()).unwrap()
}

fn status_answer(code: u16, reason: &str) -> http::Response<AnyBody> {
    answer(code, &status_of(code, reason))
}

fn status_of(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no", "reason": reason, "code": code})
}
