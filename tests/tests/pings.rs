//! Both kinds of pings, as a client that knows them and one that does not sees them.
//!
//! **Runs on: any.** Who answers has nearly until the next ping.

use std::net::TcpStream;

use serde_json::{Value, json};
use trine_tests::gateway::Gateway;
use trine_tests::wait::DEADLINE;
use tungstenite::{Message, WebSocket};

const PATIENT: &str = "client.ping_interval_ms = 2000\nclient.pong_timeout_ms = 1900";
const EACH_SECOND: &str = "client.ping_interval_ms = 1000\nclient.pong_timeout_ms = 500";

/// A generic tool, which answers WebSocket pings by itself and none of the client protocol's.
#[test]
fn frame_pings_keep_a_tool_that_answers_them() {
    let gateway = Gateway::start(PATIENT);
    let (mut socket, connect) = open(&gateway, "?cf_ws_frame_ping_pong=true");
    assert_eq!((&connect["ping"], &connect["pong"]), (&Value::Null, &Value::Null));
    for _ in 0..3 {
        let message = socket.read().expect("a pong a ping keeps the connection");
        assert!(matches!(message, Message::Ping(_)), "{message:?}");
    }
}

/// Without the query the pings are messages, and the same tool is closed for want of a pong.
#[test]
fn messages_are_the_pings_otherwise() {
    let gateway = Gateway::start(EACH_SECOND);
    let (mut socket, connect) = open(&gateway, "");
    assert_eq!((&connect["ping"], &connect["pong"]), (&json!(1), &json!(true)));
    assert_eq!(socket.read().expect("a ping"), Message::text("{}"));
    match socket.read().expect("a close frame") {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 3012),
        other => panic!("{other:?} instead of a close frame"),
    }
}

/// Connects with this query; the socket and what the reply to `connect` says.
fn open(gateway: &Gateway, query: &str) -> (WebSocket<TcpStream>, Value) {
    let stream = TcpStream::connect_timeout(&gateway.client, DEADLINE).expect("connected");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline can be set");
    let url = format!("ws://{}/connection/websocket{query}", gateway.client);
    let (mut socket, _) = tungstenite::client(url, stream).expect("upgraded");
    socket.send(Message::text(r#"{"id":1,"connect":{}}"#)).expect("sent");
    let reply = socket.read().expect("a reply").into_text().expect("text");
    let mut reply: Value = serde_json::from_str(&reply).expect("JSON");
    (socket, reply["connect"].take())
}
