//! Where to reach a replica, for people.

use super::plan::{Replica, called};
use crate::text::{Line, Style};

/// The lines about one replica: its application, the Services that it calls, and its sidecar.
pub(crate) fn lines(replica: &Replica) -> Vec<Line> {
    let name = replica.id();
    let name = name.strip_prefix("default/").unwrap_or(&name);
    let mut lines = Vec::new();
    let mut add = |what: String, place: String, note: String| {
        let mut line = Line::new(Style::Bold, format!("  {:<18}", if lines.is_empty() { name } else { "" }));
        line.push(Style::Plain, format!(" {what:<24} {place}"));
        line.push(Style::Dim, note);
        lines.push(line);
    };
    for port in &replica.ports {
        let scheme = if speaks_http(&port.name) { "http://" } else { "" };
        let through = format!("   (through its sidecar: {})", called(port.listen));
        add(format!("{} {}", port.name, port.port), format!("{scheme}{}", called(port.application)), through);
    }
    for upstream in &replica.upstreams {
        let of = if upstream.namespace == replica.namespace { String::new() } else { format!(".{}", upstream.namespace) };
        add(format!("calls {}{of}:{}", upstream.service, upstream.port), called(upstream.listen).to_string(), String::new());
    }
    add("sidecar".to_owned(), format!("http://{}/metrics", called(replica.admin)), String::new());
    lines
}

/// Whether a browser could open a port of this name.
fn speaks_http(port: &str) -> bool {
    port == "http" || port.starts_with("http-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::plan::tests::replica;

    #[test]
    fn every_place_of_a_replica_is_listed() {
        let shown: Vec<_> = lines(&replica()).iter().map(|line| line.render(120, false)).collect();
        assert_eq!(
            shown,
            [
                "  reviews-v1-0       http 8080                http://127.0.0.1:20000   (through its sidecar: 127.0.0.1:20001)",
                "                     admin 9090               127.0.0.1:20002   (through its sidecar: 127.0.0.1:20003)",
                "                     calls my-ratings.shop:80 127.0.0.1:20004",
                "                     sidecar                  http://127.0.0.1:20005/metrics",
            ]
        );
    }
}
