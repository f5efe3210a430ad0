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
    let mut missing: Vec<String> = routes.log_topics().iter().map(ToString::to_string).collect();
    while !missing.is_empty() {
        match create_all(&config.kafka, &mut missing).await {
            Ok(()) => tracing::info!("Kafka has all topics"),
            Err(error) => {
                let topics = missing.join(", ");
                tracing::warn!(topics, %error, "topics are not made yet");
                tokio::time::sleep(CREATE_TOPICS_PAUSE).await;
            }
        }
    }
}

async fn create_all(kafka: &Kafka, missing: &mut Vec<String>) -> Result<(), Error> {
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
    let controller = &client.controller_client()?;
    make_each(missing, |topic| async move {
        let made = controller.create_topic(&topic, DEFAULT, DEFAULT as i16, CREATE_TOPIC_MS).await;
        match made {
            Ok(()) => tracing::info!(topic, "topic made"),
            // Another gateway was faster.
            Err(Error::ServerError {
                protocol_error: ProtocolError::TopicAlreadyExists, ..
            }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    })
    .await
}

/// Makes each topic, whatever became of the others. Those that can't be made stay in `missing`; the
/// error is the last one's.
async fn make_each<E, Made: Future<Output = Result<(), E>>>(
    missing: &mut Vec<String>,
    mut make: impl FnMut(String) -> Made,
) -> Result<(), E> {
    let mut result = Ok(());
    for topic in std::mem::take(missing) {
        if let Err(error) = make(topic.clone()).await {
            missing.push(topic);
            result = Err(error);
        }
    }
    result
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_topic_that_is_refused_keeps_no_other_from_being_made() {
        let mut missing = ["refused", "made", "refused too"].map(str::to_owned).to_vec();
        let mut tried = Vec::new();
        let result = make_each(&mut missing, |topic| {
            tried.push(topic.clone());
            std::future::ready(if topic == "made" { Ok(()) } else { Err(topic) })
        });
        assert_eq!(result.await, Err("refused too".to_owned()));
        assert_eq!(tried, ["refused", "made", "refused too"]);
        assert_eq!(missing, ["refused", "refused too"], "those are tried again");
        let result = make_each(&mut missing, |_| std::future::ready(Ok::<_, ()>(())));
        assert_eq!((result.await, missing.len()), (Ok(()), 0));
    }
}
