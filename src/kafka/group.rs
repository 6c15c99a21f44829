//! What librdkafka says of the group while it is polled: noted here, done by who polls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError as Native;
use rdkafka::types::RDKafkaRespErr;
use tracing::warn;

use super::client::{complain, say};

/// What changed, not yet carried out: librdkafka waits for it.
pub(super) enum Change {
    /// These are to be taken over.
    Assigned(TopicPartitionList),
    /// These are to be let go of.
    Revoked(TopicPartitionList),
}

/// The context of a member.
#[derive(Default)]
pub(super) struct Member {
    changes: Mutex<Vec<Change>>,
    closing: AtomicBool,
}

impl Member {
    /// Takes what changed since it was asked last, in order.
    pub fn changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.noted())
    }

    /// Whether something changed.
    pub fn changed(&self) -> bool {
        !self.noted().is_empty()
    }

    /// From now on partitions are let go of at once: nobody is left who folds.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    fn noted(&self) -> MutexGuard<'_, Vec<Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        say(level, facility, message);
    }

    fn error(&self, error: Native, reason: &str) {
        complain(&error, reason);
    }
}

impl ConsumerContext for Member {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let assigned = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::SeqCst) {
            let done = match assigned {
                true => consumer.incremental_assign(&TopicPartitionList::new()),
                false => consumer.incremental_unassign(list),
            };
            if let Err(error) = done {
                warn!("leaving the group: {error}");
            }
            return;
        }
        let list = list.clone();
        self.noted().push(match assigned {
            true => Change::Assigned(list),
            false => Change::Revoked(list),
        });
    }
}
