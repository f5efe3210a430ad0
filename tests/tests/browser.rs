//! The demo page in headless Chromium: people talk, one is cut off and recovers, one opens a ticket,
//! at two sizes; and when the gateway forgot, the page says so.
//!
//! **Runs on: any.** Screenshots are kept in `tests/.cache/screenshots`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;
use trine_tests::gateway::Gateway;
use trine_tests::script;

#[test]
fn two_pages_talk_recover_and_open_a_ticket() {
    let gateway = Gateway::embedded();
    let screenshots = script::cache_folder().join("screenshots");
    fs::create_dir_all(&screenshots).expect("the folder for screenshots is made");
    let mut command = script::node("browser/demo.cjs");
    command.arg(format!("http://{}/", gateway.client)).arg(screenshots);
    script::verdict(command);
}

#[test]
fn a_page_says_that_history_was_lost() {
    let mut gateway = Gateway::embedded();
    let mut command = script::node("browser/lost.cjs");
    command.arg(format!("http://{}/", gateway.client)).stdout(Stdio::piped());
    let mut page = command.spawn().expect("node starts");
    let mut lines = BufReader::new(page.stdout.take().expect("its output is ours")).lines();
    let first = lines.next().expect("it says when it is ready").expect("it writes UTF-8");
    assert_eq!(first, "ready");
    gateway.kill_data();
    let last = lines.map_while(Result::ok).last().expect("it tells a verdict");
    let verdict: Value = serde_json::from_str(&last).expect("a verdict is JSON");
    page.wait().expect("node is our child");
    assert_eq!(verdict["ok"], true, "{verdict:#}");
}
