//! A system call of the agent fails, each in turn: a pod ends up enforced or not enrolled, never in between.
//!
//! The calls are counted at a start in which none fails. Each story takes its share of them, so that they can be told at the
//! same time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::cluster::fault::{ERRORS, Found, Outcome, Scene};
use mesh_tests::host::fault::Kind;
use mesh_tests::host::requires::Need;
use mesh_tests::story::story;

const NEEDS: &[Need] = &[Need::Program("tcpdump"), Need::Program("bpftool")];

/// Time for one share, well before a story is ended. On a slow machine the last calls of a share are left out, and named.
const SHARE: Duration = Duration::from_secs(90);

/// The calls that one story takes: every `of`-th, beginning with the `first`.
#[derive(Clone, Copy)]
struct Part {
    first: u64,
    of: u64,
}

/// Starts agents that never enrolled anything, each with another call failing.
fn first_starts(kind: Kind, part: Part) -> Result<()> {
    story(NEEDS, |cluster| {
        let scene = Scene::build(cluster)?;
        ensure!(scene.start(kind, None)? == Outcome::Ready);
        let calls = scene.calls()?;
        scene.assert_meshed()?;
        ensure!(scene.found()? == Found::Enforcing);
        scene.a.uninstall()?;
        each(kind, part, calls, |number, error| {
            let outcome = scene.start(kind, Some((number, error)))?;
            let call = scene.failed_call()?;
            first_start(&scene, outcome).with_context(|| format!("{call:?}; {outcome:?}"))?;
            scene.a.uninstall().context("uninstall afterwards")?;
            ensure!(scene.found()? == Found::Untouched, "after uninstalling");
            scene.assert_untouched().context("after uninstalling")
        })
    })
}

fn first_start(scene: &Scene, outcome: Outcome) -> Result<()> {
    match (outcome, scene.found()?) {
        (Outcome::Ready, Found::Enforcing) => scene.assert_meshed(),
        (Outcome::Ended, Found::Untouched) => scene.assert_untouched(),
        (_, found) => bail!("it was found {found:?}"),
    }
}

/// Starts agents after others that had enrolled the pod, each with another call failing.
fn further_starts(kind: Kind, part: Part) -> Result<()> {
    story(NEEDS, |cluster| {
        let scene = Scene::build(cluster)?;
        ensure!(scene.start(kind, None)? == Outcome::Ready);
        scene.a.stop_agent()?;
        ensure!(scene.start(kind, None)? == Outcome::Ready);
        let calls = scene.calls()?;
        each(kind, part, calls, |number, error| {
            scene.a.stop_agent().context("stop the agent before")?;
            let outcome = scene.start(kind, Some((number, error)))?;
            let call = scene.failed_call()?;
            further_start(&scene, outcome).with_context(|| format!("{call:?}; {outcome:?}"))
        })
    })
}

/// The pod was in the mesh, so it stays in it, whatever becomes of the agent.
fn further_start(scene: &Scene, outcome: Outcome) -> Result<()> {
    let found = scene.found()?;
    ensure!(found == Found::Enforcing, "it was found {found:?}");
    scene.assert_closed()?;
    if outcome == Outcome::Ended {
        ensure!(
            scene.start(Kind::Bpf, None)? == Outcome::Ready,
            "the next agent"
        );
    }
    scene.assert_meshed()
}

/// Tries every call of a part, with the errors in turn.
fn each(
    kind: Kind,
    part: Part,
    calls: u64,
    mut attempt: impl FnMut(u64, &str) -> Result<()>,
) -> Result<()> {
    ensure!(calls > 0, "no call of kind {kind} was seen");
    let begun = Instant::now();
    let mut tried = 0;
    for number in (part.first..=calls).step_by(usize::try_from(part.of)?) {
        if begun.elapsed() > SHARE {
            eprintln!(
                "{tried} calls of kind {kind} tried; those from {number} of {calls} were left out"
            );
            return Ok(());
        }
        let error = ERRORS[usize::try_from(number)? % ERRORS.len()];
        attempt(number, error)
            .with_context(|| format!("{kind} call {number} of {calls} failed with {error}"))?;
        tried += 1;
    }
    eprintln!("{tried} of {calls} calls of kind {kind} tried");
    Ok(())
}

macro_rules! stories {
    ($($name:ident: $starts:ident($kind:expr, $first:literal of $of:literal);)+) => {
        $(
            #[test]
            fn $name() -> Result<()> {
                $starts($kind, Part { first: $first, of: $of })
            }
        )+
    };
}

stories! {
    a_bpf_call_of_a_first_start_1: first_starts(Kind::Bpf, 1 of 4);
    a_bpf_call_of_a_first_start_2: first_starts(Kind::Bpf, 2 of 4);
    a_bpf_call_of_a_first_start_3: first_starts(Kind::Bpf, 3 of 4);
    a_bpf_call_of_a_first_start_4: first_starts(Kind::Bpf, 4 of 4);
    a_bpf_call_of_a_restart_1: further_starts(Kind::Bpf, 1 of 5);
    a_bpf_call_of_a_restart_2: further_starts(Kind::Bpf, 3 of 5);
    a_netlink_request_of_a_first_start_1: first_starts(Kind::Netlink, 1 of 2);
    a_netlink_request_of_a_first_start_2: first_starts(Kind::Netlink, 2 of 2);
    a_netlink_request_of_a_restart: further_starts(Kind::Netlink, 1 of 1);
}
