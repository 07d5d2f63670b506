// Builds the page. Whatever comes from outside becomes a text node or an attribute's value, and never markup.

/** Makes an element: `el("p", {class: "muted"}, "text", child)`. Handlers are `onclick: …`; null and false leave out. */
export function el(tag, properties = {}, ...children) {
    const node = tag === "svg" || tag.startsWith("svg:")
        ? document.createElementNS("http://www.w3.org/2000/svg", tag.replace("svg:", ""))
        : document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
        if (value === null || value === undefined || value === false) continue;
        if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
        else if (name === "value" || name === "checked" || name === "disabled" || name === "indeterminate") node[name] = value;
        else node.setAttribute(name, value === true ? "" : String(value));
    }
    node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
    return node;
}

/** Puts `children` in the place of what `node` holds. */
export function fill(node, ...children) {
    node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

/** Text without what turns the direction of writing or is not seen: each such character as its number. */
export function visible(text) {
    return String(text).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

/** A refusal of one field, which stands beside it: without the key that it begins with. */
export const sentence = (text) => visible(text).replace(/^`[^`]*`: ?/, "").replaceAll("`", "");

let noticeTimer;
/** Says a sentence at the edge of the page, to eyes and screen readers. */
export function notice(text) {
    const place = document.getElementById("notices");
    fill(place, el("div", {}, visible(text)));
    clearTimeout(noticeTimer);
    noticeTimer = setTimeout(() => fill(place), 6000);
}

/** A dialog that is shown until it is closed; its content gets a function that closes it. */
export function dialog(title, content, {broad = false} = {}) {
    const opener = document.activeElement;
    const box = el("dialog", {"aria-labelledby": "dialog-title", class: broad ? "broad" : null});
    const close = () => box.close();
    box.append(el("h2", {id: "dialog-title"}, title), ...[content(close)].flat());
    box.addEventListener("close", () => { box.remove(); opener?.isConnected && opener.focus(); });
    document.body.append(box);
    box.showModal();
    return box;
}

/** Asks before what can't be taken back. */
export function confirmed(title, text, action, label) {
    return new Promise((resolve) => {
        const box = dialog(title, (close) => [
            el("p", {}, text),
            el("div", {class: "end"},
                el("button", {type: "button", onclick: close}, "Cancel"),
                el("button", {type: "button", class: "danger", onclick: () => { box.dataset.yes = "1"; close(); }}, label ?? action)),
        ]);
        box.addEventListener("close", () => resolve(box.dataset.yes === "1"));
    });
}

export const count = (number) => Number(number).toLocaleString("en");

export function size(bytes) {
    let value = bytes;
    for (const unit of ["B", "KiB", "MiB", "GiB"]) {
        if (value < 1000) return `${unit === "B" || value >= 10 ? Math.round(value) : value.toFixed(1)} ${unit}`;
        value /= 1024;
    }
    return `${value.toFixed(1)} TiB`;
}

export function span(seconds) {
    if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
    if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
    return `${Math.round(seconds / 86400)} d`;
}

/** An instant, in words, with the exact time beside it. */
export function when(instant) {
    const seconds = Date.now() / 1000 - instant;
    const words = Math.abs(seconds) < 1 ? "now" : seconds > 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`;
    const date = new Date(instant * 1000);
    return el("time", {datetime: date.toISOString(), title: date.toLocaleString()}, words);
}

/** A domain as it is stored, with its letters before it where it has others than ASCII. */
export function domainName(domain) {
    const shown = domain.split(".").map((label) => label.startsWith("xn--") ? fromPunycode(label.slice(4)) ?? label : label).join(".");
    return shown === domain ? domain : `${visible(shown)} (${domain})`;
}

// RFC 3492; null for what is none.
function fromPunycode(text) {
    const output = [];
    const dash = text.lastIndexOf("-");
    if (dash > 0) output.push(...text.slice(0, dash));
    let [n, i, bias, at] = [128, 0, 72, dash > 0 ? dash + 1 : 0];
    while (at < text.length) {
        const before = i;
        for (let w = 1, k = 36; ; k += 36) {
            const digit = "abcdefghijklmnopqrstuvwxyz0123456789".indexOf(text[at++]?.toLowerCase() ?? "!");
            if (digit < 0) return null;
            i += digit * w;
            const t = k <= bias ? 1 : k >= bias + 26 ? 26 : k - bias;
            if (digit < t) break;
            w *= 36 - t;
        }
        const length = output.length + 1;
        let delta = before === 0 ? Math.floor((i - before) / 700) : (i - before) >> 1;
        delta += Math.floor(delta / length);
        let k = 0;
        for (; delta > 455; k += 36) delta = Math.floor(delta / 35);
        bias = k + Math.floor(36 * delta / (delta + 38));
        n += Math.floor(i / length);
        i %= length;
        if (n > 0x10ffff) return null;
        output.splice(i++, 0, String.fromCodePoint(n));
    }
    return output.join("");
}

export function debounced(milliseconds, body) {
    let timer;
    return (...values) => { clearTimeout(timer); timer = setTimeout(() => body(...values), milliseconds); };
}

/** Where a gateway stands, as a mark and words; never by colour alone. */
export function gatewayState(gateway) {
    const {status} = gateway;
    if (status.fault) return el("span", {class: "state bad"}, "unreadable");
    if (!gateway.enabled) return el("span", {class: "state rest"}, "disabled");
    if (gateway.hold) return el("span", {class: "state warn"}, "held");
    const marks = {up: "", slow: "warn", returning: "warn", down: "bad", "no-next-hop": "bad"};
    return el("span", {class: `state ${marks[status.state] ?? "rest"}`}, visible(status.state.replace("no-next-hop", "no next hop")));
}

/** Where its mail goes. */
export function serverName(gateway) {
    return gateway.forward?.server ? `${gateway.forward.server}:${gateway.forward.port}` : "MX of the domain";
}
