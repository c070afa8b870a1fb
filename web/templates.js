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
});
