// Helpers for all parts of the dashboard: elements, requests, and texts.

const TIMEOUT = 5000; // milliseconds to wait for a response

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

/** Show the outcome of a request in its form. */
export function tell(form, text, outcome = "") {
  const sentence = form.querySelector(".outcome");
  sentence.textContent = text;
  sentence.dataset.outcome = outcome;
}

/** Send a request; returns { response, body }, or null if there was no response. */
export async function ask(path, options = {}) {
  try {
    const response = await fetch(path, { ...options, signal: AbortSignal.timeout(TIMEOUT) });
    return { response, body: await response.json() };
  } catch {
    return null;
  }
}

export const preferencesOf = (recipient) =>
  `recipients/${encodeURIComponent(recipient)}/preferences`;

export const timeOfDay = (date) => date.toLocaleTimeString("en-GB");

/** A timestamp of the API, formatted for display, to the second. */
export const inSeconds = (timestamp) =>
  timestamp.replace(/\.\d+/, "").replace("T", " ").replace("Z", " UTC");

/** The element of a timestamp of the API. */
export const time = (timestamp) =>
  make("time", { dateTime: timestamp, textContent: inSeconds(timestamp) });

/** Describe a decision in words, without a full stop. */
export function decisionInWords(decision) {
  const { status, recipient_id, package_type, decided_at, declined_at } = decision;
  if (status === "delivered") return "Delivered";
  if (declined_at) {
    return `Dropped: ${recipient_id} declined ${package_type} on ${inSeconds(declined_at)}`;
  }
  if (!decided_at) return `Dropped: ${recipient_id} did not want ${package_type}`;
  return `Dropped: ${package_type} is unwanted by default, and ${recipient_id} did not ask for it`;
}

/** Describe a response in a sentence. */
export function inWords(response, body) {
  if (!response.ok) return `Rejected: ${body.detail}.`;
  if (body.status === undefined) {
    if (body.applied) return "Applied: these are the current preferences.";
    return `Not applied: the current preferences are newer (${inSeconds(body.updated_at)}).`;
  }
  const replayed = response.headers.has("Idempotent-Replayed");
  const repeated = ". This package was decided before, so nothing was counted again";
  return `${decisionInWords(body)}${replayed ? repeated : ""}.`;
}

/** Quote for a POSIX shell. */
export function quote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
