//! Much of a mesh ill at once is one incident: the probe or the uplink is lying or gone. Nothing
//! but sampling is ordered until a person has looked.

use homeostat::model::*;
use homeostat::topology::straight::{Left, Straight};

mod records;
use records::*;

/// Meshes of nodes that sample every 10 s; every order is applied at once.
struct Fleet {
    straight: Straight,
    seq: i64,
    /// Mesh, node, loss; `None`: it says nothing.
    nodes: Vec<(&'static str, String, Option<f64>)>,
    events: Vec<Event>,
}

impl Fleet {
    fn new(meshes: &[(&'static str, usize)]) -> Self {
        let nodes = meshes
            .iter()
            .flat_map(|(mesh, size)| (0..*size).map(|n| (*mesh, format!("n{n:03}"), Some(0.0))));
        let mut fleet = Fleet {
            straight: Straight::new("storm", Time(START)),
            seq: 0,
            nodes: nodes.collect(),
            events: Vec::new(),
        };
        fleet.live(60);
        fleet
    }

    /// The loss of `count` nodes of a mesh from the `first` on.
    fn set(&mut self, mesh: &str, first: usize, count: usize, loss: Option<f64>) {
        let of_mesh = self.nodes.iter_mut().filter(|node| node.0 == mesh);
        of_mesh
            .skip(first)
            .take(count)
            .for_each(|node| node.2 = loss);
    }

    /// Samples every 10 s for so long.
    fn live(&mut self, s: i64) {
        for _ in 0..s / 10 {
            self.seq += 1;
            let now = self.straight.now();
            for (mesh, node, loss) in self.nodes.clone() {
                let Some(loss) = loss else { continue };
                let values = metrics(&[
                    (Metric::CpuPercent, 40.0),
                    (Metric::MemoryPercent, 50.0),
                    (Metric::MeshConnectivity, 5.0),
                    (Metric::LatencyMs, 60.0),
                    (Metric::PacketLoss, loss),
                ]);
                let sample = sample(mesh, &node, self.seq, now.0, 10.0, values);
                let left = send(&mut self.straight, &sample);
                self.note(left);
            }
            while let Some(left) = self.straight.tick_by(now + Span::seconds(10)) {
                self.note(left);
            }
        }
    }

    fn note(&mut self, left: Vec<Left>) {
        self.events.extend(Straight::events(&left));
        for order in directives(&left) {
            let left = report(
                &mut self.straight,
                &Outcome::of(&order, OutcomeResult::Applied),
            );
            self.note(left);
        }
    }

    fn release(&mut self, name: &str) {
        let hold = Hold {
            scope: HoldScope {
                mesh: mesh(name),
                node: None,
            },
            release: true,
            for_ms: None,
            by: "ops".into(),
            reason: String::new(),
        };
        let left = say(&mut self.straight, &mesh(name), &PlanRecord::Hold(hold));
        self.note(left);
    }

    fn count(&self, mesh: &str, which: impl Fn(&Body) -> bool) -> usize {
        let events = self.events.iter().filter(|e| e.mesh.as_str() == mesh);
        events.filter(|event| which(&event.body)).count()
    }

    fn storms(&self, mesh: &str) -> usize {
        self.count(mesh, |body| {
            matches!(
                body,
                Body::IncidentOpened {
                    kind: IncidentKind::Mass,
                    ..
                }
            )
        })
    }

    fn healed(&self, mesh: &str) -> usize {
        self.issued(mesh, |action| matches!(action, Action::Healing { .. }))
    }

    fn issued(&self, mesh: &str, which: impl Fn(Action) -> bool) -> usize {
        self.count(
            mesh,
            |body| matches!(body, Body::DirectiveIssued { directive } if which(directive.action)),
        )
    }

    fn withheld(&self, mesh: &str, why: Reason) -> usize {
        self.count(
            mesh,
            |body| matches!(body, Body::DirectiveWithheld { reason, .. } if *reason == why),
        )
    }
}

#[test]
fn over_thirty_percent_ill_at_once_is_one_incident_and_nothing_is_done_until_a_person_releases() {
    let mut fleet = Fleet::new(&[("alpha", 20), ("beta", 20)]);
    fleet.set("alpha", 0, 12, Some(15.0));
    fleet.set("beta", 0, 1, Some(15.0));
    fleet.live(1800);
    assert_eq!(fleet.storms("alpha"), 1);
    let done = fleet.issued("alpha", |a| a.kind() != Kind::MonitoringInterval);
    assert_eq!(done, 0, "nothing but intervals is ordered in a storm");
    assert_eq!(fleet.withheld("alpha", Reason::Storm), 12);
    assert!(
        fleet.issued("alpha", |a| a.kind() == Kind::MonitoringInterval) > 0,
        "intervals go on: the well are told to sample less"
    );
    let own = fleet.count("alpha", |body| {
        matches!(
            body,
            Body::IncidentOpened {
                kind: IncidentKind::Node,
                ..
            }
        )
    });
    assert_eq!(
        own, 6,
        "from the seventh on the mass incident stands for all"
    );
    assert_eq!(fleet.storms("beta"), 0, "another mesh feels nothing");
    assert!(fleet.healed("beta") > 0);

    fleet.release("alpha");
    fleet.live(60);
    assert_eq!(fleet.healed("alpha"), 2, "a tenth of twenty at once");
    assert_eq!(fleet.withheld("alpha", Reason::Budget), 10);
    let own = fleet.count("alpha", |body| {
        matches!(
            body,
            Body::IncidentOpened {
                kind: IncidentKind::Node,
                ..
            }
        )
    });
    assert_eq!(own, 12, "who is still ill has an incident of its own now");
    assert_eq!(
        fleet.storms("alpha"),
        1,
        "what a person released is no new storm"
    );
}

/// (nodes, ill, seconds between two of them, storms)
#[test]
fn a_storm_needs_six_and_more_than_thirty_percent_within_five_minutes() {
    let check = |nodes: usize, ill: usize, apart_s: i64, storms: usize| {
        let mut fleet = Fleet::new(&[("alpha", nodes)]);
        for n in 0..ill {
            fleet.set("alpha", n, 1, Some(15.0));
            fleet.live(apart_s);
        }
        fleet.live(60);
        let what = format!("{ill} of {nodes}, {apart_s} s apart");
        assert_eq!(fleet.storms("alpha"), storms, "{what}");
        assert_eq!(
            fleet.healed("alpha") > 0,
            storms == 0 || apart_s > 20,
            "{what}"
        );
    };
    check(10, 6, 0, 1);
    check(6, 6, 0, 1);
    check(5, 5, 0, 0);
    check(10, 5, 0, 0);
    check(20, 6, 0, 0);
    check(20, 7, 0, 1);
    check(19, 6, 0, 1);
    check(10, 6, 60, 1);
    check(10, 6, 70, 0);
    check(10, 10, 70, 0);
}

#[test]
fn an_uplink_that_is_lost_is_a_storm_of_silence() {
    let mut fleet = Fleet::new(&[("alpha", 20), ("beta", 3)]);
    fleet.set("alpha", 0, 20, None);
    fleet.live(600);
    let silent = fleet.count("alpha", |body| matches!(body, Body::NodeSilent { .. }));
    assert_eq!((silent, fleet.storms("alpha")), (20, 1));
    assert_eq!(fleet.issued("alpha", |_| true), 0, "nobody would hear");
    assert_eq!(
        fleet.count("beta", |body| matches!(body, Body::NodeSilent { .. })),
        0
    );
    fleet.set("alpha", 0, 20, Some(0.0));
    fleet.live(120);
    let back = fleet.count("alpha", |body| matches!(body, Body::NodeReturned { .. }));
    assert_eq!(back, 20);
    let acts = fleet.issued("alpha", |a| a.kind() != Kind::MonitoringInterval);
    assert_eq!(acts, 0, "who is back is not healed");
}

#[test]
fn two_meshes_have_a_storm_each() {
    let mut fleet = Fleet::new(&[("alpha", 8), ("beta", 8)]);
    fleet.set("alpha", 0, 8, Some(15.0));
    fleet.live(60);
    assert_eq!((fleet.storms("alpha"), fleet.storms("beta")), (1, 0));
    fleet.set("beta", 0, 8, Some(15.0));
    fleet.live(60);
    assert_eq!((fleet.storms("alpha"), fleet.storms("beta")), (1, 1));
    fleet.release("beta");
    fleet.live(60);
    assert_eq!((fleet.healed("alpha"), fleet.healed("beta")), (0, 1));
}
