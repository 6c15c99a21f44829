//! Where a command reads: an export (`--dir`); the brokers, where some are configured; else the
//! data folder: through who holds it, or, when nobody does, by itself.

#[cfg(feature = "io")]
use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::Global;
use crate::runtime::Source;
#[cfg(feature = "io")]
use crate::runtime::Title;
use crate::runtime::export::Export;

#[cfg(feature = "io")]
use super::holder::Holder;
#[cfg(feature = "io")]
use crate::config::Config;
#[cfg(feature = "io")]
use crate::config::settings::Settings;
#[cfg(feature = "io")]
use crate::embedded::Embedded;
#[cfg(feature = "io")]
use crate::kafka::{Client, KafkaIntake, KafkaSource};

/// Which log a command reads.
#[derive(clap::Args)]
pub(super) struct Which {
    /// Read this export, as `demo --keep DIR` writes it, instead of the data folder.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Read the log on these brokers, instead of the configuration's: HOST:PORT, several by commas.
    #[cfg(feature = "io")]
    #[arg(long, value_name = "ADDRS", conflicts_with = "dir")]
    brokers: Option<String>,
}

/// A log to be read.
pub(super) struct Place {
    /// Reads it.
    pub source: Box<dyn Source>,
    /// What it is.
    pub kind: Kind,
}

/// What a log is.
pub(super) enum Kind {
    /// An export, whole.
    Export,
    /// A folder that nobody holds.
    #[cfg(feature = "io")]
    Folder(Embedded),
    /// A folder whose holder answers.
    #[cfg(feature = "io")]
    Held(Holder),
    /// The brokers.
    #[cfg(feature = "io")]
    Brokers(Box<Brokers>),
}

/// Brokers that a log lies on.
#[cfg(feature = "io")]
pub(super) struct Brokers {
    client: Client,
    intake: OnceCell<KafkaIntake>,
}

#[cfg(feature = "io")]
impl Brokers {
    /// What takes records into the log of this title; made when it is first asked for.
    pub(super) fn intake(&self, title: &Title) -> anyhow::Result<&KafkaIntake> {
        if let Some(intake) = self.intake.get() {
            return Ok(intake);
        }
        let intake = KafkaIntake::new(&self.client, title)?;
        Ok(self.intake.get_or_init(|| intake))
    }
}

impl Which {
    /// The configured log, or that on these brokers.
    #[cfg(feature = "io")]
    pub(super) fn own(brokers: Option<String>) -> Which {
        Which { dir: None, brokers }
    }

    /// Opens it.
    pub(super) fn open(&self, global: &Global) -> anyhow::Result<Place> {
        match &self.dir {
            Some(_) if global.data.is_some() => {
                bail!("--dir reads an export and --data a folder: give one of them")
            }
            Some(dir) => Ok(Place {
                source: Box::new(export(dir)?),
                kind: Kind::Export,
            }),
            None => own(self, global),
        }
    }
}

impl Place {
    /// Whether more may come while it is read.
    pub(super) fn grows(&self) -> bool {
        match self.kind {
            Kind::Export => false,
            #[cfg(feature = "io")]
            Kind::Folder(_) => false,
            #[cfg(feature = "io")]
            Kind::Held(_) | Kind::Brokers(_) => true,
        }
    }
}

fn export(dir: &Path) -> anyhow::Result<crate::runtime::InMemory> {
    let export = Export::open(dir).with_context(|| {
        format!(
            "opening the export in {}; `homeostat demo --keep DIR` writes one",
            dir.display()
        )
    })?;
    Ok(export.source()?)
}

#[cfg(feature = "io")]
fn own(which: &Which, global: &Global) -> anyhow::Result<Place> {
    let config = with_brokers(global.config()?, which.brokers.as_deref())?;
    let settings = config.settings();
    if !settings.kafka.brokers.is_empty() {
        let client = client(settings)?;
        return Ok(Place {
            source: Box::new(KafkaSource::new(&client)?),
            kind: Kind::Brokers(Box::new(Brokers {
                client,
                intake: OnceCell::new(),
            })),
        });
    }
    let dir = &settings.log.dir;
    if !dir.exists() {
        bail!(
            "reading the data folder {}: it is not there; `{}` makes it, --data names another, \
             --dir reads an export",
            dir.display(),
            global.command("run")
        );
    }
    if let Some(holder) = Holder::find(dir)? {
        return Ok(Place {
            source: Box::new(holder.source()),
            kind: Kind::Held(holder),
        });
    }
    let folder = Embedded::read_only(dir)?;
    Ok(Place {
        source: folder.source(),
        kind: Kind::Folder(folder),
    })
}

/// The configuration with the brokers of a flag.
#[cfg(feature = "io")]
pub(super) fn with_brokers(config: Config, brokers: Option<&str>) -> anyhow::Result<Config> {
    match brokers {
        Some(brokers) => Ok(config.with_flag("--brokers", "kafka.brokers", brokers)?),
        None => Ok(config),
    }
}

/// A client of the configured brokers for a command, which waits for them less long than a
/// processor.
#[cfg(feature = "io")]
pub(super) fn client(settings: &Settings) -> anyhow::Result<Client> {
    let client = Client::new(&settings.kafka, &settings.log.prefix)?;
    Ok(client.patient_for(PATIENCE_S))
}

/// How long a command waits for brokers that do not answer, s: longer than a transaction may be
/// open by default.
#[cfg(feature = "io")]
const PATIENCE_S: u64 = 15;

#[cfg(not(feature = "io"))]
fn own(_which: &Which, _global: &Global) -> anyhow::Result<Place> {
    bail!(
        "reading a data folder: this build has no store (it was made with --no-default-features); \
         name an export with --dir DIR, as `homeostat demo --keep DIR` writes one"
    )
}
