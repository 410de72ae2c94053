// The dashboard: asks for the totals, draws how they grow, and sends what the forms hold.
// What the forms ask for comes from the API description.

const POLL = 2000; // milliseconds between two questions
const PATIENCE = 5000; // milliseconds to wait for an answer
const WINDOW = 300; // seconds that the chart shows
const RECENT = 10; // seconds that the rate in figures is of: over fewer, it would flicker

const KINDS = ["delivered", "dropped", "rejected"];

const find = (id) => document.getElementById(id);

/** Make an element: its name, its properties, what is inside. */
function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Change a text only where it differs: a live region says again what is set again. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const brief = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const steady = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const perSecond = (rate) => `${(rate > 0 && rate < 100 ? steady : whole).format(rate)} a second`;
const timeOfDay = (date) => date.toLocaleTimeString("en-GB");


// ---- How the service is, and the totals

const state = { samples: [], lost: null, updated: null };

/** Ask the service; gives { response, body }, or null where no answer came. */
async function ask(path, options = {}) {
  try {
    const response = await fetch(path, { ...options, signal: AbortSignal.timeout(PATIENCE) });
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
  if (!forms.ready) await forms.prepare();
}

function showState(health, statistics) {
  const pill = find("state");
  const fault = [health, statistics].find((answer) => answer && !answer.response.ok);
  if (health && statistics) state.lost = null;
  else state.lost ??= new Date();
  if (state.lost) {
    pill.dataset.state = "unreachable";
    say(pill, `Unreachable since ${timeOfDay(state.lost)}. Trying again.`);
  } else {
    pill.dataset.state = fault ? "unwell" : "well";
    say(pill, fault ? `Not in service: ${fault.body.detail}.` : "In service");
  }
  document.body.classList.toggle("stale", pill.dataset.state !== "well");
}

/** Whether the figures are of a time that has passed. */
const isStale = () => document.body.classList.contains("stale");

function showTotals(totals) {
  const sample = {
    time: performance.now() / 1000,
    delivered: totals.packages_delivered,
    dropped: totals.packages_dropped,
    rejected: totals.requests_rejected,
  };
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
  if (last && KINDS.some((kind) => sample[kind] < last[kind])) samples.length = 0; // begun anew
  if (samples.length && sample.time - last.time < POLL / 2000) {
    // Over so short a time, a single package would seem to be a high rate.
    if (samples.length > 1) samples[samples.length - 1] = sample;
  } else {
    samples.push(sample);
  }
  // One sample before the window is kept: the first interval begins there.
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

/** What happened between two samples: from, to, and how many of each a second. */
function between(before, sample) {
  const interval = { from: before.time, to: sample.time, all: 0 };
  for (const kind of KINDS) {
    interval[kind] = (sample[kind] - before[kind]) / (sample.time - before.time);
    interval.all += interval[kind];
  }
  return interval;
}

/** What happened lately, or null where that isn't known. */
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
  if (!drawn.length) return "Nothing has been measured yet.";
  const known = performance.now() / 1000 - drawn[0].from;
  const since = known < WINDOW ? ` since ${timeOfDay(new Date(Date.now() - known * 1000))}` : "";
  if (peak === 0) return `Quiet: nothing was sent${since}.`;
  const now = latest ? `Now ${perSecond(latest.all)}; the` : "The";
  return `${now} busiest moment${since} had ${perSecond(peak)}.`;
}

/** The next number that is round, and whose half is. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10]
    .map((factor) => factor * power)
    .find((step) => step >= value);
}

/** Draw each interval as a bar, with the kinds on top of one another. */
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
      // However few there are, they can be seen.
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

/** What a text field holds at first. */
const FIRST = { sender_id: () => "zap", recipient_id: () => "scruffy", package_id: newId };
const HINTS = { timestamp: "Left empty: now." };

/** A form made from the JSON Schema of a request. */
class Slip {
  /**
   * id: of the form.
   * parameters: the names of fields that go into the path.
   * target: makes the path of the values.
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
      this.field(name, schema.properties[name], schema.required.includes(name)));
    this.form.querySelector(".fields").replaceChildren(...fields);
    this.preview();
  }

  field(name, schema, required) {
    const id = `${this.form.id}-${name}`;
    const wrong = make("small", { className: "wrong", id: `${id}-wrong` });
    let field;
    if (schema.type === "boolean") {
      const choices = [["true", "wanted"]];
      if (schema.const !== true) choices.push(["false", "declined"]);
      if (!required) choices.unshift(["", "as it is"]);
      field = make("fieldset", { className: "field" },
        make("legend", { textContent: name }),
        make("div", { className: "choices" }, ...choices.map(([value, text], i) =>
          make("label", {},
            make("input", { type: "radio", name, value, checked: i === 0 }), text))));
    } else {
      const choices = schema.enum ?? (schema.const && [schema.const]);
      const input = choices
        ? make("select", { name, id }, ...choices.map((value) => make("option", { textContent: value })))
        : make("input", {
          type: "text", name, id, value: FIRST[name]?.() ?? "",
          autocomplete: "off", autocapitalize: "off", spellcheck: false,
        });
      field = make("div", { className: "field" },
        make("label", { htmlFor: id, textContent: name }), input);
      const hint = make("small", { textContent: HINTS[name] ?? "", id: `${id}-hint` });
      field.append(hint);
      input.setAttribute("aria-describedby", `${hint.id} ${wrong.id}`);
    }
    field.append(wrong);
    return field;
  }

  /** What the form holds, as the path and the body of a request. */
  request() {
    const data = Object.fromEntries(new FormData(this.form));
    const body = {};
    for (const name of this.names) {
      if (name === "timestamp") body[name] = data[name] || new Date().toISOString();
      else if (this.schema.properties[name].type !== "boolean") body[name] = data[name];
      else if (data[name]) body[name] = data[name] === "true";
    }
    return { path: this.target(data), body: JSON.stringify(body, null, 2) };
  }

  preview() {
    this.show(this.request());
  }

  show({ path, body }) {
    const method = this.method === "POST" ? "" : ` -X ${this.method}`;
    this.form.querySelector(".request").textContent =
      `curl -i${method} ${quote(new URL(path, document.baseURI).href)} \\\n-d ${quote(body)}`;
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
    const sentence = this.form.querySelector(".outcome");
    sentence.textContent = text;
    sentence.dataset.outcome = outcome;
  }

  showAnswer(answer) {
    const shown = this.form.querySelector(".answer");
    if (answer === null) {
      this.tell("No answer: the service can't be reached. It is safe to try again.", "rejected");
      shown.textContent = "None.";
      this.showFaults([]);
    } else {
      const { response, body } = answer;
      const headers = ["Location", "Idempotent-Replayed", "Retry-After"]
        .filter((name) => response.headers.has(name))
        .map((name) => `${name}: ${response.headers.get(name)}\n`);
      shown.textContent =
        `${response.status} ${response.statusText}\n${headers.join("")}\n${JSON.stringify(body, null, 2)}`;
      this.tell(tell(response, body), response.ok ? body.status : "rejected");
      this.showFaults(faults(response, body, this.parameters));
    }
  }

  showFaults(errors) {
    for (const name of [...this.parameters, ...this.names]) {
      const own = errors.filter((error) => error.pointer === `#/${name}`);
      const id = `${this.form.id}-${name}`;
      find(`${id}-wrong`).textContent = own.map((error) => error.detail).join("; ");
      find(id)?.setAttribute("aria-invalid", String(own.length > 0));
    }
  }
}

/** What is wrong with which field. A path that is refused has one thing in it that can be. */
function faults({ status }, { errors, detail }, parameters) {
  if (errors || ![404, 422].includes(status)) return errors ?? [];
  return parameters.map((name) => ({ pointer: `#/${name}`, detail }));
}

/** An answer in a sentence. */
function tell(response, body) {
  if (!response.ok) return `Rejected: ${body.detail}.`;
  if (body.status === undefined) {
    if (body.applied) return "Applied: it is in force.";
    return `Not applied: a newer update is in force, of ${body.updated_at.replace(/\.\d+/, "")}.`;
  }
  const decision = body.status === "dropped" ? "Dropped: the recipient declined it" : "Delivered";
  const replayed = response.headers.has("Idempotent-Replayed");
  return replayed ? `${decision}, as decided before. Nothing was counted again.` : `${decision}.`;
}

/** Quote for a POSIX shell. */
function quote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

const forms = {
  ready: false,
  send: new Slip("send", "POST", [], () => "packages"),
  prefer: new Slip("prefer", "PUT", ["recipient_id"],
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
    find("counter").hidden = false;
    this.ready = true;
  },
};


// ---- Asking again and again, unless nobody looks

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
