import {confirmed, count, debounced, domainName, el, fill, gatewayState, notice, size, visible, when} from "./dom.js";
import {get, part, query, request} from "./api.js";

const states = [["", "All states"], ["queued", "Queued"], ["active", "Active"], ["deferred", "Deferred"], ["held", "Held"]];
const marks = {queued: "rest", active: "", deferred: "warn", held: "warn"};
const stateMark = (message) => el("span", {class: `state ${marks[message.state] ?? "rest"}`}, message.state);
const from = (message) => message.from === "" ? "<>" : visible(message.from);

export async function queue(context) {
    const wanted = {search: context.parameters.get("search") ?? "", state: context.parameters.get("state") ?? ""};
    let domain = context.parameters.get("domain") ?? "";
    let before = [];
    let after = null;
    let page;
    const body = el("tbody");
    const pager = el("div", {class: "pager"});
    const empty = el("p", {class: "empty"});
    const summary = el("p");
    const actions = el("div", {class: "actions"});
    const table = el("div", {class: "table stack"}, el("table", {}, el("caption", {class: "hidden-text"}, "Waiting messages"),
        el("thead", {}, el("tr", {}, ["Message", "Gateway", "State", "Attempts", "Size"].map((name, i) => el("th", {scope: "col", class: i > 2 ? "right" : null}, name)))), body));

    const load = async () => {
        page = await get((domain ? `gateways/${part(domain)}/queue` : "queue") + query({...wanted, limit: 50, after}));
        render();
    };
    const reload = () => load().catch(context.fault);
    const restart = () => {
        before = []; after = null;
        history.replaceState(null, "", "#/queue" + query({domain, ...wanted}));
        reload();
    };
    const act = async (action) => {
        try {
            const {value} = await request("POST", `gateways/${part(domain)}/${action}`);
            notice({flush: `${count(value.count)} waiting are tried now.`, hold: `Mail of ${domain} is held.`, release: `Mail of ${domain} leaves again.`}[action]);
            await load();
        } catch (fault) { context.fault(fault); }
    };
    const render = () => {
        fill(summary, `${count(page.total)}${page.isCut ? " or more" : ""} ${page.total === 1 ? "message" : "messages"}`,
            domain ? [" for ", el("a", {href: `#/gateways/${part(domain)}`}, domainName(domain)), " ", el("a", {class: "nowrap", href: "#/queue"}, "(show all)")] : null);
        fill(actions, domain && domain !== "@system" ? ["Flush", "Hold", "Release"].map((name) => el("button", {type: "button", onclick: () => act(name.toLowerCase())}, name)) : null);
        fill(body, page.items.map((one) => el("tr", {},
            el("td", {class: "wide"}, el("a", {href: `#/queue/${part(one.id)}`}, from(one), " to ", visible(one.recipients[0] ?? ""),
                one.recipients.length > 1 ? ` and ${count(one.recipients.length - 1)} more` : ""),
                el("div", {class: "sub"}, when(one.receivedAt), one.lastReply ? `: ${visible(one.lastReply)}` : "")),
            el("td", {class: "wide muted"}, domainName(one.domain)),
            el("td", {}, stateMark(one), one.state === "deferred" && one.nextAttempt ? el("div", {class: "sub"}, "next ", when(one.nextAttempt)) : null),
            el("td", {class: "right", "data-label": "attempts"}, count(one.attempts)),
            el("td", {class: "right"}, size(one.bytes)))));
        fill(empty, wanted.search || wanted.state ? "No message matches." : "Nothing waits: all mail has been handed on.");
        empty.hidden = page.items.length > 0;
        table.hidden = page.items.length === 0;
        fill(pager, el("span", {}, page.total ? `${count(before.length * 50 + 1)} to ${count(before.length * 50 + page.items.length)} of ${count(page.total)}, oldest first` : ""),
            el("span", {class: "actions"},
                el("button", {type: "button", disabled: before.length === 0, onclick: () => { after = before.pop(); reload(); }}, "Previous"),
                el("button", {type: "button", disabled: !page.next, onclick: () => { before.push(after); after = page.next; reload(); }}, "Next")));
        pager.hidden = page.total <= 50 && before.length === 0;
    };
    await load();
    const search = el("input", {type: "search", "aria-label": "Search messages", placeholder: "Sender, recipient, id or reply", value: wanted.search,
        oninput: debounced(250, () => { wanted.search = search.value; restart(); })});
    const state = el("select", {"aria-label": "State", onchange: () => { wanted.state = state.value; restart(); }}, states.map(([value, name]) => el("option", {value}, name)));
    state.value = wanted.state;
    let queued = context.status?.queued;
    const refreshed = debounced(1000, () => context.isShown() && reload());
    return {
        title: "Queue",
        content: [el("div", {class: "head"}, el("div", {}, el("h1", {}, "Queue"), summary), actions), el("div", {class: "toolbar"}, search, state), table, empty, pager],
        live: (name, value) => {
            if (name === "status" && value.queued !== queued) { queued = value.queued; refreshed(); }
            if (name === "gateways") refreshed();
        },
    };
}

/** Why a message is still here, in a sentence. */
function reason(one, gateway) {
    if (one.state === "active") return "It is on its way out at this moment.";
    if (gateway?.hold || one.state === "held") return one.domain === "@system"
        ? "It is kept held: nobody has been named for it. Set the postmaster in the settings." : "Its gateway holds mail back: release it, and it goes.";
    const status = gateway?.status;
    if (status?.state === "no-next-hop") return "There is nowhere to send it: no server is set, and the domain’s MX records name nobody but us.";
    if (status?.state === "down") return `The server of ${one.domain} does not answer. It is probed, and when it is back the queue drains.`;
    if (gateway?.delivery?.when === "onContact") return "Its gateway delivers when it is asked for: flush it.";
    if (one.state === "deferred") return "The server answered that it cannot take it now. It is tried again.";
    return "It waits for its turn.";
}

export async function message(context, id) {
    const path = `messages/${part(id)}`;
    const one = await get(path);
    const gateway = one.domain === "@system" ? null : await get(`gateways/${part(one.domain)}`).catch(() => null);
    const headers = el("div", {class: "block"});
    const loadHeaders = async () => {
        fill(headers, el("p", {class: "muted"}, "Reading …"));
        try {
            const {fields, isCut} = await get(`${path}/headers`);
            fill(headers, el("h2", {}, "Header fields"), el("dl", {class: "facts"},
                fields.map((field) => [el("dt", {class: "mono"}, visible(field.name)), el("dd", {class: "mono"}, visible(field.value))])),
                isCut ? el("p", {class: "muted"}, "There are more; download the message to see them.") : null);
        } catch (fault) { fill(headers); context.fault(fault); }
    };
    const end = async (action) => {
        const isBounce = action === "bounce";
        if (!await confirmed(isBounce ? "Give this message back?" : "Delete this message?",
            isBounce ? "It leaves the queue, and its sender is told that it was not delivered." : "It is gone for good, and nobody is told.", isBounce ? "Bounce" : "Delete")) return;
        try {
            await (isBounce ? request("POST", `${path}/bounce`) : request("DELETE", path));
            notice(isBounce ? "It goes back to its sender." : "It is deleted.");
            location.hash = "#/queue";
        } catch (fault) { context.fault(fault); }
    };
    const act = async (action) => {
        try {
            await request("POST", `gateways/${part(one.domain)}/${action}`);
            notice({flush: `All mail of ${one.domain} is tried now.`, hold: `Mail of ${one.domain} is held.`, release: `Mail of ${one.domain} leaves again.`}[action]);
            setTimeout(context.refresh, 500);
        } catch (fault) { context.fault(fault); }
    };
    return {
        title: "Message",
        content: [
            el("div", {class: "head"}, el("div", {}, el("a", {class: "crumb", href: "#/queue"}, "Queue"), el("h1", {class: "mono"}, visible(one.id)), el("p", {class: "actions"}, stateMark(one))),
                el("div", {class: "actions"},
                    gateway ? [el("button", {type: "button", onclick: () => act("flush")}, "Flush gateway"),
                        gateway.hold ? el("button", {type: "button", onclick: () => act("release")}, "Release gateway") : el("button", {type: "button", onclick: () => act("hold")}, "Hold gateway")] : null,
                    el("a", {class: "button", href: `/api/v1/${path}/content`, download: `${one.id}.eml`}, "Download"),
                    el("button", {type: "button", onclick: () => end("bounce")}, "Bounce"),
                    el("button", {type: "button", class: "danger", onclick: () => end("delete")}, "Delete"))),
            el("div", {class: "callout"}, reason(one, gateway)),
            el("dl", {class: "facts"},
                el("dt", {}, "Gateway"), el("dd", {}, gateway ? el("a", {href: `#/gateways/${part(one.domain)}`}, domainName(one.domain)) : one.domain, " ", gateway ? gatewayState(gateway) : null),
                el("dt", {}, "From"), el("dd", {}, from(one)),
                el("dt", {}, one.recipients.length === 1 ? "To" : "To, still waiting"), el("dd", {}, one.recipients.map((address) => el("div", {}, visible(address)))),
                el("dt", {}, "Size"), el("dd", {}, size(one.bytes)),
                el("dt", {}, "Received"), el("dd", {}, when(one.receivedAt), `, ${new Date(one.receivedAt * 1000).toLocaleString()}`),
                el("dt", {}, "Attempts"), el("dd", {}, count(one.attempts), one.nextAttempt ? [", the next ", when(one.nextAttempt)] : null),
                el("dt", {}, "Last reply"), el("dd", {}, one.lastReply ? el("div", {class: "said"}, visible(one.lastReply)) : el("span", {class: "muted"}, "none yet"))),
            headers,
            el("p", {class: "block"}, el("button", {type: "button", onclick: (event) => { event.target.parentElement.remove(); loadHeaders(); }}, "Show header fields")),
        ],
    };
}

