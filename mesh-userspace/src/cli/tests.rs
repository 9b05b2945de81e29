//! What people read, word by word, and what they may type.

mod cluster;

use clap::{CommandFactory, Parser};
use jiff::tz::TimeZone;
use mesh_core::outcome::Reason;
use mesh_core::record::Transport;

use super::args::{Cli, duration};
use super::output::{Color, Style, Table, bytes, clean, lasted};
use super::{check, explain, flow_line, flows, help, status};
use crate::api::filter::Field;
use crate::api::flow::{Flow, Verdict};
use crate::api::objects::{Check, CheckState, Checks, Explanation, ExplanationStep, Status};
use crate::api::tests::{bare_record, full_record};

const PLAIN: Style = Style {
    color: false,
    ascii: false,
};
const ASCII: Style = Style {
    color: false,
    ascii: true,
};
const COLORED: Style = Style {
    color: true,
    ascii: false,
};

fn written(write: impl FnOnce(&mut dyn std::io::Write) -> Result<(), super::CliError>) -> String {
    let mut out = Vec::new();
    write(&mut out).expect("memory takes it");
    String::from_utf8(out).expect("text")
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn a_carried_connection_is_one_line() {
    let flow = Flow::from_record(&full_record(), "a");
    let line = flow_line::compact(&flow, &TimeZone::UTC, PLAIN);
    assert_eq!(
        line,
        "14:14:27.113  client.shop → web.shop:80  web.shop/v2 10.2.0.3:8080  allowed  finished  mtls  \
         1.2KB/8.0KB  12ms  policy web-callers.shop rule client-only"
    );
}

#[test]
fn a_denied_one_says_so_in_word_and_glyph() {
    let mut record = full_record();
    record.reason = Reason::NoRuleAllows;
    record.backend = None;
    record.endpoint = None;
    record.bytes_sent = 0;
    record.bytes_received = 0;
    record.duration_us = 312;
    record.rule = Some("policy web-callers.shop: no rule allows it".to_owned());
    let flow = Flow::from_record(&record, "a");
    assert_eq!(
        flow_line::compact(&flow, &TimeZone::UTC, PLAIN),
        "14:14:27.113  client.shop ✖ web.shop:80  denied  no_rule_allows  mtls  0B/0B  312µs  \
         policy web-callers.shop: no rule allows it"
    );
    assert_eq!(
        flow_line::compact(&flow, &TimeZone::UTC, ASCII),
        "14:14:27.113  client.shop -x web.shop:80  denied  no_rule_allows  mtls  0B/0B  312us  \
         policy web-callers.shop: no rule allows it"
    );
    let colored = flow_line::compact(&flow, &TimeZone::UTC, COLORED);
    assert!(colored.contains("\x1b[31mdenied\x1b[0m"), "{colored}");
}

#[test]
fn a_kernel_drop_and_the_unknown_have_lines_too() {
    let mut record = full_record();
    record.reason = Reason::Kernel;
    record.transport = Transport::Kernel;
    record.service = None;
    record.backend = None;
    record.endpoint = None;
    record.rule = Some("uncaptured_tcp".to_owned());
    record.detail = Some("TCP, 3 times".to_owned());
    let line = flow_line::compact(&Flow::from_record(&record, "a"), &TimeZone::UTC, PLAIN);
    assert_eq!(
        line,
        "14:14:27.113  client.shop ✖ web-v2.shop:80  denied  kernel  uncaptured_tcp  (TCP, 3 times)"
    );
    let line = flow_line::compact(
        &Flow::from_record(&bare_record(), "a"),
        &TimeZone::UTC,
        PLAIN,
    );
    assert_eq!(
        line,
        "00:00:00.000  unknown ✖ unknown  denied  plaintext_refused  inbound  -  0B/0B  0µs"
    );
}

#[test]
fn nothing_from_the_wire_steers_a_terminal() {
    let mut record = full_record();
    record.rule = Some("\x1b[2Jgone\u{202e}\u{9b}31m\r\n".to_owned());
    let line = flow_line::compact(&Flow::from_record(&record, "a"), &TimeZone::UTC, PLAIN);
    assert!(
        line.ends_with("\\u{1b}[2Jgone\\u{202e}\\u{9b}31m\\r\\n"),
        "{line}"
    );
    assert_eq!(clean("äöü → ✔"), "äöü → ✔");
}

#[test]
fn a_table_is_lined_up() {
    let mut table = flow_line::table(true);
    table.row(flow_line::row(
        &Flow::from_record(&full_record(), "a"),
        &TimeZone::UTC,
        PLAIN,
    ));
    table.row(flow_line::row(
        &Flow::from_record(&bare_record(), "a"),
        &TimeZone::UTC,
        PLAIN,
    ));
    let text = written(|out| Ok(table.write(out)?));
    let expected = "\
TIME           DIRECTION   SOURCE        DESTINATION   BACKEND       ENDPOINT        VERDICT   REASON              TRANSPORT   SENT    RECEIVED   DURATION   RULE
14:14:27.113   outbound    client.shop   web.shop:80   web.shop/v2   10.2.0.3:8080   allowed   finished            mtls        1.2KB   8.0KB      12ms       policy web-callers.shop rule client-only
00:00:00.000   inbound     unknown       unknown       -             -               denied    plaintext_refused   -           0B      0B         0µs        -
";
    assert_eq!(text, expected);
}

#[test]
fn a_table_in_parts_keeps_its_columns() {
    let mut table = Table::new(&["A", "B"], true);
    table.row(vec!["long".to_owned(), "x".to_owned()]);
    let mut text = written(|out| Ok(table.write(out)?));
    table.row(vec!["y".to_owned(), String::new()]);
    text.push_str(&written(|out| Ok(table.write(out)?)));
    assert_eq!(text, "A      B\nlong   x\ny      -\n");
}

#[test]
fn sizes_and_times_are_short() {
    let check_bytes = |count, expected: &str| assert_eq!(bytes(count), expected);
    check_bytes(0, "0B");
    check_bytes(999, "999B");
    check_bytes(1_000, "1.0KB");
    check_bytes(999_949, "999.9KB");
    check_bytes(999_960, "1.0MB");
    check_bytes(u64::MAX, "18446.7PB");
    let check_time = |micros, expected: &str| {
        assert_eq!(
            lasted(std::time::Duration::from_micros(micros), PLAIN),
            expected
        );
    };
    check_time(0, "0µs");
    check_time(999, "999µs");
    check_time(1_000, "1ms");
    check_time(1_500_000, "1.5s");
    check_time(123_000_000, "2m3s");
    check_time(18_720_000_000, "5h12m");
    check_time(273_600_000_000, "3d4h");
}

#[test]
fn times_are_read_as_people_write_them() {
    let check = |text: &str, millis: u128| {
        assert_eq!(
            duration(text).map(|time| time.as_millis()),
            Ok(millis),
            "{text}"
        );
    };
    check("250ms", 250);
    check("5", 5_000);
    check("5s", 5_000);
    check("1.5m", 90_000);
    check("2h", 7_200_000);
    check("1d", 86_400_000);
    assert!(duration("5 minutes").is_err());
    assert!(duration("-5s").is_err());
    assert!(duration("").is_err());
    for too_long in ["99999999999999999999999d", "99999999999999d", "36501d"] {
        let error = duration(too_long).expect_err("it is too long");
        assert!(error.contains("36500d"), "{error}");
    }
    assert!(duration("36500d").is_ok());
}

#[test]
fn not_turns_the_next_filter_around() {
    let parse = |line: &str| {
        let matches = Cli::command()
            .try_get_matches_from(line.split(' '))
            .expect("a command line");
        let (_, matches) = matches.subcommand().expect("a verb");
        flows::terms(matches).map(|terms| {
            terms
                .into_iter()
                .map(|term| (term.field, term.value, term.negated))
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(
        parse("warren flows --from a --not --from b --to c --not --verdict denied").expect("terms"),
        [
            (Field::From, "a".to_owned(), false),
            (Field::From, "b".to_owned(), true),
            (Field::To, "c".to_owned(), false),
            (Field::Verdict, "denied".to_owned(), true),
        ]
    );
    assert_eq!(
        parse("warren flows -n shop").expect("terms"),
        [(Field::Namespace, "shop".to_owned(), false)]
    );
    assert!(parse("warren flows --from a --not").is_err());
    assert!(parse("warren flows --verdict alowed").is_err());
}

#[test]
fn what_can_be_typed() {
    let check = |line: &str, good| {
        assert_eq!(Cli::try_parse_from(line.split(' ')).is_ok(), good, "{line}");
    };
    check("warren flows -f --since 5m -o json", true);
    check("warren flows --input - --reason finished", true);
    check("warren flows --input - -f", false);
    check("warren get workloads -o wide -n shop --no-headers", true);
    check("warren explain client.shop web.shop:80", true);
    check("warren explain client.shop", false);
    check("warren ca rotate stage --directory /x", true);
    check("warren ca rotate stage --kubernetes", true);
    check(
        "warren ca rotate stage --kubernetes -n mesh --context prod",
        true,
    );
    check("warren ca rotate stage", false);
    check("warren ca rotate stage --kubernetes --directory /x", false);
    check("warren ca rotate stage --directory /x -n mesh", false);
    check("warren node -f x.yaml --threads 0", false);
    check(
        "warren node -f x.yaml --run-dir /run/w --bpffs /b --cgroup-root /c --mesh-cgroup /m",
        true,
    );
    check("warren flows --socket /x --timeout 5s", true);
    check("warren flow", false);
    check("warren status --context prod -n shop", true);
    check("warren status --context prod --socket /x", false);
    check("warren get workloads -A", true);
    check("warren get workloads -A -n shop", false);
    check("warren flows -A --to svc/web", true);
    check("warren flows -A -n shop", false);
    check("warren explain -n shop pod/client svc/web", true);
    check("warren enable ns/shop --wait", true);
    check("warren enable ns/shop --wait=2m --timeout 5s", true);
    check("warren enable ns/shop --wait --dry-run", false);
    check("warren enable", false);
    check("warren disable pod/shop/client", true);
}

#[test]
fn exit_codes_are_a_topic() {
    let text = written(|out| help::run(&["exit-codes".to_owned()], out).map(drop));
    for code in ["0  ", "1  ", "2  ", "3  ", "4  ", "124"] {
        assert!(text.contains(code), "{text}");
    }
    let error = help::run(&["flwos".to_owned()], &mut Vec::new()).expect_err("no topic");
    assert!(error.to_string().contains("did you mean flows?"), "{error}");
}

#[test]
fn a_check_has_a_fix_line_for_what_failed() {
    let checks = Checks {
        api_version: crate::api::VERSION.to_owned(),
        kind: "Checks".to_owned(),
        items: vec![
            Check::ok("kernel", "cgroup v2 at /sys/fs/cgroup"),
            Check::bad(
                "kernel",
                CheckState::Warning,
                "bpffs is not mounted",
                "mount -t bpf bpf /sys/fs/bpf",
            ),
            Check::bad(
                "proxy",
                CheckState::Failed,
                "the worker does not serve",
                "look at the log",
            ),
        ],
    };
    let text = written(|out| check::write(out, &checks, PLAIN));
    assert_eq!(
        text,
        "kernel\n✔ cgroup v2 at /sys/fs/cgroup\n‼ bpffs is not mounted\n     fix: mount -t bpf bpf /sys/fs/bpf\n\
         proxy\n✖ the worker does not serve\n     fix: look at the log\nResult: 1 ok, 1 warning, 1 failed\n"
    );
}

#[test]
fn an_explanation_ends_with_its_verdict() {
    let step = |step: &str, subject: &str, outcome: &str| ExplanationStep {
        step: step.to_owned(),
        subject: subject.to_owned(),
        outcome: outcome.to_owned(),
        rule: None,
        share: None,
        refused: None,
    };
    let explanation = Explanation {
        api_version: crate::api::VERSION.to_owned(),
        kind: "Explanation".to_owned(),
        source: "client.shop".to_owned(),
        destination: "10.200.0.9:80".to_owned(),
        verdict: Verdict::Denied,
        generation: 7,
        steps: vec![
            step("resolve", "10.200.0.9:80", "service web.shop port 80"),
            ExplanationStep {
                share: Some(70.0),
                ..step("split", "web.shop/v1", "1 endpoint")
            },
            ExplanationStep {
                rule: Some("policy web-callers.shop".to_owned()),
                refused: Some("no_rule_allows".to_owned()),
                ..step("policy", "web-v1.shop", "denied")
            },
        ],
    };
    let text = written(|out| explain::write(out, &explanation, PLAIN));
    assert_eq!(
        text,
        "1  resolve   10.200.0.9:80   service web.shop port 80\n\
         2  split     web.shop/v1   70%   1 endpoint\n\
         3  policy    web-v1.shop   denied   by policy web-callers.shop   ✖ no_rule_allows\n\
         verdict: DENIED   client.shop → 10.200.0.9:80   generation 7\n"
    );
}

#[test]
fn a_status_fits_on_a_screen() {
    let status: Status = serde_json::from_str(
        r#"{"apiVersion":"warren.dev/v1alpha1","kind":"Status","node":"a","version":"0.1.0","pid":1,
        "startedAt":"2026-01-01T00:00:00Z","trustDomain":"demo.warren","ready":false,"notReady":["the worker does not serve yet"],
        "configuration":{"file":"w.yaml","generation":2,"appliedGeneration":1,"problems":[{"severity":"error","message":"w.yaml:3:5: no"}]},
        "worker":{"ready":false,"generation":2,"restarts":1},
        "kernel":{"attached":true,"repaired":0,"counters":{"captured":9,"uncaptured_tcp":2,"captured_not":1}},
        "workloads":{"enrolled":1,"preparing":0,"waiting":1,"leaving":0,"remote":2},
        "traffic":{"openOutbound":1,"openInbound":2,"tunnelsOutbound":3,"tunnelsInbound":4,"handshakes":5,"handshakeFailures":6,"recordsLost":0,"flowsHeld":7}}"#,
    )
    .expect("a status");
    let now = "2026-01-01T00:02:03Z".parse().expect("a moment");
    let text = written(|out| status::write(out, &status, PLAIN, now));
    assert_eq!(
        text,
        "warren 0.1.0   node a   trust domain demo.warren   not ready   up 2m3s\n\
         CONFIGURATION   w.yaml   generation 2   applied 1   problems 1\n\
         WORKLOADS       1 enrolled   0 preparing   1 waiting   0 leaving   2 on other nodes\n\
         WORKER          not serving   pid -   generation 2   restarts 1\n\
         CONNECTIONS     1 outbound   2 inbound   tunnels 3 out 4 in   handshakes 5 ok 6 failed\n\
         KERNEL          attached   captured 9   dropped 2   repaired 0   events lost 0\n\
         ✖ the worker does not serve yet\n\
         ‼ w.yaml:3:5: no\n"
    );
}

#[test]
fn colours_stand_beside_words_only_when_asked_for() {
    assert_eq!(PLAIN.paint(Color::Red, "denied"), "denied");
    assert_eq!(COLORED.paint(Color::Red, "denied"), "\x1b[31mdenied\x1b[0m");
}

#[test]
fn causes_are_said_once() {
    use std::io::Error;
    let inner = Error::other("no such file");
    let outer = super::CliError::failed("cannot read it", Error::other(inner));
    assert_eq!(
        super::in_words(&outer),
        "error: cannot read it\n  because: no such file"
    );
}
