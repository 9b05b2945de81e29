//! The file source: reads the file, watches its directory, publishes what applies.
//!
//! The directory is watched, not the file: editors write a new file and rename it, and a mounted ConfigMap swaps a
//! symbolic link beside it. A look every few seconds finds what the watch missed (network file systems, a directory that
//! was replaced).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::Applied;
use crate::objects::Objects;
use crate::report::Report;
use crate::{LARGEST_FILE, evaluate};

/// How long a file must be left alone before it is read: writers write in pieces.
pub const SETTLE: Duration = Duration::from_millis(50);

/// How long a file that is never left alone may go unread.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often the file is looked at without any notice.
const LOOK: Duration = Duration::from_secs(5);

/// Why a file source cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It says nothing that could be applied.
    #[error("the configuration file cannot be applied: {}", report.summary())]
    Rejected {
        /// Everything that is wrong with it.
        report: Box<Report>,
    },
    /// Its directory cannot be watched.
    #[error("cannot watch the directory {}", directory.display())]
    Watch {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: notify::Error,
    },
    /// The watching thread cannot be started.
    #[error("cannot start the thread that watches the configuration file")]
    Thread(#[source] io::Error),
}

/// A configuration file that is being watched. Dropping it ends the watch.
#[derive(Debug)]
pub struct FileSource {
    applied: watch::Receiver<Arc<Applied>>,
    _watcher: RecommendedWatcher,
    _stop: mpsc::Sender<Notice>,
}

/// What wakes the watching thread. Its ending is the end of the channel.
#[derive(Debug)]
enum Notice {
    Changed,
}

impl FileSource {
    /// Reads the file, which must be applicable, and watches it from then on. `name` is the node's name where the command
    /// line gives one; it wins over the file's, and `host_name` is for when neither does.
    ///
    /// # Errors
    /// The file cannot be read, cannot be applied as a whole, or cannot be watched.
    pub fn start(
        file: impl Into<PathBuf>,
        name: Option<String>,
        host_name: &str,
    ) -> Result<Self, SourceError> {
        let file = file.into();
        let directory = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let (sender, notices) = mpsc::channel();
        let watch_failed = |source| SourceError::Watch {
            directory: directory.clone(),
            source,
        };
        // The watch begins before the first reading, so that no change falls between them.
        let stop = sender.clone();
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // Reading the file is an event too, and of no interest; the loop would feed itself.
                let read_only = event.as_ref().is_ok_and(|event| event.kind.is_access());
                if !read_only && sender.send(Notice::Changed).is_err() {
                    debug!("a change was seen after the watch had ended");
                }
            })
            .map_err(watch_failed)?;
        watcher
            .watch(&directory, RecursiveMode::NonRecursive)
            .map_err(watch_failed)?;

        let text = read(&file).map_err(|source| SourceError::Read {
            file: file.clone(),
            source,
        })?;
        let mut evaluated = evaluate(&file, &text, name.as_deref(), None);
        let named = |objects: &Objects| objects.settings.node.is_some();
        if evaluated
            .objects
            .as_ref()
            .is_some_and(|objects| !named(objects))
        {
            evaluated = evaluate(&file, &text, Some(host_name), None);
        }
        let Some(objects) = evaluated.objects else {
            return Err(SourceError::Rejected {
                report: Box::new(evaluated.report),
            });
        };
        let node: Arc<str> = name
            .clone()
            .or_else(|| objects.settings.node.clone())
            .unwrap_or_else(|| host_name.to_owned())
            .into();
        let applied = Arc::new(apply(1, &node, Arc::new(objects), evaluated.report));
        tell(&applied);
        let (publish, receiver) = watch::channel(applied);
        let state = Watching {
            file,
            name,
            text: Some(text),
            publish,
        };
        std::thread::Builder::new()
            .name("config-watch".to_owned())
            .spawn(move || state.run(&notices))
            .map_err(SourceError::Thread)?;
        Ok(Self {
            applied: receiver,
            _watcher: watcher,
            _stop: stop,
        })
    }

    /// What applies, now and whenever it changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Applied>> {
        self.applied.clone()
    }
}

/// The watching thread's own.
struct Watching {
    file: PathBuf,
    name: Option<String>,
    /// The content that was last looked at; `None` after a failure to read.
    text: Option<Vec<u8>>,
    publish: watch::Sender<Arc<Applied>>,
}

impl Watching {
    fn run(mut self, notices: &mpsc::Receiver<Notice>) {
        loop {
            match notices.recv_timeout(LOOK) {
                Ok(Notice::Changed) => {
                    if settle(notices).is_err() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.publish.is_closed() {
                return;
            }
            self.look();
        }
    }

    /// Reads the file and publishes what follows from it, if it is another one than before.
    fn look(&mut self) {
        let before = Arc::clone(&self.publish.borrow());
        let text = match read(&self.file) {
            Ok(text) => text,
            Err(error) => {
                let why = format!("cannot read {}: {error}", self.file.display());
                if before.unreadable.as_ref() != Some(&why) {
                    warn!("{why}; what applied before stays");
                    self.publish.send_replace(Arc::new(Applied {
                        unreadable: Some(why),
                        ..(*before).clone()
                    }));
                }
                self.text = None;
                return;
            }
        };
        if self.text.as_ref() == Some(&text) {
            return;
        }
        let evaluated = evaluate(
            &self.file,
            &text,
            self.name.as_deref().or(Some(&before.node)),
            Some(&before.objects),
        );
        self.text = Some(text);
        let next = match evaluated.objects {
            // What a comment or the order of keys changes is no other world.
            Some(objects) if objects == *before.objects => Applied {
                report: Arc::new(evaluated.report),
                unreadable: None,
                ..(*before).clone()
            },
            Some(objects) => apply(
                before.generation + 1,
                &before.node,
                Arc::new(objects),
                evaluated.report,
            ),
            None => Applied {
                report: Arc::new(evaluated.report),
                unreadable: None,
                ..(*before).clone()
            },
        };
        tell(&next);
        self.publish.send_replace(Arc::new(next));
    }
}

/// Waits until nothing has happened for a while, or for long enough.
fn settle(notices: &mpsc::Receiver<Notice>) -> Result<(), RecvTimeoutError> {
    let rounds = PATIENCE.as_millis() / SETTLE.as_millis();
    for _ in 0..rounds {
        match notices.recv_timeout(SETTLE) {
            Ok(Notice::Changed) => {}
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
        }
        // A burst counts as one change.
        while notices.try_recv().is_ok() {}
    }
    Ok(())
}

fn apply(generation: u64, node: &Arc<str>, objects: Arc<Objects>, report: Report) -> Applied {
    Applied {
        generation,
        node: Arc::clone(node),
        settings: objects.settings.clone(),
        local: objects.local(node),
        world: Arc::new(objects.world(generation, node, &Default::default())),
        report: Arc::new(report),
        unreadable: None,
        objects,
    }
}

fn tell(applied: &Applied) {
    let report = &applied.report;
    for mistake in report.mistakes.iter().take(20) {
        warn!("{}:{mistake}", report.file.display());
    }
    for rejected in report.rejected.iter().take(20) {
        let name = rejected.name.as_ref().map(ToString::to_string);
        let (kind, path) = (rejected.kind.word(), &rejected.path);
        let name = name.as_deref().unwrap_or("without a readable name");
        warn!(
            "{kind} {name} ({path}) is rejected: {}",
            rejected.consequence
        );
    }
    if report.usable {
        info!(
            generation = applied.generation,
            "configuration applies: {}",
            report.summary()
        );
    } else {
        warn!(
            generation = applied.generation,
            "configuration is rejected: {}; what applied before stays",
            report.summary()
        );
    }
}

/// Reads a regular file of bounded size. What is larger is cut one byte behind the bound, which makes it too large.
pub(crate) fn read(file: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(file)?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    let mut bytes = Vec::new();
    File::open(file)?
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
