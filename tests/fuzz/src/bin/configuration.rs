//! Fuzzes `mesh_fuzz::configuration`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_fuzz::configuration::run(input));
