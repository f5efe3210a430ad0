//! Makes the topics that the configuration names and the cluster lacks.
//!
//! **Runs on: control**, on a task of its own; tries until the cluster has them all.

use rskafka::BackoffConfig;
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::{ClientBuilder, Credentials, SaslConfig};

use crate::config::{Config, Kafka, Sasl};
use crate::ingest::Routes;
use crate::limits::{CREATE_TOPIC_MS, CREATE_TOPICS_PAUSE};

/// The brokers' own defaults (KIP-464).
const DEFAULT: i32 = -1;

/// Makes what is missing, however long the cluster is away.
pub(super) async fn create(config: Config) {
    let routes = Routes::new(&config);
    let mut missing: Vec<&str> = routes.log_topics().iter().map(|topic| &**topic).collect();
    while !missing.is_empty() {
        match create_all(&config.kafka, &mut missing).await {
            Ok(()) => tracing::info!("Kafka has all topics"),
            Err(error) => {
                tracing::warn!(?missing, %error, "topics are not made yet");
                tokio::time::sleep(CREATE_TOPICS_PAUSE).await;
            }
        }
    }
}

async fn create_all(kafka: &Kafka, missing: &mut Vec<&str>) -> Result<(), Error> {
    let mut builder = ClientBuilder::new(kafka.brokers.clone()).client_id("trine-control");
    // Tried again by the caller, so that what fails is logged.
    let deadline = Some(CREATE_TOPICS_PAUSE);
    builder = builder.backoff_config(BackoffConfig { deadline, ..BackoffConfig::default() });
    if let Some(sasl) = credentials(kafka) {
        builder = builder.sasl_config(sasl);
    }
    let client = builder.build().await?;
    let there = client.list_topics().await?;
    missing.retain(|topic| !there.iter().any(|known| known.name == *topic));
    let controller = client.controller_client()?;
    while let Some(topic) = missing.last() {
        let made = controller.create_topic(*topic, DEFAULT, DEFAULT as i16, CREATE_TOPIC_MS).await;
        match made {
            Ok(()) => tracing::info!(topic, "topic made"),
            // Another gateway was faster.
            Err(Error::ServerError {
                protocol_error: ProtocolError::TopicAlreadyExists, ..
            }) => {}
            Err(error) => return Err(error),
        }
        missing.pop();
    }
    Ok(())
}

fn credentials(kafka: &Kafka) -> Option<SaslConfig> {
    let credentials = || Credentials::new(kafka.user.clone(), kafka.password.clone());
    Some(match kafka.sasl {
        Sasl::None => return None,
        Sasl::Plain => SaslConfig::Plain(credentials()),
        Sasl::ScramSha256 => SaslConfig::ScramSha256(credentials()),
        Sasl::ScramSha512 => SaslConfig::ScramSha512(credentials()),
    })
}
