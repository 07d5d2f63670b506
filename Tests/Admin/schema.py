"""Random requests from the served OpenAPI document (schemathesis): no 5xx, and no answer that the document doesn't name.

    schema.py [--examples 15]          POSTERN_BINARY names the program
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from adminctl import PAGE, Site, exit_cleanly_on_signals, need

need("schemathesis")

# A stream has no end; a session that is signed out, or a password that is changed, would end the run.
LEFT_OUT = ("getEvents", "signOut", "setPassword")
CHECKS = ("not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
          "response_schema_conformance")


def run(site: Site, examples: int, headers: dict[str, str]) -> int:
    words = [str(Path(sys.executable).parent / "schemathesis"), "run", f"http://127.0.0.1:{site.port}/api/v1/openapi.json",
             "--url", f"http://127.0.0.1:{site.port}/api/v1", "--phases", "examples,coverage,fuzzing", "--mode", "all",
             "--max-examples", str(examples), "--checks", CHECKS, "--request-timeout", "30", "--no-color",
             "--generation-database", "none", "--seed", "1"]
    for name in LEFT_OUT:
        words += ["--exclude-operation-id", name]
    for name, value in headers.items():
        words += ["--header", f"{name}: {value}"]
    return subprocess.run(words, cwd=site.postern.folder).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description="random requests from the served OpenAPI document")
    parser.add_argument("--examples", type=int, default=15, help="requests of each kind for each operation")
    arguments = parser.parse_args()
    exit_cleanly_on_signals()
    with Site() as site:
        for domain in ("a.test", "b.test"):
            site.api("POST", "gateways", {"domain": domain, "hold": True})
        site.send("a@a.test", 3)
        print("with a token")
        status = run(site, arguments.examples, {"Authorization": f"Bearer {site.tokens['write']}"})
        print("signed in")
        status |= run(site, max(3, arguments.examples // 3), {**PAGE, "Cookie": site.sign_in().cookie or ""})
        ready = site.postern.command("status")["ready"]
    print("passed" if status == 0 and ready else "FAILED")
    return 0 if status == 0 and ready else 1


if __name__ == "__main__":
    sys.exit(main())
