// Stored packages and updates: a package by id, those of a recipient, and the latest ones.

import {
  ask, decisionInWords, failureInWords, find, isolated, make, now, packageOf, say, tell, time,
  timeOfDay, trimmed,
} from "./common.js";

const PAGE = 10; // rows that a list shows at first
const MORE = 100; // rows that it adds on demand
const LATEST_KEPT = 1000; // latest decisions that can be shown

/** A list in descending order, with a button for more. */
export class PagedList {
  /**
   * element: contains a list and a button.
   * name: the name of the rows in a response.
   * show: creates the item for a row.
   * none: what it says if there are no rows; otherwise the form says it.
   */
  constructor(element, name, show, none = "") {
    this.element = element;
    this.list = element.querySelector("ol");
    this.button = element.querySelector("button");
    this.status = element.querySelector("[role=status]");
    this.name = name;
    this.show = show;
    this.none = none;
    this.refreshes = 0;
    this.button.addEventListener("click", () => this.more());
  }

  clear() {
    this.path = null;
    this.newest = undefined;
    this.list.replaceChildren();
    this.button.hidden = true;
    say(this.status, "");
  }

  /** Show the first page of a path; returns the response, or undefined if it is out of date. */
  async load(path) {
    if (path !== this.path) this.clear();
    this.path = path;
    return this.refresh();
  }

  /** Show newer rows above the others, which keep the focus. If there are many, start again. */
  async refresh() {
    this.refreshes += 1;
    const refresh = this.refreshes;
    const answer = await this.read(PAGE);
    if (refresh !== this.refreshes) return undefined; // a later one may show newer rows
    if (!answer?.response.ok) return answer;
    const rows = answer.body[this.name];
    const texts = rows.map((row) => JSON.stringify(row));
    const place = texts.indexOf(this.newest);
    if (place >= 0) {
      this.list.prepend(...rows.slice(0, place).map(this.show));
    } else {
      const hadFocus = this.list.contains(document.activeElement);
      this.list.replaceChildren();
      this.append(answer.body);
      if (hadFocus) this.list.firstElementChild?.focus();
    }
    [this.newest] = texts;
    return answer;
  }

  async more() {
    const { next } = this;
    const before = this.list.lastElementChild;
    this.button.disabled = true;
    const answer = await this.read(MORE, `&after=${next}`);
    this.button.disabled = false;
    if (answer === undefined || next !== this.next) return; // the list has changed
    if (answer?.response.ok) {
      this.append(answer.body);
      before.nextElementSibling?.focus();
    } else {
      say(this.status, failureInWords(answer));
      this.button.focus(); // a disabled button loses the focus
    }
  }

  async read(limit, after = "") {
    const { path } = this;
    if (!path) return undefined;
    const answer = await ask(`${path}${path.includes("?") ? "&" : "?"}limit=${limit}${after}`, this.name);
    return path === this.path ? answer : undefined;
  }

  append(body) {
    this.list.append(...body[this.name].map(this.show));
    this.next = body.next;
    this.button.hidden = this.next === null;
    say(this.status, this.list.children.length ? "" : this.none);
  }
}

/** The list item of a decision. A click on its id finds the package. */
function decisionItem(decision) {
  const id = make("button", { type: "button", className: "link", textContent: decision.package_id });
  id.addEventListener("click", () => findPackage(decision.package_id));
  const { sender_id, recipient_id, package_type, decided_at, status } = decision;
  const words = make("b", {}, ...decisionInWords(decision), ".");
  words.dataset.outcome = status;
  const details = make("small", {},
    `${package_type}, from `, isolated(sender_id), " to ", isolated(recipient_id));
  if (decided_at) details.append(", ", time(decided_at));
  const item = make("li", { tabIndex: -1 }, id, words, details);
  item.dataset.package = decision.package_id;
  return item;
}


// ---- A package by its id

function findPackage(id) {
  find("find-package_id").value = id;
  find("find-package_id").focus();
  find("find").requestSubmit();
}

let searches = 0;

find("find").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const input = find("find-package_id");
  const id = trimmed(input.value);
  const decision = form.querySelector(".decision");
  decision.replaceChildren();
  searches += 1;
  const search = searches;
  if (!id) {
    tell(form, "Enter the package_id of a package.");
    return;
  }
  tell(form, "Searching …");
  const answer = await ask(packageOf(id), "package_id");
  if (search !== searches) return; // there has been another search
  if (id !== trimmed(input.value)) {
    tell(form, "");
  } else if (answer?.response.status === 404) {
    tell(form, "There is no package with this id.", "rejected");
  } else if (!answer?.response.ok) {
    tell(form, failureInWords(answer), "rejected");
  } else {
    const { status, reason, ...details } = answer.body;
    tell(form, [...decisionInWords(answer.body), "."], status);
    decision.replaceChildren(...Object.entries(details)
      .filter(([, value]) => value !== null)
      .flatMap(([name, value]) => [
        make("dt", { textContent: name }),
        make("dd", { textContent: value }),
      ]));
  }
});


// ---- A recipient's packages

const ofRecipient = new PagedList(find("list-packages"), "packages", decisionItem);

find("list").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const id = trimmed(find("list-recipient_id").value);
  ofRecipient.clear();
  if (!id) {
    tell(form, "Enter the recipient_id of a recipient.");
    return;
  }
  tell(form, "Searching …");
  const answer = await ofRecipient.load(`packages?recipient_id=${encodeURIComponent(id)}`);
  if (answer === undefined) return;
  if (!answer?.response.ok) {
    tell(form, failureInWords(answer), "rejected");
  } else {
    const found = answer.body.packages.length
      ? ["Packages for ", isolated(id), ", newest first."]
      : ["No packages for ", isolated(id), "."];
    tell(form, [...found, ` As of ${timeOfDay(now())}.`]);
  }
});


// ---- The latest decisions

const latest = {
  cursor: null, // where the feed continues
  total: 0, // the number of decisions in the totals
  known: [], // the newest decisions, newest first
  listed: [], // the decisions in the list: while paused, those known at that time
  visible: PAGE, // how many of them are shown
  paused: false,
};

/**
 * Show the decisions made since the last call; returns the newest decision.
 *
 * Together, a page of the newest decisions and the feed miss none: decisions that the feed lacks
 * were committed before the service returned its cursor. So the cursor must be older than the page.
 * Decisions in both are shown at their place in the feed.
 *
 * cursor: a cursor for the current end of the feed.
 * total: the number of all decisions.
 */
export async function showLatest(cursor, total) {
  const isReset = total < latest.total; // the tables were emptied, or a backup was restored
  latest.total = total;
  if (latest.cursor === null || isReset) await startFeed(cursor, MORE);
  else await followFeed(cursor);
  listLatest();
  return latest.known[0];
}

async function startFeed(cursor, limit) {
  const answer = await ask(`packages?limit=${limit}`, "packages");
  if (!answer?.response.ok) return;
  latest.known = answer.body.packages;
  latest.cursor = cursor;
}

async function followFeed(cursor) {
  const path = `packages?order=asc&limit=${LATEST_KEPT}&after=${latest.cursor}`;
  const answer = await ask(path, "packages");
  if (!answer?.response.ok) return;
  const { packages, next } = answer.body;
  if (packages.length === LATEST_KEPT) {
    // There may be many more. The list doesn't keep so many, so skip to the newest.
    await startFeed(cursor, LATEST_KEPT);
    return;
  }
  const ids = new Set(packages.map(({ package_id }) => package_id));
  const others = latest.known.filter(({ package_id }) => !ids.has(package_id));
  latest.known = [...packages.reverse(), ...others].slice(0, LATEST_KEPT);
  latest.cursor = next;
}

const placeOf = (decision, decisions) =>
  decisions.findIndex(({ package_id }) => package_id === decision?.package_id);

function listLatest() {
  const { known, visible, paused } = latest;
  if (!paused) latest.listed = known;
  const { listed } = latest;
  find("latest-pause").hidden = !listed.length;
  const list = find("latest");
  const items = new Map([...list.children].map((item) => [item.dataset.package, item]));
  // Items that are still shown are not moved, so that the focus is kept.
  listed.slice(0, visible).forEach((decision, place) => {
    const item = items.get(decision.package_id) ?? decisionItem(decision);
    const there = list.children[place] ?? null;
    if (item !== there) list.insertBefore(item, there);
  });
  while (list.children.length > Math.min(listed.length, visible)) {
    if (list.lastElementChild.contains(document.activeElement)) find("latest-pause").focus();
    list.lastElementChild.remove();
  }

  find("latest-more").hidden = listed.length <= visible;
  say(find("latest-more"), `${listed.length - visible} more decisions`);
  say(find("latest-pause"), paused ? "Resume" : "Pause");
  const place = placeOf(listed[0], known);
  const since = place < 0 ? `${LATEST_KEPT} or more` : place;
  say(find("latest-paused"), paused ? `Paused. Decided since: ${since}.` : "");
  say(find("latest-none"), listed.length ? "" : "No packages have been decided yet.");
}

find("latest-pause").addEventListener("click", () => {
  latest.paused = !latest.paused;
  listLatest();
});

find("latest-more").addEventListener("click", () => {
  const before = find("latest").lastElementChild;
  latest.visible += MORE;
  listLatest();
  before.nextElementSibling?.focus();
});
