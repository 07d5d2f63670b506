// A form from the keys that the server describes: a key that is added there appears here.
import {debounced, el, fill, sentence} from "./dom.js";
import {Refusal, request} from "./api.js";

const names = {
    "enabled": "Take mail", "hold": "Hold mail", "mailDirectory": "Mail directory", "delivery.when": "Deliver",
    "forward.server": "Server", "forward.port": "Port", "forward.envelopeFrom": "Envelope sender", "forward.tls": "TLS",
    "forward.source": "Source address", "forward.concurrency": "Connections", "quota.enabled": "Limit mail",
    "quota.messages": "Messages", "quota.bytes": "Bytes", "quota.code": "Reply when full", "retry.schedule": "Retry after",
    "retry.lifetime": "Give up after", "dequeue.method": "The customer takes mail by", "dequeue.user": "Customer",
    "dequeue.secret": "Secret", "dequeue.atrn.requireAuthentication": "Require a login", "dequeue.atrn.requireAddress": "Only from",
    "dequeue.atrn.holdOpen": "Hold open", "dequeue.etrn.server": "Server", "dequeue.etrn.port": "Port",
    "dequeue.etrn.sendToRequester": "Send to who asks", "dequeue.etrn.allow": "May ask", "dequeue.etrn.deny": "May never ask",
    "dequeue.etrn.requireAuthentication": "Require a login", "dequeue.mailbox.user": "User", "dequeue.mailbox.password": "Password",
    "dequeue.mailbox.pop3": "POP3", "dequeue.mailbox.imap": "IMAP", "dequeue.mailbox.readOnly": "Read only", "postmaster": "Postmaster", "smarthost": "Smarthost", "quotaCode": "Reply when full",
};

const choices = {
    "delivery.when": {immediately: "At once", onContact: "When asked for"},
    "forward.tls": {none: "Never", may: "When offered", encrypt: "Always", verify: "Always, with a trusted certificate"},
    "dequeue.method": {none: "No way of his own", atrn: "ATRN, over his connection", etrn: "ETRN, to his server", mailbox: "POP3, from a mailbox here"},
    "quota.code": {452: "452, the sender tries again", 552: "552, the sender gives up", "": "As in the settings"},
    "quotaCode": {452: "452, the sender tries again", 552: "552, the sender gives up"},
};

// In plainer words than the reference has; another key shows what the reference says.
const helps = {
    "mailDirectory": "Where its messages are kept, below the data folder. Chosen when the gateway is made.",
    "forward.server": "A name (its MX records first, then its address), a name in brackets or an IP address (no MX). Empty: the MX records of the domain itself.",
    "forward.port": "25 for nearly everybody.",
    "forward.envelopeFrom": "Takes the place of the sender in the envelope. Empty: it stays as it was.",
    "forward.source": "Our address on connections to the server. Empty: the system chooses.",
    "forward.concurrency": "How many at a time, at most.",
    "quota.enabled": "Whether the two limits below hold.",
    "quota.messages": "How many may wait. 0: no limit.",
    "quota.bytes": "How much may wait, such as 500M or 10G. 0: no limit.",
    "quota.code": "What senders are told beyond a limit.",
    "retry.schedule": "The waits after the first, second, … failed attempt, such as 1m, 15m, 1h. The last one repeats.",
    "retry.lifetime": "After this long a message goes back to its sender: 5d, 24h, or never.",
    "dequeue.method": "How the customer comes for his mail. A server under Forwarding may stand beside it.",
    "dequeue.user": "The name by which he logs in for ATRN and ETRN. Gateways with the same name are one customer. Empty: the domain.",
    "dequeue.secret": "His secret for ATRN and ETRN, at one of his gateways. It is never shown again.",
    "dequeue.atrn.requireAuthentication": "When off, the address alone says who asks, and the list below must name some.",
    "dequeue.atrn.requireAddress": "Addresses or networks from which he may come. Empty: from anywhere.",
    "dequeue.atrn.holdOpen": "When on, the connection stays open and new mail goes out at once.",
    "dequeue.etrn.server": "Where the mail goes when he asks. Empty: the server under Forwarding.",
    "dequeue.etrn.port": "25 for nearly everybody.",
    "dequeue.etrn.sendToRequester": "When on, the mail goes to the address that asked.",
    "dequeue.etrn.allow": "Addresses or networks that may ask. Empty: nobody, or with a login everybody.",
    "dequeue.etrn.deny": "Addresses or networks that may not, whatever the list above says.",
    "dequeue.etrn.requireAuthentication": "When on, he logs in with customer and secret first.",
    "dequeue.mailbox.user": "The name by which POP3 logs in. Empty: the domain.",
    "dequeue.mailbox.password": "It is never shown again. Empty: nobody can log in.",
    "dequeue.mailbox.pop3": "Whether POP3 may open it.",
    "dequeue.mailbox.readOnly": "When on, nothing can be deleted, and any way under Dequeuing may stand beside it.",
    "postmaster": "Where mail to Postmaster without a domain goes. Empty: it is kept held in @system.",
    "smarthost": "HOST:PORT of the relay for bounces and other mail of our own. Empty: sent directly.",
    "quotaCode": "For gateways that say nothing else.",
    "enabled": "When off, its mail is refused with 450 4.2.1, so that senders come back.",
    "hold": "When on, mail is accepted and nothing leaves.",
    "delivery.when": "When asked for: nothing is pushed until you flush the queue.",
    "forward.tls": "With the last two nothing is ever sent in plaintext: mail waits instead.",
};

/** `forward.envelopeFrom` as words: "Envelope from". */
export function label(key) {
    if (names[key]) return names[key];
    const words = key.split(".").at(-1).replace(/([A-Z])/g, (c) => " " + c.toLowerCase());
    return words[0].toUpperCase() + words.slice(1);
}

/** The value of a dotted key. */
export const at = (document, key) => key.split(".").reduce((value, name) => value?.[name], document);

// A value as the field shows it, and back.
const shown = (key, value) => value === null || value === undefined ? "" : key.kind === "list" ? value.join(", ") : String(value);
function read(key, input) {
    if (key.kind === "flag") return input.checked;
    const text = input.value.trim();
    if (text === "") return null;
    if (key.kind === "number") return /^-?\d{1,15}$/.test(text) ? Number(text) : text;
    if (key.kind === "list") return text.split(",").map((one) => one.trim()).filter((one) => one !== "");
    return text;
}

/**
 * Fields for `keys` of `document`. `check` is a path that tells what is wrong with changes.
 * Returns `{node(keys), changes(), show(fault), reset(document), isChanged()}`.
 */
export function fields(keys, document, {path, onchange}) {
    const made = new Map();
    let base = document;

    const validate = debounced(300, async () => {
        const body = changes();
        if (Object.keys(body).length === 0) return show([]);
        // What cannot be asked now is asked again when it is saved.
        try { show((await request("PATCH", `${path}?dryRun=true`, {body})).value.errors); } catch (fault) { if (!(fault instanceof Refusal)) throw fault; }
    });

    const make = (key) => {
        const id = `field-${key.key.replaceAll(".", "-")}`;
        const described = `${id}-help ${id}-error`;
        const changed = () => { onchange?.(); validate(); };
        let input;
        const value = at(base, key.key);
        if (key.kind === "flag") {
            input = el("input", {type: "checkbox", id, checked: value === true, "aria-describedby": described, onchange: changed});
        } else if (key.kind === "choice") {
            const words = key.isNullable ? ["", ...key.words] : key.words;
            input = el("select", {id, "aria-describedby": described, onchange: changed},
                words.map((word) => el("option", {value: word}, choices[key.key]?.[word] ?? (word || "Default"))));
            input.value = shown(key, value);
        } else {
            const placeholder = key.standard === "null" ? "" : key.standard.replace(/^\[|\]$/g, "").replaceAll("DOMAIN", base.domain ?? "DOMAIN");
            const type = /\.(secret|password)$/.test(key.key) ? "password" : "text";
            input = el("input", {type, id, value: shown(key, value), placeholder, autocomplete: type === "password" ? "new-password" : "off", autocapitalize: "none", spellcheck: "false",
                inputmode: key.kind === "number" ? "numeric" : null, "aria-describedby": described, oninput: changed});
        }
        const error = el("p", {class: "error", id: `${id}-error`, role: "alert"});
        const node = el("div", {class: `field ${key.kind}`}, el("label", {for: id}, label(key.key)), el("div", {class: "input"}, input),
            el("p", {class: "help", id: `${id}-help`}, (helps[key.key] ?? key.help).replaceAll("`", "")), error);
        made.set(key.key, {key, input, node, error});
        return node;
    };

    const isSame = (a, b) => JSON.stringify(a ?? null) === JSON.stringify(b ?? null);
    const changes = () => {
        const body = {};
        for (const [name, {key, input}] of made) {
            const before = at(base, name);
            const now = read(key, input);
            const old = key.kind === "flag" ? before === true : shown(key, before) === "" ? null : before;
            if (!isSame(key.kind === "flag" || key.kind === "list" ? now : now === null ? null : String(now),
                key.kind === "flag" || key.kind === "list" ? old : old === null ? null : String(old))) body[name] = now;
        }
        return body;
    };
    const show = (faults) => {
        for (const [name, {input, error}] of made) {
            const text = faults.find((one) => one.field === name)?.detail;
            fill(error, text ? sentence(text) : null);
            text ? input.setAttribute("aria-invalid", "true") : input.removeAttribute("aria-invalid");
        }
    };
    return {
        node: (wanted) => wanted.map((key) => made.get(key.key)?.node ?? make(key)),
        changes, show,
        isChanged: () => Object.keys(changes()).length > 0,
        /** Shows another state, such as the one that is stored now; `keeping` changes that are not saved. */
        reset: (next, keeping = {}) => {
            base = next;
            for (const [name, {key, input}] of made) {
                const value = name in keeping ? keeping[name] : at(base, name);
                if (key.kind === "flag") input.checked = value === true; else input.value = shown(key, value);
            }
            show([]);
        },
        /** The first field that a refusal is about. */
        first: (fault) => [...made.values()].find(({key}) => fault.about(key.key)),
    };
}
