//! nginx's configuration: one process, keep-alive to the next hop without a limit of requests, no access log.

use std::path::PathBuf;

use anyhow::Result;

use super::Hop;
use crate::certs::Side;
use crate::client::Protocol;
use crate::process::{Argv, argv};

/// What Debian's package `libnginx-mod-stream` installs.
pub(super) const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Connections to the next hop that are kept: one for every gRPC stream, because nginx does not multiplex them.
const KEPT: u32 = 512;

/// Writes the configuration of one proxy and gives its command.
pub(super) fn command(program: PathBuf, hop: Hop<'_>) -> Result<Argv> {
    let inner = match hop.protocol {
        Protocol::Http1 => http(hop, "proxy", ""),
        Protocol::Grpc => http(hop, "grpc", " http2"),
        Protocol::Tcp => stream(hop),
    };
    let folder = hop.folder.display();
    let port = hop.listen.port();
    let module = if hop.protocol == Protocol::Tcp { format!("load_module {STREAM_MODULE};\n") } else { String::new() };
    let text = format!(
        "{module}daemon off;
master_process off;
worker_processes 1;
pid {folder}/{port}.pid;
error_log {folder}/{port}.error.log error;
events {{ worker_connections 16000; }}
{inner}"
    );
    let file = hop.write("nginx", &text)?;
    let mut command = argv([program]);
    command.extend(argv(["-c".into(), file, "-e".into(), hop.folder.join(format!("{port}.error.log"))]));
    Ok(command)
}

fn http(hop: Hop<'_>, pass: &str, listen_option: &str) -> String {
    let folder = hop.folder.display();
    let (listen, connect) = (hop.listen, hop.connect);
    let scheme = match (pass, hop.side) {
        ("grpc", Side::Client) => "grpcs",
        ("grpc", Side::Server) => "grpc",
        (_, Side::Client) => "https",
        (_, Side::Server) => "http",
    };
    let (ssl, server_tls, client_tls) = match hop.side {
        Side::Client => ("", String::new(), originate(hop, pass)),
        Side::Server => (" ssl", terminate(hop), String::new()),
    };
    let version = if pass == "proxy" {
        "proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      proxy_set_header Host $host;"
    } else {
        ""
    };
    format!(
        "http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  upstream next {{
    server {connect};
    keepalive {KEPT};
    keepalive_requests 1000000000;
  }}
  server {{
    listen {listen}{ssl}{listen_option} backlog=4096;
    {server_tls}
    location / {{
      {pass}_pass {scheme}://next;
      {version}
      {client_tls}
    }}
  }}
}}
"
    )
}

fn stream(hop: Hop<'_>) -> String {
    let (listen, connect) = (hop.listen, hop.connect);
    let (ssl, tls) = match hop.side {
        Side::Client => ("", format!("proxy_ssl on;\n    {}", originate(hop, "proxy"))),
        Side::Server => (" ssl", terminate(hop)),
    };
    format!(
        "stream {{
  server {{
    listen {listen}{ssl} backlog=4096;
    proxy_pass {connect};
    {tls}
  }}
}}
"
    )
}

fn originate(hop: Hop<'_>, prefix: &str) -> String {
    let certificate = hop.certs.chain(hop.side);
    let key = hop.certs.key(hop.side);
    let root = hop.certs.root();
    [
        ("certificate", certificate.display().to_string()),
        ("certificate_key", key.display().to_string()),
        ("trusted_certificate", root.display().to_string()),
        ("verify", "on".to_owned()),
        ("name", Side::Server.dns_name().to_owned()),
        ("server_name", "on".to_owned()),
        ("protocols", "TLSv1.3".to_owned()),
    ]
    .map(|(name, value)| format!("{prefix}_ssl_{name} {value};"))
    .join("\n      ")
}

fn terminate(hop: Hop<'_>) -> String {
    format!(
        "ssl_certificate {};\n    ssl_certificate_key {};\n    ssl_client_certificate {};\n    ssl_verify_client on;\n    ssl_protocols TLSv1.3;",
        hop.certs.chain(hop.side).display(),
        hop.certs.key(hop.side).display(),
        hop.certs.root().display(),
    )
}
