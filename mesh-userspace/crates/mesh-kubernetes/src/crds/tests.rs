use std::path::Path;

use super::*;

#[test]
fn deploy_has_the_definitions_of_these_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../deploy/crds");
    let mut expected = Vec::new();
    for (name, text) in manifests().expect("definitions can be written") {
        let there = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert!(
            there == text,
            "deploy/crds/{name} differs from the types; write it with `cargo run -p mesh-kubernetes --example crds`"
        );
        expected.push(name);
    }
    let found = std::fs::read_dir(&folder).expect("the folder is there");
    let mut found: Vec<String> = found
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    found.sort();
    assert_eq!(found, expected, "a definition without a type");
}
