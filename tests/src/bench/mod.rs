//! The benchmark: what a mesh costs, measured for Warren and its peers in one run on one machine.
//!
//! ```text
//!            ┌ direct ──────────────────────────────────────────────┐
//!   client ──┤ warren   (captured by eBPF; agent + worker per node)  ├── nginx, sink
//!            │ envoy    sidecar ── mutual TLS ── sidecar             │
//!            └ haproxy  sidecar ── mutual TLS ── sidecar             ┘
//! ```
//! Everything runs on one core, so that requests per second are nothing but the inverse of what a request costs on its
//! whole way. Rounds are interleaved and medians count, so that what else happens on the machine hits all alike. Absolute
//! figures belong to the machine; ratios are what is compared.
//!
//! | what | module |
//! |---|---|
//! | the cluster, its pods and servers | [`scene`] |
//! | who is compared, how it is reached, what it uses | [`contender`], `usage` |
//! | the peers, configured as well as they can be | `sidecar`, `envoy`, `haproxy`, `certificates` |
//! | what is measured, once | [`measure`], [`memory`] |
//! | the programs that make load | [`load`] |
//! | rounds, medians, goals, tables, the file | [`rounds`], [`goals`], [`report`] |
//!
//! A benchmark reports; it never fails because of a figure. It fails when work was not done: a request that ended in an
//! error, a connection that was not carried.

pub mod contender;
pub mod goals;
pub mod load;
pub mod measure;
pub mod memory;
pub mod report;
pub mod rounds;
pub mod scene;

mod certificates;
mod envoy;
mod haproxy;
mod sidecar;
mod usage;
