// The way to /api/v1.

/** A refusal: `problem` is its document (RFC 9457). */
export class Refusal extends Error {
    constructor(status, problem) {
        super(problem.detail ?? "the server gave no reason");
        this.status = status;
        this.problem = problem;
    }
    /** The sentence about a field; null when there is none. */
    about(field) { return this.problem.errors?.find((one) => one.field === field)?.detail ?? null; }
}

let onSignedOut = () => {};
export function whenSignedOut(body) { onSignedOut = body; }

/** Asks; the answer with its `etag` and `warning`, or a `Refusal`. */
export async function request(method, path, {body, etag, signal} = {}) {
    const headers = {"Postern-Request": "page"};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (etag) headers["If-Match"] = `"${etag}"`;
    let response;
    try {
        response = await fetch(`/api/v1/${path}`, {
            method, headers, signal, credentials: "same-origin", redirect: "error",
            body: body === undefined ? undefined : JSON.stringify(body),
        });
    } catch (fault) {
        if (fault.name === "AbortError") throw fault;
        throw new Refusal(0, {detail: "the server does not answer"});
    }
    const text = await response.text();
    let value = null;
    try { value = text ? JSON.parse(text) : null; } catch { value = {detail: "the answer cannot be read"}; }
    if (!response.ok) {
        if (response.status === 401 && path !== "session") onSignedOut();
        throw new Refusal(response.status, value ?? {});
    }
    return {value, etag: response.headers.get("ETag")?.replaceAll('"', "") ?? null, warning: response.headers.get("Postern-Warning")};
}

export const get = async (path, options) => (await request("GET", path, options)).value;

/** Path segment. */
export const part = (text) => encodeURIComponent(text);

export function query(values) {
    const pairs = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
    return pairs.length ? "?" + new URLSearchParams(pairs) : "";
}

let keysKept;
/** The keys of documents, asked once. */
export function keys() { return keysKept ??= get("keys").catch((fault) => { keysKept = undefined; throw fault; }); }
