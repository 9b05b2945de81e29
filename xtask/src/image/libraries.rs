//! Whether a program needs shared libraries, and which.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::run;

/// The program header that names the dynamic loader. (A static program may be position independent, and then has a dynamic
/// section all the same.)
const PT_INTERP: u32 = 3;

/// Whether something has to be loaded beside the program before it can run.
pub(super) fn is_dynamic(program: &Path) -> Result<bool> {
    let bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    has_interpreter(&bytes).with_context(|| format!("read {} as an ELF file", program.display()))
}

/// ELF-64, little endian: every machine that Warren's image is built on.
fn has_interpreter(bytes: &[u8]) -> Result<bool> {
    ensure!(
        bytes.starts_with(b"\x7fELF\x02\x01"),
        "it is no 64-bit little-endian ELF file"
    );
    let (offset, size, count) = (
        number(bytes, 0x20, 8)? as usize,
        number(bytes, 0x36, 2)? as usize,
        number(bytes, 0x38, 2)? as usize,
    );
    for header in 0..count {
        if number(bytes, offset + header * size, 4)? == u64::from(PT_INTERP) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn number(bytes: &[u8], at: usize, width: usize) -> Result<u64> {
    let Some(field) = bytes.get(at..at + width) else {
        bail!("it ends before byte {}", at + width);
    };
    Ok(field
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The loader and the libraries that a program of ours needs, as the loader itself finds them.
pub(super) fn of(program: &Path) -> Result<Vec<PathBuf>> {
    let listing = run::read(Command::new("ldd").arg(program))?;
    let mut files = Vec::new();
    for line in listing.lines() {
        ensure!(!line.contains("not found"), "a library is missing:{line}");
        // `name => /path (0x…)`, or `/path/of/loader (0x…)`; what the kernel itself provides has no path.
        let words = line.split_whitespace();
        files.extend(
            words
                .filter(|word| word.starts_with('/'))
                .map(PathBuf::from),
        );
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_needs_libraries_and_they_are_found() {
        let program = std::env::current_exe().expect("a path");
        assert!(is_dynamic(&program).expect("an ELF file"));
        let files = of(&program).expect("listed");
        assert!(
            files
                .iter()
                .any(|file| file.to_string_lossy().contains("libc.so")),
            "{files:?}"
        );
    }

    #[test]
    fn what_is_no_program_is_said() {
        assert!(has_interpreter(b"#!/bin/sh").is_err());
        assert!(has_interpreter(b"\x7fELF\x02\x01").is_err());
    }
}
