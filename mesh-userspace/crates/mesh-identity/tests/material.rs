//! An authority that somebody else keeps: the same one as in a directory.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use mesh_core::identity::TrustDomain;
use mesh_identity::authority::{Authority, AuthorityError, Material, Phase, Place, Reloaded, Step};
use mesh_identity::{TrustBundle, svid};
use proptest::prelude::*;
use rcgen::KeyPair;
use rustls_pki_types::UnixTime;
use support::{domain, id};

const HOUR: Duration = Duration::from_secs(3600);
const SECRET: &str = "Secret warren-system/warren-ca";

/// A step of a rotation.
type Rotate = fn(&mut Authority) -> Result<Step, AuthorityError>;

type Entries = BTreeMap<String, Vec<u8>>;

fn generate() -> Material {
    Material::generate(SECRET, &domain()).unwrap()
}

fn open(material: &Material) -> Result<Authority, AuthorityError> {
    Authority::from_material(material, &domain())
}

fn entries(material: &Material) -> Entries {
    material
        .entries()
        .map(|(name, content)| (name.to_owned(), content.to_vec()))
        .collect()
}

fn of(entries: &Entries) -> Material {
    Material::from_entries(SECRET, entries)
}

/// What a directory holds, the lock aside.
fn files(directory: &Path) -> Entries {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .filter(|(name, _)| name != "lock")
        .collect()
}

#[test]
fn what_is_generated_can_be_stored_and_read() {
    let material = generate();
    assert!(!material.is_vacant());
    let names: Vec<_> = material.entries().map(|(name, _)| name).collect();
    assert_eq!(names, ["bundle.pem", "signer.pem", "signer.key"]);
    // Stored beside something that is not ours.
    let mut stored = entries(&material);
    stored.insert("note".to_owned(), b"do not delete".to_vec());
    let read = of(&stored);
    assert_eq!(read, material);
    let (one, other) = (open(&material).unwrap(), open(&read).unwrap());
    assert_eq!(one.signer(), other.signer());
    assert_eq!(one.material(), material);
    let certificate = one.issue(&id("web"), HOUR).unwrap();
    svid::verify(&other.bundle(), certificate.chain(), UnixTime::now()).unwrap();
    assert_ne!(open(&generate()).unwrap().signer(), one.signer());
    assert_eq!(one.describe().place, Place::Named(SECRET.to_owned()));
    // The bundle is what nodes read.
    let pem = one.bundle().to_pem();
    assert_eq!(
        TrustBundle::from_pem(&domain(), pem.as_bytes()).unwrap(),
        one.bundle()
    );
}

#[test]
fn an_empty_secret_is_vacant_and_a_damaged_one_is_not() {
    assert!(of(&Entries::new()).is_vacant());
    let mut stored = entries(&generate());
    let error = open(&of(&Entries::new())).unwrap_err();
    assert!(
        matches!(error, AuthorityError::Incomplete { .. }),
        "{error}"
    );
    stored.remove("signer.key");
    assert!(!of(&stored).is_vacant());
    let error = open(&of(&stored)).unwrap_err().to_string();
    assert!(
        error.contains(SECRET) && error.contains("signer.key is missing"),
        "{error}"
    );
}

#[test]
fn errors_name_the_place_and_the_part() {
    let other = KeyPair::generate().unwrap().serialize_pem();
    for (part, content, named, words) in [
        (
            "signer.key",
            "garbage",
            "signer.key",
            "does not hold a P-256 private key",
        ),
        (
            "signer.key",
            &other,
            "signer.pem",
            "not the certificate of the private key in signer.key",
        ),
        (
            "signer.pem",
            "garbage",
            "signer.pem",
            "holds no certificate",
        ),
        ("bundle.pem", "", "bundle.pem", "holds no certificate"),
    ] {
        let mut stored = entries(&generate());
        stored.insert(part.to_owned(), content.as_bytes().to_vec());
        let error = open(&of(&stored)).unwrap_err();
        assert!(matches!(error, AuthorityError::Damaged { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&format!("{named} of {SECRET} is damaged")) && text.contains(words),
            "{text}"
        );
    }
    let mut stored = entries(&generate());
    let foreign = entries(&generate()).remove("bundle.pem").unwrap();
    stored.insert("bundle.pem".to_owned(), foreign);
    let error = open(&of(&stored)).unwrap_err().to_string();
    assert!(error.contains("the root that signs"), "{error}");
    let other = TrustDomain::new("other").unwrap();
    let error = Authority::from_material(&generate(), &other).unwrap_err();
    assert!(
        matches!(error, AuthorityError::ForeignTrustDomain { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("is of trust domain demo.warren"));
}

#[test]
fn a_rotation_changes_what_is_stored_step_by_step() {
    let mut authority = open(&generate()).unwrap();
    let first = authority.signer().clone();
    let names = |authority: &Authority| -> Vec<_> {
        authority
            .material()
            .entries()
            .map(|(name, _)| name)
            .collect()
    };
    let due = |result: Result<Step, AuthorityError>| match result.unwrap_err() {
        AuthorityError::NotDue { next, .. } => next,
        other => panic!("{other}"),
    };
    assert_eq!(due(authority.activate()), "stage");
    assert_eq!(authority.finish().unwrap(), Step::TakenBefore);

    assert_eq!(authority.stage().unwrap(), Step::Taken);
    assert_eq!(authority.stage().unwrap(), Step::TakenBefore);
    assert_eq!(
        names(&authority),
        [
            "bundle.pem",
            "signer.pem",
            "signer.key",
            "next.pem",
            "next.key"
        ]
    );
    assert_eq!(authority.signer(), &first);
    // Another replica reads it from here.
    let mut authority = open(&authority.material()).unwrap();
    assert_eq!(authority.phase(), Phase::Staged);
    assert_eq!(due(authority.finish()), "activate");
    assert_eq!(authority.activate().unwrap(), Step::Taken);
    assert_eq!(
        names(&authority),
        ["bundle.pem", "signer.pem", "signer.key"]
    );
    assert_ne!(authority.signer(), &first);

    let mut authority = open(&authority.material()).unwrap();
    assert_eq!(authority.phase(), Phase::Activated);
    assert_eq!(due(authority.stage()), "finish");
    assert_eq!(authority.bundle().roots().len(), 2);
    assert_eq!(authority.finish().unwrap(), Step::Taken);
    assert_eq!(authority.bundle().roots(), [authority.signer().clone()]);
}

#[test]
fn a_step_on_a_clone_leaves_the_authority_alone() {
    let authority = open(&generate()).unwrap();
    let before = authority.material();
    let mut step = authority.clone();
    for take in [Authority::stage, Authority::activate, Authority::finish] {
        take(&mut step).unwrap();
    }
    assert_eq!(authority.material(), before);
    assert_ne!(step.signer(), authority.signer());
}

#[test]
fn a_replica_follows_what_is_stored() {
    let mut operator = open(&generate()).unwrap();
    let mut replica = open(&operator.material()).unwrap();
    let follow = |replica: &mut Authority, operator: &Authority| {
        replica.replace(&operator.material()).unwrap()
    };
    let nothing = Reloaded::default();
    assert_eq!(follow(&mut replica, &operator), nothing);
    for (step, bundle, signer) in [
        (Authority::stage as fn(&mut Authority) -> _, true, false),
        (Authority::activate, false, true),
        (Authority::finish, true, false),
    ] {
        step(&mut operator).unwrap();
        assert_eq!(follow(&mut replica, &operator), Reloaded { bundle, signer });
        assert_eq!(follow(&mut replica, &operator), nothing);
        assert_eq!(replica.signer(), operator.signer());
    }
    // Replaced altogether, and then by something unusable.
    let other = open(&generate()).unwrap();
    let both = Reloaded {
        bundle: true,
        signer: true,
    };
    assert_eq!(follow(&mut replica, &other), both);
    let mut damaged = entries(&other.material());
    damaged.remove("signer.pem");
    replica.replace(&of(&damaged)).unwrap_err();
    assert_eq!(replica.signer(), other.signer());
    replica.issue(&id("web"), HOUR).unwrap();
    assert_eq!(
        replica.reload().unwrap(),
        nothing,
        "there is nothing to reload"
    );
}

/// Files with the permissions that the directory asks for.
fn write(directory: &Path, entries: &Entries) {
    for (name, content) in entries {
        let path = directory.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    /// Whatever steps are taken, in whatever order: the directory's authority and the stored one do the same, and what one
    /// writes the other reads.
    #[test]
    fn rotation_on_material_equals_rotation_in_a_directory(
        steps in proptest::collection::vec(0_usize..4, 1..10)
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut kept = Authority::open_or_create(directory.path(), &domain()).unwrap();
        let mut stored = open(&of(&files(directory.path()))).unwrap();
        let outcome = |result: Result<Step, AuthorityError>| match result {
            Ok(step) => format!("{step:?}"),
            Err(error) => error.to_string(),
        };
        for step in steps {
            let all: [Rotate; 3] = [Authority::stage, Authority::activate, Authority::finish];
            if let Some(step) = all.get(step) {
                let (one, other) = (outcome(step(&mut kept)), outcome(step(&mut stored)));
                prop_assert_eq!(one, other);
            } else {
                // Moved from the directory to a Secret, and from a Secret to a directory.
                stored = open(&of(&files(directory.path()))).unwrap();
                let moved = tempfile::tempdir().unwrap();
                write(moved.path(), &entries(&stored.material()));
                let moved = Authority::open_or_create(moved.path(), &domain()).unwrap();
                prop_assert_eq!(moved.signer(), kept.signer());
                prop_assert_eq!(moved.bundle(), kept.bundle());
            }
            prop_assert_eq!(kept.phase(), stored.phase());
            prop_assert_eq!(kept.bundle().roots().len(), stored.bundle().roots().len());
            let names = |entries: Entries| entries.into_keys().collect::<Vec<_>>();
            prop_assert_eq!(names(files(directory.path())), names(entries(&stored.material())));
            prop_assert_eq!(files(directory.path()), entries(&kept.material()));
        }
    }

    /// Any part missing or replaced by another authority's: an authority that works, or an error, and never one whose
    /// certificates its own bundle refuses.
    #[test]
    fn mixed_material_is_refused_or_whole(
        from in proptest::collection::vec(0_usize..3, 5), steps in 0_usize..3
    ) {
        let take = |material: &Material| {
            let mut authority = open(material).unwrap();
            for step in [Authority::stage, Authority::activate].into_iter().take(steps) {
                step(&mut authority).unwrap();
            }
            entries(&authority.material())
        };
        let (one, other) = (take(&generate()), take(&generate()));
        let names = ["bundle.pem", "signer.pem", "signer.key", "next.pem", "next.key"];
        let mut mixed = Entries::new();
        for (name, from) in names.into_iter().zip(from) {
            let source = match from { 0 => Some(&one), 1 => Some(&other), _ => None };
            if let Some(content) = source.and_then(|source| source.get(name)) {
                mixed.insert(name.to_owned(), content.clone());
            }
        }
        if let Ok(mut authority) = open(&of(&mixed)) {
            let check = |authority: &Authority| {
                let certificate = authority.issue(&id("web"), HOUR).unwrap();
                svid::verify(&authority.bundle(), certificate.chain(), UnixTime::now()).unwrap();
                prop_assert!(open(&authority.material()).is_ok());
                Ok(())
            };
            check(&authority)?;
            for step in [Authority::stage, Authority::activate, Authority::finish] {
                if step(&mut authority).is_ok() {
                    check(&authority)?;
                }
            }
        }
    }
}
