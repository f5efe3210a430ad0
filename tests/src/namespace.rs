//! A network namespace of a test's own, in which packets can be dropped as a firewall does.
//!
//! **Runs on: any.** The test runs itself again inside; all that it starts there shares the namespace,
//! which ends with its last process. It needs `unshare` and `ip`, and `nft` for drops, and a kernel and a user
//! that may: [`Namespace::run`] says what is missing.

use std::io::Write;
use std::process::{Command, Stdio};

/// Tells the test that it is inside.
const INSIDE: &str = "TRINE_TESTS_NAMESPACE";

/// The namespace that the test is in.
pub struct Namespace(());

impl Namespace {
    /// Runs `body` in a namespace of its own whose loopback is up. `test` is the calling test's full name, as
    /// the test runner takes it. Panics if the test fails inside; says why when there can be no namespace.
    #[track_caller]
    pub fn run(test: &str, body: impl FnOnce(&Self)) -> Result<(), String> {
        if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
            tool("ip", &["link", "set", "lo", "up"], "").expect("loopback comes up");
            body(&Self(()));
            return Ok(());
        }
        let unshare = Self::unshare()?;
        let program = std::env::current_exe().expect("a test knows its own path");
        let mut inside = Command::new("unshare");
        inside.args(unshare).arg(program).args([
            "--exact",
            test,
            "--nocapture",
            "--test-threads=1",
        ]);
        let output = inside.env(INSIDE, test).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("unshare: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        // Indented, so that the test is not counted twice by who reads along.
        said.lines().for_each(|line| println!("    {line}"));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{test} failed in its namespace");
        assert!(said.contains("1 passed"), "no test is called {test}");
        Ok(())
    }

    /// The options with which `unshare` may make a namespace in which there can be drops.
    fn unshare() -> Result<&'static [&'static str], String> {
        const PROBE: &str = "ip link set lo up && nft add table inet probe";
        let mut said = String::new();
        for options in [&["--net"][..], &["--net", "--user", "--map-root-user"]] {
            match tool("unshare", &[options, &["sh", "-c", PROBE]].concat(), "") {
                Ok(()) => return Ok(options),
                Err(error) => said = error,
            }
        }
        Err(said)
    }

    /// Drops all packets to and from a TCP port from now on; connections stay and hang.
    #[track_caller]
    pub fn drop_port(&self, port: u16) {
        let rules = format!(
            "table inet trine {{\nchain input {{\ntype filter hook input priority 0\n\
             tcp dport {port} drop\ntcp sport {port} drop\n}}\n}}\n"
        );
        tool("nft", &["-f", "-"], &rules).expect("a rule is added");
    }

    /// Lets all packets pass again.
    #[track_caller]
    pub fn pass(&self) {
        tool("nft", &["flush", "ruleset"], "").expect("rules are removed");
    }
}

fn tool(program: &str, arguments: &[&str], input: &str) -> Result<(), String> {
    let explain = |error| format!("{program}: {error}");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(explain)?;
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).map_err(explain)?;
    let output = child.wait_with_output().map_err(explain)?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn dropped_packets_hang_a_connection_that_then_goes_on() {
        let name = "namespace::tests::dropped_packets_hang_a_connection_that_then_goes_on";
        let outcome = Namespace::run(name, |namespace| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
            let address = listener.local_addr().expect("a listener has an address");
            let mut client = TcpStream::connect(address).expect("nothing is dropped yet");
            let (mut server, _) = listener.accept().expect("it is there");
            namespace.drop_port(address.port());
            client.write_all(b"lost").expect("the kernel keeps it");
            server.set_read_timeout(Some(Duration::from_millis(100))).expect("an option");
            let read = server.read(&mut [0; 4]).expect_err("nothing comes");
            assert!(matches!(read.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
            let limit = Duration::from_millis(100);
            let connect =
                TcpStream::connect_timeout(&address, limit).expect_err("nor a connection");
            assert_eq!(connect.kind(), ErrorKind::TimedOut);
            namespace.pass();
            server.set_read_timeout(Some(crate::wait::DEADLINE)).expect("an option");
            let mut read = [0; 4];
            server.read_exact(&mut read).expect("TCP sends it again");
            assert_eq!(&read, b"lost");
        });
        if let Err(missing) = outcome {
            // Past what keeps the output of a test that passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED: there can be no namespace: {missing}");
        }
    }
}
