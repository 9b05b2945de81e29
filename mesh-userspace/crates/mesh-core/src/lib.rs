//! Warren's decisions, as pure functions over immutable data.
//!
//! Rule: nothing here may know tokio, aya, rustls, files, sockets, a clock or a source of randomness. Time and
//! randomness are arguments. That is what makes the decisions testable by rows of data, and what lets `warren explain`
//! and the data path call the very same functions.
//!
//! Reading order: [`addr`], [`identity`], [`workload`], [`service`], [`snapshot`] (the world as one value), then the
//! decisions in the order in which a connection meets them: [`route`], [`balance`], [`policy`] (and [`explain`], which asks
//! them all); and what is said about
//! it afterwards: [`outcome`], [`record`]. [`rotation`] decides when a certificate is renewed.

pub mod addr;
pub mod balance;
pub mod explain;
pub mod identity;
pub mod outcome;
pub mod policy;
pub mod record;
pub mod rotation;
pub mod route;
pub mod service;
pub mod snapshot;
pub mod workload;

#[cfg(test)]
mod testing;
