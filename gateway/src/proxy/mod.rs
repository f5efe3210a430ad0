//! Calls from clients to backends: the one place where an rpc finds who answers it.
//!
//! **Runs on: shard.** Today the built-in methods; backends over HTTP and gRPC join behind
//! [`call`].

use trine_proto::client::ErrorCode;

/// Answers an rpc: `echo` returns its payload, `time` the wall clock in milliseconds as
/// `{"time_ms": …}`.
///
/// Errors: 104 for an unknown method.
pub fn call(method: &str, data: &[u8], wall_ms: u64) -> Result<Vec<u8>, ErrorCode> {
    match method {
        "echo" => Ok(if data.is_empty() { b"null".to_vec() } else { data.to_vec() }),
        "time" => Ok(format!("{{\"time_ms\":{wall_ms}}}").into_bytes()),
        _ => Err(ErrorCode::MethodNotFound),
    }
}
