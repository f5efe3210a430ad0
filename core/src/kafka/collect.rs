//! Finds the responses in what a connection receives, and collects those that came in pieces.
//!
//! **Runs on: shard.** Sans-IO. A response that lies whole in one chunk is handed out from there; of
//! others the chunks are kept until all is there, and put together once. So nothing is allocated on
//! the word of a length: only for what has come.

use crate::buf::Chunk;
use bytes::Bytes;
use trine_proto::kafka::Error;
use trine_proto::kafka::frame::{self, BODY_START, Framed};

/// The body of a response.
#[derive(Debug)]
pub enum Body<'b> {
    /// Within the chunk that was received: read it now.
    Chunk(&'b [u8]),
    /// In memory of its own.
    Collected(Bytes),
}

impl Body<'_> {
    /// The body, for as long as it is needed; copies what is in a chunk.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Chunk(bytes) => Bytes::copy_from_slice(bytes),
            Self::Collected(bytes) => bytes,
        }
    }
}

impl std::ops::Deref for Body<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Chunk(bytes) => bytes,
            Self::Collected(bytes) => bytes,
        }
    }
}

/// The response that a connection is in the middle of.
#[derive(Default)]
pub struct Collector {
    /// Chunks, and where the response goes on in each.
    parts: Vec<(Chunk, usize)>,
    have: usize,
    need: usize,
}

impl Collector {
    /// Takes in what was received and hands out each response that is whole, with its correlation
    /// id. `false` from `each` ends it.
    ///
    /// # Errors
    /// The connection is lost; see [`frame::response`].
    pub fn take(
        &mut self,
        chunk: Chunk,
        mut each: impl FnMut(i32, Body<'_>) -> bool,
    ) -> Result<(), Error> {
        let mut at = 0;
        while at < chunk.len() {
            let rest = &chunk[at..];
            if self.have == 0 {
                match frame::response(rest)? {
                    Framed::Response { correlation_id, end } => {
                        at += end;
                        if !each(correlation_id, Body::Chunk(&rest[BODY_START..end])) {
                            return Ok(());
                        }
                    }
                    Framed::Partial(need) => {
                        (self.have, self.need) = (rest.len(), need);
                        self.parts.push((chunk, at));
                        return Ok(());
                    }
                }
                continue;
            }
            let missing = self.need - self.have;
            if rest.len() < missing {
                self.keep(chunk, at);
                return Ok(());
            }
            self.have = self.need;
            let last = &rest[..missing];
            at += missing;
            let mut head = [0; BODY_START];
            let bytes = self.parts.iter().flat_map(|(part, start)| &part[*start..]).chain(last);
            head.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            match frame::response(&head)? {
                // The length was not known before.
                Framed::Partial(need) if need > self.have => {
                    self.need = need;
                    self.copy(&chunk[at - missing..at]);
                }
                _ => {
                    let body = self.collect(last);
                    let [_, _, _, _, id @ ..] = head;
                    if !each(i32::from_be_bytes(id), Body::Collected(body)) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Keeps the chunk, or copies what it has beside what is there, so that small pieces do not hold
    /// a chunk each.
    fn keep(&mut self, chunk: Chunk, at: usize) {
        self.have += chunk.len() - at;
        let room = self.parts.last().map_or(0, |(last, _)| last.room());
        if chunk.len() - at <= room {
            self.copy(&chunk[at..]);
        } else {
            self.parts.push((chunk, at));
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        match self.parts.last_mut().filter(|(last, _)| last.room() >= bytes.len()) {
            Some((last, _)) => last.vec_mut().extend_from_slice(bytes),
            None => {
                let mut part = Chunk::take(bytes.len() > crate::limits::CHUNK_BYTES);
                part.vec_mut().extend_from_slice(bytes);
                self.parts.push((part, 0));
            }
        }
    }

    fn collect(&mut self, last: &[u8]) -> Bytes {
        let mut body = Vec::with_capacity(self.need - BODY_START);
        let mut skip = BODY_START;
        let kept = self.parts.iter().map(|(part, start)| &part[*start..]);
        for piece in kept.chain([last]) {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            body.extend_from_slice(&piece[skipped..]);
        }
        self.parts.clear();
        (self.have, self.need) = (0, 0);
        body.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn response(id: i32, body: &[u8]) -> Vec<u8> {
        let length = (body.len() + 4) as i32;
        [&length.to_be_bytes(), &id.to_be_bytes(), body].concat()
    }

    fn feed(input: &[u8], cuts: &[usize]) -> Vec<(i32, Vec<u8>)> {
        let mut collector = Collector::default();
        let mut all = Vec::new();
        let mut at = 0;
        for end in cuts.iter().copied().chain([input.len()]) {
            for piece in input[at..end.max(at)].chunks(crate::limits::CHUNK_BYTES) {
                let mut chunk = Chunk::take(false);
                chunk.vec_mut().extend_from_slice(piece);
                collector
                    .take(chunk, |id, body| {
                        all.push((id, body.to_vec()));
                        true
                    })
                    .unwrap();
            }
            at = end.max(at);
        }
        assert_eq!(collector.have, 0);
        all
    }

    #[test]
    fn responses_come_out_the_same_however_they_are_cut() {
        let input = [response(1, b""), response(2, b"abc"), response(3, &[7; 40])].concat();
        let expected = [(1, vec![]), (2, b"abc".to_vec()), (3, vec![7; 40])];
        for first in 0..=input.len() {
            for second in first..=input.len() {
                assert_eq!(feed(&input, &[first, second]), expected, "cut at {first}, {second}");
            }
        }
    }

    proptest! {
        #[test]
        fn large_responses_are_collected(
            bodies in prop::collection::vec(0usize..30_000, 1..5),
            mut cuts in prop::collection::vec(0usize..60_000, 0..40),
        ) {
            let expected: Vec<_> = bodies
                .iter()
                .enumerate()
                .map(|(id, &length)| (id as i32, (0..length).map(|n| (n * 31) as u8).collect::<Vec<_>>()))
                .collect();
            let input: Vec<u8> =
                expected.iter().flat_map(|(id, body)| response(*id, body)).collect();
            cuts.iter_mut().for_each(|cut| *cut = (*cut).min(input.len()));
            cuts.sort_unstable();
            prop_assert_eq!(feed(&input, &cuts), expected);
        }
    }

    #[test]
    fn what_is_no_broker_is_named() {
        for (bytes, word) in
            [(&b"\x15\x03\x03\x00\x02\x02\x46"[..], "TLS"), (b"HTTP/1.1 400", "HTTP")]
        {
            let mut chunk = Chunk::take(false);
            chunk.vec_mut().extend_from_slice(bytes);
            let error = Collector::default().take(chunk, |_, _| true).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
