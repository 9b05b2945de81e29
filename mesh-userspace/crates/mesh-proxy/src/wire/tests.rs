//! What is written is read back; what is not a frame is refused, at its offset.

use std::net::SocketAddr;

use mesh_core::addr::{AppAddr, ClientAddr};
use mesh_core::workload::Name;
use proptest::prelude::*;

use super::{
    Frame, HEADER, MAX_DETAIL, MAX_PAYLOAD, Open, Refusal, RefusalCode, ResetCode, TraceContext,
    WireError, WireErrorKind, code, frames, header,
};

/// A frame that owns its bytes.
#[derive(Clone, Debug)]
enum Sample {
    Data(u32, Vec<u8>),
    Other(Frame<'static>),
}

impl Sample {
    fn frame(&self) -> Frame<'_> {
        match self {
            Self::Data(stream, bytes) => Frame::Data {
                stream: *stream,
                bytes,
            },
            Self::Other(frame) => frame.clone(),
        }
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<std::net::IpAddr>(), 1_u16..)
        .prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
}

fn open() -> impl Strategy<Value = Open> {
    let name = proptest::option::of(("[a-z0-9.-]{1,253}", "[a-z0-9.-]{1,253}"));
    let trace = proptest::option::of(any::<([u8; 16], [u8; 8], u8)>());
    (address(), address(), name, trace).prop_map(|(destination, client, service, trace)| Open {
        destination: AppAddr(destination),
        client: ClientAddr(client),
        service: service.map(|(namespace, name)| Name { namespace, name }),
        trace: trace.map(|(trace_id, span_id, flags)| TraceContext {
            trace_id,
            span_id,
            flags,
        }),
    })
}

fn sample() -> impl Strategy<Value = Sample> {
    let stream = 1_u32..;
    let refusal = (
        proptest::sample::select(RefusalCode::ALL),
        "[ -~äöü€]{0,60}",
    );
    prop_oneof![
        (
            stream.clone(),
            proptest::collection::vec(any::<u8>(), 1..600)
        )
            .prop_map(|(stream, bytes)| Sample::Data(stream, bytes)),
        (stream.clone(), open()).prop_map(|(stream, open)| Sample::Other(Frame::Open {
            stream,
            open: Box::new(open)
        })),
        (stream.clone(), proptest::option::of(refusal)).prop_map(|(stream, refusal)| {
            let result = refusal.map_or(Ok(()), |(code, detail)| Err(Refusal { code, detail }));
            Sample::Other(Frame::OpenResult { stream, result })
        }),
        stream
            .clone()
            .prop_map(|stream| Sample::Other(Frame::Fin { stream })),
        (stream.clone(), proptest::sample::select(ResetCode::ALL))
            .prop_map(|(stream, code)| Sample::Other(Frame::Reset { stream, code })),
        (stream.clone(), 1_u32..)
            .prop_map(|(stream, bytes)| Sample::Other(Frame::Credit { stream, bytes })),
        stream.prop_map(|stream| Sample::Other(Frame::Raw { stream })),
        Just(Sample::Other(Frame::Drain)),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(samples in proptest::collection::vec(sample(), 0..12)) {
        let mut record = Vec::new();
        for sample in &samples {
            sample.frame().encode(&mut record);
        }
        let read: Vec<_> = frames(&record).collect::<Result<_, _>>().unwrap();
        let written: Vec<_> = samples.iter().map(Sample::frame).collect();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn a_record_that_is_cut_short_says_where(sample in sample(), cut in any::<prop::sample::Index>()) {
        let mut record = Vec::new();
        Frame::Fin { stream: 1 }.encode(&mut record);
        sample.frame().encode(&mut record);
        let length = HEADER + 1 + cut.index(record.len() - HEADER - 1);
        let mut read = frames(&record[..length]);
        prop_assert_eq!(read.next(), Some(Ok(Frame::Fin { stream: 1 })));
        let error = WireError { offset: HEADER, kind: WireErrorKind::Truncated };
        prop_assert_eq!(read.next(), Some(Err(error)));
        prop_assert_eq!(read.next(), None);
    }

    #[test]
    fn anything_is_refused_or_read_without_a_panic(record in proptest::collection::vec(any::<u8>(), 0..2000)) {
        // Whatever is accepted is written exactly as it was read, or says the same: there is one way to say a thing.
        for frame in frames(&record).map_while(Result::ok) {
            let mut again = Vec::new();
            frame.encode(&mut again);
            prop_assert_eq!(frames(&again).next(), Some(Ok(frame)));
        }
    }

    #[test]
    fn a_changed_byte_never_panics(sample in sample(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut record = Vec::new();
        sample.frame().encode(&mut record);
        let at = at.index(record.len());
        record[at] = value;
        let _outcome = frames(&record).count();
    }
}

fn refused(record: &[u8]) -> WireErrorKind {
    frames(record)
        .find_map(Result::err)
        .expect("it must be refused")
        .kind
}

fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut record = header(kind, payload.len(), stream).to_vec();
    record.extend_from_slice(payload);
    record
}

#[test]
fn what_is_not_a_frame_is_refused() {
    use WireErrorKind::{BadField, BadLength, BadStream, OpenVersion, Truncated, UnknownType};
    let target = [1, 0, 6, 10, 0, 0, 1, 31, 144];
    let client = [2, 0, 6, 10, 0, 0, 2, 31, 144];
    let open = |fields: &[&[u8]]| frame(code::OPEN, 1, &[&[1], &fields.concat()[..]].concat());
    let mapped: Vec<u8> = [1, 0, 18]
        .into_iter()
        .chain([0; 10])
        .chain([255, 255, 10, 0, 0, 1, 31, 144])
        .collect();
    let bad = |frame, length| BadLength { frame, length };
    for (record, kind) in [
        (vec![1, 0, 0], Truncated),
        (frame(0, 1, &[]), UnknownType(0)),
        (frame(9, 1, &[]), UnknownType(9)),
        (frame(255, 1, &[]), UnknownType(255)),
        (frame(code::DATA, 1, &[]), bad(code::DATA, 0)),
        (
            vec![code::DATA, 255, 255, 255, 0, 0, 0, 1],
            bad(code::DATA, 0xff_ffff),
        ),
        (frame(code::OPEN, 1, &[0; 1025]), bad(code::OPEN, 1025)),
        (frame(code::FIN, 1, &[0]), bad(code::FIN, 1)),
        (frame(code::RESET, 1, &[]), bad(code::RESET, 0)),
        (frame(code::CREDIT, 1, &[0; 3]), bad(code::CREDIT, 3)),
        (frame(code::OPEN_RESULT, 1, &[]), bad(code::OPEN_RESULT, 0)),
        (
            frame(code::OPEN_RESULT, 1, &[1; 300]),
            bad(code::OPEN_RESULT, 300),
        ),
        (
            frame(code::DATA, 0, &[1]),
            BadStream {
                frame: code::DATA,
                stream: 0,
            },
        ),
        (
            frame(code::DRAIN, 3, &[]),
            BadStream {
                frame: code::DRAIN,
                stream: 3,
            },
        ),
        (frame(code::RESET, 1, &[0]), BadField("reset code")),
        (frame(code::RESET, 1, &[99]), BadField("reset code")),
        (frame(code::CREDIT, 1, &[0; 4]), BadField("credit")),
        (
            frame(code::OPEN_RESULT, 1, &[99, b'x']),
            BadField("refusal code"),
        ),
        (
            frame(code::OPEN_RESULT, 1, &[0, b'x']),
            BadField("refusal code"),
        ),
        (
            frame(code::OPEN_RESULT, 1, &[1, 27, b'[']),
            BadField("detail"),
        ),
        (frame(code::OPEN_RESULT, 1, &[1, 0xff]), BadField("detail")),
        (frame(code::OPEN, 1, &[2]), OpenVersion(2)),
        (open(&[&target]), BadField("client")),
        (open(&[&client]), BadField("destination")),
        (open(&[&target, &target, &client]), BadField("destination")),
        (open(&[&mapped, &client]), BadField("destination")),
        (
            open(&[&[1, 0, 6, 10, 0, 0, 1, 0, 0], &client]),
            BadField("destination"),
        ),
        (
            open(&[&target, &client, &[3, 0, 2, 5, b'x']]),
            BadField("service"),
        ),
        (
            open(&[&target, &client, &[3, 0, 3, 1, b'x', 27]]),
            BadField("service"),
        ),
        (
            open(&[&target, &client, &[4, 0, 0]]),
            BadField("field type"),
        ),
        (
            open(&[&target, &client, &[128, 0, 1, 0]]),
            BadField("trace context"),
        ),
        (open(&[&target, &client, &[1, 0]]), BadField("field header")),
        (
            open(&[&target, &client, &[1, 0, 9]]),
            BadField("field length"),
        ),
    ] {
        assert_eq!(refused(&record), kind, "{record:?}");
    }
    // What a later version adds may be skipped, where it says so.
    let later = open(&[&target, &client, &[200, 0, 2, 1, 2]]);
    assert!(matches!(
        frames(&later).next(),
        Some(Ok(Frame::Open { .. }))
    ));
}

#[test]
fn a_refusal_says_only_what_may_travel() {
    let mut record = Vec::new();
    let detail = format!("\u{1b}[31m{}", "ä".repeat(400));
    let result = Err(Refusal {
        code: RefusalCode::Fault,
        detail,
    });
    Frame::OpenResult { stream: 1, result }.encode(&mut record);
    let Some(Ok(Frame::OpenResult {
        result: Err(refusal),
        ..
    })) = frames(&record).next()
    else {
        panic!("it is a refusal");
    };
    assert!(refusal.detail.starts_with(" [31mä"));
    assert!(refusal.detail.len() <= MAX_DETAIL);
}

#[test]
fn the_largest_frame_fills_a_record() {
    let bytes = vec![1; MAX_PAYLOAD];
    let mut record = Vec::new();
    Frame::Data {
        stream: 1,
        bytes: &bytes,
    }
    .encode(&mut record);
    assert_eq!(record.len(), super::MAX_RECORD);
    assert!(matches!(
        frames(&record).next(),
        Some(Ok(Frame::Data { .. }))
    ));
}
