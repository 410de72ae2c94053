// Helpers for all parts of the dashboard: elements, requests, and texts.

// Milliseconds to wait for a response: longer than the service takes to answer with 503.
const TIMEOUT = 20000;
// Milliseconds by which the clocks of the browser and the service may differ.
const TOLERANCE = 5000;

export const find = (id) => document.getElementById(id);

/** Create an element with properties and children. */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Set a text only if it differs, since a live region announces every change. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show the outcome of a request, a text or parts of one, in its form. */
export function tell(form, text, outcome = "") {
  const sentence = form.querySelector(".outcome");
  sentence.replaceChildren(...[text].flat());
  sentence.dataset.outcome = outcome;
}

// What ask() returns if something else responded, such as the login page of a proxy.
const FOREIGN = { foreign: true, response: { ok: false, status: 502 }, body: {} };

/**
 * Send a request; returns { response, body }, or null if the service didn't respond.
 *
 * member: a member that the body of a successful response has; without it, the body is true.
 */
export async function ask(path, member = null, options = {}) {
  try {
    const response = await fetch(path, { ...options, signal: AbortSignal.timeout(TIMEOUT) });
    if (!response.ok && !isProblem(response)) return null; // an error of a proxy
    const body = await response.json();
    if (response.ok && !(member ? body?.[member] !== undefined : body === true)) return FOREIGN;
    compareClocks(response);
    return { response, body };
  } catch (error) {
    return error instanceof SyntaxError ? FOREIGN : null; // not JSON, or no response
  }
}

const isProblem = (response) =>
  response.headers.get("Content-Type")?.startsWith("application/problem+json");

let ahead = 0; // milliseconds by which the service's clock is ahead of the browser's

function compareClocks(response) {
  const difference = Date.parse(response.headers.get("Date")) - Date.now();
  if (Math.abs(difference - ahead) > TOLERANCE) ahead = difference;
}

/** The service's current time. */
export const now = () => new Date(Date.now() + ahead);

/** A typed or pasted id, without the white space around it, which no id has. */
export const trimmed = (text) => text.replace(/^\p{White_Space}+|\p{White_Space}+$/gu, "");

/** An element for an id in a sentence. The direction of its script doesn't affect other words. */
export const isolated = (id) => make("bdi", { textContent: id });

/** An id as a segment of a path. */
function segment(id) {
  // Browsers resolve these in a path, even percent-encoded. They aren't valid ids, and nor is this.
  return id === "." || id === ".." ? "%00" : encodeURIComponent(id);
}

export const packageOf = (id) => `packages/${segment(id)}`;

export const preferencesOf = (recipient) => `recipients/${segment(recipient)}/preferences`;

/** A time of day, in UTC like the timestamps of the API. */
export const timeOfDay = (date) => `${date.toISOString().slice(11, 19)} UTC`;

/** A timestamp of the API, formatted for display, to the second. */
export const inSeconds = (timestamp) =>
  timestamp.replace(/\.\d+/, "").replace("T", " ").replace("Z", " UTC");

/** The element of a timestamp of the API. */
export const time = (timestamp) =>
  make("time", { dateTime: timestamp, textContent: inSeconds(timestamp) });

/** The parts of a sentence that describes a decision, without a full stop. */
export function decisionInWords(decision) {
  const { status, recipient_id, package_type, decided_at, declined_at } = decision;
  if (status === "delivered") return ["Delivered"];
  const recipient = isolated(recipient_id);
  if (declined_at) {
    return ["Dropped: ", recipient, ` declined ${package_type} on ${inSeconds(declined_at)}`];
  }
  if (!decided_at) return ["Dropped: ", recipient, ` did not want ${package_type}`];
  return [
    `Dropped: ${package_type} is unwanted by default, and `, recipient, " did not ask for it",
  ];
}

/** Describe what ask() returned for a request that failed. */
export function failureInWords(answer) {
  if (answer === null) return "No response: the service is unreachable.";
  if (answer.foreign) return "Something else responded instead of the service.";
  const { response, body } = answer;
  // A 503 isn't a rejection: it isn't counted as one, and a retry may succeed.
  if (response.status >= 500) return `Failed: ${body.detail}.`;
  const [error] = body.errors ?? [];
  return `Rejected: ${error?.parameter ? `${error.parameter} ${error.detail}` : body.detail}.`;
}

/** The parts of a sentence that describes a successful response to a write. */
export function inWords({ response, body }) {
  if (body.status === undefined) {
    if (body.applied) return ["Applied: these are the current preferences."];
    return [`Not applied: the current preferences are newer (${inSeconds(body.updated_at)}).`];
  }
  const replayed = response.headers.has("Idempotent-Replayed");
  const repeated = ". This package was decided before, so nothing was counted again";
  return [...decisionInWords(body), replayed ? repeated : "", "."];
}

/** Quote for a POSIX shell. */
export function quote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
