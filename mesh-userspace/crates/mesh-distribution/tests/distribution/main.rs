//! Controllers and nodes over real TLS on loopback: what is told, resumed, kept, asked, refused, and what a dead, slow or
//! hostile peer costs.

mod asked;
mod enrolled;
mod kept;
mod limited;
mod random;
mod resumed;
#[expect(dead_code, reason = "the benchmark uses the rest of it")]
mod support;
mod told;
