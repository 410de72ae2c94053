// Stored packages and updates: a package by id, those of a recipient, and the latest ones.

import { ask, decisionInWords, find, inSeconds, make, say, tell } from "./common.js";

const PAGE = 10; // rows that a list shows at first, and adds on demand
const LATEST = 10; // decisions that are shown as they come

/** A list in descending order, with a button for more. */
export class PagedList {
  /**
   * element: has a list and a button in it.
   * name: the name of the rows in an answer.
   * show: makes the item for a row.
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
  const time = decided_at ? `, ${inSeconds(decided_at)}` : "";
  return make("li", { tabIndex: -1 }, id, words,
    make("small", { textContent: `${package_type}, from ${sender_id} to ${recipient_id}${time}` }));
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

/** Show the decisions that came since the last call; returns the newest of all. */
export async function showLatest() {
  const answer = await ask(`packages?limit=${LATEST}`);
  if (!answer?.response.ok) return undefined;
  const list = find("latest");
  const shown = new Map([...list.children].map((item) => [item.dataset.package, item]));
  const ids = answer.body.packages.map(({ package_id }) => package_id);
  // Items that are still shown stay as they are, so that one of them keeps the focus.
  for (const [id, item] of shown) if (!ids.includes(id)) item.remove();
  for (const decision of answer.body.packages.toReversed()) {
    if (shown.has(decision.package_id)) continue;
    const item = decisionItem(decision);
    item.dataset.package = decision.package_id;
    list.prepend(item);
  }
  say(find("latest-none"), ids.length ? "" : "No packages were decided yet.");
  return answer.body.packages[0];
}
