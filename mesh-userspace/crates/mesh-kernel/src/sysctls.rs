//! The settings of a workload's namespace that deliveries need, and putting them back.

use std::fs;
use std::io;

/// Replies to a marked delivery carry its mark (the IPv4 setting governs TCP of both families); so do resets and errors.
const SETTINGS: [&str; 3] = [
    "/proc/sys/net/ipv4/tcp_fwmark_accept",
    "/proc/sys/net/ipv4/fwmark_reflect",
    "/proc/sys/net/ipv6/fwmark_reflect",
];

/// What every setting must be.
const WANTED: &str = "1";

/// The values before us; `-` for a setting that the kernel does not have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Saved(String);

impl Saved {
    /// From text that [`Self::as_text`] gave.
    pub(crate) fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// One word.
    pub(crate) fn as_text(&self) -> &str {
        &self.0
    }
}

// `/proc/sys/net` shows the namespace of the thread that opens it.

/// The values now, in the calling thread's namespace.
pub(crate) fn read() -> io::Result<Saved> {
    let mut values = Vec::new();
    for path in SETTINGS {
        match fs::read_to_string(path) {
            Ok(value) => values.push(value.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => values.push("-".to_owned()),
            Err(error) => return Err(naming(path, &error)),
        }
    }
    Ok(Saved(values.join(",")))
}

/// Sets what deliveries need.
pub(crate) fn set() -> io::Result<()> {
    for (path, now) in SETTINGS.into_iter().zip(read()?.0.split(',')) {
        if now != "-" && now != WANTED {
            write(path, WANTED)?;
        }
    }
    Ok(())
}

/// Puts the values back as they were.
pub(crate) fn restore(saved: &Saved) -> io::Result<()> {
    for (path, value) in SETTINGS.into_iter().zip(saved.0.split(',')) {
        if value != "-" && value != WANTED {
            write(path, value)?;
        }
    }
    Ok(())
}

/// What is not as deliveries need it, in words.
pub(crate) fn wrong() -> io::Result<Option<String>> {
    let now = read()?;
    Ok(SETTINGS
        .into_iter()
        .zip(now.0.split(','))
        .find(|(_, value)| *value != "-" && *value != WANTED)
        .map(|(path, value)| format!("{path} is {value}")))
}

/// Containers see `/proc/sys` read-only, unless they are privileged. The node's first process sees it as it is, and whose
/// settings are meant depends on the thread that writes, not on the mount.
fn write(path: &str, value: &str) -> io::Result<()> {
    match fs::write(path, value) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            fs::write(format!("/proc/1/root{path}"), value)
        }
        other => other,
    }
    .map_err(|error| naming(path, &error))
}

fn naming(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}
