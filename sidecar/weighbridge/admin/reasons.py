"""Why a decision fell as it did, in words."""

from weighbridge.shapes import Decision

REASONS = {
    "home": "its session's home",
    "replica_of_slice": "the better of its slice's replicas now",
    "cached": "not its home, but holds so much of the prompt that it is better",
    "spill_load": "its home carries too much now",
    "spill_health": "its home is not well",
    "subset": "its home is not among those that the gateway allows",
    "fallback": "all carry too much, the least loaded",
    "keeper": "it alone keeps the response gone on from",
    "only_one": "the only one",
}


def why(decision: Decision) -> str:
    """One sentence: the rule that chose, and what the replica held of the prompt."""
    reason = decision["reason"]
    rule = REASONS.get(reason, reason.replace("_", " "))
    prompt, cached = decision["prompt_tokens"], decision["cached_tokens"]
    if not prompt:
        return rule
    return f"{rule}; holds {cached:,} of {prompt:,} prompt tokens"
