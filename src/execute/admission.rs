//! Whether a directive is to be done: admit once per node, kind and generation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::idempotent;
use crate::model::{Directive, Kind, NodeKey, Outcome, Time};

/// What one agent remembers: of each kind the newest directive that it began, and how it ended.
///
/// Built from the rows of its journal; every change of it is a row that must be durable before the
/// next step ([`super::obey`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    node: NodeKey,
    log_id: String,
    newest: BTreeMap<Kind, Row>,
}

/// A row of the journal; only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What was ordered.
    pub directive: Directive,
    /// How far it is.
    pub progress: Progress,
}

/// How far a directive is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// It may be done by now.
    Begun,
    /// It ended so.
    Done(Outcome),
}

/// What to do with a directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Journal it as begun, then do it.
    Begin,
    /// It was done before: report this again and do nothing.
    Report(Outcome),
    /// Do nothing and report nothing.
    Ignore(Ignored),
}

/// Why a directive is neither done nor answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ignored {
    /// It is for another node or mesh.
    OtherNode,
    /// It comes from a log that this agent does not obey.
    OtherLog,
    /// A newer one of its kind was begun: its place is taken.
    Superseded {
        /// The generation of that one.
        by: i64,
    },
    /// It, or an older one of its kind, is begun and not done: that one must end first.
    UnderWay {
        /// The generation of that one.
        generation: i64,
    },
    /// Its time to begin is over.
    Expired {
        /// The first append time at which it could no longer be begun.
        at: Time,
    },
}

/// What becomes of a directive that was begun before a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Do it again; it does not matter whether it was done.
    Again(Directive),
    /// Report `unknown` and never do it again.
    Unknown(Directive),
}

impl Admission {
    /// An agent for `node` that obeys the log `log_id`, with the rows of its journal in order.
    ///
    /// Rows of another node or log are left out: their generations are no measure here.
    pub fn new(node: NodeKey, log_id: String, rows: impl IntoIterator<Item = Row>) -> Self {
        let mut admission = Admission {
            node,
            log_id,
            newest: BTreeMap::new(),
        };
        for row in rows {
            if admission.is_ours(&row.directive) && admission.obeys(&row.directive) {
                admission.remember(row);
            }
        }
        admission
    }

    /// Whether `directive` is to be done; `now` is the log's time (append time of the newest record
    /// that the agent read, or the door's date).
    pub fn admit(&self, directive: &Directive, now: Time) -> Verdict {
        if !self.is_ours(directive) {
            return Verdict::Ignore(Ignored::OtherNode);
        }
        if !self.obeys(directive) {
            return Verdict::Ignore(Ignored::OtherLog);
        }
        if let Some(row) = self.newest.get(&directive.action.kind()) {
            let generation = row.directive.generation;
            match &row.progress {
                _ if directive.generation < generation => {
                    return Verdict::Ignore(Ignored::Superseded { by: generation });
                }
                Progress::Begun => return Verdict::Ignore(Ignored::UnderWay { generation }),
                Progress::Done(outcome) if directive.generation == generation => {
                    return Verdict::Report(outcome.clone());
                }
                Progress::Done(_) => {}
            }
        }
        let at = directive.expires_at();
        if now >= at {
            return Verdict::Ignore(Ignored::Expired { at });
        }
        Verdict::Begin
    }

    /// Notes that an admitted directive begins; the row must be durable before it is done.
    pub fn begin(&mut self, directive: &Directive) -> &Row {
        self.remember(Row {
            directive: directive.clone(),
            progress: Progress::Begun,
        })
    }

    /// Notes how a begun directive ended; the row must be durable before it is reported.
    ///
    /// # Panics
    /// When the directive was not begun.
    pub fn done(&mut self, outcome: Outcome) -> &Row {
        let row = self.newest.get_mut(&outcome.kind);
        let row = row.expect("what ends was begun");
        assert_eq!(
            (row.directive.generation, &row.progress),
            (outcome.generation, &Progress::Begun),
            "what ends was begun, once"
        );
        row.progress = Progress::Done(outcome);
        row
    }

    /// What was begun and not done when the journal was read, by kind. A directive that expired
    /// meanwhile is not done again: Plan has given it up and may have ordered something else.
    pub fn recover(&self, now: Time) -> Vec<Recovery> {
        self.newest
            .values()
            .filter(|row| row.progress == Progress::Begun)
            .map(|row| {
                let directive = row.directive.clone();
                match idempotent(directive.action.kind()) && now < directive.expires_at() {
                    true => Recovery::Again(directive),
                    false => Recovery::Unknown(directive),
                }
            })
            .collect()
    }

    /// The newest row of each kind: all that a journal written anew must hold.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.newest.values()
    }

    fn is_ours(&self, directive: &Directive) -> bool {
        directive.mesh == self.node.mesh && directive.node == self.node.node
    }

    fn obeys(&self, directive: &Directive) -> bool {
        directive.log_id == self.log_id
    }

    /// Keeps the row unless a newer one of its kind is kept; of one generation `Done` is newer.
    fn remember(&mut self, row: Row) -> &Row {
        let age = |row: &Row| (row.directive.generation, row.progress != Progress::Begun);
        let kept = self
            .newest
            .entry(row.directive.action.kind())
            .or_insert_with(|| row.clone());
        if age(kept) < age(&row) {
            *kept = row;
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::execute::{Answer, Execution, Executor, obey, settle};
    use crate::model::{
        Action, Cause, Healing, MeshId, NodeId, OutcomeResult, PolicyId, Route, Scaling, Span,
    };

    const ISSUED: Time = Time(1_000_000);

    fn node(name: &str) -> NodeKey {
        NodeKey {
            mesh: MeshId::parse("alpha").unwrap(),
            node: NodeId::parse(name).unwrap(),
        }
    }

    fn directive(kind: Kind, generation: i64) -> Directive {
        let NodeKey { mesh, node } = node("n1");
        Directive {
            id: format!("dir-{generation}"),
            log_id: "log".to_owned(),
            mesh,
            node,
            generation,
            issued_at: ISSUED,
            ttl_s: 60,
            action: match kind {
                Kind::MonitoringInterval => Action::MonitoringInterval { interval_s: 10 },
                Kind::RoutePreference => Action::RoutePreference {
                    value: Route::LowLatency,
                },
                Kind::Healing => Action::Healing {
                    level: Healing::Aggressive,
                },
                Kind::Scaling => Action::Scaling {
                    value: Scaling::EmergencyScale,
                },
            },
            cause: Cause {
                topic: "homeostat.plan-inbox".to_owned(),
                partition: 0,
                offset: generation,
            },
            incident_id: None,
            policy_id: PolicyId::default(),
            policy_generation: 1,
        }
    }

    /// An agent with its journal, whose executor counts and which may be told to die.
    #[derive(Default)]
    struct Agent {
        journal: Vec<Row>,
        executed: Vec<i64>,
        /// Durable writes and executions until it dies.
        lives: usize,
    }

    #[derive(Debug, PartialEq)]
    struct Died;

    /// An executor that applies everything and remembers what.
    struct Counting<'a>(&'a mut Vec<i64>);

    impl Executor for Counting<'_> {
        fn execute(&mut self, directive: &Directive) -> Execution {
            self.0.push(directive.generation);
            Execution {
                result: OutcomeResult::Applied,
                observed: None,
            }
        }
    }

    impl Agent {
        fn admission(&self) -> Admission {
            Admission::new(node("n1"), "log".to_owned(), self.journal.clone())
        }

        /// Starts from the journal, settles, and obeys; dies at a durable write when its lives are
        /// spent: `kept` says whether that write was persisted all the same.
        fn live(
            &mut self,
            directives: &[Directive],
            now: Time,
            kept: bool,
        ) -> Result<(Vec<Outcome>, Vec<Answer>), Died> {
            let mut admission = self.admission();
            let Agent {
                journal,
                executed,
                lives,
            } = self;
            let mut write = |row: &Row| {
                if *lives == 0 {
                    if kept {
                        journal.push(row.clone());
                    }
                    return Err(Died);
                }
                *lives -= 1;
                journal.push(row.clone());
                Ok(())
            };
            let mut executor = Counting(executed);
            let settled = settle(&mut admission, &mut executor, &mut write, now)?;
            let answers = directives
                .iter()
                .map(|d| obey(&mut admission, &mut executor, &mut write, d, now))
                .collect::<Result<_, _>>()?;
            Ok((settled, answers))
        }
    }

    /// What an agent with `journal` (generation and whether done, of one kind) says to generation
    /// 5.
    fn check(journal: &[(i64, bool)], now: Time, expected: &str) {
        let rows = journal.iter().map(|&(generation, done)| {
            let directive = directive(Kind::Healing, generation);
            Row {
                progress: match done {
                    true => Progress::Done(Outcome::of(&directive, OutcomeResult::Applied)),
                    false => Progress::Begun,
                },
                directive,
            }
        });
        let admission = Admission::new(node("n1"), "log".to_owned(), rows);
        let got = match admission.admit(&directive(Kind::Healing, 5), now) {
            Verdict::Begin => "begin".to_owned(),
            Verdict::Report(outcome) => format!("report {}", outcome.generation),
            Verdict::Ignore(why) => match why {
                Ignored::OtherNode => "other node".to_owned(),
                Ignored::OtherLog => "other log".to_owned(),
                Ignored::Superseded { by } => format!("superseded by {by}"),
                Ignored::UnderWay { generation } => format!("{generation} under way"),
                Ignored::Expired { .. } => "expired".to_owned(),
            },
        };
        assert_eq!(got, expected, "journal {journal:?} at {now}");
    }

    #[test]
    fn every_order_of_begun_done_duplicate_and_expired() {
        let (fresh, last, late) = (ISSUED, ISSUED + Span(59_999), ISSUED + Span::seconds(60));
        const BEGUN: bool = false;
        const DONE: bool = true;
        for now in [fresh, last, late] {
            let begin = if now == late { "expired" } else { "begin" };
            check(&[], now, begin);
            check(&[(4, BEGUN)], now, "4 under way");
            check(&[(4, DONE)], now, begin);
            check(&[(4, BEGUN), (4, DONE)], now, begin);
            check(&[(5, BEGUN)], now, "5 under way");
            check(&[(5, DONE)], now, "report 5");
            check(&[(5, BEGUN), (5, DONE)], now, "report 5");
            check(&[(6, BEGUN)], now, "superseded by 6");
            check(&[(6, DONE)], now, "superseded by 6");
            check(&[(4, BEGUN), (5, BEGUN)], now, "5 under way");
            check(&[(4, DONE), (5, DONE)], now, "report 5");
            check(&[(4, DONE), (6, BEGUN)], now, "superseded by 6");
            // Rows that were kept twice or out of order say the same.
            check(&[(5, DONE), (5, BEGUN)], now, "report 5");
            check(&[(5, DONE), (4, BEGUN)], now, "report 5");
            check(&[(6, DONE), (5, BEGUN)], now, "superseded by 6");
        }
    }

    #[test]
    fn kinds_do_not_wait_for_each_other() {
        let mut admission = Admission::new(node("n1"), "log".to_owned(), []);
        admission.begin(&directive(Kind::Healing, 9));
        for kind in [
            Kind::MonitoringInterval,
            Kind::RoutePreference,
            Kind::Scaling,
        ] {
            assert_eq!(admission.admit(&directive(kind, 5), ISSUED), Verdict::Begin);
        }
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let ignored = |change: fn(&mut Directive)| {
            let mut directive = directive(Kind::Healing, 5);
            change(&mut directive);
            let rows = [Row {
                directive: directive.clone(),
                progress: Progress::Begun,
            }];
            let admission = Admission::new(node("n1"), "log".to_owned(), rows);
            assert_eq!(admission.rows().count(), 0);
            assert_eq!(admission.recover(ISSUED), []);
            admission.admit(&directive, ISSUED)
        };
        let other_mesh = ignored(|d| d.mesh = MeshId::parse("beta").unwrap());
        assert_eq!(other_mesh, Verdict::Ignore(Ignored::OtherNode));
        let other_node = ignored(|d| d.node = NodeId::parse("n2").unwrap());
        assert_eq!(other_node, Verdict::Ignore(Ignored::OtherNode));
        let other_log = ignored(|d| d.log_id = "another".to_owned());
        assert_eq!(other_log, Verdict::Ignore(Ignored::OtherLog));
    }

    #[test]
    fn after_a_crash_an_act_is_unknown_and_a_state_is_set_again() {
        let late = ISSUED + Span::seconds(60);
        for (kind, now, expected, executions) in [
            (Kind::Healing, ISSUED, OutcomeResult::Unknown, 0),
            (Kind::Scaling, ISSUED, OutcomeResult::Unknown, 0),
            (Kind::RoutePreference, ISSUED, OutcomeResult::Applied, 1),
            (Kind::MonitoringInterval, ISSUED, OutcomeResult::Applied, 1),
            (Kind::RoutePreference, late, OutcomeResult::Unknown, 0),
        ] {
            let order = directive(kind, 5);
            let mut agent = Agent {
                lives: 9,
                ..Agent::default()
            };
            agent.journal.push(Row {
                directive: order.clone(),
                progress: Progress::Begun,
            });
            let (settled, answers) = agent.live(&[order], now, false).unwrap();
            assert_eq!(settled[0].result, expected, "{kind:?}");
            assert_eq!(answers, [Answer::Report(settled[0].clone())], "{kind:?}");
            assert_eq!(agent.executed.len(), executions, "{kind:?}");
        }
    }

    #[test]
    fn died_at_every_write_an_act_is_done_at_most_once_and_always_answered() {
        for kind in Kind::ALL {
            for lives in 0..4 {
                for kept in [false, true] {
                    let order = directive(kind, 5);
                    let twice = [order.clone(), order.clone()];
                    let mut agent = Agent {
                        lives,
                        ..Agent::default()
                    };
                    let first = agent.live(&twice, ISSUED, kept);
                    assert_eq!(first.is_err(), lives < 2, "two durable writes");
                    agent.lives = usize::MAX;
                    let (settled, answers) = agent.live(&twice, ISSUED, kept).unwrap();
                    let story = format!(
                        "{kind:?}, {lives} writes, kept {kept}: {agent_runs:?}",
                        agent_runs = agent.executed
                    );
                    assert!(settled.len() <= 1, "{story}");
                    assert!(
                        answers
                            .iter()
                            .all(|answer| matches!(answer, Answer::Report(_))),
                        "{story}"
                    );
                    assert_eq!(answers[0], answers[1], "{story}");
                    if !idempotent(kind) {
                        assert!(agent.executed.len() <= 1, "{story}");
                    }
                    let Answer::Report(outcome) = &answers[0] else {
                        unreachable!("asserted above")
                    };
                    if outcome.result == OutcomeResult::Applied {
                        assert!(!agent.executed.is_empty(), "{story}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_newest_of_a_kind_wins_in_any_order_of_arrival() {
        let orders: Vec<_> = (1..=3).map(|g| directive(Kind::Healing, g)).collect();
        for [a, b, c] in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let mut agent = Agent {
                lives: usize::MAX,
                ..Agent::default()
            };
            let arrived = [a, b, c].map(|i| orders[i].clone());
            agent.live(&arrived, ISSUED, false).unwrap();
            assert_eq!(agent.executed.last(), Some(&3));
            assert!(agent.executed.is_sorted());
        }
    }

    #[test]
    fn rows_are_the_journal_in_short() {
        let mut admission = Admission::new(node("n1"), "log".to_owned(), []);
        let mut executed = Vec::new();
        let mut rows = Vec::new();
        for order in [directive(Kind::Healing, 1), directive(Kind::Healing, 2)] {
            let mut write = |row: &Row| {
                rows.push(serde_json::to_string(row).unwrap());
                Ok::<_, Infallible>(())
            };
            obey(
                &mut admission,
                &mut Counting(&mut executed),
                &mut write,
                &order,
                ISSUED,
            )
            .unwrap();
        }
        assert_eq!(rows.len(), 4);
        let read = rows.iter().map(|row| serde_json::from_str(row).unwrap());
        let again = Admission::new(node("n1"), "log".to_owned(), read);
        assert_eq!(again, admission);
        assert_eq!(again.rows().count(), 1);
    }

    #[test]
    fn a_long_observation_is_cut_at_a_letter() {
        struct Talkative;
        impl Executor for Talkative {
            fn execute(&mut self, _directive: &Directive) -> Execution {
                Execution {
                    result: OutcomeResult::Failed,
                    observed: Some(format!("x{}", "φ".repeat(1000))),
                }
            }
        }
        let mut admission = Admission::new(node("n1"), "log".to_owned(), []);
        let mut write = |_: &Row| Ok::<_, Infallible>(());
        let order = directive(Kind::RoutePreference, 5);
        let answer = obey(&mut admission, &mut Talkative, &mut write, &order, ISSUED).unwrap();
        let Answer::Report(outcome) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(outcome.observed.unwrap().len(), 1023);
    }
}
