//! Container images without a container engine: archives as `docker save` writes them, which containerd imports.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::digest;
use serde_json::json;
use tar::{Builder, EntryType, Header};

use crate::host::binary;
use crate::host::command::run;

/// Of what [`make`] makes.
pub(super) const VERSION: &str = "1";

/// Keeps a pod's namespaces.
pub const PAUSE: &str = "registry.local/pause:1";

/// A shell and small tools.
pub const BUSYBOX: &str = "registry.local/busybox:1";

/// The applications of the stories: `warren-probe`, beside a shell and small tools.
pub const PROBE: &str = "registry.local/probe:1";

/// The product, under the name that its chart expects; which build it is comes behind it.
pub const WARREN: &str = concat!("warren:", env!("CARGO_PKG_VERSION"));

/// Waits, reaps, and ends when it is told to.
const PAUSE_SOURCE: &str = "#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int signal) { (void)signal; _exit(0); }
static void reap(int signal) { (void)signal; while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) { signal(SIGINT, end); signal(SIGTERM, end); signal(SIGCHLD, reap); for (;;) pause(); }
";

/// Makes the archives that every cluster has.
pub(super) fn make(into: &Path, root: &Path) -> Result<()> {
    let (source, program) = (into.join("pause.c"), into.join("pause"));
    fs::write(&source, PAUSE_SOURCE).with_context(|| format!("write {}", source.display()))?;
    let status = Command::new("cc")
        .args(["-static", "-O2", "-o"])
        .args([&program, &source])
        .status()
        .context("start cc")?;
    ensure!(
        status.success(),
        "cc cannot make a static program: {status}"
    );
    Image::new(PAUSE, &["/pause"])
        .file("/pause", &program)
        .write(&into.join("pause.tar"))?;
    for file in [source, program] {
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    }
    with_shell(Image::new(BUSYBOX, &["/bin/sh"]), root)?.write(&into.join("busybox.tar"))
}

/// The image with `warren-probe`, which is built anew more often than the rest.
pub(super) fn write_probe(to: &Path, root: &Path) -> Result<()> {
    with_shell(Image::new(PROBE, &["/bin/warren-probe"]), root)?
        .program("/bin/warren-probe", &binary::helper("warren-probe")?)?
        .write(to)
}

/// The image of the product, with the libraries that a debug build needs.
pub(super) fn write_warren(to: &Path, name: &str, program: &Path) -> Result<()> {
    Image::new(name, &["/warren"])
        .program("/warren", program)?
        .write(to)
}

/// Adds busybox under each of its names.
fn with_shell(image: Image, root: &Path) -> Result<Image> {
    let busybox = ["usr/bin/busybox", "bin/busybox"]
        .iter()
        .map(|place| root.join(place))
        .find(|place| place.is_file())
        .with_context(|| format!("there is no busybox in {}", root.display()))?;
    let names = run(&busybox.to_string_lossy(), &["--list"])?;
    let image = image.file("/bin/busybox", &busybox);
    Ok(names
        .lines()
        .filter(|name| *name != "busybox")
        .fold(image, |image, name| {
            image.link(&format!("/bin/{name}"), "busybox")
        }))
}

/// An image with one layer.
#[derive(Clone, Debug)]
pub struct Image {
    reference: String,
    entry_point: Vec<String>,
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Clone, Debug)]
enum Entry {
    Folder,
    File(PathBuf),
    Link(String),
}

impl Image {
    /// An image with the folders that programs expect, and nothing in them.
    pub fn new(reference: &str, entry_point: &[&str]) -> Self {
        let image = Self {
            reference: reference.to_owned(),
            entry_point: entry_point.iter().map(|word| (*word).to_owned()).collect(),
            entries: BTreeMap::new(),
        };
        ["bin", "dev", "etc", "proc", "sys", "tmp"]
            .iter()
            .fold(image, |image, folder| image.add(folder, Entry::Folder))
    }

    /// Adds a file of this machine, with its permissions.
    #[must_use]
    pub fn file(self, place: &str, file: &Path) -> Self {
        self.add(place, Entry::File(file.to_owned()))
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(self, place: &str, target: &str) -> Self {
        self.add(place, Entry::Link(target.to_owned()))
    }

    /// Adds a program of this machine and the libraries that it is linked with.
    pub fn program(self, place: &str, program: &Path) -> Result<Self> {
        let listing = run("ldd", &[&program.to_string_lossy()])?;
        Ok(libraries(&listing)
            .fold(self, |image, library| {
                image.file(library, Path::new(library))
            })
            .file(place, program))
    }

    fn add(mut self, place: &str, entry: Entry) -> Self {
        let place = PathBuf::from(place.trim_start_matches('/'));
        // An archive names folders before what is in them; so does the order of paths.
        for folder in place
            .ancestors()
            .skip(1)
            .filter(|path| *path != Path::new(""))
        {
            self.entries
                .entry(folder.to_owned())
                .or_insert(Entry::Folder);
        }
        self.entries.insert(place, entry);
        self
    }

    /// Writes the archive, whole or not at all.
    pub fn write(&self, to: &Path) -> Result<()> {
        let (layer, new) = (to.with_extension("layer"), to.with_extension("new"));
        let written = self.write_parts(&layer, &new);
        // Whatever became of it: the layer is in the archive, or is of no use.
        match fs::remove_file(&layer) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", layer.display()));
            }
            _ => {}
        }
        written.with_context(|| format!("make the image {}", self.reference))?;
        fs::rename(&new, to).with_context(|| format!("rename to {}", to.display()))
    }

    fn write_parts(&self, layer: &Path, archive: &Path) -> Result<()> {
        let layer_hash = self.write_layer(layer)?;
        let configuration = self.configuration(&layer_hash);
        let name = format!("{}.json", hash(configuration.as_bytes()));
        let layer_name = format!("{layer_hash}/layer.tar");
        let manifest = json!([{
            "Config": name,
            "RepoTags": [self.reference],
            "Layers": [layer_name],
        }])
        .to_string();

        let output =
            File::create(archive).with_context(|| format!("create {}", archive.display()))?;
        let mut builder = Builder::new(output);
        append(&mut builder, Path::new(&name), configuration.as_bytes())?;
        let mut layer = File::open(layer).with_context(|| format!("open {}", layer.display()))?;
        builder.append_file(&layer_name, &mut layer)?;
        append(
            &mut builder,
            Path::new("manifest.json"),
            manifest.as_bytes(),
        )?;
        builder.finish().context("finish the archive")
    }

    /// Writes the files; gives the hash of what was written.
    fn write_layer(&self, to: &Path) -> Result<String> {
        let file = File::create(to).with_context(|| format!("create {}", to.display()))?;
        let mut builder = Builder::new(Hashed {
            file,
            context: digest::Context::new(&digest::SHA256),
        });
        for (place, entry) in &self.entries {
            match entry {
                Entry::Folder => {
                    let mode = if place == Path::new("tmp") {
                        0o1777
                    } else {
                        0o755
                    };
                    let mut header = header(EntryType::Directory, mode, 0);
                    builder.append_data(&mut header, place, io::empty())?;
                }
                Entry::Link(target) => {
                    let mut header = header(EntryType::Symlink, 0o777, 0);
                    builder.append_link(&mut header, place, target)?;
                }
                Entry::File(source) => {
                    let file =
                        File::open(source).with_context(|| format!("open {}", source.display()))?;
                    let about = file
                        .metadata()
                        .with_context(|| format!("look at {}", source.display()))?;
                    let mode = about.permissions().mode() & 0o7777;
                    let mut header = header(EntryType::Regular, mode, about.len());
                    builder.append_data(&mut header, place, file)?;
                }
            }
        }
        let written = builder.into_inner().context("finish the layer")?;
        Ok(hexadecimal(written.context.finish().as_ref()))
    }

    fn configuration(&self, layer: &str) -> String {
        let architecture = match ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Entrypoint": self.entry_point,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
            "history": [{"created_by": "mesh-tests"}],
        })
        .to_string()
    }
}

/// Paths in what `ldd` prints: `libc.so.6 => /lib/…/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn libraries(listing: &str) -> impl Iterator<Item = &str> {
    listing.lines().filter_map(|line| {
        line.split(' ')
            .map(str::trim)
            .find(|word| word.starts_with('/'))
    })
}

fn append(builder: &mut Builder<File>, place: &Path, bytes: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, 0o644, bytes.len() as u64);
    builder
        .append_data(&mut header, place, bytes)
        .with_context(|| format!("add {}", place.display()))
}

/// Without time and owner, so that the same files make the same image.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// A file and the hash of everything that was written to it.
struct Hashed {
    file: File,
    context: digest::Context,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.context.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn hash(bytes: &[u8]) -> String {
    hexadecimal(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_what_the_linker_says() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<&str> = libraries(listing).collect();
        assert_eq!(
            found,
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
    }

    #[test]
    fn an_image_names_its_layer_by_what_is_in_it() {
        let folder = std::env::temp_dir().join(format!("warren-image-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join("program");
        fs::write(&program, "words").unwrap();
        let archive = folder.join("image.tar");
        Image::new("registry.local/x:1", &["/usr/bin/x"])
            .file("/usr/bin/x", &program)
            .write(&archive)
            .unwrap();

        let mut files = BTreeMap::new();
        let mut read = tar::Archive::new(File::open(&archive).unwrap());
        for entry in read.entries().unwrap() {
            let mut entry = entry.unwrap();
            let place = entry.path().unwrap().to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            files.insert(place, bytes);
        }
        let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        let layer = &files[manifest[0]["Layers"][0].as_str().unwrap()];
        let configuration: serde_json::Value =
            serde_json::from_slice(&files[manifest[0]["Config"].as_str().unwrap()]).unwrap();
        assert_eq!(
            configuration["rootfs"]["diff_ids"][0],
            format!("sha256:{}", hash(layer))
        );
        let mut inside = tar::Archive::new(layer.as_slice());
        let places: Vec<String> = inside
            .entries()
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .path()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        assert!(
            places.iter().any(|place| place == "usr/bin/x"),
            "{places:?}"
        );
        fs::remove_dir_all(folder).unwrap();
    }
}
