//! The brokers instead of a door: reports lie on `metrics`, orders come from `directives`.
//!
//! librdkafka's calls block, so two threads make them, one sends and one reads; the agent's own
//! thread hears of them through channels. They end with the [`Brokers`].
//!
//! # The log's time
//! Nobody is asked what time it is: whenever the brokers take a report they say when they appended
//! it. From there on it goes as this host's clocks go, whichever of them went further (one stands
//! still while a machine sleeps), until the next report is taken. No order is read before the first
//! one was: what lay there for too long is then known to be over.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc as threads;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::buffer::Batch;
use super::sampling::now_ms;
use crate::kafka::{Client, NodeOrders, NodeReports, Sent, Silent};
use crate::model::{NodeKey, Span, TTL_MAX, Time};
use crate::stream::Topic;
use crate::wire::leaving::Header;

/// The brokers, as an agent sees them.
pub(super) struct Brokers {
    name: String,
    answer: Duration,
    reports: threads::Sender<Report>,
    since: threads::Sender<Time>,
    news: RefCell<Option<mpsc::Receiver<News>>>,
    counted: watch::Receiver<Option<Counted>>,
    time: watch::Sender<Option<LogTime>>,
    ended: RefCell<Vec<oneshot::Receiver<()>>>,
}

/// What the reading thread says.
pub(super) enum News {
    /// The topics are there.
    Open,
    /// Nothing comes for now.
    Lost(String),
    /// Nothing will come: what is missing, and the next step.
    Missing(String),
    /// A record of this node's partition.
    Order(Order),
}

/// A record of `directives`.
pub(super) struct Order {
    pub(super) offset: i64,
    pub(super) value: Vec<u8>,
    pub(super) headers: Vec<Header>,
    /// `None`: the topic's records bear their writers' time.
    pub(super) appended: Option<Time>,
}

/// How many partitions the topics have.
#[derive(Clone, Copy)]
struct Counted {
    metrics: i32,
    directives: i32,
}

/// Lines to be sent together.
struct Report {
    lines: Vec<u8>,
    metrics: i32,
    tell: oneshot::Sender<Sent>,
}

/// What is known of the log's time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum LogTime {
    /// It is the samples' own, which no clock shows.
    Samples,
    /// It was so late when this host's two clocks showed this.
    Appended {
        time: Time,
        at: Instant,
        wall_ms: i64,
    },
}

impl LogTime {
    fn of(appended: Option<Time>) -> LogTime {
        match appended {
            None => LogTime::Samples,
            Some(time) => LogTime::Appended {
                time,
                at: Instant::now(),
                wall_ms: now_ms(),
            },
        }
    }

    /// It is no earlier than this.
    fn at(self, now: Instant, now_wall_ms: i64) -> Option<Time> {
        match self {
            LogTime::Samples => None,
            LogTime::Appended { time, at, wall_ms } => {
                let passed = now.saturating_duration_since(at).as_millis() as i64;
                Some(time + Span(passed.max(now_wall_ms - wall_ms)))
            }
        }
    }
}

impl Brokers {
    /// Begins to look for the topics, on threads of its own. The brokers have `answer` to answer a
    /// report in.
    pub(super) fn new(client: Client, node: &NodeKey, answer: Duration) -> Brokers {
        let (reports, asked) = threads::channel();
        let (since, told) = threads::channel();
        let (tell, news) = mpsc::channel(NEWS_MAX);
        let (count, counted) = watch::channel(None);
        let (sends, sending_ended) = oneshot::channel();
        let (reads, reading_ended) = oneshot::channel();
        let name = client.brokers().to_owned();
        let client = Arc::new(client);
        let (of_sender, sender_key) = (client.clone(), node.node.as_str().to_owned());
        std::thread::spawn(move || {
            send(&of_sender, &sender_key, answer, &asked);
            drop(sends);
        });
        let key = format!("{}/{}", node.mesh, node.node);
        std::thread::spawn(move || {
            // Nobody is left to be told: that is how it ends.
            let _ = read(&client, &key, &told, &tell, &count);
            drop(reads);
        });
        Brokers {
            name,
            answer,
            reports,
            since,
            news: RefCell::new(Some(news)),
            counted,
            time: watch::channel(None).0,
            ended: RefCell::new(vec![sending_ended, reading_ended]),
        }
    }

    /// Sends a batch and waits for the brokers' answer.
    pub(super) async fn send(&self, batch: &Batch) -> Sent {
        let mut counted = self.counted.clone();
        let known = timeout(self.answer, counted.wait_for(Option::is_some)).await;
        let Ok(Ok(Some(Counted { metrics, .. }))) = known.map(|known| known.map(|known| *known))
        else {
            let name = &self.name;
            return Sent::Unknown(format!("{name} did not yet say what topics it has"));
        };
        let (tell, told) = oneshot::channel();
        let report = Report {
            lines: batch.bytes.clone(),
            metrics,
            tell,
        };
        let alive = "the sending thread lives as long as this";
        self.reports.send(report).expect(alive);
        let sent = told.await.expect(alive);
        if let Sent::Taken(appended) = sent {
            self.time.send_replace(Some(LogTime::of(appended)));
        }
        sent
    }

    /// What the reading thread says, for the one who obeys.
    pub(super) fn news(&self) -> mpsc::Receiver<News> {
        let news = self.news.borrow_mut().take();
        news.expect("one obeys")
    }

    /// Waits until something is known of the log's time.
    pub(super) async fn timed(&self) {
        let known = self
            .time
            .subscribe()
            .wait_for(Option::is_some)
            .await
            .is_ok();
        assert!(known, "its sender is ours");
    }

    /// The log's time, no later than it is there; `None`: it is the samples' own.
    pub(super) fn now(&self) -> Option<Time> {
        let known = *self.time.borrow();
        known?.at(Instant::now(), now_ms())
    }

    /// Orders come from now on, back to the longest that one may live.
    pub(super) fn follow(&self) {
        let since = self.now().map_or(Time(0), |now| now - TTL_MAX);
        let told = self.since.send(since);
        told.expect("the reading thread lives as long as this");
    }

    /// Waits a moment until both threads have ended.
    pub(super) async fn close(self, moment: Duration) {
        let Brokers {
            reports,
            since,
            news,
            ended,
            ..
        } = self;
        drop((reports, since, news));
        let all = async {
            for ended in ended.into_inner() {
                let _ = ended.await;
            }
        };
        if timeout(moment, all).await.is_err() {
            tracing::debug!("the brokers' threads are left behind");
        }
    }
}

/// The sending thread.
fn send(client: &Client, key: &str, answer: Duration, asked: &threads::Receiver<Report>) {
    let mut producer: Option<(NodeReports, i32)> = None;
    while let Ok(report) = asked.recv() {
        let Report {
            lines,
            metrics,
            tell,
        } = report;
        if producer
            .as_ref()
            .is_some_and(|(reports, count)| reports.is_broken() || *count != metrics)
        {
            producer = None;
        }
        if producer.is_none() {
            match NodeReports::new(client, metrics, answer) {
                Ok(reports) => producer = Some((reports, metrics)),
                Err(error) => {
                    // Who went away is not waited for; nor below.
                    let _ = tell.send(Sent::Unknown(error.0));
                    continue;
                }
            }
        }
        let (reports, _) = producer.as_ref().expect("it was made");
        let lines = lines
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty());
        let sent = reports.send(key, lines, || !tell.is_closed());
        let _ = tell.send(sent);
    }
}

/// Nobody listens any more.
struct Alone;

/// The reading thread.
fn read(
    client: &Client,
    key: &str,
    told: &threads::Receiver<Time>,
    tell: &mpsc::Sender<News>,
    count: &watch::Sender<Option<Counted>>,
) -> Result<(), Alone> {
    let say = |news| tell.blocking_send(news).map_err(|_| Alone);
    let lost = |why: String| {
        say(News::Lost(why))?;
        // Cut short when nobody is left who may say since when to follow.
        match told.recv_timeout(AGAIN) {
            Err(threads::RecvTimeoutError::Disconnected) => Err(Alone),
            Ok(since) => Ok(Some(since)),
            Err(threads::RecvTimeoutError::Timeout) => Ok(None),
        }
    };
    let mut since = None;
    loop {
        let (orders, counted) = match look(client) {
            Ok(Ok(found)) => found,
            Ok(Err(missing)) if since.is_none() => return say(News::Missing(missing)),
            Ok(Err(why)) | Err(why) => {
                since = lost(why)?.or(since);
                continue;
            }
        };
        count.send_replace(Some(counted));
        say(News::Open)?;
        let from = match since {
            Some(since) => since,
            None => told.recv().map_err(|_| Alone)?,
        };
        since = Some(from);
        if let Err(error) = orders.follow(key, counted.directives, from) {
            lost(error.0)?;
            continue;
        }
        let why = loop {
            match orders.next(WAIT) {
                Ok(Some((record, appended))) => say(News::Order(Order {
                    offset: record.offset,
                    value: record.value,
                    headers: record.headers,
                    appended,
                }))?,
                Ok(None) if tell.is_closed() => return Err(Alone),
                Ok(None) => {}
                Err(Silent::Trouble(why)) => say(News::Lost(why))?,
                Err(Silent::Gone(why)) => break why,
            }
        };
        lost(why)?;
    }
}

/// A reader and the topics' partitions; the inner error: what is missing, and the next step.
fn look(client: &Client) -> Result<Result<(NodeOrders, Counted), String>, String> {
    let orders = NodeOrders::new(client).map_err(|error| error.0)?;
    let mut counts = [0; 2];
    for (count, topic) in counts.iter_mut().zip([Topic::Metrics, Topic::Directives]) {
        match orders.partitions(topic).map_err(|error| error.0)? {
            Some(found) => *count = found,
            None => {
                return Ok(Err(format!(
                    "looking for {} at {}: there is no such topic, expected those of a log; \
                     `homeostat topics create` makes them (is log.prefix the processors'?)",
                    client.topic_name(topic),
                    client.brokers()
                )));
            }
        }
    }
    let [metrics, directives] = counts;
    Ok(Ok((
        orders,
        Counted {
            metrics,
            directives,
        },
    )))
}

/// Orders that are read and not yet obeyed.
const NEWS_MAX: usize = 16;

/// How long to wait for an order before looking whether anybody listens.
const WAIT: Duration = Duration::from_millis(200);

/// Between two tries to reach the brokers; librdkafka has waits of its own, that grow.
const AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_time_goes_on_as_the_clock_that_went_further() {
        let at = Instant::now();
        let known = LogTime::Appended {
            time: Time(1_000),
            at,
            wall_ms: 50_000,
        };
        let after = |passed_ms, wall_ms| known.at(at + Duration::from_millis(passed_ms), wall_ms);
        assert_eq!(after(0, 50_000), Some(Time(1_000)));
        assert_eq!(after(70, 50_000), Some(Time(1_070)));
        assert_eq!(after(70, 50_900), Some(Time(1_900)), "it slept");
        assert_eq!(
            after(70, 10),
            Some(Time(1_070)),
            "a clock that was set back"
        );
        assert_eq!(LogTime::Samples.at(at, 50_000), None);
    }
}
