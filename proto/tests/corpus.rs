//! Runs the fuzz targets' corpus through their properties, so that it is checked without a fuzzer.
//!
//! **Runs on: any.**

use std::fs;
use std::path::Path;

#[path = "../fuzz/properties.rs"]
mod properties;

fn each(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 8, "{target} has {} files", files.len());
    for file in files {
        let data = fs::read(&file).unwrap();
        property(&data);
        // Its damaged neighbours too: cut short, and with each byte changed.
        for at in 0..data.len().min(400) {
            property(&data[..at]);
            let mut changed = data.clone();
            changed[at] ^= 0x55;
            property(&changed);
        }
    }
}

#[test]
fn ws() {
    each("ws", properties::ws);
}

#[test]
fn http1() {
    each("http1", properties::http1);
}

#[test]
fn client() {
    each("client", properties::client);
}

#[test]
fn kafka_response() {
    each("kafka_response", properties::kafka_response);
}

#[test]
fn kafka_record() {
    each("kafka_record", properties::kafka_record);
}
