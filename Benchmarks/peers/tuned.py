"""Postfix, Exim and OpenSMTPD as a good administrator runs them under load; durability is each one's default."""

from __future__ import annotations

import re
from pathlib import Path

import peers

DOMAIN = "d0.test"


class TunedPostfix(peers.Postfix):
    processes = 200
    hold = True

    def settings(self, etc: Path, uid: int, gid: int) -> dict[str, str]:
        route, = self.routes
        (etc / "relay").write_text(f"{DOMAIN} OK\n")
        common = super().settings(etc, uid, gid)
        del common["transport_maps"]
        return common | {
            "relay_domains": f"texthash:{etc}/relay", "relay_transport": f"relay:[127.0.0.1]:{route.port}",
            "mynetworks": "", "initial_destination_concurrency": "20", "relay_destination_concurrency_limit": "50",
            "smtp_connection_cache_destinations": f"[127.0.0.1]:{route.port}", "smtpd_tls_security_level": "none",
            "minimal_backoff_time": "300s", "queue_run_delay": "300s",
        } | ({"smtpd_sender_restrictions": "static:HOLD"} if self.hold else {})

    def master_services(self) -> str:
        services = super().master_services().replace("inet n - n - - smtpd", "inet n - n - 1200 smtpd")
        return re.sub(r"^(smtp|relay) unix - - n - - ", r"\1 unix - - n - 100 ", services, flags=re.MULTILINE)


class RelayingPostfix(TunedPostfix):
    hold = False


class TunedExim(peers.Exim):
    extra_main = "remote_max_parallel = 8\n"

    def command(self) -> list[str]:
        return ["/usr/sbin/exim4", "-bdf", "-odq"]


class TunedOpenSMTPD(peers.OpenSMTPD):
    extra_main = "smtp limit max-mails 1000000\n"

    def start(self, cgroup: Path | None = None) -> "TunedOpenSMTPD":
        super().start(cgroup)
        self.inside("/usr/sbin/smtpctl", "pause", "mta")
        return self
