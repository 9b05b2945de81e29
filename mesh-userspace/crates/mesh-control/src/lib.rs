//! Warren's control plane: sources of configuration, reconciled into worlds.
//!
//! Reading order, which is the way of a file: [`source`] (reads and watches it), `tree` (YAML, with places), `read` and
//! [`raw`] (typed, with every mistake), `validate` (what objects mean to each other), [`reconcile`] (what becomes of the
//! rejected ones; the world), [`report`] (what is said about it). What a controller tells instead of a file: [`facts`]. It
//! must not know the kernel, certificates or the proxy.

mod duration;
pub mod facts;
pub mod located;
pub mod mistake;
pub mod objects;
pub mod raw;
mod read;
pub mod reconcile;
pub mod report;
pub mod source;
mod tree;
mod validate;

use std::io;
use std::path::Path;

use mistake::{Location, Mistake};
use objects::Objects;
use report::Report;

pub use validate::Kind;

/// Largest configuration file, in bytes.
pub const LARGEST_FILE: u64 = 16 << 20;

/// What a text says: objects to apply, unless it is rejected as a whole, and the report.
#[derive(Debug)]
pub struct Evaluated {
    /// What applies; `None`: what applied before stays.
    pub objects: Option<Objects>,
    /// What was found.
    pub report: Report,
}

/// Evaluates the text of a file as the node `node` sees it (`None`: the name that the file gives). `previous` is what
/// applies now: the last good versions of rejected objects are taken from it.
pub fn evaluate(
    file: &Path,
    text: &[u8],
    node: Option<&str>,
    previous: Option<&Objects>,
) -> Evaluated {
    let mut mistakes = Vec::new();
    let lossy = String::from_utf8_lossy(text);
    let checked = match text_of(text) {
        Err(mistake) => {
            mistakes.push(mistake);
            None
        }
        Ok(text) => check(text, node, &mut mistakes),
    };
    let Some(checked) = checked else {
        return Evaluated {
            objects: None,
            report: Report::new(file, lossy.into(), false, mistakes, Vec::new()),
        };
    };
    let usable = !checked.unusable;
    let (objects, rejected) = reconcile::settle(checked, previous);
    Evaluated {
        objects: usable.then_some(objects),
        report: Report::new(file, lossy.into(), usable, mistakes, rejected),
    }
}

/// Checks a file without applying it.
///
/// # Errors
/// The file cannot be read.
pub fn validate_file(file: &Path, node: Option<&str>) -> io::Result<Report> {
    let text = source::file::read(file)?;
    Ok(evaluate(file, &text, node, None).report)
}

/// The JSON Schema of the configuration file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(raw::Configuration).to_value()
}

fn check(text: &str, node: Option<&str>, mistakes: &mut Vec<Mistake>) -> Option<validate::Checked> {
    let tree = match tree::parse(text) {
        Ok(tree) => tree,
        Err(mistake) => {
            mistakes.push(mistake);
            return None;
        }
    };
    if matches!(tree.value, tree::Value::Null) {
        let message = "the file says nothing";
        let next = "it begins with \"apiVersion: warren.dev/v1alpha1\"".to_owned();
        mistakes.push(Mistake::error(Location::START, "", message).suggest(Some(next)));
        return None;
    }
    let configuration: raw::Configuration = read::read(&tree, mistakes)?;
    Some(validate::check(&configuration, node, mistakes))
}

fn text_of(bytes: &[u8]) -> Result<&str, Mistake> {
    if bytes.len() as u64 > LARGEST_FILE {
        let message = format!("the file is larger than {} MiB", LARGEST_FILE >> 20);
        return Err(Mistake::error(Location::START, "", message));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let lines = good.split(|byte| *byte == b'\n');
        let (line, last) = lines.enumerate().last().unwrap_or((0, &[]));
        let column = String::from_utf8_lossy(last).chars().count();
        let at = Location {
            line: u32::try_from(line + 1).unwrap_or(u32::MAX),
            column: u32::try_from(column + 1).unwrap_or(u32::MAX),
            length: 1,
        };
        Mistake::error(at, "", "the file is not UTF-8 text from here on")
    })
}
