//! What became of the records that a producer sent.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError as Native;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::ProducerContext;

use crate::runtime::TopicPartition;
use crate::stream::Topic;

use super::client::{complain, say};

/// The context of a producer: what was answered since it was cleared.
#[derive(Default)]
pub(super) struct Deliveries(Mutex<Answered>);

#[derive(Default)]
struct Answered {
    /// Per partition the offset of the last record plus one.
    ends: BTreeMap<TopicPartition, i64>,
    /// The first record that was not taken.
    failure: Option<Native>,
}

impl Deliveries {
    /// Forgets what was answered.
    pub fn clear(&self) {
        *self.answered() = Answered::default();
    }

    /// Where each partition ends that something was written to.
    pub fn ends(&self) -> Vec<(TopicPartition, i64)> {
        let answered = self.answered();
        answered.ends.iter().map(|(of, end)| (*of, *end)).collect()
    }

    /// The first record that was not taken.
    pub fn failure(&self) -> Option<Native> {
        self.answered().failure.clone()
    }

    fn answered(&self) -> MutexGuard<'_, Answered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        say(level, facility, message);
    }

    fn error(&self, error: Native, reason: &str) {
        complain(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    /// The topic's number.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, topic: usize) {
        let mut answered = self.answered();
        match result {
            Ok(message) => {
                let of = TopicPartition {
                    topic: Topic::ALL[topic],
                    partition: message.partition(),
                };
                answered.ends.insert(of, message.offset() + 1);
            }
            Err((error, _)) => {
                answered.failure.get_or_insert_with(|| error.clone());
            }
        }
    }
}
