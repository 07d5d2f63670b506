"""The page in Chromium: a gateway is created, edited, held, flushed and deleted by what a person sees; nothing else is asked
for than this server, nothing is complained about in the console, and no text from outside becomes a page.

    browser.py [--screenshots DIR] [TEST…]     POSTERN_BINARY names the program, CHROMIUM the browser
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from pathlib import Path

from adminctl import PASSWORD, Site, Skip, check, exit_cleanly_on_signals, need, program, wait_until

need("playwright", "axe-playwright-python")
from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402

SIZES = {"wide": (1280, 800), "narrow": (390, 844)}
HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"


class Primary:
    """A server that answers every recipient with a 451 in hostile words."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            client, _ = self.socket.accept()
            threading.Thread(target=self.talk, args=(client,), daemon=True).start()

    def talk(self, client: socket.socket) -> None:
        stream = client.makefile("rwb")
        answers = {b"RCPT": f"451 4.3.0 {HOSTILE} come back later".encode(), b"EHLO": b"250 primary.test", b"QUIT": b"221 bye"}
        try:
            stream.write(b"220 primary.test\r\n")
            stream.flush()
            for line in stream:
                stream.write(answers.get(line[:4].upper(), b"250 ok") + b"\r\n")
                stream.flush()
        except OSError:
            pass


class Watch:
    """What a page must never do."""

    def __init__(self, page: Page, port: int) -> None:
        self.seen: list[str] = []
        own = f"http://127.0.0.1:{port}/"
        page.on("console", lambda said: self.seen.append(f"console: {said.text}") if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda fault: self.seen.append(f"fault: {fault}"))
        page.on("request", lambda asked: None if asked.url.startswith(own) else self.seen.append(f"asked {asked.url}"))


def open_page(browser: Browser, site: Site, size: str = "wide", scheme: str = "light") -> tuple[Page, Watch]:
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(20_000)
    watch = Watch(page, site.port)
    page.goto(f"http://127.0.0.1:{site.port}/")
    return page, watch


def sign_in(page: Page, password: str = PASSWORD) -> None:
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def a_gateways_life(browser: Browser, site: Site, primary: Primary) -> None:
    """sign in ▶ create ▶ mail waits ▶ edit ▶ hold ▶ release ▶ flush ▶ look at a message ▶ delete"""
    page, watch = open_page(browser, site)
    sign_in(page)
    page.get_by_role("link", name="Gateways", exact=True).click()
    page.get_by_role("button", name="Create gateway").click()
    page.get_by_label("Domain", exact=True).fill("nonsense")
    expect(page.get_by_text("is not allowed; it takes a domain name")).to_be_visible()
    page.get_by_label("Domain", exact=True).fill("browser.test")
    page.get_by_label("Server", exact=True).fill(f"127.0.0.1:{primary.port}")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_text("What is left is to publish these records")).to_be_visible()
    expect(page.get_by_role("cell", name="browser.test.", exact=True)).to_be_visible()
    check("it is made", site.api("GET", "gateways/browser.test").json["forward"]["port"] == primary.port)

    page.get_by_role("tab", name="Forwarding").click()
    page.get_by_label("Port", exact=True).fill("0")
    expect(page.get_by_text("it takes 1 to 65535")).to_be_visible()
    page.get_by_label("Port", exact=True).fill(str(primary.port))
    page.get_by_label("Connections").fill("3")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved; it is in force.")).to_be_visible()
    check("it is saved", site.api("GET", "gateways/browser.test").json["forward"]["concurrency"] == 3)

    # Two who save at once: the second is asked.
    page.get_by_label("Connections").fill("4")
    site.api("PATCH", "gateways/browser.test", {"forward.concurrency": 7})
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Somebody else changed this gateway")).to_be_visible()
    expect(page.get_by_role("cell", name="7", exact=True)).to_be_visible()
    page.get_by_role("button", name="Save mine").click()
    expect(page.get_by_text("Saved; it is in force.")).to_be_visible()
    wait_until("mine is saved", lambda: site.api("GET", "gateways/browser.test").json["forward"]["concurrency"] == 4, 5)

    page.get_by_role("button", name="Hold", exact=True).click()
    expect(page.get_by_role("button", name="Release", exact=True)).to_be_visible()
    site.send("a@browser.test", 3, subject=HOSTILE)
    wait_until("held", lambda: site.api("GET", "queue?state=held").json["total"] == 3, 10)
    page.get_by_role("button", name="Release", exact=True).click()
    expect(page.get_by_role("button", name="Hold", exact=True)).to_be_visible()
    wait_until("tried", lambda: all(one["attempts"] for one in site.api("GET", "gateways/browser.test/queue").json["items"]), 20)
    page.get_by_role("button", name="Flush", exact=True).click()
    expect(page.get_by_text("waiting are tried now")).to_be_visible()

    page.get_by_role("link", name="Queue", exact=True).click()
    page.get_by_role("link", name="sender@example.org to a@browser.test").first.click()
    page.get_by_role("button", name="Show header fields").click()
    expect(page.get_by_text(HOSTILE).first).to_be_visible()
    wait_until("the peer's own words", lambda: page.locator(".said").get_by_text(HOSTILE, exact=False).count() == 1
               or page.reload() is None and False, 20, 1)
    check("no text became a page", page.title() != "owned" and page.locator("main img, main script").count() == 0, page.title())
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("It is deleted.")).to_be_visible()
    wait_until("two are left", lambda: site.api("GET", "gateways/browser.test/queue").json["total"] == 2, 10)

    page.goto(f"http://127.0.0.1:{site.port}/#/gateways/browser.test")
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_label("The 2 waiting messages").select_option("drop")
    page.get_by_role("button", name="Delete gateway").click()
    expect(page.get_by_text("browser.test is deleted.")).to_be_visible()
    check("it is gone", site.api("GET", "gateways/browser.test").status == 404)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    # That a save came too late is told by a status, which the browser notes in its console.
    complaints = [one for one in watch.seen if "412" not in one]
    check("nothing to complain about", not complaints, complaints)


def to_a_first_message(browser: Browser, site: Site, primary: Primary) -> None:
    """By visible labels only, from sign-in to a gateway that takes mail: three typed fields and four clicks."""
    page, watch = open_page(browser, site)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Gateways", exact=True).click()
    page.get_by_role("button", name="Create gateway").click()
    page.get_by_label("Domain", exact=True).fill("first.test")
    page.get_by_label("Server", exact=True).fill(f"127.0.0.1:{primary.port}")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_text("The gateway takes mail for")).to_be_visible()
    site.send("a@first.test")
    check("nothing to complain about", not watch.seen, watch.seen)
    site.api("DELETE", "gateways/first.test?mail=drop")


def many_at_once(browser: Browser, site: Site, primary: Primary) -> None:
    """Search, sort, pages, and a choice of many that is held and released; all of it by keyboard where it is one key."""
    names = [f"many{number:03}.test" for number in range(120)]
    site.api("POST", "import", "".join(f"- domain: {name}\n" for name in names).encode(), headers={"Content-Type": "application/yaml"})
    page, watch = open_page(browser, site)
    sign_in(page)
    page.get_by_role("link", name="Gateways", exact=True).focus()
    page.keyboard.press("Enter")
    page.get_by_label("Search domains and servers").fill("many")
    expect(page.get_by_text("1 to 50 of 120")).to_be_visible()
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_text("51 to 100 of 120")).to_be_visible()
    page.get_by_label("Search domains and servers").fill("many11")
    expect(page.get_by_text("10 gateways match")).to_be_visible()
    page.get_by_label("Choose all on this page").check()
    page.get_by_role("button", name="Hold", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Hold").click()
    expect(page.get_by_text("Mail of 10 gateways is held.")).to_be_visible()
    check("they are", site.api("GET", "gateways?state=held").json["total"] == 10)
    page.get_by_label("Choose all on this page").check()
    page.get_by_role("button", name="Release", exact=True).click()
    expect(page.get_by_text("Mail of 10 gateways is released.")).to_be_visible()
    check("they are not", site.api("GET", "gateways?state=held").json["total"] == 0)
    check("nothing to complain about", not watch.seen, watch.seen)
    for name in names:
        site.api("DELETE", f"gateways/{name}")


def access(browser: Browser, site: Site, _: Primary) -> None:
    """A wrong password is said; a token is made, shown once, used and deleted; settings are saved; all is in the audit log."""
    page, watch = open_page(browser, site)
    sign_in(page, "a wrong password")
    expect(page.get_by_role("alert").filter(has_text="do not belong together")).to_be_visible()
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Access").click()
    page.get_by_role("button", name="Create token").click()
    page.get_by_label("Name").fill("from-the-page")
    page.get_by_label("Your password").fill(PASSWORD)
    page.get_by_role("button", name="Create", exact=True).click()
    token = page.locator(".secret").inner_text()
    check("it works", site.ask("GET", "/api/v1/status", headers={"Authorization": f"Bearer {token}"}).status == 200)
    page.get_by_role("button", name="Done").click()
    page.get_by_role("button", name="Delete from-the-page").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("button", name="Delete from-the-page")).to_have_count(0)
    page.get_by_role("link", name="Settings").click()
    page.get_by_label("Postmaster").fill("postmaster@provider.test")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved; it is in force.")).to_be_visible()
    check("it is", site.api("GET", "settings").json["postmaster"] == "postmaster@provider.test")
    page.get_by_role("link", name="Audit log").click()
    expect(page.get_by_text("created token from-the-page")).to_be_visible()
    complaints = [one for one in watch.seen if "401" not in one]
    check("nothing to complain about", not complaints, complaints)


def views(browser: Browser, site: Site, primary: Primary, folder: Path | None) -> None:
    """Every view at both sizes, light and dark: none is broader than the screen, each has one head and labelled fields."""
    site.api("POST", "gateways", {"domain": "bücher.example", "server": f"127.0.0.1:{primary.port}"})
    site.api("POST", "gateways", {"domain": "down.test", "server": "127.0.0.1:1"})
    message = site.send("a@down.test", 4)[0]
    site.send("a@xn--bcher-kva.example", 2, subject=HOSTILE)
    for size in SIZES:
        for scheme in ("light", "dark"):
            page, watch = open_page(browser, site, size, scheme)
            sign_in(page)
            expect(page.get_by_role("button", name="Sign out")).to_be_visible()
            for name, path in (("overview", ""), ("gateways", "gateways"), ("domain", "gateways/down.test/domain"),
                               ("forwarding", "gateways/down.test/forwarding"), ("quotas", "gateways/down.test/quotas"),
                               ("dequeuing", "gateways/down.test/dequeuing"), ("atrn", "gateways/down.test/atrn"),
                               ("etrn", "gateways/down.test/etrn"), ("mailbox", "gateways/down.test/mailbox"),
                               ("dns", "gateways/down.test/dns"), ("queue", "queue"), ("message", f"queue/{message}"),
                               ("settings", "settings"), ("access", "access"), ("audit", "audit")):
                page.goto(f"http://127.0.0.1:{site.port}/#/{path}")
                page.wait_for_timeout(300)
                expect(page.get_by_role("heading", level=1)).to_have_count(1)
                broad = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                check(f"{name} fits at {size}", broad <= 0, f"{broad} px too broad")
                unlabelled = page.evaluate("""[...document.querySelectorAll('input, select, button, a')].filter((one) =>
                    one.offsetParent && !(one.labels?.length || one.getAttribute('aria-label') || one.textContent.trim())).length""")
                check(f"everything on {name} has a name", unlabelled == 0, unlabelled)
                if size == "wide":
                    findings = [one for one in Axe().run(page).response["violations"]
                                if one["impact"] in ("serious", "critical")]
                    check(f"axe finds nothing serious on {name} in {scheme}", not findings, [
                        (one["id"], [node["target"] for node in one["nodes"]][:3]) for one in findings])
                if folder:
                    page.screenshot(path=folder / f"{name}-{size}-{scheme}.png", full_page=True)
            check(f"nothing to complain about at {size}, {scheme}", not watch.seen, watch.seen)
            page.context.close()
    for domain in ("xn--bcher-kva.example", "down.test"):
        site.api("DELETE", f"gateways/{domain}?mail=drop")


def main() -> int:
    parser = argparse.ArgumentParser(description="the page in Chromium")
    parser.add_argument("--screenshots", type=Path)
    parser.add_argument("tests", nargs="*", help="only these")
    arguments = parser.parse_args()
    exit_cleanly_on_signals()
    try:
        chromium = os.environ.get("CHROMIUM") or program("chromium")
    except Skip as reason:
        print(reason)
        return 1
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)
    primary = Primary()
    failed = 0
    with Site() as site, sync_playwright() as playwright:
        # Its own sandbox can't be had as root.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        for test in (a_gateways_life, to_a_first_message, many_at_once, access,
                     lambda *given: views(*given, arguments.screenshots)):
            name = getattr(test, "__name__", "").replace("<lambda>", "views")
            if arguments.tests and name not in arguments.tests:
                continue
            try:
                test(browser, site, primary)
                print(f"passed  {name}")
            except Exception as fault:  # noqa: BLE001: one test's fault is no reason to leave the others out
                failed += 1
                print(f"FAILED  {name}: {fault}")
        browser.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
