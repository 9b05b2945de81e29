//! Fuzzes `mesh_fuzz::handover`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_fuzz::handover::run(input));
