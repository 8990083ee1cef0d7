//! Objects that tests make: pods of the test application in every kind of workload, Services, routes and policies.

use super::merge;
use serde_json::{Value, json};

/// The image of the test application, as `tests/apps/images` makes it.
pub const IMAGE: &str = "heddle-test-app:test";
/// Where the test application serves HTTP/1.1, HTTP/2 and gRPC.
pub const HTTP: u16 = 8080;
/// Where it answers tests, past the mesh.
pub const ADMIN: u16 = 9999;

/// A pod, or a template of pods, of the test application.
#[derive(Debug, Clone)]
pub struct Workload {
    namespace: String,
    name: String,
    metadata: Value,
    spec: Value,
    container: Value,
}

impl Workload {
    /// Runs the test application with these arguments.
    pub fn new(namespace: &str, name: &str, args: &[&str]) -> Self {
        let container = json!({
            "name": "app",
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "args": args,
            // An ordinary application: no user of its own choice that could be the sidecar's, and no privilege.
            "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "allowPrivilegeEscalation": false},
        });
        let metadata = json!({
            "labels": {"app": name},
            // Tests ask the application itself, in strict mode too.
            "annotations": {"heddle.dev/exclude-inbound-ports": ADMIN.to_string()},
        });
        let spec = json!({"terminationGracePeriodSeconds": 30});
        Self { namespace: namespace.to_owned(), name: name.to_owned(), metadata, spec, container }
    }

    /// A server, ready when it says so; its name is also what it calls itself.
    pub fn server(namespace: &str, name: &str) -> Self {
        let http = HTTP.to_string();
        let probe = json!({"httpGet": {"path": "/healthz", "port": HTTP}, "periodSeconds": 1, "failureThreshold": 1});
        Self::new(namespace, name, &["serve", "--name", name, "--http", &http]).container(&json!({
            "readinessProbe": probe,
            "ports": [{"name": "http", "containerPort": HTTP}],
        }))
    }

    /// A client under way (`load`), with these arguments after the command's name.
    pub fn client(namespace: &str, name: &str, args: &[&str]) -> Self {
        let args: Vec<&str> = std::iter::once("load").chain(args.iter().copied()).collect();
        Self::new(namespace, name, &args)
    }

    /// Another label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.metadata["labels"][name] = value.into();
        self
    }

    /// An annotation; `heddle.dev/` is to be written out.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.metadata["annotations"][name] = value.into();
        self
    }

    /// Fields of the pod's spec.
    #[must_use]
    pub fn spec(mut self, patch: &Value) -> Self {
        merge(&mut self.spec, patch);
        self
    }

    /// Fields of the container.
    #[must_use]
    pub fn container(mut self, patch: &Value) -> Self {
        merge(&mut self.container, patch);
        self
    }

    /// A service account of the namespace, which is to be there.
    #[must_use]
    pub fn account(self, name: &str) -> Self {
        self.spec(&json!({"serviceAccountName": name}))
    }

    fn template(&self) -> Value {
        let mut spec = self.spec.clone();
        spec["containers"] = json!([self.container]);
        json!({"metadata": self.metadata, "spec": spec})
    }

    fn object(&self, api_version: &str, kind: &str, spec: Value) -> Value {
        json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": self.name, "namespace": self.namespace}, "spec": spec})
    }

    fn selector(&self) -> Value {
        json!({"matchLabels": self.metadata["labels"]})
    }

    /// A bare pod.
    pub fn pod(&self) -> Value {
        let template = self.template();
        let mut pod = self.object("v1", "Pod", template["spec"].clone());
        merge(&mut pod["metadata"], &self.metadata);
        pod
    }

    /// A Deployment. Its rolling update brings a new pod before it takes an old one, whatever the number.
    pub fn deployment(&self, replicas: u32) -> Value {
        self.object(
            "apps/v1",
            "Deployment",
            json!({
                "replicas": replicas,
                "selector": self.selector(),
                "template": self.template(),
                "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            }),
        )
    }

    /// A StatefulSet behind the headless Service of its own name.
    pub fn stateful_set(&self, replicas: u32) -> Value {
        let spec = json!({"replicas": replicas, "serviceName": self.name, "selector": self.selector(), "template": self.template()});
        self.object("apps/v1", "StatefulSet", spec)
    }

    /// A DaemonSet.
    pub fn daemon_set(&self) -> Value {
        self.object("apps/v1", "DaemonSet", json!({"selector": self.selector(), "template": self.template()}))
    }

    /// A Job that is tried once.
    pub fn job(&self) -> Value {
        let mut template = self.template();
        template["spec"]["restartPolicy"] = "Never".into();
        self.object("batch/v1", "Job", json!({"backoffLimit": 0, "template": template}))
    }

    /// A CronJob, each minute.
    pub fn cron_job(&self) -> Value {
        let job = self.job();
        self.object("batch/v1", "CronJob", json!({"schedule": "* * * * *", "jobTemplate": {"spec": job["spec"]}}))
    }
}

/// A Service for pods with the label `app`, with these ports: name, port, `appProtocol`; all of them lead to the port [`HTTP`].
pub fn service(namespace: &str, name: &str, app: &str, ports: &[(&str, u16, &str)]) -> Value {
    let ports: Vec<_> = ports
        .iter()
        .map(|(name, port, protocol)| json!({"name": name, "port": port, "targetPort": HTTP, "appProtocol": protocol}))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": app}, "ports": ports},
    })
}

/// The ports of [`service`] for all that the test application speaks.
pub const ALL_PORTS: [(&str, u16, &str); 3] = [("http", 80, "http"), ("h2c", 81, "kubernetes.io/h2c"), ("grpc", 82, "grpc")];

/// A service account.
pub fn account(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})
}

/// A route of `kind` (`HTTPRoute`, `GRPCRoute`) for a port of a Service, with one rule that splits by weight.
pub fn split(namespace: &str, kind: &str, name: &str, (service, port): (&str, u16), backends: &[(&str, u32)]) -> Value {
    let backends: Vec<_> = backends.iter().map(|(name, weight)| json!({"name": name, "port": port, "weight": weight})).collect();
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": service, "port": port}],
            "rules": [{"backendRefs": backends}],
        },
    })
}

/// Accepts only the mesh's own TLS, in the whole namespace.
pub fn strict(namespace: &str) -> Value {
    json!({
        "apiVersion": "heddle.dev/v1alpha1",
        "kind": "AuthenticationPolicy",
        "metadata": {"name": "strict", "namespace": namespace},
        "spec": {"targetRefs": [{"group": "", "kind": "Namespace", "name": namespace}], "mtls": {"mode": "Strict"}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_carry_labels_and_a_job_ends() {
        let server = Workload::server("n", "v1").label("version", "1");
        let deployment = server.deployment(3);
        assert_eq!(deployment["spec"]["selector"]["matchLabels"], deployment["spec"]["template"]["metadata"]["labels"]);
        assert_eq!(server.pod()["metadata"]["labels"], json!({"app": "v1", "version": "1"}));
        assert_eq!(server.pod()["metadata"]["name"], "v1");
        let cron_job = server.cron_job();
        assert_eq!(cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["restartPolicy"], "Never");
    }
}
