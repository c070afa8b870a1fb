// The keys of the question: they act only while its pictures are seen, and none of them reaches the graph.
import { VERDICTS } from "./common.js";

const SEEN = 0.6; // share of a picture's frame that must be in sight

function inSight(frame, root, stage) {
    const box = frame.getBoundingClientRect(), clip = root.getBoundingClientRect();
    const left = Math.max(box.left, clip.left, 0), right = Math.min(box.right, clip.right, innerWidth);
    const top = Math.max(box.top, clip.top, 0), bottom = Math.min(box.bottom, clip.bottom, innerHeight);
    if (right <= left || bottom <= top) return false;
    if ((right - left) * (bottom - top) < SEEN * box.width * box.height) return false;
    return stage.contains(document.elementFromPoint((left + right) / 2, (top + bottom) / 2)); // else something covers it
}

// Whether all pictures of the question are loaded, in sight and not covered; one that cannot be shown has its sentence
export function isSeen({ root, stage }) {
    const frames = [...stage.querySelectorAll(".picture, .broken")];
    const loaded = [...stage.querySelectorAll(".picture img")].every((image) => image.complete && image.naturalWidth);
    return frames.length > 0 && loaded && frames.every((frame) => inSight(frame, root, stage));
}

// The page has the keys unless a dialog before it does; the tab while the mouse or the focus is in it
function isConcerned({ root, isPage }) {
    const focused = document.activeElement ?? document.body;
    if (root.contains(focused)) return true;
    return isPage ? focused === document.body || !focused.closest("[role=dialog]") : root.matches(":hover");
}

// Finished pictures have keys of their own, and a dialog before the page has its Escape
const isOthers = ({ key, target }) => target.closest?.(key === "Escape" ? "dialog" : ".ppd-library");

const isTyping = (target) => target.closest?.("input, textarea, select, [contenteditable=true]");

function actionOf(event, panel, view) {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key, { question } = panel.state ?? {};
    if (key === "u" && (!question || isSeen(view))) return () => panel.undo();
    if (key === "Escape" && view.isPage) return () => panel.closePage();
    if (!question || !isSeen(view)) return null;
    if (question.pictures) {
        if (/^[1-9]$/.test(key)) return () => panel.choose(question.pictures[key - 1]);
        if (key === "0" || key === "ArrowDown") return () => panel.choose(null);
    } else {
        if (key in VERDICTS) return () => panel.pick(VERDICTS[key]);
        if (key === "0") return () => view.zoom.reset();
        if (key === "s") return () => view.zoom.divide();
    }
    return key === "f" ? () => view.zoom.fullSize() : null;
}

export function onKey(event, panel) {
    const { view } = panel;
    if (!view || !isConcerned(view) || isOthers(event)) return;
    const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
    const action = isPlain && (!isTyping(event.target) || event.key === "Escape") && actionOf(event, panel, view);
    // The graph lies behind the page: of its keys only the one that runs it is let through
    if (action || (view.isPage && !(event.ctrlKey && event.key === "Enter"))) event.stopPropagation();
    if (!action) return;
    event.preventDefault();
    if (!event.repeat) action(); // a held key would answer what nobody has seen
}
