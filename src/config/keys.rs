//! The table of every key that `homeostat.toml` may hold: what it means, its unit, its bounds, and
//! what raising it costs. Errors, `config show`, `config init` and the README are made of it.
//!
//! What the keys of a policy may hold is said by [`Policy::parse`], here only repeated; the
//! defaults are those of the structs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use toml::Value;

use crate::model::{Kind, MeshId, Policy, Symptom, SymptomsPolicy};

use super::settings::Settings;
use super::{Literal, flatten};

/// A key.
#[derive(Clone, Debug)]
pub struct Key {
    /// As `log.sync_ms`.
    pub name: String,
    /// What a number counts; empty where it is a plain one or no number.
    pub unit: &'static str,
    /// What it may hold.
    pub form: Form,
    /// What it holds when nobody gives it; `None`: nothing.
    pub default: Option<Value>,
    /// What it means.
    pub meaning: String,
    /// What raising it costs; empty where there is nothing to raise.
    pub cost: &'static str,
}

impl Key {
    /// The table that it stands in, as `log.keep_days`.
    pub fn table(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(table, _)| table)
    }

    /// Its name within its table.
    pub fn last(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(_, last)| last)
    }

    /// The environment variable that gives it.
    pub fn variable(&self) -> String {
        format!("HOMEOSTAT_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// Whether it stands in each entry of a list: neither variables nor flags give it, and nothing
    /// holds it by default.
    pub fn is_listed(&self) -> bool {
        self.table() == TOKENS
    }

    /// Whether it is part of the policy.
    pub fn is_policy(&self) -> bool {
        is_policy(&self.name)
    }

    /// A value as a variable or a flag gives it: TOML, or else a bare word; what is to be a text is
    /// taken as it stands, even if it looks like a number.
    pub(super) fn value_of(&self, text: &str) -> Value {
        let toml = format!("v = {text}").parse::<toml::Table>().ok();
        let mut only = toml.filter(|table| table.len() == 1);
        match only.as_mut().and_then(|table| table.remove("v")) {
            Some(value) if value.is_str() || !self.form.is_text() => value,
            _ => Value::String(text.to_owned()),
        }
    }

    /// Whether it may hold this: else what it is and what was expected.
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        let unit = match self.unit {
            "" => String::new(),
            unit => format!(" {unit}"),
        };
        let expected = |what: String| Err(format!("{}, expected {what}", Literal(value)));
        match (&self.form, value) {
            (Form::Whole { min, max }, Value::Integer(n)) if (min..=max).contains(&n) => Ok(()),
            (Form::Whole { min, max }, Value::Integer(_)) => {
                expected(format!("{min} to {max}{unit}"))
            }
            (Form::Whole { min, max }, _) => {
                expected(format!("a whole number, {min} to {max}{unit}"))
            }
            (Form::Number { min, max }, Value::Float(x)) if (min..=max).contains(&x) => Ok(()),
            (Form::Number { min, max }, Value::Integer(n))
                if (*min..=*max).contains(&(*n as f64)) =>
            {
                Ok(())
            }
            (Form::Number { min, max }, _) => expected(format!("a number, {min} to {max}{unit}")),
            (Form::YesNo, Value::Boolean(_)) => Ok(()),
            (Form::YesNo, _) => expected("true or false".to_owned()),
            (Form::OneOf(names), Value::String(name)) if names.contains(&name.as_str()) => Ok(()),
            (Form::OneOf(names), _) => expected(names.join(" or ")),
            (Form::Text(text), value) => match value.as_str().is_some_and(|s| text.allows(s)) {
                true => Ok(()),
                false => expected(text.expected(value.as_str().unwrap_or_default())),
            },
            (Form::Texts(text), value) => check_list(text, value, LIST_MAX),
            (Form::Command, Value::Array(words)) if !words.is_empty() => {
                check_list(&Text::Word, value, LIST_MAX)?;
                match words[0].as_str() {
                    Some("") => expected("a program's name first".to_owned()),
                    _ => Ok(()),
                }
            }
            (Form::Command, _) => {
                expected("a program and its arguments, as [\"program\", \"{value}\"]".to_owned())
            }
            (Form::Properties, Value::Table(table)) => {
                let mut checked = Ok(());
                flatten("", table.clone(), &mut |name, value| {
                    if checked.is_ok() {
                        checked = property(&name, &value).map(|_| ());
                    }
                });
                checked
            }
            (Form::Properties, _) => expected("a table, as { \"name\" = \"value\" }".to_owned()),
            // The policy's own check has the last word on these.
            (Form::Actions | Form::Bound, _) => Ok(()),
        }
    }
}

/// A property of librdkafka as it takes it, or why it may not be given.
pub(super) fn property(name: &str, value: &Value) -> Result<String, String> {
    if let Some((_, instead)) = SECRETS.iter().find(|(secret, _)| *secret == name) {
        return Err(format!("{name} is a secret, expected in a file: {instead}"));
    }
    if OURS.contains(&name) {
        return Err(format!(
            "{name} is set by the program: exactly-once hangs on it"
        ));
    }
    match value {
        Value::String(text) if Text::Word.allows(text) => Ok(text.clone()),
        Value::Integer(_) | Value::Boolean(_) | Value::Float(_) => Ok(Literal(value).to_string()),
        _ => Err(format!(
            "{name}: {}, expected a text, a number, true or false",
            Literal(value)
        )),
    }
}

/// Properties of librdkafka that hold secrets, and where those go.
const SECRETS: [(&str, &str); 8] = [
    ("sasl.password", "kafka.sasl_password_file"),
    ("ssl.key.password", "kafka.key_password_file"),
    ("ssl.key.pem", "kafka.key_file"),
    ("ssl.keystore.password", "kafka.key_file, as PEM"),
    ("sasl.oauthbearer.config", "kafka.sasl_password_file"),
    ("sasl.oauthbearer.client.secret", "kafka.sasl_password_file"),
    ("ssl_key", "kafka.key_file"),
    ("https.ca.pem", "kafka.ca_file"),
];

/// Properties of librdkafka that the commit protocol sets.
const OURS: [&str; 19] = [
    "auto.offset.reset",
    "bootstrap.servers",
    "check.crcs",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "session.timeout.ms",
    "transaction.timeout.ms",
    "transactional.id",
];

/// Whether a key is part of the policy.
pub(super) fn is_policy(name: &str) -> bool {
    let section = name.split('.').next();
    section.is_some_and(|section| ["plan", "monitor", "symptoms"].contains(&section))
}

fn check_list(text: &Text, value: &Value, max: usize) -> Result<(), String> {
    let Some(items) = value.as_array() else {
        let got = Literal(value);
        return Err(format!("{got}, expected a list, as [\"..\", \"..\"]"));
    };
    if items.len() > max {
        return Err(format!("{} entries, expected at most {max}", items.len()));
    }
    let allowed = |item: &&Value| item.as_str().is_some_and(|item| text.allows(item));
    match items.iter().find(|item| !allowed(item)) {
        None => Ok(()),
        Some(item) => {
            let expected = text.expected(item.as_str().unwrap_or_default());
            Err(format!("{}, expected {expected}", Literal(item)))
        }
    }
}

/// What a key may hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// A whole number within these.
    Whole {
        /// The least.
        min: i64,
        /// The most.
        max: i64,
    },
    /// A number within these.
    Number {
        /// The least.
        min: f64,
        /// The most.
        max: f64,
    },
    /// `true` or `false`.
    YesNo,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A text.
    Text(Text),
    /// At most [`LIST_MAX`] of them.
    Texts(Text),
    /// A program and its arguments.
    Command,
    /// A table of the texts, numbers or yes and no that librdkafka knows by these names.
    Properties,
    /// Action kinds, or `kind:value`.
    Actions,
    /// A bound of a symptom: any finite number.
    Bound,
}

/// Longest list.
pub const LIST_MAX: usize = 256;

/// Which texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// A path.
    Path,
    /// The first part of a topic's name: what Kafka allows in one.
    Prefix,
    /// A mesh's name, which may not be empty here.
    Name,
    /// A node's name, or empty.
    NameOrNone,
    /// An address and port.
    Listen,
    /// An address or a host's name, with a port or without.
    Peer,
    /// An argument of a program.
    Word,
    /// `host:port` of brokers, by commas, or empty.
    Brokers,
    /// A name that Kafka takes, or empty.
    KafkaName,
    /// A path, or empty.
    PathOrNone,
    /// The URL of an object store, or empty.
    SnapshotsOrNone,
    /// Some words, or empty.
    WordOrNone,
    /// `http://HOST:PORT` and perhaps a path, or empty.
    Registry,
}

impl Text {
    fn allows(self, text: &str) -> bool {
        // What stands for bytes that were no UTF-8 is nobody's name.
        let clean = !text.chars().any(|c| c.is_control() || c == '\u{FFFD}');
        let in_topics = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        match self {
            Text::Path => clean && (1..=4096).contains(&text.len()),
            Text::Prefix => text.len() <= PREFIX_BYTES_MAX && text.chars().all(in_topics),
            Text::Name => clean && !text.is_empty() && MeshId::parse(text).is_some(),
            Text::NameOrNone => clean && (text.is_empty() || Text::Name.allows(text)),
            Text::Listen => text.parse::<SocketAddr>().is_ok(),
            Text::Peer => is_peer(text),
            Text::Word | Text::WordOrNone => !text.contains('\0') && text.len() <= 4096,
            Text::Brokers => {
                text.is_empty()
                    || text
                        .split(',')
                        .all(|broker| is_peer(broker) && broker.rsplit_once(':').is_some())
            }
            Text::KafkaName => Text::Prefix.allows(text),
            Text::PathOrNone => text.is_empty() || Text::Path.allows(text),
            Text::SnapshotsOrNone => text.is_empty() || clean && is_snapshots(text),
            Text::Registry => {
                let rest = text.strip_prefix("http://");
                text.is_empty()
                    || rest.is_some_and(|rest| {
                        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                        let in_paths = |c: char| c.is_ascii_alphanumeric() || "._~-/".contains(c);
                        is_peer(host)
                            && host
                                .rsplit_once(':')
                                .is_some_and(|(_, port)| !port.is_empty())
                            && path.len() <= 1024
                            && path.chars().all(in_paths)
                    })
            }
        }
    }

    /// What was expected instead of `got`.
    fn expected(self, got: &str) -> String {
        match self {
            Text::Listen => "an address and a port, such as 127.0.0.1:1618",
            Text::Path => "a path of 1 to 4096 bytes",
            Text::Prefix => "at most 64 letters, digits, dots, dashes or underscores",
            Text::Name => "a name of 1 to 255 bytes",
            Text::NameOrNone => "a name of 1 to 255 bytes, or \"\" for the host's",
            Text::Peer => "an address or a name, such as 10.0.0.1, [fe80::1]:22 or router:443",
            Text::Word => "an argument of at most 4096 bytes",
            Text::WordOrNone => "words of at most 4096 bytes, or \"\"",
            Text::Brokers => "host:port, several by commas, such as kafka-1:9092,kafka-2:9092",
            Text::KafkaName => "at most 64 letters, digits, dots, dashes or underscores",
            Text::PathOrNone => "a path of at most 4096 bytes, or \"\"",
            Text::SnapshotsOrNone => {
                "file:///path or s3://bucket/prefix without name and password, or \"\""
            }
            Text::Registry if got.starts_with("https://") => {
                "http://HOST:PORT: https is not there yet, so put a proxy beside this process"
            }
            Text::Registry => "http://HOST:PORT, such as http://registry:8081, or \"\"",
        }
        .to_owned()
    }
}

/// Longest prefix of topics' names: with the longest of ours they fit Kafka's 249 amply.
const PREFIX_BYTES_MAX: usize = 64;

fn is_peer(text: &str) -> bool {
    if text.parse::<IpAddr>().is_ok() {
        return true;
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return address.port() != 0;
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().ok()),
        None => (text, Some(1)),
    };
    let in_names = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let named = (1..=253).contains(&host.len()) && host.chars().all(in_names);
    named && !host.starts_with('-') && port.is_some_and(|port| port != 0)
}

/// Whether a text is the URL of an object store, without secrets.
fn is_snapshots(text: &str) -> bool {
    let plain = |rest: &str| !rest.contains(['@', '?', '#']) && rest.len() <= 4096;
    match text.strip_prefix("s3://") {
        Some(rest) => plain(rest) && !rest.is_empty() && !rest.starts_with('/'),
        None => text.strip_prefix("file:///").is_some_and(plain),
    }
}

impl Form {
    /// Whether variables and flags give it as a bare text.
    fn is_text(&self) -> bool {
        matches!(self, Form::OneOf(_) | Form::Text(_))
    }

    /// The bounds, for a page.
    pub fn bounds(&self) -> String {
        match self {
            Form::Whole { min, max } => format!("{min}..{max}"),
            Form::Number { min, max } => format!("{min}..{max}"),
            Form::YesNo => "true, false".to_owned(),
            Form::OneOf(names) => names.join(", "),
            Form::Text(Text::Listen) => "address:port".to_owned(),
            Form::Text(Text::Brokers) => "host:port,..".to_owned(),
            Form::Text(Text::Registry) => "http://host:port".to_owned(),
            Form::Text(Text::PathOrNone) => "0..4096 bytes".to_owned(),
            Form::Text(Text::SnapshotsOrNone) => "file:///.., s3://..".to_owned(),
            Form::Text(Text::Prefix | Text::KafkaName) => format!("0..{PREFIX_BYTES_MAX} bytes"),
            Form::Text(Text::Name) => "1..255 bytes".to_owned(),
            Form::Text(Text::NameOrNone) => "0..255 bytes".to_owned(),
            Form::Text(Text::WordOrNone) => "0..4096 bytes".to_owned(),
            Form::Text(_) => "1..4096 bytes".to_owned(),
            Form::Texts(_) => format!("0..{LIST_MAX} entries"),
            Form::Command => format!("1..{LIST_MAX} words"),
            Form::Properties => "librdkafka's".to_owned(),
            Form::Actions => "kinds, or kind:value".to_owned(),
            Form::Bound => "finite".to_owned(),
        }
    }
}

/// The list of who may come to the door.
pub const TOKENS: &str = "token";

/// The sections in the order of the pages, each with what it is about.
pub const SECTIONS: [(&str, &str); 13] = [
    ("log", "the embedded log"),
    ("kafka", "the brokers, if the log lies there"),
    ("snapshots", "of the rows, where the log lies on Kafka"),
    ("formats", "in which forms records lie on the brokers"),
    ("time", "what a record's time is"),
    ("loop", "the worker"),
    ("web", "the door"),
    (
        TOKENS,
        "who may come to the door over TCP: an entry each, all that you need",
    ),
    ("agent", "a node's side"),
    (
        "telemetry",
        "what the program says of itself on standard error",
    ),
    ("plan", "what may be decided (policy)"),
    ("monitor", "when a reading counts (policy)"),
    ("symptoms", "when a node is ill (policy)"),
];

/// Every key, table by table, in the order of the pages.
pub fn keys() -> Vec<Key> {
    let defaults = defaults();
    let rows = ROWS.iter().map(|row| (row.0.to_owned(), row));
    let mut keys: Vec<Key> = rows
        .map(|(name, row)| Key {
            default: defaults.get(&name).cloned(),
            name,
            unit: row.1,
            form: row.2.clone(),
            meaning: row.3.to_owned(),
            cost: row.4,
        })
        .collect();
    let agent = keys.iter().rposition(|key| key.table() == "agent");
    let after_agent = agent.map_or(keys.len(), |last| last + 1);
    keys.splice(after_agent..after_agent, Kind::ALL.map(exec));
    for symptom in Symptom::ALL {
        let bounds = ["warning", "critical"].map(|level| bounds_of(symptom, level, &defaults));
        keys.extend(bounds.into_iter().flatten());
    }
    keys
}

/// What is done for orders of a kind.
fn exec(kind: Kind) -> Key {
    Key {
        name: format!("agent.exec.{}", kind.name()),
        unit: "",
        form: Form::Command,
        default: None,
        meaning: format!(
            "the program, with its arguments, for `{}` orders; `{{value}}` in an argument is what \
             is ordered; none: they are refused",
            kind.name()
        ),
        cost: "",
    }
}

/// The two bounds of a symptom's level.
fn bounds_of(symptom: Symptom, level: &str, defaults: &BTreeMap<String, Value>) -> [Key; 2] {
    let (what, unit) = measured(symptom);
    let (worse, past) = match SymptomsPolicy::lower_is_worse(symptom) {
        true => ("less", "above"),
        false => ("more", "below"),
    };
    let key = |end: &str, meaning: String| {
        let name = format!("symptoms.{}.{level}_{end}", symptom.name());
        Key {
            default: defaults.get(&name).cloned(),
            name,
            unit,
            form: Form::Bound,
            meaning,
            cost: "",
        }
    };
    [
        key("enter", format!("{level}: on at {what} of this or {worse}")),
        key("leave", format!("{level}: {past} this it is good")),
    ]
}

fn measured(symptom: Symptom) -> (&'static str, &'static str) {
    match symptom {
        Symptom::Silent => ("a count of metrics given", ""),
        Symptom::Lossy => ("a `packet_loss`", "%"),
        Symptom::Slow => ("a `latency_ms`", "ms"),
        Symptom::Isolated => ("a `mesh_connectivity`", "peers"),
        Symptom::CpuSaturated => ("a `cpu_percent`", "%"),
        Symptom::MemorySaturated => ("a `memory_percent`", "%"),
        Symptom::TrustFailing => ("a `zero_trust_success_rate`", "ratio"),
        Symptom::Idle => ("a `cpu_percent`", "%"),
    }
}

/// The default of every key that has one.
fn defaults() -> BTreeMap<String, Value> {
    let mut defaults = BTreeMap::new();
    let settings = toml::Table::try_from(Settings::default());
    let policy = toml::Table::try_from(Policy::default());
    for table in [settings, policy] {
        let table = table.expect("our structs are tables");
        flatten("", table, &mut |key, value| {
            defaults.insert(key, value);
        });
    }
    defaults
}

/// Name, unit, form, meaning, cost of raising.
type Row = (&'static str, &'static str, Form, &'static str, &'static str);

const fn whole(min: i64, max: i64) -> Form {
    Form::Whole { min, max }
}

const fn number(min: f64, max: f64) -> Form {
    Form::Number { min, max }
}

const DAY_S: i64 = 86_400;

const ROWS: &[Row] = &[
    (
        "log.dir",
        "",
        Form::Text(Text::Path),
        "the folder that log and rows lie in; `--data`",
        "",
    ),
    (
        "log.prefix",
        "",
        Form::Text(Text::Prefix),
        "first part of the topics' names in causes; fixed when the log begins",
        "",
    ),
    (
        "log.fsync",
        "",
        Form::OneOf(&["group", "never"]),
        "`group`: on disk before anything is answered or seen; `never`: when the system likes, for \
         benches",
        "",
    ),
    (
        "log.sync_ms",
        "ms",
        whole(1, 1000),
        "with `group`, at most one sync in so long",
        "answers and orders wait longer",
    ),
    (
        "log.min_free_mib",
        "MiB",
        whole(0, 1 << 20),
        "free space below which nothing more is taken in",
        "stops sooner on a small disk",
    ),
    (
        "log.cache_mib",
        "MiB",
        whole(1, 1 << 16),
        "blocks of files kept in memory",
        "memory",
    ),
    (
        "log.write_buffer_mib",
        "MiB",
        whole(1, 1 << 16),
        "changes kept in memory before they are written to files",
        "memory, and a longer start after a kill",
    ),
    (
        "log.tail_mib",
        "MiB",
        whole(0, 1 << 12),
        "newest records of each inbox kept in memory",
        "memory, twice: there are two inboxes",
    ),
    (
        "log.copy_hours",
        "h",
        whole(1, 168),
        "between copies of Analyze's rows, where `replay` starts",
        "a longer `replay`",
    ),
    (
        "log.metrics_max_mib",
        "MiB",
        whole(0, 1 << 24),
        "how large `metrics` may grow, the oldest go first; 0: no limit of its own",
        "disk",
    ),
    (
        "log.keep_days.metrics",
        "days",
        whole(1, 3650),
        "how long `metrics` is kept, and with it how far back `replay` reaches",
        "disk",
    ),
    (
        "log.keep_days.plan_inbox",
        "days",
        whole(1, 3650),
        "how long `plan-inbox` is kept",
        "disk",
    ),
    (
        "log.keep_days.cycles",
        "days",
        whole(1, 3650),
        "how long `cycles` is kept",
        "disk",
    ),
    (
        "log.keep_days.directives",
        "days",
        whole(1, 3650),
        "how long `directives` is kept (`events` is kept for ever)",
        "disk",
    ),
    (
        "log.keep_days.dead_letters",
        "days",
        whole(1, 3650),
        "how long `dead-letters` is kept",
        "disk",
    ),
    (
        "kafka.brokers",
        "",
        Form::Text(Text::Brokers),
        "where the log lies, several by commas; none: it is embedded, in `log.dir`; `--brokers`",
        "",
    ),
    (
        "kafka.group",
        "",
        Form::Text(Text::KafkaName),
        "the processors' consumer group, and the first part of their transactional ids",
        "",
    ),
    (
        "kafka.instance",
        "",
        Form::Text(Text::KafkaName),
        "this processor's name in the group: of two with one name the newer takes over; empty: \
         drawn once and kept in `log.dir`",
        "",
    ),
    (
        "kafka.partitions",
        "partitions",
        whole(1, 1024),
        "that `topics create` gives every topic; fixed when the log begins",
        "files on the brokers; memory here",
    ),
    (
        "kafka.replication",
        "copies",
        whole(0, 16),
        "of each partition that `topics create` asks for; 0: the brokers' own default",
        "disk on the brokers, later commits",
    ),
    (
        "kafka.session_timeout_ms",
        "ms",
        whole(1000, 300_000),
        "a processor of which nothing was heard for so long loses its partitions",
        "a dead one's nodes are looked after later",
    ),
    (
        "kafka.transaction_timeout_ms",
        "ms",
        whole(500, 300_000),
        "a transaction left open is aborted after so long; less than the session's",
        "readers wait longer behind a dead processor's",
    ),
    (
        "kafka.flush_gap_ms",
        "ms",
        whole(0, 10_000),
        "shortest gap between the end of a commit and one that something urgent brings on",
        "later orders, fewer transactions",
    ),
    (
        "kafka.flush_records",
        "records",
        whole(1, 1_000_000),
        "records folded before a commit is due, in place of `loop.flush_records`: a transaction \
         costs the brokers several requests a partition",
        "fewer transactions, more outputs in memory, a longer re-fold after an abort",
    ),
    (
        "kafka.patience_s",
        "s",
        whole(1, 86_400),
        "how long the brokers may be gone, or somebody's open transaction be in the way, before \
         the process ends with 2",
        "a lost cluster is noticed later",
    ),
    (
        "kafka.fetch_ahead_kib",
        "KiB",
        whole(64, 1 << 21),
        "of records fetched and not yet folded, per worker",
        "memory",
    ),
    (
        "kafka.security",
        "",
        Form::OneOf(&["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]),
        "how the brokers are reached",
        "",
    ),
    (
        "kafka.ca_file",
        "",
        Form::Text(Text::PathOrNone),
        "whom to trust, PEM; empty: the system's authorities",
        "",
    ),
    (
        "kafka.certificate_file",
        "",
        Form::Text(Text::PathOrNone),
        "who this client is, PEM",
        "",
    ),
    (
        "kafka.key_file",
        "",
        Form::Text(Text::PathOrNone),
        "its private key, PEM",
        "",
    ),
    (
        "kafka.key_password_file",
        "",
        Form::Text(Text::PathOrNone),
        "a file with the key's password, mode 0600",
        "",
    ),
    (
        "kafka.sasl_mechanism",
        "",
        Form::OneOf(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]),
        "with `sasl_*`: how this client says who it is",
        "",
    ),
    (
        "kafka.sasl_username",
        "",
        Form::Text(Text::Word),
        "with `sasl_*`: its name",
        "",
    ),
    (
        "kafka.sasl_password_file",
        "",
        Form::Text(Text::PathOrNone),
        "with `sasl_*`: a file with its password, mode 0600",
        "",
    ),
    (
        "kafka.properties",
        "",
        Form::Properties,
        "`[kafka.properties]`: handed to librdkafka as they stand, such as `\"compression.type\" = \
         \"lz4\"`; not those that exactly-once hangs on, and no secrets",
        "",
    ),
    (
        "snapshots.url",
        "",
        Form::Text(Text::SnapshotsOrNone),
        "where they lie: `file:///path`, or `s3://bucket/prefix` with its credentials in the \
         environment (`AWS_ACCESS_KEY_ID` and the like); empty: none are made",
        "",
    ),
    (
        "snapshots.every_minutes",
        "min",
        whole(1, 10_080),
        "between two of one task",
        "more is folded again after a lost disk or a move",
    ),
    (
        "snapshots.keep",
        "snapshots",
        whole(1, 100),
        "newest ones of each task that are kept; the inbox must reach back to the oldest",
        "space in the store",
    ),
    (
        "snapshots.grace_minutes",
        "min",
        whole(10, 10_080),
        "how long what is no longer needed stays: sending a snapshot may take half of it",
        "space in the store",
    ),
    (
        "formats.events",
        "",
        Form::OneOf(&["avro", "confluent"]),
        "in which form events lie on the brokers; not JSON: nothing reads that back exactly",
        "",
    ),
    (
        "formats.cycles",
        "",
        Form::OneOf(&["avro", "json", "confluent"]),
        "the same for closed cycles",
        "",
    ),
    (
        "formats.directives",
        "",
        Form::OneOf(&["avro", "json", "confluent"]),
        "the same for directives; `json`: any script can obey",
        "",
    ),
    (
        "formats.cloudevents",
        "",
        Form::OneOf(&["none", "decisions", "all"]),
        "what bears a trace parent and CloudEvents attributes: nothing, events and directives, or \
         cycles too",
        "",
    ),
    (
        "formats.registry",
        "",
        Form::Text(Text::Registry),
        "the Schema Registry of Confluent frames, `http://HOST:PORT`; none: they are dead letters",
        "",
    ),
    (
        "formats.registry_password_file",
        "",
        Form::Text(Text::PathOrNone),
        "a file with `user:password` for it, mode 0600",
        "",
    ),
    (
        "formats.registry_timeout_ms",
        "ms",
        whole(10, 60_000),
        "how long an answer of it may take",
        "a dead one is noticed later",
    ),
    (
        "formats.registry_patience_s",
        "s",
        whole(0, 3600),
        "a record whose schema cannot be had holds its partition up for so long, then it is a dead \
         letter",
        "a registry that is gone stops a partition for longer",
    ),
    (
        "formats.registry_unknown_s",
        "s",
        whole(0, 3600),
        "the same where the registry has no such schema; not above `registry_patience_s`",
        "a wrong id stops a partition for longer",
    ),
    (
        "formats.schemas_max",
        "schemas",
        whole(1, 100_000),
        "kept in memory and in the data folder; one more is refused",
        "memory",
    ),
    (
        "formats.schema_max_kib",
        "KiB",
        whole(1, 4096),
        "largest schema",
        "memory",
    ),
    (
        "formats.dead_letter_max_kib",
        "KiB",
        whole(1, 900),
        "longest value of a dead letter; more is cut, and its length and hash are told",
        "disk; above a broker's `message.max.bytes` nothing can be committed",
    ),
    (
        "formats.telegraf.enabled",
        "",
        Form::YesNo,
        "whether Telegraf's JSON on `metrics` is read",
        "",
    ),
    (
        "formats.telegraf.mesh",
        "",
        Form::Text(Text::WordOrNone),
        "the tag that names the mesh; with `=` before it the mesh's name itself",
        "",
    ),
    (
        "formats.telegraf.node",
        "",
        Form::Text(Text::WordOrNone),
        "the tag that names the node; with `=` before it the node's name itself",
        "",
    ),
    (
        "formats.telegraf.time_unit",
        "",
        Form::OneOf(&["s", "ms", "us", "ns"]),
        "what timestamps count: Telegraf's `json_timestamp_units`",
        "",
    ),
    (
        "formats.telegraf.cpu_percent",
        "",
        Form::Text(Text::WordOrNone),
        "where `cpu_percent` stands: `measurement[tag=value].field * FACTOR + OFFSET`, the \
         brackets, factor and offset if needed; empty: nowhere",
        "",
    ),
    (
        "formats.telegraf.memory_percent",
        "",
        Form::Text(Text::WordOrNone),
        "where `memory_percent` stands",
        "",
    ),
    (
        "formats.telegraf.mesh_connectivity",
        "",
        Form::Text(Text::WordOrNone),
        "where `mesh_connectivity` stands",
        "",
    ),
    (
        "formats.telegraf.latency_ms",
        "",
        Form::Text(Text::WordOrNone),
        "where `latency_ms` stands",
        "",
    ),
    (
        "formats.telegraf.packet_loss",
        "",
        Form::Text(Text::WordOrNone),
        "where `packet_loss` stands",
        "",
    ),
    (
        "formats.telegraf.mttr_minutes",
        "",
        Form::Text(Text::WordOrNone),
        "where `mttr_minutes` stands",
        "",
    ),
    (
        "formats.telegraf.zero_trust_success_rate",
        "",
        Form::Text(Text::WordOrNone),
        "where `zero_trust_success_rate` stands",
        "",
    ),
    (
        "formats.telegraf.frequency_hz",
        "",
        Form::Text(Text::WordOrNone),
        "where `frequency_hz` stands",
        "",
    ),
    (
        "time.source",
        "",
        Form::OneOf(&["log", "sample"]),
        "`log`: when a record was appended; `sample`: the sample's own time, for simulation and \
         backfill; fixed when the log begins",
        "",
    ),
    (
        "loop.flush_records",
        "records",
        whole(1, 1_000_000),
        "a commit is due after so many",
        "memory, and later orders under load",
    ),
    (
        "loop.flush_ms",
        "ms",
        whole(1, 10_000),
        "longest wait for a commit",
        "later orders",
    ),
    (
        "loop.apply_ms",
        "ms",
        whole(0, 60_000),
        "how long rows in memory may be ahead of those on disk",
        "a restart folds so much again, and reading commands lag",
    ),
    (
        "loop.cached_nodes",
        "nodes",
        whole(1, 10_000_000),
        "kept decoded in memory by each stage, all its partitions together",
        "2.5 KB of memory each",
    ),
    (
        "loop.tick_s",
        "s",
        whole(1, 3600),
        "an alarm that stands is looked at after so long without a record",
        "silence is noticed later",
    ),
    (
        "loop.stop_s",
        "s",
        whole(1, 600),
        "how long a stop may take before it is cut short",
        "a slow stop stays slow",
    ),
    (
        "web.listen",
        "",
        Form::Text(Text::Listen),
        "where the door listens; port 0: any free one; not loopback: only with `[[token]]` \
         entries; `--listen`",
        "",
    ),
    (
        "web.certificate_file",
        "",
        Form::Text(Text::PathOrNone),
        "the door's certificate, PEM, its own first: with it TCP is TLS; read again at SIGHUP",
        "",
    ),
    (
        "web.key_file",
        "",
        Form::Text(Text::PathOrNone),
        "its private key, PEM, mode 0600; read again at SIGHUP",
        "",
    ),
    (
        "web.client_ca_file",
        "",
        Form::Text(Text::PathOrNone),
        "the authorities of clients' certificates, PEM; read again at SIGHUP",
        "",
    ),
    (
        "web.body_max_kib",
        "KiB",
        whole(1, 1 << 16),
        "largest body; more is answered 413",
        "memory, for each connection",
    ),
    (
        "web.connections_max",
        "connections",
        whole(1, 1 << 16),
        "at a time; one more is answered 503",
        "memory and file descriptors",
    ),
    (
        "web.followers_max",
        "followers",
        whole(0, 1 << 16),
        "readers of server-sent events at a time",
        "memory, and reading beside the loop",
    ),
    (
        "web.read_timeout_s",
        "s",
        whole(1, 3600),
        "how long a client may take to send its headers, or its whole body",
        "slow clients hold connections longer",
    ),
    (
        "web.write_timeout_s",
        "s",
        whole(1, 3600),
        "how long a client may take to read a piece of an answer",
        "slow clients hold connections longer",
    ),
    (
        "web.queue_max",
        "records",
        whole(1, 100_000_000),
        "of `metrics` that may wait for the loop; beyond, 429",
        "older readings are judged first, later",
    ),
    (
        "web.node_series",
        "",
        Form::YesNo,
        "whether `/metrics` has gauges of each node",
        "",
    ),
    (
        "web.node_series_max",
        "nodes",
        whole(0, 100_000),
        "that have them at most",
        "larger scrapes, and as many series in Prometheus",
    ),
    (
        "token.name",
        "",
        Form::Text(Text::Name),
        "what the log and records call who shows it; of each entry another",
        "",
    ),
    (
        "token.file",
        "",
        Form::Text(Text::Path),
        "the file, mode 0600, with the token: 16 to 512 visible ASCII characters; this or \
         `certificate`; read again at SIGHUP",
        "",
    ),
    (
        "token.certificate",
        "",
        Form::Text(Text::Name),
        "instead of a token: a DNS name in a client's certificate by an authority of \
         `web.client_ca_file`, letter by letter, no wildcards",
        "",
    ),
    (
        "token.meshes",
        "",
        Form::Texts(Text::Name),
        "the meshes that may be seen and spoken of; `[\"*\"]` is all",
        "",
    ),
    (
        "token.role",
        "",
        Form::OneOf(&["ingest", "read", "operate"]),
        "`ingest`: send samples and outcomes, read directives; `read`: every GET; `operate`: all",
        "",
    ),
    (
        "token.node",
        "",
        Form::Text(Text::Name),
        "with `ingest`: the one node that may be spoken for, and whose directives may be read",
        "",
    ),
    (
        "agent.enabled",
        "",
        Form::YesNo,
        "whether `run` brings an agent for this host; `--no-agent`",
        "",
    ),
    (
        "agent.mesh",
        "",
        Form::Text(Text::Name),
        "the mesh that the node is of; `--mesh`",
        "",
    ),
    (
        "agent.node",
        "",
        Form::Text(Text::NameOrNone),
        "the node's name; empty: the host's; `--node`",
        "",
    ),
    (
        "agent.interval_s",
        "s",
        number(1.0, 3600.0),
        "how often it samples until it is told otherwise",
        "illness is seen later",
    ),
    (
        "agent.peers",
        "",
        Form::Texts(Text::Peer),
        "whom latency and loss are measured to: addresses or names, with `:port` over TCP, else by \
         ICMP echo",
        "more probes on the network",
    ),
    (
        "agent.discover",
        "",
        Form::YesNo,
        "measure to the neighbours and routers that the system knows, if `peers` is empty",
        "",
    ),
    (
        "agent.peers_max",
        "peers",
        whole(0, 256),
        "measured at most",
        "more probes on the network",
    ),
    (
        "agent.probes",
        "probes",
        whole(1, 100),
        "per peer and sample",
        "more probes on the network; loss is seen finer",
    ),
    (
        "agent.probe_timeout_ms",
        "ms",
        whole(1, 60_000),
        "how long a probe may take before it counts as lost",
        "samples of sick links come later",
    ),
    (
        "agent.executor",
        "",
        Form::OneOf(&["log", "exec"]),
        "`log`: says what it would do; `exec`: runs the programs of `[agent.exec]`; `--executor`",
        "",
    ),
    (
        "agent.exec_timeout_s",
        "s",
        whole(1, 3600),
        "how long a program may run",
        "one that hangs holds its kind up longer",
    ),
    (
        "agent.buffer_kib",
        "KiB",
        whole(1, 1 << 20),
        "samples and outcomes kept while nobody answers; the oldest go first",
        "disk",
    ),
    (
        "agent.request_timeout_s",
        "s",
        whole(1, 3600),
        "how long an answer may take",
        "a dead server is noticed later",
    ),
    (
        "agent.token_file",
        "",
        Form::Text(Text::PathOrNone),
        "the file, mode 0600, with the token for a door over TCP; read anew for every request",
        "",
    ),
    (
        "agent.ca_file",
        "",
        Form::Text(Text::PathOrNone),
        "whom to trust at an `https://` door, PEM; none: the system's authorities",
        "",
    ),
    (
        "telemetry.level",
        "",
        Form::OneOf(&["error", "warn", "info", "debug", "trace"]),
        "the least important level that is written; read again at SIGHUP",
        "",
    ),
    (
        "telemetry.format",
        "",
        Form::OneOf(&["text", "json"]),
        "lines for people, or one JSON object a line",
        "",
    ),
    (
        "plan.mode",
        "",
        Form::OneOf(&["act", "shadow"]),
        "`shadow` only records what would have been ordered; `--mode`",
        "",
    ),
    (
        "plan.allow",
        "",
        Form::Actions,
        "what may be ordered: a kind, or `kind:value` such as `healing:preemptive`",
        "",
    ),
    (
        "plan.approve",
        "",
        Form::Actions,
        "what of it a person must approve",
        "",
    ),
    (
        "plan.cooldown_s",
        "s",
        whole(0, DAY_S),
        "how long the same node, kind and value rests",
        "a node still ill waits longer",
    ),
    (
        "plan.budget_percent",
        "%",
        number(0.0, 100.0),
        "share of a mesh's nodes acted on at a time",
        "a wrong decision reaches more nodes",
    ),
    (
        "plan.budget_min",
        "nodes",
        whole(0, 1_000_000),
        "but at least so many",
        "a wrong decision reaches more nodes",
    ),
    (
        "plan.help_s",
        "s",
        whole(1, DAY_S),
        "how long after its outcome an act counts against the budget, and after which it did not \
         help",
        "the next node waits longer",
    ),
    (
        "plan.ttl_intervals",
        "intervals",
        whole(1, 100),
        "a directive's life, in the node's intervals",
        "an order may be begun when it fits no more",
    ),
    (
        "plan.ttl_min_s",
        "s",
        whole(1, DAY_S),
        "but at least this",
        "an order may be begun when it fits no more",
    ),
    (
        "plan.approval_s",
        "s",
        whole(1, 7 * DAY_S),
        "how long a proposal waits for a person",
        "what is approved may fit no more",
    ),
    (
        "plan.storm_percent",
        "%",
        number(0.0, 100.0),
        "more than this share of a mesh ill at once is a storm: nothing is ordered until a person \
         releases",
        "a common cause is healed node by node",
    ),
    (
        "plan.storm_min",
        "nodes",
        whole(2, 1_000_000),
        "and at least so many",
        "a common cause is healed node by node",
    ),
    (
        "plan.storm_s",
        "s",
        whole(1, 3600),
        "what \"at once\" means",
        "what has no common cause counts as one",
    ),
    (
        "plan.attempts",
        "attempts",
        whole(1, 100),
        "how often what failed or expired goes again, per episode",
        "more acts that do not help",
    ),
    (
        "plan.episode_s",
        "s",
        whole(1, DAY_S),
        "not wished for so long, an episode ends",
        "attempts are spent for longer",
    ),
    (
        "plan.longer_interval_s",
        "s",
        whole(0, DAY_S),
        "a longer interval is ordered after it was wished for so long",
        "more samples than needed",
    ),
    (
        "plan.confirm_s",
        "s",
        whole(0, DAY_S),
        "what is not critical is healed only after its incident was open for so long",
        "healing comes later",
    ),
    (
        "plan.retire_s",
        "s",
        whole(3600, 366 * DAY_S),
        "a node silent for so long is forgotten",
        "rows of nodes that are gone",
    ),
    (
        "monitor.max_future_s",
        "s",
        whole(0, DAY_S),
        "a sample's time may be this far after its append time",
        "wronger clocks are believed",
    ),
    (
        "monitor.silent_intervals",
        "intervals",
        whole(1, 100),
        "a node is silent, and a sample is history, after so many of its own",
        "silence is noticed later",
    ),
    (
        "monitor.interval_min_s",
        "s",
        whole(1, 3600),
        "shortest interval that counts for that",
        "silence is noticed later",
    ),
    (
        "monitor.interval_max_s",
        "s",
        whole(1, DAY_S),
        "longest; not below `interval_min_s`",
        "silence is noticed later",
    ),
    (
        "monitor.interval_default_s",
        "s",
        whole(1, DAY_S),
        "the interval of a node that does not say",
        "silence is noticed later",
    ),
    (
        "monitor.conflict_s",
        "s",
        whole(1, DAY_S),
        "how long all for a node is withheld after a sign of two agents with its name",
        "healing comes later",
    ),
    (
        "symptoms.clear_s",
        "s",
        number(0.0, DAY_S as f64),
        "a latch goes off at a good reading so long after the first good one",
        "incidents stay open longer",
    ),
    (
        "symptoms.warning_s",
        "s",
        number(0.0, DAY_S as f64),
        "a warning is established when its readings span so long",
        "illness is believed later",
    ),
    (
        "symptoms.critical_s",
        "s",
        number(0.0, DAY_S as f64),
        "a critical one",
        "illness is believed later",
    ),
    (
        "symptoms.thriving_s",
        "s",
        number(0.0, DAY_S as f64),
        "EUPHORIC for so long asks for `optimize`",
        "idle capacity stays longer",
    ),
    (
        "symptoms.readings",
        "readings",
        whole(1, 1000),
        "and each of these by so many in a row",
        "illness is believed later",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn key(name: &str) -> Key {
        keys().into_iter().find(|key| key.name == name).unwrap()
    }

    #[test]
    fn the_table_the_fields_and_the_defaults_agree() {
        let table: BTreeSet<String> = keys().into_iter().map(|key| key.name).collect();
        assert_eq!(table.len(), keys().len(), "no key stands there twice");
        let fields: BTreeSet<String> = defaults().into_keys().collect();
        let without: Vec<_> = fields.difference(&table).collect();
        assert!(without.is_empty(), "fields without a row: {without:?}");
        // Without a default are programs and bounds only.
        for key in keys() {
            match key.form {
                Form::Command | Form::Properties | Form::Bound => {}
                _ if key.is_listed() => assert_eq!(key.default, None, "{}", key.name),
                _ => assert!(key.default.is_some(), "row without a field: {}", key.name),
            }
            if let Some(default) = &key.default {
                assert_eq!(key.check(default), Ok(()), "{}", key.name);
            }
            let numbers = matches!(key.form, Form::Whole { .. } | Form::Number { .. });
            assert!(!numbers || !key.cost.is_empty(), "cost of {}", key.name);
        }
    }

    #[test]
    fn every_key_has_a_section_and_a_variable_of_its_own() {
        let names: BTreeSet<_> = SECTIONS.iter().map(|(name, _)| *name).collect();
        let mut variables = BTreeSet::new();
        for key in keys() {
            let section = key.name.split('.').next().unwrap().to_owned();
            assert!(names.contains(section.as_str()), "{}", key.name);
            assert!(variables.insert(key.variable()), "{}", key.name);
        }
    }

    #[test]
    fn the_policy_holds_to_the_bounds_told_here() {
        let policy_keys: BTreeSet<String> = Policy::keys().into_iter().collect();
        let told = keys().into_iter().filter(Key::is_policy);
        let told: BTreeSet<String> = told.map(|key| key.name).collect();
        assert_eq!(told, policy_keys);
        let verdict = |key: &Key, value: String| {
            let aside = match key.name.as_str() {
                "monitor.interval_min_s" => String::new(),
                _ => "monitor.interval_min_s = 1\n".to_owned(),
            };
            let aside = match key.name.as_str() {
                "monitor.interval_max_s" | "monitor.interval_default_s" => aside,
                _ => format!("monitor.interval_max_s = 86400\n{aside}"),
            };
            Policy::parse(&format!("{aside}{} = {value}\n", key.name)).is_ok()
        };
        for key in keys().iter().filter(|key| key.is_policy()) {
            let verdicts = match key.form {
                Form::Whole { min, max } => [min - 1, min, max, max + 1]
                    .map(|value| verdict(key, value.to_string()))
                    .to_vec(),
                Form::Number { min, max } => [min - 0.5, min, max, max + 0.5]
                    .map(|value| verdict(key, format!("{value:?}")))
                    .to_vec(),
                _ => continue,
            };
            assert_eq!(verdicts, [false, true, true, false], "{}", key.name);
        }
    }

    #[test]
    fn the_settings_hold_to_their_bounds_and_fit_their_fields() {
        for key in keys().iter().filter(|key| !key.is_policy()) {
            let Form::Whole { min, max } = key.form else {
                continue;
            };
            assert!(key.check(&Value::Integer(min - 1)).is_err(), "{}", key.name);
            assert!(key.check(&Value::Integer(max + 1)).is_err(), "{}", key.name);
            for value in [min, max] {
                assert_eq!(key.check(&Value::Integer(value)), Ok(()), "{}", key.name);
                let text = format!("{} = {value}\n", key.name);
                let read = toml::from_str::<Settings>(&text);
                assert!(read.is_ok(), "{text}: {read:?}");
            }
        }
    }

    #[test]
    fn values_are_taken_or_refused_with_what_was_expected() {
        for (name, value, expected) in [
            ("log.sync_ms", "0", "0, expected 1 to 1000 ms"),
            (
                "log.sync_ms",
                "2.5",
                "2.5, expected a whole number, 1 to 1000 ms",
            ),
            ("agent.interval_s", "60", ""),
            (
                "agent.interval_s",
                "nan",
                "nan, expected a number, 1 to 3600 s",
            ),
            ("agent.enabled", "yes", "\"yes\", expected true or false"),
            ("log.fsync", "always", "\"always\", expected group or never"),
            ("log.dir", "", "\"\", expected a path of 1 to 4096 bytes"),
            ("log.dir", "2026", ""),
            (
                "log.prefix",
                "a/b",
                "\"a/b\", expected at most 64 letters, digits, dots, dashes or underscores",
            ),
            ("log.prefix", "", ""),
            ("agent.mesh", "", "\"\", expected a name of 1 to 255 bytes"),
            ("agent.node", "", ""),
            ("snapshots.url", "", ""),
            ("snapshots.url", "file:///var/snapshots", ""),
            ("snapshots.url", "s3://bucket", ""),
            ("snapshots.url", "s3://bucket/a/b", ""),
            (
                "snapshots.url",
                "s3://key:secret@bucket",
                "\"s3://key:secret@bucket\", expected file:///path or s3://bucket/prefix without \
                 name and password, or \"\"",
            ),
            (
                "snapshots.url",
                "/var/snapshots",
                "\"/var/snapshots\", expected file:///path or s3://bucket/prefix without name and \
                 password, or \"\"",
            ),
            ("web.listen", "127.0.0.1:0", ""),
            ("web.listen", "[::1]:1618", ""),
            (
                "web.listen",
                "localhost",
                "\"localhost\", expected an address and a port, such as 127.0.0.1:1618",
            ),
            // What it needs beside it is for the second gate.
            ("web.listen", "0.0.0.0:1618", ""),
            (
                "token.role",
                "admin",
                "\"admin\", expected ingest or read or operate",
            ),
            (
                "agent.peers",
                "[\"10.0.0.1\", \"fe80::1\", \"[fe80::1]:22\", \"router:443\"]",
                "",
            ),
            (
                "agent.peers",
                "[\"router:0\"]",
                "\"router:0\", expected an address or a name, such as 10.0.0.1, [fe80::1]:22 or \
                 router:443",
            ),
            (
                "agent.peers",
                "10.0.0.1",
                "\"10.0.0.1\", expected a list, as [\"..\", \"..\"]",
            ),
            (
                "agent.exec.healing",
                "[]",
                "[], expected a program and its arguments, as [\"program\", \"{value}\"]",
            ),
            (
                "agent.exec.healing",
                "[\"\", \"x\"]",
                "[\"\", \"x\"], expected a program's name first",
            ),
            ("agent.exec.healing", "[\"heal\", \"\"]", ""),
            ("telemetry.level", "\"debug\"", ""),
            ("formats.registry", "http://registry:8081", ""),
            ("formats.registry", "http://[::1]:8081/api/v7", ""),
            (
                "formats.registry",
                "https://registry:8081",
                "\"https://registry:8081\", expected http://HOST:PORT: https is not there yet, so \
                 put a proxy beside this process",
            ),
            (
                "formats.registry",
                "http://user@registry:8081",
                "\"http://user@registry:8081\", expected http://HOST:PORT, such as \
                 http://registry:8081, or \"\"",
            ),
            (
                "formats.events",
                "json",
                "\"json\", expected avro or confluent",
            ),
        ] {
            let key = key(name);
            let got = key.check(&key.value_of(value)).err().unwrap_or_default();
            assert_eq!(got, expected, "{name} = {value}");
        }
        let long = Value::String("n".repeat(256));
        assert!(key("agent.node").check(&long).is_err());
        let many = Value::Array(vec![Value::String("p".into()); LIST_MAX + 1]);
        let refused = key("agent.peers").check(&many).unwrap_err();
        assert_eq!(refused, "257 entries, expected at most 256");
    }
}
