//! Fuzzes `mesh_fuzz::wire`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_fuzz::wire::run(input));
