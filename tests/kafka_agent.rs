//! `homeostat agent --brokers` on a real broker: what it sends lies where it belongs, what is
//! ordered is done once, and neither is lost when one of the two is killed.

mod broker;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use homeostat::model::{
    Action, Cause, Directive, Given, Healing, MeshId, MetricsRecord, NodeId, Outcome, PolicyId,
    Time,
};
use homeostat::runtime::partition_of;
use homeostat::stream::Topic;
use homeostat::wire;
use homeostat::wire::leaving::{Encoding, encode, headers};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// Topics of a test's own, and the folder of an agent on them.
struct Site {
    brokers: String,
    prefix: String,
    dir: PathBuf,
}

impl Site {
    /// Without topics.
    fn bare(brokers: &str, name: &str) -> Site {
        let prefix = broker::prefix(name);
        let dir = std::env::temp_dir().join(format!("homeostat-on-kafka-{prefix}"));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Site {
            brokers: brokers.to_owned(),
            prefix,
            dir,
        }
    }

    fn new(brokers: &str, name: &str) -> Site {
        let site = Site::bare(brokers, name);
        let made = site.command("", &["topics", "create"]).output().unwrap();
        assert!(made.status.success(), "{}", words(&made));
        site
    }

    /// A command in this folder; `script` is what heals.
    fn command(&self, script: &str, args: &[&str]) -> Command {
        let config = format!(
            "[kafka]\npartitions = {PARTITIONS}\n[log]\nprefix = \"{}\"\n\
             [agent]\ndiscover = false\ninterval_s = 1\nexec_timeout_s = 60\n\
             request_timeout_s = 3\n[agent.exec]\nhealing = [\"sh\", \"-c\", '''{script}''']\n",
            self.prefix
        );
        fs::write(self.dir.join("homeostat.toml"), config).unwrap();
        // Dead with its parent, however that dies.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_homeostat")])
            .args(args)
            .current_dir(&self.dir)
            .env("HOMEOSTAT_KAFKA_BROKERS", &self.brokers);
        command
    }

    fn agent(&self, script: &str) -> Agent {
        let args = [
            "agent",
            "--brokers",
            &self.brokers,
            "--mesh",
            MESH,
            "--node",
            NODE,
            "--executor",
            "exec",
        ];
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("said"))
            .unwrap();
        let child = self
            .command(script, &args)
            .env_remove("HOMEOSTAT_KAFKA_BROKERS")
            .stderr(Stdio::from(log))
            .spawn();
        Agent(child.unwrap())
    }

    /// What the agents here said.
    fn said(&self) -> String {
        fs::read_to_string(self.dir.join("said")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Lines that wait in the agent's buffer.
    fn buffered(&self) -> usize {
        let dir = self.path("homeostat-data/agent/buffer");
        let files = fs::read_dir(dir).into_iter().flatten().flatten();
        files
            .filter_map(|file| fs::read_to_string(file.path()).ok())
            .map(|text| text.lines().count())
            .sum()
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    /// Writes a directive as the loop would, in this form.
    fn order(&self, directive: &Directive, encoding: Encoding) {
        let topic = format!("{}directives", self.prefix);
        let key = format!("{}/{}", directive.mesh, directive.node);
        let partition = partition_of(key.as_bytes(), PARTITIONS);
        let own = wire::json::directive(directive).into_bytes();
        let place = (Topic::Directives, partition);
        let mut all = OwnedHeaders::new();
        for (name, value) in headers(&self.prefix, place, &own, encoding, true) {
            all = all.insert(Header {
                key: &name,
                value: Some(&value),
            });
        }
        let id = (encoding == Encoding::Confluent).then_some(7);
        let value = encode(Topic::Directives, own, encoding, id).unwrap();
        let producer: BaseProducer = self.config().create().unwrap();
        let record = BaseRecord::to(&topic)
            .partition(partition)
            .key(&key)
            .payload(&value)
            .headers(all);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(Duration::from_secs(60)).unwrap();
    }

    /// What lies on a partition of `metrics`: key and value.
    fn lies(&self, partition: i32) -> Vec<(String, Vec<u8>)> {
        let consumer: BaseConsumer = self
            .config()
            .set("group.id", "looks")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let topic = format!("{}metrics", self.prefix);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, partition, Offset::Beginning)
            .unwrap();
        consumer.assign(&list).unwrap();
        let deadline = Instant::now() + LIMIT;
        let mut found = Vec::new();
        loop {
            assert!(Instant::now() < deadline, "reading {topic}/{partition}");
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    let key = message.key().unwrap_or_default();
                    let key = String::from_utf8(key.to_vec()).unwrap();
                    found.push((key, message.payload().unwrap_or_default().to_vec()));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return found,
                _ => {}
            }
        }
    }

    /// Samples, by (boot, seq), and outcomes on the node's own partition.
    fn reported(&self) -> (Vec<(i64, i64)>, Vec<Outcome>) {
        let (mut samples, mut outcomes) = (Vec::new(), Vec::new());
        for (key, value) in self.lies(partition_of(NODE.as_bytes(), PARTITIONS)) {
            assert_eq!(key, NODE);
            match wire::decode_metrics(&value).unwrap() {
                MetricsRecord::Sample(sample) => {
                    assert_eq!(sample.mesh, Given::Value(MESH.into()));
                    assert_eq!(sample.node, Given::Value(NODE.into()));
                    let (Given::Value(Some(boot)), Given::Value(Some(seq))) =
                        (sample.boot, sample.seq)
                    else {
                        panic!("numbered: {value:?}")
                    };
                    samples.push((boot, seq));
                }
                MetricsRecord::Outcome(outcome) => outcomes.push(outcome),
                other => panic!("an agent sends samples and outcomes, not {other:?}"),
            }
        }
        (samples, outcomes)
    }

    /// (generation, result) of the outcomes that lie there.
    fn results(&self) -> Vec<(i64, &'static str)> {
        let outcomes = self.reported().1.into_iter();
        outcomes
            .map(|outcome| (outcome.generation, outcome.result.name()))
            .collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("agents said:\n{}", self.said());
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// An agent's process; killed when it is dropped.
struct Agent(Child);

impl Agent {
    /// Tells it to stop: it ends with 0.
    fn stop(mut self) {
        let pid = self.0.id().to_string();
        Command::new("kill").arg(&pid).status().unwrap();
        assert!(self.0.wait().unwrap().success(), "SIGTERM ends it with 0");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn directive(generation: i64) -> Directive {
    Directive {
        id: format!("dir-{generation}"),
        log_id: "log".to_owned(),
        mesh: MeshId::parse(MESH).unwrap(),
        node: NodeId::parse(NODE).unwrap(),
        generation,
        issued_at: now(),
        ttl_s: 600,
        action: Action::Healing {
            level: Healing::Aggressive,
        },
        cause: Cause {
            topic: "homeostat.plan-inbox".to_owned(),
            partition: 0,
            offset: generation,
        },
        incident_id: None,
        policy_id: PolicyId::default(),
        policy_generation: 1,
    }
}

fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Time(since.as_millis() as i64)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// From 1 on, each there, in order of first appearance.
fn complete(samples: &[(i64, i64)]) {
    let mut once: Vec<(i64, i64)> = samples.to_vec();
    once.sort_unstable();
    once.dedup();
    let mut seen = Vec::new();
    for key in samples {
        if !seen.contains(key) {
            seen.push(*key);
        }
    }
    assert_eq!(seen, once, "what is new comes in order");
    for (at, (_, seq)) in once.iter().enumerate() {
        assert_eq!(*seq, at as i64 + 1, "none is missing: {once:?}");
    }
}

#[test]
fn samples_lie_on_the_nodes_own_partition_and_nowhere_else() {
    let Some(shared) = broker::shared() else {
        return;
    };
    let site = Site::new(shared.address(), "agent-samples");
    let agent = site.agent("exit 0");
    until("five samples", || site.reported().0.len() >= 5);
    agent.stop();
    complete(&site.reported().0);
    let own = partition_of(NODE.as_bytes(), PARTITIONS);
    for other in (0..PARTITIONS).filter(|other| *other != own) {
        assert_eq!(site.lies(other), [], "partition {other}");
    }
}

#[test]
fn orders_in_every_form_are_done_once_each_and_others_are_left_alone() {
    let Some(shared) = broker::shared() else {
        return;
    };
    let site = Site::new(shared.address(), "agent-orders");
    // Before there is an agent: found by it all the same.
    site.order(&directive(1), Encoding::Json);
    let script = format!("echo {{id}} >> {}", site.path("ran").display());
    let agent = site.agent(&script);
    until("the first outcome", || site.results() == [(1, "applied")]);
    site.order(&directive(1), Encoding::Json);
    site.order(&directive(2), Encoding::Avro);
    let mut elsewhere = directive(3);
    elsewhere.mesh = MeshId::parse("other").unwrap();
    site.order(&elsewhere, Encoding::Json);
    let mut late = directive(4);
    late.issued_at = Time(now().0 - 600_000);
    site.order(&late, Encoding::Json);
    site.order(&directive(5), Encoding::Confluent);
    let last = |results: &[(i64, &str)]| results.contains(&(5, "applied"));
    until("the last outcome", || last(&site.results()));
    agent.stop();
    assert_eq!(
        site.results(),
        [
            (1, "applied"),
            (1, "applied"),
            (2, "applied"),
            (5, "applied")
        ],
        "the one that came twice is answered twice; the one that was too late is not"
    );
    assert_eq!(site.text("ran"), "dir-1\ndir-2\ndir-5\n", "done once each");
    assert!(site.said().contains("Expired"), "why not is said");
}

#[test]
fn an_order_whose_time_passed_while_nobody_was_there_is_not_begun() {
    let Some(shared) = broker::shared() else {
        return;
    };
    let site = Site::new(shared.address(), "agent-late");
    let mut short = directive(1);
    short.ttl_s = 1;
    site.order(&short, Encoding::Json);
    until("its time is over", || now() >= short.expires_at());
    let script = format!("echo {{id}} >> {}", site.path("ran").display());
    let agent = site.agent(&script);
    site.order(&directive(2), Encoding::Json);
    until("the next outcome", || !site.results().is_empty());
    agent.stop();
    assert_eq!(site.results(), [(2, "applied")]);
    assert_eq!(site.text("ran"), "dir-2\n");
}

#[test]
fn an_act_that_was_begun_before_a_kill_is_unknown_and_never_repeated() {
    let Some(shared) = broker::shared() else {
        return;
    };
    let site = Site::new(shared.address(), "agent-killed");
    let script = format!("echo $$ >> {}; sleep 60", site.path("begun").display());
    let agent = site.agent(&script);
    site.order(&directive(1), Encoding::Json);
    until("it has begun", || site.text("begun").ends_with('\n'));
    // With -9.
    drop(agent);
    let begun = site.text("begun");
    let group = format!("-{}", begun.trim());
    Command::new("kill")
        .args(["-9", "--", &group])
        .status()
        .unwrap();
    assert_eq!(site.results(), []);

    let agent = site.agent(&script);
    // Of what was begun, and of the order itself, which is read again.
    until("its outcome, twice", || site.results().len() >= 2);
    agent.stop();
    let results = site.results();
    assert!(
        results.iter().all(|result| *result == (1, "unknown")),
        "{results:?}"
    );
    assert_eq!(site.text("begun"), begun, "it was begun once");
}

#[test]
fn what_was_sampled_and_ordered_around_a_brokers_death_arrives() {
    let Some(own) = broker::own(&[]) else {
        return;
    };
    let site = Site::new(own.address(), "agent-broker");
    let script = format!("echo {{id}} >> {}", site.path("ran").display());
    let agent = site.agent(&script);
    site.order(&directive(1), Encoding::Json);
    until("the first outcome", || site.results() == [(1, "applied")]);
    own.kill9();
    until("samples wait in the buffer", || site.buffered() >= 4);
    own.up();
    site.order(&directive(2), Encoding::Json);
    until("the next outcome", || {
        site.results().contains(&(2, "applied"))
    });
    until("nothing waits", || site.buffered() <= 1);
    agent.stop();
    complete(&site.reported().0);
    assert_eq!(site.text("ran"), "dir-1\ndir-2\n", "done once each");
}

#[test]
fn without_topics_it_says_what_makes_them_and_without_brokers_where_to_name_them() {
    let Some(shared) = broker::shared() else {
        return;
    };
    let site = Site::bare(shared.address(), "agent-bare");
    let output = site.command("", &["agent"]).output().unwrap();
    let said = words(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains(&format!("{}metrics", site.prefix)) && said.contains("topics create"),
        "{said}"
    );
    let output = site
        .command("", &["agent"])
        .env_remove("HOMEOSTAT_KAFKA_BROKERS")
        .output()
        .unwrap();
    let said = words(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("--server") && said.contains("HOMEOSTAT_KAFKA_BROKERS"),
        "{said}"
    );
}

const PARTITIONS: i32 = 3;
const MESH: &str = "alpha";
const NODE: &str = "n 1";

/// How long what must come may take.
const LIMIT: Duration = Duration::from_secs(90);
