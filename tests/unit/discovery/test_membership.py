"""Replicas come and go in an order that loses nothing, whatever happens when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.config.fleet import Replica
from weighbridge.discovery.membership import FIRST_SHARE, LINGER_SECONDS, Membership, Pace
from weighbridge.discovery.source import Found

ENDPOINTS = [f"10.0.0.{n}:8000" for n in range(1, 5)]
PATIENCE = 5.0
TOLD = Pace(drain_seconds=10, warm_up_seconds=20, patience_seconds=PATIENCE)
UNTOLD = Pace(drain_seconds=10, warm_up_seconds=20, patience_seconds=None)


def found(*endpoints: str) -> list[Found]:
    return [Found(Replica(endpoint=endpoint, profile="p")) for endpoint in endpoints]


def steered(members: Membership, now: float) -> dict[str, str]:
    return {replica.endpoint: state for replica, state in members.steered(now)}


def told(members: Membership) -> set[str]:
    return {replica.endpoint for replica in members.told()}


SUBSETS = st.sets(st.sampled_from(ENDPOINTS))
EVENTS = st.lists(
    st.tuples(
        st.floats(0.05, 3.0),
        st.one_of(st.none(), SUBSETS),
        SUBSETS,
        st.booleans(),
    ),
    max_size=40,
)


@given(EVENTS)
def test_envoy_knows_whoever_is_steered_to(
    events: list[tuple[float, set[str] | None, set[str], bool]],
) -> None:
    members = Membership(TOLD)
    now, taken, since_told = 0.0, frozenset[str](), dict[str, float]()
    last_steered: dict[str, float] = {}
    wanted: set[str] = set()
    for wait, listed, busy, takes in events:
        now += wait
        if listed is not None:
            wanted = listed
            members.want(found(*sorted(listed)), now, at_start=False)
        since_told = {one: since_told.get(one, now) for one in told(members)}
        knew, chose = told(members), set(steered(members, now))
        members.step(now, dict.fromkeys(busy, 1), taken)
        assert set(steered(members, now)) <= told(members)
        for fresh in set(steered(members, now)) - chose:
            assert fresh in taken or now - since_told[fresh] >= PATIENCE
        for gone in knew - told(members):
            # Nothing that was decided while it was chosen is on its way any more.
            assert now - last_steered.get(gone, -1e9) >= LINGER_SECONDS
        last_steered |= dict.fromkeys(steered(members, now), now)
        if takes:
            taken = frozenset(told(members))
    # In the end it is as listed, and nobody else is left.
    for _ in range(60):
        now += 1.0
        members.step(now, {}, taken)
        taken = frozenset(told(members))
    assert set(steered(members, now)) == told(members) == wanted
    assert set(steered(members, now).values()) <= {"healthy"}


def test_a_new_replica_waits_for_envoys_word() -> None:
    members = Membership(TOLD)
    members.want(found(ENDPOINTS[0]), 0, at_start=True)
    members.want(found(*ENDPOINTS[:2]), 100, at_start=False)
    assert told(members) == set(ENDPOINTS[:2])
    members.step(101, {}, frozenset(ENDPOINTS[:1]))
    assert set(steered(members, 101)) == {ENDPOINTS[0]}
    members.step(102, {}, frozenset(ENDPOINTS[:2]))
    assert set(steered(members, 102)) == set(ENDPOINTS[:2])


def test_an_envoy_that_says_nothing_is_not_waited_for_for_ever() -> None:
    members = Membership(TOLD)
    members.want(found(ENDPOINTS[0]), 0, at_start=False)
    members.step(PATIENCE - 0.1, {}, frozenset())
    assert steered(members, PATIENCE) == {}
    members.step(PATIENCE, {}, frozenset())
    assert set(steered(members, PATIENCE)) == {ENDPOINTS[0]}


def test_a_replica_that_leaves_finishes_what_it_has() -> None:
    members = Membership(TOLD)
    members.want(found(*ENDPOINTS[:2]), 0, at_start=True)
    members.want(found(ENDPOINTS[0]), 1, at_start=False)
    members.step(5, {ENDPOINTS[1]: 1}, frozenset(ENDPOINTS[:2]))
    assert steered(members, 5)[ENDPOINTS[1]] == "draining"
    members.step(6, {}, frozenset(ENDPOINTS[:2]))
    assert ENDPOINTS[1] not in steered(members, 6)
    assert ENDPOINTS[1] in told(members), "what was decided before is on its way"
    members.step(6 + LINGER_SECONDS, {}, frozenset(ENDPOINTS[:2]))
    assert told(members) == {ENDPOINTS[0]}


@pytest.mark.parametrize("pace", [TOLD, UNTOLD])
def test_one_that_never_finishes_is_given_up(pace: Pace) -> None:
    members = Membership(pace)
    members.want(found(*ENDPOINTS[:2]), 0, at_start=True)
    members.want(found(ENDPOINTS[0]), 1, at_start=False)
    busy = {ENDPOINTS[1]: 7}
    members.step(10.9, busy, frozenset())
    assert ENDPOINTS[1] in steered(members, 10.9)
    members.step(11, busy, frozenset())
    assert ENDPOINTS[1] not in steered(members, 11)


def test_one_that_comes_back_while_it_leaves_serves_at_once() -> None:
    members = Membership(TOLD)
    members.want(found(*ENDPOINTS[:2]), 0, at_start=True)
    members.want(found(ENDPOINTS[0]), 1, at_start=False)
    members.want(found(*ENDPOINTS[:2]), 2, at_start=False)
    assert steered(members, 2) == dict.fromkeys(ENDPOINTS[:2], "healthy")


def test_a_new_replica_grows_into_its_share() -> None:
    members = Membership(UNTOLD)
    members.want(found(ENDPOINTS[0]), 0, at_start=True)
    members.want(found(*ENDPOINTS[:2]), 10, at_start=False)
    members.step(10, {}, frozenset())

    def shares(now: float) -> list[float]:
        return [replica.share for replica, _ in members.steered(now)]

    assert shares(10) == pytest.approx([1, FIRST_SHARE])
    assert shares(20) == pytest.approx([1, FIRST_SHARE + (1 - FIRST_SHARE) / 2])
    assert members.is_moving
    members.step(30, {}, frozenset())
    assert shares(30) == [1, 1]
    assert not members.is_moving


def test_what_a_source_says_of_a_replica_is_passed_on() -> None:
    members = Membership(UNTOLD)
    replica = Replica(endpoint=ENDPOINTS[0], profile="p")
    members.want([Found(replica, "ejected")], 0, at_start=True)
    assert steered(members, 0) == {ENDPOINTS[0]: "ejected"}
    members.want([Found(replica)], 1, at_start=False)
    assert steered(members, 1) == {ENDPOINTS[0]: "healthy"}


def test_a_list_that_another_thread_walks_does_not_change_under_it() -> None:
    members = Membership(Pace(drain_seconds=0.0, warm_up_seconds=0.0, patience_seconds=None))
    members.want(found("10.0.0.1:80", "10.0.0.2:80"), 0.0, at_start=True)
    walked = []
    for now, endpoint in enumerate(members.members):
        walked.append(endpoint)
        members.want(found(*(f"10.0.1.{n}:80" for n in range(50 + now))), now, at_start=False)
        members.step(now + 10.0, {}, frozenset())
    assert walked == ["10.0.0.1:80", "10.0.0.2:80"]
    assert not {"10.0.0.1:80", "10.0.0.2:80"} & set(members.members)
