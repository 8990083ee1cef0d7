//! Envoy's configuration: one worker, statistics as they are by default, no access log.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use super::Hop;
use crate::certs::Side;
use crate::client::Protocol;
use crate::process::{Argv, argv};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// Writes the configuration of one proxy and gives its command.
pub(super) fn command(program: PathBuf, hop: Hop<'_>) -> Result<Argv> {
    let text = serde_json::to_string_pretty(&bootstrap(hop))?;
    let file = hop.write("json", &text)?;
    let mut command = argv([program]);
    command.extend(argv(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"]));
    command.extend(argv([file]));
    Ok(command)
}

fn bootstrap(hop: Hop<'_>) -> Value {
    let mut chain = json!({ "filters": [filter(hop.protocol)] });
    let mut cluster = json!({
        "name": "next",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "next",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(hop.connect) } }] }],
        },
    });
    if hop.protocol == Protocol::Grpc {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        });
    }
    match hop.side {
        Side::Client => {
            cluster["transport_socket"] = json!({
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"),
                    "sni": Side::Server.dns_name(),
                    "common_tls_context": tls(hop, Side::Server),
                },
            });
        }
        Side::Server => {
            chain["transport_socket"] = json!({
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
                    "require_client_certificate": true,
                    "common_tls_context": tls(hop, Side::Client),
                },
            });
        }
    }
    json!({
        "static_resources": {
            "listeners": [{ "name": "bench", "address": address(hop.listen), "filter_chains": [chain] }],
            "clusters": [cluster],
        },
    })
}

fn filter(protocol: Protocol) -> Value {
    if protocol == Protocol::Tcp {
        return json!({
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": "bench",
                "cluster": "next",
            },
        });
    }
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "bench",
            "codec_type": "AUTO",
            "route_config": {
                "virtual_hosts": [{
                    "name": "bench",
                    "domains": ["*"],
                    "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "next" } }],
                }],
            },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") },
            }],
        },
    })
}

fn tls(hop: Hop<'_>, peer: Side) -> Value {
    let mut context = json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": { "filename": hop.certs.chain(hop.side) },
            "private_key": { "filename": hop.certs.key(hop.side) },
        }],
        "validation_context": {
            "trusted_ca": { "filename": hop.certs.root() },
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": peer.spiffe_id() } }],
        },
    });
    match hop.protocol {
        Protocol::Http1 => context["alpn_protocols"] = json!(["http/1.1"]),
        Protocol::Grpc => context["alpn_protocols"] = json!(["h2"]),
        Protocol::Tcp => {}
    }
    context
}

fn address(address: std::net::SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}
