// People in the nodes' lists: the browser shows names, the workflow and so every saved picture keeps ids.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { CHANGED, ask } from "./common.js";

const ME = "me"; // can always be chosen, also before there is somebody of that name
const PERSON = "person: "; // what a person's choice begins with in Load Preference Pairs
const TASTE = "taste: "; // what a taste file's choice begins with, in place of a person's
const LISTS = { PreferencePairLoader: ["preference_set", PERSON], PreferenceCollector: ["person", ""],
    PPD_MyTaste: ["person", ""], PPD_SortByTaste: ["person", ""] };
let people = [];
let me = null;

// Where the store cannot be read the lists stay as the server gave them: running a node tells why
async function read() {
    ({ people, me } = await ask("people").catch(() => ({ people, me })));
}

const idOf = (choice) => (choice === ME ? me : choice);
const label = (choice) => people.find(({ id }) => id === idOf(choice))?.name ?? choice;
const choices = () => [ME, ...people.map(({ id }) => id).filter((id) => id !== me)];

// The choice that means the same, without a name: older workflows have one
function nameless(choice) {
    if (choices().includes(choice)) return choice;
    const found = people.find(({ name }) => name.toLowerCase() === String(choice).trim().toLowerCase());
    if (!found) return choice;
    return found.id === me ? ME : found.id;
}

function listOf(node) {
    const [name, prefix] = LISTS[node.constructor.comfyClass] ?? [];
    const widget = node.widgets?.find((one) => one.name === name);
    return widget && { widget, prefix };
}

// Names for the choices of a list, and the people there are now
function fill({ widget, prefix }) {
    widget.beforeQueued = () => fill({ widget, prefix }); // a graph in the API's format is loaded without a word
    const others = (widget.options.values ?? []).filter((value) => value.startsWith(TASTE) || (prefix && !value.startsWith(prefix)));
    const theirs = choices().map((choice) => prefix + choice);
    const values = prefix ? [...others, ...theirs] : [...theirs, ...others];
    const getOptionLabel = (value) => {
        const choice = value ?? "";
        return choice.startsWith(prefix) ? prefix + label(choice.slice(prefix.length)) : choice;
    };
    Object.assign(widget.options, { values, getOptionLabel }); // the same object: Nodes 2.0 holds on to it
    if (typeof widget.value === "string" && widget.value.startsWith(prefix)) {
        const value = prefix + nameless(widget.value.slice(prefix.length));
        if (value !== widget.value) widget.value = value;
    }
}

function* nodes(graph = app.graph) {
    for (const node of graph?.nodes ?? []) {
        yield node;
        if (node.subgraph) yield* nodes(node.subgraph);
    }
}

async function refresh() {
    await read();
    for (const node of nodes()) {
        const list = listOf(node);
        if (list) fill(list);
    }
    app.canvas?.setDirty(true, true);
}

app.registerExtension({
    name: "ppd.people",
    async init() {
        await read();
    },
    setup() {
        api.addEventListener(CHANGED, refresh);
    },
    getCustomWidgets: () => ({
        PPD_PERSON(node, name, [, { default: value, tooltip }]) {
            const widget = node.addWidget("combo", name, value, () => {}, { values: [ME] });
            widget.tooltip = tooltip;
            return { widget };
        },
    }),
    nodeCreated(node) {
        const list = listOf(node);
        if (list) fill(list);
    },
    loadedGraphNode(node) {
        const list = listOf(node);
        if (list) fill(list);
    },
    refreshComboInNodes: refresh,
});
