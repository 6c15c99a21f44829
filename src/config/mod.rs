//! `homeostat.toml`: what an operator proposes and how the program runs, from a file, the
//! environment and flags.
//!
//! Its sections `[plan]`, `[monitor]` and `[symptoms]` are a policy. They are not read by a stage:
//! what decides is a record, so the file only proposes, as [`Config::policy_text`]. The other
//! sections are [`Settings`]: they count as they stand.
//!
//! A value is taken from the file, then from the environment (`HOMEOSTAT_PLAN_COOLDOWN_S`), then
//! from a flag; the last one counts. Two gates: what was typed (the file by itself, each variable
//! by itself), then what the program needs (all together). Every key stands in [`keys()`].

pub mod keys;
pub mod pages;
pub mod secret;
pub mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Value;
use toml::de::{DeTable, DeValue};

use crate::model::{
    Place, Policy, PolicyError, edit_distance, is_known, line_of, nearest_path, places,
};
use keys::{Key, SECTIONS, TOKENS, is_policy, keys};
use settings::{ExecutorKind, Role, Settings, TokenSettings, WebSettings};

/// What the program was told.
#[derive(Clone, Debug, Default)]
pub struct Config {
    given: BTreeMap<String, Setting>,
    policy: Policy,
    policy_text: String,
    settings: Settings,
}

/// A value with its origin.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The value.
    pub value: Value,
    /// Who gave it.
    pub origin: Origin,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Literal(&self.value).fmt(f)
    }
}

/// Who gave a value, from the weakest to the strongest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag of the command line, with its dashes.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::Flag(name) => f.write_str(name),
        }
    }
}

/// What is wrong with something that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line of the file, from 1; `None` for what has no lines, or the file as a whole.
    pub line: Option<usize>,
    /// The key, as `log.sync_ms`; empty for the whole.
    pub key: String,
    /// What it is and what was expected.
    pub problem: String,
}

impl Fault {
    fn of_key(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Fault {
            line: None,
            key: key.into(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

/// The lines of a policy's text mean nothing to who wrote its values elsewhere.
impl From<PolicyError> for Fault {
    fn from(error: PolicyError) -> Self {
        Fault::of_key(error.key, error.problem)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error(
        "reading {}, expected a TOML file in UTF-8 (name another with --config)",
        path.display()
    )]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What was given is not valid.
    #[error("reading {origin}: {fault}")]
    Invalid {
        /// Who gave it.
        origin: Origin,
        /// What is wrong with it.
        fault: Fault,
    },
}

impl Config {
    /// Reads `file`, else [`DEFAULT_FILE`] if it is there, and the process's environment.
    ///
    /// # Errors
    /// The file cannot be read, or something in it or in the environment is not valid.
    pub fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match read(path) {
            Ok(text) => Some(text),
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => {
                let path = path.to_owned();
                return Err(ConfigError::Unreadable { path, source });
            }
        };
        // A name or value that is no UTF-8 is none of ours, or no value of any key.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .map(|(name, value)| (name, value.to_string_lossy().into_owned()));
        Config::new(text.as_deref().map(|text| (path, text)), environment)
    }

    /// The configuration of a file's text and an environment.
    ///
    /// # Errors
    /// Something in them is not valid.
    pub fn new(
        file: Option<(&Path, &str)>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let keys = keys();
        let mut config = Config::default();
        if let Some((path, text)) = file {
            let origin = Origin::File(path.to_owned());
            let values = typed(text, &keys).map_err(|fault| ConfigError::Invalid {
                origin: origin.clone(),
                fault,
            })?;
            config.given = values
                .into_iter()
                .map(|(key, value)| {
                    let origin = origin.clone();
                    (key, Setting { value, origin })
                })
                .collect();
        }
        let single = keys.iter().filter(|key| !key.is_listed());
        let variables = single.map(|key| (key.variable(), key)).collect();
        for (name, text) in environment {
            if let Some((key, value)) = variable(&name, &text, &variables)? {
                let origin = Origin::Variable(name);
                config.given.insert(key, Setting { value, origin });
            }
        }
        config.checked()
    }

    /// The configuration with `key`, one of [`keys()`], as a flag gave it.
    ///
    /// # Errors
    /// The value is not valid for this key.
    ///
    /// # Panics
    /// There is no such key.
    pub fn with_flag(
        mut self,
        flag: &'static str,
        key: &str,
        value: &str,
    ) -> Result<Config, ConfigError> {
        let known = keys().into_iter().find(|known| known.name == key);
        let key = known.expect("a flag stands for a key of the table");
        let origin = Origin::Flag(flag);
        let value = given(&key, value, &origin)?;
        self.given.insert(key.name, Setting { value, origin });
        self.checked()
    }

    /// The policy proposed, with defaults where nothing was given.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The policy proposed as canonical TOML: only the policy's keys that were given, sorted, one a
    /// line. Texts that say the same are the same, whatever their comments and order; nothing given
    /// is the empty text.
    pub fn policy_text(&self) -> &str {
        &self.policy_text
    }

    /// What the program itself is told, with defaults where nothing was given.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The values given, of policy and settings, by key, each with its origin.
    pub fn given(&self) -> &BTreeMap<String, Setting> {
        &self.given
    }

    /// The second gate: all values together.
    fn checked(mut self) -> Result<Config, ConfigError> {
        let policy = self.given.iter().filter(|(key, _)| is_policy(key));
        self.policy_text = policy
            .map(|(key, setting)| format!("{key} = {setting}\n"))
            .collect();
        match read_policy(&self.policy_text).and_then(|policy| {
            let settings = read_settings(&self.given)?;
            Ok((policy, settings))
        }) {
            Ok((policy, settings)) => {
                self.policy = policy;
                self.settings = settings;
                Ok(self)
            }
            Err(fault) => Err(ConfigError::Invalid {
                origin: self.origin_of(&fault),
                fault,
            }),
        }
    }

    /// Who gave what is at fault.
    fn origin_of(&self, fault: &Fault) -> Origin {
        match self.given.get(&fault.key) {
            Some(setting) => setting.origin.clone(),
            None => {
                let origins = self.given.values().map(|setting| &setting.origin);
                origins.max().cloned().expect("nothing given has no fault")
            }
        }
    }
}

/// The file that is read when no other is named.
pub const DEFAULT_FILE: &str = "homeostat.toml";

/// Largest file, bytes: five times what `config init` writes.
pub const FILE_BYTES_MAX: usize = 128 * 1024;

/// A file's text; of one that is too large so much that this can be seen.
fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(FILE_BYTES_MAX as u64 + 4)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// The first gate, for a file: its values by key.
fn typed(text: &str, keys: &[Key]) -> Result<BTreeMap<String, Value>, Fault> {
    if text.len() > FILE_BYTES_MAX {
        let problem = format!("larger than expected, at most {FILE_BYTES_MAX} bytes");
        return Err(Fault::of_key("", problem));
    }
    let table = DeTable::parse(text).map_err(|error| Fault {
        line: error.span().map(|span| line_of(text, span.start)),
        ..Fault::of_key("", error.message())
    })?;
    let places = places(table.get_ref());
    let at = |place: &Place| Some(line_of(text, place.span.start));
    let names: Vec<String> = keys.iter().map(|key| key.name.clone()).collect();
    let unknown = |place: &&Place| !is_known(&names, &place.path) && !is_property(&place.path);
    if let Some(place) = places.iter().find(unknown) {
        let nearest = nearest_path(&names, &place.path);
        return Err(Fault {
            line: at(place),
            ..Fault::of_key(
                &place.path,
                format!("unknown key, the nearest is {nearest}"),
            )
        });
    }
    let mut values = BTreeMap::new();
    let whole = text.parse().expect("what was parsed is TOML");
    flatten("", whole, &mut |key, value| {
        values.insert(key, value);
    });
    check_values(&values, keys).map_err(|fault| Fault {
        line: places
            .iter()
            .find(|place| place.path == fault.key)
            .and_then(at),
        ..fault
    })?;
    if let Some(tokens) = values.get(TOKENS) {
        check_tokens(tokens, keys).map_err(|(entry, fault)| Fault {
            line: place_in(table.get_ref(), entry, &fault.key).map(|start| line_of(text, start)),
            ..fault
        })?;
    }
    Ok(values)
}

/// Where a key of an entry of the tokens' list stands; one that is not there: where the entry does.
fn place_in(table: &DeTable<'_>, entry: usize, path: &str) -> Option<usize> {
    let (_, tokens) = table.iter().find(|(key, _)| key.get_ref() == TOKENS)?;
    let DeValue::Array(entries) = tokens.get_ref() else {
        return Some(tokens.span().start);
    };
    let entry = entries.get(entry)?;
    let DeValue::Table(keys) = entry.get_ref() else {
        return Some(entry.span().start);
    };
    let last = path.rsplit('.').next();
    let key = keys.keys().find(|key| Some(&**key.get_ref()) == last);
    Some(key.map_or(entry.span().start, |key| key.span().start))
}

/// The entries of the tokens' list, each by itself; a fault comes with the entry's number.
fn check_tokens(given: &Value, keys: &[Key]) -> Result<(), (usize, Fault)> {
    let listed = keys.iter().filter(|key| key.is_listed());
    let names: Vec<String> = listed.map(|key| key.name.clone()).collect();
    let entries = given.as_array().map_or(&[][..], Vec::as_slice);
    if given.as_array().is_none() {
        let problem = format!("{}, expected entries, each under [[token]]", Literal(given));
        return Err((0, Fault::of_key(TOKENS, problem)));
    }
    if entries.len() > TOKENS_MAX {
        let problem = format!("{} entries, expected at most {TOKENS_MAX}", entries.len());
        return Err((TOKENS_MAX, Fault::of_key(TOKENS, problem)));
    }
    for (number, entry) in entries.iter().enumerate() {
        let fault = |key: &str, problem: String| {
            let path = format!("{TOKENS}.{key}");
            (number, Fault::of_key(path, problem))
        };
        let Some(entry) = entry.as_table() else {
            let problem = format!("{}, expected an entry under [[token]]", Literal(entry));
            return Err((number, Fault::of_key(TOKENS, problem)));
        };
        for (name, value) in entry {
            let path = format!("{TOKENS}.{name}");
            let key = keys.iter().find(|key| key.name == path).ok_or_else(|| {
                let nearest = nearest_path(&names, &path);
                fault(name, format!("unknown key, the nearest is {nearest}"))
            })?;
            key.check(value).map_err(|problem| fault(name, problem))?;
        }
        for (needed, expected) in [
            ("name", "what the log calls who shows it"),
            ("meshes", "the meshes that may be seen, as [\"site\"]"),
            ("role", "ingest, read or operate"),
        ] {
            if !entry.contains_key(needed) {
                return Err(fault(needed, format!("none, expected {expected}")));
            }
        }
        if entry.contains_key("file") == entry.contains_key("certificate") {
            let problem = "expected either file or certificate: one of them says who it is";
            return Err(fault("file", problem.to_owned()));
        }
    }
    Ok(())
}

/// The tokens and what the door's address and certificates ask of them.
fn check_door(web: &WebSettings, tokens: &[TokenSettings]) -> Result<(), Fault> {
    let mut names = BTreeMap::new();
    for token in tokens {
        if names.insert(&token.name, ()).is_some() {
            let problem = format!("two entries are named {:?}, expected one each", token.name);
            return Err(Fault::of_key(TOKENS, problem));
        }
        if token.meshes.is_empty() {
            let problem = format!(
                "{} may see no mesh, expected meshes = [\"site\"], or [\"*\"] for all",
                token.name
            );
            return Err(Fault::of_key(TOKENS, problem));
        }
        if !token.node.is_empty() && token.role != Role::Ingest {
            let problem = format!(
                "{} names a node and has the role {}, expected ingest: it is who speaks for nodes",
                token.name,
                token.role.name()
            );
            return Err(Fault::of_key(TOKENS, problem));
        }
    }
    if web.certificate_file.is_empty() != web.key_file.is_empty() {
        let problem = "expected both web.certificate_file and web.key_file, or neither";
        return Err(Fault::of_key("web.key_file", problem));
    }
    let by_certificate = tokens.iter().any(|token| !token.certificate.is_empty());
    if !web.client_ca_file.is_empty() && web.certificate_file.is_empty() {
        let problem = "expected web.certificate_file too: clients show certificates over TLS only";
        return Err(Fault::of_key("web.client_ca_file", problem));
    }
    if by_certificate == web.client_ca_file.is_empty() {
        let problem = "expected with it a [[token]] with certificate = \"NAME\", and none of those \
                       without it: the authority says who comes, the entry what they may do";
        return Err(Fault::of_key("web.client_ca_file", problem));
    }
    let address = web.listen.parse::<std::net::SocketAddr>();
    if tokens.is_empty() && address.is_ok_and(|address| !address.ip().is_loopback()) {
        let problem = format!(
            "{:?} is not loopback, expected [[token]] entries too, which say who may come and do \
             what (README, \"Open the door to others\")",
            web.listen
        );
        return Err(Fault::of_key("web.listen", problem));
    }
    Ok(())
}

/// Each value by itself, and the policy as a whole: its own check names keys too.
fn check_values(values: &BTreeMap<String, Value>, keys: &[Key]) -> Result<(), Fault> {
    let mut policy = String::new();
    for (name, value) in values {
        if let Some(property) = name.strip_prefix(PROPERTIES) {
            keys::property(property, value).map_err(|problem| Fault::of_key(name, problem))?;
            continue;
        }
        if name == TOKENS {
            continue;
        }
        let Some(key) = keys.iter().find(|key| key.name == *name) else {
            let problem = format!("{}, expected a table of keys", Literal(value));
            return Err(Fault::of_key(name, problem));
        };
        if key.is_listed() {
            let problem = "expected under [[token]], with two brackets: there may be several";
            return Err(Fault::of_key(name, problem));
        }
        if key.is_policy() {
            policy.push_str(&format!("{name} = {}\n", Literal(value)));
        } else {
            key.check(value)
                .map_err(|problem| Fault::of_key(name, problem))?;
        }
    }
    read_policy(&policy).map(|_| ())
}

fn read_policy(text: &str) -> Result<Policy, Fault> {
    Ok(Policy::parse(text)?)
}

/// The settings of the values given, and what holds between them.
fn read_settings(given: &BTreeMap<String, Setting>) -> Result<Settings, Fault> {
    let (mut table, mut properties) = (toml::Table::new(), BTreeMap::new());
    for (key, setting) in given.iter().filter(|(key, _)| !is_policy(key)) {
        let mut note = |name: String, value: Value| -> Result<(), Fault> {
            let text = keys::property(&name, &value).map_err(|why| Fault::of_key(key, why))?;
            properties.insert(name, text);
            Ok(())
        };
        match (key.strip_prefix(PROPERTIES), &setting.value) {
            (Some(property), value) => note(property.to_owned(), value.clone())?,
            (None, Value::Table(given)) => {
                let mut noted = Ok(());
                flatten("", given.clone(), &mut |name, value| {
                    if noted.is_ok() {
                        noted = note(name, value);
                    }
                });
                noted?;
            }
            (None, value) => put(&mut table, key, value.clone()),
        }
    }
    let mut settings = Settings::deserialize(table)
        .map_err(|error| Fault::of_key("", error.message().to_owned()))?;
    settings.kafka.properties = properties;
    let kafka = &settings.kafka;
    if kafka.transaction_timeout_ms >= kafka.session_timeout_ms {
        let problem = format!(
            "{}, expected less than kafka.session_timeout_ms, {}: what a dead processor left open \
             must be decided when its partitions go to another",
            kafka.transaction_timeout_ms, kafka.session_timeout_ms
        );
        return Err(Fault::of_key("kafka.transaction_timeout_ms", problem));
    }
    let formats = &settings.formats;
    if formats.registry_unknown_s > formats.registry_patience_s {
        let problem = format!(
            "{}, expected at most formats.registry_patience_s, {}",
            formats.registry_unknown_s, formats.registry_patience_s
        );
        return Err(Fault::of_key("formats.registry_unknown_s", problem));
    }
    let forms = [
        ("formats.events", formats.events),
        ("formats.cycles", formats.cycles),
        ("formats.directives", formats.directives),
    ];
    for (key, form) in forms {
        if form == settings::Form::Confluent && formats.registry.is_empty() {
            let problem = "confluent, expected a Schema Registry in formats.registry too";
            return Err(Fault::of_key(key, problem));
        }
    }
    check_door(&settings.web, &settings.token)?;
    let agent = &settings.agent;
    if agent.executor == ExecutorKind::Exec && agent.exec.is_empty() {
        let problem = "exec, expected a program in [agent.exec] too, such as healing = [\"heal\", \
                       \"{value}\"]";
        return Err(Fault::of_key("agent.executor", problem));
    }
    Ok(settings)
}

/// Most entries of the tokens' list: each request is held against all of them.
pub const TOKENS_MAX: usize = 1024;

/// What the names of librdkafka's properties follow on.
const PROPERTIES: &str = "kafka.properties.";

fn is_property(path: &str) -> bool {
    path.starts_with(PROPERTIES)
}

/// Puts a value where its key says.
fn put(table: &mut toml::Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = table
                .entry(first)
                .or_insert_with(|| Value::Table(toml::Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// What a variable or a flag gives to a key.
fn given(key: &Key, text: &str, origin: &Origin) -> Result<Value, ConfigError> {
    let value = key.value_of(text);
    // What a policy may hold its own check says, of all its values together.
    let checked = match key.is_policy() {
        true => Ok(()),
        false => key.check(&value),
    };
    checked.map_err(|problem| ConfigError::Invalid {
        origin: origin.clone(),
        fault: Fault::of_key(&key.name, problem),
    })?;
    Ok(value)
}

/// What a variable of the environment gives: `None` when it is none of ours to judge.
fn variable(
    name: &str,
    text: &str,
    variables: &BTreeMap<String, &Key>,
) -> Result<Option<(String, Value)>, ConfigError> {
    let origin = Origin::Variable(name.to_owned());
    if let Some(key) = variables.get(name) {
        return Ok(Some((key.name.clone(), given(key, text, &origin)?)));
    }
    let ours = SECTIONS.iter().any(|(section, _)| {
        let rest = name.strip_prefix("HOMEOSTAT_");
        let rest = rest.and_then(|rest| rest.strip_prefix(&section.to_uppercase()));
        rest.is_some_and(|rest| rest.starts_with('_'))
    });
    if !ours {
        return Ok(None);
    }
    let nearest = variables
        .keys()
        .min_by_key(|known| edit_distance(known, name));
    let nearest = nearest.map(String::as_str).unwrap_or_default();
    let fault = Fault::of_key("", format!("no such key, the nearest is {nearest}"));
    Err(ConfigError::Invalid { origin, fault })
}

fn flatten(prefix: &str, table: toml::Table, found: &mut impl FnMut(String, Value)) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match value {
            Value::Table(inner) => flatten(&format!("{path}."), inner, found),
            value => found(path, value),
        }
    }
}

/// A value in the one form that we write.
pub struct Literal<'a>(pub &'a Value);

impl fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::String(text) => quoted(text, f),
            Value::Integer(n) => write!(f, "{n}"),
            Value::Float(x) if x.is_nan() => f.write_str("nan"),
            // Debug keeps the point or exponent that makes it a float.
            Value::Float(x) => write!(f, "{x:?}"),
            Value::Boolean(yes) => write!(f, "{yes}"),
            Value::Datetime(time) => write!(f, "{time}"),
            Value::Array(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    let comma = if i == 0 { "" } else { ", " };
                    write!(f, "{comma}{}", Literal(item))?;
                }
                f.write_str("]")
            }
            Value::Table(table) => {
                f.write_str("{")?;
                for (i, (key, item)) in table.iter().enumerate() {
                    f.write_str(if i == 0 { "" } else { ", " })?;
                    quoted(key, f)?;
                    write!(f, " = {}", Literal(item))?;
                }
                f.write_str("}")
            }
        }
    }
}

/// A TOML basic string.
fn quoted(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if c.is_control() => write!(f, "\\u{:04X}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Mode;

    fn config(file: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::new(Some((Path::new("h.toml"), file)), environment).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_given_proposes_nothing() {
        let config = Config::new(None, []).unwrap();
        assert_eq!(config.policy_text(), "");
        assert_eq!(config.policy(), &Policy::default());
    }

    #[test]
    fn the_environment_is_stronger_than_the_file_and_a_flag_than_both() {
        let file = "[plan]\nmode = \"act\"\ncooldown_s = 10\nhelp_s = 20\n";
        let environment = [
            ("HOMEOSTAT_PLAN_COOLDOWN_S", "30"),
            ("HOMEOSTAT_PLAN_MODE", "shadow"),
            ("HOMEOSTAT_PLAN_ALLOW", r#"["healing"]"#),
            ("HOMEOSTAT_SYMPTOMS_LOSSY_WARNING_ENTER", "3"),
            ("HOMEOSTAT_SEED", "7"),
            ("PATH", "/bin"),
        ];
        let config = config(file, &environment).unwrap();
        assert_eq!(config.policy().plan.cooldown_s, 30);
        assert_eq!(config.policy().plan.help_s, 20);
        assert_eq!(config.policy().plan.mode, Mode::Shadow);
        assert_eq!(config.policy().plan.allow, ["healing"]);
        assert_eq!(config.policy().symptoms.lossy.warning_enter, Some(3.0));
        let origin = |key: &str| config.given()[key].origin.to_string();
        assert_eq!(origin("plan.help_s"), "h.toml");
        assert_eq!(
            origin("plan.mode"),
            "environment variable HOMEOSTAT_PLAN_MODE"
        );
        let config = config
            .clone()
            .with_flag("--mode", "plan.mode", "act")
            .unwrap();
        assert_eq!(config.policy().plan.mode, Mode::Act);
        assert_eq!(config.given()["plan.mode"].origin, Origin::Flag("--mode"));
    }

    #[test]
    fn texts_that_say_the_same_are_the_same() {
        let a = config(
            "# ours\n[symptoms]\nlossy = { warning_enter = 3.0 }\n[plan]\nallow = [\n 'healing', \
             \"route_preference\" ]\nstorm_percent = 1e1\nmode = 'act'",
            &[],
        );
        let b = config(
            "[plan]\nstorm_percent = 10.0\nmode = \"act\"\nallow = \
             [\"healing\",\"route_preference\"]\n[symptoms.lossy]\nwarning_enter = 3.0",
            &[],
        );
        let expected = "plan.allow = [\"healing\", \"route_preference\"]\n\
             plan.mode = \"act\"\n\
             plan.storm_percent = 10.0\n\
             symptoms.lossy.warning_enter = 3.0\n";
        assert_eq!(a.unwrap().policy_text(), expected);
        assert_eq!(b.unwrap().policy_text(), expected);
    }

    #[test]
    fn a_fault_names_who_gave_it() {
        for (file, variable, expected) in [
            (
                "[plan]\ncooldown = 1",
                ("PATH", ""),
                "reading h.toml: line 2: plan.cooldown: unknown key, the nearest is \
                 plan.cooldown_s",
            ),
            (
                "",
                ("HOMEOSTAT_PLAN_COOLDOWN", "1"),
                "reading environment variable HOMEOSTAT_PLAN_COOLDOWN: no such key, the nearest \
                 is HOMEOSTAT_PLAN_COOLDOWN_S",
            ),
            (
                "[plan]\ncooldown_s = 1",
                ("HOMEOSTAT_PLAN_COOLDOWN_S", "-1"),
                "reading environment variable HOMEOSTAT_PLAN_COOLDOWN_S: plan.cooldown_s: -1, \
                 expected 0 to 86400",
            ),
            (
                "",
                ("HOMEOSTAT_PLAN_MODE", "a\"b\\c\n"),
                "reading environment variable HOMEOSTAT_PLAN_MODE: plan.mode: unknown variant \
                 `a\"b\\c\n`, expected `act` or `shadow`",
            ),
            (
                "",
                ("HOMEOSTAT_PLAN_COOLDOWN_S", "[{ x = 1.5 }, nan, true]"),
                "reading environment variable HOMEOSTAT_PLAN_COOLDOWN_S: plan.cooldown_s: \
                 invalid type: sequence, expected i64",
            ),
        ] {
            let got = config(file, &[variable]).map(|c| c.policy_text().to_owned());
            assert_eq!(got, Err(expected.to_owned()));
        }
    }

    #[test]
    fn settings_are_told_beside_a_policy_and_leave_its_text_alone() {
        let file = "[log]\nsync_ms = 5\n[plan]\nhelp_s = 20\n[log.keep_days]\nmetrics = 3\n\
                    [agent]\nexecutor = \"exec\"\nexec.healing = [\"heal\", \"{value}\"]\n";
        let environment = [
            ("HOMEOSTAT_LOG_DIR", "2026"),
            ("HOMEOSTAT_LOG_KEEP_DAYS_METRICS", "4"),
            ("HOMEOSTAT_AGENT_PEERS", "[\"router:443\"]"),
            ("HOMEOSTAT_LOGS_ELSEWHERE", "not ours"),
        ];
        let config = config(file, &environment).unwrap();
        assert_eq!(config.policy_text(), "plan.help_s = 20\n");
        let settings = config.settings();
        assert_eq!(settings.log.sync_ms, 5);
        assert_eq!(settings.log.dir, Path::new("2026"));
        assert_eq!(settings.log.keep_days.metrics, 4);
        assert_eq!(settings.log.keep_days.cycles, 7);
        assert_eq!(settings.agent.exec["healing"], ["heal", "{value}"]);
        assert_eq!(settings.agent.peers, ["router:443"]);
        let config = config.with_flag("--data", "log.dir", "there").unwrap();
        assert_eq!(config.settings().log.dir, Path::new("there"));
        let origin = &config.given()["log.dir"].origin;
        assert_eq!(origin, &Origin::Flag("--data"));
        let error = config.with_flag("--listen", "web.listen", "[::]:80");
        let error = error.unwrap_err().to_string();
        assert!(
            error.starts_with("reading --listen: web.listen: \"[::]:80\" is not loopback"),
            "{error}"
        );
    }

    #[test]
    fn what_settings_cannot_be_is_refused_with_line_and_key() {
        let too_large = "#".repeat(FILE_BYTES_MAX + 1);
        for (file, variable, expected) in [
            (
                "\n[log]\nsync = 5",
                ("PATH", ""),
                "reading h.toml: line 3: log.sync: unknown key, the nearest is log.fsync",
            ),
            (
                "[web]\ninterval_s = 5",
                ("PATH", ""),
                "reading h.toml: line 2: web.interval_s: unknown key, the nearest is \
                 agent.interval_s",
            ),
            (
                "[telemtry]",
                ("PATH", ""),
                "reading h.toml: line 1: telemtry: unknown key, the nearest is telemetry",
            ),
            (
                "[agent.exec]\nheal = [\"x\"]",
                ("PATH", ""),
                "reading h.toml: line 2: agent.exec.heal: unknown key, the nearest is \
                 agent.exec.healing",
            ),
            (
                "log = 5",
                ("PATH", ""),
                "reading h.toml: line 1: log: 5, expected a table of keys",
            ),
            (
                "[log]\ndir = [\"a\"]",
                ("PATH", ""),
                "reading h.toml: line 2: log.dir: [\"a\"], expected a path of 1 to 4096 bytes",
            ),
            (
                "[loop]\n\nstop_s = 0",
                ("PATH", ""),
                "reading h.toml: line 3: loop.stop_s: 0, expected 1 to 600 s",
            ),
            (
                "[log]\nsync_ms = ",
                ("PATH", ""),
                "reading h.toml: line 2: string values must be quoted, expected literal string",
            ),
            (
                "[agent]\nexecutor = \"exec\"",
                ("PATH", ""),
                "reading h.toml: agent.executor: exec, expected a program in [agent.exec] too, \
                 such as healing = [\"heal\", \"{value}\"]",
            ),
            (
                "[formats]\ncycles = \"confluent\"",
                ("PATH", ""),
                "reading h.toml: formats.cycles: confluent, expected a Schema Registry in \
                 formats.registry too",
            ),
            (
                "[formats]\nregistry_patience_s = 4",
                ("PATH", ""),
                "reading h.toml: formats.registry_unknown_s: 5, expected at most \
                 formats.registry_patience_s, 4",
            ),
            (
                &too_large,
                ("PATH", ""),
                "reading h.toml: larger than expected, at most 131072 bytes",
            ),
            (
                "",
                ("HOMEOSTAT_TELEMETRY_LEVEL", "loud"),
                "reading environment variable HOMEOSTAT_TELEMETRY_LEVEL: telemetry.level: \
                 \"loud\", expected error or warn or info or debug or trace",
            ),
            (
                "",
                ("HOMEOSTAT_LOG_KEEP_METRICS", "1"),
                "reading environment variable HOMEOSTAT_LOG_KEEP_METRICS: no such key, the \
                 nearest is HOMEOSTAT_LOG_KEEP_DAYS_METRICS",
            ),
            (
                "",
                ("HOMEOSTAT_LOG_DIR", "a\u{FFFD}b"),
                "reading environment variable HOMEOSTAT_LOG_DIR: log.dir: \"a\u{FFFD}b\", expected \
                 a path of 1 to 4096 bytes",
            ),
        ] {
            let got = config(file, &[variable]).map(|c| c.policy_text().to_owned());
            assert_eq!(got, Err(expected.to_owned()));
        }
    }

    /// An entry, with some of its lines changed.
    fn entry(changes: &[(&str, &str)]) -> String {
        let mut lines = BTreeMap::from([
            ("name", "\"r\""),
            ("file", "\"t/r\""),
            ("meshes", "[\"site\"]"),
            ("role", "\"ingest\""),
        ]);
        lines.extend(changes.iter().copied());
        lines.retain(|_, value| !value.is_empty());
        let lines = lines
            .iter()
            .map(|(key, value)| format!("{key} = {value}\n"));
        format!("[[token]]\n{}", lines.collect::<String>())
    }

    #[test]
    fn who_may_come_to_the_door_stands_in_entries() {
        let other = entry(&[
            ("name", "\"g\""),
            ("role", "\"read\""),
            ("meshes", "[\"*\"]"),
        ]);
        let own = entry(&[("node", "\"r\"")]);
        let file = format!("[web]\nlisten = \"0.0.0.0:1618\"\n{own}{other}");
        let config = config(&file, &[]).unwrap();
        assert_eq!(config.policy_text(), "");
        let [own, other] = &config.settings().token[..] else {
            panic!("{:?}", config.settings().token)
        };
        let said = (own.name.as_str(), own.node.as_str(), own.role);
        assert_eq!(said, ("r", "r", Role::Ingest));
        assert_eq!((other.role, other.node.as_str()), (Role::Read, ""));
        let error = config.with_flag("--listen", "web.listen", "x").unwrap_err();
        assert!(error.to_string().contains("an address and a port"));
    }

    #[test]
    fn an_entry_that_says_too_little_or_too_much_is_refused_with_its_line() {
        let good = entry(&[]);
        for (file, expected) in [
            (
                format!("{good}{}", entry(&[("rol", "\"read\""), ("name", "\"s\"")])),
                "line 10: token.rol: unknown key, the nearest is token.role",
            ),
            (
                entry(&[("role", "")]),
                "line 1: token.role: none, expected ingest, read or",
            ),
            (
                entry(&[("role", "\"root\"")]),
                "line 5: token.role: \"root\", expected ingest or",
            ),
            (
                entry(&[("meshes", "")]),
                "line 1: token.meshes: none, expected",
            ),
            (
                entry(&[("meshes", "[]")]),
                "token: r may see no mesh, expected meshes = ",
            ),
            (
                entry(&[("meshes", "\"site\"")]),
                "line 3: token.meshes: \"site\", expected a list",
            ),
            (
                entry(&[("file", "")]),
                "line 1: token.file: expected either file or certificate",
            ),
            (
                entry(&[("certificate", "\"r\"")]),
                "line 3: token.file: expected either file or certificate",
            ),
            (
                entry(&[("certificate", "\"r\""), ("file", "")]),
                "web.client_ca_file: expected with it a [[token]] with certificate",
            ),
            (
                format!("{good}{good}"),
                "token: two entries are named \"r\", expected one each",
            ),
            (
                entry(&[("node", "\"n\""), ("role", "\"read\"")]),
                "token: r names a node and has the role read, expected ingest",
            ),
            (
                "[token]\nname = \"r\"".into(),
                "line 2: token.name: expected under [[token]]",
            ),
            (
                "token = 5".into(),
                "line 1: token: 5, expected entries, each under [[token]]",
            ),
            (
                "[web]\nlisten = \"0.0.0.0:1618\"".into(),
                "web.listen: \"0.0.0.0:1618\" is not loopback, expected [[token]] entries too",
            ),
            (
                "[web]\ncertificate_file = \"c\"".into(),
                "web.key_file: expected both web.certificate_file and web.key_file",
            ),
            (
                format!("[web]\nclient_ca_file = \"c\"\n{good}"),
                "web.client_ca_file: expected web.certificate_file too",
            ),
        ] {
            let error = config(&file, &[]).unwrap_err();
            let expected = format!("reading h.toml: {expected}");
            assert!(error.starts_with(&expected), "{file}\n{error}\n{expected}");
        }
        let error = config("", &[("HOMEOSTAT_TOKEN_NAME", "r")]).unwrap_err();
        assert!(error.contains("no such key"), "{error}");
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let error = Config::load(Some(Path::new("/nowhere/h.toml"))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "reading /nowhere/h.toml, expected a TOML file in UTF-8 (name another with --config)"
        );
    }
}
