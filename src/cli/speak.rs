//! What people say to Plan: `hold`, `release`, `pause`, `resume`, `approve`, and the way by which
//! it goes: through the folder's holder, into the log itself when nobody holds it, or to the
//! brokers. What Plan would reject is refused before anything is sent.

use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::holder::Holder;
use super::opening::source_of;
use super::place::{client, with_brokers};
use super::produce::{append, wait_for, wall_clock};
use super::{Global, Printer, plain, say};
use crate::embedded::Embedded;
use crate::kafka::{KafkaIntake, KafkaSource};
use crate::model::{MeshId, NodeId, NodeKey, Span};
use crate::runtime::{Incoming, Source as _, Store, TimeSource, Title};
use crate::sim::scenario::span;
use crate::stream::Topic;
use crate::topology::say::{Known, Said, SayError, Whom, commitment, hex};
use crate::web::{FOR_S_MAX, draw_salt, own_name};

/// Arguments of `hold`.
#[derive(clap::Args)]
pub(super) struct Hold {
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    way: Way,
}

/// Arguments of `release`.
#[derive(clap::Args)]
pub(super) struct Release {
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    way: Way,
}

/// Arguments of `pause`.
#[derive(clap::Args)]
pub(super) struct Pause {
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    way: Way,
}

/// Arguments of `resume`.
#[derive(clap::Args)]
pub(super) struct Resume {
    #[command(flatten)]
    way: Way,
}

/// Arguments of `approve`.
#[derive(clap::Args)]
pub(super) struct Approve {
    /// Id of the proposal: of what was withheld for `needs_approval` (wh-...).
    id: String,
    /// No instead of yes.
    #[arg(long)]
    reject: bool,
    #[command(flatten)]
    way: Way,
}

/// Who is meant.
#[derive(clap::Args)]
struct Who {
    /// A node by its id, MESH/NODE, or a mesh.
    #[arg(
        value_name = "NODE|MESH",
        required_unless_present = "mesh",
        conflicts_with = "mesh"
    )]
    who: Option<String>,
    /// This mesh; with --node, that node of it.
    #[arg(long, value_name = "M")]
    mesh: Option<String>,
    /// This node of --mesh.
    #[arg(long, value_name = "N", requires = "mesh")]
    node: Option<String>,
}

/// How long, and why.
#[derive(clap::Args)]
struct How {
    /// So long, such as 90s, 30m, 2h or 7d; without it until released.
    #[arg(long = "for", value_name = "SPAN", value_parser = length)]
    length: Option<Span>,
    /// Why. The log keeps a salted commitment to these words, not the words.
    #[arg(long, value_name = "WORDS")]
    reason: Option<String>,
}

/// By which way.
#[derive(clap::Args)]
pub(super) struct Way {
    /// To these brokers, instead of the configuration's: HOST:PORT, several by commas.
    #[arg(long, value_name = "ADDRS")]
    pub(super) brokers: Option<String>,
}

fn length(text: &str) -> Result<Span, String> {
    let length = span(text)?;
    match (1..=FOR_S_MAX).contains(&(length.0 / 1000)) {
        true => Ok(length),
        false => Err(format!("expected 1s to {}d", FOR_S_MAX / 86_400)),
    }
}

/// Runs `hold`: 0 when it is recorded, 1 when there is no such node or mesh.
pub(super) fn hold(
    args: Hold,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    place_hold(args.who.whom()?, args.how, &args.way, global, printer)
}

/// Runs `pause`: a hold of all meshes.
pub(super) fn pause(
    args: Pause,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    place_hold(Whom::All, args.how, &args.way, global, printer)
}

fn place_hold(
    whom: Whom,
    how: How,
    way: &Way,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let hold = Speech::Hold {
        whom,
        length: how.length,
        reason: how.reason.filter(|words| !words.is_empty()),
    };
    Speaker::find(way, global)?.tell(&hold, global, printer)
}

/// Runs `release`: 0 when it is recorded, 1 when nothing is held there.
pub(super) fn release(
    args: Release,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let whom = args.who.whom()?;
    Speaker::find(&args.way, global)?.tell(&Speech::Release { whom }, global, printer)
}

/// Runs `resume`: the end of a hold of all meshes.
pub(super) fn resume(
    args: Resume,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let whom = Whom::All;
    Speaker::find(&args.way, global)?.tell(&Speech::Release { whom }, global, printer)
}

/// Runs `approve`: 0 when it is recorded, 1 when nothing waits under this id.
pub(super) fn approve(
    args: Approve,
    global: &Global,
    printer: &mut Printer<impl Write>,
) -> anyhow::Result<ExitCode> {
    let answer = Speech::Answer {
        id: args.id,
        approved: !args.reject,
    };
    Speaker::find(&args.way, global)?.tell(&answer, global, printer)
}

impl Who {
    fn whom(&self) -> anyhow::Result<Whom> {
        let Some(mesh) = &self.mesh else {
            let who = self.who.clone().context("nobody is named")?;
            return Ok(Whom::Named(who));
        };
        let mesh = mesh_named(mesh)?;
        let Some(node) = &self.node else {
            return Ok(Whom::Mesh(mesh));
        };
        match NodeId::parse(node) {
            Some(node) => Ok(Whom::Node(NodeKey { mesh, node })),
            None => bail!(
                "--node of {} bytes: expected a name of 1 to 255",
                node.len()
            ),
        }
    }
}

/// The mesh that a flag names.
pub(super) fn mesh_named(name: &str) -> anyhow::Result<MeshId> {
    match MeshId::parse(name).filter(|mesh| !mesh.is_none()) {
        Some(mesh) => Ok(mesh),
        None => bail!(
            "--mesh of {} bytes: expected a name of 1 to 255",
            name.len()
        ),
    }
}

/// What is said, before it goes one of the ways.
pub(super) enum Speech {
    /// Put a policy in force; without a mesh for all.
    Policy {
        /// For which mesh.
        mesh: Option<MeshId>,
        /// Its text.
        text: String,
    },
    /// Order nothing there.
    Hold {
        /// For whom.
        whom: Whom,
        /// How long.
        length: Option<Span>,
        /// Why.
        reason: Option<String>,
    },
    /// End a hold.
    Release {
        /// For whom.
        whom: Whom,
    },
    /// Yes or no to a proposal.
    Answer {
        /// Its id.
        id: String,
        /// Yes.
        approved: bool,
    },
}

impl Speech {
    /// As the door takes it: route and body.
    fn request(&self) -> (String, Vec<u8>) {
        let hold = |whom: &Whom| match whom {
            Whom::All => json!({ "all": true }),
            Whom::Named(who) => json!({ "who": who }),
            Whom::Mesh(mesh) => json!({ "mesh_id": mesh.as_str() }),
            Whom::Node(key) => {
                json!({ "mesh_id": key.mesh.as_str(), "node_id": key.node.as_str() })
            }
        };
        let (path, body) = match self {
            Speech::Policy { mesh, text } => {
                let mesh = mesh.as_ref().map_or(String::new(), |mesh| {
                    let bytes = mesh.as_str().bytes();
                    let escaped: String = bytes.map(|byte| format!("%{byte:02X}")).collect();
                    format!("?mesh={escaped}")
                });
                return (format!("/v1/policy{mesh}"), text.clone().into_bytes());
            }
            Speech::Hold {
                whom,
                length,
                reason,
            } => {
                let mut body = hold(whom);
                if let Some(length) = length {
                    body["for_s"] = Value::from(length.0 / 1000);
                }
                if let Some(reason) = reason {
                    body["reason"] = Value::from(reason.clone());
                }
                ("/v1/holds", body)
            }
            Speech::Release { whom } => {
                let mut body = hold(whom);
                body["release"] = Value::from(true);
                ("/v1/holds", body)
            }
            Speech::Answer { id, approved } => {
                ("/v1/approvals", json!({ "id": id, "approved": approved }))
            }
        };
        (path.to_owned(), body.to_string().into_bytes())
    }

    /// As it is judged here; beside it what was committed to, and the salt.
    fn said(&self) -> anyhow::Result<(Said, Option<(String, String)>)> {
        Ok(match self {
            Speech::Policy { mesh, text } => {
                let mesh = mesh.clone().unwrap_or_else(MeshId::none);
                let text = text.clone();
                (Said::Policy { mesh, text }, None)
            }
            Speech::Hold {
                whom,
                length,
                reason,
            } => {
                let made = match reason {
                    None => None,
                    Some(words) => {
                        let salt = draw_salt().context("drawing a salt for the reason")?;
                        Some((commitment(&salt, words), hex(&salt)))
                    }
                };
                let said = Said::Hold {
                    whom: whom.clone(),
                    for_ms: length.map(|length| length.0),
                    reason: made
                        .as_ref()
                        .map_or(String::new(), |(made, _)| made.clone()),
                };
                (said, made)
            }
            Speech::Release { whom } => {
                let whom = whom.clone();
                (Said::Release { whom }, None)
            }
            Speech::Answer { id, approved } => {
                let (id, approved) = (id.clone(), *approved);
                (Said::Answer { id, approved }, None)
            }
        })
    }
}

/// Who takes what is said.
pub(super) enum Speaker {
    /// The folder's holder.
    Held(Holder),
    /// The folder, which nobody holds.
    Own(Embedded),
    /// The brokers.
    Brokers {
        /// Sends.
        intake: Box<KafkaIntake>,
        /// Reads.
        source: Box<KafkaSource>,
        /// What the log is called.
        title: Title,
        /// The transactional id of what goes to every partition: an operator's.
        id: String,
    },
}

impl Speaker {
    /// By the way that the configuration says.
    pub(super) fn find(way: &Way, global: &Global) -> anyhow::Result<Speaker> {
        let config = with_brokers(global.config()?, way.brokers.as_deref())?;
        let settings = config.settings();
        if !settings.kafka.brokers.is_empty() {
            let client = client(settings)?;
            let mut source = KafkaSource::new(&client)?;
            let title = source.title()?;
            return Ok(Speaker::Brokers {
                intake: Box::new(KafkaIntake::new(&client, &title)?),
                source: Box::new(source),
                id: format!("{}opener", settings.log.prefix),
                title,
            });
        }
        let dir = &settings.log.dir;
        if !dir.exists() {
            bail!(
                "reading the data folder {}: it is not there; `{}` makes it, --data names another",
                dir.display(),
                global.command("run")
            );
        }
        if let Some(holder) = Holder::find(dir)? {
            return Ok(Speaker::Held(holder));
        }
        Ok(Speaker::Own(Embedded::open(
            &settings.log,
            source_of(settings),
        )?))
    }

    /// Says it and prints what came of it: 0 when it is recorded or changes nothing, 1 when it was
    /// refused.
    pub(super) fn tell(
        &mut self,
        speech: &Speech,
        global: &Global,
        printer: &mut Printer<impl Write>,
    ) -> anyhow::Result<ExitCode> {
        let told = match self {
            Speaker::Held(holder) => through(holder, speech)?,
            _ => self.directly(speech)?,
        };
        let told = match told {
            Ok(told) => told,
            Err(why) => {
                say(&format!("homeostat: {}", plain(&why)));
                return Ok(ExitCode::from(1));
            }
        };
        let words: Words = serde_json::from_str(&told).context("reading the answer")?;
        let mut lines = words.words;
        if let (Some(made), Some(salt)) = (&words.reason, &words.reason_salt) {
            lines.push(format!(
                "the log keeps {made} for the reason; keep your words and this salt to prove them: \
                 {salt}"
            ));
        }
        printer.print(&RawValue::from_string(told)?, &plain_lines(&lines))?;
        if words.accepted > 0 {
            say(&match self {
                Speaker::Own(_) => format!(
                    "next: nobody runs on this folder: Plan decides at the next `{}`",
                    global.command("run")
                ),
                _ => format!(
                    "next: `{}` shows what Plan says of it",
                    global.command("events --follow")
                ),
            });
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Into the log itself.
    fn directly(&mut self, speech: &Speech) -> anyhow::Result<Result<String, String>> {
        let by = own_name();
        let (said, made) = speech.said()?;
        let judged = match self {
            Speaker::Held(_) => bail!("the holder judges by itself"),
            Speaker::Own(log) => {
                let Some(title) = log.title() else {
                    bail!("saying it to Plan: the log is not opened; `homeostat run` opens it");
                };
                let rows: [(i32, Rc<dyn Store>); 1] = [(0, log.rows("plan"))];
                let mut known = Known {
                    partitions: 1,
                    rows: Some(&rows),
                    source: &mut *log.source(),
                    now: (title.time_source == TimeSource::Log).then(|| log.now()),
                };
                known.judge(&said, &by)
            }
            Speaker::Brokers { source, title, .. } => {
                let mut known = Known {
                    partitions: title.partitions,
                    rows: None,
                    source: &mut **source,
                    now: (title.time_source == TimeSource::Log).then(wall_clock),
                };
                known.judge(&said, &by)
            }
        };
        let ready = match judged {
            Err(SayError::Now(error)) => return Err(error).context("reading what is known"),
            Err(refused) => return Ok(Err(refused.to_string())),
            Ok(ready) => ready,
        };
        if let Some(record) = ready.incoming() {
            self.send(record, ready.mesh.is_none())?;
        }
        let mut told = ready.json(&by);
        if let Some((made, salt)) = made {
            told.pop();
            told += &format!(",\"reason\":\"{made}\",\"reason_salt\":\"{salt}\"}}");
        }
        Ok(Ok(told))
    }

    fn send(&self, record: Incoming, to_all: bool) -> anyhow::Result<()> {
        match self {
            Speaker::Held(_) => bail!("the holder sends by itself"),
            Speaker::Own(log) => append(log, Topic::PlanInbox, vec![record]),
            Speaker::Brokers { intake, id, .. } if to_all => {
                Ok(intake.append_to_all(id, Topic::PlanInbox, &record)?)
            }
            Speaker::Brokers { intake, .. } => {
                wait_for(intake.append(Topic::PlanInbox, vec![record])?)
            }
        }
    }
}

/// Through the holder: what it answers, or why it refused.
fn through(holder: &Holder, speech: &Speech) -> anyhow::Result<Result<String, String>> {
    let (path, body) = speech.request();
    let answer = holder.ask("POST", &path, "application/json", body)?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let error = || {
        let told: Option<Told> = serde_json::from_str(&text).ok();
        told.map_or_else(|| text.trim().to_owned(), |told| told.error)
    };
    match answer.status {
        200 => Ok(Ok(text)),
        400 | 404 | 409 => Ok(Err(error())),
        status => bail!("saying it to the holder: it answered {status}: {}", error()),
    }
}

fn plain_lines(lines: &[String]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| plain(line)).collect();
    lines.join("\n")
}

/// What of an answer people read.
#[derive(Deserialize)]
struct Words {
    accepted: u64,
    words: Vec<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    reason_salt: Option<String>,
}

#[derive(Deserialize)]
struct Told {
    error: String,
}
