//! What reading a sample costs: `cargo bench --bench codec`.
//!
//! The direct codec against apache-avro, into its generic value and into a struct by serde, on a
//! sample with all eight metrics, without neighbours and with eight. Each figure is the best of
//! several rounds on one core, ns per sample.

use std::hint::black_box;
use std::time::{Duration, Instant};

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use serde::Deserialize;

use homeostat::model::*;
use homeostat::wire;

fn main() {
    let schema = Schema::parse_str(include_str!("../schemas/metric-sample.avsc"))
        .expect("the schema in the repository is one");
    let reader = GenericDatumReader::builder(&schema)
        .build()
        .expect("the schema stands alone");
    println!("ns per sample               bytes  direct  apache-avro  apache-avro+serde  encode");
    for (name, neighbours) in [("without neighbours", 0), ("with 8 neighbours", 8)] {
        let sample = sample(neighbours);
        let bytes = wire::encode_sample(&sample);
        let direct = ns(|| {
            let read = wire::decode_metrics(black_box(&bytes)).expect("what was written");
            black_box(read);
        });
        let generic = ns(|| {
            let read = reader
                .read_value(&mut black_box(&bytes[10..]))
                .expect("what the direct codec wrote");
            black_box(read);
        });
        let serde = ns(|| {
            black_box(
                reader
                    .read_deser::<Read>(&mut black_box(&bytes[10..]))
                    .is_ok(),
            );
        });
        let encode = ns(|| {
            black_box(wire::encode_sample(black_box(&sample)));
        });
        println!(
            "{name:<26}  {:>5}  {direct:>6.0}  {generic:>11.0}  {serde:>17.0}  {encode:>6.0}",
            bytes.len()
        );
    }
}

/// Best of ten rounds of at least 20 ms each.
fn ns(mut work: impl FnMut()) -> f64 {
    let mut round = |times: u32| {
        let start = Instant::now();
        (0..times).for_each(|_| work());
        start.elapsed()
    };
    let mut times = 1000;
    while round(times) < Duration::from_millis(20) {
        times *= 2;
    }
    (0..10)
        .map(|_| round(times).as_nanos() as f64 / f64::from(times))
        .fold(f64::INFINITY, f64::min)
}

fn sample(neighbours: usize) -> Sample {
    let mut metrics = Metrics::default();
    let values = [41.5, 62.25, 5.0, 48.125, 0.5, 2.5, 0.9375, 107.5];
    for (metric, value) in Metric::ALL.into_iter().zip(values) {
        assert!(metrics.try_set(metric, value));
    }
    let node = |i: usize| NodeId::parse(&format!("router-{i:04}")).expect("a short name");
    Sample {
        mesh: MeshId::parse("alpha").expect("a short name"),
        node: node(17),
        reading: Reading {
            boot: 1_767_225_000_000,
            seq: Some(10_417),
            time: EventTime(1_767_225_610_000),
            interval_s: Some(60.0),
            metrics,
        },
        neighbours: (0..neighbours)
            .map(|i| Neighbour {
                node_id: node(i),
                latency_ms: Some(3.5),
                packet_loss: Some(0.0),
            })
            .collect(),
    }
}

/// What serde reads: the same fields as `RawSample`, names owned.
#[derive(Deserialize)]
#[serde(rename = "MetricSample")]
#[expect(dead_code, reason = "read for its cost, not for its content")]
struct Read {
    mesh_id: String,
    node_id: String,
    boot: i64,
    seq: i64,
    time: i64,
    interval_s: Option<f64>,
    cpu_percent: Option<f64>,
    memory_percent: Option<f64>,
    mesh_connectivity: Option<i64>,
    latency_ms: Option<f64>,
    packet_loss: Option<f64>,
    mttr_minutes: Option<f64>,
    zero_trust_success_rate: Option<f64>,
    frequency_hz: Option<f64>,
    neighbours: Vec<ReadNeighbour>,
}

#[derive(Deserialize)]
#[serde(rename = "Neighbour")]
#[expect(dead_code, reason = "read for its cost, not for its content")]
struct ReadNeighbour {
    node_id: String,
    latency_ms: Option<f64>,
    packet_loss: Option<f64>,
}
