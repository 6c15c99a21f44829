//! Bytes to model and back: Avro single-object and JSON, frozen and versioned.

pub mod sample_json;

use crate::model::{CycleClosed, Directive, Event, MetricsRecord, Outcome, PlanRecord, Sample};
use crate::stream::Reject;

/// A schema that an event log uses: what `SchemaAdopted` records.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// The record's full name.
    pub name: &'static str,
    /// CRC-64-AVRO of the parsing canonical form, little-endian as in the single-object header.
    pub fingerprint: [u8; 8],
    /// Its text, as it lies in `schemas/`.
    pub text: &'static str,
}

/// Reads a record of `metrics`: empty is a Tick, `C3 01` Avro by its fingerprint, else JSON (with a
/// `directive_id` an Outcome).
pub fn decode_metrics(_value: &[u8]) -> Result<MetricsRecord<'_>, Reject> {
    unimplemented!()
}

/// Writes a sample as Avro single-object.
pub fn encode_sample(_sample: &Sample) -> Vec<u8> {
    unimplemented!()
}

/// Writes an outcome as Avro single-object (the same record on both inboxes).
pub fn encode_outcome(_outcome: &Outcome) -> Vec<u8> {
    unimplemented!()
}

/// Writes an `Adopted` for `metrics`.
pub fn encode_adopted(_adopted: &crate::model::Adopted) -> Vec<u8> {
    unimplemented!()
}

/// Reads a record of `plan-inbox`.
pub fn decode_plan(_value: &[u8]) -> Result<PlanRecord, Reject> {
    unimplemented!()
}

/// Writes a record of `plan-inbox`; a Tick is empty.
pub fn encode_plan(_record: &PlanRecord) -> Vec<u8> {
    unimplemented!()
}

/// Writes an event: its leaf.
pub fn encode_event(_event: &Event) -> Vec<u8> {
    unimplemented!()
}

/// Reads an event.
pub fn decode_event(_value: &[u8]) -> Result<Event, Reject> {
    unimplemented!()
}

/// Writes a directive as Avro single-object: the bytes in `DirectiveIssued`.
pub fn encode_directive(_directive: &Directive) -> Vec<u8> {
    unimplemented!()
}

/// Reads a directive, Avro or JSON.
pub fn decode_directive(_value: &[u8]) -> Result<Directive, Reject> {
    unimplemented!()
}

/// Writes a closed cycle.
pub fn encode_cycle(_cycle: &CycleClosed) -> Vec<u8> {
    unimplemented!()
}

/// Reads a closed cycle.
pub fn decode_cycle(_value: &[u8]) -> Result<CycleClosed, Reject> {
    unimplemented!()
}

/// The schemas whose bytes stand in `events`: Event and Directive.
pub fn event_schemas() -> &'static [Schema] {
    unimplemented!()
}
