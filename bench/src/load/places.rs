//! Where a durable rpc's reply says that the record is.
//!
//! **Runs on: any.**

use serde::Deserialize;

/// A partition and the offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    partition: u32,
    log_offset: u64,
}

/// As the reply has it.
#[derive(Deserialize)]
struct Reply<'a> {
    at: &'a str,
    partition: u32,
    log_offset: u64,
}

/// Reads `{"at":…,"partition":…,"log_offset":…}`; `None` if it is not that, or
/// is anywhere but `expected_at`.
pub fn read(data: &[u8], expected_at: &str) -> Option<Place> {
    let Reply { at, partition, log_offset } = serde_json::from_slice(data).ok()?;
    (at == expected_at).then_some(Place { partition, log_offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_place_and_nothing_else() {
        let place = Place { partition: 3, log_offset: 42 };
        let kafka = br#"{"at":"kafka","partition":3,"log_offset":42}"#;
        assert_eq!(read(kafka, "kafka"), Some(place));
        assert_eq!(read(kafka, "journal"), None);
        let journal = br#"{"partition":3, "log_offset":42, "at":"journal"}"#;
        assert_eq!(read(journal, "journal"), Some(place));
        for wrong in [r#"{"at":"none"}"#, r#"{"at":"none","partition":3,"log_offset":4}"#, "", "{}"]
        {
            assert_eq!(read(wrong.as_bytes(), "kafka"), None);
        }
    }
}
