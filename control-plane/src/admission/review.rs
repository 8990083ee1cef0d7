//! The question of the API server and our answer: `AdmissionReview` of `admission.k8s.io/v1`.
//!
//! The object stays JSON: a typed one would lose the fields that our version of the types does not know.

use super::metrics::Verdict;
use crate::inject::merge::diff;
use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::{Value, json};

/// The only version that is asked for.
const API_VERSION: &str = "admission.k8s.io/v1";

/// Longest warning, in bytes, and most of them: the API server cuts at 256 and at 4096 together.
const MAX_WARNING: usize = 256;
const MAX_WARNINGS: usize = 16;

/// What is asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionRequest {
    /// Names the question in its answer.
    pub uid: String,
    /// The kind of the object, in the version in which it is sent.
    pub kind: GroupVersionKind,
    /// Such as `status`; empty for the object itself.
    #[serde(default)]
    pub sub_resource: Option<String>,
    /// The object's name; empty while it is to be generated.
    #[serde(default)]
    pub name: String,
    /// The namespace; the object itself often does not say it yet.
    #[serde(default)]
    pub namespace: Option<String>,
    /// What is done.
    pub operation: Operation,
    /// The object as it would be; none when it is deleted.
    #[serde(default)]
    pub object: Option<Value>,
    /// The object as it is; none when it is created.
    #[serde(default)]
    pub old_object: Option<Value>,
    /// Whether nothing will come of it: then nothing else may be changed either.
    #[serde(default)]
    pub dry_run: bool,
}

/// A kind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GroupVersionKind {
    /// Empty for Kubernetes' core.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// Such as `Pod`.
    pub kind: String,
}

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Operation {
    /// It is made.
    Create,
    /// It is changed.
    Update,
    /// It is removed.
    Delete,
    /// Something connects to it.
    Connect,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Option<AdmissionRequest>,
}

impl AdmissionRequest {
    /// Reads a review.
    ///
    /// # Errors
    /// A sentence: it is another kind, another version, or no question.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let Review { api_version, kind, request } =
            serde_json::from_slice(body).map_err(|error| format!("this is no AdmissionReview: {error}"))?;
        if kind != "AdmissionReview" || api_version != API_VERSION {
            return Err(format!("expected an AdmissionReview of {API_VERSION}, found {kind} of {api_version}"));
        }
        request.ok_or_else(|| "the AdmissionReview has no request".to_owned())
    }

    /// What people call the object: `Pod shop/web`. A generated name is shown as far as it is known.
    pub(super) fn subject(&self) -> String {
        let metadata = |field: &str| self.object.as_ref()?.get("metadata")?.get(field)?.as_str();
        let name = match (self.name.as_str(), metadata("name"), metadata("generateName")) {
            ("", None | Some(""), Some(prefix)) => format!("{prefix}…"),
            ("", Some(name), _) => name.to_owned(),
            (name, _, _) => name.to_owned(),
        };
        match self.namespace.as_deref() {
            Some(namespace) if !namespace.is_empty() => format!("{} {namespace}/{name}", self.kind.kind),
            Some(_) | None => format!("{} {name}", self.kind.kind),
        }
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    uid: String,
    result: Result<Option<json_patch::Patch>, Denial>,
    warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Denial {
    code: u16,
    reason: &'static str,
    message: String,
}

impl Answer {
    /// It may be as it is.
    pub(super) fn allowed(uid: String) -> Self {
        Self { uid, result: Ok(None), warnings: Vec::new() }
    }

    /// It may be, with these changes.
    pub(super) fn patched(uid: String, old: &Value, new: &Value) -> Self {
        Self { uid, result: Ok(Some(diff(old, new))), warnings: Vec::new() }
    }

    /// It may not be, because of a rule.
    pub(super) fn refused(uid: String, message: String) -> Self {
        Self { uid, result: Err(Denial { code: 403, reason: "Forbidden", message }), warnings: Vec::new() }
    }

    /// It is not what its kind should be.
    pub(super) fn invalid(uid: String, message: String) -> Self {
        Self { uid, result: Err(Denial { code: 422, reason: "Invalid", message }), warnings: Vec::new() }
    }

    /// It may not be now; later it may.
    pub(super) fn unavailable(uid: String, message: String) -> Self {
        Self { uid, result: Err(Denial { code: 503, reason: "ServiceUnavailable", message }), warnings: Vec::new() }
    }

    /// With what the author should know.
    pub(super) fn warning(mut self, warnings: impl IntoIterator<Item = String>) -> Self {
        self.warnings.extend(warnings);
        self
    }

    pub(super) fn verdict(&self) -> Verdict {
        match &self.result {
            Ok(None) => Verdict::Allowed,
            Ok(Some(_)) => Verdict::Injected,
            Err(Denial { code: 503, .. }) => Verdict::Unavailable,
            Err(_) => Verdict::Refused,
        }
    }

    /// The review to send.
    pub fn to_json(&self) -> Value {
        let Self { uid, result, warnings } = self;
        let mut response = json!({"uid": uid, "allowed": result.is_ok()});
        match result {
            Ok(None) => {}
            Ok(Some(patch)) => {
                response["patchType"] = json!("JSONPatch");
                response["patch"] = json!(ByteString(json!(patch).to_string().into_bytes()));
            }
            Err(Denial { code, reason, message }) => {
                response["status"] = json!({"status": "Failure", "code": code, "reason": reason, "message": message});
            }
        }
        if !warnings.is_empty() {
            response["warnings"] = warnings.iter().take(MAX_WARNINGS).map(|warning| cut(warning)).collect();
        }
        json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
    }
}

/// A warning that is not cut in the middle of a character.
fn cut(warning: &str) -> Value {
    const MARK: &str = "…";
    if warning.len() <= MAX_WARNING {
        return json!(warning);
    }
    json!(format!("{}{MARK}", &warning[..warning.floor_char_boundary(MAX_WARNING - MARK.len())]))
}
