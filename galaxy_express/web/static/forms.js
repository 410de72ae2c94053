// The forms that send requests. Their fields come from the API description.

import {
  ask, failureInWords, find, inSeconds, inWords, make, now, preferencesOf, quote, say, tell, time,
} from "./common.js";
import { PagedList } from "./packages.js";
import { showVersion } from "./totals.js";

const TYPING = 300; // milliseconds without a key press before a recipient is looked up

/** The item of an update in the history. */
function updateItem({ timestamp, received_at, applied, ...preferences }) {
  const named = Object.entries(preferences)
    .filter(([, value]) => typeof value === "boolean")
    .map(([name, value]) => `${name.replace(/_preference$/, "")} ${value ? "wanted" : "declined"}`);
  return make("li", { tabIndex: -1 },
    make("b", { textContent: named.join(", ") }),
    make("small", {}, time(timestamp), ", received ", time(received_at)),
    make("small", { textContent: applied ? "Applied." : "Not applied: it was older." }));
}

const newId = () => {
  const bytes = crypto.getRandomValues(new Uint8Array(4));
  return `pkg-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
};

const INITIAL = { sender_id: () => "zap", recipient_id: () => "scruffy", package_id: newId };
const NOTHING_CHANGED = "Choose a preference to change.";
const HINTS = { timestamp: "If empty, the service's current time is used." };

/** A form built from the JSON Schema of a request. */
class RequestForm {
  /**
   * id: the id of the form element.
   * parameters: the names of the fields that go into the path.
   * member: a member of a successful response.
   * target: builds the path from the values.
   */
  constructor(id, method, parameters, member, target) {
    this.form = find(id);
    this.method = method;
    this.parameters = parameters;
    this.member = member;
    this.target = target;
    this.form.addEventListener("input", () => this.preview());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
  }

  prepare(schema) {
    this.schema = schema;
    const names = Object.keys(schema.properties).filter((name) => !this.parameters.includes(name));
    names.sort((a, b) => (a === "timestamp") - (b === "timestamp"));
    this.names = names;
    const fields = [...this.parameters, ...names].map((name) =>
      this.field(name, schema.properties[name]));
    this.form.querySelector(".fields").replaceChildren(...fields);
    this.preview();
  }

  field(name, schema) {
    const id = `${this.form.id}-${name}`;
    const error = make("small", { className: "error", id: `${id}-error` });
    let field;
    if (schema.type === "boolean") {
      const choices = [["true", "wanted"]];
      if (schema.const !== true) choices.push(["false", "declined"]);
      field = make("fieldset", { className: "field" },
        make("legend", { textContent: name }),
        make("div", { className: "choices" }, ...choices.map(([value, text]) =>
          make("label", {}, make("input", { type: "radio", name, value }), text))));
    } else {
      const choices = schema.enum ?? (schema.const && [schema.const]);
      const input = choices
        ? make("select", { name, id }, ...choices.map((value) => make("option", { textContent: value })))
        : make("input", {
          type: "text", name, id, value: INITIAL[name]?.() ?? "",
          autocomplete: "off", autocapitalize: "off", spellcheck: false,
        });
      field = make("div", { className: "field" },
        make("label", { htmlFor: id, textContent: name }), input);
      const hint = make("small", { textContent: HINTS[name] ?? "", id: `${id}-hint` });
      field.append(hint);
      input.setAttribute("aria-describedby", `${hint.id} ${error.id}`);
    }
    field.append(error);
    return field;
  }

  /** Return the path and the body of the request. */
  request() {
    const data = Object.fromEntries(new FormData(this.form));
    const body = {};
    for (const name of this.names) {
      if (name === "timestamp") body[name] = data[name] || now().toISOString();
      else if (this.schema.properties[name].type !== "boolean") body[name] = data[name];
      else if (data[name] && this.includes(name, data[name])) body[name] = data[name] === "true";
    }
    return { path: this.target(data), body: JSON.stringify(body, null, 2) };
  }

  /** Whether the request includes a boolean field with this value. */
  includes() {
    return true;
  }

  preview() {
    this.show(this.request());
  }

  show({ path, body }) {
    const method = this.method === "POST" ? "" : ` -X ${this.method}`;
    const url = new URL(path, document.baseURI).href;
    this.form.querySelector(".request").textContent =
      `curl -i${method} ${quote(url)} \\\n-d ${quote(body)}`;
  }

  async submit() {
    if (this.busy) return;
    this.busy = true;
    this.tell("Sending …");
    const request = this.request();
    this.show(request);
    const answer = await ask(request.path, this.member, { method: this.method, body: request.body });
    this.busy = false;
    this.showAnswer(answer);
    forms.changed();
  }

  tell(text, outcome = "") {
    tell(this.form, text, outcome);
  }

  showAnswer(answer) {
    const shown = this.form.querySelector(".answer");
    if (answer === null || answer.foreign) {
      this.tell(`${failureInWords(answer)} A retry is safe.`, "rejected");
      shown.textContent = "None.";
      this.showErrors([]);
    } else {
      const { response, body } = answer;
      const headers = ["Location", "Idempotent-Replayed", "Retry-After"]
        .filter((name) => response.headers.has(name))
        .map((name) => `${name}: ${response.headers.get(name)}\n`);
      shown.textContent =
        `${response.status} ${response.statusText}\n${headers.join("")}\n${JSON.stringify(body, null, 2)}`;
      if (response.ok) this.tell(inWords(answer), body.status);
      else this.tell(failureInWords(answer), "rejected");
      this.showErrors(fieldErrors(response, body, this.parameters));
    }
  }

  showErrors(errors) {
    for (const name of [...this.parameters, ...this.names]) {
      const own = errors.filter((error) => error.pointer === `#/${name}`);
      const id = `${this.form.id}-${name}`;
      find(`${id}-error`).textContent = own.map((error) => error.detail).join("; ");
      find(id)?.setAttribute("aria-invalid", String(own.length > 0));
    }
  }
}

/** The preferences form. It can only be submitted while it shows the stored preferences. */
class PreferencesForm extends RequestForm {
  history = new PagedList(find("history"), "updates", updateItem, "No updates yet.");
  stored = null; // the stored preferences, or null while they are unknown
  unreadable = false; // whether the service rejects the recipient_id

  prepare(schema) {
    super.prepare(schema);
    this.recipient = find("prefer-recipient_id");
    this.hint = find("prefer-recipient_id-hint");
    this.hint.setAttribute("role", "status");
    this.recipient.addEventListener("input", () => {
      this.lock();
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.load(), TYPING);
    });
    this.lock();
    this.load();
  }

  lock() {
    this.stored = null;
    this.unreadable = false;
    this.history.clear();
    this.enable(false);
    say(this.hint, "");
    this.tell("");
    this.showErrors([]);
  }

  enable(enabled) {
    for (const control of this.form.querySelectorAll("[type=radio], button")) {
      control.disabled = !enabled;
      if (!enabled) control.checked = false;
    }
    this.preview();
  }

  /** Load the stored preferences, and show them if they have changed. */
  async load() {
    const id = this.recipient.value;
    const { stored } = this;
    if (!id || this.unreadable) return;
    if (!stored && !this.hint.textContent) say(this.hint, "Searching …");
    const answer = await ask(this.target({ recipient_id: id }), this.member);
    if (id !== this.recipient.value || stored !== this.stored) return; // the answer is out of date
    if (answer?.response.ok) {
      const preferences = answer.body;
      if (Object.keys(preferences).every((name) => preferences[name] === stored?.[name])) {
        await this.history.refresh(); // updates that were not applied are only there
        return;
      }
      if (stored) this.tell(""); // the outcome of the last update is out of date
      this.showStored(preferences, this.chosen());
    } else if (answer && answer.response.status < 500) {
      this.unreadable = true;
      say(this.hint, "");
      this.showErrors(fieldErrors(answer.response, answer.body, this.parameters));
    } else if (!stored) {
      say(this.hint, "The stored preferences can't be read. Trying again.");
    }
  }

  /** The names of the preferences that differ from the stored ones. */
  chosen() {
    return Object.keys(JSON.parse(this.request().body)).filter((name) => name !== "timestamp");
  }

  /** Show the stored preferences, except for the named ones. */
  showStored(preferences, except = []) {
    this.stored = preferences;
    this.enable(true);
    for (const radio of this.form.querySelectorAll("[type=radio]")) {
      if (except.includes(radio.name)) continue;
      radio.checked = radio.value === String(preferences[radio.name]);
    }
    const updated = preferences.updated_at;
    say(this.hint, updated
      ? `Stored preferences, last updated ${inSeconds(updated)}.`
      : "Nothing is stored: these are the defaults.");
    say(find("prefer-timestamp-hint"), updated && new Date(updated) > now()
      ? "The last update is in the future: only updates with a later timestamp are applied."
      : HINTS.timestamp);
    this.preview();
    this.history.load(`${preferencesOf(this.recipient.value)}/history`);
  }

  /** Whether the request includes a preference: only if it changes. */
  includes(name, value) {
    return value !== String(this.stored[name]);
  }

  show(request) {
    if (this.chosen().length) super.show(request);
    else this.form.querySelector(".request").textContent = NOTHING_CHANGED;
  }

  async submit() {
    if (this.busy) return;
    if (!this.chosen().length) {
      this.tell(NOTHING_CHANGED);
      return;
    }
    this.recipient.readOnly = true; // the outcome is that of the recipient in the form
    await super.submit();
    this.recipient.readOnly = false;
  }

  showAnswer(answer) {
    super.showAnswer(answer);
    if (answer?.response.ok && answer.body.recipient_id === this.recipient.value) {
      this.showStored(answer.body);
    }
  }
}

/** Match errors to fields. Only one parameter of a rejected path can be invalid. */
function fieldErrors({ status }, { errors, detail }, parameters) {
  if (errors || ![404, 422].includes(status)) return errors ?? [];
  return parameters.map((name) => ({ pointer: `#/${name}`, detail }));
}

export const forms = {
  ready: false,
  changed: () => {}, // called after each request
  send: new RequestForm("send", "POST", [], "package_id", () => "packages"),
  prefer: new PreferencesForm("prefer", "PATCH", ["recipient_id"], "recipient_id",
    (data) => preferencesOf(data.recipient_id)),

  async prepare() {
    const answer = await ask("openapi.json", "components");
    if (!answer?.response.ok) return;
    const { schemas } = answer.body.components;
    this.send.prepare(schemas.Package);
    this.prefer.prepare(schemas.PartialPreferenceUpdate);
    find("new-id").addEventListener("click", () => {
      find("send-package_id").value = newId();
      this.send.preview();
    });
    find("requests").hidden = false;
    showVersion(answer.body.info.version);
    this.ready = true;
  },
};
