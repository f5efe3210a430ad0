//! Messages with file descriptors over a UNIX stream socket (`SCM_RIGHTS`).
//!
//! **Runs on: control** and the data process's link thread; both may block up to the socket's own
//! timeouts.
//!
//! A message is a head (payload length, number of descriptors, as little-endian `u32`), one byte
//! with up to 253 descriptors for each full or part chunk, then the payload. The kernel
//! never merges two pieces that carry descriptors, so the receiver, asking for one byte at a
//! time, gets every chunk whole.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::limits::{LINK_CHUNK_FDS as CHUNK, LINK_FDS, LINK_PAYLOAD_BYTES};

/// Sends one message. The descriptors are duplicated into the receiver; the caller keeps its own.
///
/// # Errors
/// What the socket says; `InvalidInput` beyond the limits.
pub fn send(mut socket: &UnixStream, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if payload.len() > LINK_PAYLOAD_BYTES || fds.len() > LINK_FDS {
        return Err(io::Error::new(ErrorKind::InvalidInput, "message beyond the link's limits"));
    }
    let mut head = [0; 8];
    head[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&(fds.len() as u32).to_le_bytes());
    socket.write_all(&head)?;
    for chunk in fds.chunks(CHUNK) {
        send_chunk(socket, chunk)?;
    }
    socket.write_all(payload)
}

/// Receives one message; `None` when the other end closed before the first byte of one.
///
/// # Errors
/// What the socket says; `InvalidData` beyond the limits or when descriptors were lost, which
/// happens when this process has no room for more of them.
pub fn receive(mut socket: &UnixStream) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut head = [0; 8];
    if rustix::io::retry_on_intr(|| rustix::io::read(socket, &mut head[..1]))? == 0 {
        return Ok(None);
    }
    socket.read_exact(&mut head[1..])?;
    let [a, b, c, d, e, f, g, h] = head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let count = u32::from_le_bytes([e, f, g, h]) as usize;
    if length > LINK_PAYLOAD_BYTES || count > LINK_FDS {
        return Err(io::Error::new(ErrorKind::InvalidData, "message beyond the link's limits"));
    }
    let mut fds = Vec::with_capacity(count);
    while fds.len() < count {
        let expected = (count - fds.len()).min(CHUNK);
        receive_chunk(socket, expected, &mut fds)?;
    }
    let mut payload = Vec::new();
    socket.take(length as u64).read_to_end(&mut payload)?;
    if payload.len() < length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((payload, fds)))
}

fn send_chunk(socket: &UnixStream, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    assert!(!fds.is_empty() && fds.len() <= CHUNK);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHUNK))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)), "the space fits a whole chunk");
    let byte = [IoSlice::new(&[0])];
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &byte, &mut ancillary, SendFlags::NOSIGNAL)
    })?;
    if sent == 1 { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
}

fn receive_chunk(socket: &UnixStream, expected: usize, fds: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHUNK))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = rustix::io::retry_on_intr(|| {
        let mut into = [IoSliceMut::new(&mut byte)];
        rustix::net::recvmsg(socket, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let before = fds.len();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if received.bytes == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || fds.len() - before != expected {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("got {} of {expected} descriptors", fds.len() - before),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::time::Duration;

    fn pair() -> (UnixStream, UnixStream) {
        let (a, b) = UnixStream::pair().unwrap();
        for end in [&a, &b] {
            end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            end.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        (a, b)
    }

    /// Sends `count` descriptors of distinct files and checks which ones arrive, in order.
    fn pass(count: usize, payload: &[u8]) {
        let files: Vec<OwnedFd> = (0..count)
            .map(|i| {
                let flags = rustix::fs::MemfdFlags::CLOEXEC;
                let file = rustix::fs::memfd_create("passed", flags).unwrap();
                rustix::fs::ftruncate(&file, i as u64).unwrap();
                file
            })
            .collect();
        let (near, far) = pair();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
                send(&near, payload, &borrowed).unwrap();
                send(&near, b"next", &[]).unwrap();
                near.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let (got, fds) = receive(&far).unwrap().unwrap();
            assert_eq!(got, payload);
            assert_eq!(fds.len(), count);
            for (i, fd) in fds.iter().enumerate() {
                assert_eq!(rustix::fs::fstat(fd).unwrap().st_size, i as i64);
                let flags = rustix::io::fcntl_getfd(fd).unwrap();
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            }
            let (got, fds) = receive(&far).unwrap().unwrap();
            assert_eq!((got.as_slice(), fds.len()), (b"next".as_slice(), 0));
            assert!(receive(&far).unwrap().is_none());
        });
    }

    #[test]
    fn any_number_of_descriptors_arrives_in_order() {
        for count in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 700] {
            pass(count, b"{}");
        }
        pass(3, &vec![7; 1 << 20]);
        pass(0, b"");
    }

    #[test]
    fn a_message_cut_short_is_an_error() {
        let (near, far) = pair();
        (&near).write_all(&[9, 0, 0, 0, 1, 0, 0, 0, 0]).unwrap();
        assert_eq!(receive(&far).unwrap_err().kind(), ErrorKind::InvalidData, "no descriptor");

        let (near, far) = pair();
        (&near).write_all(&[9, 0, 0, 0, 0, 0, 0, 0, b'x']).unwrap();
        drop(near);
        assert_eq!(receive(&far).unwrap_err().kind(), ErrorKind::UnexpectedEof);

        let (near, far) = pair();
        (&near).write_all(&[0xff; 8]).unwrap();
        assert_eq!(receive(&far).unwrap_err().kind(), ErrorKind::InvalidData, "beyond the limits");
    }
}
