//! A system call of the agent fails, each in turn: the pod ends up enforced or not enrolled, never in between.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::cluster::fault::{ERRORS, Found, Outcome, Scene};
use mesh_tests::host::fault::Kind;
use mesh_tests::host::requires::Need;
use mesh_tests::story::story;

const NEEDS: &[Need] = &[Need::Program("tcpdump"), Need::Program("bpftool")];

/// Time for one story's share of the calls, well before a story is ended.
const SHARE: Duration = Duration::from_secs(95);

/// A first start with the n-th call failing.
fn fresh_start(scene: &Scene, kind: Kind, number: u64, error: &str) -> Result<String> {
    let outcome = scene.start(kind, Some((number, error)))?;
    let failed = scene.failed_call()?;
    let found = scene.found()?;
    match (outcome, found) {
        (Outcome::Ready, Found::Enforcing) => scene.assert_meshed()?,
        (Outcome::Ended, Found::Untouched) => scene.assert_untouched()?,
        other => bail!("{other:?}"),
    }
    ensure!(
        !scene.a.log_text().contains("panicked"),
        "the agent panicked"
    );
    scene.a.uninstall().context("uninstall afterwards")?;
    ensure!(scene.found()? == Found::Untouched, "after uninstalling");
    scene.assert_untouched().context("after uninstalling")?;
    Ok(format!("{failed:?}: {outcome:?}"))
}

#[test]
fn try_some() -> Result<()> {
    story(NEEDS, |cluster| {
        let scene = Scene::build(cluster)?;
        let begun = Instant::now();
        ensure!(scene.start(Kind::Bpf, None)? == Outcome::Ready);
        eprintln!("{} calls, {:?}", scene.calls()?, begun.elapsed());
        ensure!(scene.found()? == Found::Enforcing);
        scene.assert_meshed()?;
        scene.a.uninstall()?;
        eprintln!("{:?}", begun.elapsed());
        let from: u64 = std::env::var("FROM").unwrap_or("1".into()).parse()?;
        let step: u64 = std::env::var("STEP").unwrap_or("7".into()).parse()?;
        let mut k = from;
        while begun.elapsed() < SHARE {
            let error = ERRORS[(k % 3) as usize];
            let t = Instant::now();
            match fresh_start(&scene, Kind::Bpf, k, error) {
                Ok(done) => eprintln!("{k} {error} {:?} {done}", t.elapsed()),
                Err(e) => {
                    eprintln!(
                        "BAD {k} {error} {:?} {:?}: {e:#}",
                        scene.failed_call(),
                        t.elapsed()
                    );
                    let _ = scene.a.uninstall();
                }
            }
            k += step;
        }
        Ok(())
    })
}
