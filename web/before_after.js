// Before and after: one prompt and seed, painted by none, some and more of a person's first answers.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { ask, element, t } from "./common.js";
import { asksOf, idsOf } from "./people.js";
import { isBusy } from "./taste_painting.js";
import { button } from "./taste_parts.js";

const READERS = ["PPD_MyTaste", "PreferencePairLoader"]; // they have the input first_answers
const FEW = 5; // answers, beside none and all
const MANY = 10; // from so many on those few come between
const ALL = -1; // answers, and the moodboard
const SHOWN = "ppd_before_after"; // the node that shows the picture of a run: a name that no node of a graph has

// None, a few, all
/** @param {number} answers */
const countsOf = (answers) => [...new Set([0, answers < MANY ? Math.floor(answers / 2) : FEW, answers])];

// A node of the queued graph and all that it hangs on
/** @param {Comfy.Output} output @param {string} id @param {Set<string>} [found] @returns {Set<string>} */
function above(output, id, found = new Set()) {
    if (found.has(id)) return found;
    found.add(id);
    for (const [source] of Object.values(output[id].inputs).filter(Array.isArray)) above(output, source, found);
    return found;
}

// The link that brings a node the pictures that it saves or shows
/** @param {Comfy.Output[string]} node @returns {[string, number] | undefined | false} */
function pictures({ class_type, inputs }) {
    const { output_node, input } = LiteGraph.registered_node_types[class_type]?.nodeData ?? {};
    const types = { ...input?.required, ...input?.optional };
    return output_node && Object.entries(inputs).find(([name, value]) => Array.isArray(value) && types[name]?.[0] === "IMAGE")?.[1];
}

// What is compared: the first node that saves a picture painted for the person, or else shows one
/** @param {Comfy.Output} output @param {string[]} readers */
function pictured(output, readers) {
    const found = Object.keys(output).filter((id) => pictures(output[id])).map((id) => ({ id, nodes: above(output, id) }))
        .filter(({ nodes }) => readers.some((id) => nodes.has(id))
            && ![...nodes].some((id) => output[id].class_type === "PPD_PreferenceCollector"));
    return found.find(({ id }) => output[id].class_type !== "PreviewImage") ?? found[0];
}

// Only what that picture hangs on, so that nothing is saved or asked
/** @param {Comfy.Output} output @param {{ id: string, nodes: Set<string> }} shown @param {string[]} readers @param {number} first_answers */
function graphOf(output, { id, nodes }, readers, first_answers) {
    const graph = Object.fromEntries([...nodes].filter((one) => one !== id).map((one) => [one, structuredClone(output[one])]));
    for (const reader of readers.filter((one) => graph[one])) graph[reader].inputs.first_answers = first_answers;
    graph[SHOWN] = { class_type: "PreviewImage", inputs: { images: pictures(output[id]) } };
    return graph;
}

/** @typedef {{ count: number, isAll: boolean, id: string }} Run */

export class BeforeAfter {
    /** @param {import("./taste_panel.js").Panel} panel */
    constructor(panel) {
        this.panel = panel;
        this.person = ""; // whom the runs are of
        /** @type {Run[]} */
        this.runs = [];
        /** @type {Map<string, Comfy.Picture | null>} */
        this.ended = new Map(); // by run: its picture, or null
        api.addEventListener("executed", ({ detail }) => {
            if (detail.node === SHOWN) this.end(detail.prompt_id, detail.output?.images?.[0] ?? null);
        });
        for (const name of /** @type {const} */ (["execution_error", "execution_interrupted"])) {
            api.addEventListener(name, ({ detail }) => this.end(detail.prompt_id, null));
        }
    }

    /** @param {string} run @param {Comfy.Picture | null} picture */
    end(run, picture) {
        this.ended.set(run, picture); // perhaps before it is known that the run was queued
        this.panel.render();
    }

    async start() {
        const { panel, panel: { standing: { person } } } = this;
        if (await isBusy()) return panel.notify(t("after_busy"));
        const { output, workflow } = await app.graphToPrompt();
        const readers = idsOf(output, person.id, READERS), shown = pictured(output, readers);
        if (!shown) return panel.notify(t("after_no_picture", person));
        const { answers } = await ask(`people/${person.id}/answers`);
        if (!answers) return panel.notify(t("after_no_answers", person));
        this.person = person.id;
        this.runs = [];
        this.ended = new Map();
        for (const count of countsOf(answers)) {
            const isAll = count === answers;
            const made = graphOf(output, shown, readers, isAll ? ALL : count);
            const { prompt_id } = await api.queuePrompt(0, { output: made, workflow });
            this.runs.push({ count, isAll, id: prompt_id });
        }
        panel.render();
    }

    // What changes when the parts do
    get key() {
        const id = this.panel.state?.person.id;
        return JSON.stringify([id, asksOf(id, READERS), this.person, this.runs, [...this.ended]]);
    }

    parts() {
        const id = this.panel.state?.person.id;
        /** @type {HTMLElement[]} */
        const made = [];
        if (asksOf(id, READERS)) made.push(button(t("after"), () => this.panel.run(() => this.start()), { title: t("after_tooltip") }));
        if (this.person === id) made.push(element("div", { className: "runs" }, ...this.runs.map((run) => this.figure(run))));
        return made;
    }

    /** @param {Run} run */
    figure({ count, isAll, id }) {
        const picture = this.ended.get(id);
        const caption = element("figcaption", { textContent: t(isAll ? "after_all" : "after_some", { count }) });
        if (!picture) return element("figure", {}, element("span", { textContent: picture === null ? t("after_failed") : "…" }), caption);
        const url = api.apiURL(`/view?${new URLSearchParams(Object.entries(picture))}`);
        const image = element("img", { src: url, alt: caption.textContent });
        return element("figure", {}, element("a", { href: url, target: "_blank" }, image), caption);
    }
}
