// The parts of the Taste tab, made anew from its state whenever that changes.
import { ask, element, pictureURL, t, thumbnailURL } from "./common.js";

const SIDES = [["first", "left"], ["second", "right"]];
const SURE = 1.64; // deviations: nine in ten lie within, and a sign that far from 0 is right nineteen times in twenty

function button(text, onClick, properties = {}) {
    const made = element("button", { textContent: text, ...properties });
    made.addEventListener("click", onClick);
    return made;
}

// Stays as it is when the part around it is made anew
function details(panel, title, ...children) {
    const made = element("details", { open: panel.unfolded.has(title) }, element("summary", { textContent: title }), ...children);
    made.addEventListener("toggle", () => panel.unfolded[made.open ? "add" : "delete"](title));
    return made;
}

export function header(panel) {
    const current = panel.state?.person;
    const add = button(t("add"), () => panel.person("add"));
    if (!current) return [element("div", { className: "row" }, add)];
    const options = panel.people.map(({ id, name }) => element("option", { value: id, textContent: name,
        selected: id === current.id }));
    const select = element("select", { ariaLabel: t("person") }, ...options);
    select.addEventListener("change", () => panel.run(() => panel.open(select.value)));
    const actions = ["rename", "duplicate", "export", "delete"].map((name) => button(t(name), () => panel.person(name)));
    return [element("div", { className: "row" }, select),
        details(panel, t("manage"), element("div", { className: "row" }, add, ...actions))];
}

export function question(panel) {
    const { person, question } = panel.state ?? {};
    if (!question && person?.open) {
        return [element("p", { className: "empty", textContent: t("empty_repeats") }),
            element("div", { className: "row" }, button(t("skip_repeats"), () => panel.skipRepeats()))];
    }
    if (!question) return [element("p", { className: "empty", textContent: t("empty") })];
    const pictures = SIDES.map(([verdict, side]) => {
        const image = element("img", { src: pictureURL(question[verdict]), alt: t(`${side}_picture`) });
        const choice = button("", () => panel.pick(verdict), { className: "picture", ariaLabel: t(`${side}_is_better`),
            title: t(`${side}_is_better`) });
        choice.classList.toggle("chosen", question.verdict === verdict);
        choice.append(image);
        return choice;
    });
    const answers = ["tie", "skip"].map((verdict) => button(t(verdict), () => panel.pick(verdict)));
    answers.push(button(t("undo"), () => panel.undo()));
    const made = [element("div", { className: "pair" }, ...pictures),
        element("p", { className: "prompt", textContent: question.prompt }),
        element("div", { className: "row" }, ...answers), element("p", { className: "keys", textContent: t("keys") })];
    if (question.verdict) {
        const back = button(t("back"), () => panel.next());
        made.unshift(element("p", { textContent: `${t("revising")} ${t(`said_${question.verdict}`)}` }, " ", back));
    }
    return made;
}

const isSure = ({ mean, deviation }) => Math.abs(mean) > SURE * deviation;
const liked = ({ mean, low, high }) => t(`word_${mean < 0 ? low : high}`, {}, mean < 0 ? low : high);
const nameOf = ({ name }) => t(`attribute_${name}`, {}, name);

function progress({ person, attributes, noise }) {
    const sentences = [t("picks", person)];
    const sure = attributes.filter(isSure), open = attributes.filter((one) => !isSure(one));
    if (person.picks && sure.length) sentences.push(t("sure", { words: sure.map(liked).join(t("comma")) }));
    if (person.picks && !sure.length) sentences.push(t("unsure_of_all"));
    else if (person.picks && open.length) sentences.push(t("unsure", { words: open.map(nameOf).join(t("comma")) }));
    if (noise > 1) sentences.push(t("contradictions"));
    return element("p", { className: "progress", ariaLive: "polite", textContent: sentences.join(" ") });
}

// A row: what the person leans to between two words, as a dot, and how far the truth may lie from it, as a bar
function attribute(one) {
    const reach = Math.abs(one.prior_mean) + 2.5 * one.prior_deviation; // beyond which hardly anybody is
    const at = (value) => 50 + 50 * Math.max(-1, Math.min(1, value / reach));
    const [from, dot, to] = [one.mean - SURE * one.deviation, one.mean, one.mean + SURE * one.deviation].map(at);
    const bar = element("span", { className: "bar" });
    Object.assign(bar.style, { left: `${from}%`, width: `${to - from}%` });
    const mark = element("span", { className: "dot" });
    mark.style.left = `${dot}%`;
    const label = t(isSure(one) ? "leans" : "leans_perhaps", { name: nameOf(one), word: liked(one) });
    const scale = element("div", { className: "scale", role: "img", ariaLabel: label, title: label }, bar, mark);
    scale.classList.toggle("sure", isSure(one));
    return element("div", { className: "attribute" }, element("span", { textContent: t(`word_${one.low}`, {}, one.low) }), scale,
        element("span", { textContent: t(`word_${one.high}`, {}, one.high) }));
}

export function learned({ state }) {
    if (!state) return [];
    const parts = [progress(state)];
    if (state.person.picks) parts.push(...state.attributes.map(attribute));
    return parts;
}

export function history(panel) {
    const { picks, more } = panel.history;
    if (!picks.length) return [];
    const entries = picks.map((pick) => {
        const images = SIDES.map(([verdict]) => {
            const image = element("img", { src: thumbnailURL(pick[verdict]), alt: "", loading: "lazy" });
            image.classList.toggle("chosen", pick.verdict === verdict);
            return image;
        });
        const label = `${t(`said_${pick.verdict}`)} ${pick.prompt}`;
        const entry = button("", () => panel.revise(pick.id), { className: "entry", ariaLabel: label, title: label });
        entry.append(...images);
        if (["tie", "skip"].includes(pick.verdict)) entry.append(element("span", { textContent: t(`short_${pick.verdict}`) }));
        return entry;
    });
    const parts = [element("h3", { textContent: t("history") }), element("div", { className: "entries" }, ...entries)];
    if (more) parts.push(button(t("more"), () => panel.more()));
    return parts;
}

export function settings(panel) {
    const person = panel.state?.person;
    if (!person) return [];
    const fading = element("input", { type: "number", min: 1, max: 10000, step: 1, value: person.half_life ?? "",
        placeholder: t("never"), ariaLabel: t("fading") });
    fading.addEventListener("change", () => {
        if (fading.reportValidity()) panel.fade(fading.value === "" ? null : Number(fading.value));
    });
    const sets = element("select", { ariaLabel: t("import") }, element("option", { value: "", textContent: t("import") }));
    sets.addEventListener("focus", () => panel.run(() => list(sets)), { once: true });
    sets.addEventListener("change", () => {
        if (sets.value) panel.take(sets.value);
        sets.value = ""; // it is no setting
    });
    return [details(panel, t("more_settings"),
        element("label", { className: "row" }, t("fading"), fading),
        element("div", { className: "row" }, sets),
        element("p", { textContent: t(panel.shared ? "where_shared" : "where") }))];
}

async function list(sets) {
    sets.append(...(await ask("sets")).map((name) => element("option", { value: name, textContent: name })));
}
