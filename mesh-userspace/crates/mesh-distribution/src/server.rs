//! The controller's listener: accept → TLS → who is it → gRPC. Callers without a certificate cost little and can do one
//! thing only, enrol.

mod distribution;
mod enrolment;
mod identify;
mod limits;
mod relay;
mod serve;
mod tally;

pub use identify::{Identified, Identify, Peer};
pub use limits::Limits;
pub use serve::{Serving, serve};
pub use tally::{Counts, Tally};
