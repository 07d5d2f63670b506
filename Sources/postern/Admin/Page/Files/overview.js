import {count, domainName, el, fill, gatewayState, size, span, visible, when} from "./dom.js";
import {get, part} from "./api.js";
import {perMinute, plot, spark, thinned} from "./plot.js";

export async function overview(context) {
    const [status, history, waiting, down] = await Promise.all([
        get("status"), get("history"),
        get("gateways?state=waiting&sort=queued&order=desc&limit=8"), get("gateways?state=down&limit=8"),
    ]);
    const oldest = waiting.total ? (await get("gateways?state=waiting&sort=oldest&limit=1")).items[0] : null;
    const own = await Promise.all(waiting.items.map((gateway) => get(`history?domain=${part(gateway.domain)}`)));

    const figures = el("dl", {class: "figures"});
    const rate = {accepted: null, delivered: null};
    let last = null;
    const showFigures = (now) => {
        if (last && now.startedAt === last.status.startedAt) {
            const seconds = (performance.now() - last.at) / 1000;
            if (seconds > 4) {
                for (const key of Object.keys(rate)) rate[key] = Math.max(0, now[key] - last.status[key]) / seconds * 60;
                last = {status: now, at: performance.now()};
            }
        } else last = {status: now, at: performance.now()};
        const perMinuteNow = (key) => {
            const points = perMinute(history.samples, key);
            return rate[key] ?? points.at(-1)?.[1] ?? null;
        };
        const figure = (name, value, unit) => el("div", {}, el("dt", {}, name), el("dd", {}, value, unit ? el("small", {}, ` ${unit}`) : null));
        const number = (value) => value === null ? "–" : count(Math.round(value));
        fill(figures,
            figure("In the queue", count(now.queued), now.held ? `${count(now.held)} held` : null),
            figure("Accepted", number(perMinuteNow("accepted")), "per minute"),
            figure("Delivered", number(perMinuteNow("delivered")), "per minute"),
            figure("Clients connected", count(now.reactors.reduce((sum, one) => sum + one.sessions, 0))),
            figure("Oldest message", oldest ? span(Date.now() / 1000 - oldest.status.oldest) : "–"),
            figure("Gateways", count(now.gateways), down.total ? `${count(down.total)} down` : null));
    };

    const head = el("p", {});
    const warnings = el("div", {});
    const showHead = (now) => {
        fill(head, `Version ${now.version} with ${now.io}, running for ${span(Date.now() / 1000 - now.startedAt)}`);
        fill(warnings,
            now.ready ? null : el("div", {class: "callout bad", role: "alert"}, "Not ready: ", visible(now.notReady ?? "starting"), "."),
            now.alarms.map((alarm) => el("div", {class: "callout bad"}, visible(alarm))));
    };
    showFigures(status);
    showHead(status);

    const points = (key) => thinned(history.samples.map((sample) => [sample.at, sample[key] ?? 0]));
    const plots = el("div", {class: "plots"},
        plot("In the queue", [{name: "messages", points: points("queued")}], {filled: true}),
        plot("Messages per minute", [
            {name: "accepted", points: thinned(perMinute(history.samples, "accepted"))},
            {name: "delivered", points: thinned(perMinute(history.samples, "delivered"))},
        ]));

    const link = (gateway) => el("a", {href: `#/gateways/${part(gateway.domain)}`}, domainName(gateway.domain));
    const downList = down.total === 0 ? null : el("section", {}, el("h2", {}, "Servers that do not answer"),
        el("div", {class: "table stack"}, el("table", {},
            el("thead", {}, el("tr", {}, ["Gateway", "Last failure", "Waiting"].map((name, i) => el("th", {class: i === 2 ? "right" : null, scope: "col"}, name)))),
            el("tbody", {}, down.items.map((gateway) => el("tr", {},
                el("td", {}, link(gateway)), el("td", {class: "wide"}, visible(gateway.status.detail)),
                el("td", {class: "right", "data-label": "waiting"}, count(gateway.status.queued))))))),
        down.total > down.items.length ? el("p", {class: "pager"}, el("a", {href: "#/gateways?state=down"}, `All ${count(down.total)}`)) : null);

    const fullest = el("section", {}, el("h2", {}, "Most mail waiting"),
        waiting.total === 0 ? el("p", {class: "muted"}, "Nothing waits: all mail has been handed on.") :
            el("div", {class: "table stack"}, el("table", {},
                el("thead", {}, el("tr", {},
                    ["Gateway", "State", "Last hours", "Oldest", "Size", "Messages"].map((name, i) => el("th", {class: i > 3 ? "right" : null, scope: "col"}, name)))),
                el("tbody", {}, waiting.items.map((gateway, i) => el("tr", {},
                    el("td", {}, link(gateway)), el("td", {}, gatewayState(gateway)),
                    el("td", {}, spark(own[i].samples.map((sample) => [sample.at, sample.queued]), `Queue of ${gateway.domain} over the last hours`)),
                    el("td", {"data-label": "oldest"}, gateway.status.oldest ? when(gateway.status.oldest) : ""),
                    el("td", {class: "right"}, size(gateway.status.bytes)),
                    el("td", {class: "right", "data-label": "messages"}, count(gateway.status.queued))))))));

    return {
        title: "Overview",
        content: [
            el("div", {class: "head"}, el("div", {}, el("h1", {}, status.hostname), head)),
            warnings, figures, el("section", {class: "block"}, el("h2", {class: "hidden-text"}, "Over time"), plots), downList, fullest,
        ],
        live: (name, value) => {
            if (name === "status") { showFigures(value); showHead(value); }
            if (name === "unavailable") fill(warnings, el("div", {class: "callout bad", role: "alert"}, visible(value.detail), "."));
        },
    };
}
