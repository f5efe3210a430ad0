//! The facade on real sockets, on both drivers.
//!
//! **Runs on: any** (each test is its own shard).

use super::*;
use crate::buf::Outgoing;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::thread;

const BOTH: [Preference; 2] = [Preference::IoUring, Preference::Epoll];

fn listener() -> (std::os::fd::OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address)
}

/// An echo shard that ends after `connections` have come and gone.
fn echo(preference: Preference, socket: std::os::fd::OwnedFd, connections: usize) {
    type Waiting = Rc<RefCell<Vec<(Stream, Vec<Bytes>, bool)>>>;
    let table: Waiting = Rc::default();
    let open = Rc::new(Cell::new(connections));
    let flush = table.clone();
    let start = move |driver: &Driver| {
        let epoll = matches!(driver, Driver::Epoll { .. });
        assert_eq!(epoll, preference == Preference::Epoll, "{driver}");
        spawn(async move {
            let listener = Listener::from_fd(socket).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let id = table.borrow().len();
                table.borrow_mut().push((stream.clone(), Vec::new(), false));
                let (table, open) = (table.clone(), open.clone());
                spawn(async move {
                    while let Ok(Some(chunk)) = stream.recv().await {
                        table.borrow_mut()[id].1.push(Bytes::copy_from_slice(&chunk));
                        request_turn();
                    }
                    open.set(open.get() - 1);
                    if open.get() == 0 {
                        stop();
                    }
                });
            }
        });
    };
    run(preference, start, move |turn| {
        let mut table = flush.borrow_mut();
        while let Some(sent) = turn.next_sent() {
            table[sent.token as usize].2 = false;
        }
        for (id, (stream, pieces, sending)) in table.iter_mut().enumerate() {
            if !*sending && !pieces.is_empty() {
                *sending = true;
                stream.send(id as u32, Outgoing::Gathered(std::mem::take(pieces)));
            }
        }
    })
    .unwrap();
}

#[test]
fn echoes_many_connections_and_large_bodies() {
    for preference in BOTH {
        let (socket, address) = listener();
        let shard = thread::spawn(move || echo(preference, socket, 20));
        let clients: Vec<_> = (0..20u8)
            .map(|number| {
                thread::spawn(move || {
                    let mut writer = TcpStream::connect(address).unwrap();
                    let mut reader = writer.try_clone().unwrap();
                    let body: Vec<u8> =
                        (0..2_000_000u32).map(|at| (at as u8).wrapping_mul(number)).collect();
                    let copy = body.clone();
                    let feed = thread::spawn(move || writer.write_all(&copy).unwrap());
                    let mut back = vec![0; body.len()];
                    reader.read_exact(&mut back).unwrap();
                    feed.join().unwrap();
                    assert!(back == body);
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        shard.join().unwrap();
    }
}

#[test]
fn every_form_of_output_arrives_whole_when_the_reader_is_slow() {
    for preference in BOTH {
        let (socket, address) = listener();
        let reader = thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all
        });
        let large: Vec<Bytes> =
            (0..500u32).map(|n| Bytes::from(vec![n as u8; 10_000 + n as usize])).collect();
        let expected: Vec<u8> = [&b"one"[..], b"flat"]
            .concat()
            .into_iter()
            .chain(large.iter().flat_map(|piece| piece.to_vec()))
            .collect();
        let outputs = RefCell::new(vec![
            Outgoing::Gathered(large),
            Outgoing::Flat(b"flat".to_vec()),
            Outgoing::Shared(Bytes::from_static(b"one")),
        ]);
        let stream: Rc<RefCell<Option<Stream>>> = Rc::default();
        let accepted = stream.clone();
        let busy = Cell::new(false);
        run(
            preference,
            move |_| {
                spawn(async move {
                    let listener = Listener::from_fd(socket).unwrap();
                    *accepted.borrow_mut() = Some(listener.accept().await.unwrap().0);
                    request_turn();
                });
            },
            |turn| {
                while let Some(sent) = turn.next_sent() {
                    sent.result.unwrap();
                    busy.set(false);
                }
                let stream = stream.borrow();
                let Some(stream) = &*stream else { return };
                if busy.get() {
                    return;
                }
                match outputs.borrow_mut().pop() {
                    Some(outgoing) => {
                        busy.set(true);
                        stream.send(7, outgoing);
                    }
                    None => {
                        stream.shutdown();
                        stop();
                    }
                }
            },
        )
        .unwrap();
        drop(stream);
        assert!(reader.join().unwrap() == expected);
    }
}

#[test]
fn an_aborted_connection_ends_its_receive_and_its_blocked_send() {
    for preference in BOTH {
        let (socket, address) = listener();
        let _silent = TcpStream::connect(address).unwrap();
        let received_end = Rc::new(Cell::new(false));
        let (ended, stream): (_, Rc<RefCell<Option<Stream>>>) =
            (received_end.clone(), Rc::default());
        let accepted = stream.clone();
        let (started, failed) = (Cell::new(false), Cell::new(false));
        run(
            preference,
            move |_| {
                spawn(async move {
                    let listener = Listener::from_fd(socket).unwrap();
                    let (connection, _) = listener.accept().await.unwrap();
                    *accepted.borrow_mut() = Some(connection.clone());
                    request_turn();
                    spawn(async move {
                        sleep_until(now_ms() + 100).await;
                        connection.abort();
                    });
                    let connection = accepted.borrow().clone().unwrap();
                    assert!(!matches!(connection.recv().await, Ok(Some(_))));
                    ended.set(true);
                    request_turn();
                });
            },
            |turn| {
                while let Some(sent) = turn.next_sent() {
                    assert_eq!(sent.token, 3);
                    assert!(sent.result.is_err());
                    failed.set(true);
                }
                if let Some(stream) = &*stream.borrow()
                    && !started.replace(true)
                {
                    stream.send(3, Outgoing::Shared(Bytes::from(vec![0; 64 << 20])));
                }
                if failed.get() && received_end.get() {
                    stop();
                }
            },
        )
        .unwrap();
    }
}

#[test]
fn another_thread_wakes_the_shard() {
    for preference in BOTH {
        let handle = WakeHandle::new().unwrap();
        let waker = handle.clone();
        let other = thread::spawn(move || {
            for _ in 0..50 {
                waker.wake();
                thread::yield_now();
            }
        });
        run(
            preference,
            move |_| {
                spawn(async move {
                    let wakeup = Wakeup::new(&handle).unwrap();
                    wakeup.wait().await.unwrap();
                    stop();
                });
            },
            |_| {},
        )
        .unwrap();
        other.join().unwrap();
    }
}

#[test]
fn the_clock_stands_still_in_a_turn_and_sleeps_are_not_early() {
    for preference in BOTH {
        run(
            preference,
            |_| {
                spawn(async {
                    let before = now_ns();
                    assert_eq!(before, now_ns());
                    let deadline_ms = now_ms() + 30;
                    sleep_until(deadline_ms).await;
                    assert!(now_ns() > before);
                    assert!(now_ms() >= deadline_ms);
                    stop();
                });
            },
            |_| {},
        )
        .unwrap();
    }
}

#[test]
fn a_fresh_connection_can_be_handed_over_and_a_used_one_not() {
    for preference in BOTH {
        let (socket, address) = listener();
        let _client = TcpStream::connect(address).unwrap();
        run(
            preference,
            move |_| {
                spawn(async move {
                    let listener = Listener::from_fd(socket).unwrap();
                    let (stream, peer) = listener.accept().await.unwrap();
                    assert_eq!(stream.peer_address().unwrap(), peer);
                    let fd = stream.into_fd().ok().expect("no operation holds it");
                    let stream = Stream::from_fd(fd).unwrap();
                    let second = stream.clone();
                    let Err(stream) = stream.into_fd() else { panic!("two handles") };
                    drop(second);
                    assert_eq!(stream.peer_address().unwrap(), peer);
                    stop();
                });
            },
            |_| {},
        )
        .unwrap();
    }
}

/// Runs `task` as the only one of a shard and stops when it has ended.
fn alone(preference: Preference, task: impl Future<Output = ()> + 'static) {
    let ended = Rc::new(Cell::new(false));
    let end = ended.clone();
    let start = move |_: &Driver| {
        spawn(async move {
            task.await;
            end.set(true);
            stop();
        });
    };
    run(preference, start, |_| {}).unwrap();
    assert!(ended.get());
}

#[test]
fn a_task_writes_every_form_of_output_and_is_told_when_it_is_sent() {
    for preference in BOTH {
        let (socket, address) = listener();
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            TcpListener::from(socket).accept().unwrap().0.read_to_end(&mut all).unwrap();
            all
        });
        let large: Vec<Bytes> =
            (0..500u32).map(|n| Bytes::from(vec![n as u8; 10_000 + n as usize])).collect();
        let mut expected: Vec<u8> = large.iter().flat_map(|piece| piece.to_vec()).collect();
        expected.extend_from_slice(&b"flatone".repeat(100));
        alone(preference, async move {
            let stream = connect(address, now_ms() + 10_000).await.unwrap();
            stream.write(Outgoing::Gathered(large)).await.unwrap();
            for _ in 0..100 {
                stream.write(Outgoing::Flat(b"flat".to_vec())).await.unwrap();
                stream.write(Outgoing::Shared(Bytes::new())).await.unwrap();
                stream.write(Outgoing::Shared(Bytes::from_static(b"one"))).await.unwrap();
            }
            stream.shutdown();
        });
        assert!(reader.join().unwrap() == expected);
    }
}

#[test]
fn a_write_goes_on_when_nobody_waits_for_it() {
    const BYTES: usize = 32 << 20;
    // One that was connected here, and those that another driver has accepted.
    for (preference, gathered, nonblocking) in BOTH.into_iter().flat_map(|preference| {
        [(false, None), (true, None), (false, Some(false)), (true, Some(true)), (false, Some(true))]
            .map(|(gathered, nonblocking)| (preference, gathered, nonblocking))
    }) {
        let (socket, address) = listener();
        let (go, may_read) = std::sync::mpsc::channel();
        let reader = thread::spawn(move || {
            let (mut stream, _) = TcpListener::from(socket).accept().unwrap();
            may_read.recv().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all
        });
        alone(preference, async move {
            let stream = match nonblocking {
                None => connect(address, now_ms() + 10_000).await.unwrap(),
                Some(nonblocking) => {
                    let socket = TcpStream::connect(address).unwrap();
                    socket.set_nonblocking(nonblocking).unwrap();
                    Stream::from_fd(socket.into()).unwrap()
                }
            };
            let large = match gathered {
                true => Outgoing::Gathered(vec![vec![7; BYTES / 32].into(); 32]),
                false => Outgoing::Shared(vec![7; BYTES].into()),
            };
            assert!(until(now_ms() + 10, stream.write(large)).await.is_none());
            let small = || Outgoing::Shared(Bytes::from_static(b"end"));
            let busy = stream.write(small()).await.unwrap_err();
            assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
            let deadline_ms = now_ms() + 20_000;
            while stream.taken() == 0 {
                assert!(now_ms() < deadline_ms, "the kernel takes what it has room for");
                sleep_until(now_ms() + 1).await;
            }
            assert!((stream.taken() as usize) < BYTES);
            go.send(()).unwrap();
            let deadline_ms = now_ms() + 20_000;
            while let Err(error) = stream.write(small()).await {
                assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
                sleep_until(now_ms() + 1).await;
                assert!(now_ms() < deadline_ms, "the write never ended");
            }
            assert_eq!(stream.taken() as usize, BYTES + 3);
            // This one is never waited for at all.
            drop(stream.write(small()));
            while stream.write(Outgoing::Flat(Vec::new())).await.is_err() {
                sleep_until(now_ms() + 1).await;
                assert!(now_ms() < deadline_ms, "the write never ended");
            }
        });
        let all = reader.join().unwrap();
        assert_eq!(all.len(), BYTES + 6);
        assert!(all[..BYTES].iter().all(|&byte| byte == 7) && &all[BYTES..] == b"endend");
    }
}

#[test]
fn a_blocked_write_ends_with_its_connection() {
    for preference in BOTH {
        let (_socket, address) = listener();
        alone(preference, async move {
            let stream = connect(address, now_ms() + 10_000).await.unwrap();
            for outgoing in [
                Outgoing::Shared(vec![0; 64 << 20].into()),
                Outgoing::Gathered(vec![vec![0; 64].into(), vec![0; 64].into()]),
            ] {
                let write = stream.write(outgoing);
                stream.abort();
                assert!(until(now_ms() + 10_000, write).await.unwrap().is_err());
            }
        });
    }
}

#[test]
fn connects_are_refused_or_end_at_their_deadline() {
    for preference in BOTH {
        let (socket, refusing) = listener();
        drop(socket);
        // A listener whose queue is full leaves connects without an answer.
        let full =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let hanging = full.local_addr().unwrap().as_socket().unwrap();
        let _queued = TcpStream::connect(hanging).unwrap();
        alone(preference, async move {
            let _full = full;
            let error = connect(refusing, now_ms() + 10_000).await.err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            let deadline_ms = now_ms() + 50;
            let error = connect(hanging, deadline_ms).await.err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(now_ms() >= deadline_ms);
        });
    }
}

#[test]
fn a_receive_that_is_given_up_loses_nothing() {
    for preference in BOTH {
        let (socket, address) = listener();
        let writer = thread::spawn(move || {
            let (mut stream, _) = TcpListener::from(socket).accept().unwrap();
            for number in 0..40_000_u32 {
                stream.write_all(&number.to_le_bytes()).unwrap();
            }
        });
        alone(preference, async move {
            let stream = connect(address, now_ms() + 10_000).await.unwrap();
            let (mut all, deadline_ms) = (Vec::new(), now_ms() + 20_000);
            loop {
                assert!(now_ms() < deadline_ms);
                match until(now_ms() + 1, stream.recv()).await {
                    Some(Ok(Some(chunk))) => all.extend_from_slice(&chunk),
                    Some(end) => break assert!(end.unwrap().is_none()),
                    None => {}
                }
            }
            let numbers = all.chunks(4).map(|four| u32::from_le_bytes(four.try_into().unwrap()));
            assert!(numbers.eq(0..40_000));
        });
        writer.join().unwrap();
    }
}

#[test]
fn a_task_notifies_another() {
    for preference in BOTH {
        alone(preference, async {
            let (there, back) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
            let (waits, answers) = (there.clone(), back.clone());
            let rounds = Rc::new(Cell::new(0));
            let counted = rounds.clone();
            spawn(async move {
                for _ in 0..100 {
                    waits.wait().await;
                    counted.set(counted.get() + 1);
                    answers.notify();
                }
            });
            for round in 1..=100 {
                there.notify();
                back.wait().await;
                assert_eq!(rounds.get(), round);
            }
            back.notify();
            back.notify();
            back.wait().await;
            assert!(until(now_ms() + 5, back.wait()).await.is_none());
        });
    }
}

/// With epoll a receive does not wait while the peer is fast enough: others must get their turn.
#[test]
fn a_flood_on_one_stream_keeps_no_other_waiting() {
    for preference in BOTH {
        let (socket, address) = listener();
        let mut flood = TcpStream::connect(address).unwrap();
        flood.set_nonblocking(true).unwrap();
        while flood.write(&[0; 64 << 10]).is_ok() {}
        let mut quiet = TcpStream::connect(address).unwrap();
        quiet.write_all(b"!").unwrap();
        let before = Rc::new(Cell::new(None));
        let heard = before.clone();
        let start = move |_: &Driver| {
            spawn(async move {
                let listener = Listener::from_fd(socket).unwrap();
                let (flood, _) = listener.accept().await.unwrap();
                let (quiet, _) = listener.accept().await.unwrap();
                let chunks = Rc::new(Cell::new(0));
                let count = chunks.clone();
                spawn(async move {
                    assert!(matches!(quiet.recv().await, Ok(Some(_))));
                    heard.set(Some(count.get()));
                    stop();
                });
                while let Ok(Some(_)) = flood.recv().await {
                    chunks.set(chunks.get() + 1);
                }
            });
        };
        run(preference, start, |_| {}).unwrap();
        let before = before.get().unwrap();
        let most = 2 * usize::from(crate::limits::RECEIVES_IN_A_ROW);
        assert!(before <= most, "{preference:?}: a byte waited for {before} chunks of a flood");
    }
}

#[test]
fn nothing_is_received_after_an_abort_though_it_has_come() {
    for preference in BOTH {
        let (socket, address) = listener();
        let mut peer = TcpStream::connect(address).unwrap();
        peer.write_all(&[7; 32 << 10]).unwrap();
        let ended = Rc::new(Cell::new(false));
        let ends = ended.clone();
        let start = move |_: &Driver| {
            spawn(async move {
                let listener = Listener::from_fd(socket).unwrap();
                let (stream, _) = listener.accept().await.unwrap();
                let first = stream.recv().await.unwrap().expect("the first chunk");
                assert!(first.len() < 32 << 10, "more has come than one chunk holds");
                stream.abort();
                ends.set(matches!(stream.recv().await, Ok(None)));
                stop();
            });
        };
        run(preference, start, |_| {}).unwrap();
        assert!(ended.get(), "{preference:?}");
    }
}
