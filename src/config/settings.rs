//! What the program itself is told, policy apart: where things lie, limits, addresses. Nothing here
//! can change a decision but `[time] source`, which the log keeps from its beginning.
//!
//! Every key has a default; every one that bounds something says its unit. The bounds of each, and
//! what raising it costs, stand in the table of [`keys`](super::keys()), which `config show`,
//! `config init` and the README are made of.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Every section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `[log]`.
    pub log: LogSettings,
    /// `[kafka]`.
    pub kafka: KafkaSettings,
    /// `[snapshots]`.
    pub snapshots: SnapshotSettings,
    /// `[formats]`.
    pub formats: FormatsSettings,
    /// `[time]`.
    pub time: TimeSettings,
    /// `[loop]`.
    #[serde(rename = "loop")]
    pub work: LoopSettings,
    /// `[web]`.
    pub web: WebSettings,
    /// `[[token]]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub token: Vec<TokenSettings>,
    /// `[agent]`.
    pub agent: AgentSettings,
    /// `[telemetry]`.
    pub telemetry: TelemetrySettings,
}

/// `[log]`: the embedded log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// Where it lies. Default `homeostat-data`; `--data`.
    pub dir: PathBuf,
    /// First part of the topics' names in causes. Default `homeostat.`; fixed when the log begins.
    pub prefix: String,
    /// `group`: a sync before anything is answered or seen; `never`: the system decides.
    pub fsync: Fsync,
    /// With `group` at most one sync in so long, ms. Default 10.
    pub sync_ms: u64,
    /// Free space below which nothing more is taken in, MiB. Default 512.
    pub min_free_mib: u64,
    /// Blocks kept in memory, MiB. Default 64.
    pub cache_mib: u64,
    /// Changes kept in memory before they are written to files, MiB. Default 128.
    pub write_buffer_mib: u64,
    /// Newest records of each inbox kept in memory, MiB. Default 16.
    pub tail_mib: u64,
    /// Hours between copies of Analyze's rows, where `replay` starts. Default 24.
    pub copy_hours: u64,
    /// How long the topics are kept, days. `events` is kept for ever.
    pub keep_days: KeepDays,
    /// How large `metrics` may grow, MiB; the oldest go first. Default 0: no limit of its own.
    pub metrics_max_mib: u64,
}

/// `[log.keep_days]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepDays {
    /// Default 7.
    pub metrics: u64,
    /// Default 7.
    pub plan_inbox: u64,
    /// Default 7.
    pub cycles: u64,
    /// Default 7.
    pub directives: u64,
    /// Default 30.
    pub dead_letters: u64,
}

/// When the log is synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// Before anything is answered or becomes visible, at most once per `sync_ms`.
    #[default]
    Group,
    /// When the system likes: for benches.
    Never,
}

/// `[kafka]`: the brokers, if the log lies there; without any it is embedded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaSettings {
    /// `host:port`, several by commas. Default none: the log is embedded. `--brokers`.
    pub brokers: String,
    /// The consumer group of the processors, and the first part of their transactional ids.
    /// Default `homeostat`.
    pub group: String,
    /// This processor's name in the group (static membership): of two with one name the newer
    /// takes over. Default empty: drawn once, kept in the data folder.
    pub instance: String,
    /// Partitions that `topics create` gives every topic. Default 8; fixed when the log begins.
    pub partitions: i32,
    /// Copies of each that it asks for. Default 0: the brokers' own default.
    pub replication: i32,
    /// A processor of which nothing was heard for so long loses its partitions, ms. Default 10,000.
    pub session_timeout_ms: u64,
    /// A transaction that its processor left open is aborted after so long, ms: less than the
    /// session's. Default 8000.
    pub transaction_timeout_ms: u64,
    /// Shortest gap between the end of a commit and one that something urgent brings on, ms.
    /// Default 5.
    pub flush_gap_ms: i64,
    /// Records folded before a commit is due, in place of `loop.flush_records`: a transaction costs
    /// the brokers several requests a partition. Default 20,000.
    pub flush_records: usize,
    /// How long the brokers may be gone, or a record of the log be held up by somebody's open
    /// transaction, before the process ends with 2, s. Default 300.
    pub patience_s: u64,
    /// Records fetched ahead and not yet folded, per worker, KiB. Default 16,384.
    pub fetch_ahead_kib: u64,
    /// How the brokers are reached.
    pub security: Security,
    /// Whom to trust, PEM. Default empty: the system's authorities.
    pub ca_file: String,
    /// Who this client is, PEM. Default empty.
    pub certificate_file: String,
    /// Its private key, PEM. Default empty.
    pub key_file: String,
    /// File with the key's password. Default empty.
    pub key_password_file: String,
    /// With `sasl_*`: how it says who it is.
    pub sasl_mechanism: SaslMechanism,
    /// With `sasl_*`: its name. Default empty.
    pub sasl_username: String,
    /// With `sasl_*`: file with its password. Default empty.
    pub sasl_password_file: String,
    /// Handed to librdkafka as they stand, consumers and producers alike. Default none.
    pub properties: BTreeMap<String, String>,
}

/// How the brokers are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// Neither TLS nor a name.
    #[default]
    Plaintext,
    /// TLS.
    Ssl,
    /// A name, in the clear.
    SaslPlaintext,
    /// A name, over TLS.
    SaslSsl,
}

impl Security {
    /// The name that librdkafka gives it, and the file.
    pub const fn name(self) -> &'static str {
        match self {
            Security::Plaintext => "plaintext",
            Security::Ssl => "ssl",
            Security::SaslPlaintext => "sasl_plaintext",
            Security::SaslSsl => "sasl_ssl",
        }
    }
}

/// How a client says who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaslMechanism {
    /// The password itself: over TLS only.
    #[serde(rename = "PLAIN")]
    Plain,
    /// A proof of it.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// A proof of it.
    #[default]
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SaslMechanism {
    /// The name that librdkafka gives it, and the file.
    pub const fn name(self) -> &'static str {
        match self {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// `[snapshots]`: of the rows, where the log lies on Kafka.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotSettings {
    /// `file:///path` or `s3://bucket/prefix`. Default empty: none are made.
    pub url: String,
    /// Between two of one task, min. Default 15.
    pub every_minutes: u64,
    /// Newest ones of each task that are kept. Default 3.
    pub keep: usize,
    /// How long what is no longer needed stays, min: twice as long as sending one may take.
    /// Default 60.
    pub grace_minutes: u64,
}

/// `[formats]`: in which forms records lie on the brokers. The embedded log has its own only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FormatsSettings {
    /// `avro` or `confluent`. Default `avro`.
    pub events: Form,
    /// `avro`, `json` or `confluent`. Default `avro`.
    pub cycles: Form,
    /// `avro`, `json` or `confluent`. Default `json`.
    pub directives: Form,
    /// Which records bear CloudEvents attributes and a trace parent. Default `decisions`.
    pub cloudevents: CloudEvents,
    /// The Schema Registry, `http://HOST:PORT` and perhaps a path. Default none: Confluent frames
    /// are dead letters.
    pub registry: String,
    /// File with `user:password` for it. Default none.
    pub registry_password_file: String,
    /// How long an answer of it may take, ms. Default 5000.
    pub registry_timeout_ms: u64,
    /// How long a record whose schema cannot be had holds its partition up before it is a dead
    /// letter, s. Default 60.
    pub registry_patience_s: u64,
    /// The same where the registry answers that it has no such schema, s. Default 5.
    pub registry_unknown_s: u64,
    /// Schemas kept. Default 1000.
    pub schemas_max: usize,
    /// Largest schema, KiB. Default 256.
    pub schema_max_kib: usize,
    /// Longest value of a dead letter, KiB; more is cut. Default 256.
    pub dead_letter_max_kib: usize,
    /// `[formats.telegraf]`.
    pub telegraf: TelegrafSettings,
}

/// A form that records lie on the brokers in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Avro single-object.
    #[default]
    Avro,
    /// JSON.
    Json,
    /// A Confluent frame.
    Confluent,
}

/// Which records bear CloudEvents attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloudEvents {
    /// None.
    None,
    /// `events` and `directives`.
    #[default]
    Decisions,
    /// `cycles` too.
    All,
}

/// `[formats.telegraf]`: Telegraf's JSON on `metrics`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelegrafSettings {
    /// Whether it is read. Default false.
    pub enabled: bool,
    /// The tag that names the mesh, or `=` and the mesh's name. Default `=default`.
    pub mesh: String,
    /// The tag that names the node, or `=` and the node's name. Default `host`.
    pub node: String,
    /// What timestamps count. Default `s`.
    pub time_unit: TimeUnit,
    /// Where the metric stands.
    pub cpu_percent: String,
    /// Where the metric stands.
    pub memory_percent: String,
    /// Where the metric stands.
    pub mesh_connectivity: String,
    /// Where the metric stands.
    pub latency_ms: String,
    /// Where the metric stands.
    pub packet_loss: String,
    /// Where the metric stands.
    pub mttr_minutes: String,
    /// Where the metric stands.
    pub zero_trust_success_rate: String,
    /// Where the metric stands.
    pub frequency_hz: String,
}

impl TelegrafSettings {
    /// Where each metric stands, by its name.
    pub fn places(&self) -> [(&'static str, &str); 8] {
        [
            ("cpu_percent", &self.cpu_percent),
            ("memory_percent", &self.memory_percent),
            ("mesh_connectivity", &self.mesh_connectivity),
            ("latency_ms", &self.latency_ms),
            ("packet_loss", &self.packet_loss),
            ("mttr_minutes", &self.mttr_minutes),
            ("zero_trust_success_rate", &self.zero_trust_success_rate),
            ("frequency_hz", &self.frequency_hz),
        ]
    }
}

/// What a timestamp counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// Seconds.
    #[default]
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

impl TimeUnit {
    /// The name, as in the file.
    pub const fn name(self) -> &'static str {
        match self {
            TimeUnit::S => "s",
            TimeUnit::Ms => "ms",
            TimeUnit::Us => "us",
            TimeUnit::Ns => "ns",
        }
    }
}

/// `[time]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeSettings {
    /// `log`: append time. `sample`: the sample's own, for simulation, backfill and tests. Fixed
    /// when the log begins.
    pub source: Source,
}

/// Where a record's time comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Append time.
    #[default]
    Log,
    /// The sample's own.
    Sample,
}

/// `[loop]`: the worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoopSettings {
    /// Records before a commit is due. Default 4000.
    pub flush_records: usize,
    /// Longest wait for a commit, ms. Default 150.
    pub flush_ms: i64,
    /// How long rows in memory may be ahead of those on disk, ms: what a restart folds again.
    /// Default 1000.
    pub apply_ms: i64,
    /// Nodes kept decoded in memory by each stage, all its partitions together. Default 65536,
    /// about 2.5 KB each.
    pub cached_nodes: usize,
    /// A Tick after so long without a record while an alarm stands, s. Default 5.
    pub tick_s: i64,
    /// How long a stop may take before it is cut short, s. Default 10.
    pub stop_s: u64,
}

/// `[web]`: the door.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebSettings {
    /// Where it listens: an address and port (port 0: any free one); one that is not loopback
    /// needs `[[token]]` entries. Default `127.0.0.1:1618`; `--listen`.
    pub listen: String,
    /// The door's certificate and what leads to its authority, PEM: with it the door speaks TLS
    /// only. Default empty: none. Read again at SIGHUP.
    pub certificate_file: String,
    /// Its private key, PEM, for its owner alone. Default empty.
    pub key_file: String,
    /// The authorities of clients' certificates, PEM. Default empty: none are asked for. Read
    /// again at SIGHUP.
    pub client_ca_file: String,
    /// Largest body, KiB. Default 8192.
    pub body_max_kib: usize,
    /// Connections at a time. Default 1024; one more is answered 503 and closed.
    pub connections_max: usize,
    /// Followers (server-sent events) at a time. Default 128.
    pub followers_max: usize,
    /// How long a client may take to send its headers, or its whole body, s. Default 10.
    pub read_timeout_s: u64,
    /// How long a client may take to read a piece of an answer, s. Default 10.
    pub write_timeout_s: u64,
    /// Records of `metrics` that may wait for the loop; beyond, 429. Default 1,000,000.
    pub queue_max: i64,
    /// Gauges per node on `/metrics`. Default true.
    pub node_series: bool,
    /// For how many nodes at most. Default 1000.
    pub node_series_max: usize,
}

/// `[[token]]`: one who may come to the door over TCP, and what they may do there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSettings {
    /// What the log calls them.
    pub name: String,
    /// The file that their token stands in; empty where a certificate says who they are.
    #[serde(default)]
    pub file: String,
    /// The DNS name in their client certificate; empty where a token says it.
    #[serde(default)]
    pub certificate: String,
    /// The meshes that they may see and speak of; `*` is all.
    pub meshes: Vec<String>,
    /// What they may do.
    pub role: Role,
    /// With the role `ingest`: the one node that they may speak for; empty: any of the meshes.
    #[serde(default)]
    pub node: String,
}

/// What one may do at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Send samples and outcomes, and read directives: an agent.
    Ingest,
    /// Read.
    Read,
    /// All of it, and what people say: policy, approvals, holds.
    Operate,
}

impl Role {
    /// The name, as in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Ingest => "ingest",
            Role::Read => "read",
            Role::Operate => "operate",
        }
    }
}

/// `[agent]`: a node's side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentSettings {
    /// Whether `run` brings one for this host. Default true; `--no-agent`.
    pub enabled: bool,
    /// The mesh. Default `local`.
    pub mesh: String,
    /// The node; empty: this host's name.
    pub node: String,
    /// How often it samples until it is told otherwise, s. Default 60.
    pub interval_s: f64,
    /// Peers to measure latency and loss to: addresses or names, with `:port` over TCP, else by
    /// ICMP echo. Default none.
    pub peers: Vec<String>,
    /// Measure to the neighbours and routers that the system knows, if `peers` is empty. Default
    /// true.
    pub discover: bool,
    /// Peers measured at most. Default 16.
    pub peers_max: usize,
    /// Probes per peer and sample. Default 5.
    pub probes: u32,
    /// How long a probe may take, ms. Default 1000.
    pub probe_timeout_ms: u64,
    /// `log` or `exec`.
    pub executor: ExecutorKind,
    /// With `exec`: per action kind the program and its arguments; `{value}` in an argument is what
    /// is ordered. A kind without one is refused.
    pub exec: BTreeMap<String, Vec<String>>,
    /// How long a program may run, s. Default 30.
    pub exec_timeout_s: u64,
    /// Samples and outcomes kept while nobody answers, KiB; the oldest go first. Default 8192.
    pub buffer_kib: u64,
    /// How long an answer may take, s. Default 10.
    pub request_timeout_s: u64,
    /// The file with the token that it shows at a door over TCP; read anew for every request.
    /// Default empty: none.
    pub token_file: String,
    /// Whom to trust at an `https://` door, PEM. Default empty: the system's authorities.
    pub ca_file: String,
}

/// Who does what is ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutorKind {
    /// Says what it would do and touches nothing.
    #[default]
    Log,
    /// Runs the program of the action's kind.
    Exec,
}

/// `[telemetry]`: what the program says of itself on standard error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetrySettings {
    /// The least important level that is written. Default `info`; read again at SIGHUP.
    pub level: Level,
    /// Lines for people, or JSON objects.
    pub format: LineFormat,
}

/// How important a line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// It does not go on like this.
    Error,
    /// Something was lost or put off.
    Warn,
    /// What an operator wants to have known afterwards.
    #[default]
    Info,
    /// Every commit and request.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// The name, as in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// In which form lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings {
            dir: "homeostat-data".into(),
            prefix: "homeostat.".into(),
            fsync: Fsync::Group,
            sync_ms: 10,
            min_free_mib: 512,
            cache_mib: 64,
            write_buffer_mib: 128,
            tail_mib: 16,
            copy_hours: 24,
            keep_days: KeepDays::default(),
            metrics_max_mib: 0,
        }
    }
}

impl Default for KeepDays {
    fn default() -> Self {
        KeepDays {
            metrics: 7,
            plan_inbox: 7,
            cycles: 7,
            directives: 7,
            dead_letters: 30,
        }
    }
}

impl Default for KafkaSettings {
    fn default() -> Self {
        KafkaSettings {
            brokers: String::new(),
            group: "homeostat".into(),
            instance: String::new(),
            partitions: 8,
            replication: 0,
            session_timeout_ms: 10_000,
            transaction_timeout_ms: 8000,
            flush_gap_ms: 5,
            flush_records: 20_000,
            patience_s: 300,
            fetch_ahead_kib: 16_384,
            security: Security::default(),
            ca_file: String::new(),
            certificate_file: String::new(),
            key_file: String::new(),
            key_password_file: String::new(),
            sasl_mechanism: SaslMechanism::default(),
            sasl_username: String::new(),
            sasl_password_file: String::new(),
            properties: BTreeMap::new(),
        }
    }
}

impl Default for SnapshotSettings {
    fn default() -> Self {
        SnapshotSettings {
            url: String::new(),
            every_minutes: 15,
            keep: 3,
            grace_minutes: 60,
        }
    }
}

impl Default for FormatsSettings {
    fn default() -> Self {
        FormatsSettings {
            events: Form::Avro,
            cycles: Form::Avro,
            directives: Form::Json,
            cloudevents: CloudEvents::Decisions,
            registry: String::new(),
            registry_password_file: String::new(),
            registry_timeout_ms: 5000,
            registry_patience_s: 60,
            registry_unknown_s: 5,
            schemas_max: 1000,
            schema_max_kib: 256,
            dead_letter_max_kib: 256,
            telegraf: TelegrafSettings::default(),
        }
    }
}

impl Default for TelegrafSettings {
    fn default() -> Self {
        TelegrafSettings {
            enabled: false,
            mesh: "=default".into(),
            node: "host".into(),
            time_unit: TimeUnit::S,
            cpu_percent: "cpu[cpu=cpu-total].usage_idle * -1 + 100".into(),
            memory_percent: "mem.used_percent".into(),
            mesh_connectivity: String::new(),
            latency_ms: "ping.average_response_ms".into(),
            packet_loss: "ping.percent_packet_loss".into(),
            mttr_minutes: String::new(),
            zero_trust_success_rate: String::new(),
            frequency_hz: String::new(),
        }
    }
}

impl Default for LoopSettings {
    fn default() -> Self {
        LoopSettings {
            flush_records: 4000,
            flush_ms: 150,
            apply_ms: 1000,
            cached_nodes: 65_536,
            tick_s: 5,
            stop_s: 10,
        }
    }
}

impl Default for WebSettings {
    fn default() -> Self {
        WebSettings {
            listen: "127.0.0.1:1618".into(),
            certificate_file: String::new(),
            key_file: String::new(),
            client_ca_file: String::new(),
            body_max_kib: 8192,
            connections_max: 1024,
            followers_max: 128,
            read_timeout_s: 10,
            write_timeout_s: 10,
            queue_max: 1_000_000,
            node_series: true,
            node_series_max: 1000,
        }
    }
}

impl Default for AgentSettings {
    fn default() -> Self {
        AgentSettings {
            enabled: true,
            mesh: "local".into(),
            node: String::new(),
            interval_s: 60.0,
            peers: Vec::new(),
            discover: true,
            peers_max: 16,
            probes: 5,
            probe_timeout_ms: 1000,
            executor: ExecutorKind::Log,
            exec: BTreeMap::new(),
            exec_timeout_s: 30,
            buffer_kib: 8192,
            request_timeout_s: 10,
            token_file: String::new(),
            ca_file: String::new(),
        }
    }
}
