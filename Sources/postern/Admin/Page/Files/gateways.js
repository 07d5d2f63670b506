import {confirmed, count, debounced, dialog, domainName, el, fill, gatewayState, notice, sentence, serverName, size, when} from "./dom.js";
import {Refusal, get, part, query, request} from "./api.js";

const columns = [["domain", "Domain"], ["server", "Server"], ["state", "State"], ["oldest", "Oldest"], ["bytes", "Size", true], ["queued", "Waiting", true]];
const states = [["", "All states"], ["waiting", "With waiting mail"], ["down", "Down"], ["slow", "Slow"], ["returning", "Returning"],
    ["no-next-hop", "No next hop"], ["held", "Held"], ["disabled", "Disabled"]];

const none = (isRight = true) => el("td", {class: isRight ? "right none muted" : "none muted"}, "–");

export async function gateways(context) {
    const wanted = {
        search: context.parameters.get("search") ?? "", state: context.parameters.get("state") ?? "",
        sort: context.parameters.get("sort") ?? "domain", order: context.parameters.get("order") ?? "asc",
    };
    let before = [];
    let after = null;
    let page;
    const chosen = new Set();

    const body = el("tbody");
    const bulk = el("div", {class: "bulk", role: "region", "aria-label": "Chosen gateways"});
    const pager = el("div", {class: "pager"});
    const empty = el("div", {class: "empty"});
    const headRow = el("tr");
    const table = el("div", {class: "table stack"}, el("table", {}, el("caption", {class: "hidden-text"}, "Gateways"), el("thead", {}, headRow), body));
    const summary = el("p");

    const load = async () => {
        page = await get("gateways" + query({...wanted, limit: 50, after}));
        if (!context.isShown() && table.isConnected) return;
        render();
    };
    const reload = () => load().catch(context.fault);
    const restart = () => { before = []; after = null; chosen.clear(); rememberPlace(); reload(); };
    const rememberPlace = () => history.replaceState(null, "",
        "#/gateways" + query({...wanted, sort: wanted.sort === "domain" ? "" : wanted.sort, order: wanted.order === "asc" ? "" : wanted.order}));

    const act = async (action, domains) => {
        try {
            const failed = [];
            for (let i = 0; i < domains.length; i += 200) {
                const {value} = await request("POST", "bulk", {body: {action, domains: domains.slice(i, i + 200)}});
                failed.push(...value.results.filter((one) => !one.done));
            }
            const words = {flush: "is tried now", hold: "is held", release: "is released"};
            notice(failed.length ? `${domains.length - failed.length} done; ${failed[0].domain}: ${failed[0].detail}`
                : `Mail of ${domains.length === 1 ? domains[0] : `${count(domains.length)} gateways`} ${words[action]}.`);
            chosen.clear();
            await load();
        } catch (fault) { context.fault(fault); }
    };

    const render = () => {
        fill(summary, page.total === 1 ? "One gateway" : `${count(page.total)} gateways`, wanted.search || wanted.state ? " match" : "");
        const all = el("input", {type: "checkbox", "aria-label": "Choose all on this page",
            checked: page.items.length > 0 && page.items.every((one) => chosen.has(one.domain)),
            onchange: (event) => { for (const one of page.items) event.target.checked ? chosen.add(one.domain) : chosen.delete(one.domain); render(); }});
        fill(headRow, el("th", {class: "check", scope: "col"}, all), columns.map(([key, name, isRight]) => {
            const isSorted = wanted.sort === key;
            return el("th", {scope: "col", class: isRight ? "right" : null, "aria-sort": isSorted ? (wanted.order === "asc" ? "ascending" : "descending") : null},
                el("button", {type: "button", onclick: () => {
                    wanted.order = isSorted && wanted.order === "asc" ? "desc" : isSorted ? "asc" : isRight ? "desc" : "asc";
                    wanted.sort = key;
                    restart();
                }}, name, isSorted ? el("span", {"aria-hidden": "true"}, wanted.order === "asc" ? "↑" : "↓") : null));
        }));
        fill(body, page.items.map((one) => el("tr", {class: "picks"},
            el("td", {class: "check"}, el("input", {type: "checkbox", "aria-label": `Choose ${one.domain}`, checked: chosen.has(one.domain),
                onchange: (event) => { event.target.checked ? chosen.add(one.domain) : chosen.delete(one.domain); render(); }})),
            el("td", {class: "wide"}, el("a", {href: `#/gateways/${part(one.domain)}`}, domainName(one.domain))),
            el("td", {class: "wide muted"}, serverName(one)),
            el("td", {}, gatewayState(one)),
            one.status.oldest ? el("td", {"data-label": "oldest"}, when(one.status.oldest)) : none(false),
            one.status.bytes ? el("td", {class: "right"}, size(one.status.bytes)) : none(),
            one.status.queued ? el("td", {class: "right", "data-label": "waiting"}, el("a", {href: `#/queue${query({domain: one.domain})}`}, count(one.status.queued))) : none())));
        const isFiltered = wanted.search || wanted.state;
        fill(empty, isFiltered ? "No gateway matches." : ["There is no gateway yet. One for each domain that this server takes mail for.",
            el("div", {}, el("button", {type: "button", class: "primary", onclick: () => create(context)}, "Create the first one"))]);
        empty.hidden = page.items.length > 0;
        table.hidden = page.items.length === 0;
        fill(bulk, el("span", {}, `${count(chosen.size)} chosen`), ["Flush", "Hold", "Release"].map((name) =>
            el("button", {type: "button", onclick: async () => {
                const domains = [...chosen];
                if (name === "Hold" && !await confirmed(`Hold mail of ${domains.length === 1 ? domains[0] : `${domains.length} gateways`}?`,
                    "Mail is still accepted, and nothing leaves until it is released.", "Hold")) return;
                act(name.toLowerCase(), domains);
            }}, name)), el("button", {type: "button", class: "quiet", onclick: () => { chosen.clear(); render(); }}, "Choose none"));
        bulk.hidden = chosen.size === 0;
        fill(pager, el("span", {}, page.total ? `${before.length * 50 + 1} to ${before.length * 50 + page.items.length} of ${count(page.total)}` : ""),
            el("span", {class: "actions"},
                el("button", {type: "button", disabled: before.length === 0, onclick: () => { after = before.pop(); reload(); }}, "Previous"),
                el("button", {type: "button", disabled: !page.next, onclick: () => { before.push(after); after = page.next; reload(); }}, "Next")));
        pager.hidden = page.total <= 50 && before.length === 0;
    };

    await load();
    const search = el("input", {type: "search", "aria-label": "Search domains and servers", placeholder: "Search domains and servers", value: wanted.search,
        oninput: debounced(250, () => { wanted.search = search.value; restart(); })});
    const state = el("select", {"aria-label": "State", onchange: () => { wanted.state = state.value; restart(); }},
        states.map(([value, name]) => el("option", {value}, name)));
    state.value = wanted.state;
    const refreshed = debounced(400, () => { if (chosen.size === 0 && context.isShown()) reload(); });
    return {
        content: [
            el("div", {class: "head"}, el("div", {}, el("h1", {}, "Gateways"), summary),
                el("div", {class: "actions"}, el("button", {type: "button", class: "primary", onclick: () => create(context)}, "Create gateway"))),
            el("div", {class: "toolbar"}, search, state), bulk, table, empty, pager,
        ],
        live: (name) => { if (name === "gateways") refreshed(); },
    };
}

/** The one dialog that makes a gateway: its domain, and where its mail goes. */
export function create(context) {
    dialog("Create gateway", (close) => {
        const errors = {domain: el("p", {class: "error", id: "new-domain-error", role: "alert"}), server: el("p", {class: "error", id: "new-server-error", role: "alert"})};
        const input = (name, placeholder) => el("input", {type: "text", id: `new-${name}`, placeholder, autocapitalize: "none", autocomplete: "off",
            spellcheck: "false", "aria-describedby": `new-${name}-help new-${name}-error`, oninput: () => check()});
        const [domain, server] = [input("domain", "example.net"), input("server", "mail.example.net")];
        const button = el("button", {class: "primary"}, "Create");
        const body = () => ({domain: domain.value.trim(), ...(server.value.trim() ? {server: server.value.trim()} : {})});
        const say = (faults) => {
            for (const [name, field] of Object.entries({domain, server})) {
                const text = faults.find((one) => name === (one.field.startsWith("forward.") ? "server" : one.field || "domain"))?.detail;
                fill(errors[name], text ? sentence(text) : null);
                text ? field.setAttribute("aria-invalid", "true") : field.removeAttribute("aria-invalid");
            }
        };
        const check = debounced(300, async () => {
            if (!domain.isConnected) return;
            if (!domain.value.trim()) return say([]);
            try { say((await request("POST", "gateways?dryRun=true", {body: body()})).value.errors); } catch (fault) { context.fault(fault); }
        });
        const form = el("form", {},
            el("div", {class: "form dialog"},
                el("div", {class: "field"}, el("label", {for: "new-domain"}, "Domain"), domain,
                    el("p", {class: "help", id: "new-domain-help"}, "The part behind the @ of the addresses that are served."), errors.domain),
                el("div", {class: "field"}, el("label", {for: "new-server"}, "Server"), server,
                    el("p", {class: "help", id: "new-server-help"}, "Where the mail goes: a name or an address, with :PORT if it is not 25. Empty: what the domain’s MX records name besides us."), errors.server)),
            el("div", {class: "end"}, el("button", {type: "button", onclick: close}, "Cancel"), button));
        form.addEventListener("submit", async (event) => {
            event.preventDefault();
            button.disabled = true;
            try {
                const {value, warning} = await request("POST", "gateways", {body: body()});
                close();
                if (warning) notice(warning);
                location.hash = `#/gateways/${part(value.domain)}/dns?made=1`;
            } catch (fault) {
                if (!(fault instanceof Refusal)) throw fault;
                say(fault.problem.errors ?? [{field: "domain", detail: fault.message}]);
                (errors.server.textContent && !errors.domain.textContent ? server : domain).focus();
            } finally { button.disabled = false; }
        });
        return form;
    });
}
