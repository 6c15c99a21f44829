//! What `check` looks at on the brokers.

use crate::config::settings::Settings;
use crate::kafka::{Client, KafkaError, KafkaSource};
use crate::model::{Span, Time};
use crate::runtime::{LogError, Source as _, Title, TopicPartition, partitions_of};
use crate::stream::Topic;

/// The log on the brokers, or what keeps it from being read.
pub(super) enum Brokers {
    /// The client cannot be made: a file, or a property.
    NoClient(KafkaError),
    /// Nobody answers, or not to us.
    NoAnswer(LogError),
    /// Topics that cannot be read: they are not there, or not for us.
    NoTopics(Vec<(String, String)>),
    /// Nobody opened the log yet.
    NotOpened(LogError),
    /// It is there.
    Open(Log),
}

/// What is there.
pub(super) struct Log {
    pub title: Title,
    /// Topics with another number of partitions than the log was opened with.
    pub uneven: Vec<(String, i32)>,
    /// Records that are not folded yet, of both inboxes; or why the group's offsets cannot be read.
    pub waiting: Result<i64, LogError>,
    /// By how much the brokers' time was ahead of ours when the newest records came in, if one came
    /// just now.
    pub ahead: Option<Span>,
}
