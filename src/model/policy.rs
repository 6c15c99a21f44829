//! What the loop may do and from which bounds on it calls a node ill: a TOML text that is adopted
//! as a record.
//!
//! A policy has the sections `[plan]`, `[monitor]` and `[symptoms]`; every key has a default,
//! unknown keys are errors. Its id is the SHA-256 of its text.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

use super::{Action, PolicyId, Span, Symptom};

/// Largest policy text, bytes.
pub const POLICY_BYTES_MAX: usize = 48 * 1024;

/// What may be decided, and from which bounds on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// What Plan may do.
    pub plan: PlanPolicy,
    /// When a reading counts.
    pub monitor: MonitorPolicy,
    /// When a node is ill.
    pub symptoms: SymptomsPolicy,
}

/// Whether Plan's decisions leave as directives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Directives are issued.
    #[default]
    Act,
    /// What would be issued is recorded as withheld.
    Shadow,
}

/// `[plan]`: the order of questions and its limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanPolicy {
    /// `act` or `shadow`.
    pub mode: Mode,
    /// What may be ordered: action kinds, or `kind:value` such as `healing:preemptive`.
    pub allow: Vec<String>,
    /// What of it a person must approve; as `allow`.
    pub approve: Vec<String>,
    /// How long the same node, kind and value rests, s.
    pub cooldown_s: i64,
    /// Share of a mesh's nodes that may be acted on at a time, %.
    pub budget_percent: f64,
    /// ... but at least so many nodes.
    pub budget_min: i64,
    /// How long after its outcome an act counts against the budget, and after which it did not
    /// help, s.
    pub help_s: i64,
    /// A directive's life, in the node's intervals.
    pub ttl_intervals: i64,
    /// ... but at least this, s.
    pub ttl_min_s: i64,
    /// How long a proposal waits for approval, s.
    pub approval_s: i64,
    /// Share of a mesh that, ill within `storm_s`, is a storm: more than this, %.
    pub storm_percent: f64,
    /// ... and at least so many nodes.
    pub storm_min: i64,
    /// The storm's window, s.
    pub storm_s: i64,
    /// How often what failed or expired goes again, per episode.
    pub attempts: i64,
    /// Not wished for so long, an episode of a node and kind ends, s.
    pub episode_s: i64,
    /// A longer interval is ordered after it was wished for so long, s.
    pub longer_interval_s: i64,
    /// What is not critical is healed only after its incident was open for so long: a whole window
    /// of the mean that confirms it, s.
    pub confirm_s: i64,
    /// A node silent for so long is forgotten, s.
    pub retire_s: i64,
}

impl Default for PlanPolicy {
    fn default() -> Self {
        PlanPolicy {
            mode: Mode::Act,
            allow: [
                "monitoring_interval",
                "route_preference",
                "healing",
                "scaling",
            ]
            .map(str::to_owned)
            .into(),
            approve: vec!["scaling:emergency_scale".to_owned()],
            cooldown_s: 300,
            budget_percent: 10.0,
            budget_min: 1,
            help_s: 600,
            ttl_intervals: 3,
            ttl_min_s: 60,
            approval_s: 900,
            storm_percent: 30.0,
            storm_min: 6,
            storm_s: 300,
            attempts: 3,
            episode_s: 600,
            longer_interval_s: 300,
            confirm_s: 300,
            retire_s: 7 * 86_400,
        }
    }
}

impl PlanPolicy {
    /// Whether `list` (`allow` or `approve`) names this action, by its kind or by `kind:value`.
    pub fn names(list: &[String], action: &Action) -> bool {
        let kind = action.kind().name();
        let value = match action {
            Action::MonitoringInterval { .. } => "",
            Action::RoutePreference { value } => value.name(),
            Action::Healing { level } => level.name(),
            Action::Scaling { value } => value.name(),
        };
        list.iter().any(|entry| match entry.split_once(':') {
            Some((k, v)) => k == kind && v == value,
            None => entry == kind,
        })
    }
}

/// `[monitor]`: when a reading counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MonitorPolicy {
    /// A sample's time may be this far after its append time, s.
    pub max_future_s: i64,
    /// A node is silent, and a sample is history, after so many of its intervals.
    pub silent_intervals: i64,
    /// Shortest interval that counts for that, s.
    pub interval_min_s: i64,
    /// Longest, s.
    pub interval_max_s: i64,
    /// The interval of a node that does not say, s.
    pub interval_default_s: i64,
    /// How long all for a node is withheld after a sign of two agents with its name, s.
    pub conflict_s: i64,
}

impl Default for MonitorPolicy {
    fn default() -> Self {
        MonitorPolicy {
            max_future_s: 300,
            silent_intervals: 3,
            interval_min_s: 10,
            interval_max_s: 3600,
            interval_default_s: 120,
            conflict_s: 600,
        }
    }
}

impl MonitorPolicy {
    /// Three (`silent_intervals`) of a node's intervals, each held to its bounds.
    pub fn patience(&self, interval_s: Option<f64>) -> Span {
        let (min, max) = (self.interval_min_s as f64, self.interval_max_s as f64);
        let interval = interval_s
            .unwrap_or(self.interval_default_s as f64)
            .clamp(min, max);
        Span((interval * 1000.0) as i64).times(self.silent_intervals)
    }
}

/// A pair of latch bounds: on at `enter` or beyond, a reading past `leave` is good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// The latch goes on here.
    pub enter: f64,
    /// Strictly past this a reading is good.
    pub leave: f64,
}

/// Bounds of one symptom; a missing pair never latches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SymptomBounds {
    /// Warning: on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning_enter: Option<f64>,
    /// Warning: past it is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning_leave: Option<f64>,
    /// Critical: on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critical_enter: Option<f64>,
    /// Critical: past it is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critical_leave: Option<f64>,
}

impl SymptomBounds {
    /// The warning pair.
    pub fn warning(&self) -> Option<Bounds> {
        Some(Bounds {
            enter: self.warning_enter?,
            leave: self.warning_leave?,
        })
    }

    /// The critical pair.
    pub fn critical(&self) -> Option<Bounds> {
        Some(Bounds {
            enter: self.critical_enter?,
            leave: self.critical_leave?,
        })
    }

    const fn new(warning: Option<(f64, f64)>, critical: Option<(f64, f64)>) -> Self {
        let (warning_enter, warning_leave) = match warning {
            Some((enter, leave)) => (Some(enter), Some(leave)),
            None => (None, None),
        };
        let (critical_enter, critical_leave) = match critical {
            Some((enter, leave)) => (Some(enter), Some(leave)),
            None => (None, None),
        };
        SymptomBounds {
            warning_enter,
            warning_leave,
            critical_enter,
            critical_leave,
        }
    }
}

/// `[symptoms]`: hold times, and `[symptoms.<name>]` bounds (`assess-contract.md`). A table given
/// replaces that symptom's bounds key by key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SymptomsPolicy {
    /// A latch goes off at a good reading so long after the first good one, s.
    pub clear_s: f64,
    /// A warning is established when its row of readings spans so long, s.
    pub warning_s: f64,
    /// A critical one, s.
    pub critical_s: f64,
    /// EUPHORIC for so long asks for `optimize`, s.
    pub thriving_s: f64,
    /// ... and either by so many readings in a row.
    pub readings: u32,
    /// Bounds of `silent` (metrics given; lower is worse).
    pub silent: SymptomBounds,
    /// Bounds of `lossy` (%).
    pub lossy: SymptomBounds,
    /// Bounds of `slow` (ms).
    pub slow: SymptomBounds,
    /// Bounds of `isolated` (peers; lower is worse).
    pub isolated: SymptomBounds,
    /// Bounds of `cpu_saturated` (%).
    pub cpu_saturated: SymptomBounds,
    /// Bounds of `memory_saturated` (%).
    pub memory_saturated: SymptomBounds,
    /// Bounds of `trust_failing` (ratio; lower is worse).
    pub trust_failing: SymptomBounds,
    /// Bounds of `idle` (% CPU; lower is worse); its warning pair, without a level.
    pub idle: SymptomBounds,
}

impl Default for SymptomsPolicy {
    fn default() -> Self {
        let new = SymptomBounds::new;
        SymptomsPolicy {
            clear_s: 60.0,
            warning_s: 60.0,
            critical_s: 20.0,
            thriving_s: 600.0,
            readings: 3,
            silent: new(Some((0.0, 0.0)), None),
            lossy: new(Some((2.0, 1.6)), Some((10.0, 5.0))),
            slow: new(Some((150.0, 120.0)), Some((500.0, 300.0))),
            isolated: new(None, Some((0.0, 0.0))),
            cpu_saturated: new(Some((90.0, 80.0)), None),
            memory_saturated: new(Some((85.0, 80.0)), Some((95.0, 90.0))),
            trust_failing: new(Some((0.90, 0.95)), Some((0.50, 0.75))),
            idle: new(Some((10.0, 20.0)), None),
        }
    }
}

impl SymptomsPolicy {
    /// The bounds of one symptom.
    pub fn bounds(&self, symptom: Symptom) -> &SymptomBounds {
        match symptom {
            Symptom::Silent => &self.silent,
            Symptom::Lossy => &self.lossy,
            Symptom::Slow => &self.slow,
            Symptom::Isolated => &self.isolated,
            Symptom::CpuSaturated => &self.cpu_saturated,
            Symptom::MemorySaturated => &self.memory_saturated,
            Symptom::TrustFailing => &self.trust_failing,
            Symptom::Idle => &self.idle,
        }
    }

    /// Whether a lower value of this symptom's metric is worse.
    pub const fn lower_is_worse(symptom: Symptom) -> bool {
        matches!(
            symptom,
            Symptom::Silent | Symptom::Isolated | Symptom::TrustFailing | Symptom::Idle
        )
    }
}

/// Why a text is no policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// Line of the text, from 1; `None` for the text as a whole.
    pub line: Option<usize>,
    /// The key, as `symptoms.lossy.warning_leave`; empty for the text as a whole.
    pub key: String,
    /// What is wrong and what was expected.
    pub problem: String,
}

impl std::error::Error for PolicyError {}

impl fmt::Display for PolicyError {
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

impl PolicyError {
    fn of_key(key: impl Into<String>, problem: impl Into<String>) -> Self {
        PolicyError {
            line: None,
            key: key.into(),
            problem: problem.into(),
        }
    }
}

impl Policy {
    /// The engine's built-in policy: in force before the first `Adopted`.
    pub const BUILT_IN: &str = include_str!("built-in-policy.toml");

    /// Reads and checks a policy's text.
    ///
    /// # Errors
    /// Not TOML, an unknown key, a value of another type or outside its bounds, a leave bound on
    /// the wrong side of its enter bound, a text of more than 48 KiB. Every error names the line,
    /// the key and what was expected.
    pub fn parse(text: &str) -> Result<Policy, PolicyError> {
        if text.len() > POLICY_BYTES_MAX {
            let problem = format!("{} bytes, expected at most {POLICY_BYTES_MAX}", text.len());
            return Err(PolicyError::of_key("", problem));
        }
        let at = |places: &[Place], error: &toml::de::Error| {
            let start = error.span().map(|span| span.start);
            let place = start.and_then(|at| places.iter().rfind(|p| p.span.contains(&at)));
            PolicyError {
                line: start.map(|at| line_of(text, at)),
                key: place.map(|p| p.path.clone()).unwrap_or_default(),
                problem: error.message().to_owned(),
            }
        };
        // The built-in text says what the defaults are: most logs have no other.
        let text = if text == Policy::BUILT_IN { "" } else { text };
        let table = DeTable::parse(text).map_err(|error| at(&[], &error))?;
        let places = places(table.get_ref());
        let keys = Policy::keys();
        if let Some(place) = places.iter().find(|p| !is_known(&keys, &p.path)) {
            return Err(PolicyError {
                line: Some(line_of(text, place.span.start)),
                key: place.path.clone(),
                problem: format!(
                    "unknown key, the nearest is {}",
                    nearest_path(&keys, &place.path)
                ),
            });
        }
        let mut policy = Policy::deserialize(toml::Deserializer::from(table))
            .map_err(|error| at(&places, &error))?;
        policy.symptoms.fill_from_defaults();
        policy.check().map_err(|error| PolicyError {
            line: places
                .iter()
                .find(|p| p.path == error.key)
                .map(|p| line_of(text, p.span.start)),
            ..error
        })?;
        Ok(policy)
    }

    /// The id of a text.
    pub fn id(text: &str) -> PolicyId {
        PolicyId::of(text)
    }

    /// Every key that a policy may give, as `plan.cooldown_s`, section by section.
    pub fn keys() -> Vec<String> {
        let mut keys = Vec::new();
        for (section, names) in SECTIONS {
            keys.extend(names.iter().map(|name| format!("{section}.{name}")));
        }
        for symptom in Symptom::ALL {
            let name = symptom.name();
            keys.extend(BOUNDS.map(|bound| format!("symptoms.{name}.{bound}")));
        }
        keys
    }

    fn check(&self) -> Result<(), PolicyError> {
        let want = |ok: bool, key: &str, got: &dyn fmt::Display, expected: &str| {
            ok.then_some(())
                .ok_or_else(|| PolicyError::of_key(key, format!("{got}, expected {expected}")))
        };
        let (p, m, s) = (&self.plan, &self.monitor, &self.symptoms);
        for (key, value, min, max) in [
            ("plan.cooldown_s", p.cooldown_s, 0, 86_400),
            ("plan.budget_min", p.budget_min, 0, 1_000_000),
            ("plan.help_s", p.help_s, 1, 86_400),
            ("plan.ttl_intervals", p.ttl_intervals, 1, 100),
            ("plan.ttl_min_s", p.ttl_min_s, 1, 86_400),
            ("plan.approval_s", p.approval_s, 1, 7 * 86_400),
            ("plan.storm_min", p.storm_min, 2, 1_000_000),
            ("plan.storm_s", p.storm_s, 1, 3600),
            ("plan.attempts", p.attempts, 1, 100),
            ("plan.episode_s", p.episode_s, 1, 86_400),
            ("plan.longer_interval_s", p.longer_interval_s, 0, 86_400),
            ("plan.confirm_s", p.confirm_s, 0, 86_400),
            ("plan.retire_s", p.retire_s, 3600, 366 * 86_400),
            ("monitor.max_future_s", m.max_future_s, 0, 86_400),
            ("monitor.silent_intervals", m.silent_intervals, 1, 100),
            ("monitor.interval_min_s", m.interval_min_s, 1, 3600),
            (
                "monitor.interval_max_s",
                m.interval_max_s,
                m.interval_min_s,
                86_400,
            ),
            (
                "monitor.interval_default_s",
                m.interval_default_s,
                1,
                86_400,
            ),
            ("monitor.conflict_s", m.conflict_s, 1, 86_400),
            ("symptoms.readings", i64::from(s.readings), 1, 1000),
        ] {
            let expected = format!("{min} to {max}");
            want((min..=max).contains(&value), key, &value, &expected)?;
        }
        for (key, value, max) in [
            ("plan.budget_percent", p.budget_percent, 100.0),
            ("plan.storm_percent", p.storm_percent, 100.0),
            ("symptoms.clear_s", s.clear_s, 86_400.0),
            ("symptoms.warning_s", s.warning_s, 86_400.0),
            ("symptoms.critical_s", s.critical_s, 86_400.0),
            ("symptoms.thriving_s", s.thriving_s, 86_400.0),
        ] {
            let expected = format!("0 to {max}");
            want((0.0..=max).contains(&value), key, &value, &expected)?;
        }
        // How often a node samples is nobody's to approve: that question is not asked of it.
        for (key, list, actions) in [
            ("plan.allow", &p.allow, &ACTIONS[..]),
            ("plan.approve", &p.approve, &ACTIONS[1..]),
        ] {
            for entry in list {
                want(
                    actions.contains(&entry.as_str()),
                    key,
                    entry,
                    &actions.join(", "),
                )?;
            }
        }
        Symptom::ALL
            .into_iter()
            .try_for_each(|symptom| s.check(symptom))
    }
}

impl SymptomsPolicy {
    /// Bounds that a `[symptoms.<name>]` table does not give are that symptom's defaults.
    fn fill_from_defaults(&mut self) {
        let defaults = SymptomsPolicy::default();
        for (given, default) in [
            (&mut self.silent, defaults.silent),
            (&mut self.lossy, defaults.lossy),
            (&mut self.slow, defaults.slow),
            (&mut self.isolated, defaults.isolated),
            (&mut self.cpu_saturated, defaults.cpu_saturated),
            (&mut self.memory_saturated, defaults.memory_saturated),
            (&mut self.trust_failing, defaults.trust_failing),
            (&mut self.idle, defaults.idle),
        ] {
            given.warning_enter = given.warning_enter.or(default.warning_enter);
            given.warning_leave = given.warning_leave.or(default.warning_leave);
            given.critical_enter = given.critical_enter.or(default.critical_enter);
            given.critical_leave = given.critical_leave.or(default.critical_leave);
        }
    }

    fn check(&self, symptom: Symptom) -> Result<(), PolicyError> {
        let bounds = self.bounds(symptom);
        for (level, enter, leave) in [
            ("warning", bounds.warning_enter, bounds.warning_leave),
            ("critical", bounds.critical_enter, bounds.critical_leave),
        ] {
            let key = |end: &str| format!("symptoms.{}.{level}_{end}", symptom.name());
            let (enter, leave) = match (enter, leave) {
                (None, None) => continue,
                (Some(enter), Some(leave)) => (enter, leave),
                (given, _) => {
                    let (given, missing) = match given {
                        Some(_) => ("enter", "leave"),
                        None => ("leave", "enter"),
                    };
                    let problem = format!("given alone, expected {level}_{missing} too");
                    return Err(PolicyError::of_key(key(given), problem));
                }
            };
            for (end, value) in [("enter", enter), ("leave", leave)] {
                if !value.is_finite() {
                    let problem = format!("{value}, expected a finite number");
                    return Err(PolicyError::of_key(key(end), problem));
                }
            }
            let (right_side, want) = match Self::lower_is_worse(symptom) {
                true => (leave >= enter, "at least"),
                false => (leave <= enter, "at most"),
            };
            if !right_side {
                let problem = format!("{leave}, expected {want} {level}_enter, {enter}");
                return Err(PolicyError::of_key(key("leave"), problem));
            }
        }
        Ok(())
    }
}

/// Where a key or table of a text stands.
pub(crate) struct Place {
    /// As `plan.cooldown_s`.
    pub(crate) path: String,
    /// From the start of its key to the end of its value.
    pub(crate) span: Range<usize>,
}

/// The keys and tables of a text, every table before what is in it.
pub(crate) fn places(table: &DeTable<'_>) -> Vec<Place> {
    fn walk(prefix: &str, table: &DeTable<'_>, out: &mut Vec<Place>) {
        for (key, value) in table {
            let path = format!("{prefix}{}", key.get_ref());
            out.push(Place {
                path: path.clone(),
                span: key.span().start..key.span().end.max(value.span().end),
            });
            if let DeValue::Table(inner) = value.get_ref() {
                walk(&format!("{path}."), inner, out);
            }
        }
    }
    let mut out = Vec::new();
    walk("", table, &mut out);
    out
}

/// The line, from 1, of a byte of a text.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&b| b == b'\n').count()
}

/// Whether this is one of the keys, or a table that one of them stands in.
pub(crate) fn is_known(keys: &[String], path: &str) -> bool {
    let mut rests = keys.iter().filter_map(|key| key.strip_prefix(path));
    rests.any(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The keys and the tables that they stand in.
fn known_paths(keys: &[String]) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for key in keys {
        let tables = key.match_indices('.').map(|(at, _)| key[..at].to_owned());
        paths.extend(tables);
        paths.insert(key.clone());
    }
    paths
}

/// The key or table whose last part is most like that of `path`, and then the whole.
pub(crate) fn nearest_path(keys: &[String], path: &str) -> String {
    let last = |path: &str| path.rsplit('.').next().map(str::to_owned);
    known_paths(keys)
        .into_iter()
        .min_by_key(|known| {
            let (a, b) = (last(known), last(path));
            let by_last = edit_distance(&a.unwrap_or_default(), &b.unwrap_or_default());
            (by_last, edit_distance(known, path))
        })
        .unwrap_or_default()
}

/// How many letters must be added, removed or replaced to make one of the other (Levenshtein).
pub fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// What `allow` may list, and all but the first `approve`.
const ACTIONS: [&str; 11] = [
    "monitoring_interval",
    "route_preference",
    "route_preference:low_latency",
    "route_preference:balanced",
    "route_preference:high_throughput",
    "healing",
    "healing:preemptive",
    "healing:aggressive",
    "scaling",
    "scaling:optimize",
    "scaling:emergency_scale",
];

/// The sections and their keys; `[symptoms]` also has a table of [`BOUNDS`] for each symptom.
const SECTIONS: [(&str, &[&str]); 3] = [
    (
        "plan",
        &[
            "mode",
            "allow",
            "approve",
            "cooldown_s",
            "budget_percent",
            "budget_min",
            "help_s",
            "ttl_intervals",
            "ttl_min_s",
            "approval_s",
            "storm_percent",
            "storm_min",
            "storm_s",
            "attempts",
            "episode_s",
            "longer_interval_s",
            "confirm_s",
            "retire_s",
        ],
    ),
    (
        "monitor",
        &[
            "max_future_s",
            "silent_intervals",
            "interval_min_s",
            "interval_max_s",
            "interval_default_s",
            "conflict_s",
        ],
    ),
    (
        "symptoms",
        &[
            "clear_s",
            "warning_s",
            "critical_s",
            "thriving_s",
            "readings",
        ],
    ),
];

/// The keys of a `[symptoms.<name>]` table.
const BOUNDS: [&str; 4] = [
    "warning_enter",
    "warning_leave",
    "critical_enter",
    "critical_leave",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// `text` is refused with exactly these words.
    fn refused(text: &str, expected: &str) {
        assert_eq!(Policy::parse(text).unwrap_err().to_string(), expected);
    }

    #[test]
    fn the_built_in_text_says_every_default() {
        fn leaves(value: &serde_json::Value) -> usize {
            match value {
                serde_json::Value::Object(map) => map.values().map(leaves).sum(),
                _ => 1,
            }
        }
        let built_in = Policy::parse(&format!("{}\n", Policy::BUILT_IN)).unwrap();
        assert_eq!(built_in, Policy::default());
        assert_eq!(Policy::parse("").unwrap(), built_in);
        let said = Policy::BUILT_IN
            .lines()
            .filter(|line| line.contains(" = "))
            .count();
        assert_eq!(said, leaves(&serde_json::to_value(&built_in).unwrap()));
    }

    #[test]
    fn a_bound_given_alone_keeps_its_neighbours() {
        let policy = Policy::parse("[symptoms.lossy]\nwarning_enter = 3.0\n").unwrap();
        assert_eq!(
            policy.symptoms.lossy.warning(),
            Some(Bounds {
                enter: 3.0,
                leave: 1.6
            })
        );
        assert_eq!(
            policy.symptoms.lossy.critical(),
            Some(Bounds {
                enter: 10.0,
                leave: 5.0
            })
        );
        assert_eq!(policy.symptoms.slow, SymptomsPolicy::default().slow);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_line_key_and_bound() {
        for (text, expected) in [
            (
                "[symptoms.lossy]\nwarning_leave = 3.0",
                "line 2: symptoms.lossy.warning_leave: 3, expected at most warning_enter, 2",
            ),
            (
                "[symptoms.trust_failing]\ncritical_leave = 0.4",
                "line 2: symptoms.trust_failing.critical_leave: 0.4, expected at least \
                 critical_enter, 0.5",
            ),
            (
                "[symptoms.cpu_saturated]\ncritical_enter = 99.0",
                "line 2: symptoms.cpu_saturated.critical_enter: given alone, expected \
                 critical_leave too",
            ),
            (
                "symptoms.slow = { warning_enter = nan }",
                "line 1: symptoms.slow.warning_enter: NaN, expected a finite number",
            ),
            (
                "# budget\n\n[plan]\nbudget_percent = 101.0",
                "line 4: plan.budget_percent: 101, expected 0 to 100",
            ),
            (
                "plan.storm_s = 0",
                "line 1: plan.storm_s: 0, expected 1 to 3600",
            ),
            (
                "[plan]\nmode = \"dream\"",
                "line 2: plan.mode: unknown variant `dream`, expected `act` or `shadow`",
            ),
            (
                "[plan]\ncooldown_s = \"long\"",
                "line 2: plan.cooldown_s: invalid type: string \"long\", expected i64",
            ),
        ] {
            refused(text, expected);
        }
        let error = Policy::parse("[plan]\nallow = [\"reboot\"]").unwrap_err();
        assert!(
            error
                .problem
                .starts_with("reboot, expected monitoring_interval, "),
            "{error}"
        );
        let long = "#".repeat(POLICY_BYTES_MAX + 1);
        refused(&long, "49153 bytes, expected at most 49152");
        let error = Policy::parse("[plan]\nmode = = 1").unwrap_err();
        assert_eq!(error.line, Some(2), "{error}");
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_known_one() {
        for (text, line, key, nearest) in [
            (
                "[plan]\ncooldown = 3",
                2,
                "plan.cooldown",
                "plan.cooldown_s",
            ),
            (
                "[monitor]\n\nhelp_s = 3",
                3,
                "monitor.help_s",
                "plan.help_s",
            ),
            ("[plam]\nmode = \"act\"", 1, "plam", "plan"),
            (
                "[symptoms.losy]\nwarning_enter = 3.0",
                1,
                "symptoms.losy",
                "symptoms.lossy",
            ),
            (
                "[symptoms.slow]\nwarning_entre = 3.0",
                2,
                "symptoms.slow.warning_entre",
                "symptoms.slow.warning_enter",
            ),
        ] {
            let expected = format!("line {line}: {key}: unknown key, the nearest is {nearest}");
            refused(text, &expected);
        }
    }

    #[test]
    fn the_keys_are_the_fields() {
        let fields = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let mut policy = Policy::default();
        policy.symptoms.slow = SymptomBounds::new(Some((2.0, 1.0)), Some((4.0, 3.0)));
        let value = serde_json::to_value(policy).unwrap();
        let mut expected = Vec::new();
        for section in fields(&value) {
            for key in fields(&value[&section]) {
                match value[&section][&key].is_object() {
                    true => expected.extend(
                        fields(&value["symptoms"]["slow"])
                            .iter()
                            .map(|bound| format!("{section}.{key}.{bound}")),
                    ),
                    false => expected.push(format!("{section}.{key}")),
                }
            }
        }
        let mut keys = Policy::keys();
        keys.sort();
        expected.sort();
        assert_eq!(keys, expected);
    }

    #[test]
    fn edit_distance_counts_letters() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("plan", "plan", 0),
            ("plam", "plan", 1),
            ("kitten", "sitting", 3),
            ("cooldown", "cooldown_s", 2),
        ] {
            assert_eq!(edit_distance(a, b), expected, "{a} {b}");
            assert_eq!(edit_distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn patience_is_three_held_intervals() {
        let monitor = MonitorPolicy::default();
        assert_eq!(monitor.patience(Some(60.0)), Span::seconds(180));
        assert_eq!(monitor.patience(Some(1.0)), Span::seconds(30));
        assert_eq!(monitor.patience(Some(1e9)), Span::seconds(3 * 3600));
        assert_eq!(monitor.patience(None), Span::seconds(360));
    }

    #[test]
    fn a_list_names_kinds_and_values() {
        let scale = Action::Scaling {
            value: crate::model::Scaling::EmergencyScale,
        };
        assert!(PlanPolicy::names(&PlanPolicy::default().approve, &scale));
        assert!(!PlanPolicy::names(&["scaling:optimize".to_owned()], &scale));
        assert!(PlanPolicy::names(&["scaling".to_owned()], &scale));
    }
}
