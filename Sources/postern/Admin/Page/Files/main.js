// The frame of the page: sign-in, the way between views, live changes.
import {el, fill, notice, visible} from "./dom.js";
import {Refusal, get, keys, request, whenSignedOut} from "./api.js";
import {overview} from "./overview.js";
import {gateways} from "./gateways.js";
import {editor} from "./editor.js";
import {message, queue} from "./queue.js";
import {settings} from "./settings.js";
import {access, audit} from "./access.js";

const app = document.getElementById("app");
const views = [
    {path: "", name: "Overview", view: overview},
    {path: "gateways", name: "Gateways", view: (context, [domain, tab]) => domain ? editor(context, domain, tab) : gateways(context)},
    {path: "queue", name: "Queue", view: (context, [id]) => id ? message(context, id) : queue(context)},
    {path: "settings", name: "Settings", view: settings},
    {path: "access", name: "Access", view: access},
    {path: "audit", name: "Audit log", view: audit},
];

const ended = "Your session has ended. Sign in again.";
let session = null;
let events = null;
let shown = {leave: null, number: 0, live: null};
const live = {status: null};

const mark = () => el("svg", {viewBox: "0 0 32 32", "aria-hidden": "true"},
    el("svg:path", {d: "M5 29V15a11 11 0 0 1 22 0v14", fill: "none", stroke: "currentColor", "stroke-width": "4"}),
    el("svg:path", {d: "M12 29V16a4 4 0 0 1 8 0v13z", fill: "currentColor"}));

function signIn(sentence) {
    stop();
    session = null;
    document.title = "Sign in - Postern";
    const error = el("p", {class: "bad", role: "alert"}, sentence ?? null);
    const user = el("input", {type: "text", id: "user", autocomplete: "username", autocapitalize: "none", spellcheck: "false", value: "admin"});
    const password = el("input", {type: "password", id: "password", autocomplete: "current-password"});
    const button = el("button", {class: "primary"}, "Sign in");
    const form = el("form", {}, el("h1", {class: "brand"}, mark(), "Postern"),
        el("div", {class: "form dialog"},
            el("div", {class: "field"}, el("label", {for: "user"}, "User"), user),
            el("div", {class: "field"}, el("label", {for: "password"}, "Password"), password)),
        error, button);
    form.addEventListener("submit", async (event) => {
        event.preventDefault();
        button.disabled = true;
        fill(error);
        try {
            session = (await request("POST", "session", {body: {user: user.value, password: password.value}})).value;
            start();
        } catch (fault) {
            if (!(fault instanceof Refusal)) throw fault;
            fill(error, fault.message + ".");
            password.select();
        } finally { button.disabled = false; }
    });
    fill(app, el("main", {class: "signin"}, form));
    password.focus();
}

async function signOut() {
    await request("DELETE", "session").catch(() => {});
    signIn();
}

function stop() {
    events?.close();
    events = null;
    shown.leave?.();
    shown = {leave: null, number: shown.number + 1, live: null};
}

function start() {
    const main = el("main", {id: "main", tabindex: "-1"});
    const nav = el("nav", {"aria-label": "Views"}, views.map(({path, name}) => el("a", {href: `#/${path}`, "data-path": path}, name)));
    fill(app,
        el("a", {class: "skip", href: "#main", onclick: (event) => { event.preventDefault(); main.focus(); }}, "Skip to content"),
        el("div", {class: "frame"},
            el("div", {class: "side"}, el("a", {class: "brand", href: "#/"}, mark(), "Postern"), nav,
                el("div", {class: "who"}, el("span", {class: "host", id: "host"}), el("span", {}, session.user),
                    el("button", {type: "button", class: "quiet", onclick: signOut}, "Sign out"))),
            main));
    listen();
    show(true);
}

function listen() {
    events?.close();
    events = new EventSource("/api/v1/events");
    events.addEventListener("status", (event) => {
        live.status = JSON.parse(event.data);
        const host = document.getElementById("host");
        if (host) fill(host, live.status.hostname);
        shown.live?.("status", live.status);
    });
    events.addEventListener("gateways", (event) => shown.live?.("gateways", JSON.parse(event.data)));
    events.addEventListener("unavailable", (event) => shown.live?.("unavailable", JSON.parse(event.data)));
    // A closed stream is opened again by the browser; one that is refused means that nobody is signed in any more.
    events.addEventListener("error", () => {
        if (events?.readyState === EventSource.CLOSED) setTimeout(() => get("session").then((value) => value.user ? session && listen() : session && signIn(ended), () => {}), 3000);
    });
}

/** The view that the address names. A view gets `context` and returns its content and, if it likes, `live`, `leave` and `title`. */
async function show(isFirst = false) {
    if (!session) return;
    const [path, parameters] = location.hash.replace(/^#\/?/, "").split("?");
    const segments = path.split("/").map((text) => { try { return decodeURIComponent(text); } catch { return text; } });
    const view = views.find((one) => one.path === segments[0]) ?? views[0];
    if (shown.leave && shown.leave() === false) return;
    const number = shown.number + 1;
    shown = {leave: null, number, live: null};
    for (const link of document.querySelectorAll(".side nav a")) {
        if (link.dataset.path === view.path) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    }
    const main = document.getElementById("main");
    const context = {
        parameters: new URLSearchParams(parameters ?? ""), status: live.status, session,
        isShown: () => shown.number === number,
        refresh: () => shown.number === number && show(true),
        fault: (fault) => { if (fault instanceof Refusal) notice(fault.message + "."); else if (fault?.name !== "AbortError") throw fault; },
    };
    try {
        const made = await view.view(context, segments.slice(1));
        if (shown.number !== number) return;
        shown.live = made.live ?? null;
        shown.leave = made.leave ?? null;
        document.title = `${made.title ?? view.name} - Postern`;
        fill(main, made.content);
        if (!isFirst) { const head = main.querySelector("h1"); head?.setAttribute("tabindex", "-1"); head?.focus(); window.scrollTo(0, 0); }
    } catch (fault) {
        if (!(fault instanceof Refusal)) throw fault;
        if (shown.number !== number || fault.status === 401) return;
        fill(main, el("div", {class: "head"}, el("div", {}, el("h1", {}, view.name))),
            el("div", {class: "callout bad", role: "alert"}, visible(fault.message), "."),
            el("button", {type: "button", onclick: () => show()}, "Try again"));
    }
}

whenSignedOut(() => { if (session) signIn(ended); });
addEventListener("hashchange", () => show());
get("session").then((value) => {
    if (!value.user) return signIn();
    session = value;
    keys().catch(() => {});
    start();
}, (fault) => signIn(`${fault.message}.`));
