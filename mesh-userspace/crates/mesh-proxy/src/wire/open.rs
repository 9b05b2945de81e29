//! The payload of OPEN: a version, then fields of type u8, length u16, value. A field of type 128 and above that is not
//! known is skipped, so that a later version can say more; one below is an error, because not to understand it would be
//! wrong. Every field at most once.

use mesh_core::addr::{AppAddr, ClientAddr};
use mesh_core::workload::Name;

use super::{Open, TraceContext, WireErrorKind, decode_address, encode_address};

const VERSION: u8 = 1;

const DESTINATION: u8 = 1;
const CLIENT: u8 = 2;
const SERVICE: u8 = 3;
const TRACE: u8 = 128;

/// Fields below must be understood.
const OPTIONAL_FROM: u8 = 128;

/// DNS's limit for a name, which also holds for the names of services and namespaces.
const MAX_NAME: usize = 253;

impl Open {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let Self {
            destination,
            client,
            service,
            trace,
        } = self;
        out.push(VERSION);
        field(out, DESTINATION, |out| encode_address(destination.0, out));
        field(out, CLIENT, |out| encode_address(client.0, out));
        // A name that does not fit is one that no configuration can contain; then the peer goes by the address.
        if let Some(name) = service.as_ref().filter(|name| fits(name)) {
            field(out, SERVICE, |out| {
                out.push(name.namespace.len() as u8);
                out.extend_from_slice(name.namespace.as_bytes());
                out.extend_from_slice(name.name.as_bytes());
            });
        }
        if let Some(trace) = trace {
            field(out, TRACE, |out| {
                out.extend_from_slice(&trace.trace_id);
                out.extend_from_slice(&trace.span_id);
                out.push(trace.flags);
            });
        }
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, WireErrorKind> {
        let (version, mut rest) = payload.split_first().ok_or(WireErrorKind::Truncated)?;
        if *version != VERSION {
            return Err(WireErrorKind::OpenVersion(*version));
        }
        let (mut destination, mut client, mut service, mut trace) = (None, None, None, None);
        while !rest.is_empty() {
            let (&[kind, high, low], after) = rest
                .split_first_chunk()
                .ok_or(WireErrorKind::BadField("field header"))?;
            let length = usize::from(u16::from_be_bytes([high, low]));
            let value = after
                .get(..length)
                .ok_or(WireErrorKind::BadField("field length"))?;
            rest = &after[length..];
            match kind {
                DESTINATION => once(
                    &mut destination,
                    decode_address(value).map(AppAddr),
                    "destination",
                )?,
                CLIENT => once(&mut client, decode_address(value).map(ClientAddr), "client")?,
                SERVICE => once(&mut service, decode_name(value), "service")?,
                TRACE => once(&mut trace, decode_trace(value), "trace context")?,
                kind if kind >= OPTIONAL_FROM => {}
                _ => return Err(WireErrorKind::BadField("field type")),
            }
        }
        Ok(Self {
            destination: destination.ok_or(WireErrorKind::BadField("destination"))?,
            client: client.ok_or(WireErrorKind::BadField("client"))?,
            service,
            trace,
        })
    }
}

fn field(out: &mut Vec<u8>, kind: u8, value: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[kind, 0, 0]);
    value(out);
    let length = (out.len() - at - 3) as u16;
    out[at + 1..at + 3].copy_from_slice(&length.to_be_bytes());
}

fn once<T>(
    slot: &mut Option<T>,
    value: Option<T>,
    what: &'static str,
) -> Result<(), WireErrorKind> {
    if slot.is_some() || value.is_none() {
        return Err(WireErrorKind::BadField(what));
    }
    *slot = value;
    Ok(())
}

fn fits(name: &Name) -> bool {
    [&name.namespace, &name.name]
        .iter()
        .all(|part| (1..=MAX_NAME).contains(&part.len()) && part.bytes().all(is_name_byte))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

fn decode_name(value: &[u8]) -> Option<Name> {
    let (length, text) = value.split_first()?;
    let (namespace, name) = text.split_at_checked(usize::from(*length))?;
    let name = Name::new(
        std::str::from_utf8(namespace).ok()?,
        std::str::from_utf8(name).ok()?,
    );
    fits(&name).then_some(name)
}

fn decode_trace(value: &[u8]) -> Option<TraceContext> {
    let (trace_id, rest) = value.split_first_chunk()?;
    let (span_id, &[flags]) = rest.split_first_chunk()? else {
        return None;
    };
    Some(TraceContext {
        trace_id: *trace_id,
        span_id: *span_id,
        flags,
    })
}
