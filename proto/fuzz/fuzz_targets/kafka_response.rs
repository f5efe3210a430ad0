//! Fuzz target: `properties::kafka_response` on any input.
//!
//! **Runs on: any**, under libFuzzer.
#![no_main]

#[allow(dead_code)]
#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::kafka_response(data));
