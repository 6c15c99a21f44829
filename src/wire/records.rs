//! Which field follows which: the layout of every record, in the order of its schema. Only ever
//! added to, at the end, with `since` the edition that added it (`schemas/README.md`).

use crate::model::{
    Action, Adopted, Approval, Assessment, Body, Cause, CycleClosed, Directive, Event, Finding,
    Healing, Hold, HoldScope, IncidentKind, Kind, LogOpened, LoopBlind, MeshId, Metric, Metrics,
    Outcome, OutcomeResult, POLICY_BYTES_MAX, PolicyChange, Reason, Refusal, Route, Scaling,
    Severity, State, Symptom, Wish,
};

use super::avro::{Avro, Fault, Form, Reader, record, symbols, union, write_bytes};
use super::{Record, decode, encode_directive};

record!(Cause {
    topic,
    partition,
    offset
});

record!(Assessment {
    mesh as Named,
    node,
    boot,
    sample_seq,
    sample_time,
    interval_s,
    phi,
    state,
    settled,
    severity,
    findings,
    wish,
    refused,
    stale,
    silent,
    conflict,
    ill_since,
    good_since,
    metrics,
    policy_id,
    engine,
});

record!(Finding {
    symptom,
    level,
    shown,
    established,
    confirmed,
    value
});

record!(Wish {
    interval_s,
    route,
    healing,
    scaling
});

record!(Outcome {
    mesh as Named,
    node,
    log_id,
    directive_id,
    generation,
    kind,
    result,
    observed,
});

record!(Adopted { mesh, policy_id, policy_generation, text as PolicyText });

record!(CycleClosed {
    mesh as Named,
    node,
    sample_seq,
    sample_time,
    time,
    phi,
    state,
    severity,
    symptoms,
    harmony_index,
    metrics,
    wish,
});

record!(LogOpened {
    log_id,
    audit_name,
    partitions,
    time_source
});

record!(PolicyChange { mesh, text as PolicyText, by });

record!(Approval { mesh as Named, node, subject, approved, by });

record!(Hold {
    scope,
    release,
    for_ms,
    by,
    reason
});

record!(HoldScope { mesh, node });

record!(LoopBlind {
    topic,
    partition,
    from,
    to
});

record!(Directive {
    id,
    log_id,
    mesh as Named,
    node,
    generation,
    issued_at,
    ttl_s,
    action,
    cause,
    incident_id,
    policy_id,
    policy_generation,
});

// Up to `engine` frozen for ever: `Head` reads it without knowing the edition.
record!(Event {
    seq,
    time,
    mesh,
    cause,
    engine,
    body
});

union!(Action {
    0 MonitoringInterval { interval_s },
    1 RoutePreference { value },
    2 Healing { level },
    3 Scaling { value },
});

union!(Body {
    0 LogOpened { log_id, audit_name, partitions, time_source },
    1 MeshOpened { format, origin, log_id, policy_text as PolicyText, continues },
    2 SchemaAdopted { name, fingerprint, sha256 },
    3 Adopted { policy_id, policy_generation, text as PolicyText, by, taken_over },
    4 NodeSeen { node, boot, interval_s, first, assessment },
    5 StateChanged { node, from, to, phi, sample_seq, sample_time, assessment },
    6 SeverityChanged { node, from, to, symptoms, sample_seq, assessment },
    7 NodeAssessed { node, assessment },
    8 NodeSilent { node },
    9 NodeReturned { node },
    10 NodeRetired { node },
    11 IdentityConflict { node, boot },
    12 LoopBlind { topic, partition, from, to },
    13 AnomalyRaised { node, symptom, level, value },
    14 AnomalyCleared { node, symptom },
    15 IncidentOpened {
        incident_id, kind, node, severity, symptoms, ill_since, nodes_ill, cause_node,
    },
    16 IncidentClosed {
        incident_id, kind, node, symptoms, detect_ms, repair_ms, cause_node,
    },
    17 DirectiveIssued { directive as SingleObject },
    18 DirectiveWithheld { id, node, action, reason, used, limit, until, incident_id },
    19 DirectiveExpired { node, kind, id, proposal },
    20 OutcomeReported { outcome },
    21 ApprovalRecorded { subject, node, kind, approved, by },
    22 HoldPlaced { hold_id, scope, until, by, reason },
    23 HoldReleased { scope, by },
});

symbols!(State { 0 Mystical, 1 Contemplative, 2 Harmonic, 3 Euphoric });

symbols!(Severity { 0 Ok, 1 Warning, 2 Critical });

symbols!(Symptom {
    0 Silent,
    1 Lossy,
    2 Slow,
    3 Isolated,
    4 CpuSaturated,
    5 MemorySaturated,
    6 TrustFailing,
    7 Idle,
});

symbols!(Refusal { 0 AggressiveHealing, 1 PreemptiveHealing, 2 EmergencyScale, 3 Optimize });

symbols!(Route { 0 LowLatency, 1 Balanced, 2 HighThroughput });

symbols!(Healing { 0 Preemptive, 1 Aggressive });

symbols!(Scaling { 0 Optimize, 1 EmergencyScale });

symbols!(Kind { 0 MonitoringInterval, 1 RoutePreference, 2 Healing, 3 Scaling });

symbols!(OutcomeResult { 0 Applied, 1 Refused, 2 Failed, 3 Unknown });

symbols!(IncidentKind { 0 Node, 1 Mass });

symbols!(Reason {
    0 NoEvidence,
    1 NotConfirmed,
    2 StaleEvidence,
    3 OtherPolicy,
    4 Silent,
    5 IdentityConflict,
    6 NotAllowed,
    7 Held,
    8 UnderWay,
    9 Cooldown,
    10 Budget,
    11 Storm,
    12 NeedsApproval,
    13 NotApproved,
    14 AttemptsSpent,
    15 NotRepeated,
    16 Shadow,
});

/// Eight optional doubles in the metrics' order.
impl Avro for Metrics {
    fn write(&self, out: &mut Vec<u8>) {
        for metric in Metric::ALL {
            self.get(metric).write(out);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
        let mut metrics = Metrics::default();
        for metric in Metric::ALL {
            from.field = metric.name();
            if let Some(value) = Option::<f64>::read(from)?
                && !metrics.try_set(metric, value)
            {
                return Err(Fault::Range(value));
            }
        }
        Ok(metrics)
    }
}

/// A mesh that is not the empty one.
struct Named;

impl Form<MeshId> for Named {
    fn write(mesh: &MeshId, out: &mut Vec<u8>) {
        mesh.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<MeshId, Fault> {
        let mesh = MeshId::read(from)?;
        if mesh.is_none() {
            return Err(Fault::Name(0));
        }
        Ok(mesh)
    }
}

/// A policy's text, longer than other texts may be.
struct PolicyText;

impl Form<String> for PolicyText {
    fn write(text: &String, out: &mut Vec<u8>) {
        text.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<String, Fault> {
        from.short_text(POLICY_BYTES_MAX).map(str::to_owned)
    }
}

/// A directive as the bytes that agents get, so that an event proves them.
struct SingleObject;

impl Form<Directive> for SingleObject {
    fn write(directive: &Directive, out: &mut Vec<u8>) {
        write_bytes(&encode_directive(directive), out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Directive, Fault> {
        decode(from.bytes()?, Record::Directive).map_err(|e| Fault::Nested(e.to_string()))
    }
}
