//! What our topics are called on the brokers.

use rdkafka::TopicPartitionList;

use crate::runtime::TopicPartition;
use crate::stream::Topic;

use super::client::Client;

/// The topics' names, made once.
#[derive(Clone)]
pub(super) struct Names([String; Topic::ALL.len()]);

impl Names {
    pub fn new(client: &Client) -> Self {
        Names(Topic::ALL.map(|topic| client.topic_name(topic)))
    }

    pub fn of(&self, topic: Topic) -> &str {
        &self.0[topic as usize]
    }

    /// The topic of a name, if it is one of ours.
    pub fn topic(&self, name: &str) -> Option<Topic> {
        let at = self.0.iter().position(|own| own == name)?;
        Some(Topic::ALL[at])
    }

    /// Those of ours in a list of librdkafka's.
    pub fn partitions(&self, list: &TopicPartitionList) -> Vec<TopicPartition> {
        let of = |entry: rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            Some(TopicPartition {
                topic: self.topic(entry.topic())?,
                partition: entry.partition(),
            })
        };
        list.elements().into_iter().filter_map(of).collect()
    }
}
