//! How a log begins: under an id that nobody else draws.

use std::io::Read;

use anyhow::Context;

use crate::config::settings::{Settings, Source};
use crate::kafka::{self, Client};
use crate::model::LogOpened;
use crate::runtime::{TimeSource, Title};

/// A log that is open.
pub(super) struct Opened {
    /// What it is called.
    pub title: Title,
    /// It was not open before.
    pub now: bool,
}

/// Opens the log on the brokers where it is not open yet.
pub(super) fn ensure_open(client: &Client, settings: &Settings) -> anyhow::Result<Opened> {
    let count = settings.kafka.partitions;
    let new = opened(&draw_id()?, count, source_of(settings));
    let title = kafka::ensure_open(client, &new)?;
    Ok(Opened {
        now: title.log_id == new.log_id,
        title,
    })
}

/// The record that opens a log.
pub(super) fn opened(log_id: &str, partitions: i32, source: TimeSource) -> LogOpened {
    LogOpened {
        log_id: log_id.to_owned(),
        audit_name: format!("{log_id}.localhost/homeostat"),
        partitions,
        time_source: match source {
            TimeSource::Log => "log".to_owned(),
            TimeSource::Sample => "sample".to_owned(),
        },
    }
}

/// What append time is, as configured.
pub(super) fn source_of(settings: &Settings) -> TimeSource {
    match settings.time.source {
        Source::Log => TimeSource::Log,
        Source::Sample => TimeSource::Sample,
    }
}

/// 128 bits that nobody else draws.
pub(super) fn draw_id() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("drawing the log's id from /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
