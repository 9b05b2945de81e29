//! The codec of tunnels: a decrypted record.

use mesh_proxy::wire::{MAX_RECORD, frames};

/// What was understood says the same when it is written again, takes no more room, and an error is the end.
pub fn run(record: &[u8]) {
    if record.len() > MAX_RECORD {
        return;
    }
    let mut parsed = frames(record);
    let mut size = 0;
    while let Some(frame) = parsed.next() {
        match frame {
            Ok(frame) => {
                let mut again = Vec::new();
                frame.encode(&mut again);
                size += again.len();
                let mut twice = frames(&again);
                assert_eq!(twice.next(), Some(Ok(frame)));
                assert_eq!(twice.next(), None);
            }
            Err(error) => {
                assert!(error.offset < record.len(), "{error}");
                assert!(parsed.next().is_none(), "something follows {error}");
            }
        }
    }
    assert!(size <= record.len(), "{} bytes became {size}", record.len());
}
