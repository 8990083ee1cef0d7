//! HAProxy's configuration: one thread, server connections shared as much as it can, no log.

use std::path::PathBuf;

use anyhow::Result;

use super::Hop;
use crate::certs::Side;
use crate::client::Protocol;
use crate::process::{Argv, argv};

/// Writes the configuration of one proxy and gives its command.
pub(super) fn command(program: PathBuf, hop: Hop<'_>) -> Result<Argv> {
    let (mode, reuse) = match hop.protocol {
        Protocol::Http1 | Protocol::Grpc => ("http", "http-reuse always"),
        Protocol::Tcp => ("tcp", ""),
    };
    let root = hop.certs.root();
    let combined = hop.certs.combined(hop.side);
    let (root, combined) = (root.display(), combined.display());
    let (bind_tls, server_tls) = match hop.side {
        Side::Client => {
            let alpn = alpn(hop.protocol);
            let name = Side::Server.dns_name();
            let verify = format!("verify required verifyhost {name} sni str({name})");
            let tls = format!(" ssl crt {combined} ca-file {root} {verify} ssl-min-ver TLSv1.3{alpn}");
            (String::new(), tls)
        }
        Side::Server => {
            let alpn = alpn(hop.protocol);
            let tls = format!(" ssl crt {combined} ca-file {root} verify required ssl-min-ver TLSv1.3{alpn}");
            (tls, String::new())
        }
    };
    // Where there is no ALPN that would say it, HTTP/2 is known beforehand.
    let h2 = |tls: &str| if hop.protocol == Protocol::Grpc && tls.is_empty() { " proto h2" } else { "" };
    let (bind_h2, server_h2) = (h2(&bind_tls), h2(&server_tls));
    let (listen, connect) = (hop.listen, hop.connect);
    let text = format!(
        "global
  nbthread 1
  maxconn 12000
  no strict-limits
defaults
  mode {mode}
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend in
  bind {listen} backlog 4096{bind_tls}{bind_h2}
  default_backend next
backend next
  {reuse}
  server next {connect}{server_tls}{server_h2}
"
    );
    let file = hop.write("haproxy", &text)?;
    let mut command = argv([program]);
    command.extend(argv(["-db".into(), "-f".into(), file]));
    Ok(command)
}

fn alpn(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http1 => " alpn http/1.1",
        Protocol::Grpc => " alpn h2",
        Protocol::Tcp => "",
    }
}
