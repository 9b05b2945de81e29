//! HAProxy as a pair of sidecars: TCP mode, one thread, no logs, no limits that would be reached.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::certificates::{Certificates, SERVER_NAME};
use super::sidecar::{End, Pair, Ports, Sidecar, Wanted};
use crate::cluster::place::Place;
use crate::host::cgroup::Cgroup;
use crate::host::process::Launch;

/// Starts the pair.
pub(super) fn start(
    program: &Path,
    (client, server): (&Place, &Place),
    cgroup: &Cgroup,
    certificates: &Certificates,
    folder: &Path,
) -> Result<Pair> {
    let ports = Ports::new(9_200, server);
    let sidecar = |name: &str, place: &Place, wanted: &Wanted<'_>| {
        let file = folder.join(format!("{name}.cfg"));
        Sidecar::start(
            name,
            place,
            cgroup,
            || {
                fs::write(&file, configuration(wanted))
                    .with_context(|| format!("write {}", file.display()))?;
                Ok(Launch::new(program)
                    .args(["-f".as_ref(), file.as_os_str()])
                    .args(["-db"]))
            },
            wanted.forwards,
            &folder.join(format!("{name}.log")),
        )
    };
    Ok(Pair {
        server: sidecar(
            "haproxy-server",
            server,
            &Wanted {
                end: End::Server,
                forwards: &ports.server,
                files: &certificates.server,
            },
        )?,
        client: sidecar(
            "haproxy-client",
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

fn configuration(wanted: &Wanted<'_>) -> String {
    let Wanted {
        end,
        forwards,
        files,
    } = wanted;
    let tls = format!(
        "ssl crt {} ca-file {} verify required ssl-min-ver TLSv1.3 ciphersuites TLS_AES_128_GCM_SHA256",
        files.both.display(),
        files.root.display(),
    );
    let (bind, server) = match end {
        End::Client => (
            String::new(),
            format!(" {tls} sni str({SERVER_NAME}) verifyhost {SERVER_NAME}"),
        ),
        End::Server => (format!(" {tls}"), String::new()),
    };
    let mut text = "global\n  nbthread 1\n  maxconn 8000\n\
                    defaults\n  mode tcp\n  maxconn 8000\n  timeout connect 5s\n  timeout client 1h\n  \
                    timeout server 1h\n"
        .to_owned();
    for forward in *forwards {
        // Writing into a String cannot fail.
        let _infallible = write!(
            text,
            "listen {name}\n  bind {listen}{bind}\n  server {name} {to}{server}\n",
            name = forward.name,
            listen = forward.listen,
            to = forward.to,
        );
    }
    text
}
