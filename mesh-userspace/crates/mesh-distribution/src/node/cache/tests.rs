use std::os::unix::fs::PermissionsExt;

use mesh_control::facts::NamespaceSpec;

use super::*;

fn cache(directory: &Path) -> Cache {
    Cache {
        path: directory.join("warren/world.json"),
        node: "n1".to_owned(),
        version: "1.0.0".to_owned(),
    }
}

fn facts() -> Facts {
    let mut facts = Facts::default();
    for name in ["bank", "shop"] {
        let fact = Fact::Namespace(NamespaceSpec {
            name: name.to_owned(),
            ..NamespaceSpec::default()
        });
        let held = Held {
            hash: Some(Hash::of(name.as_bytes())),
            fact: Some(Arc::new(fact.clone())),
            problem: None,
        };
        facts.insert(fact.key(), held);
    }
    facts
}

#[test]
fn what_was_saved_is_loaded() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = cache(directory.path());
    assert_eq!(cache.load().problem, None, "no file is no problem");
    cache.save(&facts(), Some("PEM")).expect("it is saved");
    let mode = fs::metadata(&cache.path).expect("a file").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let loaded = cache.load();
    assert_eq!(loaded.problem, None);
    assert_eq!(loaded.facts, facts());
    assert_eq!(loaded.bundle.as_deref(), Some("PEM"));
    assert!(loaded.written.is_some());
}

#[test]
fn every_damage_is_noticed_and_the_file_moved_aside() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = cache(directory.path());
    cache.save(&facts(), None).expect("it is saved");
    let good = fs::read(&cache.path).expect("a file");
    let mut bad: Vec<Vec<u8>> = vec![Vec::new(), good[..good.len() - 10].to_vec()];
    for at in [2, good.len() / 2, good.len() - 5] {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        bad.push(flipped);
    }
    // What is still well-formed, but says something else.
    let text = String::from_utf8(good).expect("text");
    bad.push(text.replace("\"shop\"", "\"shoq\"").into_bytes());
    let aside = cache.path.with_extension("damaged");
    for bytes in bad {
        fs::write(&cache.path, &bytes).expect("written");
        let loaded = cache.load();
        assert!(loaded.facts.is_empty());
        let problem = loaded.problem.expect("it is said");
        assert!(problem.contains("world.damaged"), "{problem}");
        assert_eq!(fs::read(&aside).expect("moved aside"), bytes);
        assert!(!cache.path.exists());
    }
}

#[test]
fn the_file_of_another_node_is_not_believed() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = cache(directory.path());
    cache.save(&facts(), None).expect("it is saved");
    let other = Cache {
        node: "n2".to_owned(),
        ..cache
    };
    let loaded = other.load();
    assert!(loaded.facts.is_empty());
    let problem = loaded.problem.expect("it is said");
    assert!(problem.contains("\"n1\""), "{problem}");
}

#[test]
fn facts_of_another_release_apply_but_are_told_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let cache = cache(directory.path());
    cache.save(&facts(), None).expect("it is saved");
    let later = Cache {
        version: "1.1.0".to_owned(),
        ..cache
    };
    let loaded = later.load();
    assert_eq!(loaded.facts.iter().count(), 2);
    assert!(loaded.facts.held().all(|(_, held)| held.hash.is_none()));
}
