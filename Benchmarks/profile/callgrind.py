"""Reads what callgrind writes: which function costs what by itself, and who calls whom how often."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

NAME = re.compile(r"^(?:fn|cfn|fl|fi|fe|cfi|cfl|ob|cob)=\((\d+)\)(?: (.*))?$")


class Profile:
    """One dump; costs are instructions."""

    def __init__(self, path: Path) -> None:
        self.own: Counter[str] = Counter()
        """By function, without what it calls."""
        self.calls: Counter[tuple[str, str]] = Counter()
        """How often the first called the second."""
        self.inclusive: Counter[tuple[str, str]] = Counter()
        """What these calls cost, with all that they led to."""
        names: dict[str, str] = {}
        function = callee = ""
        # Of the call that the next line has the cost of; 0 is one that has not come back yet.
        count: int | None = None
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith(("fn=", "cfn=")):
                number, name = NAME.match(line).groups()  # type: ignore[union-attr]
                if name is not None:
                    # Recursion makes further ones: f, f'2, …
                    names[number] = re.sub(r"'\d+$", "", name)
                if line.startswith("fn="):
                    function = names[number]
                else:
                    callee = names[number]
            elif line.startswith("calls="):
                count = int(line[6:].split()[0])
            elif re.match(r"[0-9+*-]", line):
                # A cost of nothing is left out.
                cost = int((line.split() + ["0"])[1])
                if count is not None:
                    self.calls[function, callee] += count
                    self.inclusive[function, callee] += cost
                    count = None
                else:
                    self.own[function] += cost
        self.total = sum(self.own.values())
        self.demangle()

    def demangle(self) -> None:
        everything = sorted({*self.own, *(name for pair in self.calls for name in pair)})
        done = subprocess.run(["swift", "demangle", "--simplified"], input="\n".join(everything), text=True,
                              capture_output=True, check=True).stdout.split("\n")
        readable = {name: short(text) for name, text in zip(everything, done)}
        self.own = recount(self.own, lambda name: readable[name])
        self.calls = recount(self.calls, lambda pair: (readable[pair[0]], readable[pair[1]]))
        self.inclusive = recount(self.inclusive, lambda pair: (readable[pair[0]], readable[pair[1]]))

    def called(self, names: set[str]) -> int:
        """How often any of these was called from elsewhere."""
        return sum(count for (caller, callee), count in self.calls.items() if callee in names and caller not in names)

    def callers(self, names: set[str], through: set[str] = frozenset()) -> Counter[str]:  # type: ignore[assignment]
        """Who called any of `names` how often; a caller in `through` stands for its own callers, in the share of their calls."""
        found: Counter[str] = Counter()
        for (caller, callee), count in self.calls.items():
            if callee in names and caller not in names:
                found[caller] += count
        for _ in range(8):
            inner = [name for name in found if name in through]
            if not inner:
                break
            for name in inner:
                share = found.pop(name)
                outer = {caller: count for (caller, callee), count in self.calls.items()
                         if callee == name and caller != name and caller not in names}
                total = sum(outer.values())
                if total == 0:
                    found[f"{name} "] += share
                    continue
                for caller, count in outer.items():
                    found[caller] += share * count / total  # type: ignore[assignment]
        return found


def recount(counts: Counter, name: object) -> Counter:
    result: Counter = Counter()
    for key, value in counts.items():
        result[name(key)] += value  # type: ignore[operator]
    return result


def short(text: str) -> str:
    """A demangled name without what makes it long: which specialisation, and types of what is handed over."""
    text = re.sub(r"^(?:(?:generic|function signature) (?:not re-abstracted )?specialization (?:<.*?> )?of )+", "", text)
    text = re.sub(r"^merged ", "", text)
    return text.strip()
