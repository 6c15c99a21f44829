//! The folder as the door uses it.

use std::path::Path;
use std::rc::Rc;

use tokio::sync::watch;

use crate::model::Time;
use crate::runtime::{
    AppendError, Durable, Incoming, LogError, LogHandle, Source, Store, StoreError, Title,
};
use crate::stream::Topic;

use super::{Embedded, EmbeddedError};

impl LogHandle for Embedded {
    fn title(&self) -> Option<Title> {
        Embedded::title(self)
    }

    fn source(&self) -> Result<Box<dyn Source + Send>, LogError> {
        Ok(Embedded::source(self))
    }

    fn append(&self, topic: Topic, records: Vec<Incoming>) -> Result<Durable, AppendError> {
        let receipt = Embedded::append(self, topic, records).map_err(|error| match error {
            EmbeddedError::NearlyFull { .. } => AppendError::NotTaken {
                why: error.to_string(),
                retry_s: FULL_RETRY_S,
            },
            error => AppendError::Unknown(error.to_string()),
        })?;
        let mut moved = Embedded::moved(self);
        Ok(Box::pin(async move {
            let kept = moved.wait_for(|moved| *moved >= receipt.write).await;
            kept.map(|_| ()).map_err(|_| "the log ended".to_owned())
        }))
    }

    /// There is one partition.
    fn append_to_all(&self, topic: Topic, record: Incoming) -> Result<Durable, AppendError> {
        LogHandle::append(self, topic, vec![record])
    }

    fn seen_ends(&self, topic: Topic) -> Vec<i64> {
        vec![self.visible_end(topic)]
    }

    fn waiting(&self, inbox: Topic) -> i64 {
        let folded = self.position(inbox).map_or(0, |position| position.next);
        (self.written_end(inbox) - folded).max(0)
    }

    fn moved(&self) -> watch::Receiver<u64> {
        Embedded::moved(self)
    }

    fn now(&self) -> Time {
        Embedded::now(self)
    }

    fn failure(&self) -> Option<String> {
        Embedded::failure(self)
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    fn sizes(&self) -> Vec<(&'static str, u64)> {
        Embedded::sizes(self)
    }

    fn free_bytes(&self) -> Option<u64> {
        Some(Embedded::free_bytes(self))
    }

    fn rows(&self, stage: &str) -> Vec<(i32, Rc<dyn Store>)> {
        vec![(0, Embedded::rows(self, stage))]
    }

    fn windows(
        &self,
        _partition: i32,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        Embedded::windows(self, keys).map_err(|error| StoreError(error.to_string()))
    }

    fn backup(&self, dir: &Path) -> Result<(), String> {
        Embedded::backup(self, dir).map_err(|error| error.to_string())
    }
}

/// When to come again while the disk is nearly full, s.
const FULL_RETRY_S: u32 = 30;
