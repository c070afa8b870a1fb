// A place where the panel is shown: the sidebar's tab, or the whole window. Both show the same state.
import { element, t } from "./common.js";
import { runs, takeKeys } from "./keys.js";
import { actionOf } from "./taste_keys.js";
import * as parts from "./taste_parts.js";
import { answers, empty, frames } from "./taste_question.js";
import { Zoom } from "./taste_zoom.js";

export class View {
    /** @param {import("./taste_panel.js").Panel} panel @param {boolean} isPage */
    constructor(panel, isPage) {
        this.panel = panel;
        this.isPage = isPage;
        this.byMouse = true;
        /** @type {Map<string, HTMLButtonElement>} */
        this.entries = new Map(); // of the history
        /** @param {string} name @param {...Node} children */
        const part = (name, ...children) => element("div", { className: name }, ...children);
        this.header = part("header");
        this.notice = part("notice");
        this.stage = part("pair");
        this.zoom = new Zoom(this.stage, (frame) => this.onPick(frame), { turns: isPage });
        this.answers = part("answers");
        this.question = part("question", this.stage, this.answers);
        this.learned = part("learned");
        this.compared = part("compared");
        this.history = part("history");
        this.settings = part("settings");
        const known = part("details", this.learned, this.compared, this.history, this.settings);
        this.root = part(isPage ? "ppd-taste page" : "ppd-taste", this.header, this.notice, this.question, known);
        Object.assign(this.root, { tabIndex: 0, role: "region", ariaLabel: t("taste") });
        // What is shown of it, as of when it was made
        /** @type {string | null | undefined} */
        this.asked = undefined;
        this.below = "";
        this.shownHeader = "";
        this.shownCompared = "";
        takeKeys(this);
        this.notice.setAttribute("role", "status");
        this.answers.textContent = t("loading");
    }

    /** @param {KeyboardEvent} event */
    actionOf(event) {
        return actionOf(event, this);
    }

    // The graph lies behind the page: what the page does not use gets no further
    /** @param {KeyboardEvent} event */
    keeps(event) {
        return this.isPage && !runs(event);
    }

    /** @param {HTMLElement} frame */
    onPick({ dataset: { side, digest } }) {
        if (digest) this.panel.choose(digest);
        else this.panel.pick(/** @type {PPD.Verdict} */ (side));
    }

    // What is kept where it is while it may have the focus, or be under a press, is made anew only if it has changed
    render() {
        const { panel } = this, { state } = panel;
        const focused = this.root.contains(document.activeElement);
        const header = JSON.stringify([state?.person.id, panel.people.map(({ id, name }) => [id, name]), panel.of, panel.paints]);
        if (header !== this.shownHeader) this.header.replaceChildren(...parts.header(this));
        this.shownHeader = header;
        this.header.querySelector(".known")?.replaceWith(parts.known(panel));
        this.renderQuestion();
        this.learned.replaceChildren(...parts.learned(panel));
        const { compared } = panel;
        if (compared.key !== this.shownCompared) this.compared.replaceChildren(...compared.parts());
        this.shownCompared = compared.key;
        this.history.replaceChildren(...parts.history(this));
        if (!this.settings.contains(document.activeElement)) this.settings.replaceChildren(...parts.settings(panel));
        if (focused && !this.root.contains(document.activeElement)) this.root.focus({ preventScroll: true });
    }

    renderQuestion() {
        const { panel } = this, { question, person, reading, problem } = panel.state ?? {};
        const asked = JSON.stringify([question, !question && [person?.open, problem]]);
        const below = JSON.stringify([asked, reading, person?.picks, panel.history.picks.length]);
        if (asked !== this.asked) {
            this.stage.className = `pair${question?.pictures ? ` grid of-${question.pictures.length > 4 ? 9 : 4}` : ""}`;
            this.stage.replaceChildren(...frames(this));
            this.zoom.reset();
        }
        if (below !== this.below) {
            const why = question ? [] : empty(panel);
            this.answers.replaceChildren(...why, ...answers(this));
        }
        this.asked = asked;
        this.below = below;
    }

    showQuestion() {
        this.root.classList.remove("unfolded");
        this.question.scrollIntoView({ block: "start" });
        this.root.focus({ preventScroll: true }); // for the keys
    }
}
