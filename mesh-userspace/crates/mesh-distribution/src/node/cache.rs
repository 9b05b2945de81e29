//! The last good world on disk: from it a node starts when no controller answers.
//!
//! A line about the file, then a line per fact, all JSON. The first line has the hash of the rest: a damaged file is
//! noticed, moved aside and said, never half believed. It is replaced as a whole, so that a crash leaves the old one or the
//! new one.

#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use mesh_control::facts::Fact;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Known;
use super::facts::{Facts, Held};
use crate::wire::Hash;

/// Form of the file.
const SCHEMA: u32 = 1;

/// Changes that follow each other closely are written once.
const COLLECT: Duration = Duration::from_secs(1);

/// Writing takes at most the 20th part of the time: a large world that changes all the time must not keep the disk busy.
const SHARE: u32 = 20;

/// A disk that is full is not tried all the time.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Whose file it is.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    pub(super) path: PathBuf,
    pub(super) node: String,
    /// Release of the node.
    pub(super) version: String,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) facts: Facts,
    pub(super) bundle: Option<Arc<str>>,
    pub(super) written: Option<SystemTime>,
    /// Why the file was not used, and where it is now; for people.
    pub(super) problem: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Header {
    schema: u32,
    version: String,
    node: String,
    /// Seconds since 1970.
    written: u64,
    #[serde(default)]
    bundle: Option<String>,
    facts: usize,
    /// Of everything after this line.
    sha256: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct Line<F> {
    hash: Option<String>,
    fact: F,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Cache {
    /// Reads the file. One that cannot be believed is moved aside.
    pub(super) fn load(&self) -> Loaded {
        let why = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Loaded::default(),
            Err(error) => {
                let path = self.path.display();
                return Loaded {
                    problem: Some(format!(
                        "the last good world in {path} cannot be read: {error}"
                    )),
                    ..Loaded::default()
                };
            }
            Ok(bytes) => match self.parse(&bytes) {
                Ok(loaded) => return loaded,
                Err(why) => why,
            },
        };
        Loaded {
            problem: Some(self.move_aside(&why)),
            ..Loaded::default()
        }
    }

    fn parse(&self, bytes: &[u8]) -> Result<Loaded, String> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (header, rest) = bytes.split_at(end.ok_or("it has no first line")?);
        let rest = rest.get(1..).unwrap_or_default();
        let header: Header = serde_json::from_slice(header)
            .map_err(|error| format!("its first line is wrong: {error}"))?;
        if header.schema != SCHEMA {
            return Err(format!(
                "it has form {}, and this release knows form {SCHEMA}",
                header.schema
            ));
        }
        if header.node != self.node {
            return Err(format!(
                "it is of node {:?}, and this is node {:?}",
                header.node, self.node
            ));
        }
        if header.sha256 != sha256(rest) {
            return Err("it is not as it was written".to_owned());
        }
        // Another release may have understood less of the facts: they apply, but are to be told again.
        let same_release = header.version == self.version;
        let mut facts = Facts::default();
        for line in rest
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let line: Line<Fact> = serde_json::from_slice(line)
                .map_err(|error| format!("a fact is wrong: {error}"))?;
            let Line {
                hash,
                fact,
                problem,
            } = line;
            let hash = hash.filter(|_| same_release);
            let held = Held {
                hash: hash.as_deref().and_then(Hash::from_hex),
                problem,
                fact: None,
            };
            facts.insert(
                fact.key(),
                Held {
                    fact: Some(Arc::new(fact)),
                    ..held
                },
            );
        }
        if facts.len() != header.facts {
            return Err(format!("{} facts were written", header.facts));
        }
        Ok(Loaded {
            facts,
            bundle: header.bundle.map(Arc::from),
            written: UNIX_EPOCH.checked_add(Duration::from_secs(header.written)),
            problem: None,
        })
    }

    fn move_aside(&self, why: &str) -> String {
        let path = self.path.display();
        let aside = self.path.with_extension("damaged");
        match fs::rename(&self.path, &aside) {
            Ok(()) => format!(
                "the last good world in {path} is not used: {why}; it is kept as {}",
                aside.display()
            ),
            Err(error) => format!(
                "the last good world in {path} is not used: {why}; it cannot be moved aside: {error}"
            ),
        }
    }

    /// Replaces the file.
    pub(super) fn save(&self, facts: &Facts, bundle: Option<&str>) -> io::Result<()> {
        let mut rest = Vec::new();
        let mut count = 0;
        for (_, held) in facts.held() {
            // What this release cannot read and does without is told again.
            let Some(fact) = held.fact.as_deref() else {
                continue;
            };
            let line = Line {
                hash: held.hash.map(|hash| hash.to_string()),
                fact,
                problem: held.problem.clone(),
            };
            serde_json::to_writer(&mut rest, &line)?;
            rest.push(b'\n');
            count += 1;
        }
        let written = SystemTime::now().duration_since(UNIX_EPOCH);
        let header = Header {
            schema: SCHEMA,
            version: self.version.clone(),
            node: self.node.clone(),
            written: written.unwrap_or_default().as_secs(),
            bundle: bundle.map(str::to_owned),
            facts: count,
            sha256: sha256(&rest),
        };
        let mut header = serde_json::to_vec(&header)?;
        header.push(b'\n');
        self.replace(&[&header, &rest])
    }

    fn replace(&self, parts: &[&[u8]]) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or_else(|| Path::new("."));
        fs::create_dir_all(directory)?;
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(directory)?.sync_all()
    }
}

/// Writes what is known whenever it has changed, until nothing more can; what is known then is written, too.
pub(super) async fn keep(cache: Cache, mut known: watch::Receiver<Known>) {
    let mut written = Written::default();
    loop {
        let latest = known.borrow_and_update().clone();
        let ended = if written.differs(&latest) {
            let pause = write(&cache, latest, &mut written).await;
            tokio::time::timeout(pause, end(&mut known)).await.is_ok()
        } else {
            known.changed().await.is_err()
        };
        if ended {
            let last = known.borrow().clone();
            if written.differs(&last) {
                write(&cache, last, &mut written).await;
            }
            return;
        }
    }
}

/// Nothing can change any more.
async fn end(known: &mut watch::Receiver<Known>) {
    while known.changed().await.is_ok() {}
}

/// What is on disk.
#[derive(Debug, Default)]
struct Written {
    revision: u64,
    bundle: Option<Arc<str>>,
}

impl Written {
    /// What came from disk need not go back.
    fn differs(&self, known: &Known) -> bool {
        let told = known.cached.is_none() && known.is_something();
        told && (known.revision != self.revision || known.bundle != self.bundle)
    }
}

/// Returns for how long nothing is to be written.
async fn write(cache: &Cache, known: Known, written: &mut Written) -> Duration {
    let began = Instant::now();
    let (revision, bundle) = (known.revision, known.bundle.clone());
    let owned = cache.clone();
    let save = move || owned.save(&known.facts, known.bundle.as_deref());
    let path = cache.path.display();
    match tokio::task::spawn_blocking(save).await {
        Ok(Ok(())) => {
            *written = Written { revision, bundle };
            return COLLECT.max(began.elapsed() * SHARE);
        }
        Ok(Err(error)) => tracing::warn!(%path, %error, "cannot keep the last good world"),
        Err(error) => tracing::warn!(%path, %error, "keeping the last good world failed"),
    }
    AFTER_FAILURE
}

fn sha256(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    let hex = |byte: &u8| format!("{byte:02x}");
    digest.as_ref().iter().map(hex).collect()
}
