//! The rim of a log on Kafka: what others wrote is brought to our encoding, what leaves to theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use crate::config::settings::{CloudEvents, Form, FormatsSettings};
use crate::model::{Span, Time};
use crate::runtime::{Entering, Formats, Outgoing, Record, TopicPartition, When};
use crate::stream::Topic;
use crate::wire;
use crate::wire::confluent::open_frame;
use crate::wire::leaving::{
    self, Encoding, Letter, WHY_UNTRANSLATED, encode, given_up, own_form, schema_of,
};
use crate::wire::telegraf::{Mapping, MappingWords};

use super::client::{RegistryError, Server};
use super::kept::Kept;
use super::schemas::{Look, Patience, Schemas};

/// Translates by a registry, a mapping and the operator's choice of forms.
pub struct Foreign {
    prefix: String,
    forms: BTreeMap<Topic, (Encoding, Option<u32>)>,
    cloudevents: CloudEvents,
    dead_letter_bytes_max: usize,
    schemas: Schemas,
    /// Oldest first, each from its time on.
    mappings: Vec<(Time, Option<Mapping>)>,
    /// Frames on `metrics` that were given up: partition and offset, recalled from dead letters.
    given_up: BTreeSet<(i32, i64)>,
}

impl Foreign {
    /// Reads what is kept in the data folder and registers the schemas of what leaves as Confluent
    /// frames, if their ids are not kept. Waits for the registry then, for one answer each.
    ///
    /// `now` is since when a mapping of Telegraf's counts that is not the one kept: records
    /// appended before are read by the one before, whenever they are read.
    ///
    /// # Errors
    /// The mapping is none, what is kept is of another registry or cannot be read, or the registry
    /// did not take a schema: nothing can begin.
    pub fn open(
        settings: &FormatsSettings,
        prefix: &str,
        folder: &Path,
        now: Time,
    ) -> Result<Foreign, RegistryError> {
        let words = words(settings);
        if let Some(words) = &words {
            Mapping::parse(words).map_err(|why| {
                RegistryError::Config(format!("reading [formats.telegraf]: {why}"))
            })?;
        }
        let mut kept = Kept::open(folder, &settings.registry)?;
        match kept.mappings.last() {
            None => kept.mapping(Time(0), words)?,
            Some((_, last)) if *last != words => kept.mapping(now, words)?,
            Some(_) => {}
        }
        let mappings = kept.mappings.iter().map(|(since, words)| {
            let mapping = words.as_ref().map(Mapping::parse).transpose();
            let mapping = mapping.map_err(|why| {
                RegistryError::Kept(format!("reading the mapping kept since {since}: {why}"))
            });
            mapping.map(|mapping| (*since, mapping))
        });
        let mappings = mappings.collect::<Result<_, _>>()?;
        let server = match settings.registry.as_str() {
            "" => None,
            url => Some(Server::new(
                url,
                &settings.registry_password_file,
                Duration::from_millis(settings.registry_timeout_ms),
                settings.schema_max_kib << 10,
            )?),
        };
        let mut forms = BTreeMap::new();
        for (topic, form) in [
            (Topic::Events, settings.events),
            (Topic::Cycles, settings.cycles),
            (Topic::Directives, settings.directives),
        ] {
            forms.insert(
                topic,
                match form {
                    Form::Avro => (Encoding::Avro, None),
                    Form::Json => (Encoding::Json, None),
                    Form::Confluent => {
                        let id = registered(topic, prefix, server.as_ref(), &mut kept)?;
                        (Encoding::Confluent, Some(id))
                    }
                },
            );
        }
        let patience = Patience {
            gone: Duration::from_secs(settings.registry_patience_s),
            unknown: Duration::from_secs(settings.registry_unknown_s),
        };
        Ok(Foreign {
            prefix: prefix.to_owned(),
            forms,
            cloudevents: settings.cloudevents,
            dead_letter_bytes_max: settings.dead_letter_max_kib << 10,
            schemas: Schemas::new(server, kept, patience, settings.schemas_max)?,
            mappings,
            given_up: BTreeSet::new(),
        })
    }

    /// A frame on `metrics`.
    fn frame(&mut self, partition: i32, mut record: Record, when: When) -> Entering {
        let Some((id, body)) = open_frame(&record.value) else {
            return self.message(record);
        };
        let place = (partition, record.offset);
        match when {
            When::First => {}
            When::Again => {
                // Partitions stand on machines whose clocks differ.
                let since = record.time - CLOCKS_APART;
                return Entering::Letters(record, since);
            }
            When::Recalled if self.given_up.contains(&place) => {
                return rejected(record, "given up when it was first folded");
            }
            When::Recalled => {}
        }
        let translated = match self.schemas.look(id) {
            Look::Asked => return Entering::Later(record),
            Look::GivenUp(why) => Err(why),
            Look::Known(written) => match &*written {
                Ok(written) => written.translate(body),
                Err(why) => Err(why.clone()),
            },
        };
        match translated {
            Ok(value) => {
                if let Some((_, node)) = wire::sample_names(&value) {
                    record.key = node.as_bytes().to_vec();
                }
                record.value = value;
                Entering::Ready(record)
            }
            Err(why) if when == When::First => rejected(record, &format!("schema {id}: {why}")),
            Err(why) => Entering::Lost(format!(
                "reading metrics/{partition} at offset {}: schema {id}: {why}; the record was \
                 translated when it was first folded, expected that it can be again: bring the \
                 registry back, or the data folder that knew the schema",
                record.offset
            )),
        }
    }

    /// A message of Telegraf's on `metrics`, if it is one.
    fn message(&self, mut record: Record) -> Entering {
        let mapping = self.mappings.iter().rev();
        let mut mapping = mapping.filter(|(since, _)| *since <= record.time);
        let Some((_, Some(mapping))) = mapping.next() else {
            return Entering::Ready(record);
        };
        if !Mapping::is_message(&record.value) {
            return Entering::Ready(record);
        }
        match mapping.read(&record.value) {
            Ok(Some(sample)) => {
                record.key = sample.node.into_bytes();
                record.value = sample.json.into_bytes();
            }
            Ok(None) => {
                record.key.clear();
                record.value.clear();
            }
            Err(why) => return rejected(record, &why),
        }
        Entering::Ready(record)
    }
}

impl Formats for Foreign {
    fn entering(&mut self, of: TopicPartition, record: Record, when: When) -> Entering {
        match of.topic {
            Topic::Metrics => self.frame(of.partition, record, when),
            Topic::PlanInbox | Topic::DeadLetters => Entering::Ready(record),
            Topic::Events | Topic::Cycles | Topic::Directives => {
                // What is none in any form stays as it is: its reader says so.
                let own = own_form(of.topic, &record.value, &record.headers);
                let own = own.ok().map(|own| own.into_owned());
                Entering::Ready(match own {
                    Some(value) => Record { value, ..record },
                    None => record,
                })
            }
        }
    }

    fn recall(&mut self, letter: &Record) {
        self.given_up
            .extend(given_up(&self.prefix, &letter.headers));
    }

    fn leaving(&mut self, outgoing: Outgoing) -> Outgoing {
        let Outgoing {
            to,
            time,
            key,
            value,
            mut headers,
        } = outgoing;
        if to.topic == Topic::DeadLetters {
            let letter = Letter {
                key,
                value,
                headers,
            };
            let letter = letter.addressed(&self.prefix, self.dead_letter_bytes_max);
            return Outgoing {
                to,
                time,
                key: letter.key,
                value: letter.value,
                headers: letter.headers,
            };
        }
        let form = self.forms.get(&to.topic).copied();
        let (encoding, id) = form.unwrap_or((Encoding::Avro, None));
        let attributes = match self.cloudevents {
            CloudEvents::None => false,
            CloudEvents::Decisions => matches!(to.topic, Topic::Events | Topic::Directives),
            CloudEvents::All => true,
        };
        let place = (to.topic, to.partition);
        for ours in leaving::headers(&self.prefix, place, &value, encoding, attributes) {
            // What is sent on, a sample on its way to its own partition, keeps its headers.
            if !headers.iter().any(|(name, _)| *name == ours.0) {
                headers.push(ours);
            }
        }
        let value = encode(to.topic, value, encoding, id)
            .expect("stages write records of their topics, and frames have an id from the start");
        Outgoing {
            to,
            time,
            key,
            value,
            headers,
        }
    }
}

/// A record that the fold will reject, with why.
fn rejected(mut record: Record, why: &str) -> Entering {
    const LETTERS: usize = 1024;
    let why: String = why.chars().take(LETTERS).collect();
    record
        .headers
        .push((WHY_UNTRANSLATED.to_owned(), why.into_bytes()));
    Entering::Ready(record)
}

/// The id of the schema of what stands on a topic: the one kept, else the registry's.
fn registered(
    topic: Topic,
    prefix: &str,
    server: Option<&Server>,
    kept: &mut Kept,
) -> Result<u32, RegistryError> {
    let schema = schema_of(topic).expect("its encoding can be chosen");
    let subject = format!("{prefix}{}-value", topic.name());
    let fingerprint: String = schema
        .fingerprint
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let name = (subject, fingerprint);
    if let Some(id) = kept.subjects.get(&name) {
        return Ok(*id);
    }
    let (subject, fingerprint) = name;
    let server = server.ok_or_else(|| {
        RegistryError::Config(format!(
            "registering {subject}: no Schema Registry is named, expected formats.registry"
        ))
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| RegistryError::Failed(format!("{}: {error}", server.url())))?;
    let id = runtime.block_on(server.register(&subject, schema.text))?;
    kept.subject(&subject, &fingerprint, id)?;
    Ok(id)
}

/// The mapping as it is written down; `None`: Telegraf is not read.
fn words(settings: &FormatsSettings) -> Option<MappingWords> {
    let telegraf = &settings.telegraf;
    telegraf.enabled.then(|| MappingWords {
        mesh: telegraf.mesh.clone(),
        node: telegraf.node.clone(),
        time_unit: telegraf.time_unit.name().to_owned(),
        metrics: telegraf
            .places()
            .into_iter()
            .filter(|(_, place)| !place.is_empty())
            .map(|(metric, place)| (metric.to_owned(), place.to_owned()))
            .collect(),
    })
}

/// How far the clocks of two brokers may differ before a dead letter is overlooked.
const CLOCKS_APART: Span = Span::seconds(600);
