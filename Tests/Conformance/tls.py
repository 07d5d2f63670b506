"""TLS seen from outside: testssl.sh against the SMTP port, and what `forward.tls: verify` refuses.

    tls.py [--io epoll|uring] [--gateway postern|postfix] [--only scan|verify] [--keep]

scan    testssl.sh knows the test CA by --add-ca. Findings above LOW fail, but those on the certificate (`cert_…`).
verify  a primary with an expired, a self-signed, or another name's certificate gets nothing; a good one gets the mail.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import peers
from dns_stub import NameServer
from harness import (GATEWAY_NAME, PRIMARY_NAME, Certificate, Skip, certificate, certificate_authority,
                     commit, digest, exit_cleanly_on_signals, header_section, keep_folders, scratch_folder,
                     wait_until)
from posternctl import Gateway, Postern
from sink import Sink
from standins import gateway as gateway_named

ABOVE_LOW = {"MEDIUM", "HIGH", "CRITICAL", "FATAL"}
"""Of testssl.sh's severities; its WARN says that the scan itself could not do something."""

SCAN_SECONDS = 600


def scan(gateway: Gateway) -> bool:
    """Whether testssl.sh finds nothing above LOW."""
    try:
        root = peers.unpack_debian("testssl", "testssl.sh", "bsdextrautils")
    except Skip as reason:
        print(f"scan: skipped: {reason}")
        return True
    folder = scratch_folder("testssl")
    report = folder / "report.json"
    libraries = ":".join(str(path) for path in (root / "usr/lib").glob("*-linux-gnu"))
    environment = {**os.environ, "TESTSSL_INSTALL_DIR": str(root / "etc/testssl"), "LC_ALL": "C.UTF-8",
                   "LD_LIBRARY_PATH": libraries, "PATH": f"{root}/usr/bin:{os.environ['PATH']}"}
    started = time.monotonic()
    result = subprocess.run(
        [root / "usr/bin/testssl", "--quiet", "--color", "0", "--warnings", "batch", "--starttls", "smtp",
         "--ip", "127.0.0.1", "--add-ca", certificate_authority(), "--jsonfile", report,
         f"{GATEWAY_NAME}:{gateway.port}"],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SCAN_SECONDS)
    if not report.exists():
        print(f"FAILED testssl.sh wrote no report:\n{result.stdout[-2000:]}{result.stderr[-1000:]}")
        return False
    findings = json.loads(report.read_text())
    bad = [finding for finding in findings
           if finding["severity"] in ABOVE_LOW and not finding["id"].startswith("cert_")]
    severities: dict[str, int] = {}
    for finding in findings:
        severities[finding["severity"]] = severities.get(finding["severity"], 0) + 1
    print(f"scan: {len(findings)} findings in {time.monotonic() - started:.0f} s: "
          + ", ".join(f"{severity} {count}" for severity, count in sorted(severities.items())))
    for finding in findings:
        if finding["severity"] not in ("OK", "INFO") and finding not in bad:
            print(f"  allowed: {finding['id']} {finding['severity']}: {finding['finding']}")
    for finding in bad:
        print(f"FAILED {finding['id']} {finding['severity']}: {finding['finding']}")
    offers_tls = any(finding["id"].startswith("TLS1") and finding["severity"] == "OK" for finding in findings)
    if not offers_tls:
        print("FAILED testssl.sh saw no TLS 1.2 or 1.3")
    return not bad and offers_tls


@dataclass
class Primary:
    """One domain whose primary shows this certificate."""

    label: str
    policy: str
    tls: Certificate
    expected: bool


def check_verify(gateway: Gateway) -> bool:
    """Whether `verify` hands mail to the good primary only, and `encrypt` to each."""
    good = certificate(PRIMARY_NAME)
    expired = certificate(PRIMARY_NAME, label="expired", expired=True)
    self_signed = certificate(PRIMARY_NAME, label="self-signed", self_signed=True)
    wrong_name = certificate("other.test", label="wrong-name")
    cases = [Primary("good", "verify", good, True), Primary("expired", "verify", expired, False),
             Primary("self-signed", "verify", self_signed, False), Primary("wrong-name", "verify", wrong_name, False),
             Primary("unverified", "encrypt", self_signed, True)]
    sinks: dict[str, Sink] = {}
    expected: dict[str, str] = {}
    for case in cases:
        sink = Sink(scratch_folder(f"sink-{case.label}"), "--tls", str(case.tls.certificate), str(case.tls.key))
        sinks[case.label] = sink.start()
        server = f"[{PRIMARY_NAME}]:{sink.port}" if isinstance(gateway, Postern) else f"127.0.0.1:{sink.port}"
        domain = f"{case.label}.{case.policy}.test"
        gateway.create(domain, server, forward__tls=case.policy)
        list(sink.new_lines())  # the greeting that start() asked for
        content = header_section(case.label, "from@sender.test", f"user@{domain}") + b"hello\r\n"
        expected[case.label] = digest(content)
        peers.send_with_smtplib(gateway.port, content, "from@sender.test", f"user@{domain}", tls=True)
    events: dict[str, list[list[str]]] = {case.label: [] for case in cases}

    def tried() -> bool:
        for label, sink in sinks.items():
            events[label] += list(sink.new_lines())
        return all(any(event[0] == ("took" if case.expected else "closed") for event in events[case.label])
                   for case in cases)

    try:
        wait_until("an attempt at each primary", tried, 20)
        time.sleep(2)  # what a refusal would wrongly be followed by: a second try in plaintext
        tried()
    except TimeoutError as timeout:
        print(timeout)
    well = True
    for case in cases:
        took = [event for event in events[case.label] if event[0] == "took"]
        tries = sum(event[0] == "open" for event in events[case.label])
        if case.expected:
            right = [event[4] for event in took] == [expected[case.label]] and took[0][6] == "tls"
        else:
            right = not took and tries > 0
        text = f"{len(took)} messages taken in {tries} connections" + (f", {took[0][6]}" if took else "")
        print(f"verify: {case.policy}, {case.label} certificate: {text}: {'ok' if right else 'FAILED'}")
        well &= right
    waiting = gateway.queued()
    if waiting != sum(not case.expected for case in cases):
        print(f"FAILED verify: {waiting} messages wait, not the {sum(not case.expected for case in cases)} refused")
        well = False
    return well


def main() -> int:
    parser = argparse.ArgumentParser(description="testssl.sh and forward.tls: verify")
    parser.add_argument("--io", default="auto", choices=["auto", "epoll", "uring"])
    parser.add_argument("--gateway", default="postern")
    parser.add_argument("--only", choices=["scan", "verify"])
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    exit_cleanly_on_signals()
    print(f"tls: {arguments.gateway}, io {arguments.io}, commit {commit()}")
    names = NameServer()
    try:
        gateway = gateway_named(arguments.gateway, io=arguments.io, name_servers=[f"127.0.0.1:{names.port}"])
    except Skip as reason:
        print(reason)
        return 1
    well = True
    with gateway:
        gateway.start()
        print(gateway.description(), flush=True)
        if arguments.only != "scan":
            well &= check_verify(gateway)
        if arguments.only != "verify":
            well &= scan(gateway)
    if arguments.keep:
        keep_folders()
    print("passed" if well else "FAILED")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
