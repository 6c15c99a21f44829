//! `MetricSample`, the record of the hot path: read without allocating but for links, its names
//! borrowed from the bytes.

use std::borrow::Cow;

use crate::model::{END_OF_TIME_MS, Given, Metric, Neighbour, NodeId, RawSample, Sample};

use super::avro::{Avro, Fault, Reader, write_double, write_long};

/// Appends a sample. One without a `seq` gets its time in ms, as at the door.
pub(super) fn write_sample(sample: &Sample, out: &mut Vec<u8>) {
    let reading = &sample.reading;
    sample.mesh.write(out);
    sample.node.write(out);
    write_long(reading.boot, out);
    write_long(reading.seq.unwrap_or(reading.time.0), out);
    write_long(reading.time.0, out);
    reading.interval_s.write(out);
    for metric in Metric::ALL {
        let value = reading.metrics.get(metric);
        write_long(i64::from(value.is_some()), out);
        match value {
            None => {}
            // A metric that is a count is whole: `Metrics` holds no other.
            Some(value) if metric == Metric::MeshConnectivity => write_long(value as i64, out),
            Some(value) => write_double(value, out),
        }
    }
    if !sample.neighbours.is_empty() {
        write_long(sample.neighbours.len() as i64, out);
        for neighbour in &sample.neighbours {
            neighbour.node_id.write(out);
            neighbour.latency_ms.write(out);
            neighbour.packet_loss.write(out);
        }
    }
    write_long(0, out);
}

/// Reads a sample as it was given; ranges are Monitor's to judge.
pub(super) fn read_sample<'a>(from: &mut Reader<'a>) -> Result<RawSample<'a>, Fault> {
    from.field = "mesh_id";
    let mesh = Given::Value(Cow::Borrowed(from.text()?));
    from.field = "node_id";
    let node = Given::Value(Cow::Borrowed(from.text()?));
    from.field = "boot";
    let boot = Given::Value(Some(from.long()?));
    from.field = "seq";
    let seq = Given::Value(Some(from.long()?));
    from.field = "time";
    let time = from.long()?;
    let time = Given::Value((0..END_OF_TIME_MS).contains(&time).then_some(time));
    from.field = "interval_s";
    let interval_s = read_double(from)?;
    let mut metrics: [Given<f64>; 8] = Default::default();
    for (metric, given) in Metric::ALL.into_iter().zip(&mut metrics) {
        from.field = metric.name();
        *given = if metric == Metric::MeshConnectivity {
            read_count(from)?
        } else {
            read_double(from)?
        };
    }
    from.field = "neighbours";
    let mut neighbours = Vec::new();
    from.items(|from| {
        neighbours.extend(read_neighbour(from)?);
        Ok(())
    })?;
    Ok(RawSample {
        mesh,
        node,
        seq,
        boot,
        time,
        received: Given::Missing,
        interval_s,
        metrics,
        neighbours,
    })
}

#[inline]
fn read_double(from: &mut Reader<'_>) -> Result<Given<f64>, Fault> {
    Ok(if from.some()? {
        Given::Value(from.double()?)
    } else {
        Given::Missing
    })
}

#[inline]
fn read_count(from: &mut Reader<'_>) -> Result<Given<f64>, Fault> {
    Ok(if from.some()? {
        Given::Value(from.long()? as f64)
    } else {
        Given::Missing
    })
}

/// A link, or `None` when it has a bad name or a value out of range: links are not judged, so a
/// faulty one is left out and the sample stands.
fn read_neighbour(from: &mut Reader<'_>) -> Result<Option<Neighbour>, Fault> {
    let node_id = NodeId::parse(from.text()?);
    let latency_ms = read_double(from)?;
    let packet_loss = read_double(from)?;
    let valid = |given: Given<f64>, metric: Metric| match given {
        Given::Value(value) => metric.admits(value).then_some(Some(value + 0.0)),
        Given::Missing | Given::WrongType => Some(None),
    };
    Ok(node_id
        .zip(valid(latency_ms, Metric::LatencyMs))
        .zip(valid(packet_loss, Metric::PacketLoss))
        .map(|((node_id, latency_ms), packet_loss)| Neighbour {
            node_id,
            latency_ms,
            packet_loss,
        }))
}
