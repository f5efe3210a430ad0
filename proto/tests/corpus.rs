//! Runs the fuzz targets' corpus through their properties, so that it is checked without a fuzzer.
//!
//! **Runs on: any.**

use proptest::prelude::*;
use proptest::sample::Index;
use std::fs;
use std::path::Path;

#[path = "../fuzz/properties.rs"]
mod properties;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    let files: Vec<_> = files.collect();
    assert!(files.len() >= 8, "{target} has {} files", files.len());
    files
}

fn each(target: &str, property: fn(&[u8])) {
    for data in corpus(target) {
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

/// Several changes at once, of which a few bytes of a count or a length may be one.
fn damaged(mut data: Vec<u8>, changes: &[(Index, Vec<u8>)]) -> Vec<u8> {
    for (at, bytes) in changes {
        let at = at.index(data.len() + 1);
        let end = (at + bytes.len()).min(data.len());
        data.splice(at..end, bytes.iter().copied());
    }
    data
}

proptest! {
    #[test]
    fn damaged_kafka(file: Index, changes: Vec<(Index, Vec<u8>)>) {
        let responses = corpus("kafka_response");
        let records = corpus("kafka_record");
        properties::kafka_response(&damaged(file.get(&responses).clone(), &changes));
        properties::kafka_record(&damaged(file.get(&records).clone(), &changes));
    }
}
