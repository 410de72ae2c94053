// The dashboard: polls the totals, draws their rates, finds packages, and sends requests.
// The fields of the request forms come from the API description.

const POLL = 2000; // milliseconds between two polls
const TIMEOUT = 5000; // milliseconds to wait for an answer
const TYPING = 300; // milliseconds without a key after which a recipient is looked up
const WINDOW = 300; // seconds that the chart shows
const RECENT = 10; // seconds over which the current rate is measured: over fewer, it flickers

const KINDS = ["delivered", "dropped", "rejected"];

const find = (id) => document.getElementById(id);

/** Make an element: its name, its properties, what is inside. */
function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Set a text only if it differs, since a live region announces it each time it is set. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const brief = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const steady = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const perSecond = (rate) => `${(rate > 0 && rate < 100 ? steady : whole).format(rate)} a second`;
const timeOfDay = (date) => date.toLocaleTimeString("en-GB");


// ---- The state of the service, and the totals

const state = { samples: [], opened: null, lost: null, updated: null };

/** Send a request; returns { response, body }, or null if there was no answer. */
async function ask(path, options = {}) {
  try {
    const response = await fetch(path, { ...options, signal: AbortSignal.timeout(TIMEOUT) });
    return { response, body: await response.json() };
  } catch {
    return null;
  }
}

async function update() {
  const [health, statistics] = await Promise.all([ask("health"), ask("statistics")]);
  showState(health, statistics);
  if (statistics?.response.ok) showTotals(statistics.body);
  showRates();
  if (forms.ready) forms.prefer.load();
  else await forms.prepare();
}

function showState(health, statistics) {
  const pill = find("state");
  const failed = [health, statistics].find((answer) => answer && !answer.response.ok);
  if (health && statistics) state.lost = null;
  else state.lost ??= new Date();
  if (state.lost) {
    pill.dataset.state = "unreachable";
    say(pill, `Unreachable since ${timeOfDay(state.lost)}. Trying again.`);
  } else {
    pill.dataset.state = failed ? "unavailable" : "ready";
    say(pill, failed ? `Not in service: ${failed.body.detail}.` : "In service");
  }
  document.body.classList.toggle("stale", pill.dataset.state !== "ready");
}

/** Whether the figures are out of date. */
const isStale = () => document.body.classList.contains("stale");

function showTotals(totals) {
  const sample = {
    time: performance.now() / 1000,
    delivered: totals.packages_delivered,
    dropped: totals.packages_dropped,
    rejected: totals.requests_rejected,
  };
  state.opened ??= sample;
  find("empty").hidden = KINDS.some((kind) => sample[kind] > 0);
  remember(sample);
  for (const kind of KINDS) say(find(kind), whole.format(sample[kind]));
  const lengths = KINDS.map((kind) => find(kind).textContent.length);
  find("totals").style.setProperty("--characters", Math.max(...lengths));
  showTypes(totals.by_type);
  state.updated = timeOfDay(new Date());
  say(find("updated"), `updated ${state.updated}`);
}

function remember(sample) {
  const { samples } = state;
  const last = samples.at(-1);
  if (last && KINDS.some((kind) => sample[kind] < last[kind])) samples.length = 0; // the tables were emptied
  if (samples.length && sample.time - last.time < POLL / 2000) {
    // Over so short a time, a single package would look like a high rate.
    if (samples.length > 1) samples[samples.length - 1] = sample;
  } else {
    samples.push(sample);
  }
  // One sample before the window is kept, since the first interval begins there.
  while (samples.length > 2 && samples[1].time < sample.time - WINDOW) samples.shift();
}

function showTypes(byType) {
  const table = find("types");
  for (const [name, { delivered, dropped }] of Object.entries(byType)) {
    const row = table.querySelector(`[data-type="${name}"]`) ?? table.appendChild(typeRow(name));
    const all = delivered + dropped;
    const share = all && (delivered / all) * 100;
    say(row.cells[1], whole.format(delivered));
    say(row.cells[2], whole.format(dropped));
    say(row.querySelector("span"), all ? `${share.toFixed(1)} %` : "—");
    row.querySelector("i").classList.toggle("none", !all);
    row.querySelector("b").style.width = `${share}%`;
  }
}

function typeRow(name) {
  const bar = make("i", { ariaHidden: "true" }, make("b"));
  const row = make("tr", {},
    make("th", { scope: "row" }, name),
    make("td"),
    make("td"),
    make("td", {}, make("div", { className: "share" }, bar, make("span"))));
  row.dataset.type = name;
  return row;
}


// ---- The rate over the last minutes

/** The interval between two samples, and the rate of each kind per second. */
function between(before, sample) {
  const interval = { from: before.time, to: sample.time, all: 0 };
  for (const kind of KINDS) {
    interval[kind] = (sample[kind] - before[kind]) / (sample.time - before.time);
    interval.all += interval[kind];
  }
  return interval;
}

/** The latest rates, or null if they are unknown. */
function recent({ samples }) {
  if (isStale() || samples.length < 2) return null;
  const [before, last] = samples.slice(-2);
  const first = samples.find((sample) => sample.time > last.time - RECENT - 1);
  return between(first === last ? before : first, last);
}

function showRates() {
  const { samples, updated } = state;
  const drawn = samples.slice(1).map((sample, i) => between(samples[i], sample));
  const latest = recent(state);
  const otherwise = isStale() && updated ? `as of ${updated}` : "\u00a0";
  for (const kind of KINDS) say(find(`${kind}-rate`), latest ? perSecond(latest[kind]) : otherwise);

  const peak = Math.max(0, ...drawn.map((interval) => interval.all));
  const top = roundUp(peak);
  say(find("chart-top"), `${brief.format(top)} /s`);
  say(find("chart-half"), `${brief.format(top / 2)} /s`);
  draw(drawn, top);
  say(find("chart-summary"), summary(drawn, latest, peak));
}

function summary(drawn, latest, peak) {
  if (!drawn.length) return `Measuring. ${opening()}`;
  const known = performance.now() / 1000 - drawn[0].from;
  const since = known < WINDOW ? ` since ${timeOfDay(new Date(Date.now() - known * 1000))}` : "";
  if (peak === 0) return `No packages${since || " in five minutes"}. ${opening()}`;
  const now = latest ? `Now ${perSecond(latest.all)}; the` : "The";
  return `${now} busiest moment${since} had ${perSecond(peak)}.`;
}

/** What was known when the page was opened. */
function opening() {
  const { opened } = state;
  if (!opened) return "";
  const decided = opened.delivered + opened.dropped;
  return `Decided before this page was opened: ${whole.format(decided)}.`;
}

/** The next round number whose half is round, too. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10]
    .map((factor) => factor * power)
    .find((step) => step >= value);
}

/** Draw each interval as a stacked bar. */
function draw(drawn, top) {
  const chart = find("chart");
  const now = performance.now() / 1000;
  const [width, height] = [chart.clientWidth, chart.clientHeight];
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const paths = Object.fromEntries(KINDS.map((kind) => [kind, ""]));
  for (const interval of drawn) {
    const left = Math.max(0, ((interval.from - now) / WINDOW + 1) * width);
    const right = ((interval.to - now) / WINDOW + 1) * width;
    const gap = right - left > 3 ? 1 : 0;
    let base = height;
    for (const kind of KINDS) {
      // Even a small number is visible.
      const tall = interval[kind] && Math.max(1, (interval[kind] / top) * height);
      if (tall) paths[kind] += `M${left} ${base}V${base - tall}H${right - gap}V${base}z`;
      base -= tall;
    }
  }
  for (const kind of KINDS) chart.querySelector(`.${kind}`).setAttribute("d", paths[kind]);
}


// ---- The forms

const newId = () => {
  const bytes = crypto.getRandomValues(new Uint8Array(4));
  return `pkg-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
};

const INITIAL = { sender_id: () => "zap", recipient_id: () => "scruffy", package_id: newId };
const HINTS = { timestamp: "Left empty: now." };

/** A form built from the JSON Schema of a request. */
class RequestForm {
  /**
   * id: the id of the form element.
   * parameters: the names of the fields that go into the path.
   * target: makes the path from the values.
   */
  constructor(id, method, parameters, target) {
    this.form = find(id);
    this.method = method;
    this.parameters = parameters;
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

  /** Make the path and the body of the request. */
  request() {
    const data = Object.fromEntries(new FormData(this.form));
    const body = {};
    for (const name of this.names) {
      if (name === "timestamp") body[name] = data[name] || new Date().toISOString();
      else if (this.schema.properties[name].type !== "boolean") body[name] = data[name];
      else if (data[name] && this.includes(name, data[name])) body[name] = data[name] === "true";
    }
    return { path: this.target(data), body: JSON.stringify(body, null, 2) };
  }

  /** Whether the request names a boolean field that has this value. */
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
    const answer = await ask(request.path, { method: this.method, body: request.body });
    this.busy = false;
    this.showAnswer(answer);
    poll.now();
  }

  tell(text, outcome = "") {
    tell(this.form, text, outcome);
  }

  showAnswer(answer) {
    const shown = this.form.querySelector(".answer");
    if (answer === null) {
      this.tell("No answer: the service can't be reached. It is safe to try again.", "rejected");
      shown.textContent = "None.";
      this.showErrors([]);
    } else {
      const { response, body } = answer;
      const headers = ["Location", "Idempotent-Replayed", "Retry-After"]
        .filter((name) => response.headers.has(name))
        .map((name) => `${name}: ${response.headers.get(name)}\n`);
      shown.textContent =
        `${response.status} ${response.statusText}\n${headers.join("")}\n${JSON.stringify(body, null, 2)}`;
      this.tell(inWords(response, body), response.ok ? body.status : "rejected");
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

/** The form for preferences. It can be submitted only while it shows what is stored. */
class PreferencesForm extends RequestForm {
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

  /** Read what is stored, unless it is shown already. */
  async load() {
    const id = this.recipient.value;
    if (!id || this.stored || this.unreadable) return;
    const answer = await ask(this.target({ recipient_id: id }));
    if (id !== this.recipient.value || this.stored) return; // the answer is out of date
    if (answer?.response.ok) {
      this.showStored(answer.body);
    } else if (answer && answer.response.status < 500) {
      this.unreadable = true;
      this.showErrors(fieldErrors(answer.response, answer.body, this.parameters));
    } else {
      say(this.hint, "The stored preferences can't be read. Trying again.");
    }
  }

  showStored(preferences) {
    this.stored = preferences;
    this.enable(true);
    for (const radio of this.form.querySelectorAll("[type=radio]")) {
      radio.checked = radio.value === String(preferences[radio.name]);
    }
    const updated = preferences.updated_at;
    say(this.hint, updated
      ? `Stored preferences, last updated ${inSeconds(updated)}.`
      : "Nothing is stored: these are the defaults.");
    say(find("prefer-timestamp-hint"), updated && new Date(updated) > new Date()
      ? "The last update lies in the future: only a later timestamp changes anything."
      : HINTS.timestamp);
    this.preview();
  }

  /** Whether the request names a preference: an optional one only if it changes. */
  includes(name, value) {
    return this.schema.required.includes(name) || value !== String(this.stored[name]);
  }

  showAnswer(answer) {
    super.showAnswer(answer);
    if (answer?.response.ok && answer.body.recipient_id === this.recipient.value) {
      this.showStored(answer.body);
    }
  }
}

/** Match errors to fields. A rejected path has only one parameter that can be wrong. */
function fieldErrors({ status }, { errors, detail }, parameters) {
  if (errors || ![404, 422].includes(status)) return errors ?? [];
  return parameters.map((name) => ({ pointer: `#/${name}`, detail }));
}

const inSeconds = (timestamp) => timestamp.replace(/\.\d+/, "");

/** Describe a decision in words, without a full stop. */
function decisionInWords({ status, recipient_id, package_type }) {
  if (status === "delivered") return "Delivered";
  return `Dropped: ${recipient_id} did not want ${package_type} packages`;
}

/** Describe an answer in a sentence. */
function inWords(response, body) {
  if (!response.ok) return `Rejected: ${body.detail}.`;
  if (body.status === undefined) {
    if (body.applied) return "Applied: these are the current preferences.";
    return `Not applied: the current preferences are newer, of ${inSeconds(body.updated_at)}.`;
  }
  const replayed = response.headers.has("Idempotent-Replayed");
  const repeated = ". This package was decided before, so nothing was counted again";
  return `${decisionInWords(body)}${replayed ? repeated : ""}.`;
}

/** Show a sentence about an answer in its form. */
function tell(form, text, outcome = "") {
  const sentence = form.querySelector(".outcome");
  sentence.textContent = text;
  sentence.dataset.outcome = outcome;
}

/** Quote for a POSIX shell. */
function quote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

const forms = {
  ready: false,
  send: new RequestForm("send", "POST", [], () => "packages"),
  prefer: new PreferencesForm("prefer", "PUT", ["recipient_id"],
    (data) => `recipients/${encodeURIComponent(data.recipient_id)}/preferences`),

  async prepare() {
    const answer = await ask("openapi.json");
    if (!answer?.response.ok) return;
    const { schemas } = answer.body.components;
    this.send.prepare(schemas.Package);
    this.prefer.prepare(schemas.PreferenceUpdate);
    find("new-id").addEventListener("click", () => {
      find("send-package_id").value = newId();
      this.send.preview();
    });
    find("requests").hidden = false;
    this.ready = true;
  },
};


// ---- Finding a package

find("find").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const id = find("find-package_id").value;
  const decision = form.querySelector(".decision");
  decision.replaceChildren();
  if (!id) {
    tell(form, "Enter the package_id of a package.");
    return;
  }
  tell(form, "Searching …");
  const answer = await ask(`packages/${encodeURIComponent(id)}`);
  if (id !== find("find-package_id").value) {
    tell(form, "");
  } else if (answer === null) {
    tell(form, "No answer: the service can't be reached.", "rejected");
  } else if (answer.response.status === 404) {
    tell(form, "No package with this id was decided.", "rejected");
  } else if (!answer.response.ok) {
    tell(form, inWords(answer.response, answer.body), "rejected");
  } else {
    const { status, reason, ...details } = answer.body;
    tell(form, `${decisionInWords(answer.body)}.`, status);
    decision.replaceChildren(...Object.entries(details)
      .filter(([, value]) => value !== null)
      .flatMap(([name, value]) => [
        make("dt", { textContent: name }),
        make("dd", { textContent: value }),
      ]));
  }
});


// ---- Polling, while the page is visible

const poll = {
  timer: 0,
  busy: false,

  async now() {
    clearTimeout(this.timer);
    if (this.busy) return;
    this.busy = true;
    try {
      await update();
    } finally {
      this.busy = false;
    }
    if (!document.hidden) this.timer = setTimeout(() => this.now(), POLL);
  },
};

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(poll.timer);
  else poll.now();
});
addEventListener("resize", () => showRates());
poll.now();
