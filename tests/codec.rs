//! The direct codec against apache-avro, which shares no line with it: what one writes the other
//! reads, to the byte.

use std::fs;
use std::path::{Path, PathBuf};

use apache_avro::Schema;
use apache_avro::headers::{HeaderBuilder, RabinFingerprintHeader};
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use serde_json::Value;

use homeostat::model::*;
use homeostat::wire;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn schema(file: &str) -> (Schema, String) {
    let text = fs::read_to_string(folder("schemas").join(file).with_extension("avsc")).unwrap();
    (Schema::parse_str(&text).unwrap(), text)
}

fn read(schema: &Schema, bytes: &[u8]) -> Avro {
    let mut rest = &bytes[10..];
    let reader = GenericDatumReader::builder(schema).build().unwrap();
    let value = reader.read_value(&mut rest).unwrap();
    assert!(rest.is_empty(), "{} bytes left", rest.len());
    value
}

fn write(schema: &Schema, value: Avro) -> Vec<u8> {
    let writer = GenericDatumWriter::builder(schema).build().unwrap();
    writer.write_value_to_vec(value).unwrap()
}

#[test]
fn apache_avro_reads_and_writes_the_golden_bytes_alike() {
    let mut lines = 0;
    for entry in fs::read_dir(folder("tests/golden")).unwrap() {
        let path = entry.unwrap().path();
        let (schema, _) = schema(path.file_stem().unwrap().to_str().unwrap());
        for line in fs::read_to_string(&path).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let hex = line["hex"].as_str().unwrap();
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
                .collect();
            let value = read(&schema, &bytes);
            assert_eq!(write(&schema, value), bytes[10..], "{}", line["name"]);
            lines += 1;
        }
    }
    assert!(lines >= 40, "{lines} lines");
}

/// apache-avro keeps `{"type":"long"}` of a long with a logical type in its canonical form, Java
/// and the specification have `"long"`. `MetricSample` alone has one: its header must be pinned,
/// all others may be computed by anyone.
#[test]
fn fingerprints_agree_but_where_a_logical_type_stands() {
    for entry in fs::read_dir(folder("schemas")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "avsc") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (parsed, text) = schema(name);
        let theirs = RabinFingerprintHeader::from_schema(&parsed).build_header();
        let ours = [&[0xC3, 0x01][..], &wire::fingerprint(&text).unwrap()].concat();
        assert_eq!(theirs == ours, name != "metric-sample", "{name}");
    }
}

#[test]
fn random_samples_are_the_same_both_ways() {
    let (schema, _) = schema("metric-sample");
    let mut random = Random(0x5A11);
    for _ in 0..3_000 {
        let sample = random.sample();
        let bytes = wire::encode_sample(&sample);
        let value = read(&schema, &bytes);
        let Avro::Record(fields) = &value else {
            panic!("a sample is a record");
        };
        let MetricsRecord::Sample(raw) = wire::decode_metrics(&bytes).unwrap() else {
            panic!("a sample is read as a sample");
        };
        same(&raw, &sample, fields);
        assert_eq!(write(&schema, value), bytes[10..]);
    }
}

/// What the direct codec read, what was written and what apache-avro read are the same.
fn same(raw: &RawSample<'_>, sample: &Sample, fields: &[(String, Avro)]) {
    let field = |name: &str| &fields.iter().find(|(n, _)| n == name).unwrap().1;
    let reading = &sample.reading;
    for (name, given, written) in [
        ("mesh_id", &raw.mesh, sample.mesh.as_str()),
        ("node_id", &raw.node, sample.node.as_str()),
    ] {
        assert_eq!(field(name), &Avro::String(written.to_owned()));
        assert_eq!(given, &Given::Value(written.into()));
    }
    let seq = reading.seq.unwrap_or(reading.time.0);
    assert_eq!(
        (&raw.seq, field("seq")),
        (&Given::Value(Some(seq)), &Avro::Long(seq))
    );
    let boot = reading.boot;
    assert_eq!(
        (&raw.boot, field("boot")),
        (&Given::Value(Some(boot)), &Avro::Long(boot))
    );
    let time = reading.time.0;
    assert_eq!(raw.time, Given::Value(Some(time)));
    assert_eq!(field("time"), &Avro::TimestampMillis(time));
    assert_eq!(raw.received, Given::Missing);
    assert_eq!(given(&raw.interval_s), reading.interval_s);
    assert_eq!(double(field("interval_s")), reading.interval_s);
    for (metric, value) in Metric::ALL.into_iter().zip(&raw.metrics) {
        assert_eq!(given(value), reading.metrics.get(metric), "{metric:?}");
        assert_eq!(
            double(field(metric.name())),
            reading.metrics.get(metric),
            "{metric:?}"
        );
    }
    let Avro::Array(neighbours) = field("neighbours") else {
        panic!("neighbours are an array");
    };
    assert_eq!(raw.neighbours, sample.neighbours);
    assert_eq!(neighbours.len(), sample.neighbours.len());
}

fn given(given: &Given<f64>) -> Option<f64> {
    match given {
        Given::Missing => None,
        Given::Value(value) => Some(*value),
        Given::WrongType => panic!("Avro has no wrong types"),
    }
}

fn double(value: &Avro) -> Option<f64> {
    match value {
        Avro::Union(_, inner) => match **inner {
            Avro::Null => None,
            Avro::Double(value) => Some(value),
            Avro::Long(value) => Some(value as f64),
            ref other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[(self.next() % items.len() as u64) as usize]
    }

    /// Any value of the metric's range, its ends more often than they deserve.
    fn value(&mut self, metric: Metric) -> Option<f64> {
        let share = self.next() as f64 / u64::MAX as f64;
        let largest = match metric {
            Metric::CpuPercent | Metric::MemoryPercent | Metric::PacketLoss => 100.0,
            Metric::MeshConnectivity => 4_294_967_295.0,
            Metric::LatencyMs | Metric::MttrMinutes | Metric::FrequencyHz => f64::MAX,
            Metric::ZeroTrustSuccessRate => 1.0,
        };
        let value = self.one_of(&[
            0.0,
            -0.0,
            f64::MIN_POSITIVE,
            5.0,
            0.1,
            share * largest,
            largest,
        ]);
        let value = if metric == Metric::MeshConnectivity {
            value.trunc()
        } else {
            value
        };
        (!self.next().is_multiple_of(4) && metric.admits(value)).then_some(value)
    }

    fn sample(&mut self) -> Sample {
        let mut metrics = Metrics::default();
        for metric in Metric::ALL {
            if let Some(value) = self.value(metric) {
                assert!(metrics.try_set(metric, value));
            }
        }
        let name = |i: u64| match i % 5 {
            0 => "n".repeat(NAME_BYTES_MAX),
            1 => "Ωμέγα-🛰\n\0\"".to_owned(),
            _ => format!("node-{i}"),
        };
        let integer = self.next() as i64 & i64::MAX;
        let integers = [0, 1, 63, 64, integer, integer >> 20, i64::MAX];
        let time = self.one_of(&[0, 1, 1_767_225_600_000, END_OF_TIME_MS - 1]);
        Sample {
            mesh: MeshId::parse(&name(self.next())).unwrap(),
            node: NodeId::parse(&name(self.next())).unwrap(),
            reading: Reading {
                boot: self.one_of(&integers),
                seq: (!self.next().is_multiple_of(4)).then(|| self.one_of(&integers)),
                time: EventTime(time),
                interval_s: self.value(Metric::FrequencyHz),
                metrics,
            },
            neighbours: (0..self.one_of(&[0, 0, 1, 2, 70]))
                .map(|_| Neighbour {
                    node_id: NodeId::parse(&name(self.next())).unwrap(),
                    latency_ms: self.value(Metric::LatencyMs).map(|value| value + 0.0),
                    packet_loss: self.value(Metric::PacketLoss).map(|value| value + 0.0),
                })
                .collect(),
        }
    }
}
