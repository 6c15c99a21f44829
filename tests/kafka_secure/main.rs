//! On a broker that lets nobody in without TLS, a client's certificate, a password and a right:
//! what the README's settings and `topics acls` say is enough, and no more is allowed.
//!
//! The keys beside this file are of a certificate authority whose own key is gone, for loopback,
//! valid for a hundred years.

#[path = "../broker/mod.rs"]
mod broker;
#[path = "../processes/process.rs"]
mod process;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use homeostat::agent::client::{Answer, ClientError};
use homeostat::stream::Topic;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, producer::BaseRecord};

use process::{Home, Processor, until};

// The binary of the embedded processes takes these; named here, they are not dead.
const _: (
    fn(PathBuf, &str) -> Home,
    fn(&Home) -> Processor,
    fn(&Home, &[(&str, &str)]) -> Processor,
    fn(&Processor, &str) -> Result<Answer, ClientError>,
    fn(&Processor),
    fn(&mut Processor),
) = (
    Home::at,
    Home::run,
    Home::run_seeing,
    Processor::post,
    Processor::settle,
    Processor::kill,
);

#[test]
fn with_the_rights_of_topics_acls_a_loop_runs_and_nobody_can_more() {
    let (plain, secure) = (free_port(), free_port());
    let users: String = USERS
        .iter()
        .map(|(user, password)| format!(" user_{user}=\"{password}\""))
        .collect();
    let settings = [
        format!(
            "listeners=PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{secure},\
             CONTROLLER://127.0.0.1:0"
        ),
        format!("advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{secure}"),
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,\
         SASL_SSL:SASL_SSL"
            .to_owned(),
        "sasl.enabled.mechanisms=PLAIN".to_owned(),
        format!(
            "listener.name.sasl_ssl.plain.sasl.jaas.config=\
             org.apache.kafka.common.security.plain.PlainLoginModule required{users};"
        ),
        "ssl.client.auth=required".to_owned(),
        "ssl.keystore.type=PEM".to_owned(),
        format!(
            "ssl.keystore.location={}",
            key("broker-store.pem").display()
        ),
        "ssl.truststore.type=PEM".to_owned(),
        format!("ssl.truststore.location={}", key("ca.pem").display()),
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
        // Who comes without a name: this test and the broker itself.
        "super.users=User:ANONYMOUS".to_owned(),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let Some(_broker) = broker::own(&settings) else {
        return;
    };
    let site = Site {
        secure: format!("127.0.0.1:{secure}"),
        plain: format!("127.0.0.1:{plain}"),
        prefix: broker::prefix("secure"),
    };

    let operator = site.home("homeostat-operator");
    let refused = operator.ask(&["topics", "create"]);
    let words = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{words}");
    assert!(words.contains("uthorization"), "{words}");

    site.allow(&operator);
    operator.lines(&["topics", "create"]);
    operator.lines(&["topics", "check"]);

    let home = site.home("homeostat");
    let processor = home.run_with(&["--no-agent"]);
    let agent = site.agent();
    let reader = site.home("homeostat-reader");
    until(LIMIT, "the agent's node is known to who reads", || {
        let state = reader.ask(&["state", "--json"]);
        text(&state.stdout).contains("\"node_id\":\"edge-1\"")
    });
    assert!(processor.stop().success(), "{}", home.said());
    reader.lines(&["replay"]);
    drop(agent);

    // Whoever may report must not be able to forge an approval, and who reads writes nothing.
    for (user, topic, may) in [
        ("homeostat-agent", Topic::Metrics, true),
        ("homeostat-agent", Topic::PlanInbox, false),
        ("homeostat-agent", Topic::Events, false),
        ("homeostat-agent", Topic::Directives, false),
        ("homeostat-reader", Topic::Metrics, false),
        ("homeostat-operator", Topic::Metrics, false),
        ("homeostat-operator", Topic::Events, false),
        ("homeostat-operator", Topic::PlanInbox, true),
    ] {
        let written = site.write(user, topic);
        let expected = match may {
            true => Ok(()),
            false => Err(RDKafkaErrorCode::TopicAuthorizationFailed),
        };
        assert_eq!(written, expected, "{user} writes {}", topic.name());
    }
    for (topic, may) in [(Topic::Directives, true), (Topic::Events, false)] {
        let seen = site.sees("homeostat-agent", topic);
        assert_eq!(seen, may, "an agent reads {}", topic.name());
    }

    let wrong = site.home("homeostat-operator");
    keep(&wrong, "password", "another");
    let refused = wrong.ask(&["topics", "check"]);
    let words = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{words}");
    assert!(words.contains("uthentication"), "{words}");
    assert!(!words.contains("another"), "a secret is printed: {words}");

    let shown = home.ask(&["config", "show"]);
    let all = [home.said(), text(&shown.stdout), text(&shown.stderr)].concat();
    for (_, secret) in USERS {
        assert!(!all.contains(secret), "a secret is printed: {all}");
    }
    assert!(!all.contains(KEY_PASSWORD), "a secret is printed: {all}");
}

/// A broker that two kinds of listener lead to.
struct Site {
    secure: String,
    plain: String,
    prefix: String,
}

impl Site {
    /// A folder of somebody's, told what the README says.
    fn home(&self, user: &str) -> Home {
        let Site { secure, prefix, .. } = self;
        let home = Home::new(&format!("{prefix}{user}"), "");
        let at = home.0.display();
        let keys = key("");
        let keys = keys.display();
        let config = format!(
            "[kafka]\nbrokers = \"{secure}\"\ngroup = \"{prefix}group\"\npartitions = 2\n\
             patience_s = 20\nsecurity = \"sasl_ssl\"\nca_file = \"{keys}ca.pem\"\n\
             certificate_file = \"{keys}client.pem\"\nkey_file = \"{keys}client-locked.key\"\n\
             key_password_file = \"{at}/key-password\"\nsasl_mechanism = \"PLAIN\"\n\
             sasl_username = \"{user}\"\nsasl_password_file = \"{at}/password\"\n\
             [log]\nprefix = \"{prefix}\"\nmin_free_mib = 1\n\
             [agent]\ndiscover = false\ninterval_s = 1\n"
        );
        fs::write(home.0.join("homeostat.toml"), config).unwrap();
        keep(&home, "password", password(user));
        keep(&home, "key-password", KEY_PASSWORD);
        home
    }

    /// Does what `topics acls` says, as somebody who may.
    fn allow(&self, home: &Home) {
        let commands = home.lines(&["topics", "acls"]).join("\n");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka-broker");
        // The users' listener is not the one of who may alter the cluster.
        let commands = commands.replace(&self.secure, &self.plain);
        let shell = format!("set -e\nkafka-acls() {{ {script} acls \"$@\"; }}\n{commands}");
        let done = Command::new("bash").args(["-c", &shell]).output().unwrap();
        assert!(done.status.success(), "{}", text(&done.stderr));
    }

    fn agent(&self) -> Agent {
        let home = self.home("homeostat-agent");
        let args = ["agent", "--mesh", "site", "--node", "edge-1"];
        let child = home
            .command(&[&args[..], &["--brokers", &self.secure]].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Agent(child, home)
    }

    fn config(&self, user: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.secure)
            .set("security.protocol", "sasl_ssl")
            .set("ssl.ca.location", key("ca.pem").to_string_lossy())
            .set(
                "ssl.certificate.location",
                key("client.pem").to_string_lossy(),
            )
            .set(
                "ssl.key.location",
                key("client-locked.key").to_string_lossy(),
            )
            .set("ssl.key.password", KEY_PASSWORD)
            .set("sasl.mechanism", "PLAIN")
            .set("sasl.username", user)
            .set("sasl.password", password(user));
        config
    }

    /// What the broker says to a record of this user's that no stage can read.
    fn write(&self, user: &str, topic: Topic) -> Result<(), RDKafkaErrorCode> {
        let (tell, told) = std::sync::mpsc::channel();
        let producer: ThreadedProducer<Told> = self
            .config(user)
            .create_with_context(Told(std::sync::Mutex::new(tell)))
            .unwrap();
        let name = format!("{}{}", self.prefix, topic.name());
        let record = BaseRecord::to(&name).key("k").payload("none of ours");
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(LIMIT).unwrap();
        told.recv_timeout(LIMIT).unwrap()
    }

    /// Whether this user may see a topic.
    fn sees(&self, user: &str, topic: Topic) -> bool {
        let name = format!("{}{}", self.prefix, topic.name());
        let consumer: BaseConsumer = self.config(user).create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&name), LIMIT).unwrap();
        match metadata.topics()[0].error().map(RDKafkaErrorCode::from) {
            None => true,
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => false,
            Some(error) => panic!("asking as {user} for {name}: {error}"),
        }
    }
}

/// A running agent and its folder.
struct Agent(
    Child,
    #[expect(dead_code, reason = "it goes with the agent")] Home,
);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Hands on what became of a record.
struct Told(std::sync::Mutex<std::sync::mpsc::Sender<Result<(), RDKafkaErrorCode>>>);

impl ClientContext for Told {}

impl ProducerContext for Told {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap()),
        };
        let _ = self.0.lock().unwrap().send(result);
    }
}

fn key(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/kafka_secure/keys")
        .join(name)
}

fn password(user: &str) -> &'static str {
    let found = USERS.iter().find(|(name, _)| *name == user);
    found.unwrap().1
}

/// Writes a secret for its owner alone.
fn keep(home: &Home, name: &str, secret: &str) {
    let file = home.0.join(name);
    fs::write(&file, secret).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const USERS: [(&str, &str); 4] = [
    ("homeostat", "processor-secret-1"),
    ("homeostat-agent", "agent-secret-2"),
    ("homeostat-operator", "operator-secret-3"),
    ("homeostat-reader", "reader-secret-4"),
];

const KEY_PASSWORD: &str = "key-secret-5";

const LIMIT: Duration = Duration::from_secs(60);
