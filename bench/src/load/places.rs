//! Where a durable rpc's reply says that the record is.
//!
//! **Runs on: any.**

use serde::Deserialize;

/// A partition and the offset in it; in the spool a record has none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    partition: u32,
    log_offset: Option<u64>,
}

impl Place {
    /// Whether no other record may be there.
    pub fn is_exact(&self) -> bool {
        self.log_offset.is_some()
    }
}

/// As the reply has it.
#[derive(Deserialize)]
struct Reply<'a> {
    at: &'a str,
    partition: u32,
    log_offset: Option<u64>,
}

/// Reads `{"at":…,"partition":…,"log_offset":…}`; `None` if it is not that, or
/// is anywhere but `expected_at`, unless that is `any`. `spool` has no offset.
pub fn read(data: &[u8], expected_at: &str) -> Option<Place> {
    let Reply { at, partition, log_offset } = serde_json::from_slice(data).ok()?;
    let whole = (at == "spool") == log_offset.is_none();
    let there = at == expected_at || expected_at == "any";
    (whole && there).then_some(Place { partition, log_offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_place_and_nothing_else() {
        let place = Place { partition: 3, log_offset: Some(42) };
        let kafka = br#"{"at":"kafka","partition":3,"log_offset":42}"#;
        assert_eq!(read(kafka, "kafka"), Some(place));
        assert_eq!(read(kafka, "any"), Some(place));
        assert_eq!(read(kafka, "journal"), None);
        let journal = br#"{"partition":3, "log_offset":42, "at":"journal"}"#;
        assert_eq!(read(journal, "journal"), Some(place));
        for wrong in [r#"{"at":"none"}"#, r#"{"at":"kafka","partition":3}"#, "", "{}"] {
            assert_eq!(read(wrong.as_bytes(), "kafka"), None);
            assert_eq!(read(wrong.as_bytes(), "any"), None);
        }
    }

    #[test]
    fn a_spooled_record_has_no_offset_yet() {
        let spool = br#"{"at":"spool","partition":3}"#;
        let place = Place { partition: 3, log_offset: None };
        assert_eq!(read(spool, "spool"), Some(place));
        assert_eq!(read(spool, "any"), Some(place));
        assert_eq!(read(spool, "kafka"), None);
        assert!(!place.is_exact());
    }
}
