//! What the program says of itself while it runs, a line at a time, to standard error.
//!
//! Two forms: for people (compact, coloured on a terminal unless `NO_COLOR` is set) and JSON, one
//! object a line. The level may be changed while it runs: SIGHUP reads it again.

use std::fmt;
use std::io::{self, IsTerminal};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};

/// In which form lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why nothing is said, or not at the level asked for.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Something else in this process writes lines already.
    #[error("starting to write lines to standard error: this process does so already")]
    Twice,
    /// The level.
    #[error("setting the level: {0:?}, expected error, warn, info, debug or trace")]
    Level(String),
    /// What was started is gone.
    #[error("setting the level: nothing writes lines any more")]
    Gone,
}

/// Keeps hold of the level. Dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct Telemetry {
    level: reload::Handle<LevelFilter, Registry>,
}

impl Telemetry {
    /// From now on, what the process traces at `level` or above is written to standard error.
    ///
    /// # Errors
    /// No such level, or it was started before.
    pub fn start(level: &str, form: Form) -> Result<Telemetry, TelemetryError> {
        let stderr = io::stderr();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = stderr.is_terminal() && !no_color;
        let (subscriber, telemetry) = lines(level, form, colour, io::stderr)?;
        tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Twice)?;
        Ok(telemetry)
    }

    /// Writes from now on what is of this level or above.
    ///
    /// # Errors
    /// No such level.
    pub fn set_level(&self, level: &str) -> Result<(), TelemetryError> {
        let level = parse_level(level)?;
        self.level.reload(level).map_err(|_| TelemetryError::Gone)
    }
}

/// Who writes lines, and the handle on their level.
fn lines<W>(
    level: &str,
    form: Form,
    colour: bool,
    writer: W,
) -> Result<(Box<dyn Subscriber + Send + Sync>, Telemetry), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, level) = reload::Layer::new(parse_level(level)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let registry = tracing_subscriber::registry().with(filter);
    let subscriber: Box<dyn Subscriber + Send + Sync> = match form {
        Form::Text => {
            let lines = lines.with_ansi(colour).with_target(false).compact();
            Box::new(registry.with(lines))
        }
        Form::Json => Box::new(registry.with(lines.event_format(Json))),
    };
    Ok((subscriber, Telemetry { level }))
}

fn parse_level(level: &str) -> Result<LevelFilter, TelemetryError> {
    match level {
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        other => Err(TelemetryError::Level(other.to_owned())),
    }
}

/// `{"time","level","target","message",..}` and the event's own fields.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut object = Map::new();
        event.record(&mut Fields(&mut object));
        let about = event.metadata();
        // Last, so that no field of an event can say otherwise.
        object.insert("time".to_owned(), time.into());
        let level = about.level().as_str().to_lowercase();
        object.insert("level".to_owned(), level.into());
        object.insert("target".to_owned(), about.target().into());
        writeln!(writer, "{}", Value::Object(object))
    }
}

/// The fields of an event as JSON.
struct Fields<'a>(&'a mut Map<String, Value>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Standard error's stand-in.
    #[derive(Clone)]
    struct Page(Sender<Vec<u8>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written while `talk` runs.
    fn written(level: &str, form: Form, talk: impl FnOnce(&Telemetry)) -> String {
        let (sender, written) = channel();
        let page = Page(sender);
        let (subscriber, telemetry) =
            lines(level, form, false, move || page.clone()).expect("a level");
        tracing::subscriber::with_default(subscriber, || talk(&telemetry));
        let bytes: Vec<Vec<u8>> = written.try_iter().collect();
        String::from_utf8(bytes.concat()).unwrap()
    }

    #[test]
    fn the_level_may_be_changed_while_it_runs() {
        let page = written("warn", Form::Text, |telemetry| {
            tracing::info!("quiet");
            tracing::warn!(topic = "metrics", "nearly full");
            telemetry.set_level("debug").unwrap();
            tracing::debug!("loud");
            assert!(telemetry.set_level("loud").is_err());
            telemetry.set_level("error").unwrap();
            tracing::warn!("quiet again");
        });
        let lines: Vec<&str> = page.lines().collect();
        assert_eq!(lines.len(), 2, "{page}");
        assert!(lines[0].contains("WARN nearly full topic=\"metrics\""));
        assert!(lines[1].contains("DEBUG loud"));
        assert!(!page.contains('\u{1b}'), "{page}");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let page = written("info", Form::Json, |_| {
            let offset = 7_i64;
            tracing::info!(offset, ok = true, ratio = 0.5, level = "mine", "two\nlines");
        });
        assert_eq!(page.lines().count(), 1, "{page}");
        let object: Value = serde_json::from_str(&page).unwrap();
        assert_eq!(object["message"], "two\nlines");
        assert_eq!(object["level"], "info");
        assert_eq!(object["offset"], 7);
        assert_eq!(object["ok"], true);
        assert_eq!(object["ratio"], 0.5);
        let time = object["time"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{time}");
    }
}
