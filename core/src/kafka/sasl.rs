//! SASL on a new connection: PLAIN and SCRAM.
//!
//! **Runs on: shard.** Deriving a SCRAM key takes some milliseconds of a shard's time, once for each
//! connection.

use super::connection::{Connection, Error, What};
use crate::limits::KAFKA_SASL_CHARACTERS;
use std::fmt;
use std::rc::Rc;
use trine_proto::kafka::scram::{self, Mechanism};
use trine_proto::kafka::{sasl_authenticate, sasl_handshake};

/// Credentials.
#[derive(Clone)]
pub struct Sasl {
    /// SCRAM's hash; `None`: PLAIN, which sends the password as it is.
    pub scram: Option<Mechanism>,
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sasl").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Authenticates a connection that is otherwise idle.
///
/// # Errors
/// The credentials or the mechanism were refused, the broker could not prove that it knows them, or
/// the connection has ended.
pub(super) async fn authenticate(
    connection: &Connection,
    sasl: &Sasl,
    nonce: &str,
) -> Result<(), Rc<Error>> {
    let mechanism = sasl.scram.map_or("PLAIN", Mechanism::name);
    let request = sasl_handshake::Request { mechanism };
    let (body, version) = connection.request(&request).await?;
    let response = connection.read(&request, &body, version)?;
    if !response.error.is_none() {
        let offered = response.mechanisms.join(", ");
        let why = format!("{mechanism} is refused ({}); it offers {offered}", response.error);
        return Err(connection.error(refusal(&why)));
    }
    let Some(hash) = sasl.scram else {
        let plain = sasl_authenticate::plain(&sasl.user, &sasl.password);
        return exchange(connection, &plain).await.map(drop);
    };
    let failed = |error: scram::Error| connection.error(What::Sasl(error.to_string()));
    let client = scram::Client::new(hash, &sasl.user, nonce);
    let server_first = exchange(connection, client.first().as_bytes()).await?;
    let (last, verifier) = client.last(&server_first, &sasl.password).map_err(failed)?;
    let server_last = exchange(connection, last.as_bytes()).await?;
    verifier.check(&server_last).map_err(failed)
}

async fn exchange(connection: &Connection, message: &[u8]) -> Result<Vec<u8>, Rc<Error>> {
    let request = sasl_authenticate::Request { message };
    let (body, version) = connection.request(&request).await?;
    let response = connection.read(&request, &body, version)?;
    if response.error.is_none() {
        return Ok(response.message.to_vec());
    }
    let why = match response.error_message {
        Some(message) => format!("{} ({message})", response.error),
        None => response.error.to_string(),
    };
    Err(connection.error(refusal(&why)))
}

/// The broker's words, which may be as long as a response.
fn refusal(why: &str) -> What {
    What::Sasl(why.chars().take(KAFKA_SASL_CHARACTERS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_beginning_of_what_a_broker_says_is_kept() {
        let said = |why: &str| match refusal(why) {
            What::Sasl(said) => said,
            other => panic!("{other:?}"),
        };
        assert_eq!(said("wrong password"), "wrong password");
        let long = "é".repeat(KAFKA_SASL_CHARACTERS);
        assert_eq!(said(&format!("{long}…")), long);
    }
}
