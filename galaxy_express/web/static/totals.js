// The totals, their rates, and the state of the service.

import { ask, find, inSeconds, make, now, quote, say, timeOfDay } from "./common.js";

export const POLL = 2000; // milliseconds between two polls
const WINDOW = 300; // seconds that the chart shows
const RECENT = 10; // seconds over which the current rate is measured; a shorter time would make it flicker
const GAP = 30; // seconds between two samples that are too long for a rate, for example after sleep
const PAST_PAGES = 5; // pages of earlier packages that are read for the chart

// Prefixes of the page title, so that the browser's tab shows the state.
const TITLES = {
  ready: "",
  unavailable: "Not in service: ",
  unresponsive: "No response: ",
  unreachable: "Unreachable: ",
};
const KINDS = ["delivered", "dropped", "rejected"];

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const brief = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const steady = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const perSecond = (rate) => `${(rate > 0 && rate < 100 ? steady : whole).format(rate)} a second`;

// ---- The totals

const state = {
  samples: [],
  opened: null, // the first sample
  measured: null, // the first sample since the last gap
  lost: null, // since when the service has been unreachable
  updated: null,
  past: false, // whether earlier packages are in the chart
  newest: null, // when the newest package was decided
  version: null, // the version of the service when the page was opened
};

/** The browser's time in seconds. Unlike performance.now(), it goes on while the computer sleeps. */
const clock = () => Date.now() / 1000;

export function showState(health, statistics) {
  const failed = [health, statistics].find((answer) => answer && !answer.response.ok);
  const isForeign = [health, statistics].some((answer) => answer?.foreign);
  if (health && statistics && !isForeign) state.lost = null;
  else state.lost ??= now();
  if (state.lost) {
    const why = isForeign ? ": something else responded" : "";
    setState("unreachable", `Unreachable since ${timeOfDay(state.lost)}${why}. Trying again.`);
  } else if (failed) setState("unavailable", `Not in service: ${failed.body.detail}.`);
  else setState("ready", "In service");
}

/** Show that requests take long, unless it is known that the service isn't ready. */
export function showDelay(seconds) {
  if (find("state").dataset.state.startsWith("un")) return;
  setState("unresponsive", `No response for ${seconds} seconds. Still waiting.`);
  showRates();
}

function setState(name, text) {
  const pill = find("state");
  pill.dataset.state = name;
  say(pill, text);
  document.title = `${TITLES[name]}Galaxy Express`;
  document.body.classList.toggle("stale", name !== "ready");
}

/** Whether the figures are out of date. */
export const isStale = () => document.body.classList.contains("stale");

export function showTotals(totals) {
  const sample = {
    time: clock(),
    delivered: totals.packages_delivered,
    dropped: totals.packages_dropped,
    rejected: totals.requests_rejected,
  };
  state.opened ??= sample;
  showHint(KINDS.some((kind) => sample[kind] > 0));
  remember(sample);
  for (const kind of KINDS) say(find(kind), whole.format(sample[kind]));
  const lengths = KINDS.map((kind) => find(kind).textContent.length);
  find("totals").style.setProperty("--characters", Math.max(...lengths));
  showTypes(totals.by_type);
  state.updated = timeOfDay(now());
  say(find("updated"), `updated ${state.updated}`);
}

/** Show the queue, the size of the database, and the version. */
export function showFacts({ queued_packages, database_bytes, version }) {
  const number = whole.format(queued_packages);
  const unit = queued_packages === 1 ? "package" : "packages";
  say(find("queue"), queued_packages === null ? "unknown, as metrics are off" : `${number} ${unit} waiting`);
  say(find("size"), inBytes(database_bytes));
  showVersion(version);
}

/** Show the version of the service, and whether it has changed since the page was opened. */
export function showVersion(version) {
  state.version ??= version;
  const reload =
    version === state.version ? "" : ` (reload this page: it is from version ${state.version})`;
  say(find("version"), `Version ${version}${reload}`);
}

const UNITS = ["kB", "MB", "GB", "TB"];

function inBytes(bytes) {
  const power = Math.min(Math.max(Math.floor(Math.log10(bytes) / 3), 1), UNITS.length);
  return `${steady.format(bytes / 1000 ** power)} ${UNITS[power - 1]}`;
}

/** Show how to send packages, if there are none. */
function showHint(hidden) {
  find("empty").hidden = hidden;
  const body = {
    timestamp: "2142-03-01T12:00:00Z",
    sender_id: "zap",
    recipient_id: "leela",
    package_id: "pkg-1",
    package_type: "personal",
  };
  const url = new URL("packages", document.baseURI).href;
  say(find("empty-curl"), `curl ${quote(url)} -d ${quote(JSON.stringify(body))}`);
}

function remember(sample) {
  const { samples } = state;
  const last = samples.at(-1);
  if (!last || !isContinued(last, sample)) {
    samples.length = 0;
    state.measured = sample;
    state.past = false;
  }
  if (samples.length && sample.time - last.time < POLL / 2000) {
    // In such a short time, a single package would look like a high rate.
    if (samples.length > 1) samples[samples.length - 1] = sample;
  } else {
    samples.push(sample);
  }
  // Keep one sample before the window, since the first interval begins there.
  while (samples.length > 2 && samples[1].time < sample.time - WINDOW) samples.shift();
}

/** Whether a sample can be compared with the last one. */
function isContinued(last, sample) {
  const seconds = sample.time - last.time;
  if (seconds < 0 || seconds > GAP) return false; // the clock was changed, or the computer slept
  return KINDS.every((kind) => sample[kind] >= last[kind]); // otherwise the tables were emptied
}

function showTypes(byType) {
  const table = find("types");
  for (const [name, { delivered, dropped }] of Object.entries(byType)) {
    const row = table.querySelector(`[data-type="${name}"]`) ?? table.appendChild(typeRow(name));
    const all = delivered + dropped;
    const share = all && (delivered / all) * 100;
    say(row.cells[1], whole.format(delivered));
    say(row.cells[2], whole.format(dropped));
    say(row.querySelector("span"), all ? `${share.toFixed(1)}%` : "—");
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

/** Read the times of the latest decisions, so that the chart begins with them. */
export async function loadPast() {
  if (state.past || !state.samples.length) return;
  const [first] = state.samples;
  const from = first.time - WINDOW;
  const times = []; // when packages were decided, newest first
  let known = from;
  let after = "";
  for (let page = 1; page <= PAST_PAGES; page += 1) {
    const answer = await ask(`packages?limit=1000${after}`, "packages");
    if (!answer?.response.ok) return;
    // The clock of the service may differ from that of the browser.
    const date = Date.parse(answer.response.headers.get("Date")) || Date.now();
    const shift = clock() - date / 1000;
    const { packages, next } = answer.body;
    for (const { decided_at, status } of packages) {
      if (decided_at) times.push({ time: Date.parse(decided_at) / 1000 + shift, status });
    }
    const oldest = times.at(-1)?.time ?? from;
    if (next === null || oldest <= from || !packages.at(-1).decided_at) break;
    if (page === PAST_PAGES) known = oldest;
    after = `&after=${next}`;
  }
  state.past = true;
  if (first !== state.samples[0]) return; // the chart has started again
  const past = [];
  const { delivered, dropped } = first;
  const sample = { ...first };
  let i = 0;
  for (let time = first.time - POLL / 1000; time >= known; time -= POLL / 1000) {
    for (; i < times.length && times[i].time > time; i += 1) sample[times[i].status] -= 1;
    // Packages that were decided after the first totals were read are not in them.
    past.unshift({
      ...sample,
      delivered: Math.min(sample.delivered, delivered),
      dropped: Math.min(sample.dropped, dropped),
      time,
      past: true,
    });
  }
  state.samples.unshift(...past);
  showRates();
}

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
function recent(state) {
  const samples = state.samples.filter(({ past }) => !past); // past samples have no rejected requests
  if (isStale() || samples.length < 2) return null;
  const [before, last] = samples.slice(-2);
  const first = samples.find((sample) => sample.time > last.time - RECENT - 1);
  return between(first === last ? before : first, last);
}

export function showRates() {
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
  if (!drawn.length) return "Measuring.";
  const known = clock() - drawn[0].from;
  const since = known < WINDOW - POLL / 500 ? ` since ${before(known)}` : "";
  const rejected = ` Rejected requests are shown since ${before(sinceMeasured())}.`;
  const suffix = sinceMeasured() < WINDOW ? rejected : "";
  if (peak === 0) return `No packages${since || " in five minutes"}. ${newest()}${suffix}`;
  const current = latest ? `Now ${perSecond(latest.all)}; the` : "The";
  return `${current} busiest moment${since} had ${perSecond(peak)}.${suffix}`;
}

const before = (seconds) => timeOfDay(new Date(now() - seconds * 1000));
const sinceMeasured = () => clock() - state.measured.time;

/** Remember when the newest package was decided. */
export function noteNewest(decidedAt) {
  state.newest = decidedAt;
}

/** Describe when the newest package was decided, if known. */
function newest() {
  if (state.newest) return `The last package was decided on ${inSeconds(state.newest)}.`;
  const { delivered, dropped } = state.opened;
  const decided = delivered + dropped;
  return decided ? `Decided before this page was opened: ${whole.format(decided)}.` : "None earlier.";
}

/** The next round number that can be halved to a round number. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10]
    .map((factor) => factor * power)
    .find((step) => step >= value);
}

/** Draw each interval as a stacked bar. */
function draw(drawn, top) {
  const chart = find("chart");
  const end = clock();
  const [width, height] = [chart.clientWidth, chart.clientHeight];
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const paths = Object.fromEntries(KINDS.map((kind) => [kind, ""]));
  for (const interval of drawn) {
    const left = Math.max(0, ((interval.from - end) / WINDOW + 1) * width);
    const right = ((interval.to - end) / WINDOW + 1) * width;
    const gap = right - left > 3 ? 1 : 0;
    let base = height;
    for (const kind of KINDS) {
      // Keep even small numbers visible.
      const tall = interval[kind] && Math.max(1, (interval[kind] / top) * height);
      if (tall) paths[kind] += `M${left} ${base}V${base - tall}H${right - gap}V${base}z`;
      base -= tall;
    }
  }
  for (const kind of KINDS) chart.querySelector(`.${kind}`).setAttribute("d", paths[kind]);
}
