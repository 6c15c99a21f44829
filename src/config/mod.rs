//! `homeostat.toml`: what an operator proposes, from a file and the environment.
//!
//! Its sections `[plan]`, `[monitor]` and `[symptoms]` are a policy. They are not read by a stage:
//! what decides is a record, so the file only proposes, as [`Config::policy_text`].
//!
//! A value is taken from the file, then from the environment (`HOMEOSTAT_PLAN_COOLDOWN_S`), then
//! from a flag; the last one counts. Two gates: what was typed (the file by itself, each variable
//! by itself), then what the program needs (all together).

pub mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Value;

use crate::model::{Policy, PolicyError, edit_distance};

/// What the program was told.
#[derive(Clone, Debug, Default)]
pub struct Config {
    settings: BTreeMap<String, Setting>,
    policy: Policy,
    policy_text: String,
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
        fault: PolicyError,
    },
}

impl Config {
    /// Reads `file`, else [`DEFAULT_FILE`] if it is there, and the process's environment.
    ///
    /// # Errors
    /// The file cannot be read, or something in it or in the environment is not valid.
    pub fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
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
        let mut config = Config::default();
        if let Some((path, text)) = file {
            let origin = Origin::File(path.to_owned());
            let invalid = |fault| ConfigError::Invalid {
                origin: origin.clone(),
                fault,
            };
            Policy::parse(text).map_err(invalid)?;
            let table = text.parse().expect("what is a policy is TOML");
            flatten("", table, &mut |key, value| {
                let origin = origin.clone();
                config.settings.insert(key, Setting { value, origin });
            });
        }
        let keys = variables();
        for (name, text) in environment {
            if let Some(key) = keys.get(&name) {
                config.settings.insert(
                    key.clone(),
                    Setting {
                        value: value_of(&text),
                        origin: Origin::Variable(name),
                    },
                );
            } else if SECTIONS.iter().any(|section| name.starts_with(section)) {
                let nearest = keys.keys().min_by_key(|known| edit_distance(known, &name));
                let nearest = nearest.map(String::as_str).unwrap_or_default();
                return Err(ConfigError::Invalid {
                    fault: PolicyError {
                        line: None,
                        key: String::new(),
                        problem: format!("no such key, the nearest is {nearest}"),
                    },
                    origin: Origin::Variable(name),
                });
            }
        }
        config.checked()
    }

    /// The configuration with `key`, one of [`Policy::keys`], as a flag gave it.
    ///
    /// # Errors
    /// The value is not valid for this key.
    pub fn with_flag(
        mut self,
        flag: &'static str,
        key: &str,
        value: &str,
    ) -> Result<Config, ConfigError> {
        let setting = Setting {
            value: value_of(value),
            origin: Origin::Flag(flag),
        };
        self.settings.insert(key.to_owned(), setting);
        self.checked()
    }

    /// The policy proposed, with defaults where nothing was given.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The policy proposed as canonical TOML: only the keys that were given, sorted, one a line.
    /// Texts that say the same are the same, whatever their comments and order; nothing given is
    /// the empty text.
    pub fn policy_text(&self) -> &str {
        &self.policy_text
    }

    /// The values given, by key, each with its origin.
    pub fn settings(&self) -> &BTreeMap<String, Setting> {
        &self.settings
    }

    /// The second gate: all values together.
    fn checked(mut self) -> Result<Config, ConfigError> {
        self.policy_text = self
            .settings
            .iter()
            .map(|(key, setting)| format!("{key} = {setting}\n"))
            .collect();
        self.policy = Policy::parse(&self.policy_text).map_err(|fault| {
            // The canonical text's lines mean nothing to who wrote the values.
            let fault = PolicyError {
                line: None,
                ..fault
            };
            let origin = match self.settings.get(&fault.key) {
                Some(setting) => setting.origin.clone(),
                None => strongest(&self.settings),
            };
            ConfigError::Invalid { origin, fault }
        })?;
        Ok(self)
    }
}

fn strongest(settings: &BTreeMap<String, Setting>) -> Origin {
    let origins = settings.values().map(|setting| &setting.origin);
    origins.max().cloned().expect("no settings have no fault")
}

/// The file that is read when no other is named.
pub const DEFAULT_FILE: &str = "homeostat.toml";

/// How the variables of each section begin; others that begin with `HOMEOSTAT_` are not ours to
/// judge.
const SECTIONS: [&str; 3] = [
    "HOMEOSTAT_PLAN_",
    "HOMEOSTAT_MONITOR_",
    "HOMEOSTAT_SYMPTOMS_",
];

/// The environment variables, each with its key.
fn variables() -> BTreeMap<String, String> {
    Policy::keys()
        .into_iter()
        .map(|key| {
            (
                format!("HOMEOSTAT_{}", key.replace('.', "_").to_uppercase()),
                key,
            )
        })
        .collect()
}

/// A value as a variable or a flag gives it: TOML, or else a bare word.
fn value_of(text: &str) -> Value {
    format!("v = {text}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
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
struct Literal<'a>(&'a Value);

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
        let origin = |key: &str| config.settings()[key].origin.to_string();
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
        assert_eq!(
            config.settings()["plan.mode"].origin,
            Origin::Flag("--mode")
        );
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
    fn a_file_that_was_named_must_be_there() {
        let error = Config::load(Some(Path::new("/nowhere/h.toml"))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "reading /nowhere/h.toml, expected a TOML file in UTF-8 (name another with --config)"
        );
    }
}
