// Our templates in the template dialog: in the order in which they are learned, and in the language of ComfyUI.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { isJapanese } from "./common.js";

const ORDER = ["learn my taste", "first personal picture", "my taste", "best of my taste", "paint with words", "strength sweep", "one look turned", "blend two people", "is it really mine", "mine or in words", "paint for a taste code", "check a taste",
    "my taste with Qwen-Image", "my taste with Z-Image", "my taste with Krea 2", "my taste with Flux.1",
    "learn my taste with SDXL", "learn my taste with SD1.5", "personal picture with SDXL", "personal picture with SD1.5", "paint studies", "train your own adapter"];

// ComfyUI lists what it finds in a folder in the disk's order
/** @param {string[]} names */
function inOrder(names) {
    /** @param {string} name */
    const place = (name) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
    return [...names].sort((one, other) => place(one) - place(other) || one.localeCompare(other));
}

const MOST_SEED = 2 ** 32 - 1;
const MARGIN = 16; // pixels between an open tab and what lies beside it
/** @type {Promise<Record<string, string>>} */
let translations;

// Texts that stand in a template as we wrote them; what somebody has changed is theirs
/** @param {Comfy.Workflow} graph */
async function inJapanese({ groups = [], nodes = [] }) {
    translations ??= fetch(new URL("templates.ja.json", import.meta.url)).then((answer) => answer.json());
    const japanese = await translations;
    /** @param {string} text */
    const of = (text) => japanese[text] ?? text;
    for (const group of groups) group.title = of(group.title);
    for (const node of nodes) {
        if (node.title) node.title = of(node.title);
        if (node.type === "MarkdownNote") node.widgets_values = node.widgets_values?.map(of);
    }
}

// ComfyUI's Int takes any number, also at random, and no sampler has a seed below 0
/** @param {Comfy.Graph} graph */
function seedsFromZero({ nodes, links }) {
    for (const { type, widgets, outputs } of nodes) {
        const targets = type === "PrimitiveInt" ? (outputs[0].links ?? []).flatMap((id) => links.get(id) ?? []) : [];
        const isSeed = targets.some(({ target_id, target_slot }) => nodes.find(({ id }) => id === target_id)?.inputs[target_slot].name === "seed");
        if (isSeed && widgets) Object.assign(widgets[0].options, { min: 0, max: MOST_SEED });
    }
}

// The frontend fits a template into the whole window, also where an open tab lies over its left: then what is to be read
// first would be hidden. It is moved no further than to where it can be seen, so that it stays where it is moved once
/** @param {Comfy.App} app */
function uncover({ canvas, graph }) {
    const note = graph.nodes.find(({ type }) => type === "MarkdownNote"), open = document.querySelector(".side-bar-panel")?.getBoundingClientRect();
    if (!note || !open?.width) return;
    const left = canvas.ds.convertOffsetToCanvas(note.pos)[0] + canvas.canvas.getBoundingClientRect().left;
    const hidden = open.right + MARGIN - left;
    if (hidden > 0 && left > 0) canvas.ds.offset[0] += hidden / canvas.ds.scale;
    canvas.setDirty(true, true);
}

// The frontend has no words for packs' templates, and graphs of others are none of our business: ours say so in `extra`
app.registerExtension({
    name: "ppd.templates",
    setup() {
        const { getWorkflowTemplates } = api;
        api.getWorkflowTemplates = async () => {
            const found = await getWorkflowTemplates.call(api);
            for (const [pack, names] of Object.entries(found)) if (names.includes(ORDER[0])) found[pack] = inOrder(names);
            return found;
        };
    },
    async beforeConfigureGraph(graph) {
        if (graph.extra?.ppd === "template" && isJapanese()) await inJapanese(graph);
    },
    afterConfigureGraph() {
        if (app.graph.extra?.ppd !== "template") return;
        seedsFromZero(app.graph);
        uncover(app);
    },
});
