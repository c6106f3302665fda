"""Tables as text, as JSON and as a plot."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from .measure import Table


def write(tables: list[Table], folder: Path, machine: str, rounds: int) -> None:
    """Write ``results.md``, ``results.json`` and ``results.png``; print the first."""
    folder.mkdir(exist_ok=True)
    today = datetime.date.today().isoformat()
    how = f"medians of at least {rounds} interleaved rounds; × is the ratio to the reference"
    head = f"# Measured\n\n{today}, {machine}; {how}.\n"
    text = head + "".join(markdown(table) for table in tables)
    (folder / "results.md").write_text(text)
    value = [vars(table) for table in tables]
    (folder / "results.json").write_text(
        json.dumps({"date": today, "machine": machine, "tables": value}, indent=1)
    )
    plot(tables, folder / "results.png")
    print(text)


def markdown(table: Table) -> str:
    subjects = table.subjects()
    lines = [
        f"\n## {table.title}\n",
        f"{table.unit}, {table.better} is better; reference: {table.reference}\n",
    ]
    lines += ["| | " + " | ".join(subjects) + " |", "|---|" + "---|" * len(subjects)]
    for row in table.values:
        lines.append(f"| {row} | " + " | ".join(cell(table, row, subject) for subject in subjects) + " |")
    if len(table.values) > 2:
        for name, summary in (("geometric mean", table.geometric_mean), ("worst", table.worst)):
            found = [summary(subject) for subject in subjects]
            cells = " | ".join("–" if ratio is None else f"× {ratio:.2f}" for ratio in found)
            lines.append(f"| **{name}** | {cells} |")
    lines += [f"\nNot measured: {note}" for note in table.notes]
    return "\n".join(lines) + "\n"


def cell(table: Table, row: str, subject: str) -> str:
    value, ratio = table.median(row, subject), table.ratio(row, subject)
    if value is None:
        return "–"
    shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return shown if ratio is None or subject == table.reference else f"{shown} (× {ratio:.2f})"


def plot(tables: list[Table], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(tables), 1, figsize=(9, 2.6 * len(tables)), constrained_layout=True)
    for axis, table in zip(axes, tables, strict=True):
        subjects, rows = table.subjects(), list(table.values)
        height = 0.8 / max(1, len(subjects))
        for index, subject in enumerate(subjects):
            values = [table.median(row, subject) or 0 for row in rows]
            axis.barh([at + index * height for at in range(len(rows))], values, height, label=subject)
        axis.set_yticks([at + 0.4 - height / 2 for at in range(len(rows))], rows, fontsize=7)
        axis.set_xscale("log")
        axis.set_title(f"{table.title} ({table.unit}, {table.better} is better)", fontsize=8)
        axis.legend(fontsize=6)
        axis.invert_yaxis()
    figure.savefig(path, dpi=110)
