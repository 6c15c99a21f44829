//! `GET /metrics`: the processor's own figures (`homeostat_..`), and the seed's gauges per node.
//!
//! What is counted here stands in a registry; what others know (the pulse, the log, the story, the
//! rows) is read when somebody asks. Series per node have a limit, and a gauge says how many nodes
//! are left out. Who may see some meshes gets the series of their nodes alone; the figures of the
//! processor are of all.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use prometheus::core::Collector;
use prometheus::{
    CounterVec, Encoder as _, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, Opts, Registry, TextEncoder,
};

use crate::stream::Topic;
use crate::topology::analyze::{Gauges, gauges};

use super::Door;
use super::access::Asker;
use super::answer::{Refusal, typed};
use super::ingest::What;
use super::nodes;
use super::openmetrics::convert;

/// What the door counts.
pub(super) struct Tally {
    requests: IntCounterVec,
    seconds: HistogramVec,
    connections: IntGauge,
    turned_away: IntCounter,
    accepted: IntCounterVec,
    rejected: IntCounterVec,
}

/// An open connection; it counts until it goes.
pub(super) struct Open(IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Tally {
    /// Before the first request.
    pub(super) fn new() -> Self {
        let counts = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("names are names")
        };
        let seconds = HistogramOpts::new(
            "homeostat_http_request_seconds",
            "Time to the beginning of the answer.",
        );
        Tally {
            requests: counts(
                "homeostat_http_requests_total",
                "Requests answered.",
                &["route", "status"],
            ),
            seconds: HistogramVec::new(seconds.buckets(BUCKETS.to_vec()), &["route"])
                .expect("names are names"),
            connections: IntGauge::new("homeostat_connections", "Open connections.")
                .expect("a name is a name"),
            turned_away: IntCounter::new(
                "homeostat_connections_refused_total",
                "Connections that found no room.",
            )
            .expect("a name is a name"),
            accepted: counts(
                "homeostat_ingested_total",
                "Records taken in over HTTP.",
                &["what"],
            ),
            rejected: counts(
                "homeostat_ingest_rejected_total",
                "Records refused over HTTP.",
                &["reason"],
            ),
        }
    }

    /// A request was answered.
    pub(super) fn answered(&self, route: &str, status: StatusCode, took: Duration) {
        let labels = [route, status.as_str()];
        self.requests.with_label_values(&labels).inc();
        let seconds = self.seconds.with_label_values(&[route]);
        seconds.observe(took.as_secs_f64());
    }

    /// A connection is open until what is returned goes.
    pub(super) fn opened(&self) -> Open {
        self.connections.inc();
        Open(self.connections.clone())
    }

    /// A connection found no room.
    pub(super) fn turned_away(&self) {
        self.turned_away.inc();
    }

    /// Records were taken in.
    pub(super) fn accepted(&self, what: What, records: u64) {
        let what = match what {
            What::Samples => "samples",
            What::Outcomes => "outcomes",
        };
        self.accepted.with_label_values(&[what]).inc_by(records);
    }

    /// Records were refused.
    pub(super) fn rejected(&self, by_reason: &BTreeMap<&'static str, u64>) {
        for (reason, records) in by_reason {
            self.rejected.with_label_values(&[*reason]).inc_by(*records);
        }
    }

    fn collectors(&self) -> [Box<dyn Collector>; 6] {
        [
            Box::new(self.requests.clone()),
            Box::new(self.seconds.clone()),
            Box::new(self.connections.clone()),
            Box::new(self.turned_away.clone()),
            Box::new(self.accepted.clone()),
            Box::new(self.rejected.clone()),
        ]
    }
}

/// Whether OpenMetrics is asked for.
pub(super) fn wants_open(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter();
    let mut accepts = accepts.filter_map(|accept| accept.to_str().ok());
    accepts.any(|accept| accept.contains("application/openmetrics-text"))
}

/// The page, in OpenMetrics when `open`.
///
/// # Errors
/// Rows cannot be read.
pub(super) fn page(door: &Door, by: &Asker, open: bool) -> Result<Response, Refusal> {
    let page = Page(Registry::new());
    for collector in door.tally.collectors() {
        page.register(collector);
    }
    for histogram in door.pulse.histograms() {
        page.register(Box::new(histogram));
    }
    of_loop(&page, door);
    of_log(&page, door);
    of_story(&page, door);
    of_process(&page);
    of_nodes(&page, door, by)?;
    let text = page.text()?;
    Ok(match open {
        true => typed(StatusCode::OK, OPENMETRICS, convert(&text)),
        false => typed(StatusCode::OK, PROMETHEUS, text),
    })
}

/// A page being written.
struct Page(Registry);

impl Page {
    fn register(&self, collector: Box<dyn Collector>) {
        self.0.register(collector).expect("every name is used once");
    }

    fn counters<'a>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) {
        let family = CounterVec::new(Opts::new(name, help), &[label]).expect("names are names");
        for (value, count) in values {
            family.with_label_values(&[value]).inc_by(count);
        }
        self.register(Box::new(family));
    }

    fn gauges<'a>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) {
        let family = GaugeVec::new(Opts::new(name, help), &[label]).expect("names are names");
        for (value, number) in values {
            family.with_label_values(&[value]).set(number);
        }
        self.register(Box::new(family));
    }

    fn counter(&self, name: &str, help: &str, count: f64) {
        let counter = prometheus::Counter::new(name, help).expect("a name is a name");
        counter.inc_by(count.max(0.0));
        self.register(Box::new(counter));
    }

    fn gauge(&self, name: &str, help: &str, value: f64) {
        let gauge = prometheus::Gauge::new(name, help).expect("a name is a name");
        gauge.set(value);
        self.register(Box::new(gauge));
    }

    fn text(&self) -> Result<String, Refusal> {
        let mut out = Vec::new();
        TextEncoder::new()
            .encode(&self.0.gather(), &mut out)
            .map_err(|error| Refusal::failed("writing the metrics", &error))?;
        String::from_utf8(out).map_err(|error| Refusal::failed("writing the metrics", &error))
    }
}

fn of_loop(page: &Page, door: &Door) {
    let beat = door.pulse.now();
    page.counters(
        "homeostat_records_folded_total",
        "Records folded by a stage.",
        "stage",
        beat.folded.iter().map(|(stage, n)| (*stage, *n as f64)),
    );
    page.counters(
        "homeostat_phase_seconds_total",
        "Time spent in a phase of the loop.",
        "phase",
        beat.spent
            .iter()
            .map(|(phase, t)| (*phase, t.as_secs_f64())),
    );
    page.counters(
        "homeostat_loop_total",
        "What the worker did beside folding: commits_failed, rows_written (times), ticks.",
        "what",
        beat.counts.iter().map(|(what, n)| (*what, *n as f64)),
    );
    page.gauge(
        "homeostat_loop_running",
        "1 while the loop runs.",
        f64::from(u8::from(beat.stopped.is_none())),
    );
    let lag = [("analyze", Topic::Metrics), ("plan", Topic::PlanInbox)];
    page.gauges(
        "homeostat_lag_records",
        "Records written and not folded yet.",
        "stage",
        lag.map(|(stage, inbox)| (stage, door.log.waiting(inbox) as f64)),
    );
}

fn of_log(page: &Page, door: &Door) {
    let sizes = door.log.sizes();
    page.gauges(
        "homeostat_log_bytes",
        "Bytes on disk, by topic, and of rows.",
        "part",
        sizes.iter().map(|(part, bytes)| (*part, *bytes as f64)),
    );
    page.gauges(
        "homeostat_log_end_offset",
        "One past the last record that may be seen.",
        "topic",
        Topic::ALL.map(|topic| {
            let ends = door.log.seen_ends(topic);
            (topic.name(), ends.iter().sum::<i64>() as f64)
        }),
    );
    if let Some(free) = door.log.free_bytes() {
        page.gauge(
            "homeostat_free_bytes",
            "Free bytes on the log's disk.",
            free as f64,
        );
    }
}

fn of_story(page: &Page, door: &Door) {
    let counts = door.story.counts();
    let of = |counts: &BTreeMap<&'static str, u64>| -> Vec<(&'static str, f64)> {
        counts.iter().map(|(name, n)| (*name, *n as f64)).collect()
    };
    page.counters(
        "homeostat_events_total",
        "Events since the start, by type.",
        "type",
        of(&counts.events),
    );
    page.counters(
        "homeostat_directives_issued_total",
        "Directives since the start, by kind.",
        "kind",
        of(&counts.directives),
    );
    page.counters(
        "homeostat_directives_withheld_total",
        "What was wished and withheld since the start, by reason.",
        "reason",
        of(&counts.withheld),
    );
    page.counters(
        "homeostat_outcomes_total",
        "Outcomes since the start, by result.",
        "result",
        of(&counts.outcomes),
    );
    let dead = counts.dead.iter();
    page.counters(
        "homeostat_dead_letters_total",
        "Dead letters since the start, by reason.",
        "reason",
        dead.map(|(reason, n)| (reason.as_str(), *n as f64)),
    );
    let open = door.story.show(|views| {
        let incidents = views.incidents.values();
        incidents.filter(|i| i.closed_at.is_none()).count()
    });
    page.gauge("homeostat_incidents_open", "Open incidents.", open as f64);
    let free = door.followers.available_permits();
    page.gauge(
        "homeostat_followers",
        "Followers of server-sent events.",
        (door.settings.followers_max.saturating_sub(free)) as f64,
    );
}

fn of_process(page: &Page) {
    page.gauges(
        "homeostat_build_info",
        "The release that runs.",
        "version",
        [(env!("CARGO_PKG_VERSION"), 1.0)],
    );
    #[cfg(target_os = "linux")]
    if let Ok(stat) = procfs::process::Process::myself().and_then(|own| own.stat()) {
        let ticks = procfs::ticks_per_second() as f64;
        page.gauge(
            "homeostat_resident_memory_bytes",
            "Resident memory of the process.",
            (stat.rss * procfs::page_size()) as f64,
        );
        page.counter(
            "homeostat_cpu_seconds_total",
            "Processor time of the process, all threads.",
            (stat.utime + stat.stime) as f64 / ticks,
        );
        page.gauge(
            "homeostat_threads",
            "Threads of the process.",
            stat.num_threads as f64,
        );
    }
}

fn of_nodes(page: &Page, door: &Door, by: &Asker) -> Result<(), Refusal> {
    let known = nodes::count(door)?;
    page.gauge("homeostat_nodes", "Nodes that are known.", known as f64);
    let max = match door.settings.node_series {
        true => door.settings.node_series_max,
        false => 0,
    };
    let mut shown = Vec::new();
    for (_, rows) in door.log.rows("analyze") {
        let more = gauges(rows, max - shown.len())
            .map_err(|error| Refusal::failed("reading the rows of analyze", &error))?;
        shown.extend(more);
    }
    shown.retain(|node| by.sees(&node.key.mesh));
    page.gauge(
        "homeostat_nodes_without_series",
        "Nodes without series of their own (web.node_series, web.node_series_max).",
        known.saturating_sub(shown.len() as u64) as f64,
    );
    of_each_node(page, &shown);
    Ok(())
}

/// The seed's gauges; only where there is a value, and it is a number.
fn of_each_node(page: &Page, shown: &[Gauges]) {
    let mut families: BTreeMap<&'static str, GaugeVec> = BTreeMap::new();
    for node in shown {
        let labels = [node.key.mesh.as_str(), node.key.node.as_str()];
        for (name, value) in node.values.iter().filter(|(_, value)| value.is_finite()) {
            let family = families.entry(name).or_insert_with(|| {
                let opts = Opts::new(*name, "Of the node's newest reading (docs/domain.md).");
                GaugeVec::new(opts, &["mesh", "node"]).expect("names are names")
            });
            family.with_label_values(&labels).set(*value);
        }
    }
    for family in families.into_values() {
        page.register(Box::new(family));
    }
}

/// Times to answer, s.
const BUCKETS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MeshId, NodeId, NodeKey};

    #[test]
    fn openmetrics_is_asked_for_by_its_name() {
        for (accept, open) in [
            (
                "application/openmetrics-text; version=1.0.0,text/plain;q=0.5",
                true,
            ),
            ("text/plain", false),
            ("*/*", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(wants_open(&headers), open, "{accept}");
        }
    }

    #[test]
    fn a_node_has_the_gauges_that_are_numbers() {
        let page = Page(Registry::new());
        let node = Gauges {
            key: NodeKey {
                mesh: MeshId::parse("m\"\n").unwrap(),
                node: NodeId::parse("n").unwrap(),
            },
            values: vec![("mesh_cpu_percent", 5.0), ("mttr_minutes", f64::NAN)],
        };
        of_each_node(&page, &[node]);
        of_process(&page);
        let text = page.text().unwrap();
        assert!(
            text.contains("mesh_cpu_percent{mesh=\"m\\\"\\n\",node=\"n\"} 5\n"),
            "{text}"
        );
        assert!(!text.contains("mttr") && !text.contains("NaN"), "{text}");
        if cfg!(target_os = "linux") {
            assert!(
                text.contains("# TYPE homeostat_cpu_seconds_total counter"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_connection_counts_until_it_goes() {
        let tally = Tally::new();
        let open = tally.opened();
        assert_eq!(tally.connections.get(), 1);
        drop(open);
        assert_eq!(tally.connections.get(), 0);
    }
}
