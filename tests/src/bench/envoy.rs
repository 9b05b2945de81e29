//! Envoy as a pair of sidecars, in its best case: TCP proxy, one worker, static configuration, no logs, no statistics
//! sinks, no administration port, no limits that would be reached.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::certificates::{Certificates, SERVER_NAME};
use super::sidecar::{End, Forward, Pair, Ports, Sidecar, Wanted};
use crate::cluster::place::Place;
use crate::host::cgroup::Cgroup;
use crate::host::process::Launch;

/// Beyond every number of connections that is measured; Envoy's default is 1,024.
const NO_LIMIT: u32 = 1_000_000;

/// Starts the pair.
pub(super) fn start(
    program: &Path,
    (client, server): (&Place, &Place),
    cgroup: &Cgroup,
    certificates: &Certificates,
    folder: &Path,
) -> Result<Pair> {
    let ports = Ports::new(9_000, server);
    let sidecar = |name: &str, place: &Place, wanted: &Wanted<'_>| {
        let file = folder.join(format!("{name}.json"));
        Sidecar::start(
            name,
            place,
            cgroup,
            || {
                fs::write(&file, format!("{:#}", configuration(wanted)))
                    .with_context(|| format!("write {}", file.display()))?;
                Ok(Launch::new(program)
                    .args(["--config-path".as_ref(), file.as_os_str()])
                    .args(["--concurrency", "1", "--disable-hot-restart"])
                    .args(["--log-level", "error"]))
            },
            wanted.forwards,
            &folder.join(format!("{name}.log")),
        )
    };
    Ok(Pair {
        server: sidecar(
            "envoy-server",
            server,
            &Wanted {
                end: End::Server,
                forwards: &ports.server,
                files: &certificates.server,
            },
        )?,
        client: sidecar(
            "envoy-client",
            client,
            &Wanted {
                end: End::Client,
                forwards: &ports.client,
                files: &certificates.client,
            },
        )?,
        http: ports.client[0].listen,
        bulk: ports.client[1].listen,
    })
}

fn configuration(wanted: &Wanted<'_>) -> Value {
    let each = |make: fn(&Wanted<'_>, &Forward) -> Value| -> Vec<Value> {
        wanted
            .forwards
            .iter()
            .map(|forward| make(wanted, forward))
            .collect()
    };
    json!({
        "static_resources": {"listeners": each(listener), "clusters": each(cluster)},
        // Counters exist, but nobody is told.
        "stats_flush_interval": "240s",
    })
}

fn listener(wanted: &Wanted<'_>, forward: &Forward) -> Value {
    let mut chain = json!({
        "filters": [{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": forward.name,
                "cluster": forward.name,
            },
        }],
    });
    if wanted.end == End::Server {
        chain["transport_socket"] = tls(
            "DownstreamTlsContext",
            json!({"require_client_certificate": true, "common_tls_context": context(wanted)}),
        );
    }
    json!({
        "name": forward.name,
        "address": socket_address(forward.listen),
        "filter_chains": [chain],
        // One worker needs no share of the listener, and the backlog must hold a burst.
        "enable_reuse_port": false,
        "tcp_backlog_size": 4096,
    })
}

fn cluster(wanted: &Wanted<'_>, forward: &Forward) -> Value {
    let mut cluster = json!({
        "name": forward.name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": NO_LIMIT, "max_pending_requests": NO_LIMIT, "max_requests": NO_LIMIT,
        }]},
        "load_assignment": {
            "cluster_name": forward.name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(forward.to)}}]}],
        },
    });
    if wanted.end == End::Client {
        cluster["transport_socket"] = tls(
            "UpstreamTlsContext",
            json!({"sni": SERVER_NAME, "common_tls_context": context(wanted)}),
        );
    }
    cluster
}

/// Where the processor has AES instructions, as nearly all have, Envoy prefers AES-128-GCM by itself.
fn context(wanted: &Wanted<'_>) -> Value {
    let mut validation = json!({"trusted_ca": {"filename": wanted.files.root}});
    if wanted.end == End::Client {
        validation["match_typed_subject_alt_names"] =
            json!([{"san_type": "DNS", "matcher": {"exact": SERVER_NAME}}]);
    }
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{
            "certificate_chain": {"filename": wanted.files.certificate},
            "private_key": {"filename": wanted.files.key},
        }],
        "validation_context": validation,
    })
}

fn tls(kind: &str, mut configuration: Value) -> Value {
    configuration["@type"] = json!(format!(
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}"
    ));
    json!({"name": "envoy.transport_sockets.tls", "typed_config": configuration})
}

fn socket_address(address: std::net::SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}
