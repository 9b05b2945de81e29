//! The wire format of `warren/1`, as a pure codec: bytes in, frames out, and the other way round.
//!
//! ```text
//!  0        1                 4                          8
//!  ┌────────┬─────────────────┬──────────────────────────┬─────────────┐
//!  │ type   │ payload length  │ stream                   │ payload …   │   big endian
//!  └────────┴─────────────────┴──────────────────────────┴─────────────┘
//! ```
//!
//! **A TLS record holds whole frames, and a frame lies in one record.** So a frame is never reassembled: it is read where
//! it was decrypted, and written where it will be encrypted. It also bounds a frame without a limit of its own.
//!
//! The codec is strict. An unknown type, a length that does not fit, a payload that is too long or malformed, a stream
//! number where none belongs: each is an error with its offset, and the tunnel ends. There is nothing to skip over,
//! because a peer that speaks a later version says so in the ALPN protocol. Only the fields of OPEN can be extended.
//!
//! It must not know sockets, TLS, or which frame may follow which: that is [`crate::tunnel`].

use std::net::{IpAddr, SocketAddr};

use mesh_core::addr::{AppAddr, ClientAddr, canonical};
use mesh_core::workload::Name;

mod open;
#[cfg(test)]
mod tests;

/// Bytes of a frame's header.
pub const HEADER: usize = 8;

/// The largest plaintext of a TLS record (RFC 8446 §5.1), and so of a frame with its header.
pub const MAX_RECORD: usize = 16_384;

/// The largest payload of a frame.
pub const MAX_PAYLOAD: usize = MAX_RECORD - HEADER;

/// The largest OPEN payload: addresses, one name and a trace context need far less; this is what a peer can make us keep.
pub const MAX_OPEN: usize = 1024;

/// The longest explanation of a refusal, in bytes.
pub const MAX_DETAIL: usize = 256;

/// Bytes of a stream that may be under way before the first CREDIT.
pub const INITIAL_WINDOW: u32 = 64 * 1024;

/// Type codes, as they travel.
pub mod code {
    /// See [`super::Frame::Open`].
    pub const OPEN: u8 = 1;
    /// See [`super::Frame::OpenResult`].
    pub const OPEN_RESULT: u8 = 2;
    /// See [`super::Frame::Data`].
    pub const DATA: u8 = 3;
    /// See [`super::Frame::Fin`].
    pub const FIN: u8 = 4;
    /// See [`super::Frame::Reset`].
    pub const RESET: u8 = 5;
    /// See [`super::Frame::Credit`].
    pub const CREDIT: u8 = 6;
    /// See [`super::Frame::Raw`].
    pub const RAW: u8 = 7;
    /// See [`super::Frame::Drain`].
    pub const DRAIN: u8 = 8;
}

/// One frame. Bytes of the application are borrowed from the record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Frame<'a> {
    /// The dialling side opens a stream. Its numbers are odd and grow.
    Open {
        /// Stream number.
        stream: u32,
        /// What for.
        open: Box<Open>,
    },
    /// The accepting side's answer, exactly one per OPEN (unless the stream was reset before).
    OpenResult {
        /// Stream number.
        stream: u32,
        /// Taken by the application, or why not.
        result: Result<(), Refusal>,
    },
    /// Bytes of the application, within the credit.
    Data {
        /// Stream number.
        stream: u32,
        /// The bytes, at least one.
        bytes: &'a [u8],
    },
    /// No more DATA in this direction.
    Fin {
        /// Stream number.
        stream: u32,
    },
    /// The stream is over, at once, both ways.
    Reset {
        /// Stream number.
        stream: u32,
        /// Why.
        code: ResetCode,
    },
    /// So many more bytes may be sent to us on this stream.
    Credit {
        /// Stream number.
        stream: u32,
        /// How many more, at least one.
        bytes: u32,
    },
    /// From the next record on, this direction of the tunnel carries this stream's bytes and nothing else.
    Raw {
        /// Stream number.
        stream: u32,
    },
    /// Open no further stream in this tunnel; those that are open go on. Its stream number is 0.
    Drain,
}

/// What a stream is opened for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Open {
    /// Where the application listens.
    pub destination: AppAddr,
    /// Who dialled, as the application shall see it.
    pub client: ClientAddr,
    /// The service by whose address it was dialled.
    pub service: Option<Name>,
    /// Trace context.
    pub trace: Option<TraceContext>,
}

/// W3C Trace Context, in binary.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TraceContext {
    /// Trace.
    pub trace_id: [u8; 16],
    /// Parent span.
    pub span_id: [u8; 8],
    /// Flags.
    pub flags: u8,
}

/// Why a stream was not opened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The reason.
    pub code: RefusalCode,
    /// More, for a person: UTF-8 without control characters, cut off after [`MAX_DETAIL`] bytes.
    pub detail: String,
}

macro_rules! codes {
    ($(#[$meta:meta])+ $name:ident { $($(#[$doc:meta])+ $variant:ident = $value:literal,)+ }) => {
        $(#[$meta])+
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])+ $variant = $value,)+ }

        impl $name {
            /// Every code, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            fn parse(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

codes! {
    /// The reasons for a refusal. 0 means acceptance.
    RefusalCode {
        /// The application's address refused the connection.
        ConnectionRefused = 1,
        /// The application could not be reached in time.
        Unreachable = 2,
        /// A policy denies it.
        PolicyDenied = 3,
        /// A policy selects the destination and no rule allows it.
        NoRuleAllows = 4,
        /// No such workload here.
        WrongDestination = 5,
        /// A limit was reached.
        Overloaded = 6,
        /// The accepting side is about to stop.
        Draining = 7,
        /// A fault of the accepting side.
        Fault = 8,
    }
}

codes! {
    /// The reasons for a reset.
    ResetCode {
        /// The application reset its connection.
        Application = 1,
        /// A policy no longer allows it.
        PolicyRevoked = 2,
        /// An identity is no longer valid.
        IdentityRevoked = 3,
        /// The proxy stops.
        Drained = 4,
        /// A limit was reached.
        Overloaded = 5,
        /// A fault of the proxy.
        Fault = 6,
    }
}

/// A frame that is not one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed frame at byte {offset} of a record: {kind}")]
pub struct WireError {
    /// Where the frame begins.
    pub offset: usize,
    /// What is wrong.
    pub kind: WireErrorKind,
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WireErrorKind {
    /// The record ends within it.
    #[error("the record ends within the frame")]
    Truncated,
    /// Not a type of this version.
    #[error("there is no frame type {0}")]
    UnknownType(u8),
    /// Not a length that this type can have.
    #[error("a frame of type {frame} cannot have {length} bytes")]
    BadLength {
        /// Type.
        frame: u8,
        /// Its length.
        length: usize,
    },
    /// Stream 0 where a stream belongs, or a stream where 0 belongs.
    #[error("a frame of type {frame} cannot be of stream {stream}")]
    BadStream {
        /// Type.
        frame: u8,
        /// Its stream.
        stream: u32,
    },
    /// A code, an address, a text that is none.
    #[error("its {0} is malformed")]
    BadField(&'static str),
    /// OPEN of a version that we do not speak.
    #[error("version {0} of OPEN is not known")]
    OpenVersion(u8),
}

/// The frames of one record, in order.
#[derive(Debug)]
pub struct Frames<'a> {
    record: &'a [u8],
    /// 0 <= offset <= record.len()
    offset: usize,
}

/// Splits a record into frames.
pub fn frames(record: &[u8]) -> Frames<'_> {
    Frames { record, offset: 0 }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.offset;
        let rest = self.record.get(offset..).filter(|rest| !rest.is_empty())?;
        let parsed = parse(rest);
        // After an error nothing that follows can be trusted, not even where it begins.
        self.offset = parsed
            .as_ref()
            .map_or(self.record.len(), |(_, length)| offset + length);
        Some(
            parsed
                .map(|(frame, _)| frame)
                .map_err(|kind| WireError { offset, kind }),
        )
    }
}

/// The header of a frame.
pub fn header(frame: u8, length: usize, stream: u32) -> [u8; HEADER] {
    debug_assert!(length <= MAX_PAYLOAD, "a frame lies in one record");
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [w, x, y, z] = stream.to_be_bytes();
    [frame, a, b, c, w, x, y, z]
}

impl Frame<'_> {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Open { stream, open } => {
                let at = out.len();
                out.extend_from_slice(&[0; HEADER]);
                open.encode(out);
                let length = out.len() - at - HEADER;
                out[at..at + HEADER].copy_from_slice(&header(code::OPEN, length, *stream));
            }
            Self::OpenResult { stream, result } => {
                let (value, detail) = match result {
                    Ok(()) => (0, String::new()),
                    Err(refusal) => (refusal.code as u8, printable(&refusal.detail)),
                };
                out.extend_from_slice(&header(code::OPEN_RESULT, 1 + detail.len(), *stream));
                out.push(value);
                out.extend_from_slice(detail.as_bytes());
            }
            Self::Data { stream, bytes } => {
                out.extend_from_slice(&header(code::DATA, bytes.len(), *stream));
                out.extend_from_slice(bytes);
            }
            Self::Fin { stream } => out.extend_from_slice(&header(code::FIN, 0, *stream)),
            Self::Reset { stream, code } => {
                out.extend_from_slice(&header(code::RESET, 1, *stream));
                out.push(*code as u8);
            }
            Self::Credit { stream, bytes } => {
                out.extend_from_slice(&header(code::CREDIT, 4, *stream));
                out.extend_from_slice(&bytes.to_be_bytes());
            }
            Self::Raw { stream } => out.extend_from_slice(&header(code::RAW, 0, *stream)),
            Self::Drain => out.extend_from_slice(&header(code::DRAIN, 0, 0)),
        }
    }
}

/// The first frame of `rest`, and how many bytes it takes.
fn parse(rest: &[u8]) -> Result<(Frame<'_>, usize), WireErrorKind> {
    let (head, rest) = rest
        .split_first_chunk::<HEADER>()
        .ok_or(WireErrorKind::Truncated)?;
    let [frame, a, b, c, w, x, y, z] = *head;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    let stream = u32::from_be_bytes([w, x, y, z]);
    let allowed = match frame {
        code::OPEN => 1..=MAX_OPEN,
        code::OPEN_RESULT => 1..=1 + MAX_DETAIL,
        code::DATA => 1..=MAX_PAYLOAD,
        code::RESET => 1..=1,
        code::CREDIT => 4..=4,
        code::FIN | code::RAW | code::DRAIN => 0..=0,
        other => return Err(WireErrorKind::UnknownType(other)),
    };
    if !allowed.contains(&length) {
        return Err(WireErrorKind::BadLength { frame, length });
    }
    if (frame == code::DRAIN) != (stream == 0) {
        return Err(WireErrorKind::BadStream { frame, stream });
    }
    let payload = rest.get(..length).ok_or(WireErrorKind::Truncated)?;
    Ok((payload_of(frame, stream, payload)?, HEADER + length))
}

/// `payload` has a length that [`parse`] found right for the type.
fn payload_of(frame: u8, stream: u32, payload: &[u8]) -> Result<Frame<'_>, WireErrorKind> {
    Ok(match (frame, payload) {
        (code::OPEN, _) => Frame::Open {
            stream,
            open: Box::new(Open::decode(payload)?),
        },
        (code::OPEN_RESULT, [0]) => Frame::OpenResult {
            stream,
            result: Ok(()),
        },
        (code::OPEN_RESULT, [value, detail @ ..]) => Frame::OpenResult {
            stream,
            result: Err(refusal(*value, detail)?),
        },
        (code::DATA, bytes) => Frame::Data { stream, bytes },
        (code::FIN, _) => Frame::Fin { stream },
        (code::RESET, [value]) => Frame::Reset {
            stream,
            code: ResetCode::parse(*value).ok_or(WireErrorKind::BadField("reset code"))?,
        },
        (code::CREDIT, &[a, b, c, d]) => match u32::from_be_bytes([a, b, c, d]) {
            0 => return Err(WireErrorKind::BadField("credit")),
            bytes => Frame::Credit { stream, bytes },
        },
        (code::RAW, _) => Frame::Raw { stream },
        (code::DRAIN, _) => Frame::Drain,
        (other, _) => return Err(WireErrorKind::UnknownType(other)),
    })
}

fn refusal(value: u8, detail: &[u8]) -> Result<Refusal, WireErrorKind> {
    let code = RefusalCode::parse(value).ok_or(WireErrorKind::BadField("refusal code"))?;
    let detail = std::str::from_utf8(detail)
        .ok()
        .filter(|text| !text.chars().any(char::is_control))
        .ok_or(WireErrorKind::BadField("detail"))?;
    Ok(Refusal {
        code,
        detail: detail.to_owned(),
    })
}

/// What of a text may travel: no control characters, and no more than fits.
fn printable(text: &str) -> String {
    let mut kept = String::new();
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if kept.len() + c.len_utf8() > MAX_DETAIL {
            break;
        }
        kept.push(c);
    }
    kept
}

fn encode_address(address: SocketAddr, out: &mut Vec<u8>) {
    match canonical(address).ip() {
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

/// Only the canonical spelling: a v4-mapped address would be a second name for one host, and policies match names.
fn decode_address(bytes: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_last_chunk::<2>()?;
    let ip = match ip.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
        _ => return None,
    };
    let port = u16::from_be_bytes(*port);
    (port != 0 && ip == ip.to_canonical()).then(|| SocketAddr::new(ip, port))
}
