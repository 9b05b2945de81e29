use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::watch::{self, InPlace};
use super::{Installer, Told};

const LIST: &str = "{\"cniVersion\":\"0.4.0\",\"name\":\"podnet\",\"plugins\":[\n {\"type\":\"ptp\",\"mtu\":1400},\n \
                    {\"type\":\"portmap\",\"capabilities\":{\"portMappings\":true}}]}\n";

struct Place {
    folder: tempfile::TempDir,
    installer: Installer,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["bin", "net.d", "state"] {
            fs::create_dir(at(name)).expect("made");
        }
        fs::write(at("warren"), "a program").expect("written");
        let installer = Installer {
            program: at("warren"),
            bin_dir: at("bin"),
            conf_dir: at("net.d"),
            state_dir: at("state"),
            told: Told {
                run_dir: "/run/warren".into(),
                state_dir: "/var/lib/warren".into(),
            },
        };
        Self { folder, installer }
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.installer.conf_dir.join(name), text).expect("written");
    }

    fn get(&self, name: &str) -> String {
        fs::read_to_string(self.installer.conf_dir.join(name)).expect("there")
    }

    fn ensure(&self) -> String {
        self.installer.ensure(&mut None).expect("in place")
    }

    /// Everything below the folders of the node, with modes.
    fn everything(&self) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut files = BTreeMap::new();
        for folder in ["bin", "net.d", "state"] {
            list(&self.folder.path().join(folder), &mut files);
        }
        files
    }
}

fn list(folder: &Path, files: &mut BTreeMap<String, (u32, Vec<u8>)>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.insert(path.display().to_string(), (0, Vec::new()));
            list(&path, files);
        } else {
            let mode = entry.metadata().expect("there").permissions().mode();
            files.insert(
                path.display().to_string(),
                (mode, fs::read(path).expect("there")),
            );
        }
    }
}

fn types(text: &str) -> Vec<String> {
    let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let plugins = value["plugins"].as_array().expect("a list");
    plugins
        .iter()
        .map(|plugin| plugin["type"].as_str().expect("a type").to_owned())
        .collect()
}

#[test]
fn the_list_in_use_is_changed_and_put_back_byte_for_byte() {
    let place = Place::new();
    place.put("10-ptp.conflist", LIST);
    place.put("20-other.conflist", LIST);
    place.put("00-notes.txt", "not a configuration");
    place.put("05-broken.conflist", "{");
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(place.installer.conf_dir.join("10-ptp.conflist"), mode).expect("set");
    let before = place.everything();

    assert_eq!(place.ensure(), "10-ptp.conflist");
    let text = place.get("10-ptp.conflist");
    assert_eq!(types(&text), ["ptp", "portmap", "warren-cni"]);
    assert_eq!(place.get("20-other.conflist"), LIST, "it is not in use");
    let changed = place.everything();
    // Looking again changes nothing.
    assert_eq!(place.ensure(), "10-ptp.conflist");
    assert_eq!(place.everything(), changed);
    let plugin = place.installer.bin_dir.join("warren-cni");
    assert_eq!(fs::read(&plugin).expect("there"), b"a program");
    let modes = fs::metadata(&plugin).expect("there").permissions().mode();
    assert_eq!(modes & 0o777, 0o755);

    let words = place.installer.restore().expect("restored");
    assert_eq!(words.len(), 2, "{words:?}");
    assert_eq!(place.everything(), before);
    assert!(place.installer.restore().expect("again").is_empty());
}

#[test]
fn another_release_replaces_program_and_entry_and_the_original_stays_known() {
    let mut place = Place::new();
    place.put("10-ptp.conflist", LIST);
    let before = place.everything();
    place.ensure();
    fs::write(&place.installer.program, "a newer one").expect("written");
    place.installer.told.run_dir = "/run/elsewhere".into();
    place.ensure();
    let text = place.get("10-ptp.conflist");
    assert_eq!(types(&text), ["ptp", "portmap", "warren-cni"]);
    assert!(text.contains("/run/elsewhere"), "{text}");
    let plugin = fs::read(place.installer.bin_dir.join("warren-cni")).expect("there");
    assert_eq!(plugin, b"a newer one");
    place.installer.restore().expect("restored");
    assert_eq!(place.everything(), before);
}

#[test]
fn a_program_that_is_replaced_or_removed_is_put_back() {
    let place = Place::new();
    place.put("10-ptp.conflist", LIST);
    let plugin = place.installer.bin_dir.join("warren-cni");
    let mut seen = None;
    for _ in 0..2 {
        place.installer.ensure(&mut seen).expect("in place");
        let stamp = seen.expect("compared");
        place.installer.ensure(&mut seen).expect("in place");
        assert_eq!(seen, Some(stamp), "it is not written again");
        fs::write(&plugin, "of the same size").expect("written");
        place.installer.ensure(&mut seen).expect("in place");
        assert_eq!(fs::read(&plugin).expect("there"), b"a program");
        fs::remove_file(&plugin).expect("removed");
        place.installer.ensure(&mut seen).expect("in place");
        assert_eq!(fs::read(&plugin).expect("there"), b"a program");
    }
}

#[test]
fn what_another_writer_makes_of_it_is_repaired_and_stays_theirs() {
    let place = Place::new();
    place.put("10-ptp.conflist", LIST);
    place.ensure();
    // Written anew, as an upgrade of the network does.
    let newer = LIST.replace("1400", "9000");
    place.put("10-ptp.conflist", &newer);
    place.ensure();
    assert_eq!(
        types(&place.get("10-ptp.conflist")),
        ["ptp", "portmap", "warren-cni"]
    );
    place.installer.restore().expect("restored");
    assert_eq!(
        place.get("10-ptp.conflist"),
        newer,
        "not what was there long ago"
    );

    // Changed around our entry: only the entry goes.
    place.ensure();
    let changed = place.get("10-ptp.conflist").replace("9000", "1280");
    place.put("10-ptp.conflist", &changed);
    place.ensure();
    place.installer.restore().expect("restored");
    assert_eq!(place.get("10-ptp.conflist"), LIST.replace("1400", "1280"));
}

#[test]
fn another_file_that_comes_into_use_takes_the_entry_over() {
    let place = Place::new();
    place.put("10-ptp.conflist", LIST);
    place.ensure();
    let newer = LIST.replace("podnet", "other");
    place.put("05-new.conflist", &newer);
    assert_eq!(place.ensure(), "05-new.conflist");
    assert_eq!(place.get("10-ptp.conflist"), LIST, "no longer in use");
    fs::remove_file(place.installer.conf_dir.join("05-new.conflist")).expect("removed");
    assert_eq!(place.ensure(), "10-ptp.conflist");
    place.installer.restore().expect("restored");
    assert_eq!(place.get("10-ptp.conflist"), LIST);
}

#[test]
fn a_single_plugins_configuration_is_wrapped_and_put_back() {
    let place = Place::new();
    let single = "{ \"cniVersion\": \"0.3.1\",\n  \"name\": \"n\", \"type\": \"bridge\" }\n";
    place.put("10-bridge.conf", single);
    place.put("20-other.conflist", LIST);
    let before = place.everything();
    assert_eq!(place.ensure(), "10-bridge.conf.conflist");
    assert!(!place.installer.conf_dir.join("10-bridge.conf").exists());
    let text = place.get("10-bridge.conf.conflist");
    assert_eq!(types(&text), ["bridge", "warren-cni"]);
    assert_eq!(place.ensure(), "10-bridge.conf.conflist");
    // Its writer puts it there again, changed.
    let newer = single.replace("bridge", "ptp");
    place.put("10-bridge.conf", &newer);
    assert_eq!(place.ensure(), "10-bridge.conf.conflist");
    assert_eq!(
        types(&place.get("10-bridge.conf.conflist")),
        ["ptp", "warren-cni"]
    );
    place.put("10-bridge.conf", single);
    place.ensure();
    place.installer.restore().expect("restored");
    assert_eq!(place.everything(), before);
}

#[test]
fn an_entry_goes_even_when_nothing_is_known_about_it_any_more() {
    let place = Place::new();
    place.put("10-ptp.conflist", LIST);
    place.ensure();
    fs::remove_dir_all(place.installer.backup()).expect("lost");
    place.installer.restore().expect("restored");
    assert_eq!(place.get("10-ptp.conflist"), LIST);

    place.ensure();
    fs::write(place.installer.backup().join(super::RECORDS), "{").expect("damaged");
    place.installer.restore().expect("restored");
    assert_eq!(place.get("10-ptp.conflist"), LIST);
}

#[test]
fn a_node_without_a_network_configuration_says_so() {
    let place = Place::new();
    let error = place
        .installer
        .ensure(&mut None)
        .expect_err("nothing to chain to");
    assert!(
        error.to_string().contains("no network configuration"),
        "{error}"
    );
}

#[tokio::test]
async fn a_replaced_configuration_is_repaired_at_once() {
    let place = Place::new();
    let (state, mut states) = tokio::sync::watch::channel(InPlace::Unknown);
    let keeping = tokio::spawn(watch::keep(place.installer.clone(), state));
    let soon = std::time::Duration::from_secs(3);
    let mut wait = async |is: fn(&InPlace) -> bool| {
        tokio::time::timeout(soon, states.wait_for(is))
            .await
            .expect("in time")
            .expect("kept");
    };
    wait(|state| matches!(state, InPlace::No(_))).await;
    place.put("10-ptp.conflist", LIST);
    wait(|state| *state == InPlace::Yes("10-ptp.conflist".to_owned())).await;
    // Faster than the look now and then, which would also find it.
    let begun = std::time::Instant::now();
    place.put("10-ptp.conflist", LIST);
    while types(&place.get("10-ptp.conflist")).len() < 3 {
        assert!(begun.elapsed() < soon, "it was not repaired");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    keeping.abort();
}

#[tokio::test]
async fn what_is_taken_away_is_not_put_back() {
    let place = Place::new();
    place.put("10-ptp.conflist", LIST);
    let (state, mut states) = tokio::sync::watch::channel(InPlace::Unknown);
    let keeping = tokio::spawn(watch::keep(place.installer.clone(), state));
    let in_place = InPlace::Yes("10-ptp.conflist".to_owned());
    let soon = std::time::Duration::from_secs(3);
    tokio::time::timeout(soon, states.wait_for(|state| *state == in_place))
        .await
        .expect("in time")
        .expect("kept");
    drop(states);
    // This changes the folder that is watched.
    place.installer.restore().expect("restored");
    tokio::time::timeout(soon, keeping)
        .await
        .expect("it ends by itself")
        .expect("without a fault");
    assert_eq!(place.get("10-ptp.conflist"), LIST);
}
