//! `homeostat topics acls`: what each kind of client must be allowed on the brokers, and no more.
//!
//! Agents write `metrics` and read `directives`, nothing else: Kafka's rules are per topic, and
//! whoever may report an outcome must not be able to forge an approval.

use std::io::Write;
use std::process::ExitCode;

use serde::Serialize;

use super::super::{Global, Printer, quoted, say};
use super::Brokers;
use crate::stream::Topic;

/// Arguments of `topics acls`. A kind of client without a principal gets none.
#[derive(clap::Args)]
pub(in super::super) struct Args {
    #[command(flatten)]
    brokers: Brokers,
    /// Who runs processors.
    #[arg(long, value_name = "User:NAME", default_value = "User:homeostat")]
    processor: Vec<String>,
    /// Who runs agents on nodes; may be repeated.
    #[arg(long, value_name = "User:NAME", default_value = "User:homeostat-agent")]
    agent: Vec<String>,
    /// Who reads and audits; may be repeated.
    #[arg(
        long,
        value_name = "User:NAME",
        default_value = "User:homeostat-reader"
    )]
    reader: Vec<String>,
    /// Who makes the topics, opens the log and speaks to Plan; may be repeated.
    #[arg(
        long,
        value_name = "User:NAME",
        default_value = "User:homeostat-operator"
    )]
    operator: Vec<String>,
}

/// Runs `topics acls`.
pub(super) fn run(
    args: &Args,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let config = args.brokers.config(global)?;
    let settings = config.settings();
    let names = Names {
        prefix: &settings.log.prefix,
        group: &settings.kafka.group,
    };
    let kinds: [(&[String], Vec<Rule>); 4] = [
        (&args.processor, processor(&names)),
        (&args.agent, agent(&names)),
        (&args.reader, reader(&names)),
        (&args.operator, operator(&names)),
    ];
    for (principals, rules) in &kinds {
        for principal in *principals {
            for rule in rules {
                let command = rule.command(&settings.kafka.brokers, principal);
                printer.print(&Allowed { principal, rule }, &command)?;
            }
        }
    }
    say("next: run these where Kafka's tools are, as somebody who may alter the cluster");
    Ok(ExitCode::SUCCESS)
}

/// What our things are called on the brokers.
struct Names<'a> {
    prefix: &'a str,
    group: &'a str,
}

impl Names<'_> {
    fn topic(&self, topic: Topic, operations: &'static [&'static str]) -> Rule {
        Rule {
            resource: "topic",
            name: format!("{}{}", self.prefix, topic.name()),
            pattern: "literal",
            operations,
        }
    }

    fn group(&self, operations: &'static [&'static str]) -> Rule {
        Rule {
            resource: "group",
            name: self.group.to_owned(),
            pattern: "literal",
            operations,
        }
    }
}

/// What is allowed on something.
#[derive(Serialize)]
struct Rule {
    resource: &'static str,
    name: String,
    /// `literal`, or `prefixed`: all whose names begin so.
    pattern: &'static str,
    operations: &'static [&'static str],
}

impl Rule {
    fn command(&self, brokers: &str, principal: &str) -> String {
        let operations: String = self
            .operations
            .iter()
            .map(|operation| format!(" --operation {operation}"))
            .collect();
        format!(
            "kafka-acls --bootstrap-server {} --add --allow-principal {}{operations} --{} {} \
             --resource-pattern-type {}",
            quoted(brokers),
            quoted(principal),
            self.resource,
            quoted(&self.name),
            self.pattern
        )
    }
}

/// Folds both inboxes, writes what they cause, and serves all of it at its door.
fn processor(names: &Names<'_>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Topic::ALL
        .into_iter()
        .map(|topic| names.topic(topic, &["Read", "Write", "Describe", "DescribeConfigs"]))
        .collect();
    rules.push(names.group(&["Read", "Describe"]));
    rules.push(Rule {
        resource: "transactional-id",
        name: format!("{}-", names.group),
        pattern: "prefixed",
        operations: &["Write", "Describe"],
    });
    rules
}

fn agent(names: &Names<'_>) -> Vec<Rule> {
    vec![
        names.topic(Topic::Metrics, &["Write", "Describe"]),
        names.topic(Topic::Directives, &["Read", "Describe"]),
    ]
}

/// Replay reads the inboxes too, as far as the processors have come.
fn reader(names: &Names<'_>) -> Vec<Rule> {
    let topics = Topic::ALL.into_iter();
    topics
        .map(|topic| names.topic(topic, &["Read", "Describe"]))
        .chain([names.group(&["Describe"])])
        .collect()
}

/// Proposes policies, approves, holds; opens the log.
fn operator(names: &Names<'_>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Topic::ALL
        .into_iter()
        .map(|topic| match topic {
            Topic::PlanInbox => names.topic(
                topic,
                &["Create", "Read", "Write", "Describe", "DescribeConfigs"],
            ),
            Topic::Events => names.topic(topic, &["Create", "Read", "Describe", "DescribeConfigs"]),
            Topic::Metrics | Topic::Cycles | Topic::Directives | Topic::DeadLetters => {
                names.topic(topic, &["Create", "Describe", "DescribeConfigs"])
            }
        })
        .collect();
    rules.push(names.group(&["Describe"]));
    rules.push(Rule {
        resource: "transactional-id",
        name: format!("{}opener", names.prefix),
        pattern: "literal",
        operations: &["Write", "Describe"],
    });
    rules
}

#[derive(Serialize)]
struct Allowed<'a> {
    principal: &'a str,
    #[serde(flatten)]
    rule: &'a Rule,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names<'static> {
        Names {
            prefix: "h.",
            group: "g",
        }
    }

    fn may(rules: &[Rule], operation: &str) -> Vec<String> {
        rules
            .iter()
            .filter(|rule| rule.operations.contains(&operation))
            .map(|rule| format!("{} {} {}", rule.resource, rule.pattern, rule.name))
            .collect()
    }

    #[test]
    fn an_agent_writes_metrics_and_reads_directives_and_nothing_else() {
        let rules = agent(&names());
        assert_eq!(may(&rules, "Write"), ["topic literal h.metrics"]);
        assert_eq!(may(&rules, "Read"), ["topic literal h.directives"]);
        assert_eq!(rules.len(), 2);
    }

    #[test]
    fn a_reader_writes_nothing() {
        for operation in ["Write", "Create", "Alter", "Delete", "All"] {
            assert_eq!(may(&reader(&names()), operation), Vec::<String>::new());
        }
        assert_eq!(may(&reader(&names()), "Read").len(), Topic::ALL.len());
    }

    #[test]
    fn a_processor_transacts_under_its_group_only() {
        let writes = may(&processor(&names()), "Write");
        assert_eq!(writes.len(), Topic::ALL.len() + 1);
        assert_eq!(writes.last().unwrap(), "transactional-id prefixed g-");
        let group = "group literal g".to_owned();
        assert!(may(&processor(&names()), "Read").contains(&group));
    }

    #[test]
    fn an_operator_speaks_to_plan_and_decides_nothing() {
        let writes = may(&operator(&names()), "Write");
        let expected = [
            "topic literal h.plan-inbox",
            "transactional-id literal h.opener",
        ];
        assert_eq!(writes, expected);
    }

    #[test]
    fn a_rule_is_a_command_that_can_be_pasted() {
        let rule = &agent(&names())[1];
        assert_eq!(
            rule.command("a:9092,b:9092", "User:CN=node 1"),
            "kafka-acls --bootstrap-server a:9092,b:9092 --add --allow-principal 'User:CN=node 1' \
             --operation Read --operation Describe --topic h.directives --resource-pattern-type \
             literal"
        );
    }
}
