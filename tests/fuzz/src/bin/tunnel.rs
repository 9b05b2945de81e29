//! Fuzzes `mesh_fuzz::tunnel`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_fuzz::tunnel::run(input));
