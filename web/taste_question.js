// What is asked: two pictures or a grid of them, and the answers.
import { element, t } from "./common.js";
import { button } from "./taste_parts.js";
import { canPaint, paint } from "./taste_painting.js";

/**
 * @import { Panel } from "./taste_panel.js"
 * @import { View } from "./taste_view.js"
 */

const SIDES = /** @type {const} */ ([["first", "left"], ["second", "right"]]);

/** @param {View} view @param {string} digest @param {{ label: string, chosen?: boolean, number?: number, side?: string, digest?: string }} told */
function frame(view, digest, { label, chosen, number, ...data }) {
    const { pictures } = view.panel;
    const image = pictures.get(digest);
    const made = element("button", { className: "picture", ariaLabel: label, title: label }, image);
    const broken = element("p", { className: "broken", textContent: t("broken_picture") });
    image.alt = label;
    image.style.transform = "";
    const fit = () => made.style.setProperty("--ratio", String(image.naturalWidth / image.naturalHeight));
    if (pictures.broken.has(digest)) return broken;
    image.onerror = () => made.isConnected && made.replaceWith(broken);
    image.onload = fit;
    if (image.naturalWidth) fit();
    Object.assign(made.dataset, data);
    made.classList.toggle("chosen", Boolean(chosen));
    if (number) made.append(element("span", { className: "number", textContent: number }));
    return made;
}

// The frames of a question, for the view's stage
/** @param {View} view */
export function frames(view) {
    const { question } = view.panel.state ?? {};
    if (!question) return [];
    if (question.pictures) {
        return question.pictures.map((digest, index) =>
            frame(view, digest, { label: t("number_is_best", { number: index + 1 }), number: index + 1, digest }));
    }
    const two = SIDES.map(([side, where]) =>
        frame(view, question[side], { label: t(`${where}_is_better`), chosen: question.verdict === side, side }));
    return [...two, element("div", { className: "line" })];
}

// Where there is no question: why, and what to do about it
/** @param {Panel} panel */
export function empty(panel) {
    const { person, reading, problem, studies, known, unseen } = panel.state ?? {};
    /** @param {string} text @param {...Node} more */
    const said = (text, ...more) => [element("p", { className: "empty", textContent: text }), element("div", { className: "row" }, ...more)];
    if (problem) return said(problem);
    if (reading) return said(readingOf(panel.standing));
    if (unseen && unseen === person?.open) return said(t("empty_unseen", { count: unseen }), ...painting(panel));
    if (person?.open) return said(t(known?.more === 0 ? "empty_enough" : "empty_repeats"), button(t("skip_left_over"), () => panel.skipLeftOver()), ...painting(panel));
    return said(studies?.length ? t("empty_studies") : t("empty"), ...painting(panel));
}

/** @param {Panel} panel */
function painting({ state }) {
    const id = state?.person.id;
    return id && canPaint(id) ? [button(t("paint_now"), () => paint(id))] : [];
}

/** @param {PPD.Standing} state */
const readingOf = ({ reading, person }) => t("reading", { done: reading?.[0], of: reading?.[1], encoder: person.encoder });

// Under the pictures: the prompt, the answers, the keys
/** @param {View} view */
export function answers(view) {
    const { panel } = view, { question, reading, person } = panel.state ?? {};
    const undo = button(t("undo"), () => panel.undo(), { disabled: !panel.canUndo });
    if (!question) return person ? [element("div", { className: "row" }, undo)] : [];
    /** @type {HTMLElement[]} */
    const made = [];
    if (question.verdict) {
        const back = button(t("back"), () => panel.next());
        made.push(element("p", { className: "revising", textContent: `${t("revising")} ${t(`said_${question.verdict}`)} ` }, back));
    }
    made.push(element("p", { className: "prompt", textContent: question.prompt, title: question.prompt }));
    const verdicts = question.pictures
        ? [button(t("skip_grid"), () => panel.choose(null))]
        : /** @type {const} */ (["tie", "skip"]).map((verdict) => button(t(verdict), () => panel.pick(verdict)));
    made.push(element("div", { className: "row" }, ...verdicts, undo));
    made.push(element("p", { className: "keys", textContent: question.pictures ? t("keys_grid", { count: question.pictures.length }) : t("keys") }));
    if (!view.isPage) made.push(element("p", { className: "keys away", textContent: t("keys_away") }));
    if (reading) made.push(element("p", { className: "keys", textContent: readingOf(panel.standing) }));
    return made;
}
