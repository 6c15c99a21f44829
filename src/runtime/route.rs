//! To which partitions an output goes.

use std::collections::BTreeMap;

use crate::model::Time;
use crate::stream::{Output, To, Topic};

use super::{Log, LogError, Outgoing, Share, Stop, TopicPartition};

/// How many partitions each topic has.
#[derive(Clone, Debug)]
pub struct Router(BTreeMap<Topic, i32>);

impl Router {
    /// As many partitions as the log says.
    ///
    /// # Errors
    /// The log cannot tell.
    pub fn ask(log: &mut dyn Log) -> Result<Self, LogError> {
        let count = |topic| Ok((topic, log.partitions(topic)?));
        Topic::ALL
            .into_iter()
            .map(count)
            .collect::<Result<_, _>>()
            .map(Router)
    }

    /// As many partitions for every topic.
    pub fn even(partitions: i32) -> Self {
        Router(Topic::ALL.map(|topic| (topic, partitions)).into())
    }

    /// Which share of its topic a partition is.
    ///
    /// # Errors
    /// The topic had fewer partitions when it was asked.
    pub fn share(&self, of: TopicPartition) -> Result<Share, Stop> {
        let partitions = self.0[&of.topic];
        match of.partition < partitions {
            true => Ok(Share {
                partition: of.partition,
                partitions,
            }),
            false => Err(Stop::Repartitioned { of, partitions }),
        }
    }

    /// Appends an output once per partition that it goes to.
    pub fn route(
        &self,
        inbox: TopicPartition,
        time: Time,
        output: Output,
        out: &mut Vec<Outgoing>,
    ) {
        let count = self.0[&output.topic];
        let partitions = match output.to {
            To::ByKey => {
                let partition = partition_of(&output.key, count);
                partition..partition + 1
            }
            To::Same => inbox.partition..inbox.partition + 1,
            To::All => 0..count,
        };
        let outgoing = |partition, output: Output| Outgoing {
            to: TopicPartition {
                topic: output.topic,
                partition,
            },
            time,
            key: output.key,
            value: output.value,
            headers: output.headers,
        };
        let last = partitions.end - 1;
        let copies = (partitions.start..last).map(|partition| outgoing(partition, output.clone()));
        out.extend(copies);
        out.push(outgoing(last, output));
    }
}

/// Kafka's hash of a key: murmur2 with seed 0x9747b28c
/// (`org.apache.kafka.common.utils.Utils.murmur2`).
pub fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c_u32 ^ bytes.len() as u32;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().expect("chunks of four"));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (i, &byte) in rest.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of a key, as Kafka's default partitioner finds it.
///
/// # Panics
/// When `partitions` is not above 0.
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has at least one partition");
    ((murmur2(key) & 0x7fff_ffff) % partitions as u32) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Kafka's `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_is_kafkas() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }
}
