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
pub mod say;
pub mod straight;
pub mod what_if;

use std::rc::Rc;

use crate::runtime::{Recover, Share, StageSpec};
use crate::stream::{LEDGER_VERSION, Topic};

/// The two stages.
pub fn stages() -> Vec<Rc<StageSpec>> {
    stages_keeping(analyze::NODES_KEPT)
}

/// The two stages, each keeping about so many nodes decoded in memory: all its partitions together.
pub fn stages_keeping(nodes: usize) -> Vec<Rc<StageSpec>> {
    let analyze = StageSpec {
        name: "analyze",
        inbox: Topic::Metrics,
        recover: Recover::Refold,
        urgent: &[Topic::PlanInbox],
        encoding: analyze::ENCODING,
        engine: analyze::ENGINE,
        open: Rc::new(move |share, base| {
            let kept = of_share(nodes, share);
            Box::new(analyze::AnalyzeFold::keeping(&base, kept).of(share))
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
        open: Rc::new(move |share, base| {
            let kept = of_share(nodes, share);
            Box::new(plan::PlanFold::keeping(share.partition, &base, kept))
        }),
    };
    vec![Rc::new(analyze), Rc::new(plan)]
}

/// What one of several partitions may keep, so that together they keep `nodes`.
fn of_share(nodes: usize, share: Share) -> usize {
    nodes.div_ceil(share.partitions.max(1) as usize)
}
