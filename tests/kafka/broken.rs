//! Commits that nobody answers, records that mean nothing, a disk that is full.

use std::net::TcpListener;
use std::time::Duration;

use homeostat::runtime::TopicPartition;
use homeostat::stream::Topic;

use crate::broker;
use crate::cluster::{Cluster, Fleet, Sent, seed};
use crate::process::until;
use crate::proxy::{Lost, Proxy};

#[test]
fn a_commit_that_nobody_answers() {
    // Kafka's clients go where the broker says that it is: at the proxy.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let Some(broker) = broker::own(&[&format!("advertised.listeners=PLAINTEXT://{address}")])
    else {
        return;
    };
    let proxy = Proxy::start(listener, broker.address().to_owned());
    let cluster = Cluster::new(&address, "unanswered");
    let home = cluster.home("a", "");
    let processor = home.run();
    let mut fleet = Fleet::new(seed());
    let mut sent = Sent::new();
    for round in 0..300 {
        let loses = match round {
            60 | 150 => Some(Lost::Answer),
            100 | 200 => Some(Lost::Request),
            _ => None,
        };
        let before = proxy.lost();
        proxy.lose(loses);
        let samples = fleet.round();
        cluster.send(&samples);
        sent.extend(samples.into_iter().map(|sample| (sample.node, sample.seq)));
        if loses.is_some() {
            until(Duration::from_secs(60), "an end gets lost", || {
                proxy.lost() > before
            });
        }
    }
    cluster.settle();
    assert!(proxy.lost() >= 4);
    let said = home.said();
    assert!(said.contains("has a new producer"), "{said}");
    assert!(processor.stop().success());
    cluster.ensure_right(&sent, &home);
}

#[test]
fn what_means_nothing_is_a_dead_letter_and_the_loop_goes_on() {
    let Some(broker) = broker::shared() else {
        return;
    };
    let cluster = Cluster::new(broker.address(), "poison");
    let home = cluster.home("a", "");
    let processor = home.run();
    let mut fleet = Fleet::new(seed());
    let poison: [&[u8]; 5] = [
        b"\xff\xfe\x00",
        b"{\"node_id\":",
        b"\x00\x00\x00\x00\x09nothing",
        b"\xc3\x01\x2a\xdb\xa1\x85\xc0\x4b\x0e\xe3\x02",
        &[b'x'; 900_000],
    ];
    for round in 0..60 {
        cluster.send(&fleet.round());
        if let Some(value) = poison.get(round / 10) {
            let to = TopicPartition {
                topic: Topic::Metrics,
                partition: round as i32 % 3,
            };
            cluster.put(to, b"who", value);
        }
    }
    cluster.settle();
    let dead = cluster.recorded();
    let dead = dead.iter().filter(|(of, _)| of.topic == Topic::DeadLetters);
    let dead: Vec<_> = dead.flat_map(|(_, records)| records).collect();
    assert_eq!(dead.len(), 50, "each is one");
    for letter in &dead {
        let header = |name: &str| {
            let found = letter.headers.iter().find(|(given, _)| given == name);
            found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        };
        assert!(header("reason").is_some(), "{:?}", letter.headers);
        assert_eq!(header("topic"), Some(cluster.name(Topic::Metrics)));
    }
    let listed = home.lines(&["dlq", "list", "--json"]);
    assert_eq!(listed.len(), dead.len());
    assert!(processor.stop().success());
}
