// Stored packages and updates: a package by id, those of a recipient, and the latest ones.

import { ask, decisionInWords, find, make, say, tell, time } from "./common.js";

const PAGE = 10; // rows that a list shows at first, and adds on demand
const LATEST_PAGE = 100; // latest decisions per request, and added on demand
const LATEST_KEPT = 1000; // latest decisions that can be shown

/** A list in descending order, with a button for more. */
export class PagedList {
  /**
   * element: contains a list and a button.
   * name: the name of the rows in a response.
   * show: creates the item for a row.
   */
  constructor(element, name, show) {
    this.element = element;
    this.list = element.querySelector("ol");
    this.button = element.querySelector("button");
    this.name = name;
    this.show = show;
    this.button.addEventListener("click", () => this.more());
  }

  clear() {
    this.path = null;
    this.list.replaceChildren();
    this.button.hidden = true;
  }

  /** Show the first page of a path; returns the response, or undefined if it is out of date. */
  async load(path) {
    this.clear();
    this.path = path;
    return this.add("");
  }

  async more() {
    this.button.disabled = true;
    const before = this.list.lastElementChild;
    const answer = await this.add(`&after=${this.next}`);
    this.button.disabled = false;
    if (answer?.response.ok) before.nextElementSibling?.focus();
  }

  async add(after) {
    const { path } = this;
    const { children } = this.list;
    const answer = await ask(`${path}${path.includes("?") ? "&" : "?"}limit=${PAGE}${after}`);
    if (path !== this.path || (!after && children.length)) return undefined;
    if (answer?.response.ok) {
      this.list.append(...answer.body[this.name].map(this.show));
      this.next = answer.body.next;
      this.button.hidden = this.next === null;
    }
    return answer;
  }
}

/** The list item of a decision. A click on its id finds the package. */
function decisionItem(decision) {
  const id = make("button", { type: "button", className: "link", textContent: decision.package_id });
  id.addEventListener("click", () => findPackage(decision.package_id));
  const { sender_id, recipient_id, package_type, decided_at, status } = decision;
  const words = make("b", { textContent: `${decisionInWords(decision)}.` });
  words.dataset.outcome = status;
  const parties = `${package_type}, from ${sender_id} to ${recipient_id}`;
  const item = make("li", { tabIndex: -1 }, id, words,
    make("small", {}, ...(decided_at ? [`${parties}, `, time(decided_at)] : [parties])));
  item.dataset.package = decision.package_id;
  return item;
}


// ---- A package by its id

function findPackage(id) {
  find("find-package_id").value = id;
  find("find-package_id").focus();
  find("find").requestSubmit();
}

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
    tell(form, "No response: the service is unreachable.", "rejected");
  } else if (answer.response.status === 404) {
    tell(form, "No package with this id was decided.", "rejected");
  } else if (!answer.response.ok) {
    tell(form, `Rejected: ${answer.body.detail}.`, "rejected");
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


// ---- A recipient's packages

const ofRecipient = new PagedList(find("list-packages"), "packages", decisionItem);

find("list").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const id = find("list-recipient_id").value;
  ofRecipient.clear();
  if (!id) {
    tell(form, "Enter the recipient_id of a recipient.");
    return;
  }
  tell(form, "Searching …");
  const answer = await ofRecipient.load(`packages?recipient_id=${encodeURIComponent(id)}`);
  if (answer === undefined) return;
  if (answer === null) {
    tell(form, "No response: the service is unreachable.", "rejected");
  } else if (!answer.response.ok) {
    tell(form, `Rejected: ${answer.body.detail}.`, "rejected");
  } else {
    const none = !answer.body.packages.length;
    tell(form, none ? `No packages for ${id}.` : `Packages for ${id}, newest first.`);
  }
});


// ---- The latest decisions

const latest = {
  known: null, // the newest decisions, without a gap
  listed: [], // the decisions in the list: while paused, those known at that time
  visible: PAGE, // how many of them are shown
  paused: false,
};

/**
 * Show the decisions made since the last call; returns the newest decision.
 *
 * The feed can only be followed from its beginning. So decisions are read newest first, page by
 * page, until a page ends with a known one. This misses decisions that are committed after more
 * than a page of later ones (possible on PostgreSQL); the totals include them.
 */
export async function showLatest() {
  const read = [];
  let after = "";
  while (read.length < LATEST_KEPT) {
    const answer = await ask(`packages?limit=${LATEST_PAGE}${after}`);
    if (!answer?.response.ok) return undefined;
    const { packages, next } = answer.body;
    read.push(...packages);
    const place = placeOf(packages.at(-1), latest.known ?? []);
    if (place >= 0) read.push(...latest.known.slice(place + 1));
    if (place >= 0 || next === null || !latest.known) break;
    after = `&after=${next}`;
  }
  latest.known = read.slice(0, LATEST_KEPT);
  listLatest();
  return read[0];
}

const placeOf = (decision, decisions) =>
  decisions.findIndex(({ package_id }) => package_id === decision?.package_id);

function listLatest() {
  const { known, visible, paused } = latest;
  if (!paused) latest.listed = known;
  const { listed } = latest;
  const list = find("latest");
  const items = new Map([...list.children].map((item) => [item.dataset.package, item]));
  // Items that are still shown are not moved, so that the focus is kept.
  listed.slice(0, visible).forEach((decision, place) => {
    const item = items.get(decision.package_id) ?? decisionItem(decision);
    const there = list.children[place] ?? null;
    if (item !== there) list.insertBefore(item, there);
  });
  while (list.children.length > Math.min(listed.length, visible)) list.lastElementChild.remove();

  find("latest-more").hidden = listed.length <= visible;
  say(find("latest-more"), `${listed.length - visible} more decisions`);
  find("latest-pause").hidden = !listed.length;
  say(find("latest-pause"), paused ? "Resume" : "Pause");
  const place = placeOf(listed[0], known);
  const since = place < 0 ? `${LATEST_KEPT} or more` : place;
  say(find("latest-paused"), paused ? `Paused. Decided since: ${since}.` : "");
  say(find("latest-none"), listed.length ? "" : "No packages were decided yet.");
}

find("latest-pause").addEventListener("click", () => {
  latest.paused = !latest.paused;
  listLatest();
});

find("latest-more").addEventListener("click", () => {
  const before = find("latest").lastElementChild;
  latest.visible += LATEST_PAGE;
  listLatest();
  before.nextElementSibling?.focus();
});
