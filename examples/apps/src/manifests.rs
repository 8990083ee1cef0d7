//! The examples' manifests, checked against the applications and against each other.

use super::*;
use serde_json::Value;
use std::path::Path;

/// All objects of one example.
struct Example {
    name: &'static str,
    objects: Vec<Value>,
}

fn examples() -> Vec<Example> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let example = |name| {
        let mut objects = Vec::new();
        for entry in std::fs::read_dir(root.join(name)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let text = std::fs::read_to_string(&path).unwrap();
                objects.extend(serde_saphyr::from_multiple::<Value>(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
            }
        }
        Example { name, objects }
    };
    ["canary", "grpc", "tcp"].map(example).into()
}

impl Example {
    fn of_kind(&self, kind: &str) -> Vec<&Value> {
        self.objects.iter().filter(|object| object["kind"] == kind).collect()
    }

    /// Whether there is this port of this Service.
    fn has_port(&self, service: &Value, port: &Value) -> bool {
        self.of_kind("Service").iter().any(|object| {
            object["metadata"]["name"] == *service && object["spec"]["ports"].as_array().unwrap().iter().any(|p| p["port"] == *port)
        })
    }
}

#[test]
fn every_command_is_one_of_ours() {
    for example in examples() {
        let workloads = example.of_kind("LocalWorkload");
        assert!(workloads.len() >= 3, "{}", example.name);
        for workload in workloads {
            let command: Vec<String> = serde_json::from_value(workload["spec"]["command"].clone()).unwrap();
            assert_eq!(command[..2], ["heddle", "example"], "{}", example.name);
            Arguments::try_parse_from(&command[2..]).unwrap_or_else(|error| panic!("{}: {command:?}: {error}", example.name));
        }
    }
}

/// The variables that the manifests promise are those which the applications read: with them, nothing is missing.
#[tokio::test]
async fn every_workload_gets_the_variables_that_it_needs() {
    for example in examples() {
        for workload in example.of_kind("LocalWorkload") {
            let spec = &workload["spec"];
            // A port of which nobody can listen shows that the environment was complete.
            let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = taken.local_addr().unwrap();
            let mut variables = Vec::new();
            if let Some(ports) = spec["ports"].as_array() {
                assert_eq!(ports.len(), 1, "with more ports the variable is not PORT");
                variables.push(("PORT".to_owned(), address.port().to_string()));
            }
            for upstream in spec["upstreams"].as_array().into_iter().flatten() {
                assert!(example.has_port(&upstream["service"], &upstream["port"]), "{}: no Service has {upstream}", example.name);
                let name = upstream["service"].as_str().unwrap().to_ascii_uppercase().replace('-', "_");
                variables.push((format!("{name}_ADDR"), address.to_string()));
            }
            let command: Vec<String> = serde_json::from_value(spec["command"].clone()).unwrap();
            let (stop, shutdown) = Shutdown::new();
            stop.tell();
            let environment = Environment::from_iter(variables);
            match start(command[2..].to_vec(), &environment, shutdown).await {
                Ok(()) => assert!(spec["ports"].is_null(), "{command:?} listens on another port than it is told"),
                Err(AppError::Listen { .. }) => {}
                Err(other) => panic!("{}: {command:?}: {other}", example.name),
            }
        }
    }
}

#[test]
fn services_select_workloads_and_routes_name_services() {
    for example in examples() {
        for service in example.of_kind("Service") {
            let selector = service["spec"]["selector"].as_object().unwrap();
            let target = &service["spec"]["ports"][0]["targetPort"];
            let selected = example.of_kind("LocalWorkload").into_iter().any(|workload| {
                selector.iter().all(|(label, value)| workload["metadata"]["labels"][label] == *value)
                    && workload["spec"]["ports"][0]["name"] == *target
            });
            assert!(selected, "{}: {} selects nothing", example.name, service["metadata"]["name"]);
        }
        for route in [example.of_kind("HTTPRoute"), example.of_kind("GRPCRoute")].concat() {
            for parent in route["spec"]["parentRefs"].as_array().unwrap() {
                assert!(example.has_port(&parent["name"], &parent["port"]), "{}: {parent}", example.name);
            }
            for rule in route["spec"]["rules"].as_array().unwrap() {
                for backend in rule["backendRefs"].as_array().unwrap() {
                    assert!(example.has_port(&backend["name"], &backend["port"]), "{}: {backend}", example.name);
                }
            }
        }
    }
}
