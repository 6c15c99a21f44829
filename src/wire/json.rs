//! The stable JSON forms: what `--json` prints, what agents read on `directives`, and outcomes on
//! the way in (`docs/cli.md`, "What `--json` prints").
//!
//! One object a line, its keys in a readable order: whose, which, when, what, why, then what the
//! type adds. Times are RFC 3339 in UTC with milliseconds, hashes are hex, a key without a value is
//! left out. More keys may be added; none is renamed or removed.

use std::collections::BTreeMap;

use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer, Serialize};

use crate::model::{
    Action, Assessment, Body, Cause, CycleClosed, Directive, Event, EventTime, Finding, Healing,
    HoldScope, MeshId, Metric, Metrics, NodeId, Outcome, PolicyId, Refusal, Route, Scaling,
    Severity, State, Symptom, Time, Wish,
};
use crate::stream::Reject;

use super::avro::TEXT_BYTES_MAX;

/// An event as `events --json` prints it.
pub fn event(event: &Event) -> String {
    let mut out = Object::new();
    out.put("mesh_id", event.mesh.as_str());
    out.put("seq", &event.seq);
    out.put("time", &event.time.to_string());
    out.put("type", event.body.name());
    out.put_some("node_id", event.body.node().map(NodeId::as_str));
    out.put("cause", &event.cause);
    out.put("engine", &event.engine);
    put_body(&mut out, &event.body);
    out.end()
}

fn put_body(out: &mut Object, body: &Body) {
    match body {
        Body::LogOpened {
            log_id,
            audit_name,
            partitions,
            time_source,
        } => {
            out.put("log_id", log_id);
            out.put("audit_name", audit_name);
            out.put("partitions", partitions);
            out.put("time_source", time_source);
        }
        Body::MeshOpened {
            format,
            origin,
            log_id,
            policy_text,
            continues,
        } => {
            out.put("format", format);
            out.put("origin", origin);
            out.put("log_id", log_id);
            out.put("policy_text", policy_text);
            out.put_some("continues", continues.as_ref());
        }
        Body::SchemaAdopted {
            name,
            fingerprint,
            sha256,
        } => {
            out.put("name", name);
            out.put("fingerprint", &hex(fingerprint));
            out.put("sha256", &hex(sha256));
        }
        Body::Adopted {
            policy_id,
            policy_generation,
            text,
            by,
            taken_over,
        } => {
            out.put("policy_id", &policy_id.to_string());
            out.put("policy_generation", policy_generation);
            out.put("text", text);
            out.put("by", by);
            out.put("taken_over", taken_over);
        }
        Body::NodeSeen {
            node: _,
            boot,
            interval_s,
            first,
            assessment,
        } => {
            out.put("boot", boot);
            out.put_some("interval_s", interval_s.as_ref());
            out.put("first", first);
            put_assessment(out, assessment);
        }
        Body::StateChanged {
            node: _,
            from,
            to,
            phi,
            sample_seq,
            sample_time,
            assessment,
        } => {
            out.put("from", from);
            out.put("to", to);
            out.put("phi", phi);
            out.put("sample_seq", sample_seq);
            out.put("sample_time", &sample_time.to_string());
            put_assessment(out, assessment);
        }
        Body::SeverityChanged {
            node: _,
            from,
            to,
            symptoms,
            sample_seq,
            assessment,
        } => {
            out.put("from", from);
            out.put("to", to);
            out.put("symptoms", symptoms);
            out.put("sample_seq", sample_seq);
            put_assessment(out, assessment);
        }
        Body::NodeAssessed {
            node: _,
            assessment,
        } => put_assessment(out, assessment),
        Body::NodeSilent { node: _ }
        | Body::NodeReturned { node: _ }
        | Body::NodeRetired { node: _ } => {}
        Body::IdentityConflict { node: _, boot } => out.put("boot", boot),
        Body::LoopBlind {
            topic,
            partition,
            from,
            to,
        } => {
            out.put("topic", topic);
            out.put("partition", partition);
            out.put("from", &from.to_string());
            out.put("to", &to.to_string());
        }
        Body::AnomalyRaised {
            node: _,
            symptom,
            level,
            value,
        } => {
            out.put("symptom", symptom);
            out.put("level", level);
            out.put_some("value", value.as_ref());
        }
        Body::AnomalyCleared { node: _, symptom } => out.put("symptom", symptom),
        Body::IncidentOpened {
            incident_id,
            kind,
            node: _,
            severity,
            symptoms,
            ill_since,
            nodes_ill,
            cause_node,
        } => {
            out.put("incident_id", incident_id);
            out.put("kind", kind);
            out.put("severity", severity);
            out.put("symptoms", symptoms);
            out.put("ill_since", &ill_since.to_string());
            out.put("nodes_ill", nodes_ill);
            out.put_some("cause_node", cause_node.as_ref());
        }
        Body::IncidentClosed {
            incident_id,
            kind,
            node: _,
            symptoms,
            detect_ms,
            repair_ms,
            cause_node,
        } => {
            out.put("incident_id", incident_id);
            out.put("kind", kind);
            out.put("symptoms", symptoms);
            out.put_some("cause_node", cause_node.as_ref());
            out.put("detect_ms", detect_ms);
            out.put("repair_ms", repair_ms);
        }
        Body::DirectiveIssued { directive } => out.put("directive", &DirectiveForm(directive)),
        Body::DirectiveWithheld {
            id,
            node: _,
            action,
            reason,
            used,
            limit,
            until,
            incident_id,
        } => {
            out.put("id", id);
            out.put("action", &ActionForm(action));
            out.put("reason", reason);
            out.put_some("used", used.as_ref());
            out.put_some("limit", limit.as_ref());
            out.put_some("until", until.map(|t| t.to_string()).as_ref());
            out.put_some("incident_id", incident_id.as_ref());
        }
        Body::DirectiveExpired {
            node: _,
            kind,
            id,
            proposal,
        } => {
            out.put("kind", kind);
            out.put("id", id);
            out.put("proposal", proposal);
        }
        Body::OutcomeReported { outcome } => {
            out.put("log_id", &outcome.log_id);
            out.put("directive_id", &outcome.directive_id);
            out.put("generation", &outcome.generation);
            out.put("kind", &outcome.kind);
            out.put("result", &outcome.result);
            out.put_some("observed", outcome.observed.as_ref());
        }
        Body::ApprovalRecorded {
            subject,
            node: _,
            kind,
            approved,
            by,
        } => {
            out.put("subject", subject);
            out.put("kind", kind);
            out.put("approved", approved);
            out.put("by", by);
        }
        Body::HoldPlaced {
            hold_id,
            scope,
            until,
            by,
            reason,
        } => {
            out.put("hold_id", hold_id);
            put_scope(out, scope);
            out.put_some("until", until.map(|t| t.to_string()).as_ref());
            out.put("by", by);
            out.put("reason", reason);
        }
        Body::HoldReleased { scope, by } => {
            put_scope(out, scope);
            out.put("by", by);
        }
    }
}

fn put_scope(out: &mut Object, scope: &HoldScope) {
    let mut inner = Object::new();
    inner.put("mesh_id", &scope.mesh);
    inner.put_some("node_id", scope.node.as_ref());
    out.put_raw("scope", &inner.end());
}

fn put_assessment(out: &mut Object, assessment: &Option<Assessment>) {
    if let Some(assessment) = assessment {
        out.put_raw("assessment", &self::assessment(assessment));
    }
}

/// An assessment: the input whole, as the first event that it caused holds it.
pub fn assessment(assessment: &Assessment) -> String {
    let a = assessment;
    let refused: Vec<_> = a.refused.iter().copied().map(Refusal::name).collect();
    let findings: Vec<_> = a.findings.iter().map(finding).collect();
    let mut out = Object::new();
    out.put("mesh_id", &a.mesh);
    out.put("node_id", &a.node);
    out.put("boot", &a.boot);
    out.put("sample_seq", &a.sample_seq);
    out.put("sample_time", &a.sample_time.to_string());
    out.put_some("interval_s", a.interval_s.as_ref());
    out.put("phi", &a.phi);
    out.put("state", &a.state);
    out.put("settled", &a.settled);
    out.put("severity", &a.severity);
    out.put_raw("findings", &format!("[{}]", findings.join(",")));
    out.put_raw("wish", &wish(&a.wish));
    out.put("refused", &refused);
    out.put("stale", &a.stale);
    out.put("silent", &a.silent);
    out.put("conflict", &a.conflict);
    out.put_some("ill_since", a.ill_since.map(|t| t.to_string()).as_ref());
    out.put_some("good_since", a.good_since.map(|t| t.to_string()).as_ref());
    out.put_raw("metrics", &metrics(&a.metrics));
    out.put("policy_id", &a.policy_id.to_string());
    out.put("engine", &a.engine);
    out.end()
}

fn finding(finding: &Finding) -> String {
    let mut out = Object::new();
    out.put("symptom", &finding.symptom);
    out.put("level", &finding.level);
    out.put("shown", &finding.shown);
    out.put("established", &finding.established);
    out.put("confirmed", &finding.confirmed);
    out.put_some("value", finding.value.as_ref());
    out.end()
}

/// A wish with the names that `assess` uses; what is not wished is `none`.
pub fn wish(wish: &Wish) -> String {
    let mut out = Object::new();
    out.put("interval_s", &wish.interval_s);
    out.put("route_preference", &wish.route);
    out.put(
        "healing",
        wish.healing.map_or("none", |healing| healing.name()),
    );
    out.put(
        "scaling_action",
        wish.scaling.map_or("none", |scaling| scaling.name()),
    );
    out.end()
}

/// The metrics that were measured, in order; peers are a whole number.
pub fn metrics(metrics: &Metrics) -> String {
    let mut out = Object::new();
    for (metric, value) in metrics.iter() {
        if metric == Metric::MeshConnectivity {
            out.put(metric.name(), &(value as i64));
        } else {
            out.put(metric.name(), &value);
        }
    }
    out.end()
}

/// A cycle as `cycles --json` prints it.
pub fn cycle(cycle: &CycleClosed) -> String {
    let mut out = Object::new();
    out.put("mesh_id", &cycle.mesh);
    out.put("node_id", &cycle.node);
    out.put("sample_seq", &cycle.sample_seq);
    out.put("sample_time", &cycle.sample_time.to_string());
    out.put("time", &cycle.time.to_string());
    out.put("phi", &cycle.phi);
    out.put("state", &cycle.state);
    out.put("severity", &cycle.severity);
    out.put("symptoms", &cycle.symptoms);
    out.put("harmony_index", &cycle.harmony_index);
    out.put_raw("metrics", &metrics(&cycle.metrics));
    out.put_raw("wish", &wish(&cycle.wish));
    out.end()
}

/// What is known of a node at a moment.
#[derive(Clone, Copy, Debug)]
pub struct NodeState<'a> {
    /// Its mesh.
    pub mesh: &'a MeshId,
    /// The node.
    pub node: &'a NodeId,
    /// The moment.
    pub time: Time,
    /// How ill it is.
    pub severity: Severity,
    /// With a latch on, in order.
    pub symptoms: &'a [Symptom],
    /// Its state.
    pub state: State,
    /// Its phi.
    pub phi: f64,
    /// The interval that it was last told, s.
    pub interval_s: u32,
    /// Append time of what was last heard of it.
    pub last_seen: Time,
    /// The incident that it is in.
    pub incident_id: Option<&'a str>,
    /// Whether someone holds it.
    pub held: bool,
}

/// A node as `state --json` prints it; `held` only when it is.
pub fn node_state(node: &NodeState<'_>) -> String {
    let mut out = Object::new();
    out.put("mesh_id", node.mesh);
    out.put("node_id", node.node);
    out.put("time", &node.time.to_string());
    out.put("severity", &node.severity);
    out.put("symptoms", node.symptoms);
    out.put("state", &node.state);
    out.put("phi", &node.phi);
    out.put("interval_s", &node.interval_s);
    out.put("last_seen", &node.last_seen.to_string());
    out.put_some("incident_id", node.incident_id);
    out.put_some("held", node.held.then_some(&true));
    out.end()
}

/// A directive: what agents read and what `directives --json` prints.
pub fn directive(directive: &Directive) -> String {
    text(&DirectiveForm(directive))
}

/// Reads a directive in the form that [`directive`] writes.
///
/// # Errors
/// `not_json`, or `bad_directive` with the field.
pub fn decode_directive(value: &[u8]) -> Result<Directive, Reject> {
    let mut json = serde_json::Deserializer::from_slice(value);
    let directive = DirectiveKeys::deserialize(&mut json)
        .and_then(|directive| json.end().map(|()| directive))
        .map_err(|e| reject("a directive", "bad_directive", &e))?;
    if directive.mesh.is_none() {
        return Err(empty_mesh("a directive", "bad_directive"));
    }
    Ok(directive)
}

/// Reads a closed cycle in the form that [`cycle`] writes.
///
/// # Errors
/// `not_json`, or `bad_cycle` with the field.
pub fn decode_cycle(value: &[u8]) -> Result<CycleClosed, Reject> {
    let keys: CycleKeys =
        serde_json::from_slice(value).map_err(|e| reject("a cycle", "bad_cycle", &e))?;
    let bad = |detail: String| Reject {
        reason: "bad_cycle",
        detail: format!("reading a cycle: {detail}"),
    };
    if keys.mesh.is_none() {
        return Err(empty_mesh("a cycle", "bad_cycle"));
    }
    let mut metrics = Metrics::default();
    for (metric, value) in keys.metrics {
        if !metrics.try_set(metric, value) {
            return Err(bad(format!("{} {value}, out of its range", metric.name())));
        }
    }
    Ok(CycleClosed {
        mesh: keys.mesh,
        node: keys.node,
        sample_seq: keys.sample_seq,
        sample_time: EventTime(keys.sample_time.0),
        time: keys.time,
        phi: keys.phi,
        state: keys.state,
        severity: keys.severity,
        symptoms: keys.symptoms,
        harmony_index: keys.harmony_index,
        metrics,
        wish: Wish {
            interval_s: keys.wish.interval_s,
            route: keys.wish.route_preference,
            healing: keys.wish.healing.0,
            scaling: keys.wish.scaling_action.0,
        },
    })
}

/// Whether a JSON object has a `directive_id`: then it is an outcome.
pub(super) fn has_directive_id(value: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Probe {
        directive_id: Option<serde::de::IgnoredAny>,
    }
    // Most samples do not hold the word; those that do are read twice.
    std::str::from_utf8(value).is_ok_and(|text| text.contains("directive_id"))
        && serde_json::from_slice::<Probe>(value).is_ok_and(|probe| probe.directive_id.is_some())
}

/// Reads an outcome as an agent sends it.
///
/// # Errors
/// `not_json`, or `bad_outcome` with the field.
pub fn decode_outcome(value: &[u8]) -> Result<Outcome, Reject> {
    let outcome: Outcome =
        serde_json::from_slice(value).map_err(|e| reject("an outcome", "bad_outcome", &e))?;
    if outcome.mesh.is_none() {
        return Err(empty_mesh("an outcome", "bad_outcome"));
    }
    for (field, text) in [
        ("log_id", &outcome.log_id),
        ("directive_id", &outcome.directive_id),
        (
            "observed",
            outcome.observed.as_ref().unwrap_or(&String::new()),
        ),
    ] {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Reject {
                reason: "bad_outcome",
                detail: format!(
                    "reading an outcome: {field} of {} bytes, expected at most {TEXT_BYTES_MAX}",
                    text.len()
                ),
            });
        }
    }
    Ok(outcome)
}

/// Bytes in small hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn reject(what: &str, reason: &'static str, error: &serde_json::Error) -> Reject {
    Reject {
        reason: if error.is_data() { reason } else { "not_json" },
        detail: format!("reading {what}: {error}"),
    }
}

fn empty_mesh(what: &str, reason: &'static str) -> Reject {
    Reject {
        reason,
        detail: format!("reading {what}: mesh_id is empty, expected 1 to 255 bytes"),
    }
}

/// A JSON object whose keys come in the order in which they are put.
pub(super) struct Object(String);

impl Object {
    pub(super) fn new() -> Self {
        Object("{".to_owned())
    }

    pub(super) fn put<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) {
        self.put_raw(key, &text(value));
    }

    fn put_some<T: Serialize + ?Sized>(&mut self, key: &str, value: Option<&T>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    /// Puts what is JSON already.
    fn put_raw(&mut self, key: &str, json: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(key);
        self.0.push_str("\":");
        self.0.push_str(json);
    }

    pub(super) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn text<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("values of the model have text keys and write anywhere")
}

/// The keys of a directive's JSON form, both ways.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Directive")]
struct DirectiveKeys {
    id: String,
    log_id: String,
    #[serde(rename = "mesh_id")]
    mesh: MeshId,
    #[serde(rename = "node_id")]
    node: NodeId,
    generation: i64,
    #[serde(with = "rfc3339")]
    issued_at: Time,
    ttl_s: i64,
    #[serde(with = "ActionKeys")]
    action: Action,
    cause: Cause,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    incident_id: Option<String>,
    #[serde(with = "hex32")]
    policy_id: PolicyId,
    policy_generation: i64,
}

/// The keys of a cycle's JSON form.
#[derive(Deserialize)]
struct CycleKeys {
    #[serde(rename = "mesh_id")]
    mesh: MeshId,
    #[serde(rename = "node_id")]
    node: NodeId,
    sample_seq: i64,
    #[serde(with = "rfc3339")]
    sample_time: Time,
    #[serde(with = "rfc3339")]
    time: Time,
    phi: f64,
    state: State,
    severity: Severity,
    symptoms: Vec<Symptom>,
    harmony_index: f64,
    metrics: BTreeMap<Metric, f64>,
    wish: WishKeys,
}

#[derive(Deserialize)]
struct WishKeys {
    interval_s: u32,
    route_preference: Route,
    healing: OrNone<Healing>,
    scaling_action: OrNone<Scaling>,
}

/// What is not wished is the word `none`.
struct OrNone<T>(Option<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrNone<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let word = String::deserialize(from)?;
        if word == "none" {
            return Ok(OrNone(None));
        }
        T::deserialize(word.into_deserializer()).map(|value| OrNone(Some(value)))
    }
}

/// An action with its kind as one of its keys. Its own form has none: rows could not read it back.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Action", tag = "kind", rename_all = "snake_case")]
enum ActionKeys {
    MonitoringInterval { interval_s: u32 },
    RoutePreference { value: Route },
    Healing { level: Healing },
    Scaling { value: Scaling },
}

/// An action that is written by [`ActionKeys`].
#[derive(Serialize)]
struct ActionForm<'a>(#[serde(with = "ActionKeys")] &'a Action);

/// A directive that is written by [`DirectiveKeys`].
#[derive(Serialize)]
struct DirectiveForm<'a>(#[serde(with = "DirectiveKeys")] &'a Directive);

mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::model::{Time, parse_rfc3339};

    pub(super) fn serialize<S: Serializer>(time: &Time, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(time)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Time, D::Error> {
        let text = String::deserialize(from)?;
        parse_rfc3339(text.as_bytes())
            .map(Time)
            .ok_or_else(|| D::Error::custom(format!("time {text:?}, expected RFC 3339 in UTC")))
    }
}

mod hex32 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::model::PolicyId;

    pub(super) fn serialize<S: Serializer>(id: &PolicyId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PolicyId, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || D::Error::custom(format!("hash {text:?}, expected 64 digits of hex"));
        let mut id = [0; 32];
        if text.len() != 64 {
            return Err(wrong());
        }
        for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16).ok_or_else(wrong);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(PolicyId(id))
    }
}

#[cfg(test)]
mod tests {
    use crate::model::{EventTime, Healing, Kind, OutcomeResult, Route};

    use super::*;

    fn directive() -> Directive {
        Directive {
            id: "dir-7".to_owned(),
            log_id: "7f3a9c12".to_owned(),
            mesh: MeshId::parse("alpha").unwrap(),
            node: NodeId::parse("node \"17\"\n").unwrap(),
            generation: 7,
            issued_at: Time(1_767_225_610_040),
            ttl_s: 60,
            action: Action::Healing {
                level: Healing::Aggressive,
            },
            cause: Cause {
                topic: "homeostat.plan-inbox".to_owned(),
                partition: 0,
                offset: 2104,
            },
            incident_id: None,
            policy_id: PolicyId([0xAB; 32]),
            policy_generation: 3,
        }
    }

    fn directive_text() -> String {
        [
            r#"{"id":"dir-7","log_id":"7f3a9c12","mesh_id":"alpha","node_id":"node \"17\"\n","#,
            r#""generation":7,"issued_at":"2026-01-01T00:00:10.040Z","ttl_s":60,"#,
            r#""action":{"kind":"healing","level":"aggressive"},"#,
            r#""cause":{"topic":"homeostat.plan-inbox","partition":0,"offset":2104},"#,
            r#""policy_id":""#,
            &"ab".repeat(32),
            r#"","policy_generation":3}"#,
        ]
        .concat()
    }

    #[test]
    fn a_directive_reads_as_promised_and_comes_back() {
        assert_eq!(super::directive(&directive()), directive_text());
        assert_eq!(
            decode_directive(directive_text().as_bytes()),
            Ok(directive())
        );
        let unknown = directive_text().replace("\"ttl_s\"", "\"new\":[{}],\"ttl_s\"");
        assert_eq!(decode_directive(unknown.as_bytes()), Ok(directive()));
    }

    #[test]
    fn what_is_no_directive_is_refused_by_field() {
        let check = |from: &str, to: &str, reason: &str, word: &str| {
            let text = directive_text().replace(from, to);
            let reject = decode_directive(text.as_bytes()).unwrap_err();
            assert_eq!(reject.reason, reason, "{reject}");
            assert!(reject.detail.contains(word), "{reject} should name {word}");
        };
        check("\"alpha\"", "\"\"", "bad_directive", "mesh_id");
        check("aggressive", "gentle", "bad_directive", "gentle");
        check("\"healing\"", "\"reboot\"", "bad_directive", "reboot");
        check("00:00:10.040Z", "0:00", "bad_directive", "RFC 3339");
        check("abab", "abax", "bad_directive", "64 digits");
        check("\"ttl_s\":60,", "", "bad_directive", "ttl_s");
        check("3}", "3}}", "not_json", "trailing");
        check("3}", "3", "not_json", "EOF");
    }

    #[test]
    fn an_event_reads_from_whose_to_what() {
        let event = Event {
            seq: 1042,
            time: Time(1_767_225_600_000),
            mesh: MeshId::parse("alpha").unwrap(),
            cause: directive().cause,
            engine: "plan/1".to_owned(),
            body: Body::StateChanged {
                node: NodeId::parse("n").unwrap(),
                from: State::Harmonic,
                to: State::Mystical,
                phi: 0.540_804_423_622_114_9,
                sample_seq: 7,
                sample_time: EventTime(1_767_225_610_000),
                assessment: None,
            },
        };
        let text = [
            r#"{"mesh_id":"alpha","seq":1042,"time":"2026-01-01T00:00:00.000Z","#,
            r#""type":"StateChanged","node_id":"n","#,
            r#""cause":{"topic":"homeostat.plan-inbox","partition":0,"offset":2104},"#,
            r#""engine":"plan/1","from":"HARMONIC","to":"MYSTICAL","phi":0.5408044236221149,"#,
            r#""sample_seq":7,"sample_time":"2026-01-01T00:00:10.000Z"}"#,
        ];
        assert_eq!(super::event(&event), text.concat());
    }

    #[test]
    fn a_node_reads_as_promised() {
        let node = NodeState {
            mesh: &MeshId::parse("alpha").unwrap(),
            node: &NodeId::parse("n").unwrap(),
            time: Time(1_767_225_600_000),
            severity: Severity::Warning,
            symptoms: &[Symptom::CpuSaturated],
            state: State::Harmonic,
            phi: 1.0,
            interval_s: 30,
            last_seen: Time(1_767_225_599_000),
            incident_id: None,
            held: false,
        };
        let text = [
            r#"{"mesh_id":"alpha","node_id":"n","time":"2026-01-01T00:00:00.000Z","#,
            r#""severity":"warning","symptoms":["cpu_saturated"],"state":"HARMONIC","phi":1.0,"#,
            r#""interval_s":30,"last_seen":"2025-12-31T23:59:59.000Z""#,
        ]
        .concat();
        assert_eq!(node_state(&node), format!("{text}}}"));
        let held = NodeState {
            incident_id: Some("inc-1"),
            held: true,
            ..node
        };
        assert_eq!(
            node_state(&held),
            format!("{text},\"incident_id\":\"inc-1\",\"held\":true}}")
        );
    }

    #[test]
    fn a_wish_names_what_it_does_not_ask_for() {
        let wish = Wish {
            interval_s: 60,
            route: Route::Balanced,
            healing: None,
            scaling: None,
        };
        let text = [
            r#"{"interval_s":60,"route_preference":"balanced","#,
            r#""healing":"none","scaling_action":"none"}"#,
        ];
        assert_eq!(super::wish(&wish), text.concat());
    }

    const OUTCOME: &str = r#"{"mesh_id":"alpha","node_id":"n","log_id":"l","directive_id":"dir-7",
        "generation":7,"kind":"healing","result":"applied","observed":"metric 50","extra":1}"#;

    #[test]
    fn an_outcome_is_told_from_a_sample_by_its_directive_id() {
        assert!(has_directive_id(OUTCOME.as_bytes()));
        assert!(!has_directive_id(br#"{"node_id":"directive_id","time":0}"#));
        assert!(!has_directive_id(br#"{"node_id":"n","time":0}"#));
        assert!(!has_directive_id(br#"{"directive_id":"#));
        let outcome = decode_outcome(OUTCOME.as_bytes()).unwrap();
        assert_eq!(
            (outcome.kind, outcome.result),
            (Kind::Healing, OutcomeResult::Applied)
        );
        assert_eq!(outcome.observed.as_deref(), Some("metric 50"));
    }

    #[test]
    fn what_is_no_outcome_is_refused_by_field() {
        let check = |from: &str, to: &str, reason: &str, word: &str| {
            let reject = decode_outcome(OUTCOME.replace(from, to).as_bytes()).unwrap_err();
            assert_eq!(reject.reason, reason, "{reject}");
            assert!(reject.detail.contains(word), "{reject} should name {word}");
        };
        check("\"alpha\"", "\"\"", "bad_outcome", "mesh_id");
        check("\"n\"", "\"\"", "bad_outcome", "name of 0 bytes");
        check("applied", "done", "bad_outcome", "done");
        check("\"generation\":7,", "", "bad_outcome", "generation");
        check(
            "metric 50",
            &"x".repeat(TEXT_BYTES_MAX + 1),
            "bad_outcome",
            "observed",
        );
        check("1}", "1", "not_json", "EOF");
    }
}
