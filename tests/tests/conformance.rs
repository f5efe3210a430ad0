//! Autobahn's WebSocket cases against the echo listener.
//!
//! **Runs on: any.** Cases 9 and 10 are about size and time, not about the driver: they are left
//! out when `TRINE_DRIVER` asks for epoll.

use std::process::Command;

use trine_tests::gateway::Gateway;
use trine_tests::script;

#[test]
fn autobahn() {
    let gateway = Gateway::start("");
    let epoll = std::env::var("TRINE_DRIVER").is_ok_and(|driver| driver == "epoll");
    let (agent, last) = if epoll { ("trine-epoll", 7) } else { ("trine", 10) };
    let cases = (1..=last).filter(|case| *case != 8).map(|case| format!("{case}.*"));
    let mut command = Command::new("python3");
    command.arg(script::tests_folder().join("conformance/autobahn.py"));
    command.args(["--url", &format!("ws://{}/echo", gateway.echo), "--agent", agent]);
    command.args(cases);
    println!("{:#}", script::verdict(command));
}
