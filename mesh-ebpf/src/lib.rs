//! The part of the kernel half that needs no kernel: reading headers, and deciding.
//!
//! Everything here is a function of its arguments, so that every case has a test on the build machine. It must not
//! know helpers, maps or contexts; those are in the binary next to it, which calls this.
#![cfg_attr(not(test), no_std)]

pub mod dial;
pub mod packet;
pub mod rate;
pub mod verdict;
