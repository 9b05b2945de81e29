//! Warren's data path: the worker process that carries connections between applications.
//!
//! It asks `mesh-core` for every decision and `mesh-identity` for every TLS configuration; it knows neither aya nor the
//! control plane. Each worker thread has a runtime of its own; connections never move between threads.
//!
//! Life of a connection, outbound: `listen` (accept) → `origin` (where did the application dial) → `identify` (who
//! dialled) → `outbound` (the story: route, choose, join a tunnel) → `tunnel` → `record`. Inbound: `tunnel` →
//! `inbound` (the story: authorize) → `deliver` → `record`; in clear: `plain`.
//!
//! Around it: [`link`] (messages from and to the agent), `confine` (what the process gives up), `worker` (threads),
//! `reservoir` (sockets made by the agent), `recheck` (a changed world cuts what it no longer allows), `drain`.

pub mod confine;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod link;
pub mod memory;
pub mod tls;
pub mod tunnel;
pub mod wire;
pub mod worker;

mod carry;
mod configs;
mod context;
mod copy;
mod deliver;
mod drain;
mod figures;
mod identify;
mod inbound;
mod listen;
mod origin;
mod outbound;
mod plain;
mod recheck;
mod record;
mod reservoir;
mod reset;
mod served;
mod socket;

#[cfg(test)]
mod tests;
