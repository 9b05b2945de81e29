//! Makes the messages and services of `distribution.proto`, without a protobuf compiler on the machine.

use std::io;

const PROTO: &str = "warren/distribution/v1alpha1/distribution.proto";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=proto/{PROTO}");
    let files = protox::compile([PROTO], ["proto"]).map_err(io::Error::other)?;
    tonic_prost_build::configure()
        .build_transport(false)
        // Bodies of facts are shared by everybody who is told of them.
        .bytes(".")
        // A token must not get into a log.
        .skip_debug([".warren.distribution.v1alpha1.EnrolRequest"])
        .compile_fds(files)
}
