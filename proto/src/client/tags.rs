//! Tags of a publication: texts by name, packed so that keeping them is one copy.
//!
//! **Runs on: any.** Sans-IO. No input makes this panic.

/// Packed tags: of each its name and its text, each behind its length (four bytes, little endian).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags<'a>(&'a [u8]);

impl<'a> Tags<'a> {
    /// What [`Tags::pack`] has written; bytes that it has not are fewer tags or none.
    pub fn packed(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Appends a tag.
    pub fn pack(into: &mut Vec<u8>, name: &str, text: &str) {
        for part in [name, text] {
            into.extend_from_slice(&(part.len() as u32).to_le_bytes());
            into.extend_from_slice(part.as_bytes());
        }
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Name and text of each.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut rest = self.0;
        let mut part = move || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (part, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = after;
            std::str::from_utf8(part).ok()
        };
        std::iter::from_fn(move || Some((part()?, part()?)))
    }
}
