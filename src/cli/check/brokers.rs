//! What `check` looks at on the brokers. The only part of it that asks them.

use std::collections::BTreeMap;

use crate::cli::place::client;
use crate::config::settings::Settings;
use crate::kafka::topics::{self, Difference};
use crate::kafka::{Client, KafkaSource, openings};
use crate::model::{Span, Time};
use crate::runtime::{LogError, Source as _, TimeSource, TopicPartition, partitions_of};
use crate::stream::Topic;

/// The log on the brokers.
pub(super) struct Brokers {
    /// Partitions of our topics, or in words why nobody can say.
    pub(super) topics: Result<BTreeMap<Topic, i32>, String>,
    /// In what they are not as they should be; or why that cannot be told.
    pub(super) differences: Result<Vec<Difference>, String>,
    /// Of the log, once it is open.
    pub(super) log: Option<Log>,
}

/// An open log.
pub(super) struct Log {
    /// Its id.
    pub(super) log_id: String,
    /// Records of the inboxes that are not folded yet, as the group's offsets say.
    pub(super) waiting: Result<i64, String>,
    /// A topic that bears records of a time that our clock has not reached.
    pub(super) ahead: Result<Option<TopicPartition>, String>,
}

/// Looks at the log on the brokers.
pub(super) fn look(settings: &Settings, now_ms: i64) -> Brokers {
    let seen = client(settings).map_err(|error| format!("{error:#}"));
    let seen = seen.and_then(|client| {
        let seen = topics::look(&client).map_err(|error| error.0)?;
        Ok((client, seen))
    });
    let (client, seen) = match seen {
        Ok(seen) => seen,
        Err(error) => {
            return Brokers {
                topics: Err(error),
                differences: Ok(Vec::new()),
                log: None,
            };
        }
    };
    let counts = seen.iter().map(|(topic, seen)| (*topic, seen.partitions));
    let counts: BTreeMap<Topic, i32> = counts.collect();
    let whole = Topic::ALL.iter().all(|topic| counts.contains_key(topic));
    let opened = match whole {
        true => openings(&client).map_err(|error| error.0),
        false => Ok(Vec::new()),
    };
    let differences = opened.map(|opened| topics::differences(&client, settings, &seen, &opened));
    let log = match &differences {
        Ok(differences) if differences.iter().all(|found| !hinders(found)) => {
            open(&client, now_ms).ok()
        }
        _ => None,
    };
    Brokers {
        topics: Ok(counts),
        differences,
        log,
    }
}

/// Whether nothing can be read before it is mended.
fn hinders(found: &Difference) -> bool {
    ["exists", "partitions", "opened"].contains(&found.check)
}

fn open(client: &Client, now_ms: i64) -> Result<Log, LogError> {
    let mut source = KafkaSource::new(client).map_err(|error| LogError::Failed(error.0))?;
    let title = source.title()?;
    let words = |error: LogError| error.to_string();
    Ok(Log {
        waiting: waiting(&mut source, title.partitions).map_err(words),
        ahead: match title.time_source {
            TimeSource::Log => ahead(&mut source, title.partitions, now_ms).map_err(words),
            TimeSource::Sample => Ok(None),
        },
        log_id: title.log_id,
    })
}

fn waiting(source: &mut KafkaSource, partitions: i32) -> Result<i64, LogError> {
    let mut waiting = 0;
    for topic in [Topic::Metrics, Topic::PlanInbox] {
        for of in partitions_of(topic, partitions) {
            let folded = source.position(of)?.map_or(0, |position| position.next);
            let (start, end) = (source.start(of)?, source.end(of)?);
            waiting += (end - folded.max(start)).max(0);
        }
    }
    Ok(waiting)
}

/// A partition with a record of a time that lies well ahead of ours.
fn ahead(
    source: &mut KafkaSource,
    partitions: i32,
    now_ms: i64,
) -> Result<Option<TopicPartition>, LogError> {
    let later = Time(now_ms) + CLOCKS_APART;
    for topic in [Topic::Metrics, Topic::PlanInbox, Topic::Events] {
        for of in partitions_of(topic, partitions) {
            if source.offset_at(of, later)? < source.end(of)? {
                return Ok(Some(of));
            }
        }
    }
    Ok(None)
}

/// By how much the brokers' clock may be ahead of ours.
pub(super) const CLOCKS_APART: Span = Span::seconds(5);
