//! How every client of the brokers is set up: who is reached, how, and what of librdkafka's own
//! settings an operator gave.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError as Native, RDKafkaErrorCode as Code};
use rdkafka::{ClientConfig, ClientContext};
use tracing::{debug, error, info, warn};

use crate::config::secret::read_password;
use crate::config::settings::{KafkaSettings, Security};

/// The brokers could not do what was asked; says what was attempted, on what, and what helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KafkaError(pub String);

impl KafkaError {
    /// That `attempt` failed, and why.
    pub(super) fn of(attempt: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        KafkaError(format!("{attempt}: {error}"))
    }
}

/// What clients are made of: settings with their secrets read.
#[derive(Clone)]
pub struct Client {
    base: ClientConfig,
    pub(super) settings: KafkaSettings,
    pub(super) prefix: String,
}

impl Client {
    /// Reads the secrets' files and checks what librdkafka says of the properties. Reaches nobody.
    ///
    /// # Errors
    /// A file cannot be read, or a property is none of librdkafka's.
    pub fn new(settings: &KafkaSettings, prefix: &str) -> Result<Self, KafkaError> {
        let mut base = ClientConfig::new();
        for (name, value) in &settings.properties {
            base.set(name, value);
        }
        base.set("bootstrap.servers", &settings.brokers);
        base.set("client.id", "homeostat");
        base.set("security.protocol", settings.security.name());
        for (name, file) in [
            ("ssl.ca.location", &settings.ca_file),
            ("ssl.certificate.location", &settings.certificate_file),
            ("ssl.key.location", &settings.key_file),
        ] {
            if !file.is_empty() {
                base.set(name, file);
            }
        }
        if !settings.key_password_file.is_empty() {
            let secret = secret("kafka.key_password_file", &settings.key_password_file)?;
            base.set("ssl.key.password", secret);
        }
        if matches!(
            settings.security,
            Security::SaslPlaintext | Security::SaslSsl
        ) {
            base.set("sasl.mechanism", settings.sasl_mechanism.name());
            base.set("sasl.username", &settings.sasl_username);
            let secret = secret("kafka.sasl_password_file", &settings.sasl_password_file)?;
            base.set("sasl.password", secret);
        }
        base.create_native_config()
            .map_err(|error| KafkaError::of("setting up the Kafka client", error))?;
        Ok(Client {
            base,
            settings: settings.clone(),
            prefix: prefix.to_owned(),
        })
    }

    /// Settings of one more client.
    pub(super) fn config(&self) -> ClientConfig {
        self.base.clone()
    }

    /// Whom it reaches.
    pub fn brokers(&self) -> &str {
        &self.settings.brokers
    }

    /// A topic's name on the brokers.
    pub fn topic_name(&self, topic: crate::stream::Topic) -> String {
        format!("{}{}", self.prefix, topic.name())
    }

    /// The same, waiting for the brokers no longer than this, s.
    #[must_use]
    pub fn patient_for(mut self, at_most_s: u64) -> Self {
        self.settings.patience_s = self.settings.patience_s.min(at_most_s);
        self
    }

    /// How long the brokers may be gone.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(self.settings.patience_s)
    }
}

fn secret(key: &str, file: &str) -> Result<String, KafkaError> {
    read_password(key, Path::new(file)).map_err(|error| KafkaError(error.to_string()))
}

/// Hands librdkafka's words on to the log, and keeps the last complaint: the error of a call says
/// no more than that nobody could be reached, not that a password is wrong.
#[derive(Default)]
pub(super) struct Words(Mutex<Option<String>>);

impl ClientContext for Words {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        say(level, facility, message);
    }

    fn error(&self, error: Native, reason: &str) {
        // That all are down follows from what was said of each.
        if error.rdkafka_error_code() != Some(Code::AllBrokersDown) {
            *self.last() = Some(reason.to_owned());
        }
        complain(&error, reason);
    }
}

impl Words {
    fn last(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error of a consumer's call, with what librdkafka complained of last. The consumer has nothing
/// assigned that anybody waits for.
pub(super) fn explained(consumer: &BaseConsumer<Words>, error: impl std::fmt::Display) -> String {
    // Complaints lie there until somebody polls; a poll that found one answers with nothing.
    for _ in 0..COMPLAINTS_MAX {
        consumer.poll(Duration::ZERO);
    }
    match &*consumer.context().last() {
        Some(complaint) => format!("{error}; {complaint}"),
        None => error.to_string(),
    }
}

impl ConsumerContext for Words {}

/// What librdkafka says went wrong, if it did.
pub(super) fn complain(error: &Native, reason: &str) {
    // The end of a partition is no fault.
    if error.rdkafka_error_code() != Some(Code::PartitionEOF) {
        warn!("librdkafka: {error}: {reason}");
    }
}

/// A line of librdkafka's own log.
pub(super) fn say(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => error!("librdkafka: {facility}: {message}"),
        RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => {
            warn!("librdkafka: {facility}: {message}");
        }
        RDKafkaLogLevel::Info => info!("librdkafka: {facility}: {message}"),
        RDKafkaLogLevel::Debug => debug!("librdkafka: {facility}: {message}"),
    }
}

/// Complaints that are listened to at a time.
const COMPLAINTS_MAX: usize = 100;
