//! `cargo xtask fuzz packet`: libFuzzer's entry to [`portcullis_fuzz::packet`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portcullis_fuzz::packet(bytes));
