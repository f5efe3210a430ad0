//! Fuzz target: `properties::journal` on any input.
//!
//! **Runs on: any**, under libFuzzer.
#![no_main]

#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::journal(data));
