//! Who may depend on whom, and which crates nobody may use.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use super::metadata;

/// What one package may use of ours, and what must not be anywhere below it.
struct Rule {
    package: &'static str,
    may_use: &'static [&'static str],
    never: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        package: "mesh-common",
        may_use: &[],
        never: &["libc", "tokio", "rustls"],
    },
    Rule {
        package: "mesh-core",
        may_use: &[],
        // Decisions take data and the time, and return data: no I/O, no clock, no randomness, no cryptography.
        never: &["aya", "libc", "nix", "rand", "rustls", "socket2", "tokio"],
    },
    Rule {
        package: "mesh-kernel",
        may_use: &["mesh-common", "mesh-core"],
        never: &["rustls"],
    },
    Rule {
        package: "mesh-identity",
        may_use: &["mesh-core"],
        never: &["aya", "tokio"],
    },
    Rule {
        package: "mesh-proxy",
        may_use: &["mesh-common", "mesh-core", "mesh-identity"],
        never: &["aya", "rtnetlink"],
    },
    Rule {
        package: "mesh-control",
        may_use: &["mesh-core"],
        never: &["aya", "rustls"],
    },
    Rule {
        package: "mesh-distribution",
        may_use: &["mesh-control", "mesh-core"],
        // TLS configurations are handed in.
        never: &["aya", "kube"],
    },
    Rule {
        package: "mesh-kubernetes",
        may_use: &["mesh-control", "mesh-core"],
        never: &["aya", "tonic"],
    },
    Rule {
        package: "mesh-userspace",
        may_use: &[
            "mesh-common",
            "mesh-control",
            "mesh-core",
            "mesh-distribution",
            "mesh-identity",
            "mesh-kubernetes",
            "mesh-kernel",
            "mesh-proxy",
        ],
        never: &[],
    },
    // Tests drive the real binary and chores must build when nothing else does: neither sees the product's crates.
    Rule {
        package: "mesh-tests",
        may_use: &[],
        never: &["aya"],
    },
    Rule {
        package: "xtask",
        may_use: &[],
        never: &["aya", "tokio"],
    },
];

/// Only this package knows how programs are loaded.
const KNOWS_AYA: &str = "mesh-kernel";

/// A second TLS or cryptography stack, a C library where a Rust one is in use, or a crate that nobody keeps up.
const BANNED: &[&str] = &[
    "async-std",
    "atty",
    "backoff",
    "bincode",
    "instant",
    "libyml",
    "native-tls",
    "openssl",
    "openssl-sys",
    "proc-macro-error",
    "ring",
    "rustls-pemfile",
    "serde_yaml",
    "serde_yml",
    "yaml-rust",
];

pub(super) fn check() -> Result<()> {
    let members = metadata::members()?;
    let mut faults = Vec::new();

    for member in &members {
        let Some(rule) = RULES.iter().find(|rule| rule.package == member) else {
            faults.push(format!(
                "{member} has no dependency rule; add one to xtask/src/check/dependencies.rs"
            ));
            continue;
        };
        let (direct, below) = (metadata::direct(member)?, metadata::closure(member)?);
        faults.extend(broken(rule, &members, &direct, &below));
        for banned in BANNED.iter().filter(|name| below.contains(**name)) {
            faults.push(format!(
                "{member} pulls in {banned}; find the way with `cargo tree -i {banned}`"
            ));
        }
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n  "));
    }
    Ok(())
}

fn broken(
    rule: &Rule,
    members: &BTreeSet<String>,
    direct: &BTreeSet<String>,
    below: &BTreeSet<String>,
) -> Vec<String> {
    let Rule {
        package,
        may_use,
        never,
    } = rule;
    let mut faults = Vec::new();
    for used in direct.intersection(members) {
        if !may_use.contains(&used.as_str()) {
            faults.push(format!("{package} must not depend on {used}"));
        }
    }
    if direct.contains("aya") && *package != KNOWS_AYA {
        faults.push(format!(
            "{package} must not know aya; only {KNOWS_AYA} does"
        ));
    }
    for name in never.iter().filter(|name| below.contains(**name)) {
        faults.push(format!("{package} must not have {name} anywhere below it"));
    }
    faults
}
