import {confirmed, count, dialog, domainName, el, fill, gatewayState, notice, serverName, size, visible, when} from "./dom.js";
import {Refusal, get, keys, part, query, request} from "./api.js";
import {fields, label} from "./fields.js";
import {plot} from "./plot.js";

// Where a key is shown; one that is not named here gets a tab by its group.
const places = [
    {id: "domain", name: "Domain", has: (key) => !key.includes(".") || key.startsWith("recipients.")},
    {id: "forwarding", name: "Forwarding", has: (key) => /^(forward|delivery|retry)\./.test(key)},
    {id: "dequeuing", name: "Dequeuing", has: (key) => /^dequeue\.[a-z]+$/.test(key)},
    {id: "atrn", name: "ATRN", has: (key) => key.startsWith("dequeue.atrn.")},
    {id: "etrn", name: "ETRN", has: (key) => key.startsWith("dequeue.etrn.")},
    {id: "mailbox", name: "POP/IMAP", has: (key) => key.startsWith("dequeue.mailbox.")},
    {id: "quotas", name: "Quotas", has: (key) => key.startsWith("quota.")},
    {id: "more", name: "More", has: () => true},
];

export async function editor(context, domain, wantedTab) {
    const path = `gateways/${part(domain)}`;
    const [first, described, records, past] = await Promise.all([
        request("GET", path), keys(), get(`${path}/records`), get(`history?domain=${part(domain)}`)]);
    let {value: gateway, etag} = first;
    const known = described.gateway.filter((key) => key.key !== "domain");
    const tabs = places.map((place) => ({...place, keys: []}));
    for (const key of known) tabs.find((place) => place.has(key.key)).keys.push(key);
    const shownTabs = [...tabs.filter((tab) => tab.keys.length > 0), {id: "dns", name: "DNS records"}];
    let tab = shownTabs.find((one) => one.id === wantedTab) ?? shownTabs[0];

    const state = el("p", {class: "actions"});
    const fault = el("div");
    const actions = el("div", {class: "actions"});
    const panel = el("div", {role: "tabpanel", tabindex: "-1", id: "panel"});
    const save = el("div", {class: "save"});
    const form = fields(known, gateway, {path, onchange: () => showSave()});

    const showHead = () => {
        const {status} = gateway;
        fill(state, gatewayState(gateway), el("span", {}, `to ${visible(serverName(gateway))}`),
            status.queued ? el("a", {href: `#/queue${query({domain})}`}, `${count(status.queued)} waiting, ${size(status.bytes)}`) : el("span", {}, "nothing waits"),
            status.oldest ? el("span", {}, "oldest ", when(status.oldest)) : null);
        fill(fault,
            status.fault ? el("div", {class: "callout bad"}, visible(status.fault)) : null,
            status.detail && status.state !== "up" ? el("div", {class: `callout${status.state === "down" ? " bad" : ""}`}, visible(status.detail)) : null);
        fill(actions,
            el("button", {type: "button", onclick: () => act("flush")}, "Flush"),
            gateway.hold ? el("button", {type: "button", onclick: () => act("release")}, "Release") : el("button", {type: "button", onclick: () => act("hold")}, "Hold"),
            el("button", {type: "button", class: "danger", onclick: remove}, "Delete"));
    };

    const take = (answer) => { gateway = answer.value; etag = answer.etag; showHead(); showSave(); };

    const act = async (action) => {
        try {
            const {value} = await request("POST", `${path}/${action}`);
            notice({flush: `${count(value.count)} waiting are tried now.`, hold: "Its mail is held.", release: "Its mail leaves again."}[action]);
            const keeping = form.changes();
            const answer = await request("GET", path);
            form.reset(answer.value, keeping);
            take(answer);
        } catch (refusal) { context.fault(refusal); }
    };

    const showSave = () => {
        const changed = Object.keys(form.changes());
        save.hidden = changed.length === 0;
        const text = changed.length === 1 ? `${label(changed[0])} is changed` : `${changed.length} fields are changed`;
        if (save.dataset.text === text && save.childElementCount) return;
        save.dataset.text = text;
        fill(save, el("span", {}, text),
            el("button", {type: "button", onclick: () => { form.reset(gateway); showSave(); }}, "Discard"),
            el("button", {class: "primary"}, "Save"));
    };

    const store = async (changes, tag) => {
        try {
            const answer = await request("PATCH", path, {body: changes, etag: tag});
            form.reset(answer.value);
            take(answer);
            notice(answer.warning ?? "Saved; it is in force.");
        } catch (refusal) {
            if (!(refusal instanceof Refusal)) throw refusal;
            if (refusal.status === 412) return conflict(changes, refusal);
            form.show(refusal.problem.errors ?? []);
            const wrong = form.first(refusal);
            if (!wrong) return notice(refusal.message + ".");
            const home = shownTabs.find((one) => one.keys?.includes(wrong.key));
            if (home && home !== tab) choose(home);
            wrong.input.focus();
        }
    };

    // Somebody else saved meanwhile: shows what differs, and nothing is lost before a choice is made.
    const conflict = async (changes, refusal) => {
        const stored = await request("GET", path);
        const text = (value) => value === null || value === undefined ? "–" : visible(Array.isArray(value) ? value.join(", ") : value);
        const differ = (refusal.problem.differences ?? []).filter((one) => one.key in changes);
        dialog("Somebody else changed this gateway", (close) => [
            el("p", {}, differ.length ? "These fields differ from what is stored now:" : "Your fields are not among those that were changed."),
            differ.length ? el("div", {class: "table"}, el("table", {},
                el("thead", {}, el("tr", {}, ["Field", "Stored now", "Yours"].map((name) => el("th", {scope: "col"}, name)))),
                el("tbody", {}, differ.map((one) => el("tr", {}, el("td", {}, label(one.key)), el("td", {class: "wide"}, text(one.stored)), el("td", {class: "wide"}, text(one.sent))))))) : null,
            el("div", {class: "end"},
                el("button", {type: "button", onclick: close}, "Go on editing"),
                el("button", {type: "button", onclick: () => { close(); form.reset(stored.value); take(stored); }}, "Take what is stored"),
                el("button", {type: "button", class: "primary", onclick: () => { close(); store(changes, stored.etag); }}, "Save mine")),
        ], {broad: true});
    };

    const remove = async () => {
        const waiting = (await get(path).catch(() => gateway)).status.queued;
        dialog(`Delete ${domain}?`, (close) => {
            const mail = el("select", {id: "delete-mail"}, el("option", {value: "bounce"}, "Goes back to its senders"), el("option", {value: "drop"}, "Is dropped; nobody is told"));
            const error = el("p", {class: "bad", role: "alert"});
            const button = el("button", {class: "danger"}, "Delete gateway");
            const box = el("form", {},
                el("p", {}, "Mail for this domain is refused from then on. This cannot be taken back."),
                waiting ? el("div", {class: "form dialog block"}, el("div", {class: "field"}, el("label", {for: "delete-mail"}, `The ${count(waiting)} waiting messages`), mail)) : null,
                error, el("div", {class: "end"}, el("button", {type: "button", onclick: close}, "Cancel"), button));
            box.addEventListener("submit", async (event) => {
                event.preventDefault();
                button.disabled = true;
                try {
                    await request("DELETE", path + query({mail: waiting ? mail.value : "refuse"}));
                    close();
                    notice(`${domain} is deleted.`);
                    form.reset(gateway);
                    location.hash = "#/gateways";
                } catch (refusal) { fill(error, visible(refusal.message), "."); button.disabled = false; }
            });
            return box;
        });
    };

    const tabList = el("div", {class: "tabs", role: "tablist", "aria-label": "Settings of the gateway"});
    const choose = (next, focuses = false) => {
        tab = next;
        fill(tabList, shownTabs.map((one) => el("button", {type: "button", role: "tab", id: `tab-${one.id}`, "aria-selected": one === tab ? "true" : "false",
            "aria-controls": "panel", tabindex: one === tab ? null : "-1", onclick: () => choose(one, true),
            onkeydown: (event) => {
                const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
                if (step) choose(shownTabs[(shownTabs.indexOf(tab) + step + shownTabs.length) % shownTabs.length], true);
            }}, one.name)));
        panel.setAttribute("aria-labelledby", `tab-${tab.id}`);
        fill(panel, tab.id === "dns" ? dns(records, domain, context.parameters.has("made")) : el("div", {class: "form"}, form.node(tab.keys)),
            tab === shownTabs[0] && past.samples.some((sample) => sample.queued > 0)
                ? el("div", {class: "block"}, plot("In its queue", [{name: "messages", points: past.samples.map((sample) => [sample.at, sample.queued])}], {filled: true})) : null);
        history.replaceState(null, "", `#/gateways/${part(domain)}/${tab.id}`);
        if (focuses) document.getElementById(`tab-${tab.id}`).focus();
    };

    // All fields are there from the start, so that a change on a tab that is not shown is saved, too.
    for (const one of tabs) form.node(one.keys);
    showHead();
    showSave();
    choose(tab);
    const box = el("form", {novalidate: true}, tabList, panel, save);
    box.addEventListener("submit", (event) => { event.preventDefault(); const changes = form.changes(); if (Object.keys(changes).length) store(changes, etag); });

    return {
        title: domain,
        content: [
            el("div", {class: "head"}, el("div", {}, el("a", {class: "crumb", href: "#/gateways"}, "Gateways"), el("h1", {}, domainName(domain)), state), actions),
            fault, box,
        ],
        leave: () => !form.isChanged() || window.confirm("Your changes are not saved. Leave anyway?"),
        live: async (name, value) => {
            if (name !== "gateways" || !value.domains.includes(domain)) return;
            const answer = await request("GET", path).catch(() => null);
            if (!answer || !context.isShown()) return;
            // The status is new; the document only where nothing would be lost.
            if (answer.etag !== etag && !form.isChanged()) { form.reset(answer.value); etag = answer.etag; gateway = answer.value; }
            gateway = {...gateway, hold: answer.value.hold, enabled: answer.value.enabled, status: answer.value.status};
            showHead();
        },
    };
}

function dns({records, notes}, domain, isNew) {
    const text = records.map((one) => `${one.name}\tIN\t${one.type}\t${one.value}`).join("\n");
    return [
        isNew ? el("div", {class: "callout good"}, "The gateway takes mail for ", el("strong", {}, domain), ". What is left is to publish these records.") : null,
        el("div", {class: "table stack"}, el("table", {},
            el("thead", {}, el("tr", {}, ["Name", "Type", "Value", "Published by"].map((name) => el("th", {scope: "col"}, name)))),
            el("tbody", {}, records.map((one) => el("tr", {}, el("td", {class: "mono wide"}, one.name), el("td", {class: "mono"}, one.type),
                el("td", {class: "mono wide"}, one.value), el("td", {class: "muted full"}, one.zone)))))),
        notes.map((note) => el("p", {class: "muted block"}, note)),
        el("p", {class: "block"}, el("button", {type: "button", onclick: async () => {
            try { await navigator.clipboard.writeText(text); notice("Copied."); } catch { notice("The browser does not allow it; mark the records instead."); }
        }}, "Copy records")),
    ];
}

