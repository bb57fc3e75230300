"""docs/benchmarks.md, from the raw numbers of all sections. Pure; tests/bench/selftest tests it."""

from __future__ import annotations

from typing import Any

from rows import Row

TITLES = {
    "bake": "Baking: one installation, another k3s, nothing changed",
    "pack": "Packing the disk",
    "failure": "From a failure to its message",
    "memory": "Builder's memory",
    "coordinator": "Coordinator",
}


def number(value: float) -> str:
    """Three digits that count; near 1 three decimals, where goals are close."""
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.4g}" if 1 <= abs(value) < 10 else f"{value:.3g}"


def measured(value: float | None, unit: str | None) -> str:
    """A value with its unit."""
    return "" if value is None else f"{number(value)} {unit or ''}".strip()


def spread(row: Row, column: int) -> str:
    """The smallest and the largest of the rounds, where there were several."""
    values = [one[column] if isinstance(one, list) else one for one in row.get("all") or []]
    if len(values) < 2:
        return ""
    return f" ({number(min(values))}–{number(max(values))})"


def goal(row: Row) -> str:
    """What it is to be."""
    if row.get("goal") is None:
        return ""
    sign = {"<=": "≤", ">=": "≥"}[row["goal_op"]]
    return f"{sign} {measured(row['goal'], None if row.get('ratio') is not None else row.get('ours_unit'))}"


def verdict(row: Row) -> str:
    """Whether it is."""
    return {True: "met", False: "**not met**", None: ""}[row.get("met")]


def line(row: Row) -> str:
    """The table's line of a row."""
    ours = measured(row.get("ours"), row.get("ours_unit")) + spread(row, 0)
    peer = measured(row.get("peer"), row.get("ours_unit"))
    if peer:
        peer += spread(row, 1) if isinstance((row.get("all") or [None])[0], list) else ""
        peer += f", {row['peer_name']}" if row.get("peer_name") else ""
    ratio = number(row["ratio"]) if row.get("ratio") is not None else ""
    if ratio and isinstance((row.get("all") or [None])[0], list):
        ratio += spread(row, 2)
    return "| " + " | ".join([row["name"], ours, peer, ratio, goal(row), verdict(row)]) + " |\n"


def section(name: str, record: dict[str, Any]) -> str:
    """One section: where and when, the table, the notes."""
    rows: list[Row] = record["rows"]
    text = f"## {TITLES.get(name, name)}\n\n{record['date']}, {record['machine']}"
    if record.get("rounds"):
        text += f"; {record['rounds']} round{'' if record['rounds'] == 1 else 's'}"
    text += ".\n\n| measure | ours | peer | ratio | goal | |\n|---|---|---|---|---|---|\n"
    text += "".join(line(row) for row in rows)
    notes = [f"- *{row['name']}*: {row['note']}\n" for row in rows if row.get("note")]
    return text + ("\n" + "".join(notes) if notes else "")


def document(sections: dict[str, dict[str, Any]]) -> str:
    """The whole document."""
    known = [name for name in TITLES if name in sections]
    order = known + sorted(sections.keys() - TITLES.keys())
    goals = [row for name in order for row in sections[name]["rows"] if row.get("met") is not None]
    missed = [row["name"] for row in goals if not row["met"]]
    said = f"{len(goals) - len(missed)} of {len(goals)} goals are met" + (f"; not met: {', '.join(missed)}" if missed else "") + "."
    return (
        "# Benchmarks\n\n"
        "Written by `make bench` from `tests/bench/last.json`; do not edit it by hand. Numbers are medians of the rounds, "
        "in brackets the smallest and the largest. A ratio is ours divided by the peer's of the same round, the two "
        "measured one after the other on the same machine; the median of these ratios is shown, not the ratio of the "
        "medians. The install media and k3s are the stand-ins of `tests/`: a real installation takes longer, which "
        f"makes every ratio of stages smaller.\n\n{said}\n\n"
        "`make bench` measures all again; `tests/bench/run --only SECTION` one section ("
        + ", ".join(f"`{name}`" for name in order)
        + "), `--rounds N` more or fewer times. The machine should do nothing else meanwhile: the load it had is in each "
        "section's first line.\n\n" + "\n".join(section(name, sections[name]) for name in order)
    )
