//! What is not the log that the rows came from is a clear stop.

use std::time::Duration;

use homeostat::runtime::TopicPartition;
use homeostat::stream::Topic;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{Offset, TopicPartitionList};

use crate::broker;
use crate::cluster::{Cluster, Fleet, config};
use crate::process::{Home, until};

/// A loop that has decided something, at rest.
fn at_rest(address: &str, name: &str) -> (Cluster, Home) {
    let cluster = Cluster::new(address, name);
    let home = cluster.home("a", "");
    let processor = home.run();
    let mut fleet = Fleet::new(7);
    (0..60).for_each(|_| cluster.send(&fleet.round()));
    cluster.settle();
    assert!(processor.stop().success());
    (cluster, home)
}

/// The processor ends with 2 and says these words.
fn stops_saying(home: &Home, words: &[&str]) {
    let log = home.0.join("stopped");
    let mut child = home
        .command(&["run", "--listen", "127.0.0.1:0"])
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut status = None;
    until(Duration::from_secs(60), "it stops", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    let said = std::fs::read_to_string(log).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(2), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} in: {said}");
    }
}

#[test]
fn an_inbox_that_was_truncated() {
    let Some(broker) = broker::shared() else {
        return;
    };
    let (cluster, home) = at_rest(broker.address(), "truncated");
    let mut fleet = Fleet::new(8);
    cluster.send(&fleet.round());
    let admin: AdminClient<DefaultClientContext> = config(broker.address()).create().unwrap();
    let mut cut = TopicPartitionList::new();
    for partition in 0..3 {
        let name = cluster.name(Topic::Metrics);
        cut.add_partition_offset(&name, partition, Offset::End)
            .unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let done = runtime.block_on(admin.delete_records(&cut, &AdminOptions::new()));
    done.unwrap();
    stops_saying(&home, &["it needs metrics/", "the log starts at"]);
}

#[test]
fn positions_that_expired() {
    let Some(broker) = broker::shared() else {
        return;
    };
    let (cluster, home) = at_rest(broker.address(), "expired");
    let admin: AdminClient<DefaultClientContext> = config(broker.address()).create().unwrap();
    let group = format!("{}group", cluster.prefix);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    until(Duration::from_secs(60), "the group is forgotten", || {
        let done = runtime.block_on(admin.delete_groups(&[&group], &AdminOptions::new()));
        done.is_ok_and(|results| results.iter().all(Result::is_ok))
    });
    stops_saying(&home, &["the log has no committed position of"]);
}

#[test]
fn rows_of_another_cluster() {
    let Some(broker) = broker::shared() else {
        return;
    };
    let (_, home) = at_rest(broker.address(), "one");
    let (_, other) = at_rest(broker.address(), "another");
    std::fs::remove_dir_all(home.data().join("stages")).unwrap();
    std::fs::rename(other.data().join("stages"), home.data().join("stages")).unwrap();
    stops_saying(&home, &["opening "]);
}

#[test]
fn an_event_of_a_newer_version() {
    let Some(broker) = broker::shared() else {
        return;
    };
    let (cluster, home) = at_rest(broker.address(), "newer");
    let of = TopicPartition {
        topic: Topic::Events,
        partition: 0,
    };
    let mut unknown = cluster.records(of).pop().expect("it has events").value;
    // Another fingerprint: an event of a schema that this program does not have.
    unknown[2] ^= 0xFF;
    cluster.put(of, b"mesh-0", &unknown);
    stops_saying(
        &home,
        &["opening plan: record", "written by a newer version?"],
    );
}

#[test]
fn partitions_that_were_added() {
    let Some(broker) = broker::shared() else {
        return;
    };
    let (cluster, home) = at_rest(broker.address(), "grown");
    let admin: AdminClient<DefaultClientContext> = config(broker.address()).create().unwrap();
    let name = cluster.name(Topic::Metrics);
    let more = [rdkafka::admin::NewPartitions::new(&name, 5)];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let done = runtime.block_on(admin.create_partitions(&more, &AdminOptions::new()));
    assert!(done.unwrap().iter().all(Result::is_ok));
    stops_saying(&home, &["5 partitions", "3"]);
}
