// Why something is said of somebody: a part of the tab Taste. Their picks behind each look, what another answer would have
// changed, how each look went over time, and what has changed.
import { ask, element, t, thumbnailURL } from "./common.js";
import { SECTIONS, button, nameOf, wordOf } from "./taste_parts.js";

/** @import { Panel } from "./taste_panel.js" */

const WIDTH = 300, HEIGHT = 64; // of a course, in its own units

const STYLE = `
.ppd-taste .why, .ppd-taste .why section { display: flex; flex-direction: column; gap: 6px; }
.ppd-taste .why section + section { border-top: 1px solid var(--border-color); padding-top: 10px; margin-top: 4px; }
.ppd-taste .why h4 { margin: 0; font-size: 13px; }
.ppd-taste .why p, .ppd-taste .why small { color: var(--descrip-text); font-size: 12px; overflow-wrap: anywhere; }
.ppd-taste .why .causes { display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); gap: 6px; }
.ppd-taste .why .cause { display: flex; flex-direction: column; gap: 4px; }
.ppd-taste .why .both { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; }
.ppd-taste .why .against .thumbnail.chosen { border-color: var(--descrip-text); }
.ppd-taste .why .against .chosen::after { background: var(--descrip-text); }
.ppd-taste .why svg { display: block; width: 100%; height: auto; overflow: visible; }
.ppd-taste .why .drift { border: 1px solid var(--p-primary-color, #4a90d9); border-radius: 6px; padding: 8px; }`;

/** @param {number} value @returns {"low" | "high"} */
const side = (value) => (value > 50 ? "high" : "low");
/** @param {number} value */
const toward = (value) => Math.max(value, 100 - value);

/** @param {string} tag @param {Record<string, string | number>} properties */
function svg(tag, properties) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(properties)) made.setAttribute(name, String(value));
    return made;
}

// How often the high side is chosen, of 100, after more and more picks: the line, and where the truth lies nine times in ten
/** @param {PPD.WhyLook} one @param {PPD.Why["points"]} points */
function chart(one, points) {
    const { answers, day: latest } = points[points.length - 1], last = answers || 1;
    /** @param {number} index */
    const at = (index) => `${((points[index].answers / last) * WIDTH).toFixed(1)}`;
    /** @param {number} value */
    const up = (value) => `${(HEIGHT - (value / 100) * HEIGHT).toFixed(1)}`;
    /** @param {number[]} values */
    const line = (values) => values.map((value, index) => `${at(index)},${up(value)}`);
    const [least, mean, most] = [0, 1, 2].map((place) => line(one.course.map((point) => point[place])));
    const label = t("why_course", { high: wordOf(one, "high"), first: one.course[0][1], last: one.course[one.course.length - 1][1] });
    const made = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
    made.append(
        svg("polygon", { points: [...least, ...most.reverse()].join(" "), fill: "currentColor", opacity: 0.15 }),
        svg("line", { x1: 0, x2: WIDTH, y1: HEIGHT / 2, y2: HEIGHT / 2, stroke: "var(--border-color)" }),
        svg("polyline", { points: mean.join(" "), fill: "none", stroke: "var(--p-primary-color, #4a90d9)", "stroke-width": 2 }));
    const days = [points.find(({ day }) => day)?.day, latest].filter(Boolean);
    const ends = days.length ? t("why_days", { first: days[0], last: days.at(-1), count: last }) : t("why_picks", { count: last });
    const axis = element("small", { textContent: t("why_axis", { high: wordOf(one, "high"), low: wordOf(one, "low"), ends }) });
    return element("div", {}, made, axis);
}

class Why {
    /** @param {Panel} panel */
    constructor(panel) {
        this.panel = panel;
        this.of = ""; // whose answers are shown, as of which change
        this.shown = element("div", { className: "why" });
        this.root = element("div", {}, element("style", { textContent: STYLE }), this.shown);
        new IntersectionObserver(([{ isIntersecting }]) => {
            this.isSeen = isIntersecting;
            this.update();
        }).observe(this.root);
    }

    // Reads anew what has changed since, once it is looked at
    update() {
        const { person } = this.panel.standing;
        const wanted = `${person.id} ${person.revision}`;
        if (!this.isSeen || this.of === wanted) return;
        this.of = wanted;
        this.panel.run(async () => {
            const found = await ask(`people/${person.id}/why`).catch((error) => ({ problem: error.message }));
            if (this.of === wanted) this.render(found, person);
        }, true);
    }

    /** @param {PPD.Why | { problem: string }} found @param {PPD.Person} person */
    render(found, person) {
        if ("problem" in found) return this.shown.replaceChildren(element("p", { textContent: found.problem }));
        if (!found.answers) return this.shown.replaceChildren(element("p", { textContent: t("why_nothing") }));
        /** @param {PPD.Statement} one */
        const isTold = ({ state }) => ["sure", "likely"].includes(state);
        /** @param {PPD.WhyLook} one */
        const row = (one) => this.look(one, found, person);
        const told = found.looks.filter(isTold), open = found.looks.filter((one) => !isTold(one));
        const parts = [...found.drift.map((one) => this.drift(one, found)), ...told.map(row)];
        const title = element("summary", { textContent: t("open_looks", { count: open.length }) });
        if (open.length) parts.push(element("details", { open: !told.length }, title, ...open.map(row)));
        if (found.is_early) parts.push(element("p", { textContent: t("why_early") }));
        this.shown.replaceChildren(...parts);
    }

    /** @param {PPD.WhyLook} one @param {PPD.Why} found @param {PPD.Person} person */
    look(one, found, person) {
        const word = wordOf(one, side(one.share[1])), [least, value, most] = one.share;
        const [from, to] = value > 50 ? [least, most] : [100 - most, 100 - least];
        const told = { word, value: toward(value), from, to };
        /** @param {number} sign */
        const of = (sign) => one.causes.filter(({ adds }) => adds * one.lean * sign > 0);
        const causes = [...of(1).map((cause) => this.cause(cause, one, person)), ...of(-1).map((cause) => this.cause(cause, one, person))];
        const people = t("why_people", { value: value > 50 ? one.of_people : 100 - one.of_people });
        return element("section", {}, element("h4", { textContent: titleOf(one) }),
            element("p", { textContent: `${t("why_share", told)} ${people}` }), element("div", { className: "causes" }, ...causes),
            chart(one, found.points));
    }

    /** @param {PPD.Cause} cause @param {PPD.WhyLook} one @param {PPD.Person} person */
    cause(cause, one, person) {
        const isFor = cause.adds * one.lean > 0, isHigh = one.share[1] > 50;
        const without = isHigh ? cause.without : 100 - cause.without;
        const pictures = Object.entries({ chosen: cause.chosen, rejected: cause.rejected }).filter(([, digest]) => digest).map(([role, digest]) => {
            const image = element("img", { src: thumbnailURL(String(digest)), alt: "", loading: "lazy" });
            const frame = element("span", { className: "thumbnail" }, image);
            frame.classList.toggle("chosen", role === "chosen" && !cause.is_tie);
            return frame;
        });
        const value = toward(one.share[1]);
        const made = element("div", { className: isFor ? "cause" : "cause against", title: cause.prompt },
            element("div", { className: "both" }, ...pictures),
            element("small", { textContent: [cause.is_tie ? t("said_tie") : "", t(isFor ? "why_for" : "why_against", { without, value })].join(" ") }));
        if (cause.rejected && !cause.is_tie) made.append(this.otherWay(cause, person));
        return made;
    }

    /** @param {PPD.Cause} cause @param {PPD.Person} person */
    otherWay(cause, person) {
        const told = element("small", { ariaLive: "polite" });
        const press = button(t("why_what_if"), () => this.panel.run(async () => {
            /** @type {PPD.WhatIf} */
            const found = await ask(`people/${person.id}/what_if/${encodeURIComponent(cause.pair)}`);
            const said = found.said.map((one) => t("why_would", { name: nameOf(one), before: stateOf(one, one.before), after: stateOf(one, one.after) }));
            told.textContent = [t("why_decided", { count: Math.round(100 * found.decided) }), ...(said.length ? said : [t("why_same")])].join(" ");
            press.remove();
        }, true));
        return element("div", {}, press, told);
    }

    /** @param {PPD.Drift} one @param {PPD.Why} found */
    drift(one, found) {
        const words = [one.before, one.now].map((lean) => wordOf(one, lean > 0 ? "high" : "low"));
        const values = { name: nameOf({ ...one, name: one.look }), before: words[0], now: words[1], since: one.since, day: one.day && ` (${one.day})` };
        const told = t(words[0] === words[1] ? "why_drifted_less" : "why_drifted", values);
        const parts = [element("strong", { textContent: told })];
        if (found.half_life) parts.push(element("p", { textContent: t("why_fades", { count: found.half_life }) }));
        else parts.push(button(t("why_fade", { count: one.half_life }), () => this.fade(one.half_life)));
        return element("section", { className: "drift" }, ...parts);
    }

    // The button keeps the focus, so that the panel does not make the parts around it anew
    /** @param {number} picks */
    fade(picks) {
        this.panel.set("half_life", { picks });
        this.panel.run(async () => this.update(), true);
    }
}

/** @param {PPD.Statement} one */
function titleOf(one) {
    const [low, high] = [wordOf(one, "low"), wordOf(one, "high")];
    if (!one.prefers) return t("why_title_open", { low, high });
    const [liked, other] = one.prefers === one.low ? [low, high] : [high, low];
    return t("why_title", { liked, other, state: t(one.state === "sure" ? "why_sure" : "why_likely") });
}

/** @param {PPD.Look} one @param {PPD.Said} said */
function stateOf(one, { state, prefers }) {
    if (!prefers) return t("why_open");
    const word = wordOf(one, prefers === one.low ? "low" : "high");
    return `${word} (${t(state === "sure" ? "why_sure" : "why_likely")})`;
}

/** @type {WeakMap<Panel, Why>} */
const made = new WeakMap(); // by panel: what was read stays while the panel around it is made anew

/** @param {Panel} panel */
function why(panel) {
    const shown = made.get(panel) ?? new Why(panel);
    made.set(panel, shown);
    shown.update();
    return shown.root;
}

SECTIONS.push({ name: "why", title: () => t("why"), make: why });
