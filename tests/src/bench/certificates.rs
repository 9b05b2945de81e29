//! The peers' certificates: one root, one certificate per side, P-256 as Warren's own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::host::command::run;

/// The name in the server side's certificate, which the client side checks.
pub(super) const SERVER_NAME: &str = "server.bench.test";

/// Files of one side.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) root: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// Certificate and key in one file, as HAProxy wants them.
    pub(super) both: PathBuf,
}

/// Both sides' files.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    pub(super) client: Files,
    pub(super) server: Files,
}

impl Certificates {
    /// Makes them in a folder.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let (root, root_key) = (folder.join("root.pem"), folder.join("root.key"));
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=bench root",
            "-keyout",
            &words(&root_key),
            "-out",
            &words(&root),
        ])?;
        let sign = |name: &str, host: &str| -> Result<Files> {
            let at = |end: &str| folder.join(format!("{name}.{end}"));
            let files = Files {
                root: root.clone(),
                certificate: at("pem"),
                key: at("key"),
                both: at("both.pem"),
            };
            openssl(&[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "1",
                "-subj",
                &format!("/CN={host}"),
                "-addext",
                &format!("subjectAltName=DNS:{host}"),
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-addext",
                "keyUsage=critical,digitalSignature",
                "-addext",
                "extendedKeyUsage=serverAuth,clientAuth",
                "-CA",
                &words(&root),
                "-CAkey",
                &words(&root_key),
                "-keyout",
                &words(&files.key),
                "-out",
                &words(&files.certificate),
            ])?;
            let text = [&files.certificate, &files.key]
                .into_iter()
                .map(fs::read_to_string)
                .collect::<Result<String, _>>()
                .context("read what openssl wrote")?;
            fs::write(&files.both, text).context("write certificate and key")?;
            Ok(files)
        };
        Ok(Self {
            client: sign("client", "client.bench.test")?,
            server: sign("server", SERVER_NAME)?,
        })
    }
}

fn openssl(arguments: &[&str]) -> Result<()> {
    run("openssl", arguments).map(drop)
}

fn words(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
