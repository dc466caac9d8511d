//! The order under pressure: promises hold against any flood, weights divide the rest, priorities
//! come first, and no class starves.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;
use weighbridge_admit::{
    Book, Capacity, Event, Gate, Grant, Offer, Outcome, Priority, Settings, Terms, WaitId,
};
use weighbridge_place::{Amount, MicroMu};

const LARGEST: f64 = 400.0;

fn amount(mu: f64) -> Amount {
    Amount {
        decode: MicroMu::from_mu(mu),
        sequences: 1,
        ..Amount::default()
    }
}

fn gate(min_share: f64, tenants: Vec<(String, Terms)>) -> Gate {
    Gate::new(
        Settings {
            window_ms: 1_000.0,
            queue_requests: 10_000,
            queue_window_ms: 1e9,
            max_wait_ms: 3_600_000,
            min_share,
            ..Settings::default()
        },
        Book::new(tenants, Terms::default()).unwrap(),
        Capacity {
            mu_per_ms: 1.0,
            kv_tokens: 1_000_000,
            ..Capacity::default()
        },
    )
}

fn weighted(weight: f64) -> Terms {
    Terms {
        weight,
        ..Terms::default()
    }
}

/// Flows that always have something waiting, before replicas that finish the oldest first.
struct Flood {
    gate: Gate,
    flows: Vec<(String, Option<Priority>)>,
    costs: Vec<f64>,
    waiting: HashMap<WaitId, usize>,
    held: Vec<usize>,
    running: VecDeque<Grant>,
    next_cost: usize,
    now_us: u64,
    /// MU of the flows' requests in the order in which they ran.
    ran: Vec<(usize, f64)>,
}

impl Flood {
    fn new(gate: Gate, flows: Vec<(String, Option<Priority>)>, costs: Vec<f64>) -> Self {
        let mut flood = Self {
            gate,
            held: vec![0; flows.len()],
            flows,
            costs,
            waiting: HashMap::new(),
            running: VecDeque::new(),
            next_cost: 0,
            now_us: 0,
            ran: Vec::new(),
        };
        // Fills the replicas, and then every flow's queue; what ran before that is no contest.
        while flood.waiting.is_empty() {
            flood.offer(0);
        }
        flood.top_up();
        flood.ran.clear();
        flood
    }

    fn offer(&mut self, flow: usize) {
        let mu = self.costs[self.next_cost % self.costs.len()];
        self.next_cost += 1;
        let (tenant, priority) = &self.flows[flow];
        let offer = Offer {
            tenant,
            priority: *priority,
            cost: amount(mu),
            deadline_us: u64::MAX,
            fit: None,
        };
        let mut events = Vec::new();
        match self.gate.offer(&offer, self.now_us, &mut events) {
            Outcome::Run(grant) => {
                self.ran.push((flow, grant.charged().as_mu()));
                self.running.push_back(grant);
            }
            Outcome::Wait(id) => {
                self.waiting.insert(id, flow);
                self.held[flow] += 1;
            }
            Outcome::Shed(shed) => panic!("{shed:?}"),
        }
        self.hear(events);
    }

    fn top_up(&mut self) {
        for flow in 0..self.flows.len() {
            while self.held[flow] < 40 {
                self.offer(flow);
            }
        }
    }

    fn hear(&mut self, events: Vec<Event>) {
        for event in events {
            let Event::Run(id, grant) = event else {
                panic!("{event:?}");
            };
            let flow = self.waiting.remove(&id).unwrap();
            self.held[flow] -= 1;
            self.ran.push((flow, grant.charged().as_mu()));
            self.running.push_back(grant);
        }
    }

    fn finish_one(&mut self) {
        self.now_us += 1_000;
        let grant = self.running.pop_front().unwrap();
        let actual = grant.charged();
        let mut events = Vec::new();
        self.gate.release(grant, actual, self.now_us, &mut events);
        self.hear(events);
        self.top_up();
    }

    fn share(&self, flow: usize) -> f64 {
        self.ran
            .iter()
            .filter(|(ran, _)| *ran == flow)
            .map(|(_, mu)| mu)
            .sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Over any stretch of time in which two flows have something waiting, what they got for their
    /// weights differs by no more than one request of each.
    #[test]
    fn weights_divide_what_is_served(
        weights in prop::collection::vec(0.25..8.0f64, 2..5),
        costs in prop::collection::vec(20.0..LARGEST, 1..40),
    ) {
        let tenants: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(at, weight)| (format!("t{at}"), weighted(*weight)))
            .collect();
        let flows = tenants.iter().map(|(name, _)| (name.clone(), None)).collect();
        let mut flood = Flood::new(gate(0.05, tenants), flows, costs);
        for _ in 0..300 {
            flood.finish_one();
        }
        for one in 0..weights.len() {
            for other in 0..one {
                let bound = LARGEST / weights[one] + LARGEST / weights[other];
                let (mut lead, mut least, mut most) = (0.0f64, 0.0f64, 0.0f64);
                for (flow, mu) in &flood.ran {
                    if *flow == one {
                        lead += mu / weights[one];
                    } else if *flow == other {
                        lead -= mu / weights[other];
                    }
                    least = least.min(lead);
                    most = most.max(lead);
                }
                prop_assert!(most - least <= bound + 1e-3, "{} > {bound}", most - least);
            }
        }
    }

    /// Against a flood of everything else, each waiting class gets its minimum share.
    #[test]
    fn no_class_starves(
        costs in prop::collection::vec(1.0..LARGEST, 1..40),
        share in 0.01..0.2f64,
    ) {
        let flows: Vec<_> = Priority::ALL
            .into_iter()
            .map(|priority| ("t".to_owned(), Some(priority)))
            .collect();
        let critical = Terms { priority: Priority::Critical, ..Terms::default() };
        let mut flood = Flood::new(gate(share, vec![("t".to_owned(), critical)]), flows, costs);
        for _ in 0..1_000 {
            flood.finish_one();
        }
        let first = flood.share(0);
        for class in 1..4 {
            let got = flood.share(class);
            prop_assert!(got >= share * first - LARGEST, "class {class}: {got} of {first}");
        }
    }

    /// Without a minimum share, a class is served only while none before it waits.
    #[test]
    fn priorities_are_strict_apart_from_the_share(
        costs in prop::collection::vec(1.0..LARGEST, 1..40),
        rounds in 1..100usize,
    ) {
        let flows: Vec<_> = ["a", "b"]
            .into_iter()
            .map(|name| (name.to_owned(), None))
            .chain([("c".to_owned(), Some(Priority::Batch))])
            .collect();
        let mut flood = Flood::new(gate(0.0, Vec::new()), flows, costs);
        for _ in 0..rounds {
            flood.finish_one();
        }
        prop_assert_eq!(flood.share(2), 0.0);
    }

    /// A tenant that keeps to its promise runs at once, whatever others do.
    #[test]
    fn a_promise_holds_against_any_flood(
        arrivals in prop::collection::vec((0u64..400, 1.0..LARGEST, 0..4usize), 1..150),
        flood in prop::collection::vec((0..4usize, 1.0..10.0 * LARGEST), 1..50),
        lifetime in 1..6usize,
    ) {
        const PER_MS: f64 = 0.5;
        const BURST: f64 = 300.0;
        let terms = Terms {
            guaranteed_mu_per_min: PER_MS * 60_000.0,
            burst_mu: Some(BURST),
            priority: Priority::Batch,
            ..Terms::default()
        };
        let mut gate = gate(0.05, vec![("gold".to_owned(), terms)]);
        let mut events = Vec::new();
        let mut others: VecDeque<Grant> = VecDeque::new();
        let mut own: VecDeque<Grant> = VecDeque::new();
        let (mut level, mut now_us) = (BURST, 0u64);
        let mut asked = 0;
        for (gap_ms, mu, kind) in arrivals {
            now_us += gap_ms * 1_000;
            level = (level + PER_MS * gap_ms as f64).min(BURST);
            // Others flood in every class, and end some of what they have.
            for (class, mu) in &flood {
                let offer = Offer {
                    tenant: ["x", "y", "z", ""][kind],
                    priority: Some(Priority::ALL[*class]),
                    cost: amount(*mu),
                    deadline_us: u64::MAX,
                    fit: None,
                };
                if let Outcome::Run(grant) = gate.offer(&offer, now_us, &mut events) {
                    others.push_back(grant);
                }
            }
            if let Some(grant) = others.pop_front() {
                let charged = grant.charged();
                gate.release(grant, charged, now_us, &mut events);
            }
            for event in events.drain(..) {
                if let Event::Run(_, grant) = event {
                    others.push_back(grant);
                }
            }
            // Promised work must not fill the pool by itself: then nothing could hold.
            let held: f64 = own.iter().map(|grant| grant.charged().as_mu()).sum();
            if held < 1_000.0 && level > 1e-3 {
                let offer = Offer {
                    tenant: "gold",
                    priority: None,
                    cost: amount(mu),
                    deadline_us: now_us,
                    fit: None,
                };
                let outcome = gate.offer(&offer, now_us, &mut events);
                let Outcome::Run(grant) = outcome else {
                    return Err(TestCaseError::fail(format!("level {level}: {outcome:?}")));
                };
                asked += 1;
                level -= mu;
                own.push_back(grant);
            }
            if own.len() > lifetime {
                let grant = own.pop_front().unwrap();
                let charged = grant.charged();
                gate.release(grant, charged, now_us, &mut events);
            }
        }
        prop_assert!(asked > 0);
    }

    /// Promises that together exceed the capacity divide it as they divide what was promised.
    #[test]
    fn promises_too_large_are_cut_alike(
        costs in prop::collection::vec(50.0..100.0f64, 1..20),
        ratio in 1.0..4.0f64,
    ) {
        let promise = |per_ms: f64| Terms {
            guaranteed_mu_per_min: per_ms * 60_000.0,
            burst_mu: Some(100.0),
            ..Terms::default()
        };
        // Served: about 75 MU a ms; promised: 4 times as much or more.
        let tenants = vec![
            ("a".to_owned(), promise(300.0)),
            ("b".to_owned(), promise(300.0 * ratio)),
        ];
        let flows = vec![("a".to_owned(), None), ("b".to_owned(), None)];
        let mut flood = Flood::new(gate(0.05, tenants), flows, costs);
        for _ in 0..200 {
            flood.finish_one();
        }
        flood.ran.clear();
        for _ in 0..2_000 {
            flood.finish_one();
        }
        let (a, b) = (flood.share(0), flood.share(1));
        prop_assert!((b / a / ratio - 1.0).abs() < 0.1, "{a} {b} {ratio}");
    }
}

/// A thousand invented names weigh no more than one tenant.
#[test]
fn inventing_names_wins_nothing() {
    let tenants = vec![("honest".to_owned(), weighted(1.0))];
    let names = (0..20).map(|at| (format!("sock-{at}"), None));
    let flows: Vec<_> = std::iter::once(("honest".to_owned(), None))
        .chain(names)
        .collect();
    let mut flood = Flood::new(gate(0.05, tenants), flows, vec![50.0, 80.0, 20.0]);
    for _ in 0..3_000 {
        flood.finish_one();
    }
    let honest = flood.share(0);
    let socks: f64 = (1..=20).map(|at| flood.share(at)).sum();
    assert!((0.8..1.25).contains(&(honest / socks)), "{honest} {socks}");
}

/// What a request took beyond its estimate is paid by its tenant's next ones.
#[test]
fn a_debt_is_carried_over() {
    let tenants = vec![
        ("low".to_owned(), weighted(1.0)),
        ("right".to_owned(), weighted(1.0)),
    ];
    let mut gate = gate(0.05, tenants);
    let mut events = Vec::new();
    let offer = |tenant| Offer {
        tenant,
        priority: None,
        cost: amount(500.0),
        deadline_us: u64::MAX,
        fit: None,
    };
    let mut enter = |gate: &mut Gate, tenant| gate.offer(&offer(tenant), 0, &mut events);
    let Outcome::Run(cheap) = enter(&mut gate, "low") else {
        panic!("there is room");
    };
    let Outcome::Run(_right) = enter(&mut gate, "right") else {
        panic!("there is room");
    };
    let mut order = HashMap::new();
    for _ in 0..3 {
        for tenant in ["low", "right"] {
            let Outcome::Wait(id) = enter(&mut gate, tenant) else {
                panic!("it is full");
            };
            order.insert(id, tenant);
        }
    }
    // It had said 500 and took 1,500: two requests of the other come first.
    let mut grant = cheap;
    let mut ran = Vec::new();
    let mut actual = 1_500.0;
    for _ in 0..3 {
        gate.release(grant, MicroMu::from_mu(actual), 0, &mut events);
        let Some(Event::Run(id, next)) = events.pop() else {
            panic!("one takes its place");
        };
        ran.push(order[&id]);
        grant = next;
        actual = 500.0;
    }
    assert_eq!(ran, ["right", "right", "low"]);
}
