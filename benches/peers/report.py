"""One line for each row, as text on the way and as a table of Markdown at the end."""
import dataclasses, statistics


@dataclasses.dataclass
class Line:
    """What was measured, round by round, and what it must reach."""
    what: str
    target: str
    ours: list = dataclasses.field(default_factory=list)
    theirs: list = dataclasses.field(default_factory=list)
    peer: str = ""
    unit: str = "µs"
    met: bool | None = None     # None: nothing was asked for, or it was not measured
    skipped: str = ""           # why not

    @property
    def ratios(self):
        return [a / b for a, b in zip(self.ours, self.theirs) if b > 0]

    def cells(self):
        if self.skipped:
            return [self.what, f"skipped: {self.skipped}", "", "", self.target, "–"]
        peer = f"{self.peer} {spread(self.theirs, self.unit)}" if self.theirs else ""
        ratio = spread(self.ratios, "", 2) if self.ratios else ""
        verdict = {True: "met", False: "**missed**", None: "–"}[self.met]
        return [self.what, spread(self.ours, self.unit), peer, ratio, self.target, verdict]


def spread(values, unit, digits=1):
    """The median, and the least and most where there are several."""
    text = f"{statistics.median(values):.{digits}f}" + (f" {unit}" if unit else "")
    return text if len(values) < 2 else f"{text} ({min(values):.{digits}f}–{max(values):.{digits}f})"


HEADS = ["workload", "Sidegate", "peer", "ratio", "must reach", ""]


def markdown(lines, preface, notes):
    rows = [HEADS, ["---"] * len(HEADS), *(line.cells() for line in lines)]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return "\n\n".join([preface, table, *notes]) + "\n"
