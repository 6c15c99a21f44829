//! Somebody else's tool feeds the loop and reads it, as an operator would.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use homeostat::stream::Topic;
use serde_json::Value;

use crate::broker;
use crate::cluster::{Cluster, Fleet};
use crate::process::until;

#[test]
fn kcat_feeds_the_loop_and_reads_its_orders() {
    let Some(broker) = broker::shared() else {
        return;
    };
    if Command::new("kcat").arg("-V").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI must have kcat");
        eprintln!("\nSKIPPED: no kcat; install it (Debian: kcat)\n");
        return;
    }
    let cluster = Cluster::new(broker.address(), "kcat");
    let home = cluster.home("a", "");
    let processor = home.run();
    let mut fleet = Fleet::ill(11);
    let orders = || kcat(&cluster, Topic::Directives, &["-C", "-e", "-q"], "");
    until(Duration::from_secs(120), "an order is given", || {
        let round = fleet.round();
        let lines = round
            .iter()
            .map(|sample| format!("{}\t{}\n", sample.node, sample.line));
        // Its default partitioner is librdkafka's own, not Kafka's: what lands elsewhere is sent on.
        kcat(
            &cluster,
            Topic::Metrics,
            &["-P", "-K", "\t"],
            &lines.collect::<String>(),
        );
        !orders().is_empty()
    });
    for line in orders().lines() {
        let order: Value = serde_json::from_str(line).expect("orders are JSON by default");
        for field in [
            "id",
            "mesh_id",
            "node_id",
            "generation",
            "ttl_s",
            "action",
            "cause",
        ] {
            assert!(!order[field].is_null(), "{field} in {order}");
        }
    }
    cluster.settle();
    let dead = kcat(&cluster, Topic::DeadLetters, &["-C", "-e", "-q"], "");
    assert_eq!(dead, "");
    assert!(processor.stop().success());
}

/// What kcat prints when it is given this.
fn kcat(cluster: &Cluster, topic: Topic, args: &[&str], input: &str) -> String {
    let mut child = Command::new("kcat")
        .args(["-b", &cluster.address, "-t", &cluster.name(topic)])
        .args(["-X", "isolation.level=read_committed"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "kcat {args:?}");
    String::from_utf8(output.stdout).unwrap()
}
