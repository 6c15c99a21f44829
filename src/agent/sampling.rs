//! Sampling: a reading every so often, and at once when told another interval.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::collect::{Collector, Survey, metrics};
use super::outbox::Outbox;
use super::stopped;
use crate::model::{EventTime, NodeKey};

/// Takes readings and numbers them.
pub(super) struct Sampler<'a> {
    node: &'a NodeKey,
    outbox: &'a Outbox,
    collector: Collector,
    boot: i64,
    seq: i64,
    time: EventTime,
}

impl<'a> Sampler<'a> {
    pub(super) fn new(
        node: &'a NodeKey,
        outbox: &'a Outbox,
        collector: Collector,
        boot: i64,
    ) -> Sampler<'a> {
        Sampler {
            node,
            outbox,
            collector,
            boot,
            seq: 0,
            time: EventTime(0),
        }
    }

    /// Samples until it is told to stop; `told` is the interval, s.
    pub(super) async fn run(
        mut self,
        mut told: watch::Receiver<f64>,
        mut stop: watch::Receiver<bool>,
    ) {
        loop {
            let interval_s = *told.borrow_and_update();
            let interval = Duration::from_secs_f64(interval_s);
            let due = Instant::now() + interval;
            let found = tokio::select! {
                found = self.collector.measure(interval) => found,
                () = stopped(&mut stop) => return,
            };
            self.put(&found, interval_s);
            tokio::select! {
                () = sleep_until(due) => {}
                Ok(()) = told.changed() => {}
                () = stopped(&mut stop) => return,
            }
        }
    }

    fn put(&mut self, found: &[Survey], interval_s: f64) {
        if self.seq == 0 {
            say_missing(found);
        }
        self.seq += 1;
        // A clock that was set back a little makes no reading that is older than the one before.
        self.time = self.time.max(EventTime(now_ms()));
        let metrics = metrics(found);
        let line = SampleForm {
            mesh_id: self.node.mesh.as_str(),
            node_id: self.node.node.as_str(),
            boot: self.boot,
            seq: self.seq,
            time: self.time.to_string(),
            interval_s,
            metrics: metrics.iter().map(|(m, value)| (m.name(), value)).collect(),
        };
        let line = serde_json::to_string(&line).expect("a sample has only names and numbers");
        self.outbox.sample(&line);
    }
}

/// A sample as the door reads it.
#[derive(Serialize)]
struct SampleForm<'a> {
    mesh_id: &'a str,
    node_id: &'a str,
    boot: i64,
    seq: i64,
    time: String,
    interval_s: f64,
    #[serde(flatten)]
    metrics: BTreeMap<&'static str, f64>,
}

/// This host's clock, ms since 1970.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

fn say_missing(found: &[Survey]) {
    for Survey { metric, found } in found {
        if let Err(missing) = found {
            tracing::debug!(metric = metric.name(), "not measured: {missing}");
        }
    }
}
