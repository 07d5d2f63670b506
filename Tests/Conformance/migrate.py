"""A Postfix that relays for others, and Postern with what `gateway import --postfix` makes of it: mail goes the same ways.

    client ──▶ Postfix ──▶ the primary that Postfix chooses   ┐
          └──▶ Postern ──▶ the primary that Postern chooses   ┴─ must be one

    migrate.py [--keep]

Three forms of main.cf; tables with comments, continued lines, upper case, `$names`, entries of a domain above and for
all; in each, every domain of `relay_domains` gets a message through both. Needs root, for Postfix.
"""

from __future__ import annotations

import argparse
import smtplib
import sys
from dataclasses import dataclass
from pathlib import Path

from harness import Skip, exit_cleanly_on_signals, keep_folders, scratch_folder, wait_until
from peers import Postfix, Route
from posternctl import Postern
from sink import Sink

ARRIVAL_SECONDS = 60


@dataclass
class Case:
    name: str
    main: dict[str, str]
    """Settings of main.cf; `{etc}` is its folder, `{a}` to `{d}` are ports of primaries."""
    files: dict[str, str]
    domains: set[str]


CASES = [
    Case("own, above, and for all",
         {"relay_domains": "texthash:$config_directory/relay, {etc}/list $more", "more": "last.test",
          "transport_maps": "proxy:texthash:${{config_directory}}/transport"},
         {"relay": "# relayed\nOne.Test  OK\n\ndeep.above.test\n   x\nunrouted.test y\n",
          "list": "two.test, three.test\n",
          "transport": "one.test smtp:[127.0.0.1]:{a}\n.above.test relay:[127.0.0.1]:{b}\n*  :[127.0.0.1]:{c}\n"
                       "two.test\n  smtp:[127.0.0.1]:{d}\nuser@three.test smtp:[127.0.0.1]:{d}\n"},
         {"one.test", "deep.above.test", "unrouted.test", "two.test", "three.test", "last.test"}),
    Case("relayhost",
         {"relay_domains": "a.test b.test", "relayhost": "[127.0.0.1]:{c}",
          "transport_maps": "texthash:{etc}/transport"},
         {"transport": "b.test smtp:[127.0.0.1]:{b}\na.test :\n"},
         {"a.test", "b.test"}),
    Case("relay_transport",
         {"relay_domains": "a.test, b.test", "relay_transport": "smtp:[127.0.0.1]:{d}", "relayhost": "[127.0.0.1]:{c}",
          "transport_maps": "texthash:{etc}/transport"},
         {"transport": "b.test smtp:[127.0.0.1]:{b}\n"},
         {"a.test", "b.test"}),
]


class Relaying(Postfix):
    """A Postfix with a main.cf of ours in place of the harness's routes."""

    def __init__(self, case: Case, ports: dict[str, int]) -> None:
        super().__init__(routes=[Route("unused.test", 1, False)])
        self.case, self.ports = case, ports

    def settings(self, etc: Path, uid: int, gid: int) -> dict[str, str]:
        settings = super().settings(etc, uid, gid)
        own = {key: value.format(etc=etc, **self.ports) for key, value in self.case.main.items()}
        for name, text in self.case.files.items():
            (etc / name).write_text(text.format(**self.ports))
        return settings | own


def send(port: int, domain: str, words: str) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.sendmail("a@sender.test", [f"user1@{domain}"], f"X-Test-Id: {words}\r\nSubject: {words}\r\n\r\n{words}\r\n")


def arrivals(sinks: dict[str, Sink], expected: int) -> dict[str, str]:
    """Domain by the name of the primary that got its message."""
    found: dict[str, str] = {}

    def complete() -> bool:
        for name, sink in sinks.items():
            for taken in sink.taken():
                for recipient in taken.recipients:
                    found[recipient.rpartition("@")[2]] = name
        return len(found) >= expected

    wait_until("every domain's message at a primary", complete, ARRIVAL_SECONDS)
    return found


def play(case: Case) -> list[str]:
    sinks: dict[str, Sink] = {}
    for name in "abcd":
        folder = scratch_folder(f"sink-{name}")
        sinks[name] = Sink(folder).start()
    postfix = Relaying(case, {name: sink.port for name, sink in sinks.items()}).start()
    try:
        for domain in case.domains:
            send(postfix.port, domain, f"postfix-{domain}")
        wanted = arrivals(sinks, len(case.domains))
        with Postern() as gateway:
            gateway.start()
            report = gateway.command("gateway", "import", "--postfix", str(postfix.folder / "etc"))
            if set(report["created"]) != case.domains:
                return [f"created {sorted(report['created'])}, not {sorted(case.domains)}"]
            for domain in case.domains:
                send(gateway.port, domain, f"postern-{domain}")
            found = arrivals(sinks, len(case.domains))
    finally:
        postfix.stop()
        for sink in sinks.values():
            sink.stop()
    print(f"{case.name}: " + ", ".join(f"{domain} ▶ {wanted[domain]}" for domain in sorted(wanted)))
    return [f"{domain}: Postfix sends to {wanted[domain]}, Postern to {found.get(domain)}"
            for domain in wanted if wanted[domain] != found.get(domain)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true")
    if parser.parse_args().keep:
        keep_folders()
    exit_cleanly_on_signals()
    failures: list[str] = []
    try:
        for case in CASES:
            failures += [f"{case.name}: {failure}" for failure in play(case)]
    except Skip as reason:
        print(f"skipped: {reason}")
        return 0
    print("\n".join(failures) or "passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
