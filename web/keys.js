// Keys: every press has one owner, so that none answers two questions; and what "seen" is, since keys act on that alone.

const ROOT = "[data-ppd-keys]";
const TYPED_INTO = "input, textarea, select, [contenteditable]:not([contenteditable=false])";
const INNER = [0.2, 0.8]; // of a frame's width and height: it is in sight where these four points are
/** @type {WeakMap<Element, PPD.KeyOwner>} */
const owners = new WeakMap(); // by their roots

// From now on what is pressed with the focus in `owner.root`, or under the mouse if it is `byMouse`, is the owner's:
// `actionOf(event)` is what the key does or nothing, and none that it `keeps(event)` reaches the graph
/** @param {PPD.KeyOwner} owner */
export function takeKeys(owner) {
    owner.root.dataset.ppdKeys = "";
    owners.set(owner.root, owner);
}

// The page over the whole window is first, then what has the focus, then what is under the mouse; of several within
// each other the innermost. A dialog that has the focus is before them all
/** @param {Element} focused */
function ownerOf(focused) {
    const page = document.querySelector(".ppd-taste.page"), root = focused.closest(ROOT);
    if (root && (!page || page.contains(root))) return owners.get(root);
    if (focused.closest("[role=dialog]")) return null;
    if (page) return owners.get(page);
    return Array.from(document.querySelectorAll(`${ROOT}:hover`), (one) => owners.get(one)).findLast((owner) => owner?.byMouse);
}

// Before the graph and the frontend's own keys. A held key goes on with what says so: else it would answer the unseen
window.addEventListener("keydown", (event) => {
    const focused = document.activeElement ?? document.body, owner = ownerOf(focused);
    if (!owner) return;
    const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey;
    const isTyped = event.key !== "Escape" && focused.closest(TYPED_INTO);
    const action = isPlain && !isTyped && owner.actionOf(event);
    if (action || owner.keeps?.(event)) event.stopPropagation();
    if (!action) return;
    event.preventDefault();
    if (!event.repeat || action.isHeld) action();
}, true);

/** @param {PPD.Action} action */
export const whileHeld = (action) => Object.assign(action, { isHeld: true });

// The one key of the graph that the page lets through: it paints the next pictures
/** @param {KeyboardEvent} event */
export const runs = (event) => event.ctrlKey && event.key === "Enter";

// Also not where something covers it, or whatever scrolls has it outside
/** @param {Element} frame @param {Element} stage */
function inSight(frame, stage) {
    const { left, top, width, height } = frame.getBoundingClientRect();
    /** @param {number} x @param {number} y */
    const isShown = (x, y) => stage.contains(document.elementFromPoint(left + x * width, top + y * height));
    return INNER.every((x) => INNER.every((y) => isShown(x, y)));
}

// Whether all pictures of a stage are loaded, in sight and not covered; one that cannot be shown has its sentence
/** @param {Element} stage @param {Element[]} [frames] */
export function isSeen(stage, frames = [...stage.querySelectorAll(".picture, .broken")]) {
    /** @param {HTMLImageElement} image */
    const isLoaded = (image) => image.complete && image.naturalWidth > 0;
    return frames.length > 0 && [...stage.querySelectorAll("img")].every(isLoaded) && frames.every((frame) => inSight(frame, stage));
}
