//! The whole data path without the kernel half: two workers, their agents played by the test, everything else real.
//!
//! Each test runs in a network namespace of its own, where 10.77.0.0/16 is local, as a process of its own: this test
//! binary again. What the kernel programs would say of a dial is put in by [`scene::Origins`].

mod agent;
mod apps;
mod limits;
mod path;
mod process;
mod scene;

use std::process::Command;

const INSIDE: &str = "MESH_PROXY_TEST_NAMESPACE";

/// Whether the test `name` runs inside its namespace; outside, runs it there and fails as it fails.
fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        set_up_namespace();
        return true;
    }
    // As root a network namespace can be had at once, as anybody else through a user namespace.
    let kind = if nix::unistd::geteuid().is_root() {
        "-n"
    } else {
        "-rn"
    };
    let output = Command::new("unshare")
        .arg(kind)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{}\n{text}", output.status);
    assert!(text.contains("1 passed"), "{text}");
    false
}

fn without_backtraces() {
    // A backtrace wants descriptors, of which some tests have none left.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
}

fn set_up_namespace() {
    for arguments in [
        "link set lo up",
        "route add local 10.77.0.0/16 dev lo",
        "-6 route add local fd77::/64 dev lo",
    ] {
        let done = Command::new("ip")
            .args(arguments.split(' '))
            .status()
            .unwrap();
        assert!(done.success(), "ip {arguments}");
    }
}
