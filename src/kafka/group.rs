//! Membership of a group: what librdkafka says of it while it is polled is noted here and done by
//! who polls; leaving takes a limited time.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

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
        let list = list.clone();
        let change = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Change::Assigned(list),
            _ => Change::Revoked(list),
        };
        match self.closing.load(Ordering::SeqCst) {
            true => let_go(consumer, &change),
            false => self.noted().push(change),
        }
    }
}

/// A consumer in its group. Whoever drops it leaves the group, which takes [`LEAVING_MAX`] at most.
pub(super) struct Membership(Option<BaseConsumer<Member>>);

impl Membership {
    /// Of a consumer that has subscribed.
    pub fn new(consumer: BaseConsumer<Member>) -> Self {
        Membership(Some(consumer))
    }
}

impl Deref for Membership {
    type Target = BaseConsumer<Member>;

    fn deref(&self) -> &BaseConsumer<Member> {
        self.0.as_ref().expect("it is taken when dropped")
    }
}

/// In a thread of its own, which is left behind when librdkafka (2.12) does not come back: what is
/// asked of a group in the moment in which it closes, as when a member learns that it was replaced
/// while it leaves, is thrown away unanswered, and who asked waits for ever.
impl Drop for Membership {
    fn drop(&mut self) {
        let Some(consumer) = self.0.take() else {
            return;
        };
        let (tell, told) = sync_channel(1);
        thread::spawn(move || {
            let member = consumer.context();
            // From here on partitions are let go of at once: nobody is left who folds.
            member.closing.store(true, Ordering::SeqCst);
            for change in member.changes() {
                let_go(&consumer, &change);
            }
            drop(consumer);
            // Who waited may have gone.
            let _ = tell.send(());
        });
        if told.recv_timeout(LEAVING_MAX).is_err() {
            warn!("leaving the group: no answer within {LEAVING_MAX:?}; going on without");
        }
    }
}

/// Answers librdkafka, for a member that takes over nothing any more.
fn let_go(consumer: &BaseConsumer<Member>, change: &Change) {
    let done = match change {
        Change::Assigned(_) => consumer.incremental_assign(&TopicPartitionList::new()),
        Change::Revoked(list) => consumer.incremental_unassign(list),
    };
    if let Err(error) = done {
        warn!("leaving the group: {error}");
    }
}

/// How long leaving may take: it is milliseconds where all is well.
const LEAVING_MAX: Duration = Duration::from_secs(5);
