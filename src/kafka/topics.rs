//! The topics on the brokers: what they are ([`look`]), in what that is not what they should be
//! ([`differences`]), and making those that are not there ([`ensure`]).
//!
//! What is there is never changed: a setting that differs was perhaps somebody's wish. Each
//! difference names the command that mends it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::config::settings::{Settings, Source};
use crate::model::LogOpened;
use crate::stream::Topic;

use super::client::{Client, KafkaError, Words, explained};

/// What a topic should be.
struct Wanted {
    partitions: i32,
    /// Copies of each; 0: what the brokers give.
    replication: i32,
    /// Kafka's names of settings, and their values.
    settings: BTreeMap<&'static str, String>,
}

/// What a topic is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its number of partitions.
    pub partitions: i32,
    /// Copies of the partition that has the fewest.
    pub replication: i32,
    /// Kafka's names of settings, and their values.
    pub settings: BTreeMap<String, String>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The topic's name on the brokers.
    pub topic: String,
    /// What was looked at: `exists`, `partitions`, `replication`, `opened`, or Kafka's name of a
    /// setting.
    pub check: &'static str,
    /// What is there.
    pub found: String,
    /// What should be.
    pub expected: String,
    /// The command that mends it, or what else does.
    pub mend: String,
}

/// What a topic should be under these settings.
fn wanted(topic: Topic, settings: &Settings) -> Wanted {
    let days = &settings.log.keep_days;
    let kept = match (topic, settings.time.source) {
        (Topic::Events, _) => None,
        // Age says nothing of records that bear their own time.
        (_, Source::Sample) => None,
        (Topic::Metrics, Source::Log) => Some(days.metrics),
        (Topic::PlanInbox, Source::Log) => Some(days.plan_inbox),
        (Topic::Cycles, Source::Log) => Some(days.cycles),
        (Topic::Directives, Source::Log) => Some(days.directives),
        (Topic::DeadLetters, Source::Log) => Some(days.dead_letters),
    };
    let time = match settings.time.source {
        Source::Log => "LogAppendTime",
        Source::Sample => "CreateTime",
    };
    let record_max = match topic {
        Topic::DeadLetters => DEAD_LETTER_BYTES_MAX,
        _ => RECORD_BYTES_MAX,
    };
    let forever = "-1".to_owned();
    let partitions = settings.kafka.partitions;
    let bytes = match (topic, settings.log.metrics_max_mib) {
        (Topic::Metrics, mib) if mib > 0 => ((mib << 20) / partitions as u64).to_string(),
        _ => forever.clone(),
    };
    let mut wanted = BTreeMap::from([
        (CLEANUP, "delete".to_owned()),
        (TIMESTAMP, time.to_owned()),
        (
            RETENTION,
            kept.map_or(forever, |days| (days * DAY_MS).to_string()),
        ),
        (RETENTION_BYTES, bytes),
        (RECORD_BYTES, record_max.to_string()),
        // A leader that lacks what was committed would take it back.
        (UNCLEAN, "false".to_owned()),
    ]);
    if settings.kafka.replication >= 3 {
        wanted.insert(IN_SYNC, "2".to_owned());
    }
    Wanted {
        partitions,
        replication: settings.kafka.replication,
        settings: wanted,
    }
}

/// What is there of our topics.
///
/// # Errors
/// The brokers do not answer, or will not say.
pub fn look(client: &Client) -> Result<BTreeMap<Topic, Seen>, KafkaError> {
    let admin = admin(client)?;
    let attempt = format!("asking {} for its topics", client.brokers());
    let consumer: BaseConsumer<Words> = client
        .config()
        .create_with_context(Words::default())
        .map_err(|error| KafkaError::of(&attempt, error))?;
    let metadata = consumer.fetch_metadata(None, ASK).map_err(|error| {
        let error = explained(&consumer, error);
        KafkaError(format!(
            "{attempt}: {error}; expected brokers there (kafka.brokers, kafka.security)"
        ))
    })?;
    let mut seen = BTreeMap::new();
    for topic in Topic::ALL {
        let name = client.topic_name(topic);
        let of_name = |found: &&rdkafka::metadata::MetadataTopic| found.name() == name;
        if let Some(found) = metadata.topics().iter().find(of_name) {
            let copies = found.partitions().iter().map(|of| of.replicas().len());
            seen.insert(
                topic,
                Seen {
                    partitions: found.partitions().len() as i32,
                    replication: copies.min().unwrap_or(0) as i32,
                    settings: BTreeMap::new(),
                },
            );
        }
    }
    let names: Vec<String> = seen.keys().map(|topic| client.topic_name(*topic)).collect();
    let asked: Vec<ResourceSpecifier<'_>> = names
        .iter()
        .map(|name| ResourceSpecifier::Topic(name))
        .collect();
    if asked.is_empty() {
        return Ok(seen);
    }
    let attempt = format!("asking {} for the settings of our topics", client.brokers());
    let answers =
        wait(admin.describe_configs(&asked, &AdminOptions::new().request_timeout(Some(ASK))))?
            .map_err(|error| KafkaError::of(&attempt, error))?;
    let mut settings = BTreeMap::new();
    for answer in answers {
        let resource = answer.map_err(|error| KafkaError::of(&attempt, error))?;
        if let OwnedResourceSpecifier::Topic(name) = &resource.specifier {
            settings.insert(name.clone(), entries(resource));
        }
    }
    for (topic, seen) in &mut seen {
        seen.settings = settings
            .remove(&client.topic_name(*topic))
            .unwrap_or_default();
    }
    Ok(seen)
}

fn entries(resource: ConfigResource) -> BTreeMap<String, String> {
    let entries = resource.entries.into_iter();
    entries
        .filter_map(|entry| Some((entry.name, entry.value?)))
        .collect()
}

/// Makes the topics that are not there, and waits until they are; answers which.
///
/// # Errors
/// The brokers do not answer, or refuse.
pub fn ensure(client: &Client, settings: &Settings) -> Result<Vec<Topic>, KafkaError> {
    let there = look(client)?;
    let wanted: Vec<(Topic, String, Wanted)> = Topic::ALL
        .into_iter()
        .filter(|topic| !there.contains_key(topic))
        .map(|topic| (topic, client.topic_name(topic), wanted(topic, settings)))
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let new: Vec<NewTopic<'_>> = wanted
        .iter()
        .map(|(_, name, wanted)| {
            let copies = match wanted.replication {
                0 => -1,
                copies => copies,
            };
            let copies = TopicReplication::Fixed(copies);
            let mut topic = NewTopic::new(name, wanted.partitions, copies);
            for (key, value) in &wanted.settings {
                topic = topic.set(key, value);
            }
            topic
        })
        .collect();
    let options = AdminOptions::new()
        .request_timeout(Some(ASK))
        .operation_timeout(Some(ASK));
    let attempt = format!("making topics at {}", client.brokers());
    let answers = wait(admin(client)?.create_topics(&new, &options))?
        .map_err(|error| KafkaError::of(&attempt, error))?;
    for answer in answers {
        match answer {
            // Somebody else made it meanwhile.
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((name, code)) => {
                return Err(KafkaError(format!("{attempt}: {name}: {code}")));
            }
        }
    }
    until_led(client)?;
    Ok(wanted.into_iter().map(|(topic, _, _)| topic).collect())
}

/// Waits until every partition of our topics has a leader.
fn until_led(client: &Client) -> Result<(), KafkaError> {
    let admin = admin(client)?;
    let attempt = format!("waiting for the new topics at {}", client.brokers());
    let until = Instant::now() + client.patience();
    loop {
        let metadata = admin
            .inner()
            .fetch_metadata(None, ASK)
            .map_err(|error| KafkaError::of(&attempt, error))?;
        let led = Topic::ALL.into_iter().all(|topic| {
            let name = client.topic_name(topic);
            let found = metadata.topics().iter().find(|found| found.name() == name);
            found.is_some_and(|found| {
                let partitions = found.partitions();
                !partitions.is_empty()
                    && partitions
                        .iter()
                        .all(|of| of.leader() >= 0 && of.error().is_none())
            })
        });
        if led {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(KafkaError::of(attempt, "some partitions have no leader"));
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// In what the topics are not as they should be. `openings` says what each partition of
/// `plan-inbox` was opened as.
pub fn differences(
    client: &Client,
    settings: &Settings,
    seen: &BTreeMap<Topic, Seen>,
    openings: &[Option<LogOpened>],
) -> Vec<Difference> {
    let mut differences = Vec::new();
    let opened = openings.iter().flatten().next();
    for topic in Topic::ALL {
        let name = client.topic_name(topic);
        let mut differs = |check, found: &str, expected: &str, mend: String| {
            differences.push(Difference {
                topic: name.clone(),
                check,
                found: found.to_owned(),
                expected: expected.to_owned(),
                mend,
            });
        };
        let wanted = wanted(topic, settings);
        let Some(seen) = seen.get(&topic) else {
            differs("exists", "no topic", "a topic", CREATE.to_owned());
            continue;
        };
        let partitions = opened.map_or(wanted.partitions, |opened| opened.partitions);
        if seen.partitions != partitions {
            let mend = "a log keeps its number of partitions: another log.prefix begins a new log";
            differs(
                "partitions",
                &seen.partitions.to_string(),
                &partitions.to_string(),
                mend.to_owned(),
            );
        }
        if seen.replication < wanted.replication {
            let mend = format!(
                "kafka-reassign-partitions --bootstrap-server {} adds copies",
                client.brokers()
            );
            differs(
                "replication",
                &seen.replication.to_string(),
                &format!("at least {}", wanted.replication),
                mend,
            );
        }
        for (key, value) in &wanted.settings {
            let found = seen.settings.get(*key).map_or("not set", String::as_str);
            if let Some(expected) = expectation(key, value, found) {
                let mend = format!(
                    "kafka-configs --bootstrap-server {} --alter --entity-type topics \
                     --entity-name {name} --add-config {key}={value}",
                    client.brokers()
                );
                differs(key, found, &expected, mend);
            }
        }
    }
    if seen.contains_key(&Topic::PlanInbox) && seen.contains_key(&Topic::Events) {
        differences.extend(not_opened(client, settings, openings));
    }
    differences
}

/// What was expected of a setting, if what was found will not do.
fn expectation(key: &str, wanted: &str, found: &str) -> Option<String> {
    let forever = |value: &str| value == "-1";
    match key {
        RETENTION | RETENTION_BYTES => {
            let enough = forever(found)
                || !forever(wanted) && found.parse::<u64>().ok() >= wanted.parse::<u64>().ok();
            (!enough).then(|| match forever(wanted) {
                true => "-1 (for ever)".to_owned(),
                false => format!("at least {wanted}"),
            })
        }
        RECORD_BYTES | IN_SYNC => {
            let enough = found.parse::<u64>().ok() >= wanted.parse::<u64>().ok();
            (!enough).then(|| format!("at least {wanted}"))
        }
        _ => (found != wanted).then(|| wanted.to_owned()),
    }
}

/// What is wrong with the log's beginning.
fn not_opened(
    client: &Client,
    settings: &Settings,
    openings: &[Option<LogOpened>],
) -> Vec<Difference> {
    let topic = client.topic_name(Topic::PlanInbox);
    let differs = |found: String, expected: &str, mend: &str| Difference {
        topic: topic.clone(),
        check: "opened",
        found,
        expected: expected.to_owned(),
        mend: mend.to_owned(),
    };
    let mut differences = Vec::new();
    let without = openings.iter().filter(|opened| opened.is_none()).count();
    if without > 0 {
        let found = format!("no LogOpened in {without} of {} partitions", openings.len());
        differences.push(differs(found, "one in each", CREATE));
    }
    let Some(first) = openings.iter().flatten().next() else {
        return differences;
    };
    if let Some(other) = openings.iter().flatten().find(|other| *other != first) {
        let found = format!("logs {} and {}", first.log_id, other.log_id);
        differences.push(differs(found, "one log", "use another log.prefix"));
    }
    let source = match settings.time.source {
        Source::Log => "log",
        Source::Sample => "sample",
    };
    if first.time_source != source {
        let found = format!("opened with time.source = {:?}", first.time_source);
        let mend = "a log keeps it: set time.source so, or use another log.prefix";
        differences.push(differs(found, &format!("{source:?}"), mend));
    }
    differences
}

fn admin(client: &Client) -> Result<AdminClient<Words>, KafkaError> {
    client
        .config()
        .create_with_context(Words::default())
        .map_err(|error| KafkaError::of("setting up an admin client", error))
}

/// Waits for an answer, on a runtime of its own: never on one that serves somebody.
fn wait<T>(answer: impl Future<Output = T>) -> Result<T, KafkaError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| KafkaError::of("making a runtime for an admin client", error))?;
    Ok(runtime.block_on(answer))
}

const CLEANUP: &str = "cleanup.policy";
const TIMESTAMP: &str = "message.timestamp.type";
const RETENTION: &str = "retention.ms";
const RETENTION_BYTES: &str = "retention.bytes";
const RECORD_BYTES: &str = "max.message.bytes";
const UNCLEAN: &str = "unclean.leader.election.enable";
const IN_SYNC: &str = "min.insync.replicas";

const CREATE: &str = "homeostat topics create";

const DAY_MS: u64 = 86_400_000;

/// Largest batch of records, bytes: Kafka's own default, said so that every broker has the same.
const RECORD_BYTES_MAX: u64 = 1_048_588;

/// A dead letter is a record as large as they come, and headers that say where it lay.
const DEAD_LETTER_BYTES_MAX: u64 = 2 * RECORD_BYTES_MAX;

/// How long one answer may take.
const ASK: Duration = Duration::from_secs(15);

/// Between looks at what comes by itself.
const PAUSE: Duration = Duration::from_millis(50);
