//! A small legacy HTTP/1.1 backend in the test's process: it keeps what it was asked, and answers by script:
//! at once, late, with errors, never; or it refuses connections.
//!
//! **Runs on: any.** A thread a connection, kept alive between requests. It ends when it goes out of scope.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::door::{Door, reset_on_close};
use crate::wait::DEADLINE;

/// The most bytes of a body that it takes.
const BODY_LIMIT_BYTES: usize = 64 << 20;

/// How long a thread is deaf to the end.
const TURN: Duration = Duration::from_millis(20);

/// A request that came.
#[derive(Clone, Debug)]
pub struct Request {
    /// The number of its connection, from 0.
    pub connection: usize,
    /// When it was whole.
    pub at: Instant,
    /// Its method.
    pub method: String,
    /// Its target.
    pub target: String,
    /// Its headers, names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of the first header of this name, given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// What it does with a request, once that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Answers with a status and a body.
    Status(u16, String),
    /// Does so after a time; other connections go on.
    Slow(Duration, u16),
    /// Never answers; the connection stays.
    Hang,
    /// Resets the connection.
    Cut,
    /// Sends so many bytes of an answer with 200 and then closes.
    Half(usize),
    /// Sends something that is no HTTP.
    Garbage,
}

/// What a test answers to some requests, whatever the script says.
type Exception = Box<dyn Fn(&Request) -> Option<Answer> + Send>;

struct State {
    usual: Answer,
    exception: Option<Exception>,
    script: VecDeque<Answer>,
    requests: Vec<Request>,
    connections: usize,
}

struct Shared {
    door: Door,
    state: Mutex<State>,
    changed: Condvar,
}

/// A backend on a loopback port of its own.
pub struct Backend {
    shared: Arc<Shared>,
}

impl Backend {
    /// One that answers everything with 200 and no body.
    pub fn start() -> Self {
        let usual = Answer::Status(200, String::new());
        let (script, requests) = (VecDeque::new(), Vec::new());
        let state = Mutex::new(State { usual, exception: None, script, requests, connections: 0 });
        let shared = Arc::new(Shared { door: Door::open(), state, changed: Condvar::new() });
        let of_thread = shared.clone();
        thread::spawn(move || {
            while let Some(stream) = of_thread.door.accept() {
                let shared = of_thread.clone();
                // How a connection ends is its peer's matter.
                thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Self { shared }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.shared.door.address()
    }

    /// Its URL with a path, which starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// What it does with every request for which the script has nothing.
    pub fn usually(&self, answer: Answer) {
        self.shared.state().usual = answer;
    }

    /// What it does with requests for which `exception` has an answer, before usual and script; a
    /// new exception replaces the one before.
    pub fn except(&self, exception: impl Fn(&Request) -> Option<Answer> + Send + 'static) {
        self.shared.state().exception = Some(Box::new(exception));
    }

    /// What it does with the next requests, in the order in which they come.
    pub fn next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.shared.state().script.extend(answers);
    }

    /// Refuses new connections; those there are stay.
    pub fn refuse(&self) {
        self.shared.door.shut();
    }

    /// Accepts connections again.
    pub fn accept(&self) {
        self.shared.door.reopen();
    }

    /// All requests so far, in the order in which they were whole.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }

    /// Waits until there were `count` requests, and gives all. Panics when they don't come in time.
    #[track_caller]
    pub fn await_requests(&self, count: usize) -> Vec<Request> {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.shared.state();
        while state.requests.len() < count {
            let came = state.requests.len();
            assert!(Instant::now() < deadline, "{came} of {count} requests came");
            let waited = self.shared.changed.wait_timeout(state, TURN);
            state = waited.expect("no thread panics with the state").0;
        }
        state.requests.clone()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.door.close();
        self.shared.door.shut();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the state")
    }

    /// Serves a connection until it ends.
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut state = self.state();
        let connection = state.connections;
        state.connections += 1;
        drop(state);
        stream.set_read_timeout(Some(TURN))?;
        let mut reader = BufReader::new(Patient { stream: &stream, door: &self.door });
        while let Some(request) = read_request(&mut reader, connection)? {
            let mut state = self.state();
            let exception = state.exception.as_ref().and_then(|except| except(&request));
            state.requests.push(request);
            let scripted = exception.or_else(|| state.script.pop_front());
            let answer = scripted.unwrap_or_else(|| state.usual.clone());
            drop(state);
            self.changed.notify_all();
            if !self.answer(&stream, answer)? {
                break;
            }
        }
        Ok(())
    }

    /// Whether the connection goes on.
    fn answer(&self, mut stream: &TcpStream, answer: Answer) -> io::Result<bool> {
        match answer {
            Answer::Status(status, body) => stream.write_all(&response(status, &body))?,
            Answer::Slow(time, status) => {
                self.sleep(time);
                stream.write_all(&response(status, ""))?;
            }
            Answer::Hang => self.sleep(Duration::MAX),
            Answer::Cut => {
                reset_on_close(stream);
                return Ok(false);
            }
            Answer::Half(bytes) => {
                let whole = response(200, &"x".repeat(bytes));
                stream.write_all(&whole[..bytes])?;
                return Ok(false);
            }
            Answer::Garbage => stream.write_all(b"\x16\x03\x01\x02\x00 no HTTP\r\n\r\n")?,
        }
        Ok(true)
    }

    /// Sleeps, but not beyond the end.
    fn sleep(&self, time: Duration) {
        let start = Instant::now();
        while !self.door.is_closed() && start.elapsed() < time {
            thread::sleep(time.saturating_sub(start.elapsed()).min(TURN));
        }
    }
}

fn response(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} Scripted\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// Reads with patience, but not beyond the end.
struct Patient<'a> {
    stream: &'a TcpStream,
    door: &'a Door,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && !self.door.is_closed() => {}
                outcome => return outcome,
            }
        }
    }
}

/// The next request; nothing when the connection ended between two.
fn read_request(reader: &mut impl BufRead, connection: usize) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(io::Error::other("no request line"));
    };
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let body = Vec::new();
    let at = Instant::now();
    let mut request = Request { connection, at, method, target, headers, body };
    if request.header("transfer-encoding").is_some() {
        request.body = read_chunks(reader)?;
    } else if let Some(length) = request.header("content-length") {
        let length = length.parse().map_err(io::Error::other)?;
        read_exactly(reader, length, &mut request.body)?;
    }
    request.at = Instant::now();
    Ok(Some(request))
}

fn read_chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        read_exactly(reader, length, &mut body)?;
        // The end of the chunk, or of the trailers, of which none are expected.
        reader.read_line(&mut String::new())?;
        if length == 0 {
            return Ok(body);
        }
    }
}

fn read_exactly(reader: &mut impl BufRead, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
    if body.len() + length > BODY_LIMIT_BYTES {
        return Err(io::Error::other("a body beyond the limit"));
    }
    let start = body.len();
    body.resize(start + length, 0);
    reader.read_exact(&mut body[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(backend: &Backend) -> TcpStream {
        let stream = TcpStream::connect(backend.address()).expect("it accepts");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is an option");
        stream
    }

    /// Posts `body` and gives the status line.
    fn post(mut stream: &TcpStream, body: &str) -> io::Result<String> {
        let length = body.len();
        write!(stream, "POST /x HTTP/1.1\r\nCE-Id: 7\r\nContent-Length: {length}\r\n\r\n{body}")?;
        let mut reader = BufReader::with_capacity(1, stream);
        let mut status = String::new();
        reader.read_line(&mut status)?;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line)?;
        }
        Ok(status.split(' ').nth(1).unwrap_or_default().to_owned())
    }

    #[test]
    fn it_keeps_requests_and_answers_by_script() {
        let backend = Backend::start();
        backend.next([Answer::Status(503, String::new()), Answer::Slow(TURN, 201)]);
        let mut stream = connect(&backend);
        for (number, wanted) in ["503", "201", "200"].iter().enumerate() {
            assert_eq!(post(&stream, &format!("body {number}")).expect("an answer"), *wanted);
        }
        stream
            .write_all(b"PUT /y HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
            .expect("still connected");
        let requests = backend.await_requests(4);
        let [first, .., last] = requests.as_slice() else { panic!("{requests:?}") };
        assert_eq!((first.method.as_str(), first.target.as_str()), ("POST", "/x"));
        assert_eq!((first.header("ce-id"), first.body.as_slice()), (Some("7"), &b"body 0"[..]));
        assert_eq!((last.method.as_str(), last.body.as_slice()), ("PUT", &b"abcde"[..]));
        assert_eq!(backend.connections(), 1);
    }

    #[test]
    fn it_cuts_hangs_and_refuses() {
        let backend = Backend::start();
        backend.next([Answer::Cut, Answer::Half(9), Answer::Hang]);
        assert!(post(&connect(&backend), "cut").is_err());
        let mut stream = connect(&backend);
        write!(stream, "GET / HTTP/1.1\r\n\r\n").expect("still connected");
        let mut half = String::new();
        stream.read_to_string(&mut half).expect("half an answer");
        assert_eq!(half, "HTTP/1.1 ");
        let mut hung = connect(&backend);
        write!(hung, "GET / HTTP/1.1\r\n\r\n").expect("still connected");
        backend.await_requests(3);
        hung.set_read_timeout(Some(TURN)).expect("an option");
        assert!(hung.read(&mut [0]).is_err(), "no answer, no end");
        assert_eq!(post(&connect(&backend), "others go on").expect("an answer"), "200");
        backend.refuse();
        assert!(TcpStream::connect(backend.address()).is_err());
        backend.accept();
        assert_eq!(post(&connect(&backend), "back").expect("an answer"), "200");
    }
}
