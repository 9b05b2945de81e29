//! Fuzz targets: bytes that somebody else chooses, and what must hold whatever they are. One file per target; each is run
//! by the program of its name in `bin/`, which `cargo xtask fuzz` builds and starts.
//!
//! | target | whose bytes | what must hold |
//! |---|---|---|
//! | [`wire`] | a peer's, decrypted | what was understood says the same when it is written again |
//! | [`tunnel`] | a peer's, as frames in any order | everything held for it stays within its bounds |
//! | [`handshake`] | the network's, from the first byte to the last record | only the peer is believed, and only what it said |
//! | [`svid`] | a peer's certificates | only the one that was issued is accepted |
//! | [`identity`] | a certificate's name | one spelling per identity |
//! | [`handover`] | the agent's, to the worker | what was read is written the same again |
//! | [`link`] | a worker's that was taken over, to the agent | a message or an error, and the link goes on |
//! | [`configuration`] | an operator's | objects or mistakes, the same each time, in bounded time |
//! | [`event`] | the ring buffer's | an event of this layout, or nothing |
//!
//! Seeds are in `corpus/<target>/`, written by the program `seed`; an input that once failed is kept there too.

pub mod configuration;
pub mod event;
pub mod handover;
pub mod handshake;
pub mod identity;
pub mod link;
pub mod script;
pub mod svid;
pub mod tunnel;
pub mod wire;
