// A blind test over the whole window: a question at a time, and the result at its end. Nothing here knows which picture
// is whose before that: the server does not say.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { Requests, VERDICTS, ask, element, t } from "./common.js";
import { isSeen, takeKeys } from "./keys.js";
import { button } from "./taste_parts.js";
import { Zoom } from "./taste_zoom.js";

const SIDES = /** @type {const} */ ([["first", "left"], ["second", "right"]]);
const LONGEST = 120; // seconds that count of an answer

const STYLE = `
.ppd-blind .answers:has(.over) { flex: 1; align-content: center; justify-content: center; overflow: auto; }
.ppd-blind .header .row { justify-content: space-between; }
.ppd-blind .over { max-width: 44em; display: flex; flex-direction: column; gap: 14px; font-size: 15px; line-height: 1.5; }
.ppd-blind .over .row { gap: 10px; }
.ppd-blind .shares { display: flex; height: 26px; border-radius: 6px; overflow: hidden; margin-top: 6px; }
.ppd-blind .shares span { display: grid; place-items: center; min-width: 20px; color: #fff; font-size: 12px; background: #8c6a5a; }
.ppd-blind .shares .best { background: #40845c; }
.ppd-blind .shares .tied { background: #8d857e; }
.ppd-blind .names { display: flex; justify-content: space-between; color: var(--descrip-text); font-size: 12px; }
.ppd-blind .over a { color: var(--p-primary-color, #4a90d9); }
.ppd-taste .blind-test { justify-content: space-between; }
.ppd-taste .blind-test span { flex: 1 1 12em; }`;

document.head.append(element("style", { textContent: STYLE }));

export class BlindPage {
    /** @param {string} test @param {() => void} onClose */
    constructor(test, onClose) {
        this.test = test;
        this.onClose = onClose;
        this.requests = new Requests();
        /** @type {PPD.BlindTest | null} */
        this.state = null;
        this.seen = 0; // when the pictures were, in milliseconds
        /** @type {number | undefined} */
        this.looked = undefined;
        /** @param {string} name @param {...Node} children */
        const part = (name, ...children) => element("div", { className: name }, ...children);
        this.stage = part("pair");
        this.header = part("header");
        this.notice = part("notice");
        this.answers = part("answers");
        this.zoom = new Zoom(this.stage, ({ dataset: { side } }) => this.pick(/** @type {PPD.Verdict} */ (side)), { turns: true });
        this.root = element("div", { className: "ppd-taste page ppd-blind", tabIndex: 0, role: "region", ariaLabel: t("blind_title") },
            this.header, this.notice, part("question", this.stage, this.answers));
        this.notice.setAttribute("role", "status");
        takeKeys(this);
        this.before = document.activeElement;
        document.body.append(this.root);
        this.root.focus();
        this.run(() => ask(`tests/${test}`));
    }

    close() {
        this.root.remove();
        if (this.before instanceof HTMLElement) this.before.focus({ preventScroll: true });
        this.onClose();
    }

    keeps() {
        return true; // the graph lies behind
    }

    /** @param {KeyboardEvent} event */
    actionOf({ key: pressed }) {
        const key = pressed.length === 1 ? pressed.toLowerCase() : pressed;
        if (key === "Escape") return () => this.zoom.undo() || this.close();
        if (key === "u" && this.state?.answered && !this.state.result) return () => this.undo();
        if (!this.state?.question || !isSeen(this.stage)) return null;
        if (key in VERDICTS) return () => this.pick(VERDICTS[key]);
        /** @type {Record<string, PPD.Action>} */
        const moves = { f: () => this.zoom.fullSize(), s: () => this.zoom.divide(), 0: () => this.zoom.reset() };
        return moves[key];
    }

    // A press while another is on its way is about what is not seen any more
    /** @param {() => Promise<PPD.BlindTest>} work */
    async run(work) {
        this.root.ariaBusy = "true";
        try {
            await this.show(await work());
            this.requests.clear();
            this.notice.textContent = "";
        } catch (error) {
            this.notice.textContent = t("failed", { error: error.message });
        }
        this.root.ariaBusy = "false";
    }

    /** @param {string} path @param {object} body */
    press(path, body) {
        if (this.root.ariaBusy !== "true") this.run(() => ask(`tests/${this.test}/${path}`, body, "POST", this.requests.of(path, body)));
    }

    /** @param {PPD.Verdict} verdict */
    pick(verdict) {
        const isBroken = this.stage.querySelector(".broken");
        if (isBroken && verdict !== "skip") this.notice.textContent = t("only_skip");
        else this.press("picks", { question: this.state?.question?.id, verdict, seconds: this.seconds });
    }

    // Read once a press: a press that failed is sent anew as the same
    get seconds() {
        this.looked ??= Math.min(LONGEST, Math.round((performance.now() - this.seen) / 100) / 10);
        return this.looked;
    }

    undo() {
        this.press("undo", {});
    }

    async finish() {
        if (this.state?.question) {
            const message = t("blind_stop_message");
            if (!(await app.extensionManager.dialog.confirm({ title: t("blind_stop"), message }))) return;
        }
        this.press("finish", {});
    }

    // The next pictures take the place of these once they are there, both at the same time
    /** @param {PPD.BlindTest} state */
    async show(state) {
        const { question, result } = state;
        const frames = question ? await Promise.all(SIDES.map(([side, where]) => this.frame(question, side, where))) : [];
        this.state = state;
        this.looked = undefined;
        this.header.replaceChildren(this.head(state));
        this.stage.className = "pair";
        this.stage.replaceChildren(...frames, ...(frames.length ? [element("div", { className: "line" })] : []));
        this.zoom.reset();
        this.answers.replaceChildren(...(question ? this.choices(question, state.answered) : [result ? this.result(result) : this.over(state)]));
        this.seen = performance.now();
        if (!this.root.contains(document.activeElement)) this.root.focus({ preventScroll: true });
    }

    /** @param {{ id: string }} question @param {PPD.Verdict} side @param {string} where */
    async frame({ id }, side, where) {
        const label = t(`${where}_is_better`);
        const image = element("img", { src: api.apiURL(`/ppd/tests/${this.test}/questions/${id}/${where}`), alt: label, draggable: false });
        try {
            await image.decode();
        } catch {
            return element("p", { className: "broken", textContent: t("broken_picture") });
        }
        const made = element("button", { className: "picture", ariaLabel: label, title: label }, image);
        made.style.setProperty("--ratio", String(image.naturalWidth / image.naturalHeight));
        made.dataset.side = side;
        return made;
    }

    /** @param {PPD.BlindTest} state */
    head(state) {
        const told = state.question ? t("blind_progress", state) : t("blind_title");
        return element("div", { className: "row" }, element("strong", { textContent: told }),
            button("✕", () => this.close(), { className: "close", ariaLabel: t("close_page"), title: t("close_page") }));
    }

    /** @param {{ prompt: string }} question @param {number} answered */
    choices(question, answered) {
        const verdicts = /** @type {const} */ (["tie", "skip"]).map((verdict) => button(t(verdict), () => this.pick(verdict)));
        const undo = button(t("undo"), () => this.undo(), { disabled: !answered });
        const stop = button(t("blind_stop"), () => this.finish(), { disabled: !answered });
        return [element("p", { className: "prompt", textContent: question.prompt }),
            element("div", { className: "row" }, ...verdicts, undo, stop),
            element("p", { className: "keys", textContent: t("keys") })];
    }

    /** @param {PPD.BlindTest} state */
    over({ is_decided }) {
        const lines = [t(is_decided ? "blind_decided" : "blind_all"), t("blind_over")];
        return element("div", { className: "over" }, ...lines.map((textContent) => element("p", { textContent })),
            element("div", { className: "row" }, button(t("blind_show"), () => this.finish()), button(t("undo"), () => this.undo())));
    }

    /** @param {PPD.BlindResult} result */
    result({ pairs, consistency, folder, answers, seconds_per_pick: seconds, minutes }) {
        const again = [t(consistency.of ? "blind_again" : "blind_not_again", consistency)];
        if (consistency.ties) again.push(t("blind_ties", consistency));
        if (consistency.of && consistency.most < 1) again.push(t("blind_ceiling", { most: percent(consistency.most) }));
        const lines = [again.join(" "), t("blind_time", { answers, seconds, minutes: minutes.toFixed(1) }), t("blind_where", { folder })];
        /** @param {string} file @param {string} textContent */
        const link = (file, textContent) =>
            element("a", { href: api.apiURL(`/ppd/tests/${this.test}/report/${file}`), target: "_blank", textContent });
        return element("div", { className: "over" }, ...pairs.map(compared), ...lines.map((textContent) => element("p", { textContent })),
            element("div", { className: "row" }, link("report.html", t("blind_report")), link("sheet.png", t("blind_sheet")),
                link("report.json", t("blind_figures"))));
    }
}

/** @param {number} share */
const percent = (share) => Math.round(100 * share);

// Two ways to paint, the one that won more first
/** @param {PPD.Compared} pair */
function compared({ arms: [one, two], wins, losses, ties, interval: [from, to], decided }) {
    const isTurned = losses > wins;
    const [best, other] = isTurned ? [two, one] : [one, two];
    const [low, high] = (isTurned ? [1 - to, 1 - from] : [from, to]).map(percent);
    const values = { best, other, wins: Math.max(wins, losses), of: wins + losses, low, high };
    const told = [!values.of ? t("blind_unknown", values) : wins === losses ? t("blind_even", values)
        : t(decided ? "blind_won" : "blind_undecided", values)];
    if (ties) told.push(t("blind_ties", { ties }));
    /** @param {number} count @param {string} className */
    const share = (count, className) => element("span", { textContent: count, className, style: `flex: ${count}` });
    /** @type {[number, string][]} */
    const shares = [[Math.max(wins, losses), "best"], [ties, "tied"], [Math.min(wins, losses), ""]];
    return element("div", {}, element("p", { textContent: told.join(" ") }),
        element("div", { className: "shares" }, ...shares.filter(([count]) => count).map((one) => share(...one))),
        element("div", { className: "names" }, element("span", { textContent: best }), element("span", { textContent: other })));
}
