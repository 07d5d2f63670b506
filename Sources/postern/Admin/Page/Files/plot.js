import {count, el, fill} from "./dom.js";

const [width, height, left, right, top, bottom] = [560, 170, 44, 8, 8, 22];

// Round numbers for an axis from 0 to at least `most`.
function steps(most) {
    if (most <= 4) return [0, 1, 2, 3, 4].slice(0, Math.max(2, Math.ceil(most) + 1));
    const rough = most / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough);
    return Array.from({length: Math.ceil(most / step) + 1}, (_, i) => i * step);
}

const short = (n) => n >= 1e6 ? `${n / 1e6}M` : n >= 1e4 ? `${n / 1e3}k` : String(n);
const clock = (at, exact = false) => new Date(at * 1000).toLocaleTimeString("en-GB", {hour: "2-digit", minute: "2-digit", second: exact ? "2-digit" : undefined});

/** Lines over time. `series`: `[{name, points: [[at, number]]}]`, one or two of them; the first may be filled. */
export function plot(title, series, {unit = "", filled = false} = {}) {
    const read = el("span", {class: "read"});
    const caption = el("figcaption", {}, title,
        series.length > 1 ? series.map((one, i) => el("span", {class: i ? "key second" : "key"}, one.name)) : null, read);
    const all = series.flatMap((one) => one.points);
    if (series[0].points.length < 2) {
        return el("figure", {}, caption, el("p", {class: "empty"}, "Nothing to draw yet: the first minutes are being gathered."));
    }
    const times = all.map(([at]) => at);
    const [from, to] = [Math.min(...times), Math.max(...times)];
    const ticks = steps(Math.max(...all.map(([, n]) => n), 1));
    const most = ticks.at(-1);
    const x = (at) => left + (at - from) / (to - from || 1) * (width - left - right);
    const y = (n) => top + (1 - n / most) * (height - top - bottom);
    const line = (points) => points.map(([at, n], i) => `${i ? "L" : "M"}${x(at).toFixed(1)} ${y(n).toFixed(1)}`).join("");
    const summary = series.map((one) => {
        const numbers = one.points.map(([, n]) => n);
        return `${one.name}: now ${count(Math.round(numbers.at(-1)))}, at most ${count(Math.round(Math.max(...numbers)))}`;
    }).join("; ");
    const cross = el("svg:line", {class: "cross", y1: top, y2: height - bottom, visibility: "hidden"});
    const svg = el("svg", {class: "plot", viewBox: `0 0 ${width} ${height}`, role: "img",
        "aria-label": `${title} from ${clock(from)} to ${clock(to)}. ${summary}.`},
        ticks.map((n) => [
            el("svg:line", {class: "grid", x1: left, x2: width - right, y1: y(n), y2: y(n)}),
            el("svg:text", {x: left - 8, y: y(n) + 4, "text-anchor": "end"}, short(n)),
        ]),
        [0, 1, 2, 3].map((i) => {
            const at = from + (to - from) * i / 3;
            return el("svg:text", {x: x(at), y: height - 6, "text-anchor": i === 0 ? "start" : i === 3 ? "end" : "middle"}, clock(at, to - from < 600));
        }),
        filled ? el("svg:path", {class: "area", d: `${line(series[0].points)}L${x(to)} ${y(0)}L${x(from)} ${y(0)}Z`}) : null,
        series.map((one, i) => el("svg:path", {class: i ? "line second" : "line", d: line(one.points)})),
        cross);
    svg.addEventListener("pointermove", (event) => {
        const box = svg.getBoundingClientRect();
        const at = from + ((event.clientX - box.left) / box.width * width - left) / (width - left - right) * (to - from);
        const near = (points) => points.reduce((best, point) => Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best);
        const point = near(series[0].points);
        cross.setAttribute("x1", x(point[0]));
        cross.setAttribute("x2", x(point[0]));
        cross.setAttribute("visibility", "visible");
        fill(read, `${clock(point[0], true)}  ${series.map((one) => count(Math.round(near(one.points)[1]))).join(" / ")}${unit}`);
    });
    svg.addEventListener("pointerleave", () => { cross.setAttribute("visibility", "hidden"); fill(read); });
    return el("figure", {}, caption, svg);
}

/** A line without axes, for a row of a table. */
export function spark(points, label) {
    if (points.length < 2) return el("span", {class: "muted"}, "");
    const most = Math.max(...points.map(([, n]) => n), 1);
    const [from, to] = [points[0][0], points.at(-1)[0]];
    const d = points.map(([at, n], i) =>
        `${i ? "L" : "M"}${((at - from) / (to - from || 1) * 108 + 1).toFixed(1)} ${(20 - n / most * 18).toFixed(1)}`).join("");
    return el("svg", {class: "spark", viewBox: "0 0 110 22", role: "img", "aria-label": label}, el("svg:path", {d}));
}

/** Differences of a growing count, per minute; a restart begins at 0 again. */
export function perMinute(samples, key) {
    const points = [];
    for (let i = 1; i < samples.length; i++) {
        const [a, b] = [samples[i - 1], samples[i]];
        const grown = b[key] >= a[key] ? b[key] - a[key] : b[key];
        points.push([b.at, grown / Math.max(1, b.at - a.at) * 60]);
    }
    return points;
}

/** At most `most` points: the mean of neighbours. */
export function thinned(points, most = 280) {
    const each = Math.ceil(points.length / most);
    if (each <= 1) return points;
    const thin = [];
    for (let i = 0; i < points.length; i += each) {
        const group = points.slice(i, i + each);
        thin.push([group.at(-1)[0], group.reduce((sum, [, n]) => sum + n, 0) / group.length]);
    }
    return thin;
}
