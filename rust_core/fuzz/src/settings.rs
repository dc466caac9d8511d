//! Settings from outside: whatever they are, nothing panics, and what is refused changes nothing.

use crate::{PROFILE, REPLICAS};
use serde_json::Value;
use std::sync::LazyLock;
use weighbridge_decide::{
    Admission, Core, HealthSetting, Incoming, Placing, ReplicaSetting, Settings, Status,
};
use weighbridge_weigh::{Body, Endpoint};

const BODY: &[u8] = br#"{"model": "m", "prompt": "hello", "max_tokens": 4}"#;
/// Kept records may be as many as an operator wants; here not so many that memory is the limit.
const MOST_KEPT: usize = 1 << 20;

static CORE: LazyLock<Core> = LazyLock::new(|| {
    let settings = format!(r#"{{"profiles": [{PROFILE}], "decision_log": 16}}"#);
    let core = Core::new(serde_json::from_str(&settings).expect("settings")).expect("a core");
    reset(&core);
    core
});

fn reset(core: &Core) {
    core.set_replicas(serde_json::from_str(REPLICAS).expect("replicas"))
        .expect("replicas");
    core.set_placing(Placing::default());
    core.set_admission(&Admission::default())
        .expect("the defaults");
    core.set_health(HealthSetting::default());
}

/// What is in force: the replicas as they were set, and how they are chosen.
fn in_force(core: &Core) -> (Value, Placing) {
    let status = serde_json::to_value(Status::of(core)).expect("a status");
    let of = |key: &str| status.get(key).cloned().unwrap_or_default();
    (
        Value::from(vec![of("pool"), of("replicas")]),
        Placing::clone(&core.placing()),
    )
}

/// Hands over one JSON text as one of the settings.
pub fn run(selector: u8, json: &[u8]) {
    if selector % 5 == 0 {
        return make(json);
    }
    let core = &*CORE;
    let before = in_force(core);
    let is_taken = match selector % 5 {
        1 => serde_json::from_slice::<Vec<ReplicaSetting>>(json)
            .is_ok_and(|replicas| core.set_replicas(replicas).is_ok()),
        2 => serde_json::from_slice(json).is_ok_and(|placing| {
            core.set_placing(placing);
            true
        }),
        3 => serde_json::from_slice::<Admission>(json)
            .is_ok_and(|admission| core.set_admission(&admission).is_ok()),
        _ => serde_json::from_slice(json).is_ok_and(|health| {
            core.set_health(health);
            true
        }),
    };
    if is_taken {
        use_it(core);
        reset(core);
    } else {
        assert!(
            before == in_force(core),
            "refused, and yet it changed something"
        );
    }
}

fn make(json: &[u8]) {
    let Ok(settings) = serde_json::from_slice::<Settings>(json) else {
        return;
    };
    let kept = [
        settings.decision_log,
        settings.usage_records,
        settings.spans,
    ];
    if kept.iter().any(|one| *one > MOST_KEPT) {
        return;
    }
    if let Ok(core) = Core::new(settings) {
        // The replicas' profile need not be there.
        let _ = core.set_replicas(serde_json::from_str(REPLICAS).expect("replicas"));
        use_it(&core);
    }
}

fn use_it(core: &Core) {
    let incoming = Incoming {
        request_id: "r",
        endpoint: Endpoint::Completions,
        session: Some("s"),
        tenant: Some("t"),
        priority: None,
        wanted: weighbridge_decide::Wanted::default(),
        subset: None,
        content_encoding: None,
        parent: None,
        body: Body::whole(BODY),
    };
    for turn in 1..=2 {
        let now_us = turn * 1_000_000;
        if let Ok(begun) = core.begin(&incoming, now_us) {
            drop(begun);
        }
        core.assign(now_us);
        core.judge(now_us).expect("replicas that were taken");
        core.advance(now_us);
    }
    serde_json::to_string(&Status::of(core)).expect("a status");
}
