import {confirmed, el, fill, notice, visible} from "./dom.js";
import {Refusal, keys, request} from "./api.js";
import {fields, label} from "./fields.js";

export async function settings(context) {
    const [first, described] = await Promise.all([request("GET", "settings"), keys()]);
    let {value, etag} = first;
    const warning = el("div");
    const save = el("div", {class: "save"});
    const form = fields(described.settings, value, {path: "settings", onchange: () => showSave()});
    const showWarning = (text) => fill(warning, text ? el("div", {class: "callout"}, visible(text).replaceAll("`", "")) : null);
    const showSave = () => {
        const changed = Object.keys(form.changes());
        save.hidden = changed.length === 0;
        fill(save, el("span", {}, changed.length === 1 ? `${label(changed[0])} is changed` : `${changed.length} fields are changed`),
            el("button", {type: "button", onclick: () => { form.reset(value); showSave(); }}, "Discard"), el("button", {class: "primary"}, "Save"));
    };
    const store = async (changes, tag) => {
        try {
            const answer = await request("PATCH", "settings", {body: changes, etag: tag});
            ({value, etag} = answer);
            form.reset(value);
            showSave();
            showWarning(answer.warning);
            notice("Saved; it is in force.");
        } catch (fault) {
            if (!(fault instanceof Refusal)) throw fault;
            if (fault.status === 412) {
                const stored = await request("GET", "settings");
                const isMine = await confirmed("Somebody else changed the settings", "Save yours over what is stored now, or cancel and look at it.", "Save mine");
                if (isMine) return store(changes, stored.etag);
                ({value, etag} = stored);
                form.reset(value);
                return showSave();
            }
            form.show(fault.problem.errors ?? []);
            const wrong = form.first(fault);
            wrong ? wrong.input.focus() : notice(fault.message + ".");
        }
    };
    showWarning(first.warning);
    showSave();
    const box = el("form", {novalidate: true}, el("div", {class: "form"}, form.node(described.settings)), save);
    box.addEventListener("submit", (event) => { event.preventDefault(); store(form.changes(), etag); });
    return {
        title: "Settings",
        content: [el("div", {class: "head"}, el("div", {}, el("h1", {}, "Settings"), el("p", {}, "The policy of the whole server."))), warning, box],
        leave: () => Object.keys(form.changes()).length === 0 || window.confirm("Your changes are not saved. Leave anyway?"),
    };
}
