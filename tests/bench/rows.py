"""What was measured, as rows: medians, ratios, goals. Pure; tests/bench/selftest tests it.

A row is what `bench-coordinator` prints too, one JSON object:

    section, name               what was measured
    ours, ours_unit             our median
    peer_name, peer             whose median it is compared with, in the same unit
    ratio                       the median of the ratios of each round
    goal, goal_op, met          of the ratio where there is one, else of ours
    note                        what is to be known about it
    all                         every round's [ours, peer, ratio] (ours alone)
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
AT_MOST, AT_LEAST = "<=", ">="


def holds(value: float, operator: str, goal: float) -> bool:
    """Whether a goal is met."""
    if operator not in (AT_MOST, AT_LEAST):
        raise ValueError(f"{operator!r} is no comparison a goal can have")
    return value <= goal if operator == AT_MOST else value >= goal


def compared(section: str, name: str, unit: str, ours: Sequence[float], peer_name: str, peer: Sequence[float], goal: float, note: str = "") -> Row:
    """A row about a ratio: each round's ours by the same round's peer."""
    if len(ours) != len(peer):
        raise ValueError(f"{name}: {len(ours)} of ours, {len(peer)} of the peer's")
    ratios = [mine / theirs for mine, theirs in zip(ours, peer)]
    ratio = statistics.median(ratios)
    return {
        "section": section,
        "name": name,
        "ours": statistics.median(ours),
        "ours_unit": unit,
        "peer_name": peer_name,
        "peer": statistics.median(peer),
        "ratio": ratio,
        "goal": goal,
        "goal_op": AT_MOST,
        "met": holds(ratio, AT_MOST, goal),
        "note": note,
        "all": [list(one) for one in zip(ours, peer, ratios)],
    }


def alone(section: str, name: str, unit: str, ours: Sequence[float], goal: float | None, note: str = "") -> Row:
    """A row about a number of its own; without a goal it is there to be known."""
    median = statistics.median(ours)
    return {
        "section": section,
        "name": name,
        "ours": median,
        "ours_unit": unit,
        "peer_name": None,
        "peer": None,
        "ratio": None,
        "goal": goal,
        "goal_op": None if goal is None else AT_MOST,
        "met": None if goal is None else holds(median, AT_MOST, goal),
        "note": note,
        "all": list(ours),
    }
