// What the keys do in the tab Taste and on its page: they act only on what is seen.
import { VERDICTS } from "./common.js";
import { isSeen } from "./keys.js";

/** @param {KeyboardEvent} event @param {import("./taste_view.js").View} view @returns {PPD.Action | null} */
export function actionOf(event, view) {
    if (document.activeElement?.closest(".own-keys")) return null; // a section of another module
    const { panel, stage } = view, { question } = panel.state ?? {};
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key === "Escape" && view.isPage) return () => view.zoom.undo() || panel.closePage();
    if (!(question ? isSeen(stage) : isSeen(view.question, [view.answers]))) return null;
    if (key === "u" && panel.canUndo) return () => panel.undo();
    if (!question) return null;
    if (question.pictures) {
        const digest = /^[1-9]$/.test(key) && question.pictures[Number(key) - 1];
        if (digest) return () => panel.choose(digest);
        if (key === "0" || key === "ArrowDown") return () => panel.choose(null);
    } else {
        if (key in VERDICTS) return () => panel.pick(VERDICTS[key]);
        if (key === "0") return () => view.zoom.reset();
        if (key === "s") return () => view.zoom.divide();
    }
    return key === "f" ? () => view.zoom.fullSize() : null;
}
