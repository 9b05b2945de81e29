//! Fuzzes `mesh_fuzz::event`.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_fuzz::event::run(input));
