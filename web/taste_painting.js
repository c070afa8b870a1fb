// The open workflow paints the next pair: only where it asks the person, and only while nothing else is painted.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { asksOf } from "./people.js";

// Asked of the server: its news of a run come after the answer to who queued it
export async function isBusy() {
    const { exec_info } = await (await api.fetchApi("/prompt")).json();
    return exec_info.queue_remaining > 0;
}

/** @param {string} [person] */
export const canPaint = (person) => asksOf(person, ["PPD_PreferenceCollector"]);

/** @param {string} person */
export async function paint(person) {
    const focused = document.activeElement;
    if (!canPaint(person) || (await isBusy())) return;
    await app.queuePrompt(0);
    if (document.activeElement !== focused && focused instanceof HTMLElement) focused.focus({ preventScroll: true });
}
