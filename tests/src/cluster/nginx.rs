//! A real web server in a place.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Cluster;
use super::place::Place;
use crate::eventually::until;
use crate::host::process::Process;

/// Starts nginx on port 8080 of both families; every path answers with `body`.
pub fn start(cluster: &Cluster, place: &Place, body: &str) -> Result<Process> {
    let folder = cluster.folder().join(format!("nginx-{}", place.name()));
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let file = folder.join("nginx.conf");
    let folder = folder.display();
    let body = body.replace('\n', "\\n");
    let text = format!(
        "daemon off; master_process off; worker_processes 1; user root; pid {folder}/pid; error_log {folder}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
           access_log off; keepalive_requests 1000000;\n\
           client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;\n\
           uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n\
           server {{ listen 8080; listen [::]:8080; location / {{ default_type text/plain; return 200 \"{body}\"; }} }}\n\
         }}\n"
    );
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    let process = place
        .program("nginx")
        .args(["-c".as_ref(), file.as_path()])
        .log(&file.with_extension("log"))
        .start()?;
    until("nginx answers", Duration::from_secs(10), || {
        Ok(place
            .namespace()
            .http_get((std::net::Ipv4Addr::LOCALHOST, 8080).into(), "/")
            .is_ok())
    })?;
    Ok(process)
}
