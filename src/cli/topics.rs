//! `homeostat topics`: the topics of a log on Kafka, and who may do what with them.

use std::io::Write;
use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;

use super::opening::{self, Opened};
use super::{Colour, Global, Printer, plain, say};
use crate::config::Config;
use crate::kafka::topics::{self, Difference};
use crate::kafka::{self, Client};
use crate::stream::Topic;

mod acls;

/// What can be done with the topics.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Make the topics that are not there and open the log: 0 all is as it should be, 1 what was
    /// there differs.
    Create(Brokers),
    /// What differs from what they should be: 0 nothing, 1 something, 2 the brokers do not say.
    Check(Brokers),
    /// What each kind of client must be allowed, and no more, as commands for Kafka's kafka-acls.
    Acls(acls::Args),
}

/// Which brokers.
#[derive(clap::Args)]
pub(super) struct Brokers {
    /// The brokers, instead of the configuration's.
    #[arg(long, value_name = "HOST:PORT,..")]
    brokers: Option<String>,
}

impl Brokers {
    fn config(&self, global: &Global) -> anyhow::Result<Config> {
        let mut config = global.config()?;
        if let Some(brokers) = &self.brokers {
            config = config.with_flag("--brokers", "kafka.brokers", brokers)?;
        }
        if config.settings().kafka.brokers.is_empty() {
            bail!(
                "looking for the topics: no brokers are configured, and the embedded log needs no \
                 topics; name them in kafka.brokers, HOMEOSTAT_KAFKA_BROKERS or --brokers"
            );
        }
        Ok(config)
    }
}

/// Runs `topics`.
pub(super) fn run(
    command: Command,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    match command {
        Command::Create(brokers) => create(&brokers.config(global)?, global, printer),
        Command::Check(brokers) => check(&brokers.config(global)?, global, printer),
        Command::Acls(args) => acls::run(&args, global, printer),
    }
}

fn create(
    config: &Config,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let settings = config.settings();
    let client = Client::new(&settings.kafka, &settings.log.prefix)?;
    let made = topics::ensure(&client, settings)?;
    for topic in Topic::ALL {
        let name = client.topic_name(topic);
        let made = made.contains(&topic);
        let verb = if made { "made " } else { "there" };
        printer.print(&Made { topic: &name, made }, &format!("{verb}  {name}"))?;
    }
    let openings = kafka::openings(&client)?;
    let differences = topics::differences(&client, settings, &topics::look(&client)?, &openings);
    if differences.iter().any(|found| found.check == "partitions") {
        tell(&differences, printer)?;
        say("the log was not opened: its topics must have one number of partitions");
        return Ok(code(&differences));
    }
    let Opened { title, now } = opening::ensure_open(&client, settings)?;
    let words = format!(
        "{}  log {} in {} partitions",
        if now { "opened" } else { "open  " },
        title.log_id,
        title.partitions
    );
    printer.print(
        &Title {
            log_id: &title.log_id,
            partitions: title.partitions,
            opened: now,
        },
        &words,
    )?;
    let openings = kafka::openings(&client)?;
    let differences = topics::differences(&client, settings, &topics::look(&client)?, &openings);
    tell(&differences, printer)?;
    say(&format!(
        "next: {}",
        match differences.is_empty() {
            true => global.command("run"),
            false => global.command("topics check"),
        }
    ));
    Ok(code(&differences))
}

fn check(
    config: &Config,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let settings = config.settings();
    let client = Client::new(&settings.kafka, &settings.log.prefix)?;
    let seen = topics::look(&client)?;
    let inboxes = seen.contains_key(&Topic::PlanInbox) && seen.contains_key(&Topic::Events);
    let openings = match inboxes {
        true => kafka::openings(&client)?,
        false => Vec::new(),
    };
    let differences = topics::differences(&client, settings, &seen, &openings);
    tell(&differences, printer)?;
    let next = match differences.is_empty() {
        true => format!(
            "the topics at {} are as they should be; next: {}",
            client.brokers(),
            global.command("run")
        ),
        false => format!("next: mend that, then {}", global.command("topics check")),
    };
    say(&next);
    Ok(code(&differences))
}

fn tell(differences: &[Difference], printer: &mut Printer<impl Write>) -> anyhow::Result<()> {
    for difference in differences {
        let Difference {
            topic,
            check,
            found,
            expected,
            mend,
        } = difference;
        let wanting = printer.paint(Colour::Red, "WANTING");
        let words = format!(
            "{wanting}  {topic}: {check}: {}, expected {expected}; mend: {mend}",
            plain(found)
        );
        let object = Finding {
            topic,
            check,
            found,
            expected,
            mend,
        };
        printer.print(&object, &words)?;
    }
    Ok(())
}

fn code(differences: &[Difference]) -> ExitCode {
    match differences.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    }
}

#[derive(Serialize)]
struct Made<'a> {
    topic: &'a str,
    made: bool,
}

#[derive(Serialize)]
struct Title<'a> {
    log_id: &'a str,
    partitions: i32,
    opened: bool,
}

#[derive(Serialize)]
struct Finding<'a> {
    topic: &'a str,
    check: &'a str,
    found: &'a str,
    expected: &'a str,
    mend: &'a str,
}
