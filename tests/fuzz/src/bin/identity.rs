//! Fuzzes `mesh_fuzz::identity`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_fuzz::identity::run(input));
