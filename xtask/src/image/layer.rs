//! A layer: files and the folders above them, as a tar archive whose bytes depend on nothing but names and contents.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tar::{Builder, EntryType, Header};

/// Files by their path in the image, without the leading slash; `None` is a folder. Sorted: a folder comes before what is in it.
#[derive(Default)]
pub(super) struct Layer(BTreeMap<PathBuf, Option<Vec<u8>>>);

impl Layer {
    /// Puts a copy of a file, links followed, at a path.
    pub(super) fn add(&mut self, place: &Path, file: &Path) -> Result<()> {
        let place = place.strip_prefix("/").unwrap_or(place);
        for folder in place.ancestors().skip(1) {
            if !folder.as_os_str().is_empty() {
                self.0.insert(folder.to_owned(), None);
            }
        }
        let content = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        self.0.insert(place.to_owned(), Some(content));
        Ok(())
    }

    /// The archive.
    pub(super) fn pack(self) -> Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for (path, content) in &self.0 {
            let mut header = match content {
                Some(content) => plain(EntryType::Regular, content.len() as u64),
                None => plain(EntryType::Directory, 0),
            };
            let mut name = path.as_os_str().as_bytes().to_vec();
            if content.is_none() {
                name.push(b'/');
            }
            header
                .set_path(Path::new(std::ffi::OsStr::from_bytes(&name)))
                .with_context(|| format!("name {} in the layer", path.display()))?;
            header.set_cksum();
            archive
                .append(&header, content.as_deref().unwrap_or_default())
                .with_context(|| format!("pack {}", path.display()))?;
        }
        archive.into_inner().context("end the layer")
    }
}

/// Of root, readable and executable by everybody, made at no time.
pub(super) fn plain(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_bytes_whenever_they_are_packed() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let pack = |order: [&str; 2]| {
            let mut layer = Layer::default();
            for name in order {
                layer
                    .add(&Path::new("/a/b").join(name), &here.join("Cargo.toml"))
                    .expect("read");
            }
            layer.pack().expect("packed")
        };
        let first = pack(["one", "two"]);
        assert_eq!(first, pack(["two", "one"]));

        let mut archive = tar::Archive::new(first.as_slice());
        let names: Vec<_> = archive
            .entries()
            .expect("an archive")
            .map(|entry| {
                let entry = entry.expect("an entry");
                let header = entry.header();
                assert_eq!(header.mtime().expect("a time"), 0);
                assert_eq!(header.uid().expect("an owner"), 0);
                entry.path().expect("a path").display().to_string()
            })
            .collect();
        assert_eq!(names, ["a/", "a/b/", "a/b/one", "a/b/two"]);
    }
}
