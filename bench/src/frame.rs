//! The client's side of WebSocket (RFC 6455), as much as a load tool needs:
//! the upgrade request, masked frames out, whole unfragmented frames in.
//!
//! **Runs on: any.**

/// Text frame.
pub const TEXT: u8 = 1;
/// Binary frame.
pub const BINARY: u8 = 2;
/// Close frame.
pub const CLOSE: u8 = 8;
/// Ping frame.
pub const PING: u8 = 9;
/// Pong frame.
pub const PONG: u8 = 10;

/// The mask is the same for every frame: servers unmask all the same, and the
/// tool stays cheap.
const MASK: [u8; 4] = [0x3a, 0x91, 0x5c, 0xe7];

/// The upgrade request for a subprotocol.
pub fn upgrade_request(host: &str, subprotocol: &str) -> Vec<u8> {
    format!(
        "GET /connection/websocket HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dHJpbmUtYmVuY2gtbG9hZA==\r\n\
         Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    )
    .into_bytes()
}

/// Appends one masked frame.
pub fn write_masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    let start = out.len();
    out.extend_from_slice(payload);
    mask(&mut out[start..], MASK);
}

/// One frame from a server.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub opcode: u8,
    /// What it holds.
    pub payload: &'a [u8],
}

/// A frame a server must not send, or one that this reader does not know:
/// masked, fragmented, with reserved bits.
#[derive(Debug, PartialEq, Eq)]
pub struct BadFrame;

/// Takes the first frame off `bytes`. `Ok(None)`: it is not whole yet.
pub fn read<'a>(bytes: &mut &'a [u8]) -> Result<Option<Frame<'a>>, BadFrame> {
    let &[first, second, ..] = *bytes else { return Ok(None) };
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        return Err(BadFrame);
    }
    let rest = &bytes[2..];
    let (header_bytes, length): (usize, usize) = match second {
        126 => match rest.first_chunk::<2>() {
            Some(n) => (4, usize::from(u16::from_be_bytes(*n))),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(n) => (10, u64::from_be_bytes(*n) as usize),
            None => return Ok(None),
        },
        n => (2, usize::from(n)),
    };
    let whole = header_bytes.checked_add(length).ok_or(BadFrame)?;
    if bytes.len() < whole {
        return Ok(None);
    }
    let payload = &bytes[header_bytes..whole];
    *bytes = &bytes[whole..];
    Ok(Some(Frame { opcode: first & 15, payload }))
}

/// Masks or unmasks in place (RFC 6455, section 5.3).
pub fn mask(payload: &mut [u8], key: [u8; 4]) {
    let wide = u64::from(u32::from_ne_bytes(key)) * 0x1_0000_0001;
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (index, byte) in rest.iter_mut().enumerate() {
        *byte ^= key[index & 3];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_by_the_specification_and_back() {
        let text = b"masking is its own inverse";
        let mut out = Vec::new();
        write_masked(&mut out, TEXT, text);
        assert_eq!(out[..6], [0x81, 0x80 | 26, MASK[0], MASK[1], MASK[2], MASK[3]]);
        let plain: Vec<u8> = out[6..].iter().enumerate().map(|(i, b)| b ^ MASK[i & 3]).collect();
        assert_eq!(plain, text);
    }

    #[test]
    fn reads_frames_however_they_are_cut() {
        let mut wire = vec![0x81, 3, b'a', b'b', b'c', 0x82, 126, 0, 200];
        wire.extend_from_slice(&[7; 200]);
        for cut in 0..wire.len() {
            let mut part = &wire[..cut];
            let mut seen = 0;
            while let Some(frame) = read(&mut part).expect("good frames") {
                seen += frame.payload.len();
            }
            assert_eq!(seen, if cut < 5 { 0 } else { 3 });
        }
        assert_eq!(read(&mut &[0x81u8, 0x81, 0, 0, 0, 0, 0][..]), Err(BadFrame));
    }
}
