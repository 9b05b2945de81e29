//! What is made once and serves every cluster: the components, the nodes' root file system, the images. A part is made in
//! a folder beside its own and renamed when it is whole, so a part that is there is complete; a stamp in it says which
//! version it is.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};

use super::{build, images, rootfs};

/// The name of the stamp in a part's folder.
const STAMP: &str = ".version";

/// One part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// The programs of Kubernetes.
    Components,
    /// What a node's `/` begins with.
    Root,
    /// Archives of the images that every cluster has.
    Images,
}

impl Part {
    /// In the order in which they are made: the images are taken from the root file system.
    pub const ALL: [Self; 3] = [Self::Components, Self::Root, Self::Images];

    fn folder(self) -> &'static str {
        match self {
            Self::Components => "bin",
            Self::Root => "rootfs",
            Self::Images => "images",
        }
    }

    /// Changes whenever what is made changes, so that older ones are made anew.
    fn version(self) -> &'static str {
        match self {
            Self::Components => build::VERSION,
            Self::Root => rootfs::VERSION,
            Self::Images => images::VERSION,
        }
    }

    /// What is about to happen, for whoever waits for it.
    fn what(self) -> &'static str {
        match self {
            Self::Components => {
                "building Kubernetes from Debian's source package; about 8 minutes on two cores, 4 GB of disk meanwhile"
            }
            Self::Root => "installing the nodes' root file system; about 2 minutes, 400 MB",
            Self::Images => "making images",
        }
    }
}

/// The folder with all parts.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// `WARREN_KUBERNETES_CACHE`, else `warren-kubernetes` in the user's cache folder. Nothing is looked at yet.
    pub fn locate() -> Result<Self> {
        let folder = match env::var_os("WARREN_KUBERNETES_CACHE") {
            Some(folder) => PathBuf::from(folder),
            None => env::var_os("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| env::home_dir().map(|home| home.join(".cache")))
                .context("none of WARREN_KUBERNETES_CACHE, XDG_CACHE_HOME and HOME is set")?
                .join("warren-kubernetes"),
        };
        Ok(Self { folder })
    }

    /// A cache in this folder.
    pub fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// The cache, if nothing is missing in it.
    pub fn complete() -> Result<Self> {
        let cache = Self::locate()?;
        let missing = cache.missing();
        if !missing.is_empty() {
            bail!(
                "{} lacks {missing:?} (or has older ones); `cargo xtask kubernetes setup` makes them",
                cache.folder.display()
            );
        }
        Ok(cache)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of a part.
    pub fn part(&self, part: Part) -> PathBuf {
        self.folder.join(part.folder())
    }

    /// A program of Kubernetes.
    pub fn component(&self, name: &str) -> PathBuf {
        self.part(Part::Components).join(name)
    }

    /// Parts that are not there, or of another version.
    pub fn missing(&self) -> Vec<Part> {
        Part::ALL
            .into_iter()
            .filter(|part| {
                let stamp = fs::read_to_string(self.part(*part).join(STAMP));
                !stamp.is_ok_and(|stamp| stamp.trim() == part.version())
            })
            .collect()
    }

    /// Makes what is missing; says what it does.
    pub fn fill(&self, say: &dyn Fn(&str)) -> Result<()> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("create {}", self.folder.display()))?;
        // Whoever comes second waits, and finds everything there.
        let _lock = self.lock()?;
        for part in self.missing() {
            let started = Instant::now();
            say(part.what());
            self.make(part)
                .with_context(|| format!("make {}", self.part(part).display()))?;
            let seconds = started.elapsed().as_secs();
            say(&format!("… done in {seconds} s"));
        }
        Ok(())
    }

    fn make(&self, part: Part) -> Result<()> {
        let whole = self.part(part);
        // A folder of this name is of a run that was interrupted: we have the lock.
        let making = self.folder.join(format!("{}.new", part.folder()));
        remove(&making)?;
        fs::create_dir_all(&making).with_context(|| format!("create {}", making.display()))?;
        match part {
            Part::Components => build::make(&making, &self.folder)?,
            Part::Root => rootfs::make(&making, &self.folder)?,
            Part::Images => images::make(&making, &self.part(Part::Root))?,
        }
        fs::write(making.join(STAMP), part.version())
            .with_context(|| format!("stamp {}", making.display()))?;
        remove(&whole)?;
        fs::rename(&making, &whole).with_context(|| format!("rename to {}", whole.display()))
    }

    fn lock(&self) -> Result<Flock<File>> {
        let path = self.folder.join(".lock");
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_file, error)| anyhow!("lock {}: {error}", path.display()))
    }
}

/// Removes a folder, if it is there.
pub(super) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
