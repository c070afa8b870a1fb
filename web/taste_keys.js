// The keys of the question: they act only while its pictures are seen, and none of them reaches the graph.
import { VERDICTS } from "./common.js";

const INNER = [0.2, 0.8]; // of a frame's width and height: a picture is in sight where these four points are

// Also where something covers it, or whatever scrolls has it outside
function inSight(frame, stage) {
    const { left, top, width, height } = frame.getBoundingClientRect();
    const isShown = (x, y) => stage.contains(document.elementFromPoint(left + x * width, top + y * height));
    return INNER.every((x) => INNER.every((y) => isShown(x, y)));
}

// Whether all pictures of the question are loaded, in sight and not covered; one that cannot be shown has its sentence
export function isSeen({ stage }) {
    const frames = [...stage.querySelectorAll(".picture, .broken")];
    const loaded = [...stage.querySelectorAll(".picture img")].every((image) => image.complete && image.naturalWidth);
    return frames.length > 0 && loaded && frames.every((frame) => inSight(frame, stage));
}

// The page has the keys unless a dialog before it does; the tab while the mouse or the focus is in it. A section of
// another module has keys of its own
function isConcerned({ root, isPage }) {
    const focused = document.activeElement ?? document.body;
    if (focused.closest(".own-keys")) return false;
    if (root.contains(focused)) return true;
    return isPage ? focused === document.body || !focused.closest("[role=dialog]") : root.matches(":hover");
}

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
    if (!view || !isConcerned(view)) return;
    const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
    const action = isPlain && (!isTyping(event.target) || event.key === "Escape") && actionOf(event, panel, view);
    // The graph lies behind the page: what the page does not use gets no further
    if (action || (view.isPage && !view.root.contains(event.target) && !runs(event))) event.stopPropagation();
    if (!action) return;
    event.preventDefault();
    if (!event.repeat) action(); // a held key would answer what nobody has seen
}

// The one key of the graph that the page lets through: it paints the next pictures
export const runs = (event) => event.ctrlKey && event.key === "Enter";
