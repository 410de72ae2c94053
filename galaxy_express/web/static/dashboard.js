// The dashboard: polls the service while the page is visible, and updates its parts.

import { ask } from "./common.js";
import { forms } from "./forms.js";
import { showLatest } from "./packages.js";
import { isStale, loadPast, noteNewest, POLL, showRates, showState, showTotals } from "./totals.js";

const MAX_DELAY = 16000; // milliseconds between polls of a service that doesn't respond

async function update() {
  const [health, statistics] = await Promise.all([ask("health"), ask("statistics")]);
  showState(health, statistics);
  if (statistics?.response.ok) showTotals(statistics.body);
  showRates();
  if (!isStale()) {
    const [newest] = await Promise.all([showLatest(), loadPast()]);
    if (newest) noteNewest(newest.decided_at);
  }
  if (forms.ready) forms.prefer.load();
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
    }
    this.delay = isStale() ? Math.min(2 * this.delay, MAX_DELAY) : POLL;
    if (!document.hidden) this.timer = setTimeout(() => this.now(), this.delay);
  },
};

forms.changed = () => poll.now();
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(poll.timer);
  else poll.now();
});
addEventListener("resize", () => showRates());
poll.now();
