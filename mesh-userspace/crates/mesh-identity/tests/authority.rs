//! The authority's directory: made once, read by many, damaged, interrupted.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, SystemTime};

use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_identity::authority::{Authority, AuthorityError, Phase, Step};
use mesh_identity::svid;
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384};
use rustls_pki_types::UnixTime;
use support::{domain, id};

const HOUR: Duration = Duration::from_secs(3600);

fn open(directory: &Path) -> Result<Authority, AuthorityError> {
    Authority::open_or_create(directory, &domain())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn many_at_once_make_one_root() {
    for _ in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/ca");
        let barrier = Barrier::new(8);
        let roots: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        open(&path).unwrap().signer().fingerprint().to_owned()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(roots.iter().all(|root| *root == roots[0]), "{roots:?}");
        assert_eq!(open(&path).unwrap().bundle().roots().len(), 1);
    }
}

#[test]
fn files_are_for_their_owner() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca");
    let mut authority = open(&path).unwrap();
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("signer.key")), 0o600);
    authority.stage().unwrap();
    assert_eq!(mode(&path.join("next.key")), 0o600);
    authority.activate().unwrap();
    assert_eq!(mode(&path.join("signer.key")), 0o600);
    let mut names: Vec<_> = fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["bundle.pem", "lock", "signer.key", "signer.pem"]);
}

#[test]
fn a_key_that_others_may_read_is_not_used() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).unwrap();
    let key = directory.path().join("signer.key");
    for exposed in [0o640, 0o604, 0o644, 0o660, 0o602] {
        fs::set_permissions(&key, fs::Permissions::from_mode(exposed)).unwrap();
        let error = open(directory.path()).unwrap_err().to_string();
        assert!(
            error.contains("chmod 600") && error.contains(&format!("{exposed:o}")),
            "{error}"
        );
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
    open(directory.path()).unwrap();
}

#[test]
fn certificates_say_what_they_should() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path()).unwrap();
    let now = SystemTime::now();
    let certificate = authority.issue_at(&id("web"), HOUR, now).unwrap();
    assert_eq!(certificate.identity(), &id("web"));
    assert_eq!(certificate.issued_at(), now);
    assert_eq!(certificate.issuer(), authority.signer().name());
    assert_eq!(certificate.serial().len(), 32);
    let second = Duration::from_secs(1);
    assert!(
        (now + HOUR)
            .duration_since(certificate.not_after())
            .unwrap()
            < second
    );
    assert!(certificate.not_before() <= now);
    let identity = svid::verify(&authority.bundle(), certificate.chain(), UnixTime::now()).unwrap();
    assert_eq!(identity, id("web"));
    let other = authority.issue_at(&id("web"), HOUR, now).unwrap();
    assert_ne!(other.serial(), certificate.serial());
    assert_ne!(other, certificate);
    // The root: ten years, back-dated.
    let root = authority.signer();
    assert!(root.not_after().duration_since(now).unwrap() > 3649 * 24 * HOUR);
    assert!(root.not_before() < now - Duration::from_secs(290));
}

#[test]
fn certificates_are_back_dated_but_not_before_their_root_nor_after() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path()).unwrap();
    let root = authority.signer();
    let now = SystemTime::now() + HOUR;
    let certificate = authority
        .issue_at(&id("web"), Duration::from_secs(10), now)
        .unwrap();
    let back = now.duration_since(certificate.not_before()).unwrap();
    assert!(
        back >= Duration::from_secs(300) && back < Duration::from_secs(302),
        "{back:?}"
    );
    let certificate = authority
        .issue_at(&id("web"), HOUR, root.not_before())
        .unwrap();
    assert_eq!(certificate.not_before(), root.not_before());
    let late = root.not_after() - Duration::from_secs(10);
    for lifetime in [HOUR, Duration::MAX] {
        let certificate = authority.issue_at(&id("web"), lifetime, late).unwrap();
        assert_eq!(certificate.not_after(), root.not_after());
    }
}

#[test]
fn what_cannot_be_issued_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(directory.path()).unwrap();
    for name in ["demo.warren.evil", "other"] {
        let foreign = SpiffeId::new(TrustDomain::new(name).unwrap(), "shop", "web").unwrap();
        let error = authority.issue(&foreign, HOUR).unwrap_err();
        assert!(
            matches!(error, AuthorityError::ForeignIdentity { .. }),
            "{error}"
        );
    }
    let error = authority
        .issue(&id("web"), Duration::from_millis(999))
        .unwrap_err();
    assert!(matches!(error, AuthorityError::Lifetime { .. }), "{error}");
    let root = authority.signer();
    for now in [root.not_before() - HOUR, root.not_after() + HOUR] {
        let error = authority.issue_at(&id("web"), HOUR, now).unwrap_err();
        assert!(
            matches!(error, AuthorityError::RootNotValid { .. }),
            "{error}"
        );
    }
}

#[test]
fn a_directory_of_another_mesh_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).unwrap();
    let other = TrustDomain::new("demo.warren.evil").unwrap();
    let error = Authority::open_or_create(directory.path(), &other).unwrap_err();
    assert!(matches!(error, AuthorityError::ForeignTrustDomain { .. }));
    let text = error.to_string();
    assert!(
        text.contains("is of trust domain demo.warren, not demo.warren.evil"),
        "{text}"
    );
    open(directory.path()).unwrap();
}

#[test]
fn damaged_files_are_named() {
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)
        .unwrap()
        .serialize_pem();
    let other = KeyPair::generate().unwrap().serialize_pem();
    let elsewhere = tempfile::tempdir().unwrap();
    open(elsewhere.path()).unwrap();
    let foreign_root = fs::read_to_string(elsewhere.path().join("bundle.pem")).unwrap();
    let half_key = other[..other.len() / 2].to_owned();
    let large = "x".repeat(2 << 20);
    for (file, content, words) in [
        ("signer.key", "", "does not hold a P-256 private key"),
        ("signer.key", "garbage", "does not hold a P-256 private key"),
        ("signer.key", &half_key, "does not hold a P-256 private key"),
        ("signer.key", &p384, "does not hold a P-256 private key"),
        (
            "signer.key",
            &other,
            "not the certificate of the private key in signer.key",
        ),
        ("signer.key", &large, "larger than 1 MiB"),
        ("signer.pem", "", "holds no certificate"),
        (
            "signer.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "read",
        ),
        (
            "signer.pem",
            "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
            "PEM",
        ),
        (
            "signer.pem",
            &foreign_root,
            "not the certificate of the private key in signer.key",
        ),
        (
            "signer.pem",
            &foreign_root.repeat(2),
            "more than one certificate",
        ),
        ("bundle.pem", "", "holds no certificate"),
        ("bundle.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n", "PEM"),
        (
            "bundle.pem",
            &foreign_root,
            "the root that signs (signer.pem) is not in it",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut authority = open(directory.path()).unwrap();
        let path = directory.path().join(file);
        // Written in place, with the permissions kept.
        fs::write(&path, content).unwrap();
        let short = &content[..content.len().min(60)];
        for error in [
            open(directory.path()).unwrap_err(),
            authority.reload().unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(
                matches!(error, AuthorityError::Damaged { .. }),
                "{file} {short:?}: {text}"
            );
            assert!(
                text.contains(words) && text.contains(file),
                "{file} {short:?}: {text}"
            );
            assert!(text.contains("restore it from a backup"), "{text}");
        }
        // Nothing was overwritten, and what was read before still works.
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
        authority.issue(&id("web"), HOUR).unwrap();
    }
}

#[test]
fn missing_files_are_named_and_never_made_up() {
    for missing in ["signer.key", "signer.pem"] {
        let directory = tempfile::tempdir().unwrap();
        open(directory.path()).unwrap();
        fs::remove_file(directory.path().join(missing)).unwrap();
        let error = open(directory.path()).unwrap_err();
        assert!(
            matches!(error, AuthorityError::Incomplete { .. }),
            "{error}"
        );
        assert!(
            error.to_string().contains(&format!("{missing} is missing")),
            "{error}"
        );
        assert!(!directory.path().join(missing).exists());
    }
}

#[test]
fn what_is_not_a_directory_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = open(&file).unwrap_err();
    assert!(error.to_string().contains("cannot create"), "{error}");
}

/// Copies the files that `names` lists, as a crash between two steps would leave them.
fn restore(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

/// A copy of a directory as it is now.
fn copy(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

#[test]
fn an_interrupted_creation_is_completed() {
    let made = tempfile::tempdir().unwrap();
    let root = open(made.path()).unwrap().signer().clone();
    // The key only: no root was made of it yet.
    let crashed = tempfile::tempdir().unwrap();
    restore(made.path(), crashed.path(), &["signer.key"]);
    assert_ne!(open(crashed.path()).unwrap().signer(), &root);
    // Key and certificate, but no bundle.
    let crashed = tempfile::tempdir().unwrap();
    restore(made.path(), crashed.path(), &["signer.key", "signer.pem"]);
    let authority = open(crashed.path()).unwrap();
    assert_eq!(authority.signer(), &root);
    assert_eq!(authority.bundle().roots(), &[root]);
    assert!(crashed.path().join("bundle.pem").exists());
}

#[test]
fn an_interrupted_staging_is_completed() {
    let directory = tempfile::tempdir().unwrap();
    let mut authority = open(directory.path()).unwrap();
    let stable = copy(directory.path());
    authority.stage().unwrap();
    let next = authority.bundle().roots()[1].clone();
    // The next root is there, but not in the bundle.
    restore(directory.path(), stable.path(), &["next.pem", "next.key"]);
    let mut authority = open(stable.path()).unwrap();
    assert_eq!(authority.phase(), Phase::Stable);
    assert!(matches!(
        authority.activate(),
        Err(AuthorityError::NotDue { next: "stage", .. })
    ));
    assert_eq!(authority.stage().unwrap(), Step::Taken);
    assert_eq!(authority.bundle().roots()[1], next);
    // Its key only: another root is staged.
    let stable = tempfile::tempdir().unwrap();
    let mut authority = open(stable.path()).unwrap();
    restore(directory.path(), stable.path(), &["next.key"]);
    assert_eq!(authority.stage().unwrap(), Step::Taken);
    assert_ne!(authority.bundle().roots()[1], next);
}

#[test]
fn an_interrupted_activation_is_completed() {
    let directory = tempfile::tempdir().unwrap();
    let mut authority = open(directory.path()).unwrap();
    authority.stage().unwrap();
    let staged = copy(directory.path());
    authority.activate().unwrap();
    let next = authority.signer().clone();
    for replaced in [&["signer.key"][..], &["signer.key", "signer.pem"]] {
        let crashed = copy(staged.path());
        restore(directory.path(), crashed.path(), replaced);
        let mut authority = open(crashed.path()).unwrap();
        assert_eq!(authority.signer(), &next, "{replaced:?}");
        assert_eq!(authority.phase(), Phase::Activated);
        assert!(!crashed.path().join("next.pem").exists());
        assert!(!crashed.path().join("next.key").exists());
        authority.issue(&id("web"), HOUR).unwrap();
        assert_eq!(authority.finish().unwrap(), Step::Taken);
    }
    // Between the two removals: the key of the staged root is left over.
    restore(staged.path(), directory.path(), &["next.key"]);
    let mut authority = open(directory.path()).unwrap();
    assert_eq!(authority.phase(), Phase::Activated);
    authority.finish().unwrap();
    authority.stage().unwrap();
    assert_ne!(authority.bundle().roots()[1], next);
}

#[test]
fn left_over_temporary_files_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(".new-signer.key"), "half a key").unwrap();
    let mut authority = open(directory.path()).unwrap();
    fs::write(directory.path().join(".new-bundle.pem"), "half a bundle").unwrap();
    authority.stage().unwrap();
    assert!(!directory.path().join(".new-bundle.pem").exists());
}

#[test]
fn rotations_from_several_sides_do_not_tangle() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).unwrap();
    let taken: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut authority = open(directory.path()).unwrap();
                    [Authority::stage, Authority::activate, Authority::finish]
                        .into_iter()
                        .cycle()
                        .take(30)
                        .filter(|step| matches!(step(&mut authority), Ok(Step::Taken)))
                        .count()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert!(taken >= 30, "{taken}");
    let authority = open(directory.path()).unwrap();
    let certificate = authority.issue(&id("web"), HOUR).unwrap();
    svid::verify(&authority.bundle(), certificate.chain(), UnixTime::now()).unwrap();
}
