//! Fuzzes `mesh_fuzz::link`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_fuzz::link::run(input));
