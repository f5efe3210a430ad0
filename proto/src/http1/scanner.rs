//! Finds the end of a request head in what has arrived so far.
//!
//! **Runs on: any.** Invariant: no byte is looked at twice, however the head trickles in.

use super::Error;
use crate::limits::HTTP1_HEAD_BYTES;

/// Looks for the empty line that ends a request head, and remembers how far it looked.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScanner {
    scanned: usize,
    /// How much of CR LF CR LF the last bytes looked at are.
    matched: u8,
}

impl HeadScanner {
    /// A scanner at the start of a head.
    pub fn new() -> HeadScanner {
        HeadScanner::default()
    }

    /// The length of the head with its empty line, once it is complete in `buffer`, which must hold
    /// everything received of this request. The scanner then stands at the start of the next head.
    ///
    /// Errors: [`Error::HeadTooLarge`] over 32 KiB; [`Error::BareLf`] as soon as one is seen.
    pub fn scan(&mut self, buffer: &[u8]) -> Result<Option<usize>, Error> {
        let end = buffer.len().min(HTTP1_HEAD_BYTES);
        let unseen = buffer.get(self.scanned..end).unwrap_or_default();
        for (index, &byte) in unseen.iter().enumerate() {
            self.matched = match (byte, self.matched) {
                (b'\r', 2) => 3,
                (b'\r', _) => 1,
                (b'\n', 3) => {
                    let len = self.scanned + index + 1;
                    *self = HeadScanner::new();
                    return Ok(Some(len));
                }
                (b'\n', 1) => 2,
                (b'\n', _) => return Err(Error::BareLf),
                _ => 0,
            };
        }
        self.scanned = end;
        if end == HTTP1_HEAD_BYTES { Err(Error::HeadTooLarge) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_end_however_it_is_cut() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nX: \r\r\n\r\n";
        let mut buffer = head.to_vec();
        buffer.extend_from_slice(b"body\nof it");
        for first in 0..head.len() {
            for second in first..head.len() {
                let mut scanner = HeadScanner::new();
                assert_eq!(scanner.scan(&buffer[..first]), Ok(None));
                assert_eq!(scanner.scan(&buffer[..second]), Ok(None));
                assert_eq!(scanner.scan(&buffer), Ok(Some(head.len())));
                assert_eq!(scanner.scanned, 0);
            }
        }
    }

    #[test]
    fn limits_and_bare_line_feeds() {
        let mut buffer = vec![b'a'; HTTP1_HEAD_BYTES - 4];
        assert_eq!(HeadScanner::new().scan(&buffer), Ok(None));
        buffer.extend_from_slice(b"\r\n\r\n");
        assert_eq!(HeadScanner::new().scan(&buffer), Ok(Some(HTTP1_HEAD_BYTES)));
        buffer.insert(0, b'a');
        assert_eq!(HeadScanner::new().scan(&buffer), Err(Error::HeadTooLarge));
        let mut scanner = HeadScanner::new();
        assert_eq!(scanner.scan(&buffer[..100]), Ok(None));
        assert_eq!(scanner.scan(&buffer), Err(Error::HeadTooLarge));

        assert_eq!(HeadScanner::new().scan(b"GET / HTTP/1.1\n"), Err(Error::BareLf));
        assert_eq!(HeadScanner::new().scan(b"GET / HTTP/1.1\r\n\n"), Err(Error::BareLf));
        assert_eq!(HeadScanner::new().scan(b"\n"), Err(Error::BareLf));
    }
}
