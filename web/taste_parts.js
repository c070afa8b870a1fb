// The parts of the Taste panel, made anew from its state whenever that changes.
import { ask, element, isJapanese, t, thumbnailURL } from "./common.js";

/**
 * @import { Panel } from "./taste_panel.js"
 * @import { View } from "./taste_view.js"
 */

const SIDES = /** @type {const} */ (["first", "second"]);
/** @type {PPD.Section[]} */
export const SECTIONS = []; // of other modules, folded: { name, title(), make(panel) }
const REACH = 4; // log-odds at the ends of a look's scale: of two pictures that far apart one is chosen 98 times in 100

/** @param {string | number} text @param {() => void} onClick @param {PPD.Properties<HTMLButtonElement>} [properties] */
export function button(text, onClick, properties = {}) {
    const made = element("button", { textContent: text, ...properties });
    made.addEventListener("click", onClick);
    return made;
}

// Stays as it is when the part around it is made anew
/** @param {Panel} panel @param {string} name @param {string} title @param {...Node} children */
function details(panel, name, title, ...children) {
    const made = element("details", { open: panel.unfolded.has(name) }, element("summary", { textContent: title }), ...children);
    made.addEventListener("toggle", () => panel.unfolded[made.open ? "add" : "delete"](name));
    return made;
}

/** @param {View} view */
export function header({ panel, root, isPage }) {
    const current = panel.state?.person;
    const add = button(t("add"), () => panel.person("add"));
    if (!current) return [];
    const options = panel.people.map(({ id, name }) => element("option", { value: id, textContent: name,
        selected: id === current.id }));
    const select = element("select", { ariaLabel: t("person") }, ...options);
    select.addEventListener("change", () => panel.run(() => panel.open(select.value)));
    const sizes = element("div", { className: "sizes", role: "group", ariaLabel: t("of") }, ...[2, 4, 9].map((of) =>
        button(of, () => panel.setOf(of), { ariaPressed: of === panel.of, title: t("best_of", { of }) })));
    const paints = button(t("paints"), () => panel.setPaints(!panel.paints), { ariaPressed: panel.paints, title: t("paints_tooltip") });
    const actions = ["rename", "duplicate", "export", "delete"].map((name) => button(t(name), () => panel.person(name)));
    const manage = details(panel, "manage", t("manage"), element("div", { className: "row" }, add, ...actions));
    if (!isPage) {
        const page = button(t("open_page"), () => panel.openPage(), { title: t("open_page_tooltip") });
        return [element("div", { className: "row" }, select, page), element("div", { className: "row" }, sizes, paints, known(panel)), manage];
    }
    const row = element("div", { className: "row" }, select, known(panel), sizes, paints);
    row.append(button(t("details"), () => root.classList.toggle("unfolded")),
        button("✕", () => panel.closePage(), { className: "close", ariaLabel: t("close_page"), title: t("close_page") }));
    return [row];
}

// How far the picks have come to what painting for the person takes; nothing where no taste encoder can tell
/** @param {Panel} panel */
export function known({ standing: state }) {
    if (!state.known) return element("div", { className: "known" });
    const { more } = state.known, share = Math.min(more ? 99 : 100, Math.round(100 * state.known.share));
    const text = more ? t(more === 1 ? "one_more" : "some_more", { share, more }) : t("enough");
    const filled = element("span", { className: "filled" });
    filled.style.width = `${share}%`;
    return element("div", { className: "known", role: "progressbar", ariaValueNow: share, ariaLabel: t("known_label"), title: t("known_label") },
        element("span", { className: "scale" }, filled), element("span", { textContent: text }));
}

/** @param {PPD.Opposites} one @param {"low" | "high"} side @returns {string} */
export const wordOf = (one, side) => (isJapanese() && one.japanese?.[side === "low" ? 0 : 1]) || t(`word_${one[side]}`, {}, one[side]);
/** @param {PPD.Statement} one */
const liked = (one) => wordOf(one, one.probability_low > one.probability_high ? "low" : "high");
/** @param {PPD.Statement} one */
const leanOf = (one) => Math.max(one.probability_low, one.probability_high);
/** @param {PPD.Look} one */
export const nameOf = (one) => t(`look_${one.name}`, {}, `${wordOf(one, "low")} / ${wordOf(one, "high")}`);
/** @template One @param {One[]} ones @param {(one: One) => string} word */
const list = (ones, word) => ones.map(word).join(t("comma"));

/** @param {PPD.Standing} state */
function progress({ person, statements, noise }) {
    const sentences = [t("picks", person)];
    /** @param {PPD.Statement["state"]} state */
    const of = (state) => statements.filter((one) => one.state === state);
    const sure = of("sure"), likely = of("likely");
    if (sure.length) sentences.push(t("sure", { words: list(sure, liked) }));
    if (likely.length) sentences.push(t("likely", { words: list(likely, liked) }));
    const [lead] = of("unknown").sort((a, b) => leanOf(b) - leanOf(a));
    if (person.picks && lead && !sure.length && !likely.length) sentences.push(t("unsure_of_all", { word: liked(lead) }));
    if (noise > 1) sentences.push(t("contradictions"));
    return element("p", { className: "progress", ariaLive: "polite", textContent: sentences.join(" ") });
}

// A row: how much the person leans to one of two words, as a dot, and where the truth lies nine times in ten, as a bar
/** @param {PPD.Statement} one @param {PPD.Statement[]} all */
function look(one, all) {
    /** @param {number} value */
    const at = (value) => 50 + 50 * Math.max(-1, Math.min(1, value / REACH));
    const [from, dot, to] = [one.least, one.mean, one.most].map(at);
    const bar = element("span", { className: "bar" });
    Object.assign(bar.style, { left: `${from}%`, width: `${to - from}%` });
    const mark = element("span", { className: "dot" });
    mark.style.left = `${dot}%`;
    const told = t(one.state === "sure" ? "leans" : "leans_perhaps", { name: nameOf(one), word: liked(one) });
    const others = all.filter(({ name }) => one.instead.includes(name));
    const instead = others.length ? ` ${t("instead", { words: list(others, nameOf) })}` : "";
    const scale = element("div", { className: "scale", role: "img", ariaLabel: told + instead, title: told + instead }, bar, mark);
    scale.classList.toggle("sure", one.state === "sure");
    return element("div", { className: "look" }, element("span", { textContent: wordOf(one, "low") }), scale,
        element("span", { textContent: wordOf(one, "high") }));
}

// What the brand guide that the person is bound to changes of what is painted for them
/** @param {Panel} panel @param {PPD.Guide | PPD.NoGuide} guide */
function guided(panel, guide) {
    if ("problem" in guide) return element("p", { className: "guide", role: "alert", textContent: `${t("guide_problem")} ${guide.problem}` });
    /** @param {string} level */
    const words = (level) => list(guide.held.filter((one) => one.level === level), (one) => wordOf(one, one.side));
    const sentences = [t(guide.held.length ? "guide_holds" : guide.binds ? "guide_holds_nothing" : "guide_no_looks", guide)];
    for (const level of ["never", "must"]) if (words(level)) sentences.push(t(`guide_${level}`, { words: words(level) }));
    if (guide.changed) sentences.push(t("guide_changed"));
    const made = element("p", { className: "guide", ariaLive: "polite", textContent: sentences.join(" ") });
    const seen = () => panel.set("guide", { guide: panel.standing.person.guide });
    if (guide.changed) made.append(" ", button(t("guide_seen"), seen));
    return made;
}

/** @param {Panel} panel */
export function learned(panel) {
    const { state } = panel;
    if (!state) return [];
    /** @type {HTMLElement[]} */
    const parts = [progress(state)], { person, statements } = state;
    if (state.guide) parts.push(guided(panel, state.guide));
    if (!person.picks) return parts;
    const told = statements.filter((one) => ["sure", "likely"].includes(one.state));
    /** @param {PPD.Statement} one */
    const row = (one) => look(one, statements);
    parts.push(...told.sort((a, b) => Number(b.state === "sure") - Number(a.state === "sure")).map(row));
    const open = statements.filter((one) => one.state === "unknown");
    if (open.length) parts.push(details(panel, "open_looks", t("open_looks", { count: open.length }), ...open.map(row)));
    const unasked = statements.filter((one) => one.state === "not asked yet");
    if (unasked.length) {
        parts.push(details(panel, "not_asked", t("not_asked", { count: unasked.length }), element("p", { textContent: list(unasked, nameOf) })));
    }
    return parts;
}

// An answer's pictures, made once in a view: they are not fetched anew with every press
/** @param {View} view @param {PPD.Pick} pick */
function entry({ panel, entries }, pick) {
    const key = `${pick.id} ${pick.pick}`;
    const known = entries.get(key);
    if (known) return known;
    const images = SIDES.map((verdict) => {
        const image = element("img", { src: thumbnailURL(pick[verdict]), alt: "", loading: "lazy" });
        const one = element("span", { className: "thumbnail" }, image);
        one.classList.toggle("chosen", pick.verdict === verdict);
        return one;
    });
    const label = `${t(`said_${pick.verdict}`)} ${pick.prompt}`;
    const made = button("", () => panel.revise(pick.id), { className: "entry", ariaLabel: label, title: label });
    made.append(...images);
    if (["tie", "skip"].includes(pick.verdict)) made.append(element("span", { textContent: t(`short_${pick.verdict}`) }));
    entries.set(key, made);
    return made;
}

/** @param {View} view */
export function history(view) {
    const { picks, more } = view.panel.history;
    if (!picks.length) return [];
    const entries = element("div", { className: "entries" }, ...picks.map((pick) => entry(view, pick)));
    /** @type {HTMLElement[]} */
    const parts = [element("h3", { textContent: t("history") }), entries];
    if (more) parts.push(button(t("more"), () => view.panel.more()));
    return parts;
}

/** @param {Panel} panel */
export function settings(panel) {
    const person = panel.state?.person;
    if (!person) return [];
    const fading = element("input", { type: "number", min: 1, max: 10000, step: 1, value: person.half_life ?? "",
        placeholder: t("never"), ariaLabel: t("fading") });
    fading.addEventListener("change", () => {
        if (fading.reportValidity()) panel.set("half_life", { picks: fading.value === "" ? null : Number(fading.value) });
    });
    const encoders = element("select", { ariaLabel: t("encoder") }, ...[...new Set([person.encoder, ...panel.standing.encoders])].map(
        (name) => element("option", { value: name, textContent: name, selected: name === person.encoder })));
    encoders.addEventListener("change", () => panel.set("encoder", { encoder: encoders.value }));
    const guides = element("select", { ariaLabel: t("guide") }, element("option", { value: "", textContent: t("guide_none") }),
        ...[...new Set([person.guide ?? "", ...panel.standing.guides])].filter(Boolean).map((name) =>
            element("option", { value: name, textContent: name, selected: name === person.guide })));
    guides.addEventListener("change", () => panel.set("guide", { guide: guides.value || null }));
    const studies = choice(panel, t("ask_from_studies"), "studies", (name) => panel.askFrom(name));
    const sets = choice(panel, t("import"), "sets", (name) => panel.take(name));
    const added = SECTIONS.map(({ name, title, make }) => details(panel, name, title(), make(panel)));
    for (const section of added) section.classList.add("own-keys");
    return [...added, details(panel, "more_settings", t("more_settings"),
        element("label", { className: "row" }, t("fading"), fading),
        element("label", { className: "row" }, t("encoder"), encoders),
        element("label", { className: "row", title: t("guide_tooltip") }, t("guide"), guides),
        element("div", { className: "row" }, studies),
        element("div", { className: "row" }, sets),
        reporting(panel),
        element("p", { textContent: t(panel.shared ? "where_shared" : "where") }))];
}

// What a report of a fault should have, to be pasted; shown as well, since browsers copy nothing over plain HTTP
/** @param {Panel} panel */
function reporting(panel) {
    const text = element("textarea", { className: "report", readOnly: true, hidden: true, rows: 8, ariaLabel: t("fault_report") });
    const copy = () => panel.run(async () => {
        text.value = (await ask("report")).report;
        text.hidden = false;
        text.select();
        await navigator.clipboard?.writeText(text.value).catch(() => {});
        panel.notify(t("fault_report_copied"));
    });
    return element("div", {}, button(t("fault_report"), copy), text);
}

// A list that is fetched when it is opened, and does something with what is chosen instead of keeping it
/** @param {Panel} panel @param {string} title @param {string} path @param {(name: string) => void} onChoice */
function choice(panel, title, path, onChoice) {
    const made = element("select", { ariaLabel: title }, element("option", { value: "", textContent: title }));
    made.addEventListener("focus", () => panel.run(async () => made.append(...(await ask(path)).map(
        (/** @type {string} */ name) => element("option", { value: name, textContent: name })))), { once: true });
    made.addEventListener("change", () => {
        if (made.value) onChoice(made.value);
        made.value = "";
    });
    return made;
}
