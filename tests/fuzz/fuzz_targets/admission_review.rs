//! `cargo fuzz`'s entry to the target of the same name in `src/lib.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heddle_fuzz::admission_review(data));
