//! The file source against a real file system: rewriting, renaming, symbolic links, mistakes, disappearance.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_control::source::Applied;
use mesh_control::source::file::{FileSource, SourceError};
use tokio::sync::watch::Receiver;

const HEAD: &str = "apiVersion: warren.dev/v1alpha1\n";

fn with_service(port: u16) -> String {
    format!(
        "{HEAD}services:\n  - {{name: web, addresses: [10.200.0.9], ports: [{{port: {port}}}]}}\n"
    )
}

fn start(file: &Path) -> (FileSource, Receiver<Arc<Applied>>) {
    let source = FileSource::start(file, None, "host").expect("a good file");
    let receiver = source.subscribe();
    (source, receiver)
}

/// Waits until what applies is as wanted: far longer than it takes, and not so long that the look now and then finds it.
fn eventually(receiver: &Receiver<Arc<Applied>>, what: &str, wanted: impl Fn(&Applied) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(4);
    while !wanted(&receiver.borrow()) {
        assert!(Instant::now() < deadline, "{what}: {:?}", receiver.borrow());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn port(applied: &Applied) -> u16 {
    applied.world.services[0].ports[0].port
}

#[test]
fn a_change_applies_as_a_new_generation() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("warren.yaml");
    fs::write(&file, with_service(80)).expect("written");
    let (_source, receiver) = start(&file);
    assert_eq!(
        (receiver.borrow().generation, port(&receiver.borrow())),
        (1, 80)
    );
    assert_eq!(&*receiver.borrow().node, "host");
    assert_eq!(receiver.borrow().world.generation, 1);

    fs::write(&file, with_service(81)).expect("written");
    eventually(&receiver, "written in place", |applied| port(applied) == 81);
    assert_eq!(receiver.borrow().generation, 2);

    // As editors do it.
    let new = directory.path().join(".warren.yaml.swp");
    fs::write(&new, with_service(82)).expect("written");
    fs::rename(&new, &file).expect("renamed");
    eventually(&receiver, "renamed over", |applied| port(applied) == 82);
    assert_eq!(receiver.borrow().generation, 3);
}

#[test]
fn the_same_content_is_no_new_generation() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("warren.yaml");
    fs::write(&file, with_service(80)).expect("written");
    let (_source, mut receiver) = start(&file);
    receiver.mark_unchanged();
    fs::write(&file, with_service(80)).expect("written");
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        !receiver.has_changed().expect("alive"),
        "nothing was published"
    );
    fs::write(&file, format!("# a comment\n{}", with_service(80))).expect("written");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        receiver.borrow().generation,
        1,
        "a comment is no other world"
    );
}

#[test]
fn a_mounted_config_map_swaps_a_link() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    for (version, port) in [("1", 80), ("2", 81)] {
        fs::create_dir(root.join(version)).expect("made");
        fs::write(root.join(version).join("warren.yaml"), with_service(port)).expect("written");
    }
    symlink("1", root.join("..data")).expect("linked");
    symlink("..data/warren.yaml", root.join("warren.yaml")).expect("linked");
    let (_source, receiver) = start(&root.join("warren.yaml"));
    symlink("2", root.join("..data_tmp")).expect("linked");
    fs::rename(root.join("..data_tmp"), root.join("..data")).expect("swapped");
    eventually(&receiver, "swapped", |applied| port(applied) == 81);
}

#[test]
fn the_last_good_configuration_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("warren.yaml");
    fs::write(&file, with_service(80)).expect("written");
    let (_source, receiver) = start(&file);

    fs::write(&file, "services: [").expect("written");
    eventually(&receiver, "no YAML", |applied| !applied.report.usable);
    assert!(!receiver.borrow().is_current());
    assert_eq!(
        (receiver.borrow().generation, port(&receiver.borrow())),
        (1, 80)
    );

    fs::write(&file, with_service(0)).expect("written");
    eventually(&receiver, "a bad service", |applied| {
        applied.report.usable && applied.report.rejected.len() == 1
    });
    assert_eq!(
        (receiver.borrow().generation, port(&receiver.borrow())),
        (1, 80)
    );
    assert_eq!(
        receiver.borrow().report.rejected[0].consequence,
        "its last good version stays"
    );

    fs::remove_file(&file).expect("removed");
    eventually(&receiver, "gone", |applied| applied.unreadable.is_some());
    assert_eq!(
        (receiver.borrow().generation, port(&receiver.borrow())),
        (1, 80)
    );

    fs::write(&file, with_service(83)).expect("written");
    eventually(&receiver, "back", |applied| {
        applied.is_current() && port(applied) == 83
    });
    assert_eq!(receiver.borrow().generation, 2);
    assert!(
        receiver
            .borrow()
            .report
            .mistakes
            .iter()
            .all(|mistake| { mistake.severity == mesh_control::mistake::Severity::Warning })
    );
}

#[test]
fn a_file_that_says_nothing_good_does_not_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("warren.yaml");
    let start = || FileSource::start(&file, None, "host");
    assert!(matches!(start(), Err(SourceError::Read { .. })));
    fs::write(&file, "apiVersion: warren.dev/v9\n").expect("written");
    match start() {
        Err(SourceError::Rejected { report }) => assert_eq!(report.errors(), 1),
        other => panic!("{other:?}"),
    }
    let error = FileSource::start(directory.path(), None, "host").expect_err("a directory");
    assert!(matches!(error, SourceError::Read { .. }), "{error:?}");
}

#[test]
fn the_command_line_names_the_node_before_the_file_and_the_host() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("warren.yaml");
    let name = |text: &str, name: Option<&str>| {
        fs::write(&file, text).expect("written");
        let source = FileSource::start(&file, name.map(str::to_owned), "host").expect("good");
        source.subscribe().borrow().node.to_string()
    };
    let named = format!("{HEAD}node: {{name: file}}\n");
    assert_eq!(name(&named, Some("line")), "line");
    assert_eq!(name(&named, None), "file");
    assert_eq!(name(HEAD, None), "host");
}
