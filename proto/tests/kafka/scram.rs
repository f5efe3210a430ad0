//! SCRAM and PLAIN by the RFCs' own examples.
//!
//! **Runs on: any.**

use trine_proto::kafka::sasl_authenticate::plain;
use trine_proto::kafka::scram::{Client, Error, Mechanism};

/// RFC 7677 §3.
const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
    s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const SERVER_LAST: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

#[test]
fn the_exchange_of_the_rfc() {
    let client = Client::new(Mechanism::Sha256, "user", NONCE);
    assert_eq!(client.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
    let (last, verifier) = client.last(SERVER_FIRST.as_bytes(), "pencil").unwrap();
    assert_eq!(
        last,
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
         p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    );
    assert_eq!(verifier.check(SERVER_LAST.as_bytes()), Ok(()));
    assert_eq!(verifier.check(b"e=invalid-proof"), Err(Error::Refused));
    for at in 2..SERVER_LAST.len() {
        assert!(verifier.check(&SERVER_LAST.as_bytes()[..at]).is_err(), "{at}");
    }
    let (_, other) = client.last(SERVER_FIRST.as_bytes(), "pen").unwrap();
    assert_eq!(other.check(SERVER_LAST.as_bytes()), Err(Error::ServerSignature));
}

/// Computed by Python's `hashlib` and `hmac`; the RFCs have no example with SHA-512.
#[test]
fn an_exchange_with_sha_512() {
    let client = Client::new(Mechanism::Sha512, "user", "abc");
    let (last, verifier) = client.last(b"r=abcdef,s=c2FsdHNhbHQ=,i=8192", "pencil").unwrap();
    assert_eq!(
        last,
        "c=biws,r=abcdef,p=bX7LjwKTyVW/TcS+VN74a2aGAmiq0BwxdY27nxh/2ham\
         lruUd4RpyqAbTCGbjSl3mvr+Wd7vDjwlP1Kazk3mJg=="
    );
    let server_last = "v=uLvAYLUfPOga/i+8NHtkVMRzYKNcRuF5CDICPGr0zSed\
         Flc+3u5RutrM2U3sIt8qXdLDNJJMDtne7rezCQvlug==";
    assert_eq!(verifier.check(server_last.as_bytes()), Ok(()));
}

#[test]
fn a_bad_server_is_refused() {
    let client = Client::new(Mechanism::Sha256, "user", NONCE);
    let last = |first: &str| client.last(first.as_bytes(), "pencil").map(|_| ());
    let with = |nonce: &str, iterations: &str| last(&format!("r={nonce},s=W22Z,i={iterations}"));
    assert_eq!(with(&format!("{NONCE}x"), "4096"), Ok(()));
    assert_eq!(with(NONCE, "4096"), Err(Error::Nonce));
    assert_eq!(with("other", "4096"), Err(Error::Nonce));
    assert_eq!(with(&format!("{NONCE}x"), "4095"), Err(Error::Iterations));
    assert_eq!(with(&format!("{NONCE}x"), "65537"), Err(Error::Iterations));
    assert_eq!(with(&format!("{NONCE}x"), "99999999999"), Err(Error::Malformed));
    for text in ["", "r=", "m=ext,r=a,s=a,i=1", "s=W22Z,r=a,i=4096", "r=a,s=*,i=4096"] {
        assert_eq!(last(text), Err(Error::Malformed), "{text}");
    }
    assert_eq!(client.last(b"\xff", "pencil").map(|_| ()), Err(Error::Malformed));
    assert!(!format!("{client:?}").contains(NONCE));
}

#[test]
fn names_are_escaped() {
    let client = Client::new(Mechanism::Sha512, "a=b,c", "nonce");
    assert_eq!(client.first(), "n,,n=a=3Db=2Cc,r=nonce");
    assert_eq!(Mechanism::Sha512.name(), "SCRAM-SHA-512");
    assert_eq!(Mechanism::Sha256.name(), "SCRAM-SHA-256");
    assert_eq!(plain("user", "pencil"), b"\0user\0pencil");
}
