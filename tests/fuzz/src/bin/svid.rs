//! Fuzzes `mesh_fuzz::svid`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_fuzz::svid::run(input));
