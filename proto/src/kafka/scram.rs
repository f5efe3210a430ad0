//! The client's side of SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802, RFC 7677), without channel binding.
//!
//! **Runs on: any.** The nonce comes from the caller, which has the randomness. The password is taken
//! as it is in UTF-8, as Kafka does. Deriving the key takes thousands of hashes: a broker that asks
//! for very many is refused, so that it can't hold up a shard.

use crate::limits::KAFKA_SCRAM_ITERATIONS;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::digest::{FixedOutput, KeyInit, Update};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256, Sha512};
use std::fmt;

/// The fewest iterations of the key's derivation, as in RFC 7677 §4 and Kafka.
const FEWEST_ITERATIONS: u32 = 4096;

/// The GS2 header "no channel binding" and its form in base64.
const GS2_HEADER: &str = "n,,";
const GS2_HEADER_BASE64: &str = "biws";

/// Which hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// SCRAM-SHA-256.
    Sha256,
    /// SCRAM-SHA-512.
    Sha512,
}

impl Mechanism {
    /// The name for SaslHandshake.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Sha256 => "SCRAM-SHA-256",
            Mechanism::Sha512 => "SCRAM-SHA-512",
        }
    }
}

/// Why an exchange fails. The connection ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The server's message breaks RFC 5802.
    Malformed,
    /// The server's nonce does not begin with ours, or adds nothing to it.
    Nonce,
    /// Fewer iterations than 4,096, or more than our limit.
    Iterations,
    /// The server refused the credentials.
    Refused,
    /// The server does not know the password either: it is not who it should be.
    ServerSignature,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::Malformed => "malformed SCRAM message",
            Error::Nonce => "SCRAM nonce of another exchange",
            Error::Iterations => "SCRAM iterations out of bounds",
            Error::Refused => "SCRAM credentials refused",
            Error::ServerSignature => "SCRAM signature of the server does not match",
        })
    }
}

impl std::error::Error for Error {}

/// An exchange whose first message is to be sent.
#[derive(Clone)]
pub struct Client {
    mechanism: Mechanism,
    nonce: String,
    first_bare: String,
}

/// An exchange that waits for the server's last message.
#[derive(Clone)]
pub struct Verifier {
    server_signature: Vec<u8>,
}

impl Client {
    /// A new exchange. `nonce` is at least 18 random bytes in printable ASCII without commas, new each
    /// time.
    pub fn new(mechanism: Mechanism, user: &str, nonce: &str) -> Client {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        Client { mechanism, nonce: nonce.to_owned(), first_bare: format!("n={user},r={nonce}") }
    }

    /// The client's first message.
    pub fn first(&self) -> String {
        format!("{GS2_HEADER}{}", self.first_bare)
    }

    /// The client's last message, given the server's first one, and what checks the server's last
    /// one.
    pub fn last(&self, server_first: &[u8], password: &str) -> Result<(String, Verifier), Error> {
        let server_first = std::str::from_utf8(server_first).map_err(|_| Error::Malformed)?;
        let mut fields = server_first.split(',');
        let mut field = |name: &str| {
            fields.next().and_then(|field| field.strip_prefix(name)).ok_or(Error::Malformed)
        };
        // An extension that must be understood would come first, as `m=`: it is malformed here.
        let nonce = field("r=")?;
        let salt = STANDARD.decode(field("s=")?).map_err(|_| Error::Malformed)?;
        let iterations: u32 = field("i=")?.parse().map_err(|_| Error::Malformed)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(Error::Nonce);
        }
        if !(FEWEST_ITERATIONS..=KAFKA_SCRAM_ITERATIONS).contains(&iterations) {
            return Err(Error::Iterations);
        }
        let without_proof = format!("c={GS2_HEADER_BASE64},r={nonce}");
        let message = format!("{},{server_first},{without_proof}", self.first_bare);
        let prove = match self.mechanism {
            Mechanism::Sha256 => prove::<Hmac<Sha256>, Sha256>,
            Mechanism::Sha512 => prove::<Hmac<Sha512>, Sha512>,
        };
        let (proof, server_signature) =
            prove(password.as_bytes(), &salt, iterations, message.as_bytes())?;
        let last = format!("{without_proof},p={}", STANDARD.encode(proof));
        Ok((last, Verifier { server_signature }))
    }
}

impl Verifier {
    /// Checks the server's last message.
    pub fn check(&self, server_last: &[u8]) -> Result<(), Error> {
        let server_last = std::str::from_utf8(server_last).map_err(|_| Error::Malformed)?;
        let field = server_last.split(',').next().unwrap_or_default();
        if field.starts_with("e=") {
            return Err(Error::Refused);
        }
        let signature = field.strip_prefix("v=").ok_or(Error::Malformed)?;
        let signature = STANDARD.decode(signature).map_err(|_| Error::Malformed)?;
        // Every byte is looked at, so that the time tells nothing.
        let differs =
            signature.iter().zip(&self.server_signature).fold(0, |all, (a, b)| all | a ^ b);
        match signature.len() == self.server_signature.len() && differs == 0 {
            true => Ok(()),
            false => Err(Error::ServerSignature),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

/// The client's proof and the server's signature (RFC 5802 §3).
fn prove<M, H>(
    password: &[u8],
    salt: &[u8],
    iterations: u32,
    message: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), Error>
where
    M: Mac + KeyInit + Update + FixedOutput + Clone + Sync,
    H: Digest,
{
    let mac = |key: &[u8], message: &[u8]| -> Result<Vec<u8>, Error> {
        // An HMAC takes a key of any length.
        let mut mac = <M as KeyInit>::new_from_slice(key).map_err(|_| Error::Malformed)?;
        Mac::update(&mut mac, message);
        Ok(mac.finalize().into_bytes().to_vec())
    };
    let mut salted = vec![0; <H as Digest>::output_size()];
    pbkdf2::pbkdf2::<M>(password, salt, iterations, &mut salted).map_err(|_| Error::Malformed)?;
    let client_key = mac(&salted, b"Client Key")?;
    let signature = mac(&H::digest(&client_key), message)?;
    let proof = client_key.iter().zip(&signature).map(|(key, signature)| key ^ signature).collect();
    let server_signature = mac(&mac(&salted, b"Server Key")?, message)?;
    Ok((proof, server_signature))
}
