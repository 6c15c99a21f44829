//! The whole loop on one page: which stage reads and writes what.
//!
//! ```text
//!   agents --> metrics --> [ analyze: Monitor, Analyze ] --> plan-inbox --> [ plan: Plan,
//!   Knowledge ] --> directives --> agents ^                |                            ^
//!   |            |
//!                 |                +--> cycles                  people           +--> events  |
//!                 +------------------------------ Adopted ------------------------------------+
//! ```
//!
//! What cannot be folded goes to `dead-letters`, from either stage.

pub mod analyze;
pub mod ingest;
pub mod now;
pub mod places;
pub mod plan;
pub mod replay;
pub mod straight;
pub mod what_if;

use std::rc::Rc;

use crate::runtime::{Recover, StageSpec};
use crate::stream::{LEDGER_VERSION, Topic};

/// The two stages.
pub fn stages() -> Vec<Rc<StageSpec>> {
    stages_keeping(analyze::NODES_KEPT)
}

/// The two stages, Analyze keeping about so many nodes decoded in memory.
pub fn stages_keeping(nodes: usize) -> Vec<Rc<StageSpec>> {
    let analyze = StageSpec {
        name: "analyze",
        inbox: Topic::Metrics,
        recover: Recover::Refold,
        urgent: &[Topic::PlanInbox],
        encoding: analyze::ENCODING,
        engine: analyze::ENGINE,
        open: Rc::new(move |share, base| {
            Box::new(analyze::AnalyzeFold::keeping(&base, nodes).of(share))
        }),
    };
    let plan = StageSpec {
        name: "plan",
        inbox: Topic::PlanInbox,
        recover: Recover::Evolve {
            topic: Topic::Events,
        },
        urgent: &[Topic::Directives],
        encoding: LEDGER_VERSION.into(),
        engine: crate::plan::ENGINE,
        open: Rc::new(|share, base| Box::new(plan::PlanFold::new(share.partition, &base))),
    };
    vec![Rc::new(analyze), Rc::new(plan)]
}
