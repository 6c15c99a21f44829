//! Plan and Knowledge as one stage over `plan-inbox`: decided here, evolved there, kept in
//! `events`.

use std::rc::Rc;

use sha2::{Digest, Sha256};

use crate::knowledge::evolve;
use crate::model::{Body, Event, MeshId, PlanRecord, Time};
use crate::plan::{AdoptedSchema, ENGINE, Plan, adopted};
use crate::stream::{
    Alarms, At, Base, CLEAN_ROWS_MAX, EVENTS_FOR_INPUT, EVENTS_PER_RECORD, Fold, Key, Ledger,
    Output, Reject, To, Topic,
};
use crate::wire;

/// Plan on one partition of `plan-inbox`.
pub struct PlanFold {
    plan: Plan,
    ledger: Ledger,
    alarms: Alarms,
    partition: i32,
    /// Events that the record in hand has caused so far.
    spent: usize,
}

impl PlanFold {
    /// Plan over the rows in `base`.
    pub fn new(partition: i32, base: &Rc<dyn Base>) -> Self {
        PlanFold::keeping(partition, base, CLEAN_ROWS_MAX)
    }

    /// The same, keeping about so many unchanged rows of each table decoded in memory.
    pub fn keeping(partition: i32, base: &Rc<dyn Base>, rows: usize) -> Self {
        PlanFold {
            plan: plan(),
            ledger: Ledger::keeping(base, rows),
            alarms: Alarms::keeping(7, base.clone(), rows),
            partition,
            spent: 0,
        }
    }

    /// What Plan knows, for people who ask.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Decides one record that is decoded already; every event is evolved.
    ///
    /// # Errors
    /// The record is bad, or about something unknown.
    pub fn decide(&mut self, at: &At, record: &PlanRecord) -> Result<Vec<Event>, Reject> {
        let mesh = mesh_of(record);
        let before = mesh
            .as_ref()
            .and_then(|mesh| self.plan.wake_at(&self.ledger, at, mesh));
        let events = self.plan.decide(&mut self.ledger, at, record)?;
        if let Some(mesh) = mesh {
            self.moved(at, &mesh, before, &events);
        }
        Ok(events)
    }

    /// Fires the alarm of a mesh; every event is evolved.
    pub fn wake(&mut self, at: &At, mesh: &MeshId, room: usize) -> Vec<Event> {
        let events = self.plan.wake(&mut self.ledger, at, mesh, room);
        self.moved(at, mesh, None, &events);
        events
    }

    /// Applies a past event.
    pub fn apply(&mut self, event: &Event) {
        let at = At {
            now: event.time,
            hears_since: event.time,
            cause: event.cause.clone(),
        };
        let before = self.plan.wake_at(&self.ledger, &at, &event.mesh);
        evolve(&mut self.ledger, event);
        self.moved(&at, &event.mesh, before, std::slice::from_ref(event));
    }

    /// Files the alarms that events moved. What is said for all meshes may be due in any.
    fn moved(&mut self, at: &At, mesh: &MeshId, before: Option<Time>, events: &[Event]) {
        let after = self.plan.wake_at(&self.ledger, at, mesh);
        self.alarms.moved(&alarm_key(mesh), before, after);
        if !events.iter().any(|event| event.mesh.is_none()) {
            return;
        }
        let mut mesh = MeshId::none();
        while let Some((next, _)) = self.ledger.meshes.next(&mesh) {
            mesh = next;
            if let Some(due) = self.plan.wake_at(&self.ledger, at, &mesh) {
                self.alarms.file(&alarm_key(&mesh), due);
            }
        }
    }

    fn emit(&mut self, events: &[Event], out: &mut Vec<Output>) {
        self.spent += events.len();
        assert!(
            self.spent <= EVENTS_PER_RECORD,
            "one record causes at most {EVENTS_PER_RECORD} events"
        );
        for event in events {
            out.push(output(
                Topic::Events,
                To::Same,
                event.mesh.as_str(),
                wire::encode_event(event),
            ));
            if let Body::DirectiveIssued { directive } = &event.body {
                let key = format!("{}/{}", directive.mesh, directive.node);
                let value = wire::json::directive(directive).into_bytes();
                out.push(output(Topic::Directives, To::ByKey, &key, value));
            }
            let tells = !event.mesh.is_none() || self.partition == 0;
            if let Some(adopted) = adopted(&event.mesh, &event.body).filter(|_| tells) {
                let value = wire::encode_adopted(&adopted);
                out.push(output(Topic::Metrics, To::All, event.mesh.as_str(), value));
            }
        }
    }
}

impl Fold for PlanFold {
    fn own_key(&self, key: &[u8], _value: &[u8]) -> Option<Vec<u8>> {
        let mesh = MeshId::parse(std::str::from_utf8(key).ok()?)?;
        Some(alarm_key(&mesh))
    }

    fn record(
        &mut self,
        at: &At,
        key: &[u8],
        value: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), Reject> {
        let record = wire::decode_plan(value)?;
        if let Some(mesh) = mesh_of(&record).filter(|mesh| mesh.as_str().as_bytes() != key) {
            let detail = format!("record of mesh {mesh:?} under key {key:?}, expected its mesh");
            return Err(Reject {
                reason: "wrong_key",
                detail,
            });
        }
        let events = self.decide(at, &record)?;
        self.emit(&events, out);
        Ok(())
    }

    fn hears(&self) -> bool {
        false
    }

    fn blind(&mut self, _at: &At, _from: Time, _out: &mut Vec<Output>) {}

    fn alarms(&mut self) -> &mut Alarms {
        &mut self.alarms
    }

    fn wake_at(&self, at: &At, key: &[u8]) -> Option<Time> {
        let mesh = <MeshId as Key>::read(key)?;
        self.plan.wake_at(&self.ledger, at, &mesh)
    }

    fn alarm(&mut self, at: &At, key: &[u8], out: &mut Vec<Output>) {
        let mesh = <MeshId as Key>::read(key).expect("alarms are filed under mesh ids");
        let room = (EVENTS_PER_RECORD - EVENTS_FOR_INPUT).saturating_sub(self.spent);
        let events = self.wake(at, &mesh, room);
        self.emit(&events, out);
    }

    fn begin(&mut self) {
        self.ledger.begin();
        self.alarms.begin();
        self.spent = 0;
    }

    fn accept(&mut self) {}

    fn rollback(&mut self) {
        self.ledger.rollback();
        self.alarms.rollback();
    }

    fn evolve(&mut self, value: &[u8]) -> Result<(), Reject> {
        self.apply(&wire::decode_event(value)?);
        Ok(())
    }

    fn changed(&self) -> usize {
        self.ledger.changed() + self.alarms.changed()
    }

    fn drain(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut rows = Vec::new();
        self.ledger.drain(&mut rows);
        self.alarms.drain(&mut rows);
        rows
    }
}

/// Plan as it decides here.
pub(super) fn plan() -> Plan {
    let schemas = wire::event_schemas()
        .iter()
        .map(|schema| AdoptedSchema {
            name: schema.name.to_owned(),
            fingerprint: schema.fingerprint,
            sha256: Sha256::digest(schema.text).into(),
        })
        .collect();
    Plan {
        engine: ENGINE,
        schemas,
        evolve,
    }
}

/// The mesh whose rows a record may change; the empty one for the partition, `None` for a Tick.
fn mesh_of(record: &PlanRecord) -> Option<MeshId> {
    match record {
        PlanRecord::Tick => None,
        PlanRecord::Assessment(assessment) => Some(assessment.mesh.clone()),
        PlanRecord::Outcome(outcome) => Some(outcome.mesh.clone()),
        PlanRecord::LogOpened(_) | PlanRecord::LoopBlind(_) => Some(MeshId::none()),
        PlanRecord::PolicyChange(change) => Some(change.mesh.clone()),
        PlanRecord::Approval(approval) => Some(approval.mesh.clone()),
        PlanRecord::Hold(hold) => Some(hold.scope.mesh.clone()),
    }
}

fn alarm_key(mesh: &MeshId) -> Vec<u8> {
    let mut key = Vec::new();
    Key::write(mesh, &mut key);
    key
}

fn output(topic: Topic, to: To, key: &str, value: Vec<u8>) -> Output {
    Output {
        topic,
        to,
        key: key.as_bytes().to_vec(),
        value,
        headers: Vec::new(),
    }
}
