//! A real web server in a place.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Cluster;
use super::place::{NOBODY, Place};
use crate::eventually::until;
use crate::host::process::Process;

/// Starts nginx on port 8080 of both families; every path answers with `body`, except those below `/files/`, which are
/// files in the folder [`files`].
pub fn start(cluster: &Cluster, place: &Place, body: &str) -> Result<Process> {
    let folder = cluster.folder_of(place, "nginx")?;
    let files = files(cluster, place)?;
    let files = files.display();
    let file = folder.join("nginx.conf");
    let folder = folder.display();
    let body = body.replace('\n', "\\n");
    let text = format!(
        "daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
           access_log off; keepalive_requests 1000000;\n\
           client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;\n\
           uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n\
           server {{ listen 8080; listen [::]:8080; location / {{ default_type text/plain; return 200 \"{body}\"; }} location /files/ {{ alias {files}/; }} }}\n\
         }}\n"
    );
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    let process = place
        .program("nginx")
        .user(NOBODY)
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

/// The folder of the files that it serves.
pub fn files(cluster: &Cluster, place: &Place) -> Result<PathBuf> {
    cluster.folder_of(place, "nginx-files")
}
