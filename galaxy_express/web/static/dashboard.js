// The dashboard: polls the service while the page is visible, and updates its parts.

import { ask } from "./common.js";
import { forms } from "./forms.js";
import { showLatest } from "./packages.js";
import {
  isStale, loadPast, noteNewest, POLL, showDelay, showFacts, showRates, showState, showTotals,
} from "./totals.js";

const MAX_DELAY = 5000; // milliseconds between polls of a service that doesn't respond
const SLOW = 5; // seconds after which the page shows that it waits for a response

async function update() {
  const slow = setTimeout(() => showDelay(SLOW), SLOW * 1000);
  const [health, statistics, status] =
    await Promise.all([ask("health"), ask("statistics", "by_type"), ask("dashboard/status", "feed")]);
  clearTimeout(slow);
  showState(health, statistics);
  if (statistics?.response.ok) showTotals(statistics.body);
  if (status?.response.ok) showFacts(status.body);
  showRates();
  if (!isStale() && status?.response.ok) {
    const { packages_delivered, packages_dropped } = statistics.body;
    const total = packages_delivered + packages_dropped;
    const [newest] = await Promise.all([showLatest(status.body.feed, total), loadPast()]);
    if (newest) noteNewest(newest.decided_at);
  }
  if (forms.ready) await forms.prefer.load();
  else await forms.prepare();
}

const poll = {
  timer: 0,
  busy: false,
  delay: POLL,

  async now() {
    clearTimeout(this.timer);
    if (this.busy) return;
    this.busy = true;
    try {
      await update();
    } finally {
      this.busy = false;
      this.delay = isStale() ? Math.min(2 * this.delay, MAX_DELAY) : POLL;
      if (!document.hidden) this.timer = setTimeout(() => this.now(), this.delay);
    }
  },
};

forms.changed = () => poll.now();
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(poll.timer);
  else poll.now();
});
addEventListener("resize", () => showRates());
poll.now();
