//! The official client libraries against the built program, in both formats.
//!
//! **Runs on: any.** What each does is in `tests/sdk/`; a verdict that isn't ok fails with its steps.

use trine_tests::gateway::Gateway;
use trine_tests::script;

fn check(mut command: std::process::Command, format: &str) {
    let gateway = Gateway::embedded();
    command.arg(format!("ws://{}/connection/websocket", gateway.client)).arg(format);
    let verdict = script::verdict(command);
    let steps = verdict["steps"].as_array().map_or(0, Vec::len);
    assert!(steps >= 20, "only {steps} steps were taken");
}

#[test]
fn javascript_json() {
    check(script::node("sdk/js/client.cjs"), "json");
}

#[test]
fn javascript_protobuf() {
    check(script::node("sdk/js/client.cjs"), "protobuf");
}

#[test]
fn python_json() {
    check(script::python("sdk/python/client.py"), "json");
}

#[test]
fn python_protobuf() {
    check(script::python("sdk/python/client.py"), "protobuf");
}
