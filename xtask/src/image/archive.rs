//! The archive: an OCI image layout that also carries Docker's manifest, so that `ctr image import`, `docker load`,
//! `podman load` and `skopeo copy oci-archive:` all take it.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType};

use super::layer::plain;
use super::reference::Reference;

/// An image of one layer.
pub(super) struct Image<'a> {
    pub(super) reference: &'a Reference,
    pub(super) layer: Vec<u8>,
    pub(super) entrypoint: &'a str,
}

/// Something stored under its digest.
struct Blob {
    hex: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        let hex = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self { hex, bytes }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hex)
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.hex)
    }

    fn descriptor(&self, kind: &str) -> Value {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": self.digest(),
            "size": self.bytes.len(),
        })
    }
}

impl Image<'_> {
    /// Writes it; gives the manifest's digest.
    pub(super) fn write(self, output: &Path) -> Result<String> {
        let config = self.config();
        let reference = self.reference;
        let layer = Blob::new(self.layer);
        let config = Blob::json(&with_layer(config, &layer));
        let manifest = Blob::json(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("config.v1+json"),
            "layers": [layer.descriptor("layer.v1.tar")],
        }));
        let digest = manifest.digest();

        let file = File::create(output).with_context(|| format!("create {}", output.display()))?;
        let mut archive = Builder::new(BufWriter::new(file));
        let mut entries = vec![
            (
                "oci-layout".to_owned(),
                json!({"imageLayoutVersion": "1.0.0"})
                    .to_string()
                    .into_bytes(),
            ),
            ("index.json".to_owned(), index(reference, &manifest)),
            (
                "manifest.json".to_owned(),
                docker(reference, &config, &layer),
            ),
        ];
        entries.extend([config, manifest, layer].map(|blob| (blob.path(), blob.bytes)));
        entries.sort();
        for (name, bytes) in &entries {
            let mut header = plain(EntryType::Regular, bytes.len() as u64);
            header.set_mode(0o644);
            archive
                .append_data(&mut header, name, bytes.as_slice())
                .with_context(|| format!("pack {name}"))?;
        }
        archive
            .into_inner()
            .and_then(|mut file| file.flush())
            .with_context(|| format!("write {}", output.display()))?;
        Ok(digest)
    }

    fn config(&self) -> Value {
        json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": [self.entrypoint],
                // So that `kubectl exec … -- warren status` finds it.
                "Env": ["PATH=/"],
                "Labels": {
                    "org.opencontainers.image.title": "warren",
                    "org.opencontainers.image.description": "The mesh without sidecars",
                    "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                    "org.opencontainers.image.licenses": "Apache-2.0 AND (MIT OR GPL-2.0-only)",
                },
            },
        })
    }
}

fn with_layer(mut config: Value, layer: &Blob) -> Value {
    config["rootfs"] = json!({"type": "layers", "diff_ids": [layer.digest()]});
    config["history"] = json!([{"created_by": "cargo xtask image"}]);
    config
}

fn index(reference: &Reference, manifest: &Blob) -> Vec<u8> {
    let mut entry = manifest.descriptor("manifest.v1+json");
    entry["annotations"] = json!({
        "io.containerd.image.name": reference.full(),
        "org.opencontainers.image.ref.name": reference.tag(),
    });
    entry["platform"] = json!({"architecture": architecture(), "os": "linux"});
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    index.to_string().into_bytes()
}

fn docker(reference: &Reference, config: &Blob, layer: &Blob) -> Vec<u8> {
    let entry = json!([{
        "Config": config.path(),
        "RepoTags": [reference.to_string()],
        "Layers": [layer.path()],
    }]);
    entry.to_string().into_bytes()
}

/// As images name it.
const fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_refers_to_something_names_it_by_its_digest() {
        let reference: Reference = "warren:1".parse().expect("a name");
        let file = std::env::temp_dir().join(format!("warren-image-{}.tar", std::process::id()));
        let image = Image {
            reference: &reference,
            layer: b"a layer".to_vec(),
            entrypoint: "/warren",
        };
        let digest = image.write(&file).expect("written");

        let mut archive = tar::Archive::new(File::open(&file).expect("there"));
        let mut files = BTreeMap::new();
        for entry in archive.entries().expect("an archive") {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a path").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("read");
            files.insert(name, content);
        }
        std::fs::remove_file(&file).expect("removed");
        let read = |name: &str| -> Value {
            serde_json::from_slice(files.get(name).expect(name)).expect("JSON")
        };
        let blob = |digest: &Value| {
            let hex = digest
                .as_str()
                .and_then(|text| text.strip_prefix("sha256:"));
            format!("blobs/sha256/{}", hex.expect("a digest"))
        };

        for (name, content) in &files {
            if let Some(hex) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(Blob::new(content.clone()).hex, hex);
            }
        }
        let entry = &read("index.json")["manifests"][0];
        assert_eq!(entry["digest"], digest.as_str());
        assert_eq!(
            entry["annotations"]["io.containerd.image.name"],
            "docker.io/library/warren:1"
        );
        let manifest = read(&blob(&entry["digest"]));
        let layer = blob(&manifest["layers"][0]["digest"]);
        assert_eq!(files[&layer], b"a layer");
        let config = read(&blob(&manifest["config"]["digest"]));
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            manifest["layers"][0]["digest"]
        );
        assert_eq!(config["config"]["Entrypoint"], json!(["/warren"]));
        let docker = read("manifest.json");
        assert_eq!(docker[0]["Layers"], json!([layer]));
        assert_eq!(docker[0]["RepoTags"], json!(["warren:1"]));
    }
}
