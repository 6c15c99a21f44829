//! `homeostat topics` on a real broker: the topics and their settings, and a log that is opened
//! once, whoever opens it and whatever was half done.

mod broker;

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use homeostat::config::settings::KafkaSettings;
use homeostat::kafka::{Client, ensure_open, openings, title};
use homeostat::model::{LogOpened, PlanRecord};
use homeostat::runtime::TimeSource;
use homeostat::stream::Topic;
use homeostat::wire;
use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;

/// The topics of a prefix on a broker.
struct Topics {
    brokers: String,
    prefix: String,
    partitions: i32,
    source: &'static str,
}

impl Topics {
    fn new(name: &str) -> Option<Self> {
        Some(Topics {
            brokers: broker::shared()?.address().to_owned(),
            prefix: broker::prefix(name),
            partitions: 3,
            source: "log",
        })
    }

    fn ask(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_homeostat"))
            .args(["topics"])
            .args(args)
            .current_dir(std::env::temp_dir())
            .env("HOMEOSTAT_KAFKA_BROKERS", &self.brokers)
            .env("HOMEOSTAT_KAFKA_PARTITIONS", self.partitions.to_string())
            .env("HOMEOSTAT_LOG_PREFIX", &self.prefix)
            .env("HOMEOSTAT_TIME_SOURCE", self.source)
            .output()
            .unwrap()
    }

    /// What a command prints with `--json`, when it ends with `code`.
    fn said(&self, code: i32, args: &[&str]) -> Vec<Value> {
        let output = self.ask(&[args, &["--json"]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {stdout}{stderr}"
        );
        let lines = stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// What `check` finds, as `topic check`, without the prefix. It ends with 1 if that is
    /// something, else with 0.
    fn findings(&self) -> BTreeSet<String> {
        let output = self.ask(&["check", "--json"]);
        let stdout = String::from_utf8_lossy(&output.stdout);
        let lines = stdout.lines();
        let found: Vec<Value> = lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let code = i32::from(!found.is_empty());
        assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
        let name = |finding: &Value| {
            let topic = finding["topic"].as_str().unwrap();
            let topic = topic.strip_prefix(&self.prefix).unwrap();
            assert_ne!(finding["mend"].as_str().unwrap(), "");
            format!("{topic} {}", finding["check"].as_str().unwrap())
        };
        found.iter().map(name).collect()
    }

    fn name(&self, topic: Topic) -> String {
        format!("{}{}", self.prefix, topic.name())
    }

    fn client(&self) -> Client {
        let settings = KafkaSettings {
            brokers: self.brokers.clone(),
            partitions: self.partitions,
            patience_s: 60,
            ..KafkaSettings::default()
        };
        Client::new(&settings, &self.prefix).unwrap()
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.base().create().unwrap()
    }

    fn base(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    /// Replaces all of a topic's settings by these.
    fn alter(&self, topic: Topic, settings: &[(&str, &str)]) {
        let name = self.name(topic);
        let mut alter = AlterConfig::new(ResourceSpecifier::Topic(&name));
        for (key, value) in settings {
            alter = alter.set(key, value);
        }
        let answers = wait(self.admin().alter_configs([&alter], &AdminOptions::new())).unwrap();
        answers.into_iter().for_each(|answer| {
            answer.unwrap();
        });
    }

    /// Makes the topics with another program's idea of settings.
    fn make_plain(&self) {
        let names: Vec<String> = Topic::ALL
            .into_iter()
            .map(|topic| self.name(topic))
            .collect();
        let new: Vec<NewTopic<'_>> = names
            .iter()
            .map(|name| {
                NewTopic::new(name, self.partitions, TopicReplication::Fixed(1))
                    .set("retention.ms", "3600000")
            })
            .collect();
        let answers = wait(self.admin().create_topics(&new, &AdminOptions::new())).unwrap();
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }

    /// Opens one partition, as somebody would who ended half way.
    fn open_one(&self, partition: i32, opened: &LogOpened) {
        let producer: BaseProducer = self.base().create().unwrap();
        let name = self.name(Topic::PlanInbox);
        let value = wire::encode_plan(&PlanRecord::LogOpened(opened.clone()));
        let record: BaseRecord<'_, (), Vec<u8>> =
            BaseRecord::to(&name).partition(partition).payload(&value);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(Duration::from_secs(30)).unwrap();
    }

    /// The ids that the partitions are opened under.
    fn ids(&self) -> Vec<Option<String>> {
        let openings = openings(&self.client()).unwrap();
        let ids = openings.into_iter();
        ids.map(|opened| opened.map(|opened| opened.log_id))
            .collect()
    }
}

fn opened(id: &str, partitions: i32) -> LogOpened {
    LogOpened {
        log_id: id.to_owned(),
        audit_name: format!("{id}.localhost/homeostat"),
        partitions,
        time_source: "log".to_owned(),
    }
}

fn wait<T>(answer: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(answer)
}

/// Settings take their time through a cluster.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

fn set(findings: &[&str]) -> BTreeSet<String> {
    findings.iter().map(|&finding| finding.to_owned()).collect()
}

#[test]
fn what_is_created_twice_is_there_once() {
    let Some(topics) = Topics::new("twice") else {
        return;
    };
    let all: BTreeSet<String> = Topic::ALL
        .into_iter()
        .map(|topic| format!("{} exists", topic.name()))
        .collect();
    assert_eq!(topics.findings(), all, "before anything is there");
    let first = topics.said(0, &["create"]);
    let made = |said: &[Value]| said.iter().filter(|line| line["made"] == true).count();
    assert_eq!(made(&first), Topic::ALL.len());
    let title_line = first.last().unwrap();
    assert_eq!(title_line["opened"], true);
    assert_eq!(title_line["partitions"], 3);
    assert_eq!(topics.findings(), set(&[]));
    let second = topics.said(0, &["create"]);
    assert_eq!(made(&second), 0);
    assert_eq!(second.last().unwrap()["opened"], false);
    let id = title_line["log_id"].as_str().unwrap();
    assert_eq!(second.last().unwrap()["log_id"], id);
    assert_eq!(topics.ids(), vec![Some(id.to_owned()); 3]);
    let title = title(&topics.client()).unwrap().unwrap();
    assert_eq!((title.log_id.as_str(), title.partitions), (id, 3));
    assert_eq!(title.time_source, TimeSource::Log);
    assert_eq!(title.prefix, topics.prefix);
}

#[test]
fn each_difference_is_found() {
    let Some(topics) = Topics::new("differs") else {
        return;
    };
    topics.make_plain();
    assert_eq!(title(&topics.client()).unwrap(), None, "not opened");
    let mut expected: BTreeSet<String> =
        set(&["plan-inbox opened", "dead-letters max.message.bytes"]);
    for topic in Topic::ALL {
        for check in ["retention.ms", "message.timestamp.type"] {
            expected.insert(format!("{} {check}", topic.name()));
        }
    }
    assert_eq!(topics.findings(), expected);
    // What is there is opened, and left as it is.
    let said = topics.said(1, &["create"]);
    assert!(said.iter().any(|line| line["opened"] == true));
    expected.remove("plan-inbox opened");
    assert_eq!(topics.findings(), expected);

    let good = [
        ("cleanup.policy", "delete"),
        ("message.timestamp.type", "LogAppendTime"),
        ("retention.ms", "-1"),
        ("max.message.bytes", "2097176"),
    ];
    for topic in Topic::ALL {
        topics.alter(topic, &good);
    }
    until("kept for longer is no fault", || {
        topics.ask(&["check"]).status.success()
    });
    let check = |topic: Topic, key: &'static str, value: &str| {
        let others = good.iter().filter(|(other, _)| *other != key);
        let settings: Vec<_> = others.copied().chain([(key, value)]).collect();
        topics.alter(topic, &settings);
        let expected = set(&[&format!("{} {key}", topic.name())]);
        let what = format!("{key} = {value} is found, and nothing else");
        until(&what, || topics.findings() == expected);
        topics.alter(topic, &good);
        until("it is mended", || topics.ask(&["check"]).status.success());
    };
    check(Topic::Directives, "cleanup.policy", "compact");
    check(Topic::Directives, "cleanup.policy", "compact,delete");
    check(Topic::Metrics, "retention.ms", "604799999");
    check(Topic::PlanInbox, "retention.bytes", "1000000");
    check(Topic::Events, "retention.ms", "315360000000");
    check(Topic::Events, "message.timestamp.type", "CreateTime");
    check(Topic::Cycles, "max.message.bytes", "1000");
    check(Topic::Events, "unclean.leader.election.enable", "true");
}

#[test]
fn a_changed_number_of_partitions_is_said_and_opens_nothing() {
    let Some(topics) = Topics::new("grown") else {
        return;
    };
    topics.make_plain();
    let name = topics.name(Topic::Events);
    let grow = |name: &str, count| {
        let new = NewPartitions::new(name, count);
        let answers = wait(
            topics
                .admin()
                .create_partitions([&new], &AdminOptions::new()),
        )
        .unwrap();
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    };
    grow(&name, 4);
    until("the brokers tell of the new partition", || {
        topics.findings().contains("events partitions")
    });
    topics.said(1, &["create"]);
    assert_eq!(topics.ids(), vec![None; 3]);

    let Some(topics) = Topics::new("grown-later") else {
        return;
    };
    topics.said(0, &["create"]);
    grow(&topics.name(Topic::PlanInbox), 4);
    let expected = set(&["plan-inbox partitions", "plan-inbox opened"]);
    until("the brokers tell of the new partition", || {
        topics.findings() == expected
    });
    topics.said(1, &["create"]);
    assert_eq!(
        topics.ids()[3],
        None,
        "a log keeps its number of partitions"
    );
}

#[test]
fn a_half_done_opening_is_completed_under_its_id() {
    let Some(topics) = Topics::new("half") else {
        return;
    };
    topics.make_plain();
    topics.open_one(1, &opened("first", 3));
    assert_eq!(topics.ids(), [None, Some("first".to_owned()), None]);
    assert!(topics.findings().contains("plan-inbox opened"));
    let said = topics.said(1, &["create"]);
    let line = said.iter().find(|line| line["log_id"].is_string()).unwrap();
    assert_eq!(
        (&line["log_id"], &line["opened"]),
        (&"first".into(), &false.into())
    );
    assert_eq!(topics.ids(), vec![Some("first".to_owned()); 3]);
    assert!(!topics.findings().contains("plan-inbox opened"));
}

#[test]
fn two_logs_in_one_place_are_said() {
    let Some(topics) = Topics::new("two") else {
        return;
    };
    topics.make_plain();
    topics.open_one(0, &opened("one", 3));
    topics.open_one(1, &opened("other", 3));
    assert!(topics.findings().contains("plan-inbox opened"));
    let output = topics.ask(&["create"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("one") && said.contains("other"), "{said}");
}

#[test]
fn openers_at_once_agree_on_one_id() {
    let Some(topics) = Topics::new("at-once") else {
        return;
    };
    topics.make_plain();
    let client = topics.client();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let opener = |number: usize| {
            let (client, new) = (&client, opened(&format!("log-{number}"), 3));
            scope.spawn(move || ensure_open(client, &new).unwrap().log_id)
        };
        let openers: Vec<_> = (0..4).map(opener).collect();
        let ended = openers.into_iter();
        ended.map(|opener| opener.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(topics.ids(), vec![Some(ids[0].clone()); 3]);
}

#[test]
fn an_opener_that_was_killed_in_between_has_opened_nothing() {
    let Some(topics) = Topics::new("killed") else {
        return;
    };
    topics.make_plain();
    // It said its part, and did not live to commit.
    let mut config = topics.base();
    config.set("transactional.id", format!("{}opener", topics.prefix));
    let dead: BaseProducer = config.create().unwrap();
    dead.init_transactions(Duration::from_secs(30)).unwrap();
    dead.begin_transaction().unwrap();
    let value = wire::encode_plan(&PlanRecord::LogOpened(opened("dead", 3)));
    let name = topics.name(Topic::PlanInbox);
    let record: BaseRecord<'_, (), Vec<u8>> = BaseRecord::to(&name).partition(0).payload(&value);
    dead.send(record).map_err(|(error, _)| error).unwrap();
    dead.flush(Duration::from_secs(30)).unwrap();
    let title = ensure_open(&topics.client(), &opened("alive", 3)).unwrap();
    assert_eq!(title.log_id, "alive");
    assert_eq!(topics.ids(), vec![Some("alive".to_owned()); 3]);
    let late = dead.commit_transaction(Duration::from_secs(30));
    assert!(late.is_err(), "a fence stands before what began earlier");
}

#[test]
fn a_log_of_samples_own_time_is_kept_by_no_age() {
    let Some(mut topics) = Topics::new("samples") else {
        return;
    };
    topics.source = "sample";
    topics.said(0, &["create"]);
    assert_eq!(topics.findings(), set(&[]));
    let title = title(&topics.client()).unwrap().unwrap();
    assert_eq!(title.time_source, TimeSource::Sample);
    topics.source = "log";
    let found = topics.findings();
    assert!(found.contains("plan-inbox opened"), "{found:?}");
    assert!(
        found.contains("metrics message.timestamp.type"),
        "{found:?}"
    );
}

#[test]
fn what_was_folded_out_of_the_inbox_is_found_in_events() {
    let Some(topics) = Topics::new("events") else {
        return;
    };
    topics.make_plain();
    let event = wire::encode_event(&homeostat::model::Event {
        seq: 0,
        time: homeostat::model::Time(0),
        mesh: homeostat::model::MeshId::none(),
        cause: homeostat::model::Cause {
            topic: topics.name(Topic::PlanInbox).as_str().into(),
            partition: 0,
            offset: 0,
        },
        engine: "plan/1".to_owned(),
        body: homeostat::model::Body::LogOpened {
            log_id: "old".to_owned(),
            audit_name: "old.localhost/homeostat".to_owned(),
            partitions: 3,
            time_source: "log".to_owned(),
        },
    });
    let producer: BaseProducer = topics.base().create().unwrap();
    let name = topics.name(Topic::Events);
    for partition in 0..3 {
        let record: BaseRecord<'_, (), Vec<u8>> =
            BaseRecord::to(&name).partition(partition).payload(&event);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();
    let title = ensure_open(&topics.client(), &opened("new", 3)).unwrap();
    assert_eq!(
        title.log_id, "old",
        "its inbox is kept for days, its events for ever"
    );
}

#[test]
fn who_cannot_be_reached_is_said_within_a_while() {
    let topics = Topics {
        brokers: "127.0.0.1:1".to_owned(),
        prefix: "nobody.".to_owned(),
        partitions: 3,
        source: "log",
    };
    let output = topics.ask(&["check"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("127.0.0.1:1") && said.contains("kafka.brokers"),
        "{said}"
    );
    let nobody = Topics {
        brokers: String::new(),
        ..topics
    };
    let output = nobody.ask(&["create"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("HOMEOSTAT_KAFKA_BROKERS"), "{said}");
}

#[test]
fn acls_are_printed_without_a_broker() {
    let topics = Topics {
        brokers: "broker:9092".to_owned(),
        prefix: "h.".to_owned(),
        partitions: 3,
        source: "log",
    };
    let mine = ["acls", "--agent", "User:a1", "--agent", "User:a2"];
    let said = topics.said(0, &mine);
    let agents: Vec<&Value> = said
        .iter()
        .filter(|rule| rule["principal"].as_str().unwrap().starts_with("User:a"))
        .collect();
    assert_eq!(agents.len(), 4);
    assert_eq!(
        *agents[0],
        serde_json::json!({"principal": "User:a1", "resource": "topic", "name": "h.metrics",
            "pattern": "literal", "operations": ["Write", "Describe"]})
    );
    let text = String::from_utf8(topics.ask(&mine).stdout).unwrap();
    assert_eq!(text.lines().count(), said.len());
    let begin = "kafka-acls --bootstrap-server broker:9092 --add --allow-principal User:";
    assert!(text.lines().all(|line| line.starts_with(begin)), "{text}");
}
