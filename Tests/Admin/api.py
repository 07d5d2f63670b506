"""The HTTP API against a real server: every route, who may ask, conflicts, and what other sites and strangers try (T-G4).

    api.py [TEST…]          POSTERN_BINARY names the program
"""

from __future__ import annotations

import json
import smtplib
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from adminctl import PAGE, PASSWORD, Answer, Site, check, need, run_all, wait_until

need("jsonschema")
import jsonschema  # noqa: E402


def described(site: Site) -> dict[str, Any]:
    return site.ask("GET", "/api/v1/openapi.json").json


def fits(document: dict[str, Any], method: str, path: str, answer: Answer) -> None:
    """An answer is one of those that the document names, of its type and shape."""
    operation = document["paths"]["/" + path][method.lower()]
    named = operation["responses"].get(str(answer.status))
    check(f"{method} {path} names {answer.status}", named is not None, answer)
    content = named.get("content", {})
    if not content:
        check(f"{method} {path} {answer.status} is empty", answer.body == b"", answer)
        return
    kind = answer.headers["Content-Type"].split(";")[0]
    check(f"{method} {path} {answer.status} is {list(content)}", kind in content, kind)
    if kind.endswith("json"):
        schema = {**content[kind]["schema"], "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json)


def test_every_route_answers_as_described(site: Site) -> None:
    """Each route once with what it is for, and its answer against its schema; none is left out."""
    document = described(site)
    seen: set[tuple[str, str]] = set()

    def ask(method: str, path: str, body: Any = None, expect: int = 200, headers: dict[str, str] | None = None,
            query: str = "", **values: str) -> Answer:
        seen.add((method, path))
        target = path.format(**values) if values else path
        if cookie:
            answer = site.ask(method, f"/api/v1/{target}{query}", body, {**PAGE, "Cookie": cookie, **(headers or {})})
        else:
            answer = site.api(method, target + query, body, headers=headers)
        check(f"{method} {target} gives {expect}", answer.status == expect, answer)
        fits(document, method, path, answer)
        return answer

    cookie: str | None = None
    for path in ("status", "history", "keys", "settings", "export", "gateways", "queue", "audit", "openapi.json"):
        ask("GET", path)
    ask("POST", "gateways", {"domain": "walk.test", "server": "127.0.0.1:1"}, 201)
    ask("POST", "gateways", {"domain": "walk.test"}, 409)
    check("a dry run names the field",
          ask("POST", "gateways", {"domain": "walk"}, query="?dryRun=true").json["errors"][0]["field"] == "domain")
    etag = ask("GET", "gateways/{domain}", domain="walk.test").etag
    ask("GET", "gateways/{domain}", expect=404, domain="none.test")
    ask("PUT", "gateways/{domain}", {"forward": {"server": "127.0.0.1", "port": 1}}, headers={"If-Match": etag},
        domain="walk.test")
    ask("PUT", "gateways/{domain}", {}, 201, domain="put.test")
    ask("PATCH", "gateways/{domain}", {"hold": True}, domain="walk.test")
    ask("PATCH", "gateways/{domain}", {"forward.port": 0}, 422, domain="walk.test")
    ask("GET", "gateways/{domain}/usage", domain="walk.test")
    ask("GET", "gateways/{domain}/records", domain="walk.test")
    first, second = site.send("a@walk.test", 2)
    wait_until("both in the queue",
               lambda: ask("GET", "gateways/{domain}/queue", domain="walk.test").json["total"] == 2, 10)
    ask("GET", "messages/{id}", id=first)
    ask("GET", "messages/{id}", expect=422, id="no-id")
    ask("GET", "messages/{id}/headers", id=first)
    content = ask("GET", "messages/{id}/content", id=first)
    check("the content is the message", b"Subject: hello" in content.body, content)
    ask("POST", "messages/{id}/bounce", expect=204, id=first)
    ask("DELETE", "messages/{id}", expect=204, id=second)
    ask("GET", "messages/{id}", expect=404, id=second)
    for action in ("flush", "hold", "release"):
        ask("POST", f"gateways/{{domain}}/{action}", domain="walk.test")
    check("bulk says what became of each", [one["done"] for one in ask(
        "POST", "bulk", {"action": "hold", "domains": ["walk.test", "none.test"]}).json["results"]] == [True, False])
    ask("POST", "import", b"- domain: imported.test\n", headers={"Content-Type": "application/yaml"})
    ask("PATCH", "settings", {"quotaCode": 552})
    ask("PATCH", "settings", {"quotaCode": None})
    ask("PATCH", "settings", {"quotaCode": 1}, 422)
    for domain in ("walk.test", "put.test", "imported.test"):
        ask("DELETE", "gateways/{domain}", expect=204, domain=domain, query="?mail=drop")
    seen.add(("GET", "events"))
    test_events(site)
    # What only a person may do.
    signed_in = site.sign_in()
    seen.add(("POST", "session"))
    fits(document, "POST", "session", signed_in)
    cookie = signed_in.cookie
    ask("GET", "session")
    ask("GET", "tokens")
    ask("POST", "tokens", {"name": "walk", "scope": "read", "password": PASSWORD}, 201)
    ask("POST", "tokens", {"name": "walk", "scope": "read", "password": PASSWORD}, 409)
    ask("DELETE", "tokens/{name}", expect=204, name="walk")
    ask("DELETE", "tokens/{name}", expect=404, name="walk")
    ask("PUT", "password", {"current": PASSWORD, "new": "short"}, 422)
    ask("PUT", "password", {"current": "wrong password", "new": PASSWORD}, 403)
    ask("PUT", "password", {"current": PASSWORD, "new": PASSWORD}, 204)
    ask("DELETE", "session", expect=204)
    every = {(method.upper(), path[1:]) for path, methods in document["paths"].items() for method in methods}
    check("every described route was asked", seen == every, seen ^ every)


def test_events(site: Site) -> None:
    """A change is told to whoever listens, as a server-sent event."""
    import http.client
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
    connection.request("GET", "/api/v1/events", headers={"Authorization": f"Bearer {site.tokens['read']}"})
    response = connection.getresponse()
    check("it is a stream", response.status == 200 and response.headers["Content-Type"] == "text/event-stream")
    site.api("POST", "gateways", {"domain": "event.test", "server": "127.0.0.1:1"})
    try:
        told = {"status": False, "gateways": False}
        name = ""
        deadline = time.monotonic() + 20
        while not all(told.values()) and time.monotonic() < deadline:
            line = response.readline().decode().rstrip("\n")
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                told["status"] |= name == "status" and "queued" in json.loads(line[6:])
                told["gateways"] |= name == "gateways"
                if name == "status" and told["status"] and not told["gateways"]:
                    site.api("PATCH", "gateways/event.test", {"forward.port": 1 + int(time.monotonic() * 10) % 60_000})
        check("both kinds came", all(told.values()), told)
    finally:
        connection.close()
        site.api("DELETE", "gateways/event.test?mail=drop")


def test_every_route_wants_somebody(site: Site) -> None:
    """Nobody, an unknown token and a reading token get no further than they should, on every route."""
    document = described(site)
    for path, methods in document["paths"].items():
        target = path[1:].replace("{domain}", "a.test").replace("{id}", "x").replace("{name}", "x")
        for method, operation in methods.items():
            if operation["security"] == []:
                continue
            for headers in ({}, {"Authorization": "Bearer postern_unknown"}, {"Authorization": "Basic YWRtaW46eA=="},
                            {"Cookie": "postern_session=unknown"}):
                answer = site.ask(method.upper(), f"/api/v1/{target}", None, headers)
                check(f"{method} {target} with {headers} gives 401", answer.status == 401, answer)
            if method != "get":
                answer = site.api(method.upper(), target, {}, scope="read")
                check(f"{method} {target} is not for reading tokens", answer.status == 403, answer)
            if operation["security"] == [{"session": []}]:
                answer = site.api(method.upper(), target, {})
                check(f"{method} {target} is for people", answer.status == 403, answer)


def test_a_deleted_token_is_of_no_use(site: Site) -> None:
    made = site.command("token", "create", "short-lived", "--scope", "read")
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    check("it works", site.ask("GET", "/api/v1/status", headers=headers).status == 200)
    stored = (site.postern.data / "admin.db").read_bytes()
    check("only its digest is stored", made.stdout.strip().encode() not in stored)
    check("the password is not stored", PASSWORD.encode() not in stored)
    check("nobody else reads the file", (site.postern.data / "admin.db").stat().st_mode & 0o777 == 0o600)
    site.command("token", "delete", "short-lived")
    check("it is gone", site.ask("GET", "/api/v1/status", headers=headers).status == 401)


def test_two_who_save_at_once(site: Site) -> None:
    """The second one is told what differs, and nothing of the first one's is lost."""
    site.api("POST", "gateways", {"domain": "twice.test"})
    read = site.api("GET", "gateways/twice.test")
    check("the first saves", site.api("PATCH", "gateways/twice.test", {"forward.port": 2525},
                                      headers={"If-Match": read.etag}).status == 200)
    late = site.api("PATCH", "gateways/twice.test", {"forward.port": 2626, "hold": True},
                    headers={"If-Match": read.etag})
    check("the second is refused", late.status == 412, late)
    check("with what differs", {"key": "forward.port", "stored": 2525, "sent": 2626} in late.json["differences"], late)
    check("and with what is stored now", late.json["etag"] == site.api("GET", "gateways/twice.test").etag.strip('"'))
    whole = read.json
    check("a whole document needs a precondition", site.api("PUT", "gateways/twice.test", whole).status == 428)
    check("and the right one", site.api("PUT", "gateways/twice.test", whole,
                                        headers={"If-Match": read.etag}).status == 412)
    now = site.api("GET", "gateways/twice.test")
    check("nothing of the second was taken", now.json["forward"]["port"] == 2525 and not now.json["hold"])
    again = site.api("PUT", "gateways/twice.test", now.json, headers={"If-Match": now.etag})
    check("a document given back as it was read changes nothing", again.status == 200 and again.etag == now.etag, again)
    results = []
    threads = [threading.Thread(target=lambda port=port: results.append(
        site.api("PATCH", "gateways/twice.test", {"forward.port": port}, headers={"If-Match": now.etag}).status))
        for port in range(3000, 3008)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check("of eight at the same moment one wins", sorted(results) == [200] + [412] * 7, results)
    site.api("DELETE", "gateways/twice.test")


def test_a_gateway_with_mail_is_not_deleted_by_accident(site: Site) -> None:
    site.api("POST", "gateways", {"domain": "full.test", "hold": True})
    site.send("a@full.test", 3)
    wait_until("the mail", lambda: site.api("GET", "gateways/full.test").json["status"]["queued"] == 3, 10)
    refused = site.api("DELETE", "gateways/full.test")
    check("it is refused", refused.status == 409 and "3 messages wait" in refused.json["detail"], refused)
    check("and dropped when that is said", site.api("DELETE", "gateways/full.test?mail=drop").status == 204)


def test_one_domain_in_all_its_spellings(site: Site) -> None:
    """T-C5: other case, and other letters for the same name, are the same gateway; paths are none (T-C6)."""
    check("made", site.api("POST", "gateways", {"domain": "Bücher.example"}).status == 201)
    for spelling in ("BÜCHER.example", "xn--bcher-kva.example", "bücher.EXAMPLE"):
        check(f"{spelling} exists", site.api("POST", "gateways", {"domain": spelling}).status == 409)
    check("found by its letters", site.api("GET", "gateways/b%C3%BCcher.example").status == 200)
    check("and by a search for them", site.api("GET", "gateways?search=b%C3%BCcher.example").json["total"] == 1)
    for bad in ("../x", "a/b", ".", "..", "a", "x" * 300 + ".test", "a\u0000b.test", "-a.test", "a..test", "", "@system"):
        answer = site.api("POST", "gateways", {"domain": bad})
        check(f"{bad!r} is no domain", answer.status == 422 and answer.json["errors"][0]["field"] == "domain", answer)
    for bad in ("..%2f..%2fetc", "%00", "a%2fb", "%2e%2e"):
        check(f"{bad} is not found", site.api("GET", f"gateways/{bad}").status in (404, 422))
    site.api("DELETE", "gateways/xn--bcher-kva.example")


def test_every_wrong_field_is_named(site: Site) -> None:
    answer = site.api("POST", "gateways", {"domain": "many.test", "forward": {"port": 0, "tls": "perhaps"}, "holdd": 1,
                                           "quota.bytes": "much", "dequeue": {"method": "pigeon"}})
    fields = {one["field"] for one in answer.json["errors"]}
    check("all of them", answer.status == 422 and fields >= {"forward.port", "forward.tls", "holdd", "quota.bytes",
                                                             "dequeue.method"}, answer)
    check("none was made", site.api("GET", "gateways/many.test").status == 404)


def test_lists_are_whole_on_their_pages(site: Site) -> None:
    names = [f"page{number:02}.test" for number in range(25)]
    site.api("POST", "import", "".join(f"- domain: {name}\n" for name in names).encode(),
             headers={"Content-Type": "application/yaml"})
    for sort, order in (("domain", "asc"), ("domain", "desc"), ("queued", "desc"), ("state", "asc")):
        found: list[str] = []
        after = ""
        while True:
            page = site.api("GET", f"gateways?search=page&limit=7&sort={sort}&order={order}{after}").json
            found += [one["domain"] for one in page["items"]]
            if not page.get("next"):
                break
            after = f"&after={page['next']}"
        check(f"each once by {sort}", sorted(found) == names, found)
        if sort == "domain":
            check("in order", found == (names if order == "asc" else names[::-1]), found)
    for name in names:
        site.api("DELETE", f"gateways/{name}")


def test_every_change_is_in_the_audit_log(site: Site) -> None:
    site.api("POST", "gateways", {"domain": "audited.test"})
    site.api("PATCH", "gateways/audited.test", {"forward.port": 2525})
    site.api("PATCH", "gateways/audited.test", {"forward.port": 0})
    site.api("POST", "gateways/audited.test/hold")
    site.api("DELETE", "gateways/audited.test")
    entries = site.api("GET", "audit?search=audited.test").json["items"]
    check("each one", [one["action"] for one in entries][::-1] == [
        "gateway.create", "gateway.set", "queue.hold", "gateway.delete"], entries)
    change = entries[2]["changes"]
    check("before and after", change == [{"key": "forward.port", "before": "25", "after": "2525"}], change)
    check("who and from where", entries[0]["who"] == "token test-write" and entries[0]["address"] == "127.0.0.1")
    check("no password, no token", all(PASSWORD not in json.dumps(one) and site.tokens["write"] not in json.dumps(one)
                                       for one in site.api("GET", "audit?limit=1000").json["items"]))


# T-G4, each part


def test_csrf(site: Site) -> None:
    """Another site makes the browser send its cookie along: nothing is done without what only our page can add."""
    cookie = site.sign_in().cookie
    check("signed in", cookie is not None)
    own = f"http://127.0.0.1:{site.port}"
    body = {"domain": "csrf.test"}
    for headers in (
            {}, {"Origin": "https://evil.test"},
            {**PAGE, "Origin": "https://evil.test"}, {**PAGE, "Origin": "null"},
            {**PAGE, "Origin": own.replace("127.0.0.1", "localhost")}, {**PAGE, "Sec-Fetch-Site": "cross-site"},
            {**PAGE, "Sec-Fetch-Site": "same-site"}, {**PAGE, "Origin": own + ".evil.test"}):
        answer = site.ask("POST", "/api/v1/gateways", body, {"Cookie": cookie, **headers})
        check(f"refused with {headers}", answer.status == 403, answer)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = site.ask("POST", "/api/v1/gateways", json.dumps(body).encode(),
                          {"Cookie": cookie, **PAGE, "Content-Type": kind})
        check(f"a form's body is none: {kind}", answer.status == 415, answer)
    check("nor is one signed in by another site",
          site.ask("POST", "/api/v1/session", {"user": "admin", "password": PASSWORD}).status == 403)
    check("nothing was made", site.api("GET", "gateways/csrf.test").status == 404)
    check("the page may", site.ask("POST", "/api/v1/gateways?dryRun=true", body,
                                   {"Cookie": cookie, **PAGE, "Origin": own, "Sec-Fetch-Site": "same-origin"}).status == 200)
    preflight = site.ask("OPTIONS", "/api/v1/gateways", None, {"Origin": "https://evil.test",
                                                               "Access-Control-Request-Method": "PUT"})
    check("no other site is let in", "Access-Control-Allow-Origin" not in preflight.headers, preflight)


def test_session_cookie(site: Site) -> None:
    """What the browser is told about the cookie."""
    said = site.sign_in().headers["Set-Cookie"]
    check("scripts don't see it, other sites don't send it", "HttpOnly" in said and "SameSite=Strict" in said, said)
    check("plain without HTTPS", "Secure" not in said, said)
    check("only over HTTPS behind a proxy that says so",
          "Secure" in site.sign_in(headers={"X-Forwarded-Proto": "https"}).headers["Set-Cookie"])


def test_session_fixation(site: Site) -> None:
    """A session that was planted in the browser is not the one that is signed in, and ends."""
    planted = site.sign_in().cookie
    answer = site.ask("POST", "/api/v1/session", {"user": "admin", "password": PASSWORD},
                      {**PAGE, "Cookie": planted})
    check("a new session", answer.status == 200 and answer.cookie != planted, answer)
    check("the planted one is over", site.ask("GET", "/api/v1/status", None, {"Cookie": planted}).status == 401)
    made_up = "postern_session=chosenbyanattacker"
    answer = site.ask("POST", "/api/v1/session", {"user": "admin", "password": PASSWORD}, {**PAGE, "Cookie": made_up})
    check("a made-up one is no session", "chosenbyanattacker" not in (answer.cookie or "")
          and site.ask("GET", "/api/v1/status", None, {"Cookie": made_up}).status == 401)
    two = f"{answer.cookie}; {made_up}"
    check("of two cookies none is believed", site.ask("GET", "/api/v1/status", None, {"Cookie": two}).status == 401)


def test_signing_out_and_a_new_password_end_sessions(site: Site) -> None:
    first, second = site.sign_in().cookie, site.sign_in().cookie
    site.ask("DELETE", "/api/v1/session", None, {**PAGE, "Cookie": first})
    check("signed out", site.ask("GET", "/api/v1/status", None, {"Cookie": first}).status == 401)
    check("the other is not", site.ask("GET", "/api/v1/status", None, {"Cookie": second}).status == 200)
    site.command("password", "admin", given=PASSWORD + "\n")
    check("a new password ends all", site.ask("GET", "/api/v1/status", None, {"Cookie": second}).status == 401)


def test_brute_force(site: Site) -> None:
    """After ten failures from an address it waits; one wording and no hint whether a user exists."""
    def guess(user: str, address: str) -> Answer:
        return site.sign_in("a wrong password", user, {"X-Forwarded-For": address})

    known, unknown = guess("admin", "203.0.113.1"), guess("nobody", "203.0.113.2")
    check("one wording", known.status == unknown.status == 401 and known.json == unknown.json, (known, unknown))
    times: dict[str, list[float]] = {"admin": [], "nobody": []}
    for user, samples in times.items():
        for number in range(3):
            began = time.monotonic()
            guess(user, f"203.0.113.{20 + number}")
            samples.append(time.monotonic() - began)
    check("an unknown user takes no less time than a known one", min(times["nobody"]) > min(times["admin"]) / 3, times)
    answers = [guess("admin", "203.0.113.9") for _ in range(12)]
    check("ten are looked at", [one.status for one in answers] == [401] * 10 + [429] * 2, [a.status for a in answers])
    check("and it is said when to come back", 0 < int(answers[-1].headers["Retry-After"]) <= 900)
    check("the right one waits, too", site.sign_in(headers={"X-Forwarded-For": "203.0.113.9"}).status == 429)
    check("others don't", site.sign_in(headers={"X-Forwarded-For": "203.0.113.10"}).status == 200)
    check("it is in the audit log", any(one["outcome"] == "refused" and one["address"] == "203.0.113.9"
                                        for one in site.api("GET", "audit?search=session.create").json["items"]))


def test_tokens_and_passwords_want_the_password_again(site: Site) -> None:
    """A stolen session alone gives out no lasting access."""
    cookie = site.sign_in().cookie
    headers = {**PAGE, "Cookie": cookie}
    for password in ("", "wrong password"):
        answer = site.ask("POST", "/api/v1/tokens", {"name": "stolen", "scope": "write", "password": password}, headers)
        check("refused", answer.status == 403, answer)
    check("none was made", all(one["name"] != "stolen" for one in site.ask(
        "GET", "/api/v1/tokens", None, headers).json["items"]))


def test_xss_in_answers(site: Site) -> None:
    """Names, subjects and peers' words come back as data: JSON with its type, never a page; the page's policy is strict."""
    script = "<script>alert(1)</script>"
    site.api("POST", "gateways", {"domain": "xss.test", "hold": True})
    message = site.send("a@xss.test", 1, subject=script, body=script)[0]
    wait_until("the mail", lambda: site.api("GET", f"messages/{message}").status == 200, 10)
    for path in (f"messages/{message}/headers", f"messages/{message}/content", f"gateways?search={'%3Cscript%3E'}"):
        answer = site.api("GET", path)
        check(f"{path} is no page", answer.headers["Content-Type"] in ("application/json", "message/rfc822")
              and answer.headers["X-Content-Type-Options"] == "nosniff"
              and "default-src 'none'" in answer.headers["Content-Security-Policy"], answer.headers)
    check("a message is a download", site.api("GET", f"messages/{message}/content").headers["Content-Disposition"]
          .startswith("attachment"))
    unknown = site.ask("GET", f"/{script}")
    check("an unknown page repeats nothing", b"<script>" not in unknown.body and unknown.status == 404, unknown)
    policy = site.ask("GET", "/").headers["Content-Security-Policy"]
    check("no inline code", "unsafe" not in policy and "require-trusted-types-for 'script'" in policy
          and "frame-ancestors 'none'" in policy, policy)
    site.api("DELETE", "gateways/xss.test?mail=drop")


def test_open_redirect(site: Site) -> None:
    """Nothing leads away: there is no redirect, whatever is asked for."""
    for path in ("//evil.test", "/\\evil.test", "/?next=https://evil.test", "/api/v1//evil.test", "/page/../evil.test",
                 "/https://evil.test", "/session?return=//evil.test", "/%2f%2fevil.test"):
        answer = site.ask("GET", path)
        check(f"{path} leads nowhere", answer.status < 300 or answer.status >= 400, answer)
        check(f"{path} names no place", "Location" not in answer.headers, answer.headers)


def test_ssrf(site: Site) -> None:
    """What the page connects to on somebody's word: nothing. A server's name is only stored; the mail process speaks SMTP
    to it, and that only with mail. A validation, a look-up of records and a creation open no connection."""
    asked: list[str] = []

    class Trap(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            asked.append(self.path)

    trap = HTTPServer(("127.0.0.1", 0), Trap)
    connections: list[object] = []
    trap.verify_request = lambda request, address: connections.append(address) or True  # type: ignore[method-assign]
    threading.Thread(target=trap.serve_forever, daemon=True).start()
    server = f"127.0.0.1:{trap.server_port}"
    try:
        site.api("POST", "gateways?dryRun=true", {"domain": "ssrf.test", "server": server})
        check("made", site.api("POST", "gateways", {"domain": "ssrf.test", "server": server}).status == 201)
        site.api("GET", "gateways/ssrf.test/records")
        site.api("POST", "gateways/ssrf.test/flush")
        for bad in ("http://169.254.169.254/", "file:///etc/passwd", "gopher://x", "127.0.0.1:99999", "a b", "x@y"):
            answer = site.api("POST", "gateways", {"domain": "ssrf2.test", "server": bad})
            check(f"{bad} is no server", answer.status == 422 and answer.json["errors"][0]["field"] == "server", answer)
        time.sleep(1)
        check("nobody connected", not connections and not asked, (connections, asked))
    finally:
        trap.shutdown()
        trap.server_close()
        site.api("DELETE", "gateways/ssrf.test")


def test_bad_requests_are_refused_with_a_sentence(site: Site) -> None:
    for method, path, body, status in (
            ("POST", "gateways", b"{", 400), ("POST", "gateways", b"[]", 422), ("POST", "gateways", b"\xff", 400),
            ("POST", "gateways", b'{"domain":"a.test","domain":"b.test"}', 400),
            ("POST", "gateways", b"[" * 100_000, 400), ("GET", "gateways?limit=0", None, 400),
            ("GET", "gateways?limit=x", None, 400), ("GET", "gateways?unknown=1", None, 400),
            ("GET", "gateways?sort=a&sort=b", None, 400), ("GET", "gateways?search=%ff", None, 400),
            ("GET", "gateways?after=x", None, 400), ("GET", "nothing", None, 404), ("GET", "", None, 404),
            ("PUT", "gateways", b"{}", 405), ("POST", "gateways", b" " * (2 << 20), 413)):
        answer = site.api(method, path, body, headers={"Content-Type": "application/json"} if body else None)
        check(f"{method} {path} {body[:30] if body else ''} gives {status}", answer.status == status, answer)
        check("with a sentence", answer.json["detail"] and answer.headers["Content-Type"] == "application/problem+json")
    check("which methods there are is said",
          site.api("PUT", "gateways").headers["Allow"] == "GET, POST")
    check("a HEAD has no body", site.api("HEAD", "gateways").body == b"" and site.api("HEAD", "gateways").status == 200)


def test_admin_process_killed(site: Site) -> None:
    """It is started again, sessions and tokens go on, and mail does not notice."""
    import os
    import signal
    import subprocess
    cookie = site.sign_in().cookie
    children = subprocess.run(["pgrep", "-P", str(site.postern.service.pid)], capture_output=True, text=True).stdout.split()
    check("one child", len(children) == 1, children)
    os.kill(int(children[0]), signal.SIGKILL)
    site.api("GET", "status")
    wait_until("the next one", lambda: site.ask("GET", "/healthz").status == 200, 20)
    check("the session is alive", site.ask("GET", "/api/v1/status", None, {"Cookie": cookie}).status == 200)
    check("mail is taken", site.postern.command("status")["ready"])


def test_database_of_the_page_unusable(site: Site) -> None:
    """A broken admin.db closes the page with a sentence; monitoring and mail go on, and it opens again by itself."""
    import os
    import signal
    import subprocess
    path = site.postern.data / "admin.db"
    kept = path.read_bytes()
    children = subprocess.run(["pgrep", "-P", str(site.postern.service.pid)], capture_output=True, text=True).stdout.split()
    path.write_bytes(b"this is no database, and long enough to be looked at. " * 40)
    os.kill(int(children[0]), signal.SIGKILL)
    wait_until("the next one", lambda: site.ask("GET", "/healthz").status == 200, 30)
    answer = site.api("GET", "status")
    check("closed, with the reason", answer.status == 503 and "admin.db" in answer.json["detail"], answer)
    check("metrics go on", site.ask("GET", "/metrics").status == 200)
    check("mail is taken", site.postern.command("status")["ready"])
    path.write_bytes(kept)
    wait_until("it opens again", lambda: site.api("GET", "status").status == 200, 15)


def test_database_of_the_page_replaced(site: Site) -> None:
    """Taken away while it is open: the next one is made at once with a new first password; a backup is used as soon as it is
    back."""
    path = site.postern.data / "admin.db"
    kept = path.with_name("kept.db")
    path.rename(kept)
    answer = site.api("GET", "status")
    check("tokens are unknown", answer.status == 401, answer)
    check("a new password is said", site.postern.log_text().count("the first user of the admin page") == 2)
    path.unlink()
    kept.rename(path)
    check("they are known again", site.api("GET", "status").status == 200)


def test_secrets_are_set_and_never_said(site: Site) -> None:
    """A secret of each way to set one works at the server; what is read, exported, refused and noted has its mask."""
    said: list[bytes] = []

    def api(method: str, path: str, body: Any = None, **headers: str) -> Answer:
        answer = site.api(method, path, body, headers={name.replace("_", "-"): value for name, value in headers.items()})
        said.append(answer.body)
        return answer

    def logs_in(secret: str) -> bool:
        with smtplib.SMTP("127.0.0.1", site.postern.port, timeout=30) as client:
            client.ehlo()
            client.user, client.password = "secret.test", secret
            try:
                return client.auth("CRAM-MD5", client.auth_cram_md5)[0] == 235
            except smtplib.SMTPAuthenticationError:
                return False

    made = api("POST", "gateways", {"domain": "secret.test", "dequeue": {"method": "etrn", "secret": "geheim-1"}})
    check("made", made.status == 201, made)
    check("the first one works", logs_in("geheim-1"))
    read = api("GET", "gateways/secret.test")
    check("it is masked", read.json["dequeue"]["secret"] == "********", read)
    kept = api("PUT", "gateways/secret.test", {**read.json, "hold": True}, If_Match=read.etag)
    check("given back as it was read", kept.status == 200 and logs_in("geheim-1"), kept)
    document = {**kept.json, "dequeue": {**kept.json["dequeue"], "secret": "geheim-2"}}
    changed = api("PUT", "gateways/secret.test", document, If_Match=kept.etag)
    check("changed", changed.status == 200 and logs_in("geheim-2") and not logs_in("geheim-1"), changed)
    patched = api("PATCH", "gateways/secret.test", {"dequeue": {"secret": "geheim-3"}})
    check("patched", patched.status == 200 and logs_in("geheim-3"), patched)
    late = api("PATCH", "gateways/secret.test", {"dequeue": {"secret": "geheim-4"}}, If_Match=kept.etag)
    check("too late", late.status == 412, late)
    wrong = api("PATCH", "gateways/secret.test", {"dequeue": {"secret": "geheim-\u00fc"}})
    check("refused without being repeated", wrong.status == 422, wrong)
    none = api("PUT", "gateways/nosecret.test", {"dequeue": {"secret": "********"}})
    check("a mask of nothing", none.status in (409, 422), none)
    for path in ("export", "audit", "gateways", "gateways/secret.test"):
        api("GET", path)
    check("deleted", api("DELETE", "gateways/secret.test").status in (200, 204))
    check("nothing said it", not [body for body in said if b"geheim" in body], [b for b in said if b"geheim" in b][:1])
    check("nor the log", "geheim" not in site.postern.log_text())


def test_metrics_are_for_this_machine(site: Site) -> None:
    check("from here", site.ask("GET", "/metrics").status == 200)
    check("not by way of a proxy", site.ask("GET", "/metrics", headers={"X-Forwarded-For": "192.0.2.1"}).status == 403)


def test_first_password_is_said_once(site: Site) -> None:
    """It was printed when the server was first started, and it was not kept."""
    lines = [line for line in site.postern.log_text().splitlines() if "the first user of the admin page" in line]
    check("once for each database", 1 <= len(lines) <= 2, lines)
    check("another one is set since", site.sign_in(lines[0].split("password ")[1].split()[0],
                                                   headers={"X-Forwarded-For": "192.0.2.200"}).status == 401)


TESTS = [value for name, value in list(globals().items()) if name.startswith("test_")]

if __name__ == "__main__":
    sys.exit(run_all(TESTS, sys.argv[1:]))
