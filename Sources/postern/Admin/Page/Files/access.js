import {confirmed, debounced, dialog, el, fill, notice, visible, when} from "./dom.js";
import {Refusal, get, part, query, request} from "./api.js";

const field = (id, name, input, help, error) => el("div", {class: "field"}, el("label", {for: id}, name), el("div", {class: "input"}, input),
    help ? el("p", {class: "help"}, help) : null, error ?? null);

export async function access(context) {
    const list = el("div");
    const load = async () => {
        const {items} = await get("tokens");
        fill(list, items.length === 0 ? el("p", {class: "muted"}, "None yet. A token lets a program use the HTTP API.") :
            el("div", {class: "table stack"}, el("table", {},
                el("thead", {}, el("tr", {}, ["Name", "May", "Made", "Last used", ""].map((name) => el("th", {scope: "col"}, name || el("span", {class: "hidden-text"}, "Actions"))))),
                el("tbody", {}, items.map((one) => el("tr", {},
                    el("td", {class: "wide"}, one.name), el("td", {}, one.scope === "write" ? "read and change" : "read"),
                    el("td", {"data-label": "made"}, when(one.createdAt)), el("td", {"data-label": "used"}, one.usedAt ? when(one.usedAt) : "never"),
                    el("td", {class: "right"}, el("button", {type: "button", class: "quiet", "aria-label": `Delete ${one.name}`, onclick: async () => {
                        if (!await confirmed(`Delete the token ${one.name}?`, "Programs that use it are refused from then on.", "Delete")) return;
                        try { await request("DELETE", `tokens/${part(one.name)}`); await load(); } catch (fault) { context.fault(fault); }
                    }}, "Delete")))))))
        );
    };
    const make = () => dialog("Create token", (close) => {
        const name = el("input", {type: "text", id: "token-name", autocomplete: "off", spellcheck: "false"});
        const scope = el("select", {id: "token-scope"}, el("option", {value: "read"}, "Read"), el("option", {value: "write"}, "Read and change"));
        const password = el("input", {type: "password", id: "token-password", autocomplete: "current-password"});
        const error = el("p", {class: "bad", role: "alert"});
        const button = el("button", {class: "primary"}, "Create");
        const form = el("form", {}, el("div", {class: "form dialog"},
            field("token-name", "Name", name, "What it is for, such as backup or billing."),
            field("token-scope", "May", scope),
            field("token-password", "Your password", password, "Once more, as this gives access away.")),
            error, el("div", {class: "end"}, el("button", {type: "button", onclick: close}, "Cancel"), button));
        form.addEventListener("submit", async (event) => {
            event.preventDefault();
            button.disabled = true;
            try {
                const {value} = await request("POST", "tokens", {body: {name: name.value.trim(), scope: scope.value, password: password.value}});
                fill(form, el("p", {}, "This is the token. It is not shown again."), el("p", {class: "secret", tabindex: "0"}, value.token),
                    el("div", {class: "end"}, el("button", {type: "button", class: "primary", onclick: close}, "Done")));
                await load();
            } catch (fault) {
                if (!(fault instanceof Refusal)) throw fault;
                fill(error, visible(fault.message).replaceAll("`", ""), ".");
                button.disabled = false;
            }
        });
        return form;
    });

    const [current, first, second] = ["current", "first", "second"].map((id) => el("input", {type: "password", id: `password-${id}`,
        autocomplete: id === "current" ? "current-password" : "new-password"}));
    const error = el("p", {class: "bad", role: "alert"});
    const form = el("form", {class: "form"},
        field("password-current", "Current password", current),
        field("password-first", "New password", first, "At least 12 characters; long is better than odd."),
        field("password-second", "New password again", second),
        error, el("p", {}, el("button", {}, "Set password")));
    form.addEventListener("submit", async (event) => {
        event.preventDefault();
        fill(error);
        if (first.value !== second.value) return fill(error, "The new passwords are not the same.");
        try {
            await request("PUT", "password", {body: {current: current.value, new: first.value}});
            form.reset();
            notice("The password is set; all other sessions have ended.");
        } catch (fault) {
            if (!(fault instanceof Refusal)) throw fault;
            fill(error, visible(fault.message).replaceAll("`", ""), ".");
        }
    });
    await load();
    return {
        title: "Access",
        content: [
            el("div", {class: "head"}, el("div", {}, el("h1", {}, "Access"), el("p", {}, "Who may use this page and the HTTP API.")),
                el("div", {class: "actions"}, el("button", {type: "button", class: "primary", onclick: make}, "Create token"))),
            el("section", {}, el("h2", {}, "Tokens"), list),
            el("section", {}, el("h2", {}, `Password of ${context.session.user}`), form),
        ],
    };
}

const actions = {
    "gateway.create": "created gateway", "gateway.set": "changed gateway", "gateway.delete": "deleted gateway", "gateway.import": "imported gateways:",
    "queue.flush": "flushed", "queue.hold": "held", "queue.release": "released", "queue.delete": "deleted message", "queue.bounce": "bounced message",
    "settings.set": "changed", "session.create": "signed in as", "session.delete": "signed out as", "token.create": "created token", "token.delete": "deleted token",
    "password.set": "set the password of",
};

export async function audit(context) {
    const body = el("tbody");
    const more = el("p", {class: "block"});
    const empty = el("p", {class: "empty"});
    const table = el("div", {class: "table stack"}, el("table", {}, el("caption", {class: "hidden-text"}, "Changes"),
        el("thead", {}, el("tr", {}, ["When", "Who", "What"].map((name) => el("th", {scope: "col"}, name)))), body));
    let wanted = "";
    let rows = [];
    const load = async (before) => {
        const {items} = await get("audit" + query({search: wanted, before, limit: 50}));
        rows = before ? rows.concat(items) : items;
        fill(body, rows.map((one) => el("tr", {},
            el("td", {class: "nowrap muted"}, when(one.at)),
            el("td", {}, visible(one.who), el("div", {class: "sub"}, visible(one.address))),
            el("td", {class: "wide"}, `${actions[one.action] ?? one.action} ${visible(one.object)}`,
                one.outcome === "done" ? null : el("span", {class: "bad"}, one.outcome === "refused" ? " - refused" : " - outcome unknown"),
                one.detail ? el("div", {class: "sub"}, visible(one.detail)) : null,
                one.changes.slice(0, 12).map((change) => el("div", {class: "sub mono"}, visible(change.key), ": ",
                    change.before === null || change.before === undefined ? "" : `${visible(change.before)} → `, change.after === null || change.after === undefined ? "gone" : visible(change.after))),
                one.changes.length > 12 ? el("div", {class: "sub"}, `and ${one.changes.length - 12} more`) : null))));
        fill(more, items.length === 50 ? el("button", {type: "button", onclick: () => load(rows.at(-1).id).catch(context.fault)}, "Show older") : null);
        fill(empty, wanted ? "Nothing matches." : "Nothing has been changed yet.");
        empty.hidden = rows.length > 0;
        table.hidden = rows.length === 0;
    };
    await load();
    const search = el("input", {type: "search", "aria-label": "Search the audit log", placeholder: "Who, where from, what",
        oninput: debounced(250, () => { wanted = search.value; load().catch(context.fault); })});
    return {
        title: "Audit log",
        content: [el("div", {class: "head"}, el("div", {}, el("h1", {}, "Audit log"), el("p", {}, "What was changed by this page, by the API, and by the commands password and token."))),
            el("div", {class: "toolbar"}, search), table, empty, more],
    };
}
