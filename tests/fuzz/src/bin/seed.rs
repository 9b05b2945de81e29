//! `seed`: writes the first inputs of every target into `corpus/<target>/`, so that a run begins where real bytes are.
//! Inputs of other names are left alone.
//!
//! Everything here is instrumented, which only libFuzzer's own start makes a program of; so it looks like a target.

#![no_main]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use mesh_core::addr::{AppAddr, ClientAddr};
use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_core::workload::{Name, WorkloadId};
use mesh_fuzz::svid::{LEAF, NOW, ROOT};
use mesh_identity::authority::Authority;
use mesh_identity::tls;
use mesh_proxy::link::{Figures, Purpose, SocketKind, ToAgent, VERSION};
use mesh_proxy::wire::{Frame, Open, Refusal, RefusalCode, ResetCode, TraceContext};

const CONFIGURATION: &str = include_str!("../../fixtures/warren.yaml");

libfuzzer_sys::fuzz_target!(
    init: seed(),
    |_input: &[u8]| ()
);

fn seed() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    fixtures(&here.join("fixtures"));
    let frames = frames();
    for (number, frame) in frames.iter().enumerate() {
        write("wire", &format!("frame-{number}"), frame);
    }
    write("wire", "all", &frames.concat());
    scripts(&frames);
    handshakes();
    let chain = |certificates: &[&[u8]]| -> Vec<u8> {
        certificates
            .iter()
            .flat_map(|der| [&(der.len() as u16).to_be_bytes(), *der].concat())
            .collect()
    };
    write("svid", "leaf", &chain(&[LEAF]));
    write("svid", "leaf-and-root", &chain(&[LEAF, ROOT]));
    write("svid", "root", &chain(&[ROOT]));
    for (name, text) in [
        ("usual", "spiffe://fuzz.warren/ns/shop/sa/client"),
        ("dots", "spiffe://a.b-c_d/ns/../sa/."),
        ("case", "SPIFFE://Fuzz/ns/A/sa/B"),
        ("longer", "spiffe://a/ns/b/sa/c/d"),
        ("encoded", "spiffe://a/ns/%2e/sa/c?x#y"),
    ] {
        write("identity", name, text.as_bytes());
    }
    let handover = fs::read(here.join("fixtures/leaf.handover")).expect("the fixture");
    write("handover", "leaf", &handover);
    messages();
    write("configuration", "whole", CONFIGURATION.as_bytes());
    for (number, part) in CONFIGURATION.split("\n\n").enumerate() {
        let text = format!("apiVersion: warren.dev/v1alpha1\n{part}\n");
        write("configuration", &format!("part-{number}"), text.as_bytes());
    }
    write("event", "dropped", &event());
    write("event", "longer", &[event(), vec![0; 8]].concat());
    write("event", "short", &event()[..71]);
    std::process::exit(0);
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "corpus", target]
        .iter()
        .collect();
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(name), bytes).expect("a seed");
}

/// Made once: a root and a certificate that never change, so that what is found can be found again.
fn fixtures(folder: &Path) {
    if !ROOT.is_empty() {
        return;
    }
    let directory = tempfile::tempdir().expect("a folder");
    let domain = TrustDomain::new("fuzz.warren").expect("a trust domain");
    let identity = SpiffeId::new(domain.clone(), "shop", "client").expect("an identity");
    let authority = Authority::open_or_create(directory.path(), &domain).expect("an authority");
    let year = Duration::from_secs(365 * 86_400);
    let leaf = authority.issue(&identity, year).expect("a certificate");
    assert!(leaf.not_after() > UNIX_EPOCH + Duration::from_secs(NOW));
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("a fixture");
    write("root.der", &authority.bundle().to_der()[0]);
    write("leaf.der", &leaf.chain()[0]);
    write("leaf.handover", &leaf.to_handover());
    panic!("made the fixtures; build and run this again");
}

fn frames() -> Vec<Vec<u8>> {
    let open = |port: u16| Open {
        destination: AppAddr(SocketAddr::from(([10, 0, 0, 2], port))),
        client: ClientAddr("[fd00::1]:4242".parse().expect("an address")),
        service: Some(Name::new("shop", "web")),
        trace: Some(TraceContext {
            trace_id: [1; 16],
            span_id: [2; 8],
            flags: 1,
        }),
    };
    let refusal = Refusal {
        code: RefusalCode::NoRuleAllows,
        detail: "no rule allows it".to_owned(),
    };
    [
        Frame::Open {
            stream: 1,
            open: Box::new(open(8081)),
        },
        Frame::Open {
            stream: 3,
            open: Box::new(open(8080)),
        },
        Frame::Open {
            stream: 5,
            open: Box::new(open(8082)),
        },
        Frame::OpenResult {
            stream: 1,
            result: Ok(()),
        },
        Frame::OpenResult {
            stream: 1,
            result: Err(refusal),
        },
        Frame::Data {
            stream: 1,
            bytes: b"hello",
        },
        Frame::Fin { stream: 1 },
        Frame::Reset {
            stream: 1,
            code: ResetCode::PolicyRevoked,
        },
        Frame::Credit {
            stream: 1,
            bytes: 65_536,
        },
        Frame::Raw { stream: 1 },
        Frame::Drain,
    ]
    .iter()
    .map(|frame| {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        bytes
    })
    .collect()
}

/// Scripts of tunnels: steps are explained in `mesh-proxy/src/tunnel/fuzzing.rs`.
fn scripts(frames: &[Vec<u8>]) {
    let record = |bytes: &[u8]| {
        let length = bytes.len() as u16;
        [&[0x60 | (length >> 8) as u8, length as u8], bytes].concat()
    };
    let [
        open1,
        open3,
        open5,
        taken,
        refused,
        data,
        fin,
        reset,
        credit,
        raw,
        drain,
    ] = frames
    else {
        panic!("another number of frames");
    };
    let script = |name: &str, first: u8, steps: &[Vec<u8>]| {
        write("tunnel", name, &[vec![first], steps.concat()].concat());
    };
    let (read, answer, gone) = (vec![0x00], vec![0x10], vec![0x50]);
    script(
        "served",
        0,
        &[
            record(open3),
            answer.clone(),
            record(data),
            read.clone(),
            record(fin),
        ],
    );
    script(
        "many",
        0,
        &[
            record(&[&open1[..], open3, open5, data, fin].concat()),
            answer.clone(),
            read.clone(),
        ],
    );
    script(
        "reset",
        0,
        &[
            record(open1),
            record(data),
            answer.clone(),
            record(reset),
            read.clone(),
        ],
    );
    script(
        "raw",
        0,
        &[
            record(open1),
            answer.clone(),
            record(raw),
            record(b"plain"),
            gone,
            record(b"more"),
        ],
    );
    script(
        "dialled",
        1,
        &[
            read.clone(),
            record(taken),
            record(data),
            record(credit),
            record(fin),
        ],
    );
    script(
        "refused",
        3,
        &[read, record(refused), record(drain), vec![0x23, 0x31, 0x40]],
    );
    script("nonsense", 1, &[record(open1), answer]);
}

fn handshakes() {
    let directory = tempfile::tempdir().expect("a folder");
    let domain = TrustDomain::new("fuzz.warren").expect("a trust domain");
    let identity = SpiffeId::new(domain.clone(), "shop", "client").expect("an identity");
    let authority = Authority::open_or_create(directory.path(), &domain).expect("an authority");
    let own = authority
        .issue(&identity, Duration::from_secs(86_400))
        .expect("a certificate");
    let config = tls::client_config(&own, &authority.bundle(), &[identity.clone()])
        .expect("a configuration");
    let mut client =
        rustls::ClientConnection::new(config, tls::server_name(&identity)).expect("a client");
    let mut hello = vec![0, 0xff, 0xff];
    client.write_tls(&mut hello).expect("a hello");
    write("handshake", "hello", &hello);
    // Flags, size of pieces, number of changes; then records with their lengths.
    let said = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes(), bytes].concat();
    let plain = [said(b"first"), said(&[7; 3000]), said(b"last")].concat();
    for (name, flags) in [
        ("accepted", 0b110),
        ("dialled", 0b111),
        ("renewed", 0b10110),
        ("cut-short", 0b011),
    ] {
        write(
            "handshake",
            name,
            &[&[flags, 0xff, 0xff, 0], &plain[..]].concat(),
        );
    }
    for (name, position) in [
        ("changed-hello", 60_u16),
        ("changed-certificate", 1700),
        ("changed-record", 2400),
    ] {
        let [high, low] = position.to_be_bytes();
        write(
            "handshake",
            name,
            &[&[0b110, 0, 100, 1, high, low, 0, 0x80], &plain[..]].concat(),
        );
    }
}

fn messages() {
    let kind = SocketKind {
        purpose: Purpose::Deliver,
        ipv6: true,
    };
    let workload = WorkloadId(7);
    let messages = [
        ToAgent::Ready { version: VERSION },
        ToAgent::Enrolled { workload },
        ToAgent::Unenrolled { workload },
        ToAgent::NeedSockets {
            workload,
            kind,
            count: u16::MAX,
        },
        ToAgent::Applied {
            generation: u64::MAX,
        },
        ToAgent::Records(Vec::new()),
        ToAgent::Figures(Figures::default()),
        ToAgent::Complaint("in words".to_owned()),
    ];
    for (number, message) in messages.iter().enumerate() {
        write(
            "link",
            &format!("message-{number}"),
            &postcard::to_stdvec(message).expect("bytes"),
        );
    }
    // Records, by the thousand, says the length; they are not there.
    write(
        "link",
        "records-without-end",
        &[5, 0xff, 0xff, 0xff, 0xff, 0x0f],
    );
}

/// A dropped packet: version 1, TCP, reason 16.
fn event() -> Vec<u8> {
    let mut bytes = vec![1, 0, 6, 0];
    bytes.extend_from_slice(&16_u32.to_ne_bytes());
    bytes.extend_from_slice(&[7, 0, 0, 0, 3, 0, 0, 0]);
    bytes.resize(72, 0);
    bytes
}
