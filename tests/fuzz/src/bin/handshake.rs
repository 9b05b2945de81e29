//! Fuzzes `mesh_fuzz::handshake`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_fuzz::handshake::run(input));
